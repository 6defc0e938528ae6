//! [`Process`]: clock, randomness and background work of one simulated process.

use std::{sync::Arc, time::Duration};

use futures_util::future::BoxFuture;
use orch_core::{environment::Environment, model::Timestamp};
use parking_lot::Mutex;
use tokio::{
    task::{AbortHandle, JoinHandle},
    time::Instant,
};

use crate::Random;

/// Clock that may be off, random bits that follow from the seed, and work that can be ended wherever it is.
#[derive(Debug)]
pub(super) struct Process {
    /// Its clock at `started`.
    epoch: Timestamp,
    started: Instant,
    random: Mutex<Random>,
    work: Mutex<Vec<AbortHandle>>,
}

impl Process {
    pub(super) fn new(epoch: Timestamp, started: Instant, ahead: Duration, random: Random) -> Arc<Self> {
        Arc::new(Self {
            epoch: epoch.after(ahead),
            started,
            random: Mutex::new(random),
            work: Mutex::default(),
        })
    }

    /// Ends it as a crash does: nothing of it runs on, and nothing is sent.
    pub(super) fn kill(&self) {
        let work = std::mem::take(&mut *self.work.lock());
        work.iter().for_each(AbortHandle::abort);
    }
}

impl Environment for Process {
    fn now(&self) -> Timestamp {
        self.epoch.after(self.started.elapsed())
    }

    fn random(&self) -> u128 {
        let mut random = self.random.lock();
        u128::from(random.next()) << 64 | u128::from(random.next())
    }

    fn spawn(&self, work: BoxFuture<'static, ()>) -> JoinHandle<()> {
        let running = tokio::spawn(work);
        let mut known = self.work.lock();
        known.retain(|work| !work.is_finished());
        known.push(running.abort_handle());
        running
    }
}
