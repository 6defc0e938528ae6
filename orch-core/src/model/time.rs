//! Time as data. The functional core never reads a clock; every command brings its own `now`.

use std::{
    fmt,
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use serde::{Deserialize, Serialize};

/// A reading of both clocks, handed to state machines that own neither.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Moment {
    /// Monotonic clock with an arbitrary origin. Timeouts are measured with it.
    pub elapsed: Duration,
    /// System clock, which may jump. Proposals and timestamps carry it.
    pub wall: Timestamp,
}

/// Milliseconds since the Unix epoch, UTC. On the wire and on disk a plain integer.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Timestamp(u64);

impl Timestamp {
    /// The epoch itself.
    pub const ZERO: Self = Self(0);

    /// The time that is `millis` milliseconds after the epoch.
    #[must_use]
    pub const fn from_millis(millis: u64) -> Self {
        Self(millis)
    }

    /// Reads the system clock. A clock before 1970 reads as the epoch.
    #[must_use]
    pub fn now() -> Self {
        let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        Self(u64::try_from(since.as_millis()).unwrap_or(u64::MAX))
    }

    /// Milliseconds since the epoch.
    #[must_use]
    pub const fn as_millis(self) -> u64 {
        self.0
    }

    /// Adds `duration`; saturates at the end of the range.
    #[must_use]
    pub fn after(self, duration: Duration) -> Self {
        Self(self.0.saturating_add(u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)))
    }

    /// Duration from `earlier` to this time; zero when `earlier` is later.
    #[must_use]
    pub fn since(self, earlier: Self) -> Duration {
        Duration::from_millis(self.0.saturating_sub(earlier.0))
    }

    /// Parses RFC 3339 with any offset. `None` for anything but a time from 1970 on; fractions of a
    /// millisecond are dropped.
    #[must_use]
    pub fn from_rfc3339(text: &str) -> Option<Self> {
        let clock = text.get(..19)?;
        let number = |at: std::ops::Range<usize>| text.get(at)?.parse::<u64>().ok();
        let days = days_from_civil(number(0..4)?, number(5..7)?, number(8..10)?)?;
        let of_day = number(11..13)? * 3600 + number(14..16)? * 60 + number(17..19)?;
        let local = Self((days * 86_400 + of_day) * 1000);
        if !local.to_rfc3339().starts_with(clock) {
            return None;
        }
        let rest = text.get(19..)?;
        let zone_at = rest.find(['Z', '+', '-'])?;
        let (fraction, zone) = rest.split_at(zone_at);
        let millis = match fraction.strip_prefix('.') {
            Some(digits) if digits.bytes().all(|digit| digit.is_ascii_digit()) && !digits.is_empty() => {
                format!("{digits:0<3}").get(..3)?.parse().ok()?
            }
            None if fraction.is_empty() => 0,
            _ => return None,
        };
        let with_millis = local.0 + millis;
        let utc = match (zone.get(..1)?, offset_millis(zone)?) {
            ("-", offset) => with_millis.checked_add(offset),
            (_, offset) => with_millis.checked_sub(offset),
        };
        utc.map(Self)
    }

    /// RFC 3339 in UTC with milliseconds: `2026-02-03T04:05:06.789Z`.
    #[must_use]
    pub fn to_rfc3339(self) -> String {
        let (days, of_day) = (self.0 / 86_400_000, self.0 % 86_400_000);
        let (year, month, day) = civil_from_days(days);
        let (hour, minute) = (of_day / 3_600_000, of_day / 60_000 % 60);
        let (second, milli) = (of_day / 1000 % 60, of_day % 1000);
        format!("{year:04}-{month:02}-{day:02}T{hour:02}:{minute:02}:{second:02}.{milli:03}Z")
    }
}

impl fmt::Display for Timestamp {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(&self.to_rfc3339())
    }
}

impl fmt::Debug for Timestamp {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Timestamp({} ms)", self.0)
    }
}

/// Days since 1970-01-01 to a date of the proleptic Gregorian calendar, counting in 400-year eras that start
/// on 1 March so that the leap day comes last (Hinnant, "chrono-Compatible Low-Level Date Algorithms").
fn civil_from_days(days: u64) -> (u64, u64, u64) {
    let shifted = days + 719_468;
    let (era, of_era) = (shifted / 146_097, shifted % 146_097);
    let year_of_era = (of_era - of_era / 1460 + of_era / 36_524 - of_era / 146_096) / 365;
    let of_year = of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let shifted_month = (5 * of_year + 2) / 153;
    let day = of_year - (153 * shifted_month + 2) / 5 + 1;
    let month = if shifted_month < 10 { shifted_month + 3 } else { shifted_month - 9 };
    let year = era * 400 + year_of_era + u64::from(month <= 2);
    (year, month, day)
}

/// Days since 1970-01-01, the other way round; `None` before that. Days that a month does not have count into
/// the next one.
fn days_from_civil(year: u64, month: u64, day: u64) -> Option<u64> {
    let shifted_year = if month <= 2 { year.checked_sub(1)? } else { year };
    let (era, of_era) = (shifted_year / 400, shifted_year % 400);
    let of_year = (153 * ((month + 9) % 12) + 2) / 5 + day;
    let shifted = era * 146_097 + of_era * 365 + of_era / 4 - of_era / 100 + of_year;
    shifted.checked_sub(719_469)
}

