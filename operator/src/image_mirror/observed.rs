//! What a decision about an ImageMirror depends on besides the resource.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use crds::ImageMirrorStatus;
use jiff::Timestamp;
use oci::Digest;

use super::validate::{MirrorTag, ValidatedMirror};
use crate::builder_pod::{BuilderSettings, PodState, PodView};
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
    /// The Registry that is written to.
    pub registry: RegistryState,
    /// Hosts of all Registries of the namespace, which are reached by plain HTTP.
    pub plain_http: Vec<String>,
    /// Own pods, the oldest first.
    pub pods: Vec<PodView>,
    /// What source and destination hold, in the order of the tags; none while there is no need to know.
    pub tags: Option<Arc<Vec<TagLook>>>,
    /// When they are to be looked at again.
    pub look_again: Option<Duration>,
    /// A name that the next pod needs and that somebody else's pod has.
    pub taken: Option<String>,
    /// What the operator's settings say of builder pods.
    pub builder: BuilderSettings,
}

/// What source and destination hold for one tag.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TagLook {
    /// What the source has.
    pub source: Found,
    /// What the destination has.
    pub destination: Found,
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
    /// It was not looked at, since the other side decides.
    NotLookedAt,
}

impl TagLook {
    /// The digest that both sides have.
    pub fn synced(&self) -> Option<&Digest> {
        match (&self.source, &self.destination) {
            (Found::Digest(source), Found::Digest(destination)) if source == destination => {
                Some(source)
            }
            _ => None,
        }
    }

    /// The digest that is to be copied.
    pub fn pending(&self) -> Option<&Digest> {
        match (&self.source, &self.destination) {
            (Found::Digest(source), Found::Nothing) => Some(source),
            (Found::Digest(source), Found::Digest(other)) if source != other => Some(source),
            _ => None,
        }
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
    /// The tags of the spec with what was found.
    pub fn looked(&self) -> impl Iterator<Item = (&MirrorTag, &TagLook)> {
        let tags = self.spec.as_ref().map_or(&[][..], |spec| &spec.tags);
        let looks = self.tags.as_ref().map_or(&[][..], |looks| looks.as_slice());
        tags.iter().zip(looks)
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
    let newest = pods.last();
    match (known_pod, newest) {
        (Some(known), Some(newest)) if newest.pod.created >= known.pod.created => Some(newest),
        (Some(known), _) => Some(known),
        // A pod that ended is no news where the status already knows a later one that is gone.
        (None, Some(newest)) => {
            let ended = matches!(newest.state(), PodState::Ended(_));
            (attempt.is_none() || !ended).then_some(newest)
        }
        (None, None) => None,
    }
}
