//! The one thread that writes. It takes what is queued, commits it as one group, and completes it; while the
//! disk works, the next group gathers by itself.

use std::{
    num::NonZeroU64,
    sync::{
        Arc,
        mpsc::{Receiver, RecvTimeoutError},
    },
    time::Instant,
};

use orch_core::store::{CommitError, History, Revision, StoreError, Txn};
use tokio::sync::{OwnedSemaphorePermit, oneshot};

use super::{
    config::SyncPolicy,
    core::{Core, LogBounds},
};
use crate::{
    commit_group::{publish, trimmed},
    commit_window::CommitWindow,
    completion::{CompletionSender, complete_all},
    file::error::{self, Cause},
};

/// Transactions of one group: enough to make the sync cheap, few enough to complete soon.
const GROUP_MAX: usize = 2048;

/// Job of the writer. Each is completed once it is as durable as it gets.
pub(super) enum Job {
    Commit {
        txn: Txn,
        sender: CompletionSender<Result<Revision, CommitError>>,
        permits: OwnedSemaphorePermit,
    },
    Compact {
        before: Revision,
        sender: oneshot::Sender<Result<(), StoreError>>,
    },
    Close {
        sender: oneshot::Sender<Result<(), StoreError>>,
    },
}

pub(super) struct Writer {
    pub(super) core: Arc<Core>,
    pub(super) history: Arc<History>,
    pub(super) jobs: Receiver<Job>,
    pub(super) bounds: LogBounds,
    pub(super) keep: NonZeroU64,
    pub(super) last: CommitWindow,
    pub(super) sync: SyncPolicy,
    /// Time at which the oldest unsynced commit must be on the disk.
    pub(super) sync_due: Option<Instant>,
}

struct Commit {
    txn: Txn,
    sender: CompletionSender<Result<Revision, CommitError>>,
    _permits: OwnedSemaphorePermit,
}

impl Writer {
    /// Works until the store closes, is dropped, or fails.
    pub(super) fn run(mut self) {
        let mut next = None;
        while let Some(job) = next.take().or_else(|| self.wait()) {
            let done = match job {
                Job::Commit { txn, sender, permits } => {
                    let mut group = vec![Commit { txn, sender, _permits: permits }];
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
                    let done = self.sync();
                    self.core.file.release();
                    let _ = sender.send(done);
                    return;
                }
            };
            if done.is_err() {
                return;
            }
        }
        // Dropped without `close`: what was acknowledged is kept all the same.
        let _ = self.sync();
    }

    /// The next job; `None` when there will be none or the store failed. Syncs when that is due.
    fn wait(&mut self) -> Option<Job> {
        loop {
            let Some(due) = self.sync_due else { return self.jobs.recv().ok() };
            match self.jobs.recv_timeout(due.saturating_duration_since(Instant::now())) {
                Ok(job) => return Some(job),
                Err(RecvTimeoutError::Disconnected) => return None,
                Err(RecvTimeoutError::Timeout) => self.sync().ok()?,
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
                Job::Commit { txn, sender, permits } => group.push(Commit { txn, sender, _permits: permits }),
                other => return Some(other),
            }
        }
        None
    }

    fn commit(&mut self, mut group: Vec<Commit>) -> Result<(), StoreError> {
        let (keep, oldest) = (self.keep, self.bounds.oldest);
        let trim = |head| trimmed(oldest, head, keep);
        let txns = group.iter_mut().map(|commit| &mut commit.txn);
        match self.core.apply(self.bounds, txns, trim, self.durability()) {
            Ok((outcomes, reached)) => {
                self.reach(reached);
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
        let (_, reached) = self.core.apply(self.bounds, std::iter::empty(), |_| before, self.durability())?;
        self.reach(reached);
        self.history.forget(reached.oldest);
        Ok(())
    }

    fn durability(&self) -> redb::Durability {
        match self.sync {
            SyncPolicy::EachCommit => redb::Durability::Immediate,
            SyncPolicy::Interval(_) => redb::Durability::None,
        }
    }

    fn reach(&mut self, reached: LogBounds) {
        if let (SyncPolicy::Interval(interval), true) = (self.sync, reached != self.bounds) {
            self.sync_due.get_or_insert_with(|| Instant::now() + interval);
        }
        self.bounds = reached;
    }

    fn sync(&mut self) -> Result<(), StoreError> {
        if self.sync_due.take().is_some() { self.core.sync() } else { Ok(()) }
    }
}

/// However the thread ends, the file is let go of and no watch waits for ever.
impl Drop for Writer {
    fn drop(&mut self) {
        if std::thread::panicking() {
            self.core.file.fail(error::backend(
                "working",
                true,
                Cause::Writer { path: self.core.file.path().into() },
            ));
        }
        self.core.file.release();
        match self.core.file.closed_error() {
            StoreError::Closed => self.history.close(),
            failure => {
                tracing::error!(path = %self.core.file.path().display(), %failure, "the store stopped");
                self.history.fail(failure);
            }
        }
    }
}
