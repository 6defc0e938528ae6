use super::*;
use crate::pbft::core::message::{Checkpoint, EpochStep, SnapshotRef};
use crate::pbft::{Change, Digest, Seq, Signature};

const SECOND: Duration = Duration::from_secs(1);

fn key(number: u8) -> PublicKey {
    PublicKey([number; 32])
}

fn members(count: u8) -> Membership {
    Membership::genesis((1..=count).map(|number| (format!("m{number}"), key(number)))).unwrap()
}

fn client() -> Client {
    let config = Config { batch_commands_max: 2, ..Config::default() };
    Client::new(ClientSetup { config, members: members(4), key: key(100), session: 7 })
}

fn step(client: &mut Client, now: Duration, input: ClientInput) -> Vec<ClientEffect> {
    let mut out = Vec::new();
    client.step(now, [input], &mut out);
    out
}

fn propose(client: &mut Client, tokens: impl IntoIterator<Item = u64>) -> Vec<ClientEffect> {
    let mut out = Vec::new();
    let inputs = tokens.into_iter().map(|token| ClientInput::Propose(token, Bytes::from_static(b"do")));
    client.step(Duration::ZERO, inputs, &mut out);
    out
}

fn reply(number: u64, outcomes: &[&'static [u8]]) -> Reply {
    let outcomes = outcomes.iter().map(|outcome| Bytes::from_static(outcome)).collect();
    Reply { session: 7, number, seq: Seq(3), outcomes }
}

fn says(client: &mut Client, member: u8, view: u64, reply: Reply) -> Vec<ClientEffect> {
    let message = Message::Reply(Epoch(0), View(view), Arc::new(reply));
    step(client, Duration::ZERO, ClientInput::Message(key(member), message))
}

fn answers(effects: &[ClientEffect]) -> Vec<(u64, Result<Bytes, Refusal>)> {
    let of = |effect: &ClientEffect| match effect {
        ClientEffect::Answer(token, answer) => Some((*token, answer.clone().map(|answer| answer.outcome))),
        _ => None,
    };
    effects.iter().filter_map(of).collect()
}

fn submitted(effects: &[ClientEffect]) -> Vec<(To, u64, usize)> {
    let of = |effect: &ClientEffect| match effect {
        ClientEffect::Submit(to, Message::Request(request)) => match &request.body {
            Body::Commands(commands) => Some((*to, request.number, commands.len())),
            _ => None,
        },
        _ => None,
    };
    effects.iter().filter_map(of).collect()
}

fn is_question(message: &Message) -> bool {
    *message == Message::Fetch(Fetch::Members(Epoch(0)))
}

#[test]
fn what_is_asked_for_at_once_shares_requests_to_the_primary() {
    let mut client = client();
    let out = propose(&mut client, [1, 2, 3]);
    assert_eq!(submitted(&out), [(To::One(key(1)), 1, 2), (To::One(key(1)), 2, 1)]);
    assert_eq!(client.outstanding(), 3);
}

#[test]
fn two_equal_replies_of_four_members_are_the_answer() {
    let mut client = client();
    propose(&mut client, [1]);
    assert!(says(&mut client, 2, 0, reply(1, &[b"wrong"])).is_empty());
    assert!(says(&mut client, 2, 0, reply(1, &[b"wrong"])).is_empty(), "the same member again");
    assert!(says(&mut client, 3, 0, reply(1, &[b"truth"])).is_empty());
    assert!(says(&mut client, 9, 0, reply(1, &[b"wrong"])).is_empty(), "no member");
    let elsewhere = Reply { seq: Seq(4), ..reply(1, &[b"truth"]) };
    assert!(says(&mut client, 1, 0, elsewhere).is_empty(), "another sequence number is another answer");
    let out = says(&mut client, 4, 0, reply(1, &[b"truth"]));
    assert_eq!(answers(&out), [(1, Ok(Bytes::from_static(b"truth")))]);
    assert!(says(&mut client, 1, 0, reply(1, &[b"truth"])).is_empty(), "answered once");
    assert_eq!((client.outstanding(), client.deadline()), (0, None));
}

#[test]
fn a_reply_with_too_few_outcomes_is_none() {
    let mut client = client();
    propose(&mut client, [1, 2]);
    for member in 1..=4 {
        assert!(says(&mut client, member, 0, reply(1, &[b"one"])).is_empty());
    }
}

#[test]
fn later_requests_go_to_the_primary_that_a_correct_member_saw() {
    let mut client = client();
    propose(&mut client, [1]);
    says(&mut client, 1, 1000, reply(1, &[b"x"]));
    says(&mut client, 2, 2, reply(1, &[b"x"]));
    assert_eq!(submitted(&propose(&mut client, [2])), [(To::One(key(3)), 2, 1)]);
}

#[test]
fn what_takes_long_goes_to_everybody_and_then_less_and_less_often() {
    let mut client = client();
    propose(&mut client, [1]);
    assert_eq!(client.deadline(), Some(SECOND / 2));
    assert!(step(&mut client, SECOND / 4, ClientInput::Tick).is_empty());
    let mut now = SECOND / 2;
    for delay in [SECOND, 2 * SECOND, 4 * SECOND, 4 * SECOND] {
        let out = step(&mut client, now, ClientInput::Tick);
        assert_eq!(submitted(&out), [(To::Others, 1, 1)]);
        let asks =
            |effect: &_| matches!(effect, ClientEffect::Send(To::Others, question) if is_question(question));
        assert!(out.iter().any(asks));
        now += delay;
        assert_eq!(client.deadline(), Some(now));
    }
}

#[test]
fn no_more_is_on_its_way_than_members_carry_out() {
    let mut client = client();
    let out = propose(&mut client, 0..100);
    assert_eq!(submitted(&out).len(), BUNDLES_MAX);
    // The first is never answered, all others are.
    let mut number = 2;
    loop {
        says(&mut client, 1, 0, reply(number, &[b"x", b"x"]));
        let out = says(&mut client, 2, 0, reply(number, &[b"x", b"x"]));
        propose(&mut client, [1000 + number * 2, 1001 + number * 2]);
        if answers(&out).is_empty() {
            break;
        }
        number += 1;
    }
    assert_eq!(number, CLIENT_WINDOW + 1);
}

#[test]
fn a_command_that_fits_into_no_batch_is_refused() {
    let mut client = client();
    let size = client.config.batch_bytes_max;
    let out = step(&mut client, Duration::ZERO, ClientInput::Propose(1, vec![0; size].into()));
    assert_eq!(answers(&out), [(1, Err(Refusal::TooLarge(size)))]);
}

#[test]
fn a_later_session_that_a_correct_member_knows_begins_a_still_later_one() {
    let mut client = client();
    propose(&mut client, [1]);
    let later = |session| Reply { session, number: 0, seq: Seq::ZERO, outcomes: Vec::new() };
    assert!(says(&mut client, 1, 0, later(u64::MAX - 1)).is_empty());
    let out = says(&mut client, 2, 0, later(20));
    assert_eq!(answers(&out), [(1, Err(Refusal::Unknown))]);
    assert_eq!(client.session, 21, "the false session counts no more than any later one");
    assert_eq!(submitted(&propose(&mut client, [2])), [(To::One(key(1)), 1, 1)]);
}

fn step_to_five(votes: usize) -> (Membership, Message) {
    let old = members(4);
    let next = old.after(&Change::Add { key: key(5), name: "m5".into() }).unwrap();
    let snapshot = SnapshotRef { seq: Seq::ZERO, root: Digest([0; 32]) };
    let (chain, membership) = (Digest([1; 32]), old.digest());
    let successor = Some(next.digest());
    let checkpoint = Checkpoint { epoch: Epoch(0), seq: Seq(8), chain, snapshot, membership, successor };
    let voters = old.members().iter().take(votes);
    let votes = voters.map(|member| (member.id, Signature([1; 64]))).collect();
    let step = EpochStep { checkpoint, votes, membership: next.clone() };
    (next, Message::Supply(Supply::Members(vec![step])))
}

#[test]
fn later_members_are_believed_with_a_proof_and_asked_again() {
    let mut client = client();
    propose(&mut client, [1]);
    let ahead = Message::Reply(Epoch(1), View(0), Arc::new(reply(1, &[b"x"])));
    let out = step(&mut client, Duration::ZERO, ClientInput::Message(key(2), ahead.clone()));
    assert!(
        matches!(&out[..], [ClientEffect::Send(To::One(_), question)] if is_question(question)),
        "{out:?}"
    );
    let again = step(&mut client, Duration::ZERO, ClientInput::Message(key(3), ahead.clone()));
    assert!(again.is_empty(), "asked once in a while; and counted as no answer: {again:?}");

    let ((next, good), (_, weak)) = (step_to_five(3), step_to_five(2));
    let out = step(&mut client, Duration::ZERO, ClientInput::Message(key(2), weak));
    assert!(out.is_empty(), "no quorum of the old members");
    for verdict in [false, true] {
        let out = step(&mut client, Duration::ZERO, ClientInput::Message(key(2), good.clone()));
        assert!(matches!(&out[..], [ClientEffect::Verify(claims)] if claims.len() == 3), "{out:?}");
        let out = step(&mut client, Duration::ZERO, ClientInput::Verified(verdict));
        assert_eq!(*client.members() == next, verdict);
        let expected: &[_] = if verdict { &[(To::Others, 1, 1)] } else { &[] };
        assert_eq!(submitted(&out), expected);
    }
    step(&mut client, Duration::ZERO, ClientInput::Message(key(2), ahead.clone()));
    let out = step(&mut client, Duration::ZERO, ClientInput::Message(key(5), ahead));
    assert_eq!(answers(&out), [(1, Ok(Bytes::from_static(b"x")))]);
}
