//! Layers on disk and as blobs. A layer directory has the format of an overlayfs upper directory: a file is itself, a
//! whiteout is a character device 0:0, an opaque directory carries `user.overlay.opaque=y`. What the disk cannot hold
//! is in an [`Index`] beside the directory. [`pack`] turns a directory into a blob, [`crate::unpack`] a blob into a
//! directory, [`crate::snapshot`] stacks directories to a tree. A [`Listing`] is what a layer looks like without its bytes.

mod blob_writer;
mod compress;
mod content;
mod error;
mod extended_header;
mod index;
mod lent;
mod listing;
mod owner;
mod pack;
mod recompress;
mod root;
mod sparse;
mod squash;
mod tar_header;
mod tar_reader;
mod tar_writer;
mod write;
mod writer;

use std::{
    ffi::{OsStr, OsString},
    os::unix::ffi::OsStrExt,
    path::{Path, PathBuf},
    sync::OnceLock,
};

pub use compress::Compression;
pub(crate) use content::{Content, SourceFailed, Streamed};
pub use error::LayerError;
pub use index::{Index, Record};
pub(crate) use lent::{LentLayer, LentWriter, TreeFile};
pub use listing::{DamagedListing, Listing, Picked};
pub(crate) use listing::{ListingWriter, Picking};
pub(crate) use owner::settle_directory;
pub use pack::{PackOptions, PackedLayer, Recipe, pack};
pub use recompress::recompress;
pub(crate) use root::{Root, Stamp, stamp_of_file, xattrs_of};
pub use squash::squash;
pub use tar_reader::TarError;
pub(crate) use tar_reader::{Member, MemberKind, TarLimits, TarReader};
pub(crate) use tar_writer::{TarHeader, TarKind, write_end, write_header, write_padding};
pub(crate) use write::WriteLayer;
pub(crate) use writer::{LayerWriter, PLAIN_DIRECTORY};

use crate::tree::{Entry, ImagePath, Kind, TreeError, Xattrs};

/// The extended attribute by which overlayfs knows an opaque directory when it is mounted with `userxattr`.
pub(crate) const OPAQUE_XATTR: &str = "user.overlay.opaque";
/// The prefix of a whiteout's name in a layer's archive (image-spec, layer.md, "Whiteouts").
pub(crate) const WHITEOUT_PREFIX: &[u8] = b".wh.";
/// The name of the file that makes a directory opaque in a layer's archive.
pub(crate) const OPAQUE_NAME: &[u8] = b".wh..wh..opq";

/// Reads an archive to its end and counts its members, making nothing: for archives that may be hostile.
///
/// # Errors
/// What is wrong with it.
pub fn count_members(stream: impl std::io::Read) -> Result<usize, TarError> {
    let limits = TarLimits {
        path: 4096,
        header: 1 << 20,
        holes: 1 << 20,
    };
    let mut reader = TarReader::new(stream, limits);
    let mut count = 0;
    while reader.next()?.is_some() {
        std::io::copy(&mut reader.data(), &mut std::io::sink()).map_err(TarError::from)?;
        count += 1;
    }
    reader.drain()?;
    Ok(count)
}

/// Where a layer directory keeps owners and permissions.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Owners {
    /// On disk: the process is root, of the machine or of a user namespace with a full id map.
    OnDisk,
    /// In the index, because the process may not change owners. Files on disk belong to the process and have the
    /// permissions that it needs.
    Recorded,
}

/// One layer, unpacked: a directory in overlayfs's upper format, and an index of what the directory cannot hold.
///
/// It does not change once it is made. The index is the file `<path>.index` beside the directory, where there is one.
#[derive(Debug)]
pub struct LayerDir {
    /// The directory: what overlayfs mounts.
    pub path: PathBuf,
    /// Where owners and permissions are.
    pub owners: Owners,
    index: Index,
    /// What is at the top, once somebody has looked.
    top: OnceLock<Top>,
}

/// What a finished layer has at its top: with 200 layers, most have nothing of most paths, and this tells without looking
/// at the disk again.
#[derive(Debug)]
struct Top {
    /// The names in the root directory, sorted; none where they are too many to be kept.
    names: Option<Vec<OsString>>,
    opaque: bool,
}

/// How many names are kept of the top of a layer.
const TOP_NAMES: usize = 64;

impl LayerDir {
    /// The layer in the existing directory `path`, with its index if it has one.
    ///
    /// # Errors
    /// When there is no directory, or the index cannot be read.
    pub fn open(path: impl Into<PathBuf>) -> Result<Self, LayerError> {
        let path = path.into();
        Root::open(&path).map_err(|source| LayerError::directory(&path, source))?;
        let (owners, index) = Index::load(&index_path(&path))?.unwrap_or_default();
        Ok(Self {
            path,
            owners,
            index,
            top: OnceLock::new(),
        })
    }

    pub(crate) const fn from_parts(path: PathBuf, owners: Owners, index: Index) -> Self {
        Self {
            path,
            owners,
            index,
            top: OnceLock::new(),
        }
    }

    /// Whether this layer, which is finished, may have something at `path` or below it: a whiteout, too.
    ///
    /// # Errors
    /// When its directory cannot be read.
    pub(crate) fn may_have(&self, path: &ImagePath) -> Result<bool, TreeError> {
        let Some(first) = path.components().next() else {
            return Ok(true);
        };
        let names = self.top()?.names.as_ref();
        let is_there = |names: &Vec<OsString>| {
            names
                .binary_search_by(|name| name.as_os_str().cmp(first))
                .is_ok()
        };
        Ok(names.is_none_or(is_there))
    }

