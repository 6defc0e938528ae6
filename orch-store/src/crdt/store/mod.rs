//! [`CrdtStore`]: a replica on a disk, as a store.

mod config;
mod disk;
mod log;
mod network;
#[cfg(test)]
mod tests;
mod writer;

use std::{
    num::NonZeroUsize,
    path::Path,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
        mpsc,
    },
    time::Instant,
};

use async_trait::async_trait;
use bytes::Bytes;
use orch_core::{
    store::{
        CommitError, Durability, Entry, History, HistoryBounds, HistorySource, Key, Page, Revision,
        StateStore, StoreCapabilities, StoreError, Txn, Watch, WatchBatch,
    },
    transport::{Channel, PeerId, Transport},
};
use redb::Database;
use tokio::sync::{Semaphore, oneshot};

pub use self::config::CrdtStoreConfig;
use self::{
    disk::{DiskTables, DiskView, Found},
    log::Keep,
    network::Network,
    writer::{Envelope, Job, Writer},
};
use super::{
    key::AuthorKey,
    message::Evidence,
    replica::{Decision, DecisionError, OpenError, Prepared, ReadLevel, Refusal, Replica, Status, confirmed},
    segment::{SEGMENT_ENTRIES_MAX, VALUE_BYTES_MAX},
};
use crate::file::{
    File, blocking, bytes_of,
    error::{self, Cause},
    guarded, prepare_dir, queue_permits, sync_dir,
};

/// The backend's name in messages.
const NAME: &str = "crdt";

/// The file in the store's directory.
const FILE: &str = "crdt.redb";

/// Part of the log in memory, for live watches.
const HISTORY: HistoryBounds =
    HistoryBounds { revisions: const { NonZeroUsize::new(4096).expect("not zero") }, bytes: 32 << 20 };

/// A [`StateStore`] that every member of a group has a copy of, and writes to without asking the others. What
/// they write meets: for each key the last write wins, in all copies the same.
///
/// Guards look at this copy only. Revisions count what happened here; they are not those of the others.
/// Dropping it finishes what was accepted in the background; [`StateStore::close`] waits for that.
#[derive(Debug)]
pub struct CrdtStore {
    file: Arc<File>,
    history: Arc<History>,
    jobs: mpsc::Sender<Job>,
    /// For transactions, and for messages.
    permits: Arc<Semaphore>,
    messages: Arc<Semaphore>,
    /// Drops its end of `jobs` with the store.
    network: Option<Network>,
    closed: AtomicBool,
    author: PeerId,
    config: CrdtStoreConfig,
}

/// Messages for other members, which somebody has to carry.
pub(super) type Outgoing = tokio::sync::mpsc::Receiver<Envelope>;

impl CrdtStore {
    /// Opens the store in the configured directory, making what is missing. It speaks with nobody: see
    /// [`CrdtStore::open_on`] for that.
    ///
    /// # Errors
    /// [`StoreError::Locked`] when another process has it, [`StoreError::Corrupt`] when the file cannot be
    /// understood, comes from a newer version or belongs to another group, [`StoreError::Backend`] when the
    /// directory cannot be used. The file is left as it is then.
    pub async fn open(config: CrdtStoreConfig, key: AuthorKey) -> Result<Self, StoreError> {
        Ok(Self::open_with_outgoing(config, key).await?.0)
    }

    /// Opens the store, and keeps it in step with those of the other members over this transport, on this
    /// channel. The transport is the store's own, or a part of a [`Demux`](orch_core::transport::Demux); it
    /// is closed with the store. It has the author's key.
    ///
    /// # Errors
    /// As for [`CrdtStore::open`]; [`StoreError::Backend`] also when the transport cannot carry the messages.
    pub async fn open_on(
        config: CrdtStoreConfig,
        key: AuthorKey,
        transport: Arc<dyn Transport>,
        channel: Channel,
    ) -> Result<Self, StoreError> {
        network::check(&*transport, key.author()).map_err(|unfit| StoreError::Backend {
            store: NAME,
            operation: "opening",
            retryable: false,
            outcome_unknown: false,
            source: Arc::new(unfit),
        })?;
        let (mut store, outgoing) = Self::open_with_outgoing(config, key).await?;
        let (jobs, permits, bytes) =
            (store.jobs.clone(), Arc::clone(&store.messages), store.config.queue_bytes);
        store.network = Some(network::connect(transport, channel, jobs, permits, bytes, outgoing));
        Ok(store)
    }

    async fn open_with_outgoing(
        config: CrdtStoreConfig,
        key: AuthorKey,
    ) -> Result<(Self, Outgoing), StoreError> {
        blocking(move || {
            let path = config.dir.join(FILE);
            let new = prepare_dir(&config.dir, &path).map_err(|error| error::opening(&path, error))?;
            let database =
                guarded(&path, || redb::Builder::new().set_cache_size(config.cache_bytes).create(&path))?;
            if new {
                // Without this a power cut may take the file's name, and with it all that was synced into it.
                sync_dir(&config.dir).map_err(|error| error::opening(&path, error))?;
            }
            Self::start(config, key, &path, database)
        })
        .await
    }

