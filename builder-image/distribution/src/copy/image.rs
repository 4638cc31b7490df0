//! What an image is made of, as the source has it: its manifests and indexes, and the blobs that they name. Nothing in it
//! is trusted: number, nesting and size have bounds.

use std::{
    collections::{HashMap, HashSet},
    sync::Arc,
};

use futures::{StreamExt, TryStreamExt};
use oci::{Descriptor, Digest, Document, Reference, Repository};
use tokio::sync::{Mutex, OwnedMutexGuard};

use super::Platforms;
use crate::{Client, Error, RawManifest, Result};

/// What is accepted of one image, so that a hostile one ends.
const MAX_DEPTH: usize = 4;
const MAX_MANIFESTS: usize = 1000;
const MAX_BLOBS: usize = 20_000;
const MAX_MANIFESTS_BYTES: usize = 16 * 1024 * 1024;
/// Images whose manifests are larger than this together are copied one at a time, so that memory stays bounded.
const LARGE: usize = 1024 * 1024;
/// Manifests that are read at the same time.
const READS: usize = 4;

/// All of an image but the bytes of its blobs.
#[derive(Debug)]
pub(super) struct Image {
    /// What the destination's names are to stand for.
    pub(super) root: RawManifest,
    /// Manifests and indexes below the root, each once.
    pub(super) below: Vec<Node>,
    /// Each blob once, the largest first: no large one is left for the end.
    pub(super) blobs: Vec<Descriptor>,
    /// Held while the image is, where it is a large one.
    _turn: Option<OwnedMutexGuard<()>>,
}

/// A manifest or an index.
#[derive(Debug, Clone)]
pub(super) struct Node {
    /// The document.
    pub(super) manifest: RawManifest,
    /// Its children, where it is an index: those that are copied.
    pub(super) children: Vec<Digest>,
}

/// How an image is read.
pub(super) struct Reading<'a> {
    pub(super) source: &'a Client,
    pub(super) platforms: &'a Platforms,
    pub(super) foreign_layers: bool,
    /// Whose turn it is among the large images.
    pub(super) turns: &'a Arc<Mutex<()>>,
}

#[cfg(test)]
impl Image {
    /// An image that was not read.
    pub(super) const fn of(root: RawManifest, below: Vec<Node>, blobs: Vec<Descriptor>) -> Self {
        Self {
            root,
            below,
            blobs,
            _turn: None,
        }
    }
}

impl Reading<'_> {
    /// Reads the manifest that `root` names, and all those below it.
    pub(super) async fn read(&self, root: &Reference) -> Result<Image> {
        let manifest = self.source.manifest(root).await?;
        self.read_below(root.repository(), manifest).await
    }

    /// Reads what is below the manifest `root` of `repository`.
    pub(super) async fn read_below(
        &self,
        repository: &Repository,
        root: RawManifest,
    ) -> Result<Image> {
        let mut found = Found {
            action: format!("copy {}", repository.at(root.digest.clone())),
            seen: HashSet::from([root.digest.clone()]),
            bytes: 0,
            nodes: Vec::new(),
            blobs: HashMap::new(),
            turn: None,
        };
        let mut level = found.add(root, self).await?;
        let mut depth = 0;
        // Nothing can be below itself, since it would have to contain its own hash, but it can nest for long.
        while !level.is_empty() {
            depth += 1;
            if depth > MAX_DEPTH {
                return Err(found.too_complex("indexes within indexes, nested too deeply"));
            }
            let names: Vec<_> = level.drain(..).map(|child| repository.at(child)).collect();
            let reads: Vec<_> = names
                .iter()
                .map(|name| self.source.manifest(name))
                .collect();
            let mut reads = futures::stream::iter(reads).buffered(READS);
            while let Some(manifest) = reads.try_next().await? {
                level.extend(found.add(manifest, self).await?);
            }
        }
        let mut blobs: Vec<_> = found.blobs.into_values().collect();
        // The digest makes the order the same each time.
        blobs.sort_by(|a, b| (b.size, &a.digest).cmp(&(a.size, &b.digest)));
        let mut nodes = found.nodes.into_iter();
        let root = nodes.next().expect("the root was added first").manifest;
        Ok(Image {
            root,
            below: nodes.collect(),
            blobs,
            _turn: found.turn,
        })
    }
}

/// What was read so far.
struct Found {
    action: String,
    /// Manifests that were read or are going to be.
    seen: HashSet<Digest>,
    bytes: usize,
    nodes: Vec<Node>,
    blobs: HashMap<Digest, Descriptor>,
    turn: Option<OwnedMutexGuard<()>>,
}

impl Found {
    fn too_complex(&self, problem: &'static str) -> Error {
        Error::TooComplex {
            action: self.action.clone(),
            problem,
        }
    }

    /// Takes in a manifest, and says which of its children are still to be read.
    async fn add(&mut self, manifest: RawManifest, reading: &Reading<'_>) -> Result<Vec<Digest>> {
        self.bytes += manifest.bytes.len();
        if self.bytes > MAX_MANIFESTS_BYTES {
            return Err(self.too_complex("too many manifests"));
        }
        if self.bytes > LARGE && self.turn.is_none() {
            self.turn = Some(reading.turns.clone().lock_owned().await);
        }
        let document = manifest.document().map_err(|source| Error::Document {
            action: self.action.clone(),
            source,
        })?;
        let (manifest, children) = match document {
            Document::Manifest(document) => {
                for blob in std::iter::once(document.config).chain(document.layers) {
                    self.note(blob, reading.foreign_layers)?;
                }
                (manifest, Vec::new())
            }
            // Only the index that was asked for is filtered.
            Document::Index(index) if self.nodes.is_empty() => {
                reading.platforms.apply(manifest, index)?
            }
            Document::Index(index) => (manifest, index.manifests),
        };
        let children: Vec<_> = children.into_iter().map(|child| child.digest).collect();
        let mut missing = Vec::new();
        for child in &children {
            if self.seen.insert(child.clone()) {
                missing.push(child.clone());
            }
        }
        if self.seen.len() > MAX_MANIFESTS {
            return Err(self.too_complex("too many manifests"));
        }
        self.nodes.push(Node { manifest, children });
        Ok(missing)
    }

    fn note(&mut self, blob: Descriptor, foreign_layers: bool) -> Result<()> {
        if blob.media_type.is_foreign_layer() || !blob.urls.is_empty() {
            return if foreign_layers {
                Ok(())
            } else {
                Err(Error::ForeignLayer(blob.digest))
            };
        }
        self.blobs.entry(blob.digest.clone()).or_insert(blob);
        if self.blobs.len() > MAX_BLOBS {
            return Err(self.too_complex("too many layers"));
        }
        Ok(())
    }
}
