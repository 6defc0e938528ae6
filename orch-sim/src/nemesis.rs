use std::ops::RangeInclusive;
use std::time::Duration;

use crate::network::NetworkConditions;
use crate::process::Process;
use crate::random::Random;
use crate::simulation::Simulation;
use crate::statistics::NodeId;

/// Faults of a [`Nemesis`]: kinds, times and victims.
#[derive(Clone, Debug)]
pub struct NemesisSettings {
    /// No fault begins earlier.
    pub start: Duration,
    /// No fault begins then or later. Those that last still end by themselves, or with [`Nemesis::heal`].
    pub end: Duration,
    /// The time between the beginnings of two faults.
    pub interval: RangeInclusive<Duration>,
    /// Length of a fault.
    pub length: RangeInclusive<Duration>,
    /// At most this many nodes are down at the same time; what counts as down says
    /// [`count_all`](Self::count_all).
    pub max_down: usize,
    /// Counts paused nodes, those behind a cut link and those with a full disk as down, not only crashed
    /// ones. With the number of faults that a protocol tolerates as `max_down`, it should then get on all the
    /// time.
    pub count_all: bool,
    /// Nodes that are never touched, such as those of clients. Their links are cut only where the other end
    /// is isolated.
    pub spared: Vec<NodeId>,
    /// Restarts nodes that crashed otherwise, for instance by [`Context::halt`](crate::Context::halt), after
    /// the length of a fault.
    pub supervise: bool,
    /// Changes of the network: loss of up to 20%, duplicates, reordering, delays.
    pub network_conditions: bool,
    /// Partitions into two sides, and isolated nodes.
    pub partitions: bool,
    /// Links cut in one direction, of one link or of all of a node.
    pub one_way_partitions: bool,
    /// Crashes with a later restart.
    pub crashes: bool,
    /// Processes that are stopped for a while.
    pub pauses: bool,
    /// Disks whose syncs take long.
    pub slow_disks: bool,
    /// Disks that refuse writes.
    pub full_disks: bool,
    /// Clocks that are off, drift or jump.
    pub clocks: bool,
    /// The furthest that a clock is set off or jumps.
    pub clock_offset_max: Duration,
    /// The largest drift of a clock, in both directions.
    pub clock_drift_ppm_max: u32,
}

impl Default for NemesisSettings {
    /// All faults for a minute, one node down at a time.
    fn default() -> Self {
        Self {
            start: Duration::ZERO,
            end: Duration::from_secs(60),
            interval: Duration::from_millis(100)..=Duration::from_secs(2),
            length: Duration::from_millis(100)..=Duration::from_secs(5),
            max_down: 1,
            count_all: false,
            spared: Vec::new(),
            supervise: true,
            network_conditions: true,
            partitions: true,
            one_way_partitions: true,
            crashes: true,
            pauses: true,
            slow_disks: true,
            full_disks: true,
            clocks: true,
            clock_offset_max: Duration::from_secs(1),
            clock_drift_ppm_max: 10_000,
        }
    }
}

impl NemesisSettings {
    /// The same without any fault, to switch on single ones.
    #[must_use]
    pub fn quiet(self) -> Self {
        Self {
            network_conditions: false,
            partitions: false,
            one_way_partitions: false,
            crashes: false,
            pauses: false,
            slow_disks: false,
            full_disks: false,
            clocks: false,
            ..self
        }
    }
}

/// The adversary of a protocol: it brings faults upon a simulation and takes them back, at times and in kinds
/// that follow from its seed.
#[derive(Debug)]
pub struct Nemesis {
    random: Random,
    settings: NemesisSettings,
    next_fault: Duration,
    active: Vec<Active>,
    /// The conditions before the nemesis changed it.
    normal_conditions: Option<NetworkConditions>,
}

#[derive(Debug)]
struct Active {
    until: Duration,
    fault: Fault,
}

#[derive(Debug)]
enum Fault {
    NetworkConditions,
    /// The links that this fault has cut, and the nodes that count as down through it.
    Cut {
        links: Vec<(NodeId, NodeId)>,
        down: Vec<NodeId>,
    },
    Crash(NodeId),
    Pause(NodeId),
    /// With the delay from before.
    SlowDisk(NodeId, RangeInclusive<Duration>),
    FullDisk(NodeId),
    Clock(NodeId),
}

