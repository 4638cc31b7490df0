//! What has become of the present attempt: what its pod tells is turned into records of the status. Nothing is started
//! and no condition is written here. Pure.

use std::time::Duration;

use crds::image_build::{Attempt, ImageBuildStatus};
use jiff::Timestamp;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use protocol::BuildOutcome;

use super::key::spec_part;
use super::observed::{Observed, ReadBack, Verification, current_pod};
use super::record::{
    adopt, cancel, close, finished_at, note_isolation, publish, record, verdicts, whole_seconds,
};
use super::split::{self, Told};
use crate::builder_pod::{Ended, PodFailure, PodState, PodView};
use crate::reason::Reason;

/// `attempt.result` while the pod has not ended.
pub const RUNNING: &str = "Running";
/// `attempt.result` when the image is there.
pub const SUCCEEDED: &str = "Succeeded";
/// `attempt.result` when it is not.
pub const FAILED: &str = "Failed";
/// `attempt.result` when somebody or a new spec stopped it.
pub const CANCELLED: &str = "Cancelled";

/// Wait before the first retry; each further one waits twice as long.
const FIRST_RETRY: Duration = Duration::from_secs(10);
/// The longest wait before a retry.
const LONGEST_RETRY: Duration = Duration::from_secs(300);
/// A node that does not stop a pod at its deadline is given this much more: its clock may be another.
const DEADLINE_SLACK: Duration = Duration::from_secs(900);

/// What has become of the present attempt.
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
        /// For people.
        message: String,
    },
    /// Its pod is being stopped.
    Stopping {
        /// Why.
        reason: Reason,
    },
    /// It made the image.
    Succeeded,
    /// It failed.
    Failed(PodFailure),
    /// It was cancelled, by people or by a new spec.
    Cancelled {
        /// `Cancelled` or `Superseded`.
        reason: Reason,
    },
}

impl Fate {
    /// Whether a pod is there that has not ended.
    pub fn is_active(&self) -> bool {
        matches!(
            self,
            Self::Active { .. } | Self::Stop { .. } | Self::Stopping { .. }
        )
    }
}

/// What decides about the pod of the present attempt, besides its state.
pub struct Wishes<'a> {
    /// Hash of the present spec.
    pub spec_hash: &'a str,
    /// The build that people want to be cancelled.
    pub cancel: Option<&'a str>,
    /// Automatic retries of one key.
    pub retry_limit: u32,
    /// How long a pod may run.
    pub timeout: Duration,
    /// Whether a build that needs several architectures may choose its nodes by them.
    pub may_split: bool,
}

/// Brings the records in `status` up to date and says what has become of the present attempt.
pub fn account(status: &mut ImageBuildStatus, observed: &Observed, wishes: &Wishes<'_>) -> Fate {
    let current = current_pod(status, &observed.pods);
    if let Some(view) = current {
        adopt(status, view);
    }
    record(status, &observed.pods);
    let Some(mut attempt) = status.attempt.clone() else {
        return Fate::None;
    };
    let fate = match attempt.result.as_deref() {
        Some(SUCCEEDED) => {
            verify_again(status, observed, &mut attempt);
            recorded(status, &attempt, current)
        }
        Some(FAILED | CANCELLED) => {
            let waits = attempt.next_time.is_some() || attempt.missing_image.is_some();
            if waits && wishes.cancel == attempt.pod.as_deref() {
                attempt.result = Some(CANCELLED.to_owned());
                attempt.failure = Some(Reason::Cancelled.as_str().to_owned());
                attempt.next_time = None;
                attempt.missing_image = None;
            }
            recorded(status, &attempt, current)
        }
        _ => {
            let told = tell(&mut attempt, current, observed, wishes);
            conclude(status, &mut attempt, told, observed, wishes)
        }
    };
    status.attempt = Some(attempt);
    fate
}

/// What the pods of `attempt` tell: the one that does all of it, or those of its parts.
fn tell<'a>(
    attempt: &mut Attempt,
    current: Option<&'a PodView>,
    observed: &'a Observed,
    wishes: &Wishes<'_>,
) -> Told<'a> {
    if attempt.parts.is_empty() {
        let fate = match current {
            Some(view) => present(view, attempt, observed, wishes),
            None => gone(attempt),
        };
        if !splits(&fate, attempt, observed, wishes) {
            let built = current.and_then(PodView::built);
            return Told {
                fate,
                built,
                decider: current,
            };
        }
    }
    split::account(attempt, observed, wishes)
}

/// Parts `attempt` where its pod's node does not execute what a platform of the spec needs.
fn splits(fate: &Fate, attempt: &mut Attempt, observed: &Observed, wishes: &Wishes<'_>) -> bool {
    let is_foreign =
        matches!(fate, Fate::Failed(failure) if failure.reason == Reason::ForeignPlatform);
    match &observed.spec {
        Ok(spec) if is_foreign && wishes.may_split => {
            spec_part(&attempt.key) == wishes.spec_hash
                && split::begin(attempt, spec, &observed.kept)
        }
        _ => false,
    }
}

