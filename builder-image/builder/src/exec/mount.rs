//! overlayfs: the layers of a snapshot and an upper directory seen as one tree. Paths are given to the kernel as short
//! names relative to a directory of links, because it reads at most a page of options: so 500 layers fit.

use std::{
    io,
    os::unix::fs::symlink,
    path::{Path, PathBuf},
};

use rustix::mount::{MountFlags, UnmountFlags, mount, unmount};

/// More layers than this the kernel refuses (`OVL_MAX_STACK`).
pub(super) const MAX_LOWERS: usize = 500;

/// An overlay that is about to be mounted, described by directories.
pub(super) struct Overlay<'a> {
    /// The layers, the lowest first.
    pub(super) lowers: &'a [PathBuf],
    /// Takes the changes; nothing can be written where absent, and at least two layers are needed.
    pub(super) upper: Option<&'a Path>,
    /// A directory of ours on the file system of `upper`: it gets the links, the kernel's work directory, and `rootfs`, where
    /// the overlay is mounted.
    pub(super) scratch: &'a Path,
}

impl Overlay<'_> {
    /// Where the overlay is mounted.
    pub(super) fn target(&self) -> PathBuf {
        self.scratch.join("rootfs")
    }

    /// Makes links and directories.
    pub(super) fn prepare(&self) -> io::Result<()> {
        if self.lowers.len() > MAX_LOWERS {
            return Err(io::Error::other(format!(
                "{} layers are more than overlayfs takes ({MAX_LOWERS})",
                self.lowers.len()
            )));
        }
        for name in ["l", "work", "rootfs"] {
            fs_err::create_dir_all(self.scratch.join(name))?;
        }
        for (index, lower) in self.lowers.iter().enumerate() {
            symlink(
                std::path::absolute(lower)?,
                self.scratch.join("l").join(short(index)),
            )?;
        }
        match self.upper {
            Some(upper) => symlink(std::path::absolute(upper)?, self.scratch.join("l/U")),
            None => Ok(()),
        }
    }

    /// Mounts it. Changes the working directory of the calling thread, which must have one of its own.
    pub(super) fn mount(&self) -> io::Result<()> {
        rustix::process::chdir(self.scratch.join("l"))?;
        let options = options(self.lowers.len(), self.upper.is_some());
        mount(
            "overlay",
            "../rootfs",
            "overlay",
            MountFlags::empty(),
            Some(options.as_c_str()),
        )?;
        Ok(())
    }
}

/// The name of the link to layer number `index`: at most two characters for 500 layers.
fn short(index: usize) -> String {
    const DIGITS: &[u8; 36] = b"0123456789abcdefghijklmnopqrstuvwxyz";
    let digit = |value: usize| char::from(DIGITS[value % DIGITS.len()]);
    if index < DIGITS.len() {
        digit(index).to_string()
    } else {
        // 36 + 36 * 36 names are more than the kernel takes.
        let rest = index - DIGITS.len();
        format!("{}{}", digit(rest / DIGITS.len()), digit(rest))
    }
}

/// The options for `count` layers. The kernel wants the topmost first. `userxattr` because trusted attributes are not
/// to be had in a user namespace, `volatile` because an upper directory outlives no crash anyway.
fn options(count: usize, writable: bool) -> std::ffi::CString {
    let lowers: Vec<String> = (0..count).rev().map(short).collect();
    let upper = if writable {
        ",upperdir=U,workdir=../work,volatile"
    } else {
        ""
    };
    let text = format!("lowerdir={}{upper},userxattr", lowers.join(":"));
    std::ffi::CString::new(text).expect("the names have no zero byte")
}

/// Mounts a small overlay below `workspace` and tries on it what RUN will do: add, remove, mark opaque.
pub(super) fn try_overlay(workspace: &Path) -> io::Result<()> {
    let scratch = tempfile::Builder::new()
        .prefix("probe-")
        .tempdir_in(workspace)?;
    let (lower, upper) = (scratch.path().join("lower"), scratch.path().join("upper"));
    for path in [&lower, &upper, &lower.join("directory")] {
        fs_err::create_dir(path)?;
    }
    fs_err::write(lower.join("file"), "")?;
    let lowers = [lower];
    let overlay = Overlay {
        lowers: &lowers,
        upper: Some(&upper),
        scratch: scratch.path(),
    };
    overlay.prepare()?;
    let back = std::env::current_dir();
    let mounted = overlay.mount();
    if let Ok(back) = back {
        rustix::process::chdir(back)?;
    }
    mounted?;
    let root = overlay.target();
    let tried = fs_err::remove_file(root.join("file"))
        .and_then(|()| fs_err::remove_dir(root.join("directory")))
        .and_then(|()| fs_err::create_dir(root.join("directory")));
    unmount(&root, UnmountFlags::DETACH)?;
    tried
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use super::*;

    #[test]
    fn names_are_short_and_distinct_and_options_fit_a_page() {
        let names: HashSet<String> = (0..MAX_LOWERS).map(short).collect();
        assert_eq!(names.len(), MAX_LOWERS);
        assert!(names.iter().all(|name| name.len() <= 2));
        assert!(options(MAX_LOWERS, true).as_bytes().len() < 4096);
    }

    #[test]
    fn the_topmost_layer_comes_first() {
        assert_eq!(
            options(3, true).to_str(),
            Ok("lowerdir=2:1:0,upperdir=U,workdir=../work,volatile,userxattr")
        );
        assert_eq!(options(2, false).to_str(), Ok("lowerdir=1:0,userxattr"));
    }
}
