//! The newest revisions of a log that several processes append to, for watches.

use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use async_trait::async_trait;
use orch_core::store::{History, HistoryBounds, HistorySource, Position, StoreError, Watch, WatchBatch};
use parking_lot::Mutex;
use tokio::{sync::Notify, task::JoinHandle};

use crate::log_start;

/// Revisions that are read at once.
const CHUNK: usize = 256;

/// A log on a server.
#[async_trait]
pub(crate) trait SharedLog: Send + Sync + 'static {
    /// The revisions after `after`, each of them, at most `limit`, at least one if there is one. None when
    /// `after` is before the chunk's `oldest`, when it is no position of the log, or when the revision that
    /// follows is lost. All of one moment.
    async fn read(&self, after: Position, limit: usize) -> Result<LogChunk, StoreError>;
}

/// A part of a log.
pub(crate) struct LogChunk {
    /// The earliest start of a watch.
    pub(crate) oldest: Position,
    /// The newest position.
    pub(crate) head: Position,
    /// The commit that the log has at the revision after which it was read; `None` where it has none.
    pub(crate) start: Option<Position>,
    /// One after the other, those without changes too.
    pub(crate) batches: Vec<WatchBatch>,
}

impl LogChunk {
    /// Refuses what was not read from `after` on.
    fn check(&self, after: Position) -> Result<(), StoreError> {
        log_start::check(after, self.start, self.oldest, self.head)
    }
}

/// Reads a part of a log that makes progress: one that lacks the revision after `after`, because somebody
/// deleted it on the server, keeps nothing before its newest revision.
async fn read(log: &dyn SharedLog, after: Position, limit: usize) -> Result<LogChunk, StoreError> {
    let chunk = log.read(after, limit).await?;
    let next = after.revision.next();
    let follows = chunk.batches.first().is_some_and(|batch| batch.position.revision == next);
    if follows || chunk.check(after).is_err() || chunk.head.revision <= after.revision {
        return Ok(chunk);
    }
    tracing::warn!(
        revision = next.0,
        "the log has lost a revision; watches before its end have to scan again"
    );
    Ok(LogChunk { oldest: chunk.head, head: chunk.head, start: None, batches: Vec::new() })
}

/// Follows a [`SharedLog`]: reads what is new when somebody says so ([`LogFollower::wake`]), and now and then
/// without.
pub(crate) struct LogFollower {
    log: Arc<dyn SharedLog>,
    /// Replaced when the log was compacted beyond what was read of it, or has another history.
    history: Mutex<Arc<History>>,
    reading: tokio::sync::Mutex<()>,
    wake_up: Notify,
}

impl LogFollower {
    /// Begins at the end of the log.
    pub(crate) async fn start(log: Arc<dyn SharedLog>) -> Result<Self, StoreError> {
        let LogChunk { oldest, head, .. } = log.read(Position::ZERO, 1).await?;
        let history = Mutex::new(Arc::new(History::new(oldest, head, HistoryBounds::default())));
        Ok(Self { log, history, reading: tokio::sync::Mutex::default(), wake_up: Notify::new() })
    }

    /// Follows the log until dropped. Polls every `interval` at the latest, so that a lost wake-up costs
    /// time and nothing else.
    pub(crate) async fn run(&self, interval: Duration) {
        loop {
            let _ = tokio::time::timeout(interval, self.wake_up.notified()).await;
            // Each watch holds the history. With none there is nobody to read for.
            if Arc::strong_count(&self.history.lock()) == 1 {
                continue;
            }
            if let Err(error) = self.catch_up().await {
                let cause = std::error::Error::source(&error).map(ToString::to_string);
                tracing::warn!(%error, cause, "watches wait: the log cannot be read; trying again");
            }
        }
    }

    /// There may be something new.
    pub(crate) fn wake(&self) {
        self.wake_up.notify_one();
    }

