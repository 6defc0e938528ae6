//! Tasks of the demonstration, with their expected results.

use std::{collections::BTreeSet, time::Duration};

use orch_core::{
    engine::{Event, EventKind, ObservationKind},
    model::{CommandId, TaskId, TaskSpec},
    state::TaskStatus,
};
use orch_net::http::{
    Client,
    wire::{NewTask, TaskInfo},
};

use super::cluster::Ground;
use crate::manager::explain;

const QUICK: usize = 12;

/// Label of the workers: one stays up for the tasks that are not about a lost worker.
pub(super) const ROLE: &str = "role";
pub(super) const STEADY: &str = "steady";
pub(super) const MAY_DIE: &str = "may-die";

/// A task with its expected result.
struct Expected {
    id: TaskId,
    status: TaskStatus,
    attempts: u32,
    /// Output of all attempts that ran to their end.
    output: Option<String>,
}

pub(super) struct Load {
    expected: Vec<Expected>,
    moving: TaskId,
}

impl Load {
    pub(super) async fn submit(client: &Client, ground: &Ground) -> Result<Self, String> {
        let (mut tasks, mut expected) = (Vec::new(), Vec::new());
        let mut add = |spec: TaskSpec, status, attempts, output: Option<String>| {
            let id = TaskId::generate();
            tasks.push(NewTask { id: Some(id), spec });
            expected.push(Expected { id, status, attempts, output });
            id
        };
        for number in 1..=QUICK {
            let spec = shell(ground, &format!("quick-{number}"), &format!("echo quick {number}"));
            add(spec, TaskStatus::Succeeded, 1, Some(format!("quick {number}\n")));
        }
        let first_fails =
            "case $ORCH_ATTEMPT in *.1) echo first try fails; exit 7;; *) echo second try works;; esac";
        let flaky = shell(ground, "flaky", first_fails)
            .on_label(ROLE, STEADY)
            .max_attempts(3)
            .backoff(Duration::from_millis(500));
        add(flaky, TaskStatus::Succeeded, 2, Some("first try fails\nsecond try works\n".into()));
        let slow =
            shell(ground, "too-slow", "sleep 600").on_label(ROLE, STEADY).run_timeout(Duration::from_secs(2));
        add(slow.stop_grace(Duration::from_secs(1)), TaskStatus::TimedOut, 1, None);
        // The first attempt hangs on the worker that is going to be killed; the second one is at home
        // elsewhere.
        let moves = shell(ground, "moves", "case $ORCH_ATTEMPT in *.1) sleep 600;; *) echo moved;; esac");
        let moving = add(
            moves.on_label(ROLE, MAY_DIE).stop_grace(Duration::from_secs(1)),
            TaskStatus::Succeeded,
            2,
            Some("moved\n".into()),
        );
        client.submit(CommandId::generate(), tasks).await.map_err(explain)?;
        Ok(Self { expected, moving })
    }

    pub(super) fn len(&self) -> usize {
        self.expected.len()
    }

    pub(super) fn quick(&self) -> impl Iterator<Item = TaskId> {
        self.expected.iter().take(QUICK).map(|task| task.id)
    }

    pub(super) fn ids(&self) -> BTreeSet<TaskId> {
        self.expected.iter().map(|task| task.id).collect()
    }

    /// Worker that runs the first attempt of the task that is to move, when this event reports its start.
    pub(super) async fn worker_of_moving_task(
        &self,
        event: &Event,
        client: &Client,
    ) -> Result<Option<String>, String> {
        let EventKind::Observed { attempt, kind: ObservationKind::Running { .. } } = &event.kind else {
            return Ok(None);
        };
        if attempt.task != self.moving || attempt.attempt.get() != 1 {
            return Ok(None);
        }
        let task = client.task(self.moving).await.map_err(explain)?;
        Ok(task.view.record.node().map(ToString::to_string))
    }

    pub(super) async fn results(&self, client: &Client) -> Result<Vec<TaskInfo>, String> {
        let mut tasks = Vec::new();
        for expected in &self.expected {
            tasks.push(client.task(expected.id).await.map_err(explain)?);
        }
        Ok(tasks)
    }

    /// Checks that every task has ended as expected, with as many attempts as expected, and that its output
    /// appeared once.
    pub(super) async fn check(&self, client: &Client, tasks: &[TaskInfo]) -> Result<(), String> {
        for (expected, task) in self.expected.iter().zip(tasks) {
            let record = &task.view.record;
            let name = &record.spec.name;
            let found = (record.id, task.status, record.attempts_made);
            if found != (expected.id, expected.status, expected.attempts) {
                return Err(format!(
                    "task {name} is {} after {} attempts; {} after {} was expected",
                    task.status, record.attempts_made, expected.status, expected.attempts
                ));
            }
            let output =
                client.logs(expected.id, false).await.map_err(explain)?.text().await.map_err(explain)?;
            if let Some(wanted) = &expected.output
                && output != *wanted
            {
                return Err(format!("task {name} printed {output:?}; {wanted:?} was expected"));
            }
        }
        Ok(())
    }
}

fn shell(ground: &Ground, name: &str, script: &str) -> TaskSpec {
    let spec = match ground {
        Ground::Docker(image) => TaskSpec::image(name, image).command(["/bin/sh", "-c"]).args([script]),
        Ground::Process(_) => TaskSpec::program(name, "/bin/sh").args(["-c", script]),
    };
    spec.cpu_millis(200).memory_mib(64)
}
