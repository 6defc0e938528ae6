//! PostgreSQL by `tokio-postgres`.

use std::{
    future::poll_fn,
    time::{Duration, Instant},
};

use futures_util::{FutureExt as _, future::BoxFuture};
use tokio::sync::watch;
use tokio_postgres::{AsyncMessage, Client, NoTls, Statement};

use super::{keys, trimmed};
use crate::{BYTES, Raw, WATCHED, unused_name};

/// A connection that writes, and another one that listens.
pub(super) struct Postgres {
    writer: Writer,
    listener: Listener,
}

/// One statement, which is a transaction, as an expert of the server would write it.
struct Writer {
    client: Client,
    put: Statement,
    claim: Statement,
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
            "CREATE SCHEMA {schema}; SET search_path TO {schema}; SET plan_cache_mode TO force_generic_plan; \
             CREATE TABLE records (key text COLLATE \"C\" PRIMARY KEY, value bytea, version bigint); \
             CREATE TABLE log (revision bigint, key text COLLATE \"C\", value bytea, PRIMARY KEY (revision, key)); \
             CREATE TABLE meta (revision bigint, oldest bigint) WITH (fillfactor = 10); INSERT INTO meta VALUES (0, 0)"
        );
        client.batch_execute(&set_up).await.expect("tables");
        let write = |put: &str, log: &str| {
            format!(
                "WITH head AS (UPDATE meta SET revision = revision + $3::int8 RETURNING revision - $3 AS before), \
                 rows AS (SELECT key, value, before + place AS version FROM head, \
                 unnest($1::text[], $2::bytea[]) WITH ORDINALITY AS row (key, value, place)), \
                 put AS (INSERT INTO records SELECT * FROM rows ON CONFLICT {put} RETURNING *), \
                 logged AS (INSERT INTO log (key, value, revision) SELECT * FROM {log}), \
                 told AS (SELECT pg_notify('{schema}', '')) \
                 SELECT count(*) FROM put, told"
            )
        };
        let update = "(key) DO UPDATE SET value = excluded.value, version = excluded.version";
        let trim = "WITH moved AS (UPDATE meta SET oldest = $1) DELETE FROM log WHERE revision <= $1";
        let prepare = async |sql: &str| client.prepare(sql).await.expect("a statement");
        Self {
            put: prepare(&write(update, "rows")).await,
            claim: prepare(&write("DO NOTHING", "put")).await,
            trim: prepare(trim).await,
            head: 0,
            oldest: 0,
            client,
        }
    }

    async fn put(&mut self, keys: Vec<String>, claim: bool) {
        let count = (keys.len() as u64).cast_signed();
        self.head += count.cast_unsigned();
        let values = vec![vec![7u8; BYTES]; keys.len()];
        let put = if claim { &self.claim } else { &self.put };
        let row = self.client.query_one(put, &[&keys, &values, &count]).await.expect("it is written");
        assert_eq!(row.get::<_, i64>(0), count);
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
