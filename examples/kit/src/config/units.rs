//! Parsers of amounts as people type them.

use std::{
    num::{IntErrorKind, ParseIntError},
    time::Duration,
};

/// Duration such as `500ms`, `90s`, `5m` or `5min`, `2h`, `1d`, `1.5h`, and sums of them such as `1h30m`; a
/// bare number is seconds.
///
/// # Errors
/// For people: what is wrong, and a form that is right.
pub fn duration(text: &str) -> Result<Duration, String> {
    let mut rest = text.trim();
    if rest.is_empty() {
        return Err("it is empty; give a time such as 90s, 5min or 1h30m".into());
    }
    let (mut millis, mut parts) = (0u64, 0);
    while !rest.is_empty() {
        let (number, after) = split(rest);
        let end = after.find(|c: char| c.is_ascii_digit()).unwrap_or(after.len());
        let (unit, next) = after.split_at(end);
        let scale = match unit.trim().to_ascii_lowercase().as_str() {
            "ms" | "msec" | "millis" | "milliseconds" => 1,
            "" if parts == 0 && next.is_empty() => 1000,
            "s" | "sec" | "secs" | "second" | "seconds" => 1000,
            "m" | "min" | "mins" | "minute" | "minutes" => 60_000,
            "h" | "hr" | "hrs" | "hour" | "hours" => 3_600_000,
            "d" | "day" | "days" => 86_400_000,
            "w" | "week" | "weeks" => 604_800_000,
            "" => return Err(format!("a unit is missing behind {number}; use ms, s, m, h or d")),
            other => return Err(format!("{other:?} is no unit of time; use ms, s, m (or min), h or d")),
        };
        let part = decimal(number, scale)?;
        millis = millis.checked_add(part).ok_or_else(|| format!("{text} is too large"))?;
        (rest, parts) = (next.trim_start(), parts + 1);
    }
    Ok(Duration::from_millis(millis))
}

/// Size such as `512m`, `512Mi`, `512MB`, `1.5GiB`, `64k`; a bare number is bytes. Powers of 1024 in every
/// notation, as in `docker`.
///
/// # Errors
/// For people: what is wrong, and a form that is right.
pub fn bytes(text: &str) -> Result<u64, String> {
    let (number, unit) = split(text.trim());
    let bytes = match unit.trim().to_ascii_lowercase().as_str() {
        "" | "b" => 1,
        "k" | "kb" | "ki" | "kib" => 1 << 10,
        "m" | "mb" | "mi" | "mib" => 1 << 20,
        "g" | "gb" | "gi" | "gib" => 1 << 30,
        "t" | "tb" | "ti" | "tib" => 1 << 40,
        other => {
            return Err(format!("{other:?} is no unit of memory; write it such as 512Mi, 500MB or 1.5g"));
        }
    };
    decimal(number, bytes)
}

/// Cores such as `0.5`, `2`, or in thousandths `500m`. Returns thousandths.
///
/// # Errors
/// For people: what is wrong, and a form that is right.
pub fn cores(text: &str) -> Result<u64, String> {
    let (number, unit) = split(text.trim());
    match unit.trim() {
        "" => decimal(number, 1000),
        "m" => decimal(number, 1),
        unit => Err(format!("{unit:?} is not expected; give a number of cores such as 0.5 or 500m")),
    }
}

/// Whole number.
fn count(text: &str) -> Result<u64, String> {
    text.parse().map_err(|error| whole_error(text, &error))
}

/// Duration in the form that [`duration`] parses: `1h30m`, `1.5s`, `100ms`.
pub fn show_duration(time: Duration) -> String {
    const UNITS: [(u128, &str); 3] = [(86_400_000, "d"), (3_600_000, "h"), (60_000, "m")];
    let (mut rest, mut text) = (time.as_millis(), String::new());
    for (millis, unit) in UNITS {
        if rest >= millis {
            text += &format!("{}{unit}", rest / millis);
            rest %= millis;
        }
    }
    match (rest, text.is_empty()) {
        (0, false) => {}
        (1..1000, true) => text += &format!("{rest}ms"),
        (_, _) if rest % 1000 == 0 => text += &format!("{}s", rest / 1000),
        (_, _) => text += format!("{}.{:03}", rest / 1000, rest % 1000).trim_end_matches('0'),
    }
    match text.ends_with(|c: char| c.is_ascii_digit()) {
        true => text + "s",
        false => text,
    }
}

/// A count with commas between thousands.
pub fn show_count(count: u64) -> String {
    let digits = count.to_string();
    let groups: Vec<&str> =
        digits.as_bytes().rchunks(3).rev().filter_map(|g| std::str::from_utf8(g).ok()).collect();
    groups.join(",")
}

