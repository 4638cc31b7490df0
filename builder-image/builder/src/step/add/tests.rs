//! ADD: which archives are unpacked and how, and downloads. The cases mirror DockerfileAddArchive*.

#![allow(clippy::unwrap_used, reason = "tests")]

use std::{io::Write, path::Path, sync::Arc};

use super::*;
use crate::{
    fixture::{all_owners, lines, show, show_layer, snapshot},
    layer::{Compression, LayerDir, Owners, PackOptions, pack},
    snapshot::Snapshot,
    step::copy::{CopySource, CopySpec, Onto, Unpack, copy},
    tree::{Timestamp, Tree},
};

const NOW: Timestamp = Timestamp::from_seconds(2_000_000);

/// The archive of the tree that `text` describes.
fn archive(text: &str) -> Vec<u8> {
    let dir = tempfile::tempdir().unwrap();
    let layer = crate::fixture::layer(text, &dir.path().join("layer"), Owners::Recorded);
    let options = PackOptions {
        compression: Compression::None,
        ..PackOptions::default()
    };
    fs_err::read(pack(&layer, &options, dir.path()).unwrap().blob).unwrap()
}

fn gzip(bytes: &[u8]) -> Vec<u8> {
    let mut encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::default());
    encoder.write_all(bytes).unwrap();
    encoder.finish().unwrap()
}

/// A context with these files.
fn context(dir: &Path, files: &[(&str, &[u8])]) -> Snapshot {
    let root = dir.join("context");
    fs_err::create_dir(&root).unwrap();
    for (name, content) in files {
        fs_err::write(root.join(name), content).unwrap();
    }
    Snapshot::new(vec![Arc::new(LayerDir::open(&root).unwrap())])
}

fn spec(sources: &[&str], destination: &str) -> CopySpec {
    let sources = sources
        .iter()
        .map(|source| CopySource::Path((*source).to_owned()));
    CopySpec {
        unpack: Unpack::Local,
        ..CopySpec::new(sources, destination)
    }
}

/// The merged tree after ADD of `files` over `base`.
fn add(base: &str, files: &[(&str, &[u8])], spec: &CopySpec) -> Result<String, StepError> {
    let mut shown = Vec::new();
    for owners in all_owners() {
        let dir = tempfile::tempdir().unwrap();
        let from = context(dir.path(), files);
        let base = snapshot(&[base], dir.path(), owners);
        let onto = Onto {
            base: &base,
            created: NOW,
            owners,
        };
        let layer = copy(spec, &from, &onto, &dir.path().join("new"))?;
        shown.push(show(&base.with(Arc::new(layer))));
    }
    assert!(
        shown.windows(2).all(|pair| pair[0] == pair[1]),
        "owners make no difference"
    );
    Ok(shown.remove(0))
}

#[test]
fn archives_are_found_by_content_and_unpacked() {
    let plain = archive("/t/a = x; 600 3:4 /b = y");
    let mut bzip2 = bzip2::write::BzEncoder::new(Vec::new(), bzip2::Compression::default());
    bzip2.write_all(&plain).unwrap();
    let mut xz = xz2::write::XzEncoder::new(Vec::new(), 1);
    xz.write_all(&plain).unwrap();
    for (name, content) in [
        ("plain", plain.clone()),
        ("gzip", gzip(&plain)),
        ("bzip2", bzip2.finish().unwrap()),
        ("xz", xz.finish().unwrap()),
        ("zstd", zstd::encode_all(&plain[..], 1).unwrap()),
    ] {
        let found = add("", &[("file.txt", &content)], &spec(&["file.txt"], "/d")).unwrap();
        assert_eq!(
            found,
            lines("/d/; 600 3:4 /d/b = y; /d/t/; /d/t/a = x"),
            "{name}"
        );
    }
}

