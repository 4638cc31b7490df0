//! The engine's directory: where `--root` or `COOPERY_ROOT` points, or where a person's programs keep data.

use std::path::{Path, PathBuf};

use crate::error::Error;

/// The directory that was given, or the default one. It need not exist.
pub(super) fn directory(given: Option<&Path>) -> Result<PathBuf, Error> {
    if let Some(root) = given {
        return match fs_err::metadata(root) {
            Ok(found) if !found.is_dir() => Err(Error::Request(format!(
                "--root: `{}` is not a directory, name another",
                root.display()
            ))),
            _ => Ok(root.to_owned()),
        };
    }
    if let Some(root) = std::env::var_os("COOPERY_ROOT").filter(|root| !root.is_empty()) {
        return Ok(root.into());
    }
    let data = match std::env::var_os("XDG_DATA_HOME") {
        Some(data) if !data.is_empty() => PathBuf::from(data),
        _ => match std::env::var_os("HOME") {
            Some(home) if !home.is_empty() => PathBuf::from(home).join(".local/share"),
            _ => {
                return Err(Error::Request(
                    "name a directory with --root: HOME is not set".into(),
                ));
            }
        },
    };
    Ok(data.join("coopery"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_directory_that_was_given_may_be_new_and_is_no_file() {
        let place = tempfile::tempdir().unwrap();
        let (new, file) = (place.path().join("new"), place.path().join("file"));
        fs_err::write(&file, "").unwrap();
        assert_eq!(directory(Some(&new)).unwrap(), new);
        assert!(directory(Some(&file)).is_err());
    }
}
