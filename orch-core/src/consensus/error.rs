//! Errors of a consensus and of the machine that it drives.

use std::{error::Error, sync::Arc};

use crate::store::StoreError;

/// Underlying error of a [`ConsensusError`], shared by all whom it concerns.
pub type Cause = Arc<dyn Error + Send + Sync>;

/// Reasons why a proposal has no outcome.
#[derive(Debug, Clone, thiserror::Error)]
#[non_exhaustive]
pub enum ConsensusError {
    /// It was not started yet, or started twice.
    #[error("consensus was {0}")]
    Lifecycle(&'static str),
    /// It was shut down.
    #[error("consensus has been shut down")]
    Stopped,
    /// It has stopped, because its store failed and could not be read back. A restart shows what is stored.
    #[error("consensus has stopped, because its store failed")]
    StoreLost(#[source] StoreError),
    /// Too many proposals wait already. Nothing happened; try again later.
    #[error("too many proposals wait already")]
    Busy,
    /// The command is larger than the backend takes.
    #[error("a command of {size} bytes is too large; at most {max} are taken")]
    TooLarge {
        /// Its size in bytes.
        size: usize,
        /// The largest size in bytes.
        max: usize,
    },
    /// This replica cannot take proposals now.
    #[error("no leader takes proposals")]
    NoLeader(#[source] Cause),
    /// Others kept winning the race for the store.
    #[error("gave up after losing {0} races against other writers")]
    Contention(u32),
    /// The store behind it failed.
    #[error("the store of the consensus failed")]
    Store(#[from] StoreError),
    /// A record or snapshot cannot be read.
    #[error("the state of the cluster cannot be read")]
    Machine(#[from] MachineError),
    /// This backend does not offer it.
    #[error("{0} is not supported here")]
    Unsupported(&'static str),
    /// It was not done and never will be: this replica is no member, or the group cannot have these members.
    #[error("refused")]
    Refused(#[source] Cause),
    /// This replica cannot find out whether it was done.
    #[error("whether it was done is not known")]
    OutcomeUnknown(#[source] Cause),
}

impl ConsensusError {
    /// [`ConsensusError::NoLeader`], because of `cause`.
    #[must_use]
    pub fn no_leader(cause: impl Into<Box<dyn Error + Send + Sync>>) -> Self {
        Self::NoLeader(cause.into().into())
    }

    /// [`ConsensusError::Refused`], because of `cause`.
    #[must_use]
    pub fn refused(cause: impl Into<Box<dyn Error + Send + Sync>>) -> Self {
        Self::Refused(cause.into().into())
    }

    /// [`ConsensusError::OutcomeUnknown`], because of `cause`.
    #[must_use]
    pub fn unknown_outcome(cause: impl Into<Box<dyn Error + Send + Sync>>) -> Self {
        Self::OutcomeUnknown(cause.into().into())
    }

    /// True when trying again may work.
    #[must_use]
    pub fn is_retryable(&self) -> bool {
        match self {
            Self::Busy | Self::NoLeader(_) | Self::Contention(_) => true,
            Self::Store(error) => error.is_retryable(),
            _ => false,
        }
    }

    /// True when the command may have been applied all the same, or may still be.
    #[must_use]
    pub fn outcome_unknown(&self) -> bool {
        match self {
            Self::Stopped | Self::StoreLost(_) | Self::OutcomeUnknown(_) => true,
            Self::Store(error) => error.outcome_unknown(),
            _ => false,
        }
    }
}

/// Something that a machine was given to read and cannot.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{what} cannot be read: {problem}")]
pub struct MachineError {
    /// Name of the record or snapshot.
    pub what: String,
    /// Reason.
    pub problem: String,
}
