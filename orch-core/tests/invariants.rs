//! Invariants of the functional core under random commands.
//!
//! | invariant | checked by |
//! |---|---|
//! | every accepted task is pending, placed or finished, or was forgotten | [`Oracle::tasks_are_kept`] |
//! | no attempt without its placement, and none on a node that is not there | [`attempts_match_placements`] |
//! | the capacity of a node is never exceeded by placing | [`capacity_holds`] |
//! | states only move forward, except for attempts taken back | [`Oracle::states_move_forward`] |
//! | only an attempt that was given up with its node is ever taken back | [`only_lost_attempts_come_back`] |
//! | a report under an earlier registration changes nothing | [`Oracle::stale_reports_change_nothing`] |
//! | a fenced incarnation never registers again | [`fenced_processes_stay_out`] |
//! | a report of a stale attempt changes nothing | [`Oracle::stale_reports_change_nothing`] |
//! | a client's command is applied at most once | [`Oracle::repeated_commands_change_nothing`] |
//! | no placeable task stays pending | [`nothing_placeable_waits`] |
//! | replay, and a snapshot with the rest of the log, give the same digest | [`replay_and_snapshots_agree`] |
//! | undoing changes restores the state | [`changes_can_be_taken_back`] |
//! | records survive being written down, and those in a store are the whole state | [`Records`] |
//! | a large spec is stored once, as long as a task has it | [`Records::are_the_state`] |

#![expect(clippy::unwrap_used, reason = "a test may panic")]

use std::{
    collections::{BTreeMap, BTreeSet},
    num::NonZeroU32,
    sync::Arc,
    time::Duration,
};

use orch_core::{
    consensus::{Author, Context},
    model::{
        AttemptEnd, AttemptId, CommandId, Exit, IncarnationId, InstanceId, KeptAttempt, NodeId,
        NodeLossPolicy, NodeSpec, NodeState, Report, ReportKind, Resources, RestartPolicy, SharedSpec,
        StartFailure, TaskId, TaskSpec, Timestamp, WorkKind,
    },
    scheduler::LeastFragmentation,
    state::{
        Change, ClusterConfig, ClusterState, Command, Decided, Envelope, NewTask, Outcome, TaskRecord,
        TaskState,
    },
    store::{Key, Write},
};
use proptest::prelude::*;

/// Step of a random run; numbers are taken modulo the number of candidates, so that most steps have a target.
#[derive(Clone, Debug)]
enum Step {
    Submit {
        count: u8,
        cpu: u8,
        memory: u8,
        port: Option<u8>,
        priority: i8,
        restart: u8,
        retries: u8,
        limits: u8,
        loss: u8,
    },
    Resubmit {
        task: u16,
    },
    Cancel {
        task: u16,
    },
    Start {
        task: u16,
    },
    End {
        task: u16,
        end: u8,
        outdated: bool,
    },
    Stale {
        task: u16,
        back: u8,
    },
    Register {
        node: u8,
        cpu: u8,
        memory: u8,
        instance: u8,
        incarnation: u8,
        held: u8,
    },
    Suspect {
        node: u8,
        member: u8,
        outdated: bool,
    },
    Trust {
        node: u8,
        member: u8,
    },
    Open {
        node: u8,
    },
    Cordon {
        node: u8,
    },
    Drain {
        node: u8,
        grace: u16,
    },
    Remove {
        node: u8,
    },
    Tick,
    Repeat {
        back: u8,
    },
}

