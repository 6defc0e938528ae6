//! The memory store against the conformance suite, and its own bounds.
#![allow(clippy::unwrap_used, clippy::print_stdout, reason = "helpers of tests are tests too")]

use std::{
    collections::BTreeMap,
    num::NonZeroUsize,
    sync::{Arc, Mutex},
};

use async_trait::async_trait;
use futures_util::StreamExt;
use orch_core::{
    store::{CommitId, Key, MemoryStore, MemoryStoreConfig, Position, StateStore, StoreError, Txn, Write},
    testkit::{
        Backup, RewindableStore,
        store::{
            Disturbance, StoreHarness, a_store_that_comes_back_older_says_so,
            deciders_go_on_after_a_store_came_back_older, run_all,
        },
    },
};

struct Memory;

#[async_trait]
impl StoreHarness for Memory {
    async fn open(&self, _name: &str) -> Arc<dyn StateStore> {
        Arc::new(MemoryStore::default())
    }

    fn reopens(&self) -> bool {
        false
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn memory_store_conforms() {
    run_all(&Memory).await;
}

/// Stores by name, each of which can be brought back to an earlier state.
#[derive(Default)]
struct Rewindable {
    stores: Mutex<BTreeMap<String, RewindableStore>>,
    backups: Mutex<BTreeMap<String, Backup>>,
}

impl Rewindable {
    fn store(&self, name: &str) -> RewindableStore {
        self.stores.lock().unwrap().entry(name.into()).or_default().clone()
    }
}

#[async_trait]
impl StoreHarness for Rewindable {
    async fn open(&self, name: &str) -> Arc<dyn StateStore> {
        Arc::new(self.store(name))
    }

    fn reopens(&self) -> bool {
        false
    }

    fn disturbances(&self) -> &[Disturbance] {
        &[Disturbance::ComesBackOlder]
    }

    async fn begin(&self, _: Disturbance, name: &str) {
        self.backups.lock().unwrap().insert(name.into(), self.store(name).backup());
    }

    async fn end(&self, _: Disturbance, name: &str) {
        self.store(name).restore(&self.backups.lock().unwrap()[name]);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_memory_store_that_comes_back_older_says_so() {
    a_store_that_comes_back_older_says_so(&Rewindable::default()).await;
    deciders_go_on_after_a_store_came_back_older(&Rewindable::default()).await;
}

#[tokio::test]
async fn a_watch_that_fell_out_of_the_history_is_told_to_scan_again() {
    let config = MemoryStoreConfig {
        history_revisions: NonZeroUsize::new(10).unwrap(),
        ..MemoryStoreConfig::default()
    };
    let store = MemoryStore::new(config);
    let put = || Txn::of(vec![Write::put(Key::new("k").unwrap(), "v")]);
    let mut slow = store.watch("", Position::ZERO).await.unwrap();
    let mut quick = store.watch("", Position::ZERO).await.unwrap();
    let mut positions = Vec::new();
    for _ in 1..=11 {
        positions.push(store.commit(put()).await.unwrap());
        assert_eq!(quick.next().await.unwrap().unwrap().position, *positions.last().unwrap());
    }
    let Some(Err(StoreError::Compacted { oldest })) = slow.next().await else { panic!("it is too slow") };
    assert_eq!(oldest, positions[0]);
    assert!(slow.next().await.is_none(), "an error ends the watch");
    assert!(matches!(store.watch("", Position::ZERO).await.map(|_| ()), Err(StoreError::Compacted { .. })));
    let mut watch = store.watch("", oldest).await.unwrap();
    assert_eq!(watch.next().await.unwrap().unwrap().position, positions[1]);
}

#[tokio::test]
async fn an_outcome_is_found_before_a_revision_of_a_lost_history() {
    let store = MemoryStore::default();
    let put = || Txn::of(vec![Write::put(Key::new("k").unwrap(), "")]);
    let older = store.fork();
    store.commit(put()).await.unwrap();
    let since = store.commit(put()).await.unwrap().revision;
    let id = CommitId::random();
    let applied = older.commit(put().named(id)).await.unwrap();
    for _ in 0..3 {
        assert_eq!(older.outcome(id, since).await.unwrap(), Some(applied), "also when it has been passed");
        older.commit(put()).await.unwrap();
    }
}
