//! Single decisions of the functional core, by example. What always holds is in `invariants.rs`.

#![expect(clippy::unwrap_used, reason = "a test may panic")]

use std::{
    collections::{BTreeMap, BTreeSet},
    num::NonZeroU32,
    sync::Arc,
};

use orch_core::{
    consensus::StateMachine,
    model::{
        AttemptEnd, AttemptId, CommandId, InstanceId, NodeId, NodeSpec, Report, ReportKind, Resources,
        TaskId, TaskSpec, Timestamp, WorkKind,
    },
    scheduler::BestFit,
    state::{
        Change, ClusterConfig, ClusterMachine, ClusterState, Command, Decided, Envelope, NewTask, Outcome,
        Publish, Rejection, TaskState,
    },
    store::{Key, Revision, Write},
};

fn node(id: &str) -> NodeSpec {
    NodeSpec {
        id: NodeId::new(id).unwrap(),
        instance: InstanceId::from_bytes([1; 16]),
        capacity: Resources::new(8000, 16 << 30),
        kinds: BTreeSet::from([WorkKind::Program]),
        max_tasks: 10,
        labels: BTreeMap::new(),
    }
}

struct Cluster(ClusterState);

impl Cluster {
    fn with_node() -> Self {
        let mut cluster = Self(ClusterState::new(ClusterConfig::default(), Arc::new(BestFit)));
        let register = Command::RegisterNode { spec: node("n") };
        cluster.carry_out(0, &Envelope::anonymous(register)).outcome.unwrap();
        cluster
    }

    fn carry_out(&mut self, at: u64, envelope: &Envelope) -> Decided {
        let decided = self.0.decide(Timestamp::from_millis(at), envelope);
        for change in decided.changes.clone() {
            self.0.absorb(change);
        }
        decided
    }
}

#[test]
fn a_suspicion_of_an_earlier_registration_is_void_even_within_one_millisecond() {
    let mut cluster = Cluster::with_node();
    let suspect = |cluster: &mut Cluster, registered_at| {
        let command = Command::SuspectNode { node: node("n").id, registered_at, by: "m".into() };
        cluster.carry_out(1, &Envelope::anonymous(command)).outcome
    };
    let registered_at = |cluster: &Cluster| cluster.0.nodes().iter().next().unwrap().record.registered_at;
    let first = registered_at(&cluster);
    assert_eq!(suspect(&mut cluster, first), Ok(Outcome::Done));
    for _ in 0..3 {
        let before = registered_at(&cluster);
        let back = Envelope::anonymous(Command::RegisterNode { spec: node("n") });
        assert_eq!(cluster.carry_out(0, &back).outcome, Ok(Outcome::Done));
        assert!(registered_at(&cluster) > before);
        assert_eq!(suspect(&mut cluster, before), Ok(Outcome::Unchanged));
        let now = registered_at(&cluster);
        assert_eq!(suspect(&mut cluster, now), Ok(Outcome::Done), "a suspicion of this one counts");
    }
}

fn submission(command: CommandId, task: TaskId, program: &str) -> Envelope {
    let spec = Arc::new(TaskSpec::program("t", program));
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
        let decided =
            cluster.0.decide(Timestamp::from_millis(5000), &Envelope::anonymous(Command::Report(report)));
        let [Change::PutTask(record), ..] = &decided.changes[..] else { panic!("{decided:?}") };
        let TaskState::Placed { started_at, .. } = record.state else { panic!("{record:?}") };
        started_at.unwrap()
    };
    assert_eq!(started(3000), Timestamp::from_millis(3000));
    // Before it was placed, and after the report arrived: neither can be.
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

    let elsewhere = ClusterState::new(ClusterConfig::default(), Arc::new(BestFit));
    let mut machine = ClusterMachine::new(elsewhere, Box::new(Nobody));
    let placement: Vec<Write> = placed.changes.iter().map(Change::to_write).collect();
    let refused = machine.absorb(Revision(1), &placement).unwrap_err().to_string();
    assert!(refused.contains("which has no record"), "{refused}");
}

#[test]
fn a_task_goes_elsewhere_at_once_when_its_node_could_not_start_it() {
    let mut cluster = Cluster::with_node();
    let (task, mut now) = (TaskId::generate(), 10);
    cluster.carry_out(1, &submission(CommandId::generate(), task, "true")).outcome.unwrap();
    cluster
        .carry_out(2, &Envelope::anonymous(Command::RegisterNode { spec: node("other") }))
        .outcome
        .unwrap();
    let mut seen = Vec::new();
    for attempt in 1..=2 {
        let on = cluster.0.task(task).unwrap().node().unwrap().clone();
        seen.push(on.to_string());
        let report = Report {
            attempt: AttemptId { task, attempt: NonZeroU32::new(attempt).unwrap() },
            node: on,
            kind: ReportKind::Ended(AttemptEnd::NodeLost),
        };
        cluster.carry_out(now, &Envelope::anonymous(Command::Report(report))).outcome.unwrap();
        now += 1;
    }
    assert_eq!(seen, ["n", "other"]);
}
