//! One layer of a snapshot: unpacked on disk, or only listed.

use std::{ffi::OsString, fs::File, sync::Arc};

use crate::{
    layer::{LayerDir, Listing, Picked, Root},
    tree::{Entry, ImagePath, Kind, TreeError, Xattrs},
};

/// One layer of a snapshot.
#[derive(Clone, Debug)]
pub(super) enum Part {
    /// Everything is there.
    Unpacked(Arc<LayerDir>),
    /// Only what it looks like is known, and the contents of some files.
    Listed {
        listing: Arc<Listing>,
        picked: Vec<Arc<Picked>>,
    },
}

impl Part {
    /// The entry at `path`, whiteouts included.
    pub(super) fn entry(&self, path: &ImagePath) -> Result<Option<Entry>, TreeError> {
        match self {
            Self::Unpacked(layer) if !layer.may_have(path)? => Ok(None),
            Self::Unpacked(layer) => layer.entry(path),
            Self::Listed { listing, .. } => Ok(listing.entry(path)),
        }
    }

    /// The entries of one directory, whiteouts included, sorted; `None` where there is no directory.
    pub(super) fn entries(
        &self,
        path: &ImagePath,
    ) -> Result<Option<Vec<(OsString, Entry)>>, TreeError> {
        match self {
            Self::Unpacked(layer) if !layer.may_have(path)? => Ok(None),
            Self::Unpacked(layer) => layer.entries(path),
            Self::Listed { listing, .. } => Ok(listing.entries(path)),
        }
    }

    /// Whether the directory `path` hides what the layers below have in it.
    pub(super) fn is_opaque(&self, path: &ImagePath) -> Result<bool, TreeError> {
        match self {
            Self::Unpacked(layer) if path.is_root() => layer.is_opaque_at_top(),
            Self::Unpacked(layer) => layer.is_opaque(path),
            Self::Listed { listing, .. } => Ok(listing.is_opaque(path)),
        }
    }

    /// Whether `path` is a directory that the layer's archive did not name.
    pub(super) fn is_implied(&self, path: &ImagePath) -> bool {
        match self {
            Self::Unpacked(layer) => layer.index().is_implied(path),
            Self::Listed { listing, .. } => listing.is_implied(path),
        }
    }

    /// The extended attributes of one entry.
    pub(super) fn xattrs(&self, path: &ImagePath, kind: &Kind) -> Result<Xattrs, TreeError> {
        match self {
            Self::Unpacked(layer) => layer.xattrs(path, kind),
            Self::Listed { listing, .. } => Ok(listing.xattrs(path)),
        }
    }

    /// The listing of this layer, where the content of its file `path` is not known.
    pub(super) fn lacking(&self, path: &ImagePath) -> Option<&Arc<Listing>> {
        match self {
            Self::Listed { listing, picked } => {
                let known = listing.has_content(path)
                    || picked.iter().any(|picked| picked.has(listing, path));
                (!known).then_some(listing)
            }
            Self::Unpacked(_) => None,
        }
    }

    /// The regular file `path` with its extended attributes; `None` where its content is not known.
    pub(super) fn open_with_xattrs(
        &self,
        path: &ImagePath,
    ) -> Result<Option<(File, Xattrs)>, TreeError> {
        match self {
            Self::Unpacked(layer) => Root::open(&layer.path)
                .and_then(|root| layer.open_in(&root, path))
                .map(Some)
                .map_err(|error| TreeError::io(path, error)),
            Self::Listed { listing, .. } => {
                let file = self.open(path)?;
                Ok(file.map(|file| (file, listing.xattrs(path))))
            }
        }
    }

    /// The regular file `path`; `None` where its content is not known.
    pub(super) fn open(&self, path: &ImagePath) -> Result<Option<File>, TreeError> {
        let opened = match self {
            Self::Unpacked(layer) => Root::open(&layer.path)
                .and_then(|root| root.file(path))
                .map(Some),
            Self::Listed { listing, picked } => open_listed(listing, picked, path),
        };
        opened.map_err(|error| TreeError::io(path, error))
    }
}

/// The content of the file `path` of a listed layer, where somebody has kept it.
fn open_listed(
    listing: &Listing,
    picked: &[Arc<Picked>],
    path: &ImagePath,
) -> std::io::Result<Option<File>> {
    for picked in picked {
        if let Some(file) = picked.open(listing, path)? {
            return Ok(Some(file));
        }
    }
    listing.open(path)
}
