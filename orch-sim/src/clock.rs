use std::time::Duration;

use crate::time::{duration, nanos};

const MILLION: i128 = 1_000_000;

/// A drift beyond this is no clock any more, and would let timers fire at once.
const DRIFT_PPM_MAX: i32 = 500_000;

/// The clock of one node: it may be wrong, run too fast or too slow, and jump in both directions.
///
/// It shows true time, plus an offset, plus what the drift has added since it was set. It shows zero where
/// that would be negative.
#[derive(Clone, Debug, Default)]
pub struct Clock {
    /// True time of the last change; drift counts from here.
    since: u64,
    /// Offset from true time at `since`.
    ahead: i64,
    drift_ppm: i32,
    /// True time when the clock was last taken out to be changed.
    now: u64,
}

impl Clock {
    /// The clock shows true time plus this many milliseconds from now on, whatever drift had added before.
    pub fn set_offset(&mut self, offset_ms: i64) {
        self.ahead = offset_ms.saturating_mul(1_000_000);
        self.since = self.now;
    }

    /// Moves the clock by this many milliseconds, back when negative.
    pub fn jump(&mut self, by_ms: i64) {
        self.ahead = self.ahead_at(self.now).saturating_add(by_ms.saturating_mul(1_000_000));
        self.since = self.now;
    }

    /// The clock gains this many microseconds in each second from now on, or loses them when negative. At
    /// most half a second in each second.
    pub fn set_drift_ppm(&mut self, drift_ppm: i32) {
        self.ahead = self.ahead_at(self.now);
        self.since = self.now;
        self.drift_ppm = drift_ppm.clamp(-DRIFT_PPM_MAX, DRIFT_PPM_MAX);
    }

    /// The drift that is set.
    pub fn drift_ppm(&self) -> i32 {
        self.drift_ppm
    }

    /// Passes the true time, from which the next change counts.
    pub(crate) fn at(&mut self, now: u64) -> &mut Self {
        self.now = now;
        self
    }

    pub(crate) fn local(&self, now: u64) -> Duration {
        duration(now.saturating_add_signed(self.ahead_at(now)))
    }

    /// True length of a timer of `local`. Jumps do not matter to it, as timers of an operating system use a
    /// clock that does not jump; it keeps the drift that was set when it began.
    pub(crate) fn true_delay(&self, local: Duration) -> u64 {
        let local = nanos(local);
        if self.drift_ppm == 0 {
            return local;
        }
        let rate = MILLION + i128::from(self.drift_ppm);
        u64::try_from(i128::from(local) * MILLION / rate).unwrap_or(u64::MAX)
    }

    fn ahead_at(&self, now: u64) -> i64 {
        if self.drift_ppm == 0 {
            return self.ahead;
        }
        let gained = i128::from(now.saturating_sub(self.since)) * i128::from(self.drift_ppm) / MILLION;
        self.ahead.saturating_add(i64::try_from(gained).unwrap_or(i64::MAX))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: u64 = 1_000_000_000;

    #[test]
    fn drift_counts_from_when_it_was_set() {
        let mut clock = Clock::default();
        clock.at(100 * SECOND).set_drift_ppm(1000);
        assert_eq!(clock.local(100 * SECOND), Duration::from_secs(100));
        assert_eq!(clock.local(110 * SECOND), Duration::from_millis(110_010));
        clock.at(110 * SECOND).set_drift_ppm(0);
        assert_eq!(clock.local(200 * SECOND), Duration::from_millis(200_010));
        clock.at(200 * SECOND).set_offset(0);
        assert_eq!(clock.local(200 * SECOND), Duration::from_secs(200));
    }

    #[test]
    fn a_clock_jumps_back_and_stops_at_zero() {
        let mut clock = Clock::default();
        clock.at(SECOND).jump(-300);
        assert_eq!(clock.local(SECOND), Duration::from_millis(700));
        clock.at(SECOND).jump(-300);
        assert_eq!(clock.local(SECOND), Duration::from_millis(400));
        clock.at(SECOND).set_offset(-5000);
        assert_eq!(clock.local(SECOND), Duration::ZERO);
        assert_eq!(clock.local(6 * SECOND), Duration::from_secs(1));
    }

    #[test]
    fn a_fast_clock_has_short_timers() {
        let mut clock = Clock::default();
        clock.set_drift_ppm(250_000);
        assert_eq!(clock.true_delay(Duration::from_secs(10)), 8 * SECOND);
        clock.set_drift_ppm(-2_000_000);
        assert_eq!(clock.drift_ppm(), -DRIFT_PPM_MAX);
        assert_eq!(clock.true_delay(Duration::from_secs(10)), 20 * SECOND);
    }
}
