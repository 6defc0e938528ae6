//! Group commit: the writer takes what is queued, commits it as one group with one sync, and completes it;
//! while the disk works, the next group gathers by itself.

use std::{
    num::NonZeroU64,
    sync::{
        Arc,
        mpsc::{Receiver, RecvTimeoutError},
    },
    time::{Duration, Instant},
};

use orch_core::store::{
    CommitError, CommitId, History, Incarnation, Position, Revision, SettledIds, StoreError, Txn,
};
use tokio::sync::{OwnedSemaphorePermit, oneshot};

use super::engine::{self, Engine, LogBounds, TxnOutcome};
use crate::{
    commit_window::CommitWindow,
    completion::{CompletionSender, complete_all},
    retention::trim_to,
};

/// Transactions of one group: enough to make the sync cheap, few enough to complete soon.
const GROUP_MAX: usize = 2048;

/// Job of the writer. Each is completed once it is as durable as it gets.
pub(super) enum Job {
    Commit(Commit),
    /// Asks what became of a commit, after all that were queued before.
    Outcome {
        id: CommitId,
        since: Revision,
        sender: oneshot::Sender<Result<Option<Position>, StoreError>>,
    },
    Compact {
        before: Revision,
        sender: oneshot::Sender<Result<(), StoreError>>,
    },
    Close {
        sender: oneshot::Sender<Result<(), StoreError>>,
    },
}

pub(super) struct Commit {
    pub(super) txn: Txn,
    pub(super) sender: CompletionSender<Result<Position, CommitError>>,
    /// Its part of the queue's bound.
    pub(super) _permits: OwnedSemaphorePermit,
}

pub(super) struct Writer<E> {
    pub(super) engine: Arc<E>,
    pub(super) history: Arc<History>,
    pub(super) bounds: LogBounds,
    /// Revisions of the log that stay when it is trimmed.
    pub(super) keep: NonZeroU64,
    /// Time within which a commit has to be synced; `None` for before it is acknowledged.
    pub(super) sync_interval: Option<Duration>,
    /// Time at which the oldest unsynced commit must be on the disk.
    pub(super) sync_due: Option<Instant>,
    pub(super) window: CommitWindow,
    /// Commits that were asked for and will not happen. Forgotten with the process, as are their requests.
    pub(super) settled: SettledIds,
}

impl<E: Engine> Writer<E> {
    /// Works until the store closes, is dropped, or fails.
    pub(super) fn run(mut self, jobs: &Receiver<Job>) {
        let mut next = None;
        while let Some(job) = next.take().or_else(|| self.wait(jobs)) {
            match job {
                Job::Commit(first) => {
                    let mut group = vec![first];
                    next = self.gather(jobs, &mut group);
                    let (size, begin) = (group.len(), Instant::now());
                    self.commit(group);
                    self.window = CommitWindow::after(size, begin);
                }
                Job::Outcome { id, since, sender } => {
                    let found = self.engine.find(Incarnation(id.0), since);
                    if let Ok(None) = found {
                        self.settled.insert(id);
                    }
                    let _ = sender.send(found);
                }
                Job::Compact { before, sender } => {
                    let _ = sender.send(self.compact(before));
                }
                Job::Close { sender } => {
                    let done = self.sync();
                    self.engine.release();
                    let _ = sender.send(done);
                    return;
                }
            }
            // A refusal that left the file as it was is none.
            if self.engine.status().failure().is_some() {
                return;
            }
        }
        // Dropped without `close`: what was acknowledged is kept all the same.
        let _ = self.sync();
    }

    /// The next job; `None` when there will be none or the store failed. Syncs when that is due.
    fn wait(&mut self, jobs: &Receiver<Job>) -> Option<Job> {
        loop {
            let Some(due) = self.sync_due else { return jobs.recv().ok() };
            match jobs.recv_timeout(due.saturating_duration_since(Instant::now())) {
                Ok(job) => return Some(job),
                Err(RecvTimeoutError::Disconnected) => return None,
                Err(RecvTimeoutError::Timeout) => self.sync().ok()?,
            }
        }
    }

