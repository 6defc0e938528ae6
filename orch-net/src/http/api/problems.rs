//! Problems of the engine's API: errors of the engine as answers.

use std::{error::Error as StdError, io, sync::Arc};

use orch_core::{
    Error,
    consensus::ConsensusError,
    engine::{LinkError, Unknown},
    state::Rejection,
};

use crate::http::shell::Problem;

/// Kinds of problems: those of any server, and those of the engine.
pub mod kinds {
    use crate::http::shell::define_kinds;
    pub use crate::http::shell::kinds::*;

    define_kinds! {
        ENGINE:
        UNKNOWN_TASK = 404 "unknown_task" "There is no such task";
        UNKNOWN_NODE = 404 "unknown_node" "There is no such node";
        TASK_ID_TAKEN = 409 "task_id_taken" "Another task has this id";
        NODE_ID_TAKEN = 409 "node_id_taken" "Another agent has this name";
        ALREADY_FINISHED = 409 "already_finished" "The task is over";
        NODE_IN_USE = 409 "node_in_use" "The node has tasks";
        STALE_ATTEMPT = 409 "stale_attempt" "The attempt is not the current one";
        NOT_REGISTERED = 409 "not_registered" "The node has to register";
        NAME_TAKEN = 409 "name_taken" "Another agent has the node's name";
        FENCED = 409 "fenced" "A newer process has taken the node over";
        TOO_MANY_NODES = 409 "too_many_nodes" "The cluster takes no more nodes";
        EVENTS_COMPACTED = 410 "events_compacted" "The events are no longer kept";
        SUBMISSION_TOO_LARGE = 413 "submission_too_large" "The submission has too many tasks";
        COMMAND_ID_REUSED = 422 "command_id_reused" "The idempotency key belongs to another request";
        INVALID_SPEC = 422 "invalid_spec" "The task cannot be accepted";
        INVALID_NODE = 422 "invalid_node" "The node cannot be accepted";
        REFUSED = 422 "refused" "The cluster refuses this";
        QUEUE_FULL = 429 "queue_full" "The cluster is full";
        CONSENSUS = 503 "consensus_unavailable" "The cluster cannot agree now";
        STORE = 503 "store_unavailable" "The store cannot be used now";
        STORAGE_FULL = 507 "storage_full" "The server's disk is full";
    }
}

impl From<Error> for Problem {
    fn from(error: Error) -> Self {
        if is_storage_full(&error) {
            tracing::warn!(error = &error as &dyn std::error::Error, "the disk is full");
            let detail = "there is no space left where the state is kept; nothing of this request is certain to be kept: make \
                          room, restart the server, then look what is there";
            return Self::new(kinds::STORAGE_FULL, detail);
        }
        let kind = match &error {
            Error::Rejected(rejection) => return rejection.into(),
            Error::Unknown(Unknown::Task(_)) => kinds::UNKNOWN_TASK,
            Error::Unknown(Unknown::Node(_)) => kinds::UNKNOWN_NODE,
            Error::EventsCompacted { .. } => kinds::EVENTS_COMPACTED,
            Error::ShuttingDown | Error::Consensus(ConsensusError::Stopped) => kinds::SHUTTING_DOWN,
            Error::Store(_) | Error::Consensus(ConsensusError::Store(_) | ConsensusError::StoreLost(_)) => {
                kinds::STORE
            }
            Error::Consensus(_) => kinds::CONSENSUS,
            _ => kinds::INTERNAL,
        };
        if matches!(kind, kinds::CONSENSUS | kinds::STORE | kinds::INTERNAL) {
            // The source, which may name paths and hosts, is for the log only.
            tracing::warn!(error = &error as &dyn std::error::Error, "a request failed");
        }
        Self::new(kind, error.to_string())
    }
}

/// Whether a disk without space is the cause. Libraries of stores hide the system's error behind their text.
fn is_storage_full(error: &(dyn StdError + 'static)) -> bool {
    const TEXTS: [&str; 2] = ["No space left on device", "database or disk is full"];
    std::iter::successors(Some(error), |error| (*error).source()).any(|error| {
        // An error of a store shares its source.
        let shared = error.downcast_ref::<Arc<dyn StdError + Send + Sync>>();
        let io = match shared {
            Some(shared) => shared.downcast_ref::<io::Error>(),
            None => error.downcast_ref::<io::Error>(),
        };
        let kind = io.map(io::Error::kind);
        matches!(kind, Some(io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded))
            || TEXTS.iter().any(|known| error.to_string().contains(known))
    })
}

impl From<&Rejection> for Problem {
    fn from(rejection: &Rejection) -> Self {
        let kind = match rejection {
            Rejection::InvalidSpec(invalid) => {
                return Self::new(kinds::INVALID_SPEC, &invalid.problem).at(&invalid.field);
            }
            Rejection::Malformed { .. } => kinds::MALFORMED,
            Rejection::TaskIdTaken { .. } => kinds::TASK_ID_TAKEN,
            Rejection::CommandIdReused { .. } => kinds::COMMAND_ID_REUSED,
            Rejection::QueueFull { .. } => kinds::QUEUE_FULL,
            Rejection::SubmissionTooLarge { .. } => kinds::SUBMISSION_TOO_LARGE,
            Rejection::UnknownTask { .. } => kinds::UNKNOWN_TASK,
            Rejection::AlreadyFinished { .. } => kinds::ALREADY_FINISHED,
            Rejection::StaleAttempt { .. } => kinds::STALE_ATTEMPT,
            Rejection::UnknownNode { .. } => kinds::UNKNOWN_NODE,
            Rejection::NodeIdTaken { .. } => kinds::NODE_ID_TAKEN,
            Rejection::TooManyNodes { .. } => kinds::TOO_MANY_NODES,
            Rejection::InvalidNode { .. } => kinds::INVALID_NODE,
            Rejection::NodeInUse { .. } => kinds::NODE_IN_USE,
            _ => kinds::REFUSED,
        };
        Self::new(kind, rejection.to_string())
    }
}

impl From<LinkError> for Problem {
    fn from(error: LinkError) -> Self {
        let kind = match &error {
            LinkError::NotRegistered => kinds::NOT_REGISTERED,
            LinkError::NameTaken(_) => kinds::NAME_TAKEN,
            LinkError::Fenced(_) => kinds::FENCED,
            LinkError::Refused(_) => kinds::REFUSED,
            // Another process may answer at this address soon: an agent over HTTP asks again.
            LinkError::Closed => kinds::SHUTTING_DOWN,
            _ => {
                tracing::warn!(%error, "a worker's request failed");
                return Self::new(kinds::CONSENSUS, "the command could not be decided; try again");
            }
        };
        Self::new(kind, error.to_string())
    }
}
