//! Records in one file of this machine that people can look into: `sqlite3 orch.sqlite 'select * from
//! readable'`, also while the store is open. Looking is free; changing records by hand goes past the
//! revisions and the log, so that no watch would show it.
//!
//! | table | holds |
//! |---|---|
//! | `records` | key, value, and the revision that wrote it |
//! | `log` | what each of the newest revisions changed, for watches |
//! | `commits` | the id of each commit in the log |
//! | `meta` | the newest revision, and where the log begins |
//! | `readable` | a view of the records as text |
//!
//! The file is in WAL mode and synced before each acknowledgement (`synchronous=FULL`), so that acknowledged
//! commits survive a power cut. Commits that wait together share one sync. One process at a time writes: it
//! holds a lock on `orch.lock` beside the file and on the directory, and a second one is answered
//! [`StoreError::Locked`]. One that writes all the same stops the first with that error, at its next commit
//! and before that writes anything. The directory has to be on a disk of this machine.
//!
//! A program that looks may hold up commits while it holds a lock on the file; after ten seconds they are
//! refused, retryable, with nothing written. An empty file is damage: a new store gets its name when it is
//! complete.
//!
//! On a full disk not even a delete could be written. So 8 MiB are kept in `orch.sqlite.reserve`, which is
//! removed when the disk is full, and made again when the store is opened and there is space.
//!
//! A commit that fails on the disk is reported with [`StoreError::outcome_unknown`], and the store stops
//! there: it answers every further call with the failure, and opening it again shows what is on the disk.

mod batch;
mod config;
mod engine;
mod error;
mod lock;
mod rows;
#[cfg(test)]
mod tests;

use orch_core::store::{Durability, StoreCapabilities, StoreError};

use self::lock::DirLock;
pub use self::{config::SqliteStoreConfig, engine::SqliteEngine};
use super::{
    FileStore,
    engine::Engine as _,
    error::opening,
    open::{blocking, is_there, prepare_dir},
    reserve,
    store::{Settings, start},
};

/// The file in the store's directory.
const FILE: &str = "orch.sqlite";

/// A durable [`StateStore`](orch_core::store::StateStore) in one SQLite file, for one process.
pub type SqliteStore = FileStore<SqliteEngine>;

impl FileStore<SqliteEngine> {
    /// Opens the store in the configured directory, making what is missing.
    ///
    /// # Errors
    /// [`StoreError::Locked`] when another process has it, [`StoreError::Corrupt`] when the file cannot be
    /// understood (or comes from a newer version), [`StoreError::Backend`] when the directory cannot be used.
    /// The file is left as it is then.
    pub async fn open(config: SqliteStoreConfig) -> Result<Self, StoreError> {
        blocking(move || {
            let path = config.dir.join(FILE);
            let failed = |error| opening(SqliteEngine::NAME, &path, error);
            prepare_dir(&config.dir).map_err(failed)?;
            let lock = DirLock::take(&config.dir, &path)?;
            if !is_there(SqliteEngine::NAME, &path)? {
                SqliteEngine::make(&path)?;
            }
            let opened = SqliteEngine::open(&path, lock, config.readers.get());
            let (engine, bounds) = opened.inspect_err(|failure| reserve::release_for(&path, failure))?;
            reserve::keep(&path);
            let capabilities = StoreCapabilities::new(SqliteEngine::NAME)
                .compare_and_swap(true)
                .outcomes(true)
                .durability(Durability::Sync)
                .max_value_bytes(config.max_value_bytes)
                .max_txn_writes(config.max_txn_writes);
            let (history_revisions, queue_bytes) = (config.history_revisions, config.queue_bytes);
            let settings = Settings { capabilities, history_revisions, queue_bytes, sync_interval: None };
            start(engine, bounds, settings)
        })
        .await
    }
}
