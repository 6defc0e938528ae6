//! Single decisions of the functional core, by example. Invariants are in `invariants.rs`.

#![expect(clippy::unwrap_used, reason = "a test may panic")]

use std::{num::NonZeroU32, sync::Arc, time::Duration};

use orch_core::{
    consensus::{Author, Context, StateMachine},
    model::{
        AttemptEnd, AttemptId, CommandId, Exit, IncarnationId, InstanceId, KeptAttempt, NodeId,
        NodeLossPolicy, NodeSpec, NodeState, Report, ReportKind, Resources, RestartPolicy, SharedSpec,
        StartFailure, TaskId, TaskSpec, Timestamp, WorkKind,
    },
    scheduler::LeastFragmentation,
    state::{
        Change, ClusterConfig, ClusterMachine, ClusterState, Command, Decided, Envelope, NewTask, Outcome,
        Publish, Rejection, TaskRecord, TaskState, TaskStatus,
    },
    store::{Key, Revision, Write},
};

fn node(id: &str) -> NodeSpec {
    let (id, instance) = (NodeId::new(id).unwrap(), InstanceId::from_bytes([1; 16]));
    NodeSpec::new(id, instance, Resources::new(8000, 16 << 30), [WorkKind::Program])
}

/// Registration by the first incarnation of the node's agent.
fn register(id: &str) -> Command {
    register_as(id, 1, &[])
}

fn register_as(id: &str, process: u8, held: &[AttemptId]) -> Command {
    let incarnation = IncarnationId::from_bytes([process; 16]);
    Command::RegisterNode { spec: node(id), incarnation, number: 1, held: held.to_vec() }
}

struct Cluster(ClusterState);

impl Cluster {
    fn with_node() -> Self {
        let mut cluster = Self(ClusterState::new(ClusterConfig::default(), Arc::new(LeastFragmentation)));
        cluster.command(0, register("n")).unwrap();
        cluster
    }

    fn with_config(config: ClusterConfig) -> Self {
        let mut cluster = Self(ClusterState::new(config, Arc::new(LeastFragmentation)));
        cluster.command(0, register("n")).unwrap();
        cluster
    }

    fn decide(&self, at: u64, author: &Author, envelope: &Envelope) -> Decided {
        self.0.decide(&Context::new(Timestamp::from_millis(at), author), envelope)
    }

    fn carry_out(&mut self, at: u64, envelope: &Envelope) -> Decided {
        self.carry_out_for(at, &Author::local(), envelope)
    }

    fn carry_out_for(&mut self, at: u64, author: &Author, envelope: &Envelope) -> Decided {
        let decided = self.decide(at, author, envelope);
        for change in decided.changes.clone() {
            self.0.absorb(change);
        }
        decided
    }

    fn command(&mut self, at: u64, command: Command) -> Result<Outcome, Rejection> {
        self.carry_out(at, &Envelope::anonymous(command)).outcome
    }

    fn session(&self, id: &str) -> u64 {
        self.0.nodes().iter().find(|view| view.id().as_str() == id).unwrap().record.session
    }

    /// Loses a node.
    fn lose(&mut self, at: u64, id: &str) {
        let command = Command::SuspectNode { node: node(id).id, session: self.session(id) };
        self.command(at, command).unwrap();
    }

    fn submit(&mut self, at: u64, spec: TaskSpec) -> TaskId {
        let id = TaskId::generate();
        let tasks = vec![NewTask { id, spec: spec.into() }];
        self.command(at, Command::Submit { tasks }).unwrap();
        id
    }

    fn task(&self, task: TaskId) -> Arc<TaskRecord> {
        self.0.task(task).unwrap().clone()
    }

    fn current(&self, task: TaskId) -> AttemptId {
        self.task(task).current_attempt().unwrap()
    }

    /// Reports the end of the current attempt, from its node.
    fn end(&mut self, at: u64, task: TaskId, end: AttemptEnd) -> Result<Outcome, Rejection> {
        let record = self.task(task);
        let node = record.node().unwrap().clone();
        let session = self.session(node.as_str());
        let report =
            Report { attempt: record.current_attempt().unwrap(), node, kind: ReportKind::Ended(end) };
        self.command(at, Command::Report { session, report })
    }
}

