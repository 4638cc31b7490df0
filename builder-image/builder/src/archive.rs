//! Archives of images on this machine or a claim: directories in the OCI image layout, such directories as tar files, and
//! what `docker save` writes. To what copies images they are registries without a server.
//!
//! A directory is changed in place, so that a run writes only what is new. A file is read into a directory beside the work,
//! and written anew as a whole: it is what it was, or all of what it is to be.

mod name;
mod place;
mod registry;

use std::io::ErrorKind;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use distribution::{ARCHIVE_HOST, Client};
use oci::{Descriptor, Digest, Reference, RegistryHost, Repository};
use store::{
    Form, IMAGE_NAME, Layout, REF_NAME, StoreError, decompress, read_archive, write_layout,
};
use tempfile::TempDir;

pub use name::Naming;
pub use place::{ArchiveForm, ArchivePlace, Place, PlaceError};
pub use registry::LayoutRegistry;

use crate::export::{ArchiveError, write_aside};
use crate::runtime::UntilOver;

/// Why an archive cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum ArchiveFailure {
    /// It cannot be read.
    #[error("reading `{}`", path.display())]
    Read {
        /// The directory or file.
        path: PathBuf,
        /// What happened.
        source: StoreError,
    },
    /// It, or the directory to work in, cannot be opened.
    #[error("opening `{}`", path.display())]
    Open {
        /// The directory or file.
        path: PathBuf,
        /// What happened.
        source: std::io::Error,
    },
    /// It cannot be written.
    #[error(transparent)]
    Write(#[from] ArchiveError),
    /// It does not have the image.
    #[error("`{}` has no image called `{name}`: it has {}", path.display(), listed(found))]
    NotFound {
        /// The directory or file.
        path: PathBuf,
        /// What was asked for.
        name: String,
        /// What it has.
        found: Vec<String>,
    },
    /// It has several images, and none was named.
    #[error("`{}` has {} images, name one of them: {}", path.display(), found.len(), listed(found))]
    Ambiguous {
        /// The directory or file.
        path: PathBuf,
        /// What it has.
        found: Vec<String>,
    },
}

impl ArchiveFailure {
    /// Whether something else must be asked for, or offered.
    pub fn is_users(&self) -> bool {
        match self {
            // What the reader of archives says has no kind; what the system says has.
            Self::Read {
                source: StoreError::Io { source, .. },
                ..
            } => matches!(
                source.kind(),
                ErrorKind::Other | ErrorKind::UnexpectedEof | ErrorKind::InvalidData
            ),
            Self::NotFound { .. }
            | Self::Ambiguous { .. }
            | Self::Open { .. }
            | Self::Read { .. } => true,
            Self::Write(_) => false,
        }
    }
}

fn listed(names: &[String]) -> String {
    const SHOWN: usize = 10;
    match names.len() {
        0 => "none".to_owned(),
        count if count > SHOWN => format!("{}, …", names[..SHOWN].join(", ")),
        _ => names.join(", "),
    }
}

/// An archive that is open, as a registry without a server.
pub struct Archive {
    registry: Arc<LayoutRegistry>,
    path: PathBuf,
    /// How the file is written when all is there.
    file: Option<Form>,
    _scratch: Option<TempDir>,
}

impl Archive {
    /// Opens an archive to read: a directory, or a file of whatever kind, compressed or not.
    ///
    /// # Errors
    /// When it is none.
    pub fn open(path: &Path, scratch: &Path) -> Result<Self, ArchiveFailure> {
        let (layout, scratch) = if is_directory(path)? {
            (Layout::open(path).map_err(read(path))?, None)
        } else {
            let (layout, directory) = scratch_layout(scratch)?;
            unpack(path, &layout)?;
            (layout, Some(directory))
        };
        let registry = LayoutRegistry::open(layout).map_err(read(path))?;
        Ok(Self {
            registry: Arc::new(registry),
            path: path.to_owned(),
            file: None,
            _scratch: scratch,
        })
    }

    /// Opens an archive to write. What it holds already stays, and is not written again.
    ///
    /// # Errors
    /// When it cannot be made, or is something else.
    pub fn create(
        form: ArchiveForm,
        path: &Path,
        naming: Naming,
        scratch: &Path,
    ) -> Result<Self, ArchiveFailure> {
        let (layout, scratch, file) = match form {
            ArchiveForm::Layout => (Layout::create(path).map_err(read(path))?, None, None),
            ArchiveForm::Oci | ArchiveForm::Docker => {
                let (layout, directory) = scratch_layout(scratch)?;
                if fs_err::metadata(path).is_ok_and(|found| found.is_file()) {
                    unpack(path, &layout)?;
                }
                let file = match form {
                    ArchiveForm::Docker => Form::Docker,
                    _ => Form::Oci,
                };
                (layout, Some(directory), Some(file))
            }
        };
        let registry = LayoutRegistry::create(layout, naming).map_err(read(path))?;
        Ok(Self {
            registry: Arc::new(registry),
            path: path.to_owned(),
            file,
            _scratch: scratch,
        })
    }

    /// An archive without images, which is gone with the value.
    ///
    /// # Errors
    /// When there is no room for it.
    pub fn empty(scratch: &Path) -> Result<Self, ArchiveFailure> {
        let (layout, directory) = scratch_layout(scratch)?;
        let registry = LayoutRegistry::open(layout).map_err(read(scratch))?;
        Ok(Self {
            registry: Arc::new(registry),
            path: scratch.to_owned(),
            file: None,
            _scratch: Some(directory),
        })
    }

