//! State of a store's open file, apart from its content.

use std::{
    fmt,
    path::{Path, PathBuf},
    sync::OnceLock,
};

use orch_core::store::StoreError;

use super::error::{self, Cause, EngineError};

/// Open file of a store. It is released when the store closes, and stops for good at the first failed write:
/// what the operating system kept of that one is unknown, and only opening the file again shows it.
pub(crate) trait StoreFile: Send + Sync + 'static {
    /// Path and failure of the file.
    fn status(&self) -> &FileStatus;

    /// Closes the file. Waits for readers that are at it.
    fn release(&self);

    /// Stops the store for good. The first failure counts.
    fn fail(&self, failure: StoreError) {
        self.status().failure.get_or_init(|| failure);
        self.release();
    }
}

/// Path of an open file, and the failure that stopped it.
pub(crate) struct FileStatus {
    backend: &'static str,
    path: PathBuf,
    failure: OnceLock<StoreError>,
}

impl FileStatus {
    /// Status of a file that `backend` has just opened.
    pub(crate) fn new(backend: &'static str, path: &Path) -> Self {
        Self { backend, path: path.into(), failure: OnceLock::new() }
    }

    pub(crate) fn path(&self) -> &Path {
        &self.path
    }

    /// The failure that stopped the store, if one did.
    pub(crate) fn failure(&self) -> Option<&StoreError> {
        self.failure.get()
    }

    /// Error of every call after the file was released.
    pub(crate) fn closed_error(&self) -> StoreError {
        match self.failure() {
            None => StoreError::Closed,
            Some(failure) => {
                let cause = Cause::Stopped { path: self.path.clone(), source: failure.clone() };
                error::backend(self.backend, "working", false, cause)
            }
        }
    }

    /// Error of a write that failed, which may or may not be on the disk.
    pub(crate) fn write_error(&self, operation: &'static str, source: impl Into<EngineError>) -> StoreError {
        error::backend(self.backend, operation, true, Cause::write(&self.path, source))
    }

    /// Error of a call whose writer ended without a failure of the file.
    pub(crate) fn writer_error(&self, outcome_unknown: bool) -> StoreError {
        error::backend(self.backend, "working", outcome_unknown, Cause::Writer { path: self.path.clone() })
    }

    pub(crate) fn opening_error(&self, source: std::io::Error) -> StoreError {
        error::opening(self.backend, &self.path, source)
    }
}

impl fmt::Debug for FileStatus {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("FileStatus").field("path", &self.path).finish_non_exhaustive()
    }
}
