//! What all work on one host shares, whoever does it: the pause that a server asked for, the budget that it announces in
//! its headers, and the limits that we keep of our own accord.

use std::{
    collections::HashMap,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use http::HeaderMap;
use jiff::Timestamp;
use oci::RegistryHost;
use tokio::{
    sync::{OwnedSemaphorePermit, Semaphore},
    time::Instant,
};

/// How long to keep away from a server that has no budget left and does not say for how long.
const UNKNOWN_WAIT: Duration = Duration::from_secs(60);
/// The longest window or time to a reset that is believed.
const LONGEST: Duration = Duration::from_secs(24 * 60 * 60);

/// What we keep to on each host, whatever it allows. Default: no limits.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct HostLimits {
    /// Requests that wait for the headers of their answer at the same time; 0 for any number. Streams do not
    /// count, so that a copy within one registry cannot wait for itself.
    pub concurrency: usize,
    /// The time between the beginnings of two requests.
    pub interval: Duration,
    /// Requests of a server's budget that are left for others: pulls of manifests stop here.
    pub reserve: u64,
}

/// What a server says it still allows (`RateLimit-Limit`, `-Remaining` and `-Reset`, the `RateLimit` field of the IETF
/// draft, or their `X-` forms).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Budget {
    /// Requests in each window.
    pub limit: Option<u64>,
    /// Requests that are left.
    pub remaining: u64,
    /// The window.
    pub window: Option<Duration>,
    /// The time until the budget is whole again, from the answer on.
    pub reset: Option<Duration>,
}

/// The hosts that were spoken to.
#[derive(Default)]
pub(crate) struct Traffic {
    limits: HostLimits,
    hosts: Mutex<HashMap<RegistryHost, Arc<HostTraffic>>>,
}

/// One host.
pub(crate) struct HostTraffic {
    pub(crate) pause: Pause,
    limits: HostLimits,
    gate: Option<Arc<Semaphore>>,
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    /// The last budget, and when it was told.
    budget: Option<(Budget, Instant)>,
    /// When the next request may begin.
    next: Option<Instant>,
}

impl Traffic {
    pub(crate) fn new(limits: HostLimits) -> Self {
        Self {
            limits,
            hosts: Mutex::default(),
        }
    }

    pub(crate) fn of(&self, host: &RegistryHost) -> Arc<HostTraffic> {
        let mut hosts = lock(&self.hosts);
        let traffic = hosts.entry(host.clone()).or_insert_with(|| {
            Arc::new(HostTraffic {
                pause: Pause::default(),
                limits: self.limits,
                gate: (self.limits.concurrency > 0)
                    .then(|| Arc::new(Semaphore::new(self.limits.concurrency))),
                state: Mutex::default(),
            })
        });
        traffic.clone()
    }
}

impl HostTraffic {
    /// Waits until one more request may begin. What comes back is held until its answer begins.
    pub(crate) async fn enter(&self) -> Option<OwnedSemaphorePermit> {
        let permit = match &self.gate {
            // It is never closed.
            Some(gate) => gate.clone().acquire_owned().await.ok(),
            None => None,
        };
        if !self.limits.interval.is_zero() {
            let slot = {
                let mut state = lock(&self.state);
                let now = Instant::now();
                let slot = state.next.map_or(now, |next| next.max(now));
                state.next = Some(slot + self.limits.interval);
                slot
            };
            tokio::time::sleep_until(slot).await;
        }
        permit
    }

    /// Takes one request from the server's budget.
    ///
    /// # Errors
    /// How long to wait where nothing is left. Then, one request is let through to see.
    pub(crate) fn take(&self) -> Result<(), Duration> {
        let mut state = lock(&self.state);
        let Some((budget, told)) = &mut state.budget else {
            return Ok(());
        };
        if budget.remaining > self.limits.reserve {
            budget.remaining -= 1;
            return Ok(());
        }
        let now = Instant::now();
        let passed = now.saturating_duration_since(*told);
        if let Some(reset) = budget.reset {
            if passed < reset {
                return Err(reset.saturating_sub(passed));
            }
            state.budget = None;
            return Ok(());
        }
        let wait = budget.time_of_one();
        if passed < wait {
            return Err(wait.saturating_sub(passed));
        }
        *told = now;
        Ok(())
    }

