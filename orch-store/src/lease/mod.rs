//! One holder at a time, over any store with compare-and-swap.
//!
//! A lease `name` is two records: `leases/<name>/holder`, written by whoever takes it, and
//! `leases/<name>/renewed`, written by the holder at intervals. Who wants it takes it when it is free, or
//! when it observed no renewal for the lease's duration *by its own clock*; clocks of different machines are
//! never compared. The holder gives up by itself after two thirds of that time without a renewal that was
//! answered.
//!
//! A store may have a better liveness check than records: a lease that `EtcdStore::lease` takes is renewed
//! without a commit, and is the same in everything else. All who want a lease take it in the same way.
//!
//! Time alone is no proof: a holder may sleep through its own end. So put [`Lease::guard`] into the
//! transactions that only the holder may make. It fails once somebody else has taken the lease.

mod records;

use std::{
    fmt,
    hash::{BuildHasher as _, RandomState},
    sync::Arc,
    time::Duration,
};

use async_trait::async_trait;
use orch_core::store::{CommitError, Guard, Key, KeyError, Position, StateStore, StoreError};
use tokio::{
    sync::watch,
    task::JoinHandle,
    time::{Instant, sleep, sleep_until, timeout_at},
};

/// Name, holder and duration of a lease.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LeaseConfig {
    pub(crate) holder: Key,
    pub(crate) renewed: Key,
    /// Holder, for people who look into the store.
    pub who: String,
    /// Time without a renewal after which others may take it. It is renewed six times as often. Choose it
    /// longer than the store's worst hiccup, and as short as the work can do without a holder.
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

    /// Common prefix of both keys.
    pub(crate) fn prefix(&self) -> &str {
        self.holder.as_str().trim_end_matches("holder")
    }

    /// The content of the holder's record. A number that nobody had before makes it unique.
    pub(crate) fn mark(&self) -> String {
        format!("{} {:016x}", self.who, RandomState::new().hash_one(&self.who))
    }
}

#[derive(Debug, thiserror::Error)]
#[error("a lease needs a store with compare-and-swap; choose another one")]
struct NoOrder;

fn failed(store: &dyn StateStore, cause: impl std::error::Error + Send + Sync + 'static) -> StoreError {
    StoreError::Backend {
        store: store.capabilities().name,
        operation: "taking a lease",
        retryable: false,
        outcome_unknown: false,
        source: Arc::new(cause),
    }
}

/// The store was busy with others; a moment later it may do.
pub(crate) fn busy(store: &dyn StateStore, cause: CommitError) -> StoreError {
    StoreError::Backend {
        store: store.capabilities().name,
        operation: "renewing a lease",
        retryable: true,
        outcome_unknown: false,
        source: Arc::new(cause),
    }
}

/// A lease that was taken. It is renewed in the background until it is dropped, released or lost.
#[derive(Debug)]
pub struct Lease {
    hold: Arc<dyn Hold>,
    guard: Guard,
    /// Time until which it is held for sure; `None` once it is lost.
    held: watch::Receiver<Option<Instant>>,
    renewing: JoinHandle<()>,
}

impl Lease {
    /// Waits until the lease is free, and takes it. Failures of the store that may pass are waited out. May
    /// be dropped.
    ///
    /// # Errors
    /// [`StoreError`] when the store fails for good, or has no compare-and-swap.
    pub async fn take(store: Arc<dyn StateStore>, config: LeaseConfig) -> Result<Self, StoreError> {
        if !store.capabilities().compare_and_swap {
            return Err(failed(&*store, NoOrder));
        }
        Self::take_by(&config, || records::try_take(Arc::clone(&store), config.clone())).await
    }

    /// Tries until it is taken. A try that finds it held waits itself until it may be free.
    pub(crate) async fn take_by<F>(config: &LeaseConfig, try_take: impl Fn() -> F) -> Result<Self, StoreError>
    where
        F: Future<Output = Result<Option<Taken>, StoreError>>,
    {
        loop {
            match try_take().await {
                Ok(Some(taken)) => return Ok(Self::held(taken, config)),
                Ok(None) => {}
                Err(error) if error.is_retryable() || error.is_stale_position() => {
                    sleep(config.duration / 6).await;
                }
                Err(error) => return Err(error),
            }
        }
    }

    /// Holds as long as nobody else has taken the lease.
    #[must_use]
    pub fn guard(&self) -> Guard {
        self.guard.clone()
    }

    /// True if it is held, as far as this process knows by now. False also where this process slept beyond
    /// its end and has not renewed it since.
    #[must_use]
    pub fn is_held(&self) -> bool {
        self.held.borrow().is_some_and(|end| Instant::now() < end)
    }

    /// Waits until it is lost. May be dropped.
    pub async fn lost(&self) {
        // An end of the task that renews is a loss, too.
        let _ = self.held.clone().wait_for(Option::is_none).await;
    }

    /// Gives it back, so that somebody else has it at once. Nothing happens if it was lost.
    ///
    /// # Errors
    /// [`StoreError`] when that could not be written; it is free after its duration then.
    pub async fn release(self) -> Result<(), StoreError> {
        self.renewing.abort();
        self.hold.release().await
    }

    fn held(taken: Taken, config: &LeaseConfig) -> Self {
        let (sender, held) = watch::channel(Some(taken.since + config.duration * 2 / 3));
        let guard = Guard::Version(config.holder.clone(), taken.version);
        let hold = Arc::clone(&taken.hold);
        let renewing = tokio::spawn(renew(taken, config.clone(), sender));
        Self { hold, guard, held, renewing }
    }
}

impl Drop for Lease {
    fn drop(&mut self) {
        self.renewing.abort();
    }
}

/// A lease that is ours, however the store keeps it.
#[async_trait]
pub(crate) trait Hold: Send + Sync + fmt::Debug + 'static {
    /// Shows the others that the holder is alive. False when somebody else holds it. May be dropped.
    async fn renew(&self) -> Result<bool, StoreError>;

    /// Frees it for others. Nothing happens when somebody else holds it.
    async fn release(&self) -> Result<(), StoreError>;
}

/// Result of a successful attempt.
pub(crate) struct Taken {
    pub(crate) hold: Arc<dyn Hold>,
    /// That of the holder's record, which nobody writes but who takes the lease.
    pub(crate) version: Position,
    /// A moment before it was asked for: the others count from a later one.
    pub(crate) since: Instant,
}

/// Renews until it cannot, and says so.
async fn renew(taken: Taken, config: LeaseConfig, held: watch::Sender<Option<Instant>>) {
    let mut end = taken.since + config.duration * 2 / 3;
    loop {
        sleep_until((end - config.duration / 2).max(Instant::now())).await;
        let asked = Instant::now();
        if asked >= end {
            // This process slept: others may have counted it out, and what it did meanwhile was not guarded.
            break;
        }
        match timeout_at(end, taken.hold.renew()).await {
            Ok(Ok(true)) => {
                end = asked + config.duration * 2 / 3;
                held.send_replace(Some(end));
            }
            Ok(Ok(false)) | Err(_) => break,
            Ok(Err(error)) => {
                tracing::debug!(%error, lease = %config.holder, "could not be renewed; trying again");
                if timeout_at(end, sleep(config.duration / 12)).await.is_err() {
                    break;
                }
            }
        }
    }
    tracing::warn!(lease = %config.holder, "the lease is lost");
    held.send_replace(None);
}
