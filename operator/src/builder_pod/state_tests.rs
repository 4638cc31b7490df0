//! Tables of pod states as kubelets and schedulers write them, and what is read from them.
#![allow(clippy::unwrap_used, reason = "tests")]

use super::*;
use serde_json::{Value, json};

fn state(status: &Value) -> PodState {
    PodState::of(&pod(status), &[])
}

fn pod(status: &Value) -> Pod {
    serde_json::from_value(json!({"metadata": {"name": "p"}, "status": status})).unwrap()
}

fn container(state: &Value) -> Value {
    json!([{"name": "builder", "image": "", "imageID": "", "ready": false, "restartCount": 0, "state": state}])
}

fn terminated(phase: &str, exit: i32, reason: &str, message: &str) -> Value {
    json!({"phase": phase, "containerStatuses": container(
        &json!({"terminated": {"exitCode": exit, "reason": reason, "message": message}}))})
}

fn built() -> String {
    json!({"version": 1, "report": {"built": {"digest": "sha256:aa", "size": 1, "platform": "linux/amd64",
        "destinations": [], "steps": 1, "cachedSteps": 0, "isolation": "UserNamespace"}}})
    .to_string()
}

fn failed(kind: &str) -> String {
    json!({"version": 1, "report": {"failed": {"kind": kind, "message": "m"}}}).to_string()
}

#[test]
fn waiting_names_what_is_waited_for() {
    let waiting = |reason: &str, message: &str| {
        json!({"phase": "Pending", "containerStatuses": container(
            &json!({"waiting": {"reason": reason, "message": message}}))})
    };
    for (status, expected) in [
        (json!({}), Reason::Pending),
        (json!({"phase": "Pending"}), Reason::Pending),
        (
            json!({"phase": "Pending", "conditions": [{"type": "PodScheduled", "status": "False",
            "reason": "Unschedulable", "message": "0/1 nodes are available: 1 Insufficient cpu."}]}),
            Reason::Unschedulable,
        ),
        (waiting("ContainerCreating", ""), Reason::Pending),
        (
            waiting("ErrImagePull", "not found"),
            Reason::ImagePullBackOff,
        ),
        (
            waiting("ImagePullBackOff", "Back-off pulling"),
            Reason::ImagePullBackOff,
        ),
        (
            waiting("CreateContainerConfigError", "secret \"hub\" not found"),
            Reason::SecretNotFound,
        ),
        (
            waiting("CreateContainerError", "failed to set up idmap mount"),
            Reason::VolumeNotIdmappable,
        ),
        (
            waiting("CreateContainerError", "something"),
            Reason::ContainerConfig,
        ),
    ] {
        let PodState::Waiting { reason, .. } = state(&status) else {
            panic!("{status} does not wait");
        };
        assert_eq!(reason, expected, "{status}");
    }
}

#[test]
fn events_tell_what_the_status_does_not() {
    let pending = pod(&json!({"phase": "Pending"}));
    for (word, message, expected) in [
        (
            "FailedMount",
            "MountVolume.SetUp failed for volume \"credentials-0\" : secret \"hub\" not found",
            Reason::SecretNotFound,
        ),
        (
            "FailedMount",
            "MountVolume.SetUp failed for volume \"source\" : configmap \"site\" not found",
            Reason::ConfigMapNotFound,
        ),
        (
            "FailedMount",
            "MountVolume.SetUp failed for volume \"x\": timeout",
            Reason::VolumeMountFailed,
        ),
        (
            "FailedCreatePodSandBox",
            "Failed to create pod sandbox: runtime does not support user namespaces",
            Reason::UserNamespacesUnavailable,
        ),
        ("FailedScheduling", "0/1 nodes", Reason::Unschedulable),
        ("Pulling", "pulling", Reason::Pending),
    ] {
        let events = [PodEvent {
            reason: word.into(),
            message: message.into(),
        }];
        let PodState::Waiting { reason, .. } = PodState::of(&pending, &events) else {
            panic!("{message}");
        };
        assert_eq!(reason, expected, "{message}");
    }
}

#[test]
fn events_of_a_step_that_has_succeeded_since_do_not_count() {
    let pod = pod(&json!({"phase": "Pending", "conditions": [
        {"type": "PodScheduled", "status": "True"}, {"type": "PodReadyToStartContainers", "status": "True"}]}));
    let events = ["FailedScheduling", "FailedMount"].map(|reason| PodEvent {
        reason: reason.into(),
        message: "secret \"hub\" not found".into(),
    });
    let PodState::Waiting { reason, .. } = PodState::of(&pod, &events) else {
        panic!("it waits");
    };
    assert_eq!(reason, Reason::Pending);
}

