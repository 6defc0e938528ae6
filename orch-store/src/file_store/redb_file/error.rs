//! Errors of redb, with the file and the way out.

use std::{io, path::Path};

use orch_core::store::StoreError;

use super::{
    super::error::{Cause, EngineError, backend, corrupt, locked, opening},
    NAME,
};

/// Error of a file that could not be opened as a database.
pub(crate) fn database(path: &Path, error: redb::DatabaseError) -> StoreError {
    match error {
        redb::DatabaseError::DatabaseAlreadyOpen => locked(path),
        // redb reports a file that does not begin like one of its own, or is cut off, as invalid data.
        redb::DatabaseError::Storage(redb::StorageError::Io(error))
            if !matches!(error.kind(), io::ErrorKind::InvalidData | io::ErrorKind::UnexpectedEof) =>
        {
            opening(NAME, path, error)
        }
        error => corrupt(path, error),
    }
}

/// Error of a read.
pub(crate) fn reading(path: &Path, error: redb::Error) -> StoreError {
    match error {
        redb::Error::Corrupted(reason) => corrupt(path, reason),
        source => backend(NAME, "reading", false, Cause::Read { path: path.into(), source: source.into() }),
    }
}

/// Error of a write, or of the disk below it.
pub(crate) fn below(error: redb::Error) -> EngineError {
    match error {
        redb::Error::Io(error) => error.into(),
        error => error.into(),
    }
}
