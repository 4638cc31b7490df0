//! What an ImageBuild does next when no pod is at work: rest, look again, or start an attempt; for which reason, and what
//! people are told meanwhile. Pure.

use std::time::Duration;

use crds::condition::ConditionStatus;
use crds::image_build::Attempt;
use jiff::Timestamp;

use super::account::{Fate, retry_delay};
use super::key::{Key, spec_part};
use super::need::Blocked;
use super::observed::{BaseLook, SourceState};
use super::plan::{Case, POLL, POLL_FAILED};
use crate::builder_pod::PodFailure;
use crate::condition::{Progress, Summary};
use crate::reason::Reason;
use crate::request::requested_at;

/// How often a finished build looks at its ConfigMap and its inputs, and at destinations that could not be reached.
const POLL_SETTLED: Duration = Duration::from_secs(30);
/// Why an attempt is started whose base image was missing and is there.
const BASE_IMAGE: &str = "BaseImage";

/// What follows from the fate of the present attempt and from what is wanted.
pub(super) enum Next {
    /// Nothing to do but to say so.
    Rest(Summary),
    /// Look again after a while.
    Poll(Summary, Duration),
    /// Start an attempt.
    Start {
        number: u32,
        retries: u32,
        reason: &'static str,
    },
}

impl Case<'_> {
    /// What follows when it is known what is to be there.
    pub(super) fn next(&self, wanted: &Key) -> Next {
        let text = wanted.to_string();
        let attempt = self.attempt().filter(|attempt| attempt.key == text);
        let Some(attempt) = attempt else {
            return self.unless_suspended(Next::Start {
                number: 0,
                retries: 0,
                reason: self.why_new(wanted),
            });
        };
        let number = u32::try_from(attempt.number).unwrap_or(0).saturating_add(1);
        let retries = u32::try_from(attempt.retries).unwrap_or(0);
        let asked = requested_at(self.build);
        let asked = asked.is_some() && asked != self.status.last_handled_requested_at;
        let again = Next::Start {
            number,
            retries: 0,
            reason: "Requested",
        };
        match &self.fate {
            Fate::Succeeded => self.settled(),
            Fate::Failed(_) | Fate::Cancelled { .. } if asked => self.unless_suspended(again),
            Fate::Failed(failure) => {
                if self.environment_changed(failure.reason, attempt) {
                    return self.unless_suspended(again);
                }
                match &attempt.next_time {
                    Some(next) if next.0 > self.observed.now => {
                        self.unless_suspended(self.retry_later(failure, attempt, next.0))
                    }
                    Some(_) => self.unless_suspended(Next::Start {
                        number,
                        retries: retries + 1,
                        reason: "Retry",
                    }),
                    None => self.failed(failure, attempt, number),
                }
            }
            // The spec was changed and then changed back.
            Fate::Cancelled {
                reason: Reason::Superseded,
            } => self.unless_suspended(Next::Start {
                number,
                retries: 0,
                reason: "Spec",
            }),
            Fate::Cancelled { reason } => {
                Next::Poll(Summary::stalled(*reason, reason.meaning()), POLL_FAILED)
            }
            _ => self.unless_suspended(again),
        }
    }

    /// A failure that is not tried again before its cause is mended. Where the cause is a base image that was not there,
    /// that is seen here; where mirrors and builds bring it, the build waits for it.
    fn failed(&self, failure: &PodFailure, attempt: &Attempt, number: u32) -> Next {
        let Some(image) = &failure.missing_image else {
            let summary = Summary::stalled(failure.reason, &failure.message);
            return Next::Poll(summary, POLL_FAILED);
        };
        let found = self.observed.base.as_ref();
        if found == Some(&BaseLook::There) && self.has_rested(attempt) {
            return self.unless_suspended(Next::Start {
                number,
                retries: 0,
                reason: BASE_IMAGE,
            });
        }
        let message = match found {
            Some(BaseLook::Unknown(why)) => format!(
                "{}; the operator cannot see whether it is there now: {why}",
                failure.message
            ),
            _ => format!("{}; the build starts when it is there", failure.message),
        };
        if self.observed.is_of_registry(image) {
            let summary = Summary::waiting(failure.reason, &message);
            self.unless_suspended(Next::Poll(summary, POLL_FAILED))
        } else {
            Next::Poll(Summary::stalled(failure.reason, &message), POLL_FAILED)
        }
    }

    /// Whether an attempt that was started because its base had appeared may be followed by another for the same cause:
    /// a registry that shows an image and does not serve it is asked more and more seldom.
    fn has_rested(&self, attempt: &Attempt) -> bool {
        if attempt.reason != BASE_IMAGE {
            return true;
        }
        let record = self
            .status
            .builds
            .iter()
            .find(|build| Some(&build.name) == attempt.pod.as_ref());
        let ended = record.and_then(|build| build.completion_time.as_ref());
        let before = u32::try_from(attempt.number).unwrap_or(0).saturating_sub(1);
        ended.is_none_or(|ended| {
            let rested = self.observed.now.duration_since(ended.0);
            Duration::try_from(rested).unwrap_or_default() >= retry_delay(before)
        })
    }

    fn retry_later(&self, failure: &PodFailure, attempt: &Attempt, next: Timestamp) -> Next {
        let message = format!(
            "{}: {}; retry {} of {} starts at {next}",
            failure.reason.as_str(),
            failure.message,
            attempt.retries + 1,
            self.build.spec.retry_limit(),
        );
        let left = next.duration_since(self.observed.now);
        let left = Duration::try_from(left).unwrap_or_default();
        Next::Poll(
            Summary::waiting(Reason::RetryPending, &message),
            left.clamp(Duration::from_millis(100), POLL_FAILED),
        )
    }

    /// Whether an attempt that failed by Secrets or isolation would now meet others.
    fn environment_changed(&self, reason: Reason, attempt: &Attempt) -> bool {
        let depends = matches!(
            reason,
            Reason::RegistryUnauthorized
                | Reason::ImageUnauthorized
                | Reason::SourceUnauthorized
                | Reason::BaseImageNotFound
                | Reason::IsolationUnavailable
                | Reason::SecretInvalid
        );
        let Ok(spec) = &self.observed.spec else {
            return false;
        };
        let (isolation, _) = self.observed.isolation(spec.isolation);
        let now = self.observed.environment(isolation);
        depends
            && attempt
                .environment
                .as_ref()
                .is_some_and(|then| *then != now)
    }

    /// The image is there.
    fn settled(&self) -> Next {
        let image = self.status.image.as_deref().unwrap_or_default();
        let unverified: Vec<&str> = self
            .status
            .destinations
            .iter()
            .filter(|destination| destination.verified == "Unknown")
            .map(|destination| destination.name.as_str())
            .collect();
        if unverified.is_empty() {
            let summary = Summary::ready(Reason::Succeeded, image);
            let polled = matches!(self.observed.source, SourceState::ConfigMap(_))
                || !self.observed.inputs.is_empty();
            return if polled {
                Next::Poll(summary, POLL_SETTLED)
            } else {
                Next::Rest(summary)
            };
        }
        let message = format!("{image}; not yet read back from {}", unverified.join(", "));
        Next::Poll(Summary::ready(Reason::Succeeded, message), POLL_SETTLED)
    }

    /// It is not known what is to be there: an image of the same spec stays good.
    pub(super) fn blocked(&self, blocked: &Blocked) -> Next {
        let same_spec = self
            .attempt()
            .is_some_and(|attempt| spec_part(&attempt.key) == self.spec_hash);
        match &self.fate {
            Fate::Succeeded if same_spec => match self.settled() {
                Next::Rest(summary) | Next::Poll(summary, _) => Next::Poll(summary, POLL_FAILED),
                start @ Next::Start { .. } => start,
            },
            // What must be made first is told first.
            _ => {
                let spec = self.observed.spec.as_ref().ok();
                let missing = spec.and_then(|spec| self.observed.missing(spec));
                let summary = missing.as_ref().unwrap_or(blocked).summary();
                Next::Poll(summary, POLL)
            }
        }
    }

    fn unless_suspended(&self, next: Next) -> Next {
        if self.build.spec.suspended() {
            Next::Rest(Summary {
                ready: ConditionStatus::False,
                progress: Progress::Settled,
                reason: Reason::Suspended,
                message: Reason::Suspended.explain("a build is due, but the resource is suspended"),
            })
        } else {
            next
        }
    }

    /// Why something else is built than before.
    fn why_new(&self, wanted: &Key) -> &'static str {
        match self.made() {
            None => "Spec",
            Some(made) if made.spec != wanted.spec => "Spec",
            Some(made) if made.force != wanted.force => "Forced",
            Some(made) if made.source != wanted.source => "Source",
            Some(made) if made.inputs != wanted.inputs => "Inputs",
            Some(made) if made.bases != wanted.bases => BASE_IMAGE,
            Some(_) => "Schedule",
        }
    }
}
