//! The one task that writes. It takes what is queued and commits it as one transaction of the database, by
//! one statement or by several that are sent together without waiting for answers in between: a group costs
//! one round trip and one sync, and the row that orders the commits of all processes is never held for the
//! time of a client. Meanwhile the next group gathers by itself.

use std::{future::poll_fn, iter::once, num::NonZeroU64, pin::Pin, sync::Arc, task::Poll, time::Instant};

use futures_util::future::{FutureExt as _, MaybeDone, maybe_done};
use orch_core::store::{CommitError, Revision, StoreError, Txn};
use tokio::sync::{OwnedSemaphorePermit, mpsc};
use tokio_postgres::{Error, Row, Statement};

use super::{
    error,
    plan::Plan,
    session::{Connector, Readers, Session},
};
use crate::{
    commit_window::CommitWindow,
    completion::{CompletionSender, complete_all},
    retention::trim_to,
    server_store::log_follower::LogFollower,
};

/// Transactions of one group: enough to make the sync cheap, few enough to complete soon.
const GROUP_MAX: usize = 1024;
/// And their bytes, unless one alone has more.
const GROUP_BYTES: usize = 8 << 20;

/// A transaction and who waits for it.
pub(super) struct Commit {
    pub(super) txn: Txn,
    /// Bytes of its keys and values.
    pub(super) bytes: usize,
    pub(super) sender: CompletionSender<Result<Revision, CommitError>>,
    /// Its part of the queue's bound.
    pub(super) _permits: OwnedSemaphorePermit,
}

pub(super) struct Writer {
    pub(super) connector: Arc<Connector>,
    pub(super) readers: Arc<Readers>,
    pub(super) follower: Arc<LogFollower>,
    pub(super) jobs: mpsc::Receiver<Commit>,
    pub(super) keep: NonZeroU64,
    /// Revision to which this process trimmed the log last.
    pub(super) trimmed: Revision,
    pub(super) last: CommitWindow,
}

impl Writer {
    /// Works until the queue is closed and empty.
    pub(super) async fn run(mut self) {
        let mut session = None;
        let mut next = None;
        while let Some(first) = match next.take() {
            Some(first) => Some(first),
            None => self.jobs.recv().await,
        } {
            self.wait_for_more().await;
            let (group, plan) = self.gather(first, &mut next);
            let begin = Instant::now();
            let done = self.execute(&mut session, &plan).await;
            self.last = CommitWindow::after(group.len(), begin);
            match done {
                Ok(outcomes) => {
                    match plan.into_batches(&outcomes) {
                        Some(batches) => self.follower.committed(batches),
                        None => self.follower.wake(),
                    }
                    let head = outcomes.iter().filter_map(|outcome| outcome.as_ref().ok()).max().copied();
                    complete_all(group.into_iter().map(|commit| commit.sender).zip(outcomes));
                    self.trim(head).await;
                }
                Err(error) => {
                    // It may have happened, and the word of our own commits is not listened for.
                    self.follower.wake();
                    complete_all(group.into_iter().map(|commit| (commit.sender, Err(error.clone().into()))));
                }
            }
        }
    }

    /// Those who ask in the same moment come along, and those that are expected.
    async fn wait_for_more(&self) {
        let until = self.last.deadline();
        loop {
            tokio::task::yield_now().await;
            if !self.last.expects_more_than(self.jobs.len() + 1) || Instant::now() >= until {
                return;
            }
        }
    }

    /// Adds the commits that are queued already, while one transaction of the database can take them. `next`
    /// is the first that it cannot.
    fn gather(&mut self, first: Commit, next: &mut Option<Commit>) -> (Vec<Commit>, Plan) {
        let (mut plan, mut bytes, mut group) = (Plan::default(), first.bytes, vec![first]);
        plan.add(&mut group[0].txn);
        while group.len() < GROUP_MAX {
            let Ok(mut commit) = self.jobs.try_recv() else { break };
            bytes += commit.bytes;
            if bytes > GROUP_BYTES || !plan.add(&mut commit.txn) {
                *next = Some(commit);
                break;
            }
            group.push(commit);
        }
        (group, plan)
    }

