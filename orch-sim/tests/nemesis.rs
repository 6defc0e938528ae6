//! The nemesis brings each kind of fault, keeps to its limits, and heals everything.

#![expect(clippy::unwrap_used, reason = "a test may panic")]

use std::time::Duration;

use orch_sim::{
    Context, Nemesis, NemesisSettings, NetworkConditions, NodeId, Process, Random, Settings, Simulation,
};

const fn ms(ms: u64) -> Duration {
    Duration::from_millis(ms)
}

/// Greets all nodes every 10 ms, and gives up when its disk is full.
#[derive(Default)]
struct Beacon {
    received: Vec<(NodeId, Duration)>,
    synced: u64,
}

impl Process for Beacon {
    type Message = ();

    fn start(&mut self, ctx: &mut Context<'_, ()>) {
        ctx.set_timer(ms(10), 0);
    }

    fn receive(&mut self, from: NodeId, (): (), ctx: &mut Context<'_, ()>) {
        self.received.push((from, ctx.now()));
    }

    fn timer(&mut self, id: u64, ctx: &mut Context<'_, ()>) {
        for to in 0..ctx.nodes() {
            ctx.send(to, ());
        }
        if ctx.append("log", b"greeted").is_err() {
            ctx.halt();
        }
        ctx.sync(id);
        ctx.set_timer(ms(10), id + 1);
    }

    fn synced(&mut self, token: u64, _: &mut Context<'_, ()>) {
        self.synced = token;
    }
}

const NODES: usize = 7;
/// Node 6 is the one that is spared.
const SPARED: NodeId = 6;

fn settings() -> NemesisSettings {
    NemesisSettings { end: ms(20_000), spared: vec![SPARED], max_down: 2, ..NemesisSettings::default() }
}

fn simulation(seed: u64) -> Simulation<Beacon> {
    Simulation::new(seed, NODES, Settings::default(), |_, _| Beacon::default())
}

/// The most nodes that are down at a time, for each kind of being down: crashed, paused, full, isolated, any
/// of them.
fn worst(seed: u64, settings: &NemesisSettings) -> [usize; 5] {
    let mut sim = simulation(seed);
    let mut nemesis = Nemesis::new(Random::new(seed), settings.clone());
    let mut worst = [0; 5];
    while nemesis.next() < settings.end {
        sim.run_until(nemesis.next());
        nemesis.act(&mut sim);
        let crashed: Vec<bool> = (0..NODES).map(|node| !sim.is_up(node)).collect();
        let paused: Vec<bool> = (0..NODES).map(|node| sim.is_paused(node)).collect();
        let full: Vec<bool> = (0..NODES).map(|node| sim.disk(node).is_full()).collect();
        let isolated: Vec<bool> = (0..NODES).map(|node| sim.network().is_isolated(node)).collect();
        let any: Vec<bool> =
            (0..NODES).map(|node| crashed[node] || paused[node] || full[node] || isolated[node]).collect();
        for (worst, now) in worst.iter_mut().zip([&crashed, &paused, &full, &isolated, &any]) {
            *worst = (*worst).max(now.iter().filter(|down| **down).count());
            assert!(!now[SPARED] || std::ptr::eq(now, &isolated) || std::ptr::eq(now, &any));
        }
        assert!(!crashed[SPARED] && !paused[SPARED] && !full[SPARED]);
    }
    worst
}

#[test]
fn no_more_nodes_are_down_than_allowed() {
    let all = NemesisSettings { count_all: true, ..settings() };
    for seed in 0..100 {
        let [.., any] = worst(seed, &all);
        assert!(any <= 2, "seed {seed}: {any}");
    }
    let worst_any = (0..100).map(|seed| worst(seed, &all)[4]).max();
    assert_eq!(worst_any, Some(2), "the limit is never reached");
}

#[test]
fn only_crashes_count_unless_all_do() {
    // A process that gives up on a full disk crashes without being asked, so disks stay as they are.
    let settings = NemesisSettings { full_disks: false, ..settings() };
    let runs: Vec<_> = (0..100).map(|seed| worst(seed, &settings)).collect();
    assert!(runs.iter().all(|[crashed, ..]| *crashed <= 2));
    assert!(runs.iter().any(|[crashed, ..]| *crashed == 2));
    assert!(runs.iter().any(|[.., any]| *any > 2));
}

