//! [`LocalConsensus`]: one process decides. In memory, or with a store of its own as durable state.

use std::sync::Arc;

use async_trait::async_trait;
use bytes::Bytes;
use tokio::sync::mpsc;
use tracing::{error, warn};

use super::{
    Author, Committed, Consensus, ConsensusCapabilities, ConsensusError, ConsensusStatus, Context,
    FaultModel, HybridClock, Records, StateMachine,
    batch::{Batch, ProposalQueue, Reporter, Request, decide_some, read_all, writes_wanted},
};
use crate::{
    environment::{Environment, System},
    model::Timestamp,
    store::{CommitError, Guard, Key, Revision, StateStore, StoreError, Txn, Write},
};

/// Bounds and environment of a [`LocalConsensus`].
#[derive(Clone, Debug)]
pub struct LocalConfig {
    /// Proposals that may wait; one more is refused as busy.
    pub queue_max: usize,
    /// Proposals that are decided, and made durable, together.
    pub batch_max: usize,
    /// The largest command in bytes.
    pub max_command_bytes: usize,
    /// Clock and background work.
    pub environment: Arc<dyn Environment>,
}

impl Default for LocalConfig {
    fn default() -> Self {
        Self {
            queue_max: 65_536,
            batch_max: 1024,
            max_command_bytes: 16 << 20,
            environment: System::shared(),
        }
    }
}

/// Orders commands in one process. With a store, an answered command is as durable as the store's commits:
/// the records are the whole state, so that a restart reads them and goes on. No other process may write to
/// that store: one that starts on it later takes it over, and this one stops with its next write.
#[derive(Debug)]
pub struct LocalConsensus {
    store: Option<Arc<dyn StateStore>>,
    config: LocalConfig,
    proposals: ProposalQueue,
}

impl LocalConsensus {
    /// Keeps everything in memory; the end of the process loses it.
    #[must_use]
    pub fn in_memory() -> Self {
        Self::with_config(None, LocalConfig::default())
    }

    /// Keeps the records in `store`.
    #[must_use]
    pub fn durable(store: Arc<dyn StateStore>) -> Self {
        Self::with_config(Some(store), LocalConfig::default())
    }

    /// Both, with bounds of your own.
    #[must_use]
    pub fn with_config(store: Option<Arc<dyn StateStore>>, config: LocalConfig) -> Self {
        let proposals =
            ProposalQueue::new(config.queue_max, config.max_command_bytes, config.environment.clone());
        Self { store, config, proposals }
    }
}

#[async_trait]
impl Consensus for LocalConsensus {
    fn capabilities(&self) -> ConsensusCapabilities {
        let capabilities = ConsensusCapabilities::new("local", FaultModel::None)
            .max_command_bytes(self.config.max_command_bytes);
        match &self.store {
            None => capabilities,
            Some(store) => capabilities.durability(store.capabilities().durability).records(Records::InStore),
        }
    }

    async fn start(&self, mut machine: Box<dyn StateMachine>) -> Result<(), ConsensusError> {
        let queue = self.proposals.take_queue()?;
        let mut claim = None;
        let revision = match &self.store {
            Some(store) if store.capabilities().shared => {
                return Err(ConsensusError::Unsupported(
                    "owning a store that other processes write to (use StoreConsensus instead)",
                ));
            }
            Some(store) => {
                claim = Some(claim_store(&**store).await?);
                load(&**store, &mut *machine).await?
            }
            None => Revision::ZERO,
        };
        let reporter = self.proposals.reporter();
        reporter.applied(revision);
        let clock = self.proposals.clock();
        clock.reach(machine.time());
        let local = LocalLoop {
            store: self.store.clone(),
            claim,
            machine,
            clock,
            author: self.author(),
            revision,
            reporter,
        };
        self.proposals.run(local.run(queue, self.config.batch_max)).await;
        Ok(())
    }

    async fn propose(&self, command: Bytes) -> Result<Committed, ConsensusError> {
        self.proposals.propose(command).await
    }

    async fn read_barrier(&self) -> Result<Revision, ConsensusError> {
        self.proposals.barrier().await
    }

    fn now(&self) -> Timestamp {
        self.proposals.clock().now()
    }

    fn author(&self) -> Author {
        Author::local()
    }

    fn status(&self) -> ConsensusStatus {
        self.proposals.status()
    }

