//! [`RewindableStore`].

use std::sync::Arc;

use async_trait::async_trait;
use parking_lot::RwLock;

use crate::store::{
    CommitError, CommitId, Entry, Key, MemoryStore, Page, Position, Revision, StateStore, StoreCapabilities,
    StoreError, Txn, Watch,
};

/// A store in memory that several members of a test share, and that can come back as it was: as a server does
/// whose backup was restored. Clones share it.
#[derive(Clone, Debug, Default)]
pub struct RewindableStore(Arc<RwLock<Arc<MemoryStore>>>);

/// State of a [`RewindableStore`] to which it can come back.
#[derive(Debug)]
pub struct Backup(MemoryStore);

impl RewindableStore {
    /// Its state now.
    #[must_use]
    pub fn backup(&self) -> Backup {
        Backup(self.now().fork())
    }

    /// Brings a state back. What was committed since is lost, and watches end.
    pub fn restore(&self, backup: &Backup) {
        let restored = Arc::new(backup.0.fork());
        let lost = std::mem::replace(&mut *self.0.write(), Arc::clone(&restored));
        lost.replace_by(&restored);
    }

    fn now(&self) -> Arc<MemoryStore> {
        Arc::clone(&self.0.read())
    }
}

#[async_trait]
impl StateStore for RewindableStore {
    fn capabilities(&self) -> StoreCapabilities {
        self.now().capabilities().shared(true)
    }

    async fn get(&self, key: &Key) -> Result<Option<Entry>, StoreError> {
        self.now().get(key).await
    }

    async fn scan(&self, prefix: &str, after: Option<&Key>, limit: usize) -> Result<Page, StoreError> {
        self.now().scan(prefix, after, limit).await
    }

    async fn commit(&self, txn: Txn) -> Result<Position, CommitError> {
        self.now().commit(txn).await
    }

    async fn watch(&self, prefix: &str, from: Position) -> Result<Watch, StoreError> {
        self.now().watch(prefix, from).await
    }

    async fn head(&self) -> Result<Position, StoreError> {
        self.now().head().await
    }

    async fn outcome(&self, id: CommitId, since: Revision) -> Result<Option<Position>, StoreError> {
        self.now().outcome(id, since).await
    }

    async fn compact(&self, before: Revision) -> Result<(), StoreError> {
        self.now().compact(before).await
    }

    /// Stays open: other members share it.
    async fn close(&self) -> Result<(), StoreError> {
        Ok(())
    }
}
