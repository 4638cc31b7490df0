//! WORKDIR: mirrors WorkdirUser, WorkdirExists and their like.

#![allow(clippy::unwrap_used, reason = "tests")]

use std::sync::Arc;

use super::*;
use crate::{
    fixture::{FIXTURE_TIME, all_owners, lines, show_layer, snapshot},
    snapshot::Snapshot,
    tree::Timestamp,
};

const NOW: Timestamp = Timestamp::from_seconds(2_000_000);

#[test]
#[rustfmt::skip] // One row, one line.
fn missing_directories_are_made_and_others_left_alone() {
    for (name, base, path, user, expected) in [
        ("a new one", "", "/w", "", "/w/"),
        ("with parents", "", "/a/b/c", "", "/a/; /a/b/; /a/b/c/"),
        ("WorkdirUser: owned by the user", "/etc/passwd = app:x:100:101::/:", "/a/b", "app", "100:101 /a/; 100:101 /a/b/"),
        ("a user by number", "", "/w", "5", "5:5 /w/"),
        ("a user and group", "", "/w", "5:6", "5:6 /w/"),
        ("an unknown user", "", "/w", "nobody", "/w/"),
        ("WorkdirExists: it stays as it is", "700 1:2 /w/", "/w", "5", ""),
        ("a parent stays as it is", "700 1:2 /w/", "/w/x", "5", "700 1:2 /w/; 5:5 /w/x/"),
        ("behind a link", "/real/; /w -> real", "/w/x", "", "/real/; /real/x/"),
        ("a link to nothing", "/w -> real/x", "/w", "", "/real/; /real/x/"),
        ("a link stays inside", "/w -> ../../../tmp", "/w/x", "", "/tmp/; /tmp/x/"),
        ("the root", "", "/", "5", ""),
        ("a file in the way", "/w = x", "/w", "", "error: /w: not a directory"),
        ("a file on the way", "/w = x", "/w/d", "", "error: /w: not a directory"),
    ] {
        for owners in all_owners() {
            let dir = tempfile::tempdir().unwrap();
            let base = snapshot(&[base], dir.path(), owners);
            let onto = Onto { base: &base, created: NOW, owners };
            let found = match workdir(path, user, &onto, &dir.path().join("new")) {
                Ok(layer) => show_layer(&Arc::new(layer)),
                Err(error) => format!("error: {error}"),
            };
            let expected = if expected.starts_with("error") { expected.to_owned() } else { lines(expected) };
            assert_eq!(found, expected, "{name} ({owners:?})");
        }
    }
}

#[test]
fn times_are_those_of_the_build_for_new_directories_only() {
    for owners in all_owners() {
        let dir = tempfile::tempdir().unwrap();
        let base = snapshot(&["/old/"], dir.path(), owners);
        let onto = Onto {
            base: &base,
            created: NOW,
            owners,
        };
        let layer = workdir("/old/new", "", &onto, &dir.path().join("new")).unwrap();
        let tree = Snapshot::new(vec![Arc::new(layer)]);
        let mtime = |path: &str| tree.lookup(&ImagePath::new(path)).unwrap().unwrap().mtime;
        assert_eq!((mtime("/old"), mtime("/old/new")), (FIXTURE_TIME, NOW));
    }
}

#[test]
fn working_directories_follow_each_other() {
    for (current, text, expected) in [
        ("/", "app", "/app"),
        ("/app", "src", "/app/src"),
        ("/app", "/srv", "/srv"),
        ("/app/src", "..", "/app"),
        ("/app", "../../..", "/"),
        ("/app", "./a//b/", "/app/a/b"),
        ("", "a", "/a"),
    ] {
        assert_eq!(next_workdir(current, text), expected, "{current} {text}");
    }
}
