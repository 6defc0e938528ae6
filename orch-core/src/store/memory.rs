//! Records in the memory of this process: the default of a host program, and the measure for other backends.

use std::{collections::BTreeMap, num::NonZeroUsize, ops::Bound, sync::Arc};

use async_trait::async_trait;
use bytes::Bytes;

use super::{
    CommitError, Entry, History, HistoryBounds, Key, Page, Revision, StateStore, StoreCapabilities,
    StoreError, Txn, Watch, Write,
};
use parking_lot::{RwLock, RwLockReadGuard, RwLockWriteGuard};

/// Bounds of a [`MemoryStore`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct MemoryStoreConfig {
    /// Revisions kept for watches. A watch that is further behind ends with [`StoreError::Compacted`], so
    /// choose it larger than what a slow reader falls behind; each revision costs what it wrote.
    pub history_revisions: NonZeroUsize,
    /// The most bytes of keys and values that those revisions hold; older ones are forgotten first.
    pub history_bytes: usize,
    /// The largest value in bytes.
    pub max_value_bytes: usize,
    /// The most writes, and the most guards, of one transaction.
    pub max_txn_writes: usize,
}

impl Default for MemoryStoreConfig {
    fn default() -> Self {
        Self {
            history_revisions: const { NonZeroUsize::new(65_536).expect("not zero") },
            history_bytes: 256 << 20,
            max_value_bytes: 4 << 20,
            max_txn_writes: 65_536,
        }
    }
}

/// A [`StateStore`] whose records live as long as it does. Nothing in it waits or blocks.
#[derive(Debug)]
pub struct MemoryStore {
    records: RwLock<Records>,
    history: Arc<History>,
    config: MemoryStoreConfig,
}

#[derive(Debug, Default)]
struct Records {
    by_key: BTreeMap<Key, (Revision, Bytes)>,
    closed: bool,
}

impl MemoryStore {
    /// An empty store.
    #[must_use]
    pub fn new(config: MemoryStoreConfig) -> Self {
        let bounds = HistoryBounds { revisions: config.history_revisions, bytes: config.history_bytes };
        let history = History::new(Revision::ZERO, Revision::ZERO, bounds);
        Self { records: RwLock::default(), history: Arc::new(history), config }
    }

    /// A store that holds these records already, with no history before `head`.
    pub(super) fn restored(by_key: BTreeMap<Key, (Revision, Bytes)>, head: Revision) -> Self {
        let config = MemoryStoreConfig::default();
        let bounds = HistoryBounds { revisions: config.history_revisions, bytes: config.history_bytes };
        let history = Arc::new(History::new(head, head, bounds));
        Self { records: RwLock::new(Records { by_key, closed: false }), history, config }
    }

    /// Makes writes that were decided elsewhere.
    pub(super) fn apply(&self, writes: Vec<Write>) -> Revision {
        let mut records = self.records.write();
        self.write_down(&mut records, Txn::of(writes))
    }

    /// Ends all watches: another store has replaced this one.
    pub(super) fn supersede(&self) {
        self.history.fail(StoreError::Compacted { oldest: self.history.head() });
    }

    fn write_down(&self, records: &mut Records, txn: Txn) -> Revision {
        let revision = self.history.head().next();
        let mut changes = Vec::with_capacity(txn.writes.len());
        for (key, value) in txn.into_net_writes() {
            let changed = match &value {
                Some(value) => {
                    records.by_key.insert(key.clone(), (revision, value.clone()));
                    true
                }
                None => records.by_key.remove(&key).is_some(),
            };
            if changed {
                changes.push(Write { key, value });
            }
        }
        self.history.append(changes);
        revision
    }

    fn read(&self) -> Result<RwLockReadGuard<'_, Records>, StoreError> {
        let records = self.records.read();
        if records.closed { Err(StoreError::Closed) } else { Ok(records) }
    }

    fn write(&self) -> Result<RwLockWriteGuard<'_, Records>, StoreError> {
        let records = self.records.write();
        if records.closed { Err(StoreError::Closed) } else { Ok(records) }
    }
}

impl Default for MemoryStore {
    fn default() -> Self {
        Self::new(MemoryStoreConfig::default())
    }
}

#[async_trait]
impl StateStore for MemoryStore {
    fn capabilities(&self) -> StoreCapabilities {
        StoreCapabilities::new("memory")
            .compare_and_swap(true)
            .max_value_bytes(self.config.max_value_bytes)
            .max_txn_writes(self.config.max_txn_writes)
    }

    async fn get(&self, key: &Key) -> Result<Option<Entry>, StoreError> {
        let records = self.read()?;
        Ok(records.by_key.get_key_value(key).map(entry))
    }

    async fn scan(&self, prefix: &str, after: Option<&Key>, limit: usize) -> Result<Page, StoreError> {
        let records = self.read()?;
        let start = match after {
            Some(after) if after.as_str() >= prefix => Bound::Excluded(after.as_str()),
            _ => Bound::Included(prefix),
        };
        let mut found = records
            .by_key
            .range::<str, _>((start, Bound::Unbounded))
            .take_while(|(key, _)| key.as_str().starts_with(prefix));
        let entries = found.by_ref().take(limit).map(entry).collect();
        let more = found.next().is_some();
        // Commits hold the lock of the records, so that this is the revision of what was just read.
        Ok(Page { revision: self.history.head(), entries, more })
    }

    async fn commit(&self, txn: Txn) -> Result<Revision, CommitError> {
        txn.check(&self.capabilities())?;
        let mut records = self.write()?;
        for guard in &txn.guards {
            if !guard.holds(records.by_key.get(guard.key()).map(|(version, _)| *version)) {
                return Err(CommitError::Conflict { key: guard.key().clone() });
            }
        }
        Ok(self.write_down(&mut records, txn))
    }

    async fn watch(&self, prefix: &str, from: Revision) -> Result<Watch, StoreError> {
        let _open = self.read()?;
        self.history.watch(None, prefix, from)
    }

    async fn revision(&self) -> Result<Revision, StoreError> {
        let _open = self.read()?;
        Ok(self.history.head())
    }

    async fn compact(&self, before: Revision) -> Result<(), StoreError> {
        let _open = self.write()?;
        self.history.forget(before);
        Ok(())
    }

    async fn close(&self) -> Result<(), StoreError> {
        let mut records = self.records.write();
        records.closed = true;
        records.by_key.clear();
        self.history.close();
        Ok(())
    }
}

fn entry((key, (version, value)): (&Key, &(Revision, Bytes))) -> Entry {
    Entry { key: key.clone(), value: value.clone(), version: *version }
}
