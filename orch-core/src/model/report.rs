//! What an agent says about an attempt.

use serde::{Deserialize, Serialize};

use super::{AttemptId, NodeId, Timestamp, clip_words};

/// How a process or container ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct Exit {
    /// Its exit code. A death by signal `n` is 128 + `n`, as shells and engines report it.
    pub code: i32,
    /// The signal that ended it, if one did.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub signal: Option<i32>,
    /// It (or a child of it) ran out of memory and was killed for it.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    pub oom_killed: bool,
}

impl Exit {
    /// An exit with this code, read by the convention of shells: above 128 it was a signal.
    #[must_use]
    pub fn from_code(code: i32) -> Self {
        Self { code, signal: (129..=128 + 64).contains(&code).then(|| code - 128), oom_killed: false }
    }

    /// Whether the work succeeded: exit code 0. A child killed for memory does not matter when the task
    /// itself says that all is well.
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

/// Why an attempt never got to run.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error, Serialize, Deserialize)]
#[error("{message}")]
pub struct StartFailure {
    /// Short word for programs: `image_not_found`, `bad_reference`, `credentials_refused`, `no_space`, ...
    pub reason: String,
    /// What the runtime said, for people.
    pub message: String,
    /// Whether another attempt could end differently.
    pub retryable: bool,
}

/// How an attempt ended.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "end", rename_all = "snake_case")]
pub enum AttemptEnd {
    /// The work ended by itself.
    Exited {
        /// How.
        exit: Exit,
    },
    /// It could not be started.
    StartFailed {
        /// Why.
        failure: Box<StartFailure>,
    },
    /// It ran longer than its spec allows, and was stopped.
    RunTimeout,
    /// Its health check failed too often, and it was stopped.
    Unhealthy {
        /// What the last check printed.
        output: String,
    },
    /// It was stopped because the cluster asked for it (cancelled, drained, total timeout).
    Stopped,
    /// Its node was lost.
    NodeLost,
    /// Its node is there and its work is not: it vanished, or the machine went down under it. How it ended is
    /// unknown.
    Lost {
        /// What the node knows of it.
        message: String,
    },
}

impl AttemptEnd {
    /// The same with its words cut to a bound.
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

/// What an agent says about one attempt. A report of an attempt that is not the task's current one, or from a
/// node that does not hold it, is refused: the attempt number is a fencing token.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Report {
    /// Which attempt.
    pub attempt: AttemptId,
    /// Who says so.
    pub node: NodeId,
    /// What.
    pub kind: ReportKind,
}

/// What happened to an attempt.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ReportKind {
    /// The work has begun. A decision only where a run timeout hangs on it, otherwise an observation.
    Started {
        /// When, by the node's clock.
        at: Timestamp,
    },
    /// The attempt is over.
    Ended(AttemptEnd),
}
