//! What is left of an upper directory: as the fixture makes it, and as overlayfs itself leaves it.

#![allow(clippy::unwrap_used, reason = "tests")]

use std::sync::Arc;

use super::*;
use crate::{
    fixture::{FIXTURE_TIME, all_owners, can_mount_overlay, layer, lines, show, snapshot},
    layer::Owners,
};

#[test]
fn marks_stay_where_the_image_has_something() {
    let base = "/a = x; /d/b = y; /d/c = z; /e/f = g; /o/old = h; /file = i";
    let upper = "/a whiteout; /never whiteout; /d/b whiteout; /d/never whiteout; /e/f whiteout; \
         /new/never whiteout; /new/x = n; /new opaque; /o/in = o; /o opaque; /file/in = p; /file opaque";
    for owners in all_owners() {
        let dir = tempfile::tempdir().unwrap();
        let base = snapshot(&[base], dir.path(), owners);
        let path = dir.path().join("upper");
        layer(upper, &path, owners);
        let made = Arc::new(layer_of_run(&path, &base).unwrap());
        let names = |path: &str| -> Vec<_> {
            let entries = made.entries(&ImagePath::new(path)).unwrap().unwrap();
            let shown = |(name, entry): (std::ffi::OsString, Entry)| {
                (name.into_string().unwrap(), entry.kind == Kind::Whiteout)
            };
            entries.into_iter().map(shown).collect()
        };
        let named = |expected: &[(&str, bool)]| -> Vec<(String, bool)> {
            let owned = |(name, whiteout): &(&str, bool)| ((*name).to_owned(), *whiteout);
            expected.iter().map(owned).collect()
        };
        let root = [
            ("a", true),
            ("d", false),
            ("e", false),
            ("file", false),
            ("new", false),
            ("o", false),
        ];
        assert_eq!(names("/"), named(&root));
        assert_eq!(names("/d"), named(&[("b", true)]));
        assert_eq!(names("/new"), named(&[("x", false)]));
        let opaque = |path: &str| made.is_opaque(&ImagePath::new(path)).unwrap();
        assert!(!opaque("/o") && !opaque("/new") && !opaque("/file"));
        assert_eq!(names("/o"), named(&[("in", false), ("old", true)]));
        assert_eq!(
            show(&base.with(Arc::clone(&made))),
            lines("/d/; /d/c = z; /e/; /file/; /file/in = p; /new/; /new/x = n; /o/; /o/in = o")
        );
        let mtime = |path: &str| made.entry(&ImagePath::new(path)).unwrap().unwrap().mtime;
        assert_eq!(
            (mtime("/d"), mtime("/new")),
            (FIXTURE_TIME, FIXTURE_TIME),
            "taking out changes no time"
        );
    }
}

#[test]
fn what_is_as_it_was_is_not_in_the_layer() {
    let base = "/same = x; /time = x; /text = x; 600 /mode = x; 5:6 /owner = x; /link -> same; /d/a = y; /d/e/b = z; /d/gone = g";
    // Directories that are opaque, made again with a part of what was in them.
    let upper = "/same = x; /time = x; /text = y; /mode = x; 5:7 /owner = x; /link -> same; /d/a = y; /d/e/b = z; /d/e/n = n; \
         /d opaque";
    for owners in all_owners() {
        if owners == Owners::Recorded {
            // There is no RUN without owners.
            continue;
        }
        let dir = tempfile::tempdir().unwrap();
        let base = snapshot(&[base], dir.path(), owners);
        let path = dir.path().join("upper");
        layer(upper, &path, owners);
        let file = std::fs::File::options().write(true).open(path.join("time"));
        file.unwrap().set_modified(std::time::UNIX_EPOCH).unwrap();
        let made = Arc::new(layer_of_run(&path, &base).unwrap());
        let names = |path: &str| -> Vec<_> {
            let entries = made.entries(&ImagePath::new(path)).unwrap().unwrap();
            let name = |(name, _): (std::ffi::OsString, Entry)| name.into_string().unwrap();
            entries.into_iter().map(name).collect()
        };
        assert_eq!(names("/"), ["d", "mode", "owner", "text", "time"]);
        assert_eq!(names("/d"), ["e", "gone"]);
        assert_eq!(names("/d/e"), ["n"]);
        assert!(!made.is_opaque(&ImagePath::new("/d")).unwrap());
        let tree = show(&base.with(Arc::clone(&made)));
        for line in ["/d/a = y", "/d/e/b = z", "/d/e/n = n"] {
            assert!(tree.lines().any(|shown| shown == line), "{line}: {tree}");
        }
        assert!(!tree.contains("gone"), "{tree}");
    }
}

