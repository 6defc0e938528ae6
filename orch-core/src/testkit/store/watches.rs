//! Cases of watches: gapless, in order, and with an error where history was compacted.

use std::sync::Arc;

use futures_util::StreamExt;

use super::{StoreHarness, key, must_commit, must_put, next, put, take};
use crate::store::{Position, StateStore, StoreError, Txn, WatchBatch, Write};

/// A watch delivers the history after its start, then live changes, each change once.
pub async fn watches_go_from_the_past_to_live(harness: &dyn StoreHarness) {
    let store = harness.open("watch-past").await;
    let first = must_put(&*store, "a", "1").await;
    let second = must_commit(&*store, Txn::of(vec![put("c", "2"), put("b", "2"), put("b", "3")])).await;
    let mut all = store.watch("", Position::ZERO).await.expect("watch");
    let mut later = store.watch("", first).await.expect("watch");
    let third = must_commit(&*store, Txn::of(vec![Write::delete(key("b"))])).await;
    let expected = [
        WatchBatch { position: first, writes: vec![put("a", "1")] },
        WatchBatch { position: second, writes: vec![put("b", "3"), put("c", "2")] },
        WatchBatch { position: third, writes: vec![Write::delete(key("b"))] },
    ];
    assert_eq!(take(&mut all, 3).await, expected, "from the beginning");
    assert_eq!(
        take(&mut later, 2).await,
        expected[1..],
        "from revision {first}, which is not itself delivered"
    );
}

/// A watch from the newest revision delivers nothing old.
pub async fn watches_of_the_future_wait(harness: &dyn StoreHarness) {
    let store = harness.open("watch-future").await;
    let before = must_put(&*store, "a", "1").await;
    let mut watch = store.watch("", before).await.expect("watch");
    let waiting = tokio::spawn(async move { next(&mut watch).await });
    let after = must_put(&*store, "a", "2").await;
    let batch = waiting.await.expect("the watch must not panic");
    assert_eq!(batch, WatchBatch { position: after, writes: vec![put("a", "2")] });
}

/// A watch sees the changes under its prefix and no batch without any.
pub async fn watches_filter_by_prefix(harness: &dyn StoreHarness) {
    let store = harness.open("watch-prefix").await;
    let mut watch = store.watch("t/", Position::ZERO).await.expect("watch");
    must_put(&*store, "t", "no").await;
    let mixed =
        must_commit(&*store, Txn::of(vec![put("n/1", "no"), put("t/1", "yes"), put("tt", "no")])).await;
    must_put(&*store, "u", "no").await;
    let last = must_put(&*store, "t/2", "yes").await;
    let expected = [
        WatchBatch { position: mixed, writes: vec![put("t/1", "yes")] },
        WatchBatch { position: last, writes: vec![put("t/2", "yes")] },
    ];
    assert_eq!(take(&mut watch, 2).await, expected);
}

/// Watches that begin at different moments, while writers write, all see the same sequence.
pub async fn watches_agree_while_writers_write(harness: &dyn StoreHarness) {
    const WRITERS: usize = 4;
    const EACH: usize = 50;
    let store = harness.open("watch-many").await;
    let mut watches = Vec::new();
    let mut writers = Vec::new();
    for writer in 0..WRITERS {
        let writing = Arc::clone(&store);
        writers.push(tokio::spawn(async move {
            for n in 0..EACH {
                must_put(&*writing, &format!("w/{writer}"), &n.to_string()).await;
            }
        }));
        for _ in 0..4 {
            let mut watch = store.watch("w/", Position::ZERO).await.expect("watch");
            watches.push(tokio::spawn(async move { take(&mut watch, WRITERS * EACH).await }));
        }
    }
    for writer in writers {
        writer.await.expect("a writer must not panic");
    }
    let mut seen = Vec::new();
    for watch in watches {
        seen.push(watch.await.expect("a watch must not panic"));
    }
    assert!(seen[0].is_sorted_by(|a, b| a.position.revision < b.position.revision), "revisions must go up");
    for other in &seen[1..] {
        assert_eq!(other, &seen[0], "two watches saw different histories");
    }
    for writer in 0..WRITERS {
        let at = key(&format!("w/{writer}"));
        let values: Vec<_> =
            seen[0].iter().flat_map(|batch| &batch.writes).filter(|write| write.key == at).collect();
        let expected: Vec<_> = (0..EACH).map(|n| put(at.as_str(), &n.to_string())).collect();
        assert_eq!(
            values,
            expected.iter().collect::<Vec<_>>(),
            "the writes of one writer must come in its order"
        );
    }
}

/// After compaction late watches end with an error that asks for a new scan; records and newer history stay.
pub async fn compaction_ends_late_watches(harness: &dyn StoreHarness) {
    let store = harness.open("compaction").await;
    let mut revisions = Vec::new();
    for n in 0..10 {
        revisions.push(must_put(&*store, &format!("k/{n}"), "").await);
    }
    store.compact(revisions[4].revision).await.expect("compact");
    for early in [Position::ZERO, revisions[3]] {
        match first_of(&*store, early).await {
            Some(Err(StoreError::Compacted { oldest })) => {
                assert!(
                    oldest.revision > early.revision && oldest.revision <= revisions[9].revision,
                    "the answer must name a start that works"
                );
                let again = store.watch("", oldest).await;
                assert!(again.is_ok(), "a watch from the revision named by Compacted must start");
            }
            other => panic!("a watch from {early} after compaction must answer Compacted, not {other:?}"),
        }
    }
    let mut watch =
        store.watch("", revisions[4]).await.expect("a watch from the compacted revision must start");
    let kept: Vec<_> = take(&mut watch, 5).await.into_iter().map(|batch| batch.position).collect();
    assert_eq!(kept, revisions[5..], "what was not compacted must be delivered");
    store.compact(revisions[2].revision).await.expect("compacting less than before is no error");
    assert_eq!(store.scan("k/", None, 100).await.expect("scan").entries.len(), 10, "records must stay");
}

/// First item of a watch, whether it failed at once or in its stream.
async fn first_of(store: &dyn StateStore, from: Position) -> Option<Result<WatchBatch, StoreError>> {
    match store.watch("", from).await {
        Ok(mut watch) => watch.next().await,
        Err(error) => Some(Err(error)),
    }
}
