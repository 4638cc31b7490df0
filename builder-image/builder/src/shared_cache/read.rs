//! Reading a cache: its manifest and its document, both bounded and verified. Nothing is executed and no layer fetched.

use oci::{Descriptor, Document, ImageConfig, Manifest, Reference};
use store::{Layout, StoreError};

use super::document::{CacheDocument, DamagedDocument, MAX_DOCUMENT, MEDIA_TYPE};
use super::inline::{InlineCache, is_of_buildkit};
use super::{Origin, Wanted};

/// The largest configuration of an image that is read, in bytes.
const MAX_CONFIG: u64 = 8 << 20;

/// How many images of an index are looked into.
const MAX_CHILDREN: usize = 16;

/// Why a cache cannot be used.
#[derive(Debug, thiserror::Error)]
pub(super) enum ReadError {
    /// There is none.
    #[error("there is none yet")]
    Absent,
    /// What is there is something else.
    #[error("{0}")]
    Other(&'static str),
    /// The registry cannot be talked to, or answers wrongly.
    #[error(transparent)]
    Registry(#[from] distribution::Error),
    /// The layout is damaged.
    #[error(transparent)]
    Layout(#[from] StoreError),
    /// The manifest is no manifest.
    #[error("its manifest cannot be read: {0}")]
    Manifest(#[from] oci::DocumentError),
    /// The document makes no sense.
    #[error(transparent)]
    Document(#[from] DamagedDocument),
    /// The configuration of the image makes no sense.
    #[error("its configuration cannot be read: {0}")]
    Config(#[from] serde_json::Error),
}

/// Reads what `reference` names: a cache, or images with caches in them.
pub(super) async fn of_registry(
    client: &distribution::Client,
    reference: &Reference,
) -> Result<(Origin, Vec<CacheDocument>), ReadError> {
    let repository = reference.repository();
    let raw = match client.manifest(reference).await {
        Ok(raw) => raw,
        Err(distribution::Error::NotFound { .. }) => return Err(ReadError::Absent),
        Err(error) => return Err(error.into()),
    };
    let small = async |descriptor: &Descriptor, limit| {
        let bytes = client.small_blob(repository, descriptor, limit).await?;
        Ok::<_, ReadError>(bytes.to_vec())
    };
    let mut manifests = Vec::new();
    match Document::parse(&raw.media_type, &raw.bytes)? {
        Document::Manifest(manifest) => manifests.push(manifest),
        Document::Index(index) => {
            for child in images(&index.manifests)? {
                let name = repository.at(child.digest.clone());
                let raw = client.manifest(&name).await?;
                if let Document::Manifest(manifest) = Document::parse(&raw.media_type, &raw.bytes)?
                {
                    manifests.push(manifest);
                }
            }
        }
    }
    let mut documents = Vec::new();
    for manifest in &manifests {
        let config = small(&manifest.config, limit_of(manifest)?).await?;
        documents.extend(document(manifest, &config)?);
    }
    let origin = Origin::Registry(repository.clone());
    Ok((origin, some(documents)?))
}

/// Reads a cache of a layout. Blocks.
pub(super) fn of_layout(
    layout: Layout,
    wanted: &Wanted,
) -> Result<(Origin, Vec<CacheDocument>), ReadError> {
    let root = match wanted {
        Wanted::Tag(tag) => layout.find(tag)?,
        Wanted::Digest(digest) => {
            let index = layout.index()?;
            let mut entries = index.manifests.into_iter();
            entries.find(|entry| entry.digest == *digest)
        }
    };
    let root = root.ok_or(ReadError::Absent)?;
    let mut manifests = Vec::new();
    match layout.document(&root)? {
        Document::Manifest(manifest) => manifests.push(manifest),
        Document::Index(index) => {
            for child in images(&index.manifests)? {
                if let Document::Manifest(manifest) = layout.document(child)? {
                    manifests.push(manifest);
                }
            }
        }
    }
    let mut documents = Vec::new();
    for manifest in &manifests {
        let config = layout.read_small(&manifest.config, limit_of(manifest)?)?;
        documents.extend(document(manifest, &config)?);
    }
    Ok((Origin::Layout(layout), some(documents)?))
}

/// What is said of a cache that BuildKit wrote.
const OF_BUILDKIT: ReadError = ReadError::Other(
    "it is a cache of BuildKit, which only BuildKit reads: export one of this engine to another tag",
);

/// The images of an index, without what is no image.
fn images(children: &[Descriptor]) -> Result<impl Iterator<Item = &Descriptor>, ReadError> {
    let mut kinds = children.iter().map(|child| child.media_type.as_str());
    if kinds.any(is_of_buildkit) {
        return Err(OF_BUILDKIT);
    }
    let images = children.iter().filter(|child| {
        let unknown = |platform: &oci::Platform| platform.os == "unknown";
        child.media_type.is_manifest() && !child.platform.as_ref().is_some_and(unknown)
    });
    Ok(images.take(MAX_CHILDREN))
}

/// How large the configuration of a manifest may be.
fn limit_of(manifest: &Manifest) -> Result<u64, ReadError> {
    let media_type = manifest.config.media_type.as_str();
    if is_of_buildkit(media_type) {
        return Err(OF_BUILDKIT);
    }
    let limit = if media_type == MEDIA_TYPE {
        MAX_DOCUMENT
    } else {
        MAX_CONFIG
    };
    if manifest.config.size > limit {
        return Err(DamagedDocument::TooLarge.into());
    }
    Ok(limit)
}

fn document(manifest: &Manifest, config: &[u8]) -> Result<Option<CacheDocument>, ReadError> {
    if manifest.config.media_type.as_str() == MEDIA_TYPE {
        return Ok(Some(CacheDocument::parse(config)?));
    }
    let config: ImageConfig = serde_json::from_slice(config)?;
    Ok(InlineCache::read(manifest, &config).transpose()?)
}

fn some(documents: Vec<CacheDocument>) -> Result<Vec<CacheDocument>, ReadError> {
    if documents.is_empty() {
        Err(ReadError::Other(
            "it is an image without a cache in it: build it with --cache-to type=inline",
        ))
    } else {
        Ok(documents)
    }
}
