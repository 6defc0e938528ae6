//! A worker's way to a manager of rust-orch. That manager knows neither registration nor heartbeats,
//! cancellation or attempts: it lists what is scheduled, and is told what runs, has finished or failed.
//! Everything else is answered here.

mod config;
mod journal;
mod link_state;
mod listing;

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
    time::Duration,
};

use async_trait::async_trait;
use orch_core::{
    engine::{
        Assignments, AssignmentsQuery, ControlLink, LinkError, Observation, ObservationKind, Registered,
        Registration, ReportAnswer, Reported,
    },
    model::{AttemptEnd, Exit, NodeSpec, Report, ReportKind, Session, SharedSpec, TaskId},
    store::StateStore,
};
use orch_net::http::{Call, ClientError, JsonClient};
use serde::Serialize;
use serde_json::Value;
use tokio::{sync::Mutex, time::Instant};
use tracing::{debug, warn};

pub use self::config::{LinkConfig, OpenError};
use self::{
    journal::{Journal, TaskState},
    link_state::{Admission, LinkState, first},
    listing::Listed,
};
use crate::rust_orch::wire::Status;

/// Joins an agent to a manager of rust-orch. The node's id must be the name that this manager gives tasks to;
/// theirs is called `worker-1`.
///
/// A task of theirs is one attempt: what was taken once is never started a second time, whatever the manager
/// lists. For that it keeps a journal in a store, which must be the same after a restart of the worker. At
/// most as much is taken at a time as the node offers; the rest stays listed until there is room.
#[derive(Debug)]
pub struct Link {
    client: JsonClient,
    request_timeout: Duration,
    poll_interval: Duration,
    /// Held while a request is under way, so that an update never crosses a list or another update.
    state: Mutex<LinkState>,
}

/// Update of a worker about a task.
#[derive(Serialize)]
struct Update {
    status: Status,
    container_id: Option<String>,
}

/// Their command line cuts a container's id here, and fails on a shorter one.
const CONTAINER_ID_MIN: usize = 8;

/// Ends that were refused and are said again with one poll; the others have their turn with the next ones.
const AGAIN_MAX: usize = 100;

/// Answer of the manager to an update that it understood.
enum UpdateAnswer {
    Acknowledged,
    /// It does not know the task, or it is no longer this worker's.
    Unknown,
}

impl Link {
    /// Reads the journal. Connects when it is first used.
    ///
    /// # Errors
    /// [`OpenError`] when the configuration cannot work or the journal cannot be read.
    pub async fn open(config: &LinkConfig, store: Arc<dyn StateStore>) -> Result<Self, OpenError> {
        let client = config.client().map_err(OpenError::Config)?;
        let journal = Journal::open(store).await.map_err(OpenError::Journal)?;
        let poll_interval = config.poll_interval.max(Duration::from_millis(10));
        let state = Mutex::new(LinkState::new(journal));
        Ok(Self { client, request_timeout: config.request_timeout, poll_interval, state })
    }

