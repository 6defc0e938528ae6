use std::fmt::Debug;
use std::time::Duration;

use crate::disk::DiskError;
use crate::random::Random;
use crate::statistics::NodeId;
use crate::time::duration;
use crate::world::{Kind, Pending, World};

/// One simulated process: a protocol that does nothing but answer its inputs.
///
/// It is built by the simulation's factory at each start, and a crash drops it; what it knows afterwards is
/// what its factory finds on the disk. All that it does to the world goes through the [`Context`]. For a
/// simulation to be repeatable it MUST NOT use threads, real time, or the order of hash maps with random
/// keys.
pub trait Process {
    /// Messages between the processes. One is cloned when the network delivers it twice, and formatted only
    /// for the log.
    type Message: Clone + Debug;

    /// Called once, before any other input.
    fn start(&mut self, ctx: &mut Context<'_, Self::Message>);

    /// A message arrived: perhaps late, twice, or after one that was sent later.
    fn receive(&mut self, from: NodeId, message: Self::Message, ctx: &mut Context<'_, Self::Message>);

    /// A timer set with [`Context::set_timer`] fires.
    fn timer(&mut self, id: u64, ctx: &mut Context<'_, Self::Message>);

    /// A sync asked for with [`Context::sync`] is finished: everything written before that call survives a
    /// crash.
    fn synced(&mut self, token: u64, ctx: &mut Context<'_, Self::Message>);
}

/// Operations of a process, for the length of one call.
#[derive(Debug)]
pub struct Context<'a, M> {
    world: &'a mut World<M>,
    node: NodeId,
}

impl<'a, M: Clone + Debug> Context<'a, M> {
    pub(crate) fn new(world: &'a mut World<M>, node: NodeId) -> Self {
        Self { world, node }
    }

    /// The node on which the process runs.
    pub fn node(&self) -> NodeId {
        self.node
    }

    /// The number of nodes of the simulation.
    pub fn nodes(&self) -> usize {
        self.world.nodes.len()
    }

    /// True time since the start of the simulation. For tests and logs: a real process has only
    /// [`local_time`](Self::local_time).
    pub fn now(&self) -> Duration {
        duration(self.world.now)
    }

    /// The node's clock. It may be ahead or behind, and may have jumped back.
    pub fn local_time(&self) -> Duration {
        self.world.nodes[self.node].clock.local(self.world.now)
    }

    /// Gives a message to the network.
    ///
    /// # Panics
    /// If there is no such node.
    pub fn send(&mut self, to: NodeId, message: M) {
        self.world.send(self.node, to, message);
    }

    /// Fires once after this much time, measured by a clock that drifts as the node's clock does but never
    /// jumps. Timers cannot be cancelled: the process ignores the ids that it no longer waits for. They end
    /// with the process.
    pub fn set_timer(&mut self, after: Duration, id: u64) {
        let state = &self.world.nodes[self.node];
        let time = self.world.now.saturating_add(state.clock.true_delay(after));
        let incarnation = state.incarnation;
        self.world
            .queue
            .push(time, Pending { node: self.node, incarnation, held: false, kind: Kind::Timer(id) });
    }

    /// Appends to a file, which begins to exist with its first write. Until it is synced a crash may tear it
    /// off at any byte.
    ///
    /// # Errors
    /// If the disk is full. Nothing was written then.
    pub fn append(&mut self, file: &'static str, bytes: &[u8]) -> Result<(), DiskError> {
        self.world.nodes[self.node].disk.append(file, bytes)
    }

    /// Replaces a file as by writing a new one and renaming it: until it is synced a crash leaves the old or
    /// the new content.
    ///
    /// # Errors
    /// If the disk is full. The file is as it was then.
    pub fn replace(&mut self, file: &'static str, bytes: Vec<u8>) -> Result<(), DiskError> {
        self.world.nodes[self.node].disk.replace(file, bytes)
    }

    /// The content of a file as the process sees it, with what is not yet synced. Empty when it does not
    /// exist.
    pub fn read(&self, file: &str) -> &[u8] {
        self.world.nodes[self.node].disk.read(file)
    }

    /// Makes everything written so far durable. [`Process::synced`] is called when that is done; syncs finish
    /// in order.
    pub fn sync(&mut self, token: u64) {
        let state = &mut self.world.nodes[self.node];
        let (number, time) = state.disk.begin_sync(self.world.now);
        let kind = Kind::Synced { token, number };
        let incarnation = state.incarnation;
        self.world.queue.push(time, Pending { node: self.node, incarnation, held: false, kind });
    }

    /// Chance that is the node's own and goes on after a restart.
    pub fn random(&mut self) -> &mut Random {
        &mut self.world.nodes[self.node].random
    }

    /// The process gives up, as by `abort`. It is treated as crashed once the current call returns.
    pub fn halt(&mut self) {
        self.world.halt = true;
    }

    /// Writes a line to the simulation's log. The closure is called only while a log is kept.
    pub fn log(&mut self, line: impl FnOnce() -> String) {
        let (now, node) = (self.world.now, self.node);
        self.world.log.write(now, || format!("node {node}: {}", line()));
    }

    /// Mixes a number into the trace hash, so that two runs whose events agree but whose decisions differ are
    /// distinguished apart.
    pub fn mark(&mut self, number: u64) {
        self.world.trace.mix(number);
    }
}