fn step() -> impl Strategy<Value = Step> {
    let submit =
        (
            1..4u8,
            0..5u8,
            0..5u8,
            prop::option::weighted(0.1, 0..3u8),
            -2..3i8,
            0..3u8,
            1..4u8,
            0..8u8,
            0..12u8,
        )
            .prop_map(|(count, cpu, memory, port, priority, restart, retries, limits, loss)| {
                Step::Submit { count, cpu, memory, port, priority, restart, retries, limits, loss }
            });
    prop_oneof![
        8 => submit,
        1 => any::<u16>().prop_map(|task| Step::Resubmit { task }),
        2 => any::<u16>().prop_map(|task| Step::Cancel { task }),
        3 => any::<u16>().prop_map(|task| Step::Start { task }),
        10 => (any::<u16>(), 0..8u8, prop::bool::weighted(0.1)).prop_map(|(task, end, outdated)| Step::End { task, end, outdated }),
        2 => (any::<u16>(), any::<u8>()).prop_map(|(task, back)| Step::Stale { task, back }),
        4 => (0..5u8, 0..12u8, 0..12u8, 0..2u8, 0..4u8, any::<u8>()).prop_map(|(node, cpu, memory, instance, incarnation, held)| {
            Step::Register { node, cpu, memory, instance, incarnation, held }
        }),
        2 => (0..5u8, 0..3u8, any::<bool>()).prop_map(|(node, member, outdated)| Step::Suspect { node, member, outdated }),
        1 => (0..5u8, 0..3u8).prop_map(|(node, member)| Step::Trust { node, member }),
        1 => (0..5u8).prop_map(|node| Step::Open { node }),
        1 => (0..5u8).prop_map(|node| Step::Cordon { node }),
        1 => (0..5u8, any::<u16>()).prop_map(|(node, grace)| Step::Drain { node, grace }),
        1 => (0..5u8).prop_map(|node| Step::Remove { node }),
        4 => Just(Step::Tick),
        1 => any::<u8>().prop_map(|back| Step::Repeat { back }),
    ]
}

/// A step, and the movement of the clock before it; sometimes backwards.
fn steps(count: usize) -> impl Strategy<Value = Vec<(Step, i32)>> {
    prop::collection::vec((step(), prop_oneof![4 => 0..2000i32, 1 => -5000..0i32, 1 => 0..60_000i32]), count)
}

fn config() -> ClusterConfig {
    ClusterConfig {
        finished_max: 40,
        unfinished_max: 60,
        commands_max: 16,
        nodes_max: 4,
        suspicions_needed: 2,
        node_losses_max: 3,
        attempts_kept: 3,
        ..ClusterConfig::default()
    }
}

fn fresh() -> ClusterState {
    ClusterState::new(config(), Arc::new(LeastFragmentation))
}

fn node_id(node: u8) -> NodeId {
    NodeId::new(format!("n{node}")).unwrap()
}

fn pick<T: Clone>(from: &[T], at: u16) -> Option<T> {
    (!from.is_empty()).then(|| from[usize::from(at) % from.len()].clone())
}

/// Converts steps into commands for the current state.
struct Driver {
    ids: u64,
    /// Member that proposes the command.
    member: u8,
    sent: Vec<Envelope>,
}

impl Driver {
    fn new() -> Self {
        Self { ids: 0, member: 0, sent: Vec::new() }
    }

    fn fresh_bytes(&mut self) -> [u8; 16] {
        self.ids += 1;
        let mut bytes = [0; 16];
        // Spread over the whole range, so that the order of ids is not the order of submission.
        bytes[..8].copy_from_slice(&self.ids.wrapping_mul(0x9E37_79B9_7F4A_7C15).to_be_bytes());
        bytes[8..].copy_from_slice(&self.ids.to_be_bytes());
        bytes
    }

