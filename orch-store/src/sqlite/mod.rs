//! Records in one file of this machine that people can look into: `sqlite3 orch.sqlite 'select * from
//! readable'`, also while the store is open. Looking is free; changing records by hand goes past the
//! revisions and the log, so that no watch would show it.
//!
//! | table | holds |
//! |---|---|
//! | `records` | key, value, and the revision that wrote it |
//! | `log` | what each of the newest revisions changed, for watches |
//! | `meta` | the newest revision, and where the log begins |
//! | `readable` | a view of the records as text |
//!
//! The file is in WAL mode and synced before each acknowledgement (`synchronous=FULL`), so that acknowledged
//! commits survive a power cut. Commits that wait together share one sync. One process at a time writes: it
//! holds a lock on `orch.lock` beside the file, and a second one is answered [`StoreError::Locked`]. The
//! directory has to be on a disk of this machine.
//!
//! A commit that fails on the disk is reported with [`StoreError::outcome_unknown`], and the store stops
//! there: it answers every further call with the failure, and opening it again shows what is on the disk.

mod config;
mod core;
mod error;
#[cfg(test)]
mod tests;
mod writer;

use std::{
    fs::{self, File, TryLockError},
    io,
    num::NonZeroUsize,
    path::Path,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
        mpsc,
    },
};

use async_trait::async_trait;
use bytes::Bytes;
use orch_core::store::{
    CommitError, Durability, Entry, History, HistoryBounds, HistorySource, Key, Page, Revision, StateStore,
    StoreCapabilities, StoreError, Txn, Watch, WatchBatch,
};
use tokio::sync::{Semaphore, oneshot};

pub use self::config::SqliteStoreConfig;
use self::{
    core::Core,
    error::Cause,
    writer::{Commit, Job, Writer},
};
use crate::completion::completion;

/// The file in the store's directory, and the one that its writer locks.
const FILE: &str = "orch.sqlite";
const LOCK: &str = "orch.lock";

/// The unit of [`SqliteStoreConfig::queue_bytes`].
const PERMIT_BYTES: usize = 1024;

/// Part of the log in memory, for live watches.
const HISTORY: HistoryBounds =
    HistoryBounds { revisions: const { NonZeroUsize::new(4096).expect("not zero") }, bytes: 32 << 20 };

/// A durable [`StateStore`] in one SQLite file, for one process. Dropping it finishes what was accepted in
/// the background; [`StateStore::close`] waits for that.
#[derive(Debug)]
pub struct SqliteStore {
    core: Arc<Core>,
    history: Arc<History>,
    jobs: mpsc::Sender<Job>,
    permits: Arc<Semaphore>,
    closed: AtomicBool,
    config: SqliteStoreConfig,
}

impl SqliteStore {
    /// Opens the store in the configured directory, making what is missing.
    ///
    /// # Errors
    /// [`StoreError::Locked`] when another process has it, [`StoreError::Corrupt`] when the file cannot be
    /// understood (or comes from a newer version), [`StoreError::Backend`] when the directory cannot be used.
    /// The file is left as it is then.
    pub async fn open(config: SqliteStoreConfig) -> Result<Self, StoreError> {
        blocking(move || {
            let path = config.dir.join(FILE);
            let lock = prepare(&config.dir, &path)?;
            let (core, bounds) = Core::open(&path, lock, config.readers.get())?;
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
            };
            std::thread::Builder::new()
                .name("orch-store-sqlite".into())
                .spawn(move || writer.run())
                .map_err(|error| error::opening(&path, error))?;
            let permits = Arc::new(Semaphore::new(queue_permits(config.queue_bytes)));
            Ok(Self { core, history, jobs, permits, closed: AtomicBool::new(false), config })
        })
        .await
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
        match (self.check_open(), self.core.closed_error()) {
            (Err(closed), _) => closed,
            (Ok(()), StoreError::Closed) => {
                error::backend("working", outcome_unknown, Cause::Writer { path: self.core.path().into() })
            }
            (Ok(()), failure) => failure,
        }
    }
}

#[async_trait]
impl StateStore for SqliteStore {
    fn capabilities(&self) -> StoreCapabilities {
        StoreCapabilities {
            name: error::NAME,
            compare_and_swap: true,
            shared: false,
            durability: Durability::Sync,
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
        let job = Job::Commit(Commit { txn, sender, _permits: permits });
        self.jobs.send(job).map_err(|_| self.writer_ended(false))?;
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
        if self.jobs.send(Job::Close { sender }).is_ok() {
            let _ = receiver.await;
        }
        Ok(())
    }
}

/// The log in the file, for watches that begin in the past or fell behind.
struct Disk(Arc<Core>);

#[async_trait]
impl HistorySource for Disk {
    async fn read_revisions(&self, after: Revision, limit: usize) -> Result<Vec<WatchBatch>, StoreError> {
        let core = Arc::clone(&self.0);
        blocking(move || core.read_revisions(after, limit)).await
    }
}

/// Runs `work` on a thread for work that blocks. Its own panics go on in the caller.
async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> Result<T, StoreError> + Send + 'static,
) -> Result<T, StoreError> {
    match tokio::task::spawn_blocking(work).await {
        Ok(done) => done,
        Err(error) => match error.try_into_panic() {
            Ok(panic) => std::panic::resume_unwind(panic),
            // The async runtime shuts down and takes no more work.
            Err(_) => Err(StoreError::Closed),
        },
    }
}

/// Makes the directory and the file where they are missing, and takes the lock. Nobody but the owner may read
/// what is kept; SQLite makes the files beside it with the same rights.
fn prepare(dir: &Path, file: &Path) -> Result<File, StoreError> {
    let failed = |error| error::opening(file, error);
    fs::create_dir_all(dir).map_err(failed)?;
    let lock = private().truncate(false).open(dir.join(LOCK)).map_err(failed)?;
    match lock.try_lock() {
        Ok(()) => {}
        Err(TryLockError::WouldBlock) => return Err(error::locked(file)),
        Err(TryLockError::Error(error)) => return Err(failed(error)),
    }
    match private().create_new(true).open(file) {
        // Without this a power cut may take the file's name, and with it all that was synced into it.
        Ok(_) => sync_names(dir).map_err(failed)?,
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {}
        Err(error) => return Err(failed(error)),
    }
    Ok(lock)
}

fn private() -> fs::OpenOptions {
    let mut options = fs::OpenOptions::new();
    options.write(true).create(true);
    #[cfg(unix)]
    std::os::unix::fs::OpenOptionsExt::mode(&mut options, 0o600);
    options
}

/// Makes the names in the directory durable, and the directory's own.
fn sync_names(dir: &Path) -> io::Result<()> {
    // Other systems cannot open a directory as a file, and order these changes themselves.
    if cfg!(unix) {
        let parent = dir.parent().filter(|parent| !parent.as_os_str().is_empty());
        for directory in [Some(dir), parent].into_iter().flatten() {
            File::open(directory)?.sync_all()?;
        }
    }
    Ok(())
}

fn bytes_of(txn: &Txn) -> usize {
    let writes = txn.writes.iter();
    writes.map(|write| write.key.as_str().len() + write.value.as_ref().map_or(0, Bytes::len)).sum()
}

fn queue_permits(bytes: usize) -> usize {
    (bytes / PERMIT_BYTES + 1).min(Semaphore::MAX_PERMITS)
}
