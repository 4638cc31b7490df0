//! Access to one directory tree on disk that cannot leave it: every path is opened beneath the root and through no
//! symbolic link (`openat2` with `RESOLVE_BENEATH` and `RESOLVE_NO_SYMLINKS`), so a link planted in the tree is inert.

use std::{
    ffi::{OsStr, OsString},
    fs::File,
    io,
    os::{
        fd::{AsFd, AsRawFd, OwnedFd},
        unix::ffi::{OsStrExt, OsStringExt},
    },
    path::{Path, PathBuf},
};

use rustix::{
    fs::{
        AtFlags, Dir, FileType, Mode, OFlags, ResolveFlags, Stat, Timespec, Timestamps, UTIME_OMIT,
    },
    io::Errno,
};

use super::OPAQUE_XATTR;
use crate::tree::{Device, Entry, FileId, ImagePath, Kind, Timestamp, Xattrs, is_image_xattr};

const CONFINED: ResolveFlags = ResolveFlags::BENEATH
    .union(ResolveFlags::NO_SYMLINKS)
    .union(ResolveFlags::NO_MAGICLINKS);

/// What a file on disk was when somebody looked: another content has another stamp, unless it was written in the same instant
/// of the file system's clock.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Stamp {
    /// The file system.
    pub(crate) device: u64,
    /// The file.
    pub(crate) inode: u64,
    /// Bytes.
    pub(crate) size: u64,
    /// When its status was last changed, which writing does, too; in nanoseconds since 1970.
    pub(crate) changed: i64,
}

/// An open directory on disk, the root of a tree.
#[derive(Debug)]
pub(crate) struct Root(OwnedFd);

impl Root {
    /// Opens the directory `path` of the host; the path itself is trusted.
    pub(crate) fn open(path: &Path) -> io::Result<Self> {
        let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
        Ok(Self(rustix::fs::open(path, flags, Mode::empty())?))
    }

    fn open_at(&self, path: &ImagePath, flags: OFlags) -> Result<OwnedFd, Errno> {
        let flags = flags | OFlags::CLOEXEC | OFlags::NOFOLLOW;
        loop {
            match rustix::fs::openat2(&self.0, path.as_relative(), flags, Mode::empty(), CONFINED) {
                Err(Errno::AGAIN | Errno::INTR) => {}
                answer => return answer,
            }
        }
    }

    /// The directory `path`, to be used as the start of `*at` calls.
    pub(crate) fn directory(&self, path: &ImagePath) -> io::Result<OwnedFd> {
        Ok(self.open_at(path, OFlags::PATH | OFlags::DIRECTORY)?)
    }

    /// The regular file `path` for reading.
    pub(crate) fn file(&self, path: &ImagePath) -> io::Result<File> {
        // Without O_NONBLOCK, opening a pipe waits for its writer.
        let file = File::from(self.open_at(path, OFlags::RDONLY | OFlags::NONBLOCK)?);
        if !file.metadata()?.is_file() {
            return Err(io::Error::new(
                io::ErrorKind::InvalidInput,
                "not a regular file",
            ));
        }
        Ok(file)
    }

    /// The stamp of the root, and the number of its kind of file system.
    pub(crate) fn stamp(&self) -> io::Result<(Stamp, u64)> {
        let stat = rustix::fs::statat(&self.0, "", AtFlags::EMPTY_PATH)?;
        Ok((stamp_of(&stat), kind_of(&rustix::fs::fstatfs(&self.0)?)))
    }

    /// What the disk has at `path`; `None` if nothing, or if something above is no directory.
    pub(crate) fn entry(&self, path: &ImagePath) -> io::Result<Option<Entry>> {
        Ok(self.stamped_entry(path)?.map(|(entry, _)| entry))
    }

    /// [`Self::entry`], with what it was when it was looked at.
    pub(crate) fn stamped_entry(&self, path: &ImagePath) -> io::Result<Option<(Entry, Stamp)>> {
        let Some(parent) = path.parent() else {
            let stat = rustix::fs::statat(&self.0, "", AtFlags::EMPTY_PATH)?;
            return Ok(Some((entry_of(&stat, Kind::Directory), stamp_of(&stat))));
        };
        let name = path.name().unwrap_or_default();
        match self.open_at(&parent, OFlags::PATH | OFlags::DIRECTORY) {
            Ok(parent) => stamped_entry_at(&parent, name),
            Err(Errno::NOENT | Errno::NOTDIR | Errno::LOOP) => Ok(None),
            Err(error) => Err(error.into()),
        }
    }

    /// The entries of the directory `path`, sorted by name; `None` if it is none.
    pub(crate) fn entries(&self, path: &ImagePath) -> io::Result<Option<Vec<(OsString, Entry)>>> {
        let entries = self.stamped_entries(path)?;
        let plain = |(name, entry, _)| (name, entry);
        Ok(entries.map(|entries| entries.into_iter().map(plain).collect()))
    }

