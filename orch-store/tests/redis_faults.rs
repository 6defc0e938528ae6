//! The Redis store on servers that are damaged, full, or set up to throw records away.
#![allow(clippy::unwrap_used, reason = "helpers of tests are tests too")]

mod common;

use std::{sync::Arc, time::Duration};

use async_trait::async_trait;
use futures_util::StreamExt;
use orch_core::{
    store::{CommitError, Position, Revision, StateStore, StoreError, Txn, Write},
    testkit::store::{
        Disturbance, StoreHarness, a_full_store_says_so_and_loses_nothing,
        a_store_that_comes_back_older_says_so, a_store_that_is_held_up_answers_in_time,
        deciders_go_on_after_a_store_came_back_older,
    },
};
use orch_store::redis::{RedisStore, RedisStoreConfig};
use tokio::sync::Mutex;

use common::{full, key, put, redis_server::RedisServer};

/// A store that asks the server seldom enough for its requests to be counted.
async fn open(server: &RedisServer) -> Arc<RedisStore> {
    Arc::new(RedisStore::open(config(server)).await.unwrap())
}

fn config(server: &RedisServer) -> RedisStoreConfig {
    let config = RedisStoreConfig::from_url(&server.url()).unwrap();
    RedisStoreConfig { retry_deadline: Duration::from_millis(500), ..config }
}

fn refused(outcome: Result<Position, CommitError>) -> StoreError {
    match outcome {
        Err(CommitError::Store(error)) => error,
        other => panic!("it must be refused: {other:?}"),
    }
}

/// A transaction that puts `a`, which is there, and deletes `b`, which is there too.
fn half() -> Txn {
    Txn::of(vec![Write::put(key("a"), "2"), Write::delete(key("b"))])
}

