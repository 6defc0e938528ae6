//! Notification of readers about new output, through inotify: one descriptor for all attempts.

use std::{
    collections::BTreeMap,
    io,
    mem::MaybeUninit,
    os::fd::{AsFd, OwnedFd},
    path::Path,
    sync::Arc,
    time::Duration,
};

use parking_lot::{Mutex, MutexGuard};
use rustix::fs::inotify::{self, CreateFlags, ReadFlags, WatchFlags};
use tokio::{sync::watch, task::JoinHandle};

use super::readable;

/// Polling interval of readers where the system has no descriptor or watch left for them.
const WITHOUT: Duration = Duration::from_millis(200);
/// Delay in which a burst of writes is gathered. Also the maximum latency of a reader.
const GATHER: Duration = Duration::from_millis(10);

#[derive(Debug)]
pub(super) struct Changes {
    inotify: Option<Arc<OwnedFd>>,
    state: Mutex<State>,
}

#[derive(Debug, Default)]
struct State {
    /// Watch descriptors of the directories that are being read.
    watched: BTreeMap<i32, watch::Sender<()>>,
    task: Option<JoinHandle<()>>,
}

/// Watch of a reader on one directory.
#[derive(Debug)]
pub(super) struct Watch {
    changes: Arc<Changes>,
    /// Watch descriptor; `None` where the system has none left.
    number: Option<i32>,
    changed: watch::Receiver<()>,
}

impl Changes {
    pub(super) fn new() -> Self {
        let inotify = inotify::init(CreateFlags::CLOEXEC | CreateFlags::NONBLOCK);
        if let Err(error) = &inotify {
            tracing::warn!(%error, "no inotify; readers of output poll instead");
        }
        Self { inotify: inotify.ok().map(Arc::new), state: Mutex::default() }
    }

    /// Watches the files of a directory.
    pub(super) fn watch(self: &Arc<Self>, dir: &Path) -> Watch {
        let mut state = self.state();
        let mask = WatchFlags::MODIFY | WatchFlags::CREATE | WatchFlags::ONLYDIR;
        let number = self.inotify.as_ref().and_then(|inotify| inotify::add_watch(inotify, dir, mask).ok());
        let changed = match number {
            Some(number) => state.watched.entry(number).or_default().subscribe(),
            None => watch::Sender::default().subscribe(),
        };
        if let (Some(inotify), true) =
            (&self.inotify, state.task.as_ref().is_none_or(JoinHandle::is_finished))
        {
            state.task = Some(tokio::spawn(tell(Arc::downgrade(self), Arc::clone(inotify))));
        }
        Watch { changes: Arc::clone(self), number, changed }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock()
    }
}

impl Drop for Changes {
    fn drop(&mut self) {
        if let Some(task) = &self.state().task {
            task.abort();
        }
    }
}

impl Watch {
    /// Waits until a file of the directory has changed since the last call, or since the watch was set up,
    /// and then for the gathering delay.
    pub(super) async fn changed(&mut self) {
        match self.number {
            Some(_) if self.changed.changed().await.is_ok() => tokio::time::sleep(GATHER).await,
            _ => tokio::time::sleep(WITHOUT).await,
        }
    }
}

impl Drop for Watch {
    fn drop(&mut self) {
        let (Some(number), Some(inotify)) = (self.number, &self.changes.inotify) else { return };
        let mut state = self.changes.state();
        // This reader is one of the receivers.
        if state.watched.get(&number).is_some_and(|sender| sender.receiver_count() <= 1) {
            state.watched.remove(&number);
            // The watch was removed with its directory if that was deleted.
            let _ = inotify::remove_watch(inotify, number);
        }
    }
}

async fn tell(changes: std::sync::Weak<Changes>, inotify: Arc<OwnedFd>) {
    let Ok(inotify) = readable(inotify) else { return };
    while let Ok(mut ready) = inotify.readable().await {
        let Some(changes) = changes.upgrade() else { return };
        let mut buffer = [MaybeUninit::uninit(); 4096];
        let mut events = inotify::Reader::new(ready.get_inner().as_fd(), &mut buffer);
        loop {
            match events.next() {
                Ok(event) => changes.tell(event.wd(), event.events()),
                Err(error) if io::Error::from(error).kind() == io::ErrorKind::WouldBlock => {
                    break ready.clear_ready();
                }
                Err(_) => return,
            }
        }
    }
}

impl Changes {
    fn tell(&self, number: i32, what: ReadFlags) {
        let state = self.state();
        if what.contains(ReadFlags::QUEUE_OVERFLOW) {
            state.watched.values().for_each(|sender| sender.send_replace(()));
        } else if let Some(sender) = state.watched.get(&number) {
            sender.send_replace(());
        }
    }
}
