//! A redb file that is open until its store closes or fails: that of the redb store, and of the signed store.

pub(crate) mod error;
pub(crate) mod new_file;
#[cfg(test)]
pub(crate) mod sim_disk;

use std::{
    panic::{AssertUnwindSafe, catch_unwind},
    path::Path,
};

use orch_core::store::StoreError;
use parking_lot::RwLock;
use redb::{Database, DatabaseError};

use super::{
    error::corrupt,
    status::{FileStatus, StoreFile},
};

/// Name of the backend in messages.
pub(crate) const NAME: &str = "redb";

/// Open redb file. Readers hold the lock around the database for as long as they read; it is taken out when
/// the store closes or fails, which releases the file's own lock.
#[derive(Debug)]
pub(crate) struct RedbFile {
    status: FileStatus,
    database: RwLock<Option<Database>>,
}

impl RedbFile {
    pub(crate) fn new(path: &Path, database: Database) -> Self {
        Self { status: FileStatus::new(NAME, path), database: RwLock::new(Some(database)) }
    }

    pub(crate) fn read<T>(
        &self,
        read: impl FnOnce(&Database) -> Result<T, redb::Error>,
    ) -> Result<T, StoreError> {
        let database = self.database.read();
        let database = database.as_ref().ok_or_else(|| self.status.closed_error())?;
        read(database).map_err(|error| error::reading(self.status.path(), error))
    }

    /// Runs a write. A failed one stops the store.
    pub(crate) fn write<T>(
        &self,
        operation: &'static str,
        write: impl FnOnce(&Database) -> Result<T, redb::Error>,
    ) -> Result<T, StoreError> {
        let result = {
            let database = self.database.read();
            write(database.as_ref().ok_or_else(|| self.status.closed_error())?)
        };
        result.map_err(|source| {
            let failure = self.status.write_error(operation, error::below(source));
            #[cfg(feature = "redb")]
            super::reserve::release_for(self.status.path(), &failure);
            self.fail(failure.clone());
            failure
        })
    }
}

impl StoreFile for RedbFile {
    fn status(&self) -> &FileStatus {
        &self.status
    }

    fn release(&self) {
        self.database.write().take();
    }
}

/// Opens a database. A damaged file may break an assumption of redb's reader, which then panics.
pub(crate) fn open(
    path: &Path,
    open: impl FnOnce() -> Result<Database, DatabaseError>,
) -> Result<Database, StoreError> {
    match catch_unwind(AssertUnwindSafe(open)) {
        Ok(opened) => opened.map_err(|error| error::database(path, error)),
        Err(_) => Err(corrupt(path, "its pages contradict each other")),
    }
}
