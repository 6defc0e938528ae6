//! Errors of PostgreSQL, with the way out.

use std::{path::PathBuf, sync::Arc, time::Duration};

use orch_core::store::{Durability, StoreError};
use tokio_postgres::{
    Error,
    error::{DbError, Severity, SqlState},
};

/// The backend's name in messages.
pub(super) const NAME: &str = "postgres";

/// The cause of a [`StoreError::Backend`].
#[derive(Debug, thiserror::Error)]
pub(super) enum Cause {
    #[error("{0}")]
    Url(String),
    #[error("the server refused, or the connection to it broke")]
    Client { source: Error },
    #[error("the URL of the server cannot be understood")]
    Parameters { source: Error },
    #[error("no connection to the server within {retry_deadline:?}; check its address, and that it runs")]
    Unreachable { retry_deadline: Duration, source: Box<Cause> },
    #[error("the server did not answer within {0:?}")]
    Silent(Duration),
    #[error("another session holds a lock that commits need; end its transaction, or the session: {holders}")]
    Held { holders: String, source: Error },
    #[error(
        "the server's settings ({settings}) do not make a commit as durable as was declared when the store was opened \
         ({declared:?}); change them, or open the store again"
    )]
    Weaker { settings: String, declared: Durability },
    #[error("somebody ended the commit's wait for a standby, which may not have it")]
    Unreplicated,
    #[error("TLS cannot be used")]
    Tls { source: rustls::Error },
    #[error("sslrootcert {}: not a file with certificates in PEM form", path.display())]
    Roots { path: PathBuf },
    #[error("the database stores text as {0}; orch needs one that was created with ENCODING 'UTF8'")]
    Encoding(String),
    #[error("the store's writer ended unexpectedly; open the store again")]
    Writer,
}

/// A failure that changed nothing.
pub(super) fn backend(operation: &'static str, retryable: bool, cause: Cause) -> StoreError {
    StoreError::Backend { store: NAME, operation, retryable, outcome_unknown: false, source: Arc::new(cause) }
}

/// Error of a statement that did not change anything.
pub(super) fn statement(operation: &'static str, source: Error) -> StoreError {
    match damage(&source) {
        Some(reason) => corrupt(reason),
        None => backend(operation, is_passing(&source), Cause::Client { source }),
    }
}

/// Error of the one statement of a commit, which is a transaction by itself.
pub(super) fn commit(source: Error, holders: Option<String>) -> StoreError {
    let said = source.as_db_error();
    match said.and_then(DbError::parsed_severity) {
        // The server rolled it back, and goes on.
        Some(Severity::Error) => match (said.map(DbError::code), holders) {
            (Some(&SqlState::LOCK_NOT_AVAILABLE), Some(holders)) => {
                backend("committing", true, Cause::Held { holders, source })
            }
            _ => statement("committing", source),
        },
        // The session ends, or the whole server: perhaps after the commit was written.
        _ => lost_commit(Cause::Client { source }),
    }
}

/// Error of a commit that was sent and whose response is missing.
pub(super) fn lost_commit(cause: Cause) -> StoreError {
    StoreError::Backend {
        store: NAME,
        operation: "committing",
        retryable: true,
        outcome_unknown: true,
        source: Arc::new(cause),
    }
}

/// Error of an attempt to connect.
pub(super) fn connecting(cause: Cause) -> StoreError {
    match cause {
        Cause::Client { source } => statement("connecting", source),
        cause => backend("connecting", may_pass(&cause), cause),
    }
}

/// True if another attempt may work a moment later.
pub(super) fn may_pass(cause: &Cause) -> bool {
    match cause {
        Cause::Client { source } => is_passing(source),
        Cause::Silent(_) | Cause::Unreachable { .. } | Cause::Weaker { .. } => true,
        _ => false,
    }
}

/// True if the connection is at fault, and a new one may do better.
pub(super) fn is_connection(error: &Error) -> bool {
    error.as_db_error().is_none_or(|said| {
        let class = &said.code().code()[..2];
        // Connection exceptions, and the operator's interventions: shutdown, crash, start.
        class == "08" || class == "57" && said.code() != &SqlState::QUERY_CANCELED
    })
}

/// True if the same may work a moment later.
pub(super) fn is_passing(error: &Error) -> bool {
    let Some(said) = error.as_db_error() else { return true };
    // Besides: transactions that stood in each other's way, and resources that were short.
    is_connection(error)
        || matches!(&said.code().code()[..2], "40" | "53" | "55")
        || said.code() == &SqlState::QUERY_CANCELED
        // The server became a standby; another one replaces it.
        || said.code() == &SqlState::READ_ONLY_SQL_TRANSACTION
}

/// Damage of the tables that an error reports, if any.
fn damage(error: &Error) -> Option<String> {
    let said = error.as_db_error()?;
    let class = &said.code().code()[..2];
    (class == "XX" || said.code() == &SqlState::UNDEFINED_TABLE || said.code() == &SqlState::UNDEFINED_COLUMN)
        .then(|| said.message().to_owned())
}

/// True if somebody holds a lock for longer than is waited for it.
pub(super) fn is_lock(cause: &Cause) -> bool {
    let Cause::Client { source } = cause else { return false };
    source.code() == Some(&SqlState::LOCK_NOT_AVAILABLE)
}

impl From<Error> for Cause {
    fn from(source: Error) -> Self {
        Self::Client { source }
    }
}

pub(super) fn corrupt(reason: impl std::fmt::Display) -> StoreError {
    StoreError::Corrupt(format!(
        "the schema is damaged or not a store of orch ({reason}); it was left as it is: restore it from a backup, or \
         name another schema to begin with an empty store"
    ))
}

pub(super) fn newer_format(schema: &str, found: i32, known: i32) -> StoreError {
    StoreError::Corrupt(format!(
        "the schema {schema:?} was written by a newer version (format {found}, this version reads up to {known}); use \
         that version"
    ))
}
