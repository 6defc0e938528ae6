//! [`StoreLayer`].

use std::fmt;

use async_trait::async_trait;

use super::Layered;
use crate::store::{
    CommitError, CommitId, Entry, Key, Page, Position, Revision, StateStore, StoreCapabilities, StoreError,
    Txn, Watch,
};

/// Change of a store of records for a test, such as one that is slow, full, or shared.
#[async_trait]
pub trait StoreLayer: fmt::Debug + Send + Sync + 'static {
    /// The store below.
    fn below(&self) -> &dyn StateStore;

    /// As [`StateStore::capabilities`].
    fn capabilities(&self) -> StoreCapabilities {
        self.below().capabilities()
    }

    /// As [`StateStore::get`].
    ///
    /// # Errors
    /// As there.
    async fn get(&self, key: &Key) -> Result<Option<Entry>, StoreError> {
        self.below().get(key).await
    }

    /// As [`StateStore::scan`].
    ///
    /// # Errors
    /// As there.
    async fn scan(&self, prefix: &str, after: Option<&Key>, limit: usize) -> Result<Page, StoreError> {
        self.below().scan(prefix, after, limit).await
    }

    /// As [`StateStore::commit`].
    ///
    /// # Errors
    /// As there.
    async fn commit(&self, txn: Txn) -> Result<Position, CommitError> {
        self.below().commit(txn).await
    }

    /// As [`StateStore::head`].
    ///
    /// # Errors
    /// As there.
    async fn head(&self) -> Result<Position, StoreError> {
        self.below().head().await
    }
}

#[async_trait]
impl<L: StoreLayer> StateStore for Layered<L> {
    fn capabilities(&self) -> StoreCapabilities {
        self.0.capabilities()
    }

    async fn get(&self, key: &Key) -> Result<Option<Entry>, StoreError> {
        self.0.get(key).await
    }

    async fn scan(&self, prefix: &str, after: Option<&Key>, limit: usize) -> Result<Page, StoreError> {
        self.0.scan(prefix, after, limit).await
    }

    async fn commit(&self, txn: Txn) -> Result<Position, CommitError> {
        self.0.commit(txn).await
    }

    async fn watch(&self, prefix: &str, from: Position) -> Result<Watch, StoreError> {
        self.0.below().watch(prefix, from).await
    }

    async fn head(&self) -> Result<Position, StoreError> {
        self.0.head().await
    }

    async fn outcome(&self, id: CommitId, since: Revision) -> Result<Option<Position>, StoreError> {
        self.0.below().outcome(id, since).await
    }

    async fn compact(&self, before: Revision) -> Result<(), StoreError> {
        self.0.below().compact(before).await
    }

    async fn close(&self) -> Result<(), StoreError> {
        self.0.below().close().await
    }
}
