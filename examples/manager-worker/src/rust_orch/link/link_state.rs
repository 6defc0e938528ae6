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

use super::journal::{Journal, Life};
use crate::rust_orch::wire::Status;

#[derive(Debug)]
pub(super) struct LinkState {
    pub(super) journal: Journal,
    /// Spec of the node, once it has registered.
    pub(super) node: Option<NodeSpec>,
    /// The manager acknowledged, in this life of the link, that these run.
    pub(super) acknowledged: BTreeSet<TaskId>,
    /// Their ends were refused; who waited longest for another try is in front.
    pub(super) refused: VecDeque<TaskId>,
    pub(super) next_poll: Instant,
    /// Changes of the journal so far, which stand for revisions.
    pub(super) revision: Revision,
    /// Position of the last change; the agent's cursor points behind what it was told.
    position: Cursor,
    /// Changes that the agent may not have been told yet, each with its position.
    news: BTreeMap<TaskId, u64>,
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
            news: BTreeMap::new(),
            last_error: None,
        }
    }

    /// The agent's cursor, if it is of this life.
    pub(super) fn known(&self, after: Option<Cursor>) -> Option<Cursor> {
        after.filter(|after| after.epoch == self.position.epoch)
    }

    pub(super) fn has_told_all(&self, after: Cursor) -> bool {
        self.news.values().all(|changed| *changed <= after.position)
    }

    pub(super) fn everything(&self) -> Assignments {
        let run = self.journal.taken().map(|(task, spec, handle)| assignment(task, spec, handle));
        Assignments { run: run.collect(), ..Assignments::new(self.position, self.revision, true) }
    }

    /// Changes after the cursor. Those up to it are thereby known to be told.
    pub(super) fn changes(&mut self, after: Cursor) -> Assignments {
        self.news.retain(|_, changed| *changed > after.position);
        let mut changes = Assignments::new(self.position, self.revision, false);
        for task in self.news.keys() {
            match self.journal.get(*task) {
                Some(Life::Taken { spec, handle }) => {
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
        let lives = tasks.into_iter().map(|(task, spec)| (task, Life::Taken { spec, handle: None }));
        // Written before the agent hears of it: what may have been started is never taken for new.
        self.put(lives).await?;
        ids.into_iter().for_each(|task| self.tell(task));
        Ok(())
    }

    /// Notes that a task runs, and as what.
    pub(super) async fn saw_running(&mut self, task: TaskId, running: String) -> Result<(), LinkError> {
        let Some(Life::Taken { spec, handle }) = self.journal.get(task) else { return Ok(()) };
        if handle.as_ref() == Some(&running) {
            return Ok(());
        }
        let life = Life::Taken { spec: spec.clone(), handle: Some(running) };
        self.put([(task, life)]).await
    }

    /// Notes that a task is over.
    pub(super) async fn end(&mut self, task: TaskId, status: Status) -> Result<(), LinkError> {
        self.put([(task, Life::over(status))]).await?;
        self.acknowledged.remove(&task);
        Ok(())
    }

    /// Notes how a task ended that the manager refuses to hear of.
    pub(super) async fn put_off(&mut self, task: TaskId, status: Status) -> Result<(), LinkError> {
        let Some(Life::Taken { handle, .. }) = self.journal.get(task) else { return Ok(()) };
        let life = Life::Ended { status, handle: handle.clone(), at: Timestamp::now() };
        self.put([(task, life)]).await?;
        self.refused.push_back(task);
        Ok(())
    }

    /// The manager does not want the task any more: the agent must remove it.
    pub(super) async fn void(&mut self, task: TaskId) -> Result<(), LinkError> {
        info!(%task, "the manager does not know this task any more");
        self.end(task, Status::Failed).await?;
        self.tell(task);
        Ok(())
    }

    /// Tasks that were seen running, which the manager has not acknowledged.
    pub(super) fn unsaid(&self) -> impl Iterator<Item = TaskId> {
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
            Some(why) => warn!(%why, "last_error with the manager"),
            None => info!("the manager answers as it should again"),
        }
        self.last_error = last_error;
    }

    /// Capacity that is left of the node.
    pub(super) fn room(&self, node: &NodeSpec) -> Room {
        let tasks = u32::try_from(self.journal.taken().count()).unwrap_or(u32::MAX);
        let most = if node.last_error.is_some() { 0 } else { node.max_tasks };
        Room { capacity: node.capacity.clone(), tasks: most.saturating_sub(tasks), held: self.journal.held() }
    }

    async fn put(&mut self, lives: impl IntoIterator<Item = (TaskId, Life)>) -> Result<(), LinkError> {
        self.journal.put(lives).await.map_err(|error| unwritten(&error))?;
        self.revision = self.revision.next();
        Ok(())
    }

    fn tell(&mut self, task: TaskId) {
        self.position.position += 1;
        self.news.insert(task, self.position.position);
    }
}

/// Capacity that is left of a node while tasks are taken.
#[derive(Debug)]
pub(super) struct Room {
    capacity: Resources,
    /// Number of further tasks.
    tasks: u32,
    held: Held,
}

/// Whether a task is taken.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Admission {
    Now,
    /// When others have ended.
    Later,
    /// The node is too small for it.
    Never,
}

impl Room {
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
