//! What has become of the parts of an attempt, and so of the attempt. Pure.

use crds::condition::truncate;
use crds::image_build::{Attempt, AttemptPart};
use jiff::Timestamp;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use protocol::{BuildOutcome, PlatformImage};

use super::{JOIN, due, node_architecture, pods_of, pods_of_attempt};
use crate::builder_pod::outcome::printable;
use crate::builder_pod::{Ended, PodFailure, PodState, PodView};
use crate::image_build::account::{
    FAILED, Fate, RUNNING, SUCCEEDED, Wishes, believed, reason_named, retry_delay, seconds,
    stopped, to_stop,
};
use crate::image_build::key::{Key, part, spec_part};
use crate::image_build::observed::Observed;
use crate::image_build::record::{MAX_BASES, running_part, sound_bases, whole_seconds};
use crate::image_build::validate::SourceSpec;
use crate::reason::Reason;

/// The longest message of a part.
const MAX_MESSAGE: usize = 256;

/// What the parts tell of their attempt.
pub struct Told<'a> {
    /// What has become of it.
    pub fate: Fate,
    /// What was made, when all of it was.
    pub built: Option<BuildOutcome>,
    /// The pod that decided it.
    pub decider: Option<&'a PodView>,
}

/// Brings the parts of `attempt` up to date and says what has become of the attempt.
pub fn account<'a>(attempt: &mut Attempt, observed: &'a Observed, wishes: &Wishes<'_>) -> Told<'a> {
    let mut parts = std::mem::take(&mut attempt.parts);
    for part in &mut parts {
        // The pods of earlier retries are kept for their logs.
        let known = u32::try_from(part.retries).ok();
        let newest = pods_of(attempt, &part.name, &observed.parts)
            .filter(|view| retries_of(view) >= known)
            .max_by_key(|view| retries_of(view));
        if let Some(built) = update(part, newest, observed.now, wishes.retry_limit) {
            note_bases(attempt, &built);
        }
    }
    attempt.parts = parts;
    let undecided = |fate| Told {
        fate,
        built: None,
        decider: None,
    };
    if let Some(fate) = stop(attempt, observed, wishes) {
        return undecided(fate);
    }
    let is_lost =
        |part: &&AttemptPart| part.result.as_deref() == Some(FAILED) && part.next_time.is_none();
    if let Some(lost) = attempt.parts.iter().find(is_lost) {
        let view = newest_of(attempt, lost, observed);
        return Told {
            fate: Fate::Failed(failure_of(lost, view)),
            built: None,
            decider: view,
        };
    }
    let Some(mut built) = outcome(attempt, &observed.parts) else {
        let waiting = waiting(attempt, observed, wishes.retry_limit);
        return undecided(Fate::Active { waiting });
    };
    if let Ok(spec) = &observed.spec {
        built.isolation = observed.isolation(spec.isolation).0;
    }
    let last = attempt.parts.last();
    Told {
        fate: believed(&built, &attempt.key, observed, wishes),
        built: Some(built),
        decider: last.and_then(|part| newest_of(attempt, part, observed)),
    }
}

fn retries_of(view: &PodView) -> Option<u32> {
    view.pod.attempt.part.as_ref().map(|part| part.retries)
}

/// What all parts have made together, when the last one is done.
pub fn outcome(attempt: &Attempt, pods: &[PodView]) -> Option<BuildOutcome> {
    let last = attempt.parts.last()?;
    let mut built = pods_of(attempt, &last.name, pods).find_map(PodView::built)?;
    if last.name != JOIN {
        return Some(built);
    }
    let platforms = || attempt.parts.iter().filter(|part| part.name != JOIN);
    let sum = |figure: fn(&AttemptPart) -> Option<i32>| {
        platforms()
            .filter_map(|part| u32::try_from(figure(part)?).ok())
            .fold(0, u32::saturating_add)
    };
    built.steps = sum(|part| part.steps);
    built.cached_steps = sum(|part| part.cached_steps);
    built.platforms = images(attempt);
    built.base_images = attempt
        .base_images
        .iter()
        .map(|base| protocol::BaseImage {
            reference: base.reference.clone(),
            digest: base.digest.clone(),
            mirror: base.mirror.clone(),
        })
        .collect();
    built.misses = platforms()
        .filter_map(|part| pods_of(attempt, &part.name, pods).find_map(PodView::built))
        .flat_map(|of_platform| of_platform.misses)
        .take(protocol::MAX_MISSES)
        .collect();
    Some(built)
}

