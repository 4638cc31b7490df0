//! Trees for tests, as text: one entry a line (or between semicolons), `[mode] [uid:gid] path[ what]`. A path that ends
//! with a slash is a directory; what is `= content`, `-> target`, `== other name`, `fifo`, `c1:3`, `b8:0`, `whiteout` or
//! `opaque`. Modes and owners that are usual (755 or 644, 0:0) are left out.

#![allow(clippy::unwrap_used, reason = "tests")]

use std::{ffi::OsStr, fmt::Write, io::Read, path::Path, sync::Arc};

use crate::{
    layer::{LayerDir, Owners},
    snapshot::Snapshot,
    tree::{Attributes, Device, Entry, ImagePath, Kind, Timestamp, Tree, Xattrs},
    upper::Upper,
};

/// When everything of a fixture was changed.
pub(crate) const FIXTURE_TIME: Timestamp = Timestamp {
    seconds: 1_000_000,
    nanos: 0,
};

/// The ways of keeping owners that this process can test: on disk only as root.
pub(crate) fn all_owners() -> Vec<Owners> {
    if rustix::process::geteuid().is_root() {
        vec![Owners::OnDisk, Owners::Recorded]
    } else {
        vec![Owners::Recorded]
    }
}

/// Whether overlayfs can be mounted below `dir`: not without root, and not in every container.
pub(crate) fn can_mount_overlay(dir: &Path) -> bool {
    let probe = dir.join("overlay-probe");
    for name in ["a", "b", "merged"] {
        fs_err::create_dir_all(probe.join(name)).unwrap();
    }
    let script = "cd \"$0\" && mount -t overlay probe -o userxattr,lowerdir=a:b merged";
    std::process::Command::new("unshare")
        .args(["-m", "sh", "-c", script])
        .arg(&probe)
        .stderr(std::process::Stdio::null())
        .status()
        .is_ok_and(|status| status.success())
}

/// The layer that `text` describes, in the new directory `into`.
pub(crate) fn layer(text: &str, into: &Path, owners: Owners) -> Arc<LayerDir> {
    let base = Snapshot::empty();
    let mut upper = Upper::create(&base, into, owners).unwrap();
    for line in text
        .split([';', '\n'])
        .map(str::trim)
        .filter(|line| !line.is_empty())
    {
        put(&mut upper, line);
    }
    Arc::new(upper.finish().unwrap())
}

/// The snapshot of layers that `texts` describe, the lowest first, below the directory `root`.
pub(crate) fn snapshot(texts: &[&str], root: &Path, owners: Owners) -> Snapshot {
    let layers = (0..)
        .zip(texts)
        .map(|(number, text)| layer(text, &root.join(format!("layer{number}")), owners));
    Snapshot::new(layers.collect())
}

fn put(upper: &mut Upper<'_>, line: &str) {
    let mut rest = line;
    let mut next_word = |is: &dyn Fn(&str) -> bool| {
        let (word, after) = rest.split_once(' ').unwrap_or((rest, ""));
        is(word).then(|| {
            rest = after.trim_start();
            word
        })
    };
    let mode = next_word(&|word| word.bytes().all(|byte| byte.is_ascii_digit()));
    let owner = next_word(&|word| {
        word.split(':').all(|id| id.parse::<u32>().is_ok()) && word.contains(':')
    });
    let name = next_word(&|_| true).unwrap();
    let (uid, gid) = owner.map_or((0, 0), |owner| {
        let (uid, gid) = owner.split_once(':').unwrap();
        (uid.parse().unwrap(), gid.parse().unwrap())
    });
    let path = ImagePath::new(name);
    let plain = |mode| Attributes {
        mode,
        uid: 0,
        gid: 0,
        mtime: FIXTURE_TIME,
        xattrs: Xattrs::new(),
    };
    if rest != "opaque"
        && let Some(parent) = path.parent()
    {
        upper
            .make_directories(&parent, &plain(0o755), false)
            .unwrap();
    }
    let usual = if name.ends_with('/') { 0o755 } else { 0o644 };
    let mode = mode.map_or(usual, |mode| u32::from_str_radix(mode, 8).unwrap());
    let attributes = Attributes {
        uid,
        gid,
        ..plain(mode)
    };
    let done = match rest.split_once(' ').unwrap_or((rest, "")) {
        ("", _) if name.ends_with('/') => upper.directory(&path, &attributes),
        ("" | "=", content) => upper
            .file(&path, &attributes, &mut content.as_bytes())
            .map(drop),
        ("->", target) => upper.symlink(&path, OsStr::new(target), &attributes),
        ("==", target) => upper.hard_link(&path, &ImagePath::new(target)),
        ("fifo", _) => upper.special(&path, &Kind::Fifo, &attributes),
        ("whiteout", _) => upper.whiteout(&path),
        ("opaque", _) => upper.set_opaque(&path),
        (device, _) => {
            let (major, minor) = device[1..].split_once(':').unwrap();
            let device = Device {
                major: major.parse().unwrap(),
                minor: minor.parse().unwrap(),
            };
            let kind = if rest.starts_with('c') {
                Kind::CharDevice(device)
            } else {
                Kind::BlockDevice(device)
            };
            upper.special(&path, &kind, &attributes)
        }
    };
    done.unwrap();
}

