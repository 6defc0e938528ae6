//! Records in one file of this machine: for a single manager, or as the disk below a consensus.
//!
//! Acknowledged commits survive a power cut. A commit that fails on the disk is reported with
//! [`StoreError::outcome_unknown`], and the store stops there: every further call fails with that error, and
//! opening it again shows what is on the disk. Nothing that was acknowledged before is lost by that.

mod codec;
mod compact;
mod config;
mod core;
#[cfg(test)]
mod tests;
mod writer;

use std::{
    num::NonZeroUsize,
    path::Path,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
        mpsc,
    },
};

use async_trait::async_trait;
use orch_core::store::{
    CommitError, Durability, Entry, History, HistoryBounds, HistorySource, Key, Page, Revision, StateStore,
    StoreCapabilities, StoreError, Txn, Watch, WatchBatch,
};
use redb::Database;
use tokio::sync::{Semaphore, oneshot};

pub use self::config::{RedbStoreConfig, SyncPolicy};
use self::{
    core::Core,
    writer::{Job, Writer},
};
use crate::{
    completion::completion,
    file::{
        blocking, bytes_of,
        error::{self, Cause},
        guarded, prepare_dir, queue_permits, sync_dir,
    },
};

/// The file in the store's directory.
const FILE: &str = "state.redb";

/// Part of the log in memory, for live watches.
const HISTORY: HistoryBounds =
    HistoryBounds { revisions: const { NonZeroUsize::new(4096).expect("not zero") }, bytes: 32 << 20 };

/// A durable [`StateStore`] in one file, for one process. Dropping it finishes what was accepted in the
/// background; [`StateStore::close`] waits for that.
#[derive(Debug)]
pub struct RedbStore {
    core: Arc<Core>,
    history: Arc<History>,
    jobs: mpsc::Sender<Job>,
    permits: Arc<Semaphore>,
    closed: AtomicBool,
    config: RedbStoreConfig,
}

impl RedbStore {
    /// Opens the store in the configured directory, making what is missing. After a crash this checks the
    /// whole file. A file of 64 MiB or more of which less than a quarter is used is made smaller.
    ///
    /// # Errors
    /// [`StoreError::Locked`] when another process has it, [`StoreError::Corrupt`] when the file cannot be
    /// understood (or comes from a newer version), [`StoreError::Backend`] when the directory cannot be used.
    /// The file is left as it is then.
    pub async fn open(config: RedbStoreConfig) -> Result<Self, StoreError> {
        blocking(move || {
            let path = config.dir.join(FILE);
            let new = prepare_dir(&config.dir, &path).map_err(|error| error::opening(&path, error))?;
            let open =
                || guarded(&path, || redb::Builder::new().set_cache_size(config.cache_bytes).create(&path));
            let mut database = open()?;
            if let Err(error) = compact::shrink(&path, &mut database) {
                tracing::warn!(path = %path.display(), %error, "the file keeps more space than it needs");
                // What failed once is not used again.
                drop(database);
                database = open()?;
            }
            if new {
                // Without this a power cut may take the file's name, and with it all that was synced into it.
                sync_dir(&config.dir).map_err(|error| error::opening(&path, error))?;
            }
            Self::start(config, &path, database)
        })
        .await
    }

    fn start(config: RedbStoreConfig, path: &Path, database: Database) -> Result<Self, StoreError> {
        let (core, bounds) = Core::new(path, database)?;
        let core = Arc::new(core);
        let history = Arc::new(History::new(bounds.oldest, bounds.head, HISTORY));
        let (jobs, queue) = mpsc::channel();
        let writer = Writer {
            core: Arc::clone(&core),
            history: Arc::clone(&history),
            jobs: queue,
            bounds,
            keep: config.history_revisions,
            last: Default::default(),
            sync: config.sync,
            sync_due: None,
        };
        std::thread::Builder::new()
            .name("orch-store-writer".into())
            .spawn(move || writer.run())
            .map_err(|error| error::opening(path, error))?;
        let permits = Arc::new(Semaphore::new(queue_permits(config.queue_bytes)));
        Ok(Self { core, history, jobs, permits, closed: AtomicBool::new(false), config })
    }

