//! Members that come and go.

use orch_consensus::pbft::{MembershipError, Refusal, VoteRefusal};
use orch_core::consensus::{Consensus, ConsensusError, MemberRole, MembershipChange};

use crate::group::{Group, Member, id, peer, shut_down};

/// Small checkpoints: a change is in force at one.
fn group() -> Group {
    let mut group = Group::new(4, None);
    (group.config.core.checkpoint_interval, group.config.core.window) = (4, 8);
    group
}

fn add(number: usize) -> MembershipChange {
    MembershipChange::add(id(number), peer(number), MemberRole::Voter)
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

    let remove = MembershipChange::remove(id(1));
    all_vote(&members, &remove, 2).await;
    let gone = members.remove(1);
    for member in &members {
        member.reports("four members", |status| !status.members.contains(&id(1))).await;
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
    let learner = MembershipChange::add(id(4), peer(4), MemberRole::Learner);
    let refused = members[0].consensus.change_membership(learner).await;
    assert!(matches!(refused, Err(ConsensusError::Unsupported(_))), "{refused:?}");
    let twice = MembershipChange::add(id(2), peer(7), MemberRole::Voter);
    let refused = members[0].consensus.change_membership(twice).await;
    let Err(ConsensusError::Refused(cause)) = refused else { panic!("{refused:?}") };
    let twice = MembershipError::Twice(id(2).to_string());
    assert_eq!(cause.downcast_ref(), Some(&Refusal::Membership(VoteRefusal::Impossible(twice))));
    shut_down(members).await;
}
