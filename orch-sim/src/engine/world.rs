//! [`World`]: shared state of a simulated cluster.

use std::{sync::Arc, time::Duration};

use orch_core::{
    Orchestrator, Result,
    consensus::{StoreConsensus, StoreConsensusConfig},
    engine::{Agent, AgentConfig, AgentHandle, AgentState, EngineConfig},
    model::{InstanceId, NodeId, NodeSpec, Resources, Timestamp, WorkKind},
    store::MemoryStore,
    testkit::SimulatedRuntime,
};
use parking_lot::{Mutex, MutexGuard};

use tokio::time::Instant;

use super::{
    link::{NetworkLink, Passage},
    process::Process,
    store::{Lag, LaggingStore},
};
use crate::Random;

#[derive(Debug)]
pub(super) struct World {
    store: Arc<MemoryStore>,
    state: Mutex<State>,
    /// The machines' clocks begin here, at `started`.
    epoch: Timestamp,
    started: Instant,
}

#[derive(Debug)]
struct State {
    random: Random,
    members: Vec<Member>,
    agents: Vec<Machine>,
    network: Network,
}

/// Faults of calls, in a thousand.
#[derive(Clone, Copy, Debug)]
pub(super) struct Network {
    /// They go to another member.
    pub(super) elsewhere: u32,
    /// They, or their answers, take up to 1.5 s.
    pub(super) slow: (u32, u32),
    /// They, or their answers, are lost.
    pub(super) lost: (u32, u32),
    /// They arrive once more, up to 15 s later.
    pub(super) repeated: u32,
}

impl Network {
    /// All that a network does.
    const ROUGH: Self = Self { elsewhere: 100, slow: (20, 80), lost: (40, 40), repeated: 60 };
    /// It only delays, by up to 20 ms.
    const CALM: Self = Self { elsewhere: 0, slow: (0, 0), lost: (0, 0), repeated: 0 };

    /// It loses so many of a thousand calls and answers.
    pub(super) fn losing(lost: u32) -> Self {
        Self { lost: (lost, lost), ..Self::CALM }
    }
}

#[derive(Debug)]
struct Member {
    orchestrator: Option<Orchestrator>,
    process: Option<Arc<Process>>,
    lag: Arc<Lag>,
}

/// A machine with an agent.
#[derive(Debug)]
struct Machine {
    config: AgentConfig,
    runtime: SimulatedRuntime,
    agent: Option<AgentHandle>,
    process: Option<Arc<Process>>,
    /// The member that it talks to.
    member: usize,
    cut_off: bool,
}

impl World {
    pub(super) fn new(seed: u64, members: usize) -> Arc<Self> {
        let member = || Member { orchestrator: None, process: None, lag: Arc::default() };
        Arc::new(Self {
            store: Arc::default(),
            state: Mutex::new(State {
                random: Random::new(seed),
                members: (0..members).map(|_| member()).collect(),
                agents: Vec::new(),
                network: Network::ROUGH,
            }),
            epoch: Timestamp::from_millis(1_700_000_000_000),
            started: Instant::now(),
        })
    }

    pub(super) fn random<T>(&self, draw: impl FnOnce(&mut Random) -> T) -> T {
        draw(&mut self.state().random)
    }

    /// Starts a member whose clock is ahead by so much.
    pub(super) async fn start_member(&self, number: usize, ahead: Duration) -> Result<()> {
        let lag = self.state().members[number].lag.clone();
        let store = Arc::new(LaggingStore::new(self.store.clone(), lag));
        let process = self.process(ahead);
        let config = StoreConsensusConfig {
            member: Some(format!("member-{number}").into()),
            environment: process.clone(),
            ..StoreConsensusConfig::default()
        };
        let consensus = Arc::new(StoreConsensus::with_config(store.clone(), config));
        let engine = EngineConfig { assignments_wait: Duration::from_secs(5), ..EngineConfig::default() };
        let parts = Orchestrator::builder().store(store).consensus(consensus).engine(engine);
        let built = parts.environment(process.clone()).build().await?;
        let mut state = self.state();
        let member = &mut state.members[number];
        (member.orchestrator, member.process) = (Some(built), Some(process));
        Ok(())
    }

    fn process(&self, ahead: Duration) -> Arc<Process> {
        let random = Random::new(self.random(Random::next));
        Process::new(self.epoch, self.started, ahead, random)
    }

    /// Ends a member as a crash does.
    pub(super) fn stop_member(&self, number: usize) {
        let mut state = self.state();
        let member = &mut state.members[number];
        let (orchestrator, process) = (member.orchestrator.take(), member.process.take());
        drop(state);
        process.iter().for_each(|process| process.kill());
        drop(orchestrator);
    }

    pub(super) fn members(&self) -> usize {
        self.state().members.len()
    }