    /// Takes in what this process has committed itself, without asking the server for it again. If it does
    /// not follow directly on what is known, because somebody else has committed in between or the server has
    /// another history, the log is read. `before` is the newest position that the server had before.
    #[cfg(feature = "postgres")]
    pub(crate) fn committed(&self, before: Position, batches: Vec<WatchBatch>) {
        let Some(last) = batches.last().map(|batch| batch.position) else { return };
        if self.append(Some(before), batches) != last {
            self.wake();
        }
    }

    /// Reads everything that is there now.
    pub(crate) async fn catch_up(&self) -> Result<(), StoreError> {
        let _one_at_a_time = self.reading.lock().await;
        loop {
            let history = self.history();
            let before = history.head();
            let chunk = match read(&*self.log, before, CHUNK).await {
                Err(damage @ StoreError::Corrupt(_)) => {
                    self.begin_anew(history.oldest(), before, damage.clone());
                    return Err(damage);
                }
                chunk => chunk?,
            };
            if let Err(end) = chunk.check(before) {
                self.begin_anew(chunk.oldest, chunk.head, end);
                return Ok(());
            }
            let reached = self.append(None, chunk.batches);
            history.forget(chunk.oldest);
            if reached.revision >= chunk.head.revision {
                return Ok(());
            }
        }
    }

    /// A watch as `StateStore::watch` promises it.
    pub(crate) async fn watch(&self, prefix: &str, from: Position) -> Result<Watch, StoreError> {
        self.catch_up().await?;
        let past: Arc<dyn HistorySource> = Arc::new(Past(Arc::clone(&self.log)));
        let history = self.history();
        if history.at(from.revision).is_none() {
            // Only the server knows whether that is in its history.
            read(&*self.log, from, 1).await?.check(from)?;
        }
        let watch = history.watch(Some(past), prefix, from);
        // What came since the log was read may have been overlooked while nobody watched.
        self.wake();
        watch
    }

    /// Ends every watch.
    pub(crate) fn close(&self) {
        self.history().close();
    }

    /// Adds those that are next to what is known: others are known already, or come too early. Adds none
    /// where something else than `before` is known. Returns the newest position then.
    fn append(&self, before: Option<Position>, batches: Vec<WatchBatch>) -> Position {
        // Held to the end: whoever reads the log and whoever commits may come at once.
        let history = self.history.lock();
        let known = history.head();
        if before.is_some_and(|before| before != known) {
            return known;
        }
        let mut next = history.head().revision.next();
        history.extend(batches.into_iter().filter_map(|WatchBatch { position, writes }| {
            (position.revision == next).then(|| {
                next = next.next();
                (position.incarnation, writes)
            })
        }))
    }

    fn history(&self) -> Arc<History> {
        Arc::clone(&self.history.lock())
    }

    /// Ends every watch with `end`.
    fn begin_anew(&self, oldest: Position, head: Position, end: StoreError) {
        let fresh = Arc::new(History::new(oldest, head, HistoryBounds::default()));
        let old = std::mem::replace(&mut *self.history.lock(), fresh);
        old.fail(end);
    }
}

/// Watches of an open store: its [`LogFollower`], and the task that follows the log and listens for wake-ups.
/// Dropping it ends both.
pub(crate) struct Watches {
    follower: Arc<LogFollower>,
    listening: JoinHandle<()>,
    closed: AtomicBool,
}

impl Watches {
    /// Runs `listen` in the background, which runs the follower as well.
    pub(crate) fn start(
        follower: Arc<LogFollower>,
        listen: impl Future<Output = ()> + Send + 'static,
    ) -> Self {
        Self { follower, listening: tokio::spawn(listen), closed: AtomicBool::new(false) }
    }

    /// [`StoreError::Closed`] once [`Watches::refuse_calls`] was called.
    pub(crate) fn check_open(&self) -> Result<(), StoreError> {
        if self.closed.load(Ordering::Acquire) { Err(StoreError::Closed) } else { Ok(()) }
    }

    /// The store closes: watches go on until [`Watches::end`].
    pub(crate) fn refuse_calls(&self) {
        self.closed.store(true, Ordering::Release);
    }

    /// Ends every watch.
    pub(crate) fn end(&self) {
        self.listening.abort();
        self.follower.close();
    }

