//! The log: in memory, or in files with the latest entries in memory.

mod frame;
mod index;
mod writer;

#[cfg(test)]
mod tests;

use std::{
    fmt::Debug,
    io,
    ops::{Bound, RangeBounds},
    sync::Arc,
};

use openraft::{
    AnyError, LogState, OptionalSend, RaftLogReader, StorageIOError,
    storage::{LogFlushed, RaftLogStorage},
};
use parking_lot::{Mutex, MutexGuard};
use tokio::runtime::{Handle, RuntimeFlavor};

use self::{
    index::{Found, Index},
    writer::{Manner, RealDisk, Writer},
};
use super::{
    config::{RaftConfig, Storage},
    snapshot_store::blocking,
    types::{Entry, Lease, LogId, StorageError, Types, Vote},
};

/// Writer of the log for openraft. There is one of them for a log.
#[derive(Debug)]
pub(super) struct Log {
    reader: Reader,
    files: Option<Files>,
}

/// The files of a log, if it has any.
#[derive(Clone, Debug)]
pub(super) struct Files {
    writer: Arc<Mutex<Option<Writer>>>,
    /// Nothing that takes long is done while entries are appended.
    sync: bool,
}

/// Reader of the log, concurrent with its writer.
#[derive(Clone, Debug)]
pub(super) struct Reader {
    index: Arc<Mutex<Index>>,
    append_bytes_max: usize,
    _lease: Lease,
}

impl Log {
    /// Opens the log where `config` says.
    pub(super) async fn open(config: &RaftConfig, owner: u64, lease: Lease) -> io::Result<Self> {
        let mut index = Index::new(config.cache_bytes);
        let sync = matches!(config.storage, Storage::Synced { .. });
        let manner = Manner { owner, sync, segment_bytes: config.segment_bytes };
        let (index, files) = match &config.storage {
            Storage::Memory => (index, None),
            Storage::Written { directory, .. } | Storage::Synced { directory } => {
                let directory = directory.clone();
                let open = move || {
                    let writer = Writer::open(&directory, manner, Box::new(RealDisk), &mut index)?;
                    Ok((index, writer))
                };
                let (index, writer) = blocking(open).await?;
                (index, Some(Files { writer: Arc::new(Mutex::new(Some(writer))), sync }))
            }
        };
        Ok(Self::new(index, files, config.append_bytes_max.get(), lease))
    }

    fn new(index: Index, files: Option<Files>, append_bytes_max: usize, lease: Lease) -> Self {
        let reader = Reader { index: Arc::new(Mutex::new(index)), append_bytes_max, _lease: lease };
        Self { reader, files }
    }

    pub(super) fn files(&self) -> Option<Files> {
        self.files.clone()
    }

    fn index(&self) -> MutexGuard<'_, Index> {
        self.reader.index()
    }

    async fn write(
        &self,
        work: impl FnOnce(&mut Writer) -> io::Result<()> + Send + 'static,
    ) -> io::Result<()> {
        match &self.files {
            Some(files) => files.run(work).await,
            None => Ok(()),
        }
    }

    async fn add(&self, entries: Vec<Entry>) -> io::Result<()> {
        let mut locations = Vec::new().into_iter();
        let entries = match &self.files {
            None => entries,
            // The system takes the bytes over at once; handing the work to another thread would take longer.
            Some(files) if !files.sync => {
                locations = files.with(|writer| writer.append(&entries))?.into_iter();
                entries
            }
            Some(files) => {
                let files = files.clone();
                let work = move || Ok((files.with(|writer| writer.append(&entries))?, entries));
                let (written, entries) = here_if_possible(work).await?;
                locations = written.into_iter();
                entries
            }
        };
        let mut index = self.index();
        for entry in entries {
            index.push(entry, locations.next()).map_err(|_| io::Error::other("entries are missing"))?;
        }
        Ok(())
    }
}

/// Runs what waits for the disk on this thread where the runtime has others to go on with. On a busy machine
/// another thread that has to wake up first waits longer for its turn than the disk takes.
async fn here_if_possible<T: Send + 'static>(
    work: impl FnOnce() -> io::Result<T> + Send + 'static,
) -> io::Result<T> {
    match Handle::current().runtime_flavor() {
        RuntimeFlavor::MultiThread => tokio::task::block_in_place(work),
        _ => blocking(work).await,
    }
}

impl Files {
    fn with<T>(&self, work: impl FnOnce(&mut Writer) -> io::Result<T>) -> io::Result<T> {
        let mut writer = self.writer.lock();
        work(writer.as_mut().ok_or_else(|| io::Error::other("the log is closed"))?)
    }

