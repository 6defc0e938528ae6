//! The [`Api`] trait.

use std::{fmt, time::Duration};

use async_trait::async_trait;
use futures_util::stream::BoxStream;
use orch_core::{
    engine::{OutputChunk, OutputRange, TaskFilter},
    model::{CommandId, NodeId, TaskId, TaskSpec},
    state::Outcome,
};

use crate::http::{
    client::{Client, ClientError, EventStart, Positioned},
    wire::{Explanation, NewTask, NodeInfo, StatusInfo, TaskInfo, TaskPage},
};

type Result<T> = std::result::Result<T, ClientError>;

/// Output of a task in the order in which it arrived.
pub type OutputChunks = BoxStream<'static, Result<OutputChunk>>;
/// Events in their order.
pub type Events = BoxStream<'static, Result<Positioned>>;

/// Operations of people and programs on a cluster, wherever it is: [`Client`] calls a server, and
/// [`Embedded`](super::Embedded) an orchestrator of this process. A command line or a page written over it
/// serves both.
///
/// Errors are [`ClientError`] in both cases; refusals of the cluster are [`ClientError::Problem`] with the
/// same codes. Any future may be dropped; what it asked for may happen all the same.
///
/// ```
/// # orch_core::block_on(async {
/// use orch_core::{Orchestrator, engine::TaskFilter, model::TaskSpec};
/// use orch_net::http::{Api, Embedded};
///
/// let orchestrator = Orchestrator::builder().build().await.unwrap();
/// let api: Box<dyn Api> = Box::new(Embedded::new(orchestrator));
/// api.submit_one(TaskSpec::image("hello", "busybox")).await.unwrap();
/// assert_eq!(api.tasks(&TaskFilter { limit: 10, ..TaskFilter::default() }).await.unwrap().tasks.len(), 1);
/// # });
/// ```
#[async_trait]
pub trait Api: fmt::Debug + Send + Sync {
    /// Submits tasks, all or none. Repeating the call with the same command id is harmless.
    async fn submit(&self, command: CommandId, tasks: Vec<NewTask>) -> Result<Vec<TaskInfo>>;

    /// Submits one task.
    async fn submit_one(&self, spec: TaskSpec) -> Result<TaskInfo> {
        let tasks = self.submit(CommandId::generate(), vec![spec.into()]).await?;
        tasks.into_iter().next().ok_or_else(|| ClientError::Protocol("no task in the answer".into()))
    }

    /// The task as it is now.
    async fn task(&self, task: TaskId) -> Result<TaskInfo>;

    /// A page of tasks in the filter's order. The filter's limit is from 1 to 1000.
    async fn tasks(&self, filter: &TaskFilter) -> Result<TaskPage>;

    /// The same with the number of tasks on all pages together, and the reasons why the first hundred pending
    /// ones wait.
    async fn tasks_with_reasons(&self, filter: &TaskFilter) -> Result<TaskPage>;

    /// Cancels a task; the code of the problem is `already_finished` when it is over.
    async fn cancel(&self, task: TaskId, reason: &str) -> Result<Outcome>;

    /// Waits until the task has finished. Cancel safe.
    async fn wait(&self, task: TaskId) -> Result<TaskInfo>;

    /// A part of the task's output.
    async fn output(&self, task: TaskId, range: OutputRange) -> Result<OutputChunks>;

    /// Reason why the task is pending; `None` when it is not.
    async fn explain(&self, task: TaskId) -> Result<Option<Explanation>>;

    /// Follows events. Returns when it is settled where the stream starts. The stream's last item is an error
    /// with the code `events_compacted` where events were missed that are no longer kept: list what there is,
    /// then follow anew.
    async fn events(&self, from: EventStart) -> Result<Events>;

    /// All nodes in order of their ids.
    async fn nodes(&self) -> Result<Vec<NodeInfo>>;

    /// A node as it is now.
    async fn node(&self, node: &NodeId) -> Result<NodeInfo>;

    /// Lets a node keep what it has and take nothing new.
    async fn cordon(&self, node: &NodeId) -> Result<Outcome>;

    /// Lets a node take new work again.
    async fn uncordon(&self, node: &NodeId) -> Result<Outcome>;

    /// Empties a node: it takes nothing new, and what is still there when `grace` is over is tried elsewhere.
    async fn drain(&self, node: &NodeId, grace: Duration) -> Result<Outcome>;

    /// Forgets a node that is lost or empty.
    async fn remove(&self, node: &NodeId) -> Result<Outcome>;

    /// Status of the cluster.
    async fn status(&self) -> Result<StatusInfo>;
}

#[async_trait]
impl Api for Client {
    async fn submit(&self, command: CommandId, tasks: Vec<NewTask>) -> Result<Vec<TaskInfo>> {
        Self::submit(self, command, tasks).await
    }

    async fn task(&self, task: TaskId) -> Result<TaskInfo> {
        Self::task(self, task).await
    }

    async fn tasks(&self, filter: &TaskFilter) -> Result<TaskPage> {
        Self::tasks(self, filter).await
    }

    async fn tasks_with_reasons(&self, filter: &TaskFilter) -> Result<TaskPage> {
        Self::tasks_with_reasons(self, filter).await
    }

    async fn cancel(&self, task: TaskId, reason: &str) -> Result<Outcome> {
        Self::cancel(self, task, reason).await
    }

    async fn wait(&self, task: TaskId) -> Result<TaskInfo> {
        Self::wait(self, task).await
    }

    async fn output(&self, task: TaskId, range: OutputRange) -> Result<OutputChunks> {
        Ok(Box::pin(self.logs_in(task, range).await?.into_stream()))
    }

    async fn explain(&self, task: TaskId) -> Result<Option<Explanation>> {
        Self::explain(self, task).await
    }

    async fn events(&self, from: EventStart) -> Result<Events> {
        Ok(Box::pin(Self::events(self, from).await?.into_stream()))
    }

    async fn nodes(&self) -> Result<Vec<NodeInfo>> {
        Self::nodes(self).await
    }

    async fn node(&self, node: &NodeId) -> Result<NodeInfo> {
        Self::node(self, node).await
    }

    async fn cordon(&self, node: &NodeId) -> Result<Outcome> {
        Self::cordon(self, node).await
    }

    async fn uncordon(&self, node: &NodeId) -> Result<Outcome> {
        Self::uncordon(self, node).await
    }

    async fn drain(&self, node: &NodeId, grace: Duration) -> Result<Outcome> {
        Self::drain(self, node, grace).await
    }

    async fn remove(&self, node: &NodeId) -> Result<Outcome> {
        Self::remove(self, node).await
    }

    async fn status(&self) -> Result<StatusInfo> {
        Self::status(self).await
    }
}
