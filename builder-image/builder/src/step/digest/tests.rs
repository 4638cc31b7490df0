//! The digest of inputs: what changes it and what must not.

#![allow(clippy::unwrap_used, reason = "tests")]

use std::sync::Arc;

use super::*;
use crate::{
    fixture::{all_owners, snapshot},
    layer::{LayerDir, Owners},
    snapshot::Snapshot,
    tree::{Attributes, Timestamp},
    upper::Upper,
};

fn paths(sources: &[&str]) -> CopySpec {
    CopySpec::new(
        sources
            .iter()
            .map(|source| CopySource::Path((*source).to_owned())),
        "/d/",
    )
}

fn digest(tree: &str, spec: &CopySpec) -> Digest {
    let mut digests = Vec::new();
    for owners in all_owners() {
        let dir = tempfile::tempdir().unwrap();
        digests.push(
            digest_inputs(spec, &snapshot(&[tree], dir.path(), owners))
                .unwrap()
                .0,
        );
    }
    assert!(
        digests.windows(2).all(|pair| pair[0] == pair[1]),
        "owners make no difference"
    );
    digests.remove(0)
}

#[test]
#[rustfmt::skip] // One row, one line.
fn everything_but_times_counts() {
    let base = "/s/a = x; /s/l -> a; /s/t/; /s/null c1:3; /s/p fifo";
    let reference = digest(base, &paths(&["s"]));
    for (name, tree) in [
        ("content", "/s/a = y; /s/l -> a; /s/t/; /s/null c1:3; /s/p fifo"),
        ("name", "/s/b = x; /s/l -> a; /s/t/; /s/null c1:3; /s/p fifo"),
        ("mode", "600 /s/a = x; /s/l -> a; /s/t/; /s/null c1:3; /s/p fifo"),
        ("user", "1:0 /s/a = x; /s/l -> a; /s/t/; /s/null c1:3; /s/p fifo"),
        ("group", "0:1 /s/a = x; /s/l -> a; /s/t/; /s/null c1:3; /s/p fifo"),
        ("link target", "/s/a = x; /s/l -> b; /s/t/; /s/null c1:3; /s/p fifo"),
        ("kind", "/s/a = x; /s/l -> a; /s/t; /s/null c1:3; /s/p fifo"),
        ("device", "/s/a = x; /s/l -> a; /s/t/; /s/null c1:5; /s/p fifo"),
        ("device kind", "/s/a = x; /s/l -> a; /s/t/; /s/null b1:3; /s/p fifo"),
        ("an empty directory more", "/s/a = x; /s/l -> a; /s/t/; /s/u/; /s/null c1:3; /s/p fifo"),
        ("mode of the directory", "700 /s/; /s/a = x; /s/l -> a; /s/t/; /s/null c1:3; /s/p fifo"),
        ("place", "/s/l -> a; /s/t/a = x; /s/null c1:3; /s/p fifo"),
    ] {
        assert_ne!(digest(tree, &paths(&["s"])), reference, "{name}");
    }
    assert_eq!(digest(&format!("{base}; /elsewhere = z"), &paths(&["s"])), reference, "what is not copied");
    assert_eq!(digest(base, &paths(&["./s/"])), reference, "how it is written");
}

#[test]
fn times_do_not_count_but_attributes_do() {
    let of = |seconds: i64, xattrs: &[(&str, &str)]| {
        let dir = tempfile::tempdir().unwrap();
        let scratch = Snapshot::empty();
        let mut upper =
            Upper::create(&scratch, &dir.path().join("layer"), Owners::Recorded).unwrap();
        let xattrs = xattrs
            .iter()
            .map(|(name, value)| ((*name).to_owned(), value.as_bytes().to_vec()))
            .collect();
        let attributes = Attributes {
            mode: 0o644,
            mtime: Timestamp::from_seconds(seconds),
            xattrs,
            ..Attributes::default()
        };
        upper
            .file(&ImagePath::new("a"), &attributes, &mut &b"x"[..])
            .unwrap();
        let tree = Snapshot::new(vec![Arc::new(upper.finish().unwrap())]);
        digest_inputs(&paths(&["a"]), &tree).unwrap()
    };
    assert_eq!(of(1, &[]), of(2, &[]));
    assert_ne!(of(1, &[]), of(1, &[("security.capability", "x")]));
    assert_ne!(
        of(1, &[("user.a", "bc")]),
        of(1, &[("user.ab", "c")]),
        "fields are framed"
    );
}

