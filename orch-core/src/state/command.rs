//! Commands that can be proposed to the cluster, and their outcomes.

use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::Change;
use super::status::TaskStatus;
use crate::model::{
    AttemptId, CommandId, IncarnationId, InvalidSpec, NodeId, NodeSpec, Report, SharedSpec, TaskId,
    Timestamp, millis,
};

/// A command as it is transmitted: with the format's version and, for a client that may repeat it, an id.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Envelope {
    /// Version of the format.
    pub v: u8,
    /// Id for deduplication: two envelopes with one id are one command.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub id: Option<CommandId>,
    /// The command itself.
    pub command: Command,
}

impl Envelope {
    /// Version that this code writes.
    pub const VERSION: u8 = 2;

    /// Envelope of a command that is idempotent or never repeated.
    #[must_use]
    pub fn anonymous(command: Command) -> Self {
        Self { v: Self::VERSION, id: None, command }
    }

    /// Envelope of a command that is applied at most once however often it arrives.
    #[must_use]
    pub fn identified(id: CommandId, command: Command) -> Self {
        Self { v: Self::VERSION, id: Some(id), command }
    }
}

/// Command that can be proposed to the cluster.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Command {
    /// Submits tasks, all or none. Repeating it with the same ids and specs changes nothing.
    Submit {
        /// Tasks to submit.
        tasks: Vec<NewTask>,
    },
    /// Cancels a task.
    Cancel {
        /// Id of the task.
        task: TaskId,
        /// Reason, for people.
        #[serde(default, skip_serializing_if = "String::is_empty")]
        reason: String,
    },
    /// Reports an event of an attempt.
    Report {
        /// Number of the registration under which the node reports.
        session: u64,
        /// The report.
        report: Report,
    },
    /// Registers a node, registers it again after a loss, or updates its description.
    RegisterNode {
        /// Description of the node.
        spec: NodeSpec,
        /// Incarnation of the agent.
        incarnation: IncarnationId,
        /// Number of the registration within the incarnation, ascending; one that is older than the last has
        /// no effect.
        #[serde(default)]
        number: u64,
        /// Attempts that the node still has: those that were given up because the node was lost, and not
        /// replaced yet, continue.
        #[serde(default, skip_serializing_if = "Vec::is_empty")]
        held: Vec<AttemptId>,
    },
    /// Suspicion of the author that a node is lost.
    SuspectNode {
        /// Id of the node.
        node: NodeId,
        /// Number of the registration that is suspected; a suspicion of an earlier one has no effect.
        session: u64,
    },
    /// Withdraws the author's suspicion.
    TrustNode {
        /// Id of the node.
        node: NodeId,
    },
    /// Makes a node schedulable again.
    #[serde(rename = "open_node")]
    UncordonNode {
        /// Id of the node.
        node: NodeId,
    },
    /// Cordons a node: it keeps its tasks and accepts no new ones.
    CordonNode {
        /// Id of the node.
        node: NodeId,
    },
    /// Drains a node: it accepts nothing new, and tasks still there when `grace` is over are evicted.
    DrainNode {
        /// Id of the node.
        node: NodeId,
        /// Grace period for the attempts that are there.
        #[serde(rename = "patience_ms", with = "millis")]
        grace: Duration,
    },
    /// Removes a node that is lost or empty.
    RemoveNode {
        /// Id of the node.
        node: NodeId,
    },
    /// Applies changes that are due by time alone.
    Tick,
}

/// Task to submit. The submitter chooses the id, which makes repeating harmless.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct NewTask {
    /// Id of the task.
    pub id: TaskId,
    /// Spec of the task.
    pub spec: SharedSpec,
}

/// Outcome of a command, and its changes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Decided {
    /// Outcome for the proposer.
    pub outcome: Result<Outcome, Rejection>,
    /// Changes in the order in which they must be absorbed. A rejected command changes at most the clock and
    /// the memory of commands, and forgets finished tasks beyond a bound that was lowered.
    pub changes: Vec<Change>,
}

/// Outcome of an accepted command.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Outcome {
    /// The command was applied.
    Done,
    /// The state was as requested already.
    Unchanged,
}