    async fn execute(
        &self,
        session: &mut Option<Session>,
        plan: &Plan,
    ) -> Result<Vec<Result<Revision, CommitError>>, StoreError> {
        let ready = match session.take().filter(|session| !session.client.is_closed()) {
            Some(session) => session,
            None => self.connector.session().await?,
        };
        let outcomes = pipeline(&ready, plan).await?;
        // After a failure a connection may be anywhere in its transaction: it is not used again.
        *session = Some(ready);
        Ok(outcomes)
    }

    /// Forgets the oldest revisions when there are an eighth more than wanted.
    async fn trim(&mut self, head: Option<Revision>) {
        let Some(head) = head else { return };
        let Some(before) = trim_to(self.trimmed, head, self.keep) else { return };
        match super::compact(&self.readers, before).await {
            Ok(()) => self.trimmed = before,
            Err(error) => tracing::warn!(%error, "the log could not be trimmed; it is tried again"),
        }
    }
}

/// Has the database decide and apply the plan. One step is a statement by itself, and a transaction with
/// that; several are sent at once, between the begin and the end of a transaction.
async fn pipeline(session: &Session, plan: &Plan) -> Result<Vec<Result<Revision, CommitError>>, StoreError> {
    let Session { client, statements } = session;
    let plain = |statement: &Statement| {
        let statement = statement.clone();
        async move { client.query(&statement, &[]).await }.boxed()
    };
    let steps = plan.steps().iter().map(|step| {
        let apply = &statements.apply;
        async move { client.query(apply, &step.parameters()).await }.boxed()
    });
    let alone = plan.steps().len() == 1;
    let statements_sent = match alone {
        true => steps.collect(),
        false => once(plain(&statements.begin)).chain(steps).chain([plain(&statements.commit)]).collect(),
    };
    let mut answers = in_order(statements_sent).await;

    let last = answers.pop().unwrap_or(Ok(Vec::new()));
    // A statement that failed before makes COMMIT roll back, and succeed at that.
    let before: Result<Vec<_>, _> = answers.into_iter().collect();
    match (before, last) {
        (Ok(_), Ok(rows)) if alone => outcomes_of(plan, &[rows]).map_err(error::lost_commit),
        (Ok(rows), Ok(_)) => outcomes_of(plan, &rows[1..]).map_err(error::lost_commit),
        // The server said that a statement failed: what came after it was not carried out.
        (Err(error), _) if error.as_db_error().is_some() => Err(error::statement("committing", error)),
        // And nothing of one that is a transaction, unless the server goes down, which it may do after that.
        (Ok(_), Err(error)) if alone && !error::is_connection(&error) => {
            Err(error::statement("committing", error))
        }
        (Err(error), _) | (Ok(_), Err(error)) => Err(error::lost_commit(error)),
    }
}

/// One answer for each transaction of the plan, in the order of their coming.
fn outcomes_of(plan: &Plan, rows: &[Vec<Row>]) -> Result<Vec<Result<Revision, CommitError>>, Error> {
    let mut outcomes: Vec<_> = std::iter::repeat_with(|| None).take(plan.len()).collect();
    for (step, row) in plan.steps().iter().zip(rows.iter().flatten()) {
        let revisions: Vec<Option<i64>> = row.try_get(0)?;
        // None when all guards held.
        let failed: Option<Vec<Option<i64>>> = row.try_get(1)?;
        for (txn, revision) in revisions.into_iter().enumerate() {
            let guard = || failed.as_ref().and_then(|failed| failed[txn]).unwrap_or(1);
            outcomes[step.index_of(txn)] = Some(match revision {
                Some(revision) => Ok(super::revision(revision)),
                None => Err(CommitError::Conflict { key: step.guard(guard()).clone() }),
            });
        }
    }
    let each = outcomes.into_iter().map(|outcome| outcome.expect("each transaction is applied or failed"));
    Ok(each.collect())
}

/// Polls the futures in their order, so that their requests are sent in it, until all are done.
async fn in_order<F: Future + Unpin>(futures: Vec<F>) -> Vec<F::Output>
where
    F::Output: Unpin,
{
    let mut each: Vec<MaybeDone<F>> = futures.into_iter().map(maybe_done).collect();
    poll_fn(|cx| {
        let mut done = true;
        for one in &mut each {
            done &= one.poll_unpin(cx).is_ready();
        }
        if done { Poll::Ready(()) } else { Poll::Pending }
    })
    .await;
    each.iter_mut().map(|one| Pin::new(one).take_output().expect("all are done")).collect()
}
