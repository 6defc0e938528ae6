//! A lease in two records of any store: who holds it, and a heartbeat that the holder writes at intervals.

use std::sync::{
    Arc,
    atomic::{AtomicU64, Ordering},
};

use async_trait::async_trait;
use futures_util::StreamExt as _;
use orch_core::store::{CommitError, Guard, Key, Position, StateStore, StoreError, Txn, Write};
use tokio::time::{Instant, timeout_at};

use super::{Hold, LeaseConfig, Taken, busy, failed};

/// Takes the lease if it is free, or once it has not been renewed for its duration. `None` when somebody was
/// quicker, or it was renewed.
pub(super) async fn try_take(
    store: Arc<dyn StateStore>,
    config: LeaseConfig,
) -> Result<Option<Taken>, StoreError> {
    let page = store.scan(config.prefix(), None, 3).await?;
    let version = |key: &Key| page.entries.iter().find(|entry| entry.key == *key).map(|entry| entry.version);
    let (holder, renewed) = (version(&config.holder), version(&config.renewed));
    if holder.is_some() && renewed.is_none() {
        return Err(failed(&*store, KeptElsewhere));
    }
    if holder.is_some() {
        let mut changes = store.watch(config.prefix(), page.position).await?;
        match timeout_at(Instant::now() + config.duration, changes.next()).await {
            Ok(Some(Err(error))) => return Err(error),
            Ok(None) => return Err(StoreError::Closed),
            Ok(Some(Ok(_))) => return Ok(None),
            // Nobody has renewed it.
            Err(_) => {}
        }
    }
    let guard = |key: &Key, version: Option<Position>| match version {
        Some(version) => Guard::Version(key.clone(), version),
        None => Guard::Absent(key.clone()),
    };
    let mark = config.mark();
    let writes = vec![Write::put(config.holder.clone(), mark.clone()), renewal(&config, 0)];
    let txn = Txn::of(writes).guarded(guard(&config.holder, holder)).guarded(guard(&config.renewed, renewed));
    let since = Instant::now();
    let version = match store.commit(txn).await {
        Ok(version) => Some(version),
        Err(CommitError::Conflict { .. } | CommitError::Contention { .. }) => None,
        Err(CommitError::Store(error)) if error.outcome_unknown() => {
            let found = store.get(&config.holder).await?.filter(|entry| entry.value == mark.as_bytes());
            found.map(|entry| entry.version)
        }
        Err(CommitError::Store(error)) => return Err(error),
    };
    Ok(version.map(|version| {
        let hold = Records { store, config, version, renewals: AtomicU64::new(0) };
        Taken { hold: Arc::new(hold), version, since }
    }))
}

/// Its holder would be taken for dead.
#[derive(Debug, thiserror::Error)]
#[error(
    "this lease was taken by EtcdStore::lease; let all who want it take it in one way, and delete its record if nobody \
     holds it any more"
)]
struct KeptElsewhere;

fn renewal(config: &LeaseConfig, count: u64) -> Write {
    Write::put(config.renewed.clone(), count.to_string())
}

#[derive(Debug)]
struct Records {
    store: Arc<dyn StateStore>,
    config: LeaseConfig,
    version: Position,
    renewals: AtomicU64,
}

impl Records {
    /// Makes these writes if the lease is ours. Whether it is.
    async fn write(&self, writes: Vec<Write>) -> Result<bool, StoreError> {
        let guard = Guard::Version(self.config.holder.clone(), self.version);
        match self.store.commit(Txn::of(writes).guarded(guard)).await {
            Ok(_) => Ok(true),
            Err(CommitError::Conflict { .. }) => Ok(false),
            Err(lost @ CommitError::Contention { .. }) => Err(busy(&*self.store, lost)),
            Err(CommitError::Store(error)) => Err(error),
        }
    }
}

#[async_trait]
impl Hold for Records {
    async fn renew(&self) -> Result<bool, StoreError> {
        let count = self.renewals.fetch_add(1, Ordering::Relaxed) + 1;
        self.write(vec![renewal(&self.config, count)]).await
    }

    async fn release(&self) -> Result<(), StoreError> {
        let both = [&self.config.holder, &self.config.renewed];
        self.write(both.map(|key| Write::delete(key.clone())).into()).await.map(drop)
    }
}
