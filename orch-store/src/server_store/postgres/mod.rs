//! Records in a PostgreSQL database (version 12 or later), for several processes that decide over the same
//! records.
//!
//! | name | holds |
//! |---|---|
//! | `records` | key, value, and the revision and the id of the commit that wrote it |
//! | `log` | what each of the newest commits changed, for watches |
//! | `meta` | the format, the newest commit, and where the log begins |
//! | `settled` | ids of commits that were asked for before they arrived, and are refused |
//! | `readable` | a view of the records with values as text, for `psql` |
//! | `apply_step`, `apply_steps` | the functions that decide and apply commits |
//! | `settle`, `forget` | those that settle outcomes and trim the log |
//!
//! All are in a schema of their own (`orch` unless the URL says otherwise), which is made and brought up to
//! date when the store is opened. A process of an earlier version that still runs is told so with its next
//! commit. Changing records by hand goes past the revisions and the log, so that no watch would show it.
//!
//! Every commit locks the one row of `meta`, takes its revision from there and releases the row at the end.
//! So revisions become visible in their order, and a watch that has delivered 7 never delivers a 6. Commits
//! that wait together are one transaction of the database, and one call of a function: they share the lock,
//! the round trip and the sync, and the lock is never held while a client thinks. Watches of what this
//! process commits are fed from memory; those of others are woken by `NOTIFY` and read the log, so that a
//! lost notification costs them [`PostgresStoreConfig::poll_interval`] and nothing else.
//!
//! A commit is one statement, and so are several that wait together: it happens as a whole or not at all. One
//! whose connection is lost before the answer, whose session or server ends with the answer, or that takes
//! longer than [`PostgresStoreConfig::timeout`], is reported with [`StoreError::outcome_unknown`]. One that
//! waits for a lock that somebody holds (a forgotten transaction in `psql`) is refused while nothing has
//! happened, with an error that names the session. Reads are tried again on a new connection.
//!
//! # Durability
//!
//! Declared is what an acknowledged commit survives with the settings that the server has when the store is
//! opened. A URL with several hosts means that a standby may take over:
//!
//! | settings | one host | several hosts |
//! |---|---|---|
//! | `fsync=off` | `Group` | `Group` |
//! | no `synchronous_standby_names` | `Sync` | `Group`: a standby that takes over may lack commits |
//! | with them, `synchronous_commit` is `on` or `remote_apply` | `Replicated` | `Replicated` |
//! | with them, `remote_write` or `local` | `Sync` | `Group`: the standby has it in memory at best |
//!
//! `synchronous_commit=off` is not used: sessions of the store set it to `on`. `local` and `remote_write` are
//! left as the operator chose them. The standby that takes over must be one that commits wait for. An address
//! that moves between servers (a virtual IP, a name, a proxy) looks like one host: name the hosts instead.
//!
//! The writer looks at the settings with each connection that it makes, and refuses to commit on a server
//! that is less durable than was declared, for example after a standby took over that has no standby of its
//! own yet. A commit whose wait for the standby an operator ended has an unknown outcome.
//!
//! A server that comes back older, from a backup or as a standby that was behind, gives out revisions again.
//! The ids beside them tell: guards with positions of lost commits do not hold, and watches end with
//! [`StoreError::Diverged`]. A takeover by a standby that has everything is no loss, and watches go on.
//!
//! Connection poolers that hand a connection to somebody else between transactions (PgBouncer's transaction
//! mode) cannot be used: statements are prepared, and notifications listened for.

mod config;
mod durability;
mod error;
mod plan;
mod readers;
mod schema;
mod session;
mod tls;
mod writer;

use std::{fmt, sync::Arc, time::Duration};

