//! The PostgreSQL store beside servers that fail in bad moments: outcomes that nobody knows, locks that
//! others hold, servers that are silent, and a standby that takes over.
#![allow(clippy::unwrap_used, reason = "helpers of tests are tests too")]

#[path = "../common/mod.rs"]
mod common;
mod disturbed;
mod pair;
mod proxy;

use std::{sync::Arc, time::Duration};

use futures_util::{StreamExt as _, future::join_all};
use orch_core::store::{
    CommitError, CommitId, Durability, Guard, Incarnation, Position, Revision, StateStore, StoreError, Txn,
    WatchBatch, Write,
};
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

/// A store that nobody has used yet, at these hosts. Its sessions have the name of its schema.
fn at(hosts: &str) -> PostgresStoreConfig {
    let name = unused_name();
    let url =
        format!("{}@{hosts}/postgres?sslmode=disable&schema={name}&application_name={name}", server().0);
    PostgresStoreConfig::from_url(&url).unwrap()
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
async fn behind_proxy(timeout: Duration) -> (Proxy, PostgresStoreConfig, Arc<PostgresStore>) {
    let proxy = Proxy::before(server().1).await;
    let retry_deadline = Duration::from_secs(1);
    let config = PostgresStoreConfig { timeout, retry_deadline, ..at(&proxy.address) };
    let store = open(&config).await;
    (proxy, config, store)
}

fn refused(outcome: &Result<Position, CommitError>) -> bool {
    matches!(outcome, Err(CommitError::Store(error)) if !error.outcome_unknown())
}

fn unknown(outcome: &Result<Position, CommitError>) -> bool {
    matches!(outcome, Err(CommitError::Store(error)) if error.outcome_unknown())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_server_that_panics_may_have_committed() {
    let (proxy, _, store) = behind_proxy(Duration::from_secs(5)).await;
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
    let (proxy, _, store) = behind_proxy(Duration::from_secs(5)).await;
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
    assert_eq!(store.head().await.unwrap().revision, Revision(1 + applied as u64));
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
    let (proxy, _, store) = behind_proxy(Duration::from_secs(1)).await;
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
    let config = PostgresStoreConfig { timeout: Duration::from_secs(1), ..at(&hosts) };
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
    assert_eq!(store.capabilities().durability, Durability::Replicated);
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

/// A takeover alone is no loss: the standby has all that was acknowledged.
#[tokio::test(flavor = "multi_thread")]
async fn watches_go_on_where_a_synchronous_standby_takes_over() {
    let pair = Pair::start(Standby::Synchronous).await;
    let config = PostgresStoreConfig::from_url(&pair.url()).unwrap();
    let store = open(&config).await;
    let mut watch = store.watch("", Position::ZERO).await.unwrap();
    let mut positions = Vec::new();
    for n in 1..=5 {
        positions.push(store.commit(put("k", &n.to_string())).await.unwrap());
    }
    pair.fail_over();
    assert_eq!(store.get(&key("k")).await.unwrap().unwrap().version, positions[4]);
    // The new primary has no standby yet, which is less than the first store declared.
    let alone = open(&config).await;
    assert_eq!(alone.capabilities().durability, Durability::Group);
    let claim = put("k", "6").guarded(Guard::Version(key("k"), positions[4]));
    positions.push(alone.commit(claim).await.unwrap());
    for position in positions {
        assert_eq!(watch.next().await.unwrap().unwrap().position, position);
    }
    let refused_there = loop {
        match store.commit(put("k", "7")).await {
            Err(CommitError::Store(error)) if error.outcome_unknown() => {}
            outcome => break outcome.unwrap_err(),
        }
    };
    assert!(full(&refused_there).contains("synchronous_standby_names empty"), "{}", full(&refused_there));
}

#[tokio::test(flavor = "multi_thread")]
async fn what_a_standby_lacks_is_not_taken_for_what_it_has() {
    let pair = Pair::start(Standby::Asynchronous).await;
    let config = PostgresStoreConfig::from_url(&pair.url()).unwrap();
    let store = open(&config).await;
    let mut watch = store.watch("", Position::ZERO).await.unwrap();
    let mut seen = vec![store.commit(put("k", "0")).await.unwrap()];
    pair.cut_off();
    for n in 1..=5 {
        seen.push(store.commit(put("k", &n.to_string())).await.unwrap());
    }
    pair.fail_over();
    let other = open(&config).await;
    for lost in &seen[1..] {
        let written = other.commit(put("k", "other")).await.unwrap();
        assert!(written.revision == lost.revision && written != *lost, "{written:?}, {lost:?}");
    }
    let stale = || put("k", "stale").guarded(Guard::Version(key("k"), seen[5]));
    let outcome = loop {
        match store.commit(stale()).await {
            Err(CommitError::Store(error)) if error.is_retryable() => {}
            outcome => break outcome,
        }
    };
    assert!(matches!(outcome, Err(CommitError::Conflict { .. })), "{outcome:?}");
    // It follows on the other's, not on what this process knows.
    store.commit(put("k", "7")).await.unwrap();
    for position in &seen {
        assert_eq!(watch.next().await.unwrap().unwrap().position, *position);
    }
    let end = watch.next().await;
    let Some(Err(StoreError::Diverged { expected, .. })) = end else { panic!("{end:?}") };
    assert_eq!(expected, seen[5]);
    for position in &seen[1..] {
        let again = match store.watch("", *position).await {
            Ok(mut watch) => watch.next().await.unwrap().map(drop),
            Err(error) => Err(error),
        };
        assert!(matches!(again, Err(StoreError::Diverged { .. })), "{position:?}: {again:?}");
    }
    assert_eq!(
        store.watch("", seen[0]).await.unwrap().take(6).filter_map(async |item| item.ok()).count().await,
        6
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn the_outcome_of_a_commit_whose_answer_was_lost_is_found() {
    let (proxy, _, store) = behind_proxy(Duration::from_secs(5)).await;
    let before = store.commit(put("a", "1")).await.unwrap();
    for txn in [put("a", "2"), Txn::of(vec![Write::delete(key("never"))]), Txn::default()] {
        let id = CommitId::random();
        proxy.set(Fault::PanicAfterCommit);
        let outcome = store.commit(txn.clone().named(id)).await;
        assert!(unknown(&outcome), "{outcome:?}");
        let found = store.outcome(id, before.revision).await.unwrap();
        assert_eq!(found, Some(store.head().await.unwrap()), "{txn:?}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_commit_that_was_settled_is_refused_when_it_arrives() {
    let (proxy, config, store) = behind_proxy(Duration::from_secs(1)).await;
    let operator = psql(&variable("ORCH_TEST_POSTGRES"), &config.schema).await;
    for settled in [false, true] {
        let before = store.commit(put("a", "before")).await.unwrap();
        proxy.set(Fault::Hold);
        let id = CommitId::random();
        let outcome = store.commit(put("a", "late").named(id)).await;
        assert!(unknown(&outcome), "{outcome:?}");
        if settled {
            assert_eq!(store.outcome(id, before.revision).await.unwrap(), None);
        }
        proxy.release();
        // The session that carries it ends when it has found out that its client is gone.
        let there = "SELECT FROM pg_stat_activity WHERE application_name = $1 AND query LIKE '%apply_step%'";
        while !operator.query(there, &[&config.schema]).await.unwrap().is_empty() {}
        let value = store.get(&key("a")).await.unwrap().unwrap().value;
        assert_eq!(value, if settled { "before" } else { "late" }, "settled: {settled}");
        assert_eq!(store.head().await.unwrap() == before, settled);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn the_ids_of_settled_commits_are_bounded() {
    let config = at(&server().1);
    let store = open(&config).await;
    let ids: Vec<_> = (0..1030).map(|_| CommitId::random()).collect();
    for id in &ids {
        assert_eq!(store.outcome(*id, Revision::ZERO).await.unwrap(), None);
    }
    assert_eq!(store.outcome(ids[1029], Revision::ZERO).await.unwrap(), None);
    let operator = psql(&variable("ORCH_TEST_POSTGRES"), &config.schema).await;
    let count: i64 = operator.query_one("SELECT count(*) FROM settled", &[]).await.unwrap().get(0);
    assert_eq!(count, 1024);
    let named = |id: &CommitId| put("a", "x").named(*id);
    let late = join_all([&ids[6], &ids[0], &ids[1029]].map(|id| store.commit(named(id)))).await;
    let settled = |outcome: &Result<Position, CommitError>| {
        matches!(outcome, Err(CommitError::Store(StoreError::Settled { .. })))
    };
    assert_eq!(late.iter().map(settled).collect::<Vec<_>>(), [true, false, true], "{late:?}");
}

/// Makes the schema that the version before wrote, which is format 2. It has records of two of five
/// revisions; the first revision is compacted, and the fourth changed nothing.
async fn format_two(schema: &str) -> tokio_postgres::Client {
    let client = psql(&variable("ORCH_TEST_POSTGRES"), schema).await;
    client.batch_execute(&include_str!("format-2.sql").replace("format_two", schema)).await.unwrap();
    client
}

#[tokio::test(flavor = "multi_thread")]
async fn what_the_version_before_wrote_is_kept_and_goes_on() {
    let config = at(&server().1);
    let client = format_two(&config.schema).await;
    let store = open(&config).await;
    let old = |revision| Position::new(Revision(revision), Incarnation(0));
    let page = store.scan("", None, 10).await.unwrap();
    let entries: Vec<_> =
        page.entries.iter().map(|entry| (entry.key.as_str(), &entry.value[..], entry.version)).collect();
    assert_eq!(entries, [("a", &b"4"[..], old(5)), ("b", b"2", old(2))]);
    assert_eq!(page.position, old(5));
    let early = store.watch("", Position::ZERO).await.err();
    assert!(matches!(early, Some(StoreError::Compacted { oldest }) if oldest == old(1)), "{early:?}");

    let stale = put("a", "5").guarded(Guard::Version(key("a"), old(2)));
    assert!(matches!(store.commit(stale).await, Err(CommitError::Conflict { .. })));
    let next = store.commit(put("a", "5").guarded(Guard::Version(key("a"), old(5)))).await.unwrap();
    assert!(next.revision == Revision(6) && next.incarnation != Incarnation(0), "{next:?}");
    let batch = |position, writes| WatchBatch { position, writes };
    let changed = |at: &str, value: &str| put(at, value).writes.remove(0);
    let expected = [
        batch(old(2), vec![changed("b", "2")]),
        batch(old(3), vec![changed("c", "3")]),
        batch(old(5), vec![changed("a", "4"), Write::delete(key("c"))]),
        batch(next, vec![changed("a", "5")]),
    ];
    for (from, skipped) in [(1, 0), (2, 1), (4, 2), (5, 3)] {
        let watch = store.watch("", old(from)).await.unwrap();
        let seen: Vec<_> = watch.take(4 - skipped).map(Result::unwrap).collect().await;
        assert_eq!(seen, expected[skipped..], "from {from}");
    }
    store.compact(Revision(4)).await.unwrap();
    assert_eq!(store.watch("", old(4)).await.unwrap().next().await.unwrap().unwrap(), expected[2]);

    // A revision of now leaves a trace always: one without was deleted by somebody.
    store.commit(put("a", "6")).await.unwrap();
    let last = store.commit(put("a", "7")).await.unwrap();
    client.execute("DELETE FROM log WHERE revision = 7", &[]).await.unwrap();
    let fresh = open(&config).await;
    let end = fresh.watch("", next).await.err();
    assert!(matches!(end, Some(StoreError::Compacted { oldest }) if oldest == last), "{end:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_process_of_the_version_before_hears_that_it_is_too_old() {
    let config = at(&server().1);
    let client = format_two(&config.schema).await;
    let apply = "SELECT revisions, places FROM apply($1, $2, $3, $4, $5, $6, $7, 'c', 'm')";
    let apply = client.prepare(apply).await.unwrap();
    let commit = || {
        let (nothing, none, versions): (Vec<i32>, Vec<String>, Vec<i64>) = Default::default();
        let (txns, keys, values) = (vec![0], vec!["b".to_owned()], vec![Some(b"8".to_vec())]);
        let (client, apply) = (&client, &apply);
        async move { client.query(apply, &[&1, &nothing, &none, &versions, &txns, &keys, &values]).await }
    };
    assert_eq!(commit().await.unwrap().len(), 1);
    let store = open(&config).await;
    let refused = full(&commit().await.unwrap_err());
    assert!(refused.contains("start this process again with that version"), "{refused}");
    assert_eq!(store.head().await.unwrap().revision, Revision(6));
}

#[tokio::test(flavor = "multi_thread")]
async fn the_log_is_bounded_in_bytes() {
    let config = PostgresStoreConfig { history_bytes: 1 << 20, ..at(&server().1) };
    let store = open(&config).await;
    for _ in 0..60 {
        store.commit(put("a", &"x".repeat(64 << 10))).await.unwrap();
    }
    let Some(StoreError::Compacted { oldest }) = store.watch("", Position::ZERO).await.err() else {
        panic!("the log must have been trimmed")
    };
    assert!((40..=45).contains(&oldest.revision.0), "{oldest}");
    let watch = store.watch("", oldest).await.unwrap();
    let seen: Vec<_> = watch.take(usize::try_from(60 - oldest.revision.0).unwrap()).collect().await;
    assert!(seen.iter().all(Result::is_ok));
    // One revision is kept, however large.
    let large = store.commit(put("a", &"x".repeat(3 << 20))).await.unwrap();
    let last = store.commit(put("b", "x")).await.unwrap();
    assert_eq!(store.watch("", large).await.unwrap().next().await.unwrap().unwrap().position, last);
}
