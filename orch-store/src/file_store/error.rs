//! Errors of a store in a file. They name the file and the way out.

use std::{
    fmt::Display,
    io,
    path::{Path, PathBuf},
    sync::Arc,
};

use orch_core::store::StoreError;

/// Error of an engine.
pub(crate) type EngineError = Box<dyn std::error::Error + Send + Sync>;

/// Cause of a [`StoreError::Backend`], with the file.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Cause {
    #[error("{}: check that the directory exists, can be written by this user and has free space", path.display())]
    Open { path: PathBuf, source: io::Error },
    #[error("{}: the disk did not take the change; make sure that it works and has free space, then open the store again", path.display())]
    Write { path: PathBuf, source: EngineError },
    #[error(
        "{}: the disk is full, or what this user may store there: free some space, then open the store again; 8 MiB are enough \
         to delete records, and were given back if there was a file ending in .reserve", path.display()
    )]
    Full { path: PathBuf, source: EngineError },
    #[error("{}: cannot be read", path.display())]
    Read { path: PathBuf, source: EngineError },
    #[error("{}: the store stopped after a failure; open it again", path.display())]
    Stopped { path: PathBuf, source: StoreError },
    #[error("{}: the store's writer ended unexpectedly; open the store again", path.display())]
    Writer { path: PathBuf },
}

impl Cause {
    /// Cause of a write that failed.
    pub(crate) fn write(path: &Path, source: impl Into<EngineError>) -> Self {
        let (path, source) = (path.into(), source.into());
        if is_full(&*source) { Self::Full { path, source } } else { Self::Write { path, source } }
    }
}

/// True if a store found no space.
#[cfg(any(feature = "redb", feature = "sqlite"))]
pub(crate) fn is_full_disk(error: &StoreError) -> bool {
    let StoreError::Backend { source, .. } = error else { return false };
    matches!(source.downcast_ref(), Some(Cause::Full { .. }))
}

/// True if a write found no space.
fn is_full(error: &(dyn std::error::Error + 'static)) -> bool {
    let kind = error.downcast_ref::<io::Error>().map(io::Error::kind);
    matches!(kind, Some(io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded))
}

/// An error of the backend `store`, from a cause that passes only when the store is opened again.
pub(crate) fn backend(
    store: &'static str,
    operation: &'static str,
    outcome_unknown: bool,
    cause: impl std::error::Error + Send + Sync + 'static,
) -> StoreError {
    StoreError::Backend { store, operation, retryable: false, outcome_unknown, source: Arc::new(cause) }
}

pub(crate) fn opening(store: &'static str, path: &Path, source: io::Error) -> StoreError {
    let full = is_full(&source);
    let cause = if full { Cause::write(path, source) } else { Cause::Open { path: path.into(), source } };
    backend(store, "opening", false, cause)
}

pub(crate) fn locked(path: &Path) -> StoreError {
    StoreError::Locked(format!(
        "{} is in use: another manager holds this store; stop it or choose another directory",
        path.display()
    ))
}

/// Error of a file whose content makes no sense. Nothing is ever deleted.
pub(crate) fn corrupt(path: &Path, reason: impl Display) -> StoreError {
    StoreError::Corrupt(format!(
        "{} is damaged or not a store of orch ({reason}); it was left as it is: restore it from a backup, or move it \
         away to begin with an empty store",
        path.display()
    ))
}

pub(crate) fn newer_format(path: &Path, found: impl Display, known: impl Display) -> StoreError {
    StoreError::Corrupt(format!(
        "{} was written by a newer version (format {found}, this version reads up to {known}); use that version",
        path.display()
    ))
}
