//! What time proposals carry.

use std::sync::{Mutex, PoisonError};

use orch_core::model::Timestamp;
use tokio::time::Instant;

/// Goes on evenly from the system clock as it was at the start, or from the machine's time where that is later: it never
/// goes back, and time never stands still after a leader whose clock was ahead.
#[derive(Debug)]
pub(super) struct Clock(Mutex<(Timestamp, Instant)>);

impl Clock {
    pub(super) fn new() -> Self {
        Self(Mutex::new((Timestamp::now(), Instant::now())))
    }

    pub(super) fn now(&self) -> Timestamp {
        let (base, since) = *self.0.lock().unwrap_or_else(PoisonError::into_inner);
        base.after(since.elapsed())
    }

    /// The machine has seen this time.
    pub(super) fn reach(&self, time: Timestamp) {
        let mut clock = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let (base, since) = *clock;
        if time > base.after(since.elapsed()) {
            *clock = (time, Instant::now());
        }
    }
}