use async_trait::async_trait;
use bytes::Bytes;
use orch_core::store::{
    CommitError, CommitId, Durability, Entry, Incarnation, Key, Page, Position, Revision, StateStore,
    StoreCapabilities, StoreError, Txn, Watch, WatchBatch, Write,
};
use parking_lot::Mutex;
use tokio::{sync::mpsc, task::JoinHandle};
use tokio_postgres::{Error, Row, types::ToSql};

pub use self::config::{PostgresServer, PostgresStoreConfig};
use self::{
    durability::Settings,
    error::Cause,
    readers::Readers,
    session::{Connector, Declared, OnNews, channel},
    writer::{Commit, Retention, Writer},
};
use crate::{
    completion::completion,
    permits::QueuePermits,
    prefix,
    server_store::log_follower::{LogChunk, LogFollower, SharedLog, Watches},
};

/// Bytes of one transaction: they are one message to the server.
const TXN_BYTES: usize = 128 << 20;

/// Bytes of the log that are read at once.
const LOG_BYTES: i64 = 16 << 20;

/// Time after which a commit is seen by watches of other processes: a notification, and a reading of the log.
const WATCH_LATENCY: Duration = Duration::from_millis(5);

/// Revisions that are forgotten at once.
const COMPACTED: i64 = 1024;

/// A [`StateStore`] in a PostgreSQL database, shared by any number of processes. Dropping it finishes what
/// was accepted in the background; [`StateStore::close`] waits for that.
pub struct PostgresStore {
    readers: Arc<Readers>,
    watches: Watches,
    /// Queue of the writer; taken when the store closes.
    jobs: Mutex<Option<mpsc::Sender<Commit>>>,
    permits: QueuePermits,
    writing: Mutex<Option<JoinHandle<()>>>,
    durability: Durability,
    config: PostgresStoreConfig,
}

impl PostgresStore {
    /// Connects, and makes the schema or brings it up to date. Waits for the server for
    /// [`PostgresStoreConfig::retry_deadline`].
    ///
    /// # Errors
    /// [`StoreError::Backend`] when the server cannot be reached, refuses, or is not trusted;
    /// [`StoreError::Corrupt`] when the schema is not one of orch or comes from a newer version, and is left
    /// as it is then.
    pub async fn open(config: PostgresStoreConfig) -> Result<Self, StoreError> {
        config.check()?;
        let connector = Arc::new(Connector::new(&config)?);
        let mut client = connector.retry_until_deadline(|| connector.connect(None)).await?;
        let declared = async {
            schema::prepare(&mut client, &config.schema).await?;
            let settings = Settings::of(&client).await.map_err(|error| error::statement("opening", error))?;
            let hosts = config.server.count();
            Ok(Declared { durability: settings.durability(hosts), hosts })
        };
        // Each of its statements may wait for another process that opens the store.
        let limit = config.timeout * 2;
        let declared = tokio::time::timeout(limit, declared).await;
        let declared = declared.map_err(|_| error::backend("opening", true, Cause::Silent(limit)))??;
        drop(client);
        let readers = Arc::new(Readers::new(Arc::clone(&connector), config.readers));
        let follower = Arc::new(LogFollower::start(Arc::new(Log(Arc::clone(&readers)))).await?);
        let permits = QueuePermits::new(config.queue_bytes);
        let (jobs, queue) = mpsc::channel(permits.items_max());
        let writer = Writer {
            connector: Arc::clone(&connector),
            readers: Arc::clone(&readers),
            follower: Arc::clone(&follower),
            jobs: queue,
            declared,
            retention: Retention::new(config.history_revisions, config.history_bytes),
            last: Default::default(),
        };
        Ok(Self {
            watches: Watches::start(Arc::clone(&follower), listen(connector, follower, config.clone())),
            writing: Mutex::new(Some(tokio::spawn(writer.run()))),
            jobs: Mutex::new(Some(jobs)),
            permits,
            readers,
            durability: declared.durability,
            config,
        })
    }

    fn jobs(&self) -> Result<mpsc::Sender<Commit>, StoreError> {
        self.jobs.lock().clone().ok_or(StoreError::Closed)
    }
}

