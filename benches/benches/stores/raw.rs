//! The clients that stores are made of, used by hand for the same work: the record, its version, an entry of a log, the
//! number of the revision, and the guard of a claim.

use std::path::Path;

use futures_util::{FutureExt as _, future::BoxFuture};
use tokio_postgres::{Client, Statement};

use super::{BYTES, Raw, next, unused_name};

pub(super) fn key(number: u64, claim: bool) -> String {
    // Claims are of keys that are not there; other commits come back to the same ones.
    if claim { format!("claims/{number}") } else { format!("tasks/{}", number % 10_000) }
}

pub(super) async fn open(name: &str, url: &str, dir: &Path) -> Option<Box<dyn Raw>> {
    match name {
        "sqlite" => Some(Box::new(Sqlite::open(dir))),
        "postgres" => Some(Box::new(Postgres::open(url).await)),
        "redis" => Some(Box::new(Redis::open(url).await)),
        _ => None,
    }
}

/// The next number, as databases count.
fn number() -> i64 {
    i64::try_from(next()).expect("not so many")
}

struct Sqlite(rusqlite::Connection);

impl Sqlite {
    fn open(dir: &Path) -> Self {
        let connection = rusqlite::Connection::open(dir.join("raw.sqlite")).expect("a file");
        let set_up = "PRAGMA journal_mode = WAL; PRAGMA synchronous = FULL; \
            CREATE TABLE records (key TEXT NOT NULL PRIMARY KEY, value BLOB NOT NULL, version INTEGER NOT NULL); \
            CREATE TABLE log (revision INTEGER, key TEXT, value BLOB, PRIMARY KEY (revision, key)) WITHOUT ROWID; \
            CREATE TABLE meta (revision INTEGER); INSERT INTO meta VALUES (0)";
        connection.execute_batch(set_up).expect("tables");
        Self(connection)
    }
}

impl Raw for Sqlite {
    fn write(&mut self, together: u64, claim: bool) -> BoxFuture<'_, ()> {
        let mut write = || {
            let transaction = self.0.transaction_with_behavior(rusqlite::TransactionBehavior::Immediate)?;
            let value = vec![7; BYTES];
            for _ in 0..together {
                let revision = number();
                let key = key(revision.unsigned_abs(), claim);
                if claim {
                    let mut look = transaction.prepare_cached("SELECT 1 FROM records WHERE key = ?")?;
                    assert!(!look.exists([&key])?);
                }
                let mut put = transaction.prepare_cached(
                    "INSERT INTO records VALUES (?, ?, ?) ON CONFLICT (key) DO UPDATE SET value = excluded.value, \
                     version = excluded.version",
                )?;
                put.execute((&key, &value, revision))?;
                let mut log = transaction.prepare_cached("INSERT INTO log VALUES (?, ?, ?)")?;
                log.execute((revision, &key, &value))?;
            }
            transaction.prepare_cached("UPDATE meta SET revision = ?")?.execute([number()])?;
            transaction.commit()
        };
        let done: rusqlite::Result<()> = write();
        done.expect("it is written");
        std::future::ready(()).boxed()
    }
}

/// One transaction, sent in one go, as somebody would write it who knows the client well.
struct Postgres {
    client: Client,
    begin: Statement,
    lock: Statement,
    put: Statement,
    claim: Statement,
    log: Statement,
    meta: Statement,
    notify: Statement,
    commit: Statement,
}

