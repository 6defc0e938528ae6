//! PostgreSQL by `tokio-postgres`.

use futures_util::{FutureExt as _, future::BoxFuture};
use tokio_postgres::{Client, Statement};

use super::{key, number};
use crate::{BYTES, Raw, unused_name};

/// One transaction, sent in one go, as somebody would write it who knows the client well.
pub(super) struct Postgres {
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
    pub(super) async fn open(url: &str) -> Self {
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