#[tokio::test(flavor = "multi_thread")]
async fn a_damaged_namespace_is_named_and_nothing_is_written() {
    let server = RedisServer::start(&[]).await;
    let other = "SET {orch}:log other";
    let added = "XADD {orch}:log 7-0 revision 7";
    for (damage, says) in [
        (&["DEL {orch}:log", other][..], "{orch}:log: WRONGTYPE"),
        (&["DEL {orch}:index", "SADD {orch}:index a"], "{orch}:index: WRONGTYPE"),
        (&["HDEL {orch}:values a"], "hold different records"),
        (&["DEL {orch}:versions"], "hold different records"),
        (&["DEL {orch}:meta"], "{orch}:meta is missing"),
        (&["HSET {orch}:meta revision many"], "{orch}:meta has no positions"),
        (&["DEL {orch}:void", "SET {orch}:void other"], "{orch}:void: WRONGTYPE"),
        (&[added], "{orch}:log goes on after revision 2"),
        // A later revision was there once: the stream remembers it.
        (&[added, "XDEL {orch}:log 7-0"], "{orch}:log: ERR The ID specified in XADD"),
        (&["XDEL {orch}:log 1-0"], "{orch}:log has lost revisions"),
        (&["DEL {orch}:log"], "{orch}:log has lost revisions"),
    ] {
        server.run(&["FLUSHALL"]).await;
        let store = open(&server).await;
        store.commit(put("a", "1")).await.unwrap();
        store.commit(put("b", "1")).await.unwrap();
        server.run(damage).await;
        let before = server.dump().await;
        let error = refused(store.commit(half()).await);
        let text = full(&error);
        assert!(matches!(error, StoreError::Corrupt(_)) && text.contains(says), "{damage:?}: {text}");
        assert_eq!(server.dump().await, before, "{damage:?}: nothing is written");
        // What nobody asked about may be readable; nothing else than damage is told.
        for error in [store.head().await.err(), store.scan("", None, 10).await.err()].into_iter().flatten() {
            assert!(matches!(error, StoreError::Corrupt(_)), "{damage:?}: {error:?}");
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_lost_state_ends_watches_and_cannot_be_taken_for_a_new_store() {
    let server = RedisServer::start(&[]).await;
    let store = open(&server).await;
    store.commit(put("a", "1")).await.unwrap();
    let watch = store.watch("", Position::ZERO).await.unwrap();
    server.run(&["DEL {orch}:meta"]).await;
    let last = watch.collect::<Vec<_>>().await.pop();
    assert!(matches!(&last, Some(Err(StoreError::Corrupt(_)))), "{last:?}");
    assert!(matches!(store.head().await, Err(StoreError::Corrupt(_))));
    assert!(matches!(store.scan("", None, 10).await, Err(StoreError::Corrupt(_))));
    assert!(matches!(RedisStore::open(config(&server)).await, Err(StoreError::Corrupt(_))));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_lost_log_ends_watches_and_is_given_up_by_compaction() {
    let server = RedisServer::start(&[]).await;
    for damage in ["DEL {orch}:log", "XDEL {orch}:log 2-0", "XDEL {orch}:log 1-0"] {
        server.run(&["FLUSHALL"]).await;
        let store = open(&server).await;
        let mut at = Vec::new();
        for n in 1..=3 {
            at.push(store.commit(put("a", &n.to_string())).await.unwrap());
        }
        server.run(&[damage]).await;
        let fresh = open(&server).await;
        let before = server.calls().await;
        for store in [&store, &fresh] {
            // The entry that says whether this was the first commit may be lost, or what follows on it.
            let end = match store.watch("", at[0]).await {
                Ok(watch) => watch.collect::<Vec<_>>().await.pop().unwrap().unwrap_err(),
                Err(error) => error,
            };
            assert!(matches!(end, StoreError::Compacted { oldest } if oldest == at[2]), "{damage}: {end:?}");
        }
        let mut watch = fresh.watch("", at[2]).await.unwrap();
        let calls = server.calls().await - before;
        assert!(calls < 20, "{damage}: the log was read {calls} times");

        let error = refused(store.commit(put("a", "4")).await);
        assert!(full(&error).contains("compacted"), "{damage}: {}", full(&error));
        store.compact(Revision(3)).await.unwrap();
        let next = store.commit(put("a", "4")).await.unwrap();
        assert_eq!(next.revision, Revision(4));
        assert_eq!(watch.next().await.unwrap().unwrap().position, next, "{damage}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn an_eviction_policy_that_was_set_later_is_found_with_the_next_connection() {
    let server = RedisServer::start(&[]).await;
    server.run(&["ACL SETUSER default -config"]).await;
    let store = open(&server).await;
    store.commit(put("a", "1")).await.unwrap();
    server.run(&["ACL SETUSER default +config", "CONFIG SET maxmemory-policy allkeys-lru"]).await;
    server.run(&["ACL SETUSER default -config", "CLIENT KILL TYPE normal SKIPME yes"]).await;
    let refused = loop {
        match store.commit(put("a", "2")).await {
            Err(CommitError::Store(error)) if error.outcome_unknown() => {}
            other => break refused(other),
        }
    };
    assert!(full(&refused).contains("noeviction") && !refused.is_retryable(), "{}", full(&refused));
    assert!(store.get(&key("a")).await.is_err());
    let opened = RedisStore::open(config(&server)).await.unwrap_err();
    assert!(full(&opened).contains("throws records away"), "{}", full(&opened));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_full_server_refuses_puts_cleanly_and_deletes_free_it() {
    let server = RedisServer::start(&[]).await;
    let store = open(&server).await;
    let large = "x".repeat(1 << 20);
    for n in 0..8 {
        store.commit(put(&format!("large/{n}"), &large)).await.unwrap();
    }
    server.run(&["CONFIG SET maxmemory 12mb"]).await;
    let before = server.dump().await;
    let error = refused(store.commit(put("more", "1")).await);
    let text = full(&error);
    assert!(error.is_retryable() && !error.outcome_unknown(), "{text}");
    assert!(text.contains("memory of the server is full") && text.contains("delete records"), "{text}");
    assert_eq!(server.dump().await, before, "nothing is written");
    assert_eq!(store.scan("", None, 100).await.unwrap().entries.len(), 8, "reads go on");

    let deletes = (0..8).map(|n| Write::delete(key(&format!("large/{n}")))).collect();
    let deleted = store.commit(Txn::of(deletes)).await.unwrap();
    store.compact(deleted.revision).await.unwrap();
    store.commit(put("more", "1")).await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn the_log_is_bounded_in_bytes() {
    let server = RedisServer::start(&[]).await;
    let bound = 4 << 20;
    let store = RedisStore::open(RedisStoreConfig { history_bytes: bound, ..config(&server) }).await.unwrap();
    let value = "x".repeat(100 << 10);
    for _ in 0..200 {
        store.commit(put("a", &value)).await.unwrap();
    }
    let used: u64 = server.query("MEMORY USAGE {orch}:log SAMPLES 0").await;
    assert!(used <= bound + bound / 8, "{used}");
    assert!(used > bound / 2, "{used}");
    let Err(StoreError::Compacted { oldest }) = store.watch("", Position::ZERO).await.map(drop) else {
        panic!("the beginning must have been trimmed")
    };
    let rest = usize::try_from(200 - oldest.revision.0).unwrap();
    assert_eq!(store.watch("", oldest).await.unwrap().take(rest).count().await, rest);
}

/// One server, and the stores on it.
struct OneServer(Mutex<RedisServer>);

impl OneServer {
    async fn start() -> Self {
        Self(Mutex::new(RedisServer::start(&[]).await))
    }
}

#[async_trait]
impl StoreHarness for OneServer {
    async fn open(&self, name: &str) -> Arc<dyn StateStore> {
        let config = RedisStoreConfig::from_url(&self.0.lock().await.url()).unwrap();
        Arc::new(RedisStore::open(RedisStoreConfig { namespace: name.into(), ..config }).await.unwrap())
    }

    fn reopens(&self) -> bool {
        true
    }

    async fn begin(&self, what: Disturbance, _: &str) {
        let server = self.0.lock().await;
        match what {
            Disturbance::ComesBackOlder => server.run(&["SAVE"]).await,
            Disturbance::Slow => server.signal("-STOP"),
            _ => server.run(&["CONFIG SET maxmemory 16mb"]).await,
        }
    }

    async fn end(&self, what: Disturbance, _: &str) {
        let mut server = self.0.lock().await;
        match what {
            Disturbance::ComesBackOlder => {
                server.kill();
                server.start_again().await;
            }
            Disturbance::Slow => server.signal("-CONT"),
            _ => server.run(&["CONFIG SET maxmemory 0"]).await,
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_server_that_comes_back_with_an_older_snapshot_says_so() {
    a_store_that_comes_back_older_says_so(&OneServer::start().await).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn members_go_on_with_an_older_snapshot() {
    deciders_go_on_after_a_store_came_back_older(&OneServer::start().await).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_server_that_stops_is_not_waited_for_without_end() {
    a_store_that_is_held_up_answers_in_time(&OneServer::start().await, Disturbance::Slow).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_server_without_memory_is_said_to_be_full() {
    a_full_store_says_so_and_loses_nothing(&OneServer::start().await).await;
}
