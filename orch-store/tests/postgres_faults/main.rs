//! The PostgreSQL store beside servers that fail in bad moments: outcomes that nobody knows, locks that others
//! hold, servers that are silent, and a standby that takes over.
#![allow(clippy::unwrap_used, reason = "helpers of tests are tests too")]

#[path = "../common/mod.rs"]
mod common;
mod pair;
mod proxy;

use std::{sync::Arc, time::Duration};

use futures_util::{StreamExt as _, future::join_all};
use orch_core::store::{CommitError, Durability, Revision, StateStore, StoreError};
use orch_store::postgres::{PostgresStore, PostgresStoreConfig};

use common::{full, key, put, unused_name, variable};
use pair::{Pair, Standby};
use proxy::{Fault, Proxy};

/// Login and address of the server that keeps running.
fn server() -> (String, String) {
    let url = variable("ORCH_TEST_POSTGRES");
    let (login, rest) = url.split_once('@').unwrap();
    (login.to_owned(), rest.split_once('/').unwrap().0.to_owned())
}

/// A store without a name yet, at these hosts.
fn at(hosts: &str) -> PostgresStoreConfig {
    let url = format!("{}@{hosts}/postgres?sslmode=disable&application_name=of-store", server().0);
    PostgresStoreConfig { schema: unused_name(), ..PostgresStoreConfig::from_url(&url).unwrap() }
}

async fn open(config: &PostgresStoreConfig) -> Arc<PostgresStore> {
    Arc::new(PostgresStore::open(config.clone()).await.unwrap())
}

/// A session past the store, in its schema.
async fn psql(url: &str, schema: &str) -> tokio_postgres::Client {
    let url = format!("{url}?sslmode=disable&application_name=somebody");
    let (client, connection) = tokio_postgres::connect(&url, tokio_postgres::NoTls).await.unwrap();
    tokio::spawn(connection);
    client.batch_execute(&format!("SET search_path TO {schema}")).await.unwrap();
    client
}

/// A store behind a proxy.
async fn behind_proxy(timeout: Duration) -> (Proxy, Arc<PostgresStore>) {
    let proxy = Proxy::before(server().1).await;
    let retry_deadline = Duration::from_secs(1);
    let store = open(&PostgresStoreConfig { timeout, retry_deadline, ..at(&proxy.address) }).await;
    (proxy, store)
}

fn refused(outcome: &Result<Revision, CommitError>) -> bool {
    matches!(outcome, Err(CommitError::Store(error)) if !error.outcome_unknown())
}

