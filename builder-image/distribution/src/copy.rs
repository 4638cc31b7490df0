//! Copying of images from registry to registry, bytes unchanged: resolve once, copy by digest, blobs before manifests,
//! children before their index, the tag last. What the destination has is mounted, what it lacks is sent while it arrives.
//!
//! It neither selects tags nor keeps a memory of what was copied before; callers do.

use std::collections::{HashMap, HashSet};

use futures::{FutureExt, StreamExt, TryStreamExt};
use oci::{Descriptor, Digest, Document, Reference, Repository};

use crate::{Client, Error, Pushed, RawManifest, Result};

/// What is accepted of one image, so that a hostile one ends.
const MAX_DEPTH: usize = 4;
const MAX_MANIFESTS: usize = 1000;
const MAX_BLOBS: usize = 20_000;
const MAX_MANIFESTS_BYTES: usize = 32 * 1024 * 1024;

/// How an image is copied.
#[derive(Debug, Clone)]
pub struct CopyOptions {
    /// Blobs copied at the same time.
    pub concurrency: usize,
    /// Copies manifests that name foreign layers, leaving those layers where their URLs say. Otherwise they are refused.
    pub foreign_layers: bool,
    /// A repository of the destination's registry that may have the same blobs, to mount them from.
    pub mount_from: Option<Repository>,
}

impl Default for CopyOptions {
    fn default() -> Self {
        Self {
            concurrency: 4,
            foreign_layers: false,
            mount_from: None,
        }
    }
}

/// What a copy did.
#[derive(Debug, Clone, PartialEq)]
pub struct CopyReport {
    /// The manifest or index at the source, which is the destination's now.
    pub root: Descriptor,
    /// Whether the destination's tag had this digest already, so that nothing was done.
    pub unchanged: bool,
    /// Manifests and indexes put.
    pub manifests: usize,
    /// Blobs sent, and their bytes.
    pub copied: Amount,
    /// Blobs that the destination's registry had, and their bytes.
    pub mounted: Amount,
}

/// A number of blobs and their size in bytes.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Amount {
    /// How many.
    pub blobs: usize,
    /// Their size.
    pub bytes: u64,
}

impl Amount {
    const fn add(&mut self, bytes: u64) {
        self.blobs += 1;
        self.bytes += bytes;
    }
}

/// Copies the image or index `from` of `source` to `to` of `destination`.
///
/// When it fails, `to` is what it was before; blobs and untagged manifests may be left at the destination.
///
/// # Errors
/// [`Error::NotFound`] when the source has no such image, [`Error::ForeignLayer`] and [`Error::TooComplex`] for images that
/// are not copied, and those of pull and push.
pub async fn copy(
    source: &Client,
    from: &Reference,
    destination: &Client,
    to: &Reference,
    options: &CopyOptions,
) -> Result<CopyReport> {
    let present = destination.resolve_to_push(to).await?;
    let mut pinned = from.clone();
    if let Some(present) = present {
        let Some(wanted) = source.resolve(from).await? else {
            return Err(not_found(from));
        };
        if present.digest == wanted.digest {
            return Ok(CopyReport {
                root: wanted,
                unchanged: true,
                manifests: 0,
                copied: Amount::default(),
                mounted: Amount::default(),
            });
        }
        pinned = pinned.pinned(wanted.digest);
    }
    let image = Image::read(source, &pinned, options).await?;
    let mount_from = options.mount_from.clone().or_else(|| {
        let same_registry = from.repository().host() == to.repository().host();
        same_registry.then(|| from.repository().clone())
    });
    let blobs = Blobs {
        source,
        from: from.repository(),
        destination,
        to: to.repository(),
        mount_from: mount_from.filter(|m| m.host() == to.repository().host()),
    };
    let (copied, mounted) = blobs.copy(image.blobs, options.concurrency).await?;
    let manifests = image.manifests.len();
    let root = image
        .manifests
        .last()
        .map(RawManifest::descriptor)
        .ok_or_else(|| not_found(from))?;
    for (position, manifest) in image.manifests.into_iter().enumerate() {
        let name = if position + 1 == manifests {
            to.clone()
        } else {
            to.repository().at(manifest.digest)
        };
        destination
            .put_manifest(&name, &manifest.media_type, manifest.bytes)
            .await?;
    }
    Ok(CopyReport {
        root,
        unchanged: false,
        manifests,
        copied,
        mounted,
    })
}

