//! The [`StateStore`] trait: where records live. The contract is between a backend and everything above it
//! (consensus adapters, observations, the read side); `testkit::store` checks it.

mod ext;
mod history;
mod key;
mod memory;
mod replicated;
mod txn_chunks;

use std::{collections::BTreeMap, fmt};

use async_trait::async_trait;
use bytes::Bytes;
use futures_util::stream::BoxStream;
use serde::{Deserialize, Serialize};

pub use ext::{Pages, StateStoreExt};
pub use history::{History, HistoryBounds, HistorySource};
pub use key::{Key, KeyError};
pub use memory::{MemoryStore, MemoryStoreConfig};
pub use replicated::ReplicatedStore;
pub(crate) use txn_chunks::chunked_txns;

/// The position of a batch of changes in a total order. Zero is before the first change.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Default, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Revision(pub u64);

impl Revision {
    /// The state before anything happened.
    pub const ZERO: Self = Self(0);

    /// The revision after this one.
    #[must_use]
    pub const fn next(self) -> Self {
        Self(self.0 + 1)
    }
}

impl fmt::Display for Revision {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// A store of small records under readable keys, with compare-and-swap transactions and gapless watches.
///
/// A backend MUST:
/// - apply a transaction as a whole or not at all, and give each applied one a revision greater than all
///   before;
/// - answer a committed transaction only when it is as durable as [`StoreCapabilities::durability`] says;
/// - show a reader that starts after the answer at least that transaction (where `compare_and_swap` is
///   declared);
/// - deliver to each watch every change under its prefix after `from`, once, in order of revisions, or end it
///   with [`StoreError::Compacted`] or another error. Silence is not allowed to hide a gap.
///
/// Dropping a future of any method leaves the store consistent; a dropped `commit` may or may not have
/// happened.
#[async_trait]
pub trait StateStore: Send + Sync + fmt::Debug + 'static {
    /// Promises of this backend. Constant while it is open.
    ///
    /// ```
    /// # orch_core::block_on(async {
    /// # use orch_core::store::*;
    /// let capabilities = MemoryStore::default().capabilities();
    /// assert!(capabilities.compare_and_swap && !capabilities.shared);
    /// # });
    /// ```
    fn capabilities(&self) -> StoreCapabilities;

    /// The record under `key`, if there is one.
    ///
    /// ```
    /// # orch_core::block_on(async {
    /// # use orch_core::store::*;
    /// let store = MemoryStore::default();
    /// let key = Key::new("tasks/1").unwrap();
    /// assert!(store.get(&key).await.unwrap().is_none());
    /// let written = store.commit(Txn::of(vec![Write::put(key.clone(), "one")])).await.unwrap();
    /// let entry = store.get(&key).await.unwrap().unwrap();
    /// assert_eq!((&entry.value[..], entry.version), (&b"one"[..], written));
    /// # });
    /// ```
    ///
    /// # Errors
    /// [`StoreError`] when the backend cannot answer.
    async fn get(&self, key: &Key) -> Result<Option<Entry>, StoreError>;

    /// Records whose keys start with `prefix`, in byte order of keys: those after `after`, at most `limit` of
    /// them. A page is a snapshot at its revision; two pages may be of different revisions. To read more than
    /// a page without missing a change, watch from the first page's revision.
    ///
    /// ```
    /// # orch_core::block_on(async {
    /// # use orch_core::store::*;
    /// let store = MemoryStore::default();
    /// let put = |key: &str| Write::put(Key::new(key).unwrap(), "");
    /// store.commit(Txn::of(vec![put("a/1"), put("a/2"), put("b/1")])).await.unwrap();
    /// let page = store.scan("a/", None, 1).await.unwrap();
    /// assert!(page.more);
    /// let rest = store.scan("a/", Some(&page.entries[0].key), 10).await.unwrap();
    /// assert_eq!(rest.entries[0].key.as_str(), "a/2");
    /// assert!(!rest.more);
    /// # });
    /// ```
    ///
    /// # Errors
    /// [`StoreError`] when the backend cannot answer.
    async fn scan(&self, prefix: &str, after: Option<&Key>, limit: usize) -> Result<Page, StoreError>;

