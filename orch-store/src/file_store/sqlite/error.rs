//! Errors of SQLite, with the file and the way out.

use std::{
    io,
    path::{Path, PathBuf},
    sync::Arc,
};

use orch_core::store::StoreError;
use rusqlite::ErrorCode;

use super::super::error::{Cause, EngineError, backend, corrupt};

/// The backend's name in messages.
pub(super) const NAME: &str = "sqlite";

/// Error of a file that SQLite does not open.
#[derive(Debug, thiserror::Error)]
#[error("{}: SQLite cannot use it; check who may write there, and that it is a disk of this machine", path.display())]
struct Unusable {
    path: PathBuf,
    source: rusqlite::Error,
}

/// Error of a file that another program has locked for longer than we wait. Nothing happened to it.
#[derive(Debug, thiserror::Error)]
#[error(
    "{}: another program holds a lock on the file, so nothing was read or written; find it (`fuser` names it), end what it \
     does there, and try again", path.display()
)]
struct Held {
    path: PathBuf,
    source: rusqlite::Error,
}

/// Refusal of an operation on a file that another program has locked.
pub(super) fn held(path: &Path, operation: &'static str, source: rusqlite::Error) -> StoreError {
    let source = Arc::new(Held { path: path.into(), source });
    StoreError::Backend { store: NAME, operation, retryable: true, outcome_unknown: false, source }
}

/// True if another program, or another connection, has locked what an operation needed.
pub(super) fn is_held(error: &rusqlite::Error) -> bool {
    matches!(error.sqlite_error_code(), Some(ErrorCode::DatabaseBusy | ErrorCode::DatabaseLocked))
}

/// Error of a store whose file another process has written to.
pub(super) fn overtaken(path: &Path) -> StoreError {
    StoreError::Locked(format!(
        "{} was changed by another process while this one had it open, so this one stops, and nothing of this commit is \
         written; make sure that only one process works with the directory, then open the store again",
        path.display()
    ))
}

/// Error of a write, with a full disk as such.
pub(super) fn below(error: rusqlite::Error) -> EngineError {
    match error.sqlite_error_code() {
        Some(ErrorCode::DiskFull) => io::Error::new(io::ErrorKind::StorageFull, error).into(),
        _ => error.into(),
    }
}

/// Error of a file that SQLite could not make a database of.
pub(super) fn database(path: &Path, source: rusqlite::Error) -> StoreError {
    match damage(&source) {
        _ if is_held(&source) => held(path, "opening", source),
        _ if source.sqlite_error_code() == Some(ErrorCode::DiskFull) => {
            backend(NAME, "opening", false, Cause::write(path, below(source)))
        }
        Some(reason) => corrupt(path, reason),
        None => backend(NAME, "opening", false, Unusable { path: path.into(), source }),
    }
}

/// Error of a read.
pub(super) fn reading(path: &Path, source: rusqlite::Error) -> StoreError {
    match damage(&source) {
        _ if is_held(&source) => held(path, "reading", source),
        Some(reason) => corrupt(path, reason),
        None => backend(NAME, "reading", false, Cause::Read { path: path.into(), source: source.into() }),
    }
}

/// Damage of the content that an error reports, if any.
fn damage(error: &rusqlite::Error) -> Option<String> {
    let damaged = match error {
        rusqlite::Error::SqliteFailure(failure, _) => {
            matches!(failure.code, ErrorCode::DatabaseCorrupt | ErrorCode::NotADatabase)
        }
        rusqlite::Error::FromSqlConversionFailure(..)
        | rusqlite::Error::IntegralValueOutOfRange(..)
        | rusqlite::Error::InvalidColumnType(..)
        | rusqlite::Error::QueryReturnedNoRows
        | rusqlite::Error::Utf8Error(..) => true,
        _ => false,
    };
    damaged.then(|| error.to_string())
}
