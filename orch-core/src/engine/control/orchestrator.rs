//! [`Orchestrator`]: the control side, as a library.

use std::{
    collections::BTreeMap,
    ops::Deref,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use tokio::sync::{Mutex, watch};

use super::{
    config::EngineConfig,
    error::{Error, Result, Unknown},
    event_stream::EventStream,
    local_link::LocalLink,
    lost_output::LostOutput,
    output::{OutputRange, OutputReader},
    proposer::Proposer,
    tasks::{TaskFilter, TaskView},
    view::View,
};
use crate::{
    consensus::{Consensus, ConsensusStatus},
    engine::{agent::AgentHandle, link::ControlLink},
    model::{CommandId, NodeId, TaskId, TaskSpec},
    output::OutputStore,
    scheduler::{Guarded, NodeView, Pending, Scheduler as _, Snapshot, Unplaced},
    state::{Command, Envelope, NewTask, Outcome, TaskState, TaskStatus},
    store::{Revision, StateStore},
};

/// An orchestrator: accepts tasks, places them on nodes and sees them through. Cheap to clone; all clones are
/// one orchestrator.
///
/// [`Orchestrator::shutdown`] ends it in good order. Dropping the last clone without it ends it too, soon
/// afterwards, as a crash of the process would: what runs on a node of this process is left to the node's
/// next incarnation.
///
/// ```
/// # fn main() -> orch_core::Result<()> { orch_core::block_on(async {
/// use orch_core::{Orchestrator, model::TaskSpec, state::TaskStatus};
///
/// let orch = Orchestrator::local().await?;
/// let task = orch.submit(TaskSpec::program("hello", "echo").args(["hello", "world"])).await?;
/// let done = orch.wait(task).await?;
/// assert_eq!(done.status(), TaskStatus::Succeeded);
/// assert_eq!(orch.logs(task, false).await?.text().await?, "hello world\n");
/// orch.shutdown().await
/// # }) }
/// ```
#[derive(Clone, Debug)]
pub struct Orchestrator {
    inner: Arc<Owner>,
}

/// Held by the clones and by nothing else. When the last one is gone, what goes on in the background ends,
/// and with it the last use of the parts.
#[derive(Debug)]
struct Owner(Parts);

impl Deref for Owner {
    type Target = Parts;

    fn deref(&self) -> &Parts {
        &self.0
    }
}

impl Drop for Owner {
    fn drop(&mut self) {
        self.stop.send_replace(true);
        self.view.close();
        // Nobody holds the lock: whoever could wait for it holds a clone.
        if let Ok(mut agent) = self.agent.try_lock()
            && let Some(agent) = agent.take()
        {
            agent.dismiss();
        }
    }
}

/// Parts of an orchestrator that run, as the builder has put them together.
#[derive(Debug)]
pub(super) struct Parts {
    pub(super) consensus: Arc<dyn Consensus>,
    pub(super) proposer: Arc<Proposer>,
    pub(super) scheduler: Arc<Guarded>,
    /// Of decisions and of observations; often the same.
    pub(super) stores: [Arc<dyn StateStore>; 2],
    pub(super) output: Arc<dyn OutputStore>,
    pub(super) lost: Arc<LostOutput>,
    pub(super) view: Arc<View>,
    pub(super) link: Arc<LocalLink>,
    pub(super) config: EngineConfig,
    pub(super) closing: AtomicBool,
    /// Ends the driver and all calls of agents.
    pub(super) stop: watch::Sender<bool>,
    pub(super) driver: Mutex<Option<tokio::task::JoinHandle<()>>>,
    pub(super) agent: Mutex<Option<AgentHandle>>,
}

/// Status of an orchestrator.
#[derive(Clone, Debug)]
pub struct Status {
    /// The last decision that is visible here.
    pub revision: Revision,
    /// Tasks by status.
    pub tasks: BTreeMap<TaskStatus, u64>,
    /// Status of the consensus.
    pub consensus: ConsensusStatus,
    /// Last error of the scheduler, until a plan succeeds.
    pub scheduler_error: Option<String>,
}

impl Orchestrator {
    pub(super) fn new(parts: Parts) -> Self {
        Self { inner: Arc::new(Owner(parts)) }
    }

    /// Starts the agent of this process and waits for its registration.
    pub(super) async fn start_agent(
        &self,
        start: impl FnOnce(Arc<dyn ControlLink>) -> AgentHandle,
    ) -> Result<()> {
        // In its place before anything is waited for: should this future be dropped, the agent must end.
        let mut agent = self.inner.agent.lock().await;
        let registered = agent.insert(start(self.link())).registered().await;
        drop(agent);
        if let Err(error) = registered {
            // Nobody would be left to end what was started.
            self.shutdown().await?;
            return Err(Error::Agent(error.to_string()));
        }
        Ok(())
    }

    /// Submits a task and returns its id as soon as that is durable.
    ///
    /// # Errors
    /// [`Error::Rejected`] when the spec cannot be accepted; nothing happened then.
    pub async fn submit(&self, spec: TaskSpec) -> Result<TaskId> {
        let id = self.inner.proposer.new_task_id();
        self.submit_as(self.inner.proposer.new_command_id(), vec![NewTask { id, spec: spec.into() }]).await?;
        Ok(id)
    }

    /// Submits several tasks, all or none.
    ///
    /// # Errors
    /// [`Error::Rejected`] when one of the specs cannot be accepted; nothing happened then.
    pub async fn submit_all(&self, specs: impl IntoIterator<Item = TaskSpec>) -> Result<Vec<TaskId>> {
        let new = |spec: TaskSpec| NewTask { id: self.inner.proposer.new_task_id(), spec: spec.into() };
        let tasks: Vec<NewTask> = specs.into_iter().map(new).collect();
        let ids = tasks.iter().map(|task| task.id).collect();
        self.submit_as(self.inner.proposer.new_command_id(), tasks).await?;
        Ok(ids)
    }

    /// Submits tasks under ids of the caller's. Repeating the call with the same command id is harmless.
    ///
    /// # Errors
    /// [`Error::Rejected`] when one of the tasks cannot be accepted; nothing happened then.
    pub async fn submit_as(&self, command: CommandId, tasks: Vec<NewTask>) -> Result<Outcome> {
        if self.inner.closing.load(Ordering::Relaxed) {
            return Err(Error::ShuttingDown);
        }
        let envelope = Envelope::identified(command, Command::Submit { tasks });
        Ok(self.inner.proposer.decide(envelope).await?.outcome)
    }

    /// The task as it is now.
    #[must_use]
    pub fn get(&self, task: TaskId) -> Option<TaskView> {
        self.inner.view.task(task)
    }

    /// Tasks in order of submission, or the other way round.
    #[must_use]
    pub fn list(&self, filter: &TaskFilter) -> Vec<TaskView> {
        self.inner.view.list(filter)
    }

    /// Number of tasks that match, whatever the filter's page and limit.
    #[must_use]
    pub fn count(&self, filter: &TaskFilter) -> u64 {
        self.inner.view.count(filter)
    }

    /// Takes a task back. A pending one is over at once, a running one when its node has stopped it.
    ///
    /// # Errors
    /// [`Error::Rejected`] when it is not known or over already.
    pub async fn cancel(&self, task: TaskId, reason: impl Into<String>) -> Result<Outcome> {
        self.command(Command::Cancel { task, reason: reason.into() }).await
    }

    /// Waits until the task has finished. Cancel safe.
    ///
    /// # Errors
    /// [`Error::Unknown`] when it is not known, or was forgotten meanwhile; [`Error::ShuttingDown`] when the
    /// orchestrator ends before the task does.
    pub async fn wait(&self, task: TaskId) -> Result<TaskView> {
        if let Some(finished) = self.inner.view.finished(task) {
            finished.await.map_err(|_| Error::ShuttingDown)?;
        }
        self.get(task).ok_or_else(|| Unknown::Task(task).into())
    }

    /// The task's output. With `follow` the reader goes on until the task has finished, through all its
    /// attempts.
    ///
    /// # Errors
    /// [`Error::Unknown`] when the task is not known.
    pub async fn logs(&self, task: TaskId, follow: bool) -> Result<OutputReader> {
        self.logs_in(task, OutputRange { follow, ..OutputRange::default() }).await
    }

    /// A part of the task's output.
    ///
    /// # Errors
    /// As [`Orchestrator::logs`].
    pub async fn logs_in(&self, task: TaskId, range: OutputRange) -> Result<OutputReader> {
        if self.get(task).is_none() {
            return Err(Unknown::Task(task).into());
        }
        let reader = OutputReader::open(self.inner.output.clone(), &self.inner.view, task, range).await?;
        Ok(reader.with_losses(self.inner.lost.clone()))
    }

    /// Reasons why the task is pending; `None` when it is not.
    ///
    /// # Errors
    /// [`Error::Unknown`] when it is not known.
    pub fn explain(&self, task: TaskId) -> Result<Option<Unplaced>> {
        let known = self.get(task).ok_or(Unknown::Task(task))?;
        if !matches!(known.record.state, TaskState::Pending { .. }) {
            return Ok(None);
        }
        // A policy may take long: it looks at nodes of its own, while decisions go on.
        let (nodes, record) = (self.inner.view.nodes(), &known.record);
        let pending = [Pending { task: record.id, spec: &record.spec, avoid: None }];
        let plan = self.inner.scheduler.plan(Snapshot { nodes: &nodes, explain: true }, &pending);
        Ok(plan.unplaced.into_iter().next())
    }

    /// Events from now on.
    #[must_use]
    pub fn events(&self) -> EventStream {
        let last = self.inner.view.last_event();
        EventStream::after(self.inner.view.clone(), last)
    }

    /// Events after `revision`, without a gap.
    ///
    /// # Errors
    /// [`Error::EventsCompacted`] when they are no longer kept, or the revision is of the future.
    pub fn events_from(&self, revision: Revision) -> Result<EventStream> {
        // Of the future nothing is known: it is a revision of another incarnation of the cluster.
        let known = self.inner.view.revision();
        if revision > known && revision > self.inner.consensus.status().applied {
            return Err(Error::EventsCompacted { oldest: known });
        }
        let number =
            self.inner.view.event_number(revision).map_err(|oldest| Error::EventsCompacted { oldest })?;
        Ok(EventStream::after(self.inner.view.clone(), number))
    }

    /// Events from a position of this orchestrator on, without a gap or a repetition, where
    /// [`Orchestrator::events_from`] goes on at the end of a revision.
    ///
    /// # Errors
    /// [`Error::EventsCompacted`] when they are no longer kept, or have not happened in this incarnation.
    pub fn events_at(&self, position: u64) -> Result<EventStream> {
        let view = &self.inner.view;
        match view.events_after(position, 0) {
            Ok(_) if position <= view.last_event() => Ok(EventStream::after(view.clone(), position)),
            _ => Err(Error::EventsCompacted { oldest: view.revision() }),
        }
    }

    /// All nodes in order of their ids, with what their tasks hold.
    #[must_use]
    pub fn nodes(&self) -> Vec<NodeView> {
        self.inner.view.nodes()
    }

    /// A node, with what its tasks hold.
    #[must_use]
    pub fn node(&self, node: &NodeId) -> Option<NodeView> {
        self.inner.view.node(node).map(Arc::unwrap_or_clone)
    }

    /// Lets a node keep what it has and take nothing new.
    ///
    /// # Errors
    /// [`Error::Rejected`] when it is not known.
    pub async fn cordon(&self, node: &NodeId) -> Result<Outcome> {
        self.command(Command::CordonNode { node: node.clone() }).await
    }

    /// Lets a node take new work again.
    ///
    /// # Errors
    /// [`Error::Rejected`] when it is not known.
    pub async fn uncordon(&self, node: &NodeId) -> Result<Outcome> {
        self.command(Command::UncordonNode { node: node.clone() }).await
    }

    /// Empties a node: it takes nothing new, and what is still there when `grace` is over is stopped and
    /// tried elsewhere. Returns when that is decided; [`Orchestrator::drained`] waits for it to have
    /// happened.
    ///
    /// # Errors
    /// [`Error::Rejected`] when it is not known.
    pub async fn drain(&self, node: &NodeId, grace: Duration) -> Result<Outcome> {
        self.command(Command::DrainNode { node: node.clone(), grace }).await
    }

    /// Waits until a node has no tasks. Cancel safe.
    ///
    /// # Errors
    /// [`Error::Unknown`] when it is not known, or was removed meanwhile.
    pub async fn drained(&self, node: &NodeId) -> Result<()> {
        let mut changed = self.inner.view.events.subscribe();
        loop {
            changed.borrow_and_update();
            match self.inner.view.node(node) {
                None => return Err(Unknown::Node(node.clone()).into()),
                Some(view) if view.tasks == 0 => return Ok(()),
                Some(_) if self.inner.view.is_closed() => return Err(Error::ShuttingDown),
                Some(_) => changed.changed().await.map_err(|_| Error::ShuttingDown)?,
            }
        }
    }

    /// Forgets a node that is lost or empty.
    ///
    /// # Errors
    /// [`Error::Rejected`] when it is not known or has tasks.
    pub async fn remove(&self, node: &NodeId) -> Result<Outcome> {
        let outcome = self.command(Command::RemoveNode { node: node.clone() }).await?;
        self.inner.view.mailboxes.forget(node);
        Ok(outcome)
    }

    /// Its status.
    #[must_use]
    pub fn status(&self) -> Status {
        Status {
            revision: self.inner.view.revision(),
            tasks: self.inner.view.count_by_status(),
            consensus: self.inner.consensus.status(),
            scheduler_error: self.inner.scheduler.last_error(),
        }
    }

    /// Waits until everything that was decided anywhere before the call is visible here.
    ///
    /// # Errors
    /// [`Error::Consensus`] when that cannot be found out.
    pub async fn read_barrier(&self) -> Result<Revision> {
        Ok(self.inner.proposer.barrier().await?)
    }

    /// Link for agents in this process. It does not keep the orchestrator; when that has ended, every call
    /// answers [`LinkError::Closed`](crate::engine::LinkError::Closed), and its agent ends and leaves what
    /// runs to its next incarnation.
    #[must_use]
    pub fn link(&self) -> Arc<dyn ControlLink> {
        self.inner.link.weak()
    }

    /// Takes no more submissions, lets what runs in this process end within
    /// [`EngineConfig::shutdown_grace`], stops what is left (it is tried again after a restart, where state
    /// is durable), and makes everything durable. Calling it twice is no error.
    ///
    /// # Errors
    /// [`Error::Store`] or [`Error::Output`] when the end could not be made durable.
    pub async fn shutdown(&self) -> Result<()> {
        self.inner.closing.store(true, Ordering::Relaxed);
        {
            // It stays where it is until it has drained: should this future be dropped, somebody else can end
            // it.
            let mut agent = self.inner.agent.lock().await;
            if let Some(agent) = agent.as_mut() {
                agent.drain_within(self.inner.config.shutdown_grace).await;
            }
            *agent = None;
        }
        self.inner.stop.send_replace(true);
        if let Some(driver) = self.inner.driver.lock().await.take() {
            let _ = driver.await;
        }
        self.inner.consensus.shutdown().await;
        self.inner.view.close();
        let synced = self.inner.output.sync().await;
        // A store that members share is the host's to close: others may go on.
        if !self.inner.consensus.capabilities().shares_store() {
            for store in &self.inner.stores {
                store.close().await?;
            }
        }
        Ok(synced?)
    }

    async fn command(&self, command: Command) -> Result<Outcome> {
        Ok(self.inner.proposer.command(command).await?.outcome)
    }
}
