//! Scans of all processes of the system, shared by all callers that need one at the time.

use std::{
    io,
    sync::Arc,
    time::{Duration, Instant},
};

use parking_lot::{Mutex, MutexGuard};
use tokio::{sync::oneshot, task::JoinHandle};

use super::{blocking, processes::Snapshot};
use crate::runtime::{RuntimeError, RuntimeErrorKind};

/// Pause after a scan, as a multiple of the time that the scan took. However many attempts end, scanning
/// takes its share of one core and no more.
const REST: u32 = 3;
const REST_MAX: Duration = Duration::from_millis(250);

#[derive(Debug, Default)]
pub(super) struct Sweeps(Mutex<Waiting>);

type Look = Result<Arc<Snapshot>, RuntimeError>;

#[derive(Debug, Default)]
struct Waiting {
    /// Oldest start that each caller is interested in, in ticks, and the caller.
    requests: Vec<(u64, oneshot::Sender<Look>)>,
    worker: Option<JoinHandle<()>>,
}

impl Sweeps {
    /// Processes that are not older than `since_ticks`, from a scan that begins after this call.
    pub(super) async fn snapshot(self: &Arc<Self>, since_ticks: u64) -> Look {
        let (sender, receiver) = oneshot::channel();
        {
            let mut waiting = self.waiting();
            waiting.requests.push((since_ticks, sender));
            if waiting.worker.as_ref().is_none_or(JoinHandle::is_finished) {
                waiting.worker = Some(tokio::spawn(Arc::clone(self).work()));
            }
        }
        let gone = || RuntimeError::new(RuntimeErrorKind::Unavailable, "the agent is shutting down");
        receiver.await.unwrap_or_else(|_| Err(gone()))
    }

    async fn work(self: Arc<Self>) {
        loop {
            let requests = {
                let mut waiting = self.waiting();
                if waiting.requests.is_empty() {
                    waiting.worker = None;
                    return;
                }
                std::mem::take(&mut waiting.requests)
            };
            let since = requests.iter().map(|(since, _)| *since).min().unwrap_or_default();
            let (began, look) =
                (Instant::now(), move || Ok::<_, io::Error>(Arc::new(Snapshot::take(since)?)));
            let snapshot = blocking(look).await;
            for (_, sender) in requests {
                let _ = sender.send(snapshot.clone());
            }
            tokio::time::sleep((began.elapsed() * REST).min(REST_MAX)).await;
        }
    }

    fn waiting(&self) -> MutexGuard<'_, Waiting> {
        self.0.lock()
    }
}
