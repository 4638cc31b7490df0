//! COPY, and ADD as far as it copies: how sources, destination, owners and modes become a layer. The rules are those of
//! BuildKit's `fsutil/copy`; where they surprise, the table in the tests has a row.

use std::{
    collections::HashMap,
    ffi::OsStr,
    fs::File,
    io,
    path::{Path, PathBuf},
};

use dockerfile::Mode;

use crate::{
    account,
    diff::same_content,
    layer::{Content, LayerDir, LayerError, Owners},
    snapshot::Snapshot,
    step::{
        StepError, add, owner_of,
        source::{Filter, Seen, Source, find},
    },
    tree::{Attributes, Device, Entry, FileId, ImagePath, Kind, Timestamp, Tree, Xattrs},
    unpack::Limits,
    upper::Upper,
};

/// One COPY or ADD, with all variables expanded.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CopySpec {
    /// What to copy, in order.
    pub sources: Vec<CopySource>,
    /// Where to, as it is written: a slash at its end, `.` and the empty text mean a directory.
    pub destination: String,
    /// The working directory, for a relative destination.
    pub workdir: String,
    /// `--chown`: `user[:group]`, names or numbers.
    pub chown: Option<String>,
    /// `--chmod`.
    pub chmod: Option<Mode>,
    /// `--link`: the layer does not depend on what is below it.
    pub link: bool,
    /// `--parents`: the directories of a source are kept, from `/./` on if the source has it.
    pub parents: bool,
    /// `--exclude`: patterns as in `.dockerignore`, relative to each source.
    pub exclude: Vec<String>,
    /// Which archives are unpacked instead of copied.
    pub unpack: Unpack,
}

/// Which archives are unpacked instead of copied.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Unpack {
    /// None: COPY, and ADD with `--unpack=false`.
    #[default]
    Never,
    /// Those of the context: ADD.
    Local,
    /// Downloaded ones, too: ADD with `--unpack`.
    All,
}

/// One source.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum CopySource {
    /// A path or pattern in the tree that is copied from; always taken from its root.
    Path(String),
    /// A document of the Dockerfile.
    Inline {
        /// The name of its file.
        name: String,
        /// The content.
        content: Vec<u8>,
    },
    /// A file that was downloaded.
    Download {
        /// The name of its file, from the URL.
        name: String,
        /// Where it is.
        file: PathBuf,
        /// When the server says that it was changed; 1970 if it does not, so that the layer depends on the file alone.
        mtime: Option<Timestamp>,
    },
}

impl CopySpec {
    /// A COPY of `sources` to `destination` without flags, in the working directory `/`.
    pub fn new(
        sources: impl IntoIterator<Item = CopySource>,
        destination: impl Into<String>,
    ) -> Self {
        Self {
            sources: sources.into_iter().collect(),
            destination: destination.into(),
            workdir: "/".into(),
            chown: None,
            chmod: None,
            link: false,
            parents: false,
            exclude: Vec::new(),
            unpack: Unpack::Never,
        }
    }

    /// The destination, and whether its text means a directory.
    fn destination(&self) -> (ImagePath, bool) {
        let text = self.destination.as_str();
        let is_directory = matches!(text, "" | ".") || text.ends_with('/') || text.ends_with("/.");
        (ImagePath::new(&self.workdir).join(text), is_directory)
    }
}

/// What a step on files works on.
#[derive(Clone, Copy, Debug)]
pub struct Onto<'a> {
    /// The tree below the new layer.
    pub base: &'a Snapshot,
    /// The time of what the step makes itself: missing directories, documents of the Dockerfile.
    pub created: Timestamp,
    /// Where the new layer keeps owners.
    pub owners: Owners,
}

/// A source of `--parents`: where the walk begins, and what is taken.
pub(super) struct Selection {
    pub(super) source: Source,
    pub(super) filter: Filter,
}

/// What the source `text` selects in `from`.
pub(super) fn select(
    spec: &CopySpec,
    from: &dyn Tree,
    text: &str,
) -> Result<Vec<Selection>, StepError> {
    let mut selections = Vec::new();
    if !spec.parents {
        for source in find(from, text)? {
            let filter = Filter::new(&[], &spec.exclude)?;
            let named = source.named.name().unwrap_or_default();
            if source.entry.is_directory() || filter.takes_source(named) {
                selections.push(Selection { source, filter });
            }
        }
        return Ok(selections);
    }
    let (start, pattern) = text.split_once("/./").unwrap_or(("/", text));
    let pattern = ImagePath::new(pattern);
    let include = if pattern.is_root() {
        Vec::new()
    } else {
        vec![pattern.as_relative().to_string_lossy().into_owned()]
    };
    for source in find(from, start)? {
        selections.push(Selection {
            source,
            filter: Filter::new(&include, &spec.exclude)?,
        });
    }
    Ok(selections)
}