    fn start(
        config: CrdtStoreConfig,
        key: AuthorKey,
        path: &Path,
        database: Database,
    ) -> Result<(Self, Outgoing), StoreError> {
        let found = disk::inspect(&database).map_err(|error| error::reading(path, error))?;
        if matches!(found, Found::Foreign) {
            return Err(error::corrupt(path, "another program's tables are in it"));
        }
        let author = key.author();
        let file = File::new(path, database);
        let (replica, oldest) = file.write("opening", |database| {
            let transaction = database.begin_write()?;
            let mut tables = DiskTables::open(&transaction)?;
            let replica = Replica::open(&mut tables, config.replica.clone(), key)?;
            let (oldest, changed) = (tables.bounds().oldest, tables.changed());
            drop(tables);
            if changed && replica.is_ok() {
                transaction.commit()?;
            } else {
                transaction.abort()?;
            }
            Ok((replica, oldest))
        })?;
        let replica = replica.map_err(|error| match error {
            OpenError::Newer { found, known } => error::newer_format(path, found.into(), known.into()),
            other => StoreError::Corrupt(format!("{}: {other}", path.display())),
        })?;
        let file = Arc::new(file);
        let history = Arc::new(History::new(oldest, replica.revision(), HISTORY));
        let (jobs, queue) = mpsc::channel();
        let (outgoing, to_send) = tokio::sync::mpsc::channel(config.queue_messages.max(1));
        let keep = Keep { revisions: config.history_revisions.get(), bytes: config.history_bytes };
        let writer = Writer {
            replica,
            file: Arc::clone(&file),
            history: Arc::clone(&history),
            jobs: queue,
            outgoing,
            sending: Arc::new(Semaphore::new(queue_permits(config.queue_bytes))),
            keep,
            digest_interval: config.digest_interval,
            begun: Instant::now(),
            random: seed(),
        };
        std::thread::Builder::new()
            .name("orch-crdt-writer".into())
            .spawn(move || writer.run())
            .map_err(|error| error::opening(path, error))?;
        let permits = Arc::new(Semaphore::new(queue_permits(config.queue_bytes)));
        let messages = Arc::new(Semaphore::new(queue_permits(config.queue_bytes)));
        let closed = AtomicBool::new(false);
        Ok((Self { file, history, jobs, permits, messages, network: None, closed, author, config }, to_send))
    }

    /// Our name: the public key.
    #[must_use]
    pub fn author(&self) -> PeerId {
        self.author
    }

    /// The value of a key, as sure as asked for.
    ///
    /// # Errors
    /// [`StoreError`] when the store cannot answer.
    pub async fn read(&self, key: &Key, level: ReadLevel) -> Result<Option<Bytes>, StoreError> {
        let (key, needed) = (key.clone(), self.config.replica.confirmations.get());
        self.view(move |view| match level {
            ReadLevel::Optimistic => Ok(view.entry(&key)?.map(|entry| entry.value)),
            ReadLevel::Confirmed => confirmed(view, &key, needed),
        })
        .await
    }

    /// Applies something that the group has decided by other means: `number` is its place in the order of
    /// decisions, the same in all members. What was applied already is passed over, so that all may be handed
    /// in again after a restart.
    ///
    /// # Errors
    /// Outside as for [`StateStore::commit`]; inside when the decision has no effect, here and everywhere.
    pub async fn apply(
        &self,
        number: u64,
        decision: Decision,
    ) -> Result<Result<(), DecisionError>, StoreError> {
        self.check_open()?;
        let (sender, receiver) = oneshot::channel();
        self.jobs.send(Job::Decide { number, decision, sender }).map_err(|_| self.writer_ended(false))?;
        receiver.await.map_err(|_| self.writer_ended(true))
    }

    /// Evidence against authors: each shows two headers that one of them signed for one position.
    ///
    /// # Errors
    /// [`StoreError`] when the store is closed or has failed.
    pub async fn evidence(&self) -> Result<Vec<Evidence>, StoreError> {
        self.look(Replica::evidence).await
    }

    /// Current status.
    ///
    /// # Errors
    /// [`StoreError`] when the store is closed or has failed.
    pub async fn status(&self) -> Result<Status, StoreError> {
        self.look(Replica::status).await
    }

