//! Whether a step failed because the disk is full, and room that is kept so that this can still be told.

use std::path::{Path, PathBuf};

/// What the C library, and with it most programs, say of a full disk.
const NO_SPACE: &str = "No space left on device";
/// With less than this, in bytes, a disk counts as full: hardly a file can be written.
const NOTHING: u64 = 1024 * 1024;
/// Size of the [`Reserve`] in bytes: the outcome of a pod is at most 4 KiB.
const RESERVE: usize = 64 * 1024;

/// Whether a step with the changes `directory` and the last lines `output` met a full disk: it said so, or there still is no
/// room. A program may have removed what it could not finish, and another may fail without a word.
pub fn is_full(directory: &Path, output: &str) -> bool {
    is_said(output) || available(directory).is_some_and(|bytes| bytes < NOTHING)
}

/// Whether `text` tells of a full disk: where nothing but a program's words is known.
pub fn is_said(text: &str) -> bool {
    text.contains(NO_SPACE)
}

/// Bytes that can still be written below `directory`.
fn available(directory: &Path) -> Option<u64> {
    let stat = rustix::fs::statvfs(directory).ok()?;
    Some(stat.f_bavail.saturating_mul(stat.f_frsize))
}

/// A file that takes room until it is dropped. A pod's outcome is written on the disk that its workspace fills.
#[derive(Debug)]
pub struct Reserve(PathBuf);

impl Reserve {
    /// Takes the room in `directory`; where that cannot be done there is none to give back.
    pub fn take(directory: &Path) -> Self {
        let file = directory.join("reserve");
        let taken =
            fs_err::create_dir_all(directory).and_then(|()| fs_err::write(&file, vec![0; RESERVE]));
        if let Err(error) = taken {
            tracing::debug!(%error, "no room is kept for the outcome");
        }
        Self(file)
    }
}

impl Drop for Reserve {
    fn drop(&mut self) {
        // It may never have been written, or be gone with the workspace.
        let _ = fs_err::remove_file(&self.0);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_step_that_says_so_met_a_full_disk() {
        let directory = tempfile::tempdir().unwrap();
        let said = "dd: error writing '/big': No space left on device\n";
        assert!(is_full(directory.path(), said));
        assert!(!is_full(directory.path(), "make: *** Error 1"));
        assert!(!is_full(Path::new("/no/such"), ""));
    }

    #[test]
    fn the_reserve_is_there_until_it_is_dropped() {
        let directory = tempfile::tempdir().unwrap();
        let workspace = directory.path().join("workspace");
        let reserve = Reserve::take(&workspace);
        let file = workspace.join("reserve");
        assert_eq!(fs_err::metadata(&file).unwrap().len(), 65536);
        drop(reserve);
        assert!(!file.exists());
        drop(Reserve::take(Path::new("/proc/none")));
    }
}
