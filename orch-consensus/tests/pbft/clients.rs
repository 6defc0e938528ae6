//! Clients that are no members.

use std::sync::Arc;

use bytes::Bytes;
use orch_consensus::pbft::{Body, Commands, Epoch, Message, PbftClient, Reply, Request, Seq, Signer, View};
use orch_core::{
    consensus::{Committed, Consensus, ConsensusError, ConsensusStatus, MemberRole, MembershipChange},
    transport::{Channel, Transport},
};

use crate::group::{DEADLINE, Group, id, peer, shut_down, signer};

/// A group that lets the clients with these numbers in.
fn group_with(clients: &[usize]) -> Group {
    let mut group = Group::new(4, None);
    group.config.core.clients = clients.iter().map(|number| signer(*number).public_key()).collect();
    (group.config.core.checkpoint_interval, group.config.core.window) = (4, 8);
    group
}

fn client(group: &Group, number: usize) -> PbftClient {
    PbftClient::start(&group.config, Arc::new(signer(number)), group.join(number)).unwrap()
}

async fn propose(client: &PbftClient, text: &str) -> Result<Committed, ConsensusError> {
    let proposal = client.propose(Bytes::copy_from_slice(text.as_bytes()));
    tokio::time::timeout(DEADLINE, proposal).await.unwrap_or_else(|_| panic!("{text} hangs"))
}

