//! Output in files of this machine: append-only segments that hold chunks of many attempts and are deleted as
//! a whole.
//!
//! Forgotten output takes space until its segment goes; once that is more than an eighth of what is kept, and
//! a segment, what is left of the most wasteful segment is copied. So the disk holds at most 1.2 times what
//! is kept, and two segments.
//!
//! There are no records of what was forgotten: after a restart the part of it that still takes space is there
//! again, as the first to be dropped, unless the owner forgets it again.

mod log;
mod record;
mod segment;
#[cfg(test)]
mod tests;

use std::{
    fs::{DirBuilder, File, OpenOptions, TryLockError},
    num::NonZeroU32,
    os::unix::fs::{DirBuilderExt as _, OpenOptionsExt as _},
    path::{Path, PathBuf},
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use async_trait::async_trait;
use parking_lot::{Mutex, MutexGuard};
use tracing::warn;

use self::log::Log;
use super::{
    NewOutput, OutputError, OutputPage, OutputPosition, OutputStore, OutputWatch, followers::Followers,
};
use crate::model::{TaskId, Timestamp};

/// Longest time that acknowledged output stays with the operating system before it must be on the disk.
const SYNC_EVERY: Duration = Duration::from_secs(1);

/// Directory of the files, and their bounds.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FileOutputConfig {
    /// Directory for the files; made when missing. One process at a time uses it.
    pub dir: PathBuf,
    /// Bytes of all output that is kept, with 128 for each chunk.
    pub bytes_max: u64,
}

impl FileOutputConfig {
    /// Up to 256 MiB in `dir`.
    #[must_use]
    pub fn new(dir: impl Into<PathBuf>) -> Self {
        Self { dir: dir.into(), bytes_max: 256 << 20 }
    }

    /// Small enough that what a few of them waste does not count.
    fn segment_bytes(&self) -> u64 {
        (self.bytes_max / 64).clamp(256 << 10, 16 << 20)
    }
}

/// [`OutputStore`] in files. What was answered survives the process; what was answered in the last second, or
/// while a sync fails, may not survive the machine.
#[derive(Debug)]
pub struct FileOutput {
    shared: Arc<Shared>,
    followers: Followers,
}

#[derive(Debug)]
struct Shared {
    log: Mutex<Log>,
    /// A sync is on its way.
    sync_due: AtomicBool,
    /// The last append failed.
    failing: AtomicBool,
    /// Held for as long as the directory is used.
    _lock: File,
}

impl FileOutput {
    /// Opens the directory and recovers the output of earlier incarnations. Ends of files that were not
    /// completely written are left out, with a warning. Must be called within a tokio runtime.
    ///
    /// # Errors
    /// [`OutputError::Locked`] when another process uses the directory, [`OutputError::File`] when it cannot
    /// be used.
    pub async fn open(config: FileOutputConfig) -> Result<Self, OutputError> {
        let shared = blocking(move || {
            let lock = prepare(&config.dir)?;
            let log = Mutex::new(Log::open(&config)?);
            Ok::<_, OutputError>(Shared {
                log,
                sync_due: AtomicBool::new(false),
                failing: AtomicBool::new(false),
                _lock: lock,
            })
        })
        .await?;
        Ok(Self { shared: Arc::new(shared), followers: Followers::default() })
    }

    /// Runs `work` where it may block.
    async fn with<T: Send + 'static>(&self, work: impl FnOnce(&mut Log) -> T + Send + 'static) -> T {
        let shared = Arc::clone(&self.shared);
        blocking(move || work(&mut shared.lock())).await
    }

    /// Has everything synced after a while, unless that is on its way.
    fn sync_later(&self) {
        if self.shared.sync_due.swap(true, Ordering::SeqCst) {
            return;
        }
        let shared = Arc::downgrade(&self.shared);
        tokio::spawn(async move {
            tokio::time::sleep(SYNC_EVERY).await;
            let synced = blocking(move || {
                // When it was dropped, it has synced.
                let Some(shared) = shared.upgrade() else { return Ok(()) };
                shared.sync_due.store(false, Ordering::SeqCst);
                let files = shared.lock().unsynced();
                // The directory is free for the next one while the disk works.
                drop(shared);
                sync(files)
            });
            warn_unsynced(synced.await);
        });
    }
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, Log> {
        self.log.lock()
    }
}

