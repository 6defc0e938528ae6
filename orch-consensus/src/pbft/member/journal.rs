//! Writes the log, on a thread of its own. Everything that waits is written and synced together, so that one
//! sync serves as many votes as came while the last one ran.

use std::{
    io,
    sync::Arc,
    thread::JoinHandle,
    time::{Duration, Instant},
};

use orch_core::store::Durability;
use parking_lot::{Condvar, Mutex, MutexGuard};
use tokio::sync::watch;

use super::disk::Disk;
use crate::pbft::core::{
    record::{Image, Record},
    wal,
};

/// Interval of syncs that nothing waits for.
const SYNC_INTERVAL: Duration = Duration::from_millis(5);
/// Delay after a write that failed, for example on a full disk.
const RETRY_INTERVAL: Duration = Duration::from_millis(100);
/// Approximate bytes of one write.
const WRITE_BYTES: usize = 4 << 20;

/// A change of the log.
#[derive(Debug)]
pub(super) enum Change {
    Append(Record),
    Replace(Image),
}

impl Change {
    /// Its size in bytes, about.
    fn size(&self) -> usize {
        let record = |record: &Record| match record {
            Record::Body(_, batch) => batch.size(),
            _ => 512,
        };
        match self {
            Self::Append(entry) => record(entry),
            Self::Replace(image) => {
                image.snapshot.as_ref().map_or(0, bytes::Bytes::len)
                    + image.records.iter().map(record).sum::<usize>()
            }
        }
    }
}

/// Progress of the log.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Progress {
    /// Changes that are as durable as chosen.
    pub(super) durable: u64,
    /// Last error, as long as it stands in the way.
    pub(super) last_error: Option<String>,
    /// Nothing will be written any more.
    pub(super) failed: bool,
}

/// The log of a running member.
#[derive(Debug)]
pub(super) struct Journal {
    queue: Arc<Queue>,
    progress: watch::Receiver<Progress>,
    threads: Vec<JoinHandle<()>>,
    disk: Arc<dyn Disk>,
}

#[derive(Debug, Default)]
struct Queue {
    state: Mutex<State>,
    changed: Condvar,
}

#[derive(Debug, Default)]
struct State {
    changes: Vec<Change>,
    /// Of what is not written yet.
    bytes: usize,
    /// Something was written that is not synced.
    unsynced: bool,
    closed: bool,
    failed: bool,
}

impl Queue {
    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock()
    }

    fn wait(&self, state: &mut MutexGuard<'_, State>) {
        self.changed.wait(state);
    }

    /// Waits this long, or less when it is closed.
    fn rest(&self, time: Duration) -> bool {
        let until = Instant::now() + time;
        let mut state = self.state();
        while !state.closed && !self.changed.wait_until(&mut state, until).timed_out() {}
        !state.closed
    }
}

impl Journal {
    /// Goes on after what `disk` holds; `begun` when that is something.
    ///
    /// # Errors
    /// Any error of the system when it starts a thread.
    pub(super) fn start(disk: Arc<dyn Disk>, durability: Durability, begun: bool) -> io::Result<Self> {
        let queue = Arc::new(Queue::default());
        let (reporter, progress) = watch::channel(Progress::default());
        let writer = Writer {
            disk: disk.clone(),
            queue: queue.clone(),
            reporter: reporter.clone(),
            sync_first: durability == Durability::Sync,
            begun,
        };
        let mut threads = vec![spawn("pbft-log", move || writer.run())?];
        if durability != Durability::Sync {
            let syncer = Syncer { disk: disk.clone(), queue: queue.clone(), reporter };
            threads.push(spawn("pbft-log-sync", move || syncer.run())?);
        }
        Ok(Self { queue, progress, threads, disk })
    }

    /// Adds what waits in `changes`, in order.
    pub(super) fn submit(&self, changes: &mut Vec<Change>) {
        if changes.is_empty() {
            return;
        }
        let mut state = self.queue.state();
        for change in changes.drain(..) {
            state.bytes += change.size();
            state.changes.push(change);
        }
        drop(state);
        self.queue.changed.notify_all();
    }

    /// Bytes that wait to be written, about.
    pub(super) fn waiting_bytes(&self) -> usize {
        self.queue.state().bytes
    }

    pub(super) fn progress(&self) -> watch::Receiver<Progress> {
        self.progress.clone()
    }

    /// Writes and syncs what waits, unless the disk refuses, and ends. Blocks.
    pub(super) fn finish(mut self) {
        self.close();
        for thread in self.threads.drain(..) {
            // A thread that panicked has logged it.
            let _ = thread.join();
        }
        if !self.queue.state().failed
            && let Err(error) = self.disk.sync()
        {
            tracing::error!(%error, "the log of this member was not synced at its end");
        }
    }

    fn close(&self) {
        self.queue.state().closed = true;
        self.queue.changed.notify_all();
    }
}

impl Drop for Journal {
    fn drop(&mut self) {
        self.close();
    }
}

