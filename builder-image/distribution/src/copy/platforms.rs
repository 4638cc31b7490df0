//! Which platforms of an index are copied: all, or some, with the index as it is or rewritten to name only those. Pure.

use std::collections::HashSet;

use bytes::Bytes;
use oci::{Descriptor, Digest, Index, Platform};
use serde_json::Value;

use crate::{Error, RawManifest, Result};

/// Says of an attestation's descriptor which manifest it is about (`BuildKit`'s attestation storage).
const REFERENCE_DIGEST: &str = "vnd.docker.reference.digest";

/// Which platforms of an index are copied. An image without an index is copied as it is.
#[derive(Debug, Clone, Default, PartialEq, Eq, Hash)]
pub enum Platforms {
    /// The whole index.
    #[default]
    Whole,
    /// These; the index keeps its bytes and its digest, and names manifests that the destination lacks. Not every
    /// registry takes such an index.
    Sparse(Vec<Platform>),
    /// These; the index is written anew without the others, so that it has another digest than at the source.
    Rewrite(Vec<Platform>),
}

impl Platforms {
    /// Whether the destination's digest is another than the source's.
    pub const fn rewrites(&self) -> bool {
        matches!(self, Self::Rewrite(_))
    }

    const fn wanted(&self) -> Option<&Vec<Platform>> {
        match self {
            Self::Whole => None,
            Self::Sparse(wanted) | Self::Rewrite(wanted) => Some(wanted),
        }
    }

    /// The index as it is to be at the destination, and its children that are copied.
    ///
    /// # Errors
    /// [`Error::PlatformMissing`] when it has none of the platforms.
    pub(super) fn apply(
        &self,
        manifest: RawManifest,
        index: Index,
    ) -> Result<(RawManifest, Vec<Descriptor>)> {
        let Some(wanted) = self.wanted() else {
            return Ok((manifest, index.manifests));
        };
        let kept = kept(&index, wanted);
        if kept.is_empty() {
            let list: Vec<_> = wanted.iter().map(ToString::to_string).collect();
            return Err(Error::PlatformMissing {
                digest: manifest.digest,
                platforms: list.join(", "),
            });
        }
        let all = index.manifests.len();
        let children: Vec<_> = index
            .manifests
            .into_iter()
            .filter(|child| kept.contains(&child.digest))
            .collect();
        if self.rewrites() && children.len() < all {
            let manifest = rewritten(&manifest, &kept)?;
            return Ok((manifest, children));
        }
        Ok((manifest, children))
    }

    /// The manifest that the destination has when `manifest` was copied.
    ///
    /// # Errors
    /// When `manifest` cannot be read, and [`Error::PlatformMissing`].
    pub fn result_of(&self, manifest: RawManifest) -> Result<RawManifest> {
        let document = manifest.document().map_err(|source| Error::Document {
            action: format!("read manifest {}", manifest.digest),
            source,
        })?;
        match document {
            oci::Document::Index(index) => Ok(self.apply(manifest, index)?.0),
            oci::Document::Manifest(_) => Ok(manifest),
        }
    }
}

/// The children for one of `wanted`, the attestations of those, and what has no platform and so cannot be left out.
fn kept(index: &Index, wanted: &[Platform]) -> HashSet<Digest> {
    let is_attestation = |child: &Descriptor| child.annotations.contains_key(REFERENCE_DIGEST);
    let matching = |child: &&Descriptor| {
        let platform = child.platform.as_ref();
        platform.is_some_and(|has| wanted.iter().any(|w| w.matches(has)))
    };
    let mut kept: HashSet<Digest> = index
        .manifests
        .iter()
        .filter(matching)
        .map(|child| child.digest.clone())
        .collect();
    if kept.is_empty() {
        return kept;
    }
    let also: Vec<_> = index
        .manifests
        .iter()
        .filter(|child| match child.annotations.get(REFERENCE_DIGEST) {
            Some(about) => kept.iter().any(|digest| digest.as_str() == about),
            None => child.platform.is_none() && !is_attestation(child),
        })
        .map(|child| child.digest.clone())
        .collect();
    kept.extend(also);
    kept
}

