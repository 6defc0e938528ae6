//! The thread that writes a file, as those see it who queue jobs for it.

use std::{
    fmt,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
        mpsc::{self, Receiver, Sender},
    },
};

use orch_core::store::{CommitError, History, Position, StoreError};
use tokio::sync::oneshot;

use super::{open::blocking, status::StoreFile};
use crate::completion::{CompletionSender, completion};

/// Handle to the one thread that writes the file `F`: the queue of its jobs `J`. The thread ends when it is
/// told to close, when the last sender of jobs is dropped, and when the file fails; the file is released
/// then, and every watch ends.
pub(crate) struct WriterThread<F, J> {
    file: Arc<F>,
    jobs: Sender<J>,
    closed: AtomicBool,
}

impl<F: StoreFile, J: Send + 'static> WriterThread<F, J> {
    /// Starts a thread with this name that runs `run`.
    pub(crate) fn spawn(
        name: &str,
        file: Arc<F>,
        history: Arc<History>,
        run: impl FnOnce(Receiver<J>) + Send + 'static,
    ) -> Result<Self, StoreError> {
        let (jobs, queue) = mpsc::channel();
        let end = EndOfThread { file: Arc::clone(&file), history };
        let thread = std::thread::Builder::new().name(name.into()).spawn(move || {
            let _end = end;
            run(queue);
        });
        match thread {
            Ok(_) => Ok(Self { file, jobs, closed: AtomicBool::new(false) }),
            Err(error) => Err(file.status().opening_error(error)),
        }
    }

    /// The file, for readers.
    pub(crate) fn file(&self) -> &Arc<F> {
        &self.file
    }

    /// Another sender of jobs. The thread lives as long as it.
    #[cfg(feature = "crdt")]
    pub(crate) fn jobs(&self) -> Sender<J> {
        self.jobs.clone()
    }

    /// # Errors
    /// [`StoreError`] when the store was closed or has failed.
    pub(crate) fn check_open(&self) -> Result<(), StoreError> {
        match self.file.status().failure() {
            _ if self.closed.load(Ordering::Acquire) => Err(StoreError::Closed),
            Some(_) => Err(self.file.status().closed_error()),
            None => Ok(()),
        }
    }

    /// Reads the file where that may block.
    pub(crate) async fn read<T: Send + 'static>(
        &self,
        read: impl FnOnce(&F) -> Result<T, StoreError> + Send + 'static,
    ) -> Result<T, StoreError> {
        self.check_open()?;
        let file = Arc::clone(&self.file);
        blocking(move || read(&file)).await
    }

    /// Queues a commit, and waits for its outcome.
    pub(crate) async fn commit(
        &self,
        job: impl FnOnce(CompletionSender<Result<Position, CommitError>>) -> J,
    ) -> Result<Position, CommitError> {
        let (sender, receiver) = completion();
        self.jobs.send(job(sender)).map_err(|_| self.ended(false))?;
        receiver.await.unwrap_or_else(|| Err(self.ended(true).into()))
    }

    /// Queues a job, and waits for its result. `changes` says whether it may change something.
    pub(crate) async fn call<R>(
        &self,
        changes: bool,
        job: impl FnOnce(oneshot::Sender<R>) -> J,
    ) -> Result<R, StoreError> {
        self.check_open()?;
        let (sender, receiver) = oneshot::channel();
        self.jobs.send(job(sender)).map_err(|_| self.ended(false))?;
        receiver.await.map_err(|_| self.ended(changes))
    }

    /// Queues the last job, and waits for its result; `None` when an earlier close or a failure left nothing
    /// to do.
    pub(crate) async fn close<R>(&self, job: impl FnOnce(oneshot::Sender<R>) -> J) -> Option<R> {
        self.closed.store(true, Ordering::Release);
        let (sender, receiver) = oneshot::channel();
        self.jobs.send(job(sender)).ok()?;
        receiver.await.ok()
    }

    /// Error of a job that the thread dropped: it was closed before, or it failed.
    fn ended(&self, outcome_unknown: bool) -> StoreError {
        let status = self.file.status();
        match status.failure() {
            _ if self.closed.load(Ordering::Acquire) => StoreError::Closed,
            // A job that was on its way when the file failed may be there.
            Some(failure) if outcome_unknown => failure.clone(),
            Some(_) => status.closed_error(),
            None => status.writer_error(outcome_unknown),
        }
    }
}

impl<F: StoreFile, J> fmt::Debug for WriterThread<F, J> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("WriterThread").field("file", self.file.status()).finish_non_exhaustive()
    }
}

/// However the thread ends, the file is released and no watch waits for ever.
struct EndOfThread<F: StoreFile> {
    file: Arc<F>,
    history: Arc<History>,
}

impl<F: StoreFile> Drop for EndOfThread<F> {
    fn drop(&mut self) {
        let status = self.file.status();
        if std::thread::panicking() {
            self.file.fail(status.writer_error(true));
        }
        self.file.release();
        match status.closed_error() {
            StoreError::Closed => self.history.close(),
            failure => {
                tracing::error!(path = %status.path().display(), %failure, "the store stopped");
                self.history.fail(failure);
            }
        }
    }
}
