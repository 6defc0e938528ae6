//! Tasks of the demonstration, with their expected results.

use std::{collections::BTreeSet, time::Duration};

use futures_util::TryStreamExt as _;
use orch_core::{
    engine::{Event, EventKind, ObservationKind, OutputRange},
    model::{CommandId, TaskId, TaskSpec},
    state::TaskStatus,
};
use orch_net::http::{
    Api,
    wire::{NewTask, TaskInfo},
};

use crate::{deployment::Ground, service::explain};

const QUICK: usize = 12;

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
    pub(super) async fn submit(api: &dyn Api, ground: &Ground) -> Result<Self, String> {
        let (mut tasks, mut expected) = (Vec::new(), Vec::new());
        let mut add = |spec: TaskSpec, status, attempts, output: Option<String>| {
            let id = TaskId::generate();
            tasks.push(NewTask { id: Some(id), spec });
            expected.push(Expected { id, status, attempts, output });
            id
        };
        let shell = |name: &str, script: &str| ground.shell(name, script).cpu_millis(200).memory_mib(64);
        for number in 1..=QUICK {
            let spec = shell(&format!("quick-{number}"), &format!("echo quick {number}"));
            add(spec, TaskStatus::Succeeded, 1, Some(format!("quick {number}\n")));
        }
        let first_fails =
            "case $ORCH_ATTEMPT in *.1) echo first try fails; exit 7;; *) echo second try works;; esac";
        let flaky = shell("flaky", first_fails).max_attempts(3).backoff(Duration::from_millis(500));
        add(flaky, TaskStatus::Succeeded, 2, Some("first try fails\nsecond try works\n".into()));
        let slow = shell("too-slow", "sleep 600").run_timeout(Duration::from_secs(2));
        add(slow.stop_grace(Duration::from_secs(1)), TaskStatus::TimedOut, 1, None);
        // The first attempt hangs on the node that is going to be killed; the second one is at home
        // elsewhere.
        let moves = shell("moves", "case $ORCH_ATTEMPT in *.1) sleep 600;; *) echo moved;; esac");
        let moving =
            add(moves.stop_grace(Duration::from_secs(1)), TaskStatus::Succeeded, 2, Some("moved\n".into()));
        api.submit(CommandId::generate(), tasks).await.map_err(explain)?;
        Ok(Self { expected, moving })
    }

    pub(super) fn len(&self) -> usize {
        self.expected.len()
    }

    /// All but the task that is to move.
    pub(super) fn others(&self) -> impl Iterator<Item = TaskId> {
        self.expected.iter().map(|task| task.id).filter(|id| *id != self.moving)
    }

    pub(super) fn ids(&self) -> BTreeSet<TaskId> {
        self.expected.iter().map(|task| task.id).collect()
    }

    /// Node that runs the first attempt of the task that is to move, when this event reports its start.
    pub(super) async fn node_of_moving_task(
        &self,
        event: &Event,
        api: &dyn Api,
    ) -> Result<Option<String>, String> {
        let EventKind::Observed { attempt, kind: ObservationKind::Running { .. } } = &event.kind else {
            return Ok(None);
        };
        if attempt.task != self.moving || attempt.attempt.get() != 1 {
            return Ok(None);
        }
        let task = api.task(self.moving).await.map_err(explain)?;
        Ok(task.view.record.node().map(ToString::to_string))
    }

    pub(super) async fn results(&self, api: &dyn Api) -> Result<Vec<TaskInfo>, String> {
        let mut tasks = Vec::new();
        for expected in &self.expected {
            tasks.push(api.task(expected.id).await.map_err(explain)?);
        }
        Ok(tasks)
    }

    /// Checks that every task has ended as expected, with as many attempts as expected, and that its output
    /// appeared once.
    pub(super) async fn check(&self, api: &dyn Api, tasks: &[TaskInfo]) -> Result<(), String> {
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
            let output = output_of(api, expected.id).await?;
            if let Some(wanted) = &expected.output
                && output != *wanted
            {
                return Err(format!("task {name} printed {output:?}; {wanted:?} was expected"));
            }
        }
        Ok(())
    }
}

/// Everything that a task printed, both streams together.
async fn output_of(api: &dyn Api, task: TaskId) -> Result<String, String> {
    let chunks = api.output(task, OutputRange::default()).await.map_err(explain)?;
    let bytes = chunks.try_fold(Vec::new(), async |mut bytes, chunk| {
        bytes.extend_from_slice(&chunk.data);
        Ok(bytes)
    });
    Ok(String::from_utf8_lossy(&bytes.await.map_err(explain)?).into_owned())
}