    /// `client`, for which this archive answers for `host`.
    pub fn serve(&self, client: &Client, host: &RegistryHost) -> Client {
        client.with_local(host.clone(), self.registry.clone())
    }

    /// The image called `name`, or the only one.
    ///
    /// # Errors
    /// Where there is none, or several.
    pub fn find(&self, name: Option<&str>) -> Result<Digest, ArchiveFailure> {
        let index = self.registry.layout().index();
        let entries = index.map_err(read(&self.path))?.manifests;
        let found = || {
            let mut names: Vec<_> = entries.iter().map(shown).collect();
            names.sort();
            names.dedup();
            names
        };
        let Some(name) = name else {
            let images = entries.iter().filter(|entry| !is_referrer(entry));
            let mut digests: Vec<_> = images.map(|entry| &entry.digest).collect();
            digests.sort();
            digests.dedup();
            return match digests.as_slice() {
                [only] => Ok((*only).clone()),
                _ => Err(ArchiveFailure::Ambiguous {
                    path: self.path.clone(),
                    found: found(),
                }),
            };
        };
        let entry = entries.iter().find(|entry| is_called(entry, name));
        let entry = entry.ok_or_else(|| ArchiveFailure::NotFound {
            path: self.path.clone(),
            name: name.to_owned(),
            found: found(),
        })?;
        Ok(entry.digest.clone())
    }

    /// Writes the names, and the file where it is one.
    ///
    /// # Errors
    /// When it cannot be written. It is then what it was.
    pub fn finish(&self) -> Result<(), ArchiveFailure> {
        self.registry.flush().map_err(read(&self.path))?;
        let Some(form) = self.file else {
            return Ok(());
        };
        write_aside(Some(&self.path), |to, path| {
            let written = write_layout(self.registry.layout(), form, UntilOver(to));
            written.map_err(|source| ArchiveError::Store {
                path: path.to_owned(),
                source,
            })
        })?;
        Ok(())
    }
}

/// Where an image of an archive is, to a client that the archive was given: `host`, one of those that no server has.
#[expect(clippy::missing_panics_doc, reason = "it cannot panic")]
pub fn archive_host(number: usize) -> RegistryHost {
    let name = format!("{number}.{ARCHIVE_HOST}");
    name.parse().expect("a number and a host are a host")
}

/// The repository of an archive of one image.
#[expect(clippy::missing_panics_doc, reason = "it cannot panic")]
pub fn any_repository(host: &RegistryHost) -> Repository {
    Repository::new(host.clone(), "image").expect("it is a path")
}

fn is_directory(path: &Path) -> Result<bool, ArchiveFailure> {
    let found = fs_err::metadata(path).map_err(|source| ArchiveFailure::Open {
        path: path.to_owned(),
        source,
    })?;
    Ok(found.is_dir())
}

fn scratch_layout(scratch: &Path) -> Result<(Layout, TempDir), ArchiveFailure> {
    let directory = tempfile::Builder::new()
        .prefix("coopery-archive-")
        .tempdir_in(scratch)
        .map_err(|source| ArchiveFailure::Open {
            path: scratch.to_owned(),
            source,
        })?;
    let layout = Layout::create(directory.path().join("layout")).map_err(read(scratch))?;
    Ok((layout, directory))
}

/// Brings the images of the file `path` into `layout`, with the names that they have there.
fn unpack(path: &Path, layout: &Layout) -> Result<(), ArchiveFailure> {
    let open = |source| ArchiveFailure::Open {
        path: path.to_owned(),
        source,
    };
    let file = fs_err::File::open(path).map_err(open)?;
    let (_, content) = decompress(file).map_err(open)?;
    let images = read_archive(content, layout).map_err(read(path))?;
    let entries = images.into_iter().map(|image| {
        let mut entry = image.descriptor;
        entry.annotations = image.annotations;
        entry
    });
    let changed = layout.change(|all| all.extend(entries));
    changed.map_err(read(path))
}

fn read(path: &Path) -> impl FnOnce(StoreError) -> ArchiveFailure + use<> {
    let path = path.to_owned();
    |source| ArchiveFailure::Read { path, source }
}

/// Whether an entry is not an image but what refers to one, kept by a tag that is made from a digest.
fn is_referrer(entry: &Descriptor) -> bool {
    let called = entry.annotations.get(REF_NAME);
    let hex = called.and_then(|name| name.strip_prefix("sha256-")?.get(..64));
    hex.is_some_and(|hex| hex.bytes().all(|b| b.is_ascii_hexdigit()))
}

/// What people call an entry.
fn shown(entry: &Descriptor) -> String {
    let called = [REF_NAME, IMAGE_NAME]
        .iter()
        .find_map(|key| entry.annotations.get(*key));
    called.cloned().unwrap_or_else(|| entry.digest.to_string())
}

/// Whether `name` means this entry: by what the layout calls it, as an image of docker, or by its digest.
fn is_called(entry: &Descriptor, name: &str) -> bool {
    let annotation = |key: &str| entry.annotations.get(key).map(String::as_str);
    let same = |text: &str| {
        let (one, other) = (text.parse::<Reference>(), name.parse::<Reference>());
        matches!((one, other), (Ok(one), Ok(other)) if one == other)
    };
    annotation(REF_NAME) == Some(name)
        || entry.digest.as_str() == name
        || annotation(IMAGE_NAME).is_some_and(same)
}