#[test]
fn a_suspicion_of_an_earlier_registration_is_void_even_within_one_millisecond() {
    let mut cluster = Cluster::with_node();
    let suspect = |cluster: &mut Cluster, session| {
        cluster.command(1, Command::SuspectNode { node: node("n").id, session })
    };
    let first = cluster.session("n");
    assert_eq!(suspect(&mut cluster, first), Ok(Outcome::Done));
    for _ in 0..3 {
        let before = cluster.session("n");
        assert_eq!(cluster.command(0, register("n")), Ok(Outcome::Done));
        assert!(cluster.session("n") > before);
        assert_eq!(suspect(&mut cluster, before), Ok(Outcome::Unchanged));
        let now = cluster.session("n");
        assert_eq!(suspect(&mut cluster, now), Ok(Outcome::Done), "a suspicion of this one counts");
    }
}

fn submission(command: CommandId, task: TaskId, program: &str) -> Envelope {
    let spec = SharedSpec::from(TaskSpec::program("t", program));
    Envelope::identified(command, Command::Submit { tasks: vec![NewTask { id: task, spec }] })
}

#[test]
fn a_command_id_that_comes_back_with_another_body_is_refused() {
    let mut cluster = Cluster::with_node();
    let (command, task) = (CommandId::generate(), TaskId::generate());
    let first = submission(command, task, "true");
    assert_eq!(cluster.carry_out(1, &first).outcome, Ok(Outcome::Done));
    assert_eq!(
        cluster.carry_out(2, &first).outcome,
        Ok(Outcome::Done),
        "the same again is answered the same"
    );
    let other = cluster.carry_out(3, &submission(command, task, "false"));
    assert_eq!(other.outcome, Err(Rejection::CommandIdReused { command }));
    assert!(other.changes.is_empty());
    for another in [
        submission(command, TaskId::generate(), "true"),
        Envelope::identified(command, Command::Cancel { task, reason: String::new() }),
    ] {
        let reused = cluster.carry_out(3, &another);
        assert_eq!(reused.outcome, Err(Rejection::CommandIdReused { command }), "{another:?}");
    }
    assert_eq!(cluster.carry_out(4, &first).outcome, Ok(Outcome::Done), "nothing was lost by it");
}

#[test]
fn a_node_whose_clock_is_off_ends_no_attempt_early() {
    let mut cluster = Cluster::with_node();
    let task = TaskId::generate();
    cluster.carry_out(1000, &submission(CommandId::generate(), task, "true")).outcome.unwrap();
    let started = |says: u64| {
        let report = Report {
            attempt: AttemptId { task, attempt: NonZeroU32::MIN },
            node: NodeId::new("n").unwrap(),
            kind: ReportKind::Started { at: Timestamp::from_millis(says) },
        };
        let command = Command::Report { session: cluster.session("n"), report };
        let decided = cluster.decide(5000, &Author::local(), &Envelope::anonymous(command));
        let [Change::PutTask(record), ..] = &decided.changes[..] else { panic!("{decided:?}") };
        let TaskState::Placed { started_at, .. } = record.state else { panic!("{record:?}") };
        started_at.unwrap()
    };
    assert_eq!(started(3000), Timestamp::from_millis(3000));
    // Before the placement, and after the report arrived: neither is possible.
    assert_eq!(started(10), Timestamp::from_millis(5000));
    assert_eq!(started(9000), Timestamp::from_millis(5000));
}

#[derive(Debug)]
struct Nobody;

impl Publish for Nobody {
    fn publish(&mut self, _: Revision, _: &[Change], _: &ClusterState) {}
    fn reset(&mut self, _: Revision, _: &ClusterState) {}
}