    /// Applies `txn` if all its guards hold.
    ///
    /// ```
    /// # orch_core::block_on(async {
    /// # use orch_core::store::*;
    /// let store = MemoryStore::default();
    /// let key = Key::new("leader").unwrap();
    /// let claim = |name: &'static str| {
    ///     Txn::of(vec![Write::put(key.clone(), name)]).guarded(Guard::Absent(key.clone()))
    /// };
    /// store.commit(claim("one")).await.unwrap();
    /// let second = store.commit(claim("two")).await;
    /// assert!(matches!(second, Err(CommitError::Conflict { .. })));
    /// # });
    /// ```
    ///
    /// # Errors
    /// [`CommitError::Conflict`] names a guard that did not hold, nothing was written. With
    /// [`CommitError::Store`] nothing was written either, unless [`StoreError::outcome_unknown`] says
    /// otherwise.
    async fn commit(&self, txn: Txn) -> Result<Revision, CommitError>;

    /// Every change of keys under `prefix` in revisions after `from`, first those that have happened, then
    /// those to come. Ends when dropped, when the store closes, or after an error item.
    ///
    /// ```
    /// # orch_core::block_on(async {
    /// # use orch_core::store::*;
    /// # use futures_util::StreamExt as _;
    /// let store = MemoryStore::default();
    /// let mut watch = store.watch("tasks/", Revision::ZERO).await.unwrap();
    /// let put = |key: &str| Txn::of(vec![Write::put(Key::new(key).unwrap(), "")]);
    /// store.commit(put("nodes/1")).await.unwrap();
    /// let revision = store.commit(put("tasks/1")).await.unwrap();
    /// let batch = watch.next().await.unwrap().unwrap();
    /// assert_eq!((batch.revision, batch.writes.len()), (revision, 1));
    /// # });
    /// ```
    ///
    /// # Errors
    /// [`StoreError::Compacted`] when changes after `from` are no longer kept: scan again.
    async fn watch(&self, prefix: &str, from: Revision) -> Result<Watch, StoreError>;

    /// The revision of the latest transaction.
    ///
    /// ```
    /// # orch_core::block_on(async {
    /// # use orch_core::store::*;
    /// let store = MemoryStore::default();
    /// assert_eq!(store.revision().await.unwrap(), Revision::ZERO);
    /// let write = Write::put(Key::new("a").unwrap(), "");
    /// let committed = store.commit(Txn::of(vec![write])).await.unwrap();
    /// assert_eq!(store.revision().await.unwrap(), committed);
    /// # });
    /// ```
    ///
    /// # Errors
    /// [`StoreError`] when the backend cannot answer.
    async fn revision(&self) -> Result<Revision, StoreError>;

    /// Forgets the history before `before`; records stay. Watches that start earlier answer
    /// [`StoreError::Compacted`] from then on.
    ///
    /// ```
    /// # orch_core::block_on(async {
    /// # use orch_core::store::*;
    /// let store = MemoryStore::default();
    /// let key = Key::new("a").unwrap();
    /// store.commit(Txn::of(vec![Write::put(key.clone(), "old")])).await.unwrap();
    /// let last = store.commit(Txn::of(vec![Write::put(key.clone(), "new")])).await.unwrap();
    /// store.compact(last).await.unwrap();
    /// assert!(matches!(store.watch("", Revision::ZERO).await, Err(StoreError::Compacted { .. })));
    /// assert_eq!(store.get(&key).await.unwrap().unwrap().value, "new");
    /// # });
    /// ```
    ///
    /// # Errors
    /// [`StoreError`] when the backend cannot do it.
    async fn compact(&self, before: Revision) -> Result<(), StoreError>;

    /// Finishes what was accepted and releases files, connections and locks. Later calls answer
    /// [`StoreError::Closed`]; closing twice is no error.
    ///
    /// ```
    /// # orch_core::block_on(async {
    /// # use orch_core::store::*;
    /// let store = MemoryStore::default();
    /// store.close().await.unwrap();
    /// assert!(matches!(store.revision().await, Err(StoreError::Closed)));
    /// store.close().await.unwrap();
    /// # });
    /// ```
    ///
    /// # Errors
    /// [`StoreError`] when the end could not be made durable.
    async fn close(&self) -> Result<(), StoreError>;
}

/// Changes after a revision, in order.
pub type Watch = BoxStream<'static, Result<WatchBatch, StoreError>>;

