use std::fmt::Debug;

use crate::clock::Clock;
use crate::disk::Disk;
use crate::network::Network;
use crate::queue::Queue;
use crate::random::Random;
use crate::statistics::{NodeId, Statistics};

/// Everything but the processes themselves, so that a process can be called while it changes the rest.
#[derive(Debug)]
pub(crate) struct World<M> {
    pub(crate) now: u64,
    pub(crate) queue: Queue<Pending<M>>,
    pub(crate) network: Network,
    pub(crate) nodes: Vec<Node<M>>,
    pub(crate) trace: Trace,
    pub(crate) log: Log,
    pub(crate) statistics: Statistics,
    /// Set by a process that gives up; looked at after each call.
    pub(crate) halt: bool,
}

#[derive(Debug)]
pub(crate) struct Node<M> {
    pub(crate) disk: Disk,
    pub(crate) clock: Clock,
    pub(crate) random: Random,
    pub(crate) up: bool,
    pub(crate) started: bool,
    pub(crate) paused: bool,
    /// Counts the crashes. Timers and syncs of an earlier incarnation mean nothing to a later one.
    pub(crate) incarnation: u32,
    /// Events that came while the node was paused, in order.
    pub(crate) held: Vec<Pending<M>>,
}

#[derive(Debug)]
pub(crate) struct Pending<M> {
    pub(crate) node: NodeId,
    /// The incarnation of `node` when this was scheduled.
    pub(crate) incarnation: u32,
    /// It has waited for a paused node, so the network is done with it.
    pub(crate) held: bool,
    pub(crate) kind: Kind<M>,
}

#[derive(Debug)]
pub(crate) enum Kind<M> {
    Start,
    Message { from: NodeId, message: M },
    Timer(u64),
    Synced { token: u64, number: u64 },
}

impl<M: Clone + Debug> World<M> {
    pub(crate) fn send(&mut self, from: NodeId, to: NodeId, message: M) {
        assert!(to < self.nodes.len(), "node {from} sends to node {to}, which does not exist");
        self.statistics.sent += 1;
        let route = self.network.route(from, to, self.now);
        let incarnation = self.nodes[to].incarnation;
        let pending =
            |message| Pending { node: to, incarnation, held: false, kind: Kind::Message { from, message } };
        if let Some(time) = route.copy {
            self.statistics.duplicated += 1;
            self.queue.push(time, pending(message.clone()));
        }
        match route.arrival {
            Some(time) => self.queue.push(time, pending(message)),
            None => self.lose(from, to, &message),
        }
    }

    pub(crate) fn lose(&mut self, from: NodeId, to: NodeId, message: &M) {
        self.statistics.lost += 1;
        self.log.write(self.now, || format!("node {to} <- {from}: lost {message:?}"));
    }
}

/// A running hash over what happened. It only has to differ when runs differ, so it is as cheap as possible.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Trace(u64);

impl Trace {
    pub(crate) fn mix(&mut self, number: u64) {
        self.0 = (self.0.rotate_left(5) ^ number).wrapping_mul(0x517c_c1b7_2722_0a95);
    }

    /// The hash with all its bits stirred once more.
    pub(crate) fn value(self) -> u64 {
        let mixed = (self.0 ^ (self.0 >> 32)).wrapping_mul(0x9e37_79b9_7f4a_7c15);
        mixed ^ (mixed >> 29)
    }
}

/// Log of the events in readable form, if enabled.
#[derive(Debug)]
pub(crate) struct Log {
    pub(crate) on: bool,
    pub(crate) lines: Vec<String>,
    pub(crate) lines_max: usize,
}

impl Log {
    pub(crate) fn write(&mut self, now: u64, line: impl FnOnce() -> String) {
        if !self.on {
            return;
        }
        // Dropping half at once keeps the lines in one slice without moving them for each new one.
        if self.lines.len() >= self.lines_max.saturating_mul(2).max(2) {
            self.lines.drain(..self.lines.len() - self.lines_max.min(self.lines.len()));
        }
        let (seconds, micros) = (now / 1_000_000_000, now % 1_000_000_000 / 1000);
        self.lines.push(format!("[{seconds:>5}.{micros:06}s] {}", line()));
    }
}
