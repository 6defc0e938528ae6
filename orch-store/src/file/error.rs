//! Errors of redb, with the file and the way out.

use std::{
    io,
    path::{Path, PathBuf},
    sync::Arc,
};

use orch_core::store::StoreError;

/// The backend's name in messages.
pub(crate) const NAME: &str = "redb";

/// The cause of a [`StoreError::Backend`], with the file.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Cause {
    #[error("{}: check that the directory exists, can be written by this user and has free space", path.display())]
    Open { path: PathBuf, source: io::Error },
    #[error("{}: the disk did not take the change; make sure that it works and has free space, then open the store again", path.display())]
    Write { path: PathBuf, source: redb::Error },
    #[error("{}: cannot be read", path.display())]
    Read { path: PathBuf, source: redb::Error },
    #[error("{}: the store stopped after a failure; open it again", path.display())]
    Stopped { path: PathBuf, source: StoreError },
    #[error("{}: the store's writer ended unexpectedly; open the store again", path.display())]
    Writer { path: PathBuf },
}

pub(crate) fn backend(operation: &'static str, outcome_unknown: bool, cause: Cause) -> StoreError {
    StoreError::Backend { store: NAME, operation, retryable: false, outcome_unknown, source: Arc::new(cause) }
}

pub(crate) fn opening(path: &Path, source: io::Error) -> StoreError {
    backend("opening", false, Cause::Open { path: path.into(), source })
}

/// The answer when the file could not be opened as a database.
pub(crate) fn database(path: &Path, error: redb::DatabaseError) -> StoreError {
    match error {
        redb::DatabaseError::DatabaseAlreadyOpen => StoreError::Locked(format!(
            "{} is in use: another manager holds this store; stop it or choose another directory",
            path.display()
        )),
        // redb reports a file that does not begin like one of its own, or is cut off, as invalid data.
        redb::DatabaseError::Storage(redb::StorageError::Io(error))
            if !matches!(error.kind(), io::ErrorKind::InvalidData | io::ErrorKind::UnexpectedEof) =>
        {
            opening(path, error)
        }
        error => corrupt(path, error),
    }
}

/// The answer when the file is there and makes no sense. Nothing is ever deleted.
pub(crate) fn corrupt(path: &Path, reason: impl std::fmt::Display) -> StoreError {
    StoreError::Corrupt(format!(
        "{} is damaged or not a store of orch ({reason}); it was left as it is: restore it from a backup, or move it \
         away to begin with an empty store",
        path.display()
    ))
}

pub(crate) fn newer_format(path: &Path, found: u64, known: u64) -> StoreError {
    StoreError::Corrupt(format!(
        "{} was written by a newer version (format {found}, this version reads up to {known}); use that version",
        path.display()
    ))
}

pub(crate) fn reading(path: &Path, error: redb::Error) -> StoreError {
    match error {
        redb::Error::Corrupted(reason) => corrupt(path, reason),
        source => backend("reading", false, Cause::Read { path: path.into(), source }),
    }
}