/// The images of the platforms that are there.
pub(super) fn images(attempt: &Attempt) -> Vec<PlatformImage> {
    attempt
        .parts
        .iter()
        .filter(|part| part.name != JOIN)
        .filter_map(|part| {
            Some(PlatformImage {
                platform: part.name.clone(),
                digest: part.digest.clone()?,
                size: part.size.and_then(|size| u64::try_from(size).ok())?,
            })
        })
        .collect()
}

fn newest_of<'a>(
    attempt: &Attempt,
    part: &AttemptPart,
    observed: &'a Observed,
) -> Option<&'a PodView> {
    let mut pods = pods_of(attempt, &part.name, &observed.parts);
    pods.find(|view| Some(&view.pod.identity.uid) == part.pod_uid.as_ref())
}

/// Writes into `part` what its newest pod tells; returns what it has built, the first time that it is seen.
fn update(
    part: &mut AttemptPart,
    newest: Option<&PodView>,
    now: Timestamp,
    limit: u32,
) -> Option<BuildOutcome> {
    let Some(view) = newest else {
        if part.result.as_deref() == Some(RUNNING) {
            let name = part.pod.clone().unwrap_or_default();
            let message = format!("pod {name} is gone before it reported a result");
            fail(
                part,
                &PodFailure::transient(Reason::PodLost, message),
                now,
                limit,
            );
        }
        return None;
    };
    let identity = &view.pod.identity;
    if part.pod_uid.as_ref() != Some(&identity.uid) {
        let (uid, retries) = (Some(identity.uid.clone()), retries_of(view).unwrap_or(0));
        *part = running_part(&part.name, &identity.name, uid, retries);
    }
    if part.result.as_deref() != Some(RUNNING) {
        return None;
    }
    let PodState::Ended(ended) = view.state() else {
        return None;
    };
    match (ended, view.built()) {
        (Ended::Failed(failure), _) => fail(part, &failure, now, limit),
        (Ended::Reported(_), Some(built)) if built.digest.parse::<oci::Digest>().is_ok() => {
            note_made(part, &built);
            return Some(built);
        }
        (Ended::Reported(_), _) => {
            let message = "the builder reported something else than a build";
            let failure = PodFailure::lasting(Reason::BuilderFailed, message);
            fail(part, &failure, now, limit);
        }
    }
    None
}

/// Writes into `part` what was made of it.
pub(super) fn note_made(part: &mut AttemptPart, built: &BuildOutcome) {
    part.result = Some(SUCCEEDED.to_owned());
    part.digest = Some(built.digest.clone());
    part.size = i64::try_from(built.size).ok();
    part.steps = i32::try_from(built.steps).ok();
    part.cached_steps = i32::try_from(built.cached_steps).ok();
}

/// Writes into `part` that its pod has failed, and when it is retried. A source that is another one now is not there again
/// for the same attempt.
fn fail(part: &mut AttemptPart, failure: &PodFailure, now: Timestamp, limit: u32) {
    let retries = u32::try_from(part.retries).unwrap_or(0);
    let again = failure.transient && failure.reason != Reason::SourceInvalid && retries < limit;
    part.result = Some(FAILED.to_owned());
    part.failure = Some(failure.reason.as_str().to_owned());
    part.message = Some(truncate(&failure.message, MAX_MESSAGE));
    part.next_time = again.then(|| Time(whole_seconds(now + seconds(retry_delay(retries)))));
}

/// The failure of the attempt that the failure of `part` is.
fn failure_of(part: &AttemptPart, view: Option<&PodView>) -> PodFailure {
    let reason = part.failure.as_deref().and_then(reason_named);
    let reason = reason.unwrap_or(Reason::BuilderFailed);
    let told = match view.map(PodView::state) {
        Some(PodState::Ended(Ended::Failed(failure))) if failure.reason == reason => Some(failure),
        _ => None,
    };
    let message = told.as_ref().map(|failure| failure.message.clone());
    let message = message.or_else(|| part.message.clone()).unwrap_or_default();
    PodFailure {
        missing_image: told.and_then(|failure| failure.missing_image),
        ..PodFailure::lasting(reason, format!("{}: {message}", part.name))
    }
}