    /// Takes what is new, and repeats what the manager should know by now.
    async fn poll(&self, state: &mut LinkState, node: &NodeSpec) -> Result<(), LinkError> {
        let answer = self.client.once::<Vec<Value>>(&Call::get("/tasks"), self.request_timeout).await;
        let (_, entries) = answer.map_err(|error| refusal(&error))?;
        let (mut complaint, mut free) = (None, state.free_capacity(node));
        let (mut taken, mut over) = (BTreeMap::new(), BTreeMap::new());
        for entry in &entries {
            let (task, spec) = match listing::read(entry, &node.id) {
                Ok(Listed::NotOurs) => continue,
                Ok(Listed::Ours(task, spec)) => (task, spec),
                Err(why) => {
                    complaint = Some(why);
                    continue;
                }
            };
            match (state.journal.get(task), spec) {
                // The update is lost: it has to be said again that it runs.
                (Some(TaskState::Taken { .. } | TaskState::Ended { .. }), _) => {
                    state.acknowledged.remove(&task);
                }
                (Some(TaskState::Over { status, .. }), _) => drop(over.insert(task, *status)),
                (None, _) if taken.contains_key(&task) => {}
                (None, Err(why)) => {
                    warn!(%task, %why, "a task cannot run");
                    over.insert(task, Status::Failed);
                }
                (None, Ok(spec)) => match free.admit(&spec.resources) {
                    Admission::Now => drop(taken.insert(task, SharedSpec::from(*spec))),
                    Admission::Later => {}
                    Admission::Never => {
                        warn!(%task, "a task asks for more than this node has");
                        over.insert(task, Status::Failed);
                    }
                },
            }
        }
        state.take(taken).await?;
        let over = over.into_iter().map(|(task, status)| (task, Some(status)));
        let running: BTreeSet<TaskId> = state.unacknowledged().collect();
        for (task, end) in over.chain(running.into_iter().map(|task| (task, None))) {
            let sent = match end {
                Some(status) => self.send_over(state, task, status).await,
                None => self.send_running(state, task).await,
            };
            match sent {
                // It is about one task only.
                Err(LinkError::Refused(why)) => complaint = Some(format!("task {task}: {why}")),
                sent => sent?,
            }
        }
        for _ in 0..state.refused.len().min(AGAIN_MAX) {
            let Some(&task) = state.refused.front() else { break };
            // It leaves the queue only when that is settled, as this may be given up at any time.
            let sent = match state.journal.get(task) {
                Some(&TaskState::Ended { status, .. }) => self.send_end(state, task, status).await.map(drop),
                _ => Ok(()),
            };
            match sent.is_ok() {
                true => drop(state.refused.pop_front()),
                false => state.refused.rotate_left(1),
            }
            match sent {
                Err(LinkError::Refused(why)) => complaint = Some(format!("how task {task} ended: {why}")),
                sent => sent?,
            }
        }
        state.note(complaint);
        Ok(())
    }

    /// Says how a task ended that never was the agent's, or that is listed though its end was acknowledged.
    async fn send_over(&self, state: &mut LinkState, task: TaskId, status: Status) -> Result<(), LinkError> {
        self.put(task, status, None).await?;
        match state.journal.get(task) {
            Some(_) => Ok(()),
            None => state.end(task, status).await,
        }
    }

    /// Says that a task runs, unless that was acknowledged.
    async fn send_running(&self, state: &mut LinkState, task: TaskId) -> Result<(), LinkError> {
        let Some(
            TaskState::Taken { handle: Some(handle), .. } | TaskState::Ended { handle: Some(handle), .. },
        ) = state.journal.get(task)
        else {
            return Ok(());
        };
        if state.acknowledged.contains(&task) {
            return Ok(());
        }
        match self.put(task, Status::Running, Some(handle)).await? {
            UpdateAnswer::Acknowledged => drop(state.acknowledged.insert(task)),
            UpdateAnswer::Unknown => state.supersede(task).await?,
        }
        Ok(())
    }

    /// Says how a task ended that was the agent's, and before that that it ran.
    async fn send_end(
        &self,
        state: &mut LinkState,
        task: TaskId,
        status: Status,
    ) -> Result<UpdateAnswer, LinkError> {
        match self.send_running(state, task).await {
            // It may know that already; the end is what matters.
            Err(LinkError::Refused(why)) => debug!(%task, %why, "not told that it ran"),
            sent => sent?,
        }
        let Some(TaskState::Taken { handle, .. } | TaskState::Ended { handle, .. }) = state.journal.get(task)
        else {
            return Ok(UpdateAnswer::Unknown);
        };
        let answer = self.put(task, status, handle.as_deref()).await?;
        let ended = match answer {
            UpdateAnswer::Acknowledged => status,
            UpdateAnswer::Unknown => Status::Failed,
        };
        state.end(task, ended).await.map(|()| answer)
    }

    /// Sees to it that what the agent reports is not lost: the manager has it, or the journal.
    async fn settle(&self, state: &mut LinkState, report: &Report) -> Result<ReportAnswer, LinkError> {
        let task = report.attempt.task;
        let seen = match state.journal.get(task) {
            Some(TaskState::Taken { handle, .. }) if report.attempt == first(task) => handle.is_some(),
            Some(TaskState::Ended { .. } | TaskState::Over { .. }) if report.attempt == first(task) => {
                return Ok(ReportAnswer::Accepted);
            }
            _ => return Ok(ReportAnswer::Stale),
        };
        // That it runs is observed, and said then.
        let ReportKind::Ended(end) = &report.kind else { return Ok(ReportAnswer::Accepted) };
        let exit = match end {
            AttemptEnd::Exited { exit } => Some(exit),
            _ => None,
        };
        if !seen && exit.is_some() {
            // It ended too soon to be seen, but it ran: `Failed` by itself says that it could not start.
            state.saw_running(task, task.to_string()).await?;
        }
        let status = match exit.is_some_and(Exit::is_success) {
            true => Status::Complete,
            false => Status::Failed,
        };
        match self.send_end(state, task, status).await {
            Ok(UpdateAnswer::Acknowledged) => Ok(ReportAnswer::Accepted),
            Ok(UpdateAnswer::Unknown) => Ok(ReportAnswer::Stale),
            // It is about one task only: trying the whole batch again would hold up the ends of all others.
            Err(LinkError::Refused(why)) => {
                warn!(%task, %why, "the end of a task is refused; it is said again with each poll");
                state.keep_refused(task, status).await.map(|()| ReportAnswer::Accepted)
            }
            Err(error) => Err(error),
        }
    }

