//! The files of an image in a directory: as the one who builds owns them, with the permissions and times of the image. What
//! the directory has besides stays. No symbolic link is followed, neither the image's nor one that was there before.

use std::collections::HashMap;
use std::ffi::OsStr;
use std::fs::File;
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::path::Path;

use rustix::fs::{AtFlags, FileType, Mode, OFlags, Timespec, Timestamps, UTIME_OMIT, XattrFlags};
use rustix::io::Errno;

use super::root_tar::TOP_MODE;
use crate::runtime::go_on;
use crate::tree::{Device, Entry, FileId, ImagePath, Kind, Timestamp, Tree, TreeError, Xattrs};

/// Why the files of an image could not be written.
#[derive(Debug, thiserror::Error)]
pub enum FilesError {
    /// The image cannot be read.
    #[error(transparent)]
    Read(#[from] TreeError),
    /// The directory cannot be made.
    #[error("making the directory")]
    Directory(#[source] io::Error),
    /// A directory is where the image has something else.
    #[error("{0}: a directory is there already, which is not removed: name an empty directory")]
    InTheWay(ImagePath),
    /// Images of several platforms have it, and have but one directory.
    #[error(
        "{path}: the images of {first} and {second} have it: leave platform-split=false out, or give files names of their platforms"
    )]
    OfSeveral {
        /// The entry.
        path: ImagePath,
        /// One platform.
        first: String,
        /// The other.
        second: String,
    },
    /// An entry cannot be written.
    #[error("{path}: writing failed")]
    Write {
        /// The entry in the image.
        path: ImagePath,
        /// Why.
        source: io::Error,
    },
}

/// Writes all files of `tree` below `directory`, which is made where it is absent. All of them get the time `epoch` where
/// there is one. Returns how many devices were left out because only root may make them.
///
/// # Errors
/// When an entry cannot be read or written. What was written before stays.
pub fn write_files(
    tree: &dyn Tree,
    directory: &Path,
    epoch: Option<i64>,
) -> Result<usize, FilesError> {
    fs_err::create_dir_all(directory).map_err(FilesError::Directory)?;
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
    let root = rustix::fs::open(directory, flags, Mode::empty())
        .map_err(|error| FilesError::Directory(error.into()))?;
    let mut writer = Writer {
        tree,
        root: root.try_clone().map_err(FilesError::Directory)?,
        epoch,
        links: HashMap::new(),
        left_out: 0,
    };
    writer.children(&ImagePath::root(), &root)?;
    Ok(writer.left_out)
}

/// As [`write_files`], into a directory that is no part of the image: it holds the files of one platform. It has the time
/// `epoch` in the end, or 0.
///
/// # Errors
/// Those of [`write_files`].
pub(super) fn write_files_below(
    tree: &dyn Tree,
    directory: &Path,
    epoch: Option<i64>,
) -> Result<usize, FilesError> {
    let left_out = write_files(tree, directory, epoch)?;
    let top = rustix::fs::open(
        directory,
        OFlags::DIRECTORY | OFlags::CLOEXEC,
        Mode::empty(),
    );
    let time = Timestamp::from_seconds(epoch.unwrap_or_default());
    top.and_then(|top| {
        rustix::fs::fchmod(&top, Mode::from_raw_mode(TOP_MODE))?;
        rustix::fs::futimens(&top, &times(time))
    })
    .map_err(|error| FilesError::Directory(error.into()))?;
    Ok(left_out)
}

struct Writer<'a> {
    tree: &'a dyn Tree,
    root: OwnedFd,
    epoch: Option<i64>,
    /// The first name of each file with several.
    links: HashMap<FileId, ImagePath>,
    left_out: usize,
}

