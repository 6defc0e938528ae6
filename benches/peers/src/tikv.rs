//! Three nodes of TiKV's raft-rs. One thread moves the messages and does what a `Ready` asks for.

use std::time::{Duration, Instant};

use raft::{
    Config, RawNode, StateRole,
    eraftpb::{Entry, Message},
    storage::MemStorage,
};

use crate::{Failure, Figures, Group, Load, load::Clients};

const TICK: Duration = Duration::from_millis(100);
/// Entries in the log after which it is cut, and that are left.
const KEEP: u64 = 10_000;

struct Node {
    raft: RawNode<MemStorage>,
    applied: u64,
    compacted: u64,
}

impl Node {
    fn apply(&mut self, entries: Vec<Entry>, done: &mut impl FnMut(u64)) {
        for entry in entries {
            self.applied = entry.index;
            if self.raft.raft.state == StateRole::Leader
                && let Some(client) = entry.context.first_chunk()
            {
                done(u64::from_le_bytes(*client));
            }
        }
    }

    /// Steps that its documentation names for a `Ready`. Says whether there was one.
    fn ready(
        &mut self,
        messages: &mut Vec<Message>,
        done: &mut impl FnMut(u64),
    ) -> Result<bool, raft::Error> {
        if !self.raft.has_ready() {
            return Ok(false);
        }
        let store = self.raft.store().clone();
        let mut ready = self.raft.ready();
        messages.extend(ready.take_messages());
        self.apply(ready.take_committed_entries(), done);
        store.wl().append(ready.entries())?;
        if let Some(state) = ready.hs() {
            store.wl().set_hardstate(state.clone());
        }
        messages.extend(ready.take_persisted_messages());
        let mut after = self.raft.advance(ready);
        if let Some(commit) = after.commit_index() {
            store.wl().mut_hard_state().set_commit(commit);
        }
        messages.extend(after.take_messages());
        self.apply(after.take_committed_entries(), done);
        self.raft.advance_apply();
        if self.applied > self.compacted + 2 * KEEP {
            self.compacted = self.applied - KEEP;
            store.wl().compact(self.compacted)?;
        }
        Ok(true)
    }
}

pub(crate) struct TikvGroup {
    nodes: Vec<Node>,
    ticked: Instant,
    messages: Vec<Message>,
}

impl TikvGroup {
    pub(crate) fn start() -> Result<Self, Failure> {
        let logger = slog::Logger::root(slog::Discard, slog::o!());
        let mut nodes = Vec::new();
        for id in 1..=3 {
            let config = Config {
                id,
                election_tick: 10,
                heartbeat_tick: 3,
                // Otherwise each message would carry one entry.
                max_size_per_msg: 1 << 20,
                ..Config::default()
            };
            let storage = MemStorage::new_with_conf_state((vec![1, 2, 3], vec![]));
            let mut raft = RawNode::new(&config, storage, &logger)?;
            raft.set_batch_append(true);
            nodes.push(Node { raft, applied: 0, compacted: 0 });
        }
        nodes[0].raft.campaign()?;
        let mut group = Self { nodes, ticked: Instant::now(), messages: Vec::new() };
        group.deliver(&mut |_| ())?;
        match group.nodes[0].raft.raft.state {
            StateRole::Leader => Ok(group),
            state => Err(format!("the first node is {state:?}").into()),
        }
    }

    /// Until nobody has anything to say or do.
    fn deliver(&mut self, done: &mut impl FnMut(u64)) -> Result<(), Failure> {
        loop {
            let mut busy = false;
            for node in &mut self.nodes {
                busy |= node.ready(&mut self.messages, done)?;
            }
            if !busy {
                return Ok(());
            }
            for message in self.messages.drain(..) {
                let to = usize::try_from(message.to)? - 1;
                self.nodes[to].raft.step(message)?;
            }
        }
    }
}

impl Group for TikvGroup {
    fn run(&mut self, load: &Load) -> Result<Figures, Failure> {
        let mut clients = Clients::new(load);
        while clients.busy() {
            while let Some((client, bytes)) = clients.next() {
                self.nodes[0].raft.propose(client.to_le_bytes().to_vec(), bytes.to_vec())?;
            }
            self.deliver(&mut |client| clients.outcome(client))?;
            if self.ticked.elapsed() >= TICK {
                self.ticked = Instant::now();
                for node in &mut self.nodes {
                    node.raft.tick();
                }
            }
        }
        Ok(clients.end())
    }

    fn stop(self: Box<Self>) {}
}