    fn command(&mut self, state: &ClusterState, step: &Step) -> Option<Envelope> {
        let tasks = state.tasks();
        let placed: Vec<_> = tasks.iter().filter(|task| task.node().is_some()).cloned().collect();
        let command = match step {
            Step::Submit { count, cpu, memory, port, priority, restart, retries, limits, loss } => {
                let mut spec = TaskSpec::program("t", "x")
                    .cpu_millis(u64::from(*cpu) * 500)
                    .memory_mib(u64::from(*memory) * 100)
                    .priority(i32::from(*priority))
                    .max_attempts(u32::from(*retries))
                    .restart(
                        [RestartPolicy::OnFailure, RestartPolicy::Always, RestartPolicy::Never]
                            [usize::from(*restart)],
                    );
                if let Some(port) = port {
                    spec.resources = spec.resources.port(8000 + u16::from(*port));
                }
                let second = Duration::from_secs(1);
                spec.timeouts.queue = (limits & 1 != 0).then_some(second * 20);
                spec.timeouts.run = (limits & 2 != 0).then_some(second * 10);
                spec.timeouts.total = (limits & 4 != 0).then_some(second * 90);
                let policy = NodeLossPolicy {
                    wait: second * [0, 0, 20][usize::from(loss % 3)],
                    replace: loss / 3 != 0,
                    keep: if loss / 6 == 0 { KeptAttempt::Replacement } else { KeptAttempt::Original },
                };
                spec.node_loss = (policy != NodeLossPolicy::default()).then(|| Box::new(policy));
                if limits % 3 == 1 {
                    spec = spec.env("LARGE", "x".repeat(600));
                }
                let spec = SharedSpec::from(spec);
                let new = |bytes| NewTask { id: TaskId::from_bytes(bytes), spec: spec.clone() };
                Command::Submit { tasks: (0..*count).map(|_| new(self.fresh_bytes())).collect() }
            }
            Step::Resubmit { task } => {
                let task = pick(&tasks, *task)?;
                Command::Submit { tasks: vec![NewTask { id: task.id, spec: task.spec.clone() }] }
            }
            Step::Cancel { task } => {
                Command::Cancel { task: pick(&tasks, *task)?.id, reason: "why not".into() }
            }
            Step::Start { task } => {
                let task = pick(&placed, *task)?;
                report(
                    state,
                    &task,
                    false,
                    ReportKind::Started { at: Timestamp::from_millis(state.time().as_millis() / 2) },
                )?
            }
            Step::End { task, end, outdated } => {
                let task = pick(&placed, *task)?;
                report(state, &task, *outdated, ReportKind::Ended(some_end(*end)))?
            }
            Step::Stale { task, back } => {
                let task = pick(&tasks, *task)?;
                let number = NonZeroU32::new(u32::from(*back) % (task.attempts_made + 2))?;
                let node = task.attempts.last().map_or(node_id(0), |attempt| attempt.node.clone());
                let attempt = AttemptId { task: task.id, attempt: number };
                let session = session_of(state, &node).unwrap_or_default();
                let report = Report { attempt, node, kind: ReportKind::Ended(AttemptEnd::Stopped) };
                Command::Report { session, report }
            }
            Step::Register { node, cpu, memory, instance, incarnation, held } => {
                let capacity = Resources::new(u64::from(*cpu) * 500, (u64::from(*memory) * 100) << 20);
                let instance = InstanceId::from_bytes([*instance; 16]);
                let spec = NodeSpec {
                    max_tasks: 5,
                    ..NodeSpec::new(node_id(*node), instance, capacity, [WorkKind::Program])
                };
                let attempts = tasks.iter().flat_map(|task| {
                    let of = |number| AttemptId { task: task.id, attempt: number };
                    task.attempts.iter().map(move |known| of(known.number))
                });
                let some = attempts.enumerate().filter(|(at, _)| (at % 3 == 0) == (held % 3 == 0));
                let held: Vec<_> = some.map(|(_, attempt)| attempt).take(usize::from(*held)).collect();
                let incarnation = IncarnationId::from_bytes([*incarnation; 16]);
                let last = state.node(&spec.id).map_or(0, |known| known.record.registration);
                let late = held.len() % 4 == 3;
                let number = if late { last.saturating_sub(1) } else { last + 1 };
                Command::RegisterNode { spec, incarnation, number, held }
            }
            Step::Suspect { node, member, outdated } => {
                self.member = *member;
                let node = node_id(*node);
                let session = session_of(state, &node)?;
                Command::SuspectNode { node, session: session.saturating_sub(u64::from(*outdated)) }
            }
            Step::Trust { node, member } => {
                self.member = *member;
                Command::TrustNode { node: node_id(*node) }
            }
            Step::Open { node } => Command::UncordonNode { node: node_id(*node) },
            Step::Cordon { node } => Command::CordonNode { node: node_id(*node) },
            Step::Drain { node, grace } => Command::DrainNode {
                node: node_id(*node),
                grace: Duration::from_millis(u64::from(*grace) * u64::from(grace % 2)),
            },
            Step::Remove { node } => Command::RemoveNode { node: node_id(*node) },
            Step::Tick => Command::Tick,
            Step::Repeat { back } => {
                let recent = self.sent.len().saturating_sub(8);
                return pick(&self.sent[recent..], u16::from(*back));
            }
        };
        let id = CommandId::from_bytes(self.fresh_bytes());
        let envelope = Envelope::identified(id, command);
        self.sent.push(envelope.clone());
        Some(envelope)
    }
}

fn session_of(state: &ClusterState, node: &NodeId) -> Option<u64> {
    state.nodes().iter().find(|view| view.id() == node).map(|view| view.record.session)
}

fn report(state: &ClusterState, task: &TaskRecord, outdated: bool, kind: ReportKind) -> Option<Command> {
    let node = task.node()?.clone();
    let session = session_of(state, &node)? - u64::from(outdated);
    Some(Command::Report { session, report: Report { attempt: task.current_attempt()?, node, kind } })
}