fn unknown(outcome: &Result<Revision, CommitError>) -> bool {
    matches!(outcome, Err(CommitError::Store(error)) if error.outcome_unknown())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_server_that_panics_may_have_committed() {
    let (proxy, store) = behind_proxy(Duration::from_secs(5)).await;
    for (round, together) in [(1, 1), (2, 4)] {
        store.commit(put("before", "x")).await.unwrap();
        proxy.set(Fault::PanicAfterCommit);
        let commits = (0..together).map(|n| {
            let store = Arc::clone(&store);
            async move { store.commit(put(&format!("hot/{round}"), &n.to_string())).await }
        });
        let outcomes = join_all(commits).await;
        assert!(outcomes.iter().any(unknown), "{outcomes:?}");
        assert!(!outcomes.iter().any(refused), "{outcomes:?}");
        assert!(store.get(&key(&format!("hot/{round}"))).await.unwrap().is_some(), "it has happened");
    }
}

/// On one thread, so that all are asked for before the first is sent.
#[tokio::test]
async fn of_a_group_that_is_refused_nothing_happens() {
    let (proxy, store) = behind_proxy(Duration::from_secs(5)).await;
    store.commit(put("hot", "before")).await.unwrap();
    proxy.set(Fault::RefuseFirst);
    let outcomes = join_all((0..20).map(|n| {
        let store = Arc::clone(&store);
        async move { store.commit(put("hot", &n.to_string())).await }
    }))
    .await;
    let applied = outcomes.iter().filter(|outcome| outcome.is_ok()).count();
    assert!(
        applied < 20 && outcomes.iter().all(|outcome| outcome.is_ok() || refused(outcome)),
        "{outcomes:?}"
    );
    assert_eq!(store.revision().await.unwrap(), Revision(1 + applied as u64));
}

/// An operator ends the session in the middle of a group.
#[tokio::test]
async fn a_session_that_is_ended_may_have_committed() {
    let config = PostgresStoreConfig { timeout: Duration::from_secs(60), ..at(&server().1) };
    let store = open(&config).await;
    store.commit(put("hot", "before")).await.unwrap();
    let mut holder = psql(&variable("ORCH_TEST_POSTGRES"), &config.schema).await;
    let operator = psql(&variable("ORCH_TEST_POSTGRES"), &config.schema).await;
    let held = holder.transaction().await.unwrap();
    held.execute("SELECT FROM meta FOR UPDATE", &[]).await.unwrap();
    let commits = join_all((0..4).map(|n| {
        let store = Arc::clone(&store);
        async move { store.commit(put("hot", &n.to_string())).await }
    }));
    let end = async {
        let waiting = "SELECT pid FROM pg_stat_activity WHERE $1 = ANY (pg_blocking_pids(pid))";
        let process: i32 = held.query_one("SELECT pg_backend_pid()", &[]).await.unwrap().get(0);
        let waiting = loop {
            if let [waiting] = &operator.query(waiting, &[&process]).await.unwrap()[..] {
                break waiting.get::<_, i32>(0);
            }
        };
        operator.execute("SELECT pg_terminate_backend($1, 10000)", &[&waiting]).await.unwrap();
    };
    let (outcomes, ()) = futures_util::future::join(commits, end).await;
    assert!(outcomes.iter().all(unknown), "{outcomes:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_lock_that_somebody_holds_is_no_wait_without_end() {
    let config = PostgresStoreConfig { timeout: Duration::from_secs(1), ..at(&server().1) };
    let store = open(&config).await;
    store.commit(put("a", "1")).await.unwrap();
    let mut holder = psql(&variable("ORCH_TEST_POSTGRES"), &config.schema).await;
    let process: i32 = holder.query_one("SELECT pg_backend_pid()", &[]).await.unwrap().get(0);
    for lock in ["SELECT FROM meta FOR UPDATE", "SELECT FROM records FOR UPDATE", "LOCK TABLE log"] {
        let held = holder.transaction().await.unwrap();
        held.execute(lock, &[]).await.unwrap();
        let outcome = store.commit(put("a", "2")).await;
        let Err(CommitError::Store(error)) = &outcome else { panic!("{lock}: {outcome:?}") };
        let text = full(error);
        assert!(refused(&outcome) && error.is_retryable(), "{lock}: {text}");
        assert!(text.contains(&format!("session {process} (somebody")), "{lock}: {text}");
        held.rollback().await.unwrap();
        let entry = store.get(&key("a")).await.unwrap().unwrap();
        assert_eq!(entry.value, "1", "{lock}");
    }
    store.commit(put("a", "2")).await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_server_that_is_silent_is_not_waited_for_without_end() {
    let (proxy, store) = behind_proxy(Duration::from_secs(1)).await;
    store.commit(put("a", "1")).await.unwrap();
    proxy.set(Fault::Silence);
    let outcome = store.commit(put("a", "2")).await;
    assert!(unknown(&outcome), "{outcome:?}");
    let error = store.get(&key("a")).await.unwrap_err();
    assert!(error.is_retryable() && full(&error).contains("did not answer within 1s"), "{}", full(&error));
    proxy.set(None);
    assert!(store.get(&key("a")).await.unwrap().is_some());
    store.commit(put("a", "3")).await.unwrap();
}

/// As of a primary that hangs, in whose place a standby has been promoted.
#[tokio::test(flavor = "multi_thread")]
async fn a_host_that_takes_connections_and_says_nothing_is_passed_over() {
    let silent = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let hosts = format!("{},{}", silent.local_addr().unwrap(), server().1);
    let config = PostgresStoreConfig { timeout: Duration::from_millis(500), ..at(&hosts) };
    let store = open(&config).await;
    store.commit(put("a", "1")).await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn what_a_standby_may_lack_is_not_declared_as_synced() {
    let pair = Pair::start(Standby::Asynchronous).await;
    for (url, durability) in [(pair.primary_url(), Durability::Sync), (pair.url(), Durability::Group)] {
        let store = open(&PostgresStoreConfig::from_url(&url).unwrap()).await;
        assert_eq!(store.capabilities().durability, durability, "{url}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_server_that_became_less_durable_than_declared_is_refused() {
    let pair = Pair::start(Standby::Synchronous).await;
    let config = PostgresStoreConfig::from_url(&pair.url()).unwrap();
    let store = open(&config).await;
    assert_eq!(store.capabilities().durability, Durability::Sync);
    store.commit(put("a", "1")).await.unwrap();
    pair.set("synchronous_standby_names", "");
    let operator = psql(&pair.primary_url(), &config.schema).await;
    let cut = "SELECT pg_terminate_backend(pid, 10000) FROM pg_stat_activity WHERE application_name = 'orch'";
    operator.query(cut, &[]).await.unwrap();
    let error = loop {
        match store.commit(put("a", "2")).await {
            Err(CommitError::Store(error)) if error.outcome_unknown() => {}
            outcome => break outcome.unwrap_err(),
        }
    };
    assert!(full(&error).contains("synchronous_standby_names empty"), "{}", full(&error));
    pair.set("synchronous_standby_names", "standby");
    store.commit(put("a", "2")).await.unwrap();
}

/// The server answers as if all were well, with a warning beside it.
#[tokio::test(flavor = "multi_thread")]
async fn a_commit_whose_wait_for_the_standby_is_ended_may_be_lost() {
    let pair = Pair::start(Standby::Synchronous).await;
    let store = open(&PostgresStoreConfig::from_url(&pair.url()).unwrap()).await;
    store.commit(put("a", "1")).await.unwrap();
    let operator = psql(&pair.primary_url(), "public").await;
    pair.cut_off();
    let commit = store.commit(put("a", "2"));
    let cancel = async {
        let cancel = "SELECT pg_cancel_backend(pid) FROM pg_stat_activity WHERE wait_event = 'SyncRep'";
        while operator.query(cancel, &[]).await.unwrap().is_empty() {}
    };
    let (outcome, ()) = futures_util::future::join(commit, cancel).await;
    assert!(unknown(&outcome), "{outcome:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn commits_and_watches_go_on_where_a_standby_takes_over() {
    let pair = Pair::start(Standby::Synchronous).await;
    let store = open(&PostgresStoreConfig::from_url(&pair.url()).unwrap()).await;
    let mut watch = store.watch("", Revision::ZERO).await.unwrap();
    for n in 1..=5 {
        assert_eq!(store.commit(put("k", &n.to_string())).await.unwrap(), Revision(n));
    }
    pair.fail_over();
    for n in 1..=5 {
        assert_eq!(watch.next().await.unwrap().unwrap().revision, Revision(n));
    }
    assert_eq!(store.get(&key("k")).await.unwrap().unwrap().version, Revision(5));
}

#[tokio::test(flavor = "multi_thread")]
async fn the_log_is_bounded_in_bytes() {
    let config = PostgresStoreConfig { history_bytes: 1 << 20, ..at(&server().1) };
    let store = open(&config).await;
    for _ in 0..60 {
        store.commit(put("a", &"x".repeat(64 << 10))).await.unwrap();
    }
    let Some(StoreError::Compacted { oldest }) = store.watch("", Revision::ZERO).await.err() else {
        panic!("the log must have been trimmed")
    };
    assert!((40..=45).contains(&oldest.0), "{oldest}");
    let watch = store.watch("", oldest).await.unwrap();
    let seen: Vec<_> = watch.take(usize::try_from(60 - oldest.0).unwrap()).collect().await;
    assert!(seen.iter().all(Result::is_ok));
    // One revision is kept, however large.
    let large = store.commit(put("a", &"x".repeat(3 << 20))).await.unwrap();
    let last = store.commit(put("b", "x")).await.unwrap();
    assert_eq!(store.watch("", large).await.unwrap().next().await.unwrap().unwrap().revision, last);
}
