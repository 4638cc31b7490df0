//! What has become of the present sync: what its pod tells is turned into records of the status. What is mirrored is told
//! by looking at both sides, never by the pod. Pure.

use std::time::Duration;

use crds::ImageMirrorStatus;
use crds::image_mirror::{LastSync, SyncAttempt};
use jiff::{SignedDuration, Timestamp};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use protocol::{FailureKind, MirrorOutcome, MirrorRequest, Request, Task};

use super::observed::{Observed, current_pod};
use super::upkeep;
use crate::builder_pod::state::disruption;
use crate::builder_pod::{Ended, PodFailure, PodState, PodView};
use crate::image_build::account::{FAILED, RUNNING, SUCCEEDED, reason_named};
use crate::image_build::key::spec_part;
use crate::image_build::record::whole_seconds;
use crate::reason::Reason;

/// Automatic retries of one sync within an interval.
pub const RETRY_LIMIT: u32 = 2;
/// Wait before the first retry; the next waits twice as long.
const FIRST_RETRY: Duration = Duration::from_secs(10);
/// How long one sync may take.
pub const TIMEOUT: Duration = Duration::from_secs(6 * 3600);
/// A node that does not stop a pod at its deadline is given this much more: its clock may be another.
const DEADLINE_SLACK: Duration = Duration::from_secs(900);

/// What has become of the present sync.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Fate {
    /// There was none.
    None,
    /// Its pod goes on.
    Active {
        /// Why it is not running, if it is not.
        waiting: Option<(Reason, String)>,
    },
    /// Its pod must be stopped.
    Stop {
        /// Why.
        reason: Reason,
    },
    /// Its pod is being stopped.
    Stopping {
        /// Why.
        reason: Reason,
    },
    /// It ended; whether in this look.
    Ended {
        /// Whether it ended since the last look.
        now: bool,
    },
}

/// Brings `status` up to date and says what has become of the present sync.
pub fn account(status: &mut ImageMirrorStatus, observed: &Observed, spec_hash: &str) -> Fate {
    let current = current_pod(status, &observed.pods);
    if let Some(pod) = current {
        adopt(status, pod);
    }
    let Some(mut attempt) = status.attempt.clone() else {
        return Fate::None;
    };
    if attempt.result.as_deref().is_some_and(|r| r != RUNNING) {
        return Fate::Ended { now: false };
    }
    let fate = match current.map(|pod| (pod, pod.state())) {
        None => {
            let reason = attempt.failure.as_deref().and_then(reason_named);
            let failure = PodFailure::transient(
                reason.unwrap_or(Reason::PodLost),
                "the pod is gone before it reported a result",
            );
            conclude(status, &mut attempt, None, Err(failure), observed);
            Fate::Ended { now: true }
        }
        Some((pod, PodState::Ended(ended))) => {
            let outcome = match ended {
                Ended::Failed(failure) => Err(failure),
                Ended::Reported(_) => pod.mirrored().ok_or_else(|| {
                    PodFailure::lasting(
                        Reason::BuilderFailed,
                        "the builder reported something else than a sync",
                    )
                }),
            };
            conclude(status, &mut attempt, Some(pod), outcome, observed);
            Fate::Ended { now: true }
        }
        Some((pod, state)) => active(pod, &state, &mut attempt, observed, spec_hash),
    };
    status.attempt = Some(attempt);
    fate
}

fn adopt(status: &mut ImageMirrorStatus, pod: &PodView) {
    let identity = &pod.pod.identity;
    let known = status.attempt.as_ref().and_then(|a| a.pod_uid.as_deref());
    if known == Some(identity.uid.as_str()) {
        return;
    }
    let made = &pod.pod.attempt;
    status.attempt = Some(SyncAttempt {
        key: made.key.clone(),
        number: i32::try_from(made.number).unwrap_or(i32::MAX),
        retries: i32::try_from(made.retries).unwrap_or(i32::MAX),
        environment: Some(made.environment.clone()),
        pod: Some(identity.name.clone()),
        pod_uid: Some(identity.uid.clone()),
        result: Some(RUNNING.to_owned()),
        failure: None,
        next_time: None,
    });
}

