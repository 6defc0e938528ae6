//! Starts of which nobody knows whether they happened.

use std::collections::HashSet;

use orch_core::model::AttemptId;
use parking_lot::{Mutex, MutexGuard};

/// Attempts whose engine was ordered to start them and did not answer: it went away, took too long, or nobody waited
/// for it. A process may have begun that the engine, when it is back, knows nothing of, or begin yet: starting once
/// more could run the work twice. Not kept for the agent's next life: both would have to die at once.
#[derive(Debug, Default)]
pub(crate) struct Doubts(Mutex<HashSet<AttemptId>>);

impl Doubts {
    pub(crate) fn raise(&self, attempt: AttemptId) {
        self.all().insert(attempt);
    }

    pub(crate) fn settle(&self, attempt: AttemptId) {
        self.all().remove(&attempt);
    }

    pub(crate) fn about(&self, attempt: AttemptId) -> bool {
        self.all().contains(&attempt)
    }

    fn all(&self) -> MutexGuard<'_, HashSet<AttemptId>> {
        self.0.lock()
    }
}
