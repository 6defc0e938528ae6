//! The [`StateStore`] trait: where records live. The contract is between a backend and everything above it
//! (consensus adapters, observations, the read side); `testkit::store` checks it.

mod capabilities;
mod error;
mod ext;
mod history;
mod key;
mod memory;
mod position;
mod replicated;
mod settled;
mod txn;
mod txn_chunks;

use std::fmt;

use async_trait::async_trait;
use bytes::Bytes;
use futures_util::stream::BoxStream;

pub use capabilities::{Durability, ReadLevel, StoreCapabilities};
pub use error::{CommitError, StoreError};
pub use ext::{Pages, StateStoreExt};
pub use history::{History, HistoryBounds, HistorySource};
pub use key::{Key, KeyError};
pub use memory::{MemoryStore, MemoryStoreConfig};
pub use position::{CommitId, Incarnation, Position, Revision};
pub use replicated::ReplicatedStore;
pub use settled::SettledIds;
pub use txn::{Guard, Txn, Write};
pub(crate) use txn_chunks::chunked_txns;

/// A store of small records under readable keys, with compare-and-swap transactions and gapless watches.
///
/// A backend MUST:
/// - apply a transaction as a whole or not at all, and give each applied one a revision greater than all
///   before;
/// - never give the same [`Position`] to two commits, also when its server comes back older than it was;
/// - answer a committed transaction only when it is as durable as [`StoreCapabilities::durability`] says;
/// - show a reader that starts after the answer at least that transaction (where [`ReadLevel::Latest`] is
///   declared);
/// - deliver to each watch every change under its prefix after `from`, once, in order of revisions, or end it
///   with [`StoreError::Compacted`], [`StoreError::Diverged`] or another error. Silence is not allowed to
///   hide a gap, nor a history that went back.
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
    async fn commit(&self, txn: Txn) -> Result<Position, CommitError>;

    /// Every change of keys under `prefix` in revisions after `from`, first those that have happened, then
    /// those to come. Ends when dropped, when the store closes, or after an error item.
    ///
    /// ```
    /// # orch_core::block_on(async {
    /// # use orch_core::store::*;
    /// # use futures_util::StreamExt as _;
    /// let store = MemoryStore::default();
    /// let mut watch = store.watch("tasks/", Position::ZERO).await.unwrap();
    /// let put = |key: &str| Txn::of(vec![Write::put(Key::new(key).unwrap(), "")]);
    /// store.commit(put("nodes/1")).await.unwrap();
    /// let committed = store.commit(put("tasks/1")).await.unwrap();
    /// let batch = watch.next().await.unwrap().unwrap();
    /// assert_eq!((batch.position, batch.writes.len()), (committed, 1));
    /// # });
    /// ```
    ///
    /// # Errors
    /// [`StoreError::Compacted`] when changes after `from` are no longer kept: scan again.
    /// [`StoreError::Diverged`], here or as the last item, when the store's history does not have `from`:
    /// scan again, and say that something is lost.
    async fn watch(&self, prefix: &str, from: Position) -> Result<Watch, StoreError>;

    /// The position of the latest transaction, of anybody, also where reads are of a copy
    /// ([`ReadLevel::Local`]): reads after it show at least this position.
    ///
    /// ```
    /// # orch_core::block_on(async {
    /// # use orch_core::store::*;
    /// let store = MemoryStore::default();
    /// assert_eq!(store.head().await.unwrap(), Position::ZERO);
    /// let write = Write::put(Key::new("a").unwrap(), "");
    /// let committed = store.commit(Txn::of(vec![write])).await.unwrap();
    /// assert_eq!(store.head().await.unwrap(), committed);
    /// # });
    /// ```
    ///
    /// # Errors
    /// [`StoreError`] when the backend cannot answer.
    async fn head(&self) -> Result<Position, StoreError>;

    /// Settles the commit `id` of [`Txn::named`], whose answer was [`StoreError::outcome_unknown`]. Its
    /// position where it was applied; `None` when it was not, and then it never will be: a request that is
    /// still on its way is refused when it arrives. `since` is a revision that was known before the commit:
    /// it says how far back the history has to be kept for a certain answer. It may be of a lost history.
    ///
    /// ```
    /// # orch_core::block_on(async {
    /// # use orch_core::store::*;
    /// let store = MemoryStore::default();
    /// let (id, before) = (CommitId::random(), store.head().await.unwrap().revision);
    /// let write = Write::put(Key::new("a").unwrap(), "");
    /// let committed = store.commit(Txn::of(vec![write]).named(id)).await.unwrap();
    /// assert_eq!(store.outcome(id, before).await.unwrap(), Some(committed));
    /// assert_eq!(store.outcome(CommitId::random(), before).await.unwrap(), None);
    /// # });
    /// ```
    ///
    /// # Errors
    /// [`StoreError::Compacted`] when changes after `since` are no longer kept, and it is not known;
    /// [`StoreError::Unsupported`] where [`StoreCapabilities::outcomes`] is false; other [`StoreError`]s when
    /// the backend cannot answer.
    async fn outcome(&self, id: CommitId, since: Revision) -> Result<Option<Position>, StoreError>;

    /// Forgets the history before `before`; records stay. Watches that start earlier answer
    /// [`StoreError::Compacted`] from then on. A store that keeps its history for other reasons changes
    /// nothing ([`StoreCapabilities::compacts`]).
    ///
    /// ```
    /// # orch_core::block_on(async {
    /// # use orch_core::store::*;
    /// let store = MemoryStore::default();
    /// let key = Key::new("a").unwrap();
    /// store.commit(Txn::of(vec![Write::put(key.clone(), "old")])).await.unwrap();
    /// let last = store.commit(Txn::of(vec![Write::put(key.clone(), "new")])).await.unwrap();
    /// store.compact(last.revision).await.unwrap();
    /// assert!(matches!(store.watch("", Position::ZERO).await, Err(StoreError::Compacted { .. })));
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
    /// assert!(matches!(store.head().await, Err(StoreError::Closed)));
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

/// A record as a store returns it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Entry {
    /// Its key.
    pub key: Key,
    /// Its bytes.
    pub value: Bytes,
    /// The commit that last wrote it.
    pub version: Position,
}

/// A part of a scan.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Page {
    /// The state that it shows.
    pub position: Position,
    /// Records in byte order of keys.
    pub entries: Vec<Entry>,
    /// There are more after the last entry.
    pub more: bool,
}

/// The changes of one revision that a watch asked for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct WatchBatch {
    /// Their position.
    pub position: Position,
    /// Changes under the watched prefix, at most one a key, in byte order of keys.
    pub writes: Vec<Write>,
}