/// Makes the layer of one COPY or ADD in the new directory `into`. Paths are looked up in `from`, which for the build
/// context has root as the owner of everything.
///
/// # Errors
/// [`StepError`]; the directory is then left for the caller to remove.
pub fn copy(
    spec: &CopySpec,
    from: &dyn Tree,
    onto: &Onto<'_>,
    into: &Path,
) -> Result<LayerDir, StepError> {
    let scratch = Snapshot::empty();
    let base = if spec.link { &scratch } else { onto.base };
    let owner = match &spec.chown {
        Some(chown) if spec.link && !account::is_numeric_owner(chown) => {
            return Err(StepError::NamedOwnerWithLink(chown.clone()));
        }
        Some(chown) => Some(owner_of(chown, base)?),
        None => None,
    };
    let (destination, is_directory) = spec.destination();
    let (uid, gid) = owner.unwrap_or((0, 0));
    // A symbolic mode has nothing to work on where BuildKit makes a directory itself.
    let mode = match &spec.chmod {
        Some(Mode::Absolute(mode)) => mode & 0o777,
        _ => 0o755,
    };
    let mut copier = Copier {
        upper: Upper::create(base, into, onto.owners)?,
        from,
        owner,
        chmod: spec.chmod.as_ref(),
        new_directory: Attributes {
            mode,
            uid,
            gid,
            mtime: onto.created,
            xattrs: Xattrs::new(),
        },
        destination,
        is_directory,
        several: spec.sources.len() > 1,
        filter: Filter::default(),
        links: HashMap::new(),
        linked: HashMap::new(),
        pending: Vec::new(),
    };
    for source in &spec.sources {
        match source {
            CopySource::Path(text) => copier.path(spec, text)?,
            CopySource::Inline { name, content } => {
                let attributes = copier.file_attributes(0o644, onto.created);
                copier.single(name, &attributes, &mut content.as_slice())?;
            }
            CopySource::Download { name, file, mtime } => {
                let attributes =
                    copier.file_attributes(add::DOWNLOAD_MODE, mtime.unwrap_or_default());
                copier.download(spec, name, file, &attributes)?;
            }
        }
    }
    Ok(copier.upper.finish()?)
}

/// A directory of the source that is made when something in it is taken.
struct Pending {
    source: ImagePath,
    entry: Entry,
    target: ImagePath,
    made: bool,
}

struct Copier<'a> {
    upper: Upper<'a>,
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
    filter: Filter,
    /// The first copy of each file with several names, within one source.
    links: HashMap<FileId, ImagePath>,
    /// The same the other way round, to forget copies that are replaced.
    linked: HashMap<ImagePath, FileId>,
    pending: Vec<Pending>,
}

