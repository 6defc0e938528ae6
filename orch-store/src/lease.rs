//! One holder at a time, over any store with compare-and-swap.
//!
//! A lease `name` is two records: `leases/<name>/holder`, written by whoever takes it, and `leases/<name>/renewed`, written
//! by the holder at intervals. Who wants it takes it when it is free, or when it has seen no renewal for the lease's
//! duration *by its own clock*; clocks of different machines are never compared. The holder gives up by itself after two
//! thirds of that time without a renewal that was answered.
//!
//! Time alone is no proof: a holder may sleep through its own end. So put [`Lease::guard`] into the transactions that only
//! the holder may make. It fails once somebody else has taken the lease.

use std::{
    hash::{BuildHasher as _, RandomState},
    sync::Arc,
    time::Duration,
};

use futures_util::StreamExt as _;
use orch_core::store::{CommitError, Guard, Key, KeyError, Revision, StateStore, StoreError, Txn, Write};
use tokio::{
    sync::watch,
    task::JoinHandle,
    time::{Instant, sleep, sleep_until, timeout_at},
};

/// Which lease, for whom, and for how long.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LeaseConfig {
    holder: Key,
    renewed: Key,
    /// Who takes it, for people who look into the store.
    pub who: String,
    /// How long the others wait without a renewal. It is renewed six times as often. Choose it longer than the store's
    /// worst hiccup, and as short as the work can do without a holder.
    pub duration: Duration,
}

impl LeaseConfig {
    /// The lease `name`, a part of a key, for 15 seconds.
    ///
    /// # Errors
    /// [`KeyError`] when the name cannot be a part of a key.
    pub fn new(name: &str, who: impl Into<String>) -> Result<Self, KeyError> {
        Ok(Self {
            holder: Key::new(format!("leases/{name}/holder"))?,
            renewed: Key::new(format!("leases/{name}/renewed"))?,
            who: who.into(),
            duration: Duration::from_secs(15),
        })
    }

    /// The same for another time.
    #[must_use]
    pub fn lasting(self, duration: Duration) -> Self {
        Self { duration, ..self }
    }

    /// What begins both keys.
    fn prefix(&self) -> &str {
        self.holder.as_str().trim_end_matches("holder")
    }
}

#[derive(Debug, thiserror::Error)]
#[error("a lease needs a store with compare-and-swap; choose another one")]
struct NoOrder;

/// A lease that was taken. It is renewed in the background until it is dropped, released or lost.
#[derive(Debug)]
pub struct Lease {
    store: Arc<dyn StateStore>,
    config: LeaseConfig,
    taken: Revision,
    held: watch::Receiver<bool>,
    renewing: JoinHandle<()>,
}

impl Lease {
    /// Waits until the lease is free, and takes it. Failures of the store that may pass are waited out. May be dropped.
    ///
    /// # Errors
    /// [`StoreError`] when the store fails for good, or has no compare-and-swap.
    pub async fn take(store: Arc<dyn StateStore>, config: LeaseConfig) -> Result<Self, StoreError> {
        if !store.capabilities().compare_and_swap {
            return Err(StoreError::Backend {
                store: store.capabilities().name,
                operation: "taking a lease",
                retryable: false,
                outcome_unknown: false,
                source: Arc::new(NoOrder),
            });
        }
        loop {
            match try_take(&*store, &config).await {
                Ok(Some((taken, since))) => return Ok(Self::held(store, config, taken, since)),
                Ok(None) => {}
                Err(error) if error.is_retryable() || matches!(error, StoreError::Compacted { .. }) => {
                    sleep(config.duration / 6).await;
                }
                Err(error) => return Err(error),
            }
        }
    }

    /// Holds as long as nobody else has taken the lease.
    #[must_use]
    pub fn guard(&self) -> Guard {
        Guard::Version(self.config.holder.clone(), self.taken)
    }

    /// Whether it is held, as far as this process can tell by now.
    #[must_use]
    pub fn is_held(&self) -> bool {
        *self.held.borrow()
    }

    /// Waits until it is lost. May be dropped.
    pub async fn lost(&self) {
        // An end of the task that renews is a loss, too.
        let _ = self.held.clone().wait_for(|held| !held).await;
    }

