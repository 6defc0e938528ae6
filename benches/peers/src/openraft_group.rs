//! openraft as its guide would have one begin: a log and a machine in memory, calls between nodes, one write
//! a command.

use std::{
    collections::BTreeMap,
    fmt::Debug,
    future::Future,
    io::Cursor,
    ops::RangeBounds,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use bytes::Bytes;
use openraft::{
    BasicNode, Config, EntryPayload, LogId, LogState, OptionalSend, RaftLogReader, RaftNetwork,
    RaftNetworkFactory, RaftSnapshotBuilder, Snapshot, SnapshotMeta, StorageError, StoredMembership, Vote,
    error::{Fatal, NetworkError, RPCError, RaftError, RemoteError, ReplicationClosed, StreamingError},
    network::RPCOption,
    raft::{AppendEntriesRequest, AppendEntriesResponse, SnapshotResponse, VoteRequest, VoteResponse},
    storage::{LogFlushed, RaftLogStorage, RaftStateMachine},
};
use tokio::runtime::Runtime;

use crate::{Failure, Figures, Group, Load, load::closed_loop};

openraft::declare_raft_types!(
    /// Commands are bytes, outcomes nothing.
    pub(crate) Types:
        D = Bytes,
        R = (),
        NodeId = u64,
        Node = BasicNode,
        Entry = openraft::Entry<Types>,
        SnapshotData = Cursor<Vec<u8>>,
        AsyncRuntime = openraft::TokioRuntime,
);

type Raft = openraft::Raft<Types>;
type Entry = openraft::Entry<Types>;
type Error = StorageError<u64>;

pub(crate) struct OpenraftGroup {
    runtime: Runtime,
    nodes: Nodes,
    leader: Raft,
}

type Nodes = Arc<Mutex<BTreeMap<u64, Raft>>>;

fn locked<T>(what: &Mutex<T>) -> MutexGuard<'_, T> {
    what.lock().unwrap_or_else(PoisonError::into_inner)
}

impl OpenraftGroup {
    pub(crate) fn start() -> Result<Self, Failure> {
        let runtime = Runtime::new()?;
        let nodes = Nodes::default();
        let leader = runtime.block_on(async {
            // The times are ours, so that nothing but the load makes a difference.
            let config = Config {
                heartbeat_interval: 100,
                election_timeout_min: 400,
                election_timeout_max: 800,
                ..Config::default()
            };
            let config = Arc::new(config.validate()?);
            for id in 1..=3 {
                let network = Network(nodes.clone());
                let raft = Raft::new(id, config.clone(), network, Log::default(), Machine::default()).await?;
                locked(&nodes).insert(id, raft);
            }
            let first = locked(&nodes).get(&1).cloned().ok_or("no first node")?;
            first
                .initialize((1..=3).map(|id| (id, BasicNode::default())).collect::<BTreeMap<_, _>>())
                .await?;
            let metrics = first.wait(Some(Duration::from_secs(10)));
            let leader = metrics.metrics(|now| now.current_leader.is_some(), "a leader").await?;
            let leader = leader.current_leader.ok_or("no leader")?;
            let leader = locked(&nodes).get(&leader).cloned().ok_or("no such node")?;
            leader.client_write(Bytes::from_static(b"begin")).await?;
            Ok::<_, Failure>(leader)
        })?;
        Ok(Self { runtime, nodes, leader })
    }
}

impl Group for OpenraftGroup {
    fn run(&mut self, load: &Load) -> Result<Figures, Failure> {
        let leader = self.leader.clone();
        let propose = move |command| {
            let leader = leader.clone();
            async move { Ok(leader.client_write(command).await.map(drop)?) }
        };
        self.runtime.block_on(closed_loop(load, propose))
    }

    fn stop(self: Box<Self>) {
        let nodes = std::mem::take(&mut *locked(&self.nodes));
        self.runtime.block_on(async {
            for node in nodes.into_values() {
                // It may have stopped already.
                let _ = node.shutdown().await;
            }
        });
    }
}

struct Network(Nodes);

impl RaftNetworkFactory<Types> for Network {
    type Network = Connection;

    async fn new_client(&mut self, target: u64, _: &BasicNode) -> Connection {
        Connection { nodes: self.0.clone(), target, node: None }
    }
}

struct Connection {
    nodes: Nodes,
    target: u64,
    node: Option<Raft>,
}

impl Connection {
    fn node(&mut self) -> Result<&Raft, NetworkError> {
        if self.node.is_none() {
            self.node = locked(&self.nodes).get(&self.target).cloned();
        }
        self.node.as_ref().ok_or_else(|| NetworkError::new(&std::io::Error::other("no such node")))
    }
}

type Answer<T> = Result<T, RPCError<u64, BasicNode, RaftError<u64>>>;

impl RaftNetwork<Types> for Connection {
    async fn append_entries(
        &mut self,
        question: AppendEntriesRequest<Types>,
        _: RPCOption,
    ) -> Answer<AppendEntriesResponse<u64>> {
        let target = self.target;
        let answer = self.node()?.append_entries(question).await;
        answer.map_err(|error| RemoteError::new(target, error).into())
    }

