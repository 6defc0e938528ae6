//! A consensus as a store, against the conformance suite of stores.

#![expect(clippy::unwrap_used, reason = "a test may panic")]

use std::sync::Arc;

use async_trait::async_trait;
use orch_core::{
    consensus::{Consensus, LocalConsensus, StoreConsensus},
    store::{Guard, Key, MemoryStore, ReplicatedStore, StateStore, Txn, Write},
    testkit::store::{StoreHarness, run_all},
};

struct OverMemory;

#[async_trait]
impl StoreHarness for OverMemory {
    async fn open(&self, _name: &str) -> Arc<dyn StateStore> {
        Arc::new(ReplicatedStore::start(Arc::new(LocalConsensus::in_memory())).await.unwrap())
    }

    fn reopens(&self) -> bool {
        false
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn it_conforms() {
    run_all(&OverMemory).await;
}

fn key(text: &str) -> Key {
    Key::new(text).unwrap()
}

#[tokio::test]
async fn records_and_versions_outlive_the_process_where_the_consensus_is_durable() {
    let disk: Arc<dyn StateStore> = Arc::new(MemoryStore::default());
    let open = async || {
        let consensus: Arc<dyn Consensus> = Arc::new(LocalConsensus::durable(disk.clone()));
        ReplicatedStore::start(consensus).await.unwrap()
    };
    let store = open().await;
    store.commit(Txn::of(vec![Write::put(key("a"), "1"), Write::put(key("b"), "2")])).await.unwrap();
    let last = store.commit(Txn::of(vec![Write::put(key("a"), "3"), Write::delete(key("b"))])).await.unwrap();
    drop(store);
    let store = open().await;
    let entry = store.get(&key("a")).await.unwrap().unwrap();
    assert_eq!((&entry.value[..], entry.version), (&b"3"[..], last));
    assert_eq!(store.get(&key("b")).await.unwrap(), None);
    let next = Txn::of(vec![Write::put(key("a"), "4")]).guarded(Guard::Version(key("a"), last));
    assert_eq!(store.commit(next).await.unwrap().revision, last.revision.next());
    let reserved = store.commit(Txn::of(vec![Write::put(key("replicated-store/head"), "x")])).await;
    assert!(reserved.unwrap_err().to_string().contains("the store's own"));
}

#[tokio::test]
async fn members_on_one_store_see_each_other_s_commits() {
    let shared: Arc<dyn StateStore> = Arc::new(MemoryStore::default());
    let member =
        async || ReplicatedStore::start(Arc::new(StoreConsensus::new(shared.clone()))).await.unwrap();
    let (one, two) = (member().await, member().await);
    let first = one.commit(Txn::of(vec![Write::put(key("k"), "one")])).await.unwrap();
    let entry = two.get(&key("k")).await.unwrap().unwrap();
    assert_eq!((&entry.value[..], entry.version), (&b"one"[..], first));
    let third = member().await;
    let page = third.scan("", None, 10).await.unwrap();
    assert_eq!(page.entries, [entry], "what the consensus keeps for itself is not shown");
    let guarded = Txn::of(vec![Write::put(key("k"), "two")]).guarded(Guard::Version(key("k"), first));
    two.commit(guarded.clone()).await.unwrap();
    assert!(one.commit(guarded).await.is_err(), "the other one was quicker");
    assert_eq!(&one.get(&key("k")).await.unwrap().unwrap().value[..], b"two");
}