    /// [`Self::entries`], with what each was when it was looked at.
    pub(crate) fn stamped_entries(
        &self,
        path: &ImagePath,
    ) -> io::Result<Option<Vec<(OsString, Entry, Stamp)>>> {
        let directory = match self.open_at(path, OFlags::RDONLY | OFlags::DIRECTORY) {
            Ok(directory) => directory,
            Err(Errno::NOENT | Errno::NOTDIR | Errno::LOOP) => return Ok(None),
            Err(error) => return Err(error.into()),
        };
        let mut names = Vec::new();
        for found in Dir::read_from(&directory)? {
            let name = OsString::from_vec(found?.file_name().to_bytes().to_vec());
            if name != "." && name != ".." {
                names.push(name);
            }
        }
        names.sort_unstable();
        let mut entries = Vec::with_capacity(names.len());
        for name in names {
            if let Some((entry, stamp)) = stamped_entry_at(&directory, &name)? {
                entries.push((name, entry, stamp));
            }
        }
        Ok(Some(entries))
    }

    /// The names in the directory `path`, sorted; `None` where there are more than `most`.
    pub(crate) fn names(&self, path: &ImagePath, most: usize) -> io::Result<Option<Vec<OsString>>> {
        let directory = self.open_at(path, OFlags::RDONLY | OFlags::DIRECTORY)?;
        let mut names = Vec::new();
        for found in Dir::read_from(&directory)? {
            let name = OsString::from_vec(found?.file_name().to_bytes().to_vec());
            if name == "." || name == ".." {
                continue;
            }
            if names.len() == most {
                return Ok(None);
            }
            names.push(name);
        }
        names.sort_unstable();
        Ok(Some(names))
    }

    /// Whether the directory `path` carries overlayfs's mark of an opaque directory.
    pub(crate) fn is_opaque(&self, path: &ImagePath) -> io::Result<bool> {
        let directory = self.open_at(path, OFlags::RDONLY | OFlags::DIRECTORY)?;
        let mut value = [0_u8; 4];
        match rustix::fs::fgetxattr(&directory, OPAQUE_XATTR, &mut value) {
            Ok(length) => Ok(&value[..length] == b"y"),
            Err(Errno::NODATA | Errno::NOTSUP | Errno::RANGE) => Ok(false),
            Err(error) => Err(error.into()),
        }
    }

    /// Removes `path`: an empty directory, or anything else.
    pub(crate) fn remove(&self, path: &ImagePath, directory: bool) -> io::Result<()> {
        let (Some(parent), Some(name)) = (path.parent(), path.name()) else {
            return Err(Errno::BUSY.into());
        };
        let parent = self.directory(&parent)?;
        let flags = if directory {
            AtFlags::REMOVEDIR
        } else {
            AtFlags::empty()
        };
        Ok(rustix::fs::unlinkat(parent, name, flags)?)
    }

    /// Makes a whiteout at `path`, where nothing is.
    pub(crate) fn whiteout(&self, path: &ImagePath) -> io::Result<()> {
        let (Some(parent), Some(name)) = (path.parent(), path.name()) else {
            return Err(Errno::BUSY.into());
        };
        let parent = self.directory(&parent)?;
        let (kind, mode) = (FileType::CharacterDevice, Mode::empty());
        Ok(rustix::fs::mknodat(parent, name, kind, mode, 0)?)
    }

    /// Takes overlayfs's mark of an opaque directory from the directory `path`.
    pub(crate) fn clear_opaque(&self, path: &ImagePath) -> io::Result<()> {
        let directory = self.open_at(path, OFlags::RDONLY | OFlags::DIRECTORY)?;
        Ok(rustix::fs::fremovexattr(directory, OPAQUE_XATTR)?)
    }

    /// Sets the time of the last change of the directory `path`.
    pub(crate) fn set_directory_mtime(&self, path: &ImagePath, mtime: Timestamp) -> io::Result<()> {
        let opened = self.directory(path)?;
        let through = path_through(&opened, OsStr::new("."));
        Ok(rustix::fs::utimensat(
            rustix::fs::CWD,
            through,
            &times(mtime),
            AtFlags::empty(),
        )?)
    }

    /// The extended attributes of the file or directory `path` that an image records.
    pub(crate) fn xattrs(&self, path: &ImagePath) -> io::Result<Xattrs> {
        xattrs_of(&self.open_at(path, OFlags::RDONLY | OFlags::NONBLOCK)?)
    }
}

/// The extended attributes of the open `file` that an image records.
pub(crate) fn xattrs_of(file: &impl AsFd) -> io::Result<Xattrs> {
    let mut names = [0_u8; 1024];
    let long;
    let names = match rustix::fs::flistxattr(file, &mut names) {
        Ok(length) => &names[..length],
        Err(Errno::NOTSUP) => return Ok(Xattrs::new()),
        Err(Errno::RANGE) => {
            long = long_list(file)?;
            &long[..]
        }
        Err(error) => return Err(error.into()),
    };
    let mut xattrs = Xattrs::new();
    for name in names.split(|&byte| byte == 0) {
        let Ok(name) = std::str::from_utf8(name) else {
            continue;
        };
        if is_image_xattr(name) {
            xattrs.insert(name.to_owned(), xattr(file, name)?);
        }
    }
    Ok(xattrs)
}

