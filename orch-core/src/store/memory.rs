//! Records in the memory of this process: the default of a host program, and the measure for other backends.

use std::{collections::BTreeMap, num::NonZeroUsize, ops::Bound, sync::Arc};

use async_trait::async_trait;
use bytes::Bytes;

use super::{
    CommitError, CommitId, Entry, History, HistoryBounds, Incarnation, Key, Page, Position, Revision,
    SettledIds, StateStore, StoreCapabilities, StoreError, Txn, Watch, Write,
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
    by_key: BTreeMap<Key, (Position, Bytes)>,
    settled: SettledIds,
    closed: bool,
}

impl MemoryStore {
    /// An empty store.
    #[must_use]
    pub fn new(config: MemoryStoreConfig) -> Self {
        let bounds = HistoryBounds { revisions: config.history_revisions, bytes: config.history_bytes };
        let history = History::new(Position::ZERO, Position::ZERO, bounds);
        Self { records: RwLock::default(), history: Arc::new(history), config }
    }

    /// A copy of what it holds now, with its history, as a backup of it would be. What is committed to one of
    /// both later is not in the other, and has other positions.
    #[must_use]
    pub fn fork(&self) -> Self {
        let records = self.records.read();
        let by_key = records.by_key.clone();
        let (settled, closed) = (records.settled.clone(), records.closed);
        let history = Arc::new(self.history.fork());
        Self {
            records: RwLock::new(Records { by_key, settled, closed }),
            history,
            config: self.config.clone(),
        }
    }

    /// A store that holds these records already, with no history before `head`.
    pub(super) fn restored(by_key: BTreeMap<Key, (Position, Bytes)>, head: Position) -> Self {
        let config = MemoryStoreConfig::default();
        let bounds = HistoryBounds { revisions: config.history_revisions, bytes: config.history_bytes };
        let history = Arc::new(History::new(head, head, bounds));
        Self { records: RwLock::new(Records { by_key, ..Records::default() }), history, config }
    }

    /// Makes writes that were decided elsewhere.
    pub(super) fn apply(&self, incarnation: Incarnation, writes: Vec<Write>) {
        let mut records = self.records.write();
        self.write_down(&mut records, incarnation, Txn::of(writes));
    }

    /// Ends all watches: another store has replaced this one.
    pub(super) fn supersede(&self) {
        self.history.fail(StoreError::Compacted { oldest: self.history.head() });
    }

    /// Ends all watches: what it has is lost, and `other` is there instead.
    #[cfg(feature = "testkit")]
    pub(crate) fn replace_by(&self, other: &Self) {
        let (expected, head) = (self.history.head(), other.history.head());
        self.history.fail(StoreError::Diverged { expected, head });
    }

    fn write_down(&self, records: &mut Records, incarnation: Incarnation, txn: Txn) -> Position {
        let position = Position::new(self.history.head().revision.next(), incarnation);
        let mut changes = Vec::with_capacity(txn.writes.len());
        for (key, value) in txn.into_net_writes() {
            let changed = match &value {
                Some(value) => {
                    records.by_key.insert(key.clone(), (position, value.clone()));
                    true
                }
                None => records.by_key.remove(&key).is_some(),
            };
            if changed {
                changes.push(Write { key, value });
            }
        }
        self.history.append(incarnation, changes);
        position
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
            .outcomes(true)
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
        Ok(Page { position: self.history.head(), entries, more })
    }

    async fn commit(&self, txn: Txn) -> Result<Position, CommitError> {
        txn.check(&self.capabilities())?;
        let mut records = self.write()?;
        records.settled.check(txn.id)?;
        for guard in &txn.guards {
            if !guard.holds(records.by_key.get(guard.key()).map(|(version, _)| *version)) {
                return Err(CommitError::Conflict { key: guard.key().clone() });
            }
        }
        let id = txn.id.unwrap_or_else(CommitId::random);
        Ok(self.write_down(&mut records, Incarnation(id.0), txn))
    }

    async fn watch(&self, prefix: &str, from: Position) -> Result<Watch, StoreError> {
        let _open = self.read()?;
        self.history.watch(None, prefix, from)
    }

    async fn head(&self) -> Result<Position, StoreError> {
        let _open = self.read()?;
        Ok(self.history.head())
    }

    async fn outcome(&self, id: CommitId, since: Revision) -> Result<Option<Position>, StoreError> {
        let mut records = self.write()?;
        let found = self.history.find(Incarnation(id.0), since)?;
        if found.is_none() {
            records.settled.insert(id);
        }
        Ok(found)
    }

    async fn compact(&self, before: Revision) -> Result<(), StoreError> {
        let _open = self.write()?;
        let before = before.min(self.history.head().revision);
        // What is not in memory is forgotten already.
        if let Some(oldest) = self.history.at(before) {
            self.history.forget(oldest);
        }
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

fn entry((key, (version, value)): (&Key, &(Position, Bytes))) -> Entry {
    Entry { key: key.clone(), value: value.clone(), version: *version }
}
