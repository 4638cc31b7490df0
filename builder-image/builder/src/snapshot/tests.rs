//! Stacks of layers: what shows, what is hidden, and how links are followed.

#![allow(clippy::unwrap_used, reason = "tests")]

use std::path::Path;

use super::*;
use crate::{
    fixture::{all_owners, can_mount_overlay, lines, show, snapshot},
    layer::Owners,
};

#[test]
#[rustfmt::skip] // One row, one line.
fn stacks_show_what_overlayfs_would_show() {
    for (name, layers, expected) in [
        ("nothing", &[][..], ""),
        ("the uppermost file", &["/a = 1", "/a = 2"], "/a = 2"),
        ("directories merge", &["/d/a = 1", "/d/b = 2"], "/d/; /d/a = 1; /d/b = 2"),
        ("the uppermost directory's attributes", &["700 1:1 /d/", "711 2:2 /d/"], "711 2:2 /d/"),
        ("a whiteout", &["/a = 1; /b = 1", "/a whiteout"], "/b = 1"),
        ("a whiteout of a directory", &["/d/a = 1", "/d whiteout"], ""),
        ("a whiteout in a directory", &["/d/a = 1; /d/b = 1", "/d/a whiteout"], "/d/; /d/b = 1"),
        ("what comes back", &["/a = 1", "/a whiteout", "/a = 3"], "/a = 3"),
        ("a directory that comes back is new", &["/d/a = 1", "/d whiteout", "/d/b = 3"], "/d/; /d/b = 3"),
        ("an opaque directory", &["/d/a = 1; /d/s/b = 1", "/d/; /d opaque; /d/c = 2"], "/d/; /d/c = 2"),
        ("above an opaque directory", &["/d/a = 1", "/d/b = 2; /d opaque", "/d/c = 3"], "/d/; /d/b = 2; /d/c = 3"),
        ("a file over a directory", &["/d/a = 1", "/d = 2"], "/d = 2"),
        ("a directory over a file over a directory", &["/d/a = 1", "/d = 2", "/d/b = 3"], "/d/; /d/b = 3"),
        ("a link over a directory", &["/d/a = 1", "/d -> e"], "/d -> e"),
        ("a directory over a link", &["/e/a = 1; /d -> e", "/d/b = 2"], "/d/; /d/b = 2; /e/; /e/a = 1"),
        ("a whiteout of nothing", &["/a whiteout; /d/b whiteout"], "/d/"),
        ("a device", &["/null = file", "/null c1:3"], "/null c1:3"),
        ("five layers", &["/a = 1", "/b = 2", "/a whiteout", "/c = 4", "/a = 5"], "/a = 5; /b = 2; /c = 4"),
    ] {
        for owners in all_owners() {
            let dir = tempfile::tempdir().unwrap();
            let tree = snapshot(layers, dir.path(), owners);
            assert_eq!(show(&tree), lines(expected), "{name} ({owners:?})");
            if owners == Owners::OnDisk
                && let Some(kernel) = listing_of_overlayfs(&tree, dir.path())
            {
                let mut ours = Vec::new();
                listing(&tree, &ImagePath::root(), &mut ours);
                ours.sort();
                assert_eq!(ours.concat(), kernel, "{name}");
            }
        }
    }
}

/// What the kernel shows of a stack, one line an entry; `None` where it cannot be asked.
fn listing_of_overlayfs(tree: &Snapshot, dir: &Path) -> Option<String> {
    if !can_mount_overlay(dir) {
        return None;
    }
    let (empty, merged) = (dir.join("empty"), dir.join("merged"));
    for path in [&empty, &merged] {
        fs_err::create_dir(path).unwrap();
    }
    // One directory alone is no stack for overlayfs.
    let layers = tree.directories().unwrap();
    let uppermost_first = layers.iter().rev().map(|layer| layer.path.as_path());
    let lowers: Vec<_> = uppermost_first
        .chain([empty.as_path()])
        .map(|path| path.to_str().unwrap())
        .collect();
    if lowers.len() < 2 {
        return None;
    }
    let options = format!("userxattr,lowerdir={}", lowers.join(":"));
    let script = "mount -t overlay overlay -o \"$0\" \"$1\" && cd \"$1\" && \
        find . -mindepth 1 -printf '%y %m %U:%G %p %l\\n' | LC_ALL=C sort";
    let output = std::process::Command::new("unshare")
        .args(["-m", "sh", "-c", script, &options])
        .arg(&merged)
        .output()
        .unwrap();
    let text = String::from_utf8(output.stdout).unwrap();
    assert!(
        output.status.success(),
        "{}",
        String::from_utf8_lossy(&output.stderr)
    );
    Some(text)
}

