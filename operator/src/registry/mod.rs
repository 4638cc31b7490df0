//! The controller of `Registry`: CNCF distribution as a Deployment, with storage, Service and credentials.
//!
//! ```text
//! Registry N ─┬─ Secret N-credentials   one generated user; who edits the password rotates it
//!             ├─ Secret N-config        config.yml and htpasswd, derived from the credentials
//!             ├─ PersistentVolumeClaim N (or an emptyDir in the pod)
//!             ├─ Service N              port 5000
//!             └─ Deployment N           one replica, recreated when the configuration changes
//! ```
//! The operator is not on the way of a pull or push: a registry serves on while the operator is away.

pub mod config;
pub mod observe;
pub mod plan;
pub mod status;
pub mod validate;
pub mod workload;

use crds::condition::Condition;
use crds::{Registry, RegistryStatus};
use k8s_openapi::api::apps::v1::Deployment;
use k8s_openapi::api::core::v1::{PersistentVolumeClaim, Pod, Service};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use kube::core::{DeserializeGuard, PartialObjectMeta};
use kube::runtime::controller::Controller;
use kube::runtime::watcher;

use crate::context::Context;
use crate::error::Result;
use crate::plan::{Applied, KIND_LABEL, Plan, Prepared};
use crate::reconcile::{Outcome, Reconciler, owner_by_label};

/// Port at which a registry serves.
pub const PORT: i32 = 5000;

/// Name of the Secret with the generated user of the Registry `registry`.
pub fn credentials_name(registry: &str) -> String {
    format!("{registry}-credentials")
}

/// Name of the Secret with the configuration of the Registry `registry`.
pub fn config_name(registry: &str) -> String {
    format!("{registry}-config")
}

/// Name of the Registry `registry` of `namespace` in image references.
pub fn host(registry: &str, namespace: &str) -> String {
    format!("{registry}.{namespace}.svc:{PORT}")
}

/// The controller of `Registry`.
pub struct RegistryReconciler;

impl Reconciler for RegistryReconciler {
    type Object = Registry;
    type Observed = observe::Observed;
    type Validated = validate::Validated;
    type Decision = plan::Decision;

    fn watches(
        controller: Controller<DeserializeGuard<Registry>>,
        context: &Context,
    ) -> Controller<DeserializeGuard<Registry>> {
        // Secrets are not watched: the operator may not list them. A deleted one is noticed at the next look.
        let ours = watcher::Config::default().labels(&format!("{KIND_LABEL}=Registry"));
        controller
            .owns(
                context.watched::<PartialObjectMeta<Deployment>>(),
                ours.clone(),
            )
            .owns(
                context.watched::<PartialObjectMeta<Service>>(),
                ours.clone(),
            )
            .watches(
                context.watched::<PartialObjectMeta<PersistentVolumeClaim>>(),
                ours.clone(),
                |claim| owner_by_label::<Registry>(&claim),
            )
            .watches(context.watched::<PartialObjectMeta<Pod>>(), ours, |pod| {
                owner_by_label::<Registry>(&pod)
            })
    }

    async fn observe(context: &Context, object: &Registry) -> Result<observe::Observed> {
        observe::observe(context, object).await
    }

    fn validate(object: &Registry, observed: &observe::Observed) -> Result<validate::Validated> {
        validate::validate(object, observed)
    }

    fn plan(
        object: &Registry,
        observed: observe::Observed,
        validated: validate::Validated,
    ) -> Plan<Prepared, plan::Decision> {
        plan::plan(object, observed, &validated)
    }

    fn status(
        object: &Registry,
        outcome: Outcome<'_, plan::Decision>,
        now: &Time,
    ) -> RegistryStatus {
        status::status(object, outcome, now)
    }

    fn conditions(status: &RegistryStatus) -> &[Condition] {
        &status.conditions
    }
}

/// A plan that was carried out for a Registry.
pub type AppliedPlan = Plan<Applied, plan::Decision>;
