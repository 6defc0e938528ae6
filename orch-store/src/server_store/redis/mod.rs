//! Records in a Redis server (version 7 or later, or Valkey): quick, and as durable as that server is set up.
//!
//! **Read this before anything is kept here that cannot be made again.** What an acknowledged commit survives
//! is asked of the server when the store is opened, and declared in its capabilities:
//!
//! | server | declared | an acknowledged commit |
//! |---|---|---|
//! | by default, or settings are hidden | `Memory` | is lost when the server ends |
//! | `appendonly yes` | `Group` | survives the server's end; a power cut may take the last second |
//! | and `appendfsync always` | `Sync` | survives a power cut |
//!
//! A replica that takes over (Sentinel, Redis Cluster) may miss the newest acknowledged commits, whatever is
//! declared: Redis does not wait for replicas. So this is a store for caches, sessions and queues whose
//! content can be made again. A server that came back with an older state is noticed, also when it has had
//! new commits since: watches end with [`StoreError::Diverged`], and guards on lost commits do not hold.
//!
//! With the namespace `orch`, `{orch}:values` is a hash of the records, `{orch}:versions` of the commits that
//! wrote them (`7:` and an id: each commit is its own incarnation), `{orch}:index` holds their keys in order,
//! `{orch}:log` is a stream with one entry for each revision, `{orch}:meta` the newest commit and where the
//! log begins, and `{orch}:void` the ids of commits that were settled as not applied, the newest 1,024. Each
//! call is one script, which Redis runs alone: that is the order of commits.
//!
//! Earlier versions wrote revisions without an id. What they left is used as it is, and the first commit
//! makes the namespace one of this format. From then on a process of an earlier version that still runs is
//! refused and writes nothing, because the newest commit is no number that its script could add to. Stop
//! those processes before, so that they do not fail.
//!
//! Scripts are not rolled back, so that of a commit asks for all that can fail before it writes: types of the
//! keys, as many values as versions, a log that reaches from where it begins to the newest revision. What is
//! damaged is answered with [`StoreError::Corrupt`], and nothing is written. A log that lost revisions ends
//! watches with [`StoreError::Compacted`]; commits go on once the store is compacted up to its newest
//! revision.
//!
//! A server that throws records away when its memory is full (`maxmemory-policy allkeys-...`) is refused
//! with each new connection; the `volatile-...` policies leave our keys alone, which never expire. One whose
//! memory is full refuses puts, retryable, and nothing is written; deletes and compaction go on and free
//! memory. The log takes part of it: [`RedisStoreConfig::history_bytes`].
//!
//! A commit whose connection is lost before the answer is reported with [`StoreError::outcome_unknown`].
//! Reads are tried again. Connections are encrypted where the URL begins with `rediss:`. Without that keep
//! the server on a network of its own: records and the password can be read on their way.

mod config;
mod connection;
mod error;
mod position;
mod tls;

use std::{
    fmt,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
};

use async_trait::async_trait;
use bytes::Bytes;
use futures_util::StreamExt as _;
use orch_core::store::{
    CommitError, CommitId, Durability, Entry, Guard, Key, Page, Position, Revision, StateStore,
    StoreCapabilities, StoreError, Txn, Watch, WatchBatch, Write,
};
use redis::{RedisError, Script};
use tokio::time::{Duration, Instant};

pub use self::config::{RedisServer, RedisStoreConfig};
use self::{
    connection::{Connection, Connector, setting},
    error::Cause,
    position::{commit_in, position_in, text_of},
};
use crate::{
    permits::QueuePermits,
    prefix,
    retention::trim_to,
    server_store::{
        log_follower::{LogChunk, LogFollower, SharedLog, Watches},
        retry::Attempts,
    },
};

/// Bytes of one transaction: they are one message to the server.
const TXN_BYTES: usize = 128 << 20;

/// Bytes of the log that are read at once.
const LOG_BYTES: usize = 16 << 20;

/// Revisions of the log that are looked at for a commit at once.
const OUTCOME_REVISIONS: usize = 1_024;

/// Usual time of a notification, and of the read that follows.
const WATCH_LATENCY: Duration = Duration::from_millis(5);

/// The longest delay between attempts.
const LONGEST_DELAY: Duration = Duration::from_secs(1);