#[test]
fn records_of_another_member_that_contradict_each_other_are_refused_and_change_nothing() {
    let mut cluster = Cluster::with_node();
    let placed = cluster.carry_out(1, &submission(CommandId::generate(), TaskId::generate(), "true"));
    let digest = cluster.0.digest();
    let mut machine = ClusterMachine::new(cluster.0, Box::new(Nobody));
    let deletion = [Write::delete(Key::new("nodes/n").unwrap())];
    let refused = machine.absorb(Revision(1), &deletion).unwrap_err().to_string();
    assert!(refused.contains("node n") && refused.contains("is placed on it"), "{refused}");
    assert_eq!(machine.digest(), digest);

    let elsewhere = ClusterState::new(ClusterConfig::default(), Arc::new(LeastFragmentation));
    let mut machine = ClusterMachine::new(elsewhere, Box::new(Nobody));
    let placement: Vec<Write> = placed.changes.iter().map(Change::to_write).collect();
    let refused = machine.absorb(Revision(1), &placement).unwrap_err().to_string();
    assert!(refused.contains("which has no record"), "{refused}");
}

#[test]
fn a_spec_is_written_once_and_deleted_with_the_last_task_that_has_it() {
    let mut cluster = Cluster::with_config(ClusterConfig { finished_max: 1, ..ClusterConfig::default() });
    let spec = || TaskSpec::program("t", "true").env("LARGE", "x".repeat(8000));
    let submit = |id| {
        let new = NewTask { id, spec: spec().into() };
        Envelope::anonymous(Command::Submit { tasks: vec![new] })
    };
    let bytes = |decided: &Decided| {
        decided
            .changes
            .iter()
            .filter_map(|change| change.to_write().value)
            .map(|value| value.len())
            .sum::<usize>()
    };
    let (one, two) = (TaskId::generate(), TaskId::generate());
    assert!(bytes(&cluster.carry_out(1, &submit(one))) > 8000, "the first brings it");
    assert!(bytes(&cluster.carry_out(2, &submit(two))) < 1000, "the second finds it");
    assert!(std::ptr::eq(&*cluster.task(one).spec, &*cluster.task(two).spec), "both point to one");

    let deleted = |decided: &Decided| {
        decided.changes.iter().filter(|change| matches!(change, Change::DeleteSpec(_))).count()
    };
    let end = |cluster: &mut Cluster, task| {
        let session = cluster.session("n");
        let kind = ReportKind::Ended(AttemptEnd::Exited { exit: Exit::from_code(0) });
        let report = Report { attempt: cluster.current(task), node: node("n").id, kind };
        cluster.carry_out(3, &Envelope::anonymous(Command::Report { session, report }))
    };
    let ended = end(&mut cluster, one);
    assert!(bytes(&ended) < 1000 && deleted(&ended) == 0, "an end does not write it again");
    assert_eq!(deleted(&end(&mut cluster, two)), 0, "another one has it");
    let other = cluster.submit(4, TaskSpec::program("other", "true"));
    assert_eq!(deleted(&end(&mut cluster, other)), 1, "the last task that has it is forgotten");
}

#[test]
fn a_spec_that_a_task_has_cannot_be_deleted_by_another_member() {
    let mut cluster = Cluster::with_node();
    let task = cluster.submit(1, TaskSpec::program("t", "true").env("LARGE", "x".repeat(8000)));
    let deletion = Change::DeleteSpec(cluster.task(task).spec.clone()).to_write();
    let digest = cluster.0.digest();
    let mut machine = ClusterMachine::new(cluster.0, Box::new(Nobody));
    let refused = machine.absorb(Revision(1), &[deletion]).unwrap_err().to_string();
    assert!(refused.contains("it was deleted, and 1 tasks have it"), "{refused}");
    assert_eq!(machine.digest(), digest);
}

#[test]
fn a_task_goes_elsewhere_at_once_when_its_node_could_not_start_it() {
    let mut cluster = Cluster::with_node();
    let (task, mut now) = (TaskId::generate(), 10);
    let spec = SharedSpec::from(TaskSpec::program("t", "true").max_attempts(5));
    cluster.command(1, Command::Submit { tasks: vec![NewTask { id: task, spec }] }).unwrap();
    cluster.command(2, register("other")).unwrap();
    let mut seen = Vec::new();
    for _ in 1..=2 {
        seen.push(cluster.task(task).node().unwrap().to_string());
        let failure = StartFailure { reason: "no_space".into(), message: "full".into(), retryable: true };
        cluster.end(now, task, AttemptEnd::StartFailed { failure: failure.into() }).unwrap();
        now += 10_000;
        cluster.command(now, Command::Tick).unwrap();
    }
    assert_eq!(seen, ["n", "other"]);
}