fn active(
    pod: &PodView,
    state: &PodState,
    attempt: &mut SyncAttempt,
    observed: &Observed,
    spec_hash: &str,
) -> Fate {
    if pod.pod.deleting {
        let reason = attempt
            .failure
            .as_deref()
            .and_then(reason_named)
            .or_else(|| disruption(&pod.pod.pod).map(|lost| lost.reason))
            .unwrap_or(Reason::PodLost);
        attempt.failure = Some(reason.as_str().to_owned());
        return Fate::Stopping { reason };
    }
    let overdue = pod.pod.started().is_some_and(|started| {
        observed.now.duration_since(started) > signed(TIMEOUT + DEADLINE_SLACK)
    });
    let stop = if spec_part(&pod.pod.attempt.key) == spec_hash {
        overdue.then_some(Reason::Timeout)
    } else {
        Some(Reason::Superseded)
    };
    if let Some(reason) = stop {
        attempt.failure = Some(reason.as_str().to_owned());
        return Fate::Stop { reason };
    }
    attempt.failure = None;
    Fate::Active {
        waiting: match state {
            PodState::Waiting { reason, message } => Some((*reason, message.clone())),
            _ => None,
        },
    }
}

/// Writes how a sync ended into the status.
fn conclude(
    status: &mut ImageMirrorStatus,
    attempt: &mut SyncAttempt,
    pod: Option<&PodView>,
    outcome: Result<MirrorOutcome, PodFailure>,
    observed: &Observed,
) {
    let interval = observed
        .spec
        .as_ref()
        .map_or(Duration::from_secs(900), |spec| {
            spec.cadence.wait(observed.now)
        });
    let ended = whole_seconds(observed.now);
    let after = |wait: Duration| Some(Time(ended + signed(wait)));
    let request = pod.and_then(request_of).unwrap_or_default();
    let upkeep = outcome
        .as_ref()
        .ok()
        .and_then(|outcome| upkeep::conclude(status, &request, outcome, ended));
    let failure = match &outcome {
        Ok(outcome) if outcome.failed == 0 => upkeep.map(|reason| (reason, true)),
        Ok(outcome) => {
            let failures = outcome.images.iter().filter_map(|i| i.failure.as_ref());
            let transient = failures.clone().any(|f| f.kind.is_transient());
            let mut kinds = failures.map(|f| f.kind).peekable();
            let untrusted =
                kinds.peek().is_some() && kinds.all(|k| k == FailureKind::ImageUntrusted);
            let reason = if untrusted {
                Reason::ImageUntrusted
            } else {
                Reason::SyncFailed
            };
            Some((reason, transient))
        }
        Err(failure) => Some((failure.reason, failure.transient)),
    };
    let is_sync = outcome.is_err() || !request.images.is_empty();
    let sync = outcome.unwrap_or_default();
    let last = LastSync {
        start_time: pod.map(|pod| Time(pod.pod.started().unwrap_or(pod.pod.created))),
        completion_time: Some(Time(ended)),
        copied: count(sync.copied),
        mounted: count(sync.mounted_blobs),
        unchanged: count(sync.unchanged),
        failed: count(sync.failed),
        bytes_copied: i64::try_from(sync.bytes_copied).unwrap_or(i64::MAX),
        bytes_mounted: i64::try_from(sync.bytes_mounted).unwrap_or(i64::MAX),
    };
    if is_sync {
        status.last_sync = Some(last);
    }
    status.next_sync = after(interval);
    attempt.result = Some(if failure.is_some() { FAILED } else { SUCCEEDED }.to_owned());
    attempt.failure = failure.map(|(reason, _)| reason.as_str().to_owned());
    let retries = u32::try_from(attempt.retries).unwrap_or(0);
    attempt.next_time = match failure {
        Some((Reason::Superseded, _)) => Some(Time(ended)),
        Some((_, true)) if retries < RETRY_LIMIT => {
            after(FIRST_RETRY.saturating_mul(2u32.saturating_pow(retries)))
        }
        _ => after(interval),
    };
}

fn count(number: u32) -> i32 {
    i32::try_from(number).unwrap_or(i32::MAX)
}

fn signed(duration: Duration) -> SignedDuration {
    SignedDuration::from_secs(i64::try_from(duration.as_secs()).unwrap_or(i64::MAX))
}

/// What a pod was asked to do.
pub fn request_of(pod: &PodView) -> Option<MirrorRequest> {
    let annotations = pod.pod.pod.metadata.annotations.as_ref()?;
    let text = annotations.get(protocol::REQUEST_ANNOTATION)?;
    match Request::parse(text.as_bytes()).ok()?.task {
        Task::Mirror(request) => Some(request),
        _ => None,
    }
}

/// What a pod was asked to copy: source and destination of each image, in order.
pub fn asked_for(pod: &PodView) -> Vec<(String, String)> {
    let images = request_of(pod).unwrap_or_default().images.into_iter();
    images
        .map(|image| (image.source, image.destination))
        .collect()
}

/// Whether the next attempt at the same may start.
pub fn is_due(attempt: &SyncAttempt, now: Timestamp) -> bool {
    attempt.next_time.as_ref().is_none_or(|next| next.0 <= now)
}
