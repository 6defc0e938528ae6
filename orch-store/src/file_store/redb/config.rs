//! Settings of the redb store.

use std::{num::NonZeroU64, path::PathBuf, time::Duration};

/// Directory and bounds of a [`RedbStore`](super::RedbStore).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RedbStoreConfig {
    /// The directory that holds the store's file, made when it is missing. One process at a time has it.
    pub dir: PathBuf,
    /// Sync policy of commits.
    pub sync: SyncPolicy,
    /// Revisions that are kept at least for watches, on disk. Some eighth more may be there: the log is
    /// trimmed in steps.
    pub history_revisions: NonZeroU64,
    /// The largest value in bytes.
    pub max_value_bytes: usize,
    /// The most writes, and the most guards, of one transaction.
    pub max_txn_writes: usize,
    /// Bytes of transactions that wait for the disk. A `commit` beyond waits for permits. Each counts for at
    /// least 1 KiB.
    pub queue_bytes: usize,
    /// Memory for pages of the file, in bytes.
    pub cache_bytes: usize,
}

impl RedbStoreConfig {
    /// A store in `dir` with bounds for a cluster of some thousand nodes.
    #[must_use]
    pub fn new(dir: impl Into<PathBuf>) -> Self {
        Self {
            dir: dir.into(),
            sync: SyncPolicy::EachCommit,
            history_revisions: const { NonZeroU64::new(65_536).expect("not zero") },
            max_value_bytes: 4 << 20,
            max_txn_writes: 65_536,
            queue_bytes: 16 << 20,
            cache_bytes: 64 << 20,
        }
    }
}

/// Sync policy of commits.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub enum SyncPolicy {
    /// Before they are acknowledged ([`Durability::Sync`](orch_core::store::Durability::Sync)). Commits that
    /// wait together share one sync.
    #[default]
    EachCommit,
    /// At most this long after they were acknowledged. Faster, for records that somebody can make again:
    /// until then a commit is in memory only, and the end of the process by anything but `close` loses it.
    /// The store is never left half written. Declared as
    /// [`Durability::Memory`](orch_core::store::Durability::Memory).
    Interval(Duration),
}
