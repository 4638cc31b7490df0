//! What a layer in the making can be told: the seam between [`crate::upper`], which decides what a change of the tree means
//! for a layer, and where the layer is kept. It is one trait because a directory on disk and a listing in memory must
//! never differ in what they are told.

use std::{
    ffi::{OsStr, OsString},
    fs::File,
    io,
};

use super::{Content, LayerError};
use crate::tree::{Attributes, Entry, ImagePath, Kind, Xattrs};

/// A layer in the making. Paths are free of symbolic links, and the directory above whatever is made must exist.
pub(crate) trait WriteLayer {
    /// Whether this layer has the directory `path`.
    fn has_directory(&self, path: &ImagePath) -> bool;

    /// Whether this layer's directory `path` hides what is below it.
    fn is_opaque(&self, path: &ImagePath) -> bool;

    /// What this layer has at `path`, whiteouts included.
    fn entry(&self, path: &ImagePath) -> Result<Option<Entry>, LayerError>;

    /// The names and entries of this layer's directory `path`, sorted.
    fn entries(&self, path: &ImagePath) -> Result<Vec<(OsString, Entry)>, LayerError>;

    /// Opens a regular file of this layer.
    fn open(&self, path: &ImagePath) -> io::Result<File>;

    /// The extended attributes of an entry of this layer.
    fn xattrs(&self, path: &ImagePath, kind: &Kind) -> io::Result<Xattrs>;

    /// Makes the directory `path`, or gives an existing one other attributes.
    fn directory(&mut self, path: &ImagePath, attributes: &Attributes) -> Result<(), LayerError>;

    /// Notes that nobody described the directory `path`: what the layers below say of it holds.
    fn imply(&mut self, path: &ImagePath);

    /// Makes this layer's directory `path` hide what is below it.
    fn set_opaque(&mut self, path: &ImagePath) -> Result<(), LayerError>;

    /// Writes the regular file `path`, which must not exist, and returns its size.
    fn file(
        &mut self,
        path: &ImagePath,
        attributes: &Attributes,
        content: &mut dyn Content,
    ) -> Result<u64, LayerError>;

    /// Makes the symbolic link `path`, which must not exist.
    fn symlink(
        &mut self,
        path: &ImagePath,
        target: &OsStr,
        attributes: &Attributes,
    ) -> Result<(), LayerError>;

    /// Makes the pipe or device `path`, which must not exist.
    fn special(
        &mut self,
        path: &ImagePath,
        kind: &Kind,
        attributes: &Attributes,
    ) -> Result<(), LayerError>;

    /// Gives the file `target` of this layer the second name `path`, which must not exist.
    fn hard_link(&mut self, path: &ImagePath, target: &ImagePath) -> Result<(), LayerError>;

    /// Marks `path`, where this layer has nothing, as gone.
    fn whiteout(&mut self, path: &ImagePath) -> Result<(), LayerError>;

    /// Removes what this layer has at `path`, with everything below it.
    fn remove(&mut self, path: &ImagePath) -> Result<(), LayerError>;
}