/// All entries of `tree` as text, sorted, without the root.
pub(crate) fn show(tree: &dyn Tree) -> String {
    let mut out = String::new();
    show_directory(tree, &ImagePath::root(), &mut out);
    out
}

/// All entries of one layer.
pub(crate) fn show_layer(layer: &Arc<LayerDir>) -> String {
    show(&Snapshot::new(vec![Arc::clone(layer)]))
}

/// `text` as [`show`] writes it: trimmed, one entry a line, sorted.
pub(crate) fn lines(text: &str) -> String {
    let mut lines: Vec<_> = text
        .split([';', '\n'])
        .map(str::trim)
        .filter(|line| !line.is_empty())
        .collect();
    lines.sort_by_key(|line| {
        let path = line.split(' ').find(|word| word.starts_with('/')).unwrap();
        ImagePath::new(path)
    });
    lines
        .iter()
        .fold(String::new(), |out, line| out + line + "\n")
}

fn show_directory(tree: &dyn Tree, directory: &ImagePath, out: &mut String) {
    for (name, entry) in tree.read_dir(directory).unwrap() {
        let path = directory.child(&name);
        assert_eq!(
            tree.lookup(&path).unwrap().as_ref(),
            Some(&entry),
            "{path}: lookup and read_dir agree"
        );
        show_entry(tree, &path, &entry, out);
        if entry.is_directory() {
            show_directory(tree, &path, out);
        }
    }
}

fn show_entry(tree: &dyn Tree, path: &ImagePath, entry: &Entry, out: &mut String) {
    let usual = match entry.kind {
        Kind::Directory => 0o755,
        Kind::Symlink(_) => 0o777,
        _ => 0o644,
    };
    if entry.mode != usual {
        write!(out, "{:o} ", entry.mode).unwrap();
    }
    if (entry.uid, entry.gid) != (0, 0) {
        write!(out, "{}:{} ", entry.uid, entry.gid).unwrap();
    }
    write!(out, "{path}").unwrap();
    match &entry.kind {
        Kind::Directory => out.push('/'),
        Kind::File => {
            let mut content = String::new();
            tree.open(path)
                .unwrap()
                .read_to_string(&mut content)
                .unwrap();
            assert_eq!(content.len() as u64, entry.size, "{path}");
            if !content.is_empty() {
                write!(out, " = {content}").unwrap();
            }
        }
        Kind::Symlink(target) => write!(out, " -> {}", target.display()).unwrap(),
        Kind::Fifo => out.push_str(" fifo"),
        Kind::CharDevice(device) => write!(out, " c{}:{}", device.major, device.minor).unwrap(),
        Kind::BlockDevice(device) => write!(out, " b{}:{}", device.major, device.minor).unwrap(),
        Kind::Socket | Kind::Whiteout => panic!("{path}: {:?}", entry.kind),
    }
    out.push('\n');
}
