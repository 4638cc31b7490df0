//! A pod of ours with what is said about it: what it does, and what it says that it did. Pure.

use protocol::{BuildOutcome, MirrorOutcome, Report};

use super::{Ended, ObservedPod, PodEvent, PodState};

/// A pod of ours and what is said about it.
#[derive(Clone, Debug, PartialEq)]
pub struct PodView {
    /// The pod.
    pub pod: ObservedPod,
    /// Warnings about it.
    pub events: Vec<PodEvent>,
}

impl PodView {
    /// What the pod is doing.
    pub fn state(&self) -> PodState {
        PodState::of(&self.pod.pod, &self.events)
    }

    /// Whether it has not ended.
    pub fn is_active(&self) -> bool {
        !matches!(self.state(), PodState::Ended(_))
    }

    /// What it says that it built.
    pub fn built(&self) -> Option<BuildOutcome> {
        match self.report()? {
            Report::Built(built) => Some(built),
            _ => None,
        }
    }

    /// What it says that it mirrored.
    pub fn mirrored(&self) -> Option<MirrorOutcome> {
        match self.report()? {
            Report::Mirrored(mirrored) => Some(mirrored),
            _ => None,
        }
    }

    fn report(&self) -> Option<Report> {
        match self.state() {
            PodState::Ended(Ended::Reported(report)) => Some(*report),
            _ => None,
        }
    }
}
