//! The protocol of the signed store without disks and networks: the laws of merging, and what liars can do.
#![allow(clippy::unwrap_used, reason = "helpers of tests are tests too")]

mod crdt_group;

use std::{collections::BTreeMap, num::NonZeroUsize, time::Duration};

use bytes::Bytes;
use crdt_group::{Chaos, Group, delete, key, put};
use orch_core::{
    model::Timestamp,
    store::{Guard, Incarnation, Position, Revision, Txn, Write},
};
use orch_store::crdt::{
    Decision, DecisionError, Difference, Event, Head, MemoryTables, Message, Owned, Range, ReadLevel,
    Refusal, Segment, TxnOutcome,
};
use proptest::prelude::*;

fn value(text: &str) -> Option<Bytes> {
    Some(Bytes::copy_from_slice(text.as_bytes()))
}

#[derive(Clone, Debug)]
enum Step {
    Write { member: usize, writes: Vec<(u8, Option<u8>)> },
    Deliver(usize),
    Tick(usize),
    Restart(usize),
    Wait(u16),
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let write = (0..3usize, prop::collection::vec((0..12u8, prop::option::weighted(0.8, any::<u8>())), 1..5));
    let step = prop_oneof![
        6 => write.prop_map(|(member, writes)| Step::Write { member, writes }),
        6 => (1..6usize).prop_map(Step::Deliver),
        2 => (0..3usize).prop_map(Step::Tick),
        1 => (0..3usize).prop_map(Step::Restart),
        1 => (0..4000u16).prop_map(Step::Wait),
    ];
    prop::collection::vec(step, 1..60)
}

fn run(group: &mut Group, steps: &[Step]) {
    for step in steps {
        match step {
            Step::Write { member, writes } => {
                let writes = writes.iter().map(|(at, value)| Write {
                    key: key(&format!("k/{at}")),
                    value: value.map(|value| Bytes::from(vec![value; 3])),
                });
                group.write(*member, Txn::of(writes.collect()));
            }
            Step::Deliver(count) => group.deliver(*count),
            Step::Tick(member) => group.tick(*member),
            Step::Restart(member) => group.restart(*member),
            Step::Wait(millis) => group.advance(Duration::from_millis((*millis).into())),
        }
    }
}

proptest! {
    /// Whatever is lost, repeated, late or restarted: once messages arrive, all views are equal byte by byte,
    /// and so they stay while deletes and history are forgotten.
    #[test]
    fn all_views_become_equal(steps in steps(), seed: u64, confirmations in 1..3usize) {
        let mut group = Group::new(3, seed);
        group.config.confirmations = NonZeroUsize::new(confirmations).unwrap();
        group.rebuild();
        group.chaos = Chaos { loss: 20, duplicate: 20, shuffle: true };
        run(&mut group, &steps);
        group.heal();
        group.settle();
        group.assert_equal();
        let expected = group.view(0);
        for _ in 0..12 {
            group.settle();
        }
        group.assert_equal();
        prop_assert_eq!(group.view(0), expected.clone(), "forgetting must not be seen");
        for member in 0..3 {
            let tables = &group.members[member].tables;
            if confirmations == 1 {
                prop_assert_eq!(tables.records(), expected.len(), "deletes are forgotten");
            }
        }
    }

    /// Merging does not depend on the order or number of deliveries: segments of two authors, in any
    /// interleaving that keeps each author's order, any number of times.
    #[test]
    fn merging_commutes_associates_and_repeats(
        a in prop::collection::vec((0..6u8, prop::option::of(any::<u8>())), 1..12),
        b in prop::collection::vec((0..6u8, prop::option::of(any::<u8>())), 1..12),
        order in prop::collection::vec(any::<bool>(), 24),
        repeat in prop::collection::vec(0..24usize, 12),
    ) {
        let mut group = Group::new(4, 1);
        let mut logs = [Vec::new(), Vec::new()];
        for (author, writes) in [&a, &b].into_iter().enumerate() {
            for (at, value) in writes {
                let txn = Txn::of(vec![Write { key: key(&format!("k/{at}")), value: value.map(|v| vec![v].into()) }]);
                logs[author].extend(group.write_and_take(author, txn, 2));
            }
        }
        let [a, b] = logs;
        let straight: Vec<_> = a.iter().chain(&b).cloned().collect();
        let (mut left, mut right) = (a.into_iter(), b.into_iter());
        let mut mixed = Vec::new();
        for first in order {
            mixed.extend(if first { left.next() } else { right.next() });
        }
        mixed.extend(left.chain(right));
        for at in repeat {
            let again = mixed[at % mixed.len()].clone();
            mixed.push(again);
        }
        for (member, messages) in [(2, straight), (3, mixed)] {
            for (from, message) in messages {
                group.give(member, from, message);
            }
        }
        prop_assert_eq!(group.view(2), group.view(3));
        prop_assert_eq!(group.digest(2), group.digest(3));
    }
}