/// What a pod that is there tells.
fn present(view: &PodView, attempt: &Attempt, observed: &Observed, wishes: &Wishes<'_>) -> Fate {
    let state = view.state();
    if let PodState::Ended(ended) = state {
        // A pod that was being stopped and has ended counts as stopped, unless it was done before.
        return match (ended, stopped(attempt)) {
            (Ended::Failed(_), Some(fate)) => fate,
            (Ended::Failed(failure), None) => Fate::Failed(failure),
            (Ended::Reported(_), _) => match view.built() {
                Some(built) => believed(&built, &view.pod.attempt.key, observed, wishes),
                None => Fate::Failed(PodFailure::lasting(
                    Reason::BuilderFailed,
                    "the builder reported something else than a build",
                )),
            },
        };
    }
    let failure = attempt.failure.as_deref().and_then(reason_named);
    if view.pod.deleting {
        let reason = failure
            .or_else(|| disruption_of(view).map(|lost| lost.reason))
            .unwrap_or(Reason::PodLost);
        return Fate::Stopping { reason };
    }
    if let Some((reason, message)) = to_stop(view, observed.now, wishes) {
        return Fate::Stop { reason, message };
    }
    Fate::Active {
        waiting: match state {
            PodState::Waiting { reason, message } => {
                let name = &view.pod.identity.name;
                Some((reason, format!("pod {name}: {message}")))
            }
            _ => None,
        },
    }
}

fn disruption_of(view: &PodView) -> Option<PodFailure> {
    crate::builder_pod::state::disruption(&view.pod.pod)
}

/// Why an active pod must be stopped, if it must.
pub(super) fn to_stop(
    view: &PodView,
    now: Timestamp,
    wishes: &Wishes<'_>,
) -> Option<(Reason, String)> {
    let name = &view.pod.identity.name;
    if view.pod.lacks_user_namespace() {
        let message = format!("the API server dropped hostUsers: false from pod {name}");
        return Some((Reason::UserNamespacesUnavailable, message));
    }
    if wishes.cancel == Some(name.as_str()) {
        return Some((
            Reason::Cancelled,
            format!("{name} was cancelled by its annotation"),
        ));
    }
    if spec_part(&view.pod.attempt.key) != wishes.spec_hash {
        let message = format!("the spec changed while {name} ran");
        return Some((Reason::Superseded, message));
    }
    let overdue = view.pod.started().is_some_and(|started| {
        now.duration_since(started) > seconds(wishes.timeout + DEADLINE_SLACK)
    });
    overdue.then(|| {
        (
            Reason::Timeout,
            format!("{name} took longer than spec.timeout and its node did not stop it"),
        )
    })
}

/// The same as a signed duration.
pub(super) fn seconds(duration: Duration) -> jiff::SignedDuration {
    jiff::SignedDuration::from_secs(i64::try_from(duration.as_secs()).unwrap_or(i64::MAX))
}

/// What a pod that is gone has left in the status.
fn gone(attempt: &Attempt) -> Fate {
    stopped(attempt).unwrap_or_else(|| {
        let reason = attempt
            .failure
            .as_deref()
            .and_then(reason_named)
            .unwrap_or(Reason::PodLost);
        let name = attempt.pod.as_deref().unwrap_or_default();
        Fate::Failed(PodFailure::transient(
            reason,
            format!("pod {name} is gone before it reported a result"),
        ))
    })
}

/// The fate of an attempt that the operator stopped.
pub(super) fn stopped(attempt: &Attempt) -> Option<Fate> {
    let reason = attempt.failure.as_deref().and_then(reason_named)?;
    match reason {
        Reason::Cancelled | Reason::Superseded => Some(Fate::Cancelled { reason }),
        Reason::Timeout => Some(Fate::Failed(PodFailure::lasting(
            reason,
            "it took longer than spec.timeout and was stopped",
        ))),
        Reason::UserNamespacesUnavailable => Some(Fate::Failed(PodFailure::lasting(
            reason,
            "the API server dropped hostUsers: false from the pod, which was deleted",
        ))),
        _ => None,
    }
}

/// The reason with this word.
pub fn reason_named(word: &str) -> Option<Reason> {
    Reason::ALL
        .iter()
        .copied()
        .find(|reason| reason.as_str() == word)
}

/// What a report of success is worth: the destinations decide.
pub(super) fn believed(
    built: &BuildOutcome,
    key: &str,
    observed: &Observed,
    wishes: &Wishes<'_>,
) -> Fate {
    if spec_part(key) != wishes.spec_hash {
        return Fate::Cancelled {
            reason: Reason::Superseded,
        };
    }
    if let Ok(spec) = &observed.spec
        && let Some(lost) = spec
            .destinations
            .iter()
            .find(|destination| destination.parsed(&observed.registries).is_none())
    {
        return Fate::Failed(PodFailure::transient(
            Reason::RegistryNotFound,
            format!("the Registry of destination {} is gone", lost.name),
        ));
    }
    let Some(read_back) = observed
        .read_back
        .as_ref()
        .filter(|read| read.digest == built.digest)
    else {
        return Fate::Active { waiting: None };
    };
    match differing(read_back) {
        Some(failure) => Fate::Failed(failure),
        None => Fate::Succeeded,
    }
}

