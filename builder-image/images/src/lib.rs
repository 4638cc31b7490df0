//! The images of one machine, as people know them from docker: an image is its configuration, its id is the digest of that,
//! and names are given, moved and taken away. They are kept in one OCI layout (crate `store`), where each name is an entry
//! of `index.json`; that makes them readable for other tools as `oci:DIRECTORY:NAME`.
//!
//! [`Images`] reads and writes; [`Catalog`] and what is asked of it ([`plan_removal`], [`plan_prune`], [`Filter`],
//! [`history`]) is pure. It neither talks to registries nor looks into layers.

mod catalog;
mod filter;
mod history;
mod machine;
mod prune;
mod removal;
mod size;
#[cfg(test)]
mod test_image;

use oci::{Digest, ReferenceError};

pub use catalog::{Catalog, Entry, Found, Image, Wanted, entry_name};
pub use filter::{Filter, FilterError, LabelMatch, moment};
pub use history::{Step, history};
pub use machine::{Images, Kept};
pub use prune::{PruneWhat, plan_prune};
pub use removal::{Conflict, Line, Plan, RemovalOptions, Users, plan_removal};
pub use size::Sizes;

/// Why images cannot be read or changed.
#[derive(Debug, thiserror::Error)]
pub enum ImagesError {
    /// Nothing has this name, and no id begins like that.
    #[error("No such image: {0}")]
    NotFound(String),
    /// Several ids begin like that.
    #[error("{text} begins the ids of several images: {}", short(found))]
    Ambiguous {
        /// What was given.
        text: String,
        /// The ids.
        found: Vec<Digest>,
    },
    /// It is neither a name nor an id.
    #[error("invalid reference format: {0}")]
    Name(#[from] ReferenceError),
    /// A name is to be given that has a digest.
    #[error("refusing to create a tag with a digest reference")]
    DigestAsTag,
    /// What the archive says and what it holds differ.
    #[error("the archive is damaged: layer {layer} of the image {image} is not {expected}")]
    Layer {
        /// The layer's blob.
        layer: Digest,
        /// The image.
        image: Digest,
        /// What the configuration calls it.
        expected: String,
    },
    /// The layout cannot be read or written.
    #[error(transparent)]
    Store(#[from] store::StoreError),
}

fn short(found: &[Digest]) -> String {
    let ids: Vec<_> = found.iter().map(Digest::short).collect();
    ids.join(", ")
}

/// The result of work on images.
pub type Result<T, E = ImagesError> = std::result::Result<T, E>;
