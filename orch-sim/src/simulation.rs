use std::fmt;
use std::ops::RangeInclusive;
use std::time::Duration;

use crate::clock::Clock;
use crate::disk::Disk;
use crate::network::{Network, NetworkConditions};
use crate::process::{Context, Process};
use crate::queue::{Due, Queue};
use crate::random::Random;
use crate::statistics::{NodeId, Statistics};
use crate::time::{duration, nanos};
use crate::world::{Kind, Log, Node, Pending, Trace, World};

/// Initial state of a simulation.
#[derive(Clone, Debug)]
pub struct Settings {
    /// Conditions of the network at the beginning.
    pub network_conditions: NetworkConditions,
    /// Time of a sync at the beginning.
    pub disk_delay: RangeInclusive<Duration>,
    /// If set, messages that were under way when their receiver crashed reach it after its restart, as
    /// datagrams do and the bytes of a connection do not. In both cases a message is lost that arrives while
    /// the node is down.
    pub messages_outlive_crashes: bool,
    /// Of a log that is kept, at least this many of its last lines, and at most twice as many.
    pub log_lines_max: usize,
}

impl Default for Settings {
    fn default() -> Self {
        Self {
            network_conditions: NetworkConditions::default(),
            disk_delay: Duration::from_micros(100)..=Duration::from_millis(2),
            messages_outlive_crashes: false,
            log_lines_max: 500_000,
        }
    }
}

type Factory<P> = Box<dyn FnMut(NodeId, &Disk) -> P>;

/// A number of processes with a network, disks and clocks, in virtual time and one thread.
///
/// All that happens follows from the seed and from what the test does. The processes are there at once and
/// started by the first events, so that a test can change network, disks and clocks before that.
pub struct Simulation<P: Process> {
    processes: Vec<Option<P>>,
    world: World<P::Message>,
    factory: Factory<P>,
    messages_outlive_crashes: bool,
}

impl<P: Process> Simulation<P> {
    /// Builds the nodes. `factory` is called for each of them now, and again at each restart, with the disk
    /// as the crash left it.
    pub fn new(
        seed: u64,
        nodes: usize,
        settings: Settings,
        mut factory: impl FnMut(NodeId, &Disk) -> P + 'static,
    ) -> Self {
        let mut random = Random::new(seed);
        let network = Network::new(nodes, settings.network_conditions, random.fork());
        let mut queue = Queue::new();
        let nodes: Vec<Node<P::Message>> = (0..nodes)
            .map(|node| {
                queue.push(0, Pending { node, incarnation: 0, held: false, kind: Kind::Start });
                Node {
                    disk: Disk::new(&settings.disk_delay, random.fork()),
                    clock: Clock::default(),
                    random: random.fork(),
                    up: true,
                    started: false,
                    paused: false,
                    incarnation: 0,
                    held: Vec::new(),
                }
            })
            .collect();
        let mut trace = Trace::default();
        trace.mix(seed);
        Self {
            processes: nodes
                .iter()
                .enumerate()
                .map(|(node, state)| Some(factory(node, &state.disk)))
                .collect(),
            world: World {
                now: 0,
                queue,
                network,
                nodes,
                trace,
                log: Log { on: false, lines: Vec::new(), lines_max: settings.log_lines_max },
                statistics: Statistics::default(),
                halt: false,
            },
            factory: Box::new(factory),
            messages_outlive_crashes: settings.messages_outlive_crashes,
        }
    }

    /// Lets one event happen. False when nothing is left, in which case time stands still.
    pub fn step(&mut self) -> bool {
        let Some(due) = self.world.queue.pop() else { return false };
        self.happen(due);
        true
    }

    /// Lets everything happen up to and including `time`, which is the time afterwards.
    pub fn run_until(&mut self, time: Duration) {
        self.run_while(time, |_| true);
        self.world.now = self.world.now.max(nanos(time));
    }

    /// Lets events happen until `go_on` is false, which is asked before each of them, or none is left up to
    /// `limit`. True when `go_on` ended it. The time afterwards is that of the last event.
    pub fn run_while(&mut self, limit: Duration, mut go_on: impl FnMut(&Self) -> bool) -> bool {
        let limit = nanos(limit);
        loop {
            if !go_on(self) {
                return true;
            }
            match self.world.queue.next_time() {
                Some(next) if next <= limit => self.step(),
                _ => return false,
            };
        }
    }

