use std::{cell::RefCell, collections::BTreeSet, fmt, rc::Rc, time::Duration};

use orch_consensus::pbft::{Change, Membership};

use super::{
    byzantine::{Attack, ByzantineReplica},
    external_client::ExternalClient,
    group::{self, member},
    host::{Host, Plan},
    invariants,
    node::Node,
    oracle::Oracle,
    scenario::{BASE_TIMEOUT, Scenario},
};
use crate::{
    Nemesis, NodeId, Random, Settings, Simulation, Statistics,
    history::{KeyValue, KeyValueInput, OpId, just_in_time, wing_gong_lowe},
};

/// Counts of a run that went well.
#[derive(Clone, Debug, Default)]
pub struct Report {
    /// Counts of the simulator.
    pub statistics: Statistics,
    /// Operations that clients began.
    pub operations: usize,
    /// Operations that were answered.
    pub completed: usize,
    /// The last view that a correct replica entered.
    pub views: u64,
    /// Number of state transfers of correct replicas.
    pub fetches: u64,
    /// Times that a replica went to a new membership.
    pub epochs: u64,
    /// Byzantine replicas with a proof against them.
    pub exposed: usize,
    /// From the end of the faults to the first answer.
    pub recovery: Duration,
    /// A hash of all that happened.
    pub trace: u64,
}

/// Failure of a run.
#[derive(Clone, Debug)]
pub struct Failure {
    /// Of which scenario.
    pub scenario: Scenario,
    /// Description.
    pub problem: String,
    /// Step by step, when a log was kept.
    pub log: Vec<String>,
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(
            f,
            "seed {} with {} replicas: {}",
            self.scenario.seed, self.scenario.replicas, self.problem
        )?;
        if !self.scenario.byzantine.is_empty() {
            writeln!(f, "  byzantine: {:?}", self.scenario.byzantine)?;
        }
        write!(f, "  replay: {}", self.scenario.replay())
    }
}

impl std::error::Error for Failure {}

/// Runs a scenario: faults and clients, then healing, then liveness, then what the clients saw.
///
/// # Errors
/// The first thing that was wrong.
pub fn run(scenario: &Scenario, keep_log: bool) -> Result<Report, Box<Failure>> {
    let mut run = Run::new(scenario, keep_log);
    let result = run.go();
    result.map_err(|problem| {
        let mut log = run.simulation.log().to_vec();
        log.push(format!("FAILED: {problem}"));
        log.extend(run.whereabouts());
        Box::new(Failure { scenario: scenario.clone(), problem, log })
    })
}

struct Run {
    scenario: Scenario,
    simulation: Simulation<Node>,
    oracle: Rc<RefCell<Oracle>>,
    random: Random,
    nemesis: Nemesis,
    byzantine: BTreeSet<NodeId>,
    next_command: u64,
    next_operation: Duration,
    changes: Vec<(Duration, NodeId, bool)>,
}

impl Run {
    fn new(scenario: &Scenario, keep_log: bool) -> Self {
        let mut random = Random::new(scenario.seed);
        let byzantine: BTreeSet<NodeId> = scenario.byzantine.iter().map(|(node, _)| *node).collect();
        let invariants = invariants::all(&byzantine.iter().copied().collect::<Vec<_>>());
        let oracle = Rc::new(RefCell::new(Oracle::new(invariants)));
        let genesis = Membership::genesis((0..scenario.replicas).map(member))
            .unwrap_or_else(|error| panic!("the scenario is wrong: {error}"));
        let check_time =
            random.chance(300).then(|| random.duration(Duration::from_micros(10), Duration::from_millis(5)));
        let plans: Vec<Plan> = (0..scenario.hosts())
            .map(|node| {
                let attack = scenario.byzantine.iter().find(|(byzantine, _)| *byzantine == node);
                let attack = attack.map(|(_, attack)| ByzantineReplica::new(node, *attack, random.fork()));
                Plan { node, config: scenario.config(), genesis: genesis.clone(), attack, check_time }
            })
            .collect();
        let (nodes, seen) = (plans.len() + usize::from(scenario.external_client), oracle.clone());
        let config = scenario.config();
        let mut session = 0;
        let mut simulation = Simulation::new(random.next(), nodes, Settings::default(), move |node, _| {
            session += 1;
            match plans.get(node) {
                Some(plan) => Node::Host(Box::new(Host::new(plan.clone(), session, seen.clone()))),
                None => {
                    let (config, genesis) = (config.clone(), genesis.clone());
                    Node::ExternalClient(Box::new(ExternalClient::new(
                        node,
                        config,
                        genesis,
                        session,
                        seen.clone(),
                    )))
                }
            }
        });
        simulation.keep_log(keep_log);
        let mut settings = scenario.nemesis(&mut random);
        settings.spared.extend(scenario.absent);
        let nemesis = Nemesis::new(random.fork(), settings);
        let mut changes = Vec::new();
        if scenario.members_change {
            let mut leaving = usize::try_from(random.below(scenario.replicas as u64)).unwrap_or(0);
            if scenario.only_client == Some(leaving) {
                leaving = (leaving + 1) % scenario.replicas;
            }
            changes.push((
                random.duration(Duration::from_secs(2), Duration::from_secs(15)),
                scenario.replicas,
                true,
            ));
            changes.push((random.duration(Duration::from_secs(16), Duration::from_secs(35)), leaving, false));
        }
        Self {
            scenario: scenario.clone(),
            simulation,
            oracle,
            random,
            nemesis,
            byzantine,
            next_command: 1,
            next_operation: Duration::from_millis(100),
            changes,
        }
    }

