//! [`RaftConsensus`]: the member as its host sees it.

use std::{fmt, sync::Arc, time::Duration};

use async_trait::async_trait;
use bytes::Bytes;
use openraft::error::{InitializeError, RaftError};
use orch_core::{
    consensus::{
        Author, Committed, Consensus, ConsensusCapabilities, ConsensusError, ConsensusStatus, FaultModel,
        MemberId, MembershipChange, StateMachine,
    },
    model::Timestamp,
    store::{Revision, StoreError},
    transport::{PeerId, Transport},
};
use parking_lot::Mutex;
use tokio::{
    sync::{mpsc, oneshot, watch},
    task::JoinSet,
};
use tracing::{error, warn};

use super::{
    config::{RaftConfig, RaftConfigError, Storage},
    log::{Files, Log},
    machine::{Replica, View},
    network::Network,
    node::{ForwardError, Node},
    propose::{Proposal, Proposer},
    read::{self, Read},
    serve::serve,
    snapshot_receiver::SnapshotReceiver,
    snapshot_store::SnapshotStore,
    types::{Lease, NodeInfo, Raft, node_of},
    wire::{Request, Response},
};

/// A member of a Raft group. Everything stops soon after it is dropped; [`Consensus::shutdown`] finishes what
/// was accepted and returns when nothing is left.
///
/// It takes all messages of its transport: those of other channels are dropped. The transport stays open when
/// the member ends.
pub struct RaftConsensus {
    config: RaftConfig,
    transport: Arc<dyn Transport>,
    view: Arc<View>,
    stage: Mutex<Stage>,
    /// Tasks and files that end at shutdown. Locked while they do, so that every caller of shutdown waits.
    work: tokio::sync::Mutex<Option<Work>>,
}

enum Stage {
    New,
    Starting,
    Running(Running),
    Stopped { members: Vec<MemberId>, why: String },
}

/// Handles that callers use.
#[derive(Clone)]
struct Running {
    node: Arc<Node>,
    proposals: mpsc::Sender<Proposal>,
    reads: mpsc::Sender<Read>,
}

struct Work {
    node: Arc<Node>,
    closing: watch::Sender<bool>,
    /// They end at the signal, after what they have accepted.
    callers: JoinSet<()>,
    /// They go on until they are aborted.
    background: JoinSet<()>,
    files: Option<Files>,
    /// Ends when openraft has no tasks left.
    leases: mpsc::Receiver<()>,
}

impl RaftConsensus {
    /// A member that reaches the others over `transport`, whose own peer id is the member's.
    ///
    /// # Errors
    /// [`RaftConfigError`] when the settings do not belong together.
    pub fn new(config: RaftConfig, transport: Arc<dyn Transport>) -> Result<Self, RaftConfigError> {
        config.validate(transport.local_peer(), &transport.capabilities())?;
        Ok(Self {
            config,
            transport,
            view: Arc::new(View::new()),
            stage: Mutex::new(Stage::New),
            work: tokio::sync::Mutex::new(None),
        })
    }

    fn stage<T>(&self, look: impl FnOnce(&mut Stage) -> T) -> T {
        look(&mut self.stage.lock())
    }

    /// The founding members by name, in order.
    fn founders(&self) -> Vec<MemberId> {
        self.config.members.keys().filter_map(|name| name.parse().ok()).collect()
    }

    fn running(&self) -> Result<Running, ConsensusError> {
        self.stage(|stage| match stage {
            Stage::Running(running) => Ok(running.clone()),
            Stage::New | Stage::Starting => Err(ConsensusError::Lifecycle("not started yet")),
            Stage::Stopped { .. } => Err(ConsensusError::Stopped),
        })
    }

    async fn build(&self, machine: Box<dyn StateMachine>) -> Result<(Running, Work), ConsensusError> {
        let us = node_of(self.transport.local_peer());
        let (lease, leases) = Lease::new();
        let store = match &self.config.storage {
            Storage::Memory => SnapshotStore::Memory,
            Storage::Written { directory, .. } | Storage::Synced { directory } => {
                SnapshotStore::Directory(directory.clone())
            }
        };
        let log = Log::open(&self.config, us, lease.clone()).await.map_err(opening)?;
        let files = log.files();
        let least = self.config.snapshot_log_bytes_min;
        let replica =
            Replica::load(machine, store.clone(), least, us, self.view.clone(), lease.clone()).await?;
        let network = Network {
            transport: self.transport.clone(),
            channel: self.config.channel,
            us,
            heartbeat: self.config.heartbeat,
            part_bytes: self.config.snapshot_part_bytes.get(),
            part_timeout: self.config.snapshot_part_timeout,
            _lease: lease,
        };
        let settings = Arc::new(self.config.openraft());
        let raft = Box::pin(Raft::new(us, settings, network.clone(), log, replica)).await.map_err(opening)?;
        self.found(&raft).await?;
        // The network that tasks of ours use must not be waited for as those of openraft are.
        let (loose, _) = Lease::new();
        let node = Arc::new(Node {
            us,
            raft,
            network: Network { _lease: loose, ..network },
            view: self.view.clone(),
            config: self.config.clone(),
            snapshots: SnapshotReceiver::new(store),
            changes: tokio::sync::Mutex::new(()),
            last_error: watch::Sender::new(None),
        });
        Ok(self.set_to_work(node, files, leases))
    }