#[test]
fn the_last_writer_wins_and_ties_go_to_the_greater_author() {
    let mut group = Group::new(2, 7);
    group.write(0, put("k", "0"));
    group.write(1, put("k", "1"));
    group.settle();
    // Both wrote in the same millisecond, without knowledge of each other.
    let greater = if group.id(0) > group.id(1) { "0" } else { "1" };
    assert_eq!(group.read(0, "k"), value(greater));
    group.assert_equal();
    group.write(0, put("k", "later"));
    group.settle();
    assert_eq!(group.read(1, "k"), value("later"));
    group.write(1, delete("k"));
    group.settle();
    assert_eq!(group.read(0, "k"), None);
    group.assert_equal();
}

#[test]
fn guards_look_at_this_replica() {
    let mut group = Group::new(1, 7);
    let first = Txn::of(vec![Write::put(key("k"), "1")]).guarded(Guard::Absent(key("k")));
    assert_eq!(group.write(0, first.clone()), TxnOutcome::Applied(Revision(1)));
    assert_eq!(group.write(0, first), TxnOutcome::Conflict(key("k")));
    let again = put("k", "2").guarded(Guard::Version(key("k"), Position::new(Revision(1), Incarnation(0))));
    assert_eq!(group.write(0, again), TxnOutcome::Applied(Revision(2)));
}

#[test]
fn owned_keys_are_written_by_their_owner_only() {
    let mut group = Group::new(2, 7);
    let owned = Owned::key(group.id(0), "usage").unwrap();
    let txn = |value: &'static str| Txn::of(vec![Write::put(owned.clone(), value)]);
    assert!(matches!(group.write(0, txn("mine")), TxnOutcome::Applied(_)));
    let TxnOutcome::Refused(Refusal::Owned { owner, .. }) = group.write(1, txn("stolen")) else {
        panic!("refused")
    };
    assert_eq!(owner, group.id(0));
    group.settle();
    // A thief that does not ask its own replica: the segment is signed and all, and nobody takes it.
    let stolen = group.forge(1, vec![Write::put(owned.clone(), "stolen")]);
    group.give(0, group.id(1), stolen);
    assert!(
        group
            .events(0)
            .iter()
            .any(|event| matches!(event, Event::Refused { why, .. } if why.contains("belong")))
    );
    assert_eq!(group.read(0, owned.as_str()), value("mine"));
}

#[test]
fn stamps_from_the_future_wait_at_their_sender() {
    let mut group = Group::new(2, 7);
    group.members[0].skew = Duration::from_secs(3600);
    group.write(0, put("k", "future"));
    group.settle();
    assert_eq!(group.read(1, "k"), None);
    assert!(
        group
            .events(1)
            .iter()
            .any(|event| matches!(event, Event::Ahead { author, .. } if *author == group.id(0)))
    );
    group.write(1, put("k", "now"));
    group.settle();
    assert_eq!(group.read(1, "k"), value("now"));
    group.advance(Duration::from_secs(3600));
    group.settle();
    assert_eq!(group.read(1, "k"), value("future"), "it is not lost for ever");
    group.assert_equal();
}