#[derive(Clone, Copy, Debug)]
enum Kind {
    NetworkConditions,
    Partition,
    OneWay,
    Crash,
    Pause,
    SlowDisk,
    FullDisk,
    Clock,
}

impl Nemesis {
    /// A schedule that follows from `random`.
    pub fn new(mut random: Random, settings: NemesisSettings) -> Self {
        let first = settings.start + draw(&mut random, &settings.interval);
        Self { random, settings, next_fault: first, active: Vec::new(), normal_conditions: None }
    }

    /// Time of the next [`act`](Self::act). `Duration::MAX` when all is over.
    pub fn next(&self) -> Duration {
        let begins = if self.next_fault < self.settings.end { self.next_fault } else { Duration::MAX };
        self.active.iter().map(|active| active.until).fold(begins, Duration::min)
    }

    /// Ends the faults whose time is over, and begins one if it is time for that. What cannot be done without
    /// more nodes down than allowed is left out.
    pub fn act<P: Process>(&mut self, sim: &mut Simulation<P>) {
        let now = sim.now();
        while let Some(index) = self.active.iter().position(|active| active.until <= now) {
            let ended = self.active.remove(index);
            self.end(sim, ended.fault);
        }
        self.supervise(sim);
        if now >= self.next_fault && self.next_fault < self.settings.end {
            self.next_fault =
                now + draw(&mut self.random, &self.settings.interval).max(Duration::from_nanos(1));
            if let Some(fault) = self.begin(sim) {
                sim.note(|| format!("nemesis begins {fault:?}"));
                let until = now + draw(&mut self.random, &self.settings.length);
                self.active.push(Active { until, fault });
            }
        }
    }

    /// Runs the simulation up to `until`, with all that the nemesis does until then.
    pub fn run<P: Process>(&mut self, sim: &mut Simulation<P>, until: Duration) {
        while self.next() <= until {
            sim.run_until(self.next());
            self.act(sim);
        }
        sim.run_until(until);
    }

    /// Ends all faults: the network is calm, and on nodes that are not spared processes run, disks take
    /// writes and clocks show true time. Faults begin again if [`act`](Self::act) is called before the end of
    /// the schedule.
    pub fn heal<P: Process>(&mut self, sim: &mut Simulation<P>) {
        for active in std::mem::take(&mut self.active) {
            self.end(sim, active.fault);
        }
        sim.network().calm();
        for node in self.touchable(sim) {
            sim.disk(node).set_full(false);
            calm_clock(sim, node);
            sim.restart(node);
            sim.resume(node);
        }
        sim.note(|| "nemesis healed everything".to_owned());
    }

    fn begin<P: Process>(&mut self, sim: &mut Simulation<P>) -> Option<Fault> {
        let kinds = self.kinds();
        match *self.random.choose(&kinds)? {
            Kind::NetworkConditions => Some(self.change_conditions(sim)),
            Kind::Partition => self.partition(sim),
            Kind::OneWay => self.cut_one_way(sim),
            Kind::Crash => {
                let node = self.victim(sim, true)?;
                sim.crash(node);
                Some(Fault::Crash(node))
            }
            Kind::Pause => {
                let node = self.victim(sim, self.settings.count_all)?;
                sim.pause(node);
                Some(Fault::Pause(node))
            }
            Kind::SlowDisk => {
                let nodes = self.touchable(sim);
                let node = *self.random.choose(&nodes)?;
                if self
                    .active
                    .iter()
                    .any(|active| matches!(active.fault, Fault::SlowDisk(slow, _) if slow == node))
                {
                    return None;
                }
                let before = sim.disk(node).delay();
                let slowest = self.random.duration(Duration::from_millis(20), Duration::from_secs(1));
                sim.disk(node).set_delay(*before.start(), slowest);
                Some(Fault::SlowDisk(node, before))
            }
            Kind::FullDisk => {
                let node = self.victim(sim, self.settings.count_all)?;
                sim.disk(node).set_full(true);
                Some(Fault::FullDisk(node))
            }
            Kind::Clock => self.disturb_clock(sim),
        }
    }

