//! The signed store on a real disk.
#![allow(clippy::unwrap_used, reason = "helpers of tests are tests too")]

use std::{collections::BTreeMap, num::NonZeroU64, path::PathBuf, sync::Arc};

use async_trait::async_trait;
use futures_util::StreamExt as _;
use orch_core::{
    store::{CommitError, Key, Position, Revision, StateStore, StoreError, Txn, WatchBatch, Write},
    testkit::store::{StoreHarness, run_all},
};
use orch_store::crdt::{AuthorKey, CrdtStore, CrdtStoreConfig, Hash, Owned, Refusal, ReplicaConfig};

fn author(seed: u8) -> AuthorKey {
    AuthorKey::from_seed(&[seed; 32])
}

fn config(dir: PathBuf, members: &[u8]) -> CrdtStoreConfig {
    let members = members.iter().map(|seed| author(*seed).author()).collect();
    CrdtStoreConfig::new(dir, ReplicaConfig::new(Hash::of(b"a group of tests"), members))
}

struct Crdt(PathBuf);

#[async_trait]
impl StoreHarness for Crdt {
    async fn open(&self, name: &str) -> Arc<dyn StateStore> {
        Arc::new(CrdtStore::open(config(self.0.join(name), &[1]), author(1)).await.unwrap())
    }

