//! [`ClusterState::decide`]: the decision about a command, as changes of records.
//!
//! Each command has one function here. They change a [`Draft`]; the consequences of an ended attempt are in
//! `lifecycle.rs`, placement in `place.rs`.

use std::{collections::BTreeSet, time::Duration};

use super::{
    ClusterState, Command, Decided, Envelope, NewTask, Outcome, Rejection, Stop, StopReason, TaskRecord,
    TaskResult, TaskState, TimeoutKind, draft::Draft,
};
use crate::{
    consensus::{Author, Context},
    fault::EngineFault,
    model::{
        AttemptEnd, AttemptId, IncarnationId, NodeId, NodeKey, NodeRecord, NodeSpec, NodeState, Report,
        ReportKind, Scheduling, TaskId, Timestamp, clipped_words,
    },
};

type Answer = Result<Outcome, Rejection>;

impl ClusterState {
    /// Decides the changes of `envelope`. The time of the context is the proposer's clock: time never goes
    /// back, so an earlier one counts as the latest one observed, and one that is far ahead is refused. Pure:
    /// the state is not touched.
    #[must_use]
    pub fn decide(&self, context: &Context<'_>, envelope: &Envelope) -> Decided {
        if let Some(id) = envelope.id
            && let Some(known) = self.commands.get(id)
        {
            let reused = known.subject != envelope.command.subject() || self.contradicts(&envelope.command);
            let outcome = match reused {
                true => Err(Rejection::CommandIdReused { command: id }),
                false => known.outcome.clone(),
            };
            return Decided { outcome, changes: Vec::new() };
        }
        if let Err(rejection) = self.check(context, envelope) {
            return Decided { outcome: Err(rejection), changes: Vec::new() };
        }
        let mut draft = Draft::new(self, context.time.max(self.clock.time));
        let outcome = draft.carry_out(context.author, &envelope.command);
        Decided { changes: draft.into_changes(envelope, &outcome), outcome }
    }

    /// Rejects commands that must not even advance the clock.
    fn check(&self, context: &Context<'_>, envelope: &Envelope) -> Result<(), Rejection> {
        if envelope.v != Envelope::VERSION {
            return Err(Rejection::Malformed {
                problem: format!(
                    "it has format {}; this version reads format {}",
                    envelope.v,
                    Envelope::VERSION
                ),
            });
        }
        self.check_author(context.author, &envelope.command)?;
        self.check_time(context.time)
    }

    fn check_time(&self, proposed: Timestamp) -> Result<(), Rejection> {
        /// The end of the year 9999: no clock reads later.
        const END: Timestamp = Timestamp::from_millis(253_402_300_799_999);
        let (cluster, limit_ms) = (self.clock.time, self.config.time_step_max_ms);
        let first = cluster == Timestamp::ZERO;
        let step = proposed.since(cluster);
        if proposed > END || (!first && step > Duration::from_millis(limit_ms)) {
            return Err(Rejection::ClockAhead { proposed, cluster, limit_ms });
        }
        Ok(())
    }

    /// Whether a task of a submission exists with another spec.
    fn contradicts(&self, command: &Command) -> bool {
        let Command::Submit { tasks } = command else { return false };
        tasks.iter().any(|new| self.task(new.id).is_some_and(|known| known.spec != new.spec))
    }
}

