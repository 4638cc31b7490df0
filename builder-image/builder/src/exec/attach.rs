//! What a process sees besides its root, made ready before the runtime starts: trees of layers, directories that others
//! may be changing, secrets. Each is opened once, beneath its own root, and then mounted at a place that only the thread
//! of the process can see; the runtime shows that place, so no path is followed twice.

use std::io::{self, Write};
use std::os::fd::AsFd;
use std::os::unix::fs::{PermissionsExt, fchown};
use std::path::{Path, PathBuf};

use rustix::fs::{FileType, Mode, OFlags, ResolveFlags, fstat, open, openat2};
use rustix::io::Errno;
use rustix::mount::{MountFlags, MoveMountFlags, OpenTreeFlags, mount, move_mount, open_tree};

use super::{ExecError, mount::Overlay};

/// Where the private file system of a process is, in its scratch directory.
const PRIVATE: &str = "private";

/// Something that is made ready at [`attached`].
#[derive(Clone, Debug)]
pub enum Attachment {
    /// A path in a stack of layers. Writing needs `upper`, an empty directory on the file system of the scratch directory.
    Layers {
        /// The layers as directories, the lowest first.
        lowers: Vec<PathBuf>,
        /// Takes the changes.
        upper: Option<PathBuf>,
        /// The path in them, absolute; links are followed, but not out of the tree.
        path: String,
    },
    /// A path in a directory.
    Directory {
        /// The directory.
        directory: PathBuf,
        /// The path in it, absolute; links are followed, but not out of the directory.
        path: String,
    },
    /// A file that never gets onto a disk.
    Secret {
        /// What it holds.
        content: crate::secret::Secret,
        /// Permission bits.
        mode: u32,
        /// User and group.
        owner: (u32, u32),
    },
}

/// Where attachment number `index` is seen by the runtime.
pub fn attached(scratch: &Path, index: usize) -> PathBuf {
    scratch.join(PRIVATE).join(index.to_string())
}

/// The file system in memory that nobody but the process's own thread and its runtime sees: configuration, state and
/// secrets live there and go with the mount namespace.
pub(super) struct Private(PathBuf);

impl Private {
    /// Mounts it in `scratch`, in the mount namespace of the calling thread.
    pub(super) fn mount(scratch: &Path) -> io::Result<Self> {
        let path = scratch.join(PRIVATE);
        fs_err::create_dir(&path)?;
        let flags = MountFlags::NOSUID | MountFlags::NODEV | MountFlags::NOEXEC;
        mount("tmpfs", &path, "tmpfs", flags, Some(c"mode=0700"))?;
        Ok(Self(path))
    }

    /// The path of `name` in it.
    pub(super) fn path(&self, name: &str) -> PathBuf {
        self.0.join(name)
    }
}

/// Makes an attachment ready. Changes the working directory of the calling thread.
pub(super) fn attach(
    scratch: &Path,
    index: usize,
    attachment: &Attachment,
) -> Result<(), ExecError> {
    let system = ExecError::system("making a mount of the step ready");
    let at = attached(scratch, index);
    match attachment {
        Attachment::Secret {
            content,
            mode,
            owner,
        } => {
            // Its directory is open to nobody else.
            let mut file = fs_err::OpenOptions::new()
                .write(true)
                .create_new(true)
                .open(&at)
                .map_err(&system)?;
            file.write_all(content.bytes()).map_err(&system)?;
            fchown(&file, Some(owner.0), Some(owner.1)).map_err(&system)?;
            fs_err::set_permissions(&at, PermissionsExt::from_mode(*mode)).map_err(&system)
        }
        Attachment::Directory { directory, path } => show(directory, path, &at),
        Attachment::Layers {
            lowers,
            upper,
            path,
        } => {
            let place = scratch.join("trees").join(index.to_string());
            let nothing = place.join("nothing");
            fs_err::create_dir_all(&nothing).map_err(&system)?;
            if lowers.is_empty() && upper.is_none() {
                return show(&nothing, path, &at);
            }
            // overlayfs wants two layers where nothing can be written.
            let lowers: Vec<_> = std::iter::once(nothing).chain(lowers.clone()).collect();
            let overlay = Overlay {
                lowers: &lowers,
                upper: upper.as_deref(),
                scratch: &place,
            };
            overlay.prepare().map_err(&system)?;
            overlay.mount().map_err(ExecError::system(
                "mounting the files of a mount of the step",
            ))?;
            show(&overlay.target(), path, &at)
        }
    }
}

/// Mounts what `path` is in the tree at `root` at the new place `at`.
fn show(root: &Path, path: &str, at: &Path) -> Result<(), ExecError> {
    let system = |errno: Errno| ExecError::system("making a mount of the step ready")(errno.into());
    let flags = OFlags::PATH | OFlags::CLOEXEC;
    let top = open(root, flags | OFlags::DIRECTORY, Mode::empty()).map_err(system)?;
    let confined = ResolveFlags::IN_ROOT | ResolveFlags::NO_MAGICLINKS;
    let found = loop {
        match openat2(&top, path, flags, Mode::empty(), confined) {
            Ok(found) => break found,
            Err(Errno::AGAIN | Errno::INTR) => {}
            Err(errno @ (Errno::NOENT | Errno::NOTDIR | Errno::LOOP)) => {
                return Err(ExecError::MountSource {
                    path: path.to_owned(),
                    source: errno.into(),
                });
            }
            Err(errno) => return Err(system(errno)),
        }
    };
    let directory =
        FileType::from_raw_mode(fstat(&found).map_err(system)?.st_mode) == FileType::Directory;
    let made = if directory {
        fs_err::create_dir(at)
    } else {
        fs_err::write(at, "")
    };
    made.map_err(ExecError::system("making a mount of the step ready"))?;
    let clone = OpenTreeFlags::OPEN_TREE_CLONE
        | OpenTreeFlags::OPEN_TREE_CLOEXEC
        | OpenTreeFlags::AT_EMPTY_PATH;
    let tree = open_tree(&found, "", clone).map_err(system)?;
    let to = MoveMountFlags::MOVE_MOUNT_F_EMPTY_PATH;
    move_mount(tree.as_fd(), "", rustix::fs::CWD, at, to).map_err(system)
}
