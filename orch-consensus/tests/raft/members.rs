use std::time::Duration;

use bytes::Bytes;
use orch_core::{
    consensus::{Consensus as _, ConsensusError, MemberId, MemberRole, MembershipChange},
    store::Revision,
};

use crate::group::{Group, Member, leader, name, peer, shut_down};

fn id(number: u8) -> MemberId {
    name(number).parse().unwrap()
}

fn add(number: u8, role: MemberRole) -> MembershipChange {
    MembershipChange::add(id(number), peer(number), role)
}

fn remove(number: u8) -> MembershipChange {
    MembershipChange::remove(id(number))
}

async fn change(member: &Member, change: MembershipChange) -> Result<Revision, ConsensusError> {
    member.raft.change_membership(change).await
}

async fn propose(member: &Member, from: u32, to: u32) {
    let proposals = (from..to).map(|number| member.raft.propose(Bytes::from(number.to_string())));
    for answer in futures_util::future::join_all(proposals).await {
        answer.unwrap();
    }
}

#[tokio::test(start_paused = true)]
async fn a_member_joins_votes_and_leaves() {
    let group = Group::in_memory(1, 1);
    let first = group.start(1).await;
    propose(&first, 0, 100).await;
    let second = group.start(2).await;
    assert!(second.status().members.is_empty());
    change(&first, add(2, MemberRole::Voter)).await.unwrap();
    change(&first, add(2, MemberRole::Voter)).await.expect("what is so already is a success");
    second.until("a member", |status| status.members == ["m1", "m2"]).await;
    propose(&second, 100, 200).await;
    second.raft.read_barrier().await.unwrap();
    assert_eq!(second.written(), first.written());

    // It votes: without it there is no majority, and nothing can be committed.
    group.network.partition(&[&[peer(1)], &[peer(2)]]);
    assert!(first.raft.propose(Bytes::from_static(b"alone")).await.is_err());
    group.network.heal();
    leader(&[&first, &second]).await;

    // A follower may ask as well. The group goes on without whom it removed, even its leader.
    change(&second, remove(1)).await.unwrap();
    change(&second, remove(1)).await.expect("what is so already is a success");
    second.until("the only member", |status| status.members == ["m2"] && status.leader).await;
    propose(&second, 200, 300).await;
    assert_eq!(
        second.written().len(),
        300 + usize::from(second.written().contains(&Bytes::from_static(b"alone")))
    );
    let last = change(&second, remove(2)).await;
    assert!(matches!(last, Err(ConsensusError::Store(_))), "one member has to stay: {last:?}");
    shut_down([first, second]).await;
}

#[tokio::test(start_paused = true)]
async fn a_learner_follows_and_does_not_count() {
    let group = Group::in_memory(2, 1);
    let members = [group.start(1).await, group.start(2).await];
    let learner = group.start(3).await;
    change(&members[0], add(3, MemberRole::Learner)).await.unwrap();
    propose(&learner, 0, 50).await;
    learner.raft.read_barrier().await.unwrap();
    assert_eq!(learner.written().len(), 50);
    assert!(!learner.status().leader);
    // Two of three would be enough if it voted.
    group.network.partition(&[&[peer(1), peer(3)], &[peer(2)]]);
    assert!(members[0].raft.propose(Bytes::from_static(b"x")).await.is_err());
    group.network.heal();
    change(&learner, add(3, MemberRole::Voter)).await.unwrap();
    change(&learner, remove(3)).await.unwrap();
    members[1].until("two members again", |status| status.members == ["m1", "m2"]).await;
    let error = learner.raft.propose(Bytes::from_static(b"y")).await.unwrap_err();
    assert!(matches!(error, ConsensusError::NoLeader(_)), "{error}");
    shut_down(members).await;
    shut_down([learner]).await;
}

#[tokio::test(start_paused = true)]
async fn changes_that_make_no_sense_are_refused() {
    let group = Group::in_memory(1, 1);
    let first = group.start(1).await;
    let bad = [
        MembershipChange::add(id(1), peer(2), MemberRole::Voter),
        MembershipChange::add(id(2), peer(1), MemberRole::Voter),
    ];
    for bad in bad {
        let error = change(&first, bad.clone()).await.unwrap_err();
        assert!(!error.outcome_unknown() && !error.is_retryable(), "{bad:?}: {error:?}");
    }
    assert_eq!(first.status().members, ["m1"]);
    shut_down([first]).await;
}

#[tokio::test(start_paused = true)]
async fn who_does_not_catch_up_stays_a_learner() {
    let group = Group::in_memory(1, 1);
    let first = group.start_with(1, |config| config.catch_up_timeout = Duration::from_secs(1)).await;
    first.until("the leader", |status| status.leader).await;
    let error = change(&first, add(2, MemberRole::Voter)).await.unwrap_err();
    assert!(!error.outcome_unknown(), "{error:?}");
    propose(&first, 0, 10).await;
    assert_eq!(first.status().members, ["m1", "m2"]);
    shut_down([first]).await;
}
