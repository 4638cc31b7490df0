//! Values as Go's `fmt` writes them, because history and listings of images are full of them.

use std::fmt::Write as _;
use std::time::Duration;

use oci::Healthcheck;

/// `%q` of a string.
pub(super) fn quote(text: &str) -> String {
    let mut quoted = String::with_capacity(text.len() + 2);
    quoted.push('"');
    for c in text.chars() {
        match c {
            '"' | '\\' => {
                quoted.push('\\');
                quoted.push(c);
            }
            c => escape(c, &mut quoted),
        }
    }
    quoted.push('"');
    quoted
}

/// `%q` of a list: `["a" "b"]`.
pub(super) fn quote_list(list: &[String]) -> String {
    let quoted: Vec<_> = list.iter().map(|text| quote(text)).collect();
    format!("[{}]", quoted.join(" "))
}

/// `%v` of a list: `[a b]`.
pub(super) fn plain_list(list: &[String]) -> String {
    format!("[{}]", list.join(" "))
}

/// `%q` of a health check: `&{["CMD-SHELL" "true"] "30s" "0s" "0s" "0s" '\x03'}`.
pub(super) fn quote_healthcheck(check: &Healthcheck) -> String {
    let nanos = |value: Option<i64>| {
        let nanos = u64::try_from(value.unwrap_or_default()).unwrap_or_default();
        quote(&duration(Duration::from_nanos(nanos)))
    };
    let retries = u32::try_from(check.retries.unwrap_or_default()).unwrap_or_default();
    format!(
        "&{{{} {} {} {} {} {}}}",
        quote_list(&check.test),
        nanos(check.interval),
        nanos(check.timeout),
        nanos(check.start_period),
        nanos(check.start_interval),
        quote_rune(retries),
    )
}

/// `%q` of a number: the character of that number in single quotes.
fn quote_rune(number: u32) -> String {
    let c = char::from_u32(number).unwrap_or(char::REPLACEMENT_CHARACTER);
    let mut quoted = String::from("'");
    match c {
        '\'' | '\\' => {
            quoted.push('\\');
            quoted.push(c);
        }
        c => escape(c, &mut quoted),
    }
    quoted.push('\'');
    quoted
}

fn escape(c: char, into: &mut String) {
    let number = u32::from(c);
    match c {
        '\u{7}' => into.push_str("\\a"),
        '\u{8}' => into.push_str("\\b"),
        '\u{c}' => into.push_str("\\f"),
        '\n' => into.push_str("\\n"),
        '\r' => into.push_str("\\r"),
        '\t' => into.push_str("\\t"),
        '\u{b}' => into.push_str("\\v"),
        c if number < 0x20 || number == 0x7f => write_hex(into, "\\x", c, 2),
        c if c.is_control() || (c.is_whitespace() && c != ' ') => {
            if number > 0xffff {
                write_hex(into, "\\U", c, 8);
            } else {
                write_hex(into, "\\u", c, 4);
            }
        }
        c => into.push(c),
    }
}

fn write_hex(into: &mut String, prefix: &str, c: char, width: usize) {
    write!(into, "{prefix}{:0width$x}", u32::from(c)).expect("writing to a string never fails");
}

/// A duration: `1h0m0s`, `5m0s`, `1.5s`, `500ms`, `0s`.
pub(super) fn duration(value: Duration) -> String {
    let nanos = value.as_nanos();
    if nanos == 0 {
        return "0s".into();
    }
    for (unit, size) in [("ns", 1), ("µs", 1_000), ("ms", 1_000_000)] {
        if nanos < size * 1000 {
            return format!("{}{unit}", decimal(nanos, size));
        }
    }
    let (minutes, rest) = (nanos / 60_000_000_000, nanos % 60_000_000_000);
    let seconds = decimal(rest, 1_000_000_000);
    match (minutes / 60, minutes % 60) {
        (0, 0) => format!("{seconds}s"),
        (0, minutes) => format!("{minutes}m{seconds}s"),
        (hours, minutes) => format!("{hours}h{minutes}m{seconds}s"),
    }
}

/// `value / unit` without trailing zeros.
fn decimal(value: u128, unit: u128) -> String {
    let (whole, rest) = (value / unit, value % unit);
    if rest == 0 {
        return whole.to_string();
    }
    let width = unit.to_string().len() - 1;
    let fraction = format!("{rest:0width$}");
    format!("{whole}.{}", fraction.trim_end_matches('0'))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations_read_as_go_writes_them() {
        for (nanos, expected) in [
            (0, "0s"),
            (1, "1ns"),
            (1_500, "1.5µs"),
            (500_000_000, "500ms"),
            (1_500_000_000, "1.5s"),
            (300_000_000_000, "5m0s"),
            (3_600_000_000_000, "1h0m0s"),
            (90_500_000_000, "1m30.5s"),
        ] {
            assert_eq!(duration(Duration::from_nanos(nanos)), expected);
        }
    }

    #[test]
    fn lists_and_checks_are_quoted() {
        let list = [
            "/bin/sh".to_owned(),
            "-c".to_owned(),
            "echo \"a\\b\"\n\u{1}ä".to_owned(),
        ];
        assert_eq!(
            quote_list(&list),
            r#"["/bin/sh" "-c" "echo \"a\\b\"\n\x01ä"]"#
        );
        assert_eq!(plain_list(&list[..2]), "[/bin/sh -c]");
        let check = Healthcheck {
            test: vec!["CMD-SHELL".into(), "true".into()],
            interval: Some(30_000_000_000),
            retries: Some(3),
            ..Healthcheck::default()
        };
        assert_eq!(
            quote_healthcheck(&check),
            r#"&{["CMD-SHELL" "true"] "30s" "0s" "0s" "0s" '\x03'}"#
        );
    }
}
