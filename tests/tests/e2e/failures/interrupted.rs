//! Builds that others end: an eviction, a new spec, the end of the resource.

use crds::ImageBuild;
use jiff::Timestamp;
use k8s_openapi::api::core::v1::Pod;
use kube::ResourceExt as _;
use kube::api::{DeleteParams, EvictParams};
use tests::kstatus::{Conditioned as _, reason};

use super::{Case, LIMIT, inline, phase, prompt};
use crate::main_job::registry;
use crate::on_stage;

fn running(pod: &Pod) -> bool {
    phase(pod) == "Running" && pod.metadata.deletion_timestamp.is_none()
}

#[test]
fn an_evicted_build_is_told_and_tried_again() {
    on_stage(|stage| async move {
        let namespace = stage.namespace("evicted", "baseline").await?;
        registry(&namespace).await?;
        let case = Case::new(&namespace, "evicted").await?;
        case.apply(inline(stage, "RUN sleep 8")).await?;
        let pod = case.pod("the builder to run", running).await?;
        let cause = Timestamp::now();
        let pods = namespace.api::<Pod>();
        // As `kubectl drain` does it.
        pods.evict(&pod.name_any(), &EvictParams::default()).await?;
        let evicted = case.told_promptly("Evicted", &[], cause).await?;
        // The cause passes by itself: nothing is to be mended.
        case.recovers(&evicted).await
    });
}

#[test]
fn a_changed_spec_replaces_the_running_build() {
    on_stage(|stage| async move {
        let namespace = stage.namespace("changed", "baseline").await?;
        registry(&namespace).await?;
        let case = Case::new(&namespace, "changed").await?;
        case.apply(inline(stage, "RUN sleep 600")).await?;
        let old = case.pod("the builder to run", running).await?;
        let cause = case.apply(inline(stage, "RUN true")).await?;
        let superseded = case.told_promptly("Superseded", &["spec"], cause).await?;
        anyhow::ensure!(
            superseded.observed_generation() == superseded.metadata.generation,
            "{} is said of the new spec",
            reason(&superseded)
        );
        case.recovers(&superseded).await?;
        anyhow::ensure!(
            namespace
                .api::<Pod>()
                .get_opt(&old.name_any())
                .await?
                .is_none(),
            "the pod of the old spec is left over"
        );
        Ok(())
    });
}

#[test]
fn a_deleted_resource_takes_its_running_build_along() {
    on_stage(|stage| async move {
        let namespace = stage.namespace("deleted", "baseline").await?;
        registry(&namespace).await?;
        let case = Case::new(&namespace, "deleted").await?;
        case.apply(inline(stage, "RUN sleep 600")).await?;
        case.pod("the builder to run", running).await?;
        let cause = Timestamp::now();
        let builds = namespace.api::<ImageBuild>();
        builds
            .delete("deleted", &DeleteParams::background())
            .await?;
        let stopping = |pods: &Vec<Pod>| !pods.iter().any(running);
        let pods = || case.pods();
        tests::wait::until_seen("the builder to be stopped", LIMIT, pods, stopping).await?;
        prompt("deleted: the pod is stopped", cause, Timestamp::now())?;
        tests::wait::until_seen("the builder pod to be gone", LIMIT, pods, Vec::is_empty).await?;

        // The same resource once more, as if it had been deleted by mistake.
        case.apply(inline(stage, "RUN true")).await?;
        let current = |b: &ImageBuild| tests::kstatus::is_current(b);
        namespace
            .until::<ImageBuild>(
                "deleted",
                "the build that was applied again",
                LIMIT,
                current,
            )
            .await?;
        case.leaves_nothing().await
    });
}
