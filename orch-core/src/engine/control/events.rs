//! [`Event`]: something that happened, for readers that follow.

use std::sync::Arc;

use crate::{
    engine::link::ObservationKind,
    model::{AttemptId, NodeId, NodeRecord, TaskId},
    state::TaskRecord,
    store::Revision,
};

/// Something that happened.
#[derive(Clone, Debug, PartialEq)]
pub struct Event {
    /// The position of the decision, or of the last decision before an observation. Several events may share
    /// one.
    pub revision: Revision,
    /// The thing that happened.
    pub kind: EventKind,
}

/// Kinds of events.
#[derive(Clone, Debug, PartialEq)]
pub enum EventKind {
    /// The task is like this now.
    Task(Arc<TaskRecord>),
    /// The task was forgotten.
    TaskForgotten(TaskId),
    /// The node is like this now.
    Node(Arc<NodeRecord>),
    /// The node was removed.
    NodeRemoved(NodeId),
    /// An agent saw something of an attempt. Not kept as long as decisions, and not repeated after a restart.
    Observed {
        /// The attempt.
        attempt: AttemptId,
        /// The observation.
        kind: ObservationKind,
    },
}
