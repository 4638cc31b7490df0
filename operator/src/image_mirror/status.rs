//! The status of an ImageMirror: what was decided, and what the API server made of it. Pure.

use crds::{ImageMirror, ImageMirrorStatus};
use k8s_openapi::api::core::v1::Pod;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use kube::{Resource, ResourceExt};

use super::plan::Decision;
use crate::condition::Summary;
use crate::reconcile::Outcome;

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
    status
}
