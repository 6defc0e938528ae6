//! PostgreSQL by `tokio-postgres`.

use std::{
    future::poll_fn,
    time::{Duration, Instant},
};

use futures_util::{FutureExt as _, future::BoxFuture};
use tokio::sync::watch;
use tokio_postgres::{AsyncMessage, Client, NoTls, Statement, types::ToSql};

use super::{keys, trimmed};
use crate::{BYTES, Raw, WATCHED, unused_name};

/// A connection that writes, and another one that listens.
pub(super) struct Postgres {
    writer: Writer,
    listener: Listener,
}

/// One transaction, sent in one go, as somebody would write it who knows the client well.
struct Writer {
    client: Client,
    begin: Statement,
    lock: Statement,
    put: Statement,
    claim: Statement,
    log: Statement,
    meta: Statement,
    notify: Statement,
    commit: Statement,
    trim: Statement,
    head: u64,
    oldest: u64,
}

struct Listener {
    client: Client,
    read: Statement,
    news: watch::Receiver<()>,
}

impl Postgres {
    pub(super) async fn open(url: &str) -> Self {
        let server = url.split('?').next().unwrap_or(url);
        let schema = unused_name();
        let writer = Writer::open(server, &schema).await;
        Self { writer, listener: Listener::open(server, &schema).await }
    }
}

impl Writer {
    async fn open(server: &str, schema: &str) -> Self {
        let (client, connection) = connect(server).await;
        tokio::spawn(connection);
        let set_up = format!(
            "CREATE SCHEMA {schema}; SET search_path TO {schema}; \
             CREATE TABLE records (key text COLLATE \"C\" PRIMARY KEY, value bytea, version bigint); \
             CREATE TABLE log (revision bigint, key text COLLATE \"C\", value bytea, PRIMARY KEY (revision, key)); \
             CREATE TABLE meta (revision bigint, oldest bigint) WITH (fillfactor = 10); INSERT INTO meta VALUES (0, 0)"
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
            notify: prepare(&format!("NOTIFY {schema}")).await,
            commit: prepare("COMMIT").await,
            trim: prepare("WITH moved AS (UPDATE meta SET oldest = $1) DELETE FROM log WHERE revision <= $1").await,
            head: 0,
            oldest: 0,
            client,
        }
    }

    async fn put(&mut self, keys: Vec<String>, claim: bool) {
        let count = keys.len() as u64;
        let numbers: Vec<i64> = (self.head + 1..=self.head + count).map(u64::cast_signed).collect();
        self.head += count;
        let values = vec![vec![7u8; BYTES]; keys.len()];
        let rows: [&(dyn ToSql + Sync); 3] = [&keys, &values, &numbers];
        let count = count.cast_signed();
        let counted: [&(dyn ToSql + Sync); 1] = [&count];
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
        if let Some(oldest) = trimmed(self.oldest, self.head) {
            self.client.execute(&self.trim, &[&oldest.cast_signed()]).await.expect("it is trimmed");
            self.oldest = oldest;
        }
    }
}

impl Listener {
    async fn open(server: &str, schema: &str) -> Self {
        let (client, mut connection) = connect(server).await;
        let (tell, news) = watch::channel(());
        tokio::spawn(async move {
            while let Some(Ok(message)) = poll_fn(|cx| connection.poll_message(cx)).await {
                if matches!(message, AsyncMessage::Notification(_)) {
                    tell.send_replace(());
                }
            }
        });
        client.batch_execute(&format!("SET search_path TO {schema}; LISTEN {schema}")).await.expect("an ear");
        let read = client.prepare("SELECT revision, key, value FROM log WHERE revision > $1 ORDER BY 1, 2");
        Self { read: read.await.expect("a statement"), client, news }
    }

    /// The first change after this revision.
    async fn next(&mut self, after: u64) -> (String, Vec<u8>) {
        loop {
            self.news.changed().await.expect("the connection is there");
            let rows = self.client.query(&self.read, &[&after.cast_signed()]).await.expect("the log");
            if let Some(row) = rows.first() {
                return (row.get(1), row.get(2));
            }
        }
    }
}

impl Raw for Postgres {
    fn write(&mut self, together: u64, claim: bool) -> BoxFuture<'_, ()> {
        self.writer.put(keys(together, claim), claim).boxed()
    }

    fn seen(&mut self, times: u64) -> BoxFuture<'_, Duration> {
        async move {
            let begin = Instant::now();
            for _ in 0..times {
                let next = self.listener.next(self.writer.head);
                let ((), (key, value)) =
                    futures_util::join!(self.writer.put(vec![WATCHED.into()], false), next);
                assert_eq!((&*key, value.len()), (WATCHED, BYTES));
            }
            begin.elapsed()
        }
        .boxed()
    }
}

async fn connect(
    server: &str,
) -> (Client, tokio_postgres::Connection<tokio_postgres::Socket, tokio_postgres::tls::NoTlsStream>) {
    tokio_postgres::connect(&format!("{server}?sslmode=disable"), NoTls).await.expect("the server is there")
}
