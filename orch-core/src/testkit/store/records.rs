//! Cases of records, transactions and scans.

use std::{collections::BTreeSet, sync::Arc};

use bytes::Bytes;

use super::{StoreHarness, assert_closed, assert_too_large, key, must_commit, must_put, next, put, value_of};
use crate::store::{CommitError, Guard, Key, Page, Position, Revision, StateStore, Txn, Write};

/// A record is read as it was written, with the revision of its writing.
pub async fn puts_can_be_read(harness: &dyn StoreHarness) {
    let store = harness.open("puts").await;
    assert_eq!(value_of(&*store, "a").await, None, "a new store must be empty");
    assert_eq!(store.head().await.expect("revision"), Position::ZERO, "a new store must be at revision zero");
    let first = must_put(&*store, "a", "1").await;
    let second = must_commit(&*store, Txn::of(vec![put("b", "2"), put("c/d", "")])).await;
    for (at, value, version) in [("a", "1", first), ("b", "2", second), ("c/d", "", second)] {
        let entry = store.get(&key(at)).await.expect("get").expect("what was put must be there");
        assert_eq!((entry.key.as_str(), &*entry.value, entry.version), (at, value.as_bytes(), version));
    }
    assert_eq!(store.head().await.expect("revision"), second, "the latest commit must be visible");
}

/// A delete removes a record, and succeeds for one that does not exist.
pub async fn deletes_remove(harness: &dyn StoreHarness) {
    let store = harness.open("deletes").await;
    must_put(&*store, "a", "1").await;
    must_commit(&*store, Txn::of(vec![Write::delete(key("a")), Write::delete(key("never"))])).await;
    assert_eq!(value_of(&*store, "a").await, None, "a deleted record must be gone");
    must_put(&*store, "a", "2").await;
    assert_eq!(value_of(&*store, "a").await.as_deref(), Some("2"), "a deleted key can be written again");
}

/// Every applied transaction has a greater revision than all before it.
pub async fn revisions_increase(harness: &dyn StoreHarness) {
    let store = harness.open("revisions").await;
    let mut last = Revision::ZERO;
    for round in 0..20 {
        let revision = must_put(&*store, "same", &round.to_string()).await.revision;
        assert!(revision > last, "revision {revision} after {last}");
        last = revision;
    }
}

/// For a key named twice in a transaction the last write counts.
pub async fn last_write_of_a_key_wins(harness: &dyn StoreHarness) {
    let store = harness.open("last-write").await;
    let writes =
        vec![put("a", "1"), Write::delete(key("b")), Write::delete(key("a")), put("a", "2"), put("b", "3")];
    must_commit(&*store, Txn::of(writes)).await;
    assert_eq!(value_of(&*store, "a").await.as_deref(), Some("2"));
    assert_eq!(value_of(&*store, "b").await.as_deref(), Some("3"));
    must_commit(&*store, Txn::of(vec![put("a", "4"), Write::delete(key("a"))])).await;
    assert_eq!(value_of(&*store, "a").await, None);
}

