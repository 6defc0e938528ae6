//! Records in one file of this machine: for a single manager, or as the disk below a consensus.
//!
//! Acknowledged commits survive a power cut. A commit that fails on the disk is reported with
//! [`StoreError::outcome_unknown`], and the store stops there: every further call fails with that error, and
//! opening it again shows what is on the disk. Nothing that was acknowledged before is lost by that.
//!
//! On a full disk not even a delete could be written. So 8 MiB are kept in `state.redb.reserve`, which is
//! removed when the disk is full, and made again when the store is opened and there is space.

mod codec;
mod compact;
mod config;
mod engine;
mod migrate;
#[cfg(test)]
mod tests;

use std::path::Path;

use orch_core::store::{Durability, StoreCapabilities, StoreError};
use redb::Database;

use self::engine::create_tables;
pub use self::{
    config::{RedbStoreConfig, SyncPolicy},
    engine::RedbEngine,
};
use super::{
    FileStore,
    engine::Engine as _,
    error::opening,
    open::{blocking, is_there, prepare_dir},
    redb_file, reserve,
    store::{Settings, start},
};

/// The file in the store's directory.
const FILE: &str = "state.redb";

/// A durable [`StateStore`](orch_core::store::StateStore) in one file, through redb, for one process.
pub type RedbStore = FileStore<RedbEngine>;

impl FileStore<RedbEngine> {
    /// Opens the store in the configured directory, making what is missing. After a crash this checks the
    /// entire file. A file of 64 MiB or more of which less than a quarter is used is made smaller.
    ///
    /// # Errors
    /// [`StoreError::Locked`] when another process has it, [`StoreError::Corrupt`] when the file cannot be
    /// understood (or comes from a newer version), [`StoreError::Backend`] when the directory cannot be used.
    /// The file is left as it is then.
    pub async fn open(config: RedbStoreConfig) -> Result<Self, StoreError> {
        blocking(move || {
            let path = config.dir.join(FILE);
            prepare_dir(&config.dir).map_err(|error| opening(RedbEngine::NAME, &path, error))?;
            if !is_there(RedbEngine::NAME, &path)? {
                redb_file::new_file::make(&path, |database| create_tables(database).map(drop))?;
            }
            let open = || {
                let create = || redb::Builder::new().set_cache_size(config.cache_bytes).create(&path);
                redb_file::open(&path, create)
            };
            let mut database = open().inspect_err(|failure| reserve::release_for(&path, failure))?;
            if let Err(error) = compact::shrink(&path, &mut database) {
                tracing::warn!(path = %path.display(), %error, "the file keeps more space than it needs");
                // What failed once is not used again.
                drop(database);
                database = open()?;
            }
            let opened = Self::start_on(&config, &path, database);
            let store = opened.inspect_err(|failure| reserve::release_for(&path, failure))?;
            reserve::keep(&path);
            Ok(store)
        })
        .await
    }

    fn start_on(config: &RedbStoreConfig, path: &Path, database: Database) -> Result<Self, StoreError> {
        let (engine, bounds) = RedbEngine::new(path, database)?;
        let (durability, sync_interval) = match config.sync {
            SyncPolicy::EachCommit => (Durability::Sync, None),
            SyncPolicy::Interval(interval) => (Durability::Memory, Some(interval)),
        };
        let capabilities = StoreCapabilities::new(RedbEngine::NAME)
            .compare_and_swap(true)
            .outcomes(true)
            .durability(durability)
            .max_value_bytes(config.max_value_bytes)
            .max_txn_writes(config.max_txn_writes);
        let (history_revisions, queue_bytes) = (config.history_revisions, config.queue_bytes);
        start(engine, bounds, Settings { capabilities, history_revisions, queue_bytes, sync_interval })
    }
}
