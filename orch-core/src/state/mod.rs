//! The functional core: [`ClusterState::decide`] says what a command changes, [`ClusterState::absorb`] makes
//! a change. Both are plain functions on a value in memory: no I/O, no clock, no randomness. Everything else
//! in this crate exists to bring commands here in one order and to carry out what comes of them.
//!
//! Records are the whole truth: every index of the state is derived from them in `absorb`, so that a state
//! rebuilt from its records is the state that made them. The task states are on one page in
//! `docs/task-model.md`, the invariants in `orch-core/tests/invariants.rs`.

mod authority;
mod change;
mod cluster;
mod command;
mod commands;
mod decide;
mod draft;
mod life;
mod machine;
mod nodes;
mod place;
mod queue;
mod snapshot;
mod specs;
mod table;
mod task;

use serde::{Deserialize, Serialize};

pub use change::{Change, Clock};
pub use cluster::ClusterState;
pub use command::{Command, CommandRecord, Decided, Envelope, NewTask, Outcome, Rejection};
pub use machine::{ClusterMachine, Publish};
pub use task::{AttemptRecord, Stop, StopReason, TaskRecord, TaskResult, TaskState, TimeoutKind};

pub(crate) use table::TaskTable;

use crate::model::Limits;

/// What all replicas of a cluster must agree on before they start. Bounds on everything the state keeps.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct ClusterConfig {
    /// Bounds on one spec.
    pub limits: Limits,
    /// Most tasks that are not finished; a submission beyond it is refused.
    pub unfinished_max: usize,
    /// How many finished tasks are remembered; the oldest are forgotten first.
    pub finished_max: usize,
    /// How many commands of clients are remembered, so that a repeated one is answered and not applied again.
    pub commands_max: u32,
    /// Most tasks of one submission.
    pub submission_max: usize,
    /// Most nodes.
    pub nodes_max: usize,
    /// How many members must suspect a node before it is lost: 1 where members may only crash, f + 1 where f
    /// of them may lie.
    pub suspicions_needed: usize,
    /// How many lost nodes end a task that would otherwise be tried again: a task that kills its nodes must
    /// not take the whole cluster with it.
    pub node_losses_max: u32,
    /// How long an attempt has to go on for the lost nodes before it, and the failures of a task that is
    /// always restarted, to be forgotten, in milliseconds.
    pub healthy_after_ms: u64,
    /// How many attempts a task's record tells about; the newest win.
    pub attempts_kept: usize,
    /// How long an agent may take beyond a task's time limit and grace before the cluster stops waiting for
    /// its report, in milliseconds.
    pub report_slack_ms: u64,
    /// The longest step forward of the cluster's time that one command may bring, in milliseconds. Longer
    /// than the cluster is ever off.
    pub time_step_max_ms: u64,
    /// Whether keys that are no members may submit and cancel tasks, where authors are keys.
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
