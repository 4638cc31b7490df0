//! Decides what a Registry's children are to be. Pure.

use std::time::Duration;

use crds::Registry;
use k8s_openapi::api::core::v1::{PersistentVolumeClaim, Pod};
use kube::ResourceExt;

use crate::plan::{Plan, Prepared};
use crate::registry::config::{self, Credentials};
use crate::registry::host;
use crate::registry::observe::Observed;
use crate::registry::validate::{Storage, Validated};
use crate::registry::workload;

/// How often a Registry is looked at though nothing changed: a deleted Secret is noticed by that alone.
const INTERVAL: Duration = Duration::from_secs(60);

/// What the status of a Registry is derived from, besides its Deployment.
#[derive(Debug)]
pub struct Decision {
    /// Name of the registry in image references.
    pub host: String,
    /// The image that it runs.
    pub image: String,
    /// The pods that were seen.
    pub pods: Vec<Pod>,
    /// The claim that was seen; `None` when it is new or there is none.
    pub claim: Option<PersistentVolumeClaim>,
}

/// Decides what the children of `registry` are to be.
pub fn plan(
    registry: &Registry,
    observed: Observed,
    validated: &Validated,
) -> Plan<Prepared, Decision> {
    let uid = registry.uid().unwrap_or_default();
    let host = host(
        &registry.name_any(),
        &registry.namespace().unwrap_or_default(),
    );
    let credentials = Credentials::of(observed.credentials.as_ref(), &observed.fresh_password);
    let config = config::data(&credentials, &uid);
    let config_hash = config::hash(&config);
    let mut plan = Plan::new(Decision {
        host: host.clone(),
        image: observed.image.name.clone(),
        pods: observed.pods,
        claim: observed.claim.clone(),
    });
    // What a pod needs comes before the pod.
    plan.apply(
        &workload::credentials_secret(registry, credentials.data(&host)),
        observed.credentials.as_ref(),
    );
    plan.apply(
        &workload::config_secret(registry, config),
        observed.config.as_ref(),
    );
    if let Storage::Claim {
        size,
        class,
        when_deleted,
    } = &validated.storage
    {
        plan.apply(
            &workload::claim(registry, size, class.as_deref(), *when_deleted),
            observed.claim.as_ref(),
        );
    }
    plan.apply(&workload::service(registry), observed.service.as_ref());
    plan.apply(
        &workload::deployment(registry, &observed.image, &validated.storage, &config_hash),
        observed.deployment.as_ref(),
    );
    plan.requeue_after(INTERVAL);
    plan
}