impl Copier<'_> {
    fn path(&mut self, spec: &CopySpec, text: &str) -> Result<(), StepError> {
        let selections = select(spec, self.from, text)?;
        self.several |= selections.len() > 1;
        for Selection { source, filter } in selections {
            self.filter = filter;
            self.links.clear();
            self.linked.clear();
            let unpack = spec.unpack != Unpack::Never && source.entry.kind == Kind::File;
            if unpack
                && self.unpack(&source.named.to_string(), &mut || {
                    Ok(self.from.open(&source.path)?)
                })?
            {
                continue;
            }
            let target = self.prepare(
                source.entry.is_directory(),
                source.named.name().unwrap_or_default(),
            )?;
            self.tree(
                &source.path,
                &source.entry,
                &ImagePath::root(),
                &target,
                false,
                &Seen::default(),
            )?;
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

    fn download(
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
    fn single(
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
    fn file_attributes(&self, mode: u32, mtime: Timestamp) -> Attributes {
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
        let mut attributes = entry.attributes(self.from.xattrs(source)?);
        if let Some((uid, gid)) = self.owner {
            (attributes.uid, attributes.gid) = (uid, gid);
        }
        if let Some(chmod) = self.chmod
            && !matches!(entry.kind, Kind::Symlink(_))
        {
            attributes.mode = chmod.apply(entry.mode, entry.is_directory());
        }
        Ok(attributes)
    }

    /// Copies `source`, which is at `relative` below the source of the instruction, to `target`. Without `overwrite`, a
    /// directory that exists keeps its owner and mode.
    fn tree(
        &mut self,
        source: &ImagePath,
        entry: &Entry,
        relative: &ImagePath,
        target: &ImagePath,
        overwrite: bool,
        above: &Seen,
    ) -> Result<(), StepError> {
        let (taken, seen) = if relative.is_root() {
            (true, Seen::default())
        } else {
            self.filter.takes(relative, above)
        };
        if taken {
            self.make_pending(overwrite)?;
        }
        if !entry.is_directory() {
            return if taken {
                self.leaf(source, entry, target)
            } else {
                Ok(())
            };
        }
        if taken {
            self.directory(source, entry, target, overwrite)?;
        }
        self.pending.push(Pending {
            source: source.clone(),
            entry: entry.clone(),
            target: target.clone(),
            made: taken,
        });
        for (name, below) in self.from.read_dir(source)? {
            let (source, relative, target) = (
                source.child(&name),
                relative.child(&name),
                target.child(&name),
            );
            self.tree(&source, &below, &relative, &target, true, &seen)?;
        }
        self.pending.pop();
        Ok(())
    }

    /// Makes the directories above something that is taken, where patterns left them out until now.
    fn make_pending(&mut self, overwrite: bool) -> Result<(), StepError> {
        for at in 0..self.pending.len() {
            let pending = &mut self.pending[at];
            if std::mem::replace(&mut pending.made, true) {
                continue;
            }
            let (source, entry, target) = (
                pending.source.clone(),
                pending.entry.clone(),
                pending.target.clone(),
            );
            match self.upper.lookup(&target)? {
                None => {
                    let attributes = self.attributes(&source, &entry)?;
                    self.upper.directory(&target, &attributes)?;
                }
                Some(existing) if !existing.is_directory() => {
                    return Err(StepError::ReplacesFile {
                        from: source,
                        to: target,
                    });
                }
                Some(existing) if overwrite => {
                    let mut attributes = existing.attributes(self.upper.xattrs(&target)?);
                    attributes.mode = entry.mode;
                    self.upper.directory(&target, &attributes)?;
                }
                Some(_) => {}
            }
        }
        Ok(())
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

    /// A file may not take the place of a directory.
    fn make_room(&mut self, target: &ImagePath) -> Result<(), StepError> {
        if self
            .upper
            .lookup(target)?
            .is_some_and(|existing| existing.is_directory())
        {
            return Err(StepError::ReplacesDirectory(target.clone()));
        }
        if let Some(replaced) = self.linked.remove(target) {
            self.links.remove(&replaced);
        }
        Ok(())
    }

    /// Whether the image has this very file already: then it is not in the layer once more.
    fn is_there(
        &self,
        source: &ImagePath,
        entry: &Entry,
        target: &ImagePath,
        attributes: &Attributes,
    ) -> Result<bool, StepError> {
        let existing = match self.upper.lookup(target)? {
            Some(existing) if (&existing.kind, existing.size) == (&Kind::File, entry.size) => {
                existing
            }
            _ => return Ok(false),
        };
        let known = existing.attributes(self.upper.xattrs(target)?);
        let same = || same_content(target, self.from.open(source)?, self.upper.open(target)?);
        Ok(!self.upper.has(target)? && known == *attributes && same()?)
    }

    /// Copies what is no directory.
    fn leaf(
        &mut self,
        source: &ImagePath,
        entry: &Entry,
        target: &ImagePath,
    ) -> Result<(), StepError> {
        self.make_room(target)?;
        let attributes = self.attributes(source, entry)?;
        match &entry.kind {
            Kind::File => {
                if let Some(first) = entry.hard_link.and_then(|id| self.links.get(&id)) {
                    return Ok(self.upper.hard_link(target, first)?);
                }
                if entry.hard_link.is_none() && self.is_there(source, entry, target, &attributes)? {
                    return Ok(());
                }
                let mut content = self.from.open(source)?;
                self.upper.file(target, &attributes, &mut content)?;
                if let Some(id) = entry.hard_link {
                    self.links.insert(id, target.clone());
                    self.linked.insert(target.clone(), id);
                }
            }
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
            Kind::Directory => {
                return Err(LayerError::NotADirectory(target.clone()).into());
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests;
