//! Writes one layer directory, entry by entry, in overlayfs's upper format. Every operation is relative to an open
//! directory of the layer and follows no link. What is written where is decided by the callers; this module only knows
//! how to put it on disk, and what goes to the index instead.

use std::{
    collections::BTreeMap,
    ffi::{OsStr, OsString},
    fs::File,
    io,
    os::fd::{AsFd, OwnedFd},
    path::{Path, PathBuf},
};

use rustix::{
    fs::{AtFlags, FileType, Mode, OFlags, XattrFlags},
    io::Errno,
};

use super::{
    Content, Index, LayerDir, LayerError, OPAQUE_XATTR, Owners, Record, Root, WriteLayer,
    owner::{describe_directory, give, set_xattrs},
    root::{entry_at, path_through, times},
};
use crate::tree::{Attributes, Entry, ImagePath, Kind, Timestamp, Xattrs};

/// The attributes of a directory that nobody described: 0755, root's.
pub(crate) const PLAIN_DIRECTORY: Attributes = Attributes {
    mode: 0o755,
    uid: 0,
    gid: 0,
    mtime: Timestamp {
        seconds: 0,
        nanos: 0,
    },
    xattrs: Xattrs::new(),
};

/// A layer directory in the making.
#[derive(Debug)]
pub(crate) struct LayerWriter {
    root: Root,
    path: PathBuf,
    owners: Owners,
    index: Index,
    /// The directories that exist so far. Their times are set when everything in them is written.
    directories: BTreeMap<ImagePath, Directory>,
    /// The directory that was used last, which is mostly the one that is needed next.
    current: Option<(ImagePath, OwnedFd)>,
}

#[derive(Debug)]
struct Directory {
    mtime: Timestamp,
    opaque: bool,
}

impl LayerWriter {
    /// Makes the directory `path`, which must not exist, for a new and empty layer.
    pub(crate) fn create(path: &Path, owners: Owners) -> Result<Self, LayerError> {
        let make = || {
            fs_err::create_dir(path)?;
            Root::open(path)
        };
        let root = make().map_err(|source| LayerError::directory(path, source))?;
        let mut writer = Self {
            root,
            path: path.to_owned(),
            owners,
            index: Index::default(),
            directories: BTreeMap::new(),
            current: None,
        };
        writer.directory(&ImagePath::root(), &PLAIN_DIRECTORY)?;
        writer.index.set_implied(&ImagePath::root(), true);
        Ok(writer)
    }

    /// Sets the times of all directories, which must come last, and saves the index.
    pub(crate) fn finish(self) -> Result<LayerDir, LayerError> {
        for (path, directory) in self.directories.iter().rev() {
            self.root
                .set_directory_mtime(path, directory.mtime)
                .map_err(|error| LayerError::write(path, error))?;
        }
        let layer = LayerDir::from_parts(self.path, self.owners, self.index);
        layer.save_index()?;
        Ok(layer)
    }

    /// Calls `act` with the open directory above `path` and the name of `path` in it.
    fn at<E: Into<io::Error>>(
        &mut self,
        path: &ImagePath,
        act: impl FnOnce(&OwnedFd, &OsStr) -> Result<(), E>,
    ) -> Result<(), LayerError> {
        let (Some(parent), Some(name)) = (path.parent(), path.name()) else {
            return Err(LayerError::write(path, Errno::EXIST));
        };
        let opened = match self.current.take() {
            Some((current, opened)) if current == parent => opened,
            _ => self
                .root
                .directory(&parent)
                .map_err(|error| LayerError::write(path, error))?,
        };
        let done = act(&opened, name).map_err(|error| LayerError::write(path, error));
        self.current = Some((parent, opened));
        done
    }
}

impl WriteLayer for LayerWriter {
    fn has_directory(&self, path: &ImagePath) -> bool {
        self.directories.contains_key(path)
    }

    fn is_opaque(&self, path: &ImagePath) -> bool {
        self.directories
            .get(path)
            .is_some_and(|directory| directory.opaque)
    }

