//! The engine's operations behind the routes, and without them: [`Embedded`].

use std::{io, sync::Arc, time::Duration};

use async_trait::async_trait;
use futures_util::{StreamExt as _, stream};
use orch_core::{
    Orchestrator,
    engine::{OutputRange, TaskFilter, TaskView, Unknown},
    model::{CommandId, NodeId, TaskId},
    state::{self, Outcome, TaskStatus},
};
use sha2::{Digest, Sha256};

use super::{
    app::Advice,
    events::slow,
    operations::{Api, Events, OutputChunks},
    problems::kinds,
};
use crate::http::{
    client::{ClientError, EventStart, Positioned},
    shell::Problem,
    wire::{ConsensusInfo, Explanation, NewTask, NodeInfo, StatusInfo, TaskInfo, TaskPage},
};

/// Most tasks of one answer that are explained; explaining asks the scheduler about every node.
const EXPLAINED_MAX: usize = 100;
/// The most tasks of a page.
pub(super) const PAGE_MAX: usize = 1000;
/// The most JSON of a page with several tasks.
const PAGE_BYTES_MAX: usize = 4 << 20;

type Result<T> = std::result::Result<T, Problem>;
type Answer<T> = std::result::Result<T, ClientError>;

/// An orchestrator of this process as an [`Api`]: what a server answers, without the server. Nobody is
/// authenticated.
#[derive(Clone, Debug)]
pub struct Embedded {
    orchestrator: Orchestrator,
    advice: Arc<[Arc<dyn Advice>]>,
}

impl Embedded {
    /// The operations of this orchestrator.
    #[must_use]
    pub fn new(orchestrator: Orchestrator) -> Self {
        Self::advised(orchestrator, Vec::new())
    }

    pub(super) fn advised(orchestrator: Orchestrator, advice: Vec<Arc<dyn Advice>>) -> Self {
        Self { orchestrator, advice: advice.into() }
    }

    pub(super) fn orchestrator(&self) -> &Orchestrator {
        &self.orchestrator
    }

    pub(super) async fn take(&self, command: CommandId, tasks: Vec<NewTask>) -> Result<Vec<TaskInfo>> {
        let numbered = tasks.into_iter().enumerate();
        let new: Vec<state::NewTask> = numbered
            .map(|(at, task)| state::NewTask {
                id: task.id.unwrap_or_else(|| derived_id(command, at)),
                spec: task.spec.into(),
            })
            .collect();
        let ids: Vec<TaskId> = new.iter().map(|task| task.id).collect();
        self.orchestrator.submit_as(command, new).await?;
        if ids.iter().any(|id| self.orchestrator.get(*id).is_none()) {
            // Decided elsewhere in the cluster, and not visible here yet.
            self.orchestrator.read_barrier().await?;
        }
        let mut tasks = Vec::with_capacity(ids.len());
        for (at, id) in ids.into_iter().enumerate() {
            let mut task = TaskInfo::from(self.known(id)?);
            if at < EXPLAINED_MAX {
                task.explanation = self.explanation(id)?;
            }
            tasks.push(task);
        }
        Ok(tasks)
    }

    /// A page, with the total and the reasons where they are asked for.
    pub(super) fn page(&self, mut filter: TaskFilter, count: bool, explain: bool) -> Result<TaskPage> {
        if !(1..=PAGE_MAX).contains(&filter.limit) {
            let detail = format!("limit must be from 1 to {PAGE_MAX}");
            return Err(Problem::new(kinds::MALFORMED, detail).at("limit"));
        }
        // One more than asked for tells whether there is another page.
        let wanted = filter.limit;
        filter.limit += 1;
        let mut tasks = self.orchestrator.list(&filter);
        let more = tasks.len() > wanted;
        tasks.truncate(wanted);
        let fit = how_many_fit(&tasks);
        let more = more || fit < tasks.len();
        tasks.truncate(fit);
        let next = tasks.last().filter(|_| more).map(|task| task.record.seq);
        let total = count.then(|| self.orchestrator.count(&filter));
        let mut tasks: Vec<TaskInfo> = tasks.into_iter().map(TaskInfo::from).collect();
        if explain {
            let pending = tasks.iter_mut().filter(|task| task.status == TaskStatus::Pending);
            for task in pending.take(EXPLAINED_MAX) {
                // A task that was forgotten meanwhile waits for nothing.
                task.explanation = self.explanation(task.view.record.id).ok().flatten();
            }
        }
        Ok(TaskPage { tasks, next, total })
    }

    pub(super) fn known(&self, task: TaskId) -> Result<TaskView> {
        self.orchestrator.get(task).ok_or_else(|| orch_core::Error::from(Unknown::Task(task)).into())
    }

    pub(super) fn known_node(&self, node: NodeId) -> Result<NodeInfo> {
        let known = self.orchestrator.node(&node).ok_or(orch_core::Error::from(Unknown::Node(node)))?;
        Ok(known.into())
    }

    pub(super) fn explanation(&self, task: TaskId) -> Result<Option<Explanation>> {
        let Some(unplaced) = self.orchestrator.explain(task)? else { return Ok(None) };
        let mut explanation = Explanation::from(unplaced);
        let spec = self.orchestrator.get(task).map(|task| task.record.spec.clone());
        for why in spec.iter().flat_map(|spec| self.advice.iter().filter_map(|advice| advice.on(spec))) {
            explanation.text = format!("{}. {why}", explanation.text);
        }
        Ok(Some(explanation))
    }

