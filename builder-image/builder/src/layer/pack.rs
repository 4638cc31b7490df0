//! Packs a layer directory into a blob: tar, digest, compression, digest and file in one pass, with bounded memory. The
//! archive is sorted, so the same layer gives the same blob wherever it is packed.

use std::{
    collections::HashMap,
    ffi::OsString,
    fs::File,
    io::{self, Read, Write},
    num::NonZero,
    os::unix::ffi::OsStrExt,
    path::{Path, PathBuf},
};

use oci::{Descriptor, DiffId};

use super::{
    Compression, LayerDir, LayerError, OPAQUE_NAME, Root, WHITEOUT_PREFIX,
    blob_writer::BlobWriter,
    is_reserved_name,
    tar_writer::{TarHeader, TarKind, write_end, write_header, write_padding},
};
use crate::tree::{Entry, FileId, ImagePath, Kind, TreeError, Xattrs};

/// How a layer is packed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PackOptions {
    /// The compression of the blob.
    pub compression: Compression,
    /// Times after this one, in seconds since the epoch, are set to it (`rewrite-timestamp`).
    pub clamp_mtime: Option<i64>,
    /// How many threads compress; the blob does not depend on it.
    pub threads: NonZero<usize>,
}

impl Default for PackOptions {
    /// The default compression on all processors, with the times as they are.
    fn default() -> Self {
        Self {
            compression: Compression::default(),
            clamp_mtime: None,
            threads: std::thread::available_parallelism().unwrap_or(NonZero::<usize>::MIN),
        }
    }
}

/// What decides how the blob of a layer comes out, whoever packs it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct Recipe {
    /// The compression of the blob.
    pub compression: Compression,
    /// Times after this one are set to it.
    pub clamp_mtime: Option<i64>,
}

impl std::fmt::Display for Recipe {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        self.compression.fmt(f)?;
        match self.clamp_mtime {
            Some(clamp) => write!(f, " until {clamp}"),
            None => Ok(()),
        }
    }
}

impl PackOptions {
    /// What decides how blobs come out.
    pub const fn recipe(&self) -> Recipe {
        Recipe {
            compression: self.compression,
            clamp_mtime: self.clamp_mtime,
        }
    }

    /// The same threads for another recipe.
    #[must_use]
    pub const fn with(&self, recipe: Recipe) -> Self {
        Self {
            compression: recipe.compression,
            clamp_mtime: recipe.clamp_mtime,
            threads: self.threads,
        }
    }
}

/// A layer as a blob.
#[derive(Clone, Debug, PartialEq)]
pub struct PackedLayer {
    /// The digest of the uncompressed archive.
    pub diff_id: DiffId,
    /// The media type, digest and size of the blob.
    pub descriptor: Descriptor,
    /// The blob's file.
    pub blob: PathBuf,
}

/// Packs `layer` to the file `<blobs>/sha256/<digest>`, which appears only when it is complete.
///
/// Blocks while it works. Files with several names in the layer stay hard links. Directories that an archive only implied
/// stay implied.
///
/// # Errors
/// When an entry cannot be read, has a name that a layer cannot hold, or the blob cannot be written.
pub fn pack(
    layer: &LayerDir,
    options: &PackOptions,
    blobs: &Path,
) -> Result<PackedLayer, LayerError> {
    let mut packer = Packer::create(options, blobs)?;
    packer.directory(&Source::open(layer)?, &ImagePath::root())?;
    packer.finish()
}

/// What is packed: the entries of one layer and the contents of its files.
pub(super) trait LayerFiles {
    /// Whether the directory `path` hides what the layers below have in it.
    fn is_opaque(&self, path: &ImagePath) -> Result<bool, TreeError>;

    /// Whether nobody described the directory `path`.
    fn is_implied(&self, path: &ImagePath) -> bool;

    /// The entries of one directory, whiteouts included, sorted; `None` where there is no directory.
    fn entries(&self, path: &ImagePath) -> Result<Option<Vec<(OsString, Entry)>>, TreeError>;

    /// The extended attributes of an entry.
    fn xattrs(&self, path: &ImagePath, kind: &Kind) -> Result<Xattrs, TreeError>;

    /// The regular file `path`, with its extended attributes.
    fn open(&self, path: &ImagePath) -> Result<(File, Xattrs), TreeError>;

    /// Whether the file that was read from [`Self::open`] is the one that the layer was made of.
    fn is_as_it_was(&self, path: &ImagePath, file: &File) -> io::Result<bool>;
}

/// A layer directory that is packed.
pub(super) struct Source<'a> {
    pub(super) layer: &'a LayerDir,
    root: Root,
}

impl<'a> Source<'a> {
    pub(super) fn open(layer: &'a LayerDir) -> Result<Self, LayerError> {
        let root =
            Root::open(&layer.path).map_err(|source| LayerError::directory(&layer.path, source))?;
        Ok(Self { layer, root })
    }
}

impl LayerFiles for Source<'_> {
    fn is_opaque(&self, path: &ImagePath) -> Result<bool, TreeError> {
        self.layer.is_opaque(path)
    }

    fn is_implied(&self, path: &ImagePath) -> bool {
        self.layer.index().is_implied(path)
    }

    fn entries(&self, path: &ImagePath) -> Result<Option<Vec<(OsString, Entry)>>, TreeError> {
        self.layer.entries(path)
    }

    fn xattrs(&self, path: &ImagePath, kind: &Kind) -> Result<Xattrs, TreeError> {
        let xattrs = self.layer.xattrs_in(&self.root, path, kind);
        xattrs.map_err(|error| TreeError::io(path, error))
    }

    fn open(&self, path: &ImagePath) -> Result<(File, Xattrs), TreeError> {
        let opened = self.layer.open_in(&self.root, path);
        opened.map_err(|error| TreeError::io(path, error))
    }

    /// A layer directory does not change.
    fn is_as_it_was(&self, _: &ImagePath, _: &File) -> io::Result<bool> {
        Ok(true)
    }
}

