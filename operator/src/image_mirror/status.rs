//! The status of an ImageMirror: what was decided, and what the API server made of it. Pure.

use crds::{ImageMirror, ImageMirrorStatus};
use k8s_openapi::api::core::v1::Pod;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use kube::{Resource, ResourceExt};

use super::plan::Decision;
use crate::condition::Summary;
use crate::reconcile::Outcome;

/// What a resource of ours may weigh in the API server's store, in bytes, without the fields that the server manages.
const MAX_RESOURCE_BYTES: usize = 16 * 1024 - 256;
/// The most and the least of that which is for the status.
const MAX_STATUS_BYTES: usize = 12 * 1024;
const MIN_STATUS_BYTES: usize = 4 * 1024;

/// Derives the status after `outcome`.
pub fn status(
    mirror: &ImageMirror,
    outcome: Outcome<'_, Decision>,
    now: &Time,
) -> ImageMirrorStatus {
    let generation = mirror.meta().generation.unwrap_or_default();
    let (mut status, summary) = match outcome {
        Outcome::Applied(plan) => {
            let decision = &plan.decision;
            let mut status = decision.status.clone();
            if let Some(start) = &decision.start
                && let Some(pod) = plan.answer::<Pod>(&start.name)
            {
                let mut attempt = start.attempt.clone();
                attempt.pod_uid = pod.uid();
                status.attempt = Some(attempt);
            }
            (status, decision.summary.clone())
        }
        Outcome::Failed { error, decision } => {
            let old = mirror.status.clone().unwrap_or_default();
            let mut status = decision.map_or_else(|| old.clone(), |d| d.status.clone());
            // Wishes count as acted on only when what they led to was carried out.
            status.last_handled_requested_at = old.last_handled_requested_at;
            status.last_handled_force_at = old.last_handled_force_at;
            (status, Summary::of_error(error))
        }
    };
    status.observed_generation = Some(generation);
    summary.write(&mut status.conditions, generation, now);
    cut(&mut status, room(mirror));
    status
}

/// How large a status may be beside the rest of `mirror`, in bytes.
fn room(mirror: &ImageMirror) -> usize {
    let mut rest = mirror.clone();
    rest.status = None;
    rest.metadata.managed_fields = None;
    let room = MAX_RESOURCE_BYTES.saturating_sub(size(&rest));
    room.clamp(MIN_STATUS_BYTES, MAX_STATUS_BYTES)
}

/// Cuts the lists until the status has at most `room` bytes: the images that were synced first, then what is planned to be
/// deleted, then failures. Their counts stay.
fn cut(status: &mut ImageMirrorStatus, room: usize) {
    while size(status) > room {
        if status.images.len() > 1 {
            status.images.pop();
        } else if status.prune_plan.len() > 1 {
            status.prune_plan.pop();
        } else if status.failures.pop().is_none()
            && status.images.pop().is_none()
            && status.prune_plan.pop().is_none()
        {
            return;
        }
    }
}

fn size(value: &impl serde::Serialize) -> usize {
    serde_json::to_string(value).map_or(0, |json| json.len())
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "tests")]
    use serde_json::{Value, json};

    use super::*;

    /// A mirror of `entries` images whose lists are as long as their bounds.
    fn full(entries: usize, name: usize) -> (ImageMirror, ImageMirrorStatus) {
        let images: Vec<Value> = (0..entries)
            .map(|n| json!({"name": format!("image-{n}"), "repository": format!("team/image-{n}"), "tags": {"all": true}}))
            .collect();
        let mirror = serde_json::from_value(json!({
            "metadata": {"name": "hub", "namespace": "team"},
            "spec": {"source": {"host": "docker.io"}, "destination": {"registry": {"name": "main"}}, "images": images},
        }));
        let digest = format!("sha256:{}", "a".repeat(64));
        let synced = json!({"repository": format!("main.team.svc:5000/{}", "r".repeat(name)), "tag": "t".repeat(name / 2),
            "digest": digest, "sourceDigest": digest, "syncedAt": "2026-01-01T00:00:00Z"});
        let status = json!({
            "tags": {"selected": 100_000, "synced": 50_000, "failed": 50_000},
            "images": vec![synced; 15],
            "failures": vec!["f".repeat(256); 10],
            "report": format!("main.team.svc:5000/{}@{digest}", "r".repeat(name)),
            "prunePlan": vec!["p".repeat(name * 3 / 2); 10],
            "lastPrune": {"time": "2026-01-01T00:00:00Z", "key": "k".repeat(16), "written": 100_000, "planned": 100_000,
                "deleted": 50_000, "kept": 50_000, "failed": 50_000, "message": "m".repeat(256)},
            "lastCheck": {"time": "2026-01-01T00:00:00Z", "tags": 100_000, "missing": 100_000, "repaired": 50_000,
                "failed": 50_000, "message": "m".repeat(256)},
        });
        (mirror.unwrap(), serde_json::from_value(status).unwrap())
    }

    #[test]
    fn a_resource_of_many_tags_and_entries_stays_small() {
        for (entries, name) in [(1, 20), (1, 250), (100, 20), (100, 250)] {
            let (mut mirror, mut status) = full(entries, name);
            let now = Time("2026-01-01T00:00:00Z".parse().unwrap());
            let told = "m".repeat(1024);
            let summary = Summary::stalled(crate::reason::Reason::SyncFailed, &told);
            summary.write(&mut status.conditions, 1, &now);
            cut(&mut status, room(&mirror));
            assert!(size(&status) <= MAX_STATUS_BYTES);
            assert!(!status.images.is_empty() && !status.failures.is_empty());
            assert_eq!(status.tags.as_ref().unwrap().selected, 100_000);
            mirror.status = Some(status);
            assert!(
                size(&mirror) < 16 * 1024,
                "{entries} {name}: {}",
                size(&mirror)
            );
        }
    }

    #[test]
    fn a_status_that_fits_is_left_as_it_is() {
        let (mirror, status) = full(1, 20);
        let mut cut_status = status.clone();
        cut(&mut cut_status, room(&mirror));
        assert_eq!(cut_status, status);
    }
}