/// The failure that a destination with another image is.
fn differing(read_back: &ReadBack) -> Option<PodFailure> {
    read_back
        .destinations
        .iter()
        .find_map(|(name, found)| match found {
            Verification::Differs(what) => Some(PodFailure::lasting(
                Reason::VerificationFailed,
                format!(
                    "destination {name} does not hold {}: {what}",
                    read_back.digest
                ),
            )),
            _ => None,
        })
}

/// Looks at the destinations again that could not be reached when the build ended.
fn verify_again(status: &mut ImageBuildStatus, observed: &Observed, attempt: &mut Attempt) {
    let Some(read_back) = &observed.read_back else {
        return;
    };
    if status.digest.as_deref() != Some(&read_back.digest) {
        return;
    }
    for (destination, verified) in verdicts(read_back) {
        if let Some(entry) = status
            .destinations
            .iter_mut()
            .find(|d| d.name == destination)
        {
            verified.clone_into(&mut entry.verified);
        }
    }
    if let Some(failure) = differing(read_back) {
        attempt.result = Some(FAILED.to_owned());
        attempt.failure = Some(failure.reason.as_str().to_owned());
        close(status, attempt, None, None, Some(&failure.message));
    }
}

/// The fate that the status has recorded, with the message that people should see: from the pod while it is there.
fn recorded(status: &ImageBuildStatus, attempt: &Attempt, current: Option<&PodView>) -> Fate {
    let failure = attempt.failure.as_deref().and_then(reason_named);
    match attempt.result.as_deref() {
        Some(SUCCEEDED) => Fate::Succeeded,
        Some(CANCELLED) => Fate::Cancelled {
            reason: failure.unwrap_or(Reason::Cancelled),
        },
        _ => {
            let reason = failure.unwrap_or(Reason::BuilderFailed);
            // The pod of an attempt that was parted has failed for another reason, which is no news any more.
            let current = current.filter(|_| attempt.parts.is_empty());
            let told = current.and_then(|view| match view.state() {
                PodState::Ended(Ended::Failed(failure)) if failure.reason == reason => {
                    Some(failure.message)
                }
                _ => None,
            });
            let kept = || {
                status
                    .builds
                    .iter()
                    .find(|build| Some(&build.name) == attempt.pod.as_ref())
                    .and_then(|build| build.message.clone())
            };
            Fate::Failed(PodFailure {
                reason,
                message: told
                    .or_else(kept)
                    .unwrap_or_else(|| reason.meaning().to_owned()),
                transient: attempt.next_time.is_some(),
                missing_image: attempt.missing_image.clone(),
            })
        }
    }
}

/// Writes what has just become of the attempt into its record, and the image into the status.
fn conclude(
    status: &mut ImageBuildStatus,
    attempt: &mut Attempt,
    told: Told<'_>,
    observed: &Observed,
    wishes: &Wishes<'_>,
) -> Fate {
    let Told {
        mut fate,
        built,
        decider,
    } = told;
    let mut message = None;
    match &mut fate {
        Fate::None => return fate,
        Fate::Active { .. } => {
            attempt.failure = None;
            return fate;
        }
        Fate::Stop { reason, .. } | Fate::Stopping { reason } => {
            attempt.failure = Some(reason.as_str().to_owned());
            if matches!(reason, Reason::Cancelled | Reason::Superseded) {
                cancel(status, attempt);
            }
            return fate;
        }
        Fate::Succeeded => {
            attempt.result = Some(SUCCEEDED.to_owned());
            attempt.failure = None;
        }
        Fate::Cancelled { reason } => {
            attempt.result = Some(CANCELLED.to_owned());
            attempt.failure = Some(reason.as_str().to_owned());
            message = Some(reason.meaning().to_owned());
        }
        Fate::Failed(failure) => {
            let retries = u32::try_from(attempt.retries).unwrap_or(0);
            failure.transient &= retries < wishes.retry_limit;
            attempt.result = Some(FAILED.to_owned());
            attempt.failure = Some(failure.reason.as_str().to_owned());
            attempt.missing_image.clone_from(&failure.missing_image);
            attempt.next_time = failure.transient.then(|| {
                let next = observed.now + seconds(retry_delay(retries));
                Time(whole_seconds(next))
            });
            message = Some(failure.message.clone());
            note_isolation(status, failure, decider);
        }
    }
    let built = built.filter(|_| fate == Fate::Succeeded);
    let ended = decider.and_then(finished_at).unwrap_or(observed.now);
    attempt.base_images.clear();
    close(
        status,
        attempt,
        Some(ended),
        built.as_ref(),
        message.as_deref(),
    );
    if let (Some(built), Ok(spec)) = (&built, &observed.spec) {
        publish(status, attempt, built, spec, observed);
    }
    fate
}

/// The wait before the retry after `retries` retries.
pub fn retry_delay(retries: u32) -> Duration {
    FIRST_RETRY
        .saturating_mul(2u32.saturating_pow(retries.min(16)))
        .min(LONGEST_RETRY)
}
