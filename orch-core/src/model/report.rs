//! Reports of agents about attempts.

use serde::{Deserialize, Serialize};

use super::{AttemptId, NodeId, Timestamp, clip_words};

/// Exit status of a process or container.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct Exit {
    /// Exit code. A death by signal `n` is 128 + `n`, as shells and engines report it.
    pub code: i32,
    /// Signal that ended the process, if one did.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub signal: Option<i32>,
    /// Whether the process (or a child of it) exceeded its memory limit and was killed by the kernel.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    pub oom_killed: bool,
}

impl Exit {
    /// Exit with this code, interpreted by the convention of shells: above 128 it was a signal.
    #[must_use]
    pub fn from_code(code: i32) -> Self {
        Self { code, signal: (129..=128 + 64).contains(&code).then(|| code - 128), oom_killed: false }
    }

    /// Whether the work succeeded: exit code 0. A child killed for memory does not matter when the task
    /// itself exits with success.
    #[must_use]
    pub fn is_success(&self) -> bool {
        self.code == 0
    }
}

impl std::fmt::Display for Exit {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match (self.oom_killed && !self.is_success(), self.signal) {
            (true, _) => write!(f, "out of memory (exit code {})", self.code),
            (false, Some(signal)) => write!(f, "killed by signal {signal}"),
            (false, None) => write!(f, "exit code {}", self.code),
        }
    }
}

/// Failure of an attempt before its work began.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error, Serialize, Deserialize)]
#[error("{message}")]
pub struct StartFailure {
    /// Short code for programs: `image_not_found`, `bad_reference`, `credentials_refused`, `no_space`, ...
    pub reason: String,
    /// Message of the runtime, for people.
    pub message: String,
    /// Whether a retry may succeed.
    pub retryable: bool,
}

/// End of an attempt.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "end", rename_all = "snake_case")]
pub enum AttemptEnd {
    /// The work ended by itself.
    Exited {
        /// Exit status.
        exit: Exit,
    },
    /// The work could not be started.
    StartFailed {
        /// Cause.
        failure: Box<StartFailure>,
    },
    /// The attempt exceeded its run timeout and was stopped.
    RunTimeout,
    /// The health check failed too often, and the attempt was stopped.
    Unhealthy {
        /// Output of the last check.
        output: String,
    },
    /// The attempt was stopped at the cluster's request (cancelled, drained, total timeout).
    Stopped,
    /// The node of the attempt was lost.
    NodeLost,
    /// The node is there and the work is not: it vanished, or the machine went down under it. Its exit status
    /// is unknown.
    Lost {
        /// Details known to the node.
        message: String,
    },
}

impl AttemptEnd {
    /// The same with its texts cut to their bound.
    pub(crate) fn clipped(&self) -> Self {
        let mut end = self.clone();
        match &mut end {
            Self::StartFailed { failure } => {
                clip_words(&mut failure.reason);
                clip_words(&mut failure.message);
            }
            Self::Unhealthy { output: words } | Self::Lost { message: words } => clip_words(words),
            Self::Exited { .. } | Self::RunTimeout | Self::Stopped | Self::NodeLost => {}
        }
        end
    }
}

impl std::fmt::Display for AttemptEnd {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Exited { exit } => exit.fmt(f),
            Self::StartFailed { failure } => write!(f, "could not start: {}", failure.message),
            Self::RunTimeout => f.write_str("ran into its time limit"),
            Self::Unhealthy { output } if output.is_empty() => f.write_str("failed its health check"),
            Self::Unhealthy { output } => write!(f, "failed its health check: {output}"),
            Self::Stopped => f.write_str("stopped on request"),
            Self::NodeLost => f.write_str("its node was lost"),
            Self::Lost { message } if message.is_empty() => f.write_str("lost on its node"),
            Self::Lost { message } => write!(f, "lost on its node: {message}"),
        }
    }
}

/// Report of an agent about one attempt. A report of an attempt that is not the task's current one, or from a
/// node that does not hold it, is refused: the attempt number is a fencing token.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Report {
    /// Id of the attempt.
    pub attempt: AttemptId,
    /// Id of the reporting node.
    pub node: NodeId,
    /// Event that is reported.
    pub kind: ReportKind,
}

/// Event in the course of an attempt.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ReportKind {
    /// The work has begun. A decision only where a run timeout depends on it, otherwise an observation.
    Started {
        /// Time of the start, by the node's clock.
        at: Timestamp,
    },
    /// The attempt is over.
    Ended(AttemptEnd),
}