    fn end<P: Process>(&mut self, sim: &mut Simulation<P>, fault: Fault) {
        sim.note(|| format!("nemesis ends {fault:?}"));
        match fault {
            Fault::NetworkConditions => {
                if let Some(before) = self.normal_conditions.take() {
                    sim.network().set_conditions(before);
                }
            }
            Fault::Cut { links, .. } => {
                for (from, to) in links {
                    sim.network().heal(from, to);
                }
            }
            Fault::Crash(node) => sim.restart(node),
            Fault::Pause(node) => sim.resume(node),
            Fault::SlowDisk(node, before) => sim.disk(node).set_delay(*before.start(), *before.end()),
            Fault::FullDisk(node) => sim.disk(node).set_full(false),
            Fault::Clock(node) => calm_clock(sim, node),
        }
    }

    fn supervise<P: Process>(&mut self, sim: &mut Simulation<P>) {
        if !self.settings.supervise {
            return;
        }
        for node in self.touchable(sim) {
            let ours =
                self.active.iter().any(|active| matches!(active.fault, Fault::Crash(down) if down == node));
            if !sim.is_up(node) && !ours {
                let until = sim.now() + draw(&mut self.random, &self.settings.length);
                self.active.push(Active { until, fault: Fault::Crash(node) });
            }
        }
    }

    fn change_conditions<P: Process>(&mut self, sim: &mut Simulation<P>) -> Fault {
        self.active.retain(|active| !matches!(active.fault, Fault::NetworkConditions));
        let before = self.normal_conditions.get_or_insert_with(|| sim.network().conditions().clone());
        let random = &mut self.random;
        // Often one kind alone, as most bugs need one kind and are hidden by the others.
        let mut up_to = |max: u32| match random.chance(500) {
            true => u32::try_from(random.below(u64::from(max) + 1)).unwrap_or(max),
            false => 0,
        };
        let (loss, duplicates, reorder, slower) = (up_to(200), up_to(100), up_to(200), up_to(20));
        let (min, max) = (*before.delay.start(), *before.delay.end());
        let changed = NetworkConditions {
            loss,
            duplicates,
            reorder,
            reorder_extra: max * 10,
            delay: min..=max * (1 + slower),
        };
        sim.note(|| format!("nemesis makes {changed:?}"));
        sim.network().set_conditions(changed);
        Fault::NetworkConditions
    }

    fn partition<P: Process>(&mut self, sim: &mut Simulation<P>) -> Option<Fault> {
        let mut nodes = self.touchable(sim);
        if nodes.len() < 3 || self.random.chance(400) {
            let node = self.victim(sim, self.settings.count_all)?;
            let links = others(sim, node).flat_map(|other| [(node, other), (other, node)]).collect();
            return Some(cut(sim, links, vec![node]));
        }
        let already_down = self.down(sim);
        if self.settings.count_all {
            nodes.retain(|node| !already_down.contains(node));
        }
        let allowed = match self.settings.count_all {
            true => self.settings.max_down.saturating_sub(already_down.len()),
            false => usize::MAX,
        };
        let largest = (nodes.len() / 2).min(allowed);
        if largest == 0 {
            return None;
        }
        let size = 1 + self.random.index(largest);
        self.random.shuffle(&mut nodes);
        let minority = nodes[..size].to_vec();
        let rest: Vec<NodeId> =
            self.touchable(sim).into_iter().filter(|node| !minority.contains(node)).collect();
        let links = minority
            .iter()
            .flat_map(|&one| rest.iter().flat_map(move |&two| [(one, two), (two, one)]))
            .collect();
        Some(cut(sim, links, minority))
    }

    fn cut_one_way<P: Process>(&mut self, sim: &mut Simulation<P>) -> Option<Fault> {
        let node = self.victim(sim, self.settings.count_all)?;
        let mut links: Vec<(NodeId, NodeId)> = others(sim, node).map(|other| (node, other)).collect();
        if self.random.chance(500) {
            links.retain(|(_, other)| !self.settings.spared.contains(other));
            let one = *self.random.choose(&links)?;
            links = vec![one];
        }
        if self.random.chance(500) {
            for (from, to) in &mut links {
                std::mem::swap(from, to);
            }
        }
        Some(cut(sim, links, vec![node]))
    }