fn not_found(reference: &Reference) -> Error {
    Error::NotFound {
        action: format!("pull manifest {reference}"),
        code: None,
    }
}

/// All of an image but the bytes of its blobs.
struct Image {
    /// Children before their indexes; the root is the last.
    manifests: Vec<RawManifest>,
    /// Each blob once.
    blobs: Vec<Descriptor>,
}

impl Image {
    /// Reads the manifest `root` names and all those below it.
    async fn read(source: &Client, root: &Reference, options: &CopyOptions) -> Result<Self> {
        let mut reading = Reading {
            source,
            repository: root.repository(),
            options,
            seen: HashSet::new(),
            bytes: 0,
            manifests: Vec::new(),
            blobs: HashMap::new(),
        };
        reading.visit(root.clone(), 0).await?;
        let mut blobs: Vec<_> = reading.blobs.into_values().collect();
        // The largest first, so that no large one is left for the end; the digest makes the order the same each time.
        blobs.sort_by(|a, b| (b.size, &a.digest).cmp(&(a.size, &b.digest)));
        Ok(Self {
            manifests: reading.manifests,
            blobs,
        })
    }
}

struct Reading<'a> {
    source: &'a Client,
    repository: &'a Repository,
    options: &'a CopyOptions,
    seen: HashSet<Digest>,
    bytes: usize,
    manifests: Vec<RawManifest>,
    blobs: HashMap<Digest, Descriptor>,
}

impl Reading<'_> {
    /// Reads a manifest, then those below it. Nothing can be below itself, since it would have to contain its own hash,
    /// but the number and the nesting have bounds.
    async fn visit(&mut self, name: Reference, depth: usize) -> Result<()> {
        let action = format!("copy {name}");
        let too_complex = |problem| Error::TooComplex {
            action: action.clone(),
            problem,
        };
        if depth > MAX_DEPTH {
            return Err(too_complex("indexes within indexes, nested too deeply"));
        }
        let manifest = self.source.manifest(&name).await?;
        self.seen.insert(manifest.digest.clone());
        self.bytes += manifest.bytes.len();
        if self.seen.len() > MAX_MANIFESTS || self.bytes > MAX_MANIFESTS_BYTES {
            return Err(too_complex("too many manifests"));
        }
        let document = manifest.document().map_err(|source| Error::Document {
            action: action.clone(),
            source,
        })?;
        match document {
            Document::Manifest(document) => {
                for blob in std::iter::once(document.config).chain(document.layers) {
                    self.note(blob)?;
                }
                if self.blobs.len() > MAX_BLOBS {
                    return Err(too_complex("too many layers"));
                }
            }
            Document::Index(index) => {
                for child in index.manifests {
                    if self.seen.contains(&child.digest) {
                        continue;
                    }
                    let child = self.repository.at(child.digest);
                    Box::pin(self.visit(child, depth + 1)).await?;
                }
            }
        }
        self.manifests.push(manifest);
        Ok(())
    }

    fn note(&mut self, blob: Descriptor) -> Result<()> {
        if blob.media_type.is_foreign_layer() || !blob.urls.is_empty() {
            return if self.options.foreign_layers {
                Ok(())
            } else {
                Err(Error::ForeignLayer(blob.digest))
            };
        }
        self.blobs.entry(blob.digest.clone()).or_insert(blob);
        Ok(())
    }
}

struct Blobs<'a> {
    source: &'a Client,
    from: &'a Repository,
    destination: &'a Client,
    to: &'a Repository,
    mount_from: Option<Repository>,
}

impl Blobs<'_> {
    async fn copy(&self, blobs: Vec<Descriptor>, concurrency: usize) -> Result<(Amount, Amount)> {
        let (mut copied, mut mounted) = (Amount::default(), Amount::default());
        let mut all = futures::stream::iter(blobs)
            .map(|blob| async move { self.copy_one(&blob).await.map(|done| (done, blob.size)) })
            .buffer_unordered(concurrency.max(1));
        while let Some((done, size)) = all.try_next().await? {
            match done {
                Pushed::Uploaded => copied.add(size),
                Pushed::Mounted => mounted.add(size),
            }
        }
        Ok((copied, mounted))
    }

    async fn copy_one(&self, blob: &Descriptor) -> Result<Pushed> {
        let open = || {
            async move {
                let reader = self.source.blob(self.from, blob).await?;
                Ok(reader.boxed())
            }
            .boxed()
        };
        self.destination
            .push_blob(self.to, blob, self.mount_from.as_ref(), open)
            .await
    }
}