    async fn shutdown(&self) {
        self.proposals.shutdown().await;
    }
}

fn owner_key() -> Key {
    Key::new("consensus/owner").expect("a valid key")
}

/// Makes the store this process's. What holds it otherwise finds its guard broken, before what is read here
/// can change.
async fn claim_store(store: &dyn StateStore) -> Result<Guard, ConsensusError> {
    let claim = Txn::of(vec![Write::put(owner_key(), r#"{"v":1}"#)]);
    match store.commit(claim).await {
        Ok(version) => Ok(Guard::Version(owner_key(), version)),
        Err(CommitError::Store(error)) => Err(error.into()),
        Err(CommitError::Contention { races }) => Err(ConsensusError::Contention(races)),
        Err(CommitError::Conflict { .. }) => unreachable!("there are no guards"),
    }
}

async fn load(store: &dyn StateStore, machine: &mut dyn StateMachine) -> Result<Revision, ConsensusError> {
    let loaded = read_all(store, machine.prefixes()).await?;
    machine.load(loaded.written, &loaded.records)?;
    Ok(loaded.revision)
}

/// The loop and everything it owns.
struct LocalLoop {
    store: Option<Arc<dyn StateStore>>,
    /// Holds as long as the store is this process's.
    claim: Option<Guard>,
    machine: Box<dyn StateMachine>,
    clock: HybridClock,
    author: Author,
    revision: Revision,
    reporter: Reporter,
}

impl LocalLoop {
    async fn run(mut self, mut queue: mpsc::Receiver<Request>, batch_max: usize) {
        while let Some(first) = queue.recv().await {
            let batch = Batch::gather(first, &mut queue, batch_max);
            let last = batch.shutdown;
            if let Err(failure) = self.process(batch).await {
                self.reporter.lost(failure);
                return;
            }
            if last {
                break;
            }
        }
        self.reporter.stopped("shut down");
    }

    async fn process(&mut self, mut batch: Batch) -> Result<(), StoreError> {
        let wanted = self.store.as_deref().map(writes_wanted);
        while !batch.proposals.is_empty() {
            let context = Context::new(self.clock.now(), &self.author);
            let (outcomes, writes) = decide_some(&mut *self.machine, &context, &batch.proposals, wanted);
            let committed = match &self.store {
                None => Ok(self.revision.next()),
                Some(_) if writes.is_empty() => Ok(self.revision),
                Some(store) => {
                    let guards = self.claim.iter().cloned();
                    let committed = store.commit(guards.fold(Txn::of(writes), Txn::guarded)).await;
                    committed.map(|position| position.revision)
                }
            };
            match committed {
                Ok(revision) => {
                    self.revision = revision;
                    self.machine.commit(revision);
                    self.reporter.applied(revision);
                    batch.commit(revision, outcomes);
                }
                Err(error) => return self.give_up(batch, error).await,
            }
        }
        batch.finish(self.revision);
        Ok(())
    }

    /// The store refused: what was decided on top of the last commit is taken back. An error says what the
    /// store failed with, where it cannot be read back either.
    async fn give_up(&mut self, batch: Batch, error: CommitError) -> Result<(), StoreError> {
        self.machine.rollback();
        let error = match error {
            CommitError::Store(error) => error,
            CommitError::Contention { races } => {
                // Nothing happened, and nobody else decides here.
                batch.fail(&ConsensusError::Contention(races));
                return Ok(());
            }
            CommitError::Conflict { .. } => {
                let taken =
                    "another orchestrator has opened this store since; one store belongs to one at a time";
                let error = StoreError::Locked(taken.into());
                batch.fail(&error.clone().into());
                error!(%error, "local consensus stops");
                return Err(error);
            }
        };
        warn!(%error, proposals = batch.proposals.len(), "the store refused a batch; nothing of it happened");
        self.reporter.last_error(error.to_string());
        batch.fail(&error.clone().into());
        let Some(store) = self.store.as_ref().filter(|_| error.outcome_unknown()) else { return Ok(()) };
        match load(&**store, &mut *self.machine).await {
            Ok(revision) => {
                self.revision = revision;
                Ok(())
            }
            Err(fatal) => {
                // What is on disk is not known to be what is in memory: going on could acknowledge what is
                // lost.
                error!(error = %fatal, "local consensus stops: its store cannot be read back");
                Err(error)
            }
        }
    }
}
