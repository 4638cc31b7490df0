//! What an ImageMirror means: which tags of which repositories are mirrored, from where to where. Shared by the operator and
//! the command line, so that a manifest means the same with and without a cluster.
//!
//! `entry` reads `spec.images` into types that cannot be wrong, `selection` says which tags of a list are wanted, `chosen` makes
//! one list of them. `report` is the account of what a mirror wrote, `prune` says what of that is to go;
//! `manifest` reads what the command line runs. It knows the types of the API, and neither a cluster nor a network: callers list tags and copy.

pub mod chosen;
pub mod entry;
pub mod manifest;
pub mod prune;
pub mod quantity;
pub mod report;
pub mod selection;

pub use chosen::{Chosen, MAX_TAGS, Unchosen, choose};
pub use entry::{Entry, InvalidEntry, MirrorTag, entries, tag_of};
pub use manifest::{InvalidManifest, Manifest, read_manifests};
pub use prune::{PrunePlan, Selection, refusal};
pub use report::{Artifact, Failed, Place, Report, ReportError, Written};
pub use selection::{InvalidSelection, Selector};
