//! A layer in the making over a snapshot: the one place that decides how a change of the tree looks in the new layer
//! (copied-up directories, whiteouts, opaque directories). COPY, ADD, WORKDIR and unpacking write through it, and see
//! through it what they have written so far.

use std::{
    collections::BTreeMap,
    ffi::{OsStr, OsString},
    fs::File,
    path::Path,
};

use crate::{
    layer::{Content, LayerDir, LayerError, LayerWriter, Owners, WriteLayer, is_reserved_name},
    snapshot::Snapshot,
    tree::{Attributes, Entry, ImagePath, Kind, Tree, TreeError, Xattrs},
};

/// The bit by which a directory hands its group to what is made in it.
const SETGID: u32 = 0o2000;

/// A new layer over `base`.
#[derive(Debug)]
pub(crate) struct Upper<'a, W = LayerWriter> {
    base: &'a Snapshot,
    writer: W,
}

impl<'a> Upper<'a> {
    /// Begins an empty layer over `base` in the directory `into`, which must not exist.
    pub(crate) fn create(
        base: &'a Snapshot,
        into: &Path,
        owners: Owners,
    ) -> Result<Self, LayerError> {
        let writer = LayerWriter::create(into, owners)?;
        Ok(Self { base, writer })
    }

    /// The finished layer.
    pub(crate) fn finish(self) -> Result<LayerDir, LayerError> {
        self.writer.finish()
    }
}

impl<'a, W: WriteLayer> Upper<'a, W> {
    /// Goes on with what `writer` has, over `base`.
    pub(crate) const fn over(base: &'a Snapshot, writer: W) -> Self {
        Self { base, writer }
    }

    /// What was written.
    pub(crate) fn into_writer(self) -> W {
        self.writer
    }

    /// Whether the directory `path` of the snapshot shows through what this layer has.
    fn base_shows(&self, path: &ImagePath) -> Result<bool, LayerError> {
        let mut line = path.ancestors();
        line.push(path.clone());
        for directory in &line {
            if self.writer.is_opaque(directory) {
                return Ok(false);
            }
            if !self.writer.has_directory(directory) {
                return Ok(self.writer.entry(directory)?.is_none());
            }
        }
        Ok(true)
    }

    /// What the snapshot has at `path`, where this layer has nothing there but may hide it from above.
    fn in_base(&self, path: &ImagePath) -> Result<Option<Entry>, LayerError> {
        match path.parent() {
            Some(parent) if !self.base_shows(&parent)? => Ok(None),
            _ => Ok(self.base.lookup(path)?),
        }
    }

    /// What is visible at `path`: of this layer, else of the snapshot.
    pub(crate) fn entry(&self, path: &ImagePath) -> Result<Option<Entry>, LayerError> {
        match self.writer.entry(path)? {
            Some(Entry {
                kind: Kind::Whiteout,
                ..
            }) => Ok(None),
            Some(_) if path.is_root() => Ok(self.base.lookup(path)?),
            Some(entry) => Ok(Some(entry)),
            None => self.in_base(path),
        }
    }

    /// Whether this layer itself has an entry at `path` that is no whiteout.
    pub(crate) fn has(&self, path: &ImagePath) -> Result<bool, LayerError> {
        Ok(self
            .writer
            .entry(path)?
            .is_some_and(|entry| entry.kind != Kind::Whiteout))
    }

    /// Makes the directory `path` and those above it that are missing, each with `attributes`. In a directory with the
    /// setgid bit they get that bit, and its group unless `attributes` has an owner, as from the kernel. With `implied`,
    /// the layer notes that nobody described them.
    ///
    /// # Errors
    /// [`LayerError::NotADirectory`] where something else is in the way.
    pub(crate) fn make_directories(
        &mut self,
        path: &ImagePath,
        attributes: &Attributes,
        implied: bool,
    ) -> Result<(), LayerError> {
        if self.writer.has_directory(path) {
            return Ok(());
        }
        let mut line = path.ancestors();
        line.push(path.clone());
        let mut attributes = attributes.clone();
        for directory in &line {
            match self.entry(directory)? {
                Some(entry) if entry.is_directory() => {
                    if entry.mode & SETGID != 0 && directory != path && !implied {
                        attributes.mode |= SETGID;
                        if (attributes.uid, attributes.gid) == (0, 0) {
                            attributes.gid = entry.gid;
                        }
                    }
                }
                Some(_) => return Err(LayerError::NotADirectory(directory.clone())),
                None => {
                    self.directory(directory, &attributes)?;
                    if implied {
                        self.writer.imply(directory);
                    }
                }
            }
        }
        Ok(())
    }

    /// Whether this layer has the directory `path`, and so all those above it.
    pub(crate) fn has_directory(&self, path: &ImagePath) -> bool {
        self.writer.has_directory(path)
    }

    /// Copies the directories above `path` up into this layer, as the snapshot has them.
    fn copy_up_parents(&mut self, path: &ImagePath) -> Result<(), LayerError> {
        if path
            .parent()
            .is_none_or(|parent| self.writer.has_directory(&parent))
        {
            return Ok(());
        }
        for directory in path.ancestors() {
            if self.writer.has_directory(&directory) {
                continue;
            }
            let Some(entry) = self.entry(&directory)? else {
                return Err(TreeError::NotFound(directory).into());
            };
            if !entry.is_directory() {
                return Err(LayerError::NotADirectory(directory));
            }
            let attributes = entry.attributes(self.base.xattrs(&directory)?);
            self.writer.directory(&directory, &attributes)?;
        }
        Ok(())
    }