impl Draft<'_> {
    fn carry_out(&mut self, author: &Author, command: &Command) -> Answer {
        let answer = match command {
            Command::Submit { tasks } => self.submit(tasks),
            Command::Cancel { task, reason } => self.cancel(*task, reason),
            Command::Report { session, report } => self.report(*session, report),
            Command::RegisterNode { spec, incarnation, number, held } => {
                self.register_node(author, spec, (*incarnation, *number), held)
            }
            Command::SuspectNode { node, session } => self.suspect_node(node, *session, author),
            Command::TrustNode { node } => self.trust_node(node, author),
            Command::UncordonNode { node } => self.set_scheduling(node, Scheduling::Open),
            Command::CordonNode { node } => self.set_scheduling(node, Scheduling::Cordoned),
            Command::DrainNode { node, grace } => self.drain_node(node, *grace),
            Command::RemoveNode { node } => self.remove_node(node),
            Command::Tick => self.tick(),
        };
        if answer.is_ok() {
            self.place();
        }
        answer
    }

    fn submit(&mut self, new: &[NewTask]) -> Answer {
        let config = &self.state.config;
        if new.len() > config.submission_max {
            return Err(Rejection::SubmissionTooLarge { count: new.len(), limit: config.submission_max });
        }
        let mut drafted = Vec::with_capacity(new.len());
        for NewTask { id, spec } in new {
            match self.state.task(*id) {
                Some(known) if known.spec == *spec => continue,
                Some(_) => return Err(Rejection::TaskIdTaken { task: *id }),
                None => {}
            }
            spec.validate(&config.limits).map_err(Rejection::InvalidSpec)?;
            drafted.push(TaskRecord {
                id: *id,
                spec: self.state.specs.shared(spec),
                seq: self.clock.next_seq + drafted.len() as u64,
                submitted_at: self.now(),
                state: TaskState::Pending { since: self.now(), not_before: None },
                stop: None,
                attempts_made: 0,
                failures: 0,
                node_losses: 0,
                attempts: Vec::new(),
            });
        }
        // The ids that one process makes are in order already.
        if !drafted.is_sorted_by(|one, next| one.id < next.id) {
            let mut seen = BTreeSet::new();
            if let Some(twice) = drafted.iter().find(|task| !seen.insert(task.id)) {
                return Err(Rejection::TaskIdTaken { task: twice.id });
            }
        }
        if self.state.unfinished() + drafted.len() > config.unfinished_max {
            return Err(Rejection::QueueFull { limit: config.unfinished_max });
        }
        if drafted.is_empty() {
            return Ok(Outcome::Unchanged);
        }
        self.clock.next_seq += drafted.len() as u64;
        for task in drafted {
            self.put_task(task);
        }
        Ok(Outcome::Done)
    }

    fn cancel(&mut self, id: TaskId, reason: &str) -> Answer {
        let mut task = self.known_task(id)?;
        match &task.state {
            TaskState::Finished { .. } => Err(Rejection::AlreadyFinished { task: id, status: task.status() }),
            TaskState::Pending { .. } | TaskState::Disconnected { .. } => {
                self.finish(&mut task, TaskResult::Cancelled { reason: clipped_words(reason) });
                self.put_task(task);
                Ok(Outcome::Done)
            }
            TaskState::Placed { .. } => match &task.stop {
                Some(Stop { reason: StopReason::Cancelled { .. } | StopReason::TotalTimeout, .. }) => {
                    Ok(Outcome::Unchanged)
                }
                _ => {
                    task.stop = Some(Stop {
                        at: self.now(),
                        reason: StopReason::Cancelled { reason: clipped_words(reason) },
                    });
                    self.put_task(task);
                    Ok(Outcome::Done)
                }
            },
        }
    }

    fn report(&mut self, session: u64, report: &Report) -> Answer {
        let stale = Rejection::StaleAttempt { attempt: report.attempt };
        let mut task = self.known_task(report.attempt.task).map_err(|_| stale.clone())?;
        if task.current_attempt() != Some(report.attempt) || task.node() != Some(&report.node) {
            let repeated = match &report.kind {
                ReportKind::Started { .. } => false,
                ReportKind::Ended(end) => was_reported(&task, report.attempt, &end.clipped()),
            };
            return if repeated { Ok(Outcome::Unchanged) } else { Err(stale) };
        }
        let current = self.known_node(&report.node)?.session == session;
        if !current && !EngineFault::SessionsNotChecked.is_made() {
            return Err(Rejection::StaleSession { node: report.node.clone() });
        }
        match &report.kind {
            ReportKind::Started { at } => {
                let now = self.now();
                let TaskState::Placed { at: placed_at, started_at, .. } = &mut task.state else {
                    return Err(stale);
                };
                if started_at.is_some() {
                    return Ok(Outcome::Unchanged);
                }
                // A node's clock may be off; where it contradicts the placement or our own time, the time of
                // the report is used, because it ends nothing early.
                *started_at = Some(if (*placed_at..=now).contains(at) { *at } else { now });
            }
            ReportKind::Ended(end) => self.end_attempt(&mut task, &end.clipped()),
        }
        self.put_task(task);
        Ok(Outcome::Done)
    }

    /// Applies the changes that are due by time alone, for tasks and nodes; the next tick continues where
    /// there are many.
    fn tick(&mut self) -> Answer {
        const MOST: usize = 1000;
        let now = self.now();
        let due: Vec<TaskId> = self
            .state
            .due
            .iter()
            .take(MOST)
            .take_while(|(at, _)| *at <= now)
            .map(|(_, task)| *task)
            .collect();
        let evictions: Vec<TaskId> = self
            .state
            .nodes
            .draining()
            .filter(|node| self.state.drain_due(node).is_some_and(|at| at <= now))
            .flat_map(|node| self.state.tasks_of(node.id()))
            .filter(|task| task.stop.is_none())
            .take(MOST)
            .map(|task| task.id)
            .collect();
        if due.is_empty() && evictions.is_empty() {
            return Ok(Outcome::Unchanged);
        }
        for id in due {
            let mut task = self.known_task(id)?;
            self.pass_time(&mut task);
            self.put_task(task);
        }
        for id in evictions {
            let mut task = self.known_task(id)?;
            if task.node().is_some() && task.stop.is_none() {
                task.stop = Some(Stop { at: now, reason: StopReason::Evicted });
                self.put_task(task);
            }
        }
        Ok(Outcome::Done)
    }

    fn pass_time(&mut self, task: &mut TaskRecord) {
        let (now, config) = (self.now(), &self.state.config);
        let passed = |deadline: Option<Timestamp>| deadline.is_some_and(|at| at <= now);
        let total = task.spec.timeouts.total.map(|limit| task.submitted_at.after(limit));
        match task.state {
            TaskState::Finished { .. } => {}
            TaskState::Pending { .. } if passed(total) => {
                self.finish(task, TaskResult::TimedOut { limit: TimeoutKind::Total });
            }
            TaskState::Pending { .. } if passed(task.queue_deadline()) => {
                self.finish(task, TaskResult::TimedOut { limit: TimeoutKind::Queue });
            }
            TaskState::Disconnected { .. } if passed(total) => {
                self.finish(task, TaskResult::TimedOut { limit: TimeoutKind::Total });
            }
            TaskState::Disconnected { until, .. } => {
                if passed(until) {
                    self.replace_lost(task);
                }
            }
            TaskState::Pending { not_before, .. } => {
                if passed(not_before) {
                    task.state = TaskState::Pending { since: now, not_before: None };
                }
            }
            TaskState::Placed { .. } if passed(task.stop_deadline(config)) => {
                self.end_attempt(task, &AttemptEnd::Stopped);
            }
            TaskState::Placed { .. } if passed(task.run_deadline(config)) => {
                self.end_attempt(task, &AttemptEnd::RunTimeout);
            }
            TaskState::Placed { .. } => {
                if task.stop.is_none() && passed(total) {
                    task.stop = Some(Stop { at: now, reason: StopReason::TotalTimeout });
                }
            }
        }
    }

    fn register_node(
        &mut self,
        author: &Author,
        spec: &NodeSpec,
        (incarnation, number): (IncarnationId, u64),
        held: &[AttemptId],
    ) -> Answer {
        let config = &self.state.config;
        self.check_node(spec)?;
        let known = self.state.nodes.get(&spec.id).map(|view| view.record.clone());
        let mut record = match &known {
            None if self.state.nodes().len() >= config.nodes_max => {
                return Err(Rejection::TooManyNodes { limit: config.nodes_max });
            }
            None => NodeRecord::new(spec.clone(), incarnation, self.now()),
            Some(known) if known.fenced.contains(&incarnation) => {
                return Err(Rejection::Fenced { node: spec.id.clone() });
            }
            Some(known) if known.state == NodeState::Ready && known.spec.instance != spec.instance => {
                return Err(Rejection::NodeIdTaken { node: spec.id.clone() });
            }
            Some(known) => NodeRecord::clone(known),
        };
        let same_agent = known.is_some() && record.incarnation == incarnation;
        if same_agent && number < record.registration {
            // It was overtaken by a later registration.
            return Ok(Outcome::Unchanged);
        }
        let same_session = same_agent && record.state == NodeState::Ready && record.suspected_by.is_empty();
        if same_session && record.spec == *spec && number == record.registration {
            return Ok(Outcome::Unchanged);
        }
        if known.is_some() && !same_agent {
            record.fenced.push(record.incarnation);
            let surplus = record.fenced.len().saturating_sub(NodeRecord::FENCED_MAX);
            record.fenced.drain(..surplus);
        }
        if !same_session {
            self.clock.sessions += 1;
            record.session = self.clock.sessions;
            record.registered_at = self.now();
        }
        if let Author::Key { key, .. } = author {
            record.key = Some(NodeKey(*key));
        }
        record.spec = spec.clone();
        (record.incarnation, record.registration) = (incarnation, number);
        record.state = NodeState::Ready;
        record.suspected_by.clear();
        self.put_node(record);
        self.take_back(&spec.id, held);
        Ok(Outcome::Done)
    }

    fn check_node(&self, spec: &NodeSpec) -> Result<(), Rejection> {
        let refuse = |problem: &str| {
            Err(Rejection::InvalidNode { node: spec.id.clone(), problem: problem.to_owned() })
        };
        // Sums of held resources stay in range because each node's capacity and each request do.
        const MOST: u64 = 1 << 60;
        let capacity = &spec.capacity;
        if capacity.cpu_millis > MOST
            || capacity.memory_bytes > MOST
            || capacity.devices.values().any(|n| *n > MOST)
        {
            return refuse("an amount is larger than 2^60");
        }
        if spec.max_tasks > NodeSpec::MOST_TASKS {
            return refuse("max_tasks is larger than 10000");
        }
        if spec.labels.len() > 256 || capacity.devices.len() > 256 {
            return refuse("it has more than 256 labels or kinds of devices");
        }
        if spec.labels.iter().any(|(name, value)| name.is_empty() || name.len() > 128 || value.len() > 1024) {
            return refuse("a label's name must have 1 to 128 bytes, its value at most 1024");
        }
        if spec.last_error.as_ref().is_some_and(|last_error| last_error.len() > 8192) {
            return refuse("last_error is longer than 8192 bytes");
        }
        match capacity.ports.is_empty() {
            true => Ok(()),
            false => refuse("a capacity lists no ports: every port is free until a task holds it"),
        }
    }

    fn suspect_node(&mut self, node: &NodeId, session: u64, by: &Author) -> Answer {
        let mut record = self.known_node(node)?.clone();
        if record.state == NodeState::Lost || record.session != session {
            return Ok(Outcome::Unchanged);
        }
        if !record.suspected_by.insert(by.to_string()) {
            return Ok(Outcome::Unchanged);
        }
        if record.suspected_by.len() >= self.state.config.suspicions_needed {
            record.state = NodeState::Lost;
            record.suspected_by.clear();
            self.put_node(record);
            let tasks: Vec<TaskId> = self.state.nodes.tasks_of(node).collect();
            for id in tasks {
                let mut task = self.known_task(id)?;
                self.end_attempt(&mut task, &AttemptEnd::NodeLost);
                self.put_task(task);
            }
        } else {
            self.put_node(record);
        }
        Ok(Outcome::Done)
    }

    fn trust_node(&mut self, node: &NodeId, by: &Author) -> Answer {
        let mut record = self.known_node(node)?.clone();
        if !record.suspected_by.remove(&by.to_string()) {
            return Ok(Outcome::Unchanged);
        }
        self.put_node(record);
        Ok(Outcome::Done)
    }

    fn set_scheduling(&mut self, node: &NodeId, scheduling: Scheduling) -> Answer {
        let mut record = self.known_node(node)?.clone();
        if record.scheduling == scheduling {
            return Ok(Outcome::Unchanged);
        }
        record.scheduling = scheduling;
        self.put_node(record);
        Ok(Outcome::Done)
    }

    fn drain_node(&mut self, node: &NodeId, grace: Duration) -> Answer {
        let evict_at = self.now().after(grace);
        let earlier = match self.known_node(node)?.scheduling {
            Scheduling::Draining { evict_at: known } => known.min(evict_at),
            _ => evict_at,
        };
        let answer = self.set_scheduling(node, Scheduling::Draining { evict_at: earlier })?;
        if grace.is_zero() {
            let tasks: Vec<TaskId> = self.state.nodes.tasks_of(node).collect();
            for id in tasks {
                let mut task = self.known_task(id)?;
                if task.stop.is_none() {
                    task.stop = Some(Stop { at: self.now(), reason: StopReason::Evicted });
                    self.put_task(task);
                }
            }
        }
        Ok(answer)
    }

    fn remove_node(&mut self, node: &NodeId) -> Answer {
        self.known_node(node)?;
        let tasks = self.state.nodes.tasks_of(node).count();
        if tasks > 0 {
            return Err(Rejection::NodeInUse { node: node.clone(), tasks });
        }
        for id in self.state.waiting_for(node) {
            let mut task = self.known_task(id)?;
            self.replace_lost(&mut task);
            self.put_task(task);
        }
        self.nodes.insert(node.clone(), None);
        Ok(Outcome::Done)
    }
}

/// Whether this very report was applied before: its sender did not receive the response.
fn was_reported(task: &TaskRecord, attempt: AttemptId, end: &AttemptEnd) -> bool {
    task.attempts.iter().any(|known| known.number == attempt.attempt && known.end.as_ref() == Some(end))
}
