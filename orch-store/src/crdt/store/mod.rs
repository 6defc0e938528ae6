//! [`CrdtStore`]: a replica on a disk, as a store.

mod config;
mod disk;
mod error;
mod log;
mod network;
mod segments;
#[cfg(test)]
mod tests;
mod writer;

use std::{path::Path, sync::Arc, time::Instant};

use async_trait::async_trait;
use bytes::Bytes;
use orch_core::{
    store::{
        CommitError, CommitId, Durability, Entry, Guard, History, HistoryBounds, HistorySource, Incarnation,
        Key, Page, Position, Revision, StateStore, StoreCapabilities, StoreError, Txn, Watch, WatchBatch,
    },
    transport::{Channel, PeerId, Transport},
};
use redb::Database;

pub use self::config::CrdtStoreConfig;
use self::{
    disk::{DiskTables, DiskView, Found, position},
    error::NAME,
    log::Keep,
    network::Network,
    writer::{Job, Outgoing, Writer},
};
use super::{
    key::AuthorKey,
    message::Evidence,
    replica::{Decision, DecisionError, OpenError, Prepared, ReadLevel, Replica, Status, confirmed},
    segment::{SEGMENT_ENTRIES_MAX, VALUE_BYTES_MAX},
};
use crate::{
    file_store::{
        error::{corrupt, newer_format, opening},
        open::{blocking, is_there, prepare_dir},
        redb_file::{self, RedbFile, error::reading},
        writer_thread::WriterThread,
    },
    permits::QueuePermits,
};

/// The file in the store's directory.
const FILE: &str = "crdt.redb";

/// A [`StateStore`] that every member of a group has a copy of, and writes to without asking the others. What
/// they write meets: for each key the last write wins, in all copies the same.
///
/// Guards look at this copy only. Revisions count what happened here; they are not those of the others.
/// Dropping it finishes what was accepted in the background; [`StateStore::close`] waits for that.
#[derive(Debug)]
pub struct CrdtStore {
    writer: WriterThread<RedbFile, Job>,
    history: Arc<History>,
    /// The file's own, which all its revisions have.
    incarnation: Incarnation,
    /// Of transactions, and of messages.
    permits: QueuePermits,
    messages: QueuePermits,
    /// Drops its sender of jobs with the store.
    network: Option<Network>,
    author: PeerId,
    config: CrdtStoreConfig,
}

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
        let (jobs, permits) = (store.writer.jobs(), store.messages.clone());
        store.network = Some(network::connect(transport, channel, jobs, permits, outgoing));
        Ok(store)
    }

    async fn open_with_outgoing(
        config: CrdtStoreConfig,
        key: AuthorKey,
    ) -> Result<(Self, Outgoing), StoreError> {
        blocking(move || {
            let path = config.dir.join(FILE);
            prepare_dir(&config.dir).map_err(|error| opening(redb_file::NAME, &path, error))?;
            if !is_there(redb_file::NAME, &path)? {
                redb_file::new_file::make(&path, |_| Ok(()))?;
            }
            let create = || redb::Builder::new().set_cache_size(config.cache_bytes).create(&path);
            let database = redb_file::open(&path, create)?;
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
        let found = disk::inspect(&database).map_err(|error| reading(path, error))?;
        if matches!(found, Found::Foreign) {
            return Err(corrupt(path, "another program's tables are in it"));
        }
        let author = key.author();
        let file = RedbFile::new(path, database);
        let (replica, oldest, incarnation) = file.write("opening", |database| {
            let transaction = database.begin_write()?;
            let mut tables = DiskTables::open(&transaction)?;
            let replica = Replica::open(&mut tables, config.replica.clone(), key)?;
            let (oldest, incarnation) = (tables.bounds().oldest, tables.incarnation()?);
            let changed = tables.changed();
            drop(tables);
            if changed && replica.is_ok() {
                transaction.commit()?;
            } else {
                transaction.abort()?;
            }
            Ok((replica, oldest, incarnation))
        })?;
        let replica = replica.map_err(|error| match error {
            OpenError::Newer { found, known } => newer_format(path, found, known),
            other => StoreError::Corrupt(format!("{}: {other}", path.display())),
        })?;
        let file = Arc::new(file);
        let (oldest, head) = (position(oldest, incarnation), position(replica.revision(), incarnation));
        let history = Arc::new(History::new(oldest, head, HistoryBounds::default()));
        let (outgoing, to_send) = tokio::sync::mpsc::channel(config.queue_messages.max(1));
        let queue = || QueuePermits::new(config.queue_bytes);
        let writer = Writer {
            replica,
            file: Arc::clone(&file),
            history: Arc::clone(&history),
            incarnation,
            outgoing,
            sending: queue(),
            keep: Keep { revisions: config.history_revisions.get(), bytes: config.history_bytes },
            digest_interval: config.digest_interval,
            begun: Instant::now(),
            random: seed(),
        };
        let run = move |jobs| writer.run(&jobs);
        let writer = WriterThread::spawn("orch-crdt-writer", file, Arc::clone(&history), run)?;
        let (permits, messages) = (queue(), queue());
        Ok((Self { writer, history, incarnation, permits, messages, network: None, author, config }, to_send))
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
        self.writer.call(true, |sender| Job::Decide { number, decision, sender }).await
    }

    /// Evidence against authors: each shows two headers that one of them signed for one position.
    ///
    /// # Errors
    /// [`StoreError`] when the store is closed or has failed.
    pub async fn evidence(&self) -> Result<Vec<Evidence>, StoreError> {
        self.inspect(Replica::evidence).await
    }

    /// Current status.
    ///
    /// # Errors
    /// [`StoreError`] when the store is closed or has failed.
    pub async fn status(&self) -> Result<Status, StoreError> {
        self.inspect(Replica::status).await
    }

    async fn inspect<T: Send + 'static>(
        &self,
        inspect: impl FnOnce(&Replica) -> T + Send + 'static,
    ) -> Result<T, StoreError> {
        let job = |sender: tokio::sync::oneshot::Sender<T>| {
            Job::Inspect(Box::new(move |replica| {
                // A caller that gave up does not want it.
                let _ = sender.send(inspect(replica));
            }))
        };
        self.writer.call(false, job).await
    }

    /// Reads the view where that may block.
    async fn view<T: Send + 'static>(
        &self,
        read: impl FnOnce(&DiskView) -> Result<T, redb::Error> + Send + 'static,
    ) -> Result<T, StoreError> {
        let incarnation = self.incarnation;
        self.writer
            .read(move |file| file.read(|database| read(&DiskView::open(database, incarnation)?)))
            .await
    }
}

