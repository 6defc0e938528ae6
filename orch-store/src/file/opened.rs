//! A redb file that is open until its store closes or fails.

use std::{
    fmt,
    path::{Path, PathBuf},
    sync::{OnceLock, PoisonError, RwLock},
};

use orch_core::store::StoreError;
use redb::Database;

use super::error::{self, Cause};

/// An open file. The database is taken out when the store closes or fails, which releases the file's lock;
/// until then readers hold the lock around it for as long as they read.
pub(crate) struct File {
    path: PathBuf,
    database: RwLock<Option<Database>>,
    failure: OnceLock<StoreError>,
}

impl File {
    pub(crate) fn new(path: &Path, database: Database) -> Self {
        Self { path: path.into(), database: RwLock::new(Some(database)), failure: OnceLock::new() }
    }

    pub(crate) fn path(&self) -> &Path {
        &self.path
    }

    /// Lets go of the file. Waits for readers that are at it.
    pub(crate) fn release(&self) {
        self.database.write().unwrap_or_else(PoisonError::into_inner).take();
    }

    /// Error of every call after the file was released.
    pub(crate) fn closed_error(&self) -> StoreError {
        match self.failure.get() {
            None => StoreError::Closed,
            Some(failure) => {
                let cause = Cause::Stopped { path: self.path.clone(), source: failure.clone() };
                error::backend("working", false, cause)
            }
        }
    }

    /// Why the store stopped, if it did.
    #[cfg(feature = "crdt")]
    pub(crate) fn failure(&self) -> Option<StoreError> {
        self.failure.get().cloned()
    }

    pub(crate) fn read<T>(
        &self,
        read: impl FnOnce(&Database) -> Result<T, redb::Error>,
    ) -> Result<T, StoreError> {
        let database = self.database.read().unwrap_or_else(PoisonError::into_inner);
        let database = database.as_ref().ok_or_else(|| self.closed_error())?;
        read(database).map_err(|error| error::reading(&self.path, error))
    }

    /// A failed write may or may not be on the disk, and what the operating system kept of it is unknown: the
    /// store stops here, and only opening it again shows its state.
    pub(crate) fn write<T>(
        &self,
        operation: &'static str,
        write: impl FnOnce(&Database) -> Result<T, redb::Error>,
    ) -> Result<T, StoreError> {
        let result = {
            let database = self.database.read().unwrap_or_else(PoisonError::into_inner);
            write(database.as_ref().ok_or_else(|| self.closed_error())?)
        };
        result.map_err(|source| {
            let failure = error::backend(operation, true, Cause::Write { path: self.path.clone(), source });
            self.fail(failure.clone());
            failure
        })
    }

    /// Stops the store for good.
    pub(crate) fn fail(&self, failure: StoreError) {
        self.failure.get_or_init(|| failure);
        self.release();
    }
}

impl fmt::Debug for File {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("File").field("path", &self.path).finish_non_exhaustive()
    }
}
