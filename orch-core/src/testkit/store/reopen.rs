//! Cases of a durable store that is opened again.

use super::{StoreHarness, must_commit, must_put, put, take, value_of};
use crate::store::{Guard, Position, Txn, Write};

/// Records, versions and the revision are restored, and guards work on them.
pub async fn reopening_finds_everything(harness: &dyn StoreHarness) {
    let store = harness.open("reopen").await;
    for n in 0..50 {
        must_put(&*store, &format!("k/{n}"), &n.to_string()).await;
    }
    let last =
        must_commit(&*store, Txn::of(vec![put("k/1", "changed"), Write::delete(super::key("k/2"))])).await;
    let before = store.scan("", None, 1000).await.expect("scan");
    store.close().await.expect("close");
    drop(store);

    let store = harness.open("reopen").await;
    assert_eq!(store.head().await.expect("revision"), last, "the revision must be kept");
    assert_eq!(store.scan("", None, 1000).await.expect("scan"), before, "records and versions must be kept");
    let txn = Txn::of(vec![put("k/1", "again")]).guarded(Guard::Version(super::key("k/1"), last));
    assert!(must_commit(&*store, txn).await.revision > last.revision, "revisions must go on");
    assert_eq!(value_of(&*store, "k/1").await.as_deref(), Some("again"));
}

/// A watch can start in the history from before a restart, and continues live.
pub async fn reopening_keeps_watch_history(harness: &dyn StoreHarness) {
    let store = harness.open("reopen-watch").await;
    let mut revisions = Vec::new();
    for n in 0..10 {
        revisions.push(must_put(&*store, &format!("k/{n}"), "").await);
    }
    store.compact(revisions[2].revision).await.expect("compact");
    store.close().await.expect("close");
    drop(store);

    let store = harness.open("reopen-watch").await;
    assert!(store.watch("", Position::ZERO).await.is_err(), "what was compacted must stay compacted");
    let mut watch = store.watch("k/", revisions[2]).await.expect("watch");
    revisions.push(must_put(&*store, "k/live", "").await);
    let seen: Vec<_> = take(&mut watch, 8).await.into_iter().map(|batch| batch.position).collect();
    assert_eq!(seen, revisions[3..], "the watch must go from the old life into the new one");
}