#[test]
fn what_is_no_archive_is_copied() {
    let text = &b"not an archive at all"[..];
    let zeros = vec![0; 2048];
    let broken = &gzip(&archive("/a = x"))[..20];
    for (name, content) in [
        ("text", text),
        ("a short text", b"x"),
        ("nothing", b""),
        ("zeros", &zeros),
        ("gzip of text", &gzip(text)),
        ("a broken archive", broken),
    ] {
        let dir = tempfile::tempdir().unwrap();
        let from = context(dir.path(), &[("f.tar.gz", content)]);
        let base = Snapshot::empty();
        let onto = Onto {
            base: &base,
            created: NOW,
            owners: Owners::Recorded,
        };
        let layer = copy(
            &spec(&["f.tar.gz"], "/d/"),
            &from,
            &onto,
            &dir.path().join("new"),
        )
        .unwrap();
        let tree = Snapshot::new(vec![Arc::new(layer)]);
        let copied = tree.read(&ImagePath::new("/d/f.tar.gz"), 1 << 20).unwrap();
        assert_eq!(copied.as_deref(), Some(content), "{name}");
    }
}

#[test]
#[rustfmt::skip] // One row, one line.
fn unpacking_follows_the_archive_and_the_image() {
    let one = archive("/a = one; /s/x = 1");
    let two = archive("/a = two; /s/y = 2");
    let rooted = archive("700 7:8 /etc/; /etc/conf = new; /link -> /etc");
    let nested = archive("/usr/bin/tool = t");
    for (name, base, files, instruction, expected) in [
        ("several archives", "", &[("1.tar", &one), ("2.tar", &two)][..], spec(&["1.tar", "2.tar"], "/d/"), "/d/; /d/a = two; /d/s/; /d/s/x = 1; /d/s/y = 2"),
        ("wildcard: each is unpacked", "", &[("1.tar", &one), ("2.tar", &two)], spec(&["*.tar"], "/d/"), "/d/; /d/a = two; /d/s/; /d/s/x = 1; /d/s/y = 2"),
        ("over an image", "/etc/old = o; /etc/conf = old", &[("r.tar", &rooted)], spec(&["r.tar"], "/"), "700 7:8 /etc/; /etc/conf = new; /etc/old = o; /link -> /etc"),
        ("a destination behind a link", "/real/; /d -> real", &[("1.tar", &one)], spec(&["1.tar"], "/d"), "/d -> real; /real/; /real/a = one; /real/s/; /real/s/x = 1"),
        ("through a link of the image", "/usr/lib/; /usr/bin -> lib", &[("n.tar", &nested)], spec(&["n.tar"], "/"), "/usr/; /usr/bin/; /usr/bin/tool = t; /usr/lib/"),
        ("--chown applies to entries", "", &[("1.tar", &one)], CopySpec { chown: Some("5".into()), ..spec(&["1.tar"], "/d") }, "5:5 /d/; 5:5 /d/a = one; 5:5 /d/s/; 5:5 /d/s/x = 1"),
        ("a file replaces a directory", "/a/b = old", &[("1.tar", &one)], spec(&["1.tar"], "/"), "/a = one; /s/; /s/x = 1"),
        ("not with --unpack=false", "", &[("empty", &Vec::new())], CopySpec { chown: Some("1".into()), unpack: Unpack::Never, ..spec(&["empty"], "/d/") }, "1:1 /d/; 1:1 /d/empty"),
    ] {
        let files: Vec<(&str, &[u8])> = files.iter().map(|(name, content)| (*name, content.as_slice())).collect();
        assert_eq!(add(base, &files, &instruction).unwrap(), lines(expected), "{name}");
    }
}

#[test]
fn an_entry_for_the_root_does_not_alter_the_destination() {
    let dir = tempfile::tempdir().unwrap();
    let source = dir.path().join("source");
    fs_err::create_dir(&source).unwrap();
    fs_err::write(source.join("a"), "x").unwrap();
    let output = std::process::Command::new("tar")
        .args(["--owner=7", "--group=7", "--mode=0700", "-c", "."])
        .current_dir(&source)
        .output()
        .unwrap();
    let found = add(
        "711 1:2 /d/",
        &[("a.tar", &output.stdout)],
        &spec(&["a.tar"], "/d/"),
    )
    .unwrap();
    assert_eq!(found, lines("711 1:2 /d/; 700 7:7 /d/a = x"));
}