    /// There may be something new.
    #[cfg(feature = "redis")]
    pub(crate) fn wake(&self) {
        self.follower.wake();
    }

    /// A watch as `StateStore::watch` promises it.
    pub(crate) async fn watch(&self, prefix: &str, from: Position) -> Result<Watch, StoreError> {
        self.check_open()?;
        self.follower.watch(prefix, from).await
    }

    /// Reads everything that is there now.
    pub(crate) async fn catch_up(&self) -> Result<(), StoreError> {
        self.follower.catch_up().await
    }
}

impl Drop for Watches {
    fn drop(&mut self) {
        self.end();
    }
}

/// Revisions that are not in memory any more.
struct Past(Arc<dyn SharedLog>);

#[async_trait]
impl HistorySource for Past {
    async fn read_revisions(&self, after: Position, limit: usize) -> Result<Vec<WatchBatch>, StoreError> {
        let chunk = read(&*self.0, after, limit).await?;
        chunk.check(after)?;
        Ok(chunk.batches)
    }
}

#[cfg(all(test, feature = "postgres"))]
mod tests {
    use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

    use futures_util::StreamExt as _;
    use orch_core::store::{Incarnation, Key, Revision, Write};

    use super::*;

    fn at(revision: u64) -> Position {
        Position::new(Revision(revision), Incarnation(if revision == 0 { 0 } else { 7 }))
    }

    fn batch(revision: u64) -> WatchBatch {
        let write = Write::put(Key::new("a").expect("a valid key"), revision.to_string());
        WatchBatch { position: at(revision), writes: vec![write] }
    }

    /// A log with so many revisions.
    #[derive(Default)]
    struct Server {
        head: AtomicUsize,
        reads: AtomicUsize,
        /// All its revisions are of another history.
        replaced: AtomicBool,
        /// Revision that the log has lost; none is 0.
        lost: AtomicUsize,
    }

    #[async_trait]
    impl SharedLog for Server {
        async fn read(&self, after: Position, limit: usize) -> Result<LogChunk, StoreError> {
            self.reads.fetch_add(1, Ordering::Relaxed);
            let replaced = self.replaced.load(Ordering::Relaxed);
            let of_log = |revision| match replaced && revision > 0 {
                true => Position { incarnation: Incarnation(8), ..at(revision) },
                false => at(revision),
            };
            let head = self.head.load(Ordering::Relaxed) as u64;
            let lost = self.lost.load(Ordering::Relaxed) as u64;
            let start = (after.revision.0 <= head).then(|| of_log(after.revision.0));
            let batches = (after.revision.0 + 1..=head)
                .take_while(|revision| *revision != lost)
                .take(limit)
                .map(|revision| WatchBatch { position: of_log(revision), ..batch(revision) });
            let batches = if start == Some(after) { batches.collect() } else { Vec::new() };
            Ok(LogChunk { oldest: Position::ZERO, head: of_log(head), start, batches })
        }
    }

    /// A follower and a watch of everything.
    async fn follow(server: &Arc<Server>) -> (LogFollower, Watch) {
        let follower = LogFollower::start(Arc::clone(server) as _).await.expect("the log can be read");
        let watch = follower.watch("", Position::ZERO).await.expect("nothing is compacted");
        server.reads.store(0, Ordering::Relaxed);
        (follower, watch)
    }

    #[tokio::test]
    async fn what_follows_on_what_is_known_is_not_asked_for() {
        let server = Arc::new(Server::default());
        let (follower, watch) = follow(&server).await;
        follower.committed(at(0), vec![batch(1), batch(2)]);
        follower.committed(at(2), vec![batch(3)]);
        let seen: Vec<_> = watch.take(3).map(Result::unwrap).collect().await;
        assert_eq!(seen, [batch(1), batch(2), batch(3)]);
        assert_eq!(server.reads.load(Ordering::Relaxed), 0);
    }

