//! Manifests and indexes, and the reading of untrusted bytes as one of the two (image-spec, manifest.md and image-index.md).

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

use crate::{Descriptor, MAX_MANIFEST_BYTES, MediaType, Platform};

/// The manifest of one image: its configuration and its layers, bottom first.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Manifest {
    /// Always 2.
    pub schema_version: u32,
    /// The type of this document; OCI allows leaving it out.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub media_type: Option<MediaType>,
    /// The type of an artifact.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub artifact_type: Option<String>,
    /// The image configuration.
    pub config: Descriptor,
    /// The layers, bottom first.
    #[serde(default)]
    pub layers: Vec<Descriptor>,
    /// The manifest that this one is about (a referrer).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub subject: Option<Descriptor>,
    /// Free-form annotations.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub annotations: BTreeMap<String, String>,
    /// Members that this program does not know.
    #[serde(flatten)]
    pub other: Map<String, Value>,
}

impl Manifest {
    /// An OCI manifest of `config` and `layers`.
    pub fn new(config: Descriptor, layers: Vec<Descriptor>) -> Self {
        Self {
            schema_version: 2,
            media_type: Some(MediaType::OciManifest),
            artifact_type: None,
            config,
            layers,
            subject: None,
            annotations: BTreeMap::new(),
            other: Map::new(),
        }
    }
}

/// A list of manifests, usually one for each platform.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Index {
    /// Always 2.
    pub schema_version: u32,
    /// The type of this document; OCI allows leaving it out.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub media_type: Option<MediaType>,
    /// The type of an artifact.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub artifact_type: Option<String>,
    /// The children.
    #[serde(default)]
    pub manifests: Vec<Descriptor>,
    /// The manifest that this one is about (a referrer).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub subject: Option<Descriptor>,
    /// Free-form annotations.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub annotations: BTreeMap<String, String>,
    /// Members that this program does not know.
    #[serde(flatten)]
    pub other: Map<String, Value>,
}

impl Index {
    /// An OCI index of `manifests`.
    pub fn new(manifests: Vec<Descriptor>) -> Self {
        Self {
            schema_version: 2,
            media_type: Some(MediaType::OciIndex),
            artifact_type: None,
            manifests,
            subject: None,
            annotations: BTreeMap::new(),
            other: Map::new(),
        }
    }

    /// The child for `platform`: the first that matches it exactly, attestations left aside.
    pub fn select(&self, platform: &Platform) -> Option<&Descriptor> {
        self.manifests
            .iter()
            .find(|child| child.platform.as_ref().is_some_and(|p| platform.matches(p)))
    }

    /// The platforms of the children, in their order, without `unknown/unknown` (attestations).
    pub fn platforms(&self) -> impl Iterator<Item = &Platform> {
        self.manifests
            .iter()
            .filter_map(|child| child.platform.as_ref())
            .filter(|p| p.os != "unknown")
    }
}

/// What a registry serves under a tag or a manifest digest.
#[expect(
    clippy::large_enum_variant,
    reason = "few values, and each is read at once"
)]
#[derive(Clone, Debug, PartialEq)]
pub enum Document {
    /// One image.
    Manifest(Manifest),
    /// A list of images.
    Index(Index),
}

