//! The newest revisions in memory, and the watches that read them. For backends.

use std::{collections::VecDeque, fmt, num::NonZeroUsize, sync::Arc};

use async_trait::async_trait;
use futures_util::{StreamExt, stream};
use parking_lot::{Mutex, MutexGuard};
use tokio::sync::watch;

use super::{Incarnation, Position, Revision, StoreError, Watch, WatchBatch, Write};

/// Revisions that a watch looks at before it lets others go on.
const CHUNK: usize = 256;

/// A bounded log of the newest revisions. A watch is no queue but a position in this log: a slow one costs
/// nothing, falls back to the [`HistorySource`] of the backend when the log has moved past it, and ends with
/// [`StoreError::Compacted`] when that has no answer either.
///
/// Revisions MUST be appended in order and without gaps. Each has the incarnation that it was committed with,
/// so that a watch from a position of another history is [`StoreError::Diverged`].
pub struct History {
    log: Mutex<Log>,
    progress: watch::Sender<Progress>,
    bounds: HistoryBounds,
}

/// Bounds of a [`History`] in memory: it keeps the newest revision, and more while both bounds allow it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct HistoryBounds {
    /// The most revisions.
    pub revisions: NonZeroUsize,
    /// The most bytes of keys and values.
    pub bytes: usize,
}

impl Default for HistoryBounds {
    /// 4,096 revisions and 32 MiB: enough for live watches of stores that keep older revisions elsewhere.
    fn default() -> Self {
        Self { revisions: const { NonZeroUsize::new(4096).expect("not zero") }, bytes: 32 << 20 }
    }
}

/// Reads revisions that [`History`] no longer has, from a disk, say.
#[async_trait]
pub trait HistorySource: Send + Sync + 'static {
    /// All changes of the revisions after `after`, in order, at most `limit` revisions, at least one. Each
    /// with all its writes, whatever their keys.
    ///
    /// # Errors
    /// [`StoreError::Compacted`] when they are kept no longer; [`StoreError::Diverged`] when `after` is not a
    /// position of this history.
    async fn read_revisions(&self, after: Position, limit: usize) -> Result<Vec<WatchBatch>, StoreError>;
}

#[derive(Clone, Debug)]
struct Log {
    /// The revisions after `start`, up to `head`.
    batches: VecDeque<(Incarnation, Arc<[Write]>)>,
    /// Their keys and values together.
    bytes: usize,
    /// Everything after this position is in memory.
    start: Position,
    /// The newest position.
    head: Position,
    /// The earliest start of a watch. Never later than `head`.
    oldest: Position,
}

#[derive(Clone, Debug)]
struct Progress {
    head: Position,
    end: Option<End>,
}

#[derive(Clone, Debug)]
enum End {
    Closed,
    Failed(StoreError),
}

impl History {
    /// A log that goes on after `head`, from which a watch may start at `oldest` or later, within
    /// `bounds`.
    #[must_use]
    pub fn new(oldest: Position, head: Position, bounds: HistoryBounds) -> Self {
        let oldest = if oldest.revision < head.revision { oldest } else { head };
        let log = Log { batches: VecDeque::new(), bytes: 0, start: head, head, oldest };
        Self { log: Mutex::new(log), progress: watch::Sender::new(Progress { head, end: None }), bounds }
    }

    /// A history of its own that goes on from the same log.
    #[must_use]
    pub(super) fn fork(&self) -> Self {
        let log = self.log().clone();
        let progress = Progress { head: log.head, end: None };
        Self { log: Mutex::new(log), progress: watch::Sender::new(progress), bounds: self.bounds }
    }

    /// Adds the next revision with its incarnation and its writes, in byte order of keys, and wakes the
    /// watches. Returns its position.
    pub fn append(&self, incarnation: Incarnation, writes: Vec<Write>) -> Position {
        self.extend([(incarnation, writes)])
    }

    /// Adds the next revisions, each as [`History::append`] does, and wakes the watches once. Returns the
    /// newest position.
    pub fn extend(&self, revisions: impl IntoIterator<Item = (Incarnation, Vec<Write>)>) -> Position {
        let head = {
            let mut log = self.log();
            for (incarnation, writes) in revisions {
                log.push(incarnation, writes, self.bounds);
            }
            log.head
        };
        self.progress.send_if_modified(|progress| std::mem::replace(&mut progress.head, head) != head);
        head
    }

    /// Moves the earliest start of a watch forward to `oldest`, at most to the newest position. Never moves
    /// it back.
    pub fn forget(&self, oldest: Position) {
        let mut log = self.log();
        if oldest.revision <= log.oldest.revision {
            return;
        }
        log.oldest = if oldest.revision < log.head.revision { oldest } else { log.head };
        while log.start.revision < log.oldest.revision {
            log.drop_oldest();
        }
    }

