//! How long this process may write: as long as the lease that it holds was renewed recently enough. The leader election
//! moves it, every write asks it. It knows no API server.
//!
//! A process that was paused (SIGSTOP, a frozen virtual machine) wakes in the middle of a reconcile, before the task that
//! renews the lease notices anything. Its next write is refused here, not sent.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, SystemTime};

use tokio::time::Instant;

use crate::error::{Error, Result};

/// The right to write, shared by the leader election and all writers.
#[derive(Clone, Debug)]
pub struct Tenure(Option<Arc<Lease>>);

#[derive(Debug)]
struct Lease {
    /// Writes end this long after the last renewal.
    limit: Duration,
    renewed: Mutex<Option<Moment>>,
}

/// One moment by two clocks: the steady one stands still while the machine sleeps, the other one can be set.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Moment {
    steady: Instant,
    wall: SystemTime,
}

impl Moment {
    /// The present moment.
    pub(crate) fn now() -> Self {
        Self {
            steady: Instant::now(),
            wall: SystemTime::now(),
        }
    }

    /// The time since `self` by the steady clock.
    fn age(self, now: Self) -> Duration {
        now.steady.saturating_duration_since(self.steady)
    }

    /// The longer of the two times since `self`.
    fn longest_age(self, now: Self) -> Duration {
        let wall = now.wall.duration_since(self.wall).unwrap_or_default();
        self.age(now).max(wall)
    }
}

impl Tenure {
    /// The right of a process that needs no lease.
    pub const fn unlimited() -> Self {
        Self(None)
    }

    /// A right that ends `limit` after each renewal; there was none yet.
    pub fn limited(limit: Duration) -> Self {
        let renewed = Mutex::new(None);
        Self(Some(Arc::new(Lease { limit, renewed })))
    }

    /// The lease was renewed by a request that was sent at `began`: it may be as old as that.
    pub(crate) fn renewed(&self, began: Moment) {
        self.set(Some(began));
    }

    /// Ends the right: the lease is given away or lost.
    pub(crate) fn end(&self) {
        self.set(None);
    }

    fn set(&self, moment: Option<Moment>) {
        if let Some(lease) = &self.0 {
            *lease.renewed.lock().unwrap_or_else(PoisonError::into_inner) = moment;
        }
    }

    /// How much time is left for a renewal, by the steady clock; zero when the right has ended.
    pub(crate) fn left(&self) -> Duration {
        self.left_by(Moment::age)
    }

    fn left_by(&self, age: impl Fn(Moment, Moment) -> Duration) -> Duration {
        let Some(lease) = &self.0 else {
            return Duration::MAX;
        };
        let renewed = *lease.renewed.lock().unwrap_or_else(PoisonError::into_inner);
        renewed.map_or(Duration::ZERO, |renewed| {
            lease.limit.saturating_sub(age(renewed, Moment::now()))
        })
    }

    /// Whether a write may be sent now. The longer time counts here: writes rest until the next renewal when the machine slept,
    /// and also when its clock was set ahead, which costs no more than that.
    ///
    /// # Errors
    /// The lease was not renewed in time: another operator may lead.
    pub fn check(&self) -> Result<()> {
        if self.left_by(Moment::longest_age).is_zero() {
            return Err(Error::LeaseExpired);
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn the_right_ends_after_its_limit_and_comes_back_with_a_renewal() {
        let tenure = Tenure::limited(Duration::from_secs(10));
        assert!(tenure.check().is_err(), "nothing was renewed yet");
        tenure.renewed(Moment::now());
        assert!(tenure.check().is_ok());
        tokio::time::advance(Duration::from_secs(9)).await;
        assert!(tenure.check().is_ok());
        tokio::time::advance(Duration::from_secs(1)).await;
        assert!(tenure.check().is_err());
        tenure.renewed(Moment::now());
        assert!(tenure.check().is_ok());
        tenure.end();
        assert!(tenure.check().is_err());
        assert!(Tenure::unlimited().check().is_ok());
    }

    #[tokio::test(start_paused = true)]
    async fn a_renewal_counts_from_when_it_was_sent() {
        let tenure = Tenure::limited(Duration::from_secs(10));
        let began = Moment::now();
        tokio::time::advance(Duration::from_secs(4)).await;
        tenure.renewed(began);
        assert!(tenure.left() <= Duration::from_secs(6));
    }

    #[tokio::test(start_paused = true)]
    async fn after_a_sleep_of_the_machine_writes_wait_for_a_renewal() {
        let tenure = Tenure::limited(Duration::from_secs(10));
        let slept = Moment {
            wall: SystemTime::now() - Duration::from_secs(3600),
            ..Moment::now()
        };
        tenure.renewed(slept);
        assert!(tenure.check().is_err());
        assert!(!tenure.left().is_zero(), "it may still renew the lease");
        tenure.renewed(Moment::now());
        assert!(tenure.check().is_ok());
        let set_back = Moment {
            wall: SystemTime::now() + Duration::from_secs(3600),
            ..Moment::now()
        };
        tenure.renewed(set_back);
        assert!(
            tenure.check().is_ok(),
            "a clock that was set back counts for nothing"
        );
    }
}
