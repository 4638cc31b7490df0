//! Where an image goes, and in which form: registries, OCI layouts, archives, and its files. Content first, manifests by
//! digest everywhere, names last, so that a build that fails leaves no name changed.

mod archive;
mod carry_out;
mod files;
mod merge;
mod push;
mod root_tar;

use std::path::PathBuf;

use oci::{Reference, Repository, Tag};

pub use archive::{ArchiveError, Contents, write_archive, write_aside, write_layout};
pub use carry_out::export;
pub use files::{FilesError, write_files};
pub use push::{Pusher, Source};
pub use root_tar::write_root_tar;

use crate::image::Documents;
use crate::layer::{Compression, Recipe};

/// One form of the image, and all places that it goes to in that form.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Export {
    /// The form.
    pub settings: Settings,
    /// Repositories to push to.
    pub destinations: Vec<Destination>,
    /// Files and directories to write.
    pub outputs: Vec<Output>,
}

/// What decides the bytes of an image besides what was built.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Settings {
    /// How the layers of the build are compressed.
    pub compression: Compression,
    /// Whether the layers of the base are, too; else they stay byte for byte.
    pub force_compression: bool,
    /// Whether times in the layers of the build that are later than the epoch are set to it.
    pub rewrite_timestamp: bool,
    /// The epoch, in seconds since 1970, in place of the build's SOURCE_DATE_EPOCH.
    pub epoch: Option<i64>,
    /// Whether the files of each platform come into a directory of their own; where absent, those of an index do.
    pub split_platforms: Option<bool>,
    /// Whether the layers of the build become one.
    pub layers: Layers,
    /// Whether the configuration says which steps the layers stand for, so that the image is a cache.
    pub inline_cache: bool,
    /// How the documents are written.
    pub documents: Documents,
}

/// Which layers the build adds to its base.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Layers {
    /// One for each step.
    #[default]
    OfSteps,
    /// One for all steps (`--squash`).
    Squashed,
}

impl Settings {
    /// When what is exported was made, in seconds since 1970; `epoch` is that of the build.
    pub fn epoch(&self, epoch: Option<i64>) -> Option<i64> {
        self.epoch.or(epoch)
    }

    /// How the layers of the build are packed; `epoch` is that of the build.
    pub fn recipe(&self, epoch: Option<i64>) -> Recipe {
        let clamp_mtime = self.epoch(epoch).filter(|_| self.rewrite_timestamp);
        Recipe {
            compression: self.compression,
            clamp_mtime,
        }
    }
}

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
    /// An OCI layout as a directory, where images are called by their tags.
    OciDirectory,
    /// The OCI layout of this machine's images, which are called by their whole names.
    Store,
    /// An archive that `docker load` reads; an OCI layout as well.
    DockerArchive,
    /// The files of the image, in a directory.
    Files,
    /// The files of the image, as an archive.
    RootTar,
}

impl Form {
    /// Whether a directory is written, not a file.
    pub const fn is_directory(self) -> bool {
        matches!(self, Self::OciDirectory | Self::Store | Self::Files)
    }
}
