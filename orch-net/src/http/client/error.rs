//! [`ClientError`].

use std::time::Duration;

use orch_core::engine::LinkError;

use crate::http::wire::ProblemInfo;

/// Why a call has no answer. With [`ClientError::Problem`] the server said so; with the others it may have
/// done what it was asked.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum ClientError {
    /// The server said no.
    #[error("{}", problem_text(.0))]
    Problem(Box<ProblemInfo>),
    /// It cannot be reached, or the connection broke.
    #[error("the server cannot be reached: {0}")]
    Unreachable(String),
    /// It did not answer in time.
    #[error("no answer within {} ms", .0.as_millis())]
    Timeout(Duration),
    /// The answer is not one that this version understands.
    #[error("the server's answer cannot be understood: {0}")]
    Protocol(String),
    /// The client's configuration cannot work.
    #[error("the client cannot start: {0}")]
    Config(String),
}

fn problem_text(problem: &ProblemInfo) -> String {
    match &problem.field {
        Some(field) => format!("{}: {field}: {}", problem.title, problem.detail),
        None => format!("{}: {}", problem.title, problem.detail),
    }
}

impl ClientError {
    /// The stable word of the server's problem, if it is one.
    #[must_use]
    pub fn code(&self) -> Option<&str> {
        match self {
            Self::Problem(problem) => Some(&problem.code),
            _ => None,
        }
    }

    /// The status of the server's problem, if it is one.
    #[must_use]
    pub fn status(&self) -> Option<u16> {
        match self {
            Self::Problem(problem) => Some(problem.status),
            _ => None,
        }
    }

    /// Whether trying again may work.
    #[must_use]
    pub fn is_retryable(&self) -> bool {
        match self {
            Self::Problem(problem) => matches!(problem.status, 408 | 429 | 502 | 503 | 504),
            Self::Unreachable(_) | Self::Timeout(_) => true,
            Self::Protocol(_) | Self::Config(_) => false,
        }
    }
}

/// The failure of a call as an agent takes it: refusals of the engine as themselves, anything else that
/// trying again does not mend as a refusal, and the rest as a control side that is away.
impl From<&ClientError> for LinkError {
    fn from(error: &ClientError) -> Self {
        match error {
            ClientError::Problem(problem) if problem.code == "not_registered" => Self::NotRegistered,
            ClientError::Problem(problem) if problem.code == "fenced" => Self::Fenced(problem.detail.clone()),
            ClientError::Problem(problem) if problem.code == "name_taken" => {
                Self::NameTaken(problem.detail.clone())
            }
            ClientError::Problem(problem) if problem.code == "refused" => {
                Self::Refused(problem.detail.clone())
            }
            ClientError::Problem(_) | ClientError::Config(_) if !error.is_retryable() => {
                Self::Refused(error.to_string())
            }
            _ => Self::Unavailable(error.to_string()),
        }
    }
}