    pub(super) fn lag(&self, number: usize) -> Arc<Lag> {
        self.state().members[number].lag.clone()
    }

    /// A member that is up.
    pub(super) fn orchestrator(&self) -> Option<Orchestrator> {
        let mut state = self.state();
        let up: Vec<_> = state.members.iter().filter_map(|member| member.orchestrator.clone()).collect();
        let at = state.random.below(up.len() as u64);
        up.into_iter().nth(usize::try_from(at).unwrap_or(0))
    }

    pub(super) fn member(&self, number: usize) -> Option<Orchestrator> {
        self.state().members[number].orchestrator.clone()
    }

    /// Adds a machine for the node with this name and starts its agent.
    pub(super) fn add_machine(self: &Arc<Self>, node: &str, instance: u8) -> usize {
        let id = NodeId::new(node).expect("a valid name");
        let instance = InstanceId::from_bytes([instance; 16]);
        let spec = NodeSpec::new(id, instance, Resources::new(4000, 4 << 30), [WorkKind::Program]);
        let mut config = AgentConfig::new(spec);
        config.usage_every = None;
        let mut state = self.state();
        state.agents.push(Machine {
            config,
            runtime: SimulatedRuntime::new(),
            agent: None,
            process: None,
            member: 0,
            cut_off: false,
        });
        let number = state.agents.len() - 1;
        drop(state);
        self.start_agent(number);
        number
    }

    /// The agent of a machine talks to this member from now on.
    pub(super) fn turn_to(&self, machine: usize, member: usize) {
        self.state().agents[machine].member = member;
    }

    pub(super) fn start_agent(self: &Arc<Self>, number: usize) {
        let link = Arc::new(NetworkLink::new(self.clone(), number));
        let environment = self.process(Duration::ZERO);
        let mut state = self.state();
        let machine = &mut state.agents[number];
        if machine.agent.is_none() {
            let runtime = Arc::new(machine.runtime.clone());
            let config = AgentConfig { environment: environment.clone(), ..machine.config.clone() };
            machine.agent = Some(Agent::start(config, runtime, link));
            machine.process = Some(environment);
        }
    }

    /// Ends an agent as a crash does.
    pub(super) fn kill_agent(&self, number: usize) {
        let mut state = self.state();
        let machine = &mut state.agents[number];
        let (agent, process) = (machine.agent.take(), machine.process.take());
        drop(state);
        process.iter().for_each(|process| process.kill());
        drop(agent);
    }

    pub(super) async fn stop_agent(&self, number: usize) {
        let agent = self.state().agents[number].agent.take();
        if let Some(agent) = agent {
            agent.leave().await;
        }
    }

    pub(super) fn machines(&self) -> usize {
        self.state().agents.len()
    }

    /// Connection of a machine's agent to the members.
    pub(super) fn agent_state(&self, machine: usize) -> Option<AgentState> {
        self.state().agents[machine].agent.as_ref().map(|agent| agent.state().borrow().clone())
    }

    pub(super) fn runtimes(&self) -> Vec<SimulatedRuntime> {
        self.state().agents.iter().map(|machine| machine.runtime.clone()).collect()
    }

    pub(super) fn cut_off(&self, machine: usize, cut_off: bool) {
        self.state().agents[machine].cut_off = cut_off;
    }

    pub(super) fn is_cut_off(&self, machine: usize) -> bool {
        self.state().agents[machine].cut_off
    }

    /// From now on the network only delays.
    pub(super) fn calm_down(&self) {
        self.set_network(Network::CALM);
    }

    pub(super) fn set_network(&self, network: Network) {
        self.state().network = network;
    }

    /// Fate of the next call of an agent.
    pub(super) fn passage(&self, machine: usize) -> Passage {
        let mut state = self.state();
        let State { random, members, agents, network } = &mut *state;
        if random.chance(network.elsewhere) || members[agents[machine].member].orchestrator.is_none() {
            let other = random.below(members.len() as u64);
            agents[machine].member = usize::try_from(other).unwrap_or(0);
        }
        let mut travel = |slow: u32| {
            let most = if random.chance(slow) { 1500 } else { 20 };
            random.duration(Duration::from_millis(1), Duration::from_millis(most))
        };
        let (there, back) = (travel(network.slow.0), travel(network.slow.1));
        let (request_lost, answer_lost) = (random.chance(network.lost.0), random.chance(network.lost.1));
        let repeated_after = random
            .chance(network.repeated)
            .then(|| random.duration(Duration::from_millis(10), Duration::from_secs(15)));
        let member = members[agents[machine].member].orchestrator.as_ref().map(Orchestrator::link);
        Passage { member, there, back, request_lost, answer_lost, repeated_after }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock()
    }
}
