#![allow(clippy::unwrap_used, reason = "tests")]

use super::*;

fn mark(text: &str) -> Mark {
    let mut mark = Mark::new();
    mark.update(text.as_bytes());
    mark
}

fn listing(files: &[(&str, &str)]) -> FileMarks {
    let mut listing = FileMarks::default();
    for (path, content) in files {
        listing.add(path, &mark(content));
    }
    listing
}

/// The inputs of a RUN, with those of `set` and without those of `gone`.
fn trail(set: &[(&str, &str)], gone: &[&str]) -> Trail {
    let mut inputs = BTreeMap::from([("below", "base"), ("args", "make"), ("chown", "web")]);
    inputs.extend([("env A", "1"), ("env VERSION", "1")]);
    inputs.extend(set.iter().copied());
    inputs.retain(|name, _| !gone.contains(name));
    let mut trail = Trail::default();
    for (name, value) in inputs {
        match name.strip_prefix(VARIABLE) {
            Some(name) => trail.note_variable(&format!("{name}={value}")),
            None => trail.note(name, value),
        }
    }
    trail
}

fn cause(new: &Trail, earlier: &[Trail], below_line: Option<usize>) -> String {
    let arguments = BTreeSet::from(["VERSION".to_owned()]);
    let names = Names {
        below_line,
        arguments: &arguments,
    };
    new.cause(earlier, &names).to_string()
}

#[test]
fn the_input_that_changed_is_named() {
    let old = trail(&[], &[]);
    for (new, below, expected) in [
        (
            trail(&[], &[]),
            None,
            "pruned: its result is no longer in the cache",
        ),
        (trail(&[("below", "x")], &[]), None, "base changed"),
        (
            trail(&[("below", "x")], &[]),
            Some(7),
            "the step before it (line 7) changed",
        ),
        (
            trail(&[("env VERSION", "2")], &[]),
            None,
            "argument VERSION changed",
        ),
        (trail(&[], &["env A"]), None, "variable A is gone"),
        (trail(&[], &["chown"]), None, "--chown is gone"),
        (trail(&[("network", "none")], &[]), None, "network is new"),
        (
            trail(&[("below", "x"), ("args", "make all")], &[]),
            None,
            "command or document changed; base changed",
        ),
    ] {
        assert_eq!(cause(&new, std::slice::from_ref(&old), below), expected);
    }
    assert_eq!(cause(&old, &[], None), "first build of this step");
}

#[test]
fn the_nearest_earlier_one_counts() {
    let new = trail(&[("env VERSION", "2")], &[]);
    let other = trail(&[("below", "other"), ("args", "other")], &[]);
    let text = cause(&new, &[other, trail(&[], &[])], None);
    assert_eq!(text, "argument VERSION changed");
}

#[test]
fn files_are_told_by_name() {
    let of = |files: &[(&str, &str)]| {
        let mut trail = Trail::default();
        trail.note("content", &format!("{files:?}"));
        trail.note_files(listing(files));
        trail
    };
    let old = of(&[("src/main.c", "1"), ("src/a.c", "1"), ("README", "1")]);
    for (new, expected) in [
        (
            of(&[("src/main.c", "2"), ("src/a.c", "1"), ("README", "1")]),
            "files changed: src/main.c",
        ),
        (
            of(&[("src/main.c", "2"), ("src/b.c", "1"), ("README", "1")]),
            "files changed: src/main.c; files added: src/b.c; files removed: src/a.c",
        ),
        (
            of(&[("1", ""), ("2", ""), ("3", ""), ("4", ""), ("5", "")]),
            "files added: 1, 2, 3 and 2 more; files removed: README, src/a.c, src/main.c",
        ),
    ] {
        assert_eq!(cause(&new, std::slice::from_ref(&old), None), expected);
    }
    // The same files under other names of their sources.
    let mut moved = old.clone();
    moved.note("content", "again");
    assert_eq!(cause(&moved, &[old], None), "what is copied changed");
}

#[test]
fn many_files_are_folded_and_still_compared() {
    let many = |changed: &str| {
        let mut listing = FileMarks::default();
        for directory in 0..100 {
            for file in 0..100 {
                let path = format!("src/d{directory}/f{file}");
                let content = if path == changed { "new" } else { "old" };
                listing.add(&path, &mark(content));
            }
        }
        listing
    };
    let (old, new) = (many(""), many("src/d7/f3"));
    assert_eq!(new.delta(&old).changed, ["src/d7"]);
    assert!(serde_json::to_vec(&old).unwrap().len() < 8 << 10);
    // One that was never folded is compared at the same depth.
    let few = listing(&[("src/d7/f3", "old")]);
    let delta = few.delta(&old);
    assert_eq!(delta.changed, ["src/d7"]);
    assert_eq!(delta.removed.len(), 99);
    let mut flat = FileMarks::default();
    for file in 0..5000 {
        flat.add(&format!("f{file}"), &mark("x"));
    }
    let mut other = flat.clone();
    other.add("one-more", &mark("x"));
    assert_eq!(other.delta(&flat).changed, ["."]);
}

#[test]
fn a_trail_holds_no_values_and_survives_the_disk() {
    let mut trail = trail(&[], &[]);
    trail.note_variable("TOKEN=hunter2");
    trail.note_files(listing(&[("a", "hunter2")]));
    let json = serde_json::to_string(&trail).unwrap();
    assert!(
        json.contains("TOKEN") && !json.contains("hunter2"),
        "{json}"
    );
    let read: Trail = serde_json::from_str(&json).unwrap();
    assert_eq!(
        cause(&read, &[trail], None),
        "pruned: its result is no longer in the cache"
    );
}