#[test]
fn forged_segments_are_refused_whatever_was_changed() {
    let mut group = Group::new(2, 7);
    group.advance(Duration::from_secs(1));
    group.write(0, put("a", "1"));
    let [(from, Message::Supply { author, after, more, segments })] = &group.take_messages(0)[..] else {
        panic!("one push")
    };
    let good = segments[0].clone();
    for at in 0..good.len() {
        let mut bad = good.to_vec();
        bad[at] ^= 0x10;
        let segments = vec![bad.into()];
        group.give(1, *from, Message::Supply { author: *author, after: *after, more: *more, segments });
        assert_eq!(group.read(1, "a"), None, "byte {at} was changed");
        assert_eq!(group.members[1].replica.revision(), Revision::ZERO, "byte {at} was changed");
    }
    // The same from a group of another name.
    let mut other = Group::new(2, 7);
    other.config.group = orch_store::crdt::Hash::of(b"another group");
    other.rebuild();
    other.write(0, put("a", "1"));
    let foreign = other.take_messages(0).remove(0).1;
    group.give(1, *from, foreign);
    assert_eq!(group.read(1, "a"), None);
    group.give(
        1,
        *from,
        Message::Supply { author: *author, after: *after, more: *more, segments: vec![good] },
    );
    assert_eq!(group.read(1, "a"), value("1"));
}

/// One author with two disks writes two things at one position, and tells them to different members.
fn equivocate(group: &mut Group) -> [Head; 2] {
    group.write(0, put("k", "common"));
    group.write(1, put("by-1", "before"));
    group.settle();
    let twin = group.twin(0);
    group.partition(&[&[0, 1], &[2, twin]]);
    group.write(0, put("k", "one"));
    group.write(twin, put("k", "two"));
    group.write(twin, put("k2", "two"));
    group.settle();
    assert_eq!((group.read(1, "k"), group.read(2, "k")), (value("one"), value("two")));
    let heads = [1, 2].map(|member| group.head(member, 0));
    group.remove(twin);
    group.heal();
    group.settle();
    heads
}

#[test]
fn two_segments_at_one_position_are_evidence_until_a_decision() {
    for choice in [0, 1] {
        let mut group = Group::new(3, 7);
        let heads = equivocate(&mut group);
        for member in 0..3 {
            let evidence = group.members[member].replica.evidence();
            assert_eq!(evidence.len(), 1, "member {member} holds the evidence");
            assert_eq!(evidence[0].author(), group.id(0));
            assert!(evidence[0].is_proof(group.config.group));
        }
        assert_eq!(group.write(0, put("k", "more")), TxnOutcome::Refused(Refusal::Equivocated));
        group.restart(1);
        assert_eq!(group.members[1].replica.evidence().len(), 1, "it is kept");
        let forged = group.forge(0, vec![Write::put(key("k"), "more")]);
        let before = group.digest(1);
        group.give(1, group.id(0), forged);
        assert_eq!(group.digest(1), before, "later writes are refused");

        let head = heads[choice];
        group.decide(Decision::Settle { author: group.id(0), head });
        group.settle();
        for _ in 0..8 {
            group.settle();
        }
        group.assert_equal();
        assert_eq!(group.read(1, "k"), value(["one", "two"][choice]));
        assert_eq!(group.read(1, "k2"), value("two").filter(|_| choice == 1));
        assert!(group.members.iter().all(|member| member.replica.evidence().is_empty()));
        assert!(matches!(group.write(0, put("k", "goes on")), TxnOutcome::Applied(_)));
        group.settle();
        assert_eq!(group.read(2, "k"), value("goes on"));
        group.assert_equal();
    }
}

#[test]
fn a_decision_can_take_back_to_what_was_before() {
    let mut group = Group::new(3, 7);
    equivocate(&mut group);
    let common = Head { position: 1, hash: group.header_hash(1, 0, 1) };
    group.decide(Decision::Leave { author: group.id(0), end: common });
    for _ in 0..8 {
        group.settle();
    }
    for member in [1, 2] {
        assert_eq!(group.read(member, "k"), value("common"), "what was overwritten is back");
        assert_eq!(group.read(member, "k2"), None);
    }
    assert_eq!(group.digest(1), group.digest(2));
    assert_eq!(group.write(0, put("k", "no")), TxnOutcome::Refused(Refusal::NotAMember));
}