    /// Adds the commits that are queued already, and those that are expected. Returns the job that came after
    /// them, if another kind did.
    fn gather(&self, jobs: &Receiver<Job>, group: &mut Vec<Commit>) -> Option<Job> {
        let until = self.window.deadline();
        while group.len() < GROUP_MAX {
            let job = match self.window.expects_more_than(group.len()) {
                true => jobs.recv_timeout(until.saturating_duration_since(Instant::now())).ok(),
                false => jobs.try_recv().ok(),
            };
            match job? {
                Job::Commit(commit) => group.push(commit),
                other => return Some(other),
            }
        }
        None
    }

    fn commit(&mut self, group: Vec<Commit>) {
        let (bounds, keep) = (self.bounds, self.keep);
        let (mut group, settled): (Vec<_>, Vec<_>) =
            group.into_iter().partition(|commit| self.settled.check(commit.txn.id).is_ok());
        let refusals = settled.into_iter().filter_map(|commit| {
            let refusal = self.settled.check(commit.txn.id).err()?;
            Some((commit.sender, Err(refusal.into())))
        });
        complete_all(refusals);
        let mut outcomes = Vec::with_capacity(group.len());
        let written = self.engine.write(bounds, self.sync_interval.is_none(), |batch| {
            let mut head = bounds.head;
            for commit in &mut group {
                let txn = std::mem::take(&mut commit.txn);
                let outcome = engine::apply(batch, head.revision.next(), txn)?;
                if let TxnOutcome::Applied(position, _) = outcome {
                    head = position;
                }
                outcomes.push(outcome);
            }
            let oldest = match trim_to(bounds.oldest.revision, head.revision, keep) {
                Some(oldest) => batch.position(oldest)?,
                None => bounds.oldest,
            };
            Ok(LogBounds { oldest, head })
        });
        match written {
            Ok(reached) => {
                self.reach(reached);
                self.publish(group, outcomes);
            }
            Err(error) => {
                complete_all(group.into_iter().map(|commit| (commit.sender, Err(error.clone().into()))));
            }
        }
    }

    fn compact(&mut self, before: Revision) -> Result<(), StoreError> {
        let bounds = self.bounds;
        let before = before.clamp(bounds.oldest.revision, bounds.head.revision);
        let synced = self.sync_interval.is_none();
        let reached = self.engine.write(bounds, synced, |batch| {
            let kept = before == bounds.oldest.revision;
            let oldest = if kept { bounds.oldest } else { batch.position(before)? };
            Ok(LogBounds { oldest, ..bounds })
        })?;
        self.reach(reached);
        self.history.forget(reached.oldest);
        Ok(())
    }

    /// Shows watches what a group on the disk has changed, and completes its commits.
    fn publish(&self, group: Vec<Commit>, outcomes: Vec<TxnOutcome>) {
        let mut changes = Vec::new();
        let result_of = |outcome| match outcome {
            TxnOutcome::Applied(position, writes) => {
                changes.push((position.incarnation, writes));
                Ok(position)
            }
            TxnOutcome::Conflict(key) => Err(CommitError::Conflict { key }),
        };
        let senders = group.into_iter().map(|commit| commit.sender);
        let completions: Vec<_> = senders.zip(outcomes.into_iter().map(result_of)).collect();
        self.history.extend(changes);
        // A completed commit must not show an older start of the log than there is.
        self.history.forget(self.bounds.oldest);
        complete_all(completions);
    }

    fn reach(&mut self, reached: LogBounds) {
        if let (Some(interval), true) = (self.sync_interval, reached != self.bounds) {
            self.sync_due.get_or_insert_with(|| Instant::now() + interval);
        }
        self.bounds = reached;
    }

    fn sync(&mut self) -> Result<(), StoreError> {
        if self.sync_due.take().is_some() { self.engine.sync() } else { Ok(()) }
    }
}
