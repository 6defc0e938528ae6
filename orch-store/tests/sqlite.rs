//! The SQLite store on a real disk.
#![allow(clippy::unwrap_used, reason = "helpers of tests are tests too")]

mod common;

use std::{
    marker::PhantomData,
    num::NonZeroU64,
    path::Path,
    sync::{Arc, Mutex},
};

use async_trait::async_trait;
use orch_core::{
    store::{CommitError, StateStore, StoreError},
    testkit::store::{Disturbance, run_all},
};
use orch_store::sqlite::{SqliteStore, SqliteStoreConfig};

use common::{
    file_store::{Below, FileBackend, file_store_suite},
    full, key, put,
};

struct Sqlite;

/// The program that holds a lock.
static OTHER: Mutex<Option<rusqlite::Connection>> = Mutex::new(None);

#[async_trait]
impl FileBackend for Sqlite {
    const FILE: &'static str = "orch.sqlite";

    async fn open(dir: &Path, history: Option<NonZeroU64>) -> Result<Arc<dyn StateStore>, StoreError> {
        let mut config = SqliteStoreConfig::new(dir);
        config.history_revisions = history.unwrap_or(config.history_revisions);
        Ok(Arc::new(SqliteStore::open(config).await?))
    }

    const DISTURBANCES: &'static [Disturbance] = &[Disturbance::ComesBackOlder, Disturbance::Locked];

    fn back_up(from: &Path, to: &Path) {
        std::fs::create_dir(to).unwrap();
        let into = format!("VACUUM INTO '{}'", to.join(Self::FILE).display());
        rusqlite::Connection::open(from.join(Self::FILE)).unwrap().execute_batch(&into).unwrap();
    }

    /// Another program writes, and takes its time.
    fn begin(_: Disturbance, dir: &Path) {
        let other = rusqlite::Connection::open(dir.join(Self::FILE)).unwrap();
        other.execute_batch("BEGIN IMMEDIATE").unwrap();
        OTHER.lock().unwrap().replace(other);
    }

    fn end(_: Disturbance, _: &Path) {
        OTHER.lock().unwrap().take();
    }

    fn make_format_1(file: &Path) {
        make(file, include_str!("formats/sqlite-1.sql"));
    }

    fn damaged(good: &[u8]) -> Vec<(&'static str, Vec<u8>)> {
        let (mut no_header, mut no_schema) = (good.to_vec(), good.to_vec());
        no_header[..64].fill(0xAA);
        no_schema[100..4096].fill(0xAA);
        vec![
            ("no header", no_header),
            ("no schema", no_schema),
            ("cut off in the header", good[..60].to_vec()),
        ]
    }

    fn make_newer(file: &Path) {
        make(file, "PRAGMA application_id = 1869767528; PRAGMA user_version = 99");
    }

    fn make_foreign(file: &Path) {
        make(file, "CREATE TABLE theirs (id INTEGER)");
    }
}

fn make(file: &Path, sql: &str) {
    rusqlite::Connection::open(file).unwrap().execute_batch(sql).unwrap();
}

file_store_suite!(Sqlite);

#[tokio::test(flavor = "multi_thread")]
async fn sqlite_store_conforms() {
    let dir = tempfile::tempdir().unwrap();
    run_all(&Below(dir.path().into(), PhantomData::<Sqlite>)).await;
}

#[tokio::test]
async fn people_can_look_into_the_file_while_the_store_works() {
    let dir = tempfile::tempdir().unwrap();
    let store = SqliteStore::open(SqliteStoreConfig::new(dir.path())).await.unwrap();
    store.commit(put("tasks/1", "{\"v\":1}")).await.unwrap();
    let looks = rusqlite::Connection::open_with_flags(
        dir.path().join("orch.sqlite"),
        rusqlite::OpenFlags::SQLITE_OPEN_READ_ONLY,
    )
    .unwrap();
    let see = || {
        let query = "SELECT group_concat(key || '=' || value || '@' || version, ' ') FROM readable";
        looks.query_row(query, [], |row| row.get::<_, String>(0)).unwrap()
    };
    assert_eq!(see(), "tasks/1={\"v\":1}@1");
    store.commit(put("tasks/2", "ä")).await.unwrap();
    assert_eq!(see(), "tasks/1={\"v\":1}@1 tasks/2=ä@2");
    let mode: String = looks.pragma_query_value(None, "journal_mode", |row| row.get(0)).unwrap();
    assert_eq!(mode, "wal");
}