    fn go(&mut self) -> Result<Report, String> {
        if let Some(node) = self.scenario.absent {
            self.advance(Duration::from_secs(1))?;
            self.simulation.crash(node);
        }
        self.advance(self.scenario.heal_at)?;
        self.nemesis.heal(&mut self.simulation);
        self.simulation.network().calm();
        if let Some(node) = self.scenario.absent {
            self.simulation.restart(node);
        }
        let healed = self.simulation.now();
        let probes = self.probe();
        let deadline = healed + BASE_TIMEOUT * 8;
        self.advance(deadline)?;
        let recovery = self.first_answer(&probes, healed)?;
        self.advance(self.scenario.clients_until)?;
        self.settle()?;
        self.judge()?;
        self.exposed()?;
        let oracle = self.oracle.borrow();
        Ok(Report {
            statistics: self.simulation.statistics(),
            operations: oracle.history.len(),
            completed: oracle.history.completed(),
            views: oracle.view_max.0,
            fetches: oracle.fetches,
            epochs: oracle.epochs,
            exposed: oracle.accused.iter().collect::<BTreeSet<_>>().len(),
            recovery,
            trace: self.simulation.trace_hash(),
        })
    }

    /// Lets clients, the operator and the nemesis act until a time.
    fn advance(&mut self, until: Duration) -> Result<(), String> {
        loop {
            let change = self.changes.first().map_or(Duration::MAX, |(at, ..)| *at);
            let next = self.next_operation.min(self.nemesis.next()).min(change).min(until);
            self.run_to(next)?;
            if next == until {
                return Ok(());
            }
            if next == self.nemesis.next() {
                self.nemesis.act(&mut self.simulation);
            } else if next == change {
                self.change_members();
            } else {
                self.operate();
                self.next_operation =
                    next + self.random.duration(Duration::from_millis(5), Duration::from_millis(150));
            }
        }
    }

    fn run_to(&mut self, time: Duration) -> Result<(), String> {
        self.simulation.run_until(time);
        match &self.oracle.borrow().broken {
            Some(problem) => Err(problem.clone()),
            None => Ok(()),
        }
    }

    fn operate(&mut self) {
        let any = usize::try_from(self.random.below(self.scenario.replicas as u64)).unwrap_or(0);
        let inside = self.scenario.only_client.filter(|node| !self.byzantine.contains(node)).unwrap_or(any);
        let outside = self.scenario.external_client().filter(|_| self.random.chance(300));
        let node = outside.unwrap_or(inside);
        let busy = self.simulation.process(node).is_none_or(|node| node.outstanding() >= 4);
        if busy || self.byzantine.contains(&node) {
            return;
        }
        let key = self.random.below(5);
        let input = match self.random.below(10) {
            0..=3 => KeyValueInput::Put { key, value: self.next_command },
            4..=5 => {
                let expected = self.host(inside).and_then(|host| host.machine().value(key));
                KeyValueInput::Cas { key, expected, new: self.next_command }
            }
            _ => KeyValueInput::Get { key },
        };
        let ordered = self.random.chance(200);
        self.ask(node, input, ordered);
    }

    fn ask(&mut self, node: NodeId, input: KeyValueInput, ordered: bool) -> Option<OpId> {
        let id = self.next_command;
        self.next_command += 1;
        self.simulation.with(node, |node, ctx| match node {
            Node::Host(host) => host.ask(id, input, ordered, ctx),
            Node::ExternalClient(external_client) => external_client.ask(id, input, ctx),
        })
    }

    /// Enough correct members vote for a change.
    fn change_members(&mut self) {
        let ((_, node, joins), replicas) = (self.changes.remove(0), self.scenario.replicas);
        for voter in 0..self.scenario.replicas {
            self.simulation.with(voter, |voter, ctx| {
                let Some(host) = voter.host_mut() else { return };
                let (name, key) = member(node);
                let change = if joins {
                    Some(Change::Add { key, name })
                } else {
                    // Without the one that joins, the Byzantine ones would be too many for those who stay.
                    let members = host.replica().membership();
                    let grown = members.members().len() > replicas;
                    members.by_key(&key).filter(|_| grown).map(|member| Change::Remove { id: member.id })
                };
                if let Some(change) = change {
                    host.change_members(change, ctx);
                }
            });
        }
    }