/// Pair `NAME=VALUE`.
///
/// # Errors
/// For people: what is wrong, and a form that is right.
pub fn pair(text: &str) -> Result<(String, String), String> {
    match text.split_once('=') {
        Some((name, value)) if !name.is_empty() => Ok((name.into(), value.into())),
        _ => Err("it must be NAME=VALUE".into()),
    }
}

/// Pair `NAME=COUNT`.
///
/// # Errors
/// For people: what is wrong, and a form that is right.
pub fn counted(text: &str) -> Result<(String, u64), String> {
    let (name, text) = pair(text)?;
    Ok((name, count(&text)?))
}

fn split(text: &str) -> (&str, &str) {
    let end = text.find(|c: char| !c.is_ascii_digit() && c != '.').unwrap_or(text.len());
    text.split_at(end)
}

fn whole_error(number: &str, error: &ParseIntError) -> String {
    match error.kind() {
        IntErrorKind::PosOverflow => format!("{number} is too large"),
        _ => format!("{number:?} is not a number"),
    }
}

/// A decimal number times `scale`, without floating point.
fn decimal(number: &str, scale: u64) -> Result<u64, String> {
    let bad = || format!("{number:?} is not a number");
    let too_large = || format!("{number} is too large");
    let (whole, fraction) = number.split_once('.').unwrap_or((number, ""));
    if whole.is_empty() || fraction.contains('.') {
        return Err(bad());
    }
    if fraction.len() > 9 {
        return Err(format!("{number:?} has more than 9 digits behind the point"));
    }
    let whole: u64 = whole.parse().map_err(|error| whole_error(number, &error))?;
    let of = 10u64.pow(u32::try_from(fraction.len()).map_err(|_| bad())?);
    let fraction: u64 = if fraction.is_empty() { 0 } else { fraction.parse().map_err(|_| bad())? };
    let part =
        u64::try_from(u128::from(fraction) * u128::from(scale) / u128::from(of)).map_err(|_| too_large())?;
    whole.checked_mul(scale).and_then(|all| all.checked_add(part)).ok_or_else(too_large)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn amounts_are_read_as_people_mean_them() {
        for (text, millis) in [
            ("1.5s", 1500),
            ("90", 90_000),
            ("90s", 90_000),
            ("2m", 120_000),
            ("5min", 300_000),
            ("2h", 7_200_000),
            ("1h30m", 5_400_000),
            ("1h 30min", 5_400_000),
            ("1d", 86_400_000),
            ("2 days", 172_800_000),
            ("500ms", 500),
        ] {
            assert_eq!(duration(text), Ok(Duration::from_millis(millis)), "{text}");
        }
        for (text, size) in [
            ("512m", 512 << 20),
            ("512Mi", 512 << 20),
            ("1Gi", 1 << 30),
            ("500MB", 500 << 20),
            ("1.5GB", 3 << 29),
            ("1.5GiB", 3 << 29),
            ("64", 64),
            ("64 KiB", 64 << 10),
        ] {
            assert_eq!(bytes(text), Ok(size), "{text}");
        }
        assert_eq!((cores("0.25"), cores("2"), cores("500m")), (Ok(250), Ok(2000), Ok(500)));
        assert_eq!(pair("A=b=c"), Ok(("A".into(), "b=c".into())));
        for bad in ["", "x", "1.2.3", "5y", "99999999999999999999", "1h30", "h", "-5s", "1e3s"] {
            assert!(duration(bad).is_err(), "{bad}");
        }
        for bad in ["1q", "", "Mi", "1.5GiBs", "-1m"] {
            assert!(bytes(bad).is_err(), "{bad}");
        }
        const HUGE: &str = "99999999999999999999";
        for error in [
            bytes(&format!("{HUGE}g")).unwrap_err(),
            bytes("18446744073709551615.5k").unwrap_err(),
            cores(HUGE).unwrap_err(),
            duration(&format!("{HUGE}.5h")).unwrap_err(),
            duration("18446744073709551s 999ms").unwrap_err(),
        ] {
            assert!(error.ends_with("is too large"), "{error}");
        }
        assert_eq!(
            bytes("1.1234567890g"),
            Err("\"1.1234567890\" has more than 9 digits behind the point".into())
        );
        assert_eq!(counted("gpu=2"), Ok(("gpu".into(), 2)));
        assert!(counted("gpu=many").unwrap_err().contains("many") && counted("gpu").is_err());
        assert!(cores("1x").is_err() && cores("0.0005m").is_ok() && pair("=b").is_err());
    }

    #[test]
    fn amounts_are_shown_as_they_are_typed() {
        for text in ["0s", "100ms", "1.5s", "5m", "1h30m", "1d", "2d3h4m5s", "1m0.25s"] {
            assert_eq!(show_duration(duration(text).unwrap()), text);
        }
        assert_eq!(
            [0, 999, 1000, 5_312, 1_234_567].map(show_count),
            ["0", "999", "1,000", "5,312", "1,234,567"]
        );
    }
}
