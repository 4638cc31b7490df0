//! One budget for questions to each registry that no person waits for: however many resources poll a host, it is asked
//! no more often than this. Who gets no answer keeps what was known and asks later.

use std::collections::HashMap;
use std::sync::{Mutex, PoisonError};
use std::time::Instant;

use oci::RegistryHost;

/// Questions that may be asked at once after a time of rest.
const BURST: f64 = 120.0;
/// Questions a second in the long run.
const RATE: f64 = 4.0;

/// What is left of each host's budget.
#[derive(Default)]
pub struct Budget {
    hosts: Mutex<HashMap<RegistryHost, (f64, Instant)>>,
}

impl Budget {
    /// Whether `host` may be asked now; the question is then counted.
    pub fn spend(&self, host: &RegistryHost) -> bool {
        self.spend_at(host, Instant::now())
    }

    fn spend_at(&self, host: &RegistryHost, now: Instant) -> bool {
        let mut hosts = self.hosts.lock().unwrap_or_else(PoisonError::into_inner);
        if !hosts.contains_key(host) {
            // A host whose budget is whole again is as one that was never asked.
            hosts.retain(|_, known| refilled(*known, now) < BURST);
        }
        let known = hosts.entry(host.clone()).or_insert((BURST, now));
        let left = refilled(*known, now);
        let may = left >= 1.0;
        *known = (if may { left - 1.0 } else { left }, now);
        may
    }
}

/// What is left at `now` of what was left before.
fn refilled((left, since): (f64, Instant), now: Instant) -> f64 {
    let rested = now.saturating_duration_since(since).as_secs_f64();
    rested.mul_add(RATE, left).min(BURST)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "tests")]
    use super::*;
    use std::time::Duration;

    #[test]
    fn a_burst_then_a_rate_for_each_host() {
        let budget = Budget::default();
        let (one, other): (RegistryHost, RegistryHost) = (
            "one.example.com".parse().unwrap(),
            "other.example.com".parse().unwrap(),
        );
        let start = Instant::now();
        let asked = |host, at| (0..1000).filter(|_| budget.spend_at(host, at)).count();
        assert_eq!(asked(&one, start), 120);
        assert_eq!(asked(&one, start + Duration::from_secs(10)), 40);
        assert_eq!(asked(&other, start + Duration::from_secs(10)), 120);
        assert_eq!(asked(&one, start + Duration::from_secs(3600)), 120);
    }
}
