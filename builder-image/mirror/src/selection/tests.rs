#![allow(clippy::unwrap_used, reason = "tests")]

use serde_json::{Value, json};

use super::*;

fn selector(selection: &Value) -> Result<Selector, InvalidSelection> {
    Selector::of(&serde_json::from_value(selection.clone()).unwrap())
}

fn tags(names: &[&str]) -> Vec<Tag> {
    names.iter().map(|name| name.parse().unwrap()).collect()
}

fn select(selection: &Value, listed: &[&str]) -> String {
    let selected = selector(selection).unwrap().select(&tags(listed));
    let names: Vec<_> = selected.iter().map(Tag::as_str).collect();
    names.join(" ")
}

const NGINX: &[&str] = &[
    "1",
    "1.24",
    "1.25",
    "1.25-alpine",
    "1.25.3",
    "1.26",
    "1.26-alpine",
    "1.26-perl",
    "1.26.0-rc1",
    "1.27-alpine-rc",
    "2",
    "2.0.1",
    "latest",
    "stable",
    "v1.26.1",
];

#[test]
fn tags_are_selected() {
    for (selection, expected) in [
        // Names are taken as they are, listed or not, in their order and once.
        (
            json!({"names": ["stable", "absent", "stable"]}),
            "stable absent",
        ),
        (json!({"semver": ">=1.25 <2"}), "v1.26.1 1.26 1.25.3 1.25"),
        (
            json!({"semver": ">= 1.25, < 2"}),
            "v1.26.1 1.26 1.25.3 1.25",
        ),
        // A version alone is that version, as far as it is given.
        (json!({"semver": "1.25"}), "1.25.3 1.25"),
        (json!({"semver": "v1.25.3"}), "1.25.3"),
        (json!({"semver": "1.26.x || 2"}), "2.0.1 2 v1.26.1 1.26"),
        (json!({"semver": "~1.25 || ^2.0.1"}), "2.0.1 1.25.3 1.25"),
        (
            json!({"semver": "*"}),
            "2.0.1 2 v1.26.1 1.26 1.25.3 1.25 1.24 1",
        ),
        // A suffix is a pre-release, unless the range names one or a pattern says which are wanted.
        (json!({"semver": ">=1.26.0-rc1 <1.26.1"}), "1.26 1.26.0-rc1"),
        (
            json!({"semver": ">=1.25 <2", "regex": r"^1\.\d+-alpine$"}),
            "1.26-alpine 1.25-alpine",
        ),
        (
            json!({"semver": ">=1.25 <2", "regex": "-", "exclude": "-rc"}),
            "1.26-perl 1.26-alpine 1.25-alpine",
        ),
        (
            json!({"semver": ">=1.25 <2", "regex": "-", "exclude": "rc|perl"}),
            "1.26-alpine 1.25-alpine",
        ),
        // Patterns find, they need not match the whole.
        (json!({"regex": "ab"}), "stable"),
        (json!({"regex": "^(?i:LATEST)$"}), "latest"),
        (json!({"regex": "nothing"}), ""),
        // Names win over what is excluded, and do not count among the newest.
        (
            json!({"names": ["1.24"], "regex": r"^1\.2\d$", "exclude": "4", "newest": 1}),
            "1.24 1.26",
        ),
        (
            json!({"names": ["1.26"], "regex": r"^1\.2\d$", "newest": 1}),
            "1.26 1.25",
        ),
        (
            json!({"all": true, "newest": 4}),
            "2.0.1 2 1.27-alpine-rc v1.26.1",
        ),
        (
            json!({"all": true, "exclude": r"^v?\d", "newest": 9}),
            "stable latest",
        ),
        (json!({"names": ["a"], "newest": 1}), "a"),
    ] {
        assert_eq!(select(&selection, NGINX), expected, "{selection}");
    }
}

