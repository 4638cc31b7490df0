//! What a decision about an ImageMirror depends on besides the resource.

use std::cmp::Ordering;
use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use crds::ImageMirrorStatus;
use jiff::Timestamp;
use mirror::MirrorTag;
use oci::{Digest, Reference};
use protocol::VerifyKey;

use super::chosen::Problem;
use super::validate::ValidatedMirror;
use crate::builder_pod::{BuilderSettings, PodView};
use crate::image_build::observed::{RegistryState, SecretState};
use crate::image_build::validate::Violation;
use crate::reason::Reason;

/// Everything outside of the resource that a decision depends on.
#[derive(Clone, Debug)]
pub struct Observed {
    /// The time.
    pub now: Timestamp,
    /// The spec as it was read, or what is wrong with it.
    pub spec: Result<ValidatedMirror, Violation>,
    /// Secrets that the spec names.
    pub secrets: BTreeMap<String, SecretState>,
    /// The keys that images are verified with, as far as their Secrets have them.
    pub keys: Vec<VerifyKey>,
    /// The registry that is read; another than a Registry always counts as ready.
    pub source: RegistryState,
    /// The registry that is written to, likewise.
    pub registry: RegistryState,
    /// Hosts of all Registries of the namespace, which are reached by plain HTTP.
    pub plain_http: Vec<String>,
    /// Own pods, the oldest first.
    pub pods: Vec<PodView>,
    /// What source and destination hold; none while there is no need to know.
    pub look: Option<Arc<Look>>,
    /// When they are to be looked at again.
    pub look_again: Option<Duration>,
    /// The report that the present pod says it wrote, and whether it is there; none where that is no news.
    pub report: Option<(Reference, Found)>,
    /// A name that the next pod needs and that somebody else's pod has.
    pub taken: Option<String>,
    /// What the operator's settings say of builder pods.
    pub builder: BuilderSettings,
}

/// A look at source and destination.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Look {
    /// The tags that are mirrored, and what was found under them.
    pub tags: Vec<(MirrorTag, TagLook)>,
    /// What could not be chosen or listed.
    pub problems: Vec<Problem>,
}

/// What source and destination hold for one tag.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TagLook {
    /// What the source has.
    pub source: Found,
    /// The digest that the destination is to have, where it is another: that of an index that is written anew.
    pub rewritten: Option<Digest>,
    /// What the destination has.
    pub destination: Found,
    /// Whether it was seen in the present round of looks. What was seen before holds until there is time to look again.
    pub current: bool,
}

/// What a registry has under a tag.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Found {
    /// This.
    Digest(Digest),
    /// Nothing.
    Nothing,
    /// It could not be looked at.
    Failed {
        /// Why.
        reason: Reason,
        /// Why, for people.
        message: String,
        /// Whether it may pass by itself.
        transient: bool,
    },
    /// It was not looked at: the other side decides, or there was no time for it.
    NotLookedAt,
}

impl TagLook {
    /// Nothing was looked at.
    pub const NOT_YET: Self = Self {
        source: Found::NotLookedAt,
        rewritten: None,
        destination: Found::NotLookedAt,
        current: false,
    };

    /// The digest that the source has, and the one that the destination is to have.
    fn wanted(&self) -> Option<(&Digest, &Digest)> {
        match &self.source {
            Found::Digest(source) => Some((source, self.rewritten.as_ref().unwrap_or(source))),
            _ => None,
        }
    }

    /// The digests at the source and at the destination, where the latter is what it is to be.
    pub fn synced(&self) -> Option<(&Digest, &Digest)> {
        let (source, wanted) = self.wanted()?;
        match &self.destination {
            Found::Digest(found) if found == wanted => Some((source, wanted)),
            _ => None,
        }
    }

    /// The digest at the source that is to be copied.
    pub fn pending(&self) -> Option<&Digest> {
        let (source, wanted) = self.wanted()?;
        match &self.destination {
            Found::Nothing => Some(source),
            Found::Digest(found) if found != wanted => Some(source),
            _ => None,
        }
    }

    /// Whether there was no time to look.
    pub fn is_open(&self) -> bool {
        matches!(
            (&self.source, &self.destination),
            (Found::NotLookedAt, _) | (Found::Digest(_), Found::NotLookedAt)
        )
    }

    /// Why the tag cannot be mirrored, as far as looking tells.
    pub fn problem(&self) -> Option<(Reason, String, bool)> {
        match (&self.source, &self.destination) {
            (Found::Nothing, _) => Some((
                Reason::TagNotFound,
                "the source has no such tag".to_owned(),
                false,
            )),
            (
                Found::Failed {
                    reason,
                    message,
                    transient,
                },
                _,
            )
            | (
                _,
                Found::Failed {
                    reason,
                    message,
                    transient,
                },
            ) => Some((*reason, message.clone(), *transient)),
            _ => None,
        }
    }
}

