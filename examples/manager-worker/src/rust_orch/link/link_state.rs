//! [`LinkState`]: knowledge of the link between two requests, and the part of it that the agent has not been
//! told.

use std::{
    collections::{BTreeMap, BTreeSet, VecDeque},
    num::NonZeroU32,
};

use orch_core::{
    engine::{Assignment, Assignments, Cursor, LinkError},
    model::{AttemptId, Held, NodeSpec, Resources, SharedSpec, TaskId, Timestamp},
    store::{CommitError, Revision},
};
use tokio::time::Instant;
use tracing::{info, warn};

use super::journal::{Journal, TaskState};
use crate::rust_orch::wire::Status;

#[derive(Debug)]
pub(super) struct LinkState {
    pub(super) journal: Journal,
    /// Spec of the node, once it has registered.
    pub(super) node: Option<NodeSpec>,
    /// The manager acknowledged, in this incarnation of the link, that these run.
    pub(super) acknowledged: BTreeSet<TaskId>,
    /// Tasks whose ends were refused; the one that waited longest for another try is in front.
    pub(super) refused: VecDeque<TaskId>,
    pub(super) next_poll: Instant,
    /// Changes of the journal so far, which stand for revisions.
    pub(super) revision: Revision,
    /// Position of the last change; the agent's cursor points behind what it was told.
    position: Cursor,
    /// Changes that the agent may not have been told yet, each with its position.
    changed: BTreeMap<TaskId, u64>,
    /// Last error, so that it is logged once.
    last_error: Option<String>,
}

impl LinkState {
    pub(super) fn new(journal: Journal) -> Self {
        Self {
            refused: journal.refused().collect(),
            journal,
            node: None,
            acknowledged: BTreeSet::new(),
            next_poll: Instant::now(),
            revision: Revision::ZERO,
            position: Cursor { epoch: Timestamp::now().as_millis(), position: 0 },
            changed: BTreeMap::new(),
            last_error: None,
        }
    }

    /// The agent's cursor, if it is of this incarnation.
    pub(super) fn known(&self, after: Option<Cursor>) -> Option<Cursor> {
        after.filter(|after| after.epoch == self.position.epoch)
    }

    pub(super) fn has_sent_all(&self, after: Cursor) -> bool {
        self.changed.values().all(|position| *position <= after.position)
    }

    pub(super) fn everything(&self) -> Assignments {
        let run = self.journal.taken().map(|(task, spec, handle)| assignment(task, spec, handle));
        Assignments { run: run.collect(), ..Assignments::new(self.position, self.revision, true) }
    }

    /// Changes after the cursor. Those up to it are thereby known to be told.
    pub(super) fn changes(&mut self, after: Cursor) -> Assignments {
        self.changed.retain(|_, position| *position > after.position);
        let mut changes = Assignments::new(self.position, self.revision, false);
        for task in self.changed.keys() {
            match self.journal.get(*task) {
                Some(TaskState::Taken { spec, handle }) => {
                    changes.run.push(assignment(*task, spec, handle.as_deref()));
                }
                _ => changes.superseded.push(first(*task)),
            }
        }
        changes
    }

    /// Gives tasks to the agent.
    pub(super) async fn take(&mut self, tasks: BTreeMap<TaskId, SharedSpec>) -> Result<(), LinkError> {
        if tasks.is_empty() {
            return Ok(());
        }
        let ids: Vec<TaskId> = tasks.keys().copied().collect();
        let states = tasks.into_iter().map(|(task, spec)| (task, TaskState::Taken { spec, handle: None }));
        // Written before the agent hears of it: what may have been started is never taken for new.
        self.put(states).await?;
        ids.into_iter().for_each(|task| self.mark_changed(task));
        Ok(())
    }

    /// Notes that a task runs, and as what.
    pub(super) async fn saw_running(&mut self, task: TaskId, running: String) -> Result<(), LinkError> {
        let Some(TaskState::Taken { spec, handle }) = self.journal.get(task) else { return Ok(()) };
        if handle.as_ref() == Some(&running) {
            return Ok(());
        }
        let state = TaskState::Taken { spec: spec.clone(), handle: Some(running) };
        self.put([(task, state)]).await
    }

