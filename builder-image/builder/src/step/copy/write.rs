//! Writes what COPY and ADD copy into a layer: where each entry goes, what it replaces, and which attributes it gets.

use std::{collections::HashMap, ffi::OsStr, fs::File, io, path::Path};

use dockerfile::Mode;

use super::{CopySpec, Unpack};
use crate::{
    diff::same_content,
    layer::{Content, LayerError, LayerWriter, TreeFile, WriteLayer},
    step::{
        StepError, add,
        source::{Visit, select, walk},
    },
    tree::{
        Attributes, Device, Entry, FileId, ImagePath, Kind, Timestamp, Tree, TreeError, Xattrs,
    },
    unpack::Limits,
    upper::Upper,
};

/// A layer that entries are copied into.
pub(super) struct Copier<'a, W = LayerWriter> {
    upper: Upper<'a, W>,
    from: &'a dyn Tree,
    owner: Option<(u32, u32)>,
    chmod: Option<&'a Mode>,
    /// What directories get that no source describes.
    new_directory: Attributes,
    /// As written, links not followed.
    destination: ImagePath,
    is_directory: bool,
    /// Whether more than one file or directory is copied, so that files need a directory.
    several: bool,
    /// The first copy of each file with several names, within one source.
    links: HashMap<FileId, ImagePath>,
    /// The same the other way round, to forget copies that are replaced.
    linked: HashMap<ImagePath, FileId>,
}

impl<'a, W: WriteLayer> Copier<'a, W> {
    pub(super) fn new(
        spec: &'a CopySpec,
        from: &'a dyn Tree,
        owner: Option<(u32, u32)>,
        upper: Upper<'a, W>,
        created: Timestamp,
    ) -> Self {
        let (destination, is_directory) = spec.destination();
        let (uid, gid) = owner.unwrap_or((0, 0));
        // A symbolic mode has nothing to work on where BuildKit makes a directory itself.
        let mode = match &spec.chmod {
            Some(Mode::Absolute(mode)) => mode & 0o777,
            _ => 0o755,
        };
        Self {
            upper,
            from,
            owner,
            chmod: spec.chmod.as_ref(),
            new_directory: Attributes {
                mode,
                uid,
                gid,
                mtime: created,
                xattrs: Xattrs::new(),
            },
            destination,
            is_directory,
            several: spec.sources.len() > 1,
            links: HashMap::new(),
            linked: HashMap::new(),
        }
    }

    /// What comes next is read from another tree.
    pub(super) fn read_from(&mut self, from: &'a dyn Tree) {
        self.from = from;
    }

