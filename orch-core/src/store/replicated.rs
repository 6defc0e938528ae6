//! [`ReplicatedStore`]: any consensus as a store. The inverse of
//! [`StoreConsensus`](crate::consensus::StoreConsensus).

mod command;
mod machine;
mod recent;
mod stamp;

use std::sync::Arc;

use async_trait::async_trait;

use self::{
    command::{Command, Outcome, decode_outcome, encode},
    machine::KvMachine,
};
use super::{
    CommitError, CommitId, Entry, Key, MemoryStore, Page, Position, Revision, StateStore, StoreCapabilities,
    StoreError, Txn, Watch,
};
use crate::consensus::{Consensus, ConsensusError};
use parking_lot::RwLock;

/// A linearizable store over a consensus: transactions are commands, every member keeps all records in memory
/// and answers reads from there after a read barrier. Reads therefore cost what the consensus' barrier costs.
#[derive(Debug)]
pub struct ReplicatedStore {
    consensus: Arc<dyn Consensus>,
    view: Arc<RwLock<Arc<MemoryStore>>>,
}

impl ReplicatedStore {
    /// Starts `consensus`, which must not have been started, with a machine that holds records.
    ///
    /// # Errors
    /// [`ConsensusError`] when what it agreed on earlier cannot be read.
    pub async fn start(consensus: Arc<dyn Consensus>) -> Result<Self, ConsensusError> {
        let view = Arc::new(RwLock::new(Arc::new(MemoryStore::default())));
        consensus.start(Box::new(KvMachine::new(view.clone()))).await?;
        Ok(Self { consensus, view })
    }

    async fn decide(&self, operation: &'static str, command: Command) -> Result<Outcome, StoreError> {
        let committed = self.consensus.propose(encode(&command)).await;
        let committed = committed.map_err(|error| failed(operation, error))?;
        decode_outcome(&committed.outcome).ok_or_else(unreadable)
    }

    fn view(&self) -> Arc<MemoryStore> {
        self.view.read().clone()
    }

    /// The records with everything that was committed before the call.
    async fn fresh(&self) -> Result<Arc<MemoryStore>, StoreError> {
        self.consensus.read_barrier().await.map_err(|error| failed("a read", error))?;
        Ok(self.view())
    }
}

#[async_trait]
impl StateStore for ReplicatedStore {
    fn capabilities(&self) -> StoreCapabilities {
        let consensus = self.consensus.capabilities();
        self.view()
            .capabilities()
            .named("replicated")
            .durability(consensus.durability)
            .max_value_bytes((consensus.max_command_bytes / 4).min(4 << 20))
            .max_txn_writes(1024)
    }

    async fn get(&self, key: &Key) -> Result<Option<Entry>, StoreError> {
        self.fresh().await?.get(key).await
    }

    async fn scan(&self, prefix: &str, after: Option<&Key>, limit: usize) -> Result<Page, StoreError> {
        self.fresh().await?.scan(prefix, after, limit).await
    }

    async fn commit(&self, txn: Txn) -> Result<Position, CommitError> {
        txn.check(&self.capabilities())?;
        if let Some(write) = txn.writes.iter().find(|write| machine::is_reserved(&write.key)) {
            return Err(StoreError::Corrupt(format!("the key {} is the store's own", write.key)).into());
        }
        // All members have to draw the same one.
        let id = txn.id.unwrap_or_else(CommitId::random);
        match self.decide("a commit", Command::Commit(txn.named(id))).await? {
            Outcome::Committed(position) => Ok(position),
            Outcome::Conflict(key) => {
                Err(CommitError::Conflict { key: Key::new(key).map_err(|_| unreadable())? })
            }
            Outcome::Refused(id) => Err(StoreError::Settled { id }.into()),
            _ => Err(unreadable().into()),
        }
    }

    async fn watch(&self, prefix: &str, from: Position) -> Result<Watch, StoreError> {
        self.fresh().await?.watch(prefix, from).await
    }

    async fn head(&self) -> Result<Position, StoreError> {
        self.fresh().await?.head().await
    }

    async fn outcome(&self, id: CommitId, since: Revision) -> Result<Option<Position>, StoreError> {
        match self.decide("asking for an outcome", Command::Settle { id, since }).await? {
            Outcome::Found(position) => Ok(Some(position)),
            Outcome::NotFound => Ok(None),
            Outcome::Compacted(oldest) => Err(StoreError::Compacted { oldest }),
            _ => Err(unreadable()),
        }
    }

    /// Forgets this member's history; others keep theirs.
    async fn compact(&self, before: Revision) -> Result<(), StoreError> {
        self.view().compact(before).await
    }

    async fn close(&self) -> Result<(), StoreError> {
        self.consensus.shutdown().await;
        self.view().close().await
    }
}

fn unreadable() -> StoreError {
    StoreError::Corrupt("the outcome of a command of the replicated store cannot be read".into())
}

fn failed(operation: &'static str, error: ConsensusError) -> StoreError {
    match error {
        ConsensusError::Stopped => StoreError::Closed,
        ConsensusError::Store(error) | ConsensusError::StoreLost(error) => error,
        ConsensusError::TooLarge { size, max } => {
            StoreError::TooLarge { store: "replicated", what: "a transaction".into(), size, max }
        }
        error => StoreError::Backend {
            store: "replicated",
            operation,
            retryable: error.is_retryable(),
            outcome_unknown: error.outcome_unknown(),
            source: Arc::new(error),
        },
    }
}
