//! What can be asked of the cluster, and the answers.

use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::Change;
use crate::model::{
    AttemptId, CommandId, IncarnationId, InvalidSpec, NodeId, NodeSpec, Report, SharedSpec, TaskId,
    Timestamp, millis,
};

/// A command as it travels: with the format's version and, for a client that may repeat it, an id.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Envelope {
    /// Version of the format.
    pub v: u8,
    /// Two envelopes with one id are one command.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub id: Option<CommandId>,
    /// What is asked.
    pub command: Command,
}

impl Envelope {
    /// The version that this code writes.
    pub const VERSION: u8 = 2;

    /// A command that is harmless when repeated, or is never repeated.
    #[must_use]
    pub fn anonymous(command: Command) -> Self {
        Self { v: Self::VERSION, id: None, command }
    }

    /// A command that is applied at most once however often it arrives.
    #[must_use]
    pub fn identified(id: CommandId, command: Command) -> Self {
        Self { v: Self::VERSION, id: Some(id), command }
    }
}

/// What can be asked of the cluster.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Command {
    /// Takes in tasks, all or none. Repeating it with the same ids and specs changes nothing.
    Submit {
        /// The tasks.
        tasks: Vec<NewTask>,
    },
    /// Takes a task back.
    Cancel {
        /// Which task.
        task: TaskId,
        /// Why, for people.
        #[serde(default, skip_serializing_if = "String::is_empty")]
        reason: String,
    },
    /// Tells what happened to an attempt.
    Report {
        /// Number of the registration under which the node says so.
        session: u64,
        /// The report.
        report: Report,
    },
    /// Brings a node in, or back, or changes what it offers.
    RegisterNode {
        /// What it says about itself.
        spec: NodeSpec,
        /// Process of the agent.
        incarnation: IncarnationId,
        /// Counts up with each registration of the process; an earlier one than the last has no effect.
        #[serde(default)]
        number: u64,
        /// Attempts that it has: those that were given up because the node was lost, and not replaced yet, go on.
        #[serde(default, skip_serializing_if = "Vec::is_empty")]
        held: Vec<AttemptId>,
    },
    /// Suspicion of the author that a node is lost.
    SuspectNode {
        /// Which node.
        node: NodeId,
        /// Number of the registration that is meant; a suspicion of an earlier one has no effect.
        session: u64,
    },
    /// Takes the author's suspicion back.
    TrustNode {
        /// Which node.
        node: NodeId,
    },
    /// Lets a node take new work.
    #[serde(rename = "open_node")]
    UncordonNode {
        /// Which node.
        node: NodeId,
    },
    /// Lets a node keep what it has and take nothing new.
    CordonNode {
        /// Which node.
        node: NodeId,
    },
    /// Empties a node: nothing new, and what is still there when `grace` is over goes elsewhere.
    DrainNode {
        /// Which node.
        node: NodeId,
        /// How long its attempts may go on.
        #[serde(rename = "patience_ms", with = "millis")]
        grace: Duration,
    },
    /// Forgets a node that is lost or empty.
    RemoveNode {
        /// Which node.
        node: NodeId,
    },
    /// Carries out what time alone brings about.
    Tick,
}

/// A task to take in. The submitter chooses the id, which makes repeating harmless.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct NewTask {
    /// Its id.
    pub id: TaskId,
    /// What to run.
    pub spec: SharedSpec,
}

/// What came of a command, and what it changes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Decided {
    /// The answer.
    pub outcome: Result<Outcome, Rejection>,
    /// Changes in the order in which they must be absorbed. A rejected command changes at most the clock and the memory of
    /// commands, and forgets finished tasks beyond a bound that was lowered.
    pub changes: Vec<Change>,
}

/// The answer to a command that was accepted.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Outcome {
    /// It was carried out.
    Done,
    /// It was so already.
    Unchanged,
}