    /// Makes room at `path` for an entry that is no directory.
    fn clear(&mut self, path: &ImagePath) -> Result<(), LayerError> {
        if path.name().is_some_and(is_reserved_name) {
            return Err(LayerError::ReservedName(path.clone()));
        }
        self.copy_up_parents(path)?;
        if self.writer.entry(path)?.is_some() {
            self.writer.remove(path)?;
        }
        Ok(())
    }

    /// Makes the directory `path`, or gives an existing one these attributes. Anything else there is replaced. The
    /// directory above must exist.
    pub(crate) fn directory(
        &mut self,
        path: &ImagePath,
        attributes: &Attributes,
    ) -> Result<(), LayerError> {
        if self.writer.has_directory(path) {
            return self.writer.directory(path, attributes);
        }
        if path.name().is_some_and(is_reserved_name) {
            return Err(LayerError::ReservedName(path.clone()));
        }
        self.copy_up_parents(path)?;
        // What this layer has there was a file or a whiteout, so what the snapshot has below it must stay hidden.
        let replaces = self.writer.entry(path)?.is_some();
        if replaces {
            self.writer.remove(path)?;
        }
        self.writer.directory(path, attributes)?;
        if replaces {
            self.writer.set_opaque(path)?;
        }
        Ok(())
    }

    /// Writes a regular file, replacing what is at `path`, and returns its size.
    pub(crate) fn file(
        &mut self,
        path: &ImagePath,
        attributes: &Attributes,
        content: &mut dyn Content,
    ) -> Result<u64, LayerError> {
        self.clear(path)?;
        self.writer.file(path, attributes, content)
    }

    /// Makes a symbolic link, replacing what is at `path`.
    pub(crate) fn symlink(
        &mut self,
        path: &ImagePath,
        target: &OsStr,
        attributes: &Attributes,
    ) -> Result<(), LayerError> {
        self.clear(path)?;
        self.writer.symlink(path, target, attributes)
    }

    /// Makes a pipe or device, replacing what is at `path`.
    pub(crate) fn special(
        &mut self,
        path: &ImagePath,
        kind: &Kind,
        attributes: &Attributes,
    ) -> Result<(), LayerError> {
        self.clear(path)?;
        self.writer.special(path, kind, attributes)
    }

    /// Gives `target` a second name, replacing what is at `path`. `target` must be an entry of this layer.
    pub(crate) fn hard_link(
        &mut self,
        path: &ImagePath,
        target: &ImagePath,
    ) -> Result<(), LayerError> {
        if path == target {
            return Ok(());
        }
        self.clear(path)?;
        self.writer.hard_link(path, target)
    }

    /// Marks what the layers below have at `path` as gone. What this layer itself has there stays: a deletion in an
    /// archive is about the layers below (image-spec, layer.md, "Whiteouts").
    pub(crate) fn whiteout(&mut self, path: &ImagePath) -> Result<(), LayerError> {
        if self.writer.has_directory(path) {
            return self.writer.set_opaque(path);
        }
        if self.writer.entry(path)?.is_none() {
            self.writer.whiteout(path)?;
        }
        Ok(())
    }

    /// Makes the directory `path` of this layer hide what the layers below have in it.
    pub(crate) fn set_opaque(&mut self, path: &ImagePath) -> Result<(), LayerError> {
        self.writer.set_opaque(path)
    }
}

/// What a write error means for a reader.
fn as_tree_error(path: &ImagePath, error: LayerError) -> TreeError {
    match error {
        LayerError::Read(error) => error,
        LayerError::Write { path, source } => TreeError::Io { path, source },
        other => TreeError::io(path, std::io::Error::other(other)),
    }
}

impl<W: WriteLayer> Tree for Upper<'_, W> {
    fn lookup(&self, path: &ImagePath) -> Result<Option<Entry>, TreeError> {
        self.entry(path).map_err(|error| as_tree_error(path, error))
    }

    fn read_dir(&self, path: &ImagePath) -> Result<Vec<(OsString, Entry)>, TreeError> {
        let wrap = |error| as_tree_error(path, error);
        let mut merged = BTreeMap::new();
        if self.base_shows(path).map_err(wrap)?
            && self
                .base
                .lookup(path)?
                .is_some_and(|entry| entry.is_directory())
        {
            merged.extend(self.base.read_dir(path)?);
        } else if !self.writer.has_directory(path) {
            return Err(TreeError::NotADirectory(path.clone()));
        }
        if self.writer.has_directory(path) {
            for (name, entry) in self.writer.entries(path).map_err(wrap)? {
                if entry.kind == Kind::Whiteout {
                    merged.remove(&name);
                } else {
                    merged.insert(name, entry);
                }
            }
        }
        Ok(merged.into_iter().collect())
    }

    fn open(&self, path: &ImagePath) -> Result<File, TreeError> {
        if self.has(path).map_err(|error| as_tree_error(path, error))? {
            return self
                .writer
                .open(path)
                .map_err(|error| TreeError::io(path, error));
        }
        self.base.open(path)
    }

    fn xattrs(&self, path: &ImagePath) -> Result<Xattrs, TreeError> {
        match self.lookup(path)? {
            None => Err(TreeError::NotFound(path.clone())),
            Some(entry)
                if !path.is_root()
                    && self.has(path).map_err(|error| as_tree_error(path, error))? =>
            {
                self.writer
                    .xattrs(path, &entry.kind)
                    .map_err(|error| TreeError::io(path, error))
            }
            Some(_) => self.base.xattrs(path),
        }
    }
}
