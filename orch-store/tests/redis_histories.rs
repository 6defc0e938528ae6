//! Histories of the Redis store: a server that comes back older, commits whose outcome is asked for, and a
//! namespace of an earlier version.
#![allow(clippy::unwrap_used, reason = "helpers of tests are tests too")]

mod common;

use std::{sync::Arc, time::Duration};

use futures_util::StreamExt;
use orch_core::store::{
    CommitError, CommitId, Guard, Incarnation, Position, Revision, StateStore, StoreError, Txn, Write,
};
use orch_store::redis::{RedisStore, RedisStoreConfig};

use common::{key, put, redis_server::RedisServer};

async fn open(server: &RedisServer) -> Arc<RedisStore> {
    let config = RedisStoreConfig::from_url(&server.url()).unwrap();
    let config = RedisStoreConfig { poll_interval: Duration::from_millis(50), ..config };
    Arc::new(RedisStore::open(config).await.unwrap())
}

/// A commit that is made until the server is back.
async fn commit(store: &RedisStore, txn: Txn) -> Position {
    loop {
        match store.commit(txn.clone()).await {
            Ok(position) => return position,
            Err(CommitError::Store(error)) if error.is_retryable() => {}
            Err(error) => panic!("{error:?}"),
        }
    }
}

fn claim(name: &str) -> Txn {
    put("lease", name).guarded(Guard::Absent(key("lease")))
}