    fn entry(&self, path: &ImagePath) -> Result<Option<Entry>, LayerError> {
        // Only directories of this writer exist, so the disk need not be asked for what lies elsewhere.
        if path
            .parent()
            .is_some_and(|parent| !self.has_directory(&parent))
        {
            return Ok(None);
        }
        let found = match (&self.current, path.parent(), path.name()) {
            (Some((current, opened)), Some(parent), Some(name)) if *current == parent => {
                entry_at(opened, name)
            }
            _ => self.root.entry(path),
        };
        let found = found.map_err(|error| LayerError::write(path, error))?;
        Ok(found.map(|mut entry| {
            if let Some(directory) = self.directories.get(path) {
                entry.mtime = directory.mtime;
            }
            self.index.complete(path, entry)
        }))
    }

    fn entries(&self, path: &ImagePath) -> Result<Vec<(OsString, Entry)>, LayerError> {
        let entries = self
            .root
            .entries(path)
            .map_err(|error| LayerError::write(path, error))?;
        let complete = |(name, entry): (OsString, Entry)| {
            let entry = self.index.complete(&path.child(&name), entry);
            (name, entry)
        };
        Ok(entries
            .unwrap_or_default()
            .into_iter()
            .map(complete)
            .collect())
    }

    fn open(&self, path: &ImagePath) -> io::Result<File> {
        self.root.file(path)
    }

    fn xattrs(&self, path: &ImagePath, kind: &Kind) -> io::Result<Xattrs> {
        let mut xattrs = match kind {
            Kind::File | Kind::Directory => self.root.xattrs(path)?,
            _ => Xattrs::new(),
        };
        if let Some(record) = self.index.get(path) {
            xattrs.extend(record.xattrs.clone());
        }
        Ok(xattrs)
    }

    fn directory(&mut self, path: &ImagePath, attributes: &Attributes) -> Result<(), LayerError> {
        let opaque = self.is_opaque(path);
        if !path.is_root() && !self.has_directory(path) {
            let make = |parent: &OwnedFd, name: &OsStr| {
                rustix::fs::mkdirat(parent, name, Mode::from_raw_mode(0o700))
            };
            self.at(path, make)?;
        }
        self.directories.insert(
            path.clone(),
            Directory {
                mtime: attributes.mtime,
                opaque,
            },
        );
        self.index.set_implied(path, false);
        let record = describe_directory(&self.root, path, attributes, self.owners)
            .map_err(|error| LayerError::write(path, error))?;
        self.index.set(path, record);
        Ok(())
    }

    fn imply(&mut self, path: &ImagePath) {
        self.index.set_implied(path, true);
    }

    fn set_opaque(&mut self, path: &ImagePath) -> Result<(), LayerError> {
        let set = || -> io::Result<()> {
            let directory = self.root.directory(path)?;
            let through = path_through(&directory, OsStr::new("."));
            Ok(rustix::fs::setxattr(
                through,
                OPAQUE_XATTR,
                b"y",
                XattrFlags::empty(),
            )?)
        };
        set().map_err(|error| LayerError::write(path, error))?;
        if let Some(directory) = self.directories.get_mut(path) {
            directory.opaque = true;
        }
        Ok(())
    }

    fn file(
        &mut self,
        path: &ImagePath,
        attributes: &Attributes,
        content: &mut dyn Content,
    ) -> Result<u64, LayerError> {
        let owners = self.owners;
        let mut size = 0;
        let mut record = Record::default();
        self.at(path, |parent, name| {
            crate::runtime::go_on()?;
            let flags =
                OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | OFlags::NOFOLLOW | OFlags::CLOEXEC;
            let mut file = File::from(rustix::fs::openat(
                parent,
                name,
                flags,
                Mode::from_raw_mode(0o600),
            )?);
            size = content.copy_to(&mut file)?;
            record.owner = give(
                owners,
                attributes,
                |uid, gid| rustix::fs::fchown(&file, uid, gid),
                |mode| rustix::fs::fchmod(&file, mode),
            )?;
            // A change of the owner clears capabilities, so they come after it.
            record.xattrs = set_xattrs(&attributes.xattrs, |name, value| {
                rustix::fs::fsetxattr(&file, name, value, XattrFlags::empty())
            })?;
            rustix::fs::futimens(&file, &times(attributes.mtime))?;
            Ok::<_, io::Error>(())
        })?;
        self.index.set(path, record);
        Ok(size)
    }

