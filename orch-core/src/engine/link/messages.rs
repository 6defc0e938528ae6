//! Messages of [`ControlLink`](super::ControlLink).

use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::{
    model::{AttemptId, IncarnationId, NodeSpec, Session, SharedSpec},
    store::Revision,
};

/// Request of an agent to be registered.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Registration {
    /// Properties of the node.
    pub spec: NodeSpec,
    /// Incarnation of its agent.
    pub incarnation: IncarnationId,
    /// Counts up with each registration of the process, so that one that arrives late is known as such.
    #[serde(default)]
    pub number: u64,
    /// Attempts that it has, running or ended. Those that were lost with the node, and not replaced yet, go
    /// on.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub held: Vec<AttemptId>,
}

/// Answer to a registration.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Registered {
    /// Carried by every further call.
    pub session: Session,
    /// The revision of the registration, or a later one.
    pub revision: Revision,
    /// Interval of the node's heartbeats.
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

/// Position in the changes that a node was told. Opaque to agents.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Cursor {
    /// Incarnation of the control side; a position of another one is worth nothing.
    pub epoch: u64,
    /// Number of changes that were told.
    pub position: u64,
}

/// Query for assignments.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct AssignmentsQuery {
    /// Position to go on from; without one everything is asked for.
    pub after: Option<Cursor>,
    /// With everything asked for: the last attempt whose spec came with the answer before, which had no
    /// room for more.
    pub specs_after: Option<AttemptId>,
    /// Highest revision that any answer has named.
    pub at_least: Revision,
}

impl AssignmentsQuery {
    /// A query for what changed after `cursor`.
    #[must_use]
    pub fn after(cursor: Cursor, at_least: Revision) -> Self {
        Self { after: Some(cursor), specs_after: None, at_least }
    }
}

/// Assignments of a node.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Assignments {
    /// Position to go on from.
    pub cursor: Cursor,
    /// Revision of the state that this was computed from.
    pub revision: Revision,
    /// Everything is named: what the node has beyond it must be removed. Otherwise only what changed is
    /// named.
    pub complete: bool,
    /// Attempts that should run, in order of their ids where the answer is complete.
    pub run: Vec<Assignment>,
    /// Of a complete answer: attempts that should run, whose specs came with an answer before or have no room
    /// in this one.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub named: Vec<AttemptId>,
    /// Of a complete answer: specs are left for the query after the last attempt of `run`. The agent goes on
    /// from the cursor of the first of such answers once it has them all.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub more: bool,
    /// Attempts that should stop, and be reported as stopped.
    pub stop: Vec<AttemptId>,
    /// Attempts that are no longer this node's; anything that it has of them must be removed.
    #[serde(rename = "gone")]
    pub superseded: Vec<AttemptId>,
}

impl Assignments {
    /// An answer that names nothing yet.
    #[must_use]
    pub fn new(cursor: Cursor, revision: Revision, complete: bool) -> Self {
        let (run, named, stop, superseded) = (Vec::new(), Vec::new(), Vec::new(), Vec::new());
        Self { cursor, revision, complete, run, named, more: false, stop, superseded }
    }
}

/// An attempt that should run.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Assignment {
    /// The attempt.
    pub attempt: AttemptId,
    /// Its spec.
    pub spec: SharedSpec,
    /// It was observed running already. A node that does not find it must not start it again: it is lost.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub started: bool,
}

/// The answer to a report.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ReportAnswer {
    /// It is decided and durable.
    Accepted,
    /// The attempt is not the current one: anything that the node has of it is superseded.
    Stale,
}
