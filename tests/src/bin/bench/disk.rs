//! A file system of its own for each workload: every builder finds the same empty one, whatever the machine's is like, and
//! a million files are gone at once at the end.

use std::path::{Path, PathBuf};
use std::process::Command;

use tests::measure::run;

/// How large it may become. The file that it is in takes what is used.
const SIZE: &str = "64G";

/// A mounted file system, unmounted when the value goes.
pub(crate) struct Disk {
    mounted: PathBuf,
}

impl Disk {
    /// Makes one in the directory `within`, and mounts it there.
    pub(crate) fn make(within: &Path) -> anyhow::Result<Self> {
        let image = within.join("disk.img");
        let mounted = within.join("disk");
        fs_err::create_dir(&mounted)?;
        run(Command::new("truncate").args(["-s", SIZE]).arg(&image))?;
        // Nothing of it is written in the background, while others are measured.
        run(Command::new("mkfs.ext4")
            .args(["-q", "-F", "-E", "nodiscard,lazy_itable_init=1"])
            .arg(&image))?;
        run(Command::new("mount")
            .args(["-o", "loop,noinit_itable"])
            .arg(&image)
            .arg(&mounted))?;
        Ok(Self { mounted })
    }

    /// Where it is mounted.
    pub(crate) fn path(&self) -> &Path {
        &self.mounted
    }
}

impl Drop for Disk {
    fn drop(&mut self) {
        // What a builder left mounted on it goes with it.
        let _ = Command::new("umount")
            .args(["--recursive", "--lazy"])
            .arg(&self.mounted)
            .status();
    }
}
