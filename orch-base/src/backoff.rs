//! Delays between attempts at something that may work later.

use std::time::Duration;

/// Exponential back-off: the delay doubles with each attempt up to a bound. It sleeps nowhere and draws no
/// random number, so that it serves simulated time as well as a real clock.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Backoff {
    next: Duration,
    min: Duration,
    max: Duration,
}

impl Backoff {
    /// A back-off whose first delay is `min`, or `max` where that is less, and whose delays stay at `max`.
    #[must_use]
    pub fn new(min: Duration, max: Duration) -> Self {
        let min = min.min(max);
        Self { next: min, min, max }
    }

    /// The delay before the next attempt.
    pub fn next_delay(&mut self) -> Duration {
        let delay = self.next;
        self.next = delay.saturating_mul(2).min(self.max);
        delay
    }

    /// The delay before the next attempt, shortened by up to half of it, so that peers who failed at the same
    /// moment do not try again at the same moment for ever. `random` is any number, drawn anew for each call.
    pub fn next_jittered(&mut self, random: u64) -> Duration {
        let half = self.next_delay() / 2;
        let share = u32::try_from(random % 1024).unwrap_or(0);
        half + half * share / 1024
    }

    /// Starts again at the first delay, after a success.
    pub fn reset(&mut self) {
        self.next = self.min;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const fn millis(millis: u64) -> Duration {
        Duration::from_millis(millis)
    }

    #[test]
    fn delays_double_up_to_their_bound_and_start_again_after_a_success() {
        let mut backoff = Backoff::new(millis(100), millis(350));
        let delays: Vec<Duration> = (0..4).map(|_| backoff.next_delay()).collect();
        assert_eq!(delays, [100, 200, 350, 350].map(millis));
        backoff.reset();
        assert_eq!(backoff.next_delay(), millis(100));
    }

    #[test]
    fn jitter_takes_up_to_half_of_a_delay() {
        let mut backoff = Backoff::new(millis(100), millis(350));
        assert_eq!(backoff.next_jittered(0), millis(50));
        assert_eq!(backoff.next_jittered(512), millis(150));
        assert_eq!(backoff.next_jittered(0), millis(175));
        assert!(backoff.next_jittered(u64::MAX) > millis(340));
        assert!(backoff.next_jittered(u64::MAX) < millis(350));
    }

    #[test]
    fn the_bound_holds_from_the_first_delay_and_nothing_overflows() {
        assert_eq!(Backoff::new(millis(100), millis(30)).next_delay(), millis(30));
        let mut backoff = Backoff::new(Duration::MAX, Duration::MAX);
        assert_eq!((backoff.next_delay(), backoff.next_delay()), (Duration::MAX, Duration::MAX));
    }
}
