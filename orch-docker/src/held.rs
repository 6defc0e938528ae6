//! Attempts whose containers exist unless somebody else removed them.

use std::collections::HashSet;

use orch_core::model::AttemptId;
use parking_lot::{Mutex, MutexGuard};

/// Attempts that this runtime started or adopted, and did not remove. As many as there are on the node.
#[derive(Debug, Default)]
pub(crate) struct Held(Mutex<HashSet<AttemptId>>);

impl Held {
    pub(crate) fn add(&self, attempt: AttemptId) {
        self.all().insert(attempt);
    }

    /// Forgets the attempt; to be called before its container is removed.
    pub(crate) fn let_go(&self, attempt: AttemptId) {
        self.all().remove(&attempt);
    }

    pub(crate) fn has(&self, attempt: AttemptId) -> bool {
        self.all().contains(&attempt)
    }

    fn all(&self) -> MutexGuard<'_, HashSet<AttemptId>> {
        self.0.lock()
    }
}
