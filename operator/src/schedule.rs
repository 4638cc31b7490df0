//! Times at which a build starts though nothing changed, or a mirror is looked at: five fields of cron, in UTC. Pure: the
//! time comes in.

use std::fmt;
use std::str::FromStr;
use std::sync::Arc;

use croner::Cron;
use croner::parser::{CronParser, Seconds, Year};
use jiff::Timestamp;
use jiff::tz::TimeZone;

/// A schedule that has a next time.
#[derive(Clone, PartialEq, Eq)]
pub struct Schedule(Arc<Cron>);

impl fmt::Debug for Schedule {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Schedule({})", self.0.as_str())
    }
}

impl FromStr for Schedule {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        // Nicknames (@daily) are of other crons.
        if text.split_whitespace().count() != 5 {
            return Err("it must have five fields".to_owned());
        }
        let parser = CronParser::builder()
            .seconds(Seconds::Disallowed)
            .year(Year::Disallowed)
            .build();
        let cron = parser.parse(text).map_err(|error| error.to_string())?;
        let schedule = Self(Arc::new(cron));
        // The 31st of February is a valid pattern that never comes.
        match schedule.next(Timestamp::UNIX_EPOCH) {
            Some(_) => Ok(schedule),
            None => Err("such a time never comes".to_owned()),
        }
    }
}

impl Schedule {
    /// The last time that is not after `now`.
    pub fn last(&self, now: Timestamp) -> Option<Timestamp> {
        let found = self
            .0
            .find_previous_occurrence(&now.to_zoned(TimeZone::UTC), true);
        found.ok().map(|time| time.timestamp())
    }

    /// The first time after `now`.
    pub fn next(&self, now: Timestamp) -> Option<Timestamp> {
        let found = self
            .0
            .find_next_occurrence(&now.to_zoned(TimeZone::UTC), false);
        found.ok().map(|time| time.timestamp())
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "tests")]
    use super::*;

    #[test]
    fn times_before_and_after() {
        for (text, now, last, next) in [
            // A Saturday.
            (
                "0 4 * * 0",
                "2026-11-21T14:00:00Z",
                "2026-11-15T04:00:00Z",
                "2026-11-22T04:00:00Z",
            ),
            (
                "*/15 * * * *",
                "2026-11-21T14:30:00Z",
                "2026-11-21T14:30:00Z",
                "2026-11-21T14:45:00Z",
            ),
            (
                "30 3 1 JAN *",
                "2026-01-01T03:29:59Z",
                "2025-01-01T03:30:00Z",
                "2026-01-01T03:30:00Z",
            ),
            // Day of month or day of week, as cron has it.
            (
                "0 0 13 * 5",
                "2026-11-14T00:00:00Z",
                "2026-11-13T00:00:00Z",
                "2026-11-20T00:00:00Z",
            ),
        ] {
            let schedule: Schedule = text.parse().unwrap();
            let now: Timestamp = now.parse().unwrap();
            assert_eq!(schedule.last(now).unwrap().to_string(), last, "{text}");
            assert_eq!(schedule.next(now).unwrap().to_string(), next, "{text}");
        }
    }

    #[test]
    fn what_is_no_schedule_is_refused() {
        for text in [
            "",
            "* * * *",
            "0 0 4 * * 0",
            "60 * * * *",
            "0 25 * * *",
            "0 0 31 2 *",
            "a b c d e",
        ] {
            assert!(text.parse::<Schedule>().is_err(), "{text}");
        }
    }
}