    /// A write at each correct node, to see that the group works.
    fn probe(&mut self) -> Vec<OpId> {
        let mut nodes: Vec<NodeId> =
            (0..self.scenario.replicas).filter(|node| !self.byzantine.contains(node)).collect();
        if let Some(only) = self.scenario.only_client.filter(|node| nodes.contains(node)) {
            nodes = vec![only];
        }
        nodes.extend(self.scenario.external_client());
        nodes
            .into_iter()
            .filter_map(|node| self.ask(node, KeyValueInput::Put { key: 100 + node as u64, value: 1 }, true))
            .collect()
    }

    fn first_answer(&self, probes: &[OpId], healed: Duration) -> Result<Duration, String> {
        let oracle = self.oracle.borrow();
        let answers = oracle.completed.iter().filter(|(_, operation)| probes.contains(operation));
        answers.map(|(at, _)| at.saturating_sub(healed)).min().ok_or_else(|| {
            format!("liveness: nothing was committed within {:?} after all faults ended", BASE_TIMEOUT * 8)
        })
    }

    /// Waits until all correct members are equal and no client waits.
    fn settle(&mut self) -> Result<(), String> {
        loop {
            let Some(problem) = self.difference() else { return Ok(()) };
            let now = self.simulation.now();
            if now >= self.scenario.end {
                return Err(format!(
                    "convergence: {problem} {:?} after all faults ended",
                    now - self.scenario.heal_at
                ));
            }
            self.run_to(now + Duration::from_millis(200))?;
        }
    }

    fn difference(&self) -> Option<String> {
        let correct = (0..self.simulation.nodes()).filter(|node| !self.byzantine.contains(node));
        let hosts: Vec<_> = correct.filter_map(|node| Some((node, self.host(node)?))).collect();
        let newest = hosts
            .iter()
            .map(|(_, host)| host.replica().membership())
            .max_by_key(|members| members.epoch())?;
        let of = |host: &Host| (host.replica().executed(), host.replica().chain(), host.machine().hash());
        let members: Vec<_> =
            hosts.iter().filter(|(node, _)| newest.by_key(&group::key(*node)).is_some()).collect();
        let (first, host) = members.first()?;
        for (node, other) in &members {
            if of(host) != of(other) {
                let (ours, theirs) = (of(host), of(other));
                return Some(format!("node {first} is at {:?} and node {node} at {:?}", ours.0, theirs.0));
            }
            if other.outstanding() > 0 {
                return Some(format!("clients of node {node} wait for {} answers", other.outstanding()));
            }
        }
        let outside = self.scenario.external_client().and_then(|node| self.simulation.process(node));
        let waits = outside.map_or(0, Node::outstanding);
        (waits > 0).then(|| format!("the client that is no member waits for {waits} answers"))
    }

    fn host(&self, node: NodeId) -> Option<&Host> {
        self.simulation.process(node)?.host()
    }

    /// A replica that equivocated for long enough, with a network that works, has a proof against it.
    fn exposed(&self) -> Result<(), String> {
        let accused = &self.oracle.borrow().accused;
        let members = self.host(self.correct()).map(|host| host.replica().membership().clone());
        let hidden = self.scenario.byzantine.iter().find(|(node, attack)| {
            let member = members.as_ref().is_some_and(|members| members.by_key(&group::key(*node)).is_some());
            *attack == Attack::Equivocate && member && !accused.contains(node)
        });
        match hidden {
            Some((node, _)) => {
                Err(format!("evidence: node {node} voted for two batches and no replica has a proof"))
            }
            None => Ok(()),
        }
    }

    fn correct(&self) -> NodeId {
        (0..self.scenario.replicas).find(|node| !self.byzantine.contains(node)).unwrap_or(0)
    }

    /// The clients' history has to be explainable by one copy of the registers.
    fn judge(&self) -> Result<(), String> {
        let oracle = self.oracle.borrow();
        wing_gong_lowe(&KeyValue, &oracle.history)
            .map_err(|violation| format!("linearizability: {violation}"))?;
        if self.scenario.seed.is_multiple_of(16) {
            just_in_time(&KeyValue, &oracle.history)
                .map_err(|violation| format!("linearizability, by the second checker: {violation}"))?;
        }
        Ok(())
    }

    fn whereabouts(&self) -> Vec<String> {
        let line = |node| {
            self.host(node).map_or_else(
                || format!("node {node} is down, or no replica"),
                |host| {
                    let replica = host.replica();
                    let (view, entered) = replica.view();
                    format!(
                        "node {node}: epoch {} view {view} entered {entered} stable {} executed {} waiting {:?}",
                        replica.membership().epoch(), replica.stable(), replica.executed(), host.waiting()
                    )
                },
            )
        };
        (0..self.simulation.nodes()).map(line).collect()
    }
}
