//! Reading one image of an OCI layout directory (image-spec, image-layout.md). Content is verified as it is read; nothing
//! is written.

use std::path::{Path, PathBuf};

use oci::{Descriptor, Digest, Index};

use super::is_content_of;
use crate::error::BaseError;

/// The annotation of an index's entry that names it.
const REF_NAME: &str = "org.opencontainers.image.ref.name";

/// A directory in the OCI layout.
#[derive(Clone, Debug)]
pub struct Layout {
    directory: PathBuf,
}

impl Layout {
    /// The layout in `directory`.
    pub fn new(directory: impl Into<PathBuf>) -> Self {
        Self {
            directory: directory.into(),
        }
    }

    /// The image of that tag or digest; without either the only image there is.
    ///
    /// # Errors
    /// When there is none, or several to choose from.
    pub fn find(&self, image: Option<&str>) -> Result<Descriptor, BaseError> {
        let path = self.directory.join("index.json");
        let text = read(&path, "reading the index of the layout")?;
        let index: Index = serde_json::from_slice(&text).map_err(|error| {
            BaseError::Malformed(format!("the layout's index.json cannot be read: {error}"))
        })?;
        let found = |wanted: &str| {
            let by_digest = wanted.parse::<Digest>().ok();
            index.manifests.iter().find(|child| match &by_digest {
                Some(digest) => child.digest == *digest,
                None => child
                    .annotations
                    .get(REF_NAME)
                    .is_some_and(|name| is_name(name, wanted)),
            })
        };
        match (image, index.manifests.as_slice()) {
            (Some(wanted), _) => found(wanted).cloned().ok_or(BaseError::NotFound),
            (None, [only]) => Ok(only.clone()),
            (None, []) => Err(BaseError::NotFound),
            (None, several) => found("latest").cloned().ok_or_else(|| {
                BaseError::Malformed(format!(
                    "the layout has {} images: name one, `oci-layout://DIRECTORY:TAG` or `…@DIGEST`",
                    several.len()
                ))
            }),
        }
    }

    /// The file of a blob.
    pub fn blob(&self, digest: &Digest) -> PathBuf {
        let mut path = self.directory.join("blobs");
        path.push(digest.algorithm().as_str());
        path.push(digest.hex());
        path
    }

    /// A small blob, verified.
    ///
    /// # Errors
    /// When it is not there, larger than `limit` bytes, or not what its digest says.
    pub fn small(&self, descriptor: &Descriptor, limit: u64) -> Result<Vec<u8>, BaseError> {
        if descriptor.size > limit {
            return Err(BaseError::Malformed(format!(
                "{} has more than {limit} bytes",
                descriptor.digest
            )));
        }
        let bytes = read(
            &self.blob(&descriptor.digest),
            "reading a document of the layout",
        )?;
        if is_content_of(&bytes, &descriptor.digest) {
            Ok(bytes)
        } else {
            Err(BaseError::Malformed(format!(
                "{} is damaged in the layout",
                descriptor.digest
            )))
        }
    }
}

/// Whether an entry called `name` is meant by `wanted`: some tools write a tag, some a whole reference.
fn is_name(name: &str, wanted: &str) -> bool {
    name == wanted || name.rsplit_once(':').is_some_and(|(_, tag)| tag == wanted)
}

fn read(path: &Path, doing: &'static str) -> Result<Vec<u8>, BaseError> {
    fs_err::read(path).map_err(|source| match source.kind() {
        std::io::ErrorKind::NotFound => BaseError::NotFound,
        _ => BaseError::Io { doing, source },
    })
}
