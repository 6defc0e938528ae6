//! The memory store against the conformance suite, and its own bounds.
#![allow(clippy::unwrap_used, clippy::print_stdout, reason = "helpers of tests are tests too")]

use std::{num::NonZeroUsize, sync::Arc};

use async_trait::async_trait;
use futures_util::StreamExt;
use orch_core::{
    store::{Key, MemoryStore, MemoryStoreConfig, Revision, StateStore, StoreError, Txn, Write},
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
    let mut slow = store.watch("", Revision::ZERO).await.unwrap();
    let mut quick = store.watch("", Revision::ZERO).await.unwrap();
    for n in 1..=11 {
        store.commit(put()).await.unwrap();
        assert_eq!(quick.next().await.unwrap().unwrap().revision, Revision(n));
    }
    assert!(matches!(slow.next().await, Some(Err(StoreError::Compacted { oldest: Revision(1) }))));
    assert!(slow.next().await.is_none(), "an error ends the watch");
    assert!(matches!(store.watch("", Revision::ZERO).await.map(|_| ()), Err(StoreError::Compacted { .. })));
    assert_eq!(
        store.watch("", Revision(1)).await.unwrap().next().await.unwrap().unwrap().revision,
        Revision(2)
    );
}
