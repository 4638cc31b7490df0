//! The pods of the parts of an attempt. Pure.

use crds::image_build::{Attempt as AttemptStatus, AttemptPart, PodOptions};
use k8s_openapi::api::core::v1::Pod;
use kube::ResourceExt;
use oci::Tag;
use protocol::{CacheRequest, Destination, Isolation, JoinRequest, Task};

use super::account::images;
use super::{ARCHITECTURE_LABEL, JOIN, due, node_architecture};
use crate::builder_pod::{Attempt, Part};
use crate::image_build::need::Blocked;
use crate::image_build::plan::Case;
use crate::image_build::start::{build_request, destinations, pod_for};
use crate::image_build::validate::ValidatedBuild;
use crate::reason::Reason;

/// The pod of one part that is to be started.
#[derive(Clone, Debug)]
pub struct PartStart {
    /// Which part.
    pub part: String,
    /// Automatic retries before it.
    pub retries: u32,
    /// Name of the pod.
    pub name: String,
    /// The pod.
    pub pod: Pod,
}

impl Case<'_> {
    /// The pods of the parts that are due.
    ///
    /// # Errors
    /// What is missing for them, or in their way.
    pub(in crate::image_build) fn part_starts(&self) -> Result<Vec<PartStart>, Blocked> {
        let Some(attempt) = self.attempt() else {
            return Ok(Vec::new());
        };
        let due = due(attempt, self.observed.now);
        if due.is_empty() {
            return Ok(Vec::new());
        }
        let spec = self.spec()?;
        self.observed.missing(spec).map_or(Ok(()), Err)?;
        if due.iter().any(|(part, _)| part.name != JOIN) {
            self.observed.source_problem(spec).map_or(Ok(()), Err)?;
            self.observed.input_problem(spec).map_or(Ok(()), Err)?;
        }
        let starts: Vec<PartStart> = due
            .into_iter()
            .map(|(part, retries)| self.part_start(spec, attempt, part, retries))
            .collect();
        let taken = self.observed.taken.as_deref();
        match starts.iter().find(|start| taken == Some(&start.name)) {
            Some(start) => Err(Blocked::stalled(
                Reason::NameConflict,
                format!("Pod {} exists and belongs to somebody else", start.name),
            )),
            None => Ok(starts),
        }
    }

    fn part_start(
        &self,
        spec: &ValidatedBuild,
        attempt: &AttemptStatus,
        part: &AttemptPart,
        retries: u32,
    ) -> PartStart {
        let observed = self.observed;
        let commit = attempt.commit.as_deref();
        let mut options = self.build.spec.pod.clone().unwrap_or_default();
        let (task, isolation) = if part.name == JOIN {
            let task = Task::Join(JoinRequest {
                images: images(attempt),
                destinations: destinations(spec, observed, commit),
            });
            (task, Isolation::NoRun)
        } else {
            select_node(&mut options, &part.name);
            let (isolation, _) = observed.isolation(spec.isolation);
            let mut task = build_request(self.build, spec, observed, isolation, commit);
            task.dockerfile.platforms = vec![part.name.clone()];
            cache_for_platform(&mut task.cache, &part.name);
            if attempt.parts.len() > 1 {
                tag_for_platform(&mut task.destinations, &part.name);
            }
            (Task::Build(task), isolation)
        };
        let made = Attempt {
            key: attempt.key.clone(),
            number: u32::try_from(attempt.number).unwrap_or(0),
            retries: u32::try_from(attempt.retries).unwrap_or(0),
            generation: attempt.generation.unwrap_or_default(),
            reason: attempt.reason.clone(),
            commit: attempt.commit.clone(),
            environment: attempt.environment.clone().unwrap_or_default(),
            part: Some(Part {
                name: part.name.clone(),
                retries,
            }),
        };
        let pod = pod_for(self.build, spec, observed, &made, task, isolation, &options);
        PartStart {
            part: part.name.clone(),
            retries,
            name: pod.name_any(),
            pod,
        }
    }
}

fn select_node(options: &mut PodOptions, platform: &str) {
    let architecture = node_architecture(platform).to_owned();
    options
        .node_selector
        .insert(ARCHITECTURE_LABEL.to_owned(), architecture);
}

/// Gives the tags the platform's name at their end, so that the image is not collected before the index names it.
pub(super) fn tag_for_platform(destinations: &mut [Destination], platform: &str) {
    for tag in destinations.iter_mut().flat_map(|d| d.tags.iter_mut()) {
        append_platform(tag, 0, platform);
    }
}

/// Gives each platform a cache of its own in the registry, and none the claim: the pods run at the same time, on other nodes.
fn cache_for_platform(cache: &mut CacheRequest, platform: &str) {
    for name in cache.import.iter_mut().chain(&mut cache.export) {
        let tag = name.rfind(':').map_or(0, |colon| colon + 1);
        append_platform(name, tag, platform);
    }
    cache.volume = None;
}

/// Puts the platform at the end of a name whose tag begins at `tag`. Of a tag that would be too long, the beginning stays.
fn append_platform(name: &mut String, tag: usize, platform: &str) {
    let end = format!("-{}", platform.replace('/', "-"));
    name.truncate(tag + Tag::MAX_LENGTH.saturating_sub(end.len()));
    name.push_str(&end);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tags_of_platforms_stay_tags() {
        let mut destinations = [Destination {
            name: "main".into(),
            repository: "h/a".into(),
            tags: vec!["v1".into(), "x".repeat(128)],
        }];
        tag_for_platform(&mut destinations, "linux/arm/v7");
        let tags = &destinations[0].tags;
        assert_eq!(tags[0], "v1-linux-arm-v7");
        assert_eq!(tags[1].len(), 128);
        assert!(tags[1].ends_with("x-linux-arm-v7"));
    }

    #[test]
    fn each_platform_has_a_cache_of_its_own() {
        let mut cache = CacheRequest {
            import: vec!["h:5000/a:main".into()],
            export: Some(format!("h:5000/a:{}", "x".repeat(128))),
            volume: Some(protocol::CacheVolume::default()),
        };
        cache_for_platform(&mut cache, "linux/arm/v7");
        assert_eq!(cache.import, ["h:5000/a:main-linux-arm-v7"]);
        let export = cache.export.unwrap_or_default();
        assert!(export.ends_with("x-linux-arm-v7"));
        assert_eq!((export.len(), cache.volume), (128 + 9, None));
    }
}
