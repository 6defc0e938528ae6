//! Properties of the host, read once for the incarnation of an agent.

use std::{fs, io};

use crate::model::Timestamp;

/// Boot and PID namespace of the agent: process ids are valid in these only.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Host {
    pub(super) boot: String,
    pub(super) pid_namespace: String,
}

impl Host {
    pub(super) fn this() -> io::Result<Self> {
        let boot = fs::read_to_string("/proc/sys/kernel/random/boot_id")?.trim().to_owned();
        // pid:[4026531836]
        let link = fs::read_link("/proc/self/ns/pid")?.to_string_lossy().into_owned();
        let pid_namespace = link.trim_start_matches("pid:[").trim_end_matches(']').to_owned();
        Ok(Self { boot, pid_namespace })
    }
}

/// Reading of both clocks: wall clock, which people set, and time since boot, which nobody sets.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct ClockReading {
    pub(super) wall: Timestamp,
    pub(super) uptime_centis: u64,
}

/// Maximum difference of the clocks without a step of the wall clock: both are read a moment apart, and
/// slewed.
const STEP_MS: i64 = 1000;

impl ClockReading {
    pub(super) fn now() -> io::Result<Self> {
        let text = fs::read_to_string("/proc/uptime")?;
        let centis = text.split_whitespace().next().and_then(|seconds| seconds.replace('.', "").parse().ok());
        let uptime_centis =
            centis.ok_or_else(|| io::Error::new(io::ErrorKind::InvalidData, "/proc/uptime"))?;
        Ok(Self { wall: Timestamp::now(), uptime_centis })
    }

    /// Wall-clock time of this moment as the clock is set at `now`: the same unless it was set since.
    pub(super) fn by_clock_of(self, now: Self) -> Timestamp {
        let step = now.boot_at().saturating_sub(self.boot_at());
        if step.abs() <= STEP_MS {
            return self.wall;
        }
        Timestamp::from_millis(self.wall.as_millis().saturating_add_signed(step))
    }

    /// Wall-clock time of the boot, by these two clocks.
    fn boot_at(self) -> i64 {
        let millis = |number: u64| i64::try_from(number).unwrap_or(i64::MAX);
        millis(self.wall.as_millis()).saturating_sub(millis(self.uptime_centis.saturating_mul(10)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const DAY: u64 = 86_400_000;

    fn moment(wall: u64, uptime_centis: u64) -> ClockReading {
        ClockReading { wall: Timestamp::from_millis(wall), uptime_centis }
    }

    #[test]
    fn a_start_stays_what_it_was_while_nobody_sets_the_clock() {
        let start = moment(20_000 * DAY + 7, 500_000);
        let later = moment(20_000 * DAY + 60_000 + 12, 500_000 + 6_000);
        assert_eq!(start.by_clock_of(later), start.wall);
    }

    #[test]
    fn a_clock_that_was_set_moves_the_start_with_it() {
        let start = moment(20_000 * DAY, 500_000);
        let minute_later = 500_000 + 6_000;
        let ahead = start.by_clock_of(moment(20_001 * DAY + 60_000, minute_later));
        assert_eq!(ahead, Timestamp::from_millis(20_001 * DAY));
        let back = start.by_clock_of(moment(19_999 * DAY + 60_000, minute_later));
        assert_eq!(back, Timestamp::from_millis(19_999 * DAY));
    }
}
