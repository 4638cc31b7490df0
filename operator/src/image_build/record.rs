//! The records in the status of an ImageBuild: the present attempt, the history, and the image that is there. Written
//! from what pods and destinations tell; what follows from it is decided in `account`. Pure.

use crds::condition::truncate;
use crds::image_build::{
    Attempt, AttemptPart, BaseImage, Build, CacheMiss, DestinationStatus, ImageBuildStatus,
    IsolationStatus, PlatformStatus, SourceStatus,
};
use jiff::Timestamp;
use k8s_openapi::api::core::v1::Pod;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use kube::ResourceExt;
use protocol::{BuildOutcome, Isolation};

use super::account::{CANCELLED, FAILED, RUNNING, SUCCEEDED};
use super::key::{Key, part};
use super::observed::{Observed, ReadBack, Verification};
use super::split::PartStart;
use super::validate::{SourceSpec, ValidatedBuild};
use crate::builder_pod::outcome::printable;
use crate::builder_pod::shape::isolation_word;
use crate::builder_pod::{
    self, Ended, ISOLATION_ANNOTATION, ObservedPod, PodFailure, PodState, PodView,
};
use crate::git::GitRef;
use crate::reason::Reason;

/// Records of builds that are kept.
const MAX_BUILDS: usize = 10;
/// Base images that are kept.
pub const MAX_BASES: usize = 16;
/// Steps that the cache did not answer that are kept, of each build.
const MAX_MISSES: usize = 5;
/// The longest text of such a step.
const MAX_MISS_STEP: usize = 128;
/// The longest reason of such a step.
const MAX_MISS_REASON: usize = 256;
/// Platforms of an index that are kept.
const MAX_PLATFORMS: usize = 8;
/// The longest name of a platform.
const MAX_PLATFORM: usize = 32;
/// The longest message of a record.
const MAX_RECORD_MESSAGE: usize = 512;

/// Makes the pod that the status does not know the present attempt.
pub fn adopt(status: &mut ImageBuildStatus, view: &PodView) {
    let identity = &view.pod.identity;
    let known = status
        .attempt
        .as_ref()
        .and_then(|attempt| attempt.pod_uid.as_deref());
    if known == Some(identity.uid.as_str()) {
        return;
    }
    let (made, name) = (&view.pod.attempt, identity.name.clone());
    status.attempt = Some(running(made, name, Some(identity.uid.clone())));
}

/// The attempt that a pod makes, as it stands in the status while it runs.
pub fn running(made: &builder_pod::Attempt, pod: String, uid: Option<String>) -> Attempt {
    Attempt {
        key: made.key.clone(),
        number: i32::try_from(made.number).unwrap_or(i32::MAX),
        retries: i32::try_from(made.retries).unwrap_or(i32::MAX),
        environment: Some(made.environment.clone()),
        reason: made.reason.clone(),
        pod: Some(pod),
        pod_uid: uid,
        generation: Some(made.generation),
        commit: made.commit.clone(),
        result: Some(RUNNING.to_owned()),
        ..Attempt::default()
    }
}

/// The part that the pod `pod` makes after `retries` others, as it stands in the status while it runs.
pub fn running_part(name: &str, pod: &str, uid: Option<String>, retries: u32) -> AttemptPart {
    AttemptPart {
        name: name.to_owned(),
        pod: Some(pod.to_owned()),
        pod_uid: uid,
        retries: i32::try_from(retries).unwrap_or(i32::MAX),
        result: Some(RUNNING.to_owned()),
        ..AttemptPart::default()
    }
}

/// The base images that a builder tells of, but for what cannot be one.
pub fn sound_bases(built: &BuildOutcome) -> impl Iterator<Item = BaseImage> {
    let told = built.base_images.iter();
    told.filter(|base| base.reference.len() <= 512 && base.digest.parse::<oci::Digest>().is_ok())
        .map(|base| BaseImage {
            reference: base.reference.clone(),
            digest: base.digest.clone(),
            mirror: base.mirror.clone().filter(|mirror| mirror.len() <= 512),
        })
}

/// Brings the history up to date with `pods`: a record for each, with start and end as they become known. A record that
/// still says Running although it is neither the present attempt nor a pod has lost its pod.
pub fn record(status: &mut ImageBuildStatus, pods: &[PodView]) {
    for view in pods {
        note(status, view);
    }
    let current = status.attempt.as_ref().and_then(|a| a.pod.clone());
    for build in &mut status.builds {
        let running = build.result.as_deref() == Some(RUNNING);
        let there = pods.iter().any(|view| view.pod.identity.name == build.name);
        if running && !there && Some(&build.name) != current.as_ref() {
            build.result = Some(CANCELLED.to_owned());
        }
    }
}

