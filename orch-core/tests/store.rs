//! The memory store against the conformance suite, and its own bounds.
#![allow(clippy::unwrap_used, clippy::print_stdout, reason = "helpers of tests are tests too")]

use std::{num::NonZeroUsize, sync::Arc};

use async_trait::async_trait;
use futures_util::StreamExt;
use orch_core::{
    store::{Key, MemoryStore, MemoryStoreConfig, Position, StateStore, StoreError, Txn, Write},
    testkit::store::{StoreHarness, run_all},
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