    async fn look<T: Send + 'static>(
        &self,
        look: impl FnOnce(&Replica) -> T + Send + 'static,
    ) -> Result<T, StoreError> {
        self.check_open()?;
        let (sender, receiver) = oneshot::channel();
        let job = Job::Look(Box::new(move |replica| {
            // Whoever gave up waiting does not want it.
            let _ = sender.send(look(replica));
        }));
        self.jobs.send(job).map_err(|_| self.writer_ended(false))?;
        receiver.await.map_err(|_| self.writer_ended(false))
    }

    /// Reads the view where that may block.
    async fn view<T: Send + 'static>(
        &self,
        read: impl FnOnce(&DiskView) -> Result<T, redb::Error> + Send + 'static,
    ) -> Result<T, StoreError> {
        self.check_open()?;
        let file = Arc::clone(&self.file);
        blocking(move || file.read(|database| read(&DiskView::open(database)?))).await
    }

    fn check_open(&self) -> Result<(), StoreError> {
        match self.file.failure() {
            _ if self.closed.load(Ordering::Acquire) => Err(StoreError::Closed),
            Some(_) => Err(self.file.closed_error()),
            None => Ok(()),
        }
    }

    /// Error when the writer has ended: it was closed before, or it failed.
    fn writer_ended(&self, outcome_unknown: bool) -> StoreError {
        if self.closed.load(Ordering::Acquire) {
            return StoreError::Closed;
        }
        match self.file.failure() {
            // What was on its way when the disk failed may be there.
            Some(failure) if outcome_unknown => failure,
            Some(_) => self.file.closed_error(),
            None => {
                error::backend("working", outcome_unknown, Cause::Writer { path: self.file.path().into() })
            }
        }
    }
}

#[async_trait]
impl StateStore for CrdtStore {
    fn capabilities(&self) -> StoreCapabilities {
        StoreCapabilities {
            name: NAME,
            compare_and_swap: false,
            shared: true,
            durability: Durability::Sync,
            max_value_bytes: VALUE_BYTES_MAX,
            max_txn_writes: SEGMENT_ENTRIES_MAX,
        }
    }

    async fn get(&self, key: &Key) -> Result<Option<Entry>, StoreError> {
        let key = key.clone();
        self.view(move |view| view.entry(&key)).await
    }

    async fn scan(&self, prefix: &str, after: Option<&Key>, limit: usize) -> Result<Page, StoreError> {
        let (prefix, after) = (prefix.to_owned(), after.cloned());
        self.view(move |view| view.scan(&prefix, after.as_ref(), limit, view.revision()?)).await
    }

    async fn commit(&self, txn: Txn) -> Result<Revision, CommitError> {
        txn.check(&self.capabilities())?;
        self.check_open()?;
        let units = queue_permits(bytes_of(&txn)).min(queue_permits(self.config.queue_bytes));
        let units = u32::try_from(units).unwrap_or(u32::MAX);
        let permits =
            Arc::clone(&self.permits).acquire_many_owned(units).await.map_err(|_| StoreError::Closed)?;
        let txn = Prepared::hash_cooperatively(txn).await;
        let (sender, receiver) = oneshot::channel();
        self.jobs.send(Job::Commit { txn, sender, permits }).map_err(|_| self.writer_ended(false))?;
        receiver.await.unwrap_or_else(|_| Err(self.writer_ended(true).into()))
    }

    async fn watch(&self, prefix: &str, from: Revision) -> Result<Watch, StoreError> {
        self.check_open()?;
        self.history.watch(Some(Arc::new(Log(Arc::clone(&self.file)))), prefix, from)
    }

    async fn revision(&self) -> Result<Revision, StoreError> {
        self.check_open()?;
        Ok(self.history.head())
    }

    async fn compact(&self, before: Revision) -> Result<(), StoreError> {
        self.check_open()?;
        let (sender, receiver) = oneshot::channel();
        self.jobs.send(Job::Compact { before, sender }).map_err(|_| self.writer_ended(false))?;
        receiver.await.map_err(|_| self.writer_ended(true))
    }

    async fn close(&self) -> Result<(), StoreError> {
        self.closed.store(true, Ordering::Release);
        let (sender, receiver) = oneshot::channel();
        // Whoever closed before, or a failure, left nothing to do.
        if self.jobs.send(Job::Close { sender }).is_ok() {
            let _ = receiver.await;
        }
        Ok(())
    }
}

/// The log on disk, for watches that begin in the past or fell behind.
struct Log(Arc<File>);

#[async_trait]
impl HistorySource for Log {
    async fn read_revisions(&self, after: Revision, limit: usize) -> Result<Vec<WatchBatch>, StoreError> {
        let file = Arc::clone(&self.0);
        blocking(move || log::read_log(&file, after, limit)).await
    }
}

fn refused(refusal: Refusal) -> StoreError {
    match refusal {
        Refusal::TooLarge { what, size, max } => {
            StoreError::TooLarge { store: NAME, what: format!("the number of {what}"), size, max }
        }
        refusal => StoreError::Backend {
            store: NAME,
            operation: "writing",
            retryable: matches!(refusal, Refusal::NoStartupQuorum { .. }),
            outcome_unknown: false,
            source: Arc::new(refusal),
        },
    }
}

/// A number that differs from start to start: the standard library's random keys of hash maps.
fn seed() -> u64 {
    std::hash::BuildHasher::hash_one(&std::collections::hash_map::RandomState::new(), 0)
}