/// Scans go in byte order; pages follow each other without gap or overlap and know whether there are more.
pub async fn scans_are_ordered_and_paged(harness: &dyn StoreHarness) {
    let store = harness.open("scans").await;
    let mut names: Vec<String> = (0..25).map(|n| format!("p/{}", (n * 7) % 25)).collect();
    must_commit(&*store, Txn::of(names.iter().map(|name| put(name, name)).collect())).await;
    must_commit(&*store, Txn::of(vec![put("o", ""), put("q", "")])).await;
    names.sort();
    for limit in [1, 3, 24, 25, 26, 1000] {
        let (mut seen, mut after) = (Vec::new(), None::<Key>);
        loop {
            let page = store.scan("p/", after.as_ref(), limit).await.expect("scan");
            assert!(page.entries.len() <= limit, "a page of at most {limit} has {}", page.entries.len());
            assert!(!page.more || page.entries.len() == limit, "a page is short though there is more");
            seen.extend(page.entries.iter().map(|entry| entry.key.to_string()));
            if !page.more {
                break;
            }
            after = page.entries.last().map(|entry| entry.key.clone());
        }
        assert_eq!(seen, names, "pages of {limit}");
    }
    let none = store.scan("p/", None, 0).await.expect("scan");
    assert!(none.entries.is_empty() && none.more, "a page of no entries must say that there are more");
    let page = store.scan("", Some(&key("p/zzz")), 10).await.expect("scan");
    assert_eq!(names_of(&page), ["q"], "`after` need not be stored");
    let page = store.scan("p/2", Some(&key("a")), 2).await.expect("scan");
    assert_eq!(names_of(&page), ["p/2", "p/20"], "`after` before the prefix changes nothing");
    assert!(store.scan("p/2", Some(&key("q")), 2).await.expect("scan").entries.is_empty());
}

/// A prefix is a start of the text, not of its parts.
pub async fn prefixes_have_exact_edges(harness: &dyn StoreHarness) {
    let store = harness.open("prefixes").await;
    let names = ["a", "a b", "a-", "a/b", "a/b/c", "aa", "b", "\u{10ffff}", "\u{10ffff}x"];
    must_commit(&*store, Txn::of(names.iter().map(|name| put(name, "")).collect())).await;
    for (prefix, found) in [
        ("", &names[..]),
        ("a", &["a", "a b", "a-", "a/b", "a/b/c", "aa"]),
        ("a/", &["a/b", "a/b/c"]),
        ("a/b", &["a/b", "a/b/c"]),
        ("a/b/", &["a/b/c"]),
        ("\u{10ffff}", &["\u{10ffff}", "\u{10ffff}x"]),
        ("c", &[]),
    ] {
        let page = store.scan(prefix, None, 100).await.expect("scan");
        assert_eq!(names_of(&page), found, "prefix {prefix:?}");
        assert!(!page.more, "prefix {prefix:?} has no more");
    }
}

/// Guards are about the state before the transaction, and all of them must hold.
pub async fn guards_look_at_the_state_before(harness: &dyn StoreHarness) {
    let store = harness.open("guards").await;
    let create = || Txn::of(vec![put("a", "1")]).guarded(Guard::Absent(key("a")));
    let first = must_commit(&*store, create()).await;
    assert_conflict(store.commit(create()).await, "a");
    let change = |version| Txn::of(vec![put("a", "2")]).guarded(Guard::Version(key("a"), version));
    let later = Position { revision: first.revision.next(), ..first };
    assert_conflict(store.commit(change(later)).await, "a");
    let second = must_commit(&*store, change(first)).await;
    assert_conflict(store.commit(change(first)).await, "a");
    let both = Txn::of(vec![put("a", "3")])
        .guarded(Guard::Version(key("a"), second))
        .guarded(Guard::Version(key("missing"), second));
    assert_conflict(store.commit(both).await, "missing");
    let check = Txn::default().guarded(Guard::Version(key("a"), second));
    must_commit(&*store, check).await;
    let entry = store.get(&key("a")).await.expect("get").expect("there");
    assert_eq!(entry.version, second, "a transaction without writes must not touch what it looks at");
    must_commit(&*store, Txn::of(vec![Write::delete(key("a"))])).await;
    must_commit(&*store, create()).await;
}

/// A conflict leaves no trace: no write, no new revision.
pub async fn conflict_writes_nothing(harness: &dyn StoreHarness) {
    let store = harness.open("conflict").await;
    let before = must_put(&*store, "a", "1").await;
    let txn =
        Txn::of(vec![put("a", "2"), put("b", "2"), Write::delete(key("a"))]).guarded(Guard::Absent(key("a")));
    assert_conflict(store.commit(txn).await, "a");
    assert_eq!(value_of(&*store, "a").await.as_deref(), Some("1"));
    assert_eq!(value_of(&*store, "b").await, None);
    if !store.capabilities().shared {
        assert_eq!(store.head().await.expect("revision"), before, "a conflict must not take a revision");
    }
}

