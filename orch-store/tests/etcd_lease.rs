//! Leases that etcd itself ends: one holder at a time, without a revision for its renewals, also while
//! members are killed.
#![allow(clippy::unwrap_used, reason = "helpers of tests are tests too")]

mod common;

use std::{fs::File, sync::Arc, time::Duration};

use orch_core::store::{CommitError, StateStore};
use orch_store::{
    etcd::{EtcdStore, EtcdStoreConfig},
    lease::{Lease, LeaseConfig},
};
use tokio::{
    sync::Mutex,
    time::{Instant, timeout},
};

use common::{full, put, unused_name, variable};

/// The shortest that a cluster gives by its defaults.
const DURATION: Duration = Duration::from_secs(2);

/// A lease that ended is free soon after.
const SOON: Duration = Duration::from_secs(10);

async fn turn(alone: bool) -> File {
    common::turn(&variable("ORCH_TEST_ETCD"), alone).await
}

fn fresh() -> EtcdStoreConfig {
    let members = variable("ORCH_TEST_ETCD");
    EtcdStoreConfig { namespace: unused_name(), ..EtcdStoreConfig::new(members.split(',')) }
}

async fn open(config: &EtcdStoreConfig) -> Arc<EtcdStore> {
    Arc::new(EtcdStore::open(config.clone()).await.unwrap())
}

fn config(who: &str) -> LeaseConfig {
    LeaseConfig::new("lead", who).unwrap().lasting(DURATION)
}

/// Output of `etcdctl`.
async fn etcdctl(args: &[&str]) -> String {
    let mut command = tokio::process::Command::new("etcdctl");
    command.env("ETCDCTL_API", "3").args(["--endpoints", &variable("ORCH_TEST_ETCD")]).args(args);
    let output = command.output().await.unwrap();
    assert!(output.status.success(), "{args:?}: {}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_holder_that_renews_keeps_it_without_a_revision_and_one_that_is_gone_does_not() {
    let _turn = turn(false).await;
    let namespace = fresh();
    let (one, two) = (open(&namespace).await, open(&namespace).await);
    let first = one.lease(config("one")).await.unwrap();
    let taken = one.head().await.unwrap();
    let mut second = tokio::spawn(async move { two.lease(config("two")).await.unwrap() });
    assert!(timeout(2 * DURATION, &mut second).await.is_err(), "it is held");
    assert!(first.is_held());
    assert_eq!(one.head().await.unwrap(), taken, "renewals are no commits");
    one.commit(put("work", "done").guarded(first.guard())).await.unwrap();

    let (guard, gone) = (first.guard(), Instant::now());
    drop(first);
    let second = timeout(SOON, second).await.unwrap().unwrap();
    // It was renewed a sixth of its time before, and etcd's clock may tick a little before ours.
    assert!(gone.elapsed() > DURATION / 2, "{:?}", gone.elapsed());
    assert!(second.is_held());
    let late = one.commit(put("work", "late").guarded(guard)).await;
    assert!(matches!(late, Err(CommitError::Conflict { .. })), "{late:?}");
    one.commit(put("work", "more").guarded(second.guard())).await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_given_back_is_free_at_once_and_leaves_nothing() {
    let _turn = turn(false).await;
    let namespace = fresh();
    let store = open(&namespace).await;
    let long = || config("one").lasting(Duration::from_secs(600));
    let first = store.lease(long()).await.unwrap();
    let waits = {
        let store = Arc::clone(&store);
        tokio::spawn(async move { store.lease(long()).await.unwrap() })
    };
    first.release().await.unwrap();
    let second = timeout(SOON, waits).await.unwrap().unwrap();
    let beside = format!("{}/leases/lead", namespace.namespace);
    assert!(etcdctl(&["get", &beside]).await.contains("one "), "people can see who holds it");
    second.release().await.unwrap();
    assert!(store.scan("", None, 10).await.unwrap().entries.is_empty());
    assert_eq!(etcdctl(&["get", &beside]).await, "");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_holder_that_cannot_renew_gives_up_before_anybody_else_may_take_it() {
    let _turn = turn(false).await;
    let namespace = fresh();
    let (one, two) = (open(&namespace).await, open(&namespace).await);
    let first = one.lease(config("one")).await.unwrap();
    let second = tokio::spawn(async move { two.lease(config("two")).await.unwrap() });
    one.close().await.unwrap();
    timeout(SOON, first.lost()).await.unwrap();
    assert!(!first.is_held() && !second.is_finished());
    timeout(SOON, second).await.unwrap().unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn who_was_replaced_by_hand_hears_of_it() {
    let _turn = turn(false).await;
    let namespace = fresh();
    let (one, two) = (open(&namespace).await, open(&namespace).await);
    let first = one.lease(config("one")).await.unwrap();
    etcdctl(&["del", &format!("{}/leases/lead", namespace.namespace)]).await;
    let second = timeout(SOON, two.lease(config("two"))).await.unwrap().unwrap();
    timeout(SOON, first.lost()).await.unwrap();
    first.release().await.unwrap();
    one.commit(put("work", "done").guarded(second.guard())).await.expect("what is not its own is left alone");
}

#[tokio::test(flavor = "multi_thread")]
async fn the_two_ways_to_take_a_lease_do_not_mix() {
    let _turn = turn(false).await;
    let (one, two) = (open(&fresh()).await, open(&fresh()).await);
    let _native = one.lease(config("one")).await.unwrap();
    let text = full(&Lease::take(one, config("two")).await.unwrap_err());
    assert!(text.contains("EtcdStore::lease") && text.contains("in one way"), "{text}");
    let _records = Lease::take(two.clone(), config("one")).await.unwrap();
    let text = full(&two.lease(config("two")).await.unwrap_err());
    assert!(text.contains("Lease::take") && text.contains("in one way"), "{text}");
}

/// A leader's death makes etcd wait for a lease once more, and takes none from its holder.
#[tokio::test(flavor = "multi_thread")]
async fn many_take_turns_while_members_are_killed_and_never_hold_it_together() {
    let _turn = turn(true).await;
    let (namespace, inside) = (fresh(), Arc::new(Mutex::new(())));
    let mut holders = Vec::new();
    for number in 0..4 {
        let (store, inside) = (open(&namespace).await, Arc::clone(&inside));
        holders.push(tokio::spawn(async move {
            for turn in 0..4 {
                // A holder that had to wait for a core gives up late.
                let config = config(&format!("m{number}")).lasting(3 * DURATION);
                let lease = store.lease(config).await.unwrap();
                let alone = inside.try_lock().expect("somebody else holds it");
                let work = put("work", &turn.to_string()).guarded(lease.guard());
                tokio::select! {
                    () = lease.lost() => {}
                    done = store.commit(work) => {
                        assert!(!matches!(done, Err(CommitError::Conflict { .. })), "{done:?}");
                    }
                }
                drop(alone);
                let _ = lease.release().await;
            }
        }));
    }
    for _ in 0..3 {
        common::run(&variable("ORCH_TEST_ETCD_CRASH")).await;
    }
    for holder in holders {
        timeout(Duration::from_secs(120), holder).await.unwrap().unwrap();
    }
}
