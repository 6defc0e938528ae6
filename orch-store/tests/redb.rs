//! The redb store on a real disk.
#![allow(clippy::unwrap_used, reason = "helpers of tests are tests too")]

mod common;

use std::{marker::PhantomData, num::NonZeroU64, path::Path, sync::Arc, time::Duration};

use async_trait::async_trait;
use orch_core::{
    store::{StateStore, StoreError},
    testkit::store::{Disturbance, StoreHarness, run_all},
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

    const DISTURBANCES: &'static [Disturbance] = &[Disturbance::ComesBackOlder];

    /// Nothing is being written.
    fn back_up(from: &Path, to: &Path) {
        std::fs::create_dir(to).unwrap();
        std::fs::copy(from.join(Self::FILE), to.join(Self::FILE)).unwrap();
    }

    /// The tables of that format.
    fn make_format_1(file: &Path) {
        let records = redb::TableDefinition::<&str, (u64, &[u8])>::new("records");
        let log = redb::TableDefinition::<u64, &[u8]>::new("log");
        let meta = redb::TableDefinition::<&str, u64>::new("meta");
        let database = redb::Database::create(file).unwrap();
        let transaction = database.begin_write().unwrap();
        {
            let mut records = transaction.open_table(records).unwrap();
            records.insert("a", (2, &b"2"[..])).unwrap();
            records.insert("b", (3, &b"3"[..])).unwrap();
            // The key's length, the key, the value's length and one, the value; no value for a deletion.
            let mut log = transaction.open_table(log).unwrap();
            log.insert(2, &b"\x01\0a\x02\0\0\x002"[..]).unwrap();
            log.insert(3, &b"\x01\0b\x02\0\0\x003\x01\0c\0\0\0\0"[..]).unwrap();
            let mut meta = transaction.open_table(meta).unwrap();
            for (name, number) in [("format", 1), ("revision", 3), ("oldest", 1)] {
                meta.insert(name, number).unwrap();
            }
        }
        transaction.commit().unwrap();
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