#[test]
fn a_newer_process_fences_an_older_one_with_the_same_data() {
    let mut cluster = Cluster::with_node();
    let task = cluster.submit(1, TaskSpec::program("t", "true"));
    let (old, attempt) = (cluster.session("n"), cluster.current(task));
    cluster.command(2, register_as("n", 2, &[])).unwrap();
    assert_ne!(cluster.session("n"), old);
    let kind = ReportKind::Ended(AttemptEnd::Exited { exit: Exit::from_code(0) });
    let report = Report { attempt, node: node("n").id, kind };
    let late = cluster.command(3, Command::Report { session: old, report });
    assert_eq!(late, Err(Rejection::StaleSession { node: node("n").id }));
    assert_eq!(cluster.command(4, register("n")), Err(Rejection::Fenced { node: node("n").id }));
    assert_eq!(cluster.task(task).node(), Some(&node("n").id), "the newer process has the task now");
}

#[test]
fn a_registration_that_was_overtaken_by_a_later_one_changes_nothing() {
    let mut cluster = Cluster::with_node();
    let incarnation = IncarnationId::from_bytes([1; 16]);
    let register = |number, trouble: Option<&str>, held: &[AttemptId]| {
        let spec = NodeSpec { last_error: trouble.map(Into::into), ..node("n") };
        Command::RegisterNode { spec, incarnation, number, held: held.to_vec() }
    };
    let trouble = |cluster: &Cluster| cluster.0.nodes()[0].record.spec.last_error.clone();
    cluster.command(1, register(2, None, &[])).unwrap();
    cluster.command(2, register(4, None, &[])).unwrap();
    assert_eq!(cluster.command(3, register(3, Some("engine away"), &[])), Ok(Outcome::Unchanged));
    assert_eq!(trouble(&cluster), None, "the node would be closed for good");

    let task = cluster.submit(4, TaskSpec::program("t", "true"));
    let attempt = cluster.current(task);
    cluster.lose(5, "n");
    cluster.command(6, Command::CordonNode { node: node("n").id }).unwrap();
    cluster.command(7, register(6, None, &[])).unwrap();
    assert_eq!(cluster.command(8, register(5, None, &[attempt])), Ok(Outcome::Unchanged));
    assert_eq!(cluster.task(task).node(), None, "the node has it no longer");
    cluster.command(9, register(7, None, &[attempt])).unwrap();
    assert_eq!(cluster.current(task), attempt);

    cluster.command(10, register_as("n", 2, &[])).unwrap();
    assert_eq!(cluster.0.nodes()[0].record.registration, 1, "another process counts anew");
}

#[test]
fn a_registration_that_is_repeated_keeps_its_session() {
    let mut cluster = Cluster::with_node();
    let session = cluster.session("n");
    assert_eq!(cluster.command(1, register("n")), Ok(Outcome::Unchanged));
    let smaller = NodeSpec { max_tasks: 0, ..node("n") };
    let incarnation = IncarnationId::from_bytes([1; 16]);
    cluster
        .command(2, Command::RegisterNode { spec: smaller, incarnation, number: 1, held: vec![] })
        .unwrap();
    assert_eq!(cluster.session("n"), session, "what it offers may change within a session");
}

#[test]
fn a_lost_attempt_that_is_heard_of_before_it_is_replaced_goes_on() {
    let mut cluster = Cluster::with_node();
    let mut pinned = TaskSpec::program("t", "true");
    pinned.constraints.push(orch_core::model::Constraint::Node { node: node("n").id });
    let task = cluster.submit(1, pinned);
    let attempt = cluster.current(task);
    cluster.lose(10_000, "n");
    assert_eq!(cluster.task(task).status(), TaskStatus::Pending);
    cluster.command(16_000, register_as("n", 1, &[attempt])).unwrap();
    assert_eq!((cluster.current(task), cluster.task(task).node_losses), (attempt, 0));
    cluster.end(17_000, task, AttemptEnd::Exited { exit: Exit::from_code(0) }).unwrap();
    assert_eq!(cluster.task(task).status(), TaskStatus::Succeeded);
}

