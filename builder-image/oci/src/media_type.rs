//! Media types of manifests, configurations and layers, in their OCI and Docker spellings.

use std::fmt;

use serde::{Deserialize, Serialize};

/// A media type: one of those that this program understands, or any other, kept verbatim.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(from = "String", into = "String")]
pub enum MediaType {
    /// `application/vnd.oci.image.manifest.v1+json`
    OciManifest,
    /// `application/vnd.oci.image.index.v1+json`
    OciIndex,
    /// `application/vnd.oci.image.config.v1+json`
    OciConfig,
    /// `application/vnd.oci.image.layer.v1.tar`
    OciLayer,
    /// `application/vnd.oci.image.layer.v1.tar+gzip`
    OciLayerGzip,
    /// `application/vnd.oci.image.layer.v1.tar+zstd`
    OciLayerZstd,
    /// `application/vnd.docker.distribution.manifest.v2+json`
    DockerManifest,
    /// `application/vnd.docker.distribution.manifest.list.v2+json`
    DockerManifestList,
    /// `application/vnd.docker.container.image.v1+json`
    DockerConfig,
    /// `application/vnd.docker.image.rootfs.diff.tar.gzip`
    DockerLayerGzip,
    /// Any other, as it was written.
    Other(Box<str>),
}

impl MediaType {
    /// The types that a client accepts as the answer to a manifest request, all of which it must name
    /// (a registry answers 404 to a client that leaves one out).
    pub const MANIFESTS: [Self; 4] = [
        Self::OciManifest,
        Self::OciIndex,
        Self::DockerManifest,
        Self::DockerManifestList,
    ];

    /// The text of the media type.
    pub fn as_str(&self) -> &str {
        match self {
            Self::OciManifest => "application/vnd.oci.image.manifest.v1+json",
            Self::OciIndex => "application/vnd.oci.image.index.v1+json",
            Self::OciConfig => "application/vnd.oci.image.config.v1+json",
            Self::OciLayer => "application/vnd.oci.image.layer.v1.tar",
            Self::OciLayerGzip => "application/vnd.oci.image.layer.v1.tar+gzip",
            Self::OciLayerZstd => "application/vnd.oci.image.layer.v1.tar+zstd",
            Self::DockerManifest => "application/vnd.docker.distribution.manifest.v2+json",
            Self::DockerManifestList => "application/vnd.docker.distribution.manifest.list.v2+json",
            Self::DockerConfig => "application/vnd.docker.container.image.v1+json",
            Self::DockerLayerGzip => "application/vnd.docker.image.rootfs.diff.tar.gzip",
            Self::Other(text) => text,
        }
    }

    /// Whether a document of this type lists other manifests.
    pub const fn is_index(&self) -> bool {
        matches!(self, Self::OciIndex | Self::DockerManifestList)
    }

    /// Whether a document of this type describes one image.
    pub const fn is_manifest(&self) -> bool {
        matches!(self, Self::OciManifest | Self::DockerManifest)
    }

    /// Whether a blob of this type is a file system layer that this program can unpack.
    pub const fn is_layer(&self) -> bool {
        matches!(
            self,
            Self::OciLayer | Self::OciLayerGzip | Self::OciLayerZstd | Self::DockerLayerGzip
        )
    }

    /// Whether a layer of this type may not be redistributed, so its bytes come from elsewhere (`urls`).
    pub fn is_foreign_layer(&self) -> bool {
        self.as_str().contains(".nondistributable.") || self.as_str().contains(".foreign.")
    }
}

impl From<String> for MediaType {
    fn from(text: String) -> Self {
        Self::from(text.as_str())
    }
}

impl From<&str> for MediaType {
    /// Parameters (`; charset=utf-8`) are dropped.
    fn from(text: &str) -> Self {
        let text = text.split(';').next().unwrap_or_default().trim();
        [
            Self::OciManifest,
            Self::OciIndex,
            Self::OciConfig,
            Self::OciLayer,
            Self::OciLayerGzip,
            Self::OciLayerZstd,
            Self::DockerManifest,
            Self::DockerManifestList,
            Self::DockerConfig,
            Self::DockerLayerGzip,
        ]
        .into_iter()
        .find(|known| known.as_str().eq_ignore_ascii_case(text))
        .unwrap_or_else(|| Self::Other(text.into()))
    }
}

impl From<MediaType> for String {
    fn from(media_type: MediaType) -> Self {
        media_type.as_str().to_owned()
    }
}

impl fmt::Display for MediaType {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn known_types_round_trip_and_others_are_kept() {
        for known in MediaType::MANIFESTS {
            assert_eq!(MediaType::from(known.as_str()), known);
        }
        assert_eq!(
            MediaType::from("application/vnd.oci.image.index.v1+json; charset=utf-8"),
            MediaType::OciIndex
        );
        assert_eq!(
            MediaType::from("application/vnd.example+json").as_str(),
            "application/vnd.example+json"
        );
        assert!(
            MediaType::from("application/vnd.docker.image.rootfs.foreign.diff.tar.gzip")
                .is_foreign_layer()
        );
    }
}