/// Promises of a store.
///
/// ```
/// use orch_core::store::{Durability, StoreCapabilities};
///
/// let capabilities = StoreCapabilities::new("paper")
///     .compare_and_swap(true)
///     .durability(Durability::Sync)
///     .max_value_bytes(64 << 10);
/// assert!(!capabilities.shared);
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct StoreCapabilities {
    /// Short name for messages: `memory`, `redb`, `postgres`.
    pub name: &'static str,
    /// Guards are checked in one total order for all writers. Needed for decisions; a merging store has none.
    pub compare_and_swap: bool,
    /// Other processes may write to the same records.
    pub shared: bool,
    /// Durability of an acknowledged commit.
    pub durability: Durability,
    /// The largest value in bytes.
    pub max_value_bytes: usize,
    /// The most writes of one transaction.
    pub max_txn_writes: usize,
}

impl StoreCapabilities {
    /// Capabilities of a store with a `name` that has no compare-and-swap, belongs to one process, keeps
    /// nothing beyond it, and takes values of up to 1 MiB and transactions of up to 1,024 writes.
    #[must_use]
    pub const fn new(name: &'static str) -> Self {
        Self {
            name,
            compare_and_swap: false,
            shared: false,
            durability: Durability::Memory,
            max_value_bytes: 1 << 20,
            max_txn_writes: 1024,
        }
    }

    /// The same under this name.
    #[must_use]
    pub const fn named(self, name: &'static str) -> Self {
        Self { name, ..self }
    }

    /// The same with guards that are checked in one total order, or not.
    #[must_use]
    pub const fn compare_and_swap(self, compare_and_swap: bool) -> Self {
        Self { compare_and_swap, ..self }
    }

    /// The same with records that other processes may write to, or not.
    #[must_use]
    pub const fn shared(self, shared: bool) -> Self {
        Self { shared, ..self }
    }

    /// The same with this durability.
    #[must_use]
    pub const fn durability(self, durability: Durability) -> Self {
        Self { durability, ..self }
    }

    /// The same with this bound of values.
    #[must_use]
    pub const fn max_value_bytes(self, max_value_bytes: usize) -> Self {
        Self { max_value_bytes, ..self }
    }

    /// The same with this bound of transactions.
    #[must_use]
    pub const fn max_txn_writes(self, max_txn_writes: usize) -> Self {
        Self { max_txn_writes, ..self }
    }
}

/// Failures that an acknowledged change survives.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Durability {
    /// The end of the process loses it.
    Memory,
    /// It survives the process; a power cut may take the last moments (written, synced at intervals).
    Group,
    /// It survives a power cut: synced before it was answered.
    Sync,
}

/// A record as a store returns it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Entry {
    /// Its key.
    pub key: Key,
    /// Its bytes.
    pub value: Bytes,
    /// The revision that last wrote it.
    pub version: Revision,
}

/// A part of a scan.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Page {
    /// The state that it shows.
    pub revision: Revision,
    /// Records in byte order of keys.
    pub entries: Vec<Entry>,
    /// There are more after the last entry.
    pub more: bool,
}

/// Writes that happen together if every guard holds.
#[derive(Clone, Debug, PartialEq, Eq, Default)]
pub struct Txn {
    /// Conditions on the state before.
    pub guards: Vec<Guard>,
    /// Puts and deletes. For a key named twice the last one counts.
    pub writes: Vec<Write>,
}

impl Txn {
    /// Writes without conditions.
    #[must_use]
    pub fn of(writes: Vec<Write>) -> Self {
        Self { guards: Vec::new(), writes }
    }

    /// The same on one more condition.
    #[must_use]
    pub fn guarded(mut self, guard: Guard) -> Self {
        self.guards.push(guard);
        self
    }

    /// Refuses what a backend with these capabilities does not take. For backends, before anything else.
    ///
    /// # Errors
    /// [`StoreError::TooLarge`] names what is too large. Guards are bounded like writes.
    pub fn check(&self, capabilities: &StoreCapabilities) -> Result<(), StoreError> {
        let refuse =
            |what: String, size, max| Err(StoreError::TooLarge { store: capabilities.name, what, size, max });
        let max = capabilities.max_txn_writes;
        for (what, size) in [("writes", self.writes.len()), ("guards", self.guards.len())] {
            if size > max {
                return refuse(format!("the number of {what} of a transaction"), size, max);
            }
        }
        let max = capabilities.max_value_bytes;
        for write in &self.writes {
            let size = write.value.as_ref().map_or(0, Bytes::len);
            if size > max {
                return refuse(format!("the value of {}, in bytes,", write.key), size, max);
            }
        }
        Ok(())
    }

