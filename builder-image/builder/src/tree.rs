//! What a file tree consists of, and the trait through which steps read any of them: an image's snapshot, the build
//! context, a layer in the making. Reading only; nothing here changes a file.

use std::{
    collections::{BTreeMap, VecDeque},
    ffi::{OsStr, OsString},
    io::{self, Read},
    os::unix::ffi::OsStrExt,
    sync::Arc,
};

use oci::Digest;
use serde::{Deserialize, Serialize};

pub use crate::image_path::ImagePath;

/// How many symbolic links one resolution may follow, as the kernel has it.
const MAX_LINKS: usize = 40;

/// A point in time since the epoch, as file systems and archives record it.
#[derive(
    Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize,
)]
pub struct Timestamp {
    /// Whole seconds, negative before 1970.
    pub seconds: i64,
    /// Nanoseconds after the second.
    pub nanos: u32,
}

impl Timestamp {
    /// A time of whole seconds.
    pub const fn from_seconds(seconds: i64) -> Self {
        Self { seconds, nanos: 0 }
    }
}

/// What an entry of a tree is.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub enum Kind {
    /// A regular file.
    File,
    /// A directory.
    Directory,
    /// A symbolic link and the text that it holds.
    Symlink(OsString),
    /// A named pipe.
    Fifo,
    /// A socket of the context's file system. No image holds one.
    Socket,
    /// A character device.
    CharDevice(Device),
    /// A block device.
    BlockDevice(Device),
    /// The marker of a layer that the entry of the layers below is gone. A snapshot never shows one.
    Whiteout,
}

impl Kind {
    /// Whether this is a directory.
    pub const fn is_directory(&self) -> bool {
        matches!(self, Self::Directory)
    }
}

/// The number of a device.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Device {
    /// The driver.
    pub major: u32,
    /// The instance.
    pub minor: u32,
}

/// Extended attributes by name.
pub type Xattrs = BTreeMap<String, Vec<u8>>;

/// Whether an image records the extended attribute `name`: `user.*` and `security.capability`, but nothing of overlayfs
/// (it would change how a layer is read) and nothing that belongs to one machine (labels, ACLs by kernel id, signatures).
pub fn is_image_xattr(name: &str) -> bool {
    name == "security.capability"
        || (name.starts_with("user.") && !name.starts_with("user.overlay."))
}

/// The owner, permissions, times and extended attributes that an entry shall have.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Attributes {
    /// Permission bits with setuid, setgid and sticky: `0..=0o7777`.
    pub mode: u32,
    /// The owning user.
    pub uid: u32,
    /// The owning group.
    pub gid: u32,
    /// The time of the last change of the content.
    pub mtime: Timestamp,
    /// Extended attributes that an image records.
    pub xattrs: Xattrs,
}

/// Identifies a file that has several names.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct FileId {
    /// The file system.
    pub device: u64,
    /// The inode.
    pub inode: u64,
}

/// One entry of a tree, without its extended attributes (they cost a read of their own: [`Tree::xattrs`]).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Entry {
    /// What it is.
    pub kind: Kind,
    /// Permission bits with setuid, setgid and sticky.
    pub mode: u32,
    /// The owning user.
    pub uid: u32,
    /// The owning group.
    pub gid: u32,
    /// The time of the last change of the content.
    pub mtime: Timestamp,
    /// The size of a regular file in bytes, else 0.
    pub size: u64,
    /// Set where a file that is no directory has more than one name.
    pub hard_link: Option<FileId>,
}

impl Entry {
    /// Whether this is a directory.
    pub const fn is_directory(&self) -> bool {
        self.kind.is_directory()
    }

    /// The attributes of this entry together with `xattrs`.
    pub const fn attributes(&self, xattrs: Xattrs) -> Attributes {
        Attributes {
            mode: self.mode,
            uid: self.uid,
            gid: self.gid,
            mtime: self.mtime,
            xattrs,
        }
    }
}

/// Why a tree could not be read.
#[derive(Debug, thiserror::Error)]
pub enum TreeError {
    /// Nothing is at the path.
    #[error("{0}: no such file or directory")]
    NotFound(ImagePath),
    /// A directory was expected.
    #[error("{0}: not a directory")]
    NotADirectory(ImagePath),
    /// A regular file was expected.
    #[error("{0}: not a regular file")]
    NotAFile(ImagePath),
    /// Only the listing of the file's layer is known. The solver then unpacks the layer, so that nobody sees this.
    #[error("{0}: its layer is not unpacked")]
    NotUnpacked(ImagePath),
    /// More than 40 symbolic links, as in a loop.
    #[error("{0}: too many levels of symbolic links")]
    TooManyLinks(ImagePath),
    /// The file is larger than the reader allows.
    #[error("{path}: larger than {limit} bytes")]
    TooLarge {
        /// The file.
        path: ImagePath,
        /// The bound in bytes.
        limit: u64,
    },
    /// The file system failed.
    #[error("{path}: reading failed")]
    Io {
        /// What was read.
        path: ImagePath,
        /// Why.
        source: io::Error,
    },
}

