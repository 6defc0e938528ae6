//! Layers around any store. Each function takes a store and gives one that behaves like it in all else:
//!
//! ```
//! # use std::{sync::Arc, time::Duration};
//! # use orch_core::store::{MemoryStore, StateStore};
//! use orch_store::layers::{self, Retry};
//!
//! let store: Arc<dyn StateStore> = Arc::new(MemoryStore::default());
//! // From the inside out: each try has its own time, and what is counted is what callers saw.
//! let store = layers::timeout(store, Duration::from_secs(5));
//! let store = layers::retry(store, Retry::default());
//! let (store, numbers) = layers::metered(layers::traced(store));
//! # let _ = (store, numbers);
//! ```

mod chaos;
mod metrics;
mod retry;
mod timeout;
mod trace;

use std::{fmt, sync::Arc};

use async_trait::async_trait;
use futures_util::future::BoxFuture;
use orch_core::store::{
    CommitError, CommitId, Entry, Key, Page, Position, Revision, StateStore, StoreCapabilities, StoreError,
    Txn, Watch,
};

pub use self::{
    chaos::{Chaos, chaos},
    metrics::{StoreMetrics, metered},
    retry::{Retry, retry},
    timeout::timeout,
    trace::traced,
};

/// A store with something around each call.
#[derive(Debug)]
struct Layered<L> {
    store: Arc<dyn StateStore>,
    layer: L,
}

/// Behaviour of a layer. It sees every call of every method.
#[async_trait]
trait Layer: Send + Sync + fmt::Debug + 'static {
    /// Carries the call out: `run` is the call of the store within, which may be made more than once or not
    /// at all.
    async fn around<'a, T: Send + 'a, E: Failure>(
        &'a self,
        call: Call<'a>,
        run: impl Fn() -> BoxFuture<'a, Result<T, E>> + Send + Sync + 'a,
    ) -> Result<T, E>;

    /// Wraps a watch that the inner store has started.
    fn watching(&self, _store: &Arc<dyn StateStore>, _prefix: &str, _from: Position, watch: Watch) -> Watch {
        watch
    }
}

/// A call, for people and for decisions.
#[derive(Clone, Copy)]
struct Call<'a> {
    /// Name of the store.
    store: &'static str,
    operation: Operation,
    /// The key or prefix that it is about, if it is about one. Never a value.
    at: &'a str,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Operation {
    Get,
    Scan,
    Commit,
    Watch,
    Head,
    Outcome,
    Compact,
    Close,
}

impl Operation {
    const ALL: [Self; 8] = [
        Self::Get,
        Self::Scan,
        Self::Commit,
        Self::Watch,
        Self::Head,
        Self::Outcome,
        Self::Compact,
        Self::Close,
    ];

    fn as_str(self) -> &'static str {
        match self {
            Self::Get => "get",
            Self::Scan => "scan",
            Self::Commit => "commit",
            Self::Watch => "watch",
            Self::Head => "head",
            Self::Outcome => "outcome",
            Self::Compact => "compact",
            Self::Close => "close",
        }
    }
}

impl Call<'_> {
    /// The layer's own failure of the call.
    fn failed(
        &self,
        retryable: bool,
        happened_perhaps: bool,
        source: impl std::error::Error + Send + Sync + 'static,
    ) -> StoreError {
        StoreError::Backend {
            store: self.store,
            operation: self.operation.as_str(),
            retryable,
            outcome_unknown: happened_perhaps && self.operation == Operation::Commit,
            source: Arc::new(source),
        }
    }
}

/// An error of a call: a conflict is an answer, everything else is the store's.
trait Failure: fmt::Display + From<StoreError> + Send + 'static {
    fn of_store(&self) -> Option<&StoreError>;
}

impl Failure for StoreError {
    fn of_store(&self) -> Option<&StoreError> {
        Some(self)
    }
}

impl Failure for CommitError {
    fn of_store(&self) -> Option<&StoreError> {
        match self {
            Self::Conflict { .. } | Self::Contention { .. } => None,
            Self::Store(error) => Some(error),
        }
    }
}

impl<L: Layer> Layered<L> {
    fn over(store: Arc<dyn StateStore>, layer: L) -> Arc<dyn StateStore> {
        Arc::new(Self { store, layer })
    }

    fn call<'a>(&self, operation: Operation, at: &'a str) -> Call<'a> {
        Call { store: self.store.capabilities().name, operation, at }
    }
}

#[async_trait]
impl<L: Layer> StateStore for Layered<L> {
    fn capabilities(&self) -> StoreCapabilities {
        self.store.capabilities()
    }

    async fn get(&self, key: &Key) -> Result<Option<Entry>, StoreError> {
        self.layer.around(self.call(Operation::Get, key.as_str()), || self.store.get(key)).await
    }

    async fn scan(&self, prefix: &str, after: Option<&Key>, limit: usize) -> Result<Page, StoreError> {
        let call = self.call(Operation::Scan, prefix);
        self.layer.around(call, || self.store.scan(prefix, after, limit)).await
    }

    async fn commit(&self, txn: Txn) -> Result<Position, CommitError> {
        let at = txn.writes.first().map_or("", |write| write.key.as_str());
        let call = self.call(Operation::Commit, at);
        self.layer.around(call, || self.store.commit(txn.clone())).await
    }

    async fn watch(&self, prefix: &str, from: Position) -> Result<Watch, StoreError> {
        let call = self.call(Operation::Watch, prefix);
        let watch = self.layer.around(call, || self.store.watch(prefix, from)).await?;
        Ok(self.layer.watching(&self.store, prefix, from, watch))
    }

    async fn head(&self) -> Result<Position, StoreError> {
        self.layer.around(self.call(Operation::Head, ""), || self.store.head()).await
    }

    async fn outcome(&self, id: CommitId, since: Revision) -> Result<Option<Position>, StoreError> {
        self.layer.around(self.call(Operation::Outcome, ""), || self.store.outcome(id, since)).await
    }

    async fn compact(&self, before: Revision) -> Result<(), StoreError> {
        self.layer.around(self.call(Operation::Compact, ""), || self.store.compact(before)).await
    }

    async fn close(&self) -> Result<(), StoreError> {
        self.layer.around(self.call(Operation::Close, ""), || self.store.close()).await
    }
}
