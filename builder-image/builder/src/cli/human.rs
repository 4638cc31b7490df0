//! Sizes, ages and tables as docker shows them to people. Pure.

use jiff::{SignedDuration, Timestamp};

/// A size in powers of ten, with three digits: `872kB`, `4.41MB`, `133MB`.
pub(super) fn size(bytes: u64) -> String {
    #[expect(clippy::cast_precision_loss, reason = "three digits are shown")]
    let mut number = bytes as f64;
    let mut units = ["B", "kB", "MB", "GB", "TB", "PB"].into_iter().peekable();
    let mut unit = units.next().unwrap_or_default();
    // What would be rounded to a thousand is one of the next unit.
    while number >= 999.5 && units.peek().is_some() {
        number /= 1000.0;
        unit = units.next().unwrap_or_default();
    }
    let decimals = match number {
        n if n < 9.995 => 2,
        n if n < 99.95 => 1,
        _ => 0,
    };
    let text = format!("{number:.decimals$}");
    let text = if text.contains('.') {
        text.trim_end_matches('0').trim_end_matches('.')
    } else {
        &text
    };
    format!("{text}{unit}")
}

/// How long ago something was: `6 hours ago`.
pub(super) fn ago(then: Timestamp, now: Timestamp) -> String {
    format!("{} ago", duration(now.duration_since(then)))
}

fn duration(duration: SignedDuration) -> String {
    let seconds = duration.as_secs().max(0);
    let minutes = seconds / 60;
    let hours = (seconds + 1800) / 3600;
    match () {
        () if seconds < 1 => "Less than a second".into(),
        () if seconds == 1 => "1 second".into(),
        () if seconds < 60 => format!("{seconds} seconds"),
        () if minutes == 1 => "About a minute".into(),
        () if minutes < 60 => format!("{minutes} minutes"),
        () if hours == 1 => "About an hour".into(),
        () if hours < 48 => format!("{hours} hours"),
        () if hours < 24 * 7 * 2 => format!("{} days", hours / 24),
        () if hours < 24 * 30 * 2 => format!("{} weeks", hours / 24 / 7),
        () if hours < 24 * 365 * 2 => format!("{} months", hours / 24 / 30),
        () => format!("{} years", seconds / 3600 / 24 / 365),
    }
}

/// A moment as docker writes it: `2021-06-01 00:00:00 +0000 UTC`.
pub(super) fn moment(moment: Timestamp) -> String {
    moment.strftime("%Y-%m-%d %H:%M:%S +0000 UTC").to_string()
}

/// Lines whose cells are separated by tabs, with their columns under each other; a column has at least `least` characters,
/// the three between columns included. What follows the last tab of a line is not padded.
pub(super) fn columns(lines: &[String], least: usize) -> String {
    let rows: Vec<Vec<&str>> = lines
        .iter()
        .map(|line| line.split('\t').collect())
        .collect();
    let count = rows.iter().map(Vec::len).max().unwrap_or_default();
    let width = |column: usize| {
        let cells = rows.iter().filter(|row| column + 1 < row.len());
        let widest = cells.map(|row| row[column].chars().count()).max();
        (widest.unwrap_or_default() + 3).max(least)
    };
    let widths: Vec<_> = (0..count).map(width).collect();
    let mut text = String::new();
    for row in rows {
        for (column, cell) in row.iter().enumerate() {
            text.push_str(cell);
            if column + 1 < row.len() {
                let padding = widths[column].saturating_sub(cell.chars().count());
                text.extend(std::iter::repeat_n(' ', padding));
            }
        }
        text.push('\n');
    }
    text
}

/// At most `most` characters, the last of which says that there were more.
pub(super) fn clipped(text: &str, most: usize) -> String {
    if text.chars().count() <= most {
        return text.to_owned();
    }
    let mut clipped: String = text.chars().take(most - 1).collect();
    clipped.push('…');
    clipped
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_have_three_digits() {
        for (bytes, expected) in [
            (0, "0B"),
            (7, "7B"),
            (999, "999B"),
            (1000, "1kB"),
            (4_410_000, "4.41MB"),
            (4_400_000, "4.4MB"),
            (64_830_000, "64.8MB"),
            (133_400_000, "133MB"),
            (872_123, "872kB"),
            (999_499, "999kB"),
            (999_600, "1MB"),
            (9_996_000, "10MB"),
            (1_500_000_000_000, "1.5TB"),
        ] {
            assert_eq!(size(bytes), expected, "{bytes}");
        }
    }

    #[test]
    fn ages_are_rounded_as_docker_does() {
        const HOUR: i64 = 3600;
        const DAY: i64 = 24 * HOUR;
        for (seconds, expected) in [
            (-5, "Less than a second ago"),
            (1, "1 second ago"),
            (59, "59 seconds ago"),
            (60, "About a minute ago"),
            (40 * 60, "40 minutes ago"),
            (HOUR, "About an hour ago"),
            (6 * HOUR, "6 hours ago"),
            (47 * HOUR, "47 hours ago"),
            (10 * DAY, "10 days ago"),
            (21 * DAY, "3 weeks ago"),
            (90 * DAY, "3 months ago"),
            (800 * DAY, "2 years ago"),
        ] {
            let then = Timestamp::from_second(1_700_000_000).unwrap_or_default();
            let now = then + SignedDuration::from_secs(seconds);
            assert_eq!(ago(then, now), expected);
        }
    }

    #[test]
    fn columns_stand_under_each_other() {
        let lines = [
            "REPOSITORY\tTAG\tSIZE",
            "quay.io/bitnami/nginx\tlatest\t89.3MB",
        ];
        assert_eq!(
            columns(&lines.map(Into::into), 10),
            "REPOSITORY              TAG       SIZE\nquay.io/bitnami/nginx   latest    89.3MB\n"
        );
        let lines = ["NAME\tSTARS\tOFFICIAL", "nginx\t9179\t[OK]"];
        assert_eq!(
            columns(&lines.map(Into::into), 0),
            "NAME    STARS   OFFICIAL\nnginx   9179    [OK]\n"
        );
    }
}