#[tokio::test(flavor = "multi_thread")]
async fn a_client_has_its_commands_carried_out_once_and_in_order_with_those_of_members() {
    let group = group_with(&[9]);
    let members = group.start_all(4).await;
    let client = client(&group, 9);
    let mut last = 0;
    for number in 1..=20 {
        let committed = propose(&client, &number.to_string()).await.unwrap();
        assert!(committed.revision.0 > last, "one after the other");
        last = committed.revision.0;
        assert_eq!(committed.outcome, Bytes::from((2 * number - 1).to_string()));
        members[number % 4].propose("theirs").await;
    }
    let many = futures_util::future::join_all((0..500).map(|number| {
        let client = &client;
        async move { propose(client, &format!("many {number}")).await }
    }));
    let outcomes: std::collections::BTreeSet<_> =
        many.await.into_iter().map(|result| result.unwrap().outcome).collect();
    assert_eq!(outcomes.len(), 500, "each is answered with what came of it");
    members[0].sees("everything once", |lines| lines.len() == 540).await;
    client.shutdown().await;
    let late = propose(&client, "late").await;
    assert!(matches!(late, Err(ConsensusError::Stopped)), "{late:?}");
    shut_down(members).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_byzantine_member_is_not_believed_by_a_client() {
    let group = group_with(&[9]);
    let members = group.start_all(3).await;
    let byzantine = group.join(3);
    let forger = tokio::spawn(async move {
        // Before, while and after the others answer, for requests that are asked and others.
        for round in 0..u64::MAX {
            let reply = Reply {
                session: 0,
                number: round % 16,
                seq: Seq(round),
                outcomes: vec![Bytes::from_static(b"wrong")],
            };
            for session in [u64::MAX, 1] {
                let reply = Message::Reply(
                    Epoch(round % 2),
                    View(round),
                    Arc::new(Reply { session, ..reply.clone() }),
                );
                // A full queue drops it.
                let _ = byzantine.send(peer(9), Channel(1), reply.to_wire().into()).await;
            }
            tokio::task::yield_now().await;
        }
    });
    let client = client(&group, 9);
    for number in 1..=10 {
        let committed = propose(&client, "asked").await.unwrap();
        assert_eq!(committed.outcome, Bytes::from(number.to_string()));
    }
    forger.abort();
    client.shutdown().await;
    shut_down(members).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_client_goes_on_when_the_primary_does_not() {
    let group = group_with(&[9]);
    let mut members = group.start_all(4).await;
    let client = client(&group, 9);
    propose(&client, "first").await.unwrap();
    let leader = members.iter().position(|member| member.consensus.status().leader).unwrap();
    members.remove(leader).consensus.shutdown().await;
    let second = propose(&client, "second").await.unwrap();
    assert_eq!(second.outcome, Bytes::from_static(b"2"));
    client.shutdown().await;
    shut_down(members).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_client_follows_the_members_from_the_first_ones() {
    let group = group_with(&[9]);
    let mut members = group.start_all(4).await;
    let change = |number, joins| {
        let member = id(number);
        match joins {
            true => MembershipChange::add(member, peer(number), MemberRole::Voter),
            false => MembershipChange::remove(member),
        }
    };
    // In the end two of the first four are left, too few for a client that knows only those. Each change
    // takes f + 1 votes.
    for (number, votes) in [(4, 2), (5, 2), (6, 2)] {
        members.push(group.start(number).await);
        for member in &members[..votes] {
            member.consensus.change_membership(change(number, true)).await.unwrap();
        }
        for member in &members {
            let joined = |status: &ConsensusStatus| status.members.contains(&id(number));
            member.reports("the new member", |status| joined(status) && status.last_error.is_none()).await;
        }
    }
    for (number, votes) in [(0, 3), (1, 2)] {
        for member in &members[2..2 + votes] {
            member.consensus.change_membership(change(number, false)).await.unwrap();
        }
        for member in &members[2..] {
            let left = |status: &ConsensusStatus| !status.members.contains(&id(number));
            member.reports("a member less", |status| left(status) && status.last_error.is_none()).await;
        }
    }
    let rest = members.split_off(2);
    shut_down(members).await;
    let client = client(&group, 9);
    let committed = propose(&client, "to the new ones").await.unwrap();
    assert_eq!(committed.outcome, Bytes::from_static(b"1"));
    client.shutdown().await;
    shut_down(rest).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_client_whose_clock_was_set_back_goes_on() {
    let group = group_with(&[9]);
    let members = group.start_all(4).await;
    // An earlier client, by a clock that was ahead.
    let (key, future) = (signer(9).public_key(), u64::MAX / 2);
    let body = Body::Commands(Commands::pack([b"from the future"]));
    let mut request = Message::Request(Arc::new(Request::new(key, future, 1, 0, body)));
    request.sign(|statement| signer(9).sign(&statement.bytes(&group.config.group().unwrap())));
    let raw = group.join(9);
    for to in 0..4 {
        raw.send(peer(to), Channel(1), request.to_wire().into()).await.unwrap();
    }
    for member in &members {
        member.sees("its command", |lines| !lines.is_empty()).await;
    }
    drop(raw);

    let client = client(&group, 9);
    let lost = propose(&client, "lost").await.unwrap_err();
    assert!(lost.outcome_unknown(), "{lost}");
    assert_eq!(propose(&client, "carried out").await.unwrap().outcome, Bytes::from_static(b"2"));
    members[0].sees("both", |lines| *lines == ["from the future", "carried out"]).await;
    client.shutdown().await;
    shut_down(members).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_configuration_that_cannot_work_is_refused() {
    let group = group_with(&[9]);
    let other = PbftClient::start(&group.config, Arc::new(signer(8)), group.join(9)).unwrap_err();
    assert!(other.to_string().contains("different keys"), "{other}");
    let mut config = group.config.clone();
    config.queue_max = 0;
    let none = PbftClient::start(&config, Arc::new(signer(9)), group.join(9)).unwrap_err();
    assert!(none.to_string().contains("queue_max"), "{none}");
    config = group.config.clone();
    config.max_command_bytes = 10;
    let client = PbftClient::start(&config, Arc::new(signer(9)), group.join(9)).unwrap();
    let large = propose(&client, "eleven byte").await;
    assert!(matches!(large, Err(ConsensusError::TooLarge { size: 11, max: 10 })), "{large:?}");
    client.shutdown().await;
}