/// Writes into `attempt` what a platform was built from.
pub(super) fn note_bases(attempt: &mut Attempt, built: &BuildOutcome) {
    let bases = &mut attempt.base_images;
    for base in sound_bases(built) {
        let known = bases.iter().any(|known| known.reference == base.reference);
        if !known && bases.len() < MAX_BASES {
            bases.push(base);
        }
    }
}

/// Whether the attempt is to be stopped, is being stopped, or was.
fn stop(attempt: &mut Attempt, observed: &Observed, wishes: &Wishes<'_>) -> Option<Fate> {
    let active: Vec<&PodView> = pods_of_attempt(attempt, &observed.parts)
        .filter(|view| view.is_active())
        .collect();
    if stopped(attempt).is_none() {
        let (reason, message) = why_stop(attempt, &active, observed, wishes)?;
        if active.iter().any(|view| !view.pod.deleting) {
            return Some(Fate::Stop { reason, message });
        }
        attempt.failure = Some(reason.as_str().to_owned());
    }
    let reason = attempt.failure.as_deref().and_then(reason_named)?;
    if active.iter().any(|view| !view.pod.deleting) {
        let message = reason.meaning().to_owned();
        Some(Fate::Stop { reason, message })
    } else if active.is_empty() {
        stopped(attempt)
    } else {
        Some(Fate::Stopping { reason })
    }
}

fn why_stop(
    attempt: &Attempt,
    active: &[&PodView],
    observed: &Observed,
    wishes: &Wishes<'_>,
) -> Option<(Reason, String)> {
    let name = attempt.pod.as_deref().unwrap_or_default();
    if spec_part(&attempt.key) != wishes.spec_hash {
        return Some((
            Reason::Superseded,
            format!("the spec changed while {name} ran"),
        ));
    }
    let pods = attempt.parts.iter().filter_map(|part| part.pod.as_deref());
    if let Some(cancel) = wishes.cancel
        && pods.chain([name]).any(|pod| pod == cancel)
    {
        return Some((
            Reason::Cancelled,
            format!("{name} was cancelled by its annotation"),
        ));
    }
    let starts_more = due(attempt, observed.now)
        .iter()
        .any(|(part, _)| part.name != JOIN);
    if starts_more && content_changed(attempt, observed) {
        let message = format!("source or inputs changed before all platforms of {name} ran");
        return Some((Reason::Superseded, message));
    }
    active
        .iter()
        .find_map(|view| to_stop(view, observed.now, wishes))
}

/// Whether the source or the inputs are known to be others than those of `attempt`. A commit can always be had again.
fn content_changed(attempt: &Attempt, observed: &Observed) -> bool {
    let Ok(spec) = &observed.spec else {
        return false;
    };
    if observed.source_problem(spec).is_some() || observed.input_problem(spec).is_some() {
        return false;
    }
    let made = Key::read(&attempt.key);
    let source = observed
        .revision()
        .map_or_else(|| part(&[]), |text| part(&[text]));
    let fixed = matches!(spec.source, SourceSpec::Git { .. });
    (!fixed && made.source != source) || made.inputs != part(&observed.input_values())
}

/// What the parts wait for, if that is worth telling.
fn waiting(attempt: &Attempt, observed: &Observed, limit: u32) -> Option<(Reason, String)> {
    let stuck = attempt.parts.iter().find_map(|part| {
        let view = newest_of(attempt, part, observed)?;
        let PodState::Waiting { reason, message } = view.state() else {
            return None;
        };
        let (name, pod) = (&part.name, &view.pod.identity.name);
        let message = if reason == Reason::Unschedulable && part.name != JOIN {
            let architecture = node_architecture(name);
            format!(
                "{name}: a RUN is for it, so pod {pod} needs a node of architecture {architecture} ({}={architecture}); {message}",
                super::ARCHITECTURE_LABEL,
            )
        } else {
            format!("{name}: pod {pod}: {message}")
        };
        (reason != Reason::Pending).then_some((reason, message))
    });
    stuck.or_else(|| {
        let failed = attempt.parts.iter().find(|part| part.next_time.is_some())?;
        Some((
            Reason::RetryPending,
            format!(
                "{}: {}: {}; retry {} of {limit} starts at {}",
                failed.name,
                failed.failure.as_deref().unwrap_or_default(),
                printable(failed.message.as_deref().unwrap_or_default()),
                failed.retries + 1,
                failed.next_time.as_ref()?.0,
            ),
        ))
    })
}