    /// Writes the founding members down, where nothing is written yet.
    async fn found(&self, raft: &Raft) -> Result<(), ConsensusError> {
        if self.config.members.is_empty() || raft.is_initialized().await.map_err(opening)? {
            return Ok(());
        }
        let infos =
            self.config.members.iter().map(|(name, peer)| (node_of(*peer), NodeInfo::new(name, *peer)));
        match raft.initialize(infos.collect::<std::collections::BTreeMap<_, _>>()).await {
            // Another founder was quicker.
            Ok(()) | Err(RaftError::APIError(InitializeError::NotAllowed(_))) => Ok(()),
            Err(error) => Err(opening(error)),
        }
    }

    fn set_to_work(
        &self,
        node: Arc<Node>,
        files: Option<Files>,
        leases: mpsc::Receiver<()>,
    ) -> (Running, Work) {
        let most = self.config.queue_max.get();
        let (proposals, proposed) = mpsc::channel(most);
        let (reads, asked) = mpsc::channel(most);
        let closing = watch::Sender::new(false);
        let (mut callers, mut background) = (JoinSet::new(), JoinSet::new());
        callers.spawn(Proposer::new(node.clone()).run(proposed, closing.subscribe()));
        callers.spawn(read::run(node.clone(), asked, closing.subscribe()));
        background.spawn(serve(node.clone(), self.transport.clone()));
        background.spawn(take_snapshots(node.clone()));
        if let (Storage::Written { interval, .. }, Some(files)) = (&self.config.storage, &files) {
            background.spawn(sync_at_intervals(node.clone(), files.clone(), *interval));
        }
        let work = Work { node: node.clone(), closing, callers, background, files, leases };
        (Running { node, proposals, reads }, work)
    }
}

impl Work {
    async fn finish(self) {
        let Self { node, closing, mut callers, mut background, files, mut leases } = self;
        closing.send_replace(true);
        while callers.join_next().await.is_some() {}
        if let Err(error) = node.raft.shutdown().await {
            warn!(%error, "openraft did not end in order");
        }
        background.shutdown().await;
        drop(node);
        // Nothing is ever sent: this waits until the last lease is dropped.
        while leases.recv().await.is_some() {}
        if let Some(files) = files
            && let Err(error) = files.close().await
        {
            error!(%error, "the log could not be closed in order; what was answered is as durable as declared");
        }
    }
}

async fn take_snapshots(node: Arc<Node>) {
    loop {
        node.view.snapshot_due.notified().await;
        if node.raft.trigger().snapshot().await.is_err() {
            return;
        }
    }
}

async fn sync_at_intervals(node: Arc<Node>, files: Files, interval: Duration) {
    loop {
        tokio::time::sleep(interval).await;
        if let Err(error) = files.sync().await {
            error!(%error, "the log cannot be synced");
            node.last_error.send_replace(Some(format!("the log cannot be synced: {error}")));
            return;
        }
    }
}

fn opening(error: impl std::error::Error + Send + Sync + 'static) -> ConsensusError {
    ConsensusError::Store(StoreError::Backend {
        store: "raft",
        operation: "opening the log",
        retryable: false,
        outcome_unknown: false,
        source: Arc::new(error),
    })
}

#[async_trait]
impl Consensus for RaftConsensus {
    fn capabilities(&self) -> ConsensusCapabilities {
        ConsensusCapabilities::new("raft", FaultModel::Crash)
            .durability(self.config.storage.durability())
            .membership(true)
            .max_command_bytes(self.config.max_command_bytes)
    }

    async fn start(&self, machine: Box<dyn StateMachine>) -> Result<(), ConsensusError> {
        let first = self.stage(|stage| match stage {
            Stage::New => {
                *stage = Stage::Starting;
                true
            }
            _ => false,
        });
        if !first {
            return Err(ConsensusError::Lifecycle("started twice"));
        }
        let mut slot = self.work.lock().await;
        let (running, work) = self.build(machine).await?;
        *slot = Some(work);
        self.stage(|stage| *stage = Stage::Running(running));
        Ok(())
    }