/// Writes into the present attempt the pods of its parts that were created just now.
pub fn parts_started<'a>(
    status: &mut ImageBuildStatus,
    started: impl Iterator<Item = (&'a PartStart, Pod)>,
) {
    let Some(attempt) = &mut status.attempt else {
        return;
    };
    for (start, pod) in started {
        if let Some(part) = attempt.parts.iter_mut().find(|p| p.name == start.part) {
            *part = running_part(&start.part, &start.name, pod.uid(), start.retries);
        }
    }
}

/// A record for a pod that was created just now.
pub fn record_started(status: &mut ImageBuildStatus, pod: &ObservedPod) {
    note(
        status,
        &PodView {
            pod: pod.clone(),
            events: Vec::new(),
        },
    );
}

fn note(status: &mut ImageBuildStatus, view: &PodView) {
    let identity = &view.pod.identity;
    let made = &view.pod.attempt;
    let started = view.pod.started().unwrap_or(view.pod.created);
    let index = status
        .builds
        .iter()
        .position(|build| build.name == identity.name);
    let Some(index) = index else {
        let oldest = status.builds.last().and_then(|b| b.start_time.as_ref());
        let is_older = oldest.is_some_and(|oldest| started < oldest.0);
        if status.builds.len() < MAX_BUILDS || !is_older {
            let build = Build {
                name: identity.name.clone(),
                reason: if made.retries > 0 {
                    "Retry".to_owned()
                } else {
                    made.reason.clone()
                },
                start_time: Some(Time(started)),
                result: Some(RUNNING.to_owned()),
                ..Build::default()
            };
            // Before those that started in the same second.
            status.builds.insert(0, build);
            sort_and_cut(&mut status.builds);
            if status
                .builds
                .iter()
                .any(|build| build.name == identity.name)
            {
                note(status, view);
            }
        }
        return;
    };
    let current = status.attempt.as_ref().and_then(|a| a.pod_uid.as_deref());
    let is_current = current == Some(identity.uid.as_str());
    let build = &mut status.builds[index];
    if build.result.as_deref() != Some(RUNNING) {
        return;
    }
    build.start_time = Some(Time(started));
    if let (PodState::Ended(ended), false) = (view.state(), is_current) {
        build.completion_time = finished_at(view).map(Time);
        match ended {
            Ended::Failed(failure) => {
                build.result = Some(FAILED.to_owned());
                build.message = Some(truncate(&failure.message, MAX_RECORD_MESSAGE));
            }
            Ended::Reported(_) => {
                build.result = Some(SUCCEEDED.to_owned());
                if let Some(built) = view.built() {
                    note_built(build, &built);
                }
            }
        }
    }
}

fn sort_and_cut(builds: &mut Vec<Build>) {
    let start = |build: &Build| build.start_time.as_ref().map(|time| time.0);
    builds.sort_by_key(|build| std::cmp::Reverse(start(build)));
    builds.truncate(MAX_BUILDS);
}

fn build_of<'a>(status: &'a mut ImageBuildStatus, attempt: &Attempt) -> Option<&'a mut Build> {
    status
        .builds
        .iter_mut()
        .find(|build| Some(&build.name) == attempt.pod.as_ref())
}

/// Writes into the record of `attempt` that it was cancelled; its pod may need a while to end.
pub fn cancel(status: &mut ImageBuildStatus, attempt: &Attempt) {
    if let Some(build) = build_of(status, attempt) {
        build.result = Some(CANCELLED.to_owned());
    }
}

/// Writes how the build of `attempt` ended into its record.
pub fn close(
    status: &mut ImageBuildStatus,
    attempt: &Attempt,
    ended: Option<Timestamp>,
    built: Option<&BuildOutcome>,
    message: Option<&str>,
) {
    if let Some(build) = build_of(status, attempt) {
        build.result.clone_from(&attempt.result);
        if let Some(ended) = ended {
            build.completion_time = Some(Time(whole_seconds(ended)));
        }
        build.message = message.map(|text| truncate(text, MAX_RECORD_MESSAGE));
        if let Some(built) = built {
            note_built(build, built);
        }
    }
}

fn note_built(build: &mut Build, built: &BuildOutcome) {
    build.digest = Some(built.digest.clone());
    build.steps = i32::try_from(built.steps).ok();
    build.cached_steps = i32::try_from(built.cached_steps).ok();
    build.cache_misses = built
        .misses
        .iter()
        .take(MAX_MISSES)
        .map(|miss| CacheMiss {
            step: truncate(&printable(&miss.step), MAX_MISS_STEP),
            reason: truncate(&printable(&miss.reason), MAX_MISS_REASON),
        })
        .collect();
}