    async fn run<T: Send + 'static>(
        &self,
        work: impl FnOnce(&mut Writer) -> io::Result<T> + Send + 'static,
    ) -> io::Result<T> {
        let files = self.clone();
        blocking(move || files.with(work)).await
    }

    pub(super) async fn sync(&self) -> io::Result<()> {
        self.run(Writer::sync).await
    }

    /// Makes everything durable and releases the directory.
    pub(super) async fn close(&self) -> io::Result<()> {
        let writer = self.writer.clone();
        blocking(move || match writer.lock().take() {
            Some(mut writer) => writer.sync(),
            None => Ok(()),
        })
        .await
    }
}

impl Reader {
    fn index(&self) -> MutexGuard<'_, Index> {
        self.index.lock()
    }

    async fn read(&self, start: u64, end: u64, bytes: usize) -> Result<Vec<Entry>, StorageError> {
        let found = self.index().find(start, end, bytes);
        let read = |found: Vec<Found>| found.into_iter().map(Found::read).collect::<io::Result<Vec<_>>>();
        let entries = if found.iter().all(|found| matches!(found, Found::Here(_))) {
            read(found)
        } else {
            blocking(move || read(found)).await
        };
        entries.map_err(|error| StorageIOError::read_logs(AnyError::new(&error)).into())
    }
}

impl RaftLogReader<Types> for Reader {
    async fn try_get_log_entries<R: RangeBounds<u64> + Clone + Debug + OptionalSend>(
        &mut self,
        range: R,
    ) -> Result<Vec<Entry>, StorageError> {
        let start = match range.start_bound() {
            Bound::Included(index) => *index,
            Bound::Excluded(index) => index + 1,
            Bound::Unbounded => 0,
        };
        let end = match range.end_bound() {
            Bound::Included(index) => index + 1,
            Bound::Excluded(index) => *index,
            Bound::Unbounded => u64::MAX,
        };
        self.read(start, end, usize::MAX).await
    }

    async fn limited_get_log_entries(&mut self, start: u64, end: u64) -> Result<Vec<Entry>, StorageError> {
        self.read(start, end, self.append_bytes_max).await
    }
}

impl RaftLogReader<Types> for Log {
    async fn try_get_log_entries<R: RangeBounds<u64> + Clone + Debug + OptionalSend>(
        &mut self,
        range: R,
    ) -> Result<Vec<Entry>, StorageError> {
        self.reader.try_get_log_entries(range).await
    }
}

impl RaftLogStorage<Types> for Log {
    type LogReader = Reader;

    async fn get_log_state(&mut self) -> Result<LogState<Types>, StorageError> {
        let index = self.index();
        Ok(LogState { last_purged_log_id: index.purged, last_log_id: index.last() })
    }

    async fn get_log_reader(&mut self) -> Reader {
        self.reader.clone()
    }

    async fn save_vote(&mut self, vote: &Vote) -> Result<(), StorageError> {
        let vote = *vote;
        let saved = self.write(move |writer| writer.vote(vote)).await;
        saved.map_err(|error| StorageIOError::write_vote(AnyError::new(&error)))?;
        self.index().vote = Some(vote);
        Ok(())
    }

    async fn read_vote(&mut self) -> Result<Option<Vote>, StorageError> {
        Ok(self.index().vote)
    }

    async fn save_committed(&mut self, committed: Option<LogId>) -> Result<(), StorageError> {
        if let Some(files) = &self.files {
            let noted = files.with(|writer| {
                writer.committed(committed);
                Ok(())
            });
            noted.map_err(|error| StorageIOError::write(AnyError::new(&error)))?;
        }
        self.index().committed = committed;
        Ok(())
    }

    async fn read_committed(&mut self) -> Result<Option<LogId>, StorageError> {
        Ok(self.index().committed)
    }

    async fn append<I>(&mut self, entries: I, callback: LogFlushed<Types>) -> Result<(), StorageError>
    where
        I: IntoIterator<Item = Entry> + OptionalSend,
        I::IntoIter: OptionalSend,
    {
        let added = self.add(entries.into_iter().collect()).await;
        added.map_err(|error| StorageIOError::write_logs(AnyError::new(&error)))?;
        callback.log_io_completed(Ok(()));
        Ok(())
    }

    async fn truncate(&mut self, log_id: LogId) -> Result<(), StorageError> {
        let written = self.write(move |writer| writer.truncate(log_id.index)).await;
        written.map_err(|error| StorageIOError::write_logs(AnyError::new(&error)))?;
        self.index().truncate(log_id.index);
        Ok(())
    }

    async fn purge(&mut self, log_id: LogId) -> Result<(), StorageError> {
        let written = self.write(move |writer| writer.purge(log_id)).await;
        written.map_err(|error| StorageIOError::write_logs(AnyError::new(&error)))?;
        self.index().purge(log_id);
        Ok(())
    }
}
