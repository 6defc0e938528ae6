//! What the cluster knows about a task.

use std::{num::NonZeroU32, time::Duration};

use serde::{Deserialize, Serialize};

use super::ClusterConfig;
use crate::model::{AttemptEnd, AttemptId, KeptAttempt, NodeId, SharedSpec, TaskId, Timestamp};

/// A task as every replica knows it. `(attempts_made, state)` only moves forward.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct TaskRecord {
    /// Which task.
    pub id: TaskId,
    /// What was asked for.
    pub spec: SharedSpec,
    /// Its place among all submissions; earlier ones go first among equals.
    pub seq: u64,
    /// When it came in.
    pub submitted_at: Timestamp,
    /// Where it stands.
    pub state: TaskState,
    /// Set while the cluster wants a placed attempt to end.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub stop: Option<Stop>,
    /// Attempts so far, the current one included.
    pub attempts_made: u32,
    /// Failures since the last success, or where the task is always restarted since the last attempt that went on for long;
    /// they count against the retry policy.
    #[serde(default)]
    pub failures: u32,
    /// Attempts that ended because their node, or they on it, were lost, since the last one that went on for long
    /// ([`ClusterConfig::healthy_after_ms`]).
    #[serde(default)]
    pub node_losses: u32,
    /// The newest attempts, oldest first. While the task is placed, the last one is the current one.
    #[serde(default)]
    pub attempts: Vec<AttemptRecord>,
}

/// Where a task stands.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "phase", rename_all = "snake_case")]
pub enum TaskState {
    /// It waits for a node.
    Pending {
        /// Since then.
        since: Timestamp,
        /// It is not considered before this time: a delay after a failure.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        not_before: Option<Timestamp>,
    },
    /// An attempt of it belongs to a node. Whether it runs already is an observation.
    Placed {
        /// Which node.
        node: NodeId,
        /// When it was placed there.
        at: Timestamp,
        /// When it began to run; known to the state only where a run timeout hangs on it.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        started_at: Option<Timestamp>,
    },
    /// Its node is lost, and is waited for: the attempt may go on there.
    Disconnected {
        /// Which node.
        node: NodeId,
        /// When it was lost.
        since: Timestamp,
        /// When another attempt is due. Absent where none may take its place.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        until: Option<Timestamp>,
    },
    /// It is over, for ever.
    Finished {
        /// When.
        at: Timestamp,
        /// How.
        result: TaskResult,
    },
}

/// How a task ended.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "result", rename_all = "snake_case")]
pub enum TaskResult {
    /// Its work ended well.
    Succeeded,
    /// Its last attempt failed and there is no other. The attempt's record says how.
    Failed,
    /// A time limit of its spec ran out.
    TimedOut {
        /// Which one.
        limit: TimeoutKind,
    },
    /// Somebody took it back.
    Cancelled {
        /// Why, in their words.
        #[serde(default, skip_serializing_if = "String::is_empty")]
        reason: String,
    },
}

/// The time limits of a spec.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum TimeoutKind {
    /// Waiting for a node.
    Queue,
    /// Running.
    Run,
    /// All together.
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

/// The cluster's wish that a placed attempt ends.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Stop {
    /// Since when.
    pub at: Timestamp,
    /// Why.
    #[serde(flatten)]
    pub reason: StopReason,
}

/// Why a placed attempt should end.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "reason", rename_all = "snake_case")]
pub enum StopReason {
    /// Somebody took the task back.
    Cancelled {
        /// Why, in their words.
        #[serde(default, rename = "why", skip_serializing_if = "String::is_empty")]
        reason: String,
    },
    /// Its node is drained; the task goes on elsewhere.
    Evicted,
    /// Its total time is over.
    TotalTimeout,
}

/// One attempt, as people look back at it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct AttemptRecord {
    /// Which one, from 1.
    pub number: NonZeroU32,
    /// Where.
    pub node: NodeId,
    /// When it was placed.
    pub placed_at: Timestamp,
    /// When it was decided to have started, kept of an attempt whose node was lost: it may go on.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub started_at: Option<Timestamp>,
    /// When the cluster heard of its end.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ended_at: Option<Timestamp>,
    /// How it ended.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub end: Option<AttemptEnd>,
}

impl TaskRecord {
    /// Whether it is over.
    #[must_use]
    pub fn is_finished(&self) -> bool {
        matches!(self.state, TaskState::Finished { .. })
    }

    /// How it ended, once it has.
    #[must_use]
    pub fn result(&self) -> Option<&TaskResult> {
        match &self.state {
            TaskState::Finished { result, .. } => Some(result),
            _ => None,
        }
    }

    /// Where it is placed now.
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

    /// Where the attempt was when its node was lost, if it may be taken back: another one has not taken its place, or gives
    /// way to it.
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

    /// The newest attempt, whether it goes on or not.
    #[must_use]
    pub fn latest_attempt(&self) -> Option<AttemptId> {
        NonZeroU32::new(self.attempts_made).map(|attempt| AttemptId { task: self.id, attempt })
    }

    /// How the newest ended attempt ended.
    #[must_use]
    pub fn last_end(&self) -> Option<&AttemptEnd> {
        self.attempts.iter().rev().find_map(|attempt| attempt.end.as_ref())
    }

    /// One word for tables: `pending`, `backoff`, `placed`, `stopping`, `disconnected`, `succeeded`, `failed`, `timed-out`, `cancelled`.
    #[must_use]
    pub fn status(&self) -> &'static str {
        match &self.state {
            TaskState::Pending { not_before: None, .. } => "pending",
            TaskState::Pending { not_before: Some(_), .. } => "backoff",
            TaskState::Placed { .. } if self.stop.is_some() => "stopping",
            TaskState::Placed { .. } => "placed",
            TaskState::Disconnected { .. } => "disconnected",
            TaskState::Finished { result, .. } => match result {
                TaskResult::Succeeded => "succeeded",
                TaskResult::Failed => "failed",
                TaskResult::TimedOut { .. } => "timed-out",
                TaskResult::Cancelled { .. } => "cancelled",
            },
        }
    }

    /// Whether it could be placed now.
    pub(crate) fn is_eligible(&self) -> bool {
        matches!(self.state, TaskState::Pending { not_before: None, .. })
    }

    /// Where its last attempt failed by itself; better somewhere else.
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

    /// When time alone changes something about it.
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

    /// The agent enforces the run timeout; this is when the cluster stops waiting for it to say so.
    pub(crate) fn run_deadline(&self, config: &ClusterConfig) -> Option<Timestamp> {
        let TaskState::Placed { started_at: Some(started_at), .. } = &self.state else { return None };
        let grace = self.spec.stop.grace + Duration::from_millis(config.report_slack_ms);
        self.spec.timeouts.run.map(|limit| started_at.after(limit).after(grace))
    }

    /// When the cluster stops waiting for a cancelled attempt to end. An evicted one is waited for as long as its node is
    /// there, because another attempt starts after it.
    pub(crate) fn stop_deadline(&self, config: &ClusterConfig) -> Option<Timestamp> {
        let stop = self.stop.as_ref().filter(|stop| stop.reason != StopReason::Evicted)?;
        Some(stop.at.after(self.spec.stop.grace).after(Duration::from_millis(config.report_slack_ms)))
    }
}