    async fn vote(&mut self, question: VoteRequest<u64>, _: RPCOption) -> Answer<VoteResponse<u64>> {
        let target = self.target;
        let answer = self.node()?.vote(question).await;
        answer.map_err(|error| RemoteError::new(target, error).into())
    }

    async fn full_snapshot(
        &mut self,
        vote: Vote<u64>,
        snapshot: Snapshot<Types>,
        _: impl Future<Output = ReplicationClosed> + OptionalSend + 'static,
        _: RPCOption,
    ) -> Result<SnapshotResponse<u64>, StreamingError<Types, Fatal<u64>>> {
        let target = self.target;
        let answer = self.node()?.install_full_snapshot(vote, snapshot).await;
        answer.map_err(|error| RemoteError::new(target, error).into())
    }
}

#[derive(Clone, Debug, Default)]
struct Log(Arc<Mutex<Lines>>);

#[derive(Debug, Default)]
struct Lines {
    entries: BTreeMap<u64, Entry>,
    purged: Option<LogId<u64>>,
    vote: Option<Vote<u64>>,
}

impl RaftLogReader<Types> for Log {
    async fn try_get_log_entries<R: RangeBounds<u64> + Clone + Debug + OptionalSend>(
        &mut self,
        range: R,
    ) -> Result<Vec<Entry>, Error> {
        Ok(locked(&self.0).entries.range(range).map(|(_, entry)| entry.clone()).collect())
    }
}

impl RaftLogStorage<Types> for Log {
    type LogReader = Self;

    async fn get_log_state(&mut self) -> Result<LogState<Types>, Error> {
        let lines = locked(&self.0);
        let last = lines.entries.last_key_value().map(|(_, entry)| entry.log_id);
        Ok(LogState { last_purged_log_id: lines.purged, last_log_id: last.or(lines.purged) })
    }

    async fn get_log_reader(&mut self) -> Self {
        self.clone()
    }

    async fn save_vote(&mut self, vote: &Vote<u64>) -> Result<(), Error> {
        locked(&self.0).vote = Some(*vote);
        Ok(())
    }

    async fn read_vote(&mut self) -> Result<Option<Vote<u64>>, Error> {
        Ok(locked(&self.0).vote)
    }

    async fn append<I>(&mut self, entries: I, callback: LogFlushed<Types>) -> Result<(), Error>
    where
        I: IntoIterator<Item = Entry> + OptionalSend,
        I::IntoIter: OptionalSend,
    {
        locked(&self.0).entries.extend(entries.into_iter().map(|entry| (entry.log_id.index, entry)));
        callback.log_io_completed(Ok(()));
        Ok(())
    }

    async fn truncate(&mut self, from: LogId<u64>) -> Result<(), Error> {
        locked(&self.0).entries.split_off(&from.index);
        Ok(())
    }

    async fn purge(&mut self, up_to: LogId<u64>) -> Result<(), Error> {
        let mut lines = locked(&self.0);
        lines.purged = Some(up_to);
        lines.entries = lines.entries.split_off(&(up_to.index + 1));
        Ok(())
    }
}

#[derive(Clone, Debug, Default)]
struct Machine {
    applied: Option<LogId<u64>>,
    members: StoredMembership<u64, BasicNode>,
}

impl Machine {
    fn image(&self) -> Option<Snapshot<Types>> {
        let meta = SnapshotMeta {
            last_log_id: self.applied,
            last_membership: self.members.clone(),
            snapshot_id: self.applied?.to_string(),
        };
        Some(Snapshot { meta, snapshot: Box::default() })
    }
}

impl RaftSnapshotBuilder<Types> for Machine {
    async fn build_snapshot(&mut self) -> Result<Snapshot<Types>, Error> {
        Ok(self.image().expect("something was applied before a snapshot is due"))
    }
}

impl RaftStateMachine<Types> for Machine {
    type SnapshotBuilder = Self;

    async fn applied_state(
        &mut self,
    ) -> Result<(Option<LogId<u64>>, StoredMembership<u64, BasicNode>), Error> {
        Ok((self.applied, self.members.clone()))
    }

    async fn apply<I>(&mut self, entries: I) -> Result<Vec<()>, Error>
    where
        I: IntoIterator<Item = Entry> + OptionalSend,
        I::IntoIter: OptionalSend,
    {
        let mut outcomes = Vec::new();
        for entry in entries {
            self.applied = Some(entry.log_id);
            if let EntryPayload::Membership(members) = entry.payload {
                self.members = StoredMembership::new(Some(entry.log_id), members);
            }
            outcomes.push(());
        }
        Ok(outcomes)
    }

    async fn get_snapshot_builder(&mut self) -> Self {
        self.clone()
    }

    async fn begin_receiving_snapshot(&mut self) -> Result<Box<Cursor<Vec<u8>>>, Error> {
        Ok(Box::default())
    }

    async fn install_snapshot(
        &mut self,
        meta: &SnapshotMeta<u64, BasicNode>,
        _: Box<Cursor<Vec<u8>>>,
    ) -> Result<(), Error> {
        self.applied = meta.last_log_id;
        self.members = meta.last_membership.clone();
        Ok(())
    }

    async fn get_current_snapshot(&mut self) -> Result<Option<Snapshot<Types>>, Error> {
        Ok(self.image())
    }
}