/// Sixteen writers count with compare-and-swap. Each success saw its predecessor, none is lost, and the order
/// of revisions is the order of values.
pub async fn concurrent_writers_never_lose_an_update(harness: &dyn StoreHarness) {
    const WRITERS: usize = 16;
    const EACH: usize = 12;
    let store = harness.open("counter").await;
    must_put(&*store, "counter", "0").await;
    let writers: Vec<_> = (0..WRITERS).map(|_| tokio::spawn(count(Arc::clone(&store), EACH))).collect();
    let mut history = Vec::new();
    for writer in writers {
        history.extend(writer.await.expect("a writer must not panic"));
    }
    history.sort();
    let values: Vec<u64> = history.iter().map(|(_, value)| *value).collect();
    let expected: Vec<u64> = (1..=(WRITERS * EACH) as u64).collect();
    assert_eq!(values, expected, "in order of revisions the counter must go up by one each");
    let revisions: BTreeSet<_> = history.iter().map(|(revision, _)| *revision).collect();
    assert_eq!(revisions.len(), history.len(), "two transactions have the same revision");
}

async fn count(store: Arc<dyn StateStore>, times: usize) -> Vec<(Revision, u64)> {
    let mut done = Vec::new();
    while done.len() < times {
        let seen = store.get(&key("counter")).await.expect("get").expect("the counter is there");
        let value = std::str::from_utf8(&seen.value).ok().and_then(|text| text.parse::<u64>().ok());
        let value = value.expect("the counter is a number") + 1;
        let txn = Txn::of(vec![put("counter", &value.to_string())])
            .guarded(Guard::Version(seen.key.clone(), seen.version));
        match store.commit(txn).await {
            Ok(Position { revision, .. }) => {
                let now = store.get(&seen.key).await.expect("get").expect("the counter is there");
                assert!(now.version.revision >= revision, "a read after a commit must not be older than it");
                done.push((revision, value));
            }
            Err(CommitError::Conflict { .. }) => {}
            Err(error) => panic!("a race must end in a conflict, not in: {error}"),
        }
    }
    done
}

/// Keys that are prefixes of each other, long, or in any script stay apart.
pub async fn hostile_keys_stay_apart(harness: &dyn StoreHarness) {
    let store = harness.open("hostile").await;
    let part = "x".repeat(Key::PART_MAX_LEN);
    let long = format!("{part}/{part}/{}", "y".repeat(Key::MAX_LEN - 2 * part.len() - 2));
    let nested = "y/".repeat(255) + "yy";
    let hostile = [
        "k",
        "kk",
        "kkk",
        "k/k",
        "k.k",
        "k k",
        "K",
        "...",
        "-rf",
        "~",
        "$HOME",
        "'; drop",
        "%2e%2e",
        "*",
        "a:b",
        "é",
        "e\u{301}",
        "日本/語",
        "🦀",
        "\u{feff}bom",
        "nul",
        "con",
        ".git",
        "HEAD",
        &part,
        &long,
        &long[1..],
        &nested,
    ];
    for name in hostile {
        must_put(&*store, name, name).await;
    }
    for name in hostile {
        assert_eq!(value_of(&*store, name).await.as_deref(), Some(name), "key {name:?}");
    }
    let mut sorted = hostile.to_vec();
    sorted.sort_unstable();
    let page = store.scan("", None, 1000).await.expect("scan");
    assert_eq!(names_of(&page), sorted, "byte order of keys");
}