/// Outcome of a rejected command.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error, Serialize, Deserialize)]
#[serde(tag = "rejection", rename_all = "snake_case")]
#[non_exhaustive]
pub enum Rejection {
    /// The command cannot be parsed.
    #[error("the command cannot be read: {problem}")]
    Malformed {
        /// Message of the parser.
        problem: String,
    },
    /// A spec breaks a rule.
    #[error("the task cannot be accepted: {0}")]
    InvalidSpec(InvalidSpec),
    /// Another task has this id.
    #[error("another task has the id {task} already")]
    TaskIdTaken {
        /// Id of the task.
        task: TaskId,
    },
    /// The command's id was used for another command.
    #[error(
        "the command id {command} was used before, for another command; take a new one for a new command"
    )]
    CommandIdReused {
        /// Id of the command.
        command: CommandId,
    },
    /// The cluster has its maximum number of unfinished tasks.
    #[error("the cluster has {limit} unfinished tasks already and takes no more; try again later")]
    QueueFull {
        /// Maximum number of unfinished tasks.
        limit: usize,
    },
    /// One submission has too many tasks.
    #[error("one submission may have at most {limit} tasks; this one has {count}")]
    SubmissionTooLarge {
        /// Number of tasks in the submission.
        count: usize,
        /// Maximum number of tasks in a submission.
        limit: usize,
    },
    /// There is no such task, or it was forgotten.
    #[error("there is no task {task} (finished tasks are forgotten after a while)")]
    UnknownTask {
        /// Id of the task.
        task: TaskId,
    },
    /// The task is finished.
    #[error("task {task} is over already: {status}")]
    AlreadyFinished {
        /// Id of the task.
        task: TaskId,
        /// Final status of the task.
        status: TaskStatus,
    },
    /// The report is of an attempt that is not the current one, or not by the node that holds it.
    #[error("attempt {attempt} is not the current one")]
    StaleAttempt {
        /// Id of the attempt.
        attempt: AttemptId,
    },
    /// The author of the command has no permission for it.
    #[error("{author} may not do this: {problem}")]
    NotAllowed {
        /// Name or key of the author.
        author: String,
        /// The rule that forbids it.
        problem: String,
    },
    /// The proposer's clock is too far ahead of the cluster's time.
    #[error(
        "the proposer's clock says {proposed}, the cluster's time is {cluster}; a step of more than {limit_ms} ms is refused: \
         correct the clock of that machine, or raise time_step_max_ms if the cluster was off for so long"
    )]
    ClockAhead {
        /// Time of the proposal.
        proposed: Timestamp,
        /// Time of the cluster.
        cluster: Timestamp,
        /// Longest step, in milliseconds.
        limit_ms: u64,
    },
    /// The report carries an earlier registration of the node.
    #[error("node {node} has registered again since; its agent must use the newer registration")]
    StaleSession {
        /// Id of the node.
        node: NodeId,
    },
    /// The incarnation is fenced: a newer one of the agent has registered.
    #[error(
        "another process has taken node {node} over; two agents have copies of one data directory, or this one was \
         replaced while it was stopped"
    )]
    Fenced {
        /// Id of the node.
        node: NodeId,
    },
    /// There is no such node.
    #[error("there is no node {node}")]
    UnknownNode {
        /// Id of the node.
        node: NodeId,
    },
    /// Another agent uses the id.
    #[error(
        "node {node} is another agent that is still there; give this one another name, or wait until the other is lost"
    )]
    NodeIdTaken {
        /// Id of the node.
        node: NodeId,
    },
    /// The cluster has its maximum number of nodes.
    #[error("the cluster has {limit} nodes already and takes no more; remove lost ones")]
    TooManyNodes {
        /// Maximum number of nodes.
        limit: usize,
    },
    /// A value in the node's description is out of range.
    #[error("node {node} offers more than is possible: {problem}")]
    InvalidNode {
        /// Id of the node.
        node: NodeId,
        /// Description of the wrong value.
        problem: String,
    },
    /// The node has tasks.
    #[error("node {node} still has {tasks} tasks; drain it first")]
    NodeInUse {
        /// Id of the node.
        node: NodeId,
        /// Number of its tasks.
        tasks: usize,
    },
}

/// Outcome of a client's command, kept for repetitions of it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct CommandRecord {
    /// Id of the command.
    pub id: CommandId,
    /// Outcome of its first application.
    pub outcome: Result<Outcome, Rejection>,
    /// Digest of its subject, so that another command with its id is detected: [`Command::subject`].
    pub subject: u32,
}

impl Command {
    /// Digest of the command's subject: its kind, and the ids of its tasks or its node. Equal commands have
    /// equal subjects on every machine. It tells honest mistakes apart, not collisions made on purpose.
    #[must_use]
    pub fn subject(&self) -> u32 {
        let mut digest = Fnv::new(match self {
            Self::Submit { .. } => 1,
            Self::Cancel { .. } => 2,
            Self::Report { .. } => 3,
            Self::RegisterNode { .. } => 4,
            Self::SuspectNode { .. } => 5,
            Self::TrustNode { .. } => 6,
            Self::UncordonNode { .. } => 7,
            Self::CordonNode { .. } => 8,
            Self::DrainNode { .. } => 9,
            Self::RemoveNode { .. } => 10,
            Self::Tick => 11,
        });
        match self {
            Self::Submit { tasks } => tasks.iter().for_each(|new| digest.take(new.id.as_bytes())),
            Self::Cancel { task, .. } => digest.take(task.as_bytes()),
            Self::Report { report, .. } => digest.take(report.attempt.task.as_bytes()),
            Self::RegisterNode { spec, .. } => digest.take(spec.id.as_str().as_bytes()),
            Self::SuspectNode { node, .. }
            | Self::TrustNode { node }
            | Self::UncordonNode { node }
            | Self::CordonNode { node }
            | Self::DrainNode { node, .. }
            | Self::RemoveNode { node } => digest.take(node.as_str().as_bytes()),
            Self::Tick => {}
        }
        digest.0
    }
}

/// FNV-1a with 32 bits (Fowler, Noll, Vo; RFC 9923).
struct Fnv(u32);

impl Fnv {
    fn new(kind: u8) -> Self {
        let mut fnv = Self(0x811c_9dc5);
        fnv.take(&[kind]);
        fnv
    }

    fn take(&mut self, bytes: &[u8]) {
        for byte in bytes {
            self.0 = (self.0 ^ u32::from(*byte)).wrapping_mul(0x0100_0193);
        }
    }
}