impl Postgres {
    async fn open(url: &str) -> Self {
        let server = url.split('?').next().unwrap_or(url);
        let connected =
            tokio_postgres::connect(&format!("{server}?sslmode=disable"), tokio_postgres::NoTls).await;
        let (client, connection) = connected.expect("the server is there");
        tokio::spawn(connection);
        let schema = unused_name();
        let set_up = format!(
            "CREATE SCHEMA {schema}; SET search_path TO {schema}; \
             CREATE TABLE records (key text COLLATE \"C\" PRIMARY KEY, value bytea, version bigint); \
             CREATE TABLE log (revision bigint, key text COLLATE \"C\", value bytea, PRIMARY KEY (revision, key)); \
             CREATE TABLE meta (revision bigint); INSERT INTO meta VALUES (0)"
        );
        client.batch_execute(&set_up).await.expect("tables");
        let prepare = async |sql: &str| client.prepare(sql).await.expect("a statement");
        let rows = "SELECT * FROM unnest($1::text[], $2::bytea[], $3::int8[])";
        Self {
            begin: prepare("BEGIN").await,
            lock: prepare("SELECT revision FROM meta FOR UPDATE").await,
            put: prepare(&format!(
                "INSERT INTO records {rows} ON CONFLICT (key) DO UPDATE SET value = excluded.value, \
                 version = excluded.version"
            ))
            .await,
            claim: prepare(&format!("INSERT INTO records {rows} ON CONFLICT DO NOTHING")).await,
            log: prepare(
                "INSERT INTO log (key, value, revision) SELECT * FROM unnest($1::text[], $2::bytea[], $3::int8[])",
            )
            .await,
            meta: prepare("UPDATE meta SET revision = revision + $1").await,
            notify: prepare("NOTIFY raw_news").await,
            commit: prepare("COMMIT").await,
            client,
        }
    }
}

impl Raw for Postgres {
    fn write(&mut self, together: u64, claim: bool) -> BoxFuture<'_, ()> {
        async move {
            let numbers: Vec<i64> = (0..together).map(|_| number()).collect();
            let keys: Vec<String> = numbers.iter().map(|number| key(number.unsigned_abs(), claim)).collect();
            let values = vec![vec![7u8; BYTES]; keys.len()];
            let count = i64::try_from(together).expect("not so many");
            let rows: [&(dyn tokio_postgres::types::ToSql + Sync); 3] = [&keys, &values, &numbers];
            let counted: [&(dyn tokio_postgres::types::ToSql + Sync); 1] = [&count];
            let put = if claim { &self.claim } else { &self.put };
            let done = futures_util::try_join!(
                self.client.execute(&self.begin, &[]),
                self.client.query(&self.lock, &[]),
                self.client.execute(put, &rows),
                self.client.execute(&self.log, &rows),
                self.client.execute(&self.meta, &counted),
                self.client.execute(&self.notify, &[]),
                self.client.execute(&self.commit, &[]),
            );
            done.expect("it is written");
        }
        .boxed()
    }
}

struct Redis(redis::aio::MultiplexedConnection, String);

impl Redis {
    async fn open(url: &str) -> Self {
        let client = redis::Client::open(url.split('?').next().unwrap_or(url)).expect("a URL");
        Self(client.get_multiplexed_async_connection().await.expect("the server is there"), unused_name())
    }
}

impl Raw for Redis {
    fn write(&mut self, together: u64, claim: bool) -> BoxFuture<'_, ()> {
        async move {
            let all = (0..together).map(|_| {
                let (mut connection, name, number) = (self.0.clone(), &self.1, next());
                let key = key(number, claim);
                async move {
                    let value = vec![7u8; BYTES];
                    let mut pipe = redis::pipe();
                    pipe.atomic();
                    let values = format!("{{{name}}}:values");
                    if claim {
                        pipe.hset_nx(&values, &key, &value)
                    } else {
                        pipe.hset(&values, &key, &value)
                    };
                    pipe.hset(format!("{{{name}}}:versions"), &key, number);
                    pipe.zadd(format!("{{{name}}}:index"), &key, 0);
                    pipe.cmd("HINCRBY").arg(format!("{{{name}}}:meta")).arg("revision").arg(1);
                    let log = format!("{{{name}}}:log");
                    pipe.cmd("XADD").arg(log).arg("*").arg("revision").arg(number).arg(&key).arg(&value);
                    pipe.cmd("PUBLISH").arg(name).arg(number);
                    pipe.exec_async(&mut connection).await.expect("it is written");
                }
            });
            futures_util::future::join_all(all).await;
        }
        .boxed()
    }
}
