//! The functional core: [`ClusterState::decide`] computes the changes of a command, [`ClusterState::absorb`]
//! applies a change. Both are plain functions on a value in memory: no I/O, no clock, no randomness.
//! Everything else in this crate exists to bring commands here in one order and to carry out the decisions.
//!
//! Records are the only source of truth: every index of the state is derived from them in `absorb`, so that a
//! state rebuilt from its records is equal to the state that wrote them. The task states are on one page in
//! `docs/task-model.md`, the invariants in `orch-core/tests/invariants.rs`.

mod authority;
mod change;
mod cluster;
mod command;
mod commands;
mod decide;
mod draft;
mod lifecycle;
mod machine;
mod nodes;
mod place;
mod queue;
mod snapshot;
mod specs;
mod status;
mod table;
mod task;

use serde::{Deserialize, Serialize};

pub use change::{Change, Clock};
pub use cluster::ClusterState;
pub use command::{Command, CommandRecord, Decided, Envelope, NewTask, Outcome, Rejection};
pub use machine::{ClusterMachine, Publish};
pub use status::{TaskStatus, UnknownStatus};
pub use task::{AttemptRecord, Stop, StopReason, TaskRecord, TaskResult, TaskState, TimeoutKind};

pub(crate) use table::TaskTable;

use crate::model::Limits;

/// Configuration that all replicas of a cluster must agree on before they start: bounds on everything the
/// state keeps.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct ClusterConfig {
    /// Bounds on one spec.
    pub limits: Limits,
    /// Maximum number of unfinished tasks; a submission beyond it is rejected.
    pub unfinished_max: usize,
    /// Maximum number of finished tasks that are kept; the oldest are forgotten first.
    pub finished_max: usize,
    /// Number of clients' commands that are kept, so that a repeated one gets its outcome and is not applied
    /// again.
    pub commands_max: u32,
    /// Maximum number of tasks of one submission.
    pub submission_max: usize,
    /// Maximum number of nodes.
    pub nodes_max: usize,
    /// Number of members that must suspect a node before it is lost: 1 where members may only crash, f + 1
    /// where f of them may be Byzantine.
    pub suspicions_needed: usize,
    /// Number of nodes lost one after the other, without an attempt that ended by itself in between, that
    /// ends a task that would otherwise be retried: a task that crashes its nodes must not take down the
    /// whole cluster.
    pub node_losses_max: u32,
    /// Run time of an attempt after which the lost nodes before it, and the failures of a task that is always
    /// restarted, are forgotten, in milliseconds.
    pub healthy_after_ms: u64,
    /// Number of attempts kept in a task's record; the oldest are dropped first.
    pub attempts_kept: usize,
    /// Time that an agent may take beyond a task's time limit and grace before the cluster stops waiting for
    /// its report, in milliseconds.
    pub report_slack_ms: u64,
    /// Longest step forward of the cluster's time that one command may bring, in milliseconds. Longer than
    /// the cluster is ever off.
    pub time_step_max_ms: u64,
    /// Whether keys of non-members may submit and cancel tasks, where authors are keys.
    pub open_to_clients: bool,
}

impl Default for ClusterConfig {
    fn default() -> Self {
        Self {
            limits: Limits::default(),
            unfinished_max: 1_000_000,
            finished_max: 1_000_000,
            commands_max: 65_536,
            submission_max: 10_000,
            nodes_max: 10_000,
            suspicions_needed: 1,
            node_losses_max: 16,
            healthy_after_ms: 600_000,
            attempts_kept: 8,
            report_slack_ms: 30_000,
            time_step_max_ms: 366 * 86_400_000,
            open_to_clients: false,
        }
    }
}
