//! Settings of the store.

use std::{num::NonZeroU64, path::PathBuf, time::Duration};

use crate::crdt::replica::ReplicaConfig;

/// Directory, group and bounds of a [`CrdtStore`](super::CrdtStore).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CrdtStoreConfig {
    /// The directory that holds the store's file, made when it is missing. One process at a time has it.
    pub dir: PathBuf,
    /// The group, and how replicas treat each other.
    pub replica: ReplicaConfig,
    /// Interval between digests to the other members. Each is up to a quarter longer or shorter, so that not
    /// all speak at once.
    pub digest_interval: Duration,
    /// The most revisions that are kept for watches, on disk. What they wrote is not collected meanwhile,
    /// though it be overwritten.
    pub history_revisions: NonZeroU64,
    /// The most bytes that those revisions wrote; the last group of them is always there.
    pub history_bytes: u64,
    /// Bytes of transactions that wait for the disk; a `commit` beyond waits for permits. So much again of
    /// messages that wait to be taken in, and so much of those that wait to be sent, where what does not fit
    /// is lost, as in a network. Each counts for at least 1 KiB.
    pub queue_bytes: usize,
    /// The most messages that wait to be sent.
    pub queue_messages: usize,
    /// Memory for pages of the file, in bytes.
    pub cache_bytes: usize,
}

impl CrdtStoreConfig {
    /// A store in `dir` with bounds for a group of some hundred members.
    #[must_use]
    pub fn new(dir: impl Into<PathBuf>, replica: ReplicaConfig) -> Self {
        Self {
            dir: dir.into(),
            replica,
            digest_interval: Duration::from_secs(1),
            history_revisions: const { NonZeroU64::new(65_536).expect("not zero") },
            history_bytes: 4 << 20,
            queue_bytes: 16 << 20,
            queue_messages: 1024,
            cache_bytes: 64 << 20,
        }
    }
}