#[async_trait]
impl StateStore for PostgresStore {
    /// `durability` is that of the module's table, for the settings of the server when the store was opened.
    fn capabilities(&self) -> StoreCapabilities {
        StoreCapabilities::new(error::NAME)
            .compare_and_swap(true)
            .shared(true)
            .durability(self.durability)
            .watch_latency(WATCH_LATENCY)
            .outcomes(true)
            .max_value_bytes(self.config.max_value_bytes)
            .max_txn_writes(self.config.max_txn_writes)
    }

    async fn get(&self, key: &Key) -> Result<Option<Entry>, StoreError> {
        self.watches.check_open()?;
        let rows = self.readers.query("reading", |all| &all.get, &[&key.as_str()]).await?;
        let entry = |row: &Row| {
            Ok(Entry { key: key.clone(), value: bytes_in(row, 0)?, version: position_in(row, 1, 2)? })
        };
        let entry = rows.first().map(entry).transpose();
        entry.map_err(|error| error::statement("reading", error))
    }

    async fn scan(&self, prefix: &str, after: Option<&Key>, limit: usize) -> Result<Page, StoreError> {
        if !prefix::may_begin_a_key(prefix) {
            return Ok(Page { position: self.head().await?, entries: Vec::new(), more: false });
        }
        self.watches.check_open()?;
        let after = after.map(Key::as_str).filter(|after| *after >= prefix);
        let (start, end) = (after.unwrap_or(prefix), prefix::end_of(prefix));
        let wanted = i64::try_from(limit.saturating_add(1)).unwrap_or(i64::MAX);
        let parameters: [&(dyn ToSql + Sync); 4] = [&start, &after, &end, &wanted];
        let rows = self.readers.query("scanning", |all| &all.scan, &parameters).await?;
        let mut page = page_of(&rows)?;
        page.more = page.entries.len() > limit;
        page.entries.truncate(limit);
        Ok(page)
    }

    async fn commit(&self, txn: Txn) -> Result<Position, CommitError> {
        txn.check(&self.capabilities())?;
        let bytes = txn.size_bytes();
        if bytes > TXN_BYTES {
            let what = "the writes of a transaction, in bytes,".into();
            return Err(StoreError::TooLarge { store: error::NAME, what, size: bytes, max: TXN_BYTES }.into());
        }
        let jobs = self.jobs()?;
        let permits = self.permits.acquire(bytes).await?;
        let (sender, receiver) = completion();
        jobs.send(Commit { txn, bytes, sender, _permits: permits }).await.map_err(|_| StoreError::Closed)?;
        drop(jobs);
        let writer_ended = || {
            let (store, operation, source) = (error::NAME, "committing", Arc::new(Cause::Writer));
            StoreError::Backend { store, operation, retryable: false, outcome_unknown: true, source }.into()
        };
        receiver.await.unwrap_or_else(|| Err(writer_ended()))
    }

    async fn watch(&self, prefix: &str, from: Position) -> Result<Watch, StoreError> {
        self.watches.watch(prefix, from).await
    }

    async fn head(&self) -> Result<Position, StoreError> {
        self.watches.check_open()?;
        let rows = self.readers.query("reading the revision", |all| &all.head, &[]).await?;
        let first = rows.first().ok_or_else(|| error::corrupt("meta is empty"))?;
        position_in(first, 0, 1).map_err(|error| error::statement("reading the revision", error))
    }

