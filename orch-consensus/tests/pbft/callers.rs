//! Answers of callers.

use std::time::Duration;

use orch_core::{
    consensus::{Consensus, ConsensusError},
    model::Timestamp,
};

use crate::group::{Group, shut_down};

#[tokio::test(flavor = "multi_thread")]
async fn more_than_may_wait_is_busy_and_what_waits_at_the_end_is_unknown() {
    let mut group = Group::new(4, None);
    (group.config.queue_max, group.config.shutdown_timeout) = (1, Duration::from_millis(10));
    // One of four: nothing can be agreed on.
    let member = group.start(0).await;
    let mut waiting = Box::pin(member.consensus.propose("waits".into()));
    assert!(futures_util::poll!(&mut waiting).is_pending());
    let refused = member.consensus.propose("one too many".into()).await.unwrap_err();
    assert!(matches!(refused, ConsensusError::Busy), "{refused:?}");
    let consensus = member.consensus.clone();
    let (answer, ()) = tokio::join!(waiting, consensus.shutdown());
    assert!(answer.unwrap_err().outcome_unknown());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_caller_who_gives_up_takes_nothing_back() {
    let group = Group::new(1, None);
    let member = group.start(0).await;
    let mut proposal = Box::pin(member.consensus.propose("kept".into()));
    // It is handed over when it is first polled, and may even be answered by then.
    let _ = futures_util::poll!(&mut proposal);
    drop(proposal);
    member.propose("after").await;
    assert_eq!(member.machine.now(), ["kept", "after"]);
    shut_down(vec![member]).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn time_does_not_go_back_and_is_that_of_the_machine_at_least() {
    let group = Group::new(4, None);
    let members = group.start_all(4).await;
    let mut last = Timestamp::ZERO;
    for number in 0..20 {
        members[0].propose(&number.to_string()).await;
        let now = members[0].consensus.now();
        assert!(now >= last);
        last = now;
    }
    shut_down(members).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_last_handle_stops_it() {
    let directory = tempfile::tempdir().unwrap();
    let group = Group::new(1, Some(directory.path()));
    let member = group.start(0).await;
    member.propose("kept").await;
    drop(member);
    // Its end is not waited for: the log is free when it is.
    let again = async {
        loop {
            let machine = crate::machine::Journal::default();
            let consensus = group.member(0);
            match consensus.start(Box::new(machine.clone())).await {
                Ok(()) => return (consensus, machine),
                Err(_) => tokio::task::yield_now().await,
            }
        }
    };
    let (consensus, machine) = tokio::time::timeout(crate::group::DEADLINE, again).await.unwrap();
    assert_eq!(machine.now(), ["kept"]);
    consensus.shutdown().await;
}
