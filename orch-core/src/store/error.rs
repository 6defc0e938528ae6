//! Errors of stores.

use super::{CommitId, Key, Position};

/// Why a store could not do what it was asked.
#[derive(Debug, Clone, thiserror::Error)]
#[non_exhaustive]
pub enum StoreError {
    /// The requested history is compacted.
    #[error("changes before revision {oldest} are no longer kept; scan again and watch from there")]
    Compacted {
        /// The earliest position that a watch may start from.
        oldest: Position,
    },
    /// The history of the store does not have the position: it came back older than it was, from a backup or
    /// on a standby that was behind, or it was replaced. What was acknowledged after the copy is lost.
    #[error(
        "the store has another history: revision {expected}, which was seen before, is not in it, and it is at {head} \
         now; it was restored from an older copy, or replaced, and what was acknowledged in between is lost; scan again \
         and watch from there"
    )]
    Diverged {
        /// Position that was seen before.
        expected: Position,
        /// Newest position of the store.
        head: Position,
    },
    /// The transaction was settled as not applied ([`StateStore::outcome`](super::StateStore::outcome))
    /// before it arrived. Nothing was written.
    #[error(
        "the transaction {id} was settled as not applied before it arrived; make it again under a new name"
    )]
    Settled {
        /// Its name.
        id: CommitId,
    },
    /// The store was closed.
    #[error("the store is closed")]
    Closed,
    /// Something is larger than the backend takes.
    #[error("{what} is {size}; the {store} store takes at most {max}")]
    TooLarge {
        /// Name of the store.
        store: &'static str,
        /// Description of what is too large.
        what: String,
        /// Actual size.
        size: usize,
        /// Largest size.
        max: usize,
    },
    /// Another process holds the store.
    #[error("{0}")]
    Locked(String),
    /// Stored data cannot be read.
    #[error("{0}")]
    Corrupt(String),
    /// The backend does not offer it.
    #[error("{what} is not offered by the {store} store")]
    Unsupported {
        /// Name of the store.
        store: &'static str,
        /// Description of what it does not offer.
        what: &'static str,
    },
    /// The backend failed.
    #[error("{operation} failed in the {store} store")]
    Backend {
        /// Name of the store.
        store: &'static str,
        /// Operation that failed.
        operation: &'static str,
        /// Doing it again may work.
        retryable: bool,
        /// The transaction may have happened all the same.
        outcome_unknown: bool,
        /// Error of the backend.
        #[source]
        source: std::sync::Arc<dyn std::error::Error + Send + Sync>,
    },
}

impl StoreError {
    /// True if doing it again may work.
    #[must_use]
    pub fn is_retryable(&self) -> bool {
        matches!(self, Self::Backend { retryable: true, .. })
    }

    /// True if what was read of the store is to be read again from the start, and watches to begin there.
    #[must_use]
    pub fn is_stale_position(&self) -> bool {
        matches!(self, Self::Compacted { .. } | Self::Diverged { .. })
    }

    /// True if the transaction that got this answer may have happened all the same.
    #[must_use]
    pub fn outcome_unknown(&self) -> bool {
        matches!(self, Self::Backend { outcome_unknown: true, .. })
    }
}

impl CommitError {
    /// The store's error, for transactions without guards.
    pub(crate) fn of_unguarded(self, store: &'static str) -> StoreError {
        match self {
            Self::Store(error) => error,
            error => StoreError::Backend {
                store,
                operation: "committing",
                retryable: matches!(error, Self::Contention { .. }),
                outcome_unknown: false,
                source: std::sync::Arc::new(error),
            },
        }
    }
}

/// Why a transaction was not applied.
#[derive(Debug, Clone, thiserror::Error)]
pub enum CommitError {
    /// A guard did not hold.
    #[error("{key} was changed by somebody else")]
    Conflict {
        /// The key of the first guard that did not hold.
        key: Key,
    },
    /// Others kept committing, whatever their keys. Nothing was written; the same may be tried again.
    #[error("the transaction lost {races} races against other writers; try again")]
    Contention {
        /// Races that were lost.
        races: u32,
    },
    /// The store failed.
    #[error(transparent)]
    Store(#[from] StoreError),
}
