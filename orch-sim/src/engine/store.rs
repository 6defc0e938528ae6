//! [`LaggingStore`]: one member's connection to the store that all members share.

use std::{
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use async_trait::async_trait;
use futures_util::StreamExt as _;
use orch_core::store::{
    CommitError, CommitId, Entry, Key, MemoryStore, Page, Position, Revision, StateStore, StoreCapabilities,
    StoreError, Txn, Watch,
};

/// Delays the member's watch of others' writes, and its scans.
#[derive(Clone, Debug)]
pub(super) struct LaggingStore {
    shared: Arc<MemoryStore>,
    lag: Arc<Lag>,
}

/// Delays in milliseconds.
#[derive(Debug, Default)]
pub(super) struct Lag {
    watch_ms: AtomicU64,
    scan_ms: AtomicU64,
}

impl Lag {
    pub(super) fn set_watch(&self, lag: Duration) {
        self.watch_ms.store(u64::try_from(lag.as_millis()).unwrap_or(u64::MAX), Ordering::SeqCst);
    }

    pub(super) fn set_scan(&self, lag: Duration) {
        self.scan_ms.store(u64::try_from(lag.as_millis()).unwrap_or(u64::MAX), Ordering::SeqCst);
    }
}

impl LaggingStore {
    pub(super) fn new(shared: Arc<MemoryStore>, lag: Arc<Lag>) -> Self {
        Self { shared, lag }
    }
}

async fn wait(millis: &AtomicU64) {
    let millis = millis.load(Ordering::SeqCst);
    if millis > 0 {
        tokio::time::sleep(Duration::from_millis(millis)).await;
    }
}

#[async_trait]
impl StateStore for LaggingStore {
    fn capabilities(&self) -> StoreCapabilities {
        self.shared.capabilities().shared(true)
    }

    async fn get(&self, key: &Key) -> Result<Option<Entry>, StoreError> {
        self.shared.get(key).await
    }

    async fn scan(&self, prefix: &str, after: Option<&Key>, limit: usize) -> Result<Page, StoreError> {
        wait(&self.lag.scan_ms).await;
        self.shared.scan(prefix, after, limit).await
    }

    async fn commit(&self, txn: Txn) -> Result<Position, CommitError> {
        self.shared.commit(txn).await
    }

    async fn watch(&self, prefix: &str, from: Position) -> Result<Watch, StoreError> {
        let (watch, lag) = (self.shared.watch(prefix, from).await?, self.lag.clone());
        Ok(watch
            .then(move |batch| {
                let lag = lag.clone();
                async move {
                    wait(&lag.watch_ms).await;
                    batch
                }
            })
            .boxed())
    }

    async fn head(&self) -> Result<Position, StoreError> {
        self.shared.head().await
    }

    async fn outcome(&self, id: CommitId, since: Revision) -> Result<Option<Position>, StoreError> {
        self.shared.outcome(id, since).await
    }

    async fn compact(&self, before: Revision) -> Result<(), StoreError> {
        self.shared.compact(before).await
    }

    async fn close(&self) -> Result<(), StoreError> {
        Ok(())
    }
}