/// The names of the extended attributes of `file`, where they are many.
fn long_list(file: &impl AsFd) -> io::Result<Vec<u8>> {
    let mut names = vec![0; 8192];
    loop {
        match rustix::fs::flistxattr(file, &mut names) {
            Ok(length) => {
                names.truncate(length);
                return Ok(names);
            }
            Err(Errno::RANGE) => names.resize(names.len() * 4, 0),
            Err(error) => return Err(error.into()),
        }
    }
}

/// The stamp of an open file.
pub(crate) fn stamp_of_file(file: &impl AsFd) -> io::Result<Stamp> {
    Ok(stamp_of(&rustix::fs::fstat(file)?))
}

#[expect(
    clippy::unnecessary_cast,
    reason = "the fields of stat differ in type from machine to machine"
)]
#[expect(clippy::cast_sign_loss, reason = "sizes are not negative")]
#[expect(
    clippy::cast_possible_wrap,
    reason = "nanoseconds of a second are a small number"
)]
fn stamp_of(stat: &Stat) -> Stamp {
    let seconds = (stat.st_ctime as i64).saturating_mul(1_000_000_000);
    Stamp {
        device: stat.st_dev as u64,
        inode: stat.st_ino as u64,
        size: stat.st_size as u64,
        changed: seconds.saturating_add(stat.st_ctime_nsec as i64),
    }
}

#[expect(clippy::cast_sign_loss, reason = "it is a number of bits")]
fn kind_of(stat: &rustix::fs::StatFs) -> u64 {
    stat.f_type as u64
}

/// The times of a file whose content was last changed at `mtime`.
pub(super) fn times(mtime: Timestamp) -> Timestamps {
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

/// The value of one extended attribute.
fn xattr(file: &impl AsFd, name: &str) -> io::Result<Vec<u8>> {
    let mut value = vec![0_u8; 256];
    loop {
        match rustix::fs::fgetxattr(file, name, &mut value) {
            Ok(length) => {
                value.truncate(length);
                return Ok(value);
            }
            Err(Errno::RANGE) => value.resize(value.len() * 8, 0),
            Err(error) => return Err(error.into()),
        }
    }
}

/// What the open directory `parent` has under `name`.
pub(super) fn entry_at(parent: &OwnedFd, name: &OsStr) -> io::Result<Option<Entry>> {
    Ok(stamped_entry_at(parent, name)?.map(|(entry, _)| entry))
}

fn stamped_entry_at(parent: &OwnedFd, name: &OsStr) -> io::Result<Option<(Entry, Stamp)>> {
    let stat = match rustix::fs::statat(parent, name, AtFlags::SYMLINK_NOFOLLOW) {
        Ok(stat) => stat,
        Err(Errno::NOENT | Errno::NOTDIR) => return Ok(None),
        Err(error) => return Err(error.into()),
    };
    let device = Device {
        major: rustix::fs::major(stat.st_rdev),
        minor: rustix::fs::minor(stat.st_rdev),
    };
    let kind = match FileType::from_raw_mode(stat.st_mode) {
        FileType::Directory => Kind::Directory,
        FileType::Symlink => {
            let target = rustix::fs::readlinkat(parent, name, Vec::new())?;
            Kind::Symlink(OsString::from_vec(target.into_bytes()))
        }
        FileType::Fifo => Kind::Fifo,
        FileType::Socket => Kind::Socket,
        FileType::CharacterDevice if device == (Device { major: 0, minor: 0 }) => Kind::Whiteout,
        FileType::CharacterDevice => Kind::CharDevice(device),
        FileType::BlockDevice => Kind::BlockDevice(device),
        _ => Kind::File,
    };
    Ok(Some((entry_of(&stat, kind), stamp_of(&stat))))
}

#[expect(
    clippy::unnecessary_cast,
    reason = "the fields of stat differ in type from machine to machine"
)]
#[expect(
    clippy::cast_sign_loss,
    reason = "sizes and nanoseconds are not negative"
)]
#[expect(
    clippy::cast_possible_truncation,
    reason = "nanoseconds fit in 32 bits"
)]
fn entry_of(stat: &Stat, kind: Kind) -> Entry {
    Entry {
        mode: stat.st_mode & 0o7777,
        uid: stat.st_uid,
        gid: stat.st_gid,
        mtime: Timestamp {
            seconds: stat.st_mtime as i64,
            nanos: stat.st_mtime_nsec as u32,
        },
        size: if kind == Kind::File {
            stat.st_size as u64
        } else {
            0
        },
        hard_link: (!kind.is_directory() && stat.st_nlink > 1).then_some(FileId {
            device: stat.st_dev as u64,
            inode: stat.st_ino as u64,
        }),
        kind,
    }
}

/// A path by which the kernel reaches `name` in the open directory `parent` without following a link in between: for
/// the few calls that take no directory.
pub(super) fn path_through(parent: &impl AsFd, name: &OsStr) -> PathBuf {
    let mut path = format!("/proc/self/fd/{}/", parent.as_fd().as_raw_fd()).into_bytes();
    path.extend_from_slice(name.as_bytes());
    OsString::from_vec(path).into()
}