    async fn put(
        &self,
        task: TaskId,
        status: Status,
        container: Option<&str>,
    ) -> Result<UpdateAnswer, LinkError> {
        let container_id = container.map(|id| format!("{id:0>CONTAINER_ID_MIN$}"));
        let call = Call::put(format!("/tasks/{task}/status"), &Update { status, container_id });
        // The status says it all; what else there is in the answer differs.
        match self.client.status(&call, self.request_timeout).await {
            Ok(_) => Ok(UpdateAnswer::Acknowledged),
            Err(error) if matches!(error.status(), Some(404 | 409 | 410)) => Ok(UpdateAnswer::Unknown),
            Err(error) => Err(refusal(&error)),
        }
    }
}

/// The same without what only our own server's problems tell.
fn refusal(error: &ClientError) -> LinkError {
    match error.status() {
        Some(status) if !error.is_retryable() => LinkError::Refused(format!("the manager answered {status}")),
        _ => LinkError::from(error),
    }
}

#[async_trait]
impl ControlLink for Link {
    /// Answered here, like heartbeats: their manager takes every worker that it knows to be there.
    async fn register(&self, registration: Registration) -> Result<Registered, LinkError> {
        let mut state = self.state.lock().await;
        let (node, incarnation) = (registration.spec.id.clone(), registration.incarnation);
        state.node = Some(registration.spec);
        let session = Session { node, incarnation, number: 1 };
        Ok(Registered { session, revision: state.revision, heartbeat_interval: Duration::from_secs(60) })
    }

    async fn heartbeat(&self, _: &Session) -> Result<(), LinkError> {
        Ok(())
    }

    async fn assignments(&self, _: &Session, query: AssignmentsQuery) -> Result<Assignments, LinkError> {
        let mut state = self.state.lock().await;
        // What the journal names is taken over even while the manager is away.
        let Some(after) = state.known(query.after) else { return Ok(state.everything()) };
        if state.has_sent_all(after) {
            let due = state.next_poll;
            drop(state);
            tokio::time::sleep_until(due).await;
            state = self.state.lock().await;
            state.next_poll = Instant::now() + self.poll_interval;
            let node = state.node.clone().ok_or(LinkError::NotRegistered)?;
            if let Err(error) = self.poll(&mut state, &node).await {
                state.note(Some(error.to_string()));
                if state.has_sent_all(after) {
                    return Err(LinkError::Unavailable(error.to_string()));
                }
            }
        }
        Ok(state.changes(after))
    }

    async fn report(&self, _: &Session, reports: Vec<Report>) -> Result<Reported, LinkError> {
        let mut state = self.state.lock().await;
        let mut answers = Vec::with_capacity(reports.len());
        for report in &reports {
            answers.push(self.settle(&mut state, report).await?);
        }
        Ok(Reported { revision: state.revision, answers })
    }

    /// Their manager can only be told that a task runs. Where that does not get through it is said again with
    /// each poll, so that output does not wait for it.
    async fn observe(&self, _: &Session, observations: Vec<Observation>) -> Result<(), LinkError> {
        let mut state = self.state.lock().await;
        for Observation { attempt, kind } in observations {
            let ObservationKind::Running { handle, .. } = kind else { continue };
            if attempt != first(attempt.task) {
                continue;
            }
            state.saw_running(attempt.task, handle).await?;
            if let Err(error) = self.send_running(&mut state, attempt.task).await {
                debug!(%attempt, %error, "not told that it runs; trying again");
            }
        }
        Ok(())
    }
}
