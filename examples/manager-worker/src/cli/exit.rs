//! Exit codes, for scripts.

use orch_core::state::TaskResult;
use orch_net::http::{ClientError, wire::TaskInfo};

use super::{table, why};

/// Shown by `orch --help`.
pub(super) const HELP: &str = "Exit codes: 0 done; 1 something failed; 2 the command line is wrong; 3 the manager cannot be \
reached; 4 no such task or node; 5 refused; 6 a worker's token is refused. run --wait and wait: 10 the task failed, 11 it \
timed out, 12 it was cancelled, 13 it did not finish in the given time.";

/// Message for standard error, and the exit code.
#[derive(Debug)]
pub struct Failure {
    pub(super) code: u8,
    pub(super) message: String,
    /// Cause, where there is advice for it.
    pub(super) cause: Option<Cause>,
}

/// Causes that depend on the connection to the manager.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Cause {
    Unreachable,
    UnknownToken,
    WeakToken,
}

impl Failure {
    pub(super) fn new(code: u8, message: impl Into<String>) -> Self {
        Self { code, message: message.into(), cause: None }
    }

    pub(super) fn other(message: impl Into<String>) -> Self {
        Self::new(1, message)
    }

    pub(crate) fn usage(message: impl Into<String>) -> Self {
        Self::new(2, message)
    }

    pub(super) fn unknown(message: impl Into<String>) -> Self {
        Self::new(4, message)
    }

    /// A worker's token is not that of its manager.
    pub(crate) fn token_refused(message: impl Into<String>) -> Self {
        Self::new(6, message)
    }

    pub(super) fn out_of_time(message: impl Into<String>) -> Self {
        Self::new(13, message)
    }
}

impl From<String> for Failure {
    fn from(message: String) -> Self {
        Self::other(message)
    }
}

impl From<ClientError> for Failure {
    fn from(error: ClientError) -> Self {
        let code = match &error {
            ClientError::Problem(problem) if problem.status == 404 => 4,
            ClientError::Problem(_) => 5,
            ClientError::Unreachable(_) => 3,
            _ => 1,
        };
        let cause = match &error {
            ClientError::Unreachable(_) => Some(Cause::Unreachable),
            ClientError::Problem(problem) if problem.status == 401 => Some(Cause::UnknownToken),
            ClientError::Problem(problem) if problem.code == "forbidden" => Some(Cause::WeakToken),
            _ => None,
        };
        let message = match error {
            ClientError::Unreachable(why) => why,
            error => error.to_string(),
        };
        Self { code, message, cause }
    }
}

impl From<std::io::Error> for Failure {
    fn from(error: std::io::Error) -> Self {
        match error.kind() {
            // The reader has closed the output.
            std::io::ErrorKind::BrokenPipe => Self::new(0, ""),
            _ => Self::other(error.to_string()),
        }
    }
}

/// Exit status of a finished task for scripts.
pub(super) fn of_task(task: &TaskInfo) -> Result<(), Failure> {
    let record = &task.view.record;
    let code = match record.result() {
        Some(TaskResult::Succeeded) => return Ok(()),
        Some(TaskResult::Failed) | None => 10,
        Some(TaskResult::TimedOut { .. }) => 11,
        Some(TaskResult::Cancelled { .. }) => 12,
    };
    let why = why::why(task).map(|why| format!(": {why}")).unwrap_or_default();
    let message = format!("task {} {} ({}){why}", record.spec.name, record.id.short(), task.status);
    Err(Failure::new(code, table::one_line(&message)))
}