#[async_trait]
impl StateStore for CrdtStore {
    fn capabilities(&self) -> StoreCapabilities {
        StoreCapabilities::new(NAME)
            .shared(true)
            .durability(Durability::Sync)
            .reads(orch_core::store::ReadLevel::Local)
            .max_value_bytes(VALUE_BYTES_MAX)
            .max_txn_writes(SEGMENT_ENTRIES_MAX)
    }

    async fn get(&self, key: &Key) -> Result<Option<Entry>, StoreError> {
        let key = key.clone();
        self.view(move |view| view.entry(&key)).await
    }

    async fn scan(&self, prefix: &str, after: Option<&Key>, limit: usize) -> Result<Page, StoreError> {
        let (prefix, after) = (prefix.to_owned(), after.cloned());
        self.view(move |view| view.scan(&prefix, after.as_ref(), limit, view.revision()?)).await
    }

    async fn commit(&self, txn: Txn) -> Result<Position, CommitError> {
        txn.check(&self.capabilities())?;
        let foreign =
            |guard: &&Guard| matches!(guard, Guard::Version(_, at) if at.incarnation != self.incarnation);
        if let Some(guard) = txn.guards.iter().find(foreign) {
            return Err(CommitError::Conflict { key: guard.key().clone() });
        }
        self.writer.check_open()?;
        let permits = self.permits.acquire(txn.size_bytes()).await?;
        let txn = Prepared::hash_cooperatively(txn).await;
        self.writer.commit(|sender| Job::Commit { txn, sender, permits }).await
    }

    async fn watch(&self, prefix: &str, from: Position) -> Result<Watch, StoreError> {
        self.writer.check_open()?;
        if from.revision > Revision::ZERO && from.incarnation != self.incarnation {
            return Err(StoreError::Diverged { expected: from, head: self.history.head() });
        }
        let log = Log { file: Arc::clone(self.writer.file()), incarnation: self.incarnation };
        self.history.watch(Some(Arc::new(log)), prefix, from)
    }

    async fn head(&self) -> Result<Position, StoreError> {
        self.writer.check_open()?;
        Ok(self.history.head())
    }

    /// Not offered: an author's own transactions are in the log under no name.
    async fn outcome(&self, _: CommitId, _: Revision) -> Result<Option<Position>, StoreError> {
        Err(StoreError::Unsupported { store: NAME, what: "asking for the outcome of a commit" })
    }

    async fn compact(&self, before: Revision) -> Result<(), StoreError> {
        self.writer.call(true, |sender| Job::Compact { before, sender }).await
    }

    async fn close(&self) -> Result<(), StoreError> {
        self.writer.close(|sender| Job::Close { sender }).await;
        Ok(())
    }
}

/// The log on disk, for watches that begin in the past or fell behind.
struct Log {
    file: Arc<RedbFile>,
    incarnation: Incarnation,
}

#[async_trait]
impl HistorySource for Log {
    async fn read_revisions(&self, after: Position, limit: usize) -> Result<Vec<WatchBatch>, StoreError> {
        let (file, incarnation) = (Arc::clone(&self.file), self.incarnation);
        blocking(move || log::read_log(&file, incarnation, after.revision, limit)).await
    }
}

/// A number that differs from start to start: the standard library's random keys of hash maps.
fn seed() -> u64 {
    std::hash::BuildHasher::hash_one(&std::collections::hash_map::RandomState::new(), 0)
}