    /// Gives it back, so that somebody else has it at once. Nothing happens if it was lost.
    ///
    /// # Errors
    /// [`StoreError`] when that could not be written; it is free after its duration then.
    pub async fn release(self) -> Result<(), StoreError> {
        self.renewing.abort();
        let writes = [&self.config.holder, &self.config.renewed].map(|key| Write::delete(key.clone()));
        match self.store.commit(Txn::of(writes.into()).guarded(self.guard())).await {
            Ok(_) | Err(CommitError::Conflict { .. }) => Ok(()),
            Err(CommitError::Store(error)) => Err(error),
        }
    }

    fn held(store: Arc<dyn StateStore>, config: LeaseConfig, taken: Revision, since: Instant) -> Self {
        let (sender, held) = watch::channel(true);
        let renewing = renew(Arc::clone(&store), config.clone(), taken, since, sender);
        Self { store, config, taken, held, renewing: tokio::spawn(renewing) }
    }
}

impl Drop for Lease {
    fn drop(&mut self) {
        self.renewing.abort();
    }
}

/// Takes the lease if it is free, or once it has not been renewed for its duration. Since when it is ours is the moment
/// before it was asked for. `None` when somebody was quicker, or it was renewed.
async fn try_take(
    store: &dyn StateStore,
    config: &LeaseConfig,
) -> Result<Option<(Revision, Instant)>, StoreError> {
    let page = store.scan(config.prefix(), None, 3).await?;
    let version = |key: &Key| page.entries.iter().find(|entry| entry.key == *key).map(|entry| entry.version);
    let (holder, renewed) = (version(&config.holder), version(&config.renewed));
    if holder.is_some() {
        let mut changes = store.watch(config.prefix(), page.revision).await?;
        match timeout_at(Instant::now() + config.duration, changes.next()).await {
            Ok(Some(Err(error))) => return Err(error),
            Ok(None) => return Err(StoreError::Closed),
            Ok(Some(Ok(_))) => return Ok(None),
            // Nobody has renewed it.
            Err(_) => {}
        }
    }
    let guard = |key: &Key, version: Option<Revision>| match version {
        Some(version) => Guard::Version(key.clone(), version),
        None => Guard::Absent(key.clone()),
    };
    // A number that nobody had before tells our record from any other.
    let mark = format!("{} {:016x}", config.who, RandomState::new().hash_one(&config.who));
    let writes = vec![Write::put(config.holder.clone(), mark.clone()), renewal(config, 0)];
    let txn = Txn::of(writes).guarded(guard(&config.holder, holder)).guarded(guard(&config.renewed, renewed));
    let since = Instant::now();
    match store.commit(txn).await {
        Ok(taken) => Ok(Some((taken, since))),
        Err(CommitError::Conflict { .. }) => Ok(None),
        Err(CommitError::Store(error)) if error.outcome_unknown() => {
            let found = store.get(&config.holder).await?.filter(|entry| entry.value == mark.as_bytes());
            Ok(found.map(|entry| (entry.version, since)))
        }
        Err(CommitError::Store(error)) => Err(error),
    }
}

fn renewal(config: &LeaseConfig, count: u64) -> Write {
    Write::put(config.renewed.clone(), count.to_string())
}

/// Renews until it cannot, and says so.
async fn renew(
    store: Arc<dyn StateStore>,
    config: LeaseConfig,
    taken: Revision,
    since: Instant,
    held: watch::Sender<bool>,
) {
    let mut end = since + config.duration * 2 / 3;
    for count in 1.. {
        sleep_until((end - config.duration / 2).max(Instant::now())).await;
        let asked = Instant::now();
        let txn =
            Txn::of(vec![renewal(&config, count)]).guarded(Guard::Version(config.holder.clone(), taken));
        match timeout_at(end, store.commit(txn)).await {
            Ok(Ok(_)) => end = asked + config.duration * 2 / 3,
            Ok(Err(CommitError::Conflict { .. })) | Err(_) => break,
            Ok(Err(CommitError::Store(error))) => {
                tracing::debug!(%error, lease = %config.holder, "could not be renewed; trying again");
                if timeout_at(end, sleep(config.duration / 12)).await.is_err() {
                    break;
                }
            }
        }
    }
    tracing::warn!(lease = %config.holder, "the lease is lost");
    held.send_replace(false);
}