    /// Whether this layer, which is finished, hides all that is below it.
    ///
    /// # Errors
    /// When its directory cannot be read.
    pub(crate) fn is_opaque_at_top(&self) -> Result<bool, TreeError> {
        Ok(self.top()?.opaque)
    }

    fn top(&self) -> Result<&Top, TreeError> {
        if let Some(known) = self.top.get() {
            return Ok(known);
        }
        let path = ImagePath::root();
        let read = || {
            let root = Root::open(&self.path)?;
            let (names, opaque) = (root.names(&path, TOP_NAMES)?, root.is_opaque(&path)?);
            Ok(Top { names, opaque })
        };
        let top = read().map_err(|error: std::io::Error| TreeError::io(&path, error))?;
        Ok(self.top.get_or_init(|| top))
    }

    /// What the directory cannot hold.
    pub const fn index(&self) -> &Index {
        &self.index
    }

    /// Moves the directory and its index to `path`, which must not exist, on the same file system.
    ///
    /// # Errors
    /// When renaming fails.
    pub fn rename_to(mut self, path: impl Into<PathBuf>) -> Result<Self, LayerError> {
        let path = path.into();
        let (old, new) = (index_path(&self.path), index_path(&path));
        if old.exists() {
            fs_err::rename(&old, &new).map_err(LayerError::Index)?;
        }
        fs_err::rename(&self.path, &path).map_err(LayerError::Index)?;
        self.path = path;
        Ok(self)
    }

    /// Removes the directory and its index.
    ///
    /// # Errors
    /// When something cannot be removed.
    pub fn remove(self) -> Result<(), LayerError> {
        let index = index_path(&self.path);
        if index.exists() {
            fs_err::remove_file(index).map_err(LayerError::Index)?;
        }
        fs_err::remove_dir_all(&self.path).map_err(LayerError::Index)
    }

    /// Writes the index beside the directory, or removes one that is no longer needed.
    pub(crate) fn save_index(&self) -> Result<(), LayerError> {
        self.index.save(&index_path(&self.path), self.owners)
    }

    /// The entry of this one layer at `path`, whiteouts included.
    pub(crate) fn entry(&self, path: &ImagePath) -> Result<Option<Entry>, TreeError> {
        let root = Root::open(&self.path).map_err(|error| TreeError::io(path, error))?;
        self.entry_in(&root, path)
    }

    pub(crate) fn entry_in(
        &self,
        root: &Root,
        path: &ImagePath,
    ) -> Result<Option<Entry>, TreeError> {
        let found = root
            .entry(path)
            .map_err(|error| TreeError::io(path, error))?;
        Ok(found.map(|entry| self.index.complete(path, entry)))
    }

    /// The entries of one directory of this layer, whiteouts included, sorted; `None` where there is no directory.
    pub(crate) fn entries(
        &self,
        path: &ImagePath,
    ) -> Result<Option<Vec<(OsString, Entry)>>, TreeError> {
        let wrap = |error| TreeError::io(path, error);
        let root = Root::open(&self.path).map_err(wrap)?;
        let Some(entries) = root.entries(path).map_err(wrap)? else {
            return Ok(None);
        };
        let complete = |(name, entry): (OsString, Entry)| {
            let entry = self.index.complete(&path.child(&name), entry);
            (name, entry)
        };
        Ok(Some(entries.into_iter().map(complete).collect()))
    }

    /// Whether the directory `path` of this layer hides what the layers below have in it.
    pub(crate) fn is_opaque(&self, path: &ImagePath) -> Result<bool, TreeError> {
        let root = Root::open(&self.path).map_err(|error| TreeError::io(path, error))?;
        root.is_opaque(path)
            .map_err(|error| TreeError::io(path, error))
    }

    /// The extended attributes of one entry that an image records.
    pub(crate) fn xattrs(&self, path: &ImagePath, kind: &Kind) -> Result<Xattrs, TreeError> {
        let wrap = |error| TreeError::io(path, error);
        let root = Root::open(&self.path).map_err(wrap)?;
        self.xattrs_in(&root, path, kind).map_err(wrap)
    }

    pub(crate) fn xattrs_in(
        &self,
        root: &Root,
        path: &ImagePath,
        kind: &Kind,
    ) -> std::io::Result<Xattrs> {
        let mut xattrs = match kind {
            Kind::File | Kind::Directory => root.xattrs(path)?,
            _ => Xattrs::new(),
        };
        self.add_recorded_xattrs(path, &mut xattrs);
        Ok(xattrs)
    }

    /// The regular file `path`, opened beneath `root`, with its extended attributes.
    pub(crate) fn open_in(
        &self,
        root: &Root,
        path: &ImagePath,
    ) -> std::io::Result<(std::fs::File, Xattrs)> {
        let file = root.file(path)?;
        let mut xattrs = xattrs_of(&file)?;
        self.add_recorded_xattrs(path, &mut xattrs);
        Ok((file, xattrs))
    }

    fn add_recorded_xattrs(&self, path: &ImagePath, xattrs: &mut Xattrs) {
        if let Some(record) = self.index.get(path) {
            xattrs.extend(record.xattrs.clone());
        }
    }
}

/// Where the index of the layer directory `path` is.
fn index_path(path: &Path) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push(".index");
    name.into()
}

/// Whether a layer's archive would take a file of this name for a whiteout.
pub(crate) fn is_reserved_name(name: &OsStr) -> bool {
    name.as_bytes().starts_with(WHITEOUT_PREFIX)
}

#[cfg(test)]
mod tests;
