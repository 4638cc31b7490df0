//! The text forms inside a mount: its CSV fields, and sizes in bytes.

use super::MountError;

/// Cuts one CSV record into `key` or `key=value` fields.
pub(super) fn fields(text: &str) -> Result<Vec<(String, Option<String>)>, MountError> {
    let mut fields = vec![String::new()];
    let mut chars = text.chars().peekable();
    let mut at_start = true;
    while let Some(c) = chars.next() {
        match c {
            ',' => {
                fields.push(String::new());
                at_start = true;
                continue;
            }
            '"' if at_start => loop {
                match chars.next() {
                    Some('"') if chars.peek() == Some(&'"') => {
                        chars.next();
                        fields.last_mut().ok_or(MountError::Csv)?.push('"');
                    }
                    Some('"') if matches!(chars.peek(), None | Some(',')) => break,
                    None | Some('"') => return Err(MountError::Csv),
                    Some(c) => fields.last_mut().ok_or(MountError::Csv)?.push(c),
                }
            },
            '"' => return Err(MountError::Csv),
            c => fields.last_mut().ok_or(MountError::Csv)?.push(c),
        }
        at_start = false;
    }
    Ok(fields
        .into_iter()
        .map(|field| match field.split_once('=') {
            Some((key, value)) => (key.to_lowercase(), Some(value.to_owned())),
            None => (field.to_lowercase(), None),
        })
        .collect())
}

/// A number of bytes with an optional binary unit: `64m`, `1.5GiB`, `512 kb`.
pub fn parse_size(text: &str) -> Option<u64> {
    let digits = text.len()
        - text
            .trim_start_matches(|c: char| c.is_ascii_digit() || c == '.')
            .len();
    let (number, unit) = text.split_at(digits);
    let shift = match unit.trim_start().to_lowercase().as_str() {
        "" | "b" => 0,
        "k" | "kb" | "kib" => 10,
        "m" | "mb" | "mib" => 20,
        "g" | "gb" | "gib" => 30,
        "t" | "tb" | "tib" => 40,
        "p" | "pb" | "pib" => 50,
        _ => return None,
    };
    let (whole, fraction) = number.split_once('.').unwrap_or((number, ""));
    let whole: u64 = whole.parse().ok()?;
    let mut bytes = u128::from(whole) << shift;
    let mut worth = 1_u128 << shift;
    for digit in fraction.chars() {
        // Ten digits are more than any unit can show.
        worth = worth * 1000 / 10;
        bytes += u128::from(digit.to_digit(10)?) * worth / 1000;
        worth /= 1000;
    }
    u64::try_from(bytes).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes() {
        for (text, expected) in [
            ("0", Some(0)),
            ("10", Some(10)),
            ("10b", Some(10)),
            ("1k", Some(1024)),
            ("1KB", Some(1024)),
            ("64 MiB", Some(64 << 20)),
            ("0.5k", Some(512)),
            ("1p", Some(1 << 50)),
            ("", None),
            ("k", None),
            ("1x", None),
            ("1.2.3k", None),
            ("-1", None),
        ] {
            assert_eq!(parse_size(text), expected, "{text}");
        }
    }
}
