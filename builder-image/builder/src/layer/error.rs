//! Why a layer could not be written, packed or kept.

use std::{
    io,
    path::{Path, PathBuf},
};

use oci::DiffId;

use crate::tree::{ImagePath, TreeError};

/// Why a layer could not be written, packed or kept.
#[derive(Debug, thiserror::Error)]
pub enum LayerError {
    /// The layer's directory cannot be made or opened.
    #[error("layer directory {path}: cannot be used")]
    Directory {
        /// The directory on disk.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// The layer's index or directory cannot be moved, read or written; the error names the path.
    #[error("keeping the layer failed")]
    Index(#[source] io::Error),
    /// The index is not what this program writes.
    #[error("layer index {path}: not readable")]
    IndexFormat {
        /// The index on disk.
        path: PathBuf,
        /// What the reader found.
        source: serde_json::Error,
    },
    /// Writing an entry failed.
    #[error("{path}: writing failed")]
    Write {
        /// The entry in the image.
        path: ImagePath,
        /// Why.
        source: io::Error,
    },
    /// Reading an entry failed.
    #[error(transparent)]
    Read(#[from] TreeError),
    /// Something that is no directory is where a directory is needed.
    #[error("{0}: not a directory")]
    NotADirectory(ImagePath),
    /// A layer's archive would take the name for a whiteout.
    #[error(
        "{0}: a name that begins with `.wh.` marks a deletion in an image layer, so a file cannot have it"
    )]
    ReservedName(ImagePath),
    /// A file became shorter while it was packed.
    #[error(
        "{path}: the file ended after {found} of {expected} bytes, it was changed while it was packed"
    )]
    Truncated {
        /// The file in the image.
        path: ImagePath,
        /// The size when packing began.
        expected: u64,
        /// What could be read.
        found: u64,
    },
    /// A file was changed while it was packed.
    #[error("{0}: the file was changed while it was packed")]
    Changed(ImagePath),
    /// A blob does not hold the archive that it should.
    #[error("the archive has the digest {}, not {}", found.0, expected.0)]
    Content {
        /// The digest that the archive should have.
        expected: DiffId,
        /// The digest that it has.
        found: DiffId,
    },
    /// The blob cannot be written.
    #[error("writing the layer's blob failed")]
    Blob(#[source] io::Error),
}

impl LayerError {
    /// Whether the files that were to be packed are the cause: one was changed, or is gone.
    pub(crate) const fn is_of_source(&self) -> bool {
        matches!(
            self,
            Self::Changed(_) | Self::Truncated { .. } | Self::Read(_)
        )
    }

    pub(crate) fn directory(path: &Path, source: impl Into<io::Error>) -> Self {
        Self::Directory {
            path: path.to_owned(),
            source: source.into(),
        }
    }

    pub(crate) fn write(path: &ImagePath, source: impl Into<io::Error>) -> Self {
        Self::Write {
            path: path.clone(),
            source: source.into(),
        }
    }
}
