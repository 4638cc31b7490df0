//! Reads `spec.images` of an ImageMirror into types that cannot be wrong. Pure.

use std::collections::HashMap;
use std::sync::Arc;

use crds::image_mirror::{MirrorDestination, MirrorImage, PlatformSelection};
use distribution::copy::Platforms;
use oci::{Digest, Platform, Reference, RegistryHost, Repository, Tag};

use crate::selection::Selector;

/// A rule that an entry breaks.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{message}")]
pub struct InvalidEntry {
    /// The field, and what is wrong with it.
    pub message: String,
    /// Whether it is a tag that breaks the grammar.
    pub is_tag: bool,
}

/// One repository and which of its images are mirrored.
#[derive(Clone, Debug)]
pub struct Entry {
    /// Where it stands in the resource, `spec.images[0]`.
    pub field: String,
    /// The repository.
    pub source: Repository,
    /// Path at the destination.
    pub path: String,
    /// Which tags.
    pub selector: Option<Selector>,
    /// Which manifests by digest.
    pub digests: Vec<Digest>,
    /// Which platforms of an index.
    pub platforms: Arc<Platforms>,
}

/// One tag to mirror.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct MirrorTag {
    /// What is copied: by tag, or by digest.
    pub source: Reference,
    /// Path at the destination.
    pub path: String,
    /// The tag there.
    pub tag: Tag,
    /// Which platforms of an index.
    pub platforms: Arc<Platforms>,
}

impl Entry {
    /// `source` as `tag` of the place of this entry.
    pub fn tag(&self, source: Reference, tag: Tag) -> MirrorTag {
        MirrorTag {
            source,
            path: self.path.clone(),
            tag,
            platforms: self.platforms.clone(),
        }
    }

    fn read(
        field: String,
        host: &RegistryHost,
        path: String,
        image: &MirrorImage,
    ) -> Result<Self, InvalidEntry> {
        let invalid = |below: &str, message: String| InvalidEntry {
            message: format!("{field}.{below}: {message}"),
            is_tag: false,
        };
        let source = Repository::new(host.clone(), &image.repository)
            .map_err(|error| invalid("repository", error.to_string()))?;
        // Any host will do to see whether the path is one.
        Repository::new(host.clone(), &path)
            .map_err(|error| invalid("destination", error.to_string()))?;
        let selector = image.tags.as_ref().map(Selector::of).transpose();
        let selector = selector.map_err(|error| InvalidEntry {
            message: format!("{field}.tags{error}"),
            is_tag: error.is_tag,
        })?;
        let mut digests: Vec<Digest> = Vec::new();
        for (at, text) in image.digests.iter().enumerate() {
            let digest = text
                .parse()
                .map_err(|error| invalid(&format!("digests[{at}]"), format!("{error}")))?;
            if !digests.contains(&digest) {
                digests.push(digest);
            }
        }
        let platforms = image.platforms.as_ref().map(platforms).transpose();
        let platforms = platforms.map_err(|message| invalid("platforms", message))?;
        if selector.is_none() && digests.is_empty() {
            return Err(InvalidEntry {
                message: format!("{field}: it selects nothing: set tags or digests"),
                is_tag: false,
            });
        }
        Ok(Self {
            field,
            source,
            path,
            selector,
            digests,
            platforms: Arc::new(platforms.unwrap_or_default()),
        })
    }

    /// The images that are mirrored whatever the source lists, and the tags that they get.
    fn named(&self) -> impl Iterator<Item = (Reference, Tag)> {
        let tags = self.selector.iter().flat_map(Selector::names);
        let tags = tags.map(|tag| (self.source.tagged(tag.clone()), tag.clone()));
        let digests = self
            .digests
            .iter()
            .filter_map(|digest| Some((self.source.at(digest.clone()), tag_of(digest)?)));
        tags.chain(digests)
    }
}

fn platforms(selection: &PlatformSelection) -> Result<Platforms, String> {
    let only = selection.only.iter().map(|text| text.parse());
    let only = only
        .collect::<Result<Vec<Platform>, _>>()
        .map_err(|error: oci::PlatformError| error.to_string())?;
    if only.is_empty() {
        return Err("only names no platform".to_owned());
    }
    match selection.index.as_str() {
        "Sparse" => Ok(Platforms::Sparse(only)),
        "Rewrite" => Ok(Platforms::Rewrite(only)),
        _ => Err("index must be Sparse or Rewrite".to_owned()),
    }
}