/// Why some bytes are not a manifest or an index.
#[derive(Debug, thiserror::Error)]
pub enum DocumentError {
    /// More than [`MAX_MANIFEST_BYTES`].
    #[error("the manifest has {0} bytes, more than the {MAX_MANIFEST_BYTES} that are accepted")]
    TooLarge(usize),
    /// Not JSON, or members of the wrong type.
    #[error("the manifest is not valid JSON of its kind")]
    Json(#[from] serde_json::Error),
    /// Has the members of both a manifest and an index (CVE-2021-41190).
    #[error("the manifest is ambiguous: it has both `manifests` and `{0}`")]
    Ambiguous(&'static str),
    /// `mediaType` inside disagrees with what it was served as.
    #[error("the manifest says that it is `{inside}`, but it was served as `{outside}`")]
    MediaTypeMismatch {
        /// The `mediaType` member.
        inside: MediaType,
        /// What the server, or the referring descriptor, said.
        outside: MediaType,
    },
    /// A kind of document that is no image: schema 1, or something else altogether.
    #[error("`{0}` is not a manifest of an image that is supported")]
    Unsupported(MediaType),
}

impl Document {
    /// Reads `bytes` that were served as `media_type`.
    ///
    /// # Errors
    /// When the bytes are too many, are not JSON, are ambiguous, or contradict `media_type`.
    pub fn parse(media_type: &MediaType, bytes: &[u8]) -> Result<Self, DocumentError> {
        #[derive(Deserialize)]
        #[serde(rename_all = "camelCase")]
        struct Probe {
            media_type: Option<MediaType>,
            manifests: Option<serde::de::IgnoredAny>,
            layers: Option<serde::de::IgnoredAny>,
            config: Option<serde::de::IgnoredAny>,
        }
        if bytes.len() as u64 > MAX_MANIFEST_BYTES {
            return Err(DocumentError::TooLarge(bytes.len()));
        }
        let probe: Probe = serde_json::from_slice(bytes)?;
        if let Some(inside) = probe.media_type.filter(|inside| inside != media_type) {
            return Err(DocumentError::MediaTypeMismatch {
                inside,
                outside: media_type.clone(),
            });
        }
        if probe.manifests.is_some() {
            for (member, present) in [
                ("layers", probe.layers.is_some()),
                ("config", probe.config.is_some()),
            ] {
                if present {
                    return Err(DocumentError::Ambiguous(member));
                }
            }
        }
        match media_type {
            t if t.is_index() => Ok(Self::Index(serde_json::from_slice(bytes)?)),
            t if t.is_manifest() => Ok(Self::Manifest(serde_json::from_slice(bytes)?)),
            other => Err(DocumentError::Unsupported(other.clone())),
        }
    }

    /// What this document refers to: the children of an index, or the configuration and layers of a manifest.
    pub fn references(&self) -> Vec<&Descriptor> {
        match self {
            Self::Index(index) => index.manifests.iter().collect(),
            Self::Manifest(manifest) => std::iter::once(&manifest.config)
                .chain(&manifest.layers)
                .collect(),
        }
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::Digest;

    fn child(arch: &str) -> Descriptor {
        Descriptor::of(MediaType::OciManifest, arch.as_bytes())
            .with_platform(format!("linux/{arch}").parse().unwrap())
    }

    #[test]
    fn an_index_selects_the_child_of_a_platform() {
        let index = Index::new(vec![child("arm64"), child("amd64")]);
        let found = index.select(&"linux/x86_64".parse().unwrap()).unwrap();
        assert_eq!(found.digest, Digest::of(b"amd64"));
        assert!(index.select(&"linux/s390x".parse().unwrap()).is_none());
    }

    #[test]
    fn unknown_members_survive() {
        let text = json!({"schemaVersion": 2, "mediaType": "application/vnd.oci.image.index.v1+json", "manifests": [], "x-new": {"a": 1}});
        let bytes = serde_json::to_vec(&text).unwrap();
        let Document::Index(index) = Document::parse(&MediaType::OciIndex, &bytes).unwrap() else {
            panic!("not an index")
        };
        assert_eq!(serde_json::to_value(index).unwrap(), text);
    }

    #[test]
    fn doubtful_documents_are_refused() {
        let parse = |media_type: MediaType, value: Value| {
            Document::parse(&media_type, value.to_string().as_bytes()).unwrap_err()
        };
        let config = json!(child("amd64"));
        assert!(matches!(
            parse(
                MediaType::OciIndex,
                json!({"schemaVersion": 2, "manifests": [], "layers": []})
            ),
            DocumentError::Ambiguous("layers")
        ));
        assert!(matches!(
            parse(
                MediaType::OciManifest,
                json!({"schemaVersion": 2, "config": config, "manifests": []})
            ),
            DocumentError::Ambiguous("config")
        ));
        assert!(matches!(
            parse(
                MediaType::OciManifest,
                json!({"schemaVersion": 2, "mediaType": MediaType::OciIndex, "manifests": []})
            ),
            DocumentError::MediaTypeMismatch { .. }
        ));
        assert!(matches!(
            parse("text/html".into(), json!({})),
            DocumentError::Unsupported(_)
        ));
        assert!(Document::parse(&MediaType::OciIndex, &vec![b' '; 5 << 20]).is_err());
    }
}