#[test]
fn a_start_that_was_decided_is_remembered_when_its_node_is_lost_and_comes_back() {
    let mut cluster = Cluster::with_node();
    let spec = with_policy(NodeLossPolicy { replace: false, ..NodeLossPolicy::default() });
    let task = cluster.submit(1, TaskSpec { restart: RestartPolicy::Never, ..spec });
    let attempt = cluster.current(task);
    let started =
        Report { attempt, node: node("n").id, kind: ReportKind::Started { at: Timestamp::from_millis(2) } };
    let session = cluster.session("n");
    cluster.command(3, Command::Report { session, report: started }).unwrap();
    let before = cluster.task(task).state.clone();
    cluster.lose(10_000, "n");
    cluster.command(16_000, register_as("n", 1, &[attempt])).unwrap();
    let record = cluster.task(task);
    assert_eq!(record.state, before, "its node must not start it a second time");
    assert_eq!(record.attempts[0].started_at, None, "it is said once");
}

#[test]
fn words_of_an_end_are_cut_to_a_bound() {
    let mut cluster = Cluster::with_node();
    let task = cluster.submit(1, TaskSpec::program("t", "true"));
    let attempt = cluster.current(task);
    let message = "x".repeat(5 << 20);
    let ended = ReportKind::Ended(AttemptEnd::Lost { message });
    let report = Report { attempt, node: node("n").id, kind: ended };
    let session = cluster.session("n");
    let command = Command::Report { session, report };
    assert_eq!(cluster.command(2, command.clone()), Ok(Outcome::Done));
    let Some(AttemptEnd::Lost { message }) = &cluster.task(task).attempts[0].end else {
        panic!("it is lost")
    };
    assert_eq!(message.len(), 1024, "a record that no store takes would hold up everything");
    assert_eq!(cluster.command(3, command), Ok(Outcome::Unchanged), "said again it is the same");
}

fn with_policy(policy: NodeLossPolicy) -> TaskSpec {
    TaskSpec { node_loss: Some(policy.into()), ..TaskSpec::program("t", "true") }
}

#[test]
fn a_task_may_wait_for_its_lost_node() {
    let mut cluster = Cluster::with_node();
    let wait = Duration::from_secs(60);
    let waits = cluster.submit(1, with_policy(NodeLossPolicy { wait, ..NodeLossPolicy::default() }));
    let stays =
        cluster.submit(1, with_policy(NodeLossPolicy { replace: false, ..NodeLossPolicy::default() }));
    let back = cluster.submit(1, with_policy(NodeLossPolicy { replace: false, ..NodeLossPolicy::default() }));
    let attempt = cluster.current(back);
    cluster.command(2, register("other")).unwrap();
    cluster.lose(10_000, "n");
    for task in [waits, stays, back] {
        assert_eq!(cluster.task(task).status(), TaskStatus::Disconnected);
    }
    assert_eq!(cluster.0.next_due(), Some(Timestamp::from_millis(70_000)));
    cluster.command(70_000, Command::Tick).unwrap();
    assert_eq!(cluster.task(waits).node().unwrap().as_str(), "other");
    assert_eq!(cluster.task(stays).status(), TaskStatus::Disconnected);
    cluster.command(80_000, register_as("n", 1, &[attempt])).unwrap();
    assert_eq!(cluster.current(back), attempt);
    assert_eq!(cluster.task(stays).attempts_made, 2, "its node came back without it");
}

#[test]
fn removing_a_lost_node_ends_the_wait_for_it() {
    let mut cluster = Cluster::with_node();
    let task = cluster.submit(1, with_policy(NodeLossPolicy { replace: false, ..NodeLossPolicy::default() }));
    cluster.lose(10_000, "n");
    cluster.command(11_000, Command::RemoveNode { node: node("n").id }).unwrap();
    assert_eq!(cluster.task(task).status(), TaskStatus::Pending);
}