/// The answer to a command that was not.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error, Serialize, Deserialize)]
#[serde(tag = "rejection", rename_all = "snake_case")]
#[non_exhaustive]
pub enum Rejection {
    /// The command cannot be read.
    #[error("the command cannot be read: {problem}")]
    Malformed {
        /// What is wrong with it.
        problem: String,
    },
    /// A spec breaks a rule.
    #[error("the task cannot be accepted: {0}")]
    InvalidSpec(InvalidSpec),
    /// Another task has this id.
    #[error("another task has the id {task} already")]
    TaskIdTaken {
        /// The id.
        task: TaskId,
    },
    /// The command's id was used for another command.
    #[error(
        "the command id {command} was used before, for another command; take a new one for a new command"
    )]
    CommandIdReused {
        /// The id.
        command: CommandId,
    },
    /// There are as many unfinished tasks as the cluster takes.
    #[error("the cluster has {limit} unfinished tasks already and takes no more; try again later")]
    QueueFull {
        /// How many it takes.
        limit: usize,
    },
    /// One submission has too many tasks.
    #[error("one submission may have at most {limit} tasks; this one has {count}")]
    SubmissionTooLarge {
        /// How many it has.
        count: usize,
        /// How many it may have.
        limit: usize,
    },
    /// There is no such task, or it was forgotten.
    #[error("there is no task {task} (finished tasks are forgotten after a while)")]
    UnknownTask {
        /// The id.
        task: TaskId,
    },
    /// The task is over.
    #[error("task {task} is over already: {status}")]
    AlreadyFinished {
        /// The id.
        task: TaskId,
        /// How it ended.
        status: String,
    },
    /// The report is of an attempt that is not the current one, or not by the node that holds it.
    #[error("attempt {attempt} is not the current one")]
    StaleAttempt {
        /// The attempt.
        attempt: AttemptId,
    },
    /// The author of the command may not ask for it.
    #[error("{author} may not do this: {problem}")]
    NotAllowed {
        /// The author.
        author: String,
        /// The rule.
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
        /// The longest step, in milliseconds.
        limit_ms: u64,
    },
    /// The report carries an earlier registration of the node.
    #[error("node {node} has registered again since; its agent must use the newer registration")]
    StaleSession {
        /// The node.
        node: NodeId,
    },
    /// A newer process of the agent has taken the node over.
    #[error(
        "another process has taken node {node} over; two agents have copies of one data directory, or this one was \
         replaced while it was stopped"
    )]
    Fenced {
        /// The node.
        node: NodeId,
    },
    /// There is no such node.
    #[error("there is no node {node}")]
    UnknownNode {
        /// The id.
        node: NodeId,
    },
    /// Another agent uses the name.
    #[error(
        "node {node} is another agent that is still there; give this one another name, or wait until the other is lost"
    )]
    NodeIdTaken {
        /// The id.
        node: NodeId,
    },
    /// The cluster has as many nodes as it takes.
    #[error("the cluster has {limit} nodes already and takes no more; remove lost ones")]
    TooManyNodes {
        /// How many it takes.
        limit: usize,
    },
    /// What a node offers is out of range.
    #[error("node {node} offers more than is possible: {problem}")]
    InvalidNode {
        /// The id.
        node: NodeId,
        /// What is wrong.
        problem: String,
    },
    /// The node has work.
    #[error("node {node} still has {tasks} tasks; drain it first")]
    NodeInUse {
        /// The id.
        node: NodeId,
        /// How many.
        tasks: usize,
    },
}

/// A client's command that was answered, remembered for when it comes again.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct CommandRecord {
    /// Its id.
    pub id: CommandId,
    /// The answer it got.
    pub outcome: Result<Outcome, Rejection>,
    /// What it was about, so that another command with its id is noticed: [`Command::subject`].
    pub subject: u32,
}

impl Command {
    /// A digest of what the command is about: its kind, and the ids of its tasks or its node. Equal commands have equal
    /// subjects on every machine. It tells honest mistakes apart, not collisions made on purpose.
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
