//! Why a pod does not run yet: what scheduler and kubelet wrote into its status, as one of our reasons. Pure.
//!
//! How a pod ended is not told here.

use k8s_openapi::api::core::v1::{ContainerStatus, Pod};

use crate::reason::Reason;

/// What a pod waits for.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Waiting {
    /// Why.
    pub reason: Reason,
    /// What scheduler or kubelet say, without a remedy.
    pub message: String,
}

/// What `pod` waits for, or `None` when all its containers have started.
pub fn waiting(pod: &Pod) -> Option<Waiting> {
    let status = pod.status.as_ref()?;
    let unscheduled = status
        .conditions
        .iter()
        .flatten()
        .find(|c| c.type_ == "PodScheduled" && c.status == "False");
    if let Some(condition) = unscheduled {
        let reason = match condition.reason.as_deref() {
            Some("Unschedulable") => Reason::Unschedulable,
            _ => Reason::Pending,
        };
        let message = condition.message.as_deref().unwrap_or("not scheduled yet");
        return Some(Waiting {
            reason,
            message: message.to_owned(),
        });
    }
    status
        .init_container_statuses
        .iter()
        .chain(&status.container_statuses)
        .flatten()
        .find_map(container)
}

/// What a container waits for.
fn container(status: &ContainerStatus) -> Option<Waiting> {
    let waiting = status.state.as_ref()?.waiting.as_ref()?;
    let word = waiting.reason.as_deref().unwrap_or("Pending");
    let reason = match word {
        "ErrImagePull"
        | "ImagePullBackOff"
        | "InvalidImageName"
        | "ErrImageNeverPull"
        | "RegistryUnavailable"
        | "ImageInspectError" => Reason::ImagePullBackOff,
        "CreateContainerConfigError" | "CreateContainerError" | "RunContainerError" => {
            Reason::ContainerConfig
        }
        "CrashLoopBackOff" => Reason::CrashLoopBackOff,
        _ => Reason::Pending,
    };
    let mut message = match waiting.message.as_deref() {
        Some(text) if !text.is_empty() => format!("container {}: {word}: {text}", status.name),
        _ => format!("container {}: {word}", status.name),
    };
    if reason == Reason::CrashLoopBackOff
        && let Some(ended) = status
            .last_state
            .as_ref()
            .and_then(|s| s.terminated.as_ref())
    {
        let word = ended.reason.as_deref().unwrap_or("Error");
        message = format!(
            "{message}; it ended with exit code {} ({word})",
            ended.exit_code
        );
    }
    Some(Waiting { reason, message })
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::{Value, json};

    fn told(status: &Value) -> Option<(Reason, String)> {
        let pod: Pod = serde_json::from_value(json!({"status": status})).unwrap();
        waiting(&pod).map(|w| (w.reason, w.message))
    }

    #[test]
    fn what_scheduler_and_kubelet_say_becomes_a_reason() {
        let container = |reason: &str, message: &str| {
            json!({"containerStatuses": [{"name": "c", "image": "", "imageID": "", "ready": false, "restartCount": 0,
                "state": {"waiting": {"reason": reason, "message": message}},
                "lastState": {"terminated": {"exitCode": 2, "reason": "Error"}}}]})
        };
        for (status, expected) in [
            (
                json!({"conditions": [{"type": "PodScheduled", "status": "False", "reason": "Unschedulable", "message": "0/1 nodes are available"}]}),
                Some((Reason::Unschedulable, "0/1 nodes are available")),
            ),
            (
                container("ImagePullBackOff", "Back-off pulling image \"x\""),
                Some((
                    Reason::ImagePullBackOff,
                    "container c: ImagePullBackOff: Back-off pulling image \"x\"",
                )),
            ),
            (
                container("CreateContainerConfigError", "secret \"s\" not found"),
                Some((
                    Reason::ContainerConfig,
                    "container c: CreateContainerConfigError: secret \"s\" not found",
                )),
            ),
            (
                container("CrashLoopBackOff", ""),
                Some((
                    Reason::CrashLoopBackOff,
                    "container c: CrashLoopBackOff; it ended with exit code 2 (Error)",
                )),
            ),
            (
                container("ContainerCreating", ""),
                Some((Reason::Pending, "container c: ContainerCreating")),
            ),
            (json!({"phase": "Running"}), None),
        ] {
            let expected = expected.map(|(reason, message)| (reason, message.to_owned()));
            assert_eq!(told(&status), expected, "{status}");
        }
    }
}
