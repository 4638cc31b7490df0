//! Derives the status of a Registry from its Deployment, pods and claim. Pure.

use crds::{Registry, RegistryStatus};
use k8s_openapi::api::apps::v1::Deployment;
use k8s_openapi::api::core::v1::{PersistentVolumeClaim, Pod};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use kube::{Resource, ResourceExt};

use crate::condition::Summary;
use crate::pod_state;
use crate::reason::Reason;
use crate::reconcile::Outcome;
use crate::registry::plan::Decision;

/// The status of `registry` after `outcome`.
pub fn status(registry: &Registry, outcome: Outcome<'_, Decision>, now: &Time) -> RegistryStatus {
    let generation = registry.meta().generation.unwrap_or_default();
    let mut status = registry.status.clone().unwrap_or_default();
    let summary = match outcome {
        Outcome::Failed { error, .. } => Summary::of_error(error),
        Outcome::Applied(plan) => {
            let deployment: Option<Deployment> = plan.answer(&registry.name_any());
            let decision = &plan.decision;
            status.host = Some(decision.host.clone());
            status.version = Some(version(&decision.image));
            status.ready_replicas = Some(ready_replicas(deployment.as_ref()));
            summary(decision, deployment.as_ref())
        }
    };
    status.observed_generation = Some(generation);
    status.last_handled_requested_at = crate::request::requested_at(registry);
    summary.write(&mut status.conditions, generation, now);
    status
}

/// Whether the registry serves, or what it waits for.
fn summary(decision: &Decision, deployment: Option<&Deployment>) -> Summary {
    let Some(deployment) = deployment else {
        return Summary::waiting(Reason::Deploying, "the Deployment is being made");
    };
    if is_current(deployment) && ready_replicas(Some(deployment)) > 0 {
        let message = format!("serving at {}", decision.host);
        return Summary::ready(Reason::Available, message);
    }
    if let Some((reason, message)) = claim_problem(decision.claim.as_ref(), &decision.pods) {
        return Summary::waiting(reason, &message);
    }
    if let Some(waiting) = decision.pods.iter().find_map(pod_state::waiting) {
        return Summary::waiting(waiting.reason, &waiting.message);
    }
    if let Some((reason, message)) = replica_failure(deployment) {
        return Summary::waiting(reason, &message);
    }
    Summary::waiting(Reason::Deploying, "the registry's pod is being started")
}

/// Whether the Deployment controller has seen the Deployment as it is.
fn is_current(deployment: &Deployment) -> bool {
    let observed = deployment
        .status
        .as_ref()
        .and_then(|status| status.observed_generation)
        .unwrap_or(0);
    let updated = deployment
        .status
        .as_ref()
        .and_then(|status| status.updated_replicas)
        .unwrap_or(0);
    observed >= deployment.metadata.generation.unwrap_or(0) && updated > 0
}

fn ready_replicas(deployment: Option<&Deployment>) -> i32 {
    deployment
        .and_then(|deployment| deployment.status.as_ref())
        .and_then(|status| status.ready_replicas)
        .unwrap_or(0)
}

/// Why there is no pod at all: what the ReplicaSet controller was told by the API server.
fn replica_failure(deployment: &Deployment) -> Option<(Reason, String)> {
    let conditions = deployment.status.as_ref()?.conditions.as_ref()?;
    let failure = conditions
        .iter()
        .find(|c| c.type_ == "ReplicaFailure" && c.status == "True")?;
    let message = failure.message.clone().unwrap_or_default();
    let reason = if message.contains("exceeded quota") || message.contains("failed quota") {
        Reason::QuotaExceeded
    } else if message.contains("violates PodSecurity") {
        Reason::PodSecurityForbidden
    } else {
        Reason::ChildRefused
    };
    Some((reason, message))
}

/// What is wrong with the claim. A claim whose class waits for a pod is pending only until there is one.
fn claim_problem(claim: Option<&PersistentVolumeClaim>, pods: &[Pod]) -> Option<(Reason, String)> {
    let claim = claim?;
    let name = claim.name_any();
    match claim.status.as_ref()?.phase.as_deref()? {
        "Lost" => Some((
            Reason::ClaimLost,
            format!("the volume of the claim {name} is gone"),
        )),
        "Pending" => {
            let said = pods
                .iter()
                .find_map(pod_state::waiting)
                .filter(|waiting| waiting.reason == Reason::Unschedulable)
                .map(|waiting| format!(": {}", waiting.message))
                .unwrap_or_default();
            Some((
                Reason::ClaimPending,
                format!("the claim {name} has no volume yet{said}"),
            ))
        }
        _ => None,
    }
}

/// The tag of `image`, or its digest.
fn version(image: &str) -> String {
    let (name, digest) = image
        .split_once('@')
        .map_or((image, None), |(name, digest)| (name, Some(digest)));
    let tag = name
        .rsplit('/')
        .next()
        .and_then(|last| last.split_once(':'))
        .map(|(_, tag)| tag);
    crds::condition::truncate(tag.or(digest).unwrap_or("latest"), 128)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn version_is_the_tag_or_the_digest() {
        for (image, expected) in [
            ("registry:3", "3"),
            ("docker.io/library/registry:3.1.2", "3.1.2"),
            ("host:5000/registry", "latest"),
            ("host:5000/registry:3@sha256:ab", "3"),
            ("host:5000/registry@sha256:ab", "sha256:ab"),
        ] {
            assert_eq!(version(image), expected, "{image}");
        }
    }
}
