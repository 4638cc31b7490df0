//! The mounted root of a step before its process begins: which mount points it lacks, and its working directory. Every
//! path is opened beneath the root, without following links out of it.

use std::{io, path::Path};

use rustix::{
    fd::OwnedFd,
    fs::{
        AtFlags, FileType, Gid, Mode, OFlags, ResolveFlags, Stat, Timespec, Timestamps, Uid,
        chownat, fstat, mkdirat, open, openat2, statat, unlinkat, utimensat,
    },
    io::Errno,
};

use super::{Container, ExecError, Identity, Mount};

/// What the engine mounts on besides the binds of a container.
const MOUNT_POINTS: [&str; 3] = ["proc", "dev", "sys"];

/// The root directory, opened.
pub(super) struct Root {
    directory: OwnedFd,
}

/// Mount points that the image lacks although a layer below should have provided them: because a layer above removed
/// them. The runtime makes them, and they must not stay in the upper directory.
#[derive(Debug, Default)]
pub(super) struct Stubs {
    missing: Vec<Missing>,
}

#[derive(Debug)]
struct Missing {
    /// Relative, with no link on the way.
    path: String,
    parent_times: Timestamps,
}

impl Root {
    /// Opens the root at `path`.
    pub(super) fn open(path: &Path) -> io::Result<Self> {
        let directory = open(
            path,
            OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC,
            Mode::empty(),
        )?;
        Ok(Self { directory })
    }

    /// Opens `path` without following any link; `None` when it is absent.
    fn find(&self, path: &str, flags: OFlags) -> Result<Option<OwnedFd>, Errno> {
        match open_beneath(&self.directory, path, flags) {
            Ok(found) => Ok(Some(found)),
            Err(Errno::NOENT) => Ok(None),
            Err(errno) => Err(errno),
        }
    }

    /// Finds the mount points that are absent.
    ///
    /// # Errors
    /// When `/proc`, `/dev` or `/sys` of the image are no directories: what is mounted there must not be led elsewhere.
    pub(super) fn missing_mount_points(&self, container: &Container) -> Result<Stubs, ExecError> {
        let mut stubs = Stubs::default();
        for path in MOUNT_POINTS {
            match self.find(path, OFlags::PATH | OFlags::DIRECTORY) {
                Ok(Some(_)) => {}
                Ok(None) => stubs.note(self, path)?,
                Err(_) => {
                    return Err(ExecError::MountPoint {
                        path: format!("/{path}"),
                    });
                }
            }
        }
        for (index, mount) in container.mounts.iter().enumerate() {
            let path = mount.destination.trim_start_matches('/');
            let covered = |above: &Mount| above.covers(&mount.destination);
            if path.starts_with("dev/") || container.mounts[..index].iter().any(covered) {
                continue;
            }
            match self.find(path, OFlags::PATH) {
                // A link at the end is opened itself, and would lead the runtime on.
                Ok(Some(found)) if !is_link(&found) => {}
                Ok(None) => stubs.note(self, path)?,
                Ok(Some(_)) | Err(_) => {
                    return Err(ExecError::MountPoint {
                        path: mount.destination.clone(),
                    });
                }
            }
        }
        Ok(stubs)
    }

    /// Makes the working directory when it is absent, for the user of the step, as BuildKit does.
    pub(super) fn ensure_working_directory(
        &self,
        cwd: &str,
        identity: &Identity,
    ) -> Result<(), ExecError> {
        let path = cwd.trim_start_matches('/');
        if path.is_empty() || path == "dev" || path.starts_with("dev/") {
            return Ok(());
        }
        let refuse = |problem| ExecError::WorkingDirectory {
            path: cwd.to_owned(),
            problem,
        };
        let system = |errno: Errno| {
            ExecError::system("making the working directory of the step")(errno.into())
        };
        match self.find(path, OFlags::PATH | OFlags::DIRECTORY) {
            Ok(Some(_)) => return Ok(()),
            Ok(None) => {}
            Err(Errno::NOTDIR | Errno::LOOP) => return Err(refuse("not a directory")),
            Err(errno) => return Err(system(errno)),
        }
        let mut at = String::new();
        for part in path.split('/').filter(|part| !part.is_empty()) {
            let parent = self.find(
                if at.is_empty() { "." } else { &at },
                OFlags::PATH | OFlags::DIRECTORY,
            );
            let parent = parent
                .map_err(system)?
                .ok_or_else(|| refuse("not a directory"))?;
            match mkdirat(&parent, part, Mode::from_raw_mode(0o755)) {
                Ok(()) => chownat(
                    &parent,
                    part,
                    Some(Uid::from_raw(identity.uid)),
                    Some(Gid::from_raw(identity.gid)),
                    AtFlags::SYMLINK_NOFOLLOW,
                )
                .map_err(system)?,
                Err(Errno::EXIST) => {}
                Err(errno) => return Err(system(errno)),
            }
            if !at.is_empty() {
                at.push('/');
            }
            at.push_str(part);
        }
        Ok(())
    }
}

