//! The PostgreSQL store against a real server: the conformance suite, also over a restart, several processes,
//! what people see with `psql`, connections that are lost, and whom it trusts.
#![allow(clippy::unwrap_used, reason = "helpers of tests are tests too")]

mod common;
#[path = "../examples/postgres_members.rs"]
#[allow(dead_code, unreachable_pub, reason = "it is a program of its own as well")]
mod postgres_members;

use std::{num::NonZeroU64, sync::Arc, time::Duration};

use async_trait::async_trait;
use futures_util::{StreamExt, future::join_all};
use orch_core::{
    store::{
        CommitError, Durability, Guard, Incarnation, Position, Revision, StateStore, StoreError, Txn,
        WatchBatch, Write,
    },
    testkit::store::{StoreHarness, run_all},
};
use orch_store::postgres::{PostgresStore, PostgresStoreConfig};

use common::{
    full, key, put,
    server_store::{LogOnServer, OnServer, ServerBackend, log_on_server_suite, server_store_suite},
    unused_name, variable,
};

/// The server that keeps running.
fn server() -> String {
    variable("ORCH_TEST_POSTGRES")
}

fn at(server: &str, parameters: &str) -> PostgresStoreConfig {
    PostgresStoreConfig::from_url(&format!("{server}?{parameters}")).unwrap()
}

fn fresh() -> PostgresStoreConfig {
    PostgresStoreConfig { schema: unused_name(), ..at(&server(), "") }
}

async fn open(config: &PostgresStoreConfig) -> Arc<PostgresStore> {
    Arc::new(PostgresStore::open(config.clone()).await.unwrap())
}

/// A connection past the store, in its schema.
async fn psql(schema: &str) -> tokio_postgres::Client {
    let (client, connection) =
        tokio_postgres::connect(&format!("{}?sslmode=disable", server()), tokio_postgres::NoTls)
            .await
            .unwrap();
    tokio::spawn(connection);
    client.batch_execute(&format!("SET search_path TO {schema}")).await.unwrap();
    client
}

struct Postgres;

#[async_trait]
impl ServerBackend for Postgres {
    type Config = PostgresStoreConfig;

    const DENSE: bool = true;
    const CLAIMS: usize = 1200;

    fn fresh() -> PostgresStoreConfig {
        fresh()
    }

    fn nowhere() -> PostgresStoreConfig {
        let retry_deadline = Duration::from_millis(300);
        PostgresStoreConfig { retry_deadline, ..at("postgres://orch:hidden@127.0.0.1:1/x", "") }
    }

    async fn open(config: &PostgresStoreConfig) -> Result<Arc<dyn StateStore>, StoreError> {
        Ok(Arc::new(PostgresStore::open(config.clone()).await?))
    }

    /// Its tests do not disturb each other: the server that crashes is another one.
    async fn turn(_alone: bool) -> Option<std::fs::File> {
        None
    }
}

#[async_trait]
impl LogOnServer for Postgres {
    fn bounded(history_revisions: NonZeroU64) -> PostgresStoreConfig {
        PostgresStoreConfig { history_revisions, ..fresh() }
    }

    /// The writer trims after it has completed a commit, so that it may trim once more meanwhile.
    async fn log_is_exact(config: &PostgresStoreConfig, _oldest: Revision) -> bool {
        let exact = "SELECT count(*) = (SELECT revision - oldest FROM meta) FROM log";
        psql(&config.schema).await.query_one(exact, &[]).await.unwrap().get(0)
    }

    async fn go_back(config: &PostgresStoreConfig) {
        let back = "DELETE FROM log WHERE revision > 1; \
            UPDATE meta SET revision = 1, commit = (SELECT commit FROM log WHERE revision = 1)";
        psql(&config.schema).await.batch_execute(back).await.unwrap();
    }
}

server_store_suite!(Postgres);
log_on_server_suite!(Postgres);

/// Stores that the conformance suite opens, in schemas of their own.
fn harness(server: String, crash: Option<String>) -> OnServer<Postgres> {
    let run = unused_name();
    let config = move |name: &str| {
        let schema = format!("{run}_{}", name.replace('-', "_"));
        PostgresStoreConfig { schema, ..at(&server, "") }
    };
    OnServer { config: Box::new(config), crash }
}