    async fn propose(&self, command: Bytes) -> Result<Committed, ConsensusError> {
        let (size, max) = (command.len(), self.config.max_command_bytes);
        if size > max {
            return Err(ConsensusError::TooLarge { size, max });
        }
        let (reply, answer) = oneshot::channel();
        let proposals = self.running()?.proposals;
        proposals.try_send(Proposal { command, reply }).map_err(|error| match error {
            mpsc::error::TrySendError::Full(_) => ConsensusError::Busy,
            mpsc::error::TrySendError::Closed(_) => ConsensusError::Stopped,
        })?;
        drop(proposals);
        answer.await.unwrap_or(Err(ConsensusError::Stopped))
    }

    async fn read_barrier(&self) -> Result<Revision, ConsensusError> {
        let (reply, answer) = oneshot::channel();
        let reads = self.running()?.reads;
        reads.try_send(reply).map_err(|error| match error {
            mpsc::error::TrySendError::Full(_) => ConsensusError::Busy,
            mpsc::error::TrySendError::Closed(_) => ConsensusError::Stopped,
        })?;
        drop(reads);
        answer.await.unwrap_or(Err(ConsensusError::Stopped))
    }

    fn now(&self) -> Timestamp {
        self.view.clock.now()
    }

    fn author(&self) -> Author {
        let peer = self.transport.local_peer();
        let known = self.stage(|stage| match stage {
            Stage::Running(Running { node, .. }) => name_of(node, peer),
            _ => None,
        });
        let configured = || self.config.members.iter().find(|(_, other)| **other == peer);
        let name = known.or_else(|| configured().map(|(name, _)| name.clone()));
        Author::member(name.unwrap_or_else(|| peer.to_string()))
    }

    fn status(&self) -> ConsensusStatus {
        let applied = Revision(*self.view.applied.borrow());
        self.stage(|stage| match stage {
            Stage::Running(Running { node, .. }) => {
                let nobody = || node.leader().is_none().then(|| "no leader is known".to_owned());
                let last_error = node.failure();
                let mut status = ConsensusStatus::of(names(node));
                status.applied = applied;
                status.leader = last_error.is_none() && node.leads();
                status.last_error = last_error.or_else(nobody);
                status
            }
            Stage::New | Stage::Starting => {
                let mut status = ConsensusStatus::of(self.founders());
                (status.applied, status.last_error) = (applied, Some("not started yet".into()));
                status
            }
            Stage::Stopped { members, why } => {
                let mut status = ConsensusStatus::of(members.iter().cloned());
                (status.applied, status.last_error) = (applied, Some(why.clone()));
                status
            }
        })
    }

    async fn change_membership(&self, change: MembershipChange) -> Result<Revision, ConsensusError> {
        let operation = "changing the members";
        let impossible = |why: String| ForwardError { why, begun: false, fatal: true }.into_error(operation);
        let node = self.running()?.node;
        let timeout = self.config.catch_up_timeout + self.config.proposal_timeout;
        match node.request_leader(&Request::Change(change), timeout).await {
            Ok(Response::Changed(revision)) => Ok(revision),
            Ok(Response::Impossible(why)) => Err(impossible(why)),
            Ok(_) => Err(impossible("the leader answered something else".into())),
            Err(failure) => Err(failure.into_error(operation)),
        }
    }

    async fn shutdown(&self) {
        let mut work = self.work.lock().await;
        if let Some(work) = work.take() {
            let members = names(&work.node);
            let why = work.node.failure().unwrap_or_else(|| "shut down".into());
            // Callers find the queues closed at once, and those that were accepted are answered below.
            self.stage(|stage| *stage = Stage::Stopped { members, why });
            work.finish().await;
        } else {
            let members = self.founders();
            self.stage(|stage| match stage {
                Stage::Stopped { .. } => {}
                _ => *stage = Stage::Stopped { members, why: "shut down".into() },
            });
        }
    }
}

fn name_of(node: &Node, peer: PeerId) -> Option<String> {
    node.members().get_node(&node_of(peer)).map(|info| info.name.clone())
}

/// The members by name, in order.
fn names(node: &Node) -> Vec<MemberId> {
    // Names are checked before they get into the log.
    let name = |info: &NodeInfo| info.name.parse().ok();
    let mut names: Vec<MemberId> = node.members().nodes().filter_map(|(_, info)| name(info)).collect();
    names.sort();
    names
}

impl fmt::Debug for RaftConsensus {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("RaftConsensus").field("peer", &self.transport.local_peer()).finish_non_exhaustive()
    }
}