    #[tokio::test]
    async fn a_gap_is_read_from_the_log_before_what_comes_after_it_is_shown() {
        let server = Arc::new(Server::default());
        let (follower, watch) = follow(&server).await;
        server.head.store(3, Ordering::Relaxed);
        // Somebody else committed the second.
        follower.committed(at(0), vec![batch(1)]);
        follower.committed(at(2), vec![batch(3)]);
        let follows = follower.run(Duration::from_secs(600));
        let seen = watch.take(3).map(Result::unwrap).collect::<Vec<_>>();
        let seen =
            tokio::select! { seen = seen => seen, () = follows => unreachable!("it follows for ever") };
        assert_eq!(seen, [batch(1), batch(2), batch(3)]);
    }

    #[tokio::test]
    async fn what_was_read_already_is_not_shown_twice() {
        let server = Arc::new(Server::default());
        let (follower, watch) = follow(&server).await;
        server.head.store(2, Ordering::Relaxed);
        follower.catch_up().await.unwrap();
        follower.committed(at(0), vec![batch(1), batch(2)]);
        follower.committed(at(2), vec![batch(3)]);
        let seen: Vec<_> = watch.take(3).map(Result::unwrap).collect().await;
        assert_eq!(seen, [batch(1), batch(2), batch(3)]);
    }

    #[tokio::test]
    async fn a_commit_behind_what_is_known_shows_that_the_server_went_back() {
        let server = Arc::new(Server::default());
        let (follower, watch) = follow(&server).await;
        follower.committed(at(0), vec![batch(1), batch(2)]);
        // Restored to its beginning, where this is the first commit again.
        server.head.store(1, Ordering::Relaxed);
        follower.committed(at(0), vec![batch(1)]);
        let follows = follower.run(Duration::from_secs(600));
        let seen = watch.collect::<Vec<_>>();
        let seen =
            tokio::select! { seen = seen => seen, () = follows => unreachable!("it follows for ever") };
        assert!(matches!(seen.last(), Some(Err(StoreError::Diverged { .. }))), "{seen:?}");
    }

    #[tokio::test]
    async fn a_log_that_went_on_from_an_older_state_is_noticed_behind_and_beyond_what_is_known() {
        for head in [2, 5] {
            let server = Arc::new(Server::default());
            let (follower, watch) = follow(&server).await;
            server.head.store(3, Ordering::Relaxed);
            follower.catch_up().await.unwrap();
            server.head.store(head, Ordering::Relaxed);
            server.replaced.store(true, Ordering::Relaxed);
            follower.catch_up().await.unwrap();
            let seen: Vec<_> = watch.collect().await;
            assert!(seen[..3].iter().all(Result::is_ok), "what was known before is delivered: {seen:?}");
            let Some(Err(StoreError::Diverged { expected, .. })) = seen.get(3) else { panic!("{seen:?}") };
            assert_eq!(*expected, at(3));
            let again = follower.watch("", at(3)).await.map(drop);
            assert!(matches!(again, Err(StoreError::Diverged { .. })), "{again:?}");
        }
    }

    #[tokio::test]
    async fn a_lost_revision_ends_watches_before_it_and_later_ones_go_on() {
        let server = Arc::new(Server::default());
        let (follower, watch) = follow(&server).await;
        server.head.store(3, Ordering::Relaxed);
        server.lost.store(2, Ordering::Relaxed);
        follower.catch_up().await.unwrap();
        let seen = watch.collect::<Vec<_>>().await;
        assert_eq!(seen[0].as_ref().unwrap(), &batch(1));
        let compacted = |end| matches!(end, Some(StoreError::Compacted { oldest }) if oldest == at(3));
        assert!(compacted(seen.into_iter().nth(1).and_then(Result::err)));
        let watch = follower.watch("", at(3)).await.unwrap();
        follower.committed(at(3), vec![batch(4)]);
        assert_eq!(watch.take(1).map(Result::unwrap).collect::<Vec<_>>().await, [batch(4)]);

        // A process that starts now has nothing of it in memory.
        let follower = LogFollower::start(Arc::clone(&server) as _).await.unwrap();
        assert!(compacted(follower.watch("", at(1)).await.err()));
        assert!(server.reads.load(Ordering::Relaxed) < 10, "a log that makes no progress is left alone");
    }
}
