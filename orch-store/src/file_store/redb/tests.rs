//! The store on a disk that fails and crashes on purpose.

use std::path::Path;

use futures_util::StreamExt;
use orch_core::store::{CommitError, Key, Position, Revision, StateStore, StoreError, Txn, Write};

use super::{RedbStore, RedbStoreConfig};
use crate::file_store::redb_file::sim_disk::{SimDisk, State, Step};

fn open(disk: &SimDisk) -> Result<RedbStore, StoreError> {
    let path = Path::new("simulated.redb");
    let database =
        crate::file_store::redb_file::open(path, || redb::Builder::new().create_with_backend(disk.clone()))?;
    RedbStore::start_on(&RedbStoreConfig::new("simulated"), path, database)
}

fn put(key: &str, value: &str) -> Write {
    Write::put(Key::new(key).unwrap(), value.to_owned())
}

/// Commit number `n` writes three records at once, so that half of it would show.
fn numbered(n: u64) -> Txn {
    let n = n.to_string();
    Txn::of(vec![put("last", &n), put("mirror", &n), put(&format!("each/{n}"), &"x".repeat(700))])
}

async fn text(store: &RedbStore, key: &str) -> Option<String> {
    let entry = store.get(&Key::new(key).unwrap()).await.unwrap()?;
    Some(String::from_utf8(entry.value.to_vec()).unwrap())
}

#[tokio::test(flavor = "multi_thread")]
async fn nothing_acknowledged_is_lost_by_a_crash_at_any_write() {
    const COMMITS: u64 = 12;
    let disk = SimDisk::default();
    let store = open(&disk).unwrap();
    let made = disk.change(|state| state.steps.len());
    for n in 1..=COMMITS {
        let Position { revision, .. } = store.commit(numbered(n)).await.unwrap();
        assert_eq!(revision, Revision(n));
        disk.change(|state| state.steps.push(Step::Acknowledged(revision)));
    }
    store.close().await.unwrap();

    let total = disk.change(|state| state.steps.len());
    assert!(total - made > 3 * 12, "too few steps to be a test: {total}");
    for cut in made..=total {
        let acknowledged = disk.change(|state| {
            let answers = state.steps[..cut].iter();
            answers.filter_map(|step| if let Step::Acknowledged(at) = step { Some(at.0) } else { None }).max()
        });
        for seed in 0..3 {
            let at = format!("crash after step {cut} of {total}, seed {seed}");
            let store = open(&SimDisk::with(disk.change(|state| state.after_crash(cut, seed))));
            let store = store.unwrap_or_else(|error| panic!("{at}: {error}"));
            let Revision(kept) = store.head().await.unwrap().revision;
            assert!(kept >= acknowledged.unwrap_or(0), "{at}: {kept} kept, {acknowledged:?} acknowledged");
            let expected = (kept > 0).then(|| kept.to_string());
            assert_eq!(text(&store, "last").await, expected, "{at}");
            assert_eq!(text(&store, "mirror").await, expected, "{at}: half a transaction");
            let each = store.scan("each/", None, 100).await.unwrap().entries.len() as u64;
            assert_eq!(each, kept, "{at}");
            let history = store.watch("", Position::ZERO).await.unwrap().take(usize::try_from(kept).unwrap());
            let whole =
                history.all(|item| std::future::ready(item.is_ok_and(|batch| batch.writes.len() == 3)));
            assert!(whole.await, "{at}: the log must have every commit, as a whole");
            store.close().await.unwrap();
        }
    }
}

/// The store must say that it does not know, stop, end its watches with the error, and be well when opened
/// again.
async fn stops_and_recovers(
    disk: &SimDisk,
    break_it: impl FnOnce(&mut State),
    mend: impl FnOnce(&mut State),
    says: &str,
) {
    let store = open(disk).unwrap();
    store.commit(numbered(1)).await.unwrap();
    let watch = store.watch("last", Position::ZERO).await.unwrap();
    disk.change(break_it);
    let failure = loop {
        let large = put("large", &"y".repeat(1 << 20));
        match store
            .commit(Txn::of(vec![large, put(&format!("fill/{}", next_number()), &"z".repeat(1 << 20))]))
            .await
        {
            Ok(_) => {}
            Err(CommitError::Store(error)) => break error,
            Err(conflict) => panic!("{conflict}"),
        }
    };
    assert!(failure.outcome_unknown() && !failure.is_retryable(), "{failure:?}");
    let cause = std::error::Error::source(&failure).unwrap().to_string();
    assert!(cause.contains("simulated.redb") && cause.contains("open the store again"), "{cause}");
    assert!(cause.contains(says), "{cause}");

    let Err(CommitError::Store(after)) = store.commit(numbered(2)).await else {
        panic!("a failed store must stop")
    };
    assert!(!after.outcome_unknown(), "nothing was tried: {after:?}");
    assert!(
        store.get(&Key::new("last").unwrap()).await.is_err(),
        "a failed store must not answer from memory"
    );
    let items: Vec<_> = watch.collect().await;
    assert!(
        items[0].is_ok() && items.last().unwrap().is_err(),
        "a watch must end with the failure: {items:?}"
    );
    store.close().await.unwrap();

    let synced = disk.change(|state| {
        mend(state);
        state.after_crash(state.steps.len(), 7)
    });
    for bytes in [disk.change(|state| state.bytes.clone()), synced] {
        let store = open(&SimDisk::with(bytes)).unwrap();
        assert_eq!(text(&store, "last").await.as_deref(), Some("1"), "what was acknowledged must be there");
        store.commit(numbered(2)).await.unwrap();
    }
}

fn next_number() -> u64 {
    static NEXT: std::sync::atomic::AtomicU64 = std::sync::atomic::AtomicU64::new(0);
    NEXT.fetch_add(1, std::sync::atomic::Ordering::Relaxed)
}

#[tokio::test(flavor = "multi_thread")]
async fn a_failed_sync_stops_the_store_and_loses_nothing_acknowledged() {
    let says = "did not take the change";
    stops_and_recovers(
        &SimDisk::default(),
        |disk| disk.broken_sync = true,
        |disk| disk.broken_sync = false,
        says,
    )
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_full_disk_stops_the_store_and_loses_nothing_acknowledged() {
    let capacity = |disk: &mut State| disk.capacity = Some(disk.bytes.len() + (1 << 20));
    stops_and_recovers(&SimDisk::default(), capacity, |disk| disk.capacity = None, "the disk is full").await;
}
