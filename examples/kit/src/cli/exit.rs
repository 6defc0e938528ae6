//! Exit codes, for scripts.

use orch_core::state::TaskResult;
use orch_net::http::wire::TaskInfo;

use super::{table, why};
use crate::{failure::Failure, style::Style};

/// Text for `--help`.
pub(super) fn help(style: &Style) -> String {
    format!(
        "Exit codes: 0 done; 1 something failed; 2 the command line is wrong; 3 the {} cannot be reached; 4 no such task or \
         node; 5 refused; 6 the token of a service is refused. run --wait and wait: 10 the task failed, 11 it timed out, 12 it \
         was cancelled, 13 it did not finish in the given time.",
        style.server
    )
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
