//! When the source of a mirror is looked at: at an interval, or at the times of a schedule. Pure: the time comes in.

use std::time::Duration;

use jiff::Timestamp;

use crate::schedule::Schedule;

/// A schedule whose next time cannot be said is asked again after this time.
const UNKNOWN: Duration = Duration::from_secs(3600);

/// When the source is looked at.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Cadence {
    /// Again this long after a round of looks began.
    Every(Duration),
    /// At these times.
    At(Schedule),
}

impl Cadence {
    /// The time of the schedule that a look at `now` is for; none where there is no schedule.
    pub fn slot(&self, now: Timestamp) -> Option<Timestamp> {
        match self {
            Self::Every(_) => None,
            Self::At(schedule) => schedule.last(now),
        }
    }

    /// The next time of the schedule; none where there is no schedule.
    pub fn next_slot(&self, now: Timestamp) -> Option<Timestamp> {
        match self {
            Self::Every(_) => None,
            Self::At(schedule) => schedule.next(now),
        }
    }

    /// How long after `now` is looked again, where a round began now.
    pub fn wait(&self, now: Timestamp) -> Duration {
        match self {
            Self::Every(interval) => *interval,
            Self::At(_) => self
                .next_slot(now)
                .and_then(|next| Duration::try_from(next.duration_since(now)).ok())
                .unwrap_or(UNKNOWN),
        }
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "tests")]
    use super::*;

    #[test]
    fn an_interval_has_no_slots_and_a_schedule_has() {
        let now: Timestamp = "2026-11-21T14:30:30Z".parse().unwrap();
        let every = Cadence::Every(Duration::from_secs(900));
        assert_eq!((every.slot(now), every.next_slot(now)), (None, None));
        assert_eq!(every.wait(now), Duration::from_secs(900));
        let at = Cadence::At("*/15 * * * *".parse().unwrap());
        assert_eq!(at.slot(now).unwrap().to_string(), "2026-11-21T14:30:00Z");
        assert_eq!(at.wait(now), Duration::from_secs(870));
        let sharp: Timestamp = "2026-11-21T14:45:00Z".parse().unwrap();
        assert_eq!(at.next_slot(now), Some(sharp));
        // The time itself belongs to the round that begins then.
        assert_eq!(at.slot(sharp), Some(sharp));
        assert_eq!(at.wait(sharp), Duration::from_secs(900));
    }
}