    /// The newest position.
    #[must_use]
    pub fn head(&self) -> Position {
        self.log().head
    }

    /// The earliest position from which a watch may start.
    #[must_use]
    pub fn oldest(&self) -> Position {
        self.log().oldest
    }

    /// The position with this revision, where it is known in memory.
    #[must_use]
    pub fn at(&self, revision: Revision) -> Option<Position> {
        self.log().at(revision)
    }

    /// The position of the commit with this incarnation.
    ///
    /// # Errors
    /// [`StoreError::Compacted`] when it is not in memory, and not all after `since` are.
    pub fn find(&self, incarnation: Incarnation, since: Revision) -> Result<Option<Position>, StoreError> {
        let log = self.log();
        let start = log.oldest(false);
        match log.positions().find(|position| position.incarnation == incarnation) {
            None if since < start.revision => Err(StoreError::Compacted { oldest: start }),
            found => Ok(found),
        }
    }

    /// Ends every watch once it has delivered what is in memory of what happened.
    pub fn close(&self) {
        self.end(End::Closed);
    }

    /// Ends every watch with `error` once it has delivered what is in memory of what happened.
    pub fn fail(&self, error: StoreError) {
        self.end(End::Failed(error));
    }

    /// A watch as [`StateStore::watch`](super::StateStore::watch) promises it. Without a `source`, what is no
    /// longer in memory is compacted.
    ///
    /// # Errors
    /// [`StoreError::Compacted`] when `from` is too early, [`StoreError::Diverged`] when it is of another
    /// history. What only the source knows ends the watch with its first item.
    pub fn watch(
        self: &Arc<Self>,
        source: Option<Arc<dyn HistorySource>>,
        prefix: &str,
        from: Position,
    ) -> Result<Watch, StoreError> {
        self.log().check(from, source.is_some())?;
        let watcher = Watcher {
            progress: self.progress.subscribe(),
            history: Arc::clone(self),
            source,
            prefix: prefix.into(),
            after: from,
            ready: VecDeque::new(),
        };
        let watch = stream::unfold(Some(watcher), |watcher| async {
            let mut watcher = watcher?;
            match watcher.next().await {
                Ok(Some(batch)) => Some((Ok(batch), Some(watcher))),
                Ok(None) => None,
                Err(error) => Some((Err(error), None)),
            }
        });
        Ok(watch.boxed())
    }

    fn end(&self, end: End) {
        self.progress.send_modify(|progress| {
            progress.end.get_or_insert(end);
        });
    }

    fn log(&self) -> MutexGuard<'_, Log> {
        self.log.lock()
    }
}

impl fmt::Debug for History {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let log = self.log();
        f.debug_struct("History")
            .field("oldest", &log.oldest)
            .field("head", &log.head)
            .finish_non_exhaustive()
    }
}

impl Log {
    fn oldest(&self, with_source: bool) -> Position {
        let in_memory = self.start.revision <= self.oldest.revision;
        if with_source || in_memory { self.oldest } else { self.start }
    }

    /// The position with this revision, where it is known.
    fn at(&self, revision: Revision) -> Option<Position> {
        for known in [self.oldest, self.start] {
            if known.revision == revision {
                return Some(known);
            }
        }
        let index = revision.0.checked_sub(self.start.revision.0 + 1)?;
        let (incarnation, _) = self.batches.get(usize::try_from(index).ok()?)?;
        Some(Position::new(revision, *incarnation))
    }

    /// Refuses positions that no watch can start from, as far as that is known.
    fn check(&self, from: Position, with_source: bool) -> Result<(), StoreError> {
        let oldest = self.oldest(with_source);
        if from.revision < oldest.revision {
            return Err(StoreError::Compacted { oldest });
        }
        let known = self.at(from.revision);
        match from.revision > self.head.revision || known.is_some_and(|known| known != from) {
            true => Err(StoreError::Diverged { expected: from, head: self.head }),
            false => Ok(()),
        }
    }

    /// All positions in memory.
    fn positions(&self) -> impl Iterator<Item = Position> {
        let revisions = self.start.revision.0 + 1..;
        let incarnations = self.batches.iter().map(|(incarnation, _)| *incarnation);
        revisions.zip(incarnations).map(|(revision, known)| Position::new(Revision(revision), known))
    }

    fn push(&mut self, incarnation: Incarnation, writes: Vec<Write>, bounds: HistoryBounds) {
        self.head = Position::new(self.head.revision.next(), incarnation);
        self.bytes += bytes_of(&writes);
        self.batches.push_back((incarnation, writes.into()));
        while self.batches.len() > bounds.revisions.get()
            || self.bytes > bounds.bytes && self.batches.len() > 1
        {
            self.drop_oldest();
        }
    }

