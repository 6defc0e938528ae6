//! Messages on the wire under `/api/v1`, shared by server and client. Types of `orch-core` are used as
//! they are where they have a stable JSON form; the rest is here. Answers may gain fields; requests with
//! unknown fields are refused, so that a misspelt one is never ignored.

use std::{collections::BTreeMap, sync::Arc};

use orch_core::{
    consensus::LostHistory,
    engine::{AssignmentsQuery, Cursor, Event, EventKind, Observation, ObservationKind, TaskView},
    model::{AttemptId, NodeId, NodeRecord, Report, Session, TaskId, TaskSpec},
    scheduler::{NodeView, Unplaced},
    state::{Outcome, TaskRecord, TaskStatus},
    store::Revision,
};
use serde::{Deserialize, Serialize};

/// Tasks to take in, all or none.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Submission {
    /// The tasks.
    pub tasks: Vec<NewTask>,
}

/// A task to take in.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct NewTask {
    /// Its id. Derived from the submission's idempotency key and the task's place when absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub id: Option<TaskId>,
    /// Spec of the task.
    pub spec: TaskSpec,
}

impl From<TaskSpec> for NewTask {
    fn from(spec: TaskSpec) -> Self {
        Self { id: None, spec }
    }
}

/// A task as users see it.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct TaskInfo {
    /// One word for tables, as [`TaskView::status`].
    pub status: TaskStatus,
    /// The task as decided and observed.
    #[serde(flatten)]
    pub view: TaskView,
    /// Why it is pending. Told by submissions, by `explain`, and by lists that are asked for it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub explanation: Option<Explanation>,
}

impl From<TaskView> for TaskInfo {
    fn from(view: TaskView) -> Self {
        Self { status: view.status(), view, explanation: None }
    }
}

/// Why a task is pending.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Explanation {
    /// The reasons in a sentence.
    pub text: String,
    /// The reasons for programs.
    #[serde(flatten)]
    pub unplaced: Unplaced,
}

impl From<Unplaced> for Explanation {
    fn from(unplaced: Unplaced) -> Self {
        Self { text: unplaced.to_string(), unplaced }
    }
}

/// The answer to a submission: the tasks in the order in which they were given.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Submitted {
    /// The tasks.
    pub tasks: Vec<TaskInfo>,
}

/// Some tasks, in order of submission or the other way round.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct TaskPage {
    /// The tasks.
    pub tasks: Vec<TaskInfo>,
    /// Value of `after` for the next page; absent on the last one.
    pub next: Option<u64>,
    /// Number of tasks on all pages together, where that was asked for.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub total: Option<u64>,
}

/// The answer to `explain`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Explained {
    /// The task's status.
    pub status: TaskStatus,
    /// Why it is pending; null when it is not.
    pub explanation: Option<Explanation>,
}

/// Takes a task back.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Cancellation {
    /// Why, for people.
    pub reason: String,
}

/// Empties a node.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Drain {
    /// Time that its attempts may go on, in milliseconds.
    pub grace_ms: u64,
}

/// The answer to a command that was accepted.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Decided {
    /// Its outcome.
    pub outcome: Outcome,
}

/// A node as users see it.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct NodeInfo {
    /// Its record.
    pub record: Arc<NodeRecord>,
    /// Number of its tasks.
    pub tasks: u32,
    /// Thousandths of a core that its tasks do not hold.
    pub free_cpu_millis: u64,
    /// Bytes of memory that its tasks do not hold.
    pub free_memory_bytes: u64,
}

impl From<NodeView> for NodeInfo {
    fn from(view: NodeView) -> Self {
        let capacity = &view.record.spec.capacity;
        Self {
            tasks: view.tasks,
            free_cpu_millis: view.held.free_cpu_millis(capacity),
            free_memory_bytes: view.held.free_memory_bytes(capacity),
            record: view.record,
        }
    }
}

/// All nodes, in order of their ids.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct NodeList {
    /// The nodes.
    pub nodes: Vec<NodeInfo>,
}

/// Status of the cluster.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct StatusInfo {
    /// Version of the server's software.
    pub version: String,
    /// The last decision that is visible at the server.
    pub revision: Revision,
    /// Tasks by status.
    pub tasks: BTreeMap<TaskStatus, u64>,
    /// Status of the consensus.
    pub consensus: ConsensusInfo,
    /// Last error of the scheduler, until a plan succeeds.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub scheduler_error: Option<String>,
}

/// Status of the consensus, as far as the server knows.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ConsensusInfo {
    /// The last position that was applied there.
    pub applied: Revision,
    /// The server takes proposals itself.
    pub leader: bool,
    /// Members by name.
    pub members: Vec<String>,
    /// Last error, until it passes.
    #[serde(default, alias = "trouble", skip_serializing_if = "Option::is_none")]
    pub last_error: Option<String>,
    /// The last time that the store came back with another history, since the server was started.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub lost_history: Option<LostHistory>,
}