    async fn outcome(&self, id: CommitId, since: Revision) -> Result<Option<Position>, StoreError> {
        self.watches.check_open()?;
        let parameters: [&(dyn ToSql + Sync); 2] = [&id.0.cast_signed(), &number(since)];
        let rows = self.readers.query("asking for an outcome", |all| &all.settle, &parameters).await?;
        let first = rows.first().ok_or_else(|| error::corrupt("meta is empty"))?;
        let damaged = |error: Error| error::statement("asking for an outcome", error);
        let found = first.try_get::<_, Option<i64>>(0).map_err(damaged)?;
        let oldest = position_in(first, 1, 2).map_err(damaged)?;
        match found {
            None if since < oldest.revision => Err(StoreError::Compacted { oldest }),
            found => Ok(found.map(|found| Position::of(revision(found), id))),
        }
    }

    async fn compact(&self, before: Revision) -> Result<(), StoreError> {
        self.watches.check_open()?;
        compact(&self.readers, before).await?;
        self.watches.catch_up().await
    }

    async fn close(&self) -> Result<(), StoreError> {
        self.watches.refuse_calls();
        self.jobs.lock().take();
        let writing = self.writing.lock().take();
        if let Some(writing) = writing {
            // It ends when the queue is empty.
            let _ = writing.await;
        }
        self.watches.end();
        self.readers.close().await;
        Ok(())
    }
}

impl fmt::Debug for PostgresStore {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("PostgresStore").field("config", &self.config).finish_non_exhaustive()
    }
}

/// Keeps a connection that listens for notifications, and follows the log.
async fn listen(connector: Arc<Connector>, follower: Arc<LogFollower>, config: PostgresStoreConfig) {
    let lost = Arc::new(tokio::sync::Notify::new());
    let listen = async {
        loop {
            let (wakes, lost_now) = (Arc::clone(&follower), Arc::clone(&lost));
            let on_news: OnNews = Arc::new(move || {
                wakes.wake();
                lost_now.notify_one();
            });
            let listen = || async {
                let client = connector.connect(Some(Arc::clone(&on_news))).await?;
                let listen = format!("LISTEN {}", channel(&config.schema));
                match tokio::time::timeout(config.timeout, client.batch_execute(&listen)).await {
                    Ok(listens) => listens?,
                    Err(_) => return Err(Cause::Silent(config.timeout)),
                }
                Ok(client)
            };
            match connector.retry_until_deadline(listen).await {
                Ok(client) => {
                    // Notifications before this subscription were missed.
                    follower.wake();
                    while !client.is_closed() {
                        lost.notified().await;
                    }
                }
                // Watches go on by the interval.
                Err(error) => {
                    tracing::warn!(%error, "cannot listen for the server's notifications; trying again");
                }
            }
            tokio::time::sleep(config.poll_interval).await;
        }
    };
    futures_util::future::join(listen, follower.run(config.poll_interval)).await;
}

/// The table `log`.
struct Log(Arc<Readers>);

