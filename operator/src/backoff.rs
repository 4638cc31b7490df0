//! How long a failing object waits before the next look: doubling, with jitter, for each object alone.

use std::collections::HashMap;
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

/// Wait after the first failure.
const FIRST: Duration = Duration::from_secs(1);
/// Longest wait, so that a cured cause is noticed soon.
const LONGEST: Duration = Duration::from_secs(60);

/// Counts the failures of every object since its last success.
#[derive(Default)]
pub struct Backoff {
    failures: Mutex<HashMap<String, u32>>,
}

impl Backoff {
    /// Counts a failure of `object` and says how long to wait.
    pub fn failed(&self, object: &str) -> Duration {
        let mut failures = self.failures.lock().unwrap_or_else(PoisonError::into_inner);
        let count = failures.entry(object.to_owned()).or_insert(0);
        *count = count.saturating_add(1);
        delay(*count, rand::random())
    }

    /// Forgets the failures of `object`: it succeeded, or is gone.
    pub fn forget(&self, object: &str) {
        self.failures
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .remove(object);
    }
}

/// The wait after `failures` failures (from 1); `chance` in 0..1 spreads it over 80 to 120 percent.
pub fn delay(failures: u32, chance: f64) -> Duration {
    let doubled = FIRST
        .checked_mul(2u32.saturating_pow(failures.saturating_sub(1).min(16)))
        .unwrap_or(LONGEST);
    doubled.min(LONGEST).mul_f64(0.8 + 0.4 * chance)
}

/// `period` spread over 90 to 110 percent, so that objects do not move in step.
pub fn jittered(period: Duration, chance: f64) -> Duration {
    period.mul_f64(0.9 + 0.2 * chance)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn waits_double_up_to_the_longest() {
        for (failures, seconds) in [
            (1, 1),
            (2, 2),
            (3, 4),
            (6, 32),
            (7, 60),
            (40, 60),
            (u32::MAX, 60),
        ] {
            assert_eq!(
                delay(failures, 0.5),
                Duration::from_secs(seconds),
                "{failures}"
            );
        }
        assert!(delay(7, 1.0) <= Duration::from_secs(72));
        assert!(delay(1, 0.0) >= Duration::from_millis(800));
    }

    #[test]
    fn objects_are_counted_alone_and_forgotten() {
        let backoff = Backoff::default();
        backoff.failed("a");
        backoff.failed("a");
        assert!(backoff.failed("a") > Duration::from_secs(3));
        assert!(backoff.failed("b") < Duration::from_secs(2));
        backoff.forget("a");
        assert!(backoff.failed("a") < Duration::from_secs(2));
    }
}
