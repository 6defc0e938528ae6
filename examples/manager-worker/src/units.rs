//! Amounts as people type them.

use std::time::Duration;

/// `500ms`, `30s`, `5m`, `2h`; a bare number is seconds.
pub(crate) fn duration(text: &str) -> Result<Duration, String> {
    let (number, unit) = split(text);
    let millis = match unit {
        "ms" => 1,
        "" | "s" => 1000,
        "m" => 60_000,
        "h" => 3_600_000,
        "d" => 86_400_000,
        other => return Err(format!("{other:?} is no unit of time; use ms, s, m, h or d")),
    };
    decimal(number, millis).map(Duration::from_millis)
}

/// `512m`, `1g`, `64k`; a bare number is bytes. Powers of 1024.
pub(crate) fn bytes(text: &str) -> Result<u64, String> {
    let (number, unit) = split(text);
    let bytes = match unit.to_ascii_lowercase().trim_end_matches("ib").trim_end_matches('b') {
        "" => 1,
        "k" => 1 << 10,
        "m" => 1 << 20,
        "g" => 1 << 30,
        "t" => 1 << 40,
        _ => return Err(format!("{unit:?} is no unit of memory; use k, m, g or t")),
    };
    decimal(number, bytes)
}

/// Cores, as a decimal number: `0.5`, `2`. In thousandths.
pub(crate) fn cores(text: &str) -> Result<u64, String> {
    match split(text) {
        (number, "") => decimal(number, 1000),
        (_, unit) => Err(format!("{unit:?} is not expected; give a number of cores such as 0.5")),
    }
}

/// `NAME=VALUE`.
pub(crate) fn pair(text: &str) -> Result<(String, String), String> {
    match text.split_once('=') {
        Some((name, value)) if !name.is_empty() => Ok((name.into(), value.into())),
        _ => Err("it must be NAME=VALUE".into()),
    }
}

fn split(text: &str) -> (&str, &str) {
    let end = text.find(|c: char| !c.is_ascii_digit() && c != '.').unwrap_or(text.len());
    text.split_at(end)
}

/// A decimal number times `scale`, without floating point.
fn decimal(number: &str, scale: u64) -> Result<u64, String> {
    let bad = || format!("{number:?} is not a number");
    let (whole, fraction) = number.split_once('.').unwrap_or((number, ""));
    if whole.is_empty() || fraction.len() > 9 || fraction.contains('.') {
        return Err(bad());
    }
    let whole: u64 = whole.parse().map_err(|_| bad())?;
    let of = 10u64.pow(u32::try_from(fraction.len()).map_err(|_| bad())?);
    let fraction: u64 = if fraction.is_empty() { 0 } else { fraction.parse().map_err(|_| bad())? };
    let too_large = || format!("{number} is too large");
    let part =
        u64::try_from(u128::from(fraction) * u128::from(scale) / u128::from(of)).map_err(|_| too_large())?;
    whole.checked_mul(scale).and_then(|all| all.checked_add(part)).ok_or_else(too_large)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn amounts_are_read_as_people_mean_them() {
        assert_eq!(duration("1.5s"), Ok(Duration::from_millis(1500)));
        assert_eq!(duration("90"), Ok(Duration::from_secs(90)));
        assert_eq!(duration("2m"), Ok(Duration::from_secs(120)));
        assert_eq!(bytes("512m"), Ok(512 << 20));
        assert_eq!(bytes("1.5GiB"), Ok(3 << 29));
        assert_eq!(bytes("64"), Ok(64));
        assert_eq!(cores("0.25"), Ok(250));
        assert_eq!(pair("A=b=c"), Ok(("A".into(), "b=c".into())));
        for bad in ["", "x", "1.2.3", "5y", "99999999999999999999"] {
            assert!(duration(bad).is_err(), "{bad}");
        }
        assert!(bytes("1q").is_err() && cores("1m").is_err() && pair("=b").is_err());
    }
}
