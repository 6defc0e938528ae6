//! Members that come and go.

use bytes::Bytes;
use orch_core::consensus::{Consensus, ConsensusError, MembershipChange};

use crate::group::{Group, Member, name, peer, shut_down};

/// Small checkpoints: a change is in force at one.
fn group() -> Group {
    let mut group = Group::new(4, None);
    (group.config.core.checkpoint_interval, group.config.core.window) = (4, 8);
    group
}

fn add(number: usize) -> MembershipChange {
    MembershipChange::Add { member: name(number), detail: Bytes::copy_from_slice(peer(number).as_bytes()) }
}

async fn all_vote(members: &[Member], change: &MembershipChange, votes: usize) {
    for member in &members[..votes] {
        member.consensus.change_membership(change.clone()).await.unwrap();
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_fifth_member_joins_and_a_first_one_leaves() {
    let group = group();
    let mut members = group.start_all(4).await;
    members[0].propose("first").await;
    let newcomer = group.start(4).await;
    newcomer
        .reports("that it is outside", |status| {
            status.last_error.as_ref().is_some_and(|it| it.contains("no member"))
        })
        .await;
    let early = newcomer.consensus.propose("early".into()).await;
    assert!(matches!(early, Err(ConsensusError::Refused(_))), "{early:?}");

    // f + 1 of them are enough.
    all_vote(&members, &add(4), 2).await;
    for member in members.iter().chain([&newcomer]) {
        member.reports("five members", |status| status.members.len() == 5).await;
    }
    newcomer.propose("second").await;
    assert_eq!(newcomer.machine.now(), ["first", "second"]);
    members.push(newcomer);
    // What is as asked for already is a success.
    members[2].consensus.change_membership(add(4)).await.unwrap();

    let remove = MembershipChange::Remove { member: name(1) };
    all_vote(&members, &remove, 2).await;
    let gone = members.remove(1);
    for member in &members {
        member.reports("four members", |status| !status.members.contains(&name(1))).await;
    }
    members[3].propose("third").await;
    gone.reports("that it is outside", |status| {
        status.last_error.as_ref().is_some_and(|it| it.contains("no member"))
    })
    .await;
    assert_eq!(members[3].machine.now(), ["first", "second", "third"]);
    members.push(gone);
    shut_down(members).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_change_that_cannot_be_is_refused() {
    let group = group();
    let members = group.start_all(4).await;
    let no_key = MembershipChange::Add { member: name(4), detail: Bytes::from_static(b"short") };
    assert!(matches!(members[0].consensus.change_membership(no_key).await, Err(ConsensusError::Refused(_))));
    let twice = MembershipChange::Add { member: name(2), detail: Bytes::copy_from_slice(peer(7).as_bytes()) };
    let refused = members[0].consensus.change_membership(twice).await;
    assert!(matches!(refused, Err(ConsensusError::Refused(_))), "{refused:?}");
    shut_down(members).await;
}
