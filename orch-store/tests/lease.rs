//! Leases: one holder at a time, through silence, bad stores and sleep.
#![allow(clippy::unwrap_used, reason = "helpers of tests are tests too")]

use std::{sync::Arc, time::Duration};

use orch_core::{
    store::{CommitError, Guard, Key, MemoryStore, Revision, StateStore, Txn, Write},
    testkit::RewindableStore,
};
use orch_store::{
    layers::{self, Chaos},
    lease::{Lease, LeaseConfig},
};
use tokio::time::{Instant, sleep, timeout};

const DURATION: Duration = Duration::from_secs(12);

fn config(who: &str) -> LeaseConfig {
    LeaseConfig::new("lead", who).unwrap().lasting(DURATION)
}

fn store() -> Arc<dyn StateStore> {
    Arc::new(MemoryStore::default())
}

async fn take(store: &Arc<dyn StateStore>, who: &str) -> Lease {
    Lease::take(store.clone(), config(who)).await.unwrap()
}

fn work() -> Txn {
    Txn::of(vec![Write::put(Key::new("work").unwrap(), "done")])
}

#[tokio::test(start_paused = true)]
async fn a_holder_that_renews_keeps_it_and_one_that_is_gone_does_not() {
    let store = store();
    let first = take(&store, "one").await;
    let waits = {
        let store = store.clone();
        tokio::spawn(async move { take(&store, "two").await })
    };
    sleep(20 * DURATION).await;
    assert!(first.is_held() && !waits.is_finished());
    store.commit(work().guarded(first.guard())).await.unwrap();
    let guard = first.guard();
    let gone = Instant::now();
    drop(first);
    let second = waits.await.unwrap();
    let waited = gone.elapsed();
    assert!(waited >= DURATION * 5 / 6 && waited <= DURATION * 2, "{waited:?}");
    assert!(second.is_held());
    let late = store.commit(work().guarded(guard)).await;
    assert!(matches!(late, Err(CommitError::Conflict { .. })), "the former holder's writes are refused");
}

#[tokio::test(start_paused = true)]
async fn what_is_given_back_is_free_at_once() {
    let store = store();
    let first = take(&store, "one").await;
    let waits = {
        let store = store.clone();
        tokio::spawn(async move { take(&store, "two").await })
    };
    sleep(DURATION / 10).await;
    let begin = Instant::now();
    first.release().await.unwrap();
    let second = waits.await.unwrap();
    assert!(begin.elapsed() < DURATION / 10);
    second.release().await.unwrap();
    assert!(store.scan("leases/", None, 10).await.unwrap().entries.is_empty(), "nothing is left behind");
}

#[tokio::test(start_paused = true)]
async fn a_holder_that_cannot_renew_gives_up_before_anybody_else_may_take_it() {
    let cut = Arc::new(MemoryStore::default());
    let lease = Lease::take(cut.clone(), config("one")).await.unwrap();
    let begin = Instant::now();
    cut.close().await.unwrap();
    lease.lost().await;
    assert!(!lease.is_held() && begin.elapsed() < DURATION * 3 / 4, "{:?}", begin.elapsed());
}

#[tokio::test(start_paused = true)]
async fn who_was_replaced_hears_of_it() {
    let store = store();
    let first = take(&store, "one").await;
    // As another process does that waited long enough while this one slept.
    let holder = Key::new("leases/lead/holder").unwrap();
    store.commit(Txn::of(vec![Write::put(holder, "two")])).await.unwrap();
    timeout(DURATION, first.lost()).await.unwrap();
    first.release().await.unwrap();
    assert_eq!(
        store.scan("leases/", None, 10).await.unwrap().entries.len(),
        2,
        "what is not ours is left alone"
    );
}

#[tokio::test(start_paused = true)]
async fn many_on_a_bad_store_take_turns_and_never_hold_it_together() {
    let below = store();
    let (mut members, inside) = (Vec::new(), Arc::new(tokio::sync::Mutex::new(())));
    for number in 0..5 {
        let faults =
            Chaos { seed: number, refused: 150, unanswered: 100, broken_watches: 100, ..Chaos::default() };
        let (store, inside) = (layers::chaos(below.clone(), faults), Arc::clone(&inside));
        members.push(tokio::spawn(async move {
            for _ in 0..5 {
                let lease = take(&store, &format!("m{number}")).await;
                let alone = inside.try_lock().expect("somebody else holds it");
                tokio::select! {
                    () = lease.lost() => {}
                    () = sleep(DURATION) => {}
                }
                drop(alone);
                let _ = lease.release().await;
            }
        }));
    }
    for member in members {
        member.await.unwrap();
    }
    assert!(below.head().await.unwrap().revision > Revision(25));
}

#[tokio::test]
async fn a_name_must_be_a_key() {
    assert!(LeaseConfig::new("", "me").is_err() && LeaseConfig::new("a/../b", "me").is_err());
}

#[tokio::test(start_paused = true)]
async fn a_lease_that_a_store_has_lost_guards_nothing() {
    let rewindable = RewindableStore::default();
    let store: Arc<dyn StateStore> = Arc::new(rewindable.clone());
    store.commit(work()).await.unwrap();
    let backup = rewindable.backup();
    let first = take(&store, "one").await;
    rewindable.restore(&backup);
    // With the number of the commit that took it before.
    let second = take(&store, "two").await;
    let (Guard::Version(_, lost), Guard::Version(_, taken)) = (first.guard(), second.guard()) else {
        panic!("a lease guards by a version")
    };
    assert!(lost.revision == taken.revision && lost != taken);
    let late = store.commit(work().guarded(first.guard())).await;
    assert!(matches!(late, Err(CommitError::Conflict { .. })), "{late:?}");
    store.commit(work().guarded(second.guard())).await.unwrap();
    timeout(DURATION, first.lost()).await.expect("its next renewal finds that out");
    assert!(!first.is_held() && second.is_held());
}

#[tokio::test(start_paused = true)]
async fn a_holder_that_slept_through_its_end_does_not_think_that_it_holds() {
    let store = store();
    let lease = take(&store, "one").await;
    assert!(lease.is_held());
    let sleeps = std::pin::pin!(tokio::time::advance(DURATION));
    // The clock has gone on; nothing else has run since.
    assert!(futures_util::poll!(sleeps).is_pending());
    assert!(!lease.is_held());
    sleep(DURATION).await;
    assert!(!lease.is_held(), "nor later");
}