#[test]
fn members_join_by_a_decision_and_get_everything() {
    let mut group = Group::new(2, 7);
    for round in 0..5 {
        for at in 0..20 {
            group.write(round % 2, put(&format!("k/{at}"), &format!("{round}")));
        }
        group.settle();
    }
    group.write(0, delete("k/3"));
    for _ in 0..8 {
        group.settle();
    }
    let new = group.newcomer(9);
    assert_eq!(group.write(new, put("early", "")), TxnOutcome::Refused(Refusal::NotAMember));
    group.decide(Decision::Join { author: group.id(new) });
    for _ in 0..8 {
        group.settle();
    }
    group.assert_equal();
    assert!(group.members[new].replica.status().complete);
    assert!(matches!(group.write(new, put("mine", "1")), TxnOutcome::Applied(_)));
    group.settle();
    assert_eq!(group.read(0, "mine"), value("1"));
}

#[test]
fn keys_are_rotated_by_a_decision_and_keep_what_they_own() {
    let mut group = Group::new(2, 7);
    let (old, owned) = (group.id(0), Owned::key(group.id(0), "usage").unwrap());
    group.write(0, Txn::of(vec![Write::put(owned.clone(), "1")]));
    group.settle();
    let end = group.head(1, 0);
    let new = group.rekey(0, 50);
    group.decide(Decision::Rotate { old, end, new });
    group.settle();
    assert!(matches!(group.write(0, Txn::of(vec![Write::put(owned.clone(), "2")])), TxnOutcome::Applied(_)));
    group.settle();
    assert_eq!(group.read(1, owned.as_str()), value("2"));
    let again = Decision::Rotate { old: group.id(1), end: Head::default(), new: old };
    let number = group.next_decision();
    let mut out = Vec::new();
    let member = &mut group.members[1];
    let refused = member.replica.decide(&mut member.tables, number, again, &mut out).unwrap();
    assert_eq!(refused, Err(DecisionError::Known(old)), "a key is used once");
}

#[test]
fn confirmed_reads_need_several_authors_or_a_decision() {
    let mut group = Group::new(4, 7);
    group.config.confirmations = NonZeroUsize::new(2).unwrap();
    group.rebuild();
    group.write(0, put("k", "truth"));
    group.settle();
    assert_eq!(group.read_at(3, "k", ReadLevel::Confirmed), None);
    group.write(1, put("k", "truth"));
    group.settle();
    assert_eq!(group.read_at(3, "k", ReadLevel::Confirmed), value("truth"));
    group.write(2, put("k", "lie"));
    group.settle();
    assert_eq!(group.read_at(3, "k", ReadLevel::Optimistic), value("lie"));
    assert_eq!(group.read_at(3, "k", ReadLevel::Confirmed), value("truth"), "one alone changes nothing");
    for _ in 0..8 {
        group.settle();
    }
    assert_eq!(group.read_at(3, "k", ReadLevel::Confirmed), value("truth"), "and it is not forgotten");
    let decided = orch_store::crdt::Hash::of(b"lie");
    group.decide(Decision::Confirm { key: key("k"), value: decided });
    group.write(2, put("k", "something else"));
    group.settle();
    assert_eq!(group.read_at(3, "k", ReadLevel::Confirmed), value("lie"));
}

#[test]
fn what_several_authors_say_outlives_the_delete_of_another() {
    let mut group = Group::new(4, 7);
    group.config.confirmations = NonZeroUsize::new(2).unwrap();
    group.rebuild();
    for author in [0, 1] {
        group.write(author, put("k", "truth"));
        group.settle();
    }
    let early = group.wall();
    group.advance(Duration::from_secs(10));
    group.write(2, delete("k"));
    for _ in 0..8 {
        group.settle();
    }
    group.restart(3);
    for member in 0..4 {
        assert_eq!(group.read(member, "k"), None);
        assert_eq!(
            group.read_at(member, "k", ReadLevel::Confirmed),
            value("truth"),
            "two say so, one does not"
        );
    }
    // The first who agrees with the delete ends it; once all do, nothing is left.
    group.write(1, delete("k"));
    group.settle();
    assert_eq!(group.read_at(3, "k", ReadLevel::Confirmed), None);
    for _ in 0..8 {
        group.settle();
    }
    assert_eq!(group.members[3].tables.records(), 1);
    // Even if it says so with a stamp from before the others' deletes.
    let late = group.forge_at(0, vec![Write::delete(key("k"))], early);
    for member in 1..4 {
        group.give(member, group.id(0), late.clone());
    }
    for _ in 0..8 {
        group.settle();
    }
    for member in &group.members {
        assert_eq!(member.tables.records(), 0);
    }
}

