//! The status of an ImageBuild: what was decided, and what the API server made of it. Pure.

use crds::condition::{self, ConditionStatus, Conditions};
use crds::{ImageBuild, ImageBuildStatus};
use k8s_openapi::api::core::v1::Pod;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use kube::{Resource, ResourceExt};

use super::plan::Decision;
use super::record;
use crate::builder_pod::{ObservedPod, Owner};
use crate::condition::Summary;
use crate::reason::Reason;
use crate::reconcile::Outcome;

/// Derives the status after `outcome`.
pub fn status(build: &ImageBuild, outcome: Outcome<'_, Decision>, now: &Time) -> ImageBuildStatus {
    let generation = build.meta().generation.unwrap_or_default();
    match outcome {
        Outcome::Applied(plan) => {
            let decision = &plan.decision;
            let answer = |name: &String| plan.answer::<Pod>(name);
            let started = decision
                .start
                .as_ref()
                .and_then(|start| answer(&start.name));
            let mut status = applied(build, decision, started, generation, now);
            let parts = decision.parts.iter();
            let started = parts.filter_map(|start| Some((start, answer(&start.name)?)));
            record::parts_started(&mut status, started);
            status
        }
        Outcome::Failed { error, decision } => {
            let mut status = decision.map_or_else(
                || build.status.clone().unwrap_or_default(),
                |decision| decision.status.clone(),
            );
            status.observed_generation = Some(generation);
            Summary::of_error(error).write(&mut status.conditions, generation, now);
            // A status that stood for another spec is not one of the present spec.
            let mut conditions = Conditions::new(&mut status.conditions, generation, now);
            let reason = error.reason().as_str();
            conditions.set(
                condition::UP_TO_DATE,
                ConditionStatus::Unknown,
                reason,
                "what is to be there could not be found out or made",
            );
            status
        }
    }
}

fn applied(
    build: &ImageBuild,
    decision: &Decision,
    started: Option<Pod>,
    generation: i64,
    now: &Time,
) -> ImageBuildStatus {
    let mut status = decision.status.clone();
    if let (Some(start), Some(pod)) = (&decision.start, started) {
        let mut attempt = start.attempt.clone();
        attempt.pod_uid = pod.uid();
        status.attempt = Some(attempt);
        if let Some(observed) = ObservedPod::recognise(&Owner::of(build), &[], pod) {
            record::record_started(&mut status, &observed);
        }
    }
    status.observed_generation = Some(generation);
    status
        .last_handled_requested_at
        .clone_from(&decision.requested_at);
    status.last_handled_force_at.clone_from(&decision.force_at);
    decision
        .summary
        .write(&mut status.conditions, generation, now);
    let verified = verified(&status);
    let mut conditions = Conditions::new(&mut status.conditions, generation, now);
    let mut set = |type_: &str, told: &(ConditionStatus, Reason, String)| {
        let (value, reason, message) = told;
        conditions.set(type_, *value, reason.as_str(), message);
    };
    let summary = &decision.summary;
    let unknown = || {
        (
            ConditionStatus::Unknown,
            summary.reason,
            summary.message.clone(),
        )
    };
    set(
        condition::SUCCEEDED,
        &decision.succeeded.clone().unwrap_or_else(unknown),
    );
    set(condition::UP_TO_DATE, &decision.up_to_date);
    match verified {
        Some(verified) => set(condition::VERIFIED, &verified),
        None => conditions.remove(condition::VERIFIED),
    }
    status
}

/// Whether what the builder said was read back from every destination; none before there is an image.
fn verified(status: &ImageBuildStatus) -> Option<(ConditionStatus, Reason, String)> {
    let names = |word: &str| {
        let names: Vec<&str> = status
            .destinations
            .iter()
            .filter(|destination| destination.verified == word)
            .map(|destination| destination.name.as_str())
            .collect();
        (!names.is_empty()).then(|| names.join(", "))
    };
    if let Some(names) = names("False") {
        let reason = Reason::VerificationFailed;
        return Some((
            ConditionStatus::False,
            reason,
            reason.explain(&format!("another image is at {names}")),
        ));
    }
    if let Some(names) = names("Unknown") {
        let reason = Reason::VerificationPending;
        return Some((
            ConditionStatus::Unknown,
            reason,
            reason.explain(&format!("the image could not be read back from {names}")),
        ));
    }
    names("True").map(|_| {
        (
            ConditionStatus::True,
            Reason::Succeeded,
            "the image was read back from every destination".to_owned(),
        )
    })
}
