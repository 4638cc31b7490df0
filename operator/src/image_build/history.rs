//! Which pods of a build are not kept. Pure.

use crds::ImageBuild;
use crds::image_build::ImageBuildStatus;
use k8s_openapi::api::core::v1::Pod;

use super::account::{CANCELLED, FAILED, RUNNING, SUCCEEDED};
use super::observed::Observed;

/// Pods that are not to be kept: ended ones beyond the history, and active ones that are not the present attempt's
/// (two operators were at work). Only what the stored status has recorded is deleted.
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
    superfluous
}