#[test]
fn an_author_with_an_old_disk_does_not_write_before_it_caught_up() {
    let mut group = Group::new(2, 7);
    group.write(0, put("k", "1"));
    group.settle();
    let old = group.members[0].tables.clone();
    group.write(0, put("k", "2"));
    group.write(0, put("k", "3"));
    group.settle();
    group.members[0].tables = old;
    group.restart(0);
    assert!(matches!(
        group.write(0, put("k", "fork")),
        TxnOutcome::Refused(Refusal::NoStartupQuorum { confirmed: 0, needed: 1 })
    ));
    // One digest is not enough: it shows that its own log is longer than its disk knows.
    group.tick(1);
    group.deliver_all();
    assert!(matches!(group.write(0, put("k", "fork")), TxnOutcome::Refused(Refusal::NoStartupQuorum { .. })));
    for _ in 0..4 {
        group.settle();
    }
    assert!(matches!(group.write(0, put("k", "4")), TxnOutcome::Applied(_)));
    group.settle();
    assert_eq!(group.read(1, "k"), value("4"));
    assert!(group.members.iter().all(|member| member.replica.evidence().is_empty()));
}

#[test]
fn overwritten_values_go_when_all_have_the_new_ones() {
    let mut group = Group::new(2, 7);
    for round in 0..50 {
        group.write(
            0,
            Txn::of((0..20).map(|at| Write::put(key(&format!("k/{at}")), vec![round; 100])).collect()),
        );
        group.settle();
    }
    for _ in 0..8 {
        group.settle();
    }
    for member in &group.members {
        let (segments, bytes) = member.tables.segments();
        assert!(
            segments <= 3 && bytes < 3 * 20 * 120,
            "{segments} segments with {bytes} bytes are left of 50"
        );
    }
    // Somebody who is away holds it up, and then no longer.
    group.partition(&[&[0], &[1]]);
    for round in 0..50 {
        group.write(
            0,
            Txn::of((0..20).map(|at| Write::put(key(&format!("k/{at}")), vec![round; 100])).collect()),
        );
        group.settle();
    }
    assert!(group.members[0].tables.segments().0 >= 50);
    group.write(0, delete("k/7"));
    group.advance(group.config.offline_after * 2);
    for _ in 0..8 {
        group.settle();
    }
    assert!(group.members[0].tables.segments().0 <= 4, "{:?}", group.members[0].tables.segments());
    assert_eq!(group.members[0].tables.records(), 20, "the delete is remembered for who is away");
    // And back again it gets what is left, and says that it fills up.
    group.heal();
    for _ in 0..8 {
        group.settle();
    }
    group.assert_equal();
    assert_eq!(group.read(1, "k/7"), None);
    assert!(
        group.events(1).contains(&Event::RepairStarted) && group.events(1).contains(&Event::RepairFinished)
    );
    assert_eq!(group.members[0].tables.records(), 19, "now it is forgotten");
}

#[test]
fn what_was_overwritten_by_something_taken_back_is_collected_later() {
    let mut group = Group::new(3, 7);
    group.write(0, put("k", "old"));
    group.settle();
    group.partition(&[&[0, 1], &[2]]);
    group.write(1, put("k", "taken back"));
    // The old value waits for everybody to have the new one.
    group.settle();
    group.decide(Decision::Leave { author: group.id(1), end: Head::default() });
    group.heal();
    group.settle();
    assert_eq!(group.read(0, "k"), value("old"));
    group.write(0, put("k", "new"));
    for _ in 0..8 {
        group.settle();
    }
    assert_eq!(group.read(2, "k"), value("new"));
    assert_eq!(group.members[0].tables.segments().0, 1, "nothing waits for what will never come");
}

