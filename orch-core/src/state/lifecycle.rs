//! Consequences of the end of an attempt: the end of the task, or another attempt, now or later.

use std::{num::NonZeroU32, time::Duration};

use super::{AttemptRecord, StopReason, TaskRecord, TaskResult, TaskState, TimeoutKind, draft::Draft};
use crate::{
    fault::EngineFault,
    model::{AttemptEnd, AttemptId, NodeId, NodeLossPolicy, RestartPolicy},
};

impl Draft<'_> {
    /// Ends the current attempt and decides the consequence: the end of the task, or another attempt now or
    /// later.
    pub(super) fn end_attempt(&mut self, task: &mut TaskRecord, end: &AttemptEnd) {
        let now = self.now();
        if let Some(current) = task.attempts.last_mut() {
            (current.ended_at, current.end) = (Some(now), Some(end.clone()));
            if let (AttemptEnd::NodeLost, TaskState::Placed { started_at, .. }) = (end, &task.state) {
                current.started_at = *started_at;
            }
            // Failures before an attempt that ran for long are forgotten. A task that ends by itself keeps
            // its failures: they bound its attempts, however long each of them takes.
            if now.since(current.placed_at) >= Duration::from_millis(self.state.config.healthy_after_ms) {
                task.node_losses = 0;
                if task.spec.restart == RestartPolicy::Always {
                    task.failures = 0;
                }
            }
        }
        // Its node has outlived it: nodes were not lost for its sake.
        if matches!(end, AttemptEnd::Exited { .. }) {
            task.node_losses = 0;
        }
        let stop = task.stop.take().map(|stop| stop.reason);
        let success = matches!(end, AttemptEnd::Exited { exit } if exit.is_success());
        match (stop, end) {
            // An attempt that succeeded before the stop request reached it has succeeded.
            (_, AttemptEnd::Exited { .. }) if success && task.spec.restart != RestartPolicy::Always => {
                self.finish(task, TaskResult::Succeeded);
            }
            (Some(StopReason::Cancelled { reason }), _) => {
                self.finish(task, TaskResult::Cancelled { reason });
            }
            (Some(StopReason::TotalTimeout), _) => {
                self.finish(task, TaskResult::TimedOut { limit: TimeoutKind::Total });
            }
            (_, AttemptEnd::NodeLost) => {
                task.node_losses += 1;
                let NodeLossPolicy { wait, replace, .. } = task.spec.node_loss_policy();
                if replace && wait.is_zero() {
                    return self.replace_lost(task);
                }
                let node = task.attempts.last().expect("an attempt ended").node.clone();
                let until = replace.then(|| now.after(wait));
                task.state = TaskState::Disconnected { node, since: now, until };
            }
            (_, AttemptEnd::Lost { .. }) => {
                task.node_losses += 1;
                let failed = task.latest_attempt().expect("an attempt ended");
                let delay = task.spec.retry.delay(failed, task.node_losses);
                let again = self.survives_losses(task);
                self.requeue_or_fail(task, again, delay);
            }
            (Some(StopReason::Evicted), _) | (None, AttemptEnd::Stopped) => {
                let again = task.spec.restart != RestartPolicy::Never;
                self.requeue_or_fail(task, again, Duration::ZERO);
            }
            (None, _) if success => {
                task.failures = 0;
                let delay = task.spec.retry.backoff;
                self.requeue_or_fail(task, true, delay);
            }
            (None, _) => {
                task.failures += 1;
                let retryable = !matches!(end, AttemptEnd::StartFailed { failure } if !failure.retryable);
                let left = task.failures < task.spec.retry.max_attempts.get();
                let again = match task.spec.restart {
                    RestartPolicy::Never => false,
                    RestartPolicy::OnFailure => retryable && left,
                    RestartPolicy::Always => true,
                };
                let failed = task.latest_attempt().expect("an attempt ended");
                let delay = task.spec.retry.delay(failed, task.failures);
                if !again && *end == AttemptEnd::RunTimeout {
                    self.finish(task, TaskResult::TimedOut { limit: TimeoutKind::Run });
                } else {
                    self.requeue_or_fail(task, again, delay);
                }
            }
        }
    }

    /// Replaces an attempt whose node was lost, where the task's policy allows it.
    pub(super) fn replace_lost(&mut self, task: &mut TaskRecord) {
        let again = self.survives_losses(task);
        self.requeue_or_fail(task, again, Duration::ZERO);
    }

    fn survives_losses(&self, task: &TaskRecord) -> bool {
        task.spec.restart != RestartPolicy::Never && task.node_losses < self.state.config.node_losses_max
    }

    /// Continues attempts that a returning node still has, as far as they were given up with it and may
    /// continue.
    pub(super) fn take_back(&mut self, node: &NodeId, held: &[AttemptId]) {
        let held = if EngineFault::LostAttemptsNotTakenBack.is_made() { &[] } else { held };
        for attempt in held {
            let Ok(mut task) = self.known_task(attempt.task) else { continue };
            let Some(lost) = task.may_take_back(attempt.attempt).filter(|lost| lost.node == *node) else {
                continue;
            };
            let back = AttemptRecord { started_at: None, ended_at: None, end: None, ..lost.clone() };
            let started_at = lost.started_at;
            let fits = self
                .view(node)
                .is_some_and(|view| view.held.fits(&view.record.spec.capacity, &task.spec.resources));
            if !fits {
                continue;
            }
            if task.node().is_some()
                && let Some(replacement) = task.attempts.last_mut()
            {
                (replacement.ended_at, replacement.end) = (Some(self.now()), Some(AttemptEnd::Stopped));
            }
            task.attempts.retain(|known| known.number != attempt.attempt);
            task.node_losses = task.node_losses.saturating_sub(1);
            task.state = TaskState::Placed { node: node.clone(), at: back.placed_at, started_at };
            task.attempts.push(back);
            self.put_task(task);
        }
        // Attempts that the node returned without are waited for no longer.
        for id in self.state.waiting_for(node) {
            let Ok(mut task) = self.known_task(id) else { continue };
            if matches!(task.state, TaskState::Disconnected { .. }) {
                self.replace_lost(&mut task);
                self.put_task(task);
            }
        }
    }

    pub(super) fn requeue_or_fail(&mut self, task: &mut TaskRecord, again: bool, delay: Duration) {
        if !again || task.attempts_made == u32::MAX {
            return self.finish(task, TaskResult::Failed);
        }
        let not_before = (!delay.is_zero()).then(|| self.now().after(delay));
        task.state = TaskState::Pending { since: self.now(), not_before };
    }

    pub(super) fn finish(&mut self, task: &mut TaskRecord, result: TaskResult) {
        task.stop = None;
        task.state = TaskState::Finished { at: self.now(), result };
    }

    pub(super) fn start_attempt(&mut self, task: &mut TaskRecord, node: &NodeId) {
        task.attempts_made += 1;
        let number = NonZeroU32::new(task.attempts_made).expect("at least one was made");
        let kept = self.state.config.attempts_kept.max(1);
        if task.attempts.len() >= kept {
            task.attempts.drain(..=task.attempts.len() - kept);
        }
        // Most tasks have one attempt, and there are millions of tasks.
        task.attempts.reserve_exact(1);
        task.attempts.push(AttemptRecord {
            number,
            node: node.clone(),
            placed_at: self.now(),
            started_at: None,
            ended_at: None,
            end: None,
        });
        task.state = TaskState::Placed { node: node.clone(), at: self.now(), started_at: None };
    }
}
