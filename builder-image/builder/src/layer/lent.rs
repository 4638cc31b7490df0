//! A layer whose files are still where COPY takes them from: it is packed straight from there, and no copy of them is
//! made on the disk. A file that was changed meanwhile is noticed when it is packed; the layer is then made in the usual way.

use std::{
    collections::BTreeMap,
    ffi::{OsStr, OsString},
    fs::File,
    io::{self, Write},
    path::Path,
    sync::Arc,
};

use rustix::io::Errno;

use super::pack::{LayerFiles, Packer};
use super::root::{Stamp, stamp_of_file};
use super::{Content, LayerError, Listing, ListingWriter, PackOptions, PackedLayer, WriteLayer};
use crate::memory_file::memory_file;
use crate::tree::{Attributes, Entry, ImagePath, Kind, SharedTree, TreeError, Xattrs};

/// Layers of more files are made on the disk, so that memory stays bounded.
const MAX_FILES: usize = 1 << 16;

/// A regular file of a tree, as content: it can be copied, or lent.
pub(crate) struct TreeFile<'a> {
    file: File,
    path: &'a ImagePath,
}

impl<'a> TreeFile<'a> {
    /// The open `file`, which is at `path` of its tree.
    pub(crate) const fn new(file: File, path: &'a ImagePath) -> Self {
        Self { file, path }
    }
}

impl Content for TreeFile<'_> {
    fn copy_to(&mut self, file: &mut File) -> io::Result<u64> {
        self.file.copy_to(file)
    }

    fn read_into(&mut self, out: &mut dyn Write) -> io::Result<u64> {
        self.file.read_into(out)
    }

    fn lend(&self) -> io::Result<Option<(ImagePath, Stamp)>> {
        Ok(Some((self.path.clone(), stamp_of_file(&self.file)?)))
    }
}

/// Content that is of a size, and not read.
struct Unread(u64);

impl Content for Unread {
    fn copy_to(&mut self, _: &mut File) -> io::Result<u64> {
        Err(Errno::OPNOTSUPP.into())
    }

    fn read_into(&mut self, _: &mut dyn Write) -> io::Result<u64> {
        Ok(self.0)
    }
}

/// Where the content of a file is.
#[derive(Clone, Debug)]
enum Place {
    /// In a file of the lender.
    Lent(ImagePath, Stamp),
    /// Here: a document of the Dockerfile.
    Here(Arc<[u8]>),
}

impl Place {
    fn open(&self, from: &SharedTree) -> Result<File, TreeError> {
        match self {
            Self::Lent(path, _) => from.open(path),
            Self::Here(content) => {
                let file = memory_file("document", content);
                file.map_err(|error| TreeError::io(&ImagePath::root(), error))
            }
        }
    }
}

/// A layer in the making whose files are lent.
pub(crate) struct LentWriter {
    from: SharedTree,
    listing: ListingWriter,
    places: BTreeMap<ImagePath, Place>,
}

impl LentWriter {
    /// An empty layer of files of `from`.
    pub(crate) fn new(from: SharedTree) -> Self {
        Self {
            from,
            listing: ListingWriter::default(),
            places: BTreeMap::new(),
        }
    }

    /// The finished layer.
    pub(crate) fn finish(self) -> Result<LentLayer, LayerError> {
        let (listing, _) = self.listing.finish().map_err(LayerError::Index)?;
        Ok(LentLayer {
            from: self.from,
            listing: Arc::new(listing),
            places: self.places,
        })
    }
}

impl WriteLayer for LentWriter {
    fn has_directory(&self, path: &ImagePath) -> bool {
        self.listing.has_directory(path)
    }

    fn is_opaque(&self, path: &ImagePath) -> bool {
        self.listing.is_opaque(path)
    }

    fn entry(&self, path: &ImagePath) -> Result<Option<Entry>, LayerError> {
        self.listing.entry(path)
    }

    fn entries(&self, path: &ImagePath) -> Result<Vec<(OsString, Entry)>, LayerError> {
        self.listing.entries(path)
    }

    fn open(&self, path: &ImagePath) -> io::Result<File> {
        let place = self.places.get(path).ok_or(Errno::NOENT)?;
        place.open(&self.from).map_err(io::Error::other)
    }

    fn xattrs(&self, path: &ImagePath, kind: &Kind) -> io::Result<Xattrs> {
        self.listing.xattrs(path, kind)
    }