    fn disturb_clock<P: Process>(&mut self, sim: &mut Simulation<P>) -> Option<Fault> {
        let nodes = self.touchable(sim);
        let node = *self.random.choose(&nodes)?;
        let offset_max = u64::try_from(self.settings.clock_offset_max.as_millis()).unwrap_or(u64::MAX);
        match self.random.below(3) {
            0 => {
                let offset = self.signed(offset_max);
                sim.clock(node).set_offset(offset);
            }
            1 => {
                let offset = self.signed(offset_max);
                sim.clock(node).jump(offset);
            }
            _ => {
                let drift = self.signed(u64::from(self.settings.clock_drift_ppm_max));
                sim.clock(node).set_drift_ppm(i32::try_from(drift).unwrap_or(i32::MAX));
            }
        }
        Some(Fault::Clock(node))
    }

    fn signed(&mut self, max: u64) -> i64 {
        let number = i64::try_from(self.random.below(max.saturating_add(1))).unwrap_or(i64::MAX);
        if self.random.chance(500) { -number } else { number }
    }

    /// A node that is well so far. `None` if one more must not be down and this fault counts.
    fn victim<P: Process>(&mut self, sim: &mut Simulation<P>, counts: bool) -> Option<NodeId> {
        let down = self.down(sim);
        if counts && down.len() >= self.settings.max_down {
            return None;
        }
        let mut nodes = self.touchable(sim);
        nodes.retain(|&node| {
            !down.contains(&node) && sim.is_up(node) && !sim.is_paused(node) && !sim.disk(node).is_full()
        });
        self.random.choose(&nodes).copied()
    }

    fn down<P: Process>(&self, sim: &mut Simulation<P>) -> Vec<NodeId> {
        let all = self.settings.count_all;
        let cut_off = |node: NodeId| {
            self.active
                .iter()
                .any(|active| matches!(&active.fault, Fault::Cut { down, .. } if down.contains(&node)))
        };
        (0..sim.nodes())
            .filter(|&node| {
                let ill = |sim: &mut Simulation<P>| {
                    sim.is_paused(node)
                        || sim.disk(node).is_full()
                        || sim.network().is_isolated(node)
                        || cut_off(node)
                };
                !sim.is_up(node) || (all && ill(sim))
            })
            .collect()
    }

    fn touchable<P: Process>(&self, sim: &Simulation<P>) -> Vec<NodeId> {
        (0..sim.nodes()).filter(|node| !self.settings.spared.contains(node)).collect()
    }

    fn kinds(&self) -> Vec<Kind> {
        let settings = &self.settings;
        [
            (settings.network_conditions, Kind::NetworkConditions),
            (settings.partitions, Kind::Partition),
            (settings.one_way_partitions, Kind::OneWay),
            (settings.crashes, Kind::Crash),
            (settings.pauses, Kind::Pause),
            (settings.slow_disks, Kind::SlowDisk),
            (settings.full_disks, Kind::FullDisk),
            (settings.clocks, Kind::Clock),
        ]
        .into_iter()
        .filter_map(|(on, kind)| on.then_some(kind))
        .collect()
    }
}

fn draw(random: &mut Random, range: &RangeInclusive<Duration>) -> Duration {
    random.duration(*range.start(), *range.end())
}

fn others<P: Process>(sim: &Simulation<P>, node: NodeId) -> impl Iterator<Item = NodeId> + use<P> {
    (0..sim.nodes()).filter(move |other| *other != node)
}

/// Cuts what is not cut yet, so that the end of this fault does not heal what another one cut.
fn cut<P: Process>(sim: &mut Simulation<P>, mut links: Vec<(NodeId, NodeId)>, down: Vec<NodeId>) -> Fault {
    links.retain(|(from, to)| !sim.network().is_cut(*from, *to));
    for &(from, to) in &links {
        sim.network().cut(from, to);
    }
    Fault::Cut { links, down }
}

fn calm_clock<P: Process>(sim: &mut Simulation<P>, node: NodeId) {
    sim.clock(node).set_drift_ppm(0);
    sim.clock(node).set_offset(0);
}
