//! What earlier attempts at the same key have made of an attempt that is parted: the images of platforms that were there
//! when another one failed for good. `observe` looks whether each is still what a build would make; one that is, is kept.
//! Pure.

use crds::image_build::{AttemptPart, ImageBuildStatus};
use protocol::{BuildOutcome, Destination};

use super::account::note_made;
use super::tag_for_platform;
use crate::builder_pod::{Ended, PodState, PodView};
use crate::image_build::account::RUNNING;
use crate::image_build::observed::{Observed, current_pod};
use crate::image_build::start::destinations;
use crate::image_build::validate::ValidatedBuild;
use crate::reason::Reason;

/// The image of one platform, made by an earlier attempt.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Made {
    /// The platform.
    pub platform: String,
    /// What its pod reported.
    pub built: BuildOutcome,
    /// Where its pod pushed it to, and under which tags.
    pub destinations: Vec<Destination>,
}

impl Made {
    /// The part of an attempt that needs no pod.
    pub(super) fn part(&self) -> AttemptPart {
        let mut part = AttemptPart {
            name: self.platform.clone(),
            ..AttemptPart::default()
        };
        note_made(&mut part, &self.built);
        part
    }
}

/// What earlier attempts have made for the attempt that is about to be parted; nothing when none is. A source whose
/// content cannot be seen to have changed is built anew, and so is all when people want no step to be answered by a cache.
pub fn made_before(
    status: &ImageBuildStatus,
    spec: &ValidatedBuild,
    observed: &Observed,
) -> Vec<Made> {
    let platforms = &spec.dockerfile.platforms;
    let rebuilds = spec.dockerfile.no_cache || !spec.source.shows_changes();
    let Some(whole) = about_to_part(status, observed) else {
        return Vec::new();
    };
    // One platform alone has no index, and was pushed to the destinations themselves.
    if rebuilds || platforms.len() < 2 {
        return Vec::new();
    }
    let (now, commit) = (&whole.pod.attempt, whole.pod.attempt.commit.as_deref());
    let made = |platform: &String| {
        let earlier = observed.parts.iter().filter_map(|view| {
            let then = &view.pod.attempt;
            let part = then.part.as_ref()?;
            let fits = part.name == *platform && then.key == now.key && then.number < now.number;
            let built = view.built().filter(|built| is_whole(built) && fits)?;
            Some(((then.number, part.retries), built))
        });
        let (_, built) = earlier.max_by_key(|(order, _)| *order)?;
        let mut destinations = destinations(spec, observed, commit);
        tag_for_platform(&mut destinations, platform);
        Some(Made {
            platform: platform.clone(),
            built,
            destinations,
        })
    };
    platforms.iter().filter_map(made).collect()
}

/// The pod that has found out that its attempt must be parted, when the status does not know it yet.
fn about_to_part<'a>(status: &ImageBuildStatus, observed: &'a Observed) -> Option<&'a PodView> {
    let view = current_pod(status, &observed.pods)?;
    let uid = Some(&view.pod.identity.uid);
    let known = status
        .attempt
        .as_ref()
        .filter(|a| a.pod_uid.as_ref() == uid);
    let decided = known.is_some_and(|attempt| {
        !attempt.parts.is_empty() || attempt.result.as_deref() != Some(RUNNING)
    });
    match view.state() {
        PodState::Ended(Ended::Failed(failure)) => {
            (!decided && failure.reason == Reason::ForeignPlatform).then_some(view)
        }
        _ => None,
    }
}

/// Whether it can be named in an index.
fn is_whole(built: &BuildOutcome) -> bool {
    built.digest.parse::<oci::Digest>().is_ok() && i64::try_from(built.size).is_ok()
}
