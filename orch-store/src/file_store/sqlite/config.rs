//! Settings of the SQLite store.

use std::{
    num::{NonZeroU64, NonZeroUsize},
    path::PathBuf,
};

/// Directory and bounds of a [`SqliteStore`](super::SqliteStore).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SqliteStoreConfig {
    /// The directory that holds the store's file, `orch.sqlite`, made when it is missing. One process at a
    /// time writes to it; others may look into it.
    pub dir: PathBuf,
    /// Revisions that are kept at least for watches, in the file. Some eighth more may be there: the log is
    /// trimmed in steps.
    pub history_revisions: NonZeroU64,
    /// The largest value in bytes.
    pub max_value_bytes: usize,
    /// The most writes, and the most guards, of one transaction.
    pub max_txn_writes: usize,
    /// Bytes of transactions that wait for the disk. A `commit` beyond waits for permits. Each counts for at
    /// least 1 KiB.
    pub queue_bytes: usize,
    /// Connections for readers. One more reader waits for one of them.
    pub readers: NonZeroUsize,
}

impl SqliteStoreConfig {
    /// A store in `dir` with bounds for a cluster of some thousand nodes.
    #[must_use]
    pub fn new(dir: impl Into<PathBuf>) -> Self {
        Self {
            dir: dir.into(),
            history_revisions: const { NonZeroU64::new(65_536).expect("not zero") },
            max_value_bytes: 4 << 20,
            max_txn_writes: 65_536,
            queue_bytes: 16 << 20,
            readers: const { NonZeroUsize::new(4).expect("not zero") },
        }
    }
}
