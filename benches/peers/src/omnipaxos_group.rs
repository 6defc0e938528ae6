//! Three nodes of omnipaxos. One thread moves the messages.

use std::time::{Duration, Instant};

use bytes::Bytes;
use omnipaxos::{
    ClusterConfig, OmniPaxos, OmniPaxosConfig, ServerConfig,
    messages::Message,
    storage::{Entry, NoSnapshot},
    util::LogEntry,
};
use omnipaxos_storage::memory_storage::MemoryStorage;

use crate::{Failure, Figures, Group, Load, load::Clients};

const TICK: Duration = Duration::from_millis(10);
/// Entries in the log after which it is cut.
const KEEP: usize = 10_000;

#[derive(Clone, Debug)]
struct Command {
    client: u64,
    /// Log of what a machine would apply.
    _bytes: Bytes,
}

impl Entry for Command {
    type Snapshot = NoSnapshot;
}

struct Node {
    paxos: OmniPaxos<Command, MemoryStorage<Command>>,
    applied: usize,
}

pub(crate) struct OmnipaxosGroup {
    nodes: Vec<Node>,
    leader: usize,
    ticked: Instant,
    trimmed: usize,
    messages: Vec<Message<Command>>,
}

impl OmnipaxosGroup {
    pub(crate) fn start() -> Result<Self, Failure> {
        let mut nodes = Vec::new();
        for pid in 1..=3 {
            let config = OmniPaxosConfig {
                cluster_config: ClusterConfig {
                    configuration_id: 1,
                    nodes: vec![1, 2, 3],
                    flexible_quorum: None,
                },
                server_config: ServerConfig { pid, election_tick_timeout: 5, ..ServerConfig::default() },
            };
            nodes.push(Node { paxos: config.build(MemoryStorage::default())?, applied: 0 });
        }
        let mut group = Self { nodes, leader: 0, ticked: Instant::now(), trimmed: 0, messages: Vec::new() };
        for _ in 0..1000 {
            group.nodes.iter_mut().for_each(|node| node.paxos.tick());
            group.deliver();
            if let Some((pid, true)) = group.nodes[0].paxos.get_current_leader() {
                group.leader = usize::try_from(pid)? - 1;
                return Ok(group);
            }
        }
        Err("no leader after 1000 ticks".into())
    }

    /// Until nobody has anything to say.
    fn deliver(&mut self) {
        loop {
            for node in &mut self.nodes {
                node.paxos.take_outgoing_messages(&mut self.messages);
            }
            if self.messages.is_empty() {
                return;
            }
            for message in self.messages.drain(..) {
                let to = usize::try_from(message.get_receiver()).expect("a small number") - 1;
                self.nodes[to].paxos.handle_incoming(message);
            }
        }
    }
}

impl Group for OmnipaxosGroup {
    fn run(&mut self, load: &Load) -> Result<Figures, Failure> {
        let mut clients = Clients::new(load);
        while clients.busy() {
            while let Some((client, bytes)) = clients.next() {
                let command = Command { client, _bytes: bytes };
                self.nodes[self.leader].paxos.append(command).map_err(|error| format!("{error:?}"))?;
            }
            self.deliver();
            for (at, node) in self.nodes.iter_mut().enumerate() {
                let decided = node.paxos.read_decided_suffix(node.applied).unwrap_or_default();
                node.applied += decided.len();
                for entry in decided {
                    if let (LogEntry::Decided(command), true) = (entry, at == self.leader) {
                        clients.outcome(command.client);
                    }
                }
            }
            if self.ticked.elapsed() >= TICK {
                self.ticked = Instant::now();
                self.nodes.iter_mut().for_each(|node| node.paxos.tick());
            }
            let least = self.nodes.iter().map(|node| node.applied).min().unwrap_or_default();
            if least > self.trimmed + KEEP {
                // Not all may have heard; the next time will do.
                if self.nodes[self.leader].paxos.trim(Some(least)).is_ok() {
                    self.trimmed = least;
                }
            }
        }
        Ok(clients.end())
    }

    fn stop(self: Box<Self>) {}
}