/// Values of any bytes and of any size up to the declared one come back from reads, scans and watches.
pub async fn values_come_back_as_they_were(harness: &dyn StoreHarness) {
    let store = harness.open("values").await;
    let max = store.capabilities().max_value_bytes;
    let mut sizes = vec![0, 1, 255, 256, 4096, 65_537, max - 1, max];
    sizes.retain(|size| *size <= max);
    sizes.dedup();
    // All bytes there are, in another order for each size; most of it is no text.
    let value = |size: usize| {
        (0..size).map(|n| u8::try_from((n + size) % 256).expect("below 256")).collect::<Bytes>()
    };
    let mut watch = store.watch("v/", Position::ZERO).await.expect("watch");
    for size in &sizes {
        let write = Write::put(key(&format!("v/{size}")), value(*size));
        must_commit(&*store, Txn::of(vec![write.clone()])).await;
        let entry = store.get(&write.key).await.expect("get").expect("there");
        assert!(Some(&entry.value) == write.value.as_ref(), "a value of {size} bytes was read differently");
        let seen = next(&mut watch).await.writes;
        assert!(seen == [write], "a value of {size} bytes was watched differently");
        let page = store.scan(entry.key.as_str(), None, 1).await.expect("scan");
        assert!(page.entries == [entry], "a value of {size} bytes was scanned differently");
    }
}

/// A transaction of the declared size is accepted; a larger one is rejected and changes nothing.
pub async fn limits_are_enforced(harness: &dyn StoreHarness) {
    let store = harness.open("limits").await;
    let limits = store.capabilities();
    let largest = Bytes::from(vec![7; limits.max_value_bytes]);
    must_commit(&*store, Txn::of(vec![Write::put(key("large"), largest.clone())])).await;
    let entry = store.get(&key("large")).await.expect("get").expect("there");
    assert_eq!(entry.value.len(), largest.len(), "a value of the declared size must fit");
    let beyond = Write::put(key("beyond"), vec![7; limits.max_value_bytes + 1]);
    let txn = Txn::of(vec![put("small", ""), beyond]);
    assert_too_large("a value beyond the declared size", &store.commit(txn).await);
    let writes = |count| (0..count).map(|n| put(&format!("many/{n}"), "")).collect();
    must_commit(&*store, Txn::of(writes(limits.max_txn_writes))).await;
    assert_too_large("one write too many", &store.commit(Txn::of(writes(limits.max_txn_writes + 1))).await);
    assert_eq!(value_of(&*store, "small").await, None, "what is refused must write nothing");
}

/// After `close` every call returns `Closed`; watches end; closing again is no error.
pub async fn closed_store_says_so(harness: &dyn StoreHarness) {
    let store = harness.open("closed").await;
    let last = must_put(&*store, "a", "1").await;
    let watch = store.watch("", Position::ZERO).await.expect("watch");
    store.close().await.expect("close");
    let batches: Vec<_> = futures_util::StreamExt::collect(watch).await;
    assert!(batches.len() <= 1, "a watch must end when its store closes: {batches:?}");
    store.close().await.expect("closing twice is no error");
    assert_closed("get", &store.get(&key("a")).await);
    assert_closed("scan", &store.scan("", None, 1).await);
    assert_closed("watch", &store.watch("", last).await.map(|_| ()));
    assert_closed("revision", &store.head().await);
    assert_closed("compact", &store.compact(last.revision).await);
    match store.commit(Txn::of(vec![put("a", "2")])).await {
        Err(CommitError::Store(error)) => assert_closed::<()>("commit", &Err(error)),
        other => panic!("commit of a closed store must answer Closed, not {other:?}"),
    }
}

fn names_of(page: &Page) -> Vec<&str> {
    page.entries.iter().map(|entry| entry.key.as_str()).collect()
}

#[track_caller]
fn assert_conflict(result: Result<Position, CommitError>, at: &str) {
    match result {
        Err(CommitError::Conflict { key }) => assert_eq!(key.as_str(), at, "the conflict must name the key"),
        other => panic!("expected a conflict at {at}, got {other:?}"),
    }
}