    /// The layer with everything that was copied.
    pub(super) fn into_upper(self) -> Upper<'a, W> {
        self.upper
    }

    /// Copies everything that the source `text` selects.
    pub(super) fn path(&mut self, spec: &CopySpec, text: &str) -> Result<(), StepError> {
        let selections = select(spec, self.from, text)?;
        self.several |= selections.len() > 1;
        for selection in selections {
            let source = &selection.source;
            self.links.clear();
            self.linked.clear();
            let unpack = spec.unpack != Unpack::Never && source.entry.kind == Kind::File;
            let name = source.named.to_string();
            if unpack && self.unpack(&name, &mut || Ok(self.from.open(&source.path)?))? {
                continue;
            }
            let target = self.prepare(
                source.entry.is_directory(),
                source.named.name().unwrap_or_default(),
            )?;
            walk(self.from, &selection, &mut |visit| {
                self.entry(visit, &target)
            })?;
        }
        Ok(())
    }

    /// Unpacks the archive that `open` opens to the destination; false if it is none.
    fn unpack(
        &mut self,
        name: &str,
        open: &mut dyn FnMut() -> Result<File, StepError>,
    ) -> Result<bool, StepError> {
        let limits = Limits::default();
        if !add::is_archive(name, open()?, &limits)? {
            return Ok(false);
        }
        let into = self.upper.resolve(&self.destination)?;
        let directory = Attributes {
            mode: 0o755,
            ..self.new_directory.clone()
        };
        self.upper.make_directories(&into, &directory, false)?;
        add::unpack(name, open()?, &mut self.upper, into, self.owner, &limits)?;
        Ok(true)
    }

    pub(super) fn download(
        &mut self,
        spec: &CopySpec,
        name: &str,
        file: &Path,
        attributes: &Attributes,
    ) -> Result<(), StepError> {
        let open = || -> Result<File, StepError> {
            let opened: io::Result<File> = fs_err::File::open(file)
                .map(fs_err::File::into_parts)
                .map(|(file, _)| file);
            opened.map_err(|source| StepError::Download {
                name: name.to_owned(),
                source,
            })
        };
        if spec.unpack == Unpack::All && self.unpack(name, &mut || open())? {
            return Ok(());
        }
        self.single(name, attributes, &mut open()?)
    }

    /// Copies one file that is in no tree.
    pub(super) fn single(
        &mut self,
        name: &str,
        attributes: &Attributes,
        content: &mut dyn Content,
    ) -> Result<(), StepError> {
        let target = self.prepare(false, OsStr::new(name))?;
        self.make_room(&target)?;
        self.upper.file(&target, attributes, content)?;
        Ok(())
    }

    /// The attributes of a file that is in no tree.
    pub(super) fn file_attributes(&self, mode: u32, mtime: Timestamp) -> Attributes {
        let (uid, gid) = self.owner.unwrap_or((0, 0));
        let mode = self.chmod.map_or(mode, |chmod| chmod.apply(mode, false));
        Attributes {
            mode,
            uid,
            gid,
            mtime,
            xattrs: Xattrs::new(),
        }
    }

    /// Makes the directories that the copy of one source needs, and returns the path of the copy.
    fn prepare(&mut self, source_is_directory: bool, name: &OsStr) -> Result<ImagePath, StepError> {
        let directory = self.new_directory.clone();
        let needed = match self.destination.parent() {
            Some(parent) if !self.is_directory => parent,
            _ => self.destination.clone(),
        };
        let needed = self.upper.resolve(&needed)?;
        self.upper.make_directories(&needed, &directory, false)?;
        let mut target = self.upper.resolve(&self.destination)?;
        let existing = self.upper.lookup(&target)?;
        if !source_is_directory {
            if existing.as_ref().is_some_and(Entry::is_directory) {
                target = target.child(name);
            } else if self.several {
                // BuildKit writes one file over the other; its documentation asks for a directory.
                return Err(StepError::DestinationNotADirectory(
                    self.destination.clone(),
                ));
            }
        }
        if source_is_directory && existing.is_none() {
            self.upper.make_directories(&target, &directory, false)?;
        } else if let Some(parent) = target.parent() {
            self.upper.make_directories(&parent, &directory, false)?;
        }
        Ok(target)
    }

    /// What the copy of `entry` gets.
    fn attributes(&self, source: &ImagePath, entry: &Entry) -> Result<Attributes, StepError> {
        Ok(self.attributes_with(entry, self.from.xattrs(source)?))
    }

    fn attributes_with(&self, entry: &Entry, xattrs: Xattrs) -> Attributes {
        let mut attributes = entry.attributes(xattrs);
        if let Some((uid, gid)) = self.owner {
            (attributes.uid, attributes.gid) = (uid, gid);
        }
        if let Some(chmod) = self.chmod
            && !matches!(entry.kind, Kind::Symlink(_))
        {
            attributes.mode = chmod.apply(entry.mode, entry.is_directory());
        }
        attributes
    }

    /// Copies one entry below the source to its place below `target`.
    fn entry(&mut self, visit: &Visit<'_>, target: &ImagePath) -> Result<(), StepError> {
        let Visit { path, entry, .. } = *visit;
        let target = target.join(visit.relative.as_bytes());
        if visit.implied {
            self.implied_directory(path, entry, &target)
        } else if entry.is_directory() {
            // The directory that the destination names keeps owner and mode where it exists.
            self.directory(path, entry, &target, !visit.relative.is_root())
        } else {
            self.leaf(path, entry, &target)
        }
    }

    /// Makes a directory above something that is taken, where no pattern takes it itself.
    fn implied_directory(
        &mut self,
        source: &ImagePath,
        entry: &Entry,
        target: &ImagePath,
    ) -> Result<(), StepError> {
        let attributes = match self.upper.lookup(target)? {
            None => self.attributes(source, entry)?,
            Some(existing) if !existing.is_directory() => {
                return Err(StepError::ReplacesFile {
                    from: source.clone(),
                    to: target.clone(),
                });
            }
            Some(existing) => Attributes {
                mode: entry.mode,
                ..existing.attributes(self.upper.xattrs(target)?)
            },
        };
        Ok(self.upper.directory(target, &attributes)?)
    }

    fn directory(
        &mut self,
        source: &ImagePath,
        entry: &Entry,
        target: &ImagePath,
        overwrite: bool,
    ) -> Result<(), StepError> {
        let existing = self.upper.lookup(target)?;
        let attributes = match existing {
            Some(existing) if !existing.is_directory() => {
                return Err(StepError::ReplacesFile {
                    from: source.clone(),
                    to: target.clone(),
                });
            }
            // The root is no entry of a layer.
            Some(_) if target.is_root() => return Ok(()),
            Some(existing) => {
                let known = existing.attributes(self.upper.xattrs(target)?);
                let mut attributes = known.clone();
                attributes.mtime = entry.mtime;
                if overwrite {
                    let mut wanted = self.attributes(source, entry)?;
                    attributes.xattrs.append(&mut wanted.xattrs);
                    wanted.xattrs = attributes.xattrs;
                    attributes = wanted;
                }
                if attributes == known {
                    return Ok(());
                }
                attributes
            }
            None => self.attributes(source, entry)?,
        };
        Ok(self.upper.directory(target, &attributes)?)
    }

    /// A file may not take the place of a directory. Returns what is there.
    fn make_room(&mut self, target: &ImagePath) -> Result<Option<Entry>, StepError> {
        let existing = self.upper.lookup(target)?;
        if existing.as_ref().is_some_and(Entry::is_directory) {
            return Err(StepError::ReplacesDirectory(target.clone()));
        }
        if let Some(replaced) = self.linked.remove(target) {
            self.links.remove(&replaced);
        }
        Ok(existing)
    }

    /// Whether `existing`, which is at `target`, is this very file of the image: then it is not in the layer once more.
    fn is_there(
        &self,
        source: &ImagePath,
        entry: &Entry,
        target: &ImagePath,
        existing: &Entry,
        attributes: &Attributes,
    ) -> Result<bool, StepError> {
        if (&existing.kind, existing.size) != (&Kind::File, entry.size) {
            return Ok(false);
        }
        let known = existing.attributes(self.upper.xattrs(target)?);
        if self.upper.has(target)? || known != *attributes {
            return Ok(false);
        }
        match self.upper.open(target) {
            // It is noted that it was asked for. What is written meanwhile counts for nothing, but all is asked for at once.
            Err(TreeError::NotUnpacked(_)) => Ok(false),
            opened => Ok(same_content(target, self.from.open(source)?, opened?)?),
        }
    }

    /// Copies what is no directory.
    fn leaf(
        &mut self,
        source: &ImagePath,
        entry: &Entry,
        target: &ImagePath,
    ) -> Result<(), StepError> {
        let existing = self.make_room(target)?;
        if entry.kind == Kind::File {
            return self.file(source, entry, target, existing);
        }
        let attributes = self.attributes(source, entry)?;
        match &entry.kind {
            Kind::Symlink(link) => self.upper.symlink(target, link, &attributes)?,
            // A socket is of no use without its program; BuildKit leaves an empty file, too.
            Kind::Socket => {
                self.upper.file(target, &attributes, &mut &[][..])?;
            }
            // On disk, the device 0:0 of a context looks like a whiteout of a layer.
            Kind::Whiteout => {
                let device = Kind::CharDevice(Device { major: 0, minor: 0 });
                self.upper.special(target, &device, &attributes)?;
            }
            Kind::Fifo | Kind::CharDevice(_) | Kind::BlockDevice(_) => {
                self.upper.special(target, &entry.kind, &attributes)?;
            }
            Kind::File | Kind::Directory => {
                return Err(LayerError::NotADirectory(target.clone()).into());
            }
        }
        Ok(())
    }

    /// Copies a regular file over what is at `target`.
    fn file(
        &mut self,
        source: &ImagePath,
        entry: &Entry,
        target: &ImagePath,
        existing: Option<Entry>,
    ) -> Result<(), StepError> {
        if let Some(first) = entry.hard_link.and_then(|id| self.links.get(&id)) {
            return Ok(self.upper.hard_link(target, first)?);
        }
        let (content, xattrs) = self.from.open_with_xattrs(source)?;
        let attributes = self.attributes_with(entry, xattrs);
        let existing = existing.filter(|_| entry.hard_link.is_none());
        if let Some(existing) = existing
            && self.is_there(source, entry, target, &existing, &attributes)?
        {
            return Ok(());
        }
        let mut content = TreeFile::new(content, source);
        self.upper.file(target, &attributes, &mut content)?;
        if let Some(id) = entry.hard_link {
            self.links.insert(id, target.clone());
            self.linked.insert(target.clone(), id);
        }
        Ok(())
    }
}
