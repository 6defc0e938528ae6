//! The one thread that writes. It takes what is queued, commits it as one group, and completes it; while the
//! disk works, the next group gathers by itself.

use std::{
    num::NonZeroU64,
    sync::{Arc, mpsc::Receiver},
    time::Instant,
};

use orch_core::store::{CommitError, History, Revision, StoreError, Txn};
use tokio::sync::{OwnedSemaphorePermit, oneshot};

use super::{
    core::{Core, LogBounds},
    error::{self, Cause},
};
use crate::{
    commit_group::{publish, trimmed},
    commit_window::CommitWindow,
    completion::{CompletionSender, complete_all},
};

/// Transactions of one group: enough to make the sync cheap, few enough to complete soon.
const GROUP_MAX: usize = 2048;

/// Job of the writer. Each is completed once it is on the disk.
pub(super) enum Job {
    Commit(Commit),
    Compact { before: Revision, sender: oneshot::Sender<Result<(), StoreError>> },
    Close { sender: oneshot::Sender<()> },
}

pub(super) struct Commit {
    pub(super) txn: Txn,
    pub(super) sender: CompletionSender<Result<Revision, CommitError>>,
    /// Its part of the queue's bound.
    pub(super) _permits: OwnedSemaphorePermit,
}

pub(super) struct Writer {
    pub(super) core: Arc<Core>,
    pub(super) history: Arc<History>,
    pub(super) jobs: Receiver<Job>,
    pub(super) bounds: LogBounds,
    pub(super) keep: NonZeroU64,
    pub(super) last: CommitWindow,
}

impl Writer {
    /// Works until the store closes, is dropped, or fails.
    pub(super) fn run(mut self) {
        let mut next = None;
        while let Some(job) = next.take().or_else(|| self.jobs.recv().ok()) {
            let done = match job {
                Job::Commit(first) => {
                    let mut group = vec![first];
                    next = self.gather(&mut group);
                    let (size, begin) = (group.len(), Instant::now());
                    let done = self.commit(group);
                    self.last = CommitWindow::done(size, begin);
                    done
                }
                Job::Compact { before, sender } => {
                    let done = self.compact(before);
                    let _ = sender.send(done.clone());
                    done
                }
                Job::Close { sender } => {
                    self.core.release();
                    let _ = sender.send(());
                    return;
                }
            };
            if done.is_err() {
                return;
            }
        }
    }

    /// Adds the commits that are queued already, and those that are expected. Returns the job that came after
    /// them, if another kind did.
    fn gather(&self, group: &mut Vec<Commit>) -> Option<Job> {
        let until = self.last.deadline();
        while group.len() < GROUP_MAX {
            let job = match self.last.expects_more_than(group.len()) {
                true => self.jobs.recv_timeout(until.saturating_duration_since(Instant::now())).ok(),
                false => self.jobs.try_recv().ok(),
            };
            match job? {
                Job::Commit(commit) => group.push(commit),
                other => return Some(other),
            }
        }
        None
    }

    fn commit(&mut self, mut group: Vec<Commit>) -> Result<(), StoreError> {
        let (keep, oldest) = (self.keep, self.bounds.oldest);
        let trim = |head| trimmed(oldest, head, keep);
        match self.core.apply(self.bounds, group.iter_mut().map(|commit| &mut commit.txn), trim) {
            Ok((outcomes, reached)) => {
                self.bounds = reached;
                let senders = group.into_iter().map(|commit| commit.sender);
                publish(&self.history, reached.oldest, senders, outcomes);
                Ok(())
            }
            Err(error) => {
                complete_all(group.into_iter().map(|commit| (commit.sender, Err(error.clone().into()))));
                Err(error)
            }
        }
    }

    fn compact(&mut self, before: Revision) -> Result<(), StoreError> {
        let (_, reached) = self.core.apply(self.bounds, std::iter::empty(), |_| before)?;
        self.bounds = reached;
        self.history.forget(reached.oldest);
        Ok(())
    }
}

/// However the thread ends, the file is let go of and no watch waits for ever.
impl Drop for Writer {
    fn drop(&mut self) {
        if std::thread::panicking() {
            self.core.fail(error::backend("working", true, Cause::Writer { path: self.core.path().into() }));
        }
        self.core.release();
        match self.core.closed_error() {
            StoreError::Closed => self.history.close(),
            failure => {
                tracing::error!(path = %self.core.path().display(), %failure, "the store stopped");
                self.history.fail(failure);
            }
        }
    }
}