impl Observed {
    /// The tags that are mirrored with what was found.
    pub fn looked(&self) -> impl Iterator<Item = (&MirrorTag, &TagLook)> {
        let look = self.look.iter().flat_map(|look| &look.tags);
        look.map(|(tag, look)| (tag, look))
    }

    /// What could not be chosen or listed.
    pub fn problems(&self) -> &[Problem] {
        self.look.as_ref().map_or(&[], |look| &look.problems)
    }
}

/// The pod of the present sync: the newest that the status does not name, if it is newer than the last sync, else the one
/// that the status names.
pub fn current_pod<'a>(status: &ImageMirrorStatus, pods: &'a [PodView]) -> Option<&'a PodView> {
    let attempt = status.attempt.as_ref();
    let known = attempt.and_then(|attempt| attempt.pod_uid.as_deref());
    let known_pod = pods
        .iter()
        .find(|pod| known == Some(pod.pod.identity.uid.as_str()));
    let newest = pods.iter().max_by(|a, b| {
        let by_name = || a.pod.identity.name.cmp(&b.pod.identity.name);
        by_age(a, b).then_with(by_name)
    });
    match (known_pod, newest) {
        (Some(known), Some(newest)) if by_age(newest, known).is_gt() => Some(newest),
        (Some(known), _) => Some(known),
        // A pod that ended is no news where the status already knows a later one that is gone.
        (None, Some(newest)) => (attempt.is_none() || newest.is_active()).then_some(newest),
        (None, None) => None,
    }
}

/// Which of two pods was made later. Times of creation have whole seconds: within one, the later attempt at the same, or the
/// one that still runs, since a sync starts when the one before has ended. Equal where that says nothing: then the status
/// keeps to the one that it names.
fn by_age(a: &PodView, b: &PodView) -> Ordering {
    let (x, y) = (&a.pod.attempt, &b.pod.attempt);
    let by_number = || {
        if x.key == y.key {
            x.number.cmp(&y.number)
        } else {
            Ordering::Equal
        }
    };
    let by_state = || a.is_active().cmp(&b.is_active());
    let by_time = a.pod.created.cmp(&b.pod.created);
    by_time.then_with(by_number).then_with(by_state)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "tests")]
    use serde_json::json;

    use super::*;
    use crate::builder_pod::{Attempt, Identity, ObservedPod};

    fn pod(name: &str, second: i64, key: &str, number: u32, active: bool) -> PodView {
        let phase = if active { "Running" } else { "Failed" };
        PodView {
            pod: ObservedPod {
                identity: Identity {
                    name: name.to_owned(),
                    uid: name.to_owned(),
                },
                attempt: Attempt {
                    key: key.to_owned(),
                    number,
                    ..Attempt::default()
                },
                created: Timestamp::from_second(second).unwrap(),
                deleting: false,
                pod: serde_json::from_value(json!({"status": {"phase": phase}})).unwrap(),
            },
            events: Vec::new(),
        }
    }

    #[test]
    fn pods_of_one_second_are_told_apart() {
        let named = |name: &str| ImageMirrorStatus {
            attempt: Some(crds::image_mirror::SyncAttempt {
                pod_uid: Some(name.to_owned()),
                ..Default::default()
            }),
            ..Default::default()
        };
        let ended = |name, second, key, number| pod(name, second, key, number, false);
        let runs = |name, second, key, number| pod(name, second, key, number, true);
        let table = vec![
            ("a", [ended("a", 1, "k", 0), runs("b", 2, "l", 0)], "b"),
            ("b", [ended("a", 1, "k", 0), runs("b", 2, "l", 0)], "b"),
            // Of one second: the number of the attempt at the same,
            ("z", [ended("z", 1, "k", 0), ended("b", 1, "k", 1)], "b"),
            ("z", [ended("z", 1, "k", 1), runs("b", 1, "k", 0)], "z"),
            // or that it goes on,
            ("a", [ended("a", 1, "k", 3), runs("b", 1, "l", 0)], "b"),
            ("b", [ended("a", 1, "k", 3), runs("b", 1, "l", 0)], "b"),
            ("a", [runs("a", 1, "k", 3), ended("b", 1, "l", 9)], "a"),
            // or what the status says.
            ("a", [ended("a", 1, "k", 0), ended("b", 1, "l", 0)], "a"),
            ("b", [ended("a", 1, "k", 0), ended("b", 1, "l", 0)], "b"),
            ("a", [runs("a", 1, "k", 0), runs("b", 1, "l", 0)], "a"),
            // It knows neither: what ended is no news.
            ("x", [ended("a", 1, "k", 0), runs("b", 1, "l", 0)], "b"),
            ("x", [ended("a", 1, "k", 0), ended("b", 1, "l", 0)], ""),
        ];
        for (known, pods, expected) in table {
            for reversed in [false, true] {
                let mut pods = pods.to_vec();
                if reversed {
                    pods.reverse();
                }
                let found = current_pod(&named(known), &pods);
                let found = found.map_or("", |pod| &pod.pod.identity.name);
                assert_eq!(found, expected, "{known} {reversed}");
            }
        }
    }
}
