//! [`HybridClock`]: the time that proposals carry.

use std::{
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use tokio::time::Instant;
use tracing::warn;

use crate::{fault::EngineFault, model::Timestamp};

/// Hybrid logical clock (Kulkarni et al., "Logical Physical Clocks", OPODIS 2014): goes on evenly from the
/// system clock as it was at the start, or from the latest time of the group where that is later. It goes
/// back only to the clocks of others that it is ahead of ([`HybridClock::go_back`]); setting the system clock
/// neither ends tasks early nor holds them up, and time does not stand still after a member whose clock was
/// ahead. Clones are one clock.
#[derive(Clone, Debug)]
pub struct HybridClock(Arc<Mutex<Base>>);

#[derive(Clone, Copy, Debug)]
struct Base {
    time: Timestamp,
    since: Instant,
    /// The latest time of the group.
    reached: Timestamp,
}

/// Differences beyond this are logged.
const SKEW: Duration = Duration::from_secs(60);

impl HybridClock {
    /// Clock that goes on from the system clock.
    #[must_use]
    pub fn new() -> Self {
        Self::starting_at(Timestamp::now())
    }

    /// Clock that goes on from this time.
    #[must_use]
    pub fn starting_at(time: Timestamp) -> Self {
        Self(Arc::new(Mutex::new(Base { time, since: Instant::now(), reached: Timestamp::ZERO })))
    }

    /// Time for a proposal made now.
    #[must_use]
    pub fn now(&self) -> Timestamp {
        self.lock().now()
    }

    /// Goes on from `time`, which the group has seen, where that is later.
    pub fn reach(&self, time: Timestamp) {
        let mut base = self.lock();
        base.reached = base.reached.max(time);
        let ahead = time.since(base.now());
        if ahead.is_zero() || EngineFault::ClockNotHybrid.is_made() {
            return;
        }
        if ahead > SKEW {
            warn!(
                ?ahead,
                "the cluster's time is ahead of this machine's clock; check the clocks of all members"
            );
        }
        (base.time, base.since) = (time, Instant::now());
    }

    /// Goes on from `time`, which other members say it is, where this clock is ahead of it: but never from
    /// before a time that the group has seen.
    pub fn go_back(&self, time: Timestamp) {
        let mut base = self.lock();
        let time = time.max(base.reached);
        if base.now() > time {
            (base.time, base.since) = (time, Instant::now());
        }
    }

    fn lock(&self) -> MutexGuard<'_, Base> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Default for HybridClock {
    fn default() -> Self {
        Self::new()
    }
}

impl Base {
    fn now(&self) -> Timestamp {
        self.time.after(self.since.elapsed())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn time_goes_on_from_the_latest_time_of_the_group() {
        let clock = HybridClock::new();
        let ahead = clock.now().after(Duration::from_secs(3600));
        clock.reach(ahead);
        tokio::time::advance(Duration::from_secs(5)).await;
        assert_eq!(clock.now(), ahead.after(Duration::from_secs(5)));
        clock.reach(ahead);
        assert_eq!(clock.now(), ahead.after(Duration::from_secs(5)), "what is past changes nothing");
    }

    #[tokio::test(start_paused = true)]
    async fn a_clock_goes_back_to_that_of_others_but_not_before_the_time_of_the_group() {
        let clock = HybridClock::new();
        let (now, hour) = (clock.now(), Duration::from_secs(3600));
        clock.go_back(now.after(hour));
        assert_eq!(clock.now(), now, "it is not ahead");
        let ahead = HybridClock::starting_at(now.after(hour));
        ahead.reach(now.after(Duration::from_secs(60)));
        ahead.go_back(now);
        tokio::time::advance(Duration::from_secs(5)).await;
        assert_eq!(ahead.now(), now.after(Duration::from_secs(65)));
    }
}
