//! The redb store on a real disk.
#![allow(clippy::unwrap_used, reason = "helpers of tests are tests too")]

mod common;

use std::{marker::PhantomData, num::NonZeroU64, path::Path, sync::Arc, time::Duration};

use async_trait::async_trait;
use orch_core::{
    store::{StateStore, StoreError},
    testkit::store::{StoreHarness, run_all},
};
use orch_store::redb::{RedbStore, RedbStoreConfig, SyncPolicy};

use common::file_store::{Below, FileBackend, file_store_suite};

struct Redb;

#[async_trait]
impl FileBackend for Redb {
    const FILE: &'static str = "state.redb";

    async fn open(dir: &Path, history: Option<NonZeroU64>) -> Result<Arc<dyn StateStore>, StoreError> {
        let mut config = RedbStoreConfig::new(dir);
        config.history_revisions = history.unwrap_or(config.history_revisions);
        Ok(Arc::new(RedbStore::open(config).await?))
    }

    fn damaged(good: &[u8]) -> Vec<(&'static str, Vec<u8>)> {
        let (mut no_header, mut no_slots) = (good.to_vec(), good.to_vec());
        no_header[..64].fill(0xAA);
        no_slots[64..320].fill(0xAA);
        vec![
            ("no header", no_header),
            ("no commit slots", no_slots),
            ("cut off", good[..good.len() / 3].to_vec()),
            ("cut off in the header", good[..40].to_vec()),
        ]
    }

    fn make_newer(file: &Path) {
        make(file, "meta");
    }

    fn make_foreign(file: &Path) {
        make(file, "someone-elses");
    }
}

/// Makes a database with one table.
fn make(file: &Path, table: &str) {
    let database = redb::Database::create(file).unwrap();
    let transaction = database.begin_write().unwrap();
    let table = redb::TableDefinition::<&str, u64>::new(table);
    transaction.open_table(table).unwrap().insert("format", 99).unwrap();
    transaction.commit().unwrap();
}

file_store_suite!(Redb);

#[tokio::test(flavor = "multi_thread")]
async fn redb_store_conforms() {
    let dir = tempfile::tempdir().unwrap();
    run_all(&Below(dir.path().into(), PhantomData::<Redb>)).await;
}

/// Stores that sync every few milliseconds.
struct AtIntervals(std::path::PathBuf);

#[async_trait]
impl StoreHarness for AtIntervals {
    async fn open(&self, name: &str) -> Arc<dyn StateStore> {
        let sync = SyncPolicy::Interval(Duration::from_millis(5));
        let config = RedbStoreConfig { sync, ..RedbStoreConfig::new(self.0.join(name)) };
        Arc::new(RedbStore::open(config).await.unwrap())
    }

    fn reopens(&self) -> bool {
        true
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn redb_store_conforms_when_it_syncs_at_intervals() {
    let dir = tempfile::tempdir().unwrap();
    run_all(&AtIntervals(dir.path().into())).await;
}
