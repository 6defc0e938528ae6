//! The redb store on a real disk: the conformance suite, a killed process, and the ways that opening fails.
#![allow(clippy::unwrap_used, clippy::print_stdout, reason = "helpers of tests are tests too")]

use std::{
    fs,
    num::NonZeroU64,
    path::{Path, PathBuf},
    process::Stdio,
    sync::Arc,
    time::Duration,
};

use async_trait::async_trait;
use futures_util::StreamExt;
use orch_core::{
    store::{Key, Revision, StateStore, StoreError, Txn, Write},
    testkit::store::{StoreHarness, run_all},
};
use orch_store::redb::{RedbStore, RedbStoreConfig, SyncPolicy};
use tokio::io::{AsyncBufReadExt, BufReader};

struct Redb {
    base: PathBuf,
    sync: SyncPolicy,
}

#[async_trait]
impl StoreHarness for Redb {
    async fn open(&self, name: &str) -> Arc<dyn StateStore> {
        let config = RedbStoreConfig { sync: self.sync, ..RedbStoreConfig::new(self.base.join(name)) };
        Arc::new(RedbStore::open(config).await.unwrap())
    }

    fn reopens(&self) -> bool {
        true
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn redb_store_conforms() {
    let dir = tempfile::tempdir().unwrap();
    run_all(&Redb { base: dir.path().into(), sync: SyncPolicy::EachCommit }).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn redb_store_conforms_when_it_syncs_at_intervals() {
    let dir = tempfile::tempdir().unwrap();
    run_all(&Redb { base: dir.path().into(), sync: SyncPolicy::Interval(Duration::from_millis(5)) }).await;
}

fn put(key: &str, value: &str) -> Txn {
    Txn::of(vec![Write::put(Key::new(key).unwrap(), value.to_owned())])
}

async fn opening_fails(dir: &Path) -> StoreError {
    RedbStore::open(RedbStoreConfig::new(dir)).await.expect_err("opening must fail")
}

/// An error with its causes, as a log shows it.
fn full(error: &dyn std::error::Error) -> String {
    std::iter::successors(Some(error), |error| error.source()).map(|error| format!("{error}; ")).collect()
}

const CHILD_DIR: &str = "ORCH_STORE_TEST_CHILD_DIR";

/// No test by itself: what the next test runs in a process of its own, and kills.
#[tokio::test(flavor = "multi_thread")]
async fn child_that_commits_until_killed() {
    let Some(dir) = std::env::var_os(CHILD_DIR) else { return };
    let store = Arc::new(RedbStore::open(RedbStoreConfig::new(dir)).await.unwrap());
    let writers = (0..8).map(|writer| {
        let store = Arc::clone(&store);
        tokio::spawn(async move {
            for n in 0u64.. {
                let revision = store.commit(put(&format!("k/{writer}-{n}"), "v")).await.unwrap();
                println!("acknowledged k/{writer}-{n} {revision}");
            }
        })
    });
    for writer in writers.collect::<Vec<_>>() {
        writer.await.unwrap();
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn everything_acknowledged_survives_kill_9() {
    let dir = tempfile::tempdir().unwrap();
    for round in 1..=3 {
        let mut child = tokio::process::Command::new(std::env::current_exe().unwrap())
            .args(["--exact", "child_that_commits_until_killed", "--nocapture"])
            .env(CHILD_DIR, dir.path())
            .stdout(Stdio::piped())
            .kill_on_drop(true)
            .spawn()
            .unwrap();
        let mut lines = BufReader::new(child.stdout.take().unwrap()).lines();
        let mut acknowledged = Vec::new();
        while let Some(line) = lines.next_line().await.unwrap() {
            // The first line follows on what the test harness prints.
            let Some((_, commit)) = line.split_once("acknowledged ") else { continue };
            let (key, revision) = commit.split_once(' ').unwrap();
            acknowledged.push((key.to_owned(), revision.parse().map(Revision).unwrap()));
            if acknowledged.len() == 200 {
                let error = opening_fails(dir.path()).await;
                assert!(matches!(error, StoreError::Locked(_)), "{error}");
                let text = error.to_string();
                assert!(
                    text.contains("another manager") && text.contains(dir.path().to_str().unwrap()),
                    "{text}"
                );
                child.start_kill().unwrap();
            }
        }
        child.wait().await.unwrap();

        let store = RedbStore::open(RedbStoreConfig::new(dir.path())).await.unwrap();
        assert!(acknowledged.len() >= 200);
        let last = acknowledged.iter().map(|(_, revision)| *revision).max().unwrap();
        assert!(store.revision().await.unwrap() >= last);
        for (key, revision) in acknowledged {
            let entry = store.get(&Key::new(&key).unwrap()).await.unwrap();
            assert_eq!(
                entry.map(|entry| entry.version),
                Some(revision),
                "round {round}: {key} was acknowledged"
            );
        }
        store.close().await.unwrap();
    }
}

#[tokio::test]
async fn a_second_store_in_the_same_directory_waits_for_the_first_to_close() {
    let dir = tempfile::tempdir().unwrap();
    let first = RedbStore::open(RedbStoreConfig::new(dir.path())).await.unwrap();
    assert!(matches!(opening_fails(dir.path()).await, StoreError::Locked(_)));
    first.commit(put("a", "1")).await.unwrap();
    first.close().await.unwrap();
    let second = RedbStore::open(RedbStoreConfig::new(dir.path())).await.unwrap();
    assert!(second.get(&Key::new("a").unwrap()).await.unwrap().is_some());
}

#[tokio::test]
async fn the_log_on_disk_is_bounded_and_answers_compacted() {
    let dir = tempfile::tempdir().unwrap();
    let config = RedbStoreConfig {
        history_revisions: NonZeroU64::new(40).unwrap(),
        ..RedbStoreConfig::new(dir.path())
    };
    let store = RedbStore::open(config.clone()).await.unwrap();
    let mut slow = store.watch("", Revision::ZERO).await.unwrap();
    for n in 0..100 {
        store.commit(put("k", &n.to_string())).await.unwrap();
    }
    let Some(Err(StoreError::Compacted { oldest })) = slow.next().await else {
        panic!("the watch must fall out")
    };
    assert!((50..=60).contains(&oldest.0), "{oldest}");
    store.close().await.unwrap();
    let store = RedbStore::open(config).await.unwrap();
    let watch = store.watch("", oldest).await.unwrap();
    let batches: Vec<_> = watch.take(usize::try_from(100 - oldest.0).unwrap()).collect().await;
    assert_eq!(batches[0].as_ref().unwrap().revision, oldest.next());
    assert!(batches.iter().all(Result::is_ok));
}

#[tokio::test]
async fn a_damaged_file_is_named_and_left_alone() {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("state.redb");
    let store = RedbStore::open(RedbStoreConfig::new(dir.path())).await.unwrap();
    for n in 0..100 {
        store.commit(put(&format!("k/{n}"), &"v".repeat(100))).await.unwrap();
    }
    store.close().await.unwrap();
    let good = fs::read(&file).unwrap();
    let mut no_header = good.clone();
    no_header[..64].fill(0xAA);
    let mut no_slots = good.clone();
    no_slots[64..320].fill(0xAA);
    for (what, bad) in [
        ("text", b"dear diary, this is not a database at all".to_vec()),
        ("no header", no_header),
        ("no commit slots", no_slots),
        ("cut off", good[..good.len() / 3].to_vec()),
        ("cut off in the header", good[..40].to_vec()),
    ] {
        fs::write(&file, &bad).unwrap();
        let error = opening_fails(dir.path()).await;
        assert!(matches!(error, StoreError::Corrupt(_)), "{what}: {}", full(&error));
        assert!(error.to_string().contains(file.to_str().unwrap()), "{what}: {error}");
        assert!(error.to_string().contains("backup"), "{what}: {error}");
        assert_eq!(fs::read(&file).unwrap(), bad, "{what}: the file must be left as it is");
    }
    fs::write(&file, good).unwrap();
    let store = RedbStore::open(RedbStoreConfig::new(dir.path())).await.unwrap();
    assert_eq!(store.revision().await.unwrap(), Revision(100));
}

#[tokio::test]
async fn a_newer_format_and_a_foreign_database_are_refused() {
    const META: redb::TableDefinition<'_, &str, u64> = redb::TableDefinition::new("meta");
    const OTHER: redb::TableDefinition<'_, &str, u64> = redb::TableDefinition::new("someone-elses");
    for (table, says) in [(META, "newer version (format 99"), (OTHER, "another program's")] {
        let dir = tempfile::tempdir().unwrap();
        let database = redb::Database::create(dir.path().join("state.redb")).unwrap();
        let transaction = database.begin_write().unwrap();
        transaction.open_table(table).unwrap().insert("format", 99).unwrap();
        transaction.commit().unwrap();
        drop(database);
        let error = opening_fails(dir.path()).await.to_string();
        assert!(error.contains(says), "{error}");
    }
}

#[cfg(unix)]
#[tokio::test]
async fn nobody_but_the_owner_may_read_the_file() {
    use std::os::unix::fs::PermissionsExt as _;
    let dir = tempfile::tempdir().unwrap();
    let store = RedbStore::open(RedbStoreConfig::new(dir.path())).await.unwrap();
    store.close().await.unwrap();
    for file in std::fs::read_dir(dir.path()).unwrap() {
        let mode = file.as_ref().unwrap().metadata().unwrap().permissions().mode();
        assert_eq!(mode & 0o077, 0, "{file:?} has mode {mode:o}");
    }
}

#[tokio::test]
async fn a_directory_that_cannot_be_used_is_named() {
    let dir = tempfile::tempdir().unwrap();
    let occupied = dir.path().join("occupied");
    fs::write(&occupied, "a file").unwrap();
    for bad in [occupied.clone(), occupied.join("below")] {
        let text = full(&opening_fails(&bad).await);
        assert!(text.contains(bad.to_str().unwrap()) && text.contains("check that"), "{text}");
    }
}