#[tokio::test(flavor = "multi_thread")]
async fn postgres_store_conforms() {
    run_all(&harness(server(), None)).await;
}

/// `pg_ctl restart -m immediate` is a crash of the server: no process of it ends in order.
#[tokio::test(flavor = "multi_thread")]
async fn a_crash_of_the_server_loses_nothing() {
    let (server, restart) = (variable("ORCH_TEST_POSTGRES_FRAIL"), variable("ORCH_TEST_POSTGRES_RESTART"));
    let harness = harness(server, Some(restart));
    orch_core::testkit::store::a_disturbance_loses_nothing(&harness).await;
    // What was open through it goes on: reads by themselves, a commit on a new connection.
    let store = harness.open("after").await;
    let before = store.commit(put("a", "1")).await.unwrap();
    harness.disturb().await;
    assert_eq!(store.head().await.unwrap(), before);
    assert_eq!(store.commit(put("a", "2")).await.unwrap().revision, before.revision.next());
}

/// On one thread, so that all are asked for before the first is sent.
#[tokio::test]
async fn claims_of_one_moment_are_one_transaction_of_the_database() {
    let config = fresh();
    let stores = join_all((0..4).map(|_| open(&config))).await;
    let client = psql(&config.schema).await;
    let claim = |store: Arc<PostgresStore>, name: String| async move {
        store.commit(put(&name, "me").guarded(Guard::Absent(key(&name)))).await.unwrap()
    };
    for (prefix, among, transactions) in [("one", 1, 1_i64), ("four", 4, 4)] {
        join_all((0..64).map(|n| claim(Arc::clone(&stores[n % among]), format!("{prefix}/{n}")))).await;
        let counted = "SELECT count(*), count(DISTINCT xmin::text) FROM records WHERE key ^@ $1";
        let counted = client.query_one(counted, &[&prefix]).await.unwrap();
        assert_eq!((counted.get(0), counted.get(1)), (64_i64, transactions), "claims and transactions");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn commits_in_turns_reach_the_watches_of_both_without_a_gap() {
    let config = PostgresStoreConfig { poll_interval: Duration::from_secs(600), ..fresh() };
    let stores = [open(&config).await, open(&config).await];
    let mut watches = Vec::new();
    for store in &stores {
        watches.push(store.watch("", Position::ZERO).await.unwrap());
    }
    let mut expected = Vec::new();
    for n in 0..60 {
        // Sometimes one follows on itself, sometimes on the other; of the deletions one in two finds
        // something.
        let (store, name) = (&stores[usize::from(n % 3 == 0)], format!("k/{}", n % 5));
        let txn = match n % 4 {
            3 => Txn::of(vec![Write::delete(key(&name)), Write::delete(key("never"))]),
            _ => put(&name, &n.to_string()),
        };
        let there = store.get(&key(&name)).await.unwrap().is_some();
        let writes: Vec<_> = txn
            .writes
            .iter()
            .filter(|write| write.value.is_some() || there && write.key.as_str() != "never")
            .cloned()
            .collect();
        let position = store.commit(txn).await.unwrap();
        if !writes.is_empty() {
            expected.push(WatchBatch { position, writes });
        }
    }
    for watch in watches {
        let seen: Vec<_> = watch.take(expected.len()).map(Result::unwrap).collect().await;
        assert_eq!(seen, expected);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_hot_record_takes_every_change_of_a_group() {
    let store = open(&fresh()).await;
    let all = (0..100).map(|n| {
        let store = Arc::clone(&store);
        async move { store.commit(put("hot", &n.to_string())).await.unwrap().revision }
    });
    let mut revisions = join_all(all).await;
    revisions.sort();
    assert_eq!(revisions, (1..=100).map(Revision).collect::<Vec<_>>());
    let entry = store.get(&key("hot")).await.unwrap().unwrap();
    assert_eq!(entry.version.revision, Revision(100));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_prefix_that_no_key_has_finds_nothing() {
    let store = open(&fresh()).await;
    store.commit(put("a", "1")).await.unwrap();
    let long = "x".repeat(100_000);
    for prefix in ["a\0", "\0", "\u{1}", "a\\", "/", "a//", "..", "a\n", &long] {
        let page = store.scan(prefix, None, 10).await.unwrap();
        assert_eq!(
            (page.position.revision, page.entries.len(), page.more),
            (Revision(1), 0, false),
            "{prefix:?}"
        );
        let mut watch = store.watch(prefix, Position::ZERO).await.unwrap();
        let mut all = store.watch("", Position::ZERO).await.unwrap();
        all.next().await.unwrap().unwrap();
        assert!(futures_util::poll!(watch.next()).is_pending(), "{prefix:?}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn people_can_read_everything_with_psql() {
    let config = fresh();
    let store = open(&config).await;
    store.commit(put("tasks/1", "{\"v\":\"ä\"}")).await.unwrap();
    let bytes = orch_core::store::Write::put(key("tasks/2"), vec![0xff, 0x00, b'x']);
    store.commit(orch_core::store::Txn::of(vec![bytes])).await.unwrap();
    let client = psql(&config.schema).await;
    let rows = client.query("SELECT key, value, version FROM readable ORDER BY key", &[]).await.unwrap();
    let rows: Vec<(String, String, i64)> =
        rows.iter().map(|row| (row.get(0), row.get(1), row.get(2))).collect();
    let expected = [("tasks/1", "{\"v\":\"ä\"}", 1), ("tasks/2", "\\377\\000x", 2)];
    assert_eq!(rows, expected.map(|(key, value, version)| (key.to_owned(), value.to_owned(), version)));
}

/// Ends all connections of stores, as a restart of a proxy would, and waits until they are gone.
async fn cut_all(client: &tokio_postgres::Client) {
    let cut = "SELECT pg_terminate_backend(pid, 10000) FROM pg_stat_activity WHERE application_name = current_schema()";
    assert!(client.query(cut, &[]).await.unwrap().len() >= 2);
}

#[tokio::test(flavor = "multi_thread")]
async fn lost_connections_are_made_again_and_watches_miss_nothing() {
    let config = fresh();
    let named = at(&server(), &format!("application_name={}", config.schema));
    let config = PostgresStoreConfig { schema: config.schema, ..named };
    let store = open(&config).await;
    let mut watch = store.watch("", Position::ZERO).await.unwrap();
    let client = psql(&config.schema).await;
    for round in 1..=5 {
        let first = store.commit(put("a", &round.to_string())).await.unwrap();
        assert_eq!(watch.next().await.unwrap().unwrap().position.revision, Revision(2 * round - 1));
        cut_all(&client).await;
        assert!(store.get(&key("a")).await.unwrap().is_some(), "a read is tried again");
        // A commit that finds its connection gone before it begins is made on a new one.
        let second = loop {
            match store.commit(put("a", "again").guarded(Guard::Version(key("a"), first))).await {
                Err(CommitError::Store(error)) if error.is_retryable() => {}
                done => break done,
            }
        };
        assert!(matches!(second, Ok(_) | Err(CommitError::Conflict { .. })), "{second:?}");
        assert_eq!(watch.next().await.unwrap().unwrap().position.revision, Revision(2 * round));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_watch_needs_no_notification() {
    let config = PostgresStoreConfig { poll_interval: Duration::from_millis(50), ..fresh() };
    let store = open(&config).await;
    let mut watch = store.watch("", Position::ZERO).await.unwrap();
    // A change as a store makes it, without its NOTIFY.
    let silently = "WITH head AS (UPDATE meta SET revision = revision + 1, commit = 7 RETURNING revision, commit) \
        INSERT INTO log SELECT revision, 'a', 'x', commit FROM head";
    psql(&config.schema).await.execute(silently, &[]).await.unwrap();
    assert_eq!(watch.next().await.unwrap().unwrap().position.revision, Revision(1));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_notification_wakes_the_watches_of_other_processes() {
    let config = PostgresStoreConfig { poll_interval: Duration::from_secs(600), ..fresh() };
    let (one, two) = (open(&config).await, open(&config).await);
    let mut watch = two.watch("", Position::ZERO).await.unwrap();
    for n in 1..=20 {
        one.commit(put("a", "x")).await.unwrap();
        assert_eq!(watch.next().await.unwrap().unwrap().position.revision, Revision(n));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn processes_that_open_a_new_schema_at_once_make_it_once() {
    let config = fresh();
    for store in join_all((0..8).map(|_| open(&config))).await {
        assert_eq!(store.head().await.unwrap(), Position::ZERO);
    }
}

#[tokio::test]
async fn a_schema_of_the_first_format_is_brought_up_to_date() {
    let config = fresh();
    let (client, schema) = (psql("public").await, &config.schema);
    let first = include_str!("../src/server_store/postgres/sql/schema-1.sql");
    let made = format!("CREATE SCHEMA {schema}; SET search_path TO {schema}; {first}");
    client.batch_execute(&made).await.unwrap();
    let old = "INSERT INTO records VALUES ('a', 'x', 1); INSERT INTO log VALUES (1, 'a', 'x'); UPDATE meta SET revision = 1";
    client.batch_execute(old).await.unwrap();
    let store = open(&config).await;
    let first = Position::new(Revision(1), Incarnation(0));
    assert_eq!(store.get(&key("a")).await.unwrap().unwrap().version, first);
    let claim = put("b", "y").guarded(Guard::Version(key("a"), first));
    assert_eq!(store.commit(claim).await.unwrap().revision, Revision(2));
    let format: i32 = client.query_one("SELECT format FROM meta", &[]).await.unwrap().get(0);
    assert_eq!(format, 3);
}

/// Whatever isolation is usual in the database: what is decided is decided on what is there.
#[tokio::test(flavor = "multi_thread")]
async fn a_database_that_isolates_more_by_itself_changes_nothing() {
    let config = fresh();
    let role = format!("options=-c%20default_transaction_isolation%3Dserializable&schema={}", config.schema);
    let strict = PostgresStoreConfig { schema: config.schema, ..at(&server(), &role) };
    let stores = join_all((0..3).map(|_| open(&strict))).await;
    let all = (0..90).map(|n| {
        let store = &stores[n % 3];
        async move { store.commit(put("hot", &n.to_string())).await.unwrap().revision }
    });
    let mut revisions = join_all(all).await;
    revisions.sort();
    assert_eq!(revisions, (1..=90).map(Revision).collect::<Vec<_>>());
}

async fn opening_fails(config: PostgresStoreConfig) -> StoreError {
    PostgresStore::open(config).await.expect_err("opening must fail")
}

#[tokio::test]
async fn a_newer_format_and_a_foreign_schema_are_refused_and_left_alone() {
    for (makes, says) in [
        ("CREATE TABLE meta (format int); INSERT INTO meta VALUES (99)", "newer version (format 99"),
        ("CREATE TABLE meta (id int)", "not a store of orch"),
        ("CREATE TABLE theirs (id int)", "not a store of orch"),
    ] {
        let config = fresh();
        let client = psql("public").await;
        let schema = &config.schema;
        client
            .batch_execute(&format!("CREATE SCHEMA {schema}; SET search_path TO {schema}; {makes}"))
            .await
            .unwrap();
        let error = opening_fails(config).await;
        assert!(
            matches!(error, StoreError::Corrupt(_)) && error.to_string().contains(says),
            "{}",
            full(&error)
        );
        let tables: i64 = client
            .query_one(
                "SELECT count(*) FROM pg_class WHERE relnamespace = current_schema()::regnamespace",
                &[],
            )
            .await
            .unwrap()
            .get(0);
        assert_eq!(tables, 1);
    }
}

#[tokio::test]
async fn a_role_needs_no_more_than_its_schema() {
    let (config, role) = (fresh(), unused_name());
    let client = psql("public").await;
    let schema = &config.schema;
    client
        .batch_execute(&format!(
            "CREATE ROLE {role} LOGIN PASSWORD 'secret'; CREATE SCHEMA {schema} AUTHORIZATION {role}"
        ))
        .await
        .unwrap();
    let (_, host) = server().split_once('@').map(|(a, b)| (a.to_owned(), b.to_owned())).unwrap();
    let store = open(&at(&format!("postgres://{role}:secret@{host}"), &format!("schema={schema}"))).await;
    assert_eq!(store.commit(put("a", "1")).await.unwrap().revision, Revision(1));
}

#[tokio::test]
async fn who_cannot_log_in_hears_why_and_no_password_is_shown() {
    let wrong = server().replacen("orch:", "orch:wr%40ng-", 1);
    let config = at(&wrong, "");
    assert!(!format!("{config:?}").contains("ng-"), "{config:?}");
    let error = opening_fails(config).await;
    let text = full(&error);
    assert!(!error.is_retryable() && text.contains("password authentication failed"), "{text}");
    assert!(!text.contains("ng-") && !format!("{error:?}").contains("ng-"), "{text}");
}

#[test]
fn urls_that_make_no_sense_are_explained() {
    for (url, says) in [
        ("postgres://u:hidden@h/d?sslmode=sometimes", "verify-full"),
        ("postgres://u:hidden@h/d?schema=Robert'); DROP", "small letters"),
        ("postgres://u:hidden@h/d?wrong=1", "cannot be understood"),
        ("postgres://u:hidden@h:port/d", "cannot be understood"),
    ] {
        let text = full(&PostgresStoreConfig::from_url(url).unwrap_err());
        assert!(text.contains(says) && !text.contains("hidden"), "{url}: {text}");
    }
}

/// True if connections are encrypted, as the server sees it; or why there is none.
async fn encrypted(server: &str, parameters: &str) -> Result<bool, String> {
    let name = unused_name();
    let config = at(server, &format!("{parameters}&application_name={name}"));
    let config =
        PostgresStoreConfig { schema: unused_name(), retry_deadline: Duration::from_millis(50), ..config };
    let store = PostgresStore::open(config).await.map_err(|error| full(&error))?;
    store.head().await.unwrap();
    let query =
        "SELECT bool_and(ssl) FROM pg_stat_ssl JOIN pg_stat_activity USING (pid) WHERE application_name = $1";
    Ok(psql("public").await.query_one(query, &[&name]).await.unwrap().get(0))
}

#[tokio::test]
async fn sslmode_is_obeyed() {
    // The certificate is for localhost, and not for this address.
    let by_name = server().replace("127.0.0.1", "localhost");
    let by_address = server();
    let ca = format!("sslrootcert={}", variable("ORCH_TEST_POSTGRES_CA"));
    for (server, parameters, expected) in [
        (&by_address, "sslmode=disable".to_owned(), Ok(false)),
        (&by_address, "sslmode=prefer".to_owned(), Ok(true)),
        (&by_address, "sslmode=require".to_owned(), Ok(true)),
        (&by_address, format!("sslmode=require&{ca}"), Ok(true)),
        (&by_address, format!("sslmode=verify-ca&{ca}"), Ok(true)),
        (&by_address, format!("sslmode=verify-full&{ca}"), Err("name")),
        (&by_name, format!("sslmode=verify-full&{ca}"), Ok(true)),
        (&by_name, "sslmode=verify-full".to_owned(), Err("certificate")),
        (&by_name, "sslmode=verify-ca".to_owned(), Err("certificate")),
        (&by_name, "sslmode=verify-ca&sslrootcert=/nowhere".to_owned(), Err("/nowhere")),
    ] {
        match (encrypted(server, &parameters).await, expected) {
            (Ok(found), Ok(expected)) => assert_eq!(found, expected, "{parameters}"),
            (Err(text), Err(says)) => assert!(text.contains(says), "{parameters}: {text}"),
            (found, _) => panic!("{parameters}: {found:?}"),
        }
    }
}

#[tokio::test]
async fn a_server_that_syncs_declares_that_commits_survive_a_power_cut() {
    assert_eq!(open(&fresh()).await.capabilities().durability, Durability::Sync);
}

#[tokio::test]
async fn the_url_opens_it() {
    let url = format!("{}?schema={}", server(), unused_name());
    let store = orch_store::connect(&url).await.unwrap();
    assert_eq!(store.capabilities().name, "postgres");
    let wrong = orch_store::connect(&url.replace("schema=", "schema=-")).await.unwrap_err();
    assert!(full(&wrong).contains("small letters"), "{}", full(&wrong));
}

#[tokio::test(flavor = "multi_thread")]
async fn the_example_works() {
    postgres_members::members(fresh()).await.unwrap();
}
