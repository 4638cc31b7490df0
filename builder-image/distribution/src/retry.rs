//! How often and how patiently failures are tried again, and the reading of `Retry-After`. What is worth another attempt
//! is decided in `classify`, what all work on one host shares is in `traffic`.

use std::time::Duration;

use http::{HeaderMap, StatusCode, header};
use jiff::Timestamp;

use crate::{
    Error,
    classify::{Again, is_outage},
};

/// How often and how patiently failures that may pass are tried again.
#[derive(Debug, Clone, PartialEq)]
pub struct RetryPolicy {
    /// Attempts in all; 1 never retries.
    pub attempts: u32,
    /// The pause after the first failure; it doubles with each further one, with jitter.
    pub base: Duration,
    /// The longest pause of our own choice.
    pub max: Duration,
    /// The longest `Retry-After` that is waited for; a server that asks for more gets no further request now.
    pub max_retry_after: Duration,
}

impl Default for RetryPolicy {
    fn default() -> Self {
        Self {
            attempts: 5,
            base: Duration::from_millis(500),
            max: Duration::from_secs(10),
            max_retry_after: Duration::from_secs(60),
        }
    }
}

/// What to do after a failure.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Verdict {
    Retry(Duration),
    GiveUp,
}

impl RetryPolicy {
    /// Never tries again.
    pub const fn never() -> Self {
        Self {
            attempts: 1,
            base: Duration::ZERO,
            max: Duration::ZERO,
            max_retry_after: Duration::ZERO,
        }
    }

    /// What to do after `error` in attempt number `attempt`, counted from 0.
    pub(crate) fn verdict(&self, error: &Error, attempt: u32) -> Verdict {
        let attempts = match error.again() {
            Again::Never => 1,
            Again::Once => self.attempts.min(2),
            Again::Patiently => self.attempts,
        };
        if attempt + 1 >= attempts {
            return Verdict::GiveUp;
        }
        match error.retry_after() {
            Some(after) if after > self.max_retry_after => Verdict::GiveUp,
            Some(after) => Verdict::Retry(after),
            None => {
                let pause = self.base.saturating_mul(1 << attempt.min(16)).min(self.max);
                Verdict::Retry(pause.mul_f64(rand::random_range(0.5..1.0)))
            }
        }
    }
}

/// Whether an answer of this status is asked for again.
pub(crate) fn is_transient_status(status: StatusCode) -> bool {
    matches!(status.as_u16(), 408 | 425 | 429) || is_outage(status.as_u16())
}

/// The wait that `Retry-After` asks for, in seconds or until a date.
pub(crate) fn retry_after(headers: &HeaderMap) -> Option<Duration> {
    let text = headers.get(header::RETRY_AFTER)?.to_str().ok()?;
    parse_retry_after(text, Timestamp::now())
}

fn parse_retry_after(text: &str, now: Timestamp) -> Option<Duration> {
    let text = text.trim();
    if let Ok(seconds) = text.parse::<u64>() {
        return Some(Duration::from_secs(seconds));
    }
    let date = jiff::fmt::rfc2822::parse(text).ok()?.timestamp();
    let seconds = date.as_second() - now.as_second();
    Some(Duration::from_secs(u64::try_from(seconds).unwrap_or(0)))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Outage;

    fn unavailable(retry_after: Option<u64>) -> Error {
        Error::Unavailable {
            action: "pull".into(),
            outage: Outage::RateLimited,
            retry_after: retry_after.map(Duration::from_secs),
        }
    }

    #[test]
    fn only_what_may_pass_is_tried_again() {
        let policy = RetryPolicy::default();
        let not_found = Error::NotFound {
            action: "pull".into(),
            code: None,
        };
        for (error, attempt, retried) in [
            (unavailable(None), 0, true),
            (unavailable(None), 3, true),
            (unavailable(None), 4, false),
            (unavailable(Some(60)), 0, true),
            (unavailable(Some(61)), 0, false),
            (not_found, 0, false),
        ] {
            let verdict = policy.verdict(&error, attempt);
            assert_eq!(verdict != Verdict::GiveUp, retried, "{error} {attempt}");
        }
        assert_eq!(
            policy.verdict(&unavailable(Some(7)), 0),
            Verdict::Retry(Duration::from_secs(7))
        );
        let never = RetryPolicy::never();
        assert_eq!(never.verdict(&unavailable(None), 0), Verdict::GiveUp);
    }

    #[test]
    fn pauses_grow_up_to_the_limit() {
        let policy = RetryPolicy {
            attempts: 100,
            ..RetryPolicy::default()
        };
        for (attempt, least, most) in [
            (0, 250, 500),
            (1, 500, 1000),
            (9, 5000, 10_000),
            (90, 5000, 10_000),
        ] {
            let Verdict::Retry(pause) = policy.verdict(&unavailable(None), attempt) else {
                panic!("attempt {attempt} is retried");
            };
            assert!(
                (least..=most).contains(&pause.as_millis()),
                "{attempt}: {pause:?}"
            );
        }
    }

    #[test]
    fn retry_after_is_seconds_or_a_date() {
        let now: Timestamp = "1994-11-06T08:49:30Z".parse().unwrap();
        for (text, seconds) in [
            ("0", Some(0)),
            (" 120 ", Some(120)),
            ("Sun, 06 Nov 1994 08:49:37 GMT", Some(7)),
            ("Sun, 06 Nov 1994 08:49:00 GMT", Some(0)),
            ("soon", None),
            ("-1", None),
            ("", None),
        ] {
            let expected = seconds.map(Duration::from_secs);
            assert_eq!(parse_retry_after(text, now), expected, "{text}");
        }
    }
}