    /// Bytes of the keys and values that it writes.
    #[must_use]
    pub fn size_bytes(&self) -> usize {
        self.writes.iter().map(Write::size_bytes).sum()
    }

    /// Net effect of the writes: one value (or none, for a delete) a key, the last one named.
    #[must_use]
    pub fn into_net_writes(self) -> BTreeMap<Key, Option<Bytes>> {
        self.writes.into_iter().map(|write| (write.key, write.value)).collect()
    }
}

/// A condition on one key.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Guard {
    /// Nothing is stored under the key.
    Absent(Key),
    /// The record was last written by exactly this revision.
    Version(Key, Revision),
}

impl Guard {
    /// The key that it looks at.
    #[must_use]
    pub fn key(&self) -> &Key {
        match self {
            Self::Absent(key) | Self::Version(key, _) => key,
        }
    }

    /// True if the guard holds, given the version stored under its key.
    #[must_use]
    pub fn holds(&self, stored: Option<Revision>) -> bool {
        match self {
            Self::Absent(_) => stored.is_none(),
            Self::Version(_, version) => stored == Some(*version),
        }
    }
}

/// Put (with a value) or delete (without) of one key. Deleting what is not there is no error.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Write {
    /// Key that is written.
    pub key: Key,
    /// New value; `None` for a delete.
    pub value: Option<Bytes>,
}

impl Write {
    /// Stores `value` under `key`.
    #[must_use]
    pub fn put(key: Key, value: impl Into<Bytes>) -> Self {
        Self { key, value: Some(value.into()) }
    }

    /// Removes what is under `key`.
    #[must_use]
    pub fn delete(key: Key) -> Self {
        Self { key, value: None }
    }

    /// Bytes of its key and its value.
    #[must_use]
    pub fn size_bytes(&self) -> usize {
        self.key.as_str().len() + self.value.as_ref().map_or(0, Bytes::len)
    }
}

/// The changes of one revision that a watch asked for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct WatchBatch {
    /// Their position.
    pub revision: Revision,
    /// Changes under the watched prefix, at most one a key, in byte order of keys.
    pub writes: Vec<Write>,
}

/// Why a store could not do what it was asked.
#[derive(Debug, Clone, thiserror::Error)]
#[non_exhaustive]
pub enum StoreError {
    /// The requested history is compacted.
    #[error("changes before revision {oldest} are no longer kept; scan again and watch from there")]
    Compacted {
        /// The earliest revision that a watch may start from.
        oldest: Revision,
    },
    /// The store was closed.
    #[error("the store is closed")]
    Closed,
    /// Something is larger than the backend takes.
    #[error("{what} is {size}; the {store} store takes at most {max}")]
    TooLarge {
        /// Name of the store.
        store: &'static str,
        /// Description of what is too large.
        what: String,
        /// Actual size.
        size: usize,
        /// Largest size.
        max: usize,
    },
    /// Another process holds the store.
    #[error("{0}")]
    Locked(String),
    /// Stored data cannot be read.
    #[error("{0}")]
    Corrupt(String),
    /// The backend failed.
    #[error("{operation} failed in the {store} store")]
    Backend {
        /// Name of the store.
        store: &'static str,
        /// Operation that failed.
        operation: &'static str,
        /// Doing it again may work.
        retryable: bool,
        /// The transaction may have happened all the same.
        outcome_unknown: bool,
        /// Error of the backend.
        #[source]
        source: std::sync::Arc<dyn std::error::Error + Send + Sync>,
    },
}

impl StoreError {
    /// True if doing it again may work.
    #[must_use]
    pub fn is_retryable(&self) -> bool {
        matches!(self, Self::Backend { retryable: true, .. })
    }

    /// True if the transaction that got this answer may have happened all the same.
    #[must_use]
    pub fn outcome_unknown(&self) -> bool {
        matches!(self, Self::Backend { outcome_unknown: true, .. })
    }
}

/// Why a transaction was not applied.
#[derive(Debug, Clone, thiserror::Error)]
pub enum CommitError {
    /// A guard did not hold.
    #[error("{key} was changed by somebody else")]
    Conflict {
        /// The key of the first guard that did not hold.
        key: Key,
    },
    /// The store failed.
    #[error(transparent)]
    Store(#[from] StoreError),
}
