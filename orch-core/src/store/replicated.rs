//! [`ReplicatedStore`]: any consensus as a store. The inverse of
//! [`StoreConsensus`](crate::consensus::StoreConsensus).

mod command;
mod machine;

use std::sync::Arc;

use async_trait::async_trait;

use self::{
    command::{Outcome, decode_outcome, encode},
    machine::KvMachine,
};
use super::{
    CommitError, Entry, Key, MemoryStore, Page, Revision, StateStore, StoreCapabilities, StoreError, Txn,
    Watch,
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

    async fn commit(&self, txn: Txn) -> Result<Revision, CommitError> {
        txn.check(&self.capabilities())?;
        if let Some(write) = txn.writes.iter().find(|write| machine::is_reserved(&write.key)) {
            return Err(StoreError::Corrupt(format!("the key {} is the store's own", write.key)).into());
        }
        let committed =
            self.consensus.propose(encode(&txn)).await.map_err(|error| failed("a commit", error))?;
        match decode_outcome(&committed.outcome) {
            Some(Outcome::Committed(revision)) => Ok(revision),
            Some(Outcome::Conflict(key)) => Err(CommitError::Conflict { key }),
            None => Err(StoreError::Corrupt("the outcome of a commit cannot be read".into()).into()),
        }
    }

    async fn watch(&self, prefix: &str, from: Revision) -> Result<Watch, StoreError> {
        self.fresh().await?.watch(prefix, from).await
    }

    async fn revision(&self) -> Result<Revision, StoreError> {
        self.fresh().await?.revision().await
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