/// A [`StateStore`] in a Redis server, shared by any number of processes.
pub struct RedisStore {
    server: Arc<Server>,
    watches: Watches,
    permits: QueuePermits,
    /// Revision to which this process trimmed the log last.
    trimmed: AtomicU64,
    /// Bytes that this process has added to the log since it looked at its size.
    appended: AtomicU64,
    durability: Durability,
    config: RedisStoreConfig,
}

impl RedisStore {
    /// Connects, and asks the server how durable it is. Waits for it for
    /// [`RedisStoreConfig::retry_deadline`].
    ///
    /// # Errors
    /// [`StoreError::Backend`] when the server cannot be reached or refuses, or would throw records away when
    /// its memory is full.
    pub async fn open(config: RedisStoreConfig) -> Result<Self, StoreError> {
        config.check()?;
        let connector = Arc::new(Connector::new(&config)?);
        let connection = Connection::new(Arc::clone(&connector));
        let server = Arc::new(Server::new(connection, &config));
        let durability = server.read("opening", |server| async move { server.durability().await }).await?;
        let follower = Arc::new(LogFollower::start(Arc::new(Log(Arc::clone(&server)))).await?);
        let listening =
            listen(connector, Arc::clone(&follower), server.channel.clone(), config.poll_interval);
        Ok(Self {
            server,
            watches: Watches::start(follower, listening),
            permits: QueuePermits::new(config.queue_bytes),
            trimmed: AtomicU64::new(0),
            // Others may have left it too large.
            appended: AtomicU64::new(config.history_bytes / 16 + 1),
            durability,
            config,
        })
    }

    /// Forgets the oldest revisions when there are an eighth more than wanted, and when this process has
    /// added `size` bytes to many others and the log has become too large.
    async fn trim(&self, head: Revision, size: usize) {
        let trimmed = self.trimmed.load(Ordering::Relaxed);
        let before = trim_to(Revision(trimmed), head, self.config.history_revisions).filter(|before| {
            let (order, failed) = (Ordering::Relaxed, Ordering::Relaxed);
            self.trimmed.compare_exchange(trimmed, before.0, order, failed).is_ok()
        });
        let appended = self.appended.fetch_add(size as u64, Ordering::Relaxed) + size as u64;
        let look = appended > self.config.history_bytes / 16
            && self.appended.swap(0, Ordering::Relaxed) > self.config.history_bytes / 16;
        if before.is_none() && !look {
            return;
        }
        let most = look.then_some(self.config.history_bytes);
        if let Err(error) = self.server.compact(before.unwrap_or(Revision::ZERO), most).await {
            if before.is_some() {
                self.trimmed.store(trimmed, Ordering::Relaxed);
            }
            tracing::warn!(%error, "the log could not be trimmed; it is tried again");
        }
    }
}