#[test]
fn the_spec_says_which_of_two_living_attempts_goes_on() {
    for keep in [KeptAttempt::Replacement, KeptAttempt::Original] {
        let mut cluster = Cluster::with_node();
        let task = cluster.submit(1, with_policy(NodeLossPolicy { keep, ..NodeLossPolicy::default() }));
        let original = cluster.current(task);
        cluster.command(2, register("other")).unwrap();
        cluster.lose(10_000, "n");
        let replacement = cluster.current(task);
        assert_ne!(original, replacement);
        cluster.command(16_000, register_as("n", 1, &[original])).unwrap();
        let (kept, other) = match keep {
            KeptAttempt::Replacement => (replacement, "n"),
            KeptAttempt::Original => (original, "other"),
        };
        assert_eq!(cluster.current(task), kept);
        let free = cluster.0.nodes().iter().find(|view| view.id().as_str() == other).unwrap();
        assert_eq!(free.tasks, 0);
    }
}

#[test]
fn one_author_is_one_suspicion_whatever_it_says() {
    let config = ClusterConfig { suspicions_needed: 2, ..ClusterConfig::default() };
    let mut cluster = Cluster::with_config(config);
    let suspicion = Command::SuspectNode { node: node("n").id, session: cluster.session("n") };
    let state = |cluster: &Cluster| cluster.0.nodes()[0].record.state;
    for _ in 0..3 {
        cluster.carry_out_for(5, &Author::member("a"), &Envelope::anonymous(suspicion.clone()));
        assert_eq!(state(&cluster), NodeState::Ready);
    }
    cluster.carry_out_for(5, &Author::member("b"), &Envelope::anonymous(suspicion));
    assert_eq!(state(&cluster), NodeState::Lost);
}

#[test]
fn only_the_key_that_a_node_registered_with_speaks_for_it() {
    let mut cluster = Cluster(ClusterState::new(ClusterConfig::default(), Arc::new(LeastFragmentation)));
    let member = |key: u8| Author::Key { key: [key; 32], member: true };
    let outsider = Author::Key { key: [9; 32], member: false };
    let mut carry_out = |author: &Author, command: Command| {
        let outcome = cluster.carry_out_for(1, author, &Envelope::anonymous(command)).outcome;
        (outcome, cluster.0.nodes().first().map(|view| view.record.session))
    };
    let refused = |(outcome, _): (Result<Outcome, Rejection>, Option<u64>)| {
        assert!(matches!(outcome, Err(Rejection::NotAllowed { .. })), "{outcome:?}");
    };
    refused(carry_out(&outsider, register("n")));
    let (registered, session) = carry_out(&member(1), register("n"));
    registered.unwrap();
    let (task, session) = (TaskId::generate(), session.unwrap());
    let submission =
        Command::Submit { tasks: vec![NewTask { id: task, spec: TaskSpec::program("t", "true").into() }] };
    refused(carry_out(&outsider, submission.clone()));
    carry_out(&member(2), submission).0.unwrap();
    let attempt = AttemptId { task, attempt: NonZeroU32::MIN };
    let kind = ReportKind::Ended(AttemptEnd::Exited { exit: Exit::from_code(0) });
    let report = Command::Report { session, report: Report { attempt, node: node("n").id, kind } };
    refused(carry_out(&member(2), report.clone()));
    refused(carry_out(&member(2), register_as("n", 7, &[])));
    refused(carry_out(&outsider, Command::SuspectNode { node: node("n").id, session }));
    refused(carry_out(&outsider, Command::Tick));
    carry_out(&member(1), report).0.unwrap();
}

