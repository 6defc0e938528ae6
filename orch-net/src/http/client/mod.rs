//! The API's client.

mod config;
mod error;
mod events;
mod json_client;
mod lines;
mod link;
mod logs;

use std::time::Duration;

use axum::http::StatusCode;
use orch_core::{
    engine::{OutputRange, TaskFilter},
    model::{CommandId, NodeId, TaskId, TaskSpec},
    state::Outcome,
};

pub use config::{ClientConfig, Timeouts};
pub use error::ClientError;
pub use events::{EventStart, EventSubscription, Positioned};
pub use json_client::{Call, JsonClient, JsonClientConfig};
pub use link::{HttpLink, TokenState};
pub use logs::LogLines;

use super::wire::{
    Cancellation, Decided, Drain, Explained, Explanation, NewTask, NodeInfo, NodeList, StatusInfo,
    Submission, Submitted, TaskInfo, TaskPage,
};

/// Calls a server. Cheap to clone; clones share connections.
///
/// Calls that may be repeated without harm are, a few times, when the server cannot be reached or is busy;
/// the others are sent once. Any future may be dropped; what it asked for may happen all the same.
#[derive(Clone, Debug)]
pub struct Client {
    client: JsonClient,
}

type Result<T> = std::result::Result<T, ClientError>;

impl Client {
    /// Connects when it is first used.
    ///
    /// # Errors
    /// [`ClientError::Config`] when the configuration cannot work.
    pub fn new(config: &ClientConfig) -> Result<Self> {
        Ok(Self { client: JsonClient::of_api(config)? })
    }

    /// Takes tasks in, all or none. Repeating the call with the same command id is harmless, and is what this
    /// does itself when an answer is lost.
    ///
    /// # Errors
    /// [`ClientError`].
    pub async fn submit(&self, command: CommandId, tasks: Vec<NewTask>) -> Result<Vec<TaskInfo>> {
        let call = Call::post("/api/v1/tasks", &Submission { tasks })
            .header("idempotency-key", command.to_string())
            .repeatable();
        self.client.call(call).await.map(|Submitted { tasks }| tasks)
    }

    /// Takes one task in.
    ///
    /// # Errors
    /// [`ClientError`].
    pub async fn submit_one(&self, spec: TaskSpec) -> Result<TaskInfo> {
        let tasks = self.submit(CommandId::generate(), vec![spec.into()]).await?;
        tasks.into_iter().next().ok_or_else(|| ClientError::Protocol("no task in the answer".into()))
    }

    /// The task as it is now.
    ///
    /// # Errors
    /// [`ClientError`].
    pub async fn task(&self, task: TaskId) -> Result<TaskInfo> {
        self.client.call(Call::get(format!("/api/v1/tasks/{task}"))).await
    }

    /// A page of tasks in the filter's order. The filter's limit is at most 1000.
    ///
    /// # Errors
    /// [`ClientError`].
    pub async fn tasks(&self, filter: &TaskFilter) -> Result<TaskPage> {
        self.client.call(Call::get(format!("/api/v1/tasks?{}", query(filter)?))).await
    }

    /// The same with the number of tasks on all pages together, and the reasons why the first hundred pending
    /// ones wait.
    ///
    /// # Errors
    /// [`ClientError`].
    pub async fn tasks_with_reasons(&self, filter: &TaskFilter) -> Result<TaskPage> {
        let path = format!("/api/v1/tasks?{}&count=true&explain=true", query(filter)?);
        self.client.call(Call::get(path)).await
    }

    /// Takes a task back.
    ///
    /// # Errors
    /// [`ClientError`]; with the code `already_finished` when it is over.
    pub async fn cancel(&self, task: TaskId, reason: impl Into<String>) -> Result<Outcome> {
        let body = Cancellation { reason: reason.into() };
        self.decided(Call::post(format!("/api/v1/tasks/{task}/cancel"), &body)).await
    }

    /// Waits until the task has finished, however long that takes and however often the server is away
    /// meanwhile. Cancel safe.
    ///
    /// # Errors
    /// [`ClientError`] that trying again does not mend.
    pub async fn wait(&self, task: TaskId) -> Result<TaskInfo> {
        let call = Call::get(format!("/api/v1/tasks/{task}/wait"));
        let mut backoff = self.client.timeouts.backoff();
        loop {
            match self.client.once(&call, self.client.timeouts.long_poll).await {
                Ok((StatusCode::OK, finished)) => return Ok(finished),
                // A server that is shutting down answers early.
                Ok((_, TaskInfo { .. })) => backoff.reset(),
                Err(error) if error.is_retryable() => {}
                Err(error) => return Err(error),
            }
            tokio::time::sleep(backoff.next_delay()).await;
        }
    }