#[test]
fn each_kind_happens_alone_when_the_others_are_off() {
    let quiet = NemesisSettings { supervise: false, ..settings().quiet() };
    let kinds = [
        ("NetworkConditions", NemesisSettings { network_conditions: true, ..quiet.clone() }),
        ("Cut", NemesisSettings { partitions: true, ..quiet.clone() }),
        ("Cut", NemesisSettings { one_way_partitions: true, ..quiet.clone() }),
        ("Crash", NemesisSettings { crashes: true, ..quiet.clone() }),
        ("Pause", NemesisSettings { pauses: true, ..quiet.clone() }),
        ("SlowDisk", NemesisSettings { slow_disks: true, ..quiet.clone() }),
        ("FullDisk", NemesisSettings { full_disks: true, ..quiet.clone() }),
        ("Clock", NemesisSettings { clocks: true, ..quiet.clone() }),
    ];
    for (kind, settings) in kinds {
        let mut sim = simulation(1);
        sim.keep_log(true);
        Nemesis::new(Random::new(1), settings).run(&mut sim, ms(20_000));
        let begun: Vec<_> =
            sim.log().iter().filter_map(|line| line.split("nemesis begins ").nth(1)).collect();
        assert!(begun.len() > 3, "{kind}: {begun:?}");
        assert!(begun.iter().all(|fault| fault.starts_with(kind)), "{kind}: {begun:?}");
    }
    let mut sim = simulation(1);
    sim.keep_log(true);
    Nemesis::new(Random::new(1), quiet).run(&mut sim, ms(20_000));
    assert!(!sim.log().iter().any(|line| line.contains("nemesis")));
}

#[test]
fn faults_end_by_themselves_after_the_schedule() {
    for seed in 0..20 {
        let mut sim = simulation(seed);
        let mut nemesis = Nemesis::new(Random::new(seed), settings());
        nemesis.run(&mut sim, ms(60_000));
        assert_eq!(nemesis.next(), Duration::MAX);
        assert_well(&mut sim);
    }
}

#[test]
fn healing_ends_everything() {
    for seed in 0..50 {
        let mut sim = simulation(seed);
        let mut nemesis = Nemesis::new(Random::new(seed), settings());
        nemesis.run(&mut sim, ms(10_000 + seed * 100));
        nemesis.heal(&mut sim);
        assert_well(&mut sim);
    }
}

fn assert_well(sim: &mut Simulation<Beacon>) {
    let now = sim.now();
    let normal = Settings::default();
    assert_eq!(*sim.network().conditions(), NetworkConditions::default());
    for node in 0..NODES {
        assert!(sim.is_up(node) && !sim.is_paused(node) && !sim.disk(node).is_full());
        assert_eq!(sim.disk(node).delay(), normal.disk_delay);
        assert_eq!(sim.with(node, |_, ctx| ctx.local_time()), Some(now));
        assert!((0..NODES).all(|other| !sim.network().is_cut(node, other)));
    }
    sim.run_until(now + ms(1_500));
    for node in 0..NODES {
        let process = sim.process(node).unwrap();
        assert!(process.synced > 0);
        for other in 0..NODES {
            let greetings =
                process.received.iter().filter(|(from, at)| *from == other && *at > now + ms(1_000)).count();
            assert!((48..=51).contains(&greetings), "node {node} received {greetings} from {other}");
        }
    }
}

#[test]
fn the_same_seed_brings_the_same_faults() {
    let run = |seed: u64, nemesis_seed: u64| {
        let mut sim = simulation(seed);
        Nemesis::new(Random::new(nemesis_seed), settings()).run(&mut sim, ms(20_000));
        sim.trace_hash()
    };
    assert_eq!(run(1, 1), run(1, 1));
    assert_ne!(run(1, 1), run(1, 2));
    assert_ne!(run(1, 1), run(2, 1));
}

#[test]
fn processes_that_give_up_are_restarted() {
    let mut sim = simulation(1);
    let mut nemesis = Nemesis::new(
        Random::new(1),
        NemesisSettings { full_disks: true, interval: ms(100)..=ms(200), ..settings().quiet() },
    );
    nemesis.run(&mut sim, ms(40_000));
    let statistics = sim.statistics();
    assert!(statistics.crashes > 5);
    assert_eq!(statistics.crashes, statistics.restarts);
}
