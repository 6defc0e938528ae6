//! Errors of Redis, with the way out.

use std::{path::PathBuf, sync::Arc, time::Duration};

use orch_core::store::StoreError;
use redis::{ErrorKind, RedisError, ServerError, ServerErrorKind};

/// The backend's name in messages.
pub(super) const NAME: &str = "redis";

/// The cause of a [`StoreError::Backend`].
#[derive(Debug, thiserror::Error)]
pub(super) enum Cause {
    #[error("the URL of the server cannot be understood")]
    Parameters { source: RedisError },
    #[error("{0}")]
    Setting(&'static str),
    #[error("{} cannot be read, or is not in PEM form", path.display())]
    Pem { path: PathBuf },
    #[error("the certificates cannot be used for connections")]
    Tls { source: rustls::Error },
    #[error(
        "one end does not know the other's certificate; name the authority that signed the server's by the parameter ca, and \
         ours by cert and key if the server asks for one"
    )]
    Stranger { source: RedisError },
    #[error("no connection to the server within {retry_deadline:?}; check its address, and that it runs")]
    Unreachable { retry_deadline: Duration, source: RedisError },
    #[error(
        "the memory of the server is full, nothing was written; raise its maxmemory, delete records, or compact the store: \
         its log takes up to history_bytes of that memory"
    )]
    Full { source: RedisError },
    #[error("the server refused, or the connection to it broke")]
    Server { source: RedisError },
}

pub(super) fn backend(operation: &'static str, retryable: bool, cause: Cause) -> StoreError {
    StoreError::Backend { store: NAME, operation, retryable, outcome_unknown: false, source: Arc::new(cause) }
}

pub(super) fn command(operation: &'static str, source: RedisError) -> StoreError {
    match (source.kind(), source.code()) {
        _ if is_stranger(&source) => backend(operation, false, Cause::Stranger { source }),
        (ErrorKind::UnexpectedReturnType | ErrorKind::Parse, _) => corrupt(&source),
        (_, Some("DAMAGED")) => corrupt(source.detail().unwrap_or_default()),
        (_, Some("LOST")) => lost_log(source.detail().unwrap_or_default()),
        (_, Some("NEWER")) => newer_format(source.detail().unwrap_or_default()),
        (_, Some("WRONGTYPE")) => corrupt(&source),
        (_, Some("OOM")) => backend(operation, true, Cause::Full { source }),
        _ => backend(operation, is_passing(&source), Cause::Server { source }),
    }
}

/// Error of a commit that may have reached the server.
pub(super) fn commit(source: RedisError) -> StoreError {
    if !lost(&source) {
        return command("committing", source);
    }
    let (store, operation, source) = (NAME, "committing", Arc::new(Cause::Server { source }));
    StoreError::Backend { store, operation, retryable: true, outcome_unknown: true, source }
}

/// True if the connection broke under the command. One that was refused took nothing.
pub(super) fn lost(error: &RedisError) -> bool {
    (error.is_io_error() || error.is_timeout() || error.is_connection_dropped())
        && !error.is_connection_refusal()
        && !is_stranger(error)
}

/// True if a certificate was refused, by either end. The client hands that on as a text.
fn is_stranger(error: &RedisError) -> bool {
    error.is_io_error() && error.to_string().to_lowercase().contains("certificate")
}

/// True if the same may work a moment later.
pub(super) fn is_passing(error: &RedisError) -> bool {
    lost(error) || error.is_connection_refusal() || is_starting(error)
}

/// True if the server says that it serves nobody yet: to a command, or to those of a transaction.
fn is_starting(error: &RedisError) -> bool {
    let starting = |error: &ServerError| {
        matches!(
            error.kind(),
            Some(
                ServerErrorKind::BusyLoading
                    | ServerErrorKind::TryAgain
                    | ServerErrorKind::MasterDown
                    | ServerErrorKind::ReadOnly
            )
        )
    };
    let errors = error.clone().into_server_errors();
    errors.is_some_and(|errors| errors.iter().all(|(_, error)| starting(error)))
}

pub(super) fn corrupt(reason: impl std::fmt::Display) -> StoreError {
    StoreError::Corrupt(format!(
        "the namespace is damaged or not a store of orch ({reason}); it was left as it is: restore it from a backup, or \
         name another namespace to begin with an empty store"
    ))
}

fn newer_format(found: &str) -> StoreError {
    StoreError::Corrupt(format!(
        "the namespace was written by a newer version (format {found}, this version reads up to 2); use that version"
    ))
}

/// Error of a log that has lost revisions while the records are there.
fn lost_log(log: &str) -> StoreError {
    StoreError::Corrupt(format!(
        "{log} has lost revisions, somebody deleted or trimmed it; the records are there and can be read, and nothing is \
         written until the store is compacted up to its newest revision, which gives the lost history up for good"
    ))
}

/// Error of a server that throws records away.
pub(super) fn evicts(policy: &str) -> RedisError {
    let reason =
        "the server throws records away when its memory is full; set its maxmemory-policy to noeviction";
    RedisError::from((ErrorKind::InvalidClientConfig, reason, format!("now it is {policy}")))
}
