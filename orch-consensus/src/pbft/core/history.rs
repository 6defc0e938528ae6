//! Decided batches that may still be fetched: the last snapshots, and the batches after the oldest of them.

use std::{collections::VecDeque, sync::Arc};

use bytes::Bytes;

use super::{
    batch::Batch,
    ids::{Digest, Seq},
    message::{Fetch, SnapshotRef, Supply},
};

/// Bytes of a snapshot in one message.
pub(super) const CHUNK_BYTES: usize = 256 << 10;

/// The last two snapshots are kept, so that a newer one does not take an older one away from who is fetching
/// it.
const SNAPSHOTS_KEPT: usize = 2;

/// The digests that travel in one message.
const DIGESTS_MAX: usize = 4096;

/// Snapshots and the batches since.
#[derive(Debug)]
pub(super) struct History {
    /// The sequence number before the first batch.
    after: Seq,
    batches: VecDeque<Arc<Batch>>,
    snapshots: VecDeque<Snapshot>,
    bytes_since_snapshot: usize,
}

/// A snapshot in chunks.
#[derive(Clone, Debug)]
pub(super) struct Snapshot {
    pub(super) name: SnapshotRef,
    pub(super) bytes: Bytes,
    chunks: Vec<Digest>,
}

impl Snapshot {
    pub(super) fn new(seq: Seq, bytes: Bytes) -> Self {
        let chunks: Vec<_> = bytes.chunks(CHUNK_BYTES).map(chunk_digest).collect();
        Self { name: SnapshotRef { seq, root: root(&chunks) }, bytes, chunks }
    }
}

/// The hash of a chunk of a snapshot.
pub(super) fn chunk_digest(chunk: &[u8]) -> Digest {
    Digest::of("orch pbft chunk", &[chunk])
}

/// The hash that names the snapshot with these chunks.
pub(super) fn root(chunks: &[Digest]) -> Digest {
    let bytes: Vec<u8> = chunks.iter().flat_map(|chunk| chunk.0).collect();
    Digest::of("orch pbft snapshot", &[&bytes])
}

/// The state that every replica begins with.
pub(super) const GENESIS: SnapshotRef = SnapshotRef { seq: Seq::ZERO, root: Digest([0; 32]) };

impl History {
    pub(super) fn new() -> Self {
        Self {
            after: Seq::ZERO,
            batches: VecDeque::new(),
            snapshots: VecDeque::new(),
            bytes_since_snapshot: 0,
        }
    }

    /// Name of the last snapshot.
    pub(super) fn snapshot(&self) -> SnapshotRef {
        self.snapshots.back().map_or(GENESIS, |snapshot| snapshot.name)
    }

    pub(super) fn push(&mut self, batch: Arc<Batch>) {
        self.bytes_since_snapshot += batch.size();
        self.batches.push_back(batch);
    }

    /// True when enough was decided since the last snapshot to take another. The same on every replica.
    pub(super) fn snapshot_is_due(&self, bytes_min: usize) -> bool {
        let last = self.snapshots.back().map_or(0, |snapshot| snapshot.bytes.len());
        self.bytes_since_snapshot >= last.max(bytes_min)
    }

    /// A snapshot of the state after the last batch.
    pub(super) fn add_snapshot(&mut self, snapshot: Snapshot) {
        self.snapshots.push_back(snapshot);
        self.bytes_since_snapshot = 0;
    }

    /// Begins again from a fetched snapshot, or from the one that the log begins with.
    pub(super) fn restart(&mut self, snapshot: Snapshot) {
        *self = Self { after: snapshot.name.seq, ..Self::new() };
        self.snapshots.push_back(snapshot);
    }

    /// The snapshot that the checkpoint refers to is agreed on: forgets what is older than the one before it.
    pub(super) fn prune(&mut self, name: SnapshotRef) {
        let older = self.snapshots.iter().filter(|snapshot| snapshot.name.seq <= name.seq).count();
        for _ in SNAPSHOTS_KEPT..older {
            self.snapshots.pop_front();
        }
        if older >= SNAPSHOTS_KEPT
            && let Some(oldest) = self.snapshots.front()
        {
            let gone = oldest.name.seq.0.saturating_sub(self.after.0);
            self.batches.drain(..usize::try_from(gone).unwrap_or(usize::MAX).min(self.batches.len()));
            self.after = self.after.max(oldest.name.seq);
        }
    }

    /// The snapshot of this name, if it is still here.
    pub(super) fn find(&self, name: SnapshotRef) -> Option<&Snapshot> {
        self.snapshots.iter().find(|snapshot| snapshot.name == name)
    }

    /// The batches after `after`, with their sequence numbers.
    pub(super) fn since(&self, after: Seq) -> impl Iterator<Item = (Seq, &Arc<Batch>)> {
        let skip = usize::try_from(after.0.saturating_sub(self.after.0)).unwrap_or(usize::MAX);
        (self.after.0 + 1..).map(Seq).zip(&self.batches).skip(skip)
    }

    pub(super) fn batch(&self, seq: Seq) -> Option<&Arc<Batch>> {
        self.batches.get(usize::try_from(seq.0.checked_sub(self.after.0 + 1)?).ok()?)
    }

    /// Answers a fetch.
    pub(super) fn supply(&self, fetch: Fetch) -> Supply {
        self.find_supply(fetch).unwrap_or(Supply::Unavailable(fetch))
    }

    fn find_supply(&self, fetch: Fetch) -> Option<Supply> {
        match fetch {
            Fetch::Manifest(name) => Some(Supply::Manifest(name, self.find(name)?.chunks.clone())),
            Fetch::Chunk(name, index) => {
                let bytes = &self.find(name)?.bytes;
                let from = (index as usize).checked_mul(CHUNK_BYTES).filter(|from| *from < bytes.len())?;
                let chunk = bytes.slice(from..bytes.len().min(from + CHUNK_BYTES));
                Some(Supply::Chunk(name, index, chunk))
            }
            Fetch::Digests(after, to) => {
                if after < self.after || to <= after {
                    return None;
                }
                let wanted = usize::try_from(to.0 - after.0).unwrap_or(DIGESTS_MAX).min(DIGESTS_MAX);
                let digests: Vec<_> =
                    self.since(after).take(wanted).map(|(_, batch)| batch.digest()).collect();
                (!digests.is_empty()).then_some(Supply::Digests(after, digests))
            }
            Fetch::Batch(seq, digest) => {
                let batch = self.batch(seq).filter(|batch| batch.digest() == digest)?;
                Some(Supply::Batch(seq, batch.clone()))
            }
            // Not a matter of batches.
            Fetch::Members(_) => None,
        }
    }
}
