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

/// Reasons why a machine cannot take in the records, snapshot or outcome that it was given.
#[derive(Debug, Clone, thiserror::Error)]
#[non_exhaustive]
pub enum MachineError {
    /// These bytes are damaged, cut off, or of something else.
    #[error("{what} cannot be read: {problem}")]
    Malformed {
        /// Name of the record, snapshot or outcome.
        what: String,
        /// Fault of its bytes.
        problem: String,
        /// Error of the parser, where there is one.
        #[source]
        source: Option<Cause>,
    },
    /// It has a format that this version does not know: usually a newer version wrote it.
    #[error("{what} cannot be read: it has format {found}; this version reads format {known}")]
    Format {
        /// Name of the record or snapshot.
        what: String,
        /// Format that it has.
        found: u8,
        /// Newest format that this version reads.
        known: u8,
    },
    /// It can be read, and contradicts other records.
    #[error("{what} does not fit the other records: {problem}")]
    Inconsistent {
        /// Name of the task, node or spec.
        what: String,
        /// Contradiction.
        problem: String,
    },
    /// Its bytes could not be had: the disk or the connection failed.
    #[error("{what} could not be loaded")]
    Unavailable {
        /// Name of the record or snapshot.
        what: String,
        /// Error of the disk or connection.
        #[source]
        source: Cause,
    },
}

impl MachineError {
    /// [`MachineError::Malformed`], found by the machine itself.
    #[must_use]
    pub fn malformed(what: impl Into<String>, problem: impl Into<String>) -> Self {
        Self::Malformed { what: what.into(), problem: problem.into(), source: None }
    }

    /// [`MachineError::Malformed`], found by a parser.
    #[must_use]
    pub fn unparsable(what: impl Into<String>, source: impl Into<Box<dyn Error + Send + Sync>>) -> Self {
        let problem = "it is not of the form that it should have".into();
        Self::Malformed { what: what.into(), problem, source: Some(source.into().into()) }
    }

    /// [`MachineError::Inconsistent`].
    #[must_use]
    pub fn inconsistent(what: impl Into<String>, problem: impl Into<String>) -> Self {
        Self::Inconsistent { what: what.into(), problem: problem.into() }
    }

    /// [`MachineError::Unavailable`].
    #[must_use]
    pub fn unavailable(what: impl Into<String>, source: impl Into<Box<dyn Error + Send + Sync>>) -> Self {
        Self::Unavailable { what: what.into(), source: source.into().into() }
    }
}