#[test]
fn clients_that_are_no_members_may_submit_where_the_cluster_is_open_to_them() {
    let config = ClusterConfig { open_to_clients: true, ..ClusterConfig::default() };
    let mut cluster = Cluster::with_config(config);
    let outsider = Author::Key { key: [9; 32], member: false };
    let submission = submission(CommandId::generate(), TaskId::generate(), "true");
    assert_eq!(cluster.carry_out_for(1, &outsider, &submission).outcome, Ok(Outcome::Done));
    let drain = Command::DrainNode { node: node("n").id, grace: Duration::ZERO };
    let refused = cluster.carry_out_for(1, &outsider, &Envelope::anonymous(drain)).outcome;
    assert!(matches!(refused, Err(Rejection::NotAllowed { .. })), "{refused:?}");
}

#[test]
fn a_clock_that_is_far_ahead_does_not_move_the_cluster() {
    let mut cluster = Cluster::with_node();
    let year = 366 * 86_400_000;
    cluster.command(1_000_000, Command::Tick).unwrap();
    cluster.submit(1_000_001, TaskSpec::program("t", "true"));
    let time = cluster.0.time();
    for ahead in [u64::MAX / 2, u64::MAX, time.as_millis() + year + 1] {
        let refused = cluster.command(ahead, Command::Tick);
        assert!(matches!(refused, Err(Rejection::ClockAhead { .. })), "{refused:?}");
        assert_eq!(cluster.0.time(), time);
    }
    cluster.submit(time.as_millis() + year, TaskSpec::program("t", "true"));
}

#[test]
fn nodes_lost_between_attempts_that_end_by_themselves_do_not_add_up() {
    let mut cluster = Cluster::with_node();
    cluster.command(1, register("other")).unwrap();
    let task = cluster.submit(2, TaskSpec::program("job", "work").restart(RestartPolicy::Always));
    let mut now = 2;
    let lose = |cluster: &mut Cluster, now: &mut u64| {
        *now += 10_000;
        let on = cluster.task(task).node().unwrap().to_string();
        cluster.lose(*now, &on);
        cluster.command(*now + 1000, register(&on)).unwrap();
    };
    for _ in 0..3 {
        (0..15).for_each(|_| lose(&mut cluster, &mut now));
        assert_eq!(cluster.task(task).status(), TaskStatus::Placed);
        now += 10_000;
        cluster.end(now, task, AttemptEnd::Exited { exit: Exit::from_code(0) }).unwrap();
        now += 60_000;
        cluster.command(now, Command::Tick).unwrap();
    }
    (0..16).for_each(|_| lose(&mut cluster, &mut now));
    assert_eq!(cluster.task(task).status(), TaskStatus::Failed, "it seems to crash its nodes");
}

#[test]
fn what_went_wrong_long_ago_is_forgotten() {
    let mut cluster = Cluster::with_node();
    cluster.command(1, register("other")).unwrap();
    let always = TaskSpec::program("service", "serve").restart(RestartPolicy::Always);
    let (service, day) = (cluster.submit(2, always), 86_400_000);
    let mut now = 2;
    for _ in 0..40 {
        now += 30 * day;
        let on = cluster.task(service).node().unwrap().to_string();
        cluster.lose(now, &on);
        cluster.command(now + 1000, register(&on)).unwrap();
    }
    assert_eq!((cluster.task(service).status(), cluster.task(service).node_losses), (TaskStatus::Placed, 1));
    for _ in 0..12 {
        now += 30 * day;
        cluster.end(now, service, AttemptEnd::Exited { exit: Exit::from_code(1) }).unwrap();
        let TaskState::Pending { not_before: Some(due), .. } = cluster.task(service).state else { panic!() };
        assert!(
            due.since(Timestamp::from_millis(now)) <= Duration::from_secs(1),
            "as after the first failure"
        );
        now = due.as_millis();
        cluster.command(now, Command::Tick).unwrap();
    }

    // Work that ends by itself has a maximum number of attempts, however long they take.
    let batch = cluster.submit(now, TaskSpec::program("batch", "work").max_attempts(2));
    for _ in 0..2 {
        now += day;
        cluster.end(now, batch, AttemptEnd::Exited { exit: Exit::from_code(1) }).unwrap();
        now += 10_000;
        let _ = cluster.command(now, Command::Tick);
    }
    assert_eq!(cluster.task(batch).status(), TaskStatus::Failed);
}
