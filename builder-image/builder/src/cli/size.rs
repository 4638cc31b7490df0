//! Sizes as people write and read them: `20GB` is a power of ten, `20Gi` and `20GiB` are powers of two. Pure.

/// Units with their bytes.
const UNITS: [(&str, u64); 5] = [
    ("", 1),
    ("K", 1_000),
    ("M", 1_000_000),
    ("G", 1_000_000_000),
    ("T", 1_000_000_000_000),
];

/// Reads a size in bytes.
///
/// # Errors
/// When it is none, or does not fit.
pub(super) fn parse(text: &str) -> Result<u64, String> {
    let wrong = || format!("`{text}` is no size: expected one like 20GB, 512Mi or 1000000");
    let digits = text
        .find(|c: char| !c.is_ascii_digit() && c != '.')
        .unwrap_or(text.len());
    let (number, unit) = text.split_at(digits);
    let unit = unit.trim().to_ascii_uppercase();
    let unit = unit.strip_suffix('B').unwrap_or(&unit);
    let (name, is_binary) = match unit.strip_suffix('I') {
        Some(name) if !name.is_empty() => (name, true),
        _ => (unit, false),
    };
    let position = UNITS.iter().position(|(known, _)| *known == name);
    let position = position.ok_or_else(wrong)?;
    let factor = if is_binary {
        1 << (10 * position)
    } else {
        UNITS[position].1
    };
    if let Ok(whole) = number.parse::<u64>() {
        return whole.checked_mul(factor).ok_or_else(wrong);
    }
    let fraction: f64 = number.parse().map_err(|_| wrong())?;
    #[expect(
        clippy::cast_precision_loss,
        reason = "sizes that people write are round"
    )]
    let bytes = fraction * factor as f64;
    if !(0.0..=1e18).contains(&bytes) {
        return Err(wrong());
    }
    #[expect(
        clippy::cast_possible_truncation,
        clippy::cast_sign_loss,
        reason = "it was checked"
    )]
    Ok(bytes as u64)
}

/// Shows a size with three or four digits: `1.234GB`.
pub(super) fn show(bytes: u64) -> String {
    let (unit, factor) = UNITS
        .iter()
        .rev()
        .find(|(_, factor)| bytes >= *factor)
        .unwrap_or(&UNITS[0]);
    if *factor == 1 {
        return format!("{bytes}B");
    }
    #[expect(clippy::cast_precision_loss, reason = "four digits are shown")]
    let number = bytes as f64 / *factor as f64;
    let unit = if *unit == "K" { "k" } else { unit };
    format!("{number:.3}")
        .get(..5)
        .map_or_else(String::new, |digits| {
            format!("{}{unit}B", digits.trim_end_matches('.'))
        })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_are_read() {
        for (text, expected) in [
            ("0", Some(0)),
            ("12", Some(12)),
            ("12B", Some(12)),
            ("20GB", Some(20_000_000_000)),
            ("20g", Some(20_000_000_000)),
            ("20Gi", Some(20 << 30)),
            ("20GiB", Some(20 << 30)),
            ("1.5k", Some(1500)),
            ("512mib", Some(512 << 20)),
            ("2T", Some(2_000_000_000_000)),
            ("", None),
            ("GB", None),
            ("-1", None),
            ("1x", None),
            ("1i", None),
            ("1.2.3G", None),
            ("99999999999T", None),
        ] {
            assert_eq!(parse(text).ok(), expected, "{text}");
        }
    }

    #[test]
    fn sizes_are_shown() {
        for (bytes, expected) in [
            (0, "0B"),
            (999, "999B"),
            (1000, "1.000kB"),
            (1_234_567, "1.235MB"),
            (123_456_789, "123.4MB"),
            (1_000_000_000_000, "1.000TB"),
        ] {
            assert_eq!(show(bytes), expected);
        }
    }
}
