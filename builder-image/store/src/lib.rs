//! Images on disk: a directory in the OCI image layout (image-spec, image-layout.md), and the archives that other tools
//! read and write. All calls block. It neither unpacks layers nor talks to registries.

mod archive;
mod decompress;
mod durable;
mod image;
mod layout;
mod name;
mod prune;

use std::io;

use oci::{Digest, DocumentError};

pub use archive::{Archived, Form, Named, read_archive, write_archive, write_layout};
pub use decompress::{Format, decompress};
pub use durable::{flush, publish};
pub use image::{Blobs, open_file};
pub use layout::{IMAGE_NAME, Layout, REF_NAME};
pub use name::assign;
pub use prune::{Pruned, Writing};

/// Why an image cannot be stored or read.
#[derive(Debug, thiserror::Error)]
pub enum StoreError {
    /// A file cannot be read or written.
    #[error("{action}")]
    Io {
        /// What was being done.
        action: &'static str,
        /// The system's error, with the path.
        source: io::Error,
    },
    /// The directory is no layout, or one of a version that is not known.
    #[error("`{0}` is not an OCI image layout of version 1.0.0")]
    NotALayout(std::path::PathBuf),
    /// A document is not JSON of its kind.
    #[error("`{name}` of the layout is malformed")]
    Json {
        /// The file.
        name: String,
        /// What the reader found.
        source: serde_json::Error,
    },
    /// A manifest cannot be read.
    #[error("manifest {digest} is invalid")]
    Document {
        /// Its digest.
        digest: Digest,
        /// What is wrong with it.
        source: DocumentError,
    },
    /// A blob that is referred to is not there.
    #[error("blob {0} is missing")]
    Missing(Digest),
    /// Content is not what its digest and size say.
    #[error("content that should be {expected} is {found}")]
    Mismatch {
        /// The digest or size expected.
        expected: String,
        /// The digest or size found.
        found: String,
    },
    /// A document is larger than documents may be.
    #[error("`{name}` is larger than {limit} bytes")]
    TooLarge {
        /// Its file or digest.
        name: String,
        /// How many bytes it may have.
        limit: u64,
    },
    /// The archive is neither an OCI layout nor what `docker save` writes.
    #[error("the archive holds no image: {0}")]
    NotAnArchive(&'static str),
}

/// The result of work on a layout.
pub type Result<T, E = StoreError> = std::result::Result<T, E>;

/// Gives I/O errors the words for what was being done.
trait Doing<T> {
    fn doing(self, action: &'static str) -> Result<T>;
}

impl<T> Doing<T> for io::Result<T> {
    fn doing(self, action: &'static str) -> Result<T> {
        self.map_err(|source| StoreError::Io { action, source })
    }
}
