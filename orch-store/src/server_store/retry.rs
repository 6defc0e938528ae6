//! Retry of calls to a server that may be back soon.

use orch_base::backoff::Backoff;
use tokio::time::{Duration, Instant, sleep};

/// First delay before another attempt.
const FIRST_DELAY: Duration = Duration::from_millis(20);

/// Attempts of one call until its retry deadline, with delays that grow.
pub(super) struct Attempts {
    end: Instant,
    backoff: Backoff,
}

impl Attempts {
    /// The first attempt is now, and none comes later than after `deadline`. No delay is longer than
    /// `longest_delay`.
    pub(super) fn within(deadline: Duration, longest_delay: Duration) -> Self {
        Self { end: Instant::now() + deadline, backoff: backoff(longest_delay) }
    }

    /// Waits for the next attempt; false at once when that would be after the deadline.
    pub(super) async fn again(&mut self) -> bool {
        let delay = self.backoff.next_delay();
        if Instant::now() + delay > self.end {
            return false;
        }
        sleep(delay).await;
        true
    }
}

/// Delays between attempts that have no deadline.
pub(super) fn backoff(longest_delay: Duration) -> Backoff {
    Backoff::new(FIRST_DELAY, longest_delay)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn no_attempt_is_made_after_the_deadline() {
        let begin = Instant::now();
        let mut attempts = Attempts::within(Duration::from_millis(300), Duration::from_millis(100));
        let mut at = Vec::new();
        while attempts.again().await {
            at.push(begin.elapsed().as_millis());
        }
        assert_eq!(at, [20, 60, 140, 240]);
    }
}
