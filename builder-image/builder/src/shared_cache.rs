//! Caches outside of the engine's own directory: in a registry, in an OCI layout, in the configuration of an image, or in
//! the engine's directory of another place (the claim of a builder pod). What is read of one is its records; the bytes of
//! a layer come only when a step must look inside, or when the layer goes somewhere that does not have it.
//!
//! Whoever can write such a cache decides what a build that reads it yields. What this module sees to is the rest: documents
//! are bounded and make sense, every blob is what its digest says, a layer holds the archive that its record promises as
//! soon as anybody looks, and a cache that turns out to be damaged is left aside and the build done without it.

mod document;
mod export;
mod import;
mod inline;
mod origin;
mod read;

use std::path::PathBuf;

use oci::{Digest, Reference};

use crate::cache::Cache;
use crate::layer::Compression;

pub use self::document::{DamagedDocument, MAX_DOCUMENT};
pub use self::export::export_caches;
pub use self::import::Imports;
pub(crate) use self::inline::{InlineCache, MEMBER as INLINE_MEMBER};
pub(crate) use self::origin::Origin;

/// Where a cache is read from.
#[derive(Clone, Debug)]
pub enum CacheSource {
    /// A cache, or an image with a cache in its configuration, in a registry.
    Registry(Reference),
    /// An OCI layout.
    Directory {
        /// The directory.
        path: PathBuf,
        /// Which cache in it.
        wanted: Wanted,
    },
    /// The engine's directory of another place.
    Store(Cache),
}

/// Which cache of a layout is meant.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Wanted {
    /// The one with this name.
    Tag(String),
    /// The one whose manifest has this digest.
    Digest(Digest),
}

/// A cache that is written after a build.
#[derive(Clone, Debug)]
pub struct CacheTarget {
    /// Where it goes.
    pub place: CachePlace,
    /// What of the build is in it.
    pub mode: CacheMode,
    /// How its layers are compressed; as the engine does where absent.
    pub compression: Option<Compression>,
    /// Whether a failure is only told.
    pub ignore_error: bool,
}

/// Where a cache goes.
#[derive(Clone, Debug)]
pub enum CachePlace {
    /// A tag in a registry.
    Registry(Reference),
    /// A name in an OCI layout.
    Directory {
        /// The directory, made where it is absent.
        path: PathBuf,
        /// The name.
        tag: String,
        /// Whether blobs that no name in the layout leads to any more are removed afterwards.
        prune: bool,
    },
    /// The engine's directory of another place: blobs and records, never unpacked layers.
    Store(Cache),
}

/// Which steps a cache has.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum CacheMode {
    /// Those that make the layers of the image.
    #[default]
    Min,
    /// Those of all stages.
    Max,
}

impl std::fmt::Display for CacheSource {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Registry(reference) => reference.fmt(f),
            Self::Directory { path, wanted } => match wanted {
                Wanted::Tag(tag) => write!(f, "{}:{tag}", path.display()),
                Wanted::Digest(digest) => write!(f, "{}@{digest}", path.display()),
            },
            Self::Store(cache) => cache.root().display().fmt(f),
        }
    }
}

impl std::fmt::Display for CachePlace {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Registry(reference) => reference.fmt(f),
            Self::Directory { path, tag, .. } => write!(f, "{}:{tag}", path.display()),
            Self::Store(cache) => cache.root().display().fmt(f),
        }
    }
}
