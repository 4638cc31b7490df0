//! Durations as Go writes them: `1h30m`, `1.5s`, `300ms`.

use std::time::Duration;

/// Why a text is not a duration.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum DurationError {
    /// No digits where a number should stand.
    #[error("a number is missing")]
    MissingNumber,
    /// A number without a unit; only `0` needs none.
    #[error("a unit is missing")]
    MissingUnit,
    /// A unit that does not exist.
    #[error("the unit is unknown")]
    UnknownUnit,
    /// Below zero.
    #[error("it is negative")]
    Negative,
    /// More than 292 years.
    #[error("it is too long")]
    TooLong,
}

/// Reads a duration, exact to the nanosecond.
pub fn parse(text: &str) -> Result<Duration, DurationError> {
    let (negative, mut rest) = match text.strip_prefix('-') {
        Some(rest) => (true, rest),
        None => (false, text.strip_prefix('+').unwrap_or(text)),
    };
    if rest == "0" {
        return Ok(Duration::ZERO);
    }
    if rest.is_empty() {
        return Err(DurationError::MissingNumber);
    }
    let mut total: u128 = 0;
    while !rest.is_empty() {
        let number = rest.len()
            - rest
                .trim_start_matches(|c: char| c.is_ascii_digit() || c == '.')
                .len();
        let (whole, fraction) = rest[..number]
            .split_once('.')
            .unwrap_or((&rest[..number], ""));
        if whole.is_empty() && fraction.is_empty() {
            return Err(DurationError::MissingNumber);
        }
        rest = &rest[number..];
        let unit = rest.len()
            - rest
                .trim_start_matches(|c: char| !c.is_ascii_digit() && c != '.')
                .len();
        let nanoseconds = match &rest[..unit] {
            "" => return Err(DurationError::MissingUnit),
            "ns" => 1,
            "us" | "µs" | "μs" => 1_000,
            "ms" => 1_000_000,
            "s" => 1_000_000_000,
            "m" => 60_000_000_000,
            "h" => 3_600_000_000_000_u128,
            _ => return Err(DurationError::UnknownUnit),
        };
        rest = &rest[unit..];
        total = scaled(whole, fraction, nanoseconds)
            .and_then(|part| total.checked_add(part))
            .ok_or(DurationError::TooLong)?;
    }
    let limit = u128::from(i64::MAX.unsigned_abs());
    match u64::try_from(total) {
        Ok(0) => Ok(Duration::ZERO),
        Ok(_) if negative => Err(DurationError::Negative),
        Ok(nanoseconds) if total <= limit => Ok(Duration::from_nanos(nanoseconds)),
        _ => Err(DurationError::TooLong),
    }
}

/// `whole.fraction` units; `None` if the number is malformed or too large. Digits below a nanosecond are cut off.
fn scaled(whole: &str, fraction: &str, unit: u128) -> Option<u128> {
    let whole: u128 = if whole.is_empty() {
        0
    } else {
        whole.parse::<u64>().ok()?.into()
    };
    let mut part = 0;
    let mut worth = unit;
    for digit in fraction.chars() {
        worth /= 10;
        part += u128::from(digit.to_digit(10)?) * worth;
    }
    (whole * unit).checked_add(part)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations() {
        use DurationError::{MissingNumber, MissingUnit, Negative, TooLong, UnknownUnit};
        for (text, expected) in [
            ("0", Ok(0)),
            ("-0", Ok(0)),
            ("0s", Ok(0)),
            ("30s", Ok(30_000_000_000)),
            ("+30s", Ok(30_000_000_000)),
            ("1m30s", Ok(90_000_000_000)),
            ("1.5s", Ok(1_500_000_000)),
            (".5s", Ok(500_000_000)),
            ("5.s", Ok(5_000_000_000)),
            ("300ms", Ok(300_000_000)),
            ("10us", Ok(10_000)),
            ("10µs", Ok(10_000)),
            ("1h", Ok(3_600_000_000_000)),
            ("1h1h", Ok(7_200_000_000_000)),
            ("0.0000000001s", Ok(0)),
            ("", Err(MissingNumber)),
            ("-", Err(MissingNumber)),
            (".s", Err(MissingNumber)),
            ("s", Err(MissingNumber)),
            ("30", Err(MissingUnit)),
            ("1m30", Err(MissingUnit)),
            ("30 s", Err(UnknownUnit)),
            ("1d", Err(UnknownUnit)),
            ("1.2.3s", Err(TooLong)),
            ("-5s", Err(Negative)),
            ("9223372036854775807ns", Ok(i64::MAX.unsigned_abs())),
            ("9223372036854775808ns", Err(TooLong)),
            ("99999999999999999999h", Err(TooLong)),
        ] {
            let expected = expected.map(Duration::from_nanos);
            assert_eq!(parse(text), expected, "{text:?}");
        }
    }
}