    fn directory(&mut self, path: &ImagePath, attributes: &Attributes) -> Result<(), LayerError> {
        self.listing.directory(path, attributes)
    }

    fn imply(&mut self, path: &ImagePath) {
        self.listing.imply(path);
    }

    fn set_opaque(&mut self, path: &ImagePath) -> Result<(), LayerError> {
        self.listing.set_opaque(path)
    }

    fn file(
        &mut self,
        path: &ImagePath,
        attributes: &Attributes,
        content: &mut dyn Content,
    ) -> Result<u64, LayerError> {
        let wrap = |error| LayerError::write(path, error);
        if self.places.len() == MAX_FILES {
            return Err(wrap(Errno::NOMEM.into()));
        }
        let (place, size) = if let Some((lent, stamp)) = content.lend().map_err(wrap)? {
            let size = stamp.size;
            (Place::Lent(lent, stamp), size)
        } else {
            let mut bytes = Vec::new();
            let size = content.read_into(&mut bytes).map_err(wrap)?;
            (Place::Here(bytes.into()), size)
        };
        self.places.insert(path.clone(), place);
        // A file that the listing keeps is small, and read.
        if ListingWriter::keeps(path) {
            self.listing.file(path, attributes, content)
        } else {
            self.listing.file(path, attributes, &mut Unread(size))
        }
    }

    fn symlink(
        &mut self,
        path: &ImagePath,
        target: &OsStr,
        attributes: &Attributes,
    ) -> Result<(), LayerError> {
        self.listing.symlink(path, target, attributes)
    }

    fn special(
        &mut self,
        path: &ImagePath,
        kind: &Kind,
        attributes: &Attributes,
    ) -> Result<(), LayerError> {
        self.listing.special(path, kind, attributes)
    }

    fn hard_link(&mut self, path: &ImagePath, target: &ImagePath) -> Result<(), LayerError> {
        self.listing.hard_link(path, target)?;
        if let Some(place) = self.places.get(target).cloned() {
            self.places.insert(path.clone(), place);
        }
        Ok(())
    }

    fn whiteout(&mut self, path: &ImagePath) -> Result<(), LayerError> {
        self.listing.whiteout(path)
    }

    fn remove(&mut self, path: &ImagePath) -> Result<(), LayerError> {
        if self.places.remove(path).is_none() && self.has_directory(path) {
            self.places.retain(|file, _| !file.is_within(path));
        }
        self.listing.remove(path)
    }
}

/// A finished layer whose files are lent.
pub(crate) struct LentLayer {
    from: SharedTree,
    listing: Arc<Listing>,
    places: BTreeMap<ImagePath, Place>,
}

impl LentLayer {
    /// What it looks like.
    pub(crate) const fn listing(&self) -> &Arc<Listing> {
        &self.listing
    }

    /// Packs it like [`super::pack`].
    ///
    /// # Errors
    /// Those of [`super::pack`], and [`LayerError::Changed`] when a file is not what it was.
    pub(crate) fn pack(
        &self,
        options: &PackOptions,
        blobs: &Path,
    ) -> Result<PackedLayer, LayerError> {
        let mut packer = Packer::create(options, blobs)?;
        packer.directory(self, &ImagePath::root())?;
        packer.finish()
    }
}

impl LayerFiles for LentLayer {
    fn is_opaque(&self, path: &ImagePath) -> Result<bool, TreeError> {
        Ok(self.listing.is_opaque(path))
    }

    fn is_implied(&self, path: &ImagePath) -> bool {
        self.listing.is_implied(path)
    }

    fn entries(&self, path: &ImagePath) -> Result<Option<Vec<(OsString, Entry)>>, TreeError> {
        Ok(self.listing.entries(path))
    }

    fn xattrs(&self, path: &ImagePath, _: &Kind) -> Result<Xattrs, TreeError> {
        Ok(self.listing.xattrs(path))
    }

    fn open(&self, path: &ImagePath) -> Result<(File, Xattrs), TreeError> {
        let place = self.places.get(path);
        let place = place.ok_or_else(|| TreeError::NotFound(path.clone()))?;
        Ok((place.open(&self.from)?, self.listing.xattrs(path)))
    }

    fn is_as_it_was(&self, path: &ImagePath, file: &File) -> io::Result<bool> {
        match self.places.get(path) {
            Some(Place::Lent(_, stamp)) => Ok(*stamp == stamp_of_file(file)?),
            _ => Ok(true),
        }
    }
}
