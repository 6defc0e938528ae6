//! One task for each running attempt: keeps its output within bounds and tells when it has ended.

use std::{
    collections::BTreeMap,
    io,
    sync::{Arc, Mutex, MutexGuard, PoisonError, Weak},
    time::Duration,
};

use tokio::{
    process::Child,
    sync::{broadcast, watch},
};

use super::{
    attempt_dir::{AttemptDir, State},
    blocking, output, tree,
};
use crate::{
    model::{AttemptId, Exit},
    runtime::RuntimeEvent,
};

/// Events that a reader may be behind before it has to list again.
const EVENTS: usize = 1024;

#[derive(Debug)]
pub(super) struct Monitors {
    running: Mutex<BTreeMap<AttemptId, watch::Receiver<Option<Exit>>>>,
    events: broadcast::Sender<RuntimeEvent>,
    poll_interval: Duration,
}

impl Monitors {
    pub(super) fn new(poll_interval: Duration) -> Self {
        Self { running: Mutex::default(), events: broadcast::Sender::new(EVENTS), poll_interval }
    }

    pub(super) fn events(&self) -> broadcast::Receiver<RuntimeEvent> {
        self.events.subscribe()
    }

    /// Watches an attempt that was started, once. Reaps `child`.
    pub(super) fn watch(
        self: &Arc<Self>,
        dir: &AttemptDir,
        child: Option<Child>,
    ) -> watch::Receiver<Option<Exit>> {
        let mut running = self.running();
        if let Some(watched) = running.get(&dir.attempt()) {
            // Tokio reaps a child whose handle is dropped.
            return watched.clone();
        }
        let (sender, receiver) = watch::channel(None);
        running.insert(dir.attempt(), receiver.clone());
        tokio::spawn(monitor(Arc::downgrade(self), dir.clone(), child, sender, self.poll_interval));
        receiver
    }

    /// The watch over an attempt whose end was not settled yet.
    pub(super) fn unsettled(&self, attempt: AttemptId) -> bool {
        self.running().contains_key(&attempt)
    }

    /// Waits for the end; `None` when the attempt is removed or lost.
    pub(super) async fn ended(self: &Arc<Self>, dir: &AttemptDir) -> Option<Exit> {
        let mut watched = self.watch(dir, None);
        *watched.wait_for(Option::is_some).await.ok()?
    }

    pub(super) fn forget(&self, attempt: AttemptId) {
        self.running().remove(&attempt);
    }

    fn running(&self) -> MutexGuard<'_, BTreeMap<AttemptId, watch::Receiver<Option<Exit>>>> {
        self.running.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// What is left to do when an attempt has ended; doing it again changes nothing.
pub(super) fn settle(dir: &AttemptDir) -> io::Result<()> {
    tree::kill_marked(dir.attempt())?;
    let spec = dir.spec()?;
    dir.clear_secrets(&spec)?;
    output::trim(dir, spec.output_limit_bytes, 0)
}

async fn monitor(
    monitors: Weak<Monitors>,
    dir: AttemptDir,
    mut child: Option<Child>,
    sender: watch::Sender<Option<Exit>>,
    poll_interval: Duration,
) {
    let attempt = dir.attempt();
    loop {
        let watched = dir.clone();
        let state = blocking(move || {
            let state = watched.state();
            match state {
                State::Ended(..) | State::Lost(_) => settle(&watched)?,
                State::Running(_) => {
                    let limit = watched.spec()?.output_limit_bytes;
                    // Trimming in pieces is cheaper than a little each time.
                    output::trim(&watched, limit, limit / 8)?;
                }
                State::Created | State::Absent => {}
            }
            Ok(state)
        });
        let state = match state.await {
            Ok(state) => state,
            Err(error) => {
                tracing::warn!(%attempt, %error, "cannot look after the output of an attempt");
                dir.state()
            }
        };
        let Some(monitors) = monitors.upgrade() else { return };
        match state {
            State::Absent | State::Lost(_) => return monitors.forget(attempt),
            State::Ended(_, exit) => {
                sender.send_replace(Some(exit));
                monitors.forget(attempt);
                let _ = monitors.events.send(RuntimeEvent::Ended { attempt });
                return;
            }
            State::Created | State::Running(_) => {}
        }
        drop(monitors);
        let reaped = async {
            match &mut child {
                Some(child) => drop(child.wait().await),
                None => std::future::pending().await,
            }
        };
        if tokio::time::timeout(poll_interval, reaped).await.is_ok() {
            child = None;
        }
    }
}