/// An event, as the `data:` of a server-sent event.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(crate) struct EventInfo {
    revision: Revision,
    #[serde(flatten)]
    kind: EventBody,
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
enum EventBody {
    Task(Arc<TaskRecord>),
    TaskForgotten(TaskId),
    Node(Arc<NodeRecord>),
    NodeRemoved(NodeId),
    Observed {
        attempt: AttemptId,
        #[serde(rename = "seen")]
        kind: ObservationKind,
    },
}

impl EventInfo {
    /// The name of the event's kind, as the `event:` field.
    pub(crate) fn name(&self) -> &'static str {
        match self.kind {
            EventBody::Task(_) => "task",
            EventBody::TaskForgotten(_) => "task_forgotten",
            EventBody::Node(_) => "node",
            EventBody::NodeRemoved(_) => "node_removed",
            EventBody::Observed { .. } => "observed",
        }
    }
}

impl From<Event> for EventInfo {
    fn from(event: Event) -> Self {
        let kind = match event.kind {
            EventKind::Task(record) => EventBody::Task(record),
            EventKind::TaskForgotten(id) => EventBody::TaskForgotten(id),
            EventKind::Node(record) => EventBody::Node(record),
            EventKind::NodeRemoved(id) => EventBody::NodeRemoved(id),
            EventKind::Observed { attempt, kind } => EventBody::Observed { attempt, kind },
        };
        Self { revision: event.revision, kind }
    }
}

impl From<EventInfo> for Event {
    fn from(info: EventInfo) -> Self {
        let kind = match info.kind {
            EventBody::Task(record) => EventKind::Task(record),
            EventBody::TaskForgotten(id) => EventKind::TaskForgotten(id),
            EventBody::Node(record) => EventKind::Node(record),
            EventBody::NodeRemoved(id) => EventKind::NodeRemoved(id),
            EventBody::Observed { attempt, kind } => EventKind::Observed { attempt, kind },
        };
        Self { revision: info.revision, kind }
    }
}

/// A worker says that it is there.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Heartbeat {
    pub(crate) session: Session,
}

/// A worker asks what it should do.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Question {
    pub(crate) session: Session,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) after: Option<Cursor>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) specs_after: Option<AttemptId>,
    #[serde(rename = "seen")]
    pub(crate) at_least: Revision,
}

impl Question {
    pub(crate) fn new(session: Session, query: AssignmentsQuery) -> Self {
        let AssignmentsQuery { after, specs_after, at_least } = query;
        Self { session, after, specs_after, at_least }
    }
}

/// A worker tells what happened to attempts.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Reports {
    pub(crate) session: Session,
    pub(crate) reports: Vec<Report>,
}

/// A worker tells what nobody has to agree on.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Observations {
    pub(crate) session: Session,
    pub(crate) observations: Vec<Observation>,
}

/// A refusal or failure, as RFC 9457 has it: `application/problem+json`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ProblemInfo {
    /// `urn:orch:problem:` and the code.
    #[serde(rename = "type")]
    pub type_uri: String,
    /// A stable word for programs.
    pub code: String,
    /// The kind of problem, for people.
    pub title: String,
    /// The status of the HTTP answer.
    pub status: u16,
    /// Detail of this occurrence.
    pub detail: String,
    /// The field of the request that is wrong, where one is.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub field: Option<String>,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_last_error_of_the_consensus_is_read_under_its_old_name() {
        let info = ConsensusInfo {
            applied: Revision(1),
            leader: false,
            members: Vec::new(),
            last_error: Some("the store is full".into()),
            lost_history: None,
        };
        let json = serde_json::to_string(&info).unwrap();
        assert!(json.contains(r#""last_error":"the store is full""#), "{json}");
        assert_eq!(serde_json::from_str::<ConsensusInfo>(&json).unwrap(), info);
        let old = json.replace("last_error", "trouble");
        assert_eq!(serde_json::from_str::<ConsensusInfo>(&old).unwrap(), info);
    }

    #[test]
    fn an_event_survives_the_wire() {
        let events = [
            EventKind::TaskForgotten(TaskId::generate()),
            EventKind::NodeRemoved(NodeId::new("n").unwrap()),
            EventKind::Observed {
                attempt: format!("{}.7", TaskId::generate()).parse().unwrap(),
                kind: ObservationKind::Progress("pulling".into()),
            },
        ];
        for kind in events {
            let event = Event { revision: Revision(u64::MAX), kind };
            let json = serde_json::to_string(&EventInfo::from(event.clone())).unwrap();
            assert_eq!(Event::from(serde_json::from_str::<EventInfo>(&json).unwrap()), event, "{json}");
        }
    }
}