    pub(super) fn all_nodes(&self) -> Vec<NodeInfo> {
        self.orchestrator.nodes().into_iter().map(NodeInfo::from).collect()
    }

    pub(super) fn summary(&self) -> StatusInfo {
        let status = self.orchestrator.status();
        StatusInfo {
            version: env!("CARGO_PKG_VERSION").into(),
            revision: status.revision,
            tasks: status.tasks,
            scheduler_error: status.scheduler_error,
            consensus: ConsensusInfo {
                applied: status.consensus.applied,
                leader: status.consensus.leader,
                members: status.consensus.members.iter().map(ToString::to_string).collect(),
                last_error: status.consensus.last_error,
                lost_history: status.consensus.lost_history,
            },
        }
    }
}

/// Errors of the orchestrator, as its server would have answered them.
fn refused(error: impl Into<Problem>) -> ClientError {
    ClientError::Problem(Box::new(error.into().info()))
}

#[async_trait]
impl Api for Embedded {
    async fn submit(&self, command: CommandId, tasks: Vec<NewTask>) -> Answer<Vec<TaskInfo>> {
        self.take(command, tasks).await.map_err(refused)
    }

    async fn task(&self, task: TaskId) -> Answer<TaskInfo> {
        self.known(task).map(TaskInfo::from).map_err(refused)
    }

    async fn tasks(&self, filter: &TaskFilter) -> Answer<TaskPage> {
        self.page(filter.clone(), false, false).map_err(refused)
    }

    async fn tasks_with_reasons(&self, filter: &TaskFilter) -> Answer<TaskPage> {
        self.page(filter.clone(), true, true).map_err(refused)
    }

    async fn cancel(&self, task: TaskId, reason: &str) -> Answer<Outcome> {
        self.orchestrator.cancel(task, reason).await.map_err(refused)
    }

    async fn wait(&self, task: TaskId) -> Answer<TaskInfo> {
        self.orchestrator.wait(task).await.map(TaskInfo::from).map_err(refused)
    }

    async fn output(&self, task: TaskId, range: OutputRange) -> Answer<OutputChunks> {
        let reader = self.orchestrator.logs_in(task, range).await.map_err(refused)?;
        let chunks = stream::unfold(reader, async |mut reader| Some((reader.next().await?, reader)));
        Ok(chunks.map(|chunk| chunk.map_err(refused)).boxed())
    }

    async fn explain(&self, task: TaskId) -> Answer<Option<Explanation>> {
        self.known(task).and_then(|_| self.explanation(task)).map_err(refused)
    }

    async fn events(&self, from: EventStart) -> Answer<Events> {
        let events = match from {
            EventStart::Now => self.orchestrator.events(),
            EventStart::After(revision) => self.orchestrator.events_from(revision).map_err(refused)?,
            EventStart::Position(text) => {
                let wrong =
                    || Problem::new(kinds::MALFORMED, "it must be the position of an event").at("position");
                let position = text.parse().map_err(|_| refused(wrong()))?;
                self.orchestrator.events_at(position).map_err(refused)?
            }
        };
        let stream = stream::unfold((events, false), async |(mut events, over)| {
            if over {
                return None;
            }
            Some(match events.next().await? {
                Ok(event) => {
                    let position = events.position().to_string();
                    (Ok(Positioned { position, event }), (events, false))
                }
                Err(error) => (Err(refused(slow(error))), (events, true)),
            })
        });
        Ok(stream.boxed())
    }

    async fn nodes(&self) -> Answer<Vec<NodeInfo>> {
        Ok(self.all_nodes())
    }

    async fn node(&self, node: &NodeId) -> Answer<NodeInfo> {
        self.known_node(node.clone()).map_err(refused)
    }

    async fn cordon(&self, node: &NodeId) -> Answer<Outcome> {
        self.orchestrator.cordon(node).await.map_err(refused)
    }

    async fn uncordon(&self, node: &NodeId) -> Answer<Outcome> {
        self.orchestrator.uncordon(node).await.map_err(refused)
    }

    async fn drain(&self, node: &NodeId, grace: Duration) -> Answer<Outcome> {
        self.orchestrator.drain(node, grace).await.map_err(refused)
    }

    async fn remove(&self, node: &NodeId) -> Answer<Outcome> {
        self.orchestrator.remove(node).await.map_err(refused)
    }

    async fn status(&self) -> Answer<StatusInfo> {
        Ok(self.summary())
    }
}

/// Number of these tasks that a page has: so many that their JSON stays below [`PAGE_BYTES_MAX`], and one at
/// least.
fn how_many_fit(tasks: &[TaskView]) -> usize {
    let mut bytes = Length(0);
    let fit = tasks.iter().take_while(|task| {
        serde_json::to_writer(&mut bytes, task).expect("plain data has a JSON form");
        bytes.0 <= PAGE_BYTES_MAX
    });
    fit.count().max(1)
}

/// Counts what is written to it.
struct Length(usize);

impl io::Write for Length {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0 += bytes.len();
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// The id of the task at place `at` of a submission that names none. Derived, so that the submission may be
/// repeated.
fn derived_id(command: CommandId, at: usize) -> TaskId {
    let mut hash = Sha256::new();
    hash.update(b"orch task id\0");
    hash.update(command.as_bytes());
    hash.update((at as u64).to_be_bytes());
    let digest = hash.finalize();
    let mut bytes = [0; 16];
    bytes.copy_from_slice(&digest[..16]);
    TaskId::from_bytes(*uuid::Builder::from_custom_bytes(bytes).as_uuid().as_bytes())
}