/// The same listing, as this program sees the stack.
fn listing(tree: &Snapshot, directory: &ImagePath, out: &mut Vec<String>) {
    for (name, entry) in tree.read_dir(directory).unwrap() {
        let path = directory.child(&name);
        let (letter, target) = match &entry.kind {
            Kind::Directory => ("d", ""),
            Kind::Symlink(target) => ("l", target.to_str().unwrap()),
            _ => ("f", ""),
        };
        let (mode, uid, gid) = (entry.mode, entry.uid, entry.gid);
        out.push(format!("{letter} {mode:o} {uid}:{gid} .{path} {target}\n"));
        if entry.is_directory() {
            listing(tree, &path, out);
        }
    }
}

#[test]
fn links_are_followed_inside_the_root() {
    let dir = tempfile::tempdir().unwrap();
    let tree = snapshot(
        &[
            "/usr/lib/x = lib; /lib -> usr/lib; /abs -> /usr; /up -> ../../../usr; /usr/self -> .; /usr/back -> ../lib/x; \
             /l1 -> l2; /l2 -> l1; /gone -> not/there; /file = f",
            "/usr/lib/y = upper",
        ],
        dir.path(),
        Owners::Recorded,
    );
    for (path, expected) in [
        ("/", "/"),
        ("/lib/x", "/usr/lib/x"),
        ("/lib/y", "/usr/lib/y"),
        ("/lib", "/usr/lib"),
        ("/abs/lib", "/usr/lib"),
        ("/up/lib/x", "/usr/lib/x"),
        ("/usr/self/self/lib/x", "/usr/lib/x"),
        ("/usr/back", "/usr/lib/x"),
        ("/gone", "/not/there"),
        ("/gone/below", "/not/there/below"),
        ("/none/at/all", "/none/at/all"),
        ("/file/below", "/file/below"),
    ] {
        assert_eq!(
            tree.resolve(&ImagePath::new(path)).unwrap().to_string(),
            expected,
            "{path}"
        );
    }
    for path in ["/l1", "/l1/x"] {
        assert!(
            matches!(
                tree.resolve(&ImagePath::new(path)),
                Err(TreeError::TooManyLinks(_))
            ),
            "{path}"
        );
    }
    assert_eq!(
        tree.read(&ImagePath::new("/lib/x"), 10).unwrap(),
        Some(b"lib".to_vec())
    );
    assert_eq!(tree.read(&ImagePath::new("/gone"), 10).unwrap(), None);
    assert!(matches!(
        tree.read(&ImagePath::new("/lib/x"), 2),
        Err(TreeError::TooLarge { limit: 2, .. })
    ));
    assert!(matches!(
        tree.read(&ImagePath::new("/usr"), 10),
        Err(TreeError::NotAFile(_))
    ));
}

#[test]
fn forty_links_are_followed_and_no_more() {
    let dir = tempfile::tempdir().unwrap();
    let mut links: Vec<_> = (0..41)
        .map(|number| format!("/l{number} -> l{}", number + 1))
        .collect();
    links.push("/l41 = end".to_owned());
    let tree = snapshot(&[&links.join("\n")], dir.path(), Owners::Recorded);
    assert_eq!(
        tree.resolve(&ImagePath::new("l1")).unwrap().to_string(),
        "/l41"
    );
    assert!(matches!(
        tree.resolve(&ImagePath::new("l0")),
        Err(TreeError::TooManyLinks(_))
    ));
}

#[test]
fn reading_what_is_not_there_is_an_error() {
    let dir = tempfile::tempdir().unwrap();
    let tree = snapshot(&["/f = x; /l -> f; /d/"], dir.path(), Owners::Recorded);
    let path = ImagePath::new;
    assert!(matches!(
        tree.read_dir(&path("/none")),
        Err(TreeError::NotFound(_))
    ));
    assert!(matches!(
        tree.read_dir(&path("/f")),
        Err(TreeError::NotADirectory(_))
    ));
    assert!(matches!(
        tree.open(&path("/none")),
        Err(TreeError::NotFound(_))
    ));
    assert!(matches!(
        tree.open(&path("/l")),
        Err(TreeError::NotAFile(_))
    ));
    assert!(matches!(
        tree.xattrs(&path("/none")),
        Err(TreeError::NotFound(_))
    ));
    assert_eq!(tree.lookup(&path("/f/x")).unwrap(), None);
    assert_eq!(
        tree.lookup(&path("/l/x")).unwrap(),
        None,
        "links above are not followed"
    );
    assert!(
        tree.lookup(&ImagePath::root())
            .unwrap()
            .unwrap()
            .is_directory()
    );
    assert!(
        Snapshot::empty()
            .lookup(&ImagePath::root())
            .unwrap()
            .unwrap()
            .is_directory()
    );
    assert!(
        Snapshot::empty()
            .read_dir(&ImagePath::root())
            .unwrap()
            .is_empty()
    );
}

#[test]
fn layers_are_handed_out_lowest_first() {
    let dir = tempfile::tempdir().unwrap();
    let tree = snapshot(&["/a", "/b"], dir.path(), Owners::Recorded);
    let names: Vec<_> = tree
        .directories()
        .unwrap()
        .iter()
        .map(|layer| layer.path.file_name().unwrap().to_owned())
        .collect();
    assert_eq!(names, ["layer0", "layer1"]);
}
