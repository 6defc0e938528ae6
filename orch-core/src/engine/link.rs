//! The one interface between an agent and the control side: assignments in, reports out. Implemented in the process by
//! [`Orchestrator`](super::Orchestrator), over HTTP by `orch-net`.

use std::{fmt, sync::Arc, time::Duration};

use async_trait::async_trait;
use bytes::Bytes;
use serde::{Deserialize, Serialize};

use crate::{
    model::{AttemptId, InstanceId, NodeId, NodeSpec, Report, TaskSpec, Timestamp},
    runtime::{OutputStream, Usage},
};

/// What an agent needs of the control side. The contract is between an implementation and the agent.
///
/// An implementation MUST:
/// - answer a report only when it is decided and durable;
/// - never name an attempt in [`Assignments::run`] again once its end was answered.
///
/// Every call may be repeated after an error, whose effect is then the same as once. Any future may be dropped.
#[async_trait]
pub trait ControlLink: Send + Sync + fmt::Debug + 'static {
    /// Brings the node in, or back.
    ///
    /// # Errors
    /// [`LinkError::Refused`] when another agent has the name, say.
    async fn register(&self, spec: NodeSpec) -> Result<Registration, LinkError>;

    /// Says that the node is there.
    ///
    /// # Errors
    /// [`LinkError::NotRegistered`] when it has to register again.
    async fn heartbeat(&self, node: &NodeId, instance: InstanceId) -> Result<(), LinkError>;

    /// What the node should do, as soon as something changed after `after` (at once for `None`), at the latest after some
    /// seconds with nothing new.
    ///
    /// # Errors
    /// [`LinkError`].
    async fn assignments(&self, node: &NodeId, after: Option<Cursor>) -> Result<Assignments, LinkError>;

    /// Tells what happened to attempts. One answer for each report, in order.
    ///
    /// # Errors
    /// [`LinkError`]; some of the reports may have been taken in.
    async fn report(&self, node: &NodeId, reports: Vec<Report>) -> Result<Vec<ReportAnswer>, LinkError>;

    /// Tells what nobody has to agree on. Repeating an observation is harmless.
    ///
    /// # Errors
    /// [`LinkError`].
    async fn observe(&self, node: &NodeId, observations: Vec<Observation>) -> Result<(), LinkError>;
}

/// The answer to a registration.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Registration {
    /// How often the node should say that it is there.
    #[serde(rename = "heartbeat_interval_ms", with = "crate::model::millis")]
    pub heartbeat_interval: Duration,
}

/// A position in what a node was told. Opaque to agents.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Cursor {
    /// Which life of the control side; a position of another life is worth nothing.
    pub epoch: u64,
    /// How many changes were told.
    pub position: u64,
}

/// What a node should do.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Assignments {
    /// Where to go on from.
    pub cursor: Cursor,
    /// Everything is named: what the node has beyond it must be removed. Otherwise only what changed is named.
    pub complete: bool,
    /// Attempts that should run.
    pub run: Vec<Assignment>,
    /// Attempts that should stop, and be reported as stopped.
    pub stop: Vec<AttemptId>,
    /// Tasks that are no longer this node's; whatever it has of them must be removed.
    pub gone: Vec<AttemptId>,
}

/// An attempt that should run.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Assignment {
    /// Which attempt.
    pub attempt: AttemptId,
    /// What to run.
    pub spec: Arc<TaskSpec>,
    /// It was seen running already. A node that does not find it must not start it again: it is lost.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub started: bool,
}

/// The answer to a report.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ReportAnswer {
    /// It is decided and durable.
    Accepted,
    /// The attempt is not the current one: whatever the node has of it is void.
    Stale,
}

/// Something that an agent saw.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Observation {
    /// Of which attempt.
    pub attempt: AttemptId,
    /// What.
    pub seen: Seen,
}

/// What an agent saw.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Seen {
    /// It is being made ready, or something holds it up; in words for people.
    Progress(String),
    /// It runs.
    Running {
        /// The engine's name for it.
        handle: String,
        /// Since when, by the node's clock.
        at: Timestamp,
    },
    /// What it uses.
    Usage(Usage),
    /// What its health check says.
    Health(bool),
    /// A piece of its output.
    Output {
        /// Where it was written to.
        stream: OutputStream,
        /// Bytes of this stream before it.
        offset: u64,
        /// The bytes.
        #[serde(with = "text_bytes")]
        data: Bytes,
    },
}

/// Bytes in JSON: as text where they are UTF-8, as numbers otherwise. Output is text nearly always.
pub(super) mod text_bytes {
    use bytes::Bytes;
    use serde::{Deserialize, Deserializer, Serialize, Serializer};

    #[derive(Serialize, Deserialize)]
    #[serde(untagged)]
    enum Form {
        Text(String),
        Raw(Vec<u8>),
    }

    pub(in super::super) fn serialize<S: Serializer>(data: &Bytes, serializer: S) -> Result<S::Ok, S::Error> {
        match std::str::from_utf8(data) {
            Ok(text) => serializer.serialize_str(text),
            Err(_) => serializer.collect_seq(data.iter()),
        }
    }

    pub(in super::super) fn deserialize<'de, D: Deserializer<'de>>(
        deserializer: D,
    ) -> Result<Bytes, D::Error> {
        Ok(match Form::deserialize(deserializer)? {
            Form::Text(text) => text.into(),
            Form::Raw(raw) => raw.into(),
        })
    }
}

/// Why the control side did not answer as hoped.
#[derive(Debug, Clone, thiserror::Error)]
#[non_exhaustive]
pub enum LinkError {
    /// It cannot be reached, or is busy. Try again.
    #[error("the control side cannot be reached: {0}")]
    Unavailable(String),
    /// It does not know the node (any more).
    #[error("the node is not registered")]
    NotRegistered,
    /// It will not have the node. Trying again without a change is of no use.
    #[error("{0}")]
    Refused(String),
}
