//! The newest revisions in memory, and the watches that read them. For backends.

use std::{collections::VecDeque, fmt, num::NonZeroUsize, sync::Arc};

use async_trait::async_trait;
use futures_util::{StreamExt, stream};
use parking_lot::{Mutex, MutexGuard};
use tokio::sync::watch;

use super::{Revision, StoreError, Watch, WatchBatch, Write};

/// Revisions that a watch looks at before it lets others go on.
const CHUNK: usize = 256;

/// A bounded log of the newest revisions. A watch is no queue but a position in this log: a slow one costs
/// nothing, falls back to the [`HistorySource`] of the backend when the log has moved past it, and ends with
/// [`StoreError::Compacted`] when that has no answer either.
///
/// Revisions MUST be appended in order and without gaps.
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
    /// [`StoreError::Compacted`] when they are kept no longer.
    async fn read_revisions(&self, after: Revision, limit: usize) -> Result<Vec<WatchBatch>, StoreError>;
}

#[derive(Debug, Default)]
struct Log {
    /// The revisions `head - batches.len() + 1 ..= head`.
    batches: VecDeque<Arc<[Write]>>,
    /// Their keys and values together.
    bytes: usize,
    /// The newest revision.
    head: Revision,
    /// The earliest start of a watch. Never later than `head`.
    oldest: Revision,
}

#[derive(Clone, Debug)]
struct Progress {
    head: Revision,
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
    pub fn new(oldest: Revision, head: Revision, bounds: HistoryBounds) -> Self {
        let log = Log { head, oldest: oldest.min(head), ..Log::default() };
        Self { log: Mutex::new(log), progress: watch::Sender::new(Progress { head, end: None }), bounds }
    }

    /// Adds the next revision with its writes, in byte order of keys, and wakes the watches. Returns it.
    pub fn append(&self, writes: Vec<Write>) -> Revision {
        self.extend([writes])
    }

    /// Adds the next revisions, each as [`History::append`] does, and wakes the watches once. Returns the
    /// newest revision.
    pub fn extend(&self, revisions: impl IntoIterator<Item = Vec<Write>>) -> Revision {
        let head = {
            let mut log = self.log();
            for writes in revisions {
                log.push(writes, self.bounds);
            }
            log.head
        };
        self.progress.send_if_modified(|progress| std::mem::replace(&mut progress.head, head) != head);
        head
    }

    /// Moves the earliest start of a watch forward to `oldest`, at most to the newest revision. Never moves
    /// it back.
    pub fn forget(&self, oldest: Revision) {
        let mut log = self.log();
        log.oldest = oldest.clamp(log.oldest, log.head);
        let keep = usize::try_from(log.head.0 - log.oldest.0).unwrap_or(usize::MAX);
        while log.batches.len() > keep {
            log.drop_oldest();
        }
    }

    /// The newest revision.
    #[must_use]
    pub fn head(&self) -> Revision {
        self.log().head
    }

    /// The earliest revision from which a watch may start.
    #[must_use]
    pub fn oldest(&self) -> Revision {
        self.log().oldest
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
    /// [`StoreError::Compacted`] when `from` is too early.
    pub fn watch(
        self: &Arc<Self>,
        source: Option<Arc<dyn HistorySource>>,
        prefix: &str,
        from: Revision,
    ) -> Result<Watch, StoreError> {
        let oldest = self.log().oldest(source.is_some());
        if from < oldest {
            return Err(StoreError::Compacted { oldest });
        }
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
    fn oldest(&self, with_source: bool) -> Revision {
        if with_source { self.oldest } else { self.oldest.max(self.start()) }
    }

    /// Everything after this revision is in memory.
    fn start(&self) -> Revision {
        Revision(self.head.0 - self.batches.len() as u64)
    }

    fn push(&mut self, writes: Vec<Write>, bounds: HistoryBounds) {
        self.head = self.head.next();
        self.bytes += bytes_of(&writes);
        self.batches.push_back(writes.into());
        while self.batches.len() > bounds.revisions.get()
            || self.bytes > bounds.bytes && self.batches.len() > 1
        {
            self.drop_oldest();
        }
    }

    fn drop_oldest(&mut self) {
        self.bytes -= self.batches.pop_front().map_or(0, |writes| bytes_of(&writes));
    }

    /// At most [`CHUNK`] revisions after `after`, which is not before [`Log::start`].
    fn chunk(&self, after: Revision) -> Vec<(Revision, Arc<[Write]>)> {
        let skip = usize::try_from(after.0 - self.start().0).unwrap_or(usize::MAX);
        let batches = self.batches.iter().skip(skip).take(CHUNK).cloned();
        batches.zip(after.0 + 1..).map(|(writes, revision)| (Revision(revision), writes)).collect()
    }
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
    after: Revision,
    ready: VecDeque<WatchBatch>,
}

impl Watcher {
    async fn next(&mut self) -> Result<Option<WatchBatch>, StoreError> {
        loop {
            if let Some(batch) = self.ready.pop_front() {
                return Ok(Some(batch));
            }
            let Progress { head, end } = self.progress.borrow_and_update().clone();
            if self.after < head {
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
            let oldest = log.oldest(self.source.is_some());
            if self.after < oldest {
                return Err(StoreError::Compacted { oldest });
            }
            (self.after >= log.start()).then(|| log.chunk(self.after))
        };
        for (revision, writes) in in_memory.iter().flatten() {
            self.take(*revision, writes);
        }
        if let (None, Some(source)) = (in_memory, self.source.clone()) {
            for batch in source.read_revisions(self.after, CHUNK).await? {
                self.take(batch.revision, &batch.writes);
            }
        }
        Ok(())
    }

    fn take(&mut self, revision: Revision, writes: &[Write]) {
        self.after = revision;
        let writes: Vec<_> =
            writes.iter().filter(|write| write.key.as_str().starts_with(&*self.prefix)).cloned().collect();
        if !writes.is_empty() {
            self.ready.push_back(WatchBatch { revision, writes });
        }
    }
}