    /// Notes that a task is over.
    pub(super) async fn end(&mut self, task: TaskId, status: Status) -> Result<(), LinkError> {
        self.put([(task, TaskState::over(status))]).await?;
        self.acknowledged.remove(&task);
        Ok(())
    }

    /// Notes how a task ended, which the manager refused.
    pub(super) async fn keep_refused(&mut self, task: TaskId, status: Status) -> Result<(), LinkError> {
        let Some(TaskState::Taken { handle, .. }) = self.journal.get(task) else { return Ok(()) };
        let state = TaskState::Ended { status, handle: handle.clone(), at: Timestamp::now() };
        self.put([(task, state)]).await?;
        self.refused.push_back(task);
        Ok(())
    }

    /// The manager does not want the task any more: the agent must remove it.
    pub(super) async fn supersede(&mut self, task: TaskId) -> Result<(), LinkError> {
        info!(%task, "the manager does not know this task any more");
        self.end(task, Status::Failed).await?;
        self.mark_changed(task);
        Ok(())
    }

    /// Tasks that were seen running, which the manager has not acknowledged.
    pub(super) fn unacknowledged(&self) -> impl Iterator<Item = TaskId> {
        self.journal
            .taken()
            .filter(|(task, _, handle)| handle.is_some() && !self.acknowledged.contains(task))
            .map(|(task, ..)| task)
    }

    /// Logs what is wrong with the manager's answers when that changes.
    pub(super) fn note(&mut self, last_error: Option<String>) {
        if self.last_error == last_error {
            return;
        }
        match &last_error {
            Some(why) => warn!(%why, "an error in the exchange with the manager"),
            None => info!("the manager answers as it should again"),
        }
        self.last_error = last_error;
    }

    /// Capacity that is left of the node.
    pub(super) fn free_capacity(&self, node: &NodeSpec) -> FreeCapacity {
        let tasks = u32::try_from(self.journal.taken().count()).unwrap_or(u32::MAX);
        let most = if node.last_error.is_some() { 0 } else { node.max_tasks };
        FreeCapacity {
            capacity: node.capacity.clone(),
            tasks: most.saturating_sub(tasks),
            held: self.journal.held(),
        }
    }

    async fn put(&mut self, states: impl IntoIterator<Item = (TaskId, TaskState)>) -> Result<(), LinkError> {
        self.journal.put(states).await.map_err(|error| unwritten(&error))?;
        self.revision = self.revision.next();
        Ok(())
    }

    fn mark_changed(&mut self, task: TaskId) {
        self.position.position += 1;
        self.changed.insert(task, self.position.position);
    }
}

/// Capacity that is left of a node while tasks are taken.
#[derive(Debug)]
pub(super) struct FreeCapacity {
    capacity: Resources,
    /// Number of further tasks.
    tasks: u32,
    held: Held,
}

/// Decision on a task that is listed.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Admission {
    Now,
    /// When others have ended.
    Later,
    /// The node is too small for it.
    Never,
}

impl FreeCapacity {
    pub(super) fn admit(&mut self, request: &Resources) -> Admission {
        if !Held::default().fits(&self.capacity, request) {
            return Admission::Never;
        }
        if self.tasks == 0 || !self.held.fits(&self.capacity, request) {
            // Those behind it wait too, or small tasks would keep a large one out for ever.
            self.tasks = 0;
            return Admission::Later;
        }
        self.tasks -= 1;
        self.held.take(request);
        Admission::Now
    }
}

/// Their tasks are tried once.
pub(super) fn first(task: TaskId) -> AttemptId {
    AttemptId { task, attempt: NonZeroU32::MIN }
}

fn assignment(task: TaskId, spec: &SharedSpec, handle: Option<&str>) -> Assignment {
    Assignment { attempt: first(task), spec: spec.clone(), started: handle.is_some() }
}

fn unwritten(error: &CommitError) -> LinkError {
    LinkError::Unavailable(format!("the journal of tasks cannot be written: {error}"))
}
