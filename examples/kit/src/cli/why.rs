//! Reason for the state of a task in one line: the current one, not an earlier one.

use orch_core::{
    model::Timestamp,
    state::{StopReason, TaskResult, TaskState, TimeoutKind},
};
use orch_net::http::wire::TaskInfo;

use crate::config::units::show_duration;

pub(super) fn why(task: &TaskInfo) -> Option<String> {
    let record = &task.view.record;
    let last_end = || record.last_end().map(ToString::to_string);
    match &record.state {
        TaskState::Pending { not_before: Some(at), .. } => {
            let until = format!("tried again {}", in_time(*at));
            Some(last_end().map_or(until.clone(), |end| format!("{end}; {until}")))
        }
        TaskState::Pending { .. } => task.explanation.as_ref().map(|explanation| explanation.text.clone()),
        TaskState::Disconnected { node, until, .. } => Some(match until {
            Some(at) => format!("{node} is lost; waits for it, another attempt {}", in_time(*at)),
            None => format!("{node} is lost; waits for it"),
        }),
        TaskState::Placed { .. } => match record.stop.as_ref().map(|stop| &stop.reason) {
            Some(StopReason::Cancelled { reason }) => Some(with_reason("cancelled", reason)),
            Some(StopReason::Evicted) => Some("its node is drained; goes on elsewhere".into()),
            Some(StopReason::TotalTimeout) => Some(timed_out(task, TimeoutKind::Total)),
            None => {
                let observed = task.view.observed.as_ref()?;
                let unwell =
                    observed.healthy.filter(|healthy| !healthy).map(|_| "fails its health check".into());
                observed.progress.clone().or(unwell)
            }
        },
        TaskState::Finished { result, .. } => match result {
            TaskResult::Succeeded => None,
            TaskResult::Failed => last_end(),
            TaskResult::TimedOut { limit } => Some(timed_out(task, *limit)),
            TaskResult::Cancelled { reason } => Some(reason.clone()).filter(|reason| !reason.is_empty()),
        },
    }
}

fn timed_out(task: &TaskInfo, kind: TimeoutKind) -> String {
    let timeouts = &task.view.record.spec.timeouts;
    let (what, limit) = match kind {
        TimeoutKind::Queue => ("was in the queue", timeouts.queue),
        TimeoutKind::Run => ("ran", timeouts.run),
        TimeoutKind::Total => ("took", timeouts.total),
    };
    let limit = limit.map_or_else(|| "its time limit".into(), show_duration);
    format!("{what} for longer than {limit}")
}

fn with_reason(what: &str, reason: &str) -> String {
    if reason.is_empty() { what.into() } else { format!("{what}: {reason}") }
}

/// Time until then, by the clock of this machine.
fn in_time(at: Timestamp) -> String {
    let seconds = at.since(Timestamp::now()).as_secs();
    if seconds == 0 {
        "at once".into()
    } else {
        format!("in {}", show_duration(std::time::Duration::from_secs(seconds)))
    }
}
