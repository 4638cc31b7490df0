//! The controller of `ImageMirror`: both sides are looked at by HEAD, and a pod starts only when something is to be copied.
//!
//! ```text
//! every interval, and after every sync:  source tags ─┐
//!                                   destination tags ─┴─ equal -> Ready
//!                                                        differ -> a pod that copies by digest, then look again
//! ```
//! The crate `mirror` says which tags are wanted, `look` asks both sides for them, `upkeep` names the report.
//! What a pod reports is told to people; whether a tag is mirrored is decided by looking.

pub mod account;
pub mod cadence;
pub mod chosen;
pub mod look;
pub mod observe;
pub mod observed;
pub mod plan;
pub mod record;
pub mod status;
pub mod upkeep;
pub mod validate;
pub mod verify_keys;

use crds::condition::Condition;
use crds::{ImageMirror, ImageMirrorStatus, Registry};
use k8s_openapi::api::core::v1::Pod;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use kube::ResourceExt;
use kube::core::{DeserializeGuard, PartialObjectMeta};
use kube::runtime::controller::Controller;
use kube::runtime::reflector::ObjectRef;
use kube::runtime::watcher;

use crate::cluster;
use crate::context::Context;
use crate::error::Result;
use crate::plan::{KIND_LABEL, Plan, Prepared};
use crate::reconcile::{Outcome, Reconciler, owner_by_label};

/// The controller of `ImageMirror`.
pub struct ImageMirrorReconciler;

impl Reconciler for ImageMirrorReconciler {
    type Object = ImageMirror;
    type Observed = observed::Observed;
    /// The spec was read while observing; what is wrong with it is decided on like everything else.
    type Validated = ();
    type Decision = plan::Decision;

    fn watches(
        controller: Controller<DeserializeGuard<ImageMirror>>,
        context: &Context,
    ) -> Controller<DeserializeGuard<ImageMirror>> {
        let ours = watcher::Config::default().labels(&format!("{KIND_LABEL}=ImageMirror"));
        let mirrors = controller.store();
        let pods = context.watched::<PartialObjectMeta<Pod>>();
        let registries = context.watched::<PartialObjectMeta<Registry>>();
        controller
            .watches(pods, ours, |pod| owner_by_label::<ImageMirror>(&pod))
            .watches(registries, watcher::Config::default(), move |registry| {
                let (name, namespace) = (registry.name_any(), registry.namespace());
                let all = mirrors.state().into_iter();
                all.filter(move |mirror| {
                    let readable = mirror.0.as_ref();
                    mirror.namespace() == namespace
                        && readable.is_ok_and(|mirror| mirror.names_registry(&name))
                })
                .map(|mirror| ObjectRef::from_obj(mirror.as_ref()))
            })
    }

    async fn observe(context: &Context, object: &ImageMirror) -> Result<observed::Observed> {
        let mut observed = observe::observe(context, object).await?;
        // The name of the next pod follows from everything else; somebody else's pod may have it.
        if let Some(start) = plan::plan(object, &observed).decision.start {
            observed.taken = cluster::taken(context, object, &start.name).await?;
        }
        Ok(observed)
    }

    fn validate(_: &ImageMirror, _: &observed::Observed) -> Result<()> {
        Ok(())
    }

    fn plan(
        object: &ImageMirror,
        observed: observed::Observed,
        (): (),
    ) -> Plan<Prepared, plan::Decision> {
        plan::plan(object, &observed)
    }

    fn status(
        object: &ImageMirror,
        outcome: Outcome<'_, plan::Decision>,
        now: &Time,
    ) -> ImageMirrorStatus {
        status::status(object, outcome, now)
    }

    fn conditions(status: &ImageMirrorStatus) -> &[Condition] {
        &status.conditions
    }
}