/// Names of destinations and the word for what was found there.
pub fn verdicts(read_back: &ReadBack) -> impl Iterator<Item = (&str, &'static str)> {
    read_back.destinations.iter().map(|(name, found)| {
        let word = match found {
            Verification::Same => "True",
            Verification::Differs(_) => "False",
            Verification::Unknown(_) => "Unknown",
        };
        (name.as_str(), word)
    })
}

/// Writes the image that an attempt has made into the status.
pub fn publish(
    status: &mut ImageBuildStatus,
    attempt: &Attempt,
    built: &BuildOutcome,
    spec: &ValidatedBuild,
    observed: &Observed,
) {
    let values = spec.source.values(attempt.commit.as_deref());
    let verdicts: Vec<(&str, &str)> = observed
        .read_back
        .as_ref()
        .map(|read_back| verdicts(read_back).collect())
        .unwrap_or_default();
    status.destinations = spec
        .destinations
        .iter()
        .filter_map(|destination| {
            let repository = destination.repository(&observed.registries)?;
            let tag = destination.tags.first()?.expand(&values).ok()?;
            let verified = verdicts
                .iter()
                .find(|(name, _)| *name == destination.name)
                .map_or("Unknown", |(_, verified)| verified);
            Some(DestinationStatus {
                name: destination.name.clone(),
                image: format!("{repository}:{}", tag.as_str()),
                digest: built.digest.clone(),
                verified: verified.to_owned(),
            })
        })
        .collect();
    status.image = spec
        .destinations
        .first()
        .and_then(|destination| destination.repository(&observed.registries))
        .map(|repository| format!("{repository}@{}", built.digest));
    status.digest = Some(built.digest.clone());
    status.size = i64::try_from(built.size).ok();
    status.platforms = built
        .platforms
        .iter()
        .take(MAX_PLATFORMS)
        .map(|image| PlatformStatus {
            platform: truncate(&printable(&image.platform), MAX_PLATFORM),
            digest: image.digest.clone(),
            size: i64::try_from(image.size).ok(),
        })
        .collect();
    status.built_generation = attempt.generation;
    status.source = match &spec.source {
        SourceSpec::Git { reference, .. } => Some(SourceStatus {
            commit: attempt.commit.clone(),
            digest: None,
            branch: match reference {
                GitRef::Branch(name) => Some(name.clone()),
                _ => None,
            },
        }),
        SourceSpec::Oci { .. } => Some(SourceStatus {
            digest: source_digest(attempt, built, observed),
            ..SourceStatus::default()
        }),
        _ => None,
    };
    status.base_images = sound_bases(built).take(MAX_BASES).collect();
    let (_, message) = observed.isolation(spec.isolation);
    status.isolation = Some(IsolationStatus {
        mode: isolation_word(built.isolation).to_owned(),
        message: message.map(str::to_owned),
    });
}

/// The digest of the source that `attempt` was made from: what the builder says and what is there now count only where the
/// attempt was made for it.
fn source_digest(attempt: &Attempt, built: &BuildOutcome, observed: &Observed) -> Option<String> {
    let made = Key::read(&attempt.key);
    let told = built.source.checksum.as_deref();
    [told, observed.revision()]
        .into_iter()
        .flatten()
        .find(|digest| part(&[digest]) == made.source)
        .map(str::to_owned)
}

/// Says in `status.isolation` why the isolation that was wanted cannot be had, when that is why an attempt failed.
pub fn note_isolation(
    status: &mut ImageBuildStatus,
    failure: &PodFailure,
    current: Option<&PodView>,
) {
    if !matches!(
        failure.reason,
        Reason::IsolationUnavailable
            | Reason::UserNamespacesUnavailable
            | Reason::VolumeNotIdmappable
    ) {
        return;
    }
    let annotations = current.and_then(|view| view.pod.pod.metadata.annotations.as_ref());
    let mode = annotations.and_then(|all| all.get(ISOLATION_ANNOTATION));
    let mode = mode.map_or(isolation_word(Isolation::UserNamespace), String::as_str);
    status.isolation = Some(IsolationStatus {
        mode: mode.to_owned(),
        message: Some(truncate(&failure.message, MAX_RECORD_MESSAGE)),
    });
}

/// When the container of a pod ended.
pub fn finished_at(view: &PodView) -> Option<Timestamp> {
    let status = view.pod.pod.status.as_ref()?;
    let container = status.container_statuses.iter().flatten().next()?;
    let terminated = container.state.as_ref()?.terminated.as_ref()?;
    terminated.finished_at.as_ref().map(|time| time.0)
}

/// Times in objects have whole seconds.
pub fn whole_seconds(time: Timestamp) -> Timestamp {
    Timestamp::from_second(time.as_second()).unwrap_or(time)
}
