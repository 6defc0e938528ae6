//! [`Error`] of the engine.

use crate::{
    consensus::ConsensusError,
    model::{NodeId, TaskId},
    output::OutputError,
    state::Rejection,
    store::{Revision, StoreError},
};

/// Failure of a call to the engine. Says what happened to the state: with [`Error::Rejected`] and
/// [`Error::Unknown`] nothing did; with [`Error::Consensus`] see [`ConsensusError::outcome_unknown`].
#[derive(Debug, Clone, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// The parts given to the builder do not work together.
    #[error("{0}")]
    Composition(String),
    /// The cluster said no.
    #[error(transparent)]
    Rejected(#[from] Rejection),
    /// There is no such thing.
    #[error(transparent)]
    Unknown(#[from] Unknown),
    /// The events asked for are no longer kept.
    #[error("events before revision {oldest} are no longer kept; list what there is and go on from there")]
    EventsCompacted {
        /// The earliest revision to go on from.
        oldest: Revision,
    },
    /// The orchestrator is shutting down.
    #[error("the orchestrator is shutting down")]
    ShuttingDown,
    /// The consensus failed.
    #[error("the command could not be agreed on")]
    Consensus(#[from] ConsensusError),
    /// The store failed.
    #[error("the store failed")]
    Store(#[from] StoreError),
    /// The place of output failed.
    #[error(transparent)]
    Output(OutputError),
    /// The agent of this process could not start.
    #[error("the agent could not start: {0}")]
    Agent(String),
}

impl From<OutputError> for Error {
    fn from(error: OutputError) -> Self {
        match error {
            OutputError::Store(error) => Self::Store(error),
            error => Self::Output(error),
        }
    }
}

/// Something that is not there.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Unknown {
    /// No task has this id.
    #[error("there is no task {0} (finished tasks are forgotten after a while)")]
    Task(TaskId),
    /// No node has this id.
    #[error("there is no node {0}")]
    Node(NodeId),
}

/// Shorthand for results of the engine.
pub type Result<T, E = Error> = std::result::Result<T, E>;
