//! Which pods of a build are not kept. Pure.

use crds::ImageBuild;
use crds::image_build::ImageBuildStatus;
use k8s_openapi::api::core::v1::Pod;

use super::account::{CANCELLED, FAILED, RUNNING, SUCCEEDED};
use super::observed::Observed;
use super::split::pods_of_attempt;
use crate::builder_pod::{Owner, PodView};

/// Pods that are not to be kept: ended ones beyond the history, and active ones that are not the present attempt's
/// (two operators were at work). The pods of parts go with the pod of their attempt, the active ones at its end. Only what the stored status has recorded is deleted.
pub fn superfluous<'a>(
    build: &ImageBuild,
    status: &ImageBuildStatus,
    observed: &'a Observed,
) -> Vec<&'a Pod> {
    let stored = build.status.as_ref();
    let recorded = |name: &str| {
        stored
            .and_then(|status| status.builds.iter().find(|build| build.name == name))
            .and_then(|build| build.result.as_deref())
            .unwrap_or(RUNNING)
    };
    let current = status.attempt.as_ref().and_then(|a| a.pod_uid.as_deref());
    let oldest = status
        .builds
        .last()
        .and_then(|build| build.start_time.as_ref())
        .map(|time| time.0);
    let mut left_succeeded = build.spec.succeeded_history();
    let mut left_failed = build.spec.failed_history();
    let mut superfluous = Vec::new();
    for view in observed.pods.iter().rev() {
        if view.pod.deleting {
            continue;
        }
        let is_current = current == Some(view.pod.identity.uid.as_str());
        if view.is_active() {
            if !is_current {
                superfluous.push(&view.pod.pod);
            }
            continue;
        }
        let left = match recorded(&view.pod.identity.name) {
            SUCCEEDED => &mut left_succeeded,
            FAILED | CANCELLED => &mut left_failed,
            _ => {
                if !is_current && oldest.is_some_and(|oldest| view.pod.created < oldest) {
                    superfluous.push(&view.pod.pod);
                }
                continue;
            }
        };
        if *left == 0 {
            superfluous.push(&view.pod.pod);
        } else {
            *left -= 1;
        }
    }
    let kept = |view: &PodView| {
        let made = &view.pod.attempt;
        let whole = Owner::of(build).pod_name(&made.key, made.number);
        let mut gone = superfluous.iter().map(|pod| pod.metadata.name.as_deref());
        let goes = gone.any(|name| name == Some(&whole));
        let is_there = observed.pods.iter().any(|v| v.pod.identity.name == whole);
        is_there && !goes
    };
    let attempt = status.attempt.as_ref();
    let of_current = |view: &PodView| {
        let mut pods = attempt
            .into_iter()
            .flat_map(|a| pods_of_attempt(a, &observed.parts));
        pods.any(|pod| pod.pod.identity.uid == view.pod.identity.uid)
    };
    let runs = attempt.and_then(|a| a.result.as_deref()) == Some(RUNNING);
    let parts = observed.parts.iter().filter(|view| {
        let stays = match (view.is_active(), of_current(view)) {
            (true, current) => current && runs,
            (false, current) => (current && runs) || kept(view),
        };
        !stays && !view.pod.deleting
    });
    let parts: Vec<&Pod> = parts.map(|view| &view.pod.pod).collect();
    superfluous.extend(parts);
    superfluous
}