#[async_trait]
impl StateStore for RedisStore {
    /// `durability` is what the server said when the store was opened.
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
        let read = |server: Arc<Server>| async move {
            let mut both = redis::pipe();
            both.atomic().hget(&server.values, key.as_str()).hget(&server.versions, key.as_str());
            both.query_async::<(Option<Vec<u8>>, Option<Bytes>)>(&mut server.connection.get().await?).await
        };
        match self.server.read("reading", read).await? {
            (None, None) => Ok(None),
            (Some(value), Some(version)) => {
                Ok(Some(Entry { key: key.clone(), value: value.into(), version: position_in(&version)? }))
            }
            _ => Err(error::corrupt(format!("{key} has no version, or no value"))),
        }
    }

    async fn scan(&self, prefix: &str, after: Option<&Key>, limit: usize) -> Result<Page, StoreError> {
        self.watches.check_open()?;
        let start = match after.map(Key::as_str).filter(|after| *after >= prefix) {
            Some(after) => format!("({after}"),
            None => format!("[{prefix}"),
        };
        let end = prefix::end_of(prefix).map_or_else(|| "+".into(), |end| format!("({end}"));
        let wanted = i64::try_from(limit.saturating_add(1)).unwrap_or(i64::MAX);
        let (start, end) = (&start, &end);
        let read = |server: Arc<Server>| async move {
            let mut scan = server.scripts.scan.prepare_invoke();
            scan.key(&server.values).key(&server.versions).key(&server.index).key(&server.meta);
            scan.arg(start).arg(end).arg(wanted);
            scan.invoke_async::<Vec<Bytes>>(&mut server.connection.get().await?).await
        };
        let mut found = self.server.read("scanning", read).await?.into_iter();
        let mut next = || found.next().ok_or_else(|| error::corrupt("a page ends in the middle of a record"));
        let position = position_in(&next()?)?;
        let mut entries = Vec::new();
        while let Ok(key) = next() {
            let (key, value) = (key_in(&key)?, next()?);
            entries.push(Entry { key, value, version: position_in(&next()?)? });
        }
        let more = entries.len() > limit;
        entries.truncate(limit);
        Ok(Page { position, entries, more })
    }

    async fn commit(&self, txn: Txn) -> Result<Position, CommitError> {
        txn.check(&self.capabilities())?;
        self.watches.check_open()?;
        let size = txn.size_bytes();
        if size > TXN_BYTES {
            let what = "the writes of a transaction, in bytes,".into();
            return Err(StoreError::TooLarge { store: error::NAME, what, size, max: TXN_BYTES }.into());
        }
        let _permits = self.permits.acquire(size).await?;
        let Txn { id, guards, writes } = txn;
        let id = id.unwrap_or_else(CommitId::random);
        let answer = self.server.commit(id, &guards, Txn::of(writes)).await?;
        match answer[..] {
            [0, 0] => Err(StoreError::Settled { id }.into()),
            [0, failed] => {
                let guard =
                    usize::try_from(failed).ok().and_then(|number| guards.get(number.checked_sub(1)?));
                let guard = guard.ok_or_else(|| error::corrupt("a guard failed that there is not"))?;
                Err(CommitError::Conflict { key: guard.key().clone() })
            }
            [revision] => {
                self.watches.wake();
                self.trim(Revision(revision), size).await;
                Ok(Position::of(Revision(revision), id))
            }
            _ => Err(error::corrupt("the answer to a commit cannot be read").into()),
        }
    }

    async fn watch(&self, prefix: &str, from: Position) -> Result<Watch, StoreError> {
        self.watches.watch(prefix, from).await
    }

    async fn head(&self) -> Result<Position, StoreError> {
        self.watches.check_open()?;
        Ok(Log(Arc::clone(&self.server)).read(Position::ZERO, 0).await?.head)
    }

    async fn outcome(&self, id: CommitId, since: Revision) -> Result<Option<Position>, StoreError> {
        self.watches.check_open()?;
        let (mut after, mut gap) = (since.0, 2);
        loop {
            let (found, at, gap_so_far) = self.server.outcome(id, after, gap).await?;
            let revision = || at.parse().map_err(|_| error::corrupt("a revision of the log is no number"));
            match found.as_str() {
                "found" => return Ok(Some(Position::of(Revision(revision()?), id))),
                "void" => return Ok(None),
                "gap" => return Err(StoreError::Compacted { oldest: position_in(at.as_bytes())? }),
                _ => (after, gap) = (revision()?, gap_so_far),
            }
        }
    }

    async fn compact(&self, before: Revision) -> Result<(), StoreError> {
        self.watches.check_open()?;
        self.server.compact(before, None).await?;
        self.watches.catch_up().await
    }

    async fn close(&self) -> Result<(), StoreError> {
        self.watches.refuse_calls();
        self.watches.end();
        Ok(())
    }
}

impl fmt::Debug for RedisStore {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("RedisStore").field("config", &self.config).finish_non_exhaustive()
    }
}

/// The connection, and the names of the store's keys.
struct Server {
    connection: Connection,
    scripts: Scripts,
    values: String,
    versions: String,
    index: String,
    log: String,
    meta: String,
    /// Ids of commits that were settled as not applied.
    void: String,
    channel: String,
    retry_deadline: Duration,
}

struct Scripts {
    commit: Script,
    /// The same for transactions that only delete: also when the server's memory is full.
    delete: Script,
    scan: Script,
    log: Script,
    outcome: Script,
    compact: Script,
}

const COMMIT: &str = include_str!("commit.lua");