    /// The task's output. With `follow` it goes on until the task has finished, through all its attempts.
    ///
    /// # Errors
    /// [`ClientError`] when the first connection fails.
    pub async fn logs(&self, task: TaskId, follow: bool) -> Result<LogLines> {
        self.logs_in(task, OutputRange { follow, ..OutputRange::default() }).await
    }

    /// A part of the task's output.
    ///
    /// # Errors
    /// As [`Client::logs`].
    pub async fn logs_in(&self, task: TaskId, range: OutputRange) -> Result<LogLines> {
        let mut output = LogLines::new(self.client.clone(), task, range);
        output.connect().await?;
        Ok(output)
    }

    /// Why the task is pending; `None` when it is not.
    ///
    /// # Errors
    /// [`ClientError`].
    pub async fn explain(&self, task: TaskId) -> Result<Option<Explanation>> {
        let call = Call::get(format!("/api/v1/tasks/{task}/explain"));
        self.client.call(call).await.map(|Explained { explanation, .. }| explanation)
    }

    /// All nodes in order of their ids.
    ///
    /// # Errors
    /// [`ClientError`].
    pub async fn nodes(&self) -> Result<Vec<NodeInfo>> {
        self.client.call(Call::get("/api/v1/nodes")).await.map(|NodeList { nodes }| nodes)
    }

    /// A node as it is now.
    ///
    /// # Errors
    /// [`ClientError`].
    pub async fn node(&self, node: &NodeId) -> Result<NodeInfo> {
        self.client.call(Call::get(format!("/api/v1/nodes/{node}"))).await
    }

    /// Lets a node keep what it has and take nothing new.
    ///
    /// # Errors
    /// [`ClientError`].
    pub async fn cordon(&self, node: &NodeId) -> Result<Outcome> {
        self.decided(Call::post(format!("/api/v1/nodes/{node}/cordon"), &()).repeatable()).await
    }

    /// Lets a node take new work again.
    ///
    /// # Errors
    /// [`ClientError`].
    pub async fn uncordon(&self, node: &NodeId) -> Result<Outcome> {
        self.decided(Call::post(format!("/api/v1/nodes/{node}/uncordon"), &()).repeatable()).await
    }

    /// Empties a node: it takes nothing new, and what is still there when `grace` is over is tried elsewhere.
    ///
    /// # Errors
    /// [`ClientError`].
    pub async fn drain(&self, node: &NodeId, grace: Duration) -> Result<Outcome> {
        let grace_ms = u64::try_from(grace.as_millis()).unwrap_or(u64::MAX);
        self.decided(Call::post(format!("/api/v1/nodes/{node}/drain"), &Drain { grace_ms })).await
    }

    /// Forgets a node that is lost or empty.
    ///
    /// # Errors
    /// [`ClientError`].
    pub async fn remove(&self, node: &NodeId) -> Result<Outcome> {
        self.decided(Call::delete(format!("/api/v1/nodes/{node}"))).await
    }

    /// Status of the cluster.
    ///
    /// # Errors
    /// [`ClientError`].
    pub async fn status(&self) -> Result<StatusInfo> {
        self.client.call(Call::get("/api/v1/status")).await
    }

    /// Follows events. Returns when the server has said where the stream starts.
    ///
    /// # Errors
    /// [`ClientError`] when the first connection fails; with the code `events_compacted` when the events
    /// asked for are no longer kept.
    pub async fn events(&self, from: EventStart) -> Result<EventSubscription> {
        let mut events = EventSubscription::new(self.client.clone(), from);
        events.connect().await?;
        Ok(events)
    }

    async fn decided(&self, call: Call) -> Result<Outcome> {
        self.client.call(call).await.map(|Decided { outcome }| outcome)
    }
}

fn query(filter: &TaskFilter) -> Result<String> {
    let mut pairs: Vec<(&str, String)> = vec![("limit", filter.limit.to_string())];
    pairs.extend(filter.statuses.iter().map(|status| ("status", status.to_string())));
    pairs.extend(filter.namespace.iter().map(|namespace| ("namespace", namespace.to_string())));
    pairs.extend(filter.name.iter().map(|name| ("name", name.clone())));
    pairs.extend(filter.node.iter().map(|node| ("node", node.to_string())));
    pairs.extend(filter.label.iter().map(|(name, value)| ("label", format!("{name}={value}"))));
    pairs.extend(filter.id_prefix.iter().map(|prefix| ("id_prefix", prefix.clone())));
    pairs.extend(filter.newest_first.then(|| ("order", "newest".into())));
    pairs.extend(filter.after_seq.iter().map(|seq| ("after", seq.to_string())));
    serde_urlencoded::to_string(pairs).map_err(|error| ClientError::Config(error.to_string()))
}
