//! The one thread that writes. It takes what is queued, commits it as one group, and answers; while the disk works,
//! the next group gathers by itself.

use std::{
    num::NonZeroU64,
    sync::{Arc, mpsc::Receiver},
    time::Instant,
};

use orch_core::store::{CommitError, History, Revision, StoreError, Txn};
use tokio::sync::{OwnedSemaphorePermit, oneshot};

use super::{
    core::{Core, Extent},
    error::{self, Cause},
};
use crate::{
    answer::{Question, answer_all},
    company::Company,
    group::{publish, trimmed},
};

/// Transactions of one group: enough to make the sync cheap, few enough to answer soon.
const GROUP_MAX: usize = 2048;

/// What the writer is asked to do. Each is answered once it is on the disk.
pub(super) enum Job {
    Commit(Commit),
    Compact { before: Revision, answer: oneshot::Sender<Result<(), StoreError>> },
    Close { answer: oneshot::Sender<()> },
}

pub(super) struct Commit {
    pub(super) txn: Txn,
    pub(super) answer: Question<Result<Revision, CommitError>>,
    /// Its part of the queue's bound.
    pub(super) _room: OwnedSemaphorePermit,
}

pub(super) struct Writer {
    pub(super) core: Arc<Core>,
    pub(super) history: Arc<History>,
    pub(super) jobs: Receiver<Job>,
    pub(super) extent: Extent,
    pub(super) keep: NonZeroU64,
    pub(super) last: Company,
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
                    self.last = Company::done(size, begin);
                    done
                }
                Job::Compact { before, answer } => {
                    let done = self.compact(before);
                    let _ = answer.send(done.clone());
                    done
                }
                Job::Close { answer } => {
                    self.core.release();
                    let _ = answer.send(());
                    return;
                }
            };
            if done.is_err() {
                return;
            }
        }
    }

    /// Adds the commits that are queued already, and those that are expected. Returns the job that came after them, if another
    /// kind did.
    fn gather(&self, group: &mut Vec<Commit>) -> Option<Job> {
        let until = self.last.deadline();
        while group.len() < GROUP_MAX {
            let job = match self.last.is_larger_than(group.len()) {
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
        let (keep, oldest) = (self.keep, self.extent.oldest);
        let trim = |head| trimmed(oldest, head, keep);
        match self.core.apply(self.extent, group.iter_mut().map(|commit| &mut commit.txn), trim) {
            Ok((verdicts, reached)) => {
                self.extent = reached;
                let questions = group.into_iter().map(|commit| commit.answer);
                publish(&self.history, reached.oldest, questions, verdicts);
                Ok(())
            }
            Err(error) => {
                answer_all(group.into_iter().map(|commit| (commit.answer, Err(error.clone().into()))));
                Err(error)
            }
        }
    }

    fn compact(&mut self, before: Revision) -> Result<(), StoreError> {
        let (_, reached) = self.core.apply(self.extent, std::iter::empty(), |_| before)?;
        self.extent = reached;
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
        match self.core.gone() {
            StoreError::Closed => self.history.close(),
            failure => {
                tracing::error!(path = %self.core.path().display(), %failure, "the store stopped");
                self.history.fail(failure);
            }
        }
    }
}
