//! Files that are whole or absent, whatever happens in between: written aside, flushed, renamed, and the directory flushed
//! last. After a power cut no name stands for content that never reached the disk. It does not write the content.

use std::{io, path::Path};

use fs_err as fs;
use tempfile::NamedTempFile;

/// Gives a temporary file, which must be on the same file system, its name for good. A file of that name is replaced.
///
/// # Errors
/// When the file or the directory cannot be flushed, or the file not renamed.
pub fn publish(file: NamedTempFile, path: &Path) -> io::Result<()> {
    file.as_file().sync_all()?;
    file.persist(path).map_err(|error| error.error)?;
    flush_parent(path)
}

/// Flushes a file that was renamed without: what is published after it may rely on it.
///
/// # Errors
/// When the file is not there, or it or its directory cannot be flushed.
pub fn flush(path: &Path) -> io::Result<()> {
    fs::File::open(path)?.sync_all()?;
    flush_parent(path)
}

fn flush_parent(path: &Path) -> io::Result<()> {
    let parent = path.parent().filter(|p| !p.as_os_str().is_empty());
    fs::File::open(parent.unwrap_or(Path::new(".")))?.sync_all()
}

#[cfg(test)]
mod tests {
    use std::io::Write;

    use super::*;

    #[test]
    fn a_published_file_replaces_the_one_before() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("file");
        for content in ["old", "new"] {
            let mut file = NamedTempFile::new_in(&directory).unwrap();
            file.write_all(content.as_bytes()).unwrap();
            publish(file, &path).unwrap();
            assert_eq!(fs::read_to_string(&path).unwrap(), content);
        }
        flush(&path).unwrap();
        assert!(flush(&directory.path().join("absent")).is_err());
        assert_eq!(fs::read_dir(directory.path()).unwrap().count(), 1);
        let file = NamedTempFile::new_in(&directory).unwrap();
        assert!(publish(file, &directory.path().join("no/file")).is_err());
        assert_eq!(fs::read_dir(directory.path()).unwrap().count(), 1);
    }
}