    fn drop_oldest(&mut self) {
        if let Some((incarnation, writes)) = self.batches.pop_front() {
            self.bytes -= bytes_of(&writes);
            self.start = Position::new(self.start.revision.next(), incarnation);
        }
    }

    /// At most [`CHUNK`] revisions after `after`, which is not before `start`.
    fn chunk(&self, after: Revision) -> Vec<(Position, Arc<[Write]>)> {
        let skip = usize::try_from(after.0 - self.start.revision.0).unwrap_or(usize::MAX);
        let batches = self.batches.iter().skip(skip).take(CHUNK).cloned().zip(after.0 + 1..);
        let chunk = batches.map(|((incarnation, writes), revision)| {
            (Position::new(Revision(revision), incarnation), writes)
        });
        chunk.collect()
    }
}

/// The log on the disk does not have what follows.
fn hole(after: Position) -> StoreError {
    let missing = after.revision.next();
    StoreError::Corrupt(format!(
        "revision {missing} is missing in the log of the store, which is damaged; restore the store from a backup, or scan \
         again and watch from there"
    ))
}

fn bytes_of(writes: &[Write]) -> usize {
    writes.iter().map(Write::size_bytes).sum()
}

/// One watch: where it is, and the few batches that it has read ahead (at most [`CHUNK`]).
struct Watcher {
    history: Arc<History>,
    source: Option<Arc<dyn HistorySource>>,
    progress: watch::Receiver<Progress>,
    prefix: Box<str>,
    after: Position,
    ready: VecDeque<WatchBatch>,
}

impl Watcher {
    async fn next(&mut self) -> Result<Option<WatchBatch>, StoreError> {
        loop {
            if let Some(batch) = self.ready.pop_front() {
                return Ok(Some(batch));
            }
            let Progress { head, end } = self.progress.borrow_and_update().clone();
            if self.after.revision < head.revision {
                match self.read().await {
                    // The store closed while this watch was still in the past: the rest can be watched later.
                    Err(StoreError::Closed) => return Ok(None),
                    read => read?,
                }
                // A watch of a quiet prefix may look through a long history: let others go on.
                tokio::task::yield_now().await;
                continue;
            }
            match end {
                Some(End::Closed) => return Ok(None),
                Some(End::Failed(error)) => return Err(error),
                None if self.progress.changed().await.is_err() => return Ok(None),
                None => {}
            }
        }
    }

    async fn read(&mut self) -> Result<(), StoreError> {
        let in_memory = {
            let log = self.history.log();
            log.check(self.after, self.source.is_some())?;
            (self.after.revision >= log.start.revision).then(|| log.chunk(self.after.revision))
        };
        for (position, writes) in in_memory.iter().flatten() {
            self.take(*position, writes);
        }
        if let (None, Some(source)) = (in_memory, self.source.clone()) {
            let before = self.after.revision;
            for batch in source.read_revisions(self.after, CHUNK).await? {
                if batch.position.revision != self.after.revision.next() {
                    return Err(hole(self.after));
                }
                self.take(batch.position, &batch.writes);
            }
            if self.after.revision == before {
                return Err(hole(self.after));
            }
        }
        Ok(())
    }

    fn take(&mut self, position: Position, writes: &[Write]) {
        self.after = position;
        let writes: Vec<_> =
            writes.iter().filter(|write| write.key.as_str().starts_with(&*self.prefix)).cloned().collect();
        if !writes.is_empty() {
            self.ready.push_back(WatchBatch { position, writes });
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(revision: u64) -> Position {
        Position::new(Revision(revision), Incarnation(revision))
    }

    /// A log on a disk with these revisions.
    struct Disk(&'static [u64]);

    #[async_trait]
    impl HistorySource for Disk {
        async fn read_revisions(&self, after: Position, limit: usize) -> Result<Vec<WatchBatch>, StoreError> {
            let there = self.0.iter().filter(|revision| **revision > after.revision.0).take(limit);
            Ok(there.map(|revision| WatchBatch { position: at(*revision), writes: Vec::new() }).collect())
        }
    }

    #[tokio::test]
    async fn a_hole_in_the_log_ends_a_watch_of_the_past() {
        for (there, missing) in [(&[1, 2, 4, 5][..], "revision 3"), (&[], "revision 1")] {
            let history = Arc::new(History::new(Position::ZERO, at(5), HistoryBounds::default()));
            let watch =
                history.watch(Some(Arc::new(Disk(there))), "", Position::ZERO).expect("not too early");
            let seen: Vec<_> = watch.collect().await;
            let [Err(StoreError::Corrupt(text))] = &seen[..] else { panic!("{seen:?}") };
            assert!(text.contains(missing), "{text}");
        }
    }
}