/// Size of the offset of a time zone as RFC 3339 writes it: `Z`, `+01:00`, `-09:30`.
fn offset_millis(zone: &str) -> Option<u64> {
    if zone == "Z" {
        return Some(0);
    }
    let (hours, minutes) = zone.strip_prefix(['+', '-'])?.split_once(':')?;
    let number = |text: &str, end: u64| {
        let is_number = text.len() == 2 && text.bytes().all(|digit| digit.is_ascii_digit());
        text.parse::<u64>().ok().filter(|number| is_number && *number < end)
    };
    Some(number(hours, 24)? * 3_600_000 + number(minutes, 60)? * 60_000)
}

/// Serde form of a [`Duration`]: whole milliseconds. The field's name ends in `_ms`.
pub(crate) mod millis {
    use std::time::Duration;

    use serde::{Deserialize, Deserializer, Serializer};

    pub(crate) fn serialize<S: Serializer>(value: &Duration, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_u64(u64::try_from(value.as_millis()).unwrap_or(u64::MAX))
    }

    pub(crate) fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Duration, D::Error> {
        u64::deserialize(deserializer).map(Duration::from_millis)
    }
}

/// Serde form of an optional [`Duration`]: whole milliseconds or null.
pub(crate) mod opt_millis {
    use std::time::Duration;

    use serde::{Deserialize, Deserializer, Serializer};

    pub(crate) fn serialize<S: Serializer>(
        value: &Option<Duration>,
        serializer: S,
    ) -> Result<S::Ok, S::Error> {
        match value {
            Some(value) => super::millis::serialize(value, serializer),
            None => serializer.serialize_none(),
        }
    }

    pub(crate) fn deserialize<'de, D: Deserializer<'de>>(
        deserializer: D,
    ) -> Result<Option<Duration>, D::Error> {
        Ok(Option::<u64>::deserialize(deserializer)?.map(Duration::from_millis))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn calendar_knows_leap_years_and_ends_of_months() {
        for (millis, text) in [
            (0, "1970-01-01T00:00:00.000Z"),
            (951_782_400_000, "2000-02-29T00:00:00.000Z"),
            (951_868_799_999, "2000-02-29T23:59:59.999Z"),
            (1_709_164_800_000, "2024-02-29T00:00:00.000Z"),
            (1_709_251_200_000, "2024-03-01T00:00:00.000Z"),
            (4_107_542_400_000, "2100-03-01T00:00:00.000Z"),
            (1_767_225_599_001, "2025-12-31T23:59:59.001Z"),
        ] {
            assert_eq!(Timestamp::from_millis(millis).to_rfc3339(), text);
            assert_eq!(Timestamp::from_rfc3339(text), Some(Timestamp::from_millis(millis)));
        }
        for days in 0..200_000 {
            let time = Timestamp::from_millis(days * 86_400_000 + 1);
            assert_eq!(Timestamp::from_rfc3339(&time.to_rfc3339()), Some(time));
        }
    }

    #[test]
    fn times_of_any_zone_are_read_and_nonsense_is_not() {
        for (text, utc) in [
            ("2024-02-29T23:59:59Z", "2024-02-29T23:59:59.000Z"),
            ("2026-02-03T04:05:06.789123456Z", "2026-02-03T04:05:06.789Z"),
            ("2026-01-01T00:30:00.5+01:00", "2025-12-31T23:30:00.500Z"),
            ("2026-01-01T00:30:00.05-09:30", "2026-01-01T10:00:00.050Z"),
        ] {
            assert_eq!(Timestamp::from_rfc3339(text).unwrap().to_rfc3339(), utc);
        }
        for text in [
            "",
            "2026-01-01",
            "2026-01-01T00:00:00",
            "2026-01-01 00:00:00Z",
            "2026-01-01T00:00:00.Z",
            "2026-01-01T00:00:00.xZ",
            "2026-01-01T00:00:00,5Z",
            "2026-01-01T00:00:00Zx",
            "2026-01-01T00:00:00Z01:00",
            "2026-01-01T00:00:00+1:00",
            "2026-01-01T00:00:00+24:00",
            "2026-01-01T00:00:00+01:60",
            "2026-02-29T00:00:00Z",
            "2026-00-10T00:00:00Z",
            "2026-13-01T00:00:00Z",
            "2026-01-00T00:00:00Z",
            "2026-01-01T24:00:00Z",
            "2026-01-01T00:60:00Z",
            "2026-01-01T00:00:+6Z",
            "1969-12-31T23:59:59Z",
            "1970-01-01T00:00:00+00:01",
            "0000-01-01T00:00:00Z",
            "2026-01-01T00:00:00\u{e9}Z",
        ] {
            assert_eq!(Timestamp::from_rfc3339(text), None, "{text}");
        }
    }

    #[test]
    fn arithmetic_saturates() {
        let end = Timestamp::from_millis(u64::MAX);
        assert_eq!(end.after(Duration::from_secs(1)), end);
        assert_eq!(Timestamp::ZERO.since(end), Duration::ZERO);
    }
}