#[test]
fn fields_cannot_be_mistaken_for_each_other() {
    let inline = |name: &str, content: &str| {
        let source = CopySource::Inline {
            name: name.into(),
            content: content.into(),
        };
        digest("", &CopySpec::new([source], "/d/"))
    };
    assert_ne!(inline("ab", "c"), inline("a", "bc"));
    assert_ne!(
        digest("/a = x; /b = y", &paths(&["a", "b"])),
        digest("/a = x; /b = y", &paths(&["b", "a"]))
    );
    assert_ne!(
        digest("/s/ab = c", &paths(&["s"])),
        digest("/s/a = bc", &paths(&["s"]))
    );
}

#[test]
fn wildcards_count_what_they_match() {
    // CopyWildcardCache, WildcardRenameCache
    let reference = digest("/a1 = x; /b = y", &paths(&["a*"]));
    assert_eq!(
        digest("/a1 = x; /b = changed; /c = new", &paths(&["a*"])),
        reference
    );
    assert_ne!(
        digest("/a2 = x; /b = y", &paths(&["a*"])),
        reference,
        "a rename"
    );
    assert_ne!(
        digest("/a1 = x; /a2 = y", &paths(&["a*"])),
        reference,
        "one more"
    );
    assert_eq!(
        digest("/b = y", &paths(&["a*"])),
        digest("/c = y", &paths(&["a*"])),
        "nothing twice"
    );
}

#[test]
fn links_count_by_what_they_lead_to() {
    assert_eq!(
        digest("/a -> s/f; /s/f = x", &paths(&["a"])),
        digest("/a -> t/f; /t/f = x", &paths(&["a"]))
    );
    assert_ne!(
        digest("/a -> s/f; /s/f = x", &paths(&["a"])),
        digest("/a -> s/f; /s/f = y", &paths(&["a"]))
    );
}

#[test]
fn filters_count_by_what_they_take() {
    let exclude = CopySpec {
        exclude: vec!["*.log".into()],
        ..paths(&["s"])
    };
    assert_eq!(
        digest("/s/a = x; /s/b.log = 1", &exclude),
        digest("/s/a = x; /s/b.log = 2; /s/c.log = 3", &exclude)
    );
    assert_ne!(
        digest("/s/a = x; /s/b.log = 1", &exclude),
        digest("/s/a = y; /s/b.log = 1", &exclude)
    );
    let parents = CopySpec {
        parents: true,
        ..paths(&["s/*/f"])
    };
    assert_eq!(
        digest("/s/a/f = x; /s/b/g = y", &parents),
        digest("/s/a/f = x; /s/b/g = z; /t = 1", &parents)
    );
    assert_ne!(
        digest("/s/a/f = x", &parents),
        digest("700 /s/a/; /s/a/f = x", &parents),
        "directories that come along"
    );
}

#[test]
fn missing_sources_and_downloads() {
    let dir = tempfile::tempdir().unwrap();
    let error = digest_inputs(&paths(&["none"]), &Snapshot::empty()).unwrap_err();
    assert_eq!(error.to_string(), "`none`: no such file or directory");
    let of = |source| digest_inputs(&CopySpec::new([source], "/d/"), &Snapshot::empty()).unwrap();
    let download = |content: &str| {
        of(CopySource::Download {
            name: "n".into(),
            file: dir.path().join("f"),
            digest: oci::Digest::of(content.as_bytes()),
            mtime: None,
        })
    };
    let repository = |identity: &str, directory: &str| {
        of(CopySource::Repository {
            name: "n".into(),
            identity: identity.into(),
            directory: directory.into(),
        })
    };
    assert_eq!(repository("c1 sub", "/x"), repository("c1 sub", "/y"));
    assert_ne!(repository("c1 sub", "/x"), repository("c2 sub", "/x"));
    assert_ne!(download("a"), download("b"));
    assert_eq!(download("a"), download("a"));
    fs_err::create_dir(dir.path().join("empty")).unwrap();
    LayerDir::open(dir.path().join("empty")).unwrap();
}
