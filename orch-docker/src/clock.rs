//! The engine's times: RFC 3339 with nanoseconds and any offset.

use orch_core::model::Timestamp;
use serde::{Deserialize, Serialize};

/// A point in time as the engine reports it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub(crate) struct EngineTime {
    seconds: u64,
    nanos: u32,
}

impl EngineTime {
    /// Parses a time; `None` for anything but a time from 1970 on; the engine writes the year 1 for "never".
    pub(crate) fn parse(text: &str) -> Option<Self> {
        let (date, time) = text.split_once('T')?;
        let mut date = date.splitn(3, '-').map(str::parse::<i64>);
        let (year, month, day) = (date.next()?.ok()?, date.next()?.ok()?, date.next()?.ok()?);
        let zone_at = time.find(['Z', '+', '-'])?;
        let (clock, zone) = time.split_at(zone_at);
        let (whole, fraction) = clock.split_once('.').unwrap_or((clock, ""));
        let mut whole = whole.splitn(3, ':').map(str::parse::<i64>);
        let (hour, minute, second) = (whole.next()?.ok()?, whole.next()?.ok()?, whole.next()?.ok()?);
        let nanos = format!("{fraction:0<9}").get(..9)?.parse().ok()?;
        let seconds = days_from_civil(year, month, day) * 86_400 + hour * 3600 + minute * 60 + second;
        Some(Self { seconds: u64::try_from(seconds - offset_seconds(zone)?).ok()?, nanos })
    }

    pub(crate) fn timestamp(self) -> Timestamp {
        Timestamp::from_millis(self.seconds * 1000 + u64::from(self.nanos / 1_000_000))
    }

    /// Form that the engine's filters accept.
    pub(crate) fn to_unix(self) -> String {
        format!("{}.{:09}", self.seconds, self.nanos)
    }
}

fn offset_seconds(zone: &str) -> Option<i64> {
    let sign = match zone.chars().next()? {
        'Z' => return Some(0),
        '-' => -1,
        _ => 1,
    };
    let (hours, minutes) = zone[1..].split_once(':')?;
    Some(sign * (hours.parse::<i64>().ok()? * 3600 + minutes.parse::<i64>().ok()? * 60))
}

/// Days since 1970-01-01 (Hinnant, "chrono-Compatible Low-Level Date Algorithms").
fn days_from_civil(year: i64, month: i64, day: i64) -> i64 {
    let year = if month <= 2 { year - 1 } else { year };
    let era = year.div_euclid(400);
    let of_era = year.rem_euclid(400);
    let of_year = (153 * ((month + 9) % 12) + 2) / 5 + day - 1;
    era * 146_097 + of_era * 365 + of_era / 4 - of_era / 100 + of_year - 719_468
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_of_the_engine_are_read() {
        for (text, expected) in [
            ("2026-02-03T04:05:06.789123456Z", "2026-02-03T04:05:06.789Z"),
            ("2024-02-29T23:59:59Z", "2024-02-29T23:59:59.000Z"),
            ("2026-01-01T00:30:00.5+01:00", "2025-12-31T23:30:00.500Z"),
            ("2026-01-01T00:30:00.5-00:30", "2026-01-01T01:00:00.500Z"),
        ] {
            assert_eq!(EngineTime::parse(text).unwrap().timestamp().to_rfc3339(), expected);
        }
        assert_eq!(EngineTime::parse("1970-01-01T00:00:01.000000002Z").unwrap().to_unix(), "1.000000002");
    }

    #[test]
    fn never_and_nonsense_are_nothing() {
        for text in ["0001-01-01T00:00:00Z", "", "T", "2026-01-01", "2026-01-01T00:00:00", "a-b-cTd:e:fZ"] {
            assert_eq!(EngineTime::parse(text), None, "{text}");
        }
    }
}
