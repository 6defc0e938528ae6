//! Nodes, tasks and agents of the same shape for every benchmark.

use std::{num::NonZeroU32, sync::Arc};

use orch_core::{
    Orchestrator,
    consensus::{Author, Context},
    engine::{Agent, AgentConfig, AgentHandle, ControlLink},
    model::{
        AttemptEnd, AttemptId, CommandId, Exit, IncarnationId, InstanceId, NodeId, NodeSpec, Report,
        ReportKind, Resources, SharedSpec, TaskId, TaskSpec, Timestamp, WorkKind,
    },
    scheduler::LeastFragmentation,
    state::{ClusterConfig, ClusterState, Command, Envelope, NewTask, TaskStatus},
    testkit::SimulatedRuntime,
};

use crate::Failure;

/// Task that requests a tenth of a core and 64 MiB.
#[must_use]
pub fn small_task(name: impl Into<String>) -> TaskSpec {
    TaskSpec::program(name, "true").cpu_millis(100).memory_mib(64)
}

/// A node with 8 cores and 16 GiB.
///
/// # Panics
/// Never: the name is a valid one.
#[must_use]
pub fn node(number: usize) -> NodeSpec {
    let id = NodeId::new(format!("node-{number:05}")).expect("a valid name");
    let instance = InstanceId::from_bytes((number as u128).to_be_bytes());
    NodeSpec::new(id, instance, Resources::new(8000, 16 << 30), [WorkKind::Program])
}

/// Starts an agent for `node` on a simulated runtime and waits until it is registered.
///
/// # Errors
/// The error of the control side when it rejected the node.
pub async fn join(link: Arc<dyn ControlLink>, node: NodeSpec) -> Result<AgentHandle, Failure> {
    let agent = Agent::start(AgentConfig::new(node), Arc::new(SimulatedRuntime::new()), link);
    agent.registered().await?;
    Ok(agent)
}

/// Submits `specs` in one command and waits until all have finished.
///
/// # Errors
/// The error of the orchestrator.
pub async fn run_all(
    orchestrator: &Orchestrator,
    specs: impl IntoIterator<Item = TaskSpec>,
) -> Result<(), Failure> {
    for task in orchestrator.submit_all(specs).await? {
        let done = orchestrator.wait(task).await?;
        if done.status() != TaskStatus::Succeeded {
            return Err(format!("task {task} ended as {}", done.status()).into());
        }
    }
    Ok(())
}

/// [`ClusterState`] that is driven without an engine.
#[derive(Debug)]
pub struct Core {
    state: ClusterState,
    author: Author,
    /// Number of tasks so far; the next one gets an id made from it.
    submitted: u64,
    ended: u64,
}

impl Core {
    /// Cluster of this many nodes that keeps this many finished tasks.
    #[must_use]
    pub fn new(nodes: usize, finished_max: usize) -> Self {
        let config = ClusterConfig { finished_max, ..ClusterConfig::default() };
        let mut core = Self {
            state: ClusterState::new(config, Arc::new(LeastFragmentation)),
            author: Author::local(),
            submitted: 0,
            ended: 0,
        };
        (0..nodes).for_each(|number| core.register(number));
        core
    }

    /// Registers the node with this number.
    pub fn register(&mut self, number: usize) {
        self.carry_out(&Envelope::anonymous(register(number)));
    }

    /// Submits one task with this spec.
    pub fn submit(&mut self, spec: SharedSpec) {
        let id = id(self.submitted);
        self.submitted += 1;
        let command = Command::Submit { tasks: vec![NewTask { id, spec }] };
        let client = CommandId::from_bytes(*id.as_bytes());
        self.carry_out(&Envelope::identified(client, command));
    }

    /// Reports that the oldest running task has succeeded.
    ///
    /// # Panics
    /// When there is none, or it was not placed.
    pub fn end_oldest(&mut self) {
        let task = id(self.ended);
        self.ended += 1;
        self.end(task);
    }

    /// Reports that the first task on this node, if it has one, has succeeded.
    pub fn end_first_on(&mut self, number: usize) {
        let node = node(number).id;
        let first = self.state.tasks_of(&node).next().map(|task| task.id);
        first.into_iter().for_each(|task| self.end(task));
    }

    fn end(&mut self, task: TaskId) {
        let record = self.state.task(task).expect("it was submitted");
        let report = Report {
            attempt: AttemptId { task, attempt: NonZeroU32::MIN },
            node: record.node().expect("it was placed").clone(),
            kind: ReportKind::Ended(AttemptEnd::Exited { exit: Exit::from_code(0) }),
        };
        let session = self.state.node(&report.node).expect("it has the task").record.session;
        self.carry_out(&Envelope::anonymous(Command::Report { session, report }));
    }

    /// Decides and absorbs one command.
    fn carry_out(&mut self, envelope: &Envelope) {
        // A millisecond passes every 64 commands.
        let now = Timestamp::from_millis((self.submitted + self.ended) >> 6);
        let decided = self.state.decide(&Context::new(now, &self.author), envelope);
        assert!(decided.outcome.is_ok(), "{:?}", decided.outcome);
        for change in decided.changes {
            self.state.absorb(change);
        }
    }
}

fn register(number: usize) -> Command {
    let incarnation = IncarnationId::from_bytes((number as u128).to_be_bytes());
    Command::RegisterNode { spec: node(number), incarnation, number: 1, held: Vec::new() }
}

/// Id that is spread as random ones are, without the cost of generating those.
fn id(number: u64) -> TaskId {
    let mixed = |seed: u64| {
        let mut bits = number.wrapping_add(seed).wrapping_mul(0x9e37_79b9_7f4a_7c15);
        bits = (bits ^ (bits >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        bits ^ (bits >> 31)
    };
    TaskId::from_bytes((u128::from(mixed(1)) << 64 | u128::from(mixed(1 << 40))).to_be_bytes())
}