impl Writer<'_> {
    /// Writes what the image has in `path` into the open directory `into`.
    fn children(&mut self, path: &ImagePath, into: &OwnedFd) -> Result<(), FilesError> {
        for (name, entry) in self.tree.read_dir(path)? {
            let below = path.child(&name);
            let written = self.entry(&below, &name, &entry, into)?;
            written.map_err(|error| match error {
                Errno::ISDIR => FilesError::InTheWay(below),
                error => FilesError::Write {
                    path: below,
                    source: error.into(),
                },
            })?;
        }
        Ok(())
    }

    fn entry(
        &mut self,
        path: &ImagePath,
        name: &OsStr,
        entry: &Entry,
        into: &OwnedFd,
    ) -> Result<Result<(), Errno>, FilesError> {
        if let Some(first) = entry.hard_link.and_then(|id| self.links.get(&id)) {
            let first = first.as_relative();
            return Ok(make_room(into, name).and_then(|()| {
                rustix::fs::linkat(&self.root, first, into, name, AtFlags::empty())
            }));
        }
        let times = self.times(entry.mtime);
        let mode = Mode::from_raw_mode(entry.mode);
        let done = match &entry.kind {
            Kind::Directory => match open_directory(into, name) {
                Ok(opened) => {
                    self.children(path, &opened)?;
                    set_xattrs(&opened, &self.tree.xattrs(path)?);
                    rustix::fs::fchmod(&opened, mode)
                        .and_then(|()| rustix::fs::futimens(&opened, &times))
                }
                Err(error) => Err(error),
            },
            Kind::File => return self.file(path, name, entry, into),
            Kind::Symlink(target) => make_room(into, name)
                .and_then(|()| rustix::fs::symlinkat(target, into, name))
                .and_then(|()| {
                    rustix::fs::utimensat(into, name, &times, AtFlags::SYMLINK_NOFOLLOW)
                }),
            Kind::Fifo => self.node(into, name, FileType::Fifo, None, mode, &times),
            Kind::CharDevice(device) => {
                let kind = FileType::CharacterDevice;
                self.node(into, name, kind, Some(*device), mode, &times)
            }
            Kind::BlockDevice(device) => {
                let kind = FileType::BlockDevice;
                self.node(into, name, kind, Some(*device), mode, &times)
            }
            Kind::Socket | Kind::Whiteout => Ok(()),
        };
        if done.is_ok() {
            self.remember(path, entry);
        }
        Ok(done)
    }

    fn remember(&mut self, path: &ImagePath, entry: &Entry) {
        if let Some(id) = entry.hard_link {
            self.links.insert(id, path.clone());
        }
    }

    fn file(
        &mut self,
        path: &ImagePath,
        name: &OsStr,
        entry: &Entry,
        into: &OwnedFd,
    ) -> Result<Result<(), Errno>, FilesError> {
        let mut content = self.tree.open(path)?;
        let xattrs = self.tree.xattrs(path)?;
        let flags =
            OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let created = make_room(into, name)
            .and_then(|()| rustix::fs::openat(into, name, flags, Mode::RUSR | Mode::WUSR));
        let mut file = match created {
            Ok(file) => File::from(file),
            Err(error) => return Ok(Err(error)),
        };
        let copied = go_on().and_then(|()| io::copy(&mut content, &mut file));
        copied.map_err(|source| FilesError::Write {
            path: path.clone(),
            source,
        })?;
        set_xattrs(&file, &xattrs);
        let done = rustix::fs::fchmod(&file, Mode::from_raw_mode(entry.mode))
            .and_then(|()| rustix::fs::futimens(&file, &self.times(entry.mtime)));
        self.remember(path, entry);
        Ok(done)
    }

    /// Makes a pipe, or a device where this process may.
    fn node(
        &mut self,
        into: &OwnedFd,
        name: &OsStr,
        kind: FileType,
        device: Option<Device>,
        mode: Mode,
        times: &Timestamps,
    ) -> Result<(), Errno> {
        make_room(into, name)?;
        let number = device.map_or(0, |device| rustix::fs::makedev(device.major, device.minor));
        match rustix::fs::mknodat(into, name, kind, Mode::RUSR | Mode::WUSR, number) {
            Err(Errno::PERM) if device.is_some() => {
                self.left_out += 1;
                Ok(())
            }
            Err(error) => Err(error),
            Ok(()) => {
                // The umask has taken bits of what it was made with.
                rustix::fs::chmodat(into, name, mode, AtFlags::empty())?;
                rustix::fs::utimensat(into, name, times, AtFlags::SYMLINK_NOFOLLOW)
            }
        }
    }

    fn times(&self, mtime: Timestamp) -> Timestamps {
        times(self.epoch.map_or(mtime, Timestamp::from_seconds))
    }
}

/// A time of change, as the system takes it.
fn times(mtime: Timestamp) -> Timestamps {
    Timestamps {
        last_access: Timespec {
            tv_sec: 0,
            tv_nsec: UTIME_OMIT,
        },
        last_modification: Timespec {
            tv_sec: mtime.seconds,
            tv_nsec: mtime.nanos.into(),
        },
    }
}

/// Gives an open file or directory its extended attributes, as far as it takes them: not every file system keeps them, and
/// capabilities are root's to give.
fn set_xattrs(file: &impl AsFd, xattrs: &Xattrs) {
    for (name, value) in xattrs {
        let _ = rustix::fs::fsetxattr(file, name, value, XattrFlags::empty());
    }
}

