//! Errors of SQLite, with the file and the way out.

use std::path::{Path, PathBuf};

use orch_core::store::StoreError;
use rusqlite::ErrorCode;

use super::super::error::{Cause, backend, corrupt};

/// The backend's name in messages.
pub(super) const NAME: &str = "sqlite";

/// Error of a file that SQLite does not open.
#[derive(Debug, thiserror::Error)]
#[error("{}: SQLite cannot use it; check who may write there, and that it is a disk of this machine", path.display())]
struct Unusable {
    path: PathBuf,
    source: rusqlite::Error,
}

/// Error of a file that SQLite could not make a database of.
pub(super) fn database(path: &Path, source: rusqlite::Error) -> StoreError {
    match damage(&source) {
        Some(reason) => corrupt(path, reason),
        None => backend(NAME, "opening", false, Unusable { path: path.into(), source }),
    }
}

/// Error of a read.
pub(super) fn reading(path: &Path, source: rusqlite::Error) -> StoreError {
    match damage(&source) {
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
