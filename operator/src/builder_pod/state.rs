//! What the state of a builder pod says: it waits (for what?), runs, or ended (how?). Pure; the pod's own report is
//! believed only when the kubelet agrees that the container ended well, and digests in it are only claims.

use k8s_openapi::api::core::v1::{ContainerState, ContainerStateTerminated, Pod, PodStatus};
use protocol::{FailureKind, Outcome, Report};

use super::CONTAINER;
use super::outcome::{PodFailure, printable};
use crate::pod_state::{self, Waiting};
use crate::reason::Reason;

/// A warning that a component of the cluster gave about a pod.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PodEvent {
    /// For instance `FailedMount`.
    pub reason: String,
    /// The sentence.
    pub message: String,
}

/// What a pod is doing.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum PodState {
    /// Its container was not started yet.
    Waiting {
        /// What it waits for.
        reason: Reason,
        /// What is known about it.
        message: String,
    },
    /// Its container runs.
    Running,
    /// Its container ended.
    Ended(Ended),
}

/// How a pod ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Ended {
    /// The container exited with 0 and reported this.
    Reported(Box<Report>),
    /// It failed.
    Failed(PodFailure),
}

impl PodState {
    /// Reads the state of `pod`; `events` are the warnings about it, the newest last.
    pub fn of(pod: &Pod, events: &[PodEvent]) -> Self {
        let Some(status) = &pod.status else {
            return Self::waiting(Reason::Pending, "the pod was created");
        };
        match status.phase.as_deref() {
            Some("Succeeded" | "Failed") => Self::Ended(ended(pod, status)),
            // A container that ended is not enough: only the phase tells whether it ended by itself, by the deadline
            // or by eviction, and it follows at once.
            Some("Running") => Self::Running,
            _ => waiting(pod, events),
        }
    }

    fn waiting(reason: Reason, message: &str) -> Self {
        Self::Waiting {
            reason,
            message: message.to_owned(),
        }
    }
}

/// Why a pod that is gone or going is lost, by the condition that tells of a disruption. None without such a condition.
pub fn disruption(pod: &Pod) -> Option<PodFailure> {
    let status = pod.status.as_ref()?;
    let condition = status
        .conditions
        .iter()
        .flatten()
        .find(|c| c.type_ == "DisruptionTarget" && c.status == "True")?;
    let reason = match condition.reason.as_deref()? {
        "PreemptionByScheduler" => Reason::Preempted,
        "DeletionByTaintManager" | "DeletionByPodGC" => Reason::NodeLost,
        "EvictionByEvictionAPI" | "TerminationByKubelet" => Reason::Evicted,
        _ => Reason::PodLost,
    };
    let message = condition.message.as_deref().unwrap_or("the pod was taken");
    Some(PodFailure::transient(reason, printable(message)))
}

fn container(status: &PodStatus) -> Option<&ContainerState> {
    status
        .container_statuses
        .iter()
        .flatten()
        .find(|c| c.name == CONTAINER)
        .and_then(|c| c.state.as_ref())
}

/// What a pod waits for: the scheduler first, then the container, then what events tell.
fn waiting(pod: &Pod, events: &[PodEvent]) -> PodState {
    if let Some(Waiting { reason, message }) = pod_state::waiting(pod) {
        let message = printable(&message);
        match reason {
            Reason::Unschedulable => return unschedulable(&message),
            Reason::ImagePullBackOff => return PodState::Waiting { reason, message },
            Reason::ContainerConfig => return setup_failure(&message),
            _ => {}
        }
    }
    // Events tell of the past: they count only until the step that failed has succeeded.
    let is_done = |step: &str| {
        let status = pod.status.as_ref();
        let mut conditions = status.iter().flat_map(|s| s.conditions.iter().flatten());
        conditions.any(|c| c.type_ == step && c.status == "True")
    };
    let (scheduled, set_up) = (
        is_done("PodScheduled"),
        is_done("PodReadyToStartContainers"),
    );
    events
        .iter()
        .rev()
        .find_map(|event| match event.reason.as_str() {
            "FailedMount" | "FailedCreatePodSandBox" | "FailedAttachVolume" if !set_up => {
                Some(setup_failure(&printable(&event.message)))
            }
            "FailedScheduling" if !scheduled => Some(unschedulable(&printable(&event.message))),
            _ => None,
        })
        .unwrap_or_else(|| PodState::waiting(Reason::Pending, "the pod is being started"))
}