#[test]
fn an_old_stamp_does_not_bring_back_what_was_deleted() {
    let mut group = Group::new(2, 7);
    group.write(1, put("k", "1"));
    group.settle();
    let early = group.wall();
    group.advance(Duration::from_secs(10));
    group.write(0, delete("k"));
    for _ in 0..8 {
        group.settle();
    }
    assert_eq!(group.members[0].tables.records(), 0, "the delete is forgotten");
    // Its author has acknowledged the delete, and signs something with a stamp from before it all the same.
    let old = group.forge_at(1, vec![Write::put(key("k"), "from the grave")], early);
    group.give(0, group.id(1), old);
    assert_eq!(group.read(0, "k"), None);
    let refused =
        |event: &Event| matches!(event, Event::Refused { why, .. } if why.contains("older than deletes"));
    assert!(group.events(0).iter().any(refused), "{:?}", group.events(0));
    assert!(matches!(group.write(1, put("k", "2")), TxnOutcome::Applied(_)));
    group.settle();
    assert_eq!(group.read(0, "k"), value("2"));
}

#[test]
fn what_a_liar_leaves_out_is_found_by_comparing() {
    let mut group = Group::new(3, 7);
    for at in 0..300 {
        group.write(at % 2, put(&format!("k/{at:03}"), &at.to_string()));
    }
    group.settle();
    let new = group.newcomer(9);
    group.decide(Decision::Join { author: group.id(new) });
    // Member 1 lies: the newcomer gets the last segment of member 0 and is told that there is nothing before
    // it.
    let Some(segment) = group.last_segment(0, 0) else { panic!("there is one") };
    let lie = Message::Supply { author: group.id(0), after: 0, more: false, segments: vec![segment] };
    group.give(new, group.id(1), lie);
    assert!(!group.members[new].replica.status().complete);
    for _ in 0..20 {
        group.settle();
    }
    group.assert_equal();
    assert!(group.members[new].replica.status().complete);
    assert_eq!(group.view(new).len(), 300);
}

#[test]
fn nobody_is_asked_for_ever() {
    let mut group = Group::new(2, 7);
    for round in 0..3 {
        group.write(0, put("k", &format!("{round}")));
    }
    let new = group.newcomer(9);
    group.decide(Decision::Join { author: group.id(new) });
    let Some(segment) = group.last_segment(0, 0) else { panic!("there is one") };
    let head = Segment::decode(segment.clone()).unwrap().signed().head();
    let (liar, author, config) = (group.id(1), group.id(0), group.config.group);
    group.take_all_messages();
    group.give(new, liar, Message::Supply { author, after: 0, more: false, segments: vec![segment] });
    group.give(new, liar, Message::Digest { group: config, complete: true, heads: vec![(author, head)] });
    group.tick(new);
    let mut questions = 0;
    loop {
        let asked = group.take_messages(new).into_iter().find_map(|(_, message)| match message {
            Message::Compare { nonce, ranges } => Some((nonce, ranges)),
            _ => None,
        });
        let Some((nonce, ranges)) = asked else { break };
        questions += 1;
        assert!(questions < 20_000, "it goes on for ever");
        // Each range is said to differ in two parts.
        let answers = ranges.into_iter().map(|(range, mut print)| {
            print.sum[0] = print.sum[0].wrapping_add(1);
            let to = range.to.clone();
            let [one, two] = ["!", "#"].map(|next| range.from.chars().take(500).collect::<String>() + next);
            let first = Range { from: one, to: Some(two.clone()) };
            let parts = Difference::Parts(vec![(first, print), (Range { from: two, to }, print)]);
            (range, parts)
        });
        let answers = answers.collect();
        group.give(new, liar, Message::Compared { nonce, answers });
    }
    assert!(questions > 10, "the lie was believed for a while: {questions}");
    assert!(!group.members[new].replica.status().complete);
    for _ in 0..8 {
        group.settle();
    }
    group.assert_equal();
    assert!(group.members[new].replica.status().complete, "somebody else was asked");
}

#[test]
fn equal_views_from_equal_segments_only() {
    // The digest tells views apart that differ in one value: otherwise the tests above would show nothing.
    let mut group = Group::new(2, 7);
    let before = group.digest(0);
    group.write(0, put("k", "1"));
    assert_ne!(group.digest(0), before);
    let views: BTreeMap<_, _> = group.view(0);
    assert_eq!(views.len(), 1);
    let decoded = Segment::decode(group.last_segment(0, 0).unwrap()).unwrap();
    assert_eq!(decoded.signed().header.stamp.time(), Timestamp::from_millis(crdt_group::BEGIN));
    let _: &MemoryTables = &group.members[0].tables;
}
