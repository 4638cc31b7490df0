//! What an image consists of, wherever its blobs are: in a layout, or some in memory and some in a cache. It writes nothing.

use std::{
    collections::BTreeSet,
    io::{self, Read},
    path::Path,
};

use fs_err as fs;
use oci::{
    Descriptor, Digest, Digester, Document, MAX_MANIFEST_BYTES, Manifest, Platform, Reference,
};

use crate::{Doing, IMAGE_NAME, Layout, REF_NAME, Result, StoreError};

/// How deep indexes may be nested.
const MAX_DEPTH: usize = 4;

/// Something that has the blobs of images.
pub trait Blobs {
    /// Opens a blob, whose content is not verified.
    ///
    /// # Errors
    /// [`StoreError::Missing`] when it is not there, or not of the size that the descriptor says.
    fn open(&self, blob: &Descriptor) -> Result<Box<dyn Read + '_>>;
}

impl Blobs for Layout {
    fn open(&self, blob: &Descriptor) -> Result<Box<dyn Read + '_>> {
        let file = open_file(&self.blob_path(&blob.digest), blob)?;
        Ok(Box::new(file))
    }
}

/// Opens the file of a blob.
///
/// # Errors
/// [`StoreError::Missing`] when there is none, or it is not of the size that the descriptor says.
pub fn open_file(path: &Path, blob: &Descriptor) -> Result<fs::File> {
    let action = "open a blob";
    let file = match fs::File::open(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Err(missing(blob)),
        opened => opened.doing(action),
    }?;
    let metadata = file.metadata().doing(action)?;
    if metadata.is_file() && metadata.len() == blob.size {
        Ok(file)
    } else {
        Err(missing(blob))
    }
}

fn missing(blob: &Descriptor) -> StoreError {
    StoreError::Missing(blob.digest.clone())
}

/// How an index calls an image.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Naming {
    /// By its tag, as layouts of one repository do.
    Tag,
    /// By its whole name, as people write it: a layout of many repositories.
    Whole,
}

/// The entries of `index.json` for an image: one for each name, or one without a name.
pub(crate) fn entries(image: &Descriptor, names: &[Reference], naming: Naming) -> Vec<Descriptor> {
    let mut plain = image.clone();
    plain.annotations.remove(REF_NAME);
    if names.is_empty() {
        return vec![plain];
    }
    let named = names.iter().map(|name| {
        let mut entry = plain.clone();
        let full = name.to_string();
        entry.annotations.insert(IMAGE_NAME.into(), full);
        let called = match naming {
            Naming::Tag => name.tag().map(ToString::to_string),
            Naming::Whole => Some(name.familiar()),
        };
        entry
            .annotations
            .extend(called.map(|called| (REF_NAME.to_owned(), called)));
        entry
    });
    named.collect()
}

/// The parts of an image.
#[derive(Debug, Default)]
pub(crate) struct Parts {
    /// All blobs, each once; what refers stands before what it refers to.
    pub(crate) blobs: Vec<Descriptor>,
    /// The manifests, with the platforms that their descriptors name.
    pub(crate) manifests: Vec<(Option<Platform>, Manifest)>,
    seen: BTreeSet<Digest>,
}

impl Parts {
    /// The parts of `image`. Children of an index that are not there are left out, as are layers that only other places
    /// may give out.
    ///
    /// # Errors
    /// [`StoreError::Missing`] when something else is not there.
    pub(crate) fn of(image: &Descriptor, source: &impl Blobs) -> Result<Self> {
        let mut parts = Self::default();
        parts.walk(image, source, 0)?;
        Ok(parts)
    }

    fn walk(&mut self, image: &Descriptor, source: &impl Blobs, depth: usize) -> Result<()> {
        if depth > MAX_DEPTH {
            return Err(StoreError::NotAnArchive(
                "its indexes are nested too deeply",
            ));
        }
        let document = document(source, image)?;
        self.push(image);
        match document {
            Document::Index(index) => {
                for child in &index.manifests {
                    if !self.seen.contains(&child.digest) && is_there(source, child)? {
                        self.walk(child, source, depth + 1)?;
                    }
                }
            }
            Document::Manifest(manifest) => {
                for blob in std::iter::once(&manifest.config).chain(&manifest.layers) {
                    if is_there(source, blob)? {
                        self.push(blob);
                    } else if blob.urls.is_empty() {
                        return Err(missing(blob));
                    }
                }
                self.manifests.push((image.platform.clone(), manifest));
            }
        }
        Ok(())
    }

    fn push(&mut self, blob: &Descriptor) {
        if self.seen.insert(blob.digest.clone()) {
            self.blobs.push(blob.clone());
        }
    }
}

fn is_there(source: &impl Blobs, blob: &Descriptor) -> Result<bool> {
    match source.open(blob) {
        Ok(_) => Ok(true),
        Err(StoreError::Missing(_)) => Ok(false),
        Err(error) => Err(error),
    }
}

/// The manifest or index that a descriptor names.
pub(crate) fn document(source: &impl Blobs, blob: &Descriptor) -> Result<Document> {
    let bytes = read_small(source, blob, MAX_MANIFEST_BYTES)?;
    Document::parse(&blob.media_type, &bytes).map_err(|source| StoreError::Document {
        digest: blob.digest.clone(),
        source,
    })
}

/// A blob of at most `limit` bytes, verified.
pub(crate) fn read_small(source: &impl Blobs, blob: &Descriptor, limit: u64) -> Result<Vec<u8>> {
    let bytes = read_bounded(source.open(blob)?, blob.digest.as_str(), limit)?;
    let mut digester = Digester::new(blob.digest.algorithm());
    digester.update(&bytes);
    let found = digester.finish();
    if found == blob.digest {
        return Ok(bytes);
    }
    Err(StoreError::Mismatch {
        expected: blob.digest.to_string(),
        found: found.to_string(),
    })
}

/// All that `reader` gives, if it is not more than `limit` bytes.
pub(crate) fn read_bounded(reader: impl Read, name: &str, limit: u64) -> Result<Vec<u8>> {
    let mut bytes = Vec::new();
    let mut reader = reader.take(limit + 1);
    reader.read_to_end(&mut bytes).doing("read a document")?;
    if bytes.len() as u64 > limit {
        return Err(StoreError::TooLarge {
            name: name.into(),
            limit,
        });
    }
    Ok(bytes)
}
