//! Quantities of Kubernetes (`50Gi`) as bytes. Pure.

/// The bytes of a quantity of Kubernetes, rounded down; none where it is none, or has an exponent or fractions of bytes only.
pub fn bytes(quantity: &str) -> Option<u64> {
    let end = quantity.find(|c: char| !c.is_ascii_digit() && c != '.');
    let (number, suffix) = quantity.split_at(end.unwrap_or(quantity.len()));
    let power = |base: u128, exponent| base.checked_pow(exponent);
    let factor = match suffix {
        "" => Some(1),
        "k" => power(1000, 1),
        "M" => power(1000, 2),
        "G" => power(1000, 3),
        "T" => power(1000, 4),
        "P" => power(1000, 5),
        "E" => power(1000, 6),
        "Ki" => power(1024, 1),
        "Mi" => power(1024, 2),
        "Gi" => power(1024, 3),
        "Ti" => power(1024, 4),
        "Pi" => power(1024, 5),
        "Ei" => power(1024, 6),
        _ => None,
    }?;
    let (whole, fraction) = number.split_once('.').unwrap_or((number, ""));
    let digits = u32::try_from(fraction.len()).ok().filter(|n| *n <= 9)?;
    let all: u128 = format!("{whole}{fraction}").parse().ok()?;
    let scaled = all.checked_mul(factor)? / power(10, digits)?;
    u64::try_from(scaled).ok().filter(|bytes| *bytes > 0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn quantities_are_bytes() {
        for (text, expected) in [
            ("64Ki", Some(65_536)),
            ("50M", Some(50_000_000)),
            ("1.5Gi", Some(1_610_612_736)),
            ("0.5", None),
            ("0", None),
            ("1e3", None),
            ("Mi", None),
            ("-1Mi", None),
            ("16Ei", None),
        ] {
            assert_eq!(bytes(text), expected, "{text}");
        }
    }
}