impl MirrorTag {
    /// Where it is copied to, in the registry `host`; none where host and path together are no name.
    pub fn destination(&self, host: &RegistryHost) -> Option<Reference> {
        let repository = Repository::new(host.clone(), &self.path).ok()?;
        Some(repository.tagged(self.tag.clone()))
    }
}

/// The tag that an image has which is mirrored by digest: a collection of garbage keeps what has a tag.
pub fn tag_of(digest: &Digest) -> Option<Tag> {
    let hex = digest.hex().get(..12)?;
    format!("sha256-{hex}").parse().ok()
}

/// Reads `images` of the registry `host` that are mirrored to `destination`.
///
/// # Errors
/// The first rule that they break, with the field.
pub fn entries(
    host: &RegistryHost,
    destination: &MirrorDestination,
    images: &[MirrorImage],
) -> Result<Vec<Entry>, InvalidEntry> {
    let mut entries = Vec::new();
    let mut places: HashMap<(String, String), Reference> = HashMap::new();
    for (index, image) in images.iter().enumerate() {
        let path = destination.repository(image);
        let entry = Entry::read(format!("spec.images[{index}]"), host, path, image)?;
        for (source, tag) in entry.named() {
            let place = (entry.path.clone(), tag.as_str().to_owned());
            let other = places.entry(place).or_insert_with(|| source.clone());
            if *other != source {
                return Err(InvalidEntry {
                    message: format!(
                        "{}: {other} and {source} would both be {}:{}",
                        entry.field,
                        entry.path,
                        tag.as_str()
                    ),
                    is_tag: false,
                });
            }
        }
        entries.push(entry);
    }
    if entries.is_empty() {
        return Err(InvalidEntry {
            message: "spec.images names no image".to_owned(),
            is_tag: false,
        });
    }
    Ok(entries)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "tests")]
    use super::*;
    use serde_json::{Value, json};

    fn read(images: &Value) -> Result<Vec<Entry>, InvalidEntry> {
        let destination = json!({"registry": {"name": "main"}, "prefix": "mirror"});
        let destination: MirrorDestination = serde_json::from_value(destination).unwrap();
        let images: Vec<MirrorImage> = serde_json::from_value(images.clone()).unwrap();
        entries(&"docker.io".parse().unwrap(), &destination, &images)
    }

    #[test]
    fn tags_have_a_source_and_a_place() {
        let entries = read(&json!([
            {"name": "a", "repository": "library/alpine", "tags": {"names": ["3.22", "3.22", "edge"]}},
            {"name": "b", "repository": "acme/app", "tags": {"names": ["v1"]}, "destination": "app"},
        ]))
        .unwrap();
        let tags: Vec<String> = entries
            .iter()
            .flat_map(|entry| {
                let named = entry.named();
                named.map(|(from, tag)| format!("{from} -> {}:{}", entry.path, tag.as_str()))
            })
            .collect();
        assert_eq!(
            tags,
            [
                "docker.io/library/alpine:3.22 -> mirror/library/alpine:3.22",
                "docker.io/library/alpine:edge -> mirror/library/alpine:edge",
                "docker.io/acme/app:v1 -> mirror/app:v1"
            ]
        );
    }

    #[test]
    fn what_breaks_a_rule_is_refused_with_its_field() {
        let image = |repository: &str, tag: &str, destination: &str| json!({"name": "a", "repository": repository, "tags": {"names": [tag]}, "destination": destination});
        for (images, expected) in [
            (json!([]), "no image"),
            (
                json!([{"name": "a", "repository": "a"}]),
                "spec.images[0]: it selects nothing",
            ),
            (
                json!([{"name": "a", "repository": "a", "tags": {}}]),
                "spec.images[0].tags: it selects nothing",
            ),
            (
                json!([{"name": "a", "repository": "a", "tags": {"regex": "("}}]),
                "spec.images[0].tags.regex: not a pattern",
            ),
            (
                json!([{"name": "a", "repository": "a", "digests": ["sha256:00"]}]),
                "spec.images[0].digests[0]",
            ),
            (
                json!([{"name": "a", "repository": "a", "tags": {"all": true}, "platforms": {"only": ["linux"], "index": "Sparse"}}]),
                "spec.images[0].platforms",
            ),
            (
                json!([{"name": "a", "repository": "a", "tags": {"all": true}, "platforms": {"only": ["linux/arm64"], "index": "sparse"}}]),
                "index must be",
            ),
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