fn some_end(end: u8) -> AttemptEnd {
    match end {
        0 | 1 => AttemptEnd::Exited { exit: Exit::from_code(0) },
        2 => AttemptEnd::Exited { exit: Exit::from_code(1) },
        3 => AttemptEnd::StartFailed {
            failure: Box::new(StartFailure {
                reason: "no_space".into(),
                message: "disk full".into(),
                retryable: true,
            }),
        },
        4 => AttemptEnd::RunTimeout,
        5 => AttemptEnd::Stopped,
        6 => AttemptEnd::Lost { message: "rebooted".into() },
        _ => AttemptEnd::Unhealthy { output: String::new() },
    }
}

/// State carried from step to step.
#[derive(Default)]
struct Oracle {
    accepted: BTreeSet<TaskId>,
    forgotten: BTreeSet<TaskId>,
    progress: BTreeMap<TaskId, (u32, u8)>,
    fenced: BTreeSet<(NodeId, IncarnationId)>,
    time: Timestamp,
}

impl Oracle {
    fn tasks_are_kept(&mut self, envelope: &Envelope, decided: &Decided, state: &ClusterState) {
        if let (Command::Submit { tasks }, Ok(Outcome::Done)) = (&envelope.command, &decided.outcome) {
            self.accepted.extend(tasks.iter().map(|task| task.id));
        }
        for change in &decided.changes {
            if let Change::DeleteTask(task) = change {
                assert_eq!(self.progress[task].1, 2, "only a finished task is forgotten");
                self.forgotten.insert(*task);
            }
        }
        let known: BTreeSet<_> = state.tasks().iter().map(|task| task.id).collect();
        let expected: BTreeSet<_> = self.accepted.difference(&self.forgotten).copied().collect();
        assert_eq!(known, expected, "every accepted task is there until it is forgotten");
        let config = config();
        let finished = state.tasks().iter().filter(|task| task.is_finished()).count();
        assert!(finished <= config.finished_max && known.len() - finished <= config.unfinished_max);
    }

    fn states_move_forward(&mut self, state: &ClusterState) {
        assert!(state.time() >= self.time, "time never goes back");
        self.time = state.time();
        for task in state.tasks() {
            let now = (task.attempts_made, u8::from(task.is_finished()) * 2);
            let before = self.progress.insert(task.id, now).unwrap_or_default();
            assert!(now >= before, "task {} went from {before:?} to {now:?}", task.id);
            if before.1 == 2 {
                assert_eq!(now, before, "a finished task never changes");
            }
        }
    }

    fn stale_reports_change_nothing(before: &ClusterState, envelope: &Envelope, decided: &Decided) {
        let Command::Report { session, report } = &envelope.command else { return };
        let current = before.task(report.attempt.task).and_then(|task| task.current_attempt());
        if current != Some(report.attempt) || session_of(before, &report.node) != Some(*session) {
            let touched = decided.changes.iter().any(|change| matches!(change, Change::PutTask(_)));
            assert!(
                !touched,
                "a report of {} changed something while {current:?} was current",
                report.attempt
            );
        }
    }

    fn repeated_commands_change_nothing(state: &ClusterState, envelope: &Envelope, outcome: &Decided) {
        let again = decide(state, state.time(), 0, envelope);
        assert_eq!(again.outcome, outcome.outcome, "a repeated command gets the same answer");
        assert!(again.changes.is_empty(), "a repeated command changes nothing");
    }
}

fn attempts_match_placements(state: &ClusterState) {
    let mut placed = 0;
    for task in state.tasks() {
        let current: Vec<_> = task.attempts.iter().filter(|attempt| attempt.end.is_none()).collect();
        match task.node() {
            Some(node) => {
                placed += 1;
                assert_eq!(current.len(), 1, "a placed task has exactly one attempt that goes on");
                let last = task.attempts.last().unwrap();
                assert_eq!((&current[0].node, current[0].number), (node, last.number));
                assert!(last.number.get() <= task.attempts_made);
                let view = state.nodes().iter().find(|view| view.id() == node).expect("the node is known");
                assert_eq!(view.record.state, NodeState::Ready, "no attempt belongs to a lost node");
                assert!(state.tasks_of(node).any(|known| known.id == task.id));
            }
            None => assert!(current.is_empty(), "a task that is not placed has no attempt that goes on"),
        }
        assert!(task.attempts.len() <= config().attempts_kept);
    }
    let listed: usize = state.nodes().iter().map(|view| state.tasks_of(view.id()).count()).sum();
    let counted: u32 = state.nodes().iter().map(|view| view.tasks).sum();
    assert_eq!((placed, placed), (listed, counted as usize));
}

