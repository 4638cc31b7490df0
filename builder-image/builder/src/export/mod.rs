//! Where an image goes: registries, OCI layouts and archives. Content first, manifests by digest everywhere, names last,
//! so that a build that fails leaves no name changed.

mod archive;
mod push;

use std::path::PathBuf;

use oci::{Reference, Repository, Tag};

pub use archive::{ArchiveError, write_archive, write_layout};
pub use push::{Pusher, Source};

/// A repository that the image is pushed to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Destination {
    /// How the caller calls it.
    pub name: String,
    /// The repository.
    pub repository: Repository,
    /// The tags to be written.
    pub tags: Vec<Tag>,
}

/// A file or directory that the image is written to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Output {
    /// In which form.
    pub form: Form,
    /// Where; standard output where absent.
    pub path: Option<PathBuf>,
    /// The names that the image has in it.
    pub names: Vec<Reference>,
}

/// Forms of an image on disk.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Form {
    /// An archive of an OCI layout.
    OciArchive,
    /// An OCI layout as a directory.
    OciDirectory,
    /// An archive that `docker load` reads; an OCI layout as well.
    DockerArchive,
}
