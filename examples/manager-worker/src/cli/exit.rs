//! Exit codes, for scripts.

use orch_core::state::TaskResult;
use orch_net::http::{ClientError, wire::TaskInfo};

/// Shown by `orch --help`.
pub(super) const HELP: &str = "Exit codes: 0 done; 1 something failed; 2 the command line is wrong; 3 the manager cannot be \
reached; 4 no such task or node; 5 refused. run --wait and wait: 10 the task failed, 11 it timed out, 12 it was cancelled, \
13 it did not finish in the given time.";

/// What to say on standard error, and the exit code.
#[derive(Debug)]
pub(super) struct Failure {
    pub(super) code: u8,
    pub(super) message: String,
}

impl Failure {
    pub(super) fn other(message: impl Into<String>) -> Self {
        Self { code: 1, message: message.into() }
    }

    pub(super) fn usage(message: impl Into<String>) -> Self {
        Self { code: 2, message: message.into() }
    }

    pub(super) fn unknown(message: impl Into<String>) -> Self {
        Self { code: 4, message: message.into() }
    }

    pub(super) fn out_of_time(message: impl Into<String>) -> Self {
        Self { code: 13, message: message.into() }
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
        Self { code, message: error.to_string() }
    }
}

impl From<std::io::Error> for Failure {
    fn from(error: std::io::Error) -> Self {
        match error.kind() {
            // Whoever read our output has enough of it.
            std::io::ErrorKind::BrokenPipe => Self { code: 0, message: String::new() },
            _ => Self::other(error.to_string()),
        }
    }
}

/// How a finished task counts for a script.
pub(super) fn of_task(task: &TaskInfo) -> Result<(), Failure> {
    let record = &task.view.record;
    let code = match record.result() {
        Some(TaskResult::Succeeded) => return Ok(()),
        Some(TaskResult::Failed) | None => 10,
        Some(TaskResult::TimedOut { .. }) => 11,
        Some(TaskResult::Cancelled { .. }) => 12,
    };
    let why = record.last_end().map(|end| format!(": {end}")).unwrap_or_default();
    Err(Failure {
        code,
        message: format!("task {} {} ({}){why}", record.spec.name, record.id.short(), task.status),
    })
}
