//! Replicated record of a task.

use std::{num::NonZeroU32, time::Duration};

use serde::{Deserialize, Serialize};

use super::{ClusterConfig, TaskStatus};
use crate::model::{AttemptEnd, AttemptId, KeptAttempt, NodeId, SharedSpec, TaskId, Timestamp};

/// Record of a task, the same on every replica. `(attempts_made, state)` only moves forward.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct TaskRecord {
    /// Id of the task.
    pub id: TaskId,
    /// Spec of the task.
    pub spec: SharedSpec,
    /// Sequence number of the submission; among equals the lower one goes first.
    pub seq: u64,
    /// Time of the submission.
    pub submitted_at: Timestamp,
    /// State of the task.
    pub state: TaskState,
    /// Stop request, while the cluster wants a placed attempt to end.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub stop: Option<Stop>,
    /// Number of attempts so far, the current one included.
    pub attempts_made: u32,
    /// Failures since the last success, or where the task is always restarted since the last attempt that ran
    /// for long; they count against the retry policy.
    #[serde(default)]
    pub failures: u32,
    /// Attempts that were lost, with their node or on it, since the last one that ran for long
    /// ([`ClusterConfig::healthy_after_ms`]).
    #[serde(default)]
    pub node_losses: u32,
    /// The newest attempts, oldest first. While the task is placed, the last one is the current one.
    #[serde(default)]
    pub attempts: Vec<AttemptRecord>,
}

/// State of a task.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "phase", rename_all = "snake_case")]
pub enum TaskState {
    /// The task waits for a placement.
    Pending {
        /// Time since which it waits.
        since: Timestamp,
        /// Time before which it is not considered: a delay after a failure.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        not_before: Option<Timestamp>,
    },
    /// An attempt of it belongs to a node. Whether it runs already is an observation.
    Placed {
        /// Id of the node.
        node: NodeId,
        /// Time of the placement.
        at: Timestamp,
        /// Time of the start; known to the state only where a run timeout depends on it.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        started_at: Option<Timestamp>,
    },
    /// The node of the task is lost and may return: the attempt may continue there.
    Disconnected {
        /// Id of the node.
        node: NodeId,
        /// Time at which the node was lost.
        since: Timestamp,
        /// Time at which a replacement is due. Absent where none is allowed.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        until: Option<Timestamp>,
    },
    /// The task is over. No transition leads out of this state.
    Finished {
        /// Time of the end.
        at: Timestamp,
        /// Result of the task.
        result: TaskResult,
    },
}

/// Result of a finished task.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "result", rename_all = "snake_case")]
pub enum TaskResult {
    /// The work succeeded.
    Succeeded,
    /// The last attempt failed and no retry is left. The attempt's record has the cause.
    Failed,
    /// A time limit of its spec expired.
    TimedOut {
        /// The limit that expired.
        limit: TimeoutKind,
    },
    /// The task was cancelled.
    Cancelled {
        /// Reason given by the user.
        #[serde(default, skip_serializing_if = "String::is_empty")]
        reason: String,
    },
}

/// Time limits of a spec.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum TimeoutKind {
    /// Time limit of waiting for a placement.
    Queue,
    /// Time limit of running.
    Run,
    /// Time limit of everything together.
    Total,
}

impl std::fmt::Display for TimeoutKind {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.pad(match self {
            Self::Queue => "queue",
            Self::Run => "run",
            Self::Total => "total",
        })
    }
}

/// Request of the cluster that a placed attempt ends.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Stop {
    /// Time of the request.
    pub at: Timestamp,
    /// Reason of the request.
    #[serde(flatten)]
    pub reason: StopReason,
}

/// Reason for which a placed attempt should end.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "reason", rename_all = "snake_case")]
pub enum StopReason {
    /// The task was cancelled.
    Cancelled {
        /// Reason given by the user.
        #[serde(default, rename = "why", skip_serializing_if = "String::is_empty")]
        reason: String,
    },
    /// The node is drained; the task continues on another node.
    Evicted,
    /// The total timeout expired.
    TotalTimeout,
}

/// Record of one attempt, for the history of a task.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct AttemptRecord {
    /// Number of the attempt, from 1.
    pub number: NonZeroU32,
    /// Id of the node.
    pub node: NodeId,
    /// Time of the placement.
    pub placed_at: Timestamp,
    /// Time of the start as decided, kept of an attempt whose node was lost: it may continue.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub started_at: Option<Timestamp>,
    /// Time at which the cluster recorded its end.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ended_at: Option<Timestamp>,
    /// End of the attempt, once it has ended.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub end: Option<AttemptEnd>,
}

impl TaskRecord {
    /// Whether the task is finished.
    #[must_use]
    pub fn is_finished(&self) -> bool {
        matches!(self.state, TaskState::Finished { .. })
    }

    /// Result, once the task is finished.
    #[must_use]
    pub fn result(&self) -> Option<&TaskResult> {
        match &self.state {
            TaskState::Finished { result, .. } => Some(result),
            _ => None,
        }
    }

    /// Node of the current placement.
    #[must_use]
    pub fn node(&self) -> Option<&NodeId> {
        match &self.state {
            TaskState::Placed { node, .. } => Some(node),
            _ => None,
        }
    }

