//! A hybrid logical clock: Kulkarni and others, "Logical Physical Clocks", OPODIS 2014, in 64 bits.

use std::{fmt, time::Duration};

use orch_core::model::Timestamp;

const COUNTER_BITS: u32 = 16;

/// Stamp of a segment: milliseconds since 1970 in the upper 48 bits, a counter below them. What was written
/// after something had been observed has a greater stamp than that.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct Stamp(pub(super) u64);

impl Stamp {
    /// The time that it was made from.
    #[must_use]
    pub const fn time(self) -> Timestamp {
        Timestamp::from_millis(self.0 >> COUNTER_BITS)
    }

    /// The first stamp of a time.
    #[must_use]
    pub const fn at(time: Timestamp) -> Self {
        // Beyond 48 bits lies the year 10889.
        let millis = time.as_millis();
        Self(if millis >> (64 - COUNTER_BITS) == 0 { millis << COUNTER_BITS } else { u64::MAX })
    }

    /// True if it lies more than `skew` ahead of `now`.
    #[must_use]
    pub fn is_ahead(self, now: Timestamp, skew: Duration) -> bool {
        self.time() > now.after(skew)
    }
}

impl fmt::Debug for Stamp {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}.{}", self.0 >> COUNTER_BITS, self.0 & ((1 << COUNTER_BITS) - 1))
    }
}

/// The greatest stamp observed or made.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Clock(Stamp);

impl Clock {
    pub(super) fn saw(&mut self, stamp: Stamp) {
        self.0 = self.0.max(stamp);
    }

    /// The stamp of something written now, greater than all before.
    pub(super) fn next(&mut self, now: Timestamp) -> Stamp {
        self.0 = Stamp((self.0.0.saturating_add(1)).max(Stamp::at(now).0));
        self.0
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn stamps_grow_whatever_the_clock_does() {
        let mut clock = Clock::default();
        let millis = Timestamp::from_millis;
        let first = clock.next(millis(1000));
        let second = clock.next(millis(1000));
        let back = clock.next(millis(10));
        assert!(first < second && second < back);
        assert_eq!(back.time(), millis(1000));
        clock.saw(Stamp::at(millis(5000)));
        assert_eq!(clock.next(millis(1001)).time(), millis(5000));
        assert!(Stamp::at(millis(3000)).is_ahead(millis(1000), Duration::from_millis(1999)));
        assert!(!Stamp::at(millis(3000)).is_ahead(millis(1000), Duration::from_secs(2)));
        assert!(Stamp::at(millis(u64::MAX)).is_ahead(millis(1000), Duration::from_secs(2)));
    }
}