#[test]
fn nothing_outside_is_touched() {
    let dir = tempfile::tempdir().unwrap();
    let probe = dir.path().join("probe");
    let base = Snapshot::empty();
    layer("/x whiteout; /y/z = keep", &probe, Owners::Recorded);
    let upper = dir.path().join("upper");
    fs_err::create_dir(&upper).unwrap();
    std::os::unix::fs::symlink(&probe, upper.join("absolute")).unwrap();
    std::os::unix::fs::symlink("../probe", upper.join("relative")).unwrap();
    let made = layer_of_run(&upper, &base).unwrap();
    let entries = |layer: &LayerDir| layer.entries(&ImagePath::root()).unwrap().unwrap().len();
    assert_eq!(entries(&made), 2);
    assert_eq!(entries(&LayerDir::open(&probe).unwrap()), 2);
}

/// Changes made through a real overlay mount, as a RUN makes them.
#[test]
fn the_layer_of_a_real_run_holds_its_changes_and_nothing_else() {
    let dir = tempfile::tempdir().unwrap();
    if !rustix::process::geteuid().is_root() || !can_mount_overlay(dir.path()) {
        return;
    }
    let base = snapshot(
        &[
            "/etc/app/conf = old; /usr/bin/a = 1; /usr/bin/b = 2; /gone/x = y; /re/old = o; 5:6 /own = z",
        ],
        dir.path(),
        Owners::OnDisk,
    );
    let path = |name: &str| dir.path().join(name);
    for name in ["upper", "work", "merged"] {
        fs_err::create_dir(path(name)).unwrap();
    }
    let script = "set -e; cd $0; mount -t overlay o -o userxattr,lowerdir=layer0,upperdir=upper,workdir=work merged
        cd merged; rm -r gone usr/bin/a; rm -r re; mkdir re; echo -n n > re/new; mkdir -p made/deep; echo -n m > made/deep/f
        echo -n c > etc/app/conf; mv usr/bin/b usr/bin/c; ln usr/bin/c usr/bin/d; ln -s c usr/bin/l; chmod 4711 own
        touch temporary; rm temporary";
    let done = std::process::Command::new("unshare")
        .args(["-m", "sh", "-c", script])
        .arg(dir.path())
        .output()
        .unwrap();
    assert!(
        done.status.success(),
        "{}",
        String::from_utf8_lossy(&done.stderr)
    );
    let made = Arc::new(layer_of_run(&path("upper"), &base).unwrap());
    assert_eq!(
        show(&base.with(Arc::clone(&made))),
        lines(
            "/etc/; /etc/app/; /etc/app/conf = c; /made/; /made/deep/; /made/deep/f = m; 4711 5:6 /own = z; \
             /re/; /re/new = n; /usr/; /usr/bin/; /usr/bin/c = 2; /usr/bin/d = 2; /usr/bin/l -> c"
        )
    );
    let options = crate::layer::PackOptions {
        compression: crate::layer::Compression::None,
        ..Default::default()
    };
    let packed = crate::layer::pack(&made, &options, dir.path()).unwrap();
    let listing = std::process::Command::new("tar")
        .arg("-tf")
        .arg(packed.blob)
        .output()
        .unwrap();
    let names = String::from_utf8(listing.stdout).unwrap();
    let expected = [
        "etc/",
        "etc/app/",
        "etc/app/conf",
        ".wh.gone",
        "made/",
        "made/deep/",
        "made/deep/f",
        "own",
        "re/",
        "re/new",
        "re/.wh.old",
        "usr/",
        "usr/bin/",
        "usr/bin/.wh.a",
        "usr/bin/.wh.b",
        "usr/bin/c",
        "usr/bin/d",
        "usr/bin/l",
    ];
    assert_eq!(names.lines().collect::<Vec<_>>(), expected);
}