fn unschedulable(message: &str) -> PodState {
    PodState::waiting(
        Reason::Unschedulable,
        &format!("no node for the pod: {message}"),
    )
}

/// The reason behind what a kubelet says when it cannot set up volumes, sandbox or container.
fn setup_failure(message: &str) -> PodState {
    PodState::waiting(setup_reason(message), message)
}

fn setup_reason(message: &str) -> Reason {
    let lower = message.to_ascii_lowercase();
    let has = |words: &[&str]| words.iter().any(|word| lower.contains(word));
    let missing = has(&["not found"]);
    if missing && has(&["secret \"", "secret "]) {
        Reason::SecretNotFound
    } else if missing && has(&["configmap"]) {
        Reason::ConfigMapNotFound
    } else if has(&["idmap"]) {
        Reason::VolumeNotIdmappable
    } else if has(&["user namespace", "userns", "uid_map", "hostusers"]) {
        Reason::UserNamespacesUnavailable
    } else if has(&["mount", "volume"]) {
        Reason::VolumeMountFailed
    } else {
        Reason::ContainerConfig
    }
}

/// How a pod ended. What the kubelet says of the whole pod comes before what the container reported: an evicted pod
/// has not succeeded, whatever it wrote before.
fn ended(pod: &Pod, status: &PodStatus) -> Ended {
    let message = printable(status.message.as_deref().unwrap_or_default());
    let terminated = container(status).and_then(|state| state.terminated.as_ref());
    if status.phase.as_deref() == Some("Failed")
        && let Some(word) = status.reason.as_deref()
        && let Some(failure) = rejected(pod, word, &message)
    {
        return Ended::Failed(failure);
    }
    let Some(terminated) = terminated else {
        return Ended::Failed(PodFailure::transient(
            Reason::PodLost,
            format!("the pod ended and its container was never seen: {message}"),
        ));
    };
    report(status, terminated)
}

/// What `status.reason` of a failed pod means; none for words that say nothing of the pod itself.
fn rejected(pod: &Pod, word: &str, message: &str) -> Option<PodFailure> {
    let text = |what: &str| format!("{what}: {message}");
    Some(match word {
        "DeadlineExceeded" => timeout(pod),
        "Evicted" if is_disk(message) => {
            PodFailure::lasting(Reason::OutOfDisk, text("the pod used too much disk"))
        }
        "Evicted" => PodFailure::transient(Reason::Evicted, text("the node evicted the pod")),
        "Preempting" | "Preempted" => {
            PodFailure::transient(Reason::Preempted, text("the pod was preempted"))
        }
        "NodeLost" | "NodeShutdown" | "Shutdown" | "Terminated" => {
            PodFailure::transient(Reason::NodeLost, text("the node stopped"))
        }
        "NodeAffinity" | "UnexpectedAdmissionError" => {
            PodFailure::transient(Reason::PodLost, text("the node rejected the pod"))
        }
        word if word.starts_with("OutOf") => {
            PodFailure::transient(Reason::PodLost, text("the node rejected the pod"))
        }
        _ => return None,
    })
}

/// A pod that was stopped because it took longer than it may.
pub fn timeout(pod: &Pod) -> PodFailure {
    let limit = pod.spec.as_ref().and_then(|s| s.active_deadline_seconds);
    let message = match limit {
        Some(limit) => format!("it took longer than {} and was stopped", describe(limit)),
        None => "it took too long and was stopped".to_owned(),
    };
    PodFailure::lasting(Reason::Timeout, message)
}