#[test]
fn success_needs_phase_exit_code_and_report() {
    assert!(matches!(
        state(&terminated("Succeeded", 0, "Completed", &built())),
        PodState::Ended(Ended::Reported(_))
    ));
    // A step of the build was killed, the build went on: the runtime's word is of the container.
    assert!(matches!(
        state(&terminated("Succeeded", 0, "OOMKilled", &built())),
        PodState::Ended(Ended::Reported(_))
    ));
    let mut evicted = terminated("Failed", 0, "Completed", &built());
    evicted["reason"] = json!("Evicted");
    for (status, reason) in [
        (evicted, Reason::Evicted),
        (
            terminated("Failed", 137, "Error", &built()),
            Reason::BuilderFailed,
        ),
        (
            terminated("Succeeded", 0, "Completed", ""),
            Reason::BuilderFailed,
        ),
        (
            terminated("Succeeded", 0, "Completed", "{\"version\":2}"),
            Reason::BuilderFailed,
        ),
    ] {
        let PodState::Ended(Ended::Failed(failure)) = state(&status) else {
            panic!("{status} did not fail");
        };
        assert_eq!(failure.reason, reason, "{status}");
    }
}

#[test]
fn failures_are_told_apart() {
    let whole = |reason: &str, message: &str| json!({"phase": "Failed", "reason": reason, "message": message});
    for (status, reason, transient) in [
        (
            whole(
                "DeadlineExceeded",
                "Pod was active on the node longer than the specified deadline",
            ),
            Reason::Timeout,
            false,
        ),
        (
            whole("Evicted", "The node was low on resource: memory."),
            Reason::Evicted,
            true,
        ),
        (
            whole(
                "Evicted",
                "Usage of EmptyDir volume \"workspace\" exceeds the limit \"1Gi\".",
            ),
            Reason::OutOfDisk,
            false,
        ),
        (
            whole(
                "Evicted",
                "Pod ephemeral local storage usage exceeds the total limit of containers 1Gi.",
            ),
            Reason::OutOfDisk,
            false,
        ),
        (
            whole(
                "Terminated",
                "Pod was terminated in response to imminent node shutdown.",
            ),
            Reason::NodeLost,
            true,
        ),
        (
            whole("OutOfcpu", "Node didn't have enough"),
            Reason::PodLost,
            true,
        ),
        (whole("Preempting", ""), Reason::Preempted, true),
        (json!({"phase": "Failed"}), Reason::PodLost, true),
        (
            terminated("Failed", 137, "OOMKilled", ""),
            Reason::OOMKilled,
            false,
        ),
        (
            terminated("Failed", 1, "OOMKilled", &failed("StepFailed")),
            Reason::OOMKilled,
            false,
        ),
        (
            terminated("Failed", 1, "Error", &failed("OutOfMemory")),
            Reason::OOMKilled,
            false,
        ),
        (
            terminated("Failed", 1, "Error", &failed("StepFailed")),
            Reason::BuildFailed,
            false,
        ),
        (
            terminated("Failed", 143, "Error", &failed("Cancelled")),
            Reason::PodLost,
            true,
        ),
        (
            terminated(
                "Failed",
                128,
                "StartError",
                "failed to create containerd task: userns mapping",
            ),
            Reason::UserNamespacesUnavailable,
            false,
        ),
        (
            terminated("Failed", 2, "Error", "thread panicked"),
            Reason::BuilderFailed,
            true,
        ),
    ] {
        let PodState::Ended(Ended::Failed(failure)) = state(&status) else {
            panic!("{status} did not fail");
        };
        assert_eq!(
            (failure.reason, failure.transient),
            (reason, transient),
            "{status}"
        );
    }
}

#[test]
fn a_timeout_names_the_limit() {
    for (seconds, text) in [(5, "5s"), (3600, "1h"), (5400, "1h30m"), (61, "1m1s")] {
        let mut pod = pod(&json!({"phase": "Failed", "reason": "DeadlineExceeded"}));
        pod.spec = Some(k8s_openapi::api::core::v1::PodSpec {
            active_deadline_seconds: Some(seconds),
            ..Default::default()
        });
        let PodState::Ended(Ended::Failed(failure)) = PodState::of(&pod, &[]) else {
            panic!("it failed");
        };
        assert_eq!(
            failure.message,
            format!("it took longer than {text} and was stopped")
        );
    }
}

#[test]
fn a_disruption_tells_why_the_pod_was_stopped() {
    for (word, expected) in [
        ("PreemptionByScheduler", Reason::Preempted),
        ("DeletionByTaintManager", Reason::NodeLost),
        ("EvictionByEvictionAPI", Reason::Evicted),
    ] {
        let mut status = terminated("Failed", 143, "Error", &failed("Cancelled"));
        status["conditions"] =
            json!([{"type": "DisruptionTarget", "status": "True", "reason": word, "message": "m"}]);
        let PodState::Ended(Ended::Failed(failure)) = state(&status) else {
            panic!("{word}");
        };
        assert_eq!((failure.reason, failure.transient), (expected, true));
    }
}

#[test]
fn a_container_that_ended_is_not_the_end_of_the_pod() {
    for status in [
        terminated("Running", 0, "Completed", &built()),
        json!({"phase": "Running", "containerStatuses": container(&json!({"running": {}}))}),
    ] {
        assert_eq!(state(&status), PodState::Running);
    }
}
