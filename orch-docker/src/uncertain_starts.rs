//! Starts whose outcome is unknown.

use std::collections::HashSet;

use orch_core::model::AttemptId;
use parking_lot::{Mutex, MutexGuard};

/// Attempts whose engine was requested to start them and did not respond: it became unreachable, took too
/// long, or the request was cancelled. A process may have begun that the engine, after a restart, does not
/// know of, or may begin yet: starting once more could run the work twice. Not stored for the agent's next
/// incarnation: agent and engine would have to crash at once.
#[derive(Debug, Default)]
pub(crate) struct UncertainStarts(Mutex<HashSet<AttemptId>>);

impl UncertainStarts {
    pub(crate) fn add(&self, attempt: AttemptId) {
        self.all().insert(attempt);
    }

    pub(crate) fn remove(&self, attempt: AttemptId) {
        self.all().remove(&attempt);
    }

    pub(crate) fn contains(&self, attempt: AttemptId) -> bool {
        self.all().contains(&attempt)
    }

    fn all(&self) -> MutexGuard<'_, HashSet<AttemptId>> {
        self.0.lock()
    }
}