    /// True time since the start of the simulation.
    pub fn now(&self) -> Duration {
        duration(self.world.now)
    }

    /// Time of the next event, if there is one.
    pub fn next_event(&self) -> Option<Duration> {
        self.world.queue.next_time().map(duration)
    }

    /// The number of nodes.
    pub fn nodes(&self) -> usize {
        self.world.nodes.len()
    }

    /// The process of a node, to look at. `None` while it is crashed.
    pub fn process(&self, node: NodeId) -> Option<&P> {
        self.processes[node].as_ref()
    }

    /// The process of a node, to change without effects on the world. `None` while it is crashed.
    pub fn process_mut(&mut self, node: NodeId) -> Option<&mut P> {
        self.processes[node].as_mut()
    }

    /// Calls into a process from outside, as a client of it would. Its operations on the context take effect.
    /// `None` without a call when it is crashed or paused.
    pub fn with<R>(
        &mut self,
        node: NodeId,
        f: impl FnOnce(&mut P, &mut Context<'_, P::Message>) -> R,
    ) -> Option<R> {
        if self.world.nodes[node].paused {
            return None;
        }
        self.start(node);
        self.record(Mark::Called, node);
        self.call(node, f)
    }

    /// Ends a process at once, as by a loss of power: its memory, its timers, what was under way to it and
    /// what it had not synced are lost. Nothing happens to a node that is crashed.
    pub fn crash(&mut self, node: NodeId) {
        let state = &mut self.world.nodes[node];
        if !state.up {
            return;
        }
        state.up = false;
        state.paused = false;
        state.incarnation += 1;
        state.disk.crash(self.world.now);
        let held = std::mem::take(&mut state.held);
        for pending in held {
            if let Kind::Message { from, message } = pending.kind {
                self.world.lose(from, node, &message);
            }
        }
        self.processes[node] = None;
        self.world.statistics.crashes += 1;
        self.record(Mark::Crashed, node);
    }

    /// Builds and starts the process of a crashed node. Nothing happens to a node that is up.
    pub fn restart(&mut self, node: NodeId) {
        let state = &mut self.world.nodes[node];
        if state.up {
            return;
        }
        state.up = true;
        state.started = false;
        self.processes[node] = Some((self.factory)(node, &state.disk));
        self.world.statistics.restarts += 1;
        self.record(Mark::Restarted, node);
        self.start(node);
    }

    /// True if the node is not crashed. A paused node is up.
    pub fn is_up(&self, node: NodeId) -> bool {
        self.world.nodes[node].up
    }

    /// Stops a process as by `SIGSTOP`: what comes to it waits until [`resume`](Self::resume). Its disk
    /// finishes what it had begun. Nothing happens to a node that is crashed.
    pub fn pause(&mut self, node: NodeId) {
        let state = &mut self.world.nodes[node];
        if state.up && !state.paused {
            state.paused = true;
            self.record(Mark::Paused, node);
        }
    }

    /// Lets a paused process go on; what has waited for it comes now, in the order in which it arrived.
    pub fn resume(&mut self, node: NodeId) {
        let state = &mut self.world.nodes[node];
        if !std::mem::take(&mut state.paused) {
            return;
        }
        for pending in state.held.drain(..) {
            self.world.queue.push(self.world.now, pending);
        }
        self.record(Mark::Resumed, node);
    }

    /// True if the node is paused.
    pub fn is_paused(&self, node: NodeId) -> bool {
        self.world.nodes[node].paused
    }

    /// The network, to change it.
    pub fn network(&mut self) -> &mut Network {
        &mut self.world.network
    }

    /// The disk of a node, to change it or look at it; also of a crashed one.
    pub fn disk(&mut self, node: NodeId) -> &mut Disk {
        &mut self.world.nodes[node].disk
    }

    /// The clock of a node, to change it.
    pub fn clock(&mut self, node: NodeId) -> &mut Clock {
        self.world.nodes[node].clock.at(self.world.now)
    }

    /// A hash over every event that happened and what processes added with [`Context::mark`]. Two runs with
    /// the same hash did the same.
    pub fn trace_hash(&self) -> u64 {
        self.world.trace.value()
    }

    /// Keeps a readable log from now on, or no longer. Its lines stay until the simulation ends.
    pub fn keep_log(&mut self, on: bool) {
        self.world.log.on = on;
    }

    /// The last lines of the log; [`Settings::log_lines_max`] says how many.
    pub fn log(&self) -> &[String] {
        &self.world.log.lines
    }

    /// Counts of events so far.
    pub fn statistics(&self) -> Statistics {
        self.world.statistics
    }

    pub(crate) fn note(&mut self, line: impl FnOnce() -> String) {
        self.world.log.write(self.world.now, line);
    }

    fn happen(&mut self, due: Due<Pending<P::Message>>) {
        let Due { time, sequence, payload } = due;
        let world = &mut self.world;
        world.now = time;
        world.statistics.events += 1;
        let node = payload.node;
        let state = &mut world.nodes[node];
        let current = payload.incarnation == state.incarnation;
        match &payload.kind {
            Kind::Message { from, message } => {
                let reaches = state.up && (current || self.messages_outlive_crashes);
                if !reaches || (!payload.held && world.network.is_cut(*from, node)) {
                    world.lose(*from, node, message);
                    return;
                }
            }
            _ if !current => return,
            // The disk goes on while the process is stopped.
            Kind::Synced { number, .. } => state.disk.finish_sync(*number),
            Kind::Start | Kind::Timer(_) => {}
        }
        if state.paused {
            state.held.push(Pending { held: true, ..payload });
            return;
        }
        let log = &mut world.log;
        world.trace.mix(time);
        world.trace.mix(sequence);
        match payload.kind {
            Kind::Start => self.start(node),
            Kind::Message { from, message } => {
                world.trace.mix(Mark::Received.of(node) ^ (from as u64).rotate_left(32));
                world.statistics.delivered += 1;
                log.write(time, || format!("node {node} <- {from}: {message:?}"));
                self.call(node, |process, ctx| process.receive(from, message, ctx));
            }
            Kind::Timer(id) => {
                world.trace.mix(Mark::Timer.of(node) ^ id.rotate_left(32));
                world.statistics.timers += 1;
                log.write(time, || format!("node {node}: timer {id}"));
                self.call(node, |process, ctx| process.timer(id, ctx));
            }
            Kind::Synced { token, .. } => {
                world.trace.mix(Mark::Synced.of(node) ^ token.rotate_left(32));
                world.statistics.syncs += 1;
                log.write(time, || format!("node {node}: synced {token}"));
                self.call(node, |process, ctx| process.synced(token, ctx));
            }
        }
    }

    /// Starts a process unless that was done: a call from outside may come before its first event.
    fn start(&mut self, node: NodeId) {
        let state = &mut self.world.nodes[node];
        if state.up && !std::mem::replace(&mut state.started, true) {
            self.record(Mark::Started, node);
            self.call(node, P::start);
        }
    }

    fn call<R>(
        &mut self,
        node: NodeId,
        f: impl FnOnce(&mut P, &mut Context<'_, P::Message>) -> R,
    ) -> Option<R> {
        let process = self.processes[node].as_mut()?;
        let result = f(process, &mut Context::new(&mut self.world, node));
        if std::mem::take(&mut self.world.halt) {
            self.crash(node);
        }
        Some(result)
    }

    fn record(&mut self, mark: Mark, node: NodeId) {
        self.world.trace.mix(self.world.now);
        self.world.trace.mix(mark.of(node));
        self.world.log.write(self.world.now, || format!("node {node}: {mark}"));
    }
}

impl<P: Process> fmt::Debug for Simulation<P> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Simulation")
            .field("now", &self.now())
            .field("nodes", &self.nodes())
            .field("statistics", &self.world.statistics)
            .finish_non_exhaustive()
    }
}

/// Events for the trace hash and the log.
#[derive(Clone, Copy, Debug)]
enum Mark {
    Started = 1,
    Received,
    Timer,
    Synced,
    Called,
    Crashed,
    Restarted,
    Paused,
    Resumed,
}

impl Mark {
    fn of(self, node: NodeId) -> u64 {
        ((self as u64) << 24) ^ node as u64
    }
}

impl fmt::Display for Mark {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Started => "started",
            Self::Received => "received",
            Self::Timer => "timer",
            Self::Synced => "synced",
            Self::Called => "called",
            Self::Crashed => "crashed",
            Self::Restarted => "restarted",
            Self::Paused => "paused",
            Self::Resumed => "resumed",
        })
    }
}