/// Loss of what A wrote: B goes on from an older state for `commits` commits.
async fn what_was_lost_is_not_taken_for_what_came_after(options: &[&str], saved: bool, commits: usize) {
    let mut server = RedisServer::start(options).await;
    let a = open(&server).await;
    a.commit(put("before", "1")).await.unwrap();
    if saved {
        server.run(&["SAVE"]).await;
    }
    let lost = a.commit(claim("A")).await.unwrap();
    let watch = a.watch("", lost).await.unwrap();
    server.kill();
    server.start_again().await;

    let b = open(&server).await;
    if !saved {
        commit(&b, put("before", "1")).await;
    }
    let won = commit(&b, claim("B")).await;
    assert_eq!(won.revision, lost.revision, "the revision is given out again");
    for _ in 1..commits {
        commit(&b, put("more", "1")).await;
    }
    let renew =
        Txn::of(vec![Write::put(key("lease"), "A, again")]).guarded(Guard::Version(key("lease"), lost));
    let renewed = loop {
        match a.commit(renew.clone()).await {
            Err(CommitError::Store(error)) if error.is_retryable() => {}
            other => break other,
        }
    };
    assert!(matches!(renewed, Err(CommitError::Conflict { .. })), "{renewed:?}");
    assert_eq!(a.get(&key("lease")).await.unwrap().unwrap().value, "B");
    let last = watch.collect::<Vec<_>>().await.pop();
    assert!(matches!(last, Some(Err(StoreError::Diverged { expected, .. })) if expected == lost), "{last:?}");
    for store in [&a, &b] {
        let again = match store.watch("", lost).await {
            Ok(mut watch) => watch.next().await.unwrap().map(drop),
            Err(error) => Err(error),
        };
        assert!(matches!(again, Err(StoreError::Diverged { expected, .. }) if expected == lost), "{again:?}");
    }
    assert_eq!(a.watch("", won).await.unwrap().take(commits - 1).count().await, commits - 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_killed_server_without_a_disk_comes_back_with_another_history() {
    for commits in [1, 5] {
        what_was_lost_is_not_taken_for_what_came_after(&[], false, commits).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_killed_server_with_an_older_snapshot_comes_back_with_another_history() {
    for commits in [1, 5] {
        what_was_lost_is_not_taken_for_what_came_after(&[], true, commits).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_killed_server_that_syncs_goes_on_with_its_history() {
    let mut server = RedisServer::start(&["--appendonly", "yes", "--appendfsync", "always"]).await;
    let a = open(&server).await;
    let held = a.commit(claim("A")).await.unwrap();
    let mut watch = a.watch("", held).await.unwrap();
    let void = CommitId::random();
    assert_eq!(a.outcome(void, held.revision).await.unwrap(), None);
    server.kill();
    server.start_again().await;
    let renewed = commit(&a, put("lease", "A, again").guarded(Guard::Version(key("lease"), held))).await;
    assert_eq!(renewed.revision, held.revision.next());
    assert_eq!(watch.next().await.unwrap().unwrap().position, renewed);
    let late = a.commit(put("late", "1").named(void)).await;
    assert!(matches!(late, Err(CommitError::Store(StoreError::Settled { .. }))), "{late:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn an_outcome_is_found_in_a_long_log_and_settled_ids_are_bounded() {
    let server = RedisServer::start(&[]).await;
    let store = open(&server).await;
    let id = CommitId::random();
    for n in 0..2_500 {
        store.commit(put("k", &n.to_string())).await.unwrap();
    }
    let position = store.commit(put("k", "named").named(id)).await.unwrap();
    assert_eq!(store.outcome(id, Revision::ZERO).await.unwrap(), Some(position));
    // What was known before may be of a longer history that was lost.
    assert_eq!(store.outcome(id, position.revision).await.unwrap(), Some(position));
    for _ in 0..1_100 {
        assert_eq!(store.outcome(CommitId::random(), position.revision).await.unwrap(), None);
    }
    assert_eq!(server.query::<u64>("ZCARD {orch}:void").await, 1_024);
    store.compact(Revision(2_000)).await.unwrap();
    assert_eq!(store.outcome(id, Revision::ZERO).await.unwrap(), Some(position));
    let unknown = store.outcome(CommitId::random(), Revision::ZERO).await;
    assert!(
        matches!(unknown, Err(StoreError::Compacted { oldest }) if oldest.revision == Revision(2_000)),
        "{unknown:?}"
    );
    server.run(&["XDEL {orch}:log 2400-0"]).await;
    let unknown = store.outcome(CommitId::random(), Revision(2_300)).await;
    assert!(matches!(unknown, Err(StoreError::Compacted { .. })), "a lost entry may be it: {unknown:?}");
}

/// Builds a namespace as the first format has it: revisions 1 to 3, the first of them compacted.
async fn format_1(server: &RedisServer) {
    let commands = include_str!("redis_format_1/namespace");
    server.run(&commands.lines().collect::<Vec<_>>()).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_namespace_of_the_first_format_goes_on() {
    let server = RedisServer::start(&[]).await;
    format_1(&server).await;
    let old = |revision| Position::new(Revision(revision), Incarnation(0));
    let store = open(&server).await;
    assert_eq!(store.head().await.unwrap(), old(3));
    let early = store.watch("", Position::ZERO).await.map(drop);
    assert!(matches!(early, Err(StoreError::Compacted { oldest }) if oldest == old(1)), "{early:?}");
    let mut watch = store.watch("", old(1)).await.unwrap();
    let seen = [watch.next().await.unwrap().unwrap(), watch.next().await.unwrap().unwrap()];
    assert_eq!((seen[0].position, seen[1].position), (old(2), old(3)));
    assert_eq!(seen[1].writes, [Write::delete(key("a")), Write::put(key("c"), "3")]);
    let page = store.scan("", None, 10).await.unwrap();
    assert_eq!(page.position, old(3));
    assert_eq!(page.entries.iter().map(|entry| entry.version).collect::<Vec<_>>(), [old(2), old(3)]);

    let next = store.commit(put("b", "4").guarded(Guard::Version(key("b"), old(2)))).await.unwrap();
    assert!(next.revision == Revision(4) && next.incarnation != Incarnation(0));
    assert_eq!(watch.next().await.unwrap().unwrap().position, next);
    assert_eq!(store.get(&key("b")).await.unwrap().unwrap().version, next);
    assert_eq!(store.get(&key("c")).await.unwrap().unwrap().version, old(3));
    store.compact(Revision(3)).await.unwrap();
    assert_eq!(store.watch("", old(3)).await.unwrap().next().await.unwrap().unwrap().position, next);
    let foreign = Position::new(Revision(3), Incarnation(9));
    assert!(matches!(store.watch("", foreign).await.map(drop), Err(StoreError::Diverged { .. })));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_process_of_an_earlier_version_writes_nothing_once_the_format_is_new() {
    let server = RedisServer::start(&[]).await;
    format_1(&server).await;
    let keys = ["values", "versions", "index", "log", "meta"].map(|name| format!("{{orch}}:{name}"));
    let old_commit = async || {
        let script = redis::Script::new(include_str!("redis_format_1/commit.lua"));
        let mut commit = script.prepare_invoke();
        keys.iter().for_each(|key| {
            commit.key(key);
        });
        commit.arg("{orch}:news").arg(0).arg("old").arg(1).arg("5");
        commit.invoke_async::<Vec<u64>>(&mut server.connection().await).await
    };
    assert_eq!(old_commit().await.unwrap(), [4], "the format is still theirs");
    let store = open(&server).await;
    let theirs = Position::new(Revision(4), Incarnation(0));
    assert_eq!(store.get(&key("old")).await.unwrap().unwrap().version, theirs);
    let ours = store.commit(put("new", "1")).await.unwrap();
    assert_eq!(ours.revision, Revision(5));
    let before = server.dump().await;
    old_commit().await.unwrap_err();
    let script = redis::Script::new(include_str!("redis_format_1/compact.lua"));
    let compacted =
        script.key(&keys[3]).key(&keys[4]).arg(5).invoke_async::<()>(&mut server.connection().await).await;
    compacted.unwrap_err();
    assert_eq!(server.dump().await, before);
    assert_eq!(store.watch("", theirs).await.unwrap().next().await.unwrap().unwrap().position, ours);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_namespace_of_a_newer_format_is_refused() {
    let server = RedisServer::start(&[]).await;
    let store = open(&server).await;
    store.commit(put("a", "1")).await.unwrap();
    server.run(&["HSET {orch}:meta format 3"]).await;
    let newer =
        |error: &StoreError| matches!(error, StoreError::Corrupt(text) if text.contains("newer version"));
    let refused = store.commit(put("a", "2")).await;
    assert!(matches!(&refused, Err(CommitError::Store(error)) if newer(error)), "{refused:?}");
    assert!(newer(&store.scan("", None, 10).await.unwrap_err()));
    assert!(newer(&store.outcome(CommitId::random(), Revision(1)).await.unwrap_err()));
    assert!(newer(&store.compact(Revision(1)).await.unwrap_err()));
    let config = RedisStoreConfig::from_url(&server.url()).unwrap();
    assert!(newer(&RedisStore::open(config).await.unwrap_err()));
}

#[tokio::test]
async fn an_outcome_is_found_before_a_revision_of_a_lost_history() {
    let mut server = RedisServer::start(&[]).await;
    let store = open(&server).await;
    store.commit(put("k", "lost")).await.unwrap();
    let since = store.commit(put("k", "lost")).await.unwrap().revision;
    server.kill();
    server.start_again().await;
    let id = CommitId::random();
    let applied = commit(&store, put("k", "new").named(id)).await;
    assert!(applied.revision < since);
    assert_eq!(store.outcome(id, since).await.unwrap(), Some(applied));
}