    /// Runs `read` where it may block.
    async fn read<T: Send + 'static>(
        &self,
        read: impl FnOnce(&Core) -> Result<T, StoreError> + Send + 'static,
    ) -> Result<T, StoreError> {
        self.check_open()?;
        let core = Arc::clone(&self.core);
        blocking(move || read(&core)).await
    }

    fn check_open(&self) -> Result<(), StoreError> {
        if self.closed.load(Ordering::Acquire) { Err(StoreError::Closed) } else { Ok(()) }
    }

    /// Error when the writer has ended: it was closed before, or it failed.
    fn writer_ended(&self, outcome_unknown: bool) -> StoreError {
        match (self.check_open(), self.core.file.closed_error()) {
            (Err(closed), _) => closed,
            (Ok(()), StoreError::Closed) => error::backend(
                "working",
                outcome_unknown,
                Cause::Writer { path: self.core.file.path().into() },
            ),
            (Ok(()), failure) => failure,
        }
    }
}

#[async_trait]
impl StateStore for RedbStore {
    fn capabilities(&self) -> StoreCapabilities {
        StoreCapabilities {
            name: error::NAME,
            compare_and_swap: true,
            shared: false,
            durability: match self.config.sync {
                SyncPolicy::EachCommit => Durability::Sync,
                SyncPolicy::Interval(_) => Durability::Memory,
            },
            max_value_bytes: self.config.max_value_bytes,
            max_txn_writes: self.config.max_txn_writes,
        }
    }

    async fn get(&self, key: &Key) -> Result<Option<Entry>, StoreError> {
        let key = key.clone();
        self.read(move |core| core.get(&key)).await
    }

    async fn scan(&self, prefix: &str, after: Option<&Key>, limit: usize) -> Result<Page, StoreError> {
        let (prefix, after) = (prefix.to_owned(), after.cloned());
        self.read(move |core| core.scan(&prefix, after.as_ref(), limit)).await
    }

    async fn commit(&self, txn: Txn) -> Result<Revision, CommitError> {
        txn.check(&self.capabilities())?;
        self.check_open()?;
        let units = queue_permits(bytes_of(&txn)).min(queue_permits(self.config.queue_bytes));
        let units = u32::try_from(units).unwrap_or(u32::MAX);
        let permits =
            Arc::clone(&self.permits).acquire_many_owned(units).await.map_err(|_| StoreError::Closed)?;
        let (sender, receiver) = completion();
        self.jobs.send(Job::Commit { txn, sender, permits }).map_err(|_| self.writer_ended(false))?;
        receiver.await.unwrap_or_else(|| Err(self.writer_ended(true).into()))
    }

    async fn watch(&self, prefix: &str, from: Revision) -> Result<Watch, StoreError> {
        self.check_open()?;
        self.history.watch(Some(Arc::new(Disk(Arc::clone(&self.core)))), prefix, from)
    }

    async fn revision(&self) -> Result<Revision, StoreError> {
        self.check_open()?;
        Ok(self.history.head())
    }

    async fn compact(&self, before: Revision) -> Result<(), StoreError> {
        self.check_open()?;
        let (sender, receiver) = oneshot::channel();
        self.jobs.send(Job::Compact { before, sender }).map_err(|_| self.writer_ended(false))?;
        receiver.await.unwrap_or_else(|_| Err(self.writer_ended(true)))
    }

    async fn close(&self) -> Result<(), StoreError> {
        self.closed.store(true, Ordering::Release);
        let (sender, receiver) = oneshot::channel();
        // Whoever closed before, or a failure, left nothing to do.
        match self.jobs.send(Job::Close { sender }) {
            Ok(()) => receiver.await.unwrap_or(Ok(())),
            Err(_) => Ok(()),
        }
    }
}

/// The log on disk, for watches that begin in the past or fell behind.
struct Disk(Arc<Core>);

#[async_trait]
impl HistorySource for Disk {
    async fn read_revisions(&self, after: Revision, limit: usize) -> Result<Vec<WatchBatch>, StoreError> {
        let core = Arc::clone(&self.0);
        blocking(move || core.read_revisions(after, limit)).await
    }
}
