//! The controller of `ImageBuild`: one bare pod for each attempt, named by what it makes.
//!
//! ```text
//! spec + source (commit, ConfigMap) + forceAt ─ key ─ attempt ─ pod name
//!
//! pod ended, for want of another processor -> a pod for each platform, and one that joins their images (`split`)
//! no pod       -> wait for what is missing, then create it
//! pod active   -> wait, or stop it (cancelled, spec changed, overdue, no user namespace)
//! pod ended    -> read the image back from every destination, then believe it
//!                 or retry (infrastructure), or stall (what people wrote) until something changes
//! ```
//! The status remembers the attempt; a lost status is rebuilt from the pods. A pod is deleted only by its uid, and only
//! when the status has recorded how it ended.

pub mod account;
pub mod history;
pub mod key;
pub mod mirrored;
pub mod need;
mod next;
pub mod observe;
pub mod observed;
pub mod plan;
pub mod record;
pub mod split;
pub mod start;
pub mod status;
pub mod tag;
pub mod validate;
mod verdict;

use crds::condition::Condition;
use crds::{ImageBuild, ImageBuildStatus};
use k8s_openapi::api::core::v1::Pod;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use kube::core::{DeserializeGuard, PartialObjectMeta};
use kube::runtime::controller::Controller;
use kube::runtime::watcher;

use crate::cluster;
use crate::context::Context;
use crate::error::Result;
use crate::plan::{KIND_LABEL, Plan, Prepared};
use crate::reconcile::{Outcome, Reconciler, owner_by_label};

/// The controller of `ImageBuild`.
pub struct ImageBuildReconciler;

impl Reconciler for ImageBuildReconciler {
    type Object = ImageBuild;
    type Observed = observed::Observed;
    /// The spec was read while observing, which needs it; what is wrong with it is decided on like everything else, so
    /// that a running pod is looked after also then.
    type Validated = ();
    type Decision = plan::Decision;

    fn watches(
        controller: Controller<DeserializeGuard<ImageBuild>>,
        context: &Context,
    ) -> Controller<DeserializeGuard<ImageBuild>> {
        let ours = watcher::Config::default().labels(&format!("{KIND_LABEL}=ImageBuild"));
        controller.watches(context.watched::<PartialObjectMeta<Pod>>(), ours, |pod| {
            owner_by_label::<ImageBuild>(&pod)
        })
    }

    async fn observe(context: &Context, object: &ImageBuild) -> Result<observed::Observed> {
        let mut observed = observe::observe(context, object).await?;
        // The names of the next pods follow from everything else; somebody else's pod may have one.
        for name in plan::plan(object, &observed).decision.pod_names() {
            if let Some(taken) = cluster::taken(context, object, &name).await? {
                observed.taken = Some(taken);
            }
        }
        Ok(observed)
    }

    fn validate(_: &ImageBuild, _: &observed::Observed) -> Result<()> {
        Ok(())
    }

    fn plan(
        object: &ImageBuild,
        observed: observed::Observed,
        (): (),
    ) -> Plan<Prepared, plan::Decision> {
        plan::plan(object, &observed)
    }

    fn status(
        object: &ImageBuild,
        outcome: Outcome<'_, plan::Decision>,
        now: &Time,
    ) -> ImageBuildStatus {
        status::status(object, outcome, now)
    }

    fn conditions(status: &ImageBuildStatus) -> &[Condition] {
        &status.conditions
    }
}