    /// The current attempt, while it is placed.
    #[must_use]
    pub fn current_attempt(&self) -> Option<AttemptId> {
        self.node()?;
        self.attempts.last().map(|current| AttemptId { task: self.id, attempt: current.number })
    }

    /// Record of the attempt that was current when its node was lost, if it may be taken back: no replacement
    /// was placed, or the replacement gives way to it.
    pub(crate) fn may_take_back(&self, attempt: NonZeroU32) -> Option<&AttemptRecord> {
        let (at, lost) = self.attempts.iter().enumerate().rev().find(|(_, known)| known.number == attempt)?;
        let last = at + 1 == self.attempts.len();
        let possible = match &self.state {
            TaskState::Pending { .. } | TaskState::Disconnected { .. } => last || self.keeps_original(),
            TaskState::Placed { .. } => !last && self.stop.is_none() && self.keeps_original(),
            TaskState::Finished { .. } => false,
        };
        (possible && lost.end == Some(AttemptEnd::NodeLost)).then_some(lost)
    }

    fn keeps_original(&self) -> bool {
        self.spec.node_loss_policy().keep == KeptAttempt::Original
    }

    /// Id of the newest attempt, whether it has ended or not.
    #[must_use]
    pub fn latest_attempt(&self) -> Option<AttemptId> {
        NonZeroU32::new(self.attempts_made).map(|attempt| AttemptId { task: self.id, attempt })
    }

    /// End of the newest ended attempt.
    #[must_use]
    pub fn last_end(&self) -> Option<&AttemptEnd> {
        self.attempts.iter().rev().find_map(|attempt| attempt.end.as_ref())
    }

    /// Its status, as far as it is decided: a task that runs is [`TaskStatus::Placed`] here.
    #[must_use]
    pub fn status(&self) -> TaskStatus {
        match &self.state {
            TaskState::Pending { not_before: None, .. } => TaskStatus::Pending,
            TaskState::Pending { not_before: Some(_), .. } => TaskStatus::Backoff,
            TaskState::Placed { .. } if self.stop.is_some() => TaskStatus::Stopping,
            TaskState::Placed { .. } => TaskStatus::Placed,
            TaskState::Disconnected { .. } => TaskStatus::Disconnected,
            TaskState::Finished { result, .. } => match result {
                TaskResult::Succeeded => TaskStatus::Succeeded,
                TaskResult::Failed => TaskStatus::Failed,
                TaskResult::TimedOut { .. } => TaskStatus::TimedOut,
                TaskResult::Cancelled { .. } => TaskStatus::Cancelled,
            },
        }
    }

    /// Whether the task can be placed now.
    pub(crate) fn is_eligible(&self) -> bool {
        matches!(self.state, TaskState::Pending { not_before: None, .. })
    }

    /// Node on which its last attempt failed by itself; another one is preferred.
    pub(crate) fn avoid(&self) -> Option<&NodeId> {
        let last = self.attempts.last()?;
        match last.end {
            Some(
                AttemptEnd::StartFailed { .. }
                | AttemptEnd::Unhealthy { .. }
                | AttemptEnd::NodeLost
                | AttemptEnd::Lost { .. },
            ) => Some(&last.node),
            _ => None,
        }
    }

    /// Time at which time alone changes something about the task.
    pub(crate) fn due(&self, config: &ClusterConfig) -> Option<Timestamp> {
        let timeouts = &self.spec.timeouts;
        let total = timeouts.total.map(|limit| self.submitted_at.after(limit));
        match &self.state {
            TaskState::Finished { .. } => None,
            TaskState::Pending { not_before, .. } => {
                [*not_before, self.queue_deadline(), total].into_iter().flatten().min()
            }
            TaskState::Disconnected { until, .. } => [*until, total].into_iter().flatten().min(),
            TaskState::Placed { .. } => {
                let total = total.filter(|_| self.stop.is_none());
                [self.run_deadline(config), self.stop_deadline(config), total].into_iter().flatten().min()
            }
        }
    }

    pub(crate) fn queue_deadline(&self) -> Option<Timestamp> {
        let TaskState::Pending { since, not_before } = &self.state else { return None };
        self.spec.timeouts.queue.map(|limit| not_before.unwrap_or(*since).max(*since).after(limit))
    }

    /// Time at which the cluster stops waiting for a report of the run timeout, which the agent enforces.
    pub(crate) fn run_deadline(&self, config: &ClusterConfig) -> Option<Timestamp> {
        let TaskState::Placed { started_at: Some(started_at), .. } = &self.state else { return None };
        let grace = self.spec.stop.grace + Duration::from_millis(config.report_slack_ms);
        self.spec.timeouts.run.map(|limit| started_at.after(limit).after(grace))
    }

    /// Time at which the cluster stops waiting for a cancelled attempt to end. An evicted one is waited for
    /// as long as its node is there, because another attempt starts after it.
    pub(crate) fn stop_deadline(&self, config: &ClusterConfig) -> Option<Timestamp> {
        let stop = self.stop.as_ref().filter(|stop| stop.reason != StopReason::Evicted)?;
        Some(stop.at.after(self.spec.stop.grace).after(Duration::from_millis(config.report_slack_ms)))
    }
}