/// Writes entries into the archive of a blob.
pub(super) struct Packer {
    clamp_mtime: Option<i64>,
    out: BlobWriter,
    /// The first name of each file with several.
    links: HashMap<FileId, Vec<u8>>,
    buffer: Vec<u8>,
}

impl Packer {
    pub(super) fn create(options: &PackOptions, blobs: &Path) -> Result<Self, LayerError> {
        Ok(Self {
            clamp_mtime: options.clamp_mtime,
            out: BlobWriter::create(options, blobs).map_err(LayerError::Blob)?,
            links: HashMap::new(),
            buffer: vec![0; 256 * 1024],
        })
    }

    pub(super) fn finish(mut self) -> Result<PackedLayer, LayerError> {
        write_end(&mut self.out).map_err(LayerError::Blob)?;
        self.out.finish(None)
    }

    /// Writes everything in the directory `path`, but not the directory.
    pub(super) fn directory(
        &mut self,
        from: &impl LayerFiles,
        path: &ImagePath,
    ) -> Result<(), LayerError> {
        if from.is_opaque(path)? {
            self.marker(path, OPAQUE_NAME)?;
        }
        for (name, entry) in from.entries(path)?.unwrap_or_default() {
            let below = path.child(&name);
            if is_reserved_name(&name) {
                return Err(LayerError::ReservedName(below));
            }
            match entry.kind {
                Kind::Whiteout => {
                    self.marker(path, &[WHITEOUT_PREFIX, name.as_bytes()].concat())?;
                }
                Kind::Directory => {
                    if !from.is_implied(&below) {
                        self.entry(from, &below, &entry)?;
                    }
                    self.directory(from, &below)?;
                }
                // No image holds sockets; programs leave them behind.
                Kind::Socket => {}
                _ => self.entry(from, &below, &entry)?,
            }
        }
        Ok(())
    }

    /// Writes the empty file `name` in `directory`, which stands for a deletion.
    pub(super) fn marker(&mut self, directory: &ImagePath, name: &[u8]) -> Result<(), LayerError> {
        let mut full = directory.as_bytes().to_vec();
        if !full.is_empty() {
            full.push(b'/');
        }
        full.extend_from_slice(name);
        let xattrs = Xattrs::new();
        let header = TarHeader {
            name: full,
            kind: TarKind::File(0),
            mode: 0,
            uid: 0,
            gid: 0,
            mtime: 0,
            xattrs: &xattrs,
        };
        write_header(&mut self.out, &header).map_err(LayerError::Blob)
    }

    /// Writes one entry with its content.
    pub(super) fn entry(
        &mut self,
        from: &impl LayerFiles,
        path: &ImagePath,
        entry: &Entry,
    ) -> Result<(), LayerError> {
        let first = entry.hard_link.and_then(|id| self.links.get(&id).cloned());
        let Some(kind) = TarKind::of(entry, first.as_deref()) else {
            return Ok(());
        };
        if first.is_none()
            && let Some(id) = entry.hard_link
        {
            self.links.insert(id, path.as_bytes().to_vec());
        }
        let (file, xattrs) = match (&first, &entry.kind) {
            (Some(_), _) => (None, Xattrs::new()),
            (None, Kind::File) => {
                let (file, xattrs) = from.open(path)?;
                (Some(file), xattrs)
            }
            (None, kind) => (None, from.xattrs(path, kind)?),
        };
        let mut name = path.as_bytes().to_vec();
        if entry.is_directory() {
            name.push(b'/');
        }
        let mtime = entry.mtime.seconds;
        let header = TarHeader {
            name,
            kind,
            mode: entry.mode,
            uid: entry.uid,
            gid: entry.gid,
            mtime: self.clamp_mtime.map_or(mtime, |clamp| mtime.min(clamp)),
            xattrs: &xattrs,
        };
        write_header(&mut self.out, &header).map_err(LayerError::Blob)?;
        match file.filter(|_| matches!(header.kind, TarKind::File(_))) {
            Some(file) => {
                self.data(&file, path, entry.size)?;
                let wrap = |error| TreeError::io(path, error);
                if from.is_as_it_was(path, &file).map_err(wrap)? {
                    Ok(())
                } else {
                    Err(LayerError::Changed(path.clone()))
                }
            }
            None => Ok(()),
        }
    }

    /// Writes `size` bytes of `file`, which is at `path`.
    fn data(&mut self, mut file: &File, path: &ImagePath, size: u64) -> Result<(), LayerError> {
        let wrap = |error| LayerError::from(TreeError::io(path, error));
        let mut left = size;
        while left > 0 {
            let wanted = usize::try_from(left)
                .unwrap_or(usize::MAX)
                .min(self.buffer.len());
            let read = file.read(&mut self.buffer[..wanted]).map_err(wrap)?;
            if read == 0 {
                return Err(LayerError::Truncated {
                    path: path.clone(),
                    expected: size,
                    found: size - left,
                });
            }
            self.out
                .write_all(&self.buffer[..read])
                .map_err(LayerError::Blob)?;
            left -= read as u64;
        }
        write_padding(&mut self.out, size).map_err(LayerError::Blob)
    }
}
