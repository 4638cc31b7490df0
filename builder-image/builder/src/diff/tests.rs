//! What is left of an upper directory: the upper directories are made as overlayfs and the mounts of a RUN leave them.

#![allow(clippy::unwrap_used, reason = "tests")]

use std::sync::Arc;

use super::*;
use crate::{
    fixture::{FIXTURE_TIME, layer, lines, show_layer, snapshot},
    layer::Owners,
    tree::Timestamp,
};

/// The layer of a RUN that left `upper` over `base`.
fn diff(base: &str, upper: &str, stubs: &[&str]) -> (tempfile::TempDir, Arc<LayerDir>, Snapshot) {
    // Only the listing matters here, and recorded owners work for every user.
    let owners = Owners::Recorded;
    let dir = tempfile::tempdir().unwrap();
    let base = snapshot(&[base], dir.path(), owners);
    let path = dir.path().join("upper");
    layer(upper, &path, owners);
    let stubs: Vec<_> = stubs.iter().map(ImagePath::new).collect();
    let made = layer_of_run(&path, &base, &stubs).unwrap();
    (dir, Arc::new(made), base)
}

#[test]
#[rustfmt::skip] // One row, one line.
fn stubs_and_idle_whiteouts_are_taken_out() {
    let stubs = &["/etc", "/etc/hosts", "/etc/resolv.conf", "/proc", "/dev"][..];
    for (name, base, upper, expected) in [
        ("nothing but stubs", "/etc/x = o", "/etc/hosts; /etc/resolv.conf; /proc/; /dev/", ""),
        ("all of it made for the step", "", "/etc/hosts; /etc/resolv.conf; /proc/", ""),
        ("a stub that was written", "/etc/", "/etc/hosts = 127.0.0.1; /proc/", "/etc/; /etc/hosts = 127.0.0.1"),
        ("a stub that was filled", "/etc/", "/proc/x = y", "/proc/; /proc/x = y"),
        ("a stub that the image has", "/etc/hosts = old", "/etc/hosts", "/etc/; /etc/hosts"),
        ("a link in place of a stub", "/etc/", "/etc/hosts -> /run/hosts", "/etc/; /etc/hosts -> /run/hosts"),
        ("a link above a stub", "/real/hosts = keep", "/etc -> real", "/etc -> real"),
        ("other changes beside a stub", "/etc/", "/etc/hosts; /etc/new = n", "/etc/; /etc/new = n"),
        ("a directory that the step changed", "/etc/", "700 /etc/; /etc/hosts", "700 /etc/"),
        ("changes elsewhere", "/etc/", "/usr/bin/x = y; /etc/hosts", "/usr/; /usr/bin/; /usr/bin/x = y"),
    ] {
        let (_dir, layer, _) = diff(base, upper, stubs);
        assert_eq!(show_layer(&layer), lines(expected), "{name}");
    }
}

#[test]
fn whiteouts_stay_where_the_image_has_something() {
    let (_dir, layer, base) = diff(
        "/a = x; /d/b = y; /d/c = z; /e/f = g",
        "/a whiteout; /never whiteout; /d/b whiteout; /d/never whiteout; /e/f whiteout; /new/never whiteout; /new/x = n",
        &[],
    );
    let names = |path: &str| -> Vec<_> {
        let entries = layer.entries(&ImagePath::new(path)).unwrap().unwrap();
        entries
            .into_iter()
            .map(|(name, entry)| (name.into_string().unwrap(), entry.kind == Kind::Whiteout))
            .collect()
    };
    let owned = |expected: &[(&str, bool)]| -> Vec<(String, bool)> {
        expected
            .iter()
            .map(|(name, whiteout)| ((*name).to_owned(), *whiteout))
            .collect()
    };
    assert_eq!(
        names("/"),
        owned(&[("a", true), ("d", false), ("e", false), ("new", false)])
    );
    assert_eq!(names("/d"), owned(&[("b", true)]));
    assert_eq!(names("/new"), owned(&[("x", false)]));
    let merged = base.with(Arc::clone(&layer));
    assert_eq!(
        crate::fixture::show(&merged),
        lines("/d/; /d/c = z; /e/; /new/; /new/x = n")
    );
    let mtime = |path: &str| layer.entry(&ImagePath::new(path)).unwrap().unwrap().mtime;
    assert_eq!(
        (mtime("/d"), mtime("/new")),
        (FIXTURE_TIME, FIXTURE_TIME),
        "taking out changes no time"
    );
}

#[test]
fn a_directory_that_only_stubs_changed_gets_its_time_back() {
    let owners = Owners::Recorded;
    let dir = tempfile::tempdir().unwrap();
    let base = snapshot(&["/etc/app/conf = old"], dir.path(), owners);
    let path = dir.path().join("upper");
    layer("/etc/hosts; /etc/app/conf = new", &path, owners);
    // The mount made `hosts` while the step ran.
    let root = Root::open(&path).unwrap();
    let now = Timestamp::from_seconds(9_000_000);
    root.set_directory_mtime(&ImagePath::new("/etc"), now)
        .unwrap();
    root.set_directory_mtime(&ImagePath::new("/etc/app"), now)
        .unwrap();
    let made = layer_of_run(&path, &base, &[ImagePath::new("/etc/hosts")]).unwrap();
    let mtime = |path: &str| made.entry(&ImagePath::new(path)).unwrap().unwrap().mtime;
    assert_eq!(mtime("/etc"), FIXTURE_TIME);
    assert_eq!(
        mtime("/etc/app"),
        now,
        "what the step changed keeps its time"
    );
}

#[test]
fn nothing_outside_is_touched() {
    let dir = tempfile::tempdir().unwrap();
    let probe = dir.path().join("probe");
    fs_err::create_dir(&probe).unwrap();
    fs_err::write(probe.join("hosts"), "").unwrap();
    let upper = dir.path().join("upper");
    fs_err::create_dir(&upper).unwrap();
    // The step put links where the stubs were (CVE-2024-23652).
    std::os::unix::fs::symlink(&probe, upper.join("etc")).unwrap();
    std::os::unix::fs::symlink("../probe", upper.join("proc")).unwrap();
    let stubs = ["/etc/hosts", "/proc/hosts", "/proc"].map(ImagePath::new);
    let made = layer_of_run(&upper, &Snapshot::empty(), &stubs).unwrap();
    assert!(probe.join("hosts").exists());
    assert_eq!(made.entries(&ImagePath::root()).unwrap().unwrap().len(), 2);
}