    fn reopens(&self) -> bool {
        true
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn crdt_store_conforms() {
    let dir = tempfile::tempdir().unwrap();
    run_all(&Crdt(dir.path().into())).await;
}

fn put(key: Key, value: &str) -> Txn {
    Txn::of(vec![Write::put(key, value.to_owned())])
}

fn key(text: &str) -> Key {
    Key::new(text).unwrap()
}

/// An error with its causes, as a log shows it.
fn full(error: &dyn std::error::Error) -> String {
    std::iter::successors(Some(error), |error| error.source()).map(|error| format!("{error}; ")).collect()
}

#[tokio::test]
async fn what_cannot_be_written_is_refused_with_words() {
    let dir = tempfile::tempdir().unwrap();
    let store = CrdtStore::open(config(dir.path().join("a"), &[1]), author(1)).await.unwrap();
    let stolen = store.commit(put(Owned::key(author(2).author(), "x").unwrap(), "")).await.unwrap_err();
    assert!(full(&stolen).contains("belongs to author"), "{}", full(&stolen));
    let large = (0..5).map(|n| Write::put(key(&format!("k/{n}")), vec![0; 1 << 20])).collect();
    let error = store.commit(Txn::of(large)).await.unwrap_err();
    assert!(matches!(error, CommitError::Store(StoreError::TooLarge { .. })), "{error}");

    let stranger = CrdtStore::open(config(dir.path().join("b"), &[1]), author(2)).await.unwrap();
    let error = stranger.commit(put(key("k"), "")).await.unwrap_err();
    assert!(full(&error).contains("no member"), "{}", full(&error));
    // With others in the group, somebody has to confirm that our disk is not an old copy.
    let lonely = CrdtStore::open(config(dir.path().join("c"), &[1, 2]), author(1)).await.unwrap();
    let CommitError::Store(error) = lonely.commit(put(key("k"), "")).await.unwrap_err() else {
        panic!("no conflict")
    };
    assert!(error.is_retryable() && !error.outcome_unknown(), "{}", full(&error));
    assert!(full(&error).contains("0 of 1"), "{}", full(&error));
    assert_eq!(
        lonely.status().await.unwrap().writes,
        Err(Refusal::NoStartupQuorum { confirmed: 0, needed: 1 })
    );
}

#[tokio::test]
async fn a_store_of_another_group_or_kind_is_refused() {
    let dir = tempfile::tempdir().unwrap();
    let good = config(dir.path().into(), &[1]);
    CrdtStore::open(good.clone(), author(1)).await.unwrap().close().await.unwrap();
    let mut other = good.clone();
    other.replica.group = Hash::of(b"another group");
    let mut confirmations = good.clone();
    confirmations.replica.confirmations = std::num::NonZeroUsize::new(2).unwrap();
    for (bad, says) in [(other, "belongs to group"), (confirmations, "1 confirmations")] {
        let error = CrdtStore::open(bad, author(1)).await.unwrap_err();
        assert!(matches!(error, StoreError::Corrupt(_)), "{error}");
        assert!(error.to_string().contains(says), "{error}");
    }
    let first = CrdtStore::open(good.clone(), author(1)).await.unwrap();
    assert!(matches!(CrdtStore::open(good, author(1)).await, Err(StoreError::Locked(_))));
    first.close().await.unwrap();

    let lost = tempfile::tempdir().unwrap();
    std::fs::write(lost.path().join("crdt.redb"), "").unwrap();
    let error = CrdtStore::open(config(lost.path().into(), &[1]), author(1)).await.unwrap_err();
    assert!(error.to_string().contains("empty, which a new store never is"), "{error}");

    let foreign = tempfile::tempdir().unwrap();
    let database = redb::Database::create(foreign.path().join("crdt.redb")).unwrap();
    let transaction = database.begin_write().unwrap();
    transaction.open_table(redb::TableDefinition::<&str, u64>::new("someone-elses")).unwrap();
    transaction.commit().unwrap();
    drop(database);
    let error = CrdtStore::open(config(foreign.path().into(), &[1]), author(1)).await.unwrap_err();
    assert!(error.to_string().contains("another program's"), "{error}");
}

/// The history of a store, from the earliest possible beginning to its newest revision.
async fn history(store: &CrdtStore) -> Vec<WatchBatch> {
    let from = match store.watch("", Position::ZERO).await {
        Ok(_) => Position::ZERO,
        Err(StoreError::Compacted { oldest }) => oldest,
        Err(error) => panic!("{error}"),
    };
    let end = store.head().await.unwrap();
    let mut watch = store.watch("", from).await.unwrap();
    let mut batches: Vec<WatchBatch> = Vec::new();
    while batches.last().is_none_or(|batch| batch.position.revision < end.revision) {
        batches.push(watch.next().await.unwrap().unwrap());
    }
    batches
}

#[tokio::test(flavor = "multi_thread")]
async fn history_is_read_again_from_segments_that_are_kept_for_it() {
    let dir = tempfile::tempdir().unwrap();
    let mut config = config(dir.path().into(), &[1]);
    config.history_revisions = NonZeroU64::new(40).unwrap();
    let mut expected: BTreeMap<Revision, Vec<Write>> = BTreeMap::new();
    let mut state = 1u64;
    let mut random = move |below: u64| {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (state >> 33) % below
    };
    for _ in 0..8 {
        let store = CrdtStore::open(config.clone(), author(1)).await.unwrap();
        let mut watch = store.watch("", store.head().await.unwrap()).await.unwrap();
        for _ in 0..6 {
            // Transactions that come together share a segment, and write the same keys in it again.
            let txns: Vec<_> = (0..5)
                .map(|_| {
                    // So that each revision shows.
                    let mut writes = vec![Write::put(key("last"), random(1_000_000).to_string())];
                    for _ in 0..random(6) {
                        let key = key(&format!("k/{}", random(12)));
                        writes.push(match random(4) {
                            0 => Write::delete(key),
                            value => Write::put(key, value.to_string()),
                        });
                    }
                    Txn::of(writes)
                })
                .collect();
            let committed =
                futures_util::future::join_all(txns.into_iter().map(|txn| store.commit(txn))).await;
            for _ in committed.into_iter().map(Result::unwrap) {
                let batch = watch.next().await.unwrap().unwrap();
                expected.insert(batch.position.revision, batch.writes);
            }
        }
        drop(watch);
        store.close().await.unwrap();
        drop(store);
        // What watches see after a start comes from the disk.
        let store = CrdtStore::open(config.clone(), author(1)).await.unwrap();
        let batches = history(&store).await;
        assert!(batches.len() >= 30, "{} revisions", batches.len());
        for WatchBatch { position, writes } in batches {
            assert_eq!(writes, expected[&position.revision], "revision {position}");
        }
        store.close().await.unwrap();
    }
}

#[tokio::test]
async fn the_file_stays_as_small_however_often_keys_are_rewritten() {
    let dir = tempfile::tempdir().unwrap();
    let mut config = config(dir.path().into(), &[1]);
    config.history_bytes = 1 << 20;
    let store = CrdtStore::open(config, author(1)).await.unwrap();
    let mut sizes = Vec::new();
    for round in 0..60u8 {
        let writes = (0..1000).map(|n| Write::put(key(&format!("k/{n:04}")), vec![round; 100])).collect();
        store.commit(Txn::of(writes)).await.unwrap();
        sizes.push(std::fs::metadata(dir.path().join("crdt.redb")).unwrap().len());
    }
    assert_eq!(sizes[20], sizes[59], "{sizes:?}");
}

const CHILD_KEY: &str = "ORCH_STORE_TEST_CHILD_KEY";

/// No test by itself: what the next test runs in a process of its own, because variables belong to a whole
/// process.
#[test]
fn child_that_reads_its_key() {
    if std::env::var_os(CHILD_KEY).is_some() {
        println!("I am {}", AuthorKey::from_environment(CHILD_KEY).unwrap().author());
    }
}

#[test]
fn a_key_comes_from_the_environment() {
    let child = std::process::Command::new(std::env::current_exe().unwrap())
        .args(["--exact", "child_that_reads_its_key", "--nocapture"])
        .env(CHILD_KEY, "07".repeat(32))
        .output()
        .unwrap();
    let said = String::from_utf8(child.stdout).unwrap();
    assert!(said.contains(&format!("I am {}", author(7).author())), "{said}");
}