/// Takes away what is there under `name`, unless it is a directory.
fn make_room(into: &impl AsFd, name: &OsStr) -> Result<(), Errno> {
    match rustix::fs::unlinkat(into, name, AtFlags::empty()) {
        Ok(()) | Err(Errno::NOENT) => Ok(()),
        Err(error) => Err(error),
    }
}

/// The directory `name`, made where there is none, open and writable for its owner.
fn open_directory(into: &impl AsFd, name: &OsStr) -> Result<OwnedFd, Errno> {
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let open = || rustix::fs::openat(into, name, flags, Mode::empty());
    match rustix::fs::mkdirat(into, name, Mode::RWXU) {
        Ok(()) => return open(),
        Err(Errno::EXIST) => {}
        Err(error) => return Err(error),
    }
    match open() {
        Ok(opened) => {
            rustix::fs::fchmod(&opened, Mode::RWXU)?;
            Ok(opened)
        }
        Err(Errno::NOTDIR | Errno::LOOP) => {
            make_room(into, name)?;
            rustix::fs::mkdirat(into, name, Mode::RWXU)?;
            open()
        }
        Err(error) => Err(error),
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::{MetadataExt, PermissionsExt};

    use super::*;
    use crate::fixture::{all_owners, snapshot};

    #[test]
    fn files_are_written_as_the_image_has_them() {
        for owners in all_owners() {
            let directory = tempfile::tempdir().unwrap();
            let tree = snapshot(
                &[
                    "/etc/; 600 5:7 /etc/secret = x; /gone = 1; /usr/bin/tool = tool; /usr/bin/other == /usr/bin/tool; 555 /locked/; /locked/a = a",
                    "/gone whiteout; /bin -> usr/bin; 666 /pipe fifo",
                ],
                directory.path(),
                owners,
            );
            let out = directory.path().join("out");
            // The second time it meets what the first has left.
            for _ in 0..2 {
                assert_eq!(write_files(&tree, &out, None).unwrap(), 0);
                let at = |name: &str| fs_err::symlink_metadata(out.join(name)).unwrap();
                let owner = fs_err::metadata(&out).unwrap().uid();
                assert_eq!(
                    (at("etc/secret").mode() & 0o7777, at("etc/secret").uid()),
                    (0o600, owner)
                );
                assert_eq!(at("etc/secret").mtime(), 1_000_000);
                assert_eq!(at("locked").permissions().mode() & 0o7777, 0o555);
                assert_eq!(
                    (at("pipe").permissions().mode() & 0o7777, at("pipe").mtime()),
                    (0o666, 1_000_000)
                );
                assert_eq!(
                    fs_err::read_link(out.join("bin")).unwrap(),
                    Path::new("usr/bin")
                );
                assert_eq!(fs_err::read(out.join("bin/other")).unwrap(), b"tool");
                assert_eq!(at("usr/bin/other").ino(), at("usr/bin/tool").ino());
                assert!(!out.join("gone").exists());
            }
            // An epoch is the time of everything, also of what is older.
            for epoch in [7, 2_000_000] {
                write_files(&tree, &out, Some(epoch)).unwrap();
                for name in ["etc", "usr/bin/tool", "bin", "pipe"] {
                    let found = fs_err::symlink_metadata(out.join(name)).unwrap();
                    assert_eq!(found.mtime(), epoch, "{name}");
                }
            }
        }
    }

    #[test]
    fn links_that_are_there_lead_nowhere() {
        let directory = tempfile::tempdir().unwrap();
        let path = |name: &str| directory.path().join(name);
        let owners = all_owners()[0];
        let tree = snapshot(
            &["/etc/passwd = image; /file = image"],
            directory.path(),
            owners,
        );
        fs_err::create_dir_all(path("victim")).unwrap();
        fs_err::write(path("victim/passwd"), "mine").unwrap();
        fs_err::create_dir_all(path("out")).unwrap();
        std::os::unix::fs::symlink(path("victim"), path("out/etc")).unwrap();
        std::os::unix::fs::symlink(path("victim/passwd"), path("out/file")).unwrap();
        write_files(&tree, &path("out"), None).unwrap();
        assert_eq!(fs_err::read(path("victim/passwd")).unwrap(), b"mine");
        assert_eq!(fs_err::read(path("out/etc/passwd")).unwrap(), b"image");
        fs_err::remove_file(path("out/file")).unwrap();
        fs_err::create_dir(path("out/file")).unwrap();
        let error = write_files(&tree, &path("out"), None).unwrap_err();
        assert!(matches!(error, FilesError::InTheWay(_)), "{error}");
    }
}