/// Seconds as a spec writes them: `1h30m`.
fn describe(seconds: i64) -> String {
    let mut text = String::new();
    for (number, unit) in [
        (seconds / 3600, 'h'),
        (seconds / 60 % 60, 'm'),
        (seconds % 60, 's'),
    ] {
        if number > 0 {
            text.push_str(&number.to_string());
            text.push(unit);
        }
    }
    text
}

/// Whether an eviction was for the pod's own use of disk, not for the node's.
fn is_disk(message: &str) -> bool {
    [
        "exceeds the limit",
        "exceeds the total limit",
        "usage of EmptyDir",
        "Usage of EmptyDir",
    ]
    .iter()
    .any(|words| message.contains(words))
}

fn report(status: &PodStatus, terminated: &ContainerStateTerminated) -> Ended {
    let written = terminated.message.as_deref().unwrap_or_default();
    let exit = terminated.exit_code;
    let out_of_memory = terminated.reason.as_deref() == Some("OOMKilled");
    let outcome = match Outcome::parse(written.as_bytes()) {
        Ok(outcome) => outcome,
        Err(_) if out_of_memory => {
            return Ended::Failed(PodFailure::lasting(
                Reason::OOMKilled,
                "the builder was killed because the pod needed more memory than its limit",
            ));
        }
        Err(protocol::ProtocolError::Version { found, .. }) => {
            return Ended::Failed(PodFailure::lasting(
                Reason::BuilderFailed,
                format!(
                    "the builder speaks version {found} of the protocol and the operator version {}: their images must be of the same release",
                    protocol::VERSION
                ),
            ));
        }
        Err(_) => return Ended::Failed(unreported(terminated)),
    };
    match outcome.report {
        Report::Failed(failure) if failure.kind == FailureKind::Cancelled => {
            let lost = PodFailure::transient(Reason::PodLost, "the pod was asked to stop");
            let pod = Pod {
                status: Some(status.clone()),
                ..Pod::default()
            };
            Ended::Failed(disruption(&pod).unwrap_or(lost))
        }
        Report::Failed(mut failure) => {
            // Under cgroup v2 the kernel kills a step and the runtime reports it of the container.
            if out_of_memory && failure.kind == FailureKind::StepFailed {
                failure.kind = FailureKind::OutOfMemory;
            }
            Ended::Failed(PodFailure::reported(&failure))
        }
        // A sync that failed for some images reports all of them, and exits with an error.
        report @ Report::Mirrored(_) => Ended::Reported(Box::new(report)),
        report if exit == 0 && status.phase.as_deref() != Some("Failed") => {
            Ended::Reported(Box::new(report))
        }
        _ => Ended::Failed(PodFailure::transient(
            Reason::BuilderFailed,
            format!("the builder reported success and exited with {exit}"),
        )),
    }
}

/// A container that ended without a report.
fn unreported(terminated: &ContainerStateTerminated) -> PodFailure {
    let message = printable(terminated.message.as_deref().unwrap_or_default());
    let word = terminated.reason.as_deref().unwrap_or("Error");
    if matches!(word, "StartError" | "ContainerCannotRun") {
        let reason = match setup_reason(&message) {
            Reason::UserNamespacesUnavailable => Reason::UserNamespacesUnavailable,
            Reason::VolumeNotIdmappable => Reason::VolumeNotIdmappable,
            _ => Reason::BuilderFailed,
        };
        return PodFailure::lasting(reason, format!("the builder cannot be started: {message}"));
    }
    PodFailure::transient(
        Reason::BuilderFailed,
        format!(
            "the builder exited with {} ({word}) and reported nothing",
            terminated.exit_code
        ),
    )
}

#[cfg(test)]
#[path = "state_tests.rs"]
mod tests;