impl Stubs {
    fn note(&mut self, root: &Root, path: &str) -> Result<(), ExecError> {
        let system =
            |errno: Errno| ExecError::system("looking at a mount point of the step")(errno.into());
        // Every directory that the runtime will have to make, the uppermost first.
        let mut ends: Vec<usize> = path.match_indices('/').map(|(at, _)| at).collect();
        ends.push(path.len());
        for end in ends {
            let part = &path[..end];
            if self.missing.iter().any(|missing| missing.path == part)
                || root.find(part, OFlags::PATH).map_err(system)?.is_some()
            {
                continue;
            }
            let parent = part.rsplit_once('/').map_or(".", |(parent, _)| parent);
            let parent_times = match root.find(parent, OFlags::PATH).map_err(system)? {
                Some(parent) => times(&fstat(&parent).map_err(system)?),
                // The parent is made by the runtime too and goes with it.
                None => Timestamps {
                    last_access: Timespec {
                        tv_sec: 0,
                        tv_nsec: 0,
                    },
                    last_modification: Timespec {
                        tv_sec: 0,
                        tv_nsec: 0,
                    },
                },
            };
            self.missing.push(Missing {
                path: part.to_owned(),
                parent_times,
            });
        }
        Ok(())
    }

    /// Removes from `upper` what the runtime made, as far as it is empty, and restores the times of the parents.
    pub(super) fn remove_from(&self, upper: &Path) -> io::Result<()> {
        if self.missing.is_empty() {
            return Ok(());
        }
        let upper = open(
            upper,
            OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC,
            Mode::empty(),
        )?;
        for missing in self.missing.iter().rev() {
            let (parent, name) = missing
                .path
                .rsplit_once('/')
                .unwrap_or((".", &missing.path));
            let Ok(parent) = open_beneath(&upper, parent, OFlags::RDONLY | OFlags::DIRECTORY)
            else {
                continue;
            };
            let Ok(stat) = statat(&parent, name, AtFlags::SYMLINK_NOFOLLOW) else {
                continue;
            };
            let removed = match FileType::from_raw_mode(stat.st_mode) {
                FileType::Directory => unlinkat(&parent, name, AtFlags::REMOVEDIR),
                FileType::RegularFile if stat.st_size == 0 => {
                    unlinkat(&parent, name, AtFlags::empty())
                }
                _ => continue,
            };
            match removed {
                Ok(()) => utimensat(&parent, ".", &missing.parent_times, AtFlags::empty())?,
                Err(Errno::NOTEMPTY | Errno::EXIST | Errno::NOENT) => {}
                Err(errno) => return Err(errno.into()),
            }
        }
        Ok(())
    }
}

fn is_link(file: &OwnedFd) -> bool {
    fstat(file).map_or(true, |stat| {
        FileType::from_raw_mode(stat.st_mode) == FileType::Symlink
    })
}

fn times(stat: &Stat) -> Timestamps {
    let time = |seconds: i64, nanoseconds| Timespec {
        tv_sec: seconds,
        tv_nsec: nanoseconds,
    };
    #[expect(clippy::cast_possible_wrap, reason = "nanoseconds are below 10^9")]
    Timestamps {
        last_access: time(stat.st_atime, stat.st_atime_nsec as i64),
        last_modification: time(stat.st_mtime, stat.st_mtime_nsec as i64),
    }
}

fn open_beneath(directory: &OwnedFd, path: &str, flags: OFlags) -> Result<OwnedFd, Errno> {
    openat2(
        directory,
        path,
        flags | OFlags::CLOEXEC | OFlags::NOFOLLOW,
        Mode::empty(),
        ResolveFlags::BENEATH | ResolveFlags::NO_SYMLINKS | ResolveFlags::NO_MAGICLINKS,
    )
}