    /// Notes what the headers of an answer say.
    pub(crate) fn learn(&self, headers: &HeaderMap) {
        if let Some(budget) = budget_of(headers, Timestamp::now()) {
            lock(&self.state).budget = Some((budget, Instant::now()));
        }
    }

    /// The budget that was told last.
    pub(crate) fn budget(&self) -> Option<Budget> {
        lock(&self.state).budget.map(|(budget, _)| budget)
    }
}

impl Budget {
    /// How long it takes a sliding window to give one request back.
    fn time_of_one(&self) -> Duration {
        match (self.window, self.limit) {
            (Some(window), Some(limit)) => {
                let limit = u32::try_from(limit.max(1)).unwrap_or(u32::MAX);
                (window / limit).max(Duration::from_secs(1))
            }
            (Some(window), None) => window.max(Duration::from_secs(1)),
            _ => UNKNOWN_WAIT,
        }
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// The budget that headers tell, if they tell what remains.
fn budget_of(headers: &HeaderMap, now: Timestamp) -> Option<Budget> {
    let text = |name: &str| headers.get(name)?.to_str().ok().map(str::trim);
    let either = |name: &str| text(name).or_else(|| text(&format!("x-{name}")));
    // The draft: `RateLimit: "default";r=50;t=30`, `RateLimit-Policy: "default";q=100;w=10`.
    if let Some(item) = text("ratelimit") {
        let policy = text("ratelimit-policy").unwrap_or_default();
        if let Some(remaining) = parameter(item, "r") {
            return Some(Budget {
                limit: parameter(policy, "q"),
                remaining,
                window: parameter(policy, "w").map(seconds),
                reset: parameter(item, "t").map(seconds),
            });
        }
    }
    let remaining = either("ratelimit-remaining")?;
    let limit = either("ratelimit-limit").unwrap_or_default();
    let reset = either("ratelimit-reset").and_then(|reset| reset.parse::<u64>().ok());
    Some(Budget {
        limit: leading(limit),
        remaining: leading(remaining)?,
        // Docker Hub: `20;w=21600`.
        window: parameter(remaining, "w")
            .or_else(|| parameter(limit, "w"))
            .map(seconds),
        // Seconds from now, or since 1970 (GitLab).
        reset: reset.map(|reset| {
            let now = u64::try_from(now.as_second()).unwrap_or(0);
            seconds(if reset > 1_000_000_000 {
                reset.saturating_sub(now)
            } else {
                reset
            })
        }),
    })
}

fn seconds(seconds: u64) -> Duration {
    Duration::from_secs(seconds).min(LONGEST)
}

/// The number at the beginning of `20;w=21600`.
fn leading(text: &str) -> Option<u64> {
    text.split([';', ',']).next()?.trim().parse().ok()
}

/// The value of the parameter `name` of the first item.
fn parameter(text: &str, name: &str) -> Option<u64> {
    let first = text.split(',').next()?;
    first.split(';').skip(1).find_map(|parameter| {
        let (key, value) = parameter.split_once('=')?;
        (key.trim() == name).then(|| value.trim().parse().ok())?
    })
}

/// Until when requests to one host pause, because one of them was told to slow down.
#[derive(Debug, Default)]
pub(crate) struct Pause(Mutex<Option<Instant>>);

impl Pause {
    /// Lets all further requests wait for `duration`.
    pub(crate) fn extend(&self, duration: Duration) {
        let until = Instant::now() + duration;
        let mut pause = lock(&self.0);
        *pause = Some(pause.map_or(until, |old| old.max(until)));
    }

    /// Returns when no pause is left.
    pub(crate) async fn wait(&self) {
        loop {
            let until = *lock(&self.0);
            match until {
                Some(until) if until > Instant::now() => tokio::time::sleep_until(until).await,
                _ => return,
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn budget(headers: &[(&'static str, &str)]) -> Option<Budget> {
        let headers = headers.iter().map(|(name, value)| {
            let name = http::HeaderName::from_static(name);
            (name, value.parse().unwrap())
        });
        budget_of(
            &headers.collect(),
            Timestamp::from_second(2_000_000_000).unwrap(),
        )
    }

    #[test]
    fn budgets_are_read_in_all_their_forms() {
        let told = |limit, remaining, window: Option<u64>, reset: Option<u64>| {
            Some(Budget {
                limit,
                remaining,
                window: window.map(Duration::from_secs),
                reset: reset.map(Duration::from_secs),
            })
        };
        for (headers, expected) in [
            (
                &[
                    ("ratelimit-limit", "100;w=21600"),
                    ("ratelimit-remaining", "76;w=21600"),
                ] as &[_],
                told(Some(100), 76, Some(21_600), None),
            ),
            (
                &[("ratelimit-remaining", "0"), ("ratelimit-reset", "30")],
                told(None, 0, None, Some(30)),
            ),
            (
                &[
                    ("x-ratelimit-limit", "60"),
                    ("x-ratelimit-remaining", "59"),
                    ("x-ratelimit-reset", "2000000045"),
                ],
                told(Some(60), 59, None, Some(45)),
            ),
            (
                &[
                    ("ratelimit", r#""default";r=50;t=30"#),
                    ("ratelimit-policy", r#""default";q=100;w=10"#),
                ],
                told(Some(100), 50, Some(10), Some(30)),
            ),
            (&[("ratelimit-limit", "100")], None),
            (&[("ratelimit-remaining", "many")], None),
            (&[("ratelimit-remaining", "-1")], None),
            (
                &[("ratelimit-remaining", "5;w=99999999999999")],
                told(None, 5, Some(86_400), None),
            ),
            (&[], None),
        ] {
            assert_eq!(budget(headers), expected, "{headers:?}");
        }
    }

    fn host(limits: HostLimits) -> Arc<HostTraffic> {
        Traffic::new(limits).of(&"h.io".parse().unwrap())
    }

    fn learn(host: &HostTraffic, headers: &[(&'static str, &str)]) {
        lock(&host.state).budget = budget(headers).map(|budget| (budget, Instant::now()));
    }

    #[tokio::test(start_paused = true)]
    async fn a_budget_is_spent_and_waited_for() {
        let host = host(HostLimits {
            reserve: 1,
            ..HostLimits::default()
        });
        assert_eq!(host.take(), Ok(()));
        learn(
            &host,
            &[("ratelimit-remaining", "3"), ("ratelimit-reset", "30")],
        );
        assert_eq!((host.take(), host.take()), (Ok(()), Ok(())));
        assert_eq!(host.take(), Err(Duration::from_secs(30)));
        tokio::time::advance(Duration::from_secs(10)).await;
        assert_eq!(host.take(), Err(Duration::from_secs(20)));
        tokio::time::advance(Duration::from_secs(20)).await;
        assert_eq!((host.take(), host.take()), (Ok(()), Ok(())));
        // A sliding window gives one back at a time.
        learn(
            &host,
            &[
                ("ratelimit-limit", "100;w=21600"),
                ("ratelimit-remaining", "0;w=21600"),
            ],
        );
        assert_eq!(host.take(), Err(Duration::from_secs(216)));
        tokio::time::advance(Duration::from_secs(216)).await;
        assert_eq!(host.take(), Ok(()));
        assert_eq!(host.take(), Err(Duration::from_secs(216)));
        // A HEAD, which is free, tells that there is more again.
        learn(&host, &[("ratelimit-remaining", "9;w=21600")]);
        assert_eq!(host.take(), Ok(()));
        assert_eq!(host.budget().unwrap().remaining, 8);
    }

    #[tokio::test(start_paused = true)]
    async fn requests_keep_their_distance_and_their_number() {
        let host = host(HostLimits {
            concurrency: 2,
            interval: Duration::from_secs(1),
            reserve: 0,
        });
        let begun = Instant::now();
        let (first, second) = tokio::join!(host.enter(), host.enter());
        assert_eq!(begun.elapsed(), Duration::from_secs(1));
        let mut third = Box::pin(host.enter());
        assert!(futures::poll!(&mut third).is_pending());
        drop(first);
        assert!(third.await.is_some());
        assert_eq!(begun.elapsed(), Duration::from_secs(2));
        drop(second);
    }

    #[tokio::test(start_paused = true)]
    async fn a_pause_is_shared_and_the_longest_counts() {
        let pause = Pause::default();
        let start = Instant::now();
        pause.extend(Duration::from_secs(5));
        pause.extend(Duration::from_secs(2));
        tokio::join!(pause.wait(), pause.wait());
        assert_eq!(start.elapsed(), Duration::from_secs(5));
    }
}