impl TreeError {
    pub(crate) fn io(path: &ImagePath, source: impl Into<io::Error>) -> Self {
        Self::Io {
            path: path.clone(),
            source: source.into(),
        }
    }
}

/// A tree that steps and threads share.
pub type SharedTree = Arc<dyn Tree + Send + Sync>;

/// A file tree that can be read. Paths are taken as they are: no symbolic link is followed but by [`Tree::resolve`],
/// [`Tree::read`] and [`Tree::stat`].
pub trait Tree {
    /// The entry at `path`; `None` if there is none, or if something above it is not a directory.
    fn lookup(&self, path: &ImagePath) -> Result<Option<Entry>, TreeError>;

    /// The entries of the directory `path`, sorted by the bytes of their names.
    fn read_dir(&self, path: &ImagePath) -> Result<Vec<(OsString, Entry)>, TreeError>;

    /// Opens the regular file `path` for reading.
    fn open(&self, path: &ImagePath) -> Result<std::fs::File, TreeError>;

    /// The extended attributes of `path` that an image records.
    fn xattrs(&self, path: &ImagePath) -> Result<Xattrs, TreeError>;

    /// Both of a regular file: what [`Tree::open`] and [`Tree::xattrs`] say, at the cost of one.
    fn open_with_xattrs(&self, path: &ImagePath) -> Result<(std::fs::File, Xattrs), TreeError> {
        Ok((self.open(path)?, self.xattrs(path)?))
    }

    /// The digest of the content of the regular file `path`, if it has no extended attribute that an image records and did
    /// not change since somebody read it.
    fn known_digest(&self, _path: &ImagePath) -> Option<Digest> {
        None
    }

    /// Remembers the digest of the content of `path`, which was read from `file` to its end.
    fn learn_digest(&self, _path: &ImagePath, _file: &std::fs::File, _digest: &Digest) {}

    /// Follows all symbolic links of `path`, the last component included, without leaving the root. What does not exist
    /// is kept as text, so the answer names where a file would be created.
    ///
    /// # Errors
    /// [`TreeError::TooManyLinks`] after 40 links; [`TreeError::Io`] where reading fails.
    fn resolve(&self, path: &ImagePath) -> Result<ImagePath, TreeError> {
        let mut waiting: VecDeque<OsString> = path.components().map(OsStr::to_owned).collect();
        let mut resolved = ImagePath::root();
        let mut links = 0;
        while let Some(component) = waiting.pop_front() {
            if component == ".." {
                resolved = resolved.parent().unwrap_or_default();
                continue;
            }
            let next = resolved.child(&component);
            let Some(Entry {
                kind: Kind::Symlink(target),
                ..
            }) = self.lookup(&next)?
            else {
                resolved = next;
                continue;
            };
            links += 1;
            if links > MAX_LINKS {
                return Err(TreeError::TooManyLinks(path.clone()));
            }
            if target.as_bytes().first() == Some(&b'/') {
                resolved = ImagePath::root();
            }
            let parts = target.as_bytes().split(|&byte| byte == b'/');
            for part in parts.filter(|part| !matches!(*part, b"" | b".")).rev() {
                waiting.push_front(OsStr::from_bytes(part).to_owned());
            }
        }
        Ok(resolved)
    }

    /// The entry at the end of all symbolic links of `path`, and where that is; `None` if there is none.
    fn stat(&self, path: &ImagePath) -> Result<Option<(ImagePath, Entry)>, TreeError> {
        let resolved = self.resolve(path)?;
        Ok(self.lookup(&resolved)?.map(|entry| (resolved, entry)))
    }

    /// The content of the regular file at the end of all symbolic links of `path`, at most `limit` bytes; `None` if it
    /// does not exist.
    ///
    /// # Errors
    /// [`TreeError::TooLarge`] for a longer file, [`TreeError::NotAFile`] for anything else than a file.
    fn read(&self, path: &ImagePath, limit: u64) -> Result<Option<Vec<u8>>, TreeError> {
        let Some((resolved, entry)) = self.stat(path)? else {
            return Ok(None);
        };
        if entry.kind != Kind::File {
            return Err(TreeError::NotAFile(resolved));
        }
        let mut content = Vec::new();
        self.open(&resolved)?
            .take(limit + 1)
            .read_to_end(&mut content)
            .map_err(|error| TreeError::io(&resolved, error))?;
        if content.len() as u64 > limit {
            return Err(TreeError::TooLarge {
                path: resolved,
                limit,
            });
        }
        Ok(Some(content))
    }
}
