//! The front of the file stores.

use std::{fmt, num::NonZeroU64, sync::Arc, time::Duration};

use async_trait::async_trait;
use orch_core::store::{
    CommitError, CommitId, Entry, History, HistoryBounds, HistorySource, Key, Page, Position, Revision,
    SettledIds, StateStore, StoreCapabilities, StoreError, Txn, Watch, WatchBatch,
};

use super::{
    engine::{Engine, LogBounds},
    open::blocking,
    writer::{Commit, Job, Writer},
    writer_thread::WriterThread,
};
use crate::permits::QueuePermits;

/// A durable [`StateStore`] in one file, for one process: [`RedbStore`](crate::redb::RedbStore) and
/// [`SqliteStore`](crate::sqlite::SqliteStore). Dropping it finishes what was accepted in the background;
/// [`StateStore::close`] waits for that.
pub struct FileStore<E> {
    pub(super) writer: WriterThread<E, Job>,
    history: Arc<History>,
    permits: QueuePermits,
    capabilities: StoreCapabilities,
}

/// Settings of a file store that its engine has no part in.
#[derive(Clone, Copy)]
pub(super) struct Settings {
    pub(super) capabilities: StoreCapabilities,
    pub(super) history_revisions: NonZeroU64,
    pub(super) queue_bytes: usize,
    /// Time within which a commit has to be synced; `None` for before it is acknowledged.
    pub(super) sync_interval: Option<Duration>,
}

/// Starts the writer of a file that was just opened.
pub(super) fn start<E: Engine>(
    engine: E,
    bounds: LogBounds,
    settings: Settings,
) -> Result<FileStore<E>, StoreError> {
    let engine = Arc::new(engine);
    let history = Arc::new(History::new(bounds.oldest, bounds.head, HistoryBounds::default()));
    let writer = Writer {
        engine: Arc::clone(&engine),
        history: Arc::clone(&history),
        bounds,
        keep: settings.history_revisions,
        sync_interval: settings.sync_interval,
        sync_due: None,
        window: Default::default(),
        settled: SettledIds::default(),
    };
    let name = format!("orch-store-{}", E::NAME);
    let writer = WriterThread::spawn(&name, engine, Arc::clone(&history), move |jobs| writer.run(&jobs))?;
    let permits = QueuePermits::new(settings.queue_bytes);
    Ok(FileStore { writer, history, permits, capabilities: settings.capabilities })
}

#[async_trait]
impl<E: Engine> StateStore for FileStore<E> {
    fn capabilities(&self) -> StoreCapabilities {
        self.capabilities
    }

    async fn get(&self, key: &Key) -> Result<Option<Entry>, StoreError> {
        let key = key.clone();
        self.writer.read(move |engine| engine.get(&key)).await
    }

    async fn scan(&self, prefix: &str, after: Option<&Key>, limit: usize) -> Result<Page, StoreError> {
        let (prefix, after) = (prefix.to_owned(), after.cloned());
        self.writer.read(move |engine| engine.scan(&prefix, after.as_ref(), limit)).await
    }

    async fn commit(&self, txn: Txn) -> Result<Position, CommitError> {
        txn.check(&self.capabilities)?;
        self.writer.check_open()?;
        let permits = self.permits.acquire(txn.size_bytes()).await?;
        self.writer.commit(|sender| Job::Commit(Commit { txn, sender, _permits: permits })).await
    }

    async fn watch(&self, prefix: &str, from: Position) -> Result<Watch, StoreError> {
        self.writer.check_open()?;
        let log = Arc::new(LogOnDisk(Arc::clone(self.writer.file())));
        self.history.watch(Some(log), prefix, from)
    }

    async fn head(&self) -> Result<Position, StoreError> {
        self.writer.check_open()?;
        Ok(self.history.head())
    }

    async fn outcome(&self, id: CommitId, since: Revision) -> Result<Option<Position>, StoreError> {
        self.writer.call(false, |sender| Job::Outcome { id, since, sender }).await?
    }

    async fn compact(&self, before: Revision) -> Result<(), StoreError> {
        self.writer.call(true, |sender| Job::Compact { before, sender }).await?
    }

    async fn close(&self) -> Result<(), StoreError> {
        self.writer.close(|sender| Job::Close { sender }).await.unwrap_or(Ok(()))
    }
}

impl<E: Engine> fmt::Debug for FileStore<E> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let status = self.writer.file().status();
        f.debug_struct("FileStore")
            .field("store", &E::NAME)
            .field("path", &status.path())
            .finish_non_exhaustive()
    }
}

/// The log in the file, for watches that begin in the past or fell behind.
struct LogOnDisk<E>(Arc<E>);

#[async_trait]
impl<E: Engine> HistorySource for LogOnDisk<E> {
    async fn read_revisions(&self, after: Position, limit: usize) -> Result<Vec<WatchBatch>, StoreError> {
        let engine = Arc::clone(&self.0);
        blocking(move || engine.read_log(after, limit)).await
    }
}