/// A node may return smaller than its running tasks; placing must never make that worse.
fn capacity_holds(before: &ClusterState, state: &ClusterState, decided: &Decided) {
    for change in &decided.changes {
        let Change::PutTask(task) = change else { continue };
        let Some(node) = task.node() else { continue };
        if before.task(task.id).and_then(|known| known.current_attempt()) == task.current_attempt() {
            continue;
        }
        let view = state.nodes().iter().find(|view| view.id() == node).unwrap();
        let capacity = &view.record.spec.capacity;
        let was_within = before.nodes().iter().any(|known| known.id() == node && known.held.within(capacity));
        assert!(!was_within || view.held.within(capacity), "placing overfilled {node}");
        let taken_back = before.task(task.id).is_some_and(|known| known.attempts_made == task.attempts_made);
        assert!(taken_back || view.tasks <= view.record.spec.max_tasks);
    }
}

fn only_lost_attempts_come_back(before: &ClusterState, envelope: &Envelope, decided: &Decided) {
    for change in &decided.changes {
        let Change::PutTask(task) = change else { continue };
        let (Some(known), Some(current)) = (before.task(task.id), task.current_attempt()) else { continue };
        let earlier = known.attempts.iter().find(|attempt| attempt.number == current.attempt);
        let Some(end) = earlier.and_then(|attempt| attempt.end.as_ref()) else { continue };
        assert_eq!(*end, AttemptEnd::NodeLost, "{current} goes on after it has ended");
        let Command::RegisterNode { spec, held, .. } = &envelope.command else {
            panic!("{current} goes on though its node did not come back")
        };
        assert!(held.contains(&current) && task.node() == Some(&spec.id));
        let replaced = known.attempts.last().is_some_and(|last| last.number != current.attempt);
        assert!(!replaced || task.spec.node_loss_policy().keep == KeptAttempt::Original);
    }
}

fn fenced_processes_stay_out(
    fenced: &mut BTreeSet<(NodeId, IncarnationId)>,
    before: &ClusterState,
    state: &ClusterState,
) {
    for view in state.nodes() {
        let (id, now) = (view.id(), view.record.incarnation);
        assert!(!fenced.contains(&(id.clone(), now)), "{now} of {id} is back");
        let was = before.nodes().iter().find(|known| known.id() == id).map(|known| known.record.incarnation);
        fenced.extend(was.filter(|was| *was != now).map(|was| (id.clone(), was)));
    }
    // A node that was removed and registers again starts without fenced incarnations.
    fenced.retain(|(id, _)| state.nodes().iter().any(|view| view.id() == id));
}

fn decide(state: &ClusterState, time: Timestamp, member: u8, envelope: &Envelope) -> Decided {
    state.decide(&Context::new(time, &Author::member(format!("m{member}"))), envelope)
}

fn nothing_placeable_waits(state: &ClusterState, after: &Envelope) {
    for task in state.tasks() {
        if let TaskState::Pending { not_before: None, .. } = task.state {
            let home = state.nodes().iter().find(|view| view.accepts(&task.spec));
            assert!(
                home.is_none(),
                "after {after:?}: {task:?} waits although {:?} could take it",
                home.unwrap()
            );
        }
    }
}

fn changes_can_be_taken_back(state: &mut ClusterState, decided: &Decided) {
    let before = state.snapshot();
    let undo: Vec<_> = decided.changes.iter().map(|change| state.absorb(change.clone())).collect();
    undo.into_iter().rev().for_each(|change| drop(state.absorb(change)));
    assert!(state.snapshot() == before, "taking back what was done restores the records");
}

/// Records in a store: the writes of all changes, in order.
#[derive(Default)]
struct Records(BTreeMap<Key, Write>);

impl Records {
    fn take_in(&mut self, before: &ClusterState, decided: &Decided) {
        let writes: Vec<_> = decided.changes.iter().map(Change::to_write).collect();
        let read = Change::from_writes(&writes, |id| before.spec(id).cloned()).unwrap();
        assert_eq!(read.len(), decided.changes.len());
        assert!(decided.changes.iter().all(|change| read.contains(change)), "records survive their bytes");
        for write in writes {
            match write.value {
                Some(_) => drop(self.0.insert(write.key.clone(), write)),
                None => drop(self.0.remove(&write.key)),
            }
        }
    }

