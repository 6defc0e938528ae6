//! Output of the demonstration while it runs, and at the end.

use std::collections::{BTreeMap, BTreeSet};

use orch_core::{
    engine::{Event, EventKind},
    model::TaskId,
    state::TaskStatus,
};
use orch_net::http::wire::TaskInfo;

use crate::{
    cli::table,
    say::{self, announce},
};

/// Live progress: one line that changes on a terminal, only the milestones elsewhere.
pub(super) struct Progress {
    terminal: bool,
    statuses: BTreeMap<TaskId, TaskStatus>,
}

impl Progress {
    pub(super) fn new(terminal: bool, tasks: BTreeSet<TaskId>) -> Self {
        Self { terminal, statuses: tasks.into_iter().map(|task| (task, TaskStatus::Pending)).collect() }
    }

    pub(super) fn note(&mut self, event: &Event) {
        let (task, status) = match &event.kind {
            EventKind::Task(record) => (record.id, record.status()),
            EventKind::Observed { attempt, kind: orch_core::engine::ObservationKind::Running { .. } } => {
                (attempt.task, TaskStatus::Running)
            }
            _ => return,
        };
        if let Some(known) = self.statuses.get_mut(&task) {
            *known = status;
            self.show();
        }
    }

    pub(super) fn all_finished(&self) -> bool {
        self.statuses.values().all(|status| status.is_finished())
    }

    pub(super) fn are_finished(&self, tasks: impl Iterator<Item = TaskId>) -> bool {
        tasks.into_iter().all(|task| self.statuses.get(&task).is_some_and(|status| status.is_finished()))
    }

    pub(super) fn say(&self, text: &str) {
        self.finish();
        announce(text);
    }

    pub(super) fn finish(&self) {
        if self.terminal {
            say::show("\r\x1b[K");
        }
    }

    fn show(&self) {
        if !self.terminal {
            return;
        }
        let mut counts: BTreeMap<TaskStatus, usize> = BTreeMap::new();
        for status in self.statuses.values() {
            *counts.entry(*status).or_default() += 1;
        }
        let parts: Vec<String> = counts.iter().map(|(status, count)| format!("{count} {status}")).collect();
        say::show(format_args!("\r\x1b[K{}", parts.join(", ")));
    }
}

pub(super) fn results(tasks: &[TaskInfo]) -> String {
    let rows = tasks.iter().map(|task| {
        let record = &task.view.record;
        let path: Vec<String> = record.attempts.iter().map(|attempt| attempt.node.to_string()).collect();
        let ends: Vec<String> = record
            .attempts
            .iter()
            .filter_map(|attempt| attempt.end.as_ref())
            .map(ToString::to_string)
            .collect();
        vec![
            record.spec.name.clone(),
            task.status.to_string(),
            record.attempts_made.to_string(),
            path.join(" > "),
            ends.join(" > "),
        ]
    });
    table::render(&["TASK", "STATUS", "ATTEMPTS", "WHERE", "HOW THE ATTEMPTS ENDED"], rows)
}