#[tokio::test(flavor = "multi_thread")]
async fn more_readers_than_connections_all_get_an_answer() {
    let dir = tempfile::tempdir().unwrap();
    let store = Arc::new(SqliteStore::open(SqliteStoreConfig::new(dir.path())).await.unwrap());
    store.commit(put("a", "1")).await.unwrap();
    let readers = (0..64).map(|_| {
        let store = Arc::clone(&store);
        tokio::spawn(async move { store.scan("", None, 10).await.unwrap().entries.len() })
    });
    for reader in readers.collect::<Vec<_>>() {
        assert_eq!(reader.await.unwrap(), 1);
    }
}

async fn open(dir: &Path) -> Result<SqliteStore, StoreError> {
    SqliteStore::open(SqliteStoreConfig::new(dir)).await
}

#[cfg(unix)]
#[tokio::test]
async fn a_removed_lock_file_lets_no_second_store_in() {
    let dir = tempfile::tempdir().unwrap();
    let store = open(dir.path()).await.unwrap();
    std::fs::remove_file(dir.path().join("orch.lock")).unwrap();
    assert!(matches!(open(dir.path()).await, Err(StoreError::Locked(_))));
    store.close().await.unwrap();
    open(dir.path()).await.unwrap();
}

#[tokio::test]
async fn a_store_that_another_process_overtook_stops_and_writes_nothing() {
    let dir = tempfile::tempdir().unwrap();
    let store = open(dir.path()).await.unwrap();
    store.commit(put("a", "1")).await.unwrap();
    make(&dir.path().join("orch.sqlite"), "UPDATE meta SET revision = 2");
    let Err(CommitError::Store(error)) = store.commit(put("b", "1")).await else {
        panic!("revision 2 is theirs")
    };
    assert!(matches!(&error, StoreError::Locked(text) if text.contains("another process")), "{error}");
    assert!(!error.outcome_unknown());
    assert!(full(&store.get(&key("a")).await.unwrap_err()).contains("another process"));
    store.close().await.unwrap();
    let store = open(dir.path()).await.unwrap();
    assert_eq!(store.head().await.unwrap().revision.0, 2);
    assert_eq!(store.scan("", None, 10).await.unwrap().entries.len(), 1);
}

#[tokio::test]
async fn a_crash_while_the_store_is_made_leaves_a_directory_that_can_be_opened() {
    let dir = tempfile::tempdir().unwrap();
    for (name, content) in [("orch.sqlite.new", &b"half of"[..]), ("orch.sqlite.new-journal", b"something")] {
        std::fs::write(dir.path().join(name), content).unwrap();
    }
    let store = open(dir.path()).await.unwrap();
    store.commit(put("a", "1")).await.unwrap();
    store.close().await.unwrap();
    let mut names: Vec<_> =
        std::fs::read_dir(dir.path()).unwrap().map(|entry| entry.unwrap().file_name()).collect();
    names.sort();
    assert_eq!(names, ["orch.lock", "orch.sqlite", "orch.sqlite.reserve"]);
}

#[tokio::test]
async fn a_file_that_was_lost_beside_its_log_is_no_new_store() {
    let dir = tempfile::tempdir().unwrap();
    std::fs::write(dir.path().join("orch.sqlite-wal"), "commits").unwrap();
    let error = open(dir.path()).await.unwrap_err();
    assert!(matches!(&error, StoreError::Corrupt(text) if text.contains("orch.sqlite-wal")), "{error}");
    assert!(!dir.path().join("orch.sqlite").exists());
}
