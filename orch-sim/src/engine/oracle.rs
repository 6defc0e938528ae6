//! [`Oracle`]: what must always hold of a simulated cluster, and what it has seen of the runtimes.
//!
//! | invariant | fault that it finds |
//! |---|---|
//! | no attempt starts twice, on one machine or two | late answers, members behind, earlier instances |
//! | work that must not be restarted starts once at most | the same |
//! | the recorded end of an attempt is the one that it had | removed running work, reports of others |
//! | a member that is behind answers agents as others do ([`super::probe`]) | answers without catching up |
//! | every task ends once the faults are over | results that are dropped, time that stands still |
//! | nothing is left on the machines then | orphans |
//! | a pinned attempt that outlives a loss of its node is not replaced | attempts that stay given up |

use std::{collections::BTreeMap, fmt};

use orch_core::{
    engine::TaskView,
    model::{AttemptEnd, AttemptId, RestartPolicy, TaskId},
    testkit::SimulatedRuntime,
};

/// Something that must never happen, in words.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Violation(pub String);

impl fmt::Display for Violation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// Results of the attempts that were ended on purpose.
#[derive(Debug, Default)]
pub(super) struct Oracle {
    exits: BTreeMap<AttemptId, i32>,
}

impl Oracle {
    /// The attempt was ended with this code.
    pub(super) fn ended(&mut self, attempt: AttemptId, code: i32) {
        self.exits.entry(attempt).or_insert(code);
    }

    pub(super) fn check_starts(runtimes: &[SimulatedRuntime]) -> Result<(), Violation> {
        let mut seen = BTreeMap::new();
        for (machine, runtime) in runtimes.iter().enumerate() {
            for attempt in runtime.starts() {
                if let Some(other) = seen.insert(attempt, machine) {
                    return Err(Violation(format!(
                        "attempt {attempt} started twice, on machines {other} and {machine}"
                    )));
                }
            }
        }
        Ok(())
    }

    pub(super) fn check_task(&self, task: &TaskView, runtimes: &[SimulatedRuntime]) -> Result<(), Violation> {
        let record = &task.record;
        let id = record.id;
        if !record.is_finished() {
            return Err(Violation(format!("task {id} does not end: {record:?}")));
        }
        let starts = starts_of(id, runtimes);
        if record.spec.restart == RestartPolicy::Never && starts > 1 {
            return Err(Violation(format!("task {id} must not be restarted and started {starts} times")));
        }
        for attempt in &record.attempts {
            let Some(AttemptEnd::Exited { exit }) = &attempt.end else { continue };
            let number = AttemptId { task: id, attempt: attempt.number };
            let real = self.exits.get(&number);
            if real != Some(&exit.code) {
                return Err(Violation(format!(
                    "attempt {number} is recorded with exit code {}, and had {real:?}",
                    exit.code
                )));
            }
        }
        Ok(())
    }
}

fn starts_of(task: TaskId, runtimes: &[SimulatedRuntime]) -> usize {
    runtimes.iter().flat_map(SimulatedRuntime::starts).filter(|attempt| attempt.task == task).count()
}
