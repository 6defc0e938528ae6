//! Refusals and failures as RFC 9457 has them, and what each error of the engine becomes.

use std::{error::Error as StdError, io, sync::Arc};

use axum::{
    http::{HeaderName, HeaderValue, StatusCode, header},
    response::{IntoResponse, Response},
};
use orch_core::{
    Error,
    consensus::ConsensusError,
    engine::{LinkError, Unknown},
    state::Rejection,
};

use crate::http::wire::ProblemInfo;

/// A kind of problem. The code is part of the API and never changes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Kind {
    pub(super) status: u16,
    pub(super) code: &'static str,
    pub(super) title: &'static str,
}

/// All kinds of problems.
pub(super) mod kinds {
    use super::Kind;

    macro_rules! kinds {
        ($($name:ident = $status:literal $code:literal $title:literal;)*) => {
            $(pub(in super::super) const $name: Kind = Kind { status: $status, code: $code, title: $title };)*
            /// For the API's description.
            pub(in super::super) const ALL: &[Kind] = &[$($name),*];
        };
    }

    kinds! {
        MALFORMED = 400 "malformed_request" "The request cannot be read";
        TLS_NEEDED = 400 "tls_needed" "The server speaks TLS";
        UNAUTHENTICATED = 401 "unauthenticated" "A token is needed";
        FORBIDDEN = 403 "forbidden" "The caller may not do this";
        UNKNOWN_ROUTE = 404 "unknown_route" "There is nothing at this path";
        UNKNOWN_TASK = 404 "unknown_task" "There is no such task";
        UNKNOWN_NODE = 404 "unknown_node" "There is no such node";
        METHOD_NOT_ALLOWED = 405 "method_not_allowed" "This path has other methods";
        BODY_TIMEOUT = 408 "body_timeout" "The request's body came too slowly";
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
        BODY_TOO_LARGE = 413 "body_too_large" "The request's body is too large";
        SUBMISSION_TOO_LARGE = 413 "submission_too_large" "The submission has too many tasks";
        NOT_JSON = 415 "not_json" "The request's body must be JSON";
        COMMAND_ID_REUSED = 422 "command_id_reused" "The idempotency key belongs to another request";
        INVALID_SPEC = 422 "invalid_spec" "The task cannot be accepted";
        INVALID_NODE = 422 "invalid_node" "The node cannot be accepted";
        REFUSED = 422 "refused" "The cluster refuses this";
        QUEUE_FULL = 429 "queue_full" "The cluster is full";
        INTERNAL = 500 "internal" "The server made a mistake";
        TOO_MANY_CONNECTIONS = 503 "too_many_connections" "The server has too many connections";
        CONSENSUS = 503 "consensus_unavailable" "The cluster cannot agree now";
        STORE = 503 "store_unavailable" "The store cannot be used now";
        SHUTTING_DOWN = 503 "shutting_down" "The server is shutting down";
        TIMED_OUT = 503 "timed_out" "The answer took too long";
        STORAGE_FULL = 507 "storage_full" "The server's disk is full";
    }
}

/// A refusal or failure, on its way to the caller.
#[derive(Clone, Debug)]
pub(super) struct Problem {
    kind: Kind,
    detail: String,
    field: Option<String>,
}

impl Problem {
    pub(super) fn new(kind: Kind, detail: impl Into<String>) -> Self {
        Self { kind, detail: detail.into(), field: None }
    }

    /// The same, about a field of the request.
    pub(super) fn at(mut self, field: impl Into<String>) -> Self {
        self.field = Some(field.into());
        self
    }

    /// The same with what to do instead.
    pub(super) fn with_hint(mut self, hint: &str) -> Self {
        self.detail = format!("{}; {hint}", self.detail);
        self
    }

    pub(super) fn info(&self) -> ProblemInfo {
        ProblemInfo {
            type_uri: format!("urn:orch:problem:{}", self.kind.code),
            code: self.kind.code.into(),
            title: self.kind.title.into(),
            status: self.kind.status,
            detail: self.detail.clone(),
            field: self.field.clone(),
        }
    }
}

impl IntoResponse for Problem {
    fn into_response(self) -> Response {
        const PROBLEM_JSON: HeaderValue = HeaderValue::from_static("application/problem+json");
        let json = serde_json::to_vec(&self.info()).expect("plain data has a JSON form");
        let status = StatusCode::from_u16(self.kind.status).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
        let mut response = (status, [(header::CONTENT_TYPE, PROBLEM_JSON)], json).into_response();
        let extra: Option<(HeaderName, &'static str)> = match self.kind.status {
            401 => Some((header::WWW_AUTHENTICATE, "Bearer")),
            429 | 503 => Some((header::RETRY_AFTER, "1")),
            // The rest of the body was not read.
            408 | 413 => Some((header::CONNECTION, "close")),
            _ => None,
        };
        response.headers_mut().extend(extra.map(|(name, value)| (name, HeaderValue::from_static(value))));
        response
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
