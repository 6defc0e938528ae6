//! Group commit window: how long a writer waits for further commits, because those that share a sync are
//! cheaper.

use std::time::{Duration, Instant};

/// The longest wait, however slow the disk or the server has just been: far below what a sync takes on most.
const LONGEST: Duration = Duration::from_millis(1);

/// Size and duration of the last group. Callers whose commits were completed together are likely to commit
/// together again, so as many are expected as it had.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct CommitWindow {
    size: usize,
    took: Duration,
}

impl CommitWindow {
    /// Window after a group of so many that began then and is done now.
    pub(crate) fn after(size: usize, begun: Instant) -> Self {
        Self { size, took: begun.elapsed() }
    }

    /// True if more are expected than these.
    pub(crate) fn expects_more_than(self, size: usize) -> bool {
        self.size > size
    }

    /// End of the window that opens now: after a quarter of what the last group took.
    pub(crate) fn deadline(self) -> Instant {
        Instant::now() + (self.took / 4).min(LONGEST)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_hiccup_does_not_make_the_next_one_wait() {
        let slow = CommitWindow { size: 64, took: Duration::from_secs(15) };
        assert!(slow.deadline() <= Instant::now() + LONGEST);
        assert!(slow.expects_more_than(63) && !slow.expects_more_than(64));
        assert!(!CommitWindow::default().expects_more_than(1), "the first one is not kept waiting");
    }
}