#[test]
fn a_directory_is_replaced_as_a_whole() {
    // `d` of the image, then a file, then a directory again: nothing of the image's may show through.
    let mut both = archive("/d = file");
    both.truncate(both.len() - 1024);
    both.extend_from_slice(&archive("/d/new = n"));
    let found = add("/d/old = o", &[("a.tar", &both)], &spec(&["a.tar"], "/")).unwrap();
    assert_eq!(found, lines("/d/; /d/new = n"));
}

#[test]
fn names_that_mark_deletions_are_refused() {
    let whiteout = archive("/a whiteout");
    let error = add("/a = x", &[("a.tar", &whiteout)], &spec(&["a.tar"], "/")).unwrap_err();
    let StepError::Unpack { source, .. } = error else {
        panic!("{error}");
    };
    assert!(
        source
            .to_string()
            .starts_with("/.wh.a: a name that begins with"),
        "{source}"
    );
}

#[test]
fn hard_links_reach_into_the_image_by_copy() {
    let mut tar = archive("/a = x; /b == /a");
    // Without `a` itself: skip its header and data.
    tar.drain(..1024);
    let found = add(
        "600 3:4 /d/a = image",
        &[("a.tar", &tar)],
        &spec(&["a.tar"], "/d/"),
    )
    .unwrap();
    assert_eq!(
        found,
        lines("/d/; 600 3:4 /d/a = image; 600 3:4 /d/b = image")
    );
    let error = add("", &[("a.tar", &tar)], &spec(&["a.tar"], "/d/")).unwrap_err();
    assert_eq!(error.to_string(), "`/a.tar` cannot be unpacked");
}

#[test]
fn downloads_are_files_unless_unpacking_is_asked_for() {
    let content = gzip(&archive("/a = x"));
    for owners in all_owners() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("download");
        fs_err::write(&file, &content).unwrap();
        let from = Snapshot::empty();
        let onto = Onto {
            base: &from,
            created: NOW,
            owners,
        };
        let download = |mtime| CopySource::Download {
            name: "f.tar.gz".into(),
            file: file.clone(),
            digest: oci::Digest::of(&content),
            mtime,
        };
        let add = |number: u32, unpack, chmod: Option<&str>, destination: &str, mtime| {
            let chmod = chmod.map(|mode| dockerfile::Mode::parse(mode).unwrap());
            let spec = CopySpec {
                chmod,
                unpack,
                ..CopySpec::new([download(mtime)], destination)
            };
            Arc::new(copy(&spec, &from, &onto, &dir.path().join(number.to_string())).unwrap())
        };
        let changed = Timestamp::from_seconds(77);
        let layer = add(1, Unpack::Local, None, "/d/", Some(changed));
        let tree = Snapshot::new(vec![layer]);
        let entry = tree
            .lookup(&ImagePath::new("/d/f.tar.gz"))
            .unwrap()
            .unwrap();
        assert_eq!(
            (entry.mode, entry.uid, entry.mtime, entry.size),
            (0o600, 0, changed, content.len() as u64)
        );
        let tree = Snapshot::new(vec![add(2, Unpack::Local, Some("644"), "/name", None)]);
        let entry = tree.lookup(&ImagePath::new("/name")).unwrap().unwrap();
        assert_eq!((entry.mode, entry.mtime), (0o644, Timestamp::default()));
        assert_eq!(
            show_layer(&add(3, Unpack::All, None, "/d/", None)),
            lines("/d/; /d/a = x")
        );
    }
}

#[test]
fn names_of_downloads() {
    for (url, expected) in [
        ("https://example.com/dir/file.tar.gz", "file.tar.gz"),
        ("https://example.com/dir/file?x=/y#z", "file"),
        ("https://example.com/dir/", "dir"),
        ("https://example.com/", "__unnamed__"),
        ("https://example.com", "__unnamed__"),
        ("https://example.com?q=/a", "__unnamed__"),
        ("https://example.com/..", "__unnamed__"),
        ("https://example.com/a%20b/c%2Bd", "c+d"),
        ("https://example.com/a%2Fb", "b"),
        ("https://example.com/50%/%zz%ff", "%zz%ff"),
    ] {
        assert_eq!(download_name(url), expected, "{url}");
    }
}
