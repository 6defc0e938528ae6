//! One run: a group, a nemesis, clients, and what must hold at the end.

use std::{cell::RefCell, collections::BTreeSet, num::NonZeroUsize, rc::Rc, time::Duration};

use bytes::Bytes;
use orch_core::store::{Key, Txn, Write};
use orch_store::crdt::{Hash, MemoryTables, Owned, ReadLevel, ReplicaConfig};

use super::{
    byzantine::ByzantineReplica,
    host::{Host, Plan, Shared, World, key_of},
};
use crate::{Context, Nemesis, NemesisSettings, NodeId, Process, Random, Settings, Simulation};

/// Keys that all replicas write.
const SHARED_KEYS: u64 = 8;
/// Time until all replicas must agree once nothing fails any more.
const CALM: Duration = Duration::from_secs(25);

/// A simulated group.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Scenario {
    /// Replicas, byzantine among them.
    pub nodes: usize,
    /// Number of Byzantine ones among them.
    pub byzantine: usize,
    /// Time of the faults.
    pub faults_until: Duration,
}

/// Result of a run.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Report {
    /// Writes that were answered, of keys with one author.
    pub answered: usize,
    /// Number of times that a replica found evidence.
    pub evidence: usize,
    /// Keys that all see at the end.
    pub keys: usize,
    /// A hash over all that happened.
    pub trace: u64,
}

/// Honest or not.
enum Node {
    Host(Box<Host>),
    Byzantine(Box<ByzantineReplica>),
}

impl Process for Node {
    type Message = Bytes;

    fn start(&mut self, ctx: &mut Context<'_, Bytes>) {
        match self {
            Self::Host(host) => host.start(ctx),
            Self::Byzantine(replica) => replica.start(ctx),
        }
    }

    fn receive(&mut self, from: NodeId, message: Bytes, ctx: &mut Context<'_, Bytes>) {
        match self {
            Self::Host(host) => host.receive(from, message, ctx),
            Self::Byzantine(replica) => replica.receive(from, message, ctx),
        }
    }

    fn timer(&mut self, id: u64, ctx: &mut Context<'_, Bytes>) {
        match self {
            Self::Host(host) => host.timer(id, ctx),
            Self::Byzantine(replica) => replica.timer(id, ctx),
        }
    }

    fn synced(&mut self, token: u64, ctx: &mut Context<'_, Bytes>) {
        match self {
            Self::Host(host) => host.synced(token, ctx),
            Self::Byzantine(replica) => replica.synced(token, ctx),
        }
    }
}

/// Runs a scenario. What happens follows from the seed.
///
/// # Errors
/// The broken promise, in words.
pub fn run(seed: u64, scenario: Scenario) -> Result<Report, String> {
    let Scenario { nodes, byzantine, faults_until } = scenario;
    let correct = nodes - byzantine;
    let ids: Vec<_> = (0..nodes).map(|node| key_of(node).author()).collect();
    let config = ReplicaConfig {
        confirmations: NonZeroUsize::MIN.saturating_add(byzantine),
        startup_quorum: 1,
        request_grace: Duration::from_millis(200),
        answer_timeout: Duration::from_millis(600),
        offline_after: Duration::from_secs(3),
        skew_max: Duration::from_secs(20),
        message_bytes: 4096,
        ..ReplicaConfig::new(Hash::of(b"simulated"), ids.clone())
    };
    let plan = Rc::new(Plan { config, ids, byzantine_from: correct });
    let world = World { disks: vec![MemoryTables::default(); nodes], ..World::default() };
    let shared: Shared = Rc::new(RefCell::new(world));
    let mut random = Random::new(seed);
    let mut sim = Simulation::new(random.next(), nodes, Settings::default(), {
        let (plan, shared) = (Rc::clone(&plan), Rc::clone(&shared));
        move |node, _| {
            if node < correct {
                Node::Host(Box::new(Host::new(node, &plan, &shared)))
            } else {
                Node::Byzantine(Box::new(ByzantineReplica::new(node, &plan, &shared)))
            }
        }
    });
    let settings = NemesisSettings {
        end: faults_until,
        full_disks: false,
        spared: (correct..nodes).collect(),
        ..NemesisSettings::default()
    };
    let mut nemesis = Nemesis::new(random.fork(), settings);
    let mut clients = random.fork();
    let mut time = Duration::ZERO;
    while time < faults_until {
        time += clients.duration(Duration::from_millis(5), Duration::from_millis(80));
        nemesis.run(&mut sim, time);
        let node = usize::try_from(clients.below(correct as u64)).unwrap_or_default();
        let txn = some_txn(&mut clients, &plan, node);
        sim.with(node, |node, ctx| {
            if let Node::Host(host) = node {
                host.write(ctx, txn);
            }
        });
    }
    shared.borrow_mut().quiet = true;
    nemesis.heal(&mut sim);
    sim.run_until(faults_until + CALM);
    check(&sim, &plan, &shared)?;
    let shared = shared.borrow();
    let keys = view(&sim, 0).len();
    Ok(Report { answered: shared.answered.len(), evidence: shared.evidence, keys, trace: sim.trace_hash() })
}