    fn are_the_state(&self, state: &ClusterState) {
        let records: Vec<_> = self.0.values().cloned().collect();
        let mut loaded = fresh();
        loaded.rebuild(Change::from_writes(&records, |_| None).unwrap()).unwrap();
        assert!(loaded.snapshot() == state.snapshot(), "the records of a store are the whole state");
        let stored: BTreeSet<_> =
            self.0.keys().filter_map(|key| key.as_str().strip_prefix("specs/")).map(str::to_owned).collect();
        let large = state.tasks().into_iter().filter(|task| task.spec.env.contains_key("LARGE"));
        let used = large.map(|task| task.spec.id().to_string()).collect();
        assert_eq!(stored, used, "a large spec is stored as long as a task has it");
    }
}

/// A command with its time and its proposer.
type Logged = (Timestamp, u8, Envelope);

/// Runs all steps, checks everything after each, and returns the commands and the state.
fn run(steps: &[(Step, i32)]) -> (ClusterState, Vec<Logged>) {
    let (mut state, mut driver, mut oracle) = (fresh(), Driver::new(), Oracle::default());
    let (mut clock, mut log, mut records) = (1_000_000i64, Vec::new(), Records::default());
    for (step, moved) in steps {
        clock += i64::from(*moved);
        let now = Timestamp::from_millis(u64::try_from(clock).unwrap_or(0));
        let Some(envelope) = driver.command(&state, step) else { continue };
        let remembered = !matches!(step, Step::Repeat { .. });
        let mut before = fresh();
        before.restore(&state.snapshot()).unwrap();
        let member = driver.member;
        let decided = decide(&state, now, member, &envelope);
        assert_eq!(decide(&before, now, member, &envelope), decided, "a restored state decides the same");
        Oracle::stale_reports_change_nothing(&before, &envelope, &decided);
        records.take_in(&before, &decided);
        changes_can_be_taken_back(&mut state, &decided);
        for change in &decided.changes {
            state.absorb(change.clone());
        }
        oracle.tasks_are_kept(&envelope, &decided, &state);
        oracle.states_move_forward(&state);
        attempts_match_placements(&state);
        capacity_holds(&before, &state, &decided);
        only_lost_attempts_come_back(&before, &envelope, &decided);
        fenced_processes_stay_out(&mut oracle.fenced, &before, &state);
        nothing_placeable_waits(&state, &envelope);
        if remembered {
            Oracle::repeated_commands_change_nothing(&state, &envelope, &decided);
        }
        if let Some(due) = state.next_due() {
            let acts = decide(&state, due.max(state.time()), 0, &Envelope::anonymous(Command::Tick));
            assert_eq!(acts.outcome, Ok(Outcome::Done), "a tick that is due has something to do");
        }
        log.push((now, member, envelope));
        if log.len().is_multiple_of(8) {
            records.are_the_state(&state);
        }
    }
    records.are_the_state(&state);
    (state, log)
}

fn apply(state: &mut ClusterState, log: &[Logged]) {
    for (now, member, envelope) in log {
        for change in decide(state, *now, *member, envelope).changes {
            state.absorb(change);
        }
    }
}

fn replay_and_snapshots_agree(whole: &ClusterState, log: &[Logged]) {
    let mut replayed = fresh();
    apply(&mut replayed, log);
    assert_eq!(replayed.digest(), whole.digest(), "the same commands give the same digest");

    let (first, rest) = log.split_at(log.len() / 2);
    let mut half = fresh();
    apply(&mut half, first);
    let mut restored = fresh();
    restored.restore(&half.snapshot()).unwrap();
    assert_eq!(restored.digest(), half.digest());
    apply(&mut restored, rest);
    assert_eq!(restored.digest(), whole.digest(), "a snapshot and the rest give the whole");
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 64, max_shrink_iters: 2000, ..ProptestConfig::default() })]

    #[test]
    fn short_histories(steps in steps(60)) {
        let (state, log) = run(&steps);
        replay_and_snapshots_agree(&state, &log);
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 6, max_shrink_iters: 100, ..ProptestConfig::default() })]

    #[test]
    fn long_histories(steps in steps(1200)) {
        let (state, log) = run(&steps);
        replay_and_snapshots_agree(&state, &log);
    }
}
