//! Reads the spec of an ImageMirror into types that cannot be wrong. Pure.

use std::time::Duration;

use crds::ImageMirrorSpec;
use oci::{Reference, RegistryHost, Repository, Tag};

use crate::image_build::validate::{Violation, registry_secret};
use crate::reason::Reason;

/// Tags of one resource: each costs two requests at every look.
pub const MAX_TAGS: usize = 1000;
/// A shorter interval would be an attack on the source.
const MIN_INTERVAL: Duration = Duration::from_secs(5);

/// A spec that can be carried out.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ValidatedMirror {
    /// How often the source is looked at.
    pub interval: Duration,
    /// Secret with which the source is read.
    pub source_secret: Option<String>,
    /// The Registry that is written to.
    pub registry: String,
    /// The tags, in the order of the spec, each once.
    pub tags: Vec<MirrorTag>,
}

/// One tag to mirror.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct MirrorTag {
    /// What is copied.
    pub source: Reference,
    /// Path in the Registry.
    pub path: String,
    /// The tag, on both sides.
    pub tag: Tag,
}

impl MirrorTag {
    /// Where it is copied to, in the Registry `host`; none where host and path together are no name.
    pub fn destination(&self, host: &RegistryHost) -> Option<Reference> {
        let repository = Repository::new(host.clone(), &self.path).ok()?;
        Some(repository.tagged(self.tag.clone()))
    }
}

impl ValidatedMirror {
    /// The Secret with the credentials of the Registry.
    pub fn registry_secret(&self) -> String {
        registry_secret(&self.registry)
    }

    /// Names of Secrets, in the order in which credentials are looked for.
    pub fn secrets(&self) -> Vec<String> {
        let mut names = vec![self.registry_secret()];
        names.extend(
            self.source_secret
                .clone()
                .filter(|name| !names.contains(name)),
        );
        names
    }
}

/// Reads `spec`.
///
/// # Errors
/// The first rule that it breaks, with the field.
pub fn validate(spec: &ImageMirrorSpec) -> Result<ValidatedMirror, Violation> {
    let invalid = |message: String| Violation {
        reason: Reason::InvalidSpec,
        message,
    };
    let interval = spec
        .interval()
        .map_err(|error| invalid(format!("spec.interval: {error}")))?;
    let host: RegistryHost = spec
        .source
        .host
        .parse()
        .map_err(|error| invalid(format!("spec.source.host: {error}")))?;
    let mut tags: Vec<MirrorTag> = Vec::new();
    for (index, image) in spec.images.iter().enumerate() {
        let field = format!("spec.images[{index}]");
        let repository = Repository::new(host.clone(), &image.repository)
            .map_err(|error| invalid(format!("{field}.repository: {error}")))?;
        let path = spec.destination.repository(image);
        // Any host will do to see whether the path is one.
        Repository::new(host.clone(), &path)
            .map_err(|error| invalid(format!("{field}.destination: {error}")))?;
        for (at, name) in image.tags.names.iter().enumerate() {
            let tag: Tag = name.parse().map_err(|error| Violation {
                reason: Reason::InvalidTag,
                message: format!("{field}.tags.names[{at}]: {error}"),
            })?;
            let source = repository.tagged(tag.clone());
            if let Some(other) = tags.iter().find(|t| t.path == path && t.tag == tag) {
                if other.source == source {
                    continue;
                }
                return Err(invalid(format!(
                    "{field}: {} and {source} would both be {path}:{name}",
                    other.source
                )));
            }
            tags.push(MirrorTag {
                source,
                path: path.clone(),
                tag,
            });
        }
    }
    if tags.is_empty() {
        return Err(invalid("spec.images names no tag".to_owned()));
    }
    if tags.len() > MAX_TAGS {
        return Err(invalid(format!(
            "spec.images names {} tags, the most is {MAX_TAGS}: divide them among several ImageMirrors",
            tags.len()
        )));
    }
    Ok(ValidatedMirror {
        interval: interval.max(MIN_INTERVAL),
        source_secret: spec.source.secret_ref.as_ref().map(|s| s.name.clone()),
        registry: spec.destination.registry.name.clone(),
        tags,
    })
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "tests")]
    use super::*;
    use serde_json::{Value, json};

    fn read(images: &Value) -> Result<ValidatedMirror, Violation> {
        let spec = json!({"source": {"host": "docker.io"}, "images": images,
            "destination": {"registry": {"name": "main"}, "prefix": "mirror"}});
        validate(&serde_json::from_value(spec).unwrap())
    }

    #[test]
    fn tags_have_a_source_and_a_place() {
        let mirror = read(&json!([
            {"name": "a", "repository": "library/alpine", "tags": {"names": ["3.22", "3.22", "edge"]}},
            {"name": "b", "repository": "acme/app", "tags": {"names": ["v1"]}, "destination": "app"},
        ]))
        .unwrap();
        let tags: Vec<String> = mirror
            .tags
            .iter()
            .map(|t| format!("{} -> {}:{}", t.source, t.path, t.tag.as_str()))
            .collect();
        assert_eq!(
            tags,
            [
                "docker.io/library/alpine:3.22 -> mirror/library/alpine:3.22",
                "docker.io/library/alpine:edge -> mirror/library/alpine:edge",
                "docker.io/acme/app:v1 -> mirror/app:v1"
            ]
        );
        assert_eq!(mirror.secrets(), ["main-credentials"]);
        assert_eq!(mirror.interval, Duration::from_secs(900));
    }

    #[test]
    fn what_breaks_a_rule_is_refused_with_its_field() {
        let image = |repository: &str, tag: &str, destination: &str| json!({"name": "a", "repository": repository, "tags": {"names": [tag]}, "destination": destination});
        for (images, expected) in [
            (json!([]), "no tag"),
            (json!([image("A", "x", "a")]), "spec.images[0].repository"),
            (
                json!([image("a", ".x", "a")]),
                "spec.images[0].tags.names[0]",
            ),
            (
                json!([image("a", "x", "../a")]),
                "spec.images[0].destination",
            ),
            (
                json!([image("a", "x", "c"), image("b", "x", "c")]),
                "would both be",
            ),
        ] {
            let violation = read(&images).unwrap_err();
            assert!(
                violation.message.contains(expected),
                "{}",
                violation.message
            );
        }
    }
}