/// The index with only those children. All its other members stay; the same input gives the same bytes.
fn rewritten(manifest: &RawManifest, kept: &HashSet<Digest>) -> Result<RawManifest> {
    let malformed = |source: serde_json::Error| Error::Document {
        action: format!("read manifest {}", manifest.digest),
        source: source.into(),
    };
    let mut value: Value = serde_json::from_slice(&manifest.bytes).map_err(malformed)?;
    if let Some(children) = value.get_mut("manifests").and_then(Value::as_array_mut) {
        children.retain(|child| {
            let digest = child.get("digest").and_then(Value::as_str);
            digest.is_some_and(|digest| kept.iter().any(|kept| kept.as_str() == digest))
        });
    }
    let bytes = Bytes::from(serde_json::to_vec(&value).map_err(malformed)?);
    Ok(RawManifest {
        media_type: manifest.media_type.clone(),
        digest: Digest::of(&bytes),
        bytes,
    })
}

#[cfg(test)]
mod tests {
    use oci::MediaType;

    use super::*;

    fn child(platform: &str) -> Descriptor {
        Descriptor::of(MediaType::OciManifest, platform.as_bytes())
            .with_platform(platform.parse().unwrap())
    }

    /// Two platforms, an attestation of each, and a child without a platform.
    fn index() -> (RawManifest, Index) {
        let mut children = vec![child("linux/amd64"), child("linux/arm64")];
        for about in children.clone() {
            let text = format!("attests {}", about.digest);
            let mut attestation = Descriptor::of(MediaType::OciManifest, text.as_bytes())
                .with_platform("unknown/unknown".parse().unwrap());
            let key = REFERENCE_DIGEST.to_owned();
            attestation
                .annotations
                .insert(key, about.digest.to_string());
            children.push(attestation);
        }
        children.push(Descriptor::of(MediaType::OciIndex, b"nested"));
        let mut index = Index::new(children);
        index.annotations.insert("a".into(), "b".into());
        let bytes: Bytes = serde_json::to_vec_pretty(&index).unwrap().into();
        let manifest = RawManifest {
            media_type: MediaType::OciIndex,
            digest: Digest::of(&bytes),
            bytes,
        };
        (manifest, index)
    }

    fn amd64() -> Vec<Platform> {
        vec!["linux/x86_64".parse().unwrap()]
    }

    #[test]
    fn attestations_go_with_their_image_and_unnamed_children_stay() {
        let (manifest, index) = index();
        let all = index.manifests.clone();
        for (platforms, expected) in [
            (Platforms::Whole, vec![0, 1, 2, 3, 4]),
            (Platforms::Sparse(amd64()), vec![0, 2, 4]),
            (Platforms::Rewrite(amd64()), vec![0, 2, 4]),
        ] {
            let (written, children) = platforms.apply(manifest.clone(), index.clone()).unwrap();
            let expected: Vec<_> = expected
                .into_iter()
                .map(|at: usize| all[at].clone())
                .collect();
            assert_eq!(children, expected, "{platforms:?}");
            assert_eq!(written == manifest, !platforms.rewrites(), "{platforms:?}");
        }
    }

    #[test]
    fn a_rewritten_index_keeps_everything_else_and_is_the_same_each_time() {
        let (manifest, before) = index();
        let platforms = Platforms::Rewrite(amd64());
        let written = platforms.result_of(manifest.clone()).unwrap();
        assert_eq!(platforms.result_of(manifest.clone()).unwrap(), written);
        let Ok(oci::Document::Index(after)) = written.document() else {
            panic!("not an index")
        };
        assert_eq!(after.annotations, before.annotations);
        assert_eq!(after.manifests.len(), 3);
        assert_ne!(written.digest, manifest.digest);
        // Nothing to leave out: the bytes stay.
        let both = vec![
            "linux/amd64".parse().unwrap(),
            "linux/arm64".parse().unwrap(),
        ];
        let all = Platforms::Rewrite(both).result_of(manifest.clone());
        assert_eq!(all.unwrap(), manifest);
    }

    #[test]
    fn an_index_without_the_platform_is_an_error() {
        let (manifest, index) = index();
        let platforms = Platforms::Sparse(vec!["linux/s390x".parse().unwrap()]);
        let error = platforms.apply(manifest, index).unwrap_err().to_string();
        assert!(error.contains("linux/s390x"), "{error}");
    }
}
