//! Errors of SQLite, with the file and the way out.

use std::{
    io,
    path::{Path, PathBuf},
    sync::Arc,
};

use orch_core::store::StoreError;
use rusqlite::ErrorCode;

/// The backend's name in messages.
pub(super) const NAME: &str = "sqlite";

/// The cause of a [`StoreError::Backend`], with the file.
#[derive(Debug, thiserror::Error)]
pub(super) enum Cause {
    #[error("{}: check that the directory exists, can be written by this user and has free space", path.display())]
    Open { path: PathBuf, source: io::Error },
    #[error("{}: SQLite cannot use it; check who may write there, and that it is a disk of this machine", path.display())]
    Use { path: PathBuf, source: rusqlite::Error },
    #[error("{}: the disk did not take the change; make sure that it works and has free space, then open the store again", path.display())]
    Write { path: PathBuf, source: rusqlite::Error },
    #[error("{}: cannot be read", path.display())]
    Read { path: PathBuf, source: rusqlite::Error },
    #[error("{}: the store stopped after a failure; open it again", path.display())]
    Stopped { path: PathBuf, source: StoreError },
    #[error("{}: the store's writer ended unexpectedly; open the store again", path.display())]
    Writer { path: PathBuf },
}

pub(super) fn backend(operation: &'static str, outcome_unknown: bool, cause: Cause) -> StoreError {
    StoreError::Backend { store: NAME, operation, retryable: false, outcome_unknown, source: Arc::new(cause) }
}

pub(super) fn opening(path: &Path, source: io::Error) -> StoreError {
    backend("opening", false, Cause::Open { path: path.into(), source })
}

/// The answer when SQLite could not make a database of the file.
pub(super) fn database(path: &Path, source: rusqlite::Error) -> StoreError {
    match damage(&source) {
        Some(reason) => corrupt(path, reason),
        None => backend("opening", false, Cause::Use { path: path.into(), source }),
    }
}

pub(super) fn reading(path: &Path, source: rusqlite::Error) -> StoreError {
    match damage(&source) {
        Some(reason) => corrupt(path, reason),
        None => backend("reading", false, Cause::Read { path: path.into(), source }),
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

pub(super) fn locked(path: &Path) -> StoreError {
    StoreError::Locked(format!(
        "{} is in use: another manager holds this store; stop it or choose another directory",
        path.display()
    ))
}

/// The answer when the file is there and makes no sense. Nothing is ever deleted.
pub(super) fn corrupt(path: &Path, reason: impl std::fmt::Display) -> StoreError {
    StoreError::Corrupt(format!(
        "{} is damaged or not a store of orch ({reason}); it was left as it is: restore it from a backup, or move it \
         away to begin with an empty store",
        path.display()
    ))
}

pub(super) fn newer_format(path: &Path, found: i64, known: i64) -> StoreError {
    StoreError::Corrupt(format!(
        "{} was written by a newer version (format {found}, this version reads up to {known}); use that version",
        path.display()
    ))
}
