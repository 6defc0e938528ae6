//! [`StoreConsensus`]: turns any store with compare-and-swap into a consensus. Several processes decide, each on its own
//! view; the store's guard on one record says whose decision counts.

use std::{sync::Arc, time::Duration};

use async_trait::async_trait;
use bytes::Bytes;
use futures_util::StreamExt as _;
use serde::{Deserialize, Serialize};
use tokio::sync::mpsc;
use tracing::{error, warn};

use super::{
    Committed, Consensus, ConsensusCapabilities, ConsensusError, ConsensusStatus, Evidence, FaultModel,
    MembershipChange, Records, StateMachine,
    batch::{Batch, Front, ProposerClock, Reporter, Request, decide_some, read_all, writes_wanted},
};
use crate::model::Timestamp;
use crate::store::{
    CommitError, Guard, Key, Revision, StateStore, StoreError, Txn, Watch, WatchBatch, Write,
};

/// How much a [`StoreConsensus`] takes on.
#[derive(Clone, Copy, Debug)]
pub struct StoreConsensusConfig {
    /// Proposals that may wait; one more is refused as busy.
    pub queue_max: usize,
    /// Proposals that are decided and written together. A larger batch loses fewer races and less to each.
    pub batch_max: usize,
    /// The largest command in bytes.
    pub max_command_bytes: usize,
    /// Races that a batch may lose before it is given up.
    pub races_max: u32,
}

impl Default for StoreConsensusConfig {
    fn default() -> Self {
        Self { queue_max: 65_536, batch_max: 1024, max_command_bytes: 16 << 20, races_max: 1000 }
    }
}

/// Decide, then compare-and-swap. Every commit also writes the record `consensus/head`, guarded by the version that the
/// decision was based on: who wrote it first wins, everybody else takes in what the winner wrote and decides again. So all
/// decisions form one order, whatever records they touch.
#[derive(Debug)]
pub struct StoreConsensus {
    store: Arc<dyn StateStore>,
    config: StoreConsensusConfig,
    front: Front,
}

impl StoreConsensus {
    /// Decides over `store`, which must offer compare-and-swap ([`crate::store::StoreCapabilities`]); the engine's builder
    /// refuses one that does not.
    #[must_use]
    pub fn new(store: Arc<dyn StateStore>) -> Self {
        Self::with_config(store, StoreConsensusConfig::default())
    }

    /// The same with bounds of your own.
    #[must_use]
    pub fn with_config(store: Arc<dyn StateStore>, config: StoreConsensusConfig) -> Self {
        Self { store, config, front: Front::new(config.queue_max, config.max_command_bytes) }
    }
}

#[async_trait]
impl Consensus for StoreConsensus {
    fn capabilities(&self) -> ConsensusCapabilities {
        ConsensusCapabilities {
            name: "store",
            fault_model: FaultModel::Crash,
            durability: self.store.capabilities().durability,
            membership: false,
            records: Records::InStore,
            max_command_bytes: self.config.max_command_bytes,
        }
    }

    async fn start(&self, machine: Box<dyn StateMachine>) -> Result<(), ConsensusError> {
        if !self.store.capabilities().compare_and_swap {
            return Err(ConsensusError::Unsupported("deciding over a store without compare-and-swap"));
        }
        let queue = self.front.take_queue()?;
        let mut replica = Replica {
            store: self.store.clone(),
            clock: self.front.start_clock(machine.time()),
            machine,
            applied: Revision::ZERO,
            head: None,
            watch: futures_util::stream::empty().boxed(),
            reporter: self.front.reporter(),
        };
        replica.reload().await?;
        replica.clock = self.front.start_clock(replica.machine.time());
        self.front.run(replica.run(queue, self.config)).await;
        Ok(())
    }

    async fn propose(&self, command: Bytes) -> Result<Committed, ConsensusError> {
        self.front.propose(command).await
    }

    async fn read_barrier(&self) -> Result<Revision, ConsensusError> {
        self.front.barrier().await
    }

    fn now(&self) -> Timestamp {
        self.front.now()
    }

    fn status(&self) -> ConsensusStatus {
        self.front.status()
    }

    fn evidence(&self) -> Vec<Evidence> {
        Vec::new()
    }

    async fn change_membership(&self, _: MembershipChange) -> Result<Revision, ConsensusError> {
        Err(ConsensusError::Unsupported("a change of members"))
    }

    async fn shutdown(&self) {
        self.front.shutdown().await;
    }
}

/// What `consensus/head` holds: nothing but a format and a count, for people who look into the store.
#[derive(Serialize, Deserialize)]
struct Head {
    v: u8,
    batches: u64,
}

/// The loop and everything it owns.
struct Replica {
    store: Arc<dyn StateStore>,
    machine: Box<dyn StateMachine>,
    clock: ProposerClock,
    /// Everything up to here is in the machine.
    applied: Revision,
    /// Version and content of `consensus/head` that the machine's state belongs to.
    head: Option<(Revision, u64)>,
    watch: Watch,
    reporter: Reporter,
}

impl Replica {
    async fn run(mut self, mut queue: mpsc::Receiver<Request>, config: StoreConsensusConfig) {
        loop {
            let request = tokio::select! {
                request = queue.recv() => request,
                next = self.watch.next() => {
                    if let Err(error) = self.follow(next).await {
                        self.reporter.trouble(error.to_string());
                        warn!(%error, "lost sight of the store; reading it again");
                        self.lose_sight();
                    }
                    continue;
                }
            };
            let Some(first) = request else { break };
            let batch = Batch::gather(first, &mut queue, config.batch_max);
            let last = batch.shutdown;
            self.carry_out(batch, config.races_max).await;
            if last {
                break;
            }
        }
        self.reporter.stopped("shut down");
    }