    fn symlink(
        &mut self,
        path: &ImagePath,
        target: &OsStr,
        attributes: &Attributes,
    ) -> Result<(), LayerError> {
        let owners = self.owners;
        // The kernel keeps no `user.*` attributes on links, and those of the archive shall survive.
        let mut record = Record {
            xattrs: attributes.xattrs.clone(),
            ..Record::default()
        };
        let attributes = &Attributes {
            mode: 0o777,
            ..attributes.clone()
        };
        self.at(path, |parent, name| {
            rustix::fs::symlinkat(target, parent, name)?;
            let nofollow = AtFlags::SYMLINK_NOFOLLOW;
            record.owner = give(
                owners,
                attributes,
                |uid, gid| rustix::fs::chownat(parent, name, uid, gid, nofollow),
                |_| Ok(()),
            )?;
            rustix::fs::utimensat(parent, name, &times(attributes.mtime), nofollow)?;
            Ok::<_, io::Error>(())
        })?;
        self.index.set(path, record);
        Ok(())
    }

    // Devices are only recorded: a user namespace cannot make them, and a layer shall be the same in and out of one.
    fn special(
        &mut self,
        path: &ImagePath,
        kind: &Kind,
        attributes: &Attributes,
    ) -> Result<(), LayerError> {
        let owners = self.owners;
        let fifo = *kind == Kind::Fifo;
        let mut record = Record {
            device: (!fifo).then(|| kind.clone()),
            xattrs: attributes.xattrs.clone(),
            ..Record::default()
        };
        self.at(path, |parent, name| {
            let file_type = if fifo {
                FileType::Fifo
            } else {
                FileType::RegularFile
            };
            rustix::fs::mknodat(parent, name, file_type, Mode::from_raw_mode(0o600), 0)?;
            let nofollow = AtFlags::SYMLINK_NOFOLLOW;
            record.owner = give(
                owners,
                attributes,
                |uid, gid| rustix::fs::chownat(parent, name, uid, gid, nofollow),
                |mode| rustix::fs::chmodat(parent, name, mode, AtFlags::empty()),
            )?;
            rustix::fs::utimensat(parent, name, &times(attributes.mtime), nofollow)?;
            Ok::<_, io::Error>(())
        })?;
        self.index.set(path, record);
        Ok(())
    }

    fn hard_link(&mut self, path: &ImagePath, target: &ImagePath) -> Result<(), LayerError> {
        let (Some(target_parent), Some(target_name)) = (target.parent(), target.name()) else {
            return Err(LayerError::write(path, Errno::PERM));
        };
        let from = self
            .root
            .directory(&target_parent)
            .map_err(|error| LayerError::write(target, error))?;
        self.at(path, |parent, name| {
            rustix::fs::linkat(&from, target_name, parent, name, AtFlags::empty())
        })?;
        let record = self.index.get(target).cloned().unwrap_or_default();
        self.index.set(path, record);
        Ok(())
    }

    fn whiteout(&mut self, path: &ImagePath) -> Result<(), LayerError> {
        self.at(path, |parent, name| {
            rustix::fs::mknodat(
                parent,
                name,
                FileType::CharacterDevice,
                Mode::from_raw_mode(0),
                0,
            )
        })
    }

    fn remove(&mut self, path: &ImagePath) -> Result<(), LayerError> {
        self.current = None;
        self.at(path, remove_at)?;
        self.current = None;
        if self.has_directory(path) {
            let below: Vec<_> = (self
                .directories
                .range(path.clone()..)
                .map(|(below, _)| below.clone()))
            .take_while(|below| below.is_within(path))
            .collect();
            for directory in below {
                self.directories.remove(&directory);
            }
        }
        self.index.forget(path);
        Ok(())
    }
}

/// Removes `name` from the open directory `parent`, with everything below it.
fn remove_at(parent: &impl AsFd, name: &OsStr) -> Result<(), Errno> {
    match rustix::fs::unlinkat(parent, name, AtFlags::empty()) {
        Err(Errno::ISDIR) => {}
        answer => return answer,
    }
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let directory = rustix::fs::openat(parent, name, flags, Mode::empty())?;
    let mut names = Vec::new();
    for entry in rustix::fs::Dir::read_from(&directory)? {
        let entry = entry?;
        if !matches!(entry.file_name().to_bytes(), b"." | b"..") {
            names.push(entry.file_name().to_owned());
        }
    }
    for name in names {
        use std::os::unix::ffi::OsStrExt;
        remove_at(&directory, OsStr::from_bytes(name.to_bytes()))?;
    }
    drop(directory);
    rustix::fs::unlinkat(parent, name, AtFlags::REMOVEDIR)
}
