//! The etcd store on servers that come back older, are full, or stop.
#![allow(clippy::unwrap_used, reason = "helpers of tests are tests too")]

mod common;

use std::sync::Arc;

use async_trait::async_trait;
use futures_util::StreamExt as _;
use orch_core::{
    store::{CommitError, CommitId, Guard, Position, StateStore, StoreError},
    testkit::store::{
        Disturbance, StoreHarness, a_full_store_says_so_and_loses_nothing,
        a_store_that_comes_back_older_says_so, a_store_that_is_held_up_answers_in_time,
        deciders_go_on_after_a_store_came_back_older,
    },
};
use orch_store::etcd::{EtcdStore, EtcdStoreConfig};
use tokio::sync::Mutex;

use common::{etcd_server::EtcdServer, key, put};

/// One server, and the stores on it.
struct OneServer(Mutex<EtcdServer>);

impl OneServer {
    async fn start(options: &[&str]) -> Self {
        Self(Mutex::new(EtcdServer::start(options).await))
    }

    async fn store(&self, name: &str) -> Arc<EtcdStore> {
        let config = EtcdStoreConfig::new([self.0.lock().await.member()]);
        Arc::new(EtcdStore::open(EtcdStoreConfig { namespace: name.into(), ..config }).await.unwrap())
    }
}

#[async_trait]
impl StoreHarness for OneServer {
    async fn open(&self, name: &str) -> Arc<dyn StateStore> {
        self.store(name).await
    }

    fn reopens(&self) -> bool {
        true
    }

    async fn begin(&self, what: Disturbance, _: &str) {
        let server = self.0.lock().await;
        match what {
            Disturbance::ComesBackOlder => server.save(),
            Disturbance::Slow => server.signal("-STOP"),
            // It has a small quota.
            _ => {}
        }
    }

    async fn end(&self, what: Disturbance, _: &str) {
        let mut server = self.0.lock().await;
        match what {
            Disturbance::ComesBackOlder => server.restore().await,
            Disturbance::Slow => server.signal("-CONT"),
            _ => {
                server.restart(&[]).await;
                server.ctl(&["alarm", "disarm"]);
            }
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_cluster_that_is_restored_from_a_snapshot_says_so() {
    a_store_that_comes_back_older_says_so(&OneServer::start(&[]).await).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn members_go_on_with_a_restored_snapshot() {
    deciders_go_on_after_a_store_came_back_older(&OneServer::start(&[]).await).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_server_that_stops_is_not_waited_for_without_end() {
    let harness = OneServer::start(&[]).await;
    a_store_that_is_held_up_answers_in_time(&harness, Disturbance::Slow).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_server_beyond_its_quota_is_said_to_be_full() {
    let harness = OneServer::start(&["--quota-backend-bytes", "16777216"]).await;
    a_full_store_says_so_and_loses_nothing(&harness).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_store_whose_keys_were_deleted_begins_anew() {
    let harness = OneServer::start(&[]).await;
    let store = harness.store("deleted").await;
    let lost = store.commit(put("k", "lost")).await.unwrap();
    {
        let mut server = harness.0.lock().await;
        server.ctl(&["del", "--prefix", "deleted/"]);
        server.restart(&[]).await;
    }
    assert!(store.get(&key("k")).await.unwrap().is_none());
    let new = store.commit(put("k", "new")).await.unwrap();
    assert!(new.incarnation != lost.incarnation, "{new:?}");
    let watch = store.watch("", lost).await.map(drop);
    assert!(matches!(watch, Err(StoreError::Diverged { .. })), "{watch:?}");
}

/// A process that was away while the cluster was restored, and while others committed as much as was lost.
#[tokio::test(flavor = "multi_thread")]
async fn the_first_commit_after_a_restore_is_decided_on_the_new_history() {
    let harness = OneServer::start(&[]).await;
    let away = harness.store("away").await;
    away.commit(put("k", "kept")).await.unwrap();
    harness.begin(Disturbance::ComesBackOlder, "away").await;
    let lost = away.commit(put("k", "lost")).await.unwrap();
    harness.end(Disturbance::ComesBackOlder, "away").await;
    // This one has seen nothing, and does not know that anything is lost.
    let other = harness.store("away").await;
    let new = other.commit(put("k", "new")).await.unwrap();
    assert_eq!(new, lost, "the same revision is given out again, to a process that cannot know better");
    let wrong = || put("k", "wrong").guarded(Guard::Version(key("k"), lost));
    let refused = loop {
        match away.commit(wrong()).await {
            // Its connection is lost with the server.
            Err(CommitError::Store(error)) if error.is_retryable() => {}
            answer => break answer,
        }
    };
    assert!(matches!(refused, Err(CommitError::Conflict { .. })), "{refused:?}");
    let entry = other.get(&key("k")).await.unwrap().unwrap();
    assert_eq!(entry.value, "new");
    let watch = other.watch("", new).await.map(drop);
    assert!(matches!(watch, Err(StoreError::Diverged { .. })), "{watch:?}");
}

/// Whoever knew the old one goes on without being started again.
#[tokio::test(flavor = "multi_thread")]
async fn a_cluster_that_was_replaced_by_an_empty_one_is_used_again() {
    let harness = OneServer::start(&[]).await;
    let store = harness.store("replaced").await;
    let lost = store.commit(put("k", "lost")).await.unwrap();
    harness.0.lock().await.replace().await;
    assert_eq!(store.head().await.unwrap(), Position::ZERO);
    let watch = store.watch("", lost).await.map(drop);
    assert!(matches!(watch, Err(StoreError::Diverged { .. })), "{watch:?}");
    store.commit(put("k", "new")).await.unwrap();
}

/// Its history has the incarnations of before.
#[tokio::test(flavor = "multi_thread")]
async fn watches_begin_before_a_restore_of_long_ago() {
    let harness = OneServer::start(&[]).await;
    let store = harness.store("twice").await;
    store.commit(put("k", "first")).await.unwrap();
    for _ in 0..2 {
        harness.begin(Disturbance::ComesBackOlder, "twice").await;
        store.commit(put("k", "lost")).await.unwrap();
        harness.end(Disturbance::ComesBackOlder, "twice").await;
        // More than a member sends at once.
        let many = (0..1500).map(|n| store.commit(put(&format!("n/{n}"), "new")));
        let done = futures_util::stream::iter(many).buffer_unordered(64).collect::<Vec<_>>().await;
        assert!(done.iter().all(Result::is_ok));
    }
    let head = store.head().await.unwrap();
    let mut watch = store.watch("", Position::ZERO).await.unwrap();
    while watch.next().await.unwrap().unwrap().position != head {}
    assert_eq!(store.head().await.unwrap(), head, "the incarnation is the newest one still");
}

#[tokio::test(flavor = "multi_thread")]
async fn an_outcome_is_found_before_a_revision_of_a_lost_history() {
    let harness = OneServer::start(&[]).await;
    let store = harness.store("since").await;
    store.commit(put("k", "kept")).await.unwrap();
    harness.begin(Disturbance::ComesBackOlder, "since").await;
    let mut since = store.head().await.unwrap();
    for _ in 0..5 {
        since = store.commit(put("k", "lost")).await.unwrap();
    }
    harness.end(Disturbance::ComesBackOlder, "since").await;
    let id = CommitId::random();
    let applied = store.commit(put("k", "new").named(id)).await.unwrap();
    assert!(applied.revision < since.revision);
    assert_eq!(store.outcome(id, since.revision).await.unwrap(), Some(applied));
}