impl Drop for Shared {
    fn drop(&mut self) {
        let files = self.lock().unsynced();
        warn_unsynced(sync(files));
    }
}

fn sync(files: Vec<(Arc<File>, PathBuf)>) -> Result<(), OutputError> {
    let sync =
        |(file, path): (Arc<File>, PathBuf)| file.sync_data().map_err(OutputError::file("syncing", path));
    files.into_iter().try_for_each(sync)
}

fn warn_unsynced(synced: Result<(), OutputError>) {
    if let Err(error) = synced {
        warn!(error = &error as &dyn std::error::Error, "output may not survive a power cut");
    }
}

#[async_trait]
impl OutputStore for FileOutput {
    async fn append(&self, chunks: Vec<NewOutput>) -> Result<(), OutputError> {
        if chunks.is_empty() {
            return Ok(());
        }
        let mut tasks: Vec<TaskId> = chunks.iter().map(|chunk| chunk.attempt.task).collect();
        tasks.sort();
        tasks.dedup();
        let done = self.with(move |log| log.append(chunks)).await;
        let failed_before = self.shared.failing.swap(done.is_err(), Ordering::SeqCst);
        if let (Err(error), false) = (&done, failed_before) {
            warn!(error = error as &dyn std::error::Error, "output cannot be kept; its agents send it again");
        }
        self.sync_later();
        tasks.into_iter().for_each(|task| self.followers.wake(task));
        done
    }

    async fn read(&self, task: TaskId, after: Option<OutputPosition>) -> Result<OutputPage, OutputError> {
        let shared = Arc::clone(&self.shared);
        blocking(move || {
            let found = shared.lock().look_up(task, after);
            found.read()
        })
        .await
    }

    async fn place_of_last(
        &self,
        task: TaskId,
        attempt: Option<NonZeroU32>,
        bytes: u64,
    ) -> Result<Option<OutputPosition>, OutputError> {
        Ok(self.with(move |log| log.place_of_last(task, attempt, bytes)).await)
    }

    async fn place_since(
        &self,
        task: TaskId,
        attempt: Option<NonZeroU32>,
        since: Timestamp,
    ) -> Result<Option<OutputPosition>, OutputError> {
        Ok(self.with(move |log| log.place_since(task, attempt, since)).await)
    }

    async fn follow(&self, task: TaskId) -> Result<OutputWatch, OutputError> {
        Ok(self.followers.follow(task))
    }

    async fn forget(&self, tasks: &[TaskId]) -> Result<(), OutputError> {
        let tasks = tasks.to_vec();
        self.with(move |log| log.forget(&tasks)).await;
        Ok(())
    }

    async fn tasks(&self) -> Vec<TaskId> {
        self.with(|log| log.tasks()).await
    }

    async fn sync(&self) -> Result<(), OutputError> {
        self.with(Log::sync).await
    }
}

/// Makes the directory where it is missing, and locks it.
fn prepare(dir: &Path) -> Result<File, OutputError> {
    let mut builder = DirBuilder::new();
    builder.recursive(true).mode(0o700).create(dir).map_err(OutputError::file("making", dir))?;
    let path = dir.join("lock");
    let mut options = OpenOptions::new();
    let lock = options.write(true).create(true).truncate(false).mode(0o600).open(&path);
    let lock = lock.map_err(OutputError::file("opening", &path))?;
    match lock.try_lock() {
        Ok(()) => Ok(lock),
        Err(TryLockError::WouldBlock) => Err(OutputError::Locked(dir.into())),
        Err(TryLockError::Error(error)) => Err(OutputError::file("locking", path)(error)),
    }
}

/// Runs `work` on a thread that may block. It goes on to its end when nobody waits.
async fn blocking<T: Send + 'static>(work: impl FnOnce() -> T + Send + 'static) -> T {
    match tokio::task::spawn_blocking(work).await {
        Ok(done) => done,
        Err(failed) => match failed.try_into_panic() {
            Ok(panic) => std::panic::resume_unwind(panic),
            // The runtime ends: nobody waits for this any more.
            Err(_) => std::future::pending().await,
        },
    }
}