impl Server {
    fn new(connection: Connection, config: &RedisStoreConfig) -> Self {
        // The braces keep all of them in one slot of a cluster.
        let key = |name| format!("{{{}}}:{name}", config.namespace);
        Self {
            connection,
            scripts: Scripts {
                commit: Script::new(COMMIT),
                delete: Script::new(&COMMIT.replacen("#!lua", "#!lua flags=allow-oom", 1)),
                scan: Script::new(include_str!("scan.lua")),
                log: Script::new(include_str!("log.lua")),
                outcome: Script::new(include_str!("outcome.lua")),
                compact: Script::new(include_str!("compact.lua")),
            },
            values: key("values"),
            versions: key("versions"),
            index: key("index"),
            log: key("log"),
            meta: key("meta"),
            void: key("void"),
            channel: key("news"),
            retry_deadline: config.retry_deadline,
        }
    }

    /// Runs what may be run twice, again while that may help, until the retry deadline.
    async fn read<T, F: Future<Output = Result<T, RedisError>>>(
        self: &Arc<Self>,
        operation: &'static str,
        read: impl Fn(Arc<Self>) -> F,
    ) -> Result<T, StoreError> {
        let mut attempts = Attempts::within(self.retry_deadline, LONGEST_DELAY);
        loop {
            let asked = Instant::now();
            let source = match read(Arc::clone(self)).await {
                Ok(done) => return Ok(done),
                Err(error) => error,
            };
            if !error::is_passing(&source) {
                return Err(error::command(operation, source));
            }
            self.connection.lose(asked).await;
            if !attempts.again().await {
                let cause = Cause::Unreachable { retry_deadline: self.retry_deadline, source };
                return Err(error::backend(operation, true, cause));
            }
        }
    }

    async fn commit(&self, id: CommitId, guards: &[Guard], writes: Txn) -> Result<Vec<u64>, StoreError> {
        let deletes = !writes.writes.is_empty() && writes.writes.iter().all(|write| write.value.is_none());
        let script = if deletes { &self.scripts.delete } else { &self.scripts.commit };
        let mut commit = script.prepare_invoke();
        commit.key(&self.values).key(&self.versions).key(&self.index).key(&self.log).key(&self.meta);
        commit.key(&self.void).arg(&self.channel).arg(id.to_string()).arg(guards.len());
        for guard in guards {
            commit.arg(guard.key().as_str());
            match guard {
                Guard::Absent(_) => commit.arg(""),
                Guard::Version(_, version) => commit.arg(text_of(*version)),
            };
        }
        for (key, value) in writes.into_net_writes() {
            commit.arg(key.as_str()).arg(u8::from(value.is_some())).arg(value.as_deref().unwrap_or_default());
        }
        let mut attempts = Attempts::within(self.retry_deadline, LONGEST_DELAY);
        loop {
            let asked = Instant::now();
            // What never left did not happen, whatever the failure.
            let (error, sent) = match self.connection.get().await {
                Ok(mut connection) => match commit.invoke_async(&mut connection).await {
                    Ok(answer) => return Ok(answer),
                    Err(error) => (error, true),
                },
                Err(error) => (error, false),
            };
            if error::is_passing(&error) {
                self.connection.lose(asked).await;
            }
            let may_have_happened = sent && error::lost(&error);
            if may_have_happened || !error::is_passing(&error) {
                return Err(error::commit(error));
            }
            if !attempts.again().await {
                return Err(error::command("committing", error));
            }
        }
    }

    /// The word, the revision or position, and the gap that `outcome.lua` says.
    async fn outcome(
        self: &Arc<Self>,
        id: CommitId,
        after: u64,
        gap: u8,
    ) -> Result<(String, String, u8), StoreError> {
        let outcome = |server: Arc<Self>| async move {
            let mut outcome = server.scripts.outcome.prepare_invoke();
            outcome.key(&server.log).key(&server.meta).key(&server.void);
            outcome.arg(id.to_string()).arg(after).arg(OUTCOME_REVISIONS).arg(gap);
            outcome.invoke_async(&mut server.connection.get().await?).await
        };
        self.read("settling a commit", outcome).await
    }

    /// Forgets the log up to `before`, and more when it takes more than `most` bytes of memory.
    async fn compact(self: &Arc<Self>, before: Revision, most: Option<u64>) -> Result<(), StoreError> {
        let compact = |server: Arc<Self>| async move {
            let mut compact = server.scripts.compact.prepare_invoke();
            compact.key(&server.log).key(&server.meta).arg(before.0).arg(most);
            compact.invoke_async::<()>(&mut server.connection.get().await?).await
        };
        self.read("compacting", compact).await
    }

