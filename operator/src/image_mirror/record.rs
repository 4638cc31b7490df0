//! The lists in the status of an ImageMirror: counts, images and failures. Cut to what a status should hold; what is not
//! in them is in the registry. Pure.

use crds::ImageMirrorStatus;
use crds::condition::truncate;
use crds::image_mirror::{SyncedImage, TagCounts};
use jiff::{SignedDuration, Timestamp};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;

use super::account::{Fate, asked_for};
use super::cadence::Cadence;
use super::observed::{Observed, current_pod};
use crate::builder_pod::PodView;
use crate::builder_pod::outcome::reason_of;
use crate::image_build::observed::RegistryState;
use crate::image_build::record::whole_seconds;

/// Images that are listed.
const MAX_IMAGES: usize = 15;
/// Failures that are listed.
const MAX_FAILURES: usize = 10;
/// The longest failure.
const MAX_FAILURE_BYTES: usize = 256;

/// Writes what both sides hold into `status`; nothing changes where they were not looked at.
pub fn record(status: &mut ImageMirrorStatus, observed: &Observed, fate: &Fate) {
    let RegistryState::Ready { host } = &observed.registry else {
        return;
    };
    if observed.look.is_none() {
        return;
    }
    let current = current_pod(status, &observed.pods);
    let ended_now = matches!(fate, Fate::Ended { now: true });
    let copied: Vec<String> = current
        .filter(|_| ended_now)
        .map(|pod| asked_for(pod).into_iter().map(|(_, to)| to).collect())
        .unwrap_or_default();
    let mut images = Vec::new();
    let mut synced = 0;
    for (tag, look) in observed.looked() {
        let (Some((source, digest)), Some(place)) = (look.synced(), tag.destination(host)) else {
            continue;
        };
        synced += 1;
        let repository = place.repository().to_string();
        let before = status.images.iter().find(|image| {
            image.repository == repository
                && image.tag == tag.tag.as_str()
                && image.digest == digest.as_str()
        });
        let synced_at = if copied.contains(&place.to_string()) {
            Some(Time(whole_seconds(observed.now)))
        } else {
            before.and_then(|image| image.synced_at.clone())
        };
        images.push(SyncedImage {
            repository,
            tag: tag.tag.as_str().to_owned(),
            digest: digest.to_string(),
            source_digest: (source != digest).then(|| source.to_string()),
            synced_at,
        });
    }
    images.sort_by(|a, b| {
        b.synced_at
            .cmp(&a.synced_at)
            .then_with(|| (&a.repository, &a.tag).cmp(&(&b.repository, &b.tag)))
    });
    images.truncate(MAX_IMAGES);
    let (failures, failed) = failures(status, observed, current);
    status.images = images;
    status.failures = failures;
    let selected = observed.looked().count();
    status.tags = Some(TagCounts {
        selected: count(selected),
        synced: count(synced),
        failed: count(failed),
    });
}

/// Writes when the source is looked at again. Times of a schedule are known beforehand; an interval is counted from the last
/// sync on, which has written its end: a later time is of a cadence that holds no more.
pub fn next_sync(status: &mut ImageMirrorStatus, cadence: &Cadence, now: Timestamp) {
    let longest = now + SignedDuration::try_from(cadence.wait(now)).unwrap_or(SignedDuration::MAX);
    if let Some(slot) = cadence.next_slot(now) {
        status.next_sync = Some(Time(slot));
    } else if status
        .next_sync
        .as_ref()
        .is_some_and(|next| next.0 > longest)
    {
        status.next_sync = None;
    }
}

fn count(number: usize) -> i32 {
    i32::try_from(number).unwrap_or(i32::MAX)
}

/// What cannot be mirrored and why, and how many tags that are: what looking tells, then what the last pod told of tags
/// that still differ, then what was known of them before.
fn failures(
    status: &ImageMirrorStatus,
    observed: &Observed,
    current: Option<&PodView>,
) -> (Vec<String>, usize) {
    let told = current.map(told_by).unwrap_or_default();
    let mut failures: Vec<String> = observed
        .problems()
        .iter()
        .map(|p| format!("{}: {}: {}", p.what, p.reason.as_str(), p.message))
        .collect();
    for (tag, look) in observed.looked() {
        let name = tag.source.to_string();
        let prefix = format!("{name}: ");
        if let Some((reason, message, _)) = look.problem() {
            failures.push(format!("{prefix}{}: {message}", reason.as_str()));
        } else if look.pending().is_some() {
            let by_pod = told
                .iter()
                .find(|(source, _)| *source == name)
                .map(|(_, text)| format!("{prefix}{text}"));
            let before = || {
                status
                    .failures
                    .iter()
                    .find(|f| f.starts_with(&prefix))
                    .cloned()
            };
            failures.extend(by_pod.or_else(before));
        }
    }
    let failed = failures.len();
    let listed = failures
        .into_iter()
        .take(MAX_FAILURES)
        .map(|text| truncate(&text, MAX_FAILURE_BYTES))
        .collect();
    (listed, failed)
}

/// Sources that a pod could not copy, and why.
fn told_by(pod: &PodView) -> Vec<(String, String)> {
    let asked = asked_for(pod);
    let Some(outcome) = pod.mirrored() else {
        return Vec::new();
    };
    outcome
        .images
        .iter()
        .filter_map(|image| {
            let failure = image.failure.as_ref()?;
            let (source, _) = asked.get(usize::try_from(image.index).ok()?)?;
            let reason = reason_of(failure.kind).as_str();
            Some((source.clone(), format!("{reason}: {}", failure.message)))
        })
        .collect()
}