fn some_txn(random: &mut Random, plan: &Plan, node: NodeId) -> Txn {
    let value = format!("{node}-{}", random.below(1000));
    let own = Owned::key(plan.ids[node], &format!("own/{}", random.below(20)));
    let mut writes = Vec::new();
    for key in [own, Key::new(format!("k/{}", random.below(SHARED_KEYS)))] {
        let key = key.expect("a valid key");
        writes.push(if random.chance(200) { Write::delete(key) } else { Write::put(key, value.clone()) });
    }
    if random.chance(300) {
        writes.pop();
    }
    Txn::of(writes)
}

fn hosts(sim: &Simulation<Node>) -> impl Iterator<Item = (NodeId, &Host)> {
    (0..sim.nodes()).filter_map(|node| match sim.process(node) {
        Some(Node::Host(host)) => Some((node, &**host)),
        _ => None,
    })
}

fn view(sim: &Simulation<Node>, node: NodeId) -> BTreeSet<String> {
    let mut keys = BTreeSet::new();
    if let Some(Node::Host(host)) = sim.process(node) {
        let visit = &mut |key: &str, _| {
            keys.insert(key.to_owned());
            std::ops::ControlFlow::Continue(())
        };
        let Ok(()) = orch_store::crdt::Tables::each_record(&host.tables, std::ops::Bound::Unbounded, visit);
    }
    keys
}

/// Checks that must hold once everything arrives again.
fn check(sim: &Simulation<Node>, plan: &Plan, shared: &Shared) -> Result<(), String> {
    let shared = shared.borrow();
    if let Some(violation) = shared.violations.first() {
        return Err(violation.clone());
    }
    let (mut digests, mut confirmed) = (BTreeSet::new(), BTreeSet::new());
    for (node, host) in hosts(sim) {
        let status = host.replica.status();
        if !status.complete {
            return Err(format!("node {node} is still filling up: {:?}", host.replica));
        }
        let Ok(digest) = host.replica.digest(&host.tables);
        digests.insert(digest);
        // Every write that a correct author acknowledged as durable is there, everywhere.
        for (key, value) in shared.answered.iter().filter(|(key, _)| Owned::owner(key).is_some()) {
            let Ok(found) = host.replica.read(&host.tables, key, ReadLevel::Optimistic);
            if found != *value {
                return Err(format!("node {node} has {found:?} for {key}, and {value:?} was answered"));
            }
        }
        // What only byzantine say is never confirmed.
        for number in 0..SHARED_KEYS {
            let key = Key::new(format!("k/{number}")).expect("a valid key");
            let Ok(found) = host.replica.read(&host.tables, &key, ReadLevel::Confirmed);
            if found.as_ref().is_some_and(|value| value.starts_with(b"a attack")) {
                return Err(format!("node {node} confirms a attack for {key}"));
            }
            confirmed.insert((number, found));
        }
    }
    if confirmed.len() as u64 != SHARED_KEYS {
        return Err(format!("correct replicas confirm different things: {confirmed:?}"));
    }
    if digests.len() != 1 {
        let heads: Vec<_> = hosts(sim).map(|(node, host)| (node, host.replica.status().authors)).collect();
        return Err(format!("correct replicas see different things: {heads:#?}"));
    }
    debug_assert!(plan.byzantine_from > 0);
    Ok(())
}