#[async_trait]
impl SharedLog for Log {
    async fn read(&self, after: Position, limit: usize) -> Result<LogChunk, StoreError> {
        let start = after.revision;
        let last = Revision(start.0.saturating_add(limit as u64));
        let parameters: [&(dyn ToSql + Sync); 3] = [&number(start), &number(last), &LOG_BYTES];
        let rows = self.0.query("reading the log", |all| &all.log, &parameters).await?;
        let damaged = |error: Error| error::statement("reading the log", error);
        let first = rows.first().ok_or_else(|| error::corrupt("meta is empty"))?;
        let oldest = position_in(first, 0, 1).map_err(damaged)?;
        let head = position_in(first, 2, 3).map_err(damaged)?;
        let logged = first.try_get::<_, Option<i64>>(4).map_err(damaged)?;
        let unnamed = revision(first.try_get(5).map_err(damaged)?);
        let cut = first.try_get::<_, Option<i64>>(6).map_err(damaged)?.map(revision);
        let start = match start {
            start if start == oldest.revision => Some(oldest),
            start if start > head.revision => None,
            // Before there were ids, commits that changed nothing left nothing.
            start => Some(Position::new(start, incarnation(logged.unwrap_or(0)))),
        };
        let mut chunk = LogChunk { oldest, head, start, batches: Vec::new() };
        if start != Some(after) || after.revision < oldest.revision {
            return Ok(chunk);
        }
        let end = last.min(head.revision).min(Revision(cut.map_or(u64::MAX, |cut| cut.0 - 1)));
        let empty = |revision| WatchBatch {
            position: Position::new(Revision(revision), Incarnation(0)),
            writes: Vec::new(),
        };
        chunk.batches = (after.revision.0 + 1..=end.0).map(empty).collect();
        for row in &rows {
            let Some(at) = row.try_get::<_, Option<i64>>(7).map_err(damaged)? else { continue };
            let index = usize::try_from(revision(at).0 - after.revision.0 - 1).unwrap_or(usize::MAX);
            let batch = chunk.batches.get_mut(index);
            let batch = batch.ok_or_else(|| error::corrupt("the log goes beyond the newest revision"))?;
            batch.position.incarnation = incarnation(row.try_get(8).map_err(damaged)?);
            if row.try_get::<_, &str>(9).map_err(damaged)?.is_empty() {
                continue;
            }
            let value = row.try_get::<_, Option<&[u8]>>(10).map_err(damaged)?.map(Bytes::copy_from_slice);
            batch.writes.push(Write { key: key_in(row, 9)?, value });
        }
        // Somebody deleted it: what comes after it does not follow.
        let lost = chunk.batches.iter().position(|WatchBatch { position, .. }| {
            position.incarnation == Incarnation(0) && position.revision > unnamed
        });
        chunk.batches.truncate(lost.unwrap_or(usize::MAX));
        Ok(chunk)
    }
}

async fn compact(readers: &Readers, before: Revision) -> Result<(), StoreError> {
    let mut done = false;
    while !done {
        let rows = readers.query("compacting", |all| &all.forget, &[&number(before), &COMPACTED]).await?;
        let first = rows.first().ok_or_else(|| error::corrupt("meta is empty"))?;
        done = first.try_get(0).map_err(|error| error::statement("compacting", error))?;
    }
    Ok(())
}

fn page_of(rows: &[Row]) -> Result<Page, StoreError> {
    let damaged = |error: Error| error::statement("scanning", error);
    let first = rows.first().ok_or_else(|| error::corrupt("meta is empty"))?;
    let mut page =
        Page { position: position_in(first, 0, 1).map_err(damaged)?, entries: Vec::new(), more: false };
    for row in rows {
        if row.try_get::<_, Option<&str>>(2).map_err(damaged)?.is_some() {
            page.entries.push(Entry {
                key: key_in(row, 2)?,
                value: bytes_in(row, 3).map_err(damaged)?,
                version: position_in(row, 4, 5).map_err(damaged)?,
            });
        }
    }
    page.entries.sort_by(|one, other| one.key.cmp(&other.key));
    Ok(page)
}

fn key_in(row: &Row, column: usize) -> Result<Key, StoreError> {
    let text = row.try_get::<_, &str>(column).map_err(|error| error::statement("reading a key", error))?;
    Key::new(text).map_err(error::corrupt)
}

fn bytes_in(row: &Row, column: usize) -> Result<Bytes, Error> {
    row.try_get(column).map(Bytes::copy_from_slice)
}

/// A position in a column of revisions and one of ids.
fn position_in(row: &Row, at: usize, commit: usize) -> Result<Position, Error> {
    Ok(Position::new(revision(row.try_get(at)?), incarnation(row.try_get(commit)?)))
}

/// Ids are stored as numbers with a sign.
fn incarnation(number: i64) -> Incarnation {
    Incarnation(number.cast_unsigned())
}

/// As the database counts.
fn number(revision: Revision) -> i64 {
    i64::try_from(revision.0).unwrap_or(i64::MAX)
}

/// The tables hold no negative ones.
fn revision(number: i64) -> Revision {
    Revision(u64::try_from(number).unwrap_or(0))
}