    /// Nothing is known any more: everything is read again, with the next command or after a moment.
    fn lose_sight(&mut self) {
        (self.head, self.applied) = (None, Revision::ZERO);
        let missed = async {
            tokio::time::sleep(Duration::from_secs(1)).await;
            Err(StoreError::Compacted { oldest: Revision::ZERO })
        };
        self.watch = futures_util::stream::once(missed).boxed();
    }

    async fn carry_out(&mut self, mut batch: Batch, races_max: u32) {
        if let Err(error) = self.carry_out_all(&mut batch, races_max).await {
            error!(%error, "a batch of commands could not be written");
            self.reporter.trouble(error.to_string());
            batch.fail(&error);
            self.lose_sight();
            return;
        }
        self.reporter.applied(self.applied);
        batch.finish(self.applied);
    }

    async fn carry_out_all(&mut self, batch: &mut Batch, races_max: u32) -> Result<(), ConsensusError> {
        if self.applied == Revision::ZERO || !batch.barriers.is_empty() {
            self.catch_up().await?;
        }
        while !batch.proposals.is_empty() {
            let outcomes = self.decide_and_swap(batch, races_max).await?;
            self.reporter.applied(self.applied);
            batch.commit(self.applied, outcomes);
        }
        Ok(())
    }

    async fn decide_and_swap(&mut self, batch: &Batch, races_max: u32) -> Result<Vec<Bytes>, ConsensusError> {
        let wanted = Some(writes_wanted(&*self.store));
        for _ in 0..races_max {
            let (outcomes, mut writes) =
                decide_some(&mut *self.machine, self.clock.now(), &batch.proposals, wanted);
            if writes.is_empty() {
                self.machine.commit(self.applied);
                return Ok(outcomes);
            }
            let (guard, batches) = match self.head {
                None => (Guard::Absent(head_key()), 1),
                Some((version, batches)) => (Guard::Version(head_key(), version), batches + 1),
            };
            let head = serde_json::to_vec(&Head { v: 1, batches }).expect("plain data has a JSON form");
            writes.push(Write::put(head_key(), head));
            match self.store.commit(Txn::of(writes).guarded(guard)).await {
                Ok(revision) => {
                    self.machine.commit(revision);
                    (self.applied, self.head) = (revision, Some((revision, batches)));
                    return Ok(outcomes);
                }
                Err(CommitError::Conflict { .. }) => {
                    self.machine.rollback();
                    self.catch_up().await?;
                }
                Err(CommitError::Store(error)) => {
                    self.machine.rollback();
                    return Err(error.into());
                }
            }
        }
        Err(ConsensusError::Contention(races_max))
    }

    /// Takes in everything that was decided anywhere before this call.
    async fn catch_up(&mut self) -> Result<(), ConsensusError> {
        let Some(head) = self.store.get(&head_key()).await? else {
            return if self.applied == Revision::ZERO { self.reload().await } else { Ok(()) };
        };
        if self.applied == Revision::ZERO {
            return self.reload().await;
        }
        while self.applied < head.version {
            let next = self.watch.next().await;
            self.follow(next).await?;
        }
        Ok(())
    }

    async fn follow(&mut self, next: Option<Result<WatchBatch, StoreError>>) -> Result<(), ConsensusError> {
        match next {
            Some(Ok(batch)) => self.take_in(&batch),
            Some(Err(StoreError::Compacted { .. })) => self.reload().await,
            Some(Err(error)) => Err(error.into()),
            None => Err(StoreError::Closed.into()),
        }
    }

    fn take_in(&mut self, batch: &WatchBatch) -> Result<(), ConsensusError> {
        if batch.revision <= self.applied {
            return Ok(());
        }
        let head = batch.writes.iter().find(|write| write.key == head_key());
        if let Some(Some(value)) = head.map(|write| &write.value) {
            self.machine.absorb(batch.revision, &batch.writes)?;
            self.head = Some((batch.revision, read_head(value)?));
        }
        self.applied = batch.revision;
        self.reporter.applied(self.applied);
        Ok(())
    }

    /// Reads everything. A scan of several pages is a snapshot only when no decision was written meanwhile.
    async fn reload(&mut self) -> Result<(), ConsensusError> {
        const TRIES: u32 = 100;
        for _ in 0..TRIES {
            let before = self.store.get(&head_key()).await?;
            let (revision, records) = read_all(&*self.store, self.machine.prefixes()).await?;
            let after = self.store.get(&head_key()).await?;
            if before.as_ref().map(|entry| entry.version) != after.as_ref().map(|entry| entry.version) {
                continue;
            }
            self.watch = self.store.watch("", revision).await?;
            self.machine.load(revision, &records)?;
            self.head = match after {
                Some(entry) => Some((entry.version, read_head(&entry.value)?)),
                None => None,
            };
            self.applied = revision;
            self.reporter.applied(revision);
            return Ok(());
        }
        Err(ConsensusError::Contention(TRIES))
    }
}

fn head_key() -> Key {
    Key::new("consensus/head").expect("a valid key")
}

fn read_head(value: &[u8]) -> Result<u64, ConsensusError> {
    let head: Head = serde_json::from_slice(value)
        .map_err(|error| StoreError::Corrupt(format!("consensus/head cannot be read: {error}")))?;
    match head.v {
        1 => Ok(head.batches),
        other => Err(StoreError::Corrupt(format!(
            "consensus/head has format {other}; this version reads format 1"
        ))
        .into()),
    }
}
