//! The files of a mounted ConfigMap as a context: each key is a file at the top, `Dockerfile` and `.dockerignore` among
//! them. The data must have the digest that the operator saw, because a mounted ConfigMap changes under a running pod.

use std::{
    collections::BTreeMap,
    os::unix::{ffi::OsStrExt, fs::PermissionsExt},
    path::Path,
    time::{Duration, SystemTime},
};

use oci::Digest;
use protocol::Source;

use super::ContextError;

/// An API object has at most 1.5 MiB in etcd; this leaves room.
const MAX_BYTES: u64 = 4 << 20;

/// The time of every file, 1980-01-01: a ConfigMap has none for its keys, and archivers like no earlier one.
const MTIME: Duration = Duration::from_secs(315_532_800);

/// Copies the data of the ConfigMap mounted at `mount` to the new directory `into`.
///
/// # Errors
/// [`ContextError::Changed`] when the data has not the digest `expected`; [`ContextError::TooLarge`].
pub fn copy(mount: &Path, expected: &str, into: &Path) -> Result<(), ContextError> {
    let data = read(mount)
        .map_err(|error| ContextError::io("reading the ConfigMap of the source", error))?;
    if data.values().map(|value| value.len() as u64).sum::<u64>() > MAX_BYTES {
        return Err(ContextError::TooLarge {
            what: "the ConfigMap of the source",
            limit: MAX_BYTES,
        });
    }
    let input = Source::config_map_digest_input(
        data.iter()
            .map(|(key, value)| (key.as_str(), value.as_slice())),
    );
    let found = Digest::of(&input).to_string();
    if found != expected {
        return Err(ContextError::Changed {
            what: "the ConfigMap of the source",
            found,
            expected: expected.to_owned(),
        });
    }
    write(&data, into).map_err(|error| ContextError::io("writing the context", error))
}

/// The data by key. The kubelet puts all keys into one directory that it exchanges by renaming the link `..data`, so that
/// reading through one resolution of it sees one version of the data.
fn read(mount: &Path) -> std::io::Result<BTreeMap<String, Vec<u8>>> {
    let version = match fs_err::canonicalize(mount.join("..data")) {
        Ok(version) => version,
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => mount.to_owned(),
        Err(error) => return Err(error),
    };
    let mut data = BTreeMap::new();
    for entry in fs_err::read_dir(version)? {
        let entry = entry?;
        let name = entry.file_name();
        if name.as_bytes().starts_with(b"..") || !entry.file_type()?.is_file() {
            continue;
        }
        let key = name
            .into_string()
            .map_err(|_| std::io::Error::other("a key that is not text"))?;
        data.insert(key, fs_err::read(entry.path())?);
    }
    Ok(data)
}

fn write(data: &BTreeMap<String, Vec<u8>>, into: &Path) -> std::io::Result<()> {
    fs_err::create_dir(into)?;
    for (key, value) in data {
        let path = into.join(key);
        fs_err::write(&path, value)?;
        fs_err::set_permissions(&path, PermissionsExt::from_mode(0o644))?;
        fs_err::File::options()
            .write(true)
            .open(&path)?
            .into_file()
            .set_modified(SystemTime::UNIX_EPOCH + MTIME)?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "tests")]
    use std::os::unix::fs::symlink;

    use super::*;

    fn digest(data: &[(&str, &str)]) -> String {
        let input = Source::config_map_digest_input(
            data.iter().map(|(key, value)| (*key, value.as_bytes())),
        );
        Digest::of(&input).to_string()
    }

    /// A mount as the kubelet makes it.
    fn mounted(data: &[(&str, &str)]) -> tempfile::TempDir {
        let mount = tempfile::tempdir().unwrap();
        let version = mount.path().join("..2026_11_21_12_00_00.1");
        fs_err::create_dir(&version).unwrap();
        symlink("..2026_11_21_12_00_00.1", mount.path().join("..data")).unwrap();
        for (key, value) in data {
            fs_err::write(version.join(key), value).unwrap();
            symlink(format!("..data/{key}"), mount.path().join(key)).unwrap();
        }
        mount
    }

    #[test]
    fn keys_become_files() {
        let data = [
            ("Dockerfile", "FROM scratch\n"),
            (".dockerignore", "x"),
            ("empty", ""),
        ];
        let (mount, work) = (mounted(&data), tempfile::tempdir().unwrap());
        let into = work.path().join("context");
        copy(mount.path(), &digest(&data), &into).unwrap();
        let mut names: Vec<_> = fs_err::read_dir(&into)
            .unwrap()
            .map(|entry| entry.unwrap().file_name())
            .collect();
        names.sort();
        assert_eq!(names, [".dockerignore", "Dockerfile", "empty"]);
        assert_eq!(
            fs_err::read_to_string(into.join("Dockerfile")).unwrap(),
            "FROM scratch\n"
        );
        let made = fs_err::metadata(into.join("Dockerfile")).unwrap();
        assert_eq!(made.permissions().mode() & 0o7777, 0o644);
        assert_eq!(made.modified().unwrap(), SystemTime::UNIX_EPOCH + MTIME);
    }

    #[test]
    fn other_data_is_refused_and_makes_nothing() {
        let (mount, work) = (mounted(&[("a", "new")]), tempfile::tempdir().unwrap());
        let into = work.path().join("context");
        let error = copy(mount.path(), &digest(&[("a", "old")]), &into).unwrap_err();
        assert!(matches!(error, ContextError::Changed { .. }), "{error}");
        assert!(!into.exists());
    }

    #[test]
    fn a_plain_directory_serves_too() {
        let (mount, work) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
        fs_err::write(mount.path().join("a"), "1").unwrap();
        copy(
            mount.path(),
            &digest(&[("a", "1")]),
            &work.path().join("context"),
        )
        .unwrap();
        let error = copy(Path::new("/nowhere"), "sha256:", &work.path().join("other")).unwrap_err();
        assert!(matches!(error, ContextError::Io { .. }), "{error}");
    }
}