#[test]
fn the_newest_are_so_by_number_and_not_by_letter() {
    for (listed, expected) in [
        (&["1.9", "1.10", "1.11"][..], "1.11 1.10 1.9"),
        (&["v2", "10", "9.9.9"], "10 9.9.9 v2"),
        (&["1.0-rc2", "1.0-rc10", "1.0"], "1.0 1.0-rc10 1.0-rc2"),
        (&["1.2.3.4", "1.2.3.10", "1.2.3"], "1.2.3.10 1.2.3.4 1.2.3"),
        (
            &["nightly-20240102", "nightly-20231231", "zzz"],
            "zzz nightly-20240102 nightly-20231231",
        ),
        (&["b9", "b10", "b010"], "b10 b010 b9"),
        (
            &["2024.01.05", "2024.1.10", "edge"],
            "2024.1.10 2024.01.05 edge",
        ),
        // No number of this size is a version, and nothing breaks.
        (
            &["99999999999999999999999", "1"],
            "1 99999999999999999999999",
        ),
        (&["1", "1.0", "1.0.0"], "1.0.0 1.0 1"),
        (&["a", "a"], "a"),
    ] {
        assert_eq!(select(&json!({"all": true}), listed), expected);
        let mut other: Vec<_> = listed.to_vec();
        other.reverse();
        assert_eq!(
            select(&json!({"all": true}), &other),
            expected,
            "in any order"
        );
    }
}

#[test]
fn what_cannot_be_read_is_refused_with_its_field() {
    for (selection, field, message) in [
        (json!({}), "", "selects nothing"),
        (json!({"all": false}), "", "selects nothing"),
        (json!({"newest": 3, "exclude": "a"}), "", "selects nothing"),
        (json!({"all": true, "regex": "a"}), "all", "neither"),
        (json!({"all": true, "names": ["a"]}), "all", "neither"),
        (json!({"names": ["a", ".b"]}), "names[1]", ""),
        (json!({"regex": "("}), "regex", "unclosed group"),
        (json!({"regex": r"(a)\1"}), "regex", "backreferences"),
        (
            json!({"regex": "(((x{100}){100}){100}){100}"}),
            "regex",
            "too large",
        ),
        (
            json!({"regex": "(".repeat(40) + &")".repeat(40)}),
            "regex",
            "nest",
        ),
        (json!({"regex": "a", "exclude": "["}), "exclude", "unclosed"),
        (json!({"semver": ""}), "semver", "lacks a version"),
        (json!({"semver": ">="}), "semver", "lacks a version"),
        (json!({"semver": ">=1.2 ||"}), "semver", "lacks a version"),
        (json!({"semver": "1.2 - 1.4"}), "semver", "not a range"),
        (json!({"semver": "latest"}), "semver", "not a range"),
    ] {
        let error = selector(&selection).unwrap_err();
        assert_eq!(error.field, field, "{selection}: {error}");
        assert!(error.message.contains(message), "{selection}: {error}");
        assert_eq!(error.is_tag, field.starts_with("names"));
    }
}

#[test]
fn only_a_pattern_needs_the_list() {
    let needs = |selection: Value| selector(&selection).unwrap().needs_list();
    assert!(!needs(json!({"names": ["a"], "newest": 3, "exclude": "a"})));
    assert!(needs(json!({"names": ["a"], "regex": "a"})));
    assert!(needs(json!({"all": true})));
}

/// Patterns that take exponential time elsewhere, over more tags than any repository has.
#[test]
fn a_hundred_thousand_tags_are_selected_in_a_moment() {
    let hostile = format!("{}-", "a".repeat(127));
    let listed: Vec<Tag> = (0..100_000)
        .map(|number| format!("1.{number}-{}", "a".repeat(40)).parse().unwrap())
        .chain([hostile.parse().unwrap()])
        .collect();
    let started = std::time::Instant::now();
    let newest = json!({"semver": ">=1", "regex": "-(a|a)*(a|aa)+$", "newest": 10});
    let selected = selector(&newest).unwrap().select(&listed);
    assert_eq!(selected.len(), 10);
    assert!(selected[0].as_str().starts_with("1.99999-"));
    // Seconds on the slowest machine; a pattern that explodes would take years.
    assert!(started.elapsed().as_secs() < 60);
}
