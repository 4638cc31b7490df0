//! A tar archive as a context, compressed or not. Paths cannot leave the directory, and sizes are bounded: the rules are
//! those of ADD, applied to an empty tree.

use std::{io::Read, path::Path};

use super::ContextError;
use crate::{
    layer::Owners,
    snapshot::Snapshot,
    tree::ImagePath,
    unpack::{Limits, Rules, UnpackError, unpack_onto},
    upper::Upper,
};

/// Unpacks the archive in `reader` to the new directory `into`. Everything belongs to this process. Nothing is deleted
/// by names with `.wh.`, which are refused.
///
/// # Errors
/// [`ContextError::Archive`]; `into` is then left to be removed.
pub fn extract(reader: impl Read + Send, into: &Path, limits: &Limits) -> Result<(), ContextError> {
    unpack(reader, into, limits).map_err(ContextError::Archive)?;
    // What a layer's directory cannot hold means nothing in a context.
    let mut index = into.as_os_str().to_owned();
    index.push(".index");
    match fs_err::remove_file(&index) {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
            Err(ContextError::io("unpacking the archive", error))
        }
        _ => Ok(()),
    }
}

fn unpack(reader: impl Read + Send, into: &Path, limits: &Limits) -> Result<(), UnpackError> {
    let base = Snapshot::empty();
    let mut upper = Upper::create(&base, into, Owners::OnDisk)?;
    let own = (
        rustix::process::geteuid().as_raw(),
        rustix::process::getegid().as_raw(),
    );
    let rules = Rules {
        into: ImagePath::root(),
        owner: Some(own),
        implied: own,
        whiteouts: false,
    };
    unpack_onto(&mut upper, reader, &rules, limits)?;
    upper.finish()?;
    Ok(())
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "tests")]
    use std::{io::Write, os::unix::fs::MetadataExt};

    use super::*;

    fn tar(members: &[(&str, tar::EntryType, &str)]) -> Vec<u8> {
        let mut builder = tar::Builder::new(Vec::new());
        for (name, kind, content) in members {
            let mut header = tar::Header::new_gnu();
            header.set_entry_type(*kind);
            header.set_mode(0o644);
            header.set_mtime(1_000_000_000);
            header.as_old_mut().name[..name.len()].copy_from_slice(name.as_bytes());
            let data = if kind.is_file() {
                content.as_bytes()
            } else {
                b""
            };
            if !kind.is_file() && !kind.is_dir() {
                header.set_link_name_literal(content).unwrap();
            }
            header.set_size(data.len() as u64);
            header.set_cksum();
            builder.append(&header, data).unwrap();
        }
        builder.into_inner().unwrap()
    }

    fn gzip(bytes: &[u8]) -> Vec<u8> {
        let mut encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
        encoder.write_all(bytes).unwrap();
        encoder.finish().unwrap()
    }

    const FILE: tar::EntryType = tar::EntryType::Regular;

    #[test]
    fn archives_are_found_by_content() {
        let plain = tar(&[
            ("app/Dockerfile", FILE, "FROM scratch\n"),
            ("app/x", FILE, "1"),
        ]);
        for archive in [
            plain.clone(),
            gzip(&plain),
            zstd::encode_all(&plain[..], 3).unwrap(),
        ] {
            let work = tempfile::tempdir().unwrap();
            let into = work.path().join("context");
            extract(&archive[..], &into, &Limits::default()).unwrap();
            assert_eq!(
                fs_err::read_to_string(into.join("app/Dockerfile")).unwrap(),
                "FROM scratch\n"
            );
            assert_eq!(
                fs_err::metadata(into.join("app/x")).unwrap().mtime(),
                1_000_000_000
            );
            assert_eq!(fs_err::read_dir(work.path()).unwrap().count(), 1);
        }
    }

    #[test]
    fn nothing_outside_is_touched() {
        let work = tempfile::tempdir().unwrap();
        let probe = work.path().join("probe");
        fs_err::write(&probe, "untouched").unwrap();
        let outside = probe.to_str().unwrap();
        let rows: [&[(&str, tar::EntryType, &str)]; 5] = [
            &[("../probe", FILE, "evil")],
            &[("a/../../probe", FILE, "evil")],
            &[("l", tar::EntryType::Symlink, outside), ("l", FILE, "new")],
            &[
                ("d", tar::EntryType::Symlink, ".."),
                ("d/probe", FILE, "evil"),
            ],
            &[("h", tar::EntryType::Link, "../probe")],
        ];
        for (index, members) in rows.iter().enumerate() {
            let into = work.path().join(format!("context-{index}"));
            let _ = extract(&tar(members)[..], &into, &Limits::default());
            assert_eq!(
                fs_err::read_to_string(&probe).unwrap(),
                "untouched",
                "{members:?}"
            );
        }
    }

    #[test]
    fn what_is_no_archive_or_too_large_is_refused() {
        let small = Limits {
            bytes: 4096,
            ..Limits::default()
        };
        let large = tar(&[("x", FILE, &"x".repeat(8192))]);
        for (archive, limits) in [
            (&b"<html>not found</html>"[..], Limits::default()),
            (&large[..], small),
        ] {
            let work = tempfile::tempdir().unwrap();
            let error = extract(archive, &work.path().join("context"), &limits).unwrap_err();
            assert!(matches!(error, ContextError::Archive(_)), "{error}");
        }
    }
}
