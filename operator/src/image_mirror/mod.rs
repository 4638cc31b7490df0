//! The controller of `ImageMirror`: both sides are looked at by HEAD, and a pod starts only when something is to be copied.
//!
//! ```text
//! every interval, and after every sync:  source tags ─┐
//!                                   destination tags ─┴─ equal -> Ready
//!                                                        differ -> a pod that copies by digest, then look again
//! ```
//! What a pod reports is told to people; whether a tag is mirrored is decided by looking.

pub mod account;
pub mod observe;
pub mod observed;
pub mod plan;
pub mod record;
pub mod status;
pub mod validate;

use crds::condition::Condition;
use crds::{ImageMirror, ImageMirrorStatus};
use k8s_openapi::api::core::v1::Pod;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use kube::core::{DeserializeGuard, PartialObjectMeta};
use kube::runtime::controller::Controller;
use kube::runtime::reflector::ObjectRef;
use kube::runtime::watcher;
use kube::{Resource, ResourceExt};

use crate::context::Context;
use crate::error::Result;
use crate::plan::{KIND_LABEL, NAME_LABEL, Plan, Prepared, is_owned_by};
use crate::reconcile::{Outcome, Reconciler};

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
        controller.watches(context.watched::<PartialObjectMeta<Pod>>(), ours, |pod| {
            mirror_of(&pod)
        })
    }

    async fn observe(context: &Context, object: &ImageMirror) -> Result<observed::Observed> {
        let mut observed = observe::observe(context, object).await?;
        // The name of the next pod follows from everything else; somebody else's pod may have it.
        if let Some(start) = plan::plan(object, &observed).decision.start {
            let namespace = object.namespace().unwrap_or_default();
            let there: Option<Pod> = context.get(&namespace, &start.name).await?;
            let uid = object.uid().unwrap_or_default();
            observed.taken = there
                .filter(|pod| !is_owned_by(&pod.metadata, &uid))
                .map(|_| start.name);
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

/// The ImageMirror that a pod belongs to, by its label.
fn mirror_of<K: Resource>(child: &K) -> Option<ObjectRef<DeserializeGuard<ImageMirror>>> {
    let name = child.labels().get(NAME_LABEL)?;
    Some(ObjectRef::new(name).within(&child.namespace()?))
}
