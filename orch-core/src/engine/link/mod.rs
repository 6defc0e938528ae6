//! The one interface between an agent and the control side: assignments in, reports out. Implemented in the process by
//! [`Orchestrator`](super::Orchestrator), over HTTP by `orch-net`.

use std::{fmt, time::Duration};

use async_trait::async_trait;
use bytes::Bytes;
use serde::{Deserialize, Serialize};

use crate::{
    model::{AttemptId, IncarnationId, NodeSpec, Report, Session, SharedSpec, Timestamp, clip_words},
    runtime::{OutputStream, Usage},
    store::Revision,
};

/// What an agent needs of the control side. The contract is between an implementation and the agent.
///
/// Every call but `register` carries the [`Session`] that the last registration gave. An implementation MUST:
/// - give a call whose session is not the node's current one no effect, and answer [`LinkError::NotRegistered`], or
///   [`LinkError::Fenced`] where a newer process of the agent has registered;
/// - answer a report only when it is decided and durable;
/// - compute an answer to `assignments` from a state at or after the revision that the question names, and one that is
///   [`complete`](Assignments::complete) from a state that has every decision made anywhere before the question.
///
/// An answer may arrive late all the same. So an agent remembers what has ended and never starts an attempt a second time,
/// whatever it is told.
///
/// Every call may be repeated after an error, whose effect is then the same as once. Any future may be dropped.
#[async_trait]
pub trait ControlLink: Send + Sync + fmt::Debug + 'static {
    /// Brings the node in, or back.
    ///
    /// # Errors
    /// [`LinkError::NameTaken`] when another agent has the name, [`LinkError::Fenced`] when a newer process of this one has
    /// registered.
    async fn register(&self, registration: Registration) -> Result<Registered, LinkError>;

    /// Says that the node is there.
    ///
    /// # Errors
    /// [`LinkError::NotRegistered`] when it has to register again.
    async fn heartbeat(&self, session: &Session) -> Result<(), LinkError>;

    /// What the node should do, as soon as something changed after `after` (at once for `None`), at the latest after some
    /// seconds with nothing new. `seen` is the highest revision that any answer has named.
    ///
    /// # Errors
    /// [`LinkError`].
    async fn assignments(
        &self,
        session: &Session,
        after: Option<Cursor>,
        seen: Revision,
    ) -> Result<Assignments, LinkError>;

    /// Tells what happened to attempts.
    ///
    /// # Errors
    /// [`LinkError`]; some of the reports may have been taken in.
    async fn report(&self, session: &Session, reports: Vec<Report>) -> Result<Reported, LinkError>;

    /// Tells what nobody has to agree on. Repeating an observation is harmless.
    ///
    /// # Errors
    /// [`LinkError`].
    async fn observe(&self, session: &Session, observations: Vec<Observation>) -> Result<(), LinkError>;
}

/// Request of an agent to be registered.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Registration {
    /// What it says about itself.
    pub spec: NodeSpec,
    /// Its process.
    pub incarnation: IncarnationId,
    /// Counts up with each registration of the process, so that one that arrives late is known as such.
    #[serde(default)]
    pub number: u64,
    /// Attempts that it has, running or ended. Those that were given up with the node, and not replaced yet, go on.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub held: Vec<AttemptId>,
}

/// Answer to a registration.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Registered {
    /// What every further call carries.
    pub session: Session,
    /// The revision of the registration, or a later one.
    pub revision: Revision,
    /// How often the node should say that it is there.
    #[serde(rename = "heartbeat_interval_ms", with = "crate::model::millis")]
    pub heartbeat_interval: Duration,
}

/// Answer to reports.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Reported {
    /// A revision at which all of them are decided.
    pub revision: Revision,
    /// One answer for each report, in order.
    pub answers: Vec<ReportAnswer>,
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
    /// The state that this was computed from.
    pub revision: Revision,
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
    pub spec: SharedSpec,
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

impl Seen {
    /// The same with its words cut to a bound; output has one of its own.
    pub(in crate::engine) fn clipped(mut self) -> Self {
        if let Self::Progress(words) | Self::Running { handle: words, .. } = &mut self {
            clip_words(words);
        }
        self
    }
}

/// Bytes in JSON: as text where they are UTF-8, as numbers otherwise. Output is text nearly always.
pub(in crate::engine) mod text_bytes {
    use bytes::Bytes;
    use serde::{Deserialize, Deserializer, Serialize, Serializer};

    #[derive(Serialize, Deserialize)]
    #[serde(untagged)]
    enum Form {
        Text(String),
        Raw(Vec<u8>),
    }

    pub(in crate::engine) fn serialize<S: Serializer>(
        data: &Bytes,
        serializer: S,
    ) -> Result<S::Ok, S::Error> {
        match std::str::from_utf8(data) {
            Ok(text) => serializer.serialize_str(text),
            Err(_) => serializer.collect_seq(data.iter()),
        }
    }

    pub(in crate::engine) fn deserialize<'de, D: Deserializer<'de>>(
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
    /// It has ended in this process, and nobody will come back under this link. The agent leaves what runs to its next life.
    #[error("the orchestrator has ended")]
    Closed,
    /// It does not know the node (any more).
    #[error("the node is not registered")]
    NotRegistered,
    /// Another agent has the node's name and is there. What this one runs has been given up by the cluster.
    #[error("{0}")]
    NameTaken(String),
    /// A newer process of this agent has registered. This one must end, with everything that it runs.
    #[error("{0}")]
    Fenced(String),
    /// It will not have the node. Trying again without a change is of no use.
    #[error("{0}")]
    Refused(String),
}