    /// Durability by the server's settings.
    async fn durability(&self) -> Result<Durability, RedisError> {
        let mut connection = self.connection.get().await?;
        let append = setting(&mut connection, "appendonly").await?;
        let sync = setting(&mut connection, "appendfsync").await?;
        Ok(match (append.as_deref(), sync.as_deref()) {
            (Some("yes"), Some("always")) => Durability::Sync,
            (Some("yes"), Some("everysec")) => Durability::Group,
            _ => Durability::Memory,
        })
    }
}

/// An entry of a stream: its name, and its fields with their values.
type LogEntry = (String, Vec<Bytes>);

/// The oldest position, the newest, that where reading begins (empty for none), and what follows.
type LogAnswer = (Bytes, Bytes, Bytes, Vec<LogEntry>);

/// The stream of revisions.
struct Log(Arc<Server>);

#[async_trait]
impl SharedLog for Log {
    async fn read(&self, after: Position, limit: usize) -> Result<LogChunk, StoreError> {
        let from = &text_of(after);
        let read = |server: Arc<Server>| async move {
            let mut log = server.scripts.log.prepare_invoke();
            log.key(&server.log).key(&server.meta).key(&server.index).arg(from).arg(limit).arg(LOG_BYTES);
            log.invoke_async::<LogAnswer>(&mut server.connection.get().await?).await
        };
        let (oldest, head, start, entries) = self.0.read("reading the log", read).await?;
        let (oldest, head) = (position_in(&oldest)?, position_in(&head)?);
        let start = if start.is_empty() { None } else { Some(position_in(&start)?) };
        let inside = oldest.revision < after.revision && after.revision < head.revision;
        if start.is_none() && inside {
            // Somebody deleted it: it cannot be told whether it was this one.
            return Ok(LogChunk { oldest: head, head, start, batches: Vec::new() });
        }
        let mut chunk = LogChunk { oldest, head, start, batches: Vec::new() };
        for (expected, (id, fields)) in (after.revision.0 + 1..).zip(entries) {
            if id.strip_suffix("-0").and_then(|revision| revision.parse().ok()) != Some(expected) {
                // Somebody deleted the one before.
                break;
            }
            let (commit, writes) = commit_in(&fields)?;
            let position = Position::new(Revision(expected), commit);
            chunk.batches.push(WatchBatch { position, writes: writes_of(writes)? });
        }
        Ok(chunk)
    }
}

/// `put KEY` with a value, `delete KEY` with nothing.
fn writes_of(fields: &[Bytes]) -> Result<Vec<Write>, StoreError> {
    let writes = fields.chunks_exact(2).map(|pair| {
        match (pair[0].strip_prefix(b"put "), pair[0].strip_prefix(b"delete ")) {
            (Some(key), _) => Ok(Write::put(key_in(key)?, pair[1].clone())),
            (_, Some(key)) => Ok(Write::delete(key_in(key)?)),
            _ => Err(error::corrupt("an entry of the log is neither put nor delete")),
        }
    });
    writes.collect()
}

/// Subscribes to notifications, and follows the log.
async fn listen(
    connector: Arc<Connector>,
    follower: Arc<LogFollower>,
    channel: String,
    poll_interval: Duration,
) {
    let listen = async {
        loop {
            let session = async {
                let mut messages = connector.pubsub().await?;
                messages.subscribe(&channel).await?;
                // Notifications before this subscription were missed.
                follower.wake();
                let mut messages = messages.on_message();
                while messages.next().await.is_some() {
                    follower.wake();
                }
                Ok::<_, RedisError>(())
            };
            if let Err(error) = session.await {
                tracing::warn!(%error, "cannot subscribe to the server's notifications; trying again");
            }
            // Watches go on by the interval.
            tokio::time::sleep(poll_interval).await;
        }
    };
    futures_util::future::join(listen, follower.run(poll_interval)).await;
}

fn key_in(bytes: &[u8]) -> Result<Key, StoreError> {
    let text = std::str::from_utf8(bytes).map_err(error::corrupt)?;
    Key::new(text).map_err(error::corrupt)
}