fn spawn(name: &str, run: impl FnOnce() + Send + 'static) -> io::Result<JoinHandle<()>> {
    std::thread::Builder::new().name(name.into()).spawn(run)
}

struct Writer {
    disk: Arc<dyn Disk>,
    queue: Arc<Queue>,
    reporter: watch::Sender<Progress>,
    sync_first: bool,
    /// True once the log has its header.
    begun: bool,
}

impl Writer {
    fn run(mut self) {
        let mut done = 0;
        while let Some(changes) = self.next() {
            let count = changes.len() as u64;
            for write in Write::gather(changes, &mut self.begun) {
                if !self.write(&write) {
                    return;
                }
                let mut state = self.queue.state();
                state.bytes = state.bytes.saturating_sub(write.size);
                state.unsynced |= !self.sync_first;
            }
            if self.sync_first
                && let Err(error) = self.disk.sync()
            {
                return fail(&self.queue, &self.reporter, "syncing", &error);
            }
            done += count;
            self.reporter.send_modify(|progress| (progress.durable, progress.last_error) = (done, None));
            if !self.sync_first {
                self.queue.changed.notify_all();
            }
        }
    }

    /// Changes that wait; none at the end.
    fn next(&self) -> Option<Vec<Change>> {
        let mut state = self.queue.state();
        loop {
            if state.failed {
                return None;
            }
            if !state.changes.is_empty() {
                return Some(std::mem::take(&mut state.changes));
            }
            if state.closed {
                return None;
            }
            self.queue.wait(&mut state);
        }
    }

    /// Tries until it is done; not done only when it is closed meanwhile.
    fn write(&self, write: &Write) -> bool {
        loop {
            let done = match write.replaces {
                true => self.disk.replace(&write.bytes),
                false => self.disk.append(&write.bytes),
            };
            let Err(error) = done else { return true };
            tracing::warn!(%error, "the log cannot be written; votes wait until it can");
            let last_error = format!("the log cannot be written: {error}");
            self.reporter.send_if_modified(|progress| {
                let changed = progress.last_error.as_ref() != Some(&last_error);
                progress.last_error = Some(last_error.clone());
                changed
            });
            if !self.queue.rest(RETRY_INTERVAL) {
                return false;
            }
        }
    }
}

/// After a failed sync the content of the disk is unknown, and trying again would report success for what was
/// lost.
fn fail(queue: &Queue, reporter: &watch::Sender<Progress>, operation: &str, error: &io::Error) {
    tracing::error!(%error, operation, "the log of this member failed; it stops");
    queue.state().failed = true;
    queue.changed.notify_all();
    reporter.send_modify(|progress| {
        progress.last_error = Some(format!("{operation} the log failed: {error}"));
        progress.failed = true;
    });
}

/// Changes that are written in one go.
struct Write {
    bytes: Vec<u8>,
    replaces: bool,
    size: usize,
}

impl Write {
    /// A replacement makes what comes before it needless.
    fn gather(changes: Vec<Change>, begun: &mut bool) -> Vec<Self> {
        let mut writes: Vec<Self> = Vec::new();
        let mut skipped = 0;
        let last = changes.iter().rposition(|change| matches!(change, Change::Replace(_))).unwrap_or(0);
        for (index, change) in changes.into_iter().enumerate() {
            let size = change.size();
            match change {
                _ if index < last => skipped += size,
                Change::Replace(image) => {
                    *begun = true;
                    writes.push(Self { bytes: wal::image(&image), replaces: true, size: size + skipped });
                }
                Change::Append(record) => {
                    let full =
                        writes.last().is_none_or(|write| write.replaces || write.bytes.len() >= WRITE_BYTES);
                    if full {
                        let bytes = if *begun { Vec::new() } else { wal::empty() };
                        *begun = true;
                        writes.push(Self { bytes, replaces: false, size: 0 });
                    }
                    if let Some(write) = writes.last_mut() {
                        write.bytes.extend(wal::frame(&record));
                        write.size += size;
                    }
                }
            }
        }
        writes
    }
}

/// Syncs in the background what the writer has written.
struct Syncer {
    disk: Arc<dyn Disk>,
    queue: Arc<Queue>,
    reporter: watch::Sender<Progress>,
}

impl Syncer {
    fn run(self) {
        loop {
            let mut state = self.queue.state();
            while !state.unsynced && !state.closed && !state.failed {
                self.queue.wait(&mut state);
            }
            let last = state.closed && state.changes.is_empty() && !state.unsynced;
            if last || state.failed {
                return;
            }
            state.unsynced = false;
            drop(state);
            if let Err(error) = self.disk.sync() {
                return fail(&self.queue, &self.reporter, "syncing", &error);
            }
            if !self.queue.rest(SYNC_INTERVAL) {
                // What the writer still writes is synced at the end of all.
                return;
            }
        }
    }
}

#[cfg(test)]
mod tests;
