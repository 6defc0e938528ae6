//! The one task that writes. It takes what is queued and commits it by one statement, which is a transaction
//! of the database with that: a group costs one round trip and one sync, no part of it can happen without
//! the others, and the row that orders the commits of all processes is never held for the time of a client.
//! Meanwhile the next group gathers by itself.

use std::{num::NonZeroU64, pin::pin, sync::Arc, time::Instant};

use futures_util::future::join;
use orch_core::store::{CommitError, Position, Revision, StoreError, Txn};
use tokio::{
    sync::{OwnedSemaphorePermit, mpsc},
    time::{Duration, timeout},
};
use tokio_postgres::{Error, Row};

use super::{
    error::{self, Cause},
    plan::{Plan, Steps},
    readers::Readers,
    session::{Connector, Declared, Session},
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

/// Bytes that the slowest connection and server take in a second: large groups may take that much longer.
const BYTES_PER_SECOND: u64 = 4 << 20;

/// A transaction and who waits for it.
pub(super) struct Commit {
    pub(super) txn: Txn,
    /// Bytes of its keys and values.
    pub(super) bytes: usize,
    pub(super) sender: CompletionSender<Result<Position, CommitError>>,
    /// Its part of the queue's bound.
    pub(super) _permits: OwnedSemaphorePermit,
}

pub(super) struct Writer {
    pub(super) connector: Arc<Connector>,
    pub(super) readers: Arc<Readers>,
    pub(super) follower: Arc<LogFollower>,
    pub(super) jobs: mpsc::Receiver<Commit>,
    pub(super) declared: Declared,
    pub(super) retention: Retention,
    pub(super) last: CommitWindow,
}

/// Bounds of the log, and what this process knows of it.
pub(super) struct Retention {
    revisions: NonZeroU64,
    bytes: u64,
    /// Revision to which this process trimmed the log last.
    trimmed: Revision,
    /// Bytes that this process may have added since it measured the log.
    unmeasured: u64,
}

impl Retention {
    /// The log of others is measured with the first commit.
    pub(super) fn new(revisions: NonZeroU64, bytes: u64) -> Self {
        Self { revisions, bytes, trimmed: Revision::ZERO, unmeasured: bytes }
    }
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
            let bytes = group.iter().map(|commit| commit.bytes).sum();
            let done = self.execute(&mut session, &plan, bytes).await;
            self.last = CommitWindow::after(group.len(), begin);
            match done {
                Ok(Applied { before, outcomes }) => {
                    match plan.into_batches(&outcomes) {
                        Some(batches) => self.follower.committed(before, batches),
                        None => self.follower.wake(),
                    }
                    let head = outcomes.iter().flatten().map(|at| at.revision).max();
                    complete_all(group.into_iter().map(|commit| commit.sender).zip(outcomes));
                    // The next group waits for it.
                    if timeout(self.connector.timeout, self.trim(head, bytes as u64)).await.is_err() {
                        tracing::warn!("the log could not be trimmed in time; it is tried again");
                    }
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
        bytes: usize,
    ) -> Result<Applied, StoreError> {
        let ready = match session.take().filter(Session::is_usable) {
            Some(session) => session,
            None => self.connector.writing_session(self.declared).await?,
        };
        let done = self.answer(&ready, plan, bytes).await.and_then(|rows| {
            Applied::of(plan, &rows).map_err(|source| error::lost_commit(Cause::Client { source }))
        });
        // With an answer that is missing or makes no sense the connection may be anywhere: it is not used
        // again.
        if !done.as_ref().is_err_and(StoreError::outcome_unknown) {
            *session = Some(ready);
        }
        done
    }

    /// The rows of a plan, unless it is known that it was not applied, or nothing is.
    async fn answer(&self, session: &Session, plan: &Plan, bytes: usize) -> Result<Vec<Row>, StoreError> {
        session.take_warned();
        let patience = self.connector.timeout / 5;
        let limit = self.connector.timeout + Duration::from_secs(bytes as u64 / BYTES_PER_SECOND);
        let mut answer = pin!(ask(session, plan));
        let (answered, holders) = match timeout(patience, &mut answer).await {
            Ok(answered) => (Ok(answered), None),
            Err(_) => join(timeout(limit - patience, answer), self.holders(session.process)).await,
        };
        let rows = match answered {
            Ok(rows) => rows.map_err(|error| error::commit(error, holders))?,
            Err(_) => return Err(error::lost_commit(Cause::Silent(limit))),
        };
        match session.replicated && session.take_warned() {
            true => Err(error::lost_commit(Cause::Unreplicated)),
            false => Ok(rows),
        }
    }

    /// Sessions for which a session of ours waits, if any.
    async fn holders(&self, process: i32) -> Option<String> {
        // Statements of a pooled connection may have to wait for the same lock before they are prepared.
        let ask = async {
            let client = self.connector.connect(None).await?;
            Ok::<_, Cause>(client.query(include_str!("sql/holders.sql"), &[&process]).await?)
        };
        let rows =
            timeout(self.connector.timeout / 2, ask).await.ok()?.ok().filter(|rows| !rows.is_empty())?;
        let holders: Vec<String> = rows.iter().filter_map(|row| row.try_get(0).ok()).collect();
        let holders = holders.join("; ");
        tracing::warn!(holders, "commits wait for a lock");
        Some(holders)
    }

    /// Forgets the oldest revisions when there are an eighth more than wanted.
    async fn trim(&mut self, head: Option<Revision>, bytes: u64) {
        let (Some(head), kept) = (head, &mut self.retention) else { return };
        kept.unmeasured = kept.unmeasured.saturating_add(bytes);
        let mut before = trim_to(kept.trimmed, head, kept.revisions);
        if kept.unmeasured > kept.bytes / 8 {
            match surplus(&self.readers, kept.bytes).await {
                Ok(surplus) => {
                    kept.unmeasured = 0;
                    before = before.max(surplus);
                }
                Err(error) => tracing::warn!(%error, "the log could not be measured; it is tried again"),
            }
        }
        let Some(before) = before else { return };
        match super::compact(&self.readers, before).await {
            Ok(()) => kept.trimmed = kept.trimmed.max(before),
            Err(error) => tracing::warn!(%error, "the log could not be trimmed; it is tried again"),
        }
    }
}

/// The newest revision that has to go for the log to hold no more than these bytes.
async fn surplus(readers: &Readers, bytes: u64) -> Result<Option<Revision>, StoreError> {
    let bytes = i64::try_from(bytes).unwrap_or(i64::MAX);
    let rows = readers.query("measuring the log", |all| &all.surplus, &[&bytes]).await?;
    let number = rows.first().map(|row| row.try_get(0)).transpose();
    Ok(number.map_err(|error| error::statement("measuring the log", error))?.map(super::revision))
}

/// Has the database decide and apply the plan: one row for each step.
async fn ask(session: &Session, plan: &Plan) -> Result<Vec<Row>, Error> {
    let Session { client, statements, .. } = session;
    let quiet = [plan.quiet()];
    match plan.steps() {
        [step] => client.query(&statements.apply_step, &[&step.parameters()[..], &quiet].concat()).await,
        steps => {
            let steps = Steps::of(steps);
            client.query(&statements.apply_steps, &[&steps.parameters()[..], &quiet].concat()).await
        }
    }
}

/// Outcomes of a plan.
struct Applied {
    /// The newest position of before.
    before: Position,
    /// One for each transaction, in the order of their coming.
    outcomes: Vec<Result<Position, CommitError>>,
}

impl Applied {
    fn of(plan: &Plan, rows: &[Row]) -> Result<Self, Error> {
        let before = rows.first().map(|row| super::position_in(row, 2, 3)).transpose()?.unwrap_or_default();
        let mut outcomes: Vec<_> = std::iter::repeat_with(|| None).take(plan.len()).collect();
        for (step, row) in plan.steps().iter().zip(rows) {
            let revisions: Vec<Option<i64>> = row.try_get(0)?;
            // None when all guards held.
            let failed: Option<Vec<Option<i64>>> = row.try_get(1)?;
            for (txn, revision) in revisions.into_iter().enumerate() {
                let id = step.id_of(txn);
                let guard = || failed.as_ref().and_then(|failed| failed[txn]).unwrap_or(1);
                outcomes[step.index_of(txn)] = Some(match revision {
                    Some(revision) => Ok(Position::of(super::revision(revision), id)),
                    None if guard() == 0 => Err(StoreError::Settled { id }.into()),
                    None => Err(CommitError::Conflict { key: step.guard(guard()).clone() }),
                });
            }
        }
        let each =
            outcomes.into_iter().map(|outcome| outcome.expect("each transaction is applied or failed"));
        Ok(Self { before, outcomes: each.collect() })
    }
}
