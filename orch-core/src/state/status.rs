//! [`TaskStatus`]: one word for the state of a task.

use std::{fmt, str::FromStr};

use serde::{Deserialize, Serialize};

/// State of a task in one word, in the order in which a task may pass through them. Its text and its JSON are
/// in lower case with hyphens: `timed-out`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
#[non_exhaustive]
pub enum TaskStatus {
    /// It waits to be placed.
    Pending,
    /// It waits for the delay before its next attempt.
    Backoff,
    /// It has a node and was not observed running yet.
    Placed,
    /// It was observed running.
    Running,
    /// It was asked to stop.
    Stopping,
    /// Its node is lost, and may come back with it.
    Disconnected,
    /// It is over: it did what it should.
    Succeeded,
    /// It is over: its attempts are used up.
    Failed,
    /// It is over: one of its time limits has passed.
    TimedOut,
    /// It is over: somebody has cancelled it.
    Cancelled,
}

impl TaskStatus {
    /// All of them, in order.
    pub const ALL: [Self; 10] = [
        Self::Pending,
        Self::Backoff,
        Self::Placed,
        Self::Running,
        Self::Stopping,
        Self::Disconnected,
        Self::Succeeded,
        Self::Failed,
        Self::TimedOut,
        Self::Cancelled,
    ];

    /// Its text.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Pending => "pending",
            Self::Backoff => "backoff",
            Self::Placed => "placed",
            Self::Running => "running",
            Self::Stopping => "stopping",
            Self::Disconnected => "disconnected",
            Self::Succeeded => "succeeded",
            Self::Failed => "failed",
            Self::TimedOut => "timed-out",
            Self::Cancelled => "cancelled",
        }
    }

    /// Whether the task is over.
    #[must_use]
    pub const fn is_finished(self) -> bool {
        matches!(self, Self::Succeeded | Self::Failed | Self::TimedOut | Self::Cancelled)
    }
}

impl fmt::Display for TaskStatus {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.as_str())
    }
}

/// A text that is no [`TaskStatus`].
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("there is no status {0:?}; there are {all}", all = Self::all())]
pub struct UnknownStatus(String);

impl UnknownStatus {
    fn all() -> String {
        TaskStatus::ALL.map(TaskStatus::as_str).join(", ")
    }
}

impl FromStr for TaskStatus {
    type Err = UnknownStatus;

    fn from_str(text: &str) -> Result<Self, UnknownStatus> {
        let known = Self::ALL.into_iter().find(|status| status.as_str() == text);
        known.ok_or_else(|| UnknownStatus(text.chars().take(80).collect()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn text_and_json_are_the_same_and_are_read_back() {
        for status in TaskStatus::ALL {
            assert_eq!(status.to_string().parse(), Ok(status));
            assert_eq!(serde_json::to_value(status).unwrap(), status.as_str());
        }
        assert!(TaskStatus::ALL.is_sorted());
        let error = "done".parse::<TaskStatus>().unwrap_err().to_string();
        assert!(error.starts_with("there is no status \"done\"; there are pending, "), "{error}");
    }
}
