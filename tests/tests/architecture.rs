//! The invariants of ARCHITECTURE.md that can be read off the sources: which crate may use which, where `unsafe`
//! stands, who writes to Kubernetes, and which modules take no client, clock or path.
#![expect(clippy::unwrap_used, reason = "tests")]

use std::{
    collections::{BTreeMap, BTreeSet},
    path::{Path, PathBuf},
    process::Command,
};

use serde_json::Value;

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR"))
        .parent()
        .unwrap()
        .to_owned()
}

/// Direct dependencies of each workspace crate, development dependencies left out.
fn dependencies() -> BTreeMap<String, BTreeSet<String>> {
    let output = Command::new(env!("CARGO"))
        .args([
            "metadata",
            "--format-version",
            "1",
            "--no-deps",
            "--offline",
            "--locked",
        ])
        .current_dir(root())
        .output()
        .unwrap();
    assert!(
        output.status.success(),
        "{}",
        String::from_utf8_lossy(&output.stderr)
    );
    let metadata: Value = serde_json::from_slice(&output.stdout).unwrap();
    let text = |value: &Value| value.as_str().unwrap().to_owned();
    metadata["packages"]
        .as_array()
        .unwrap()
        .iter()
        .map(|package| {
            let used = package["dependencies"].as_array().unwrap().iter();
            let used = used
                .filter(|d| d["kind"].is_null())
                .map(|d| text(&d["name"]))
                .collect();
            (text(&package["name"]), used)
        })
        .collect()
}

#[test]
fn crates_depend_one_way() {
    let allowed: BTreeMap<&str, &[&str]> = BTreeMap::from([
        ("oci", &[][..]),
        ("protocol", &[]),
        ("dockerfile", &[]),
        ("crds", &[]),
        ("distribution", &["oci"]),
        ("store", &["oci"]),
        ("images", &["oci", "store"]),
        ("signature", &["distribution", "oci"]),
        ("mirror", &["crds", "distribution", "oci"]),
        (
            "builder",
            &[
                "crds",
                "dockerfile",
                "distribution",
                "images",
                "mirror",
                "oci",
                "protocol",
                "signature",
                "store",
            ],
        ),
        (
            "operator",
            &["crds", "distribution", "mirror", "oci", "protocol"],
        ),
    ]);
    let found = dependencies();
    for (name, used) in &found {
        let Some(allowed) = allowed.get(name.as_str()) else {
            assert_eq!(
                name, "tests",
                "say in this table what the new crate `{name}` may use"
            );
            continue;
        };
        let ours: Vec<_> = used.iter().filter(|d| found.contains_key(*d)).collect();
        for dependency in ours {
            assert!(
                allowed.contains(&dependency.as_str()),
                "`{name}` must not use `{dependency}`"
            );
        }
    }
}

#[test]
fn pure_crates_do_no_io() {
    let found = dependencies();
    for name in ["oci", "protocol", "dockerfile"] {
        for forbidden in ["tokio", "kube", "reqwest", "fs-err", "rustix", "axum"] {
            assert!(
                !found[name].contains(forbidden),
                "`{name}` must not use `{forbidden}`"
            );
        }
        for (path, text) in sources(&root().join("builder-image").join(name).join("src")) {
            let io = [
                "std::fs",
                "std::net::Tcp",
                "std::net::Udp",
                "std::process",
                "fs_err",
            ]
            .into_iter()
            .find(|w| code(&text).contains(w));
            assert_eq!(io, None, "{}", path.display());
        }
    }
    for name in ["crds"] {
        for forbidden in ["tokio", "reqwest"] {
            assert!(
                !found[name].contains(forbidden),
                "`{name}` must not use `{forbidden}`"
            );
        }
    }
}

#[test]
fn unsafe_stands_in_exec_only_and_says_why() {
    for (path, text) in all_sources() {
        let relative = path.strip_prefix(root()).unwrap();
        for (number, line) in text.lines().enumerate() {
            let keyword = concat!("un", "safe");
            let found = [" {", " fn", " impl"]
                .iter()
                .any(|after| code(line).contains(&format!("{keyword}{after}")));
            if !found {
                continue;
            }
            assert!(
                relative.starts_with("builder-image/builder/src/exec"),
                "{}:{}",
                relative.display(),
                number + 1
            );
            let before: Vec<&str> = text.lines().take(number + 1).collect();
            let near = &before[before.len().saturating_sub(8)..];
            assert!(
                near.iter().any(|l| l.contains("SAFETY:")),
                "{}:{} has no SAFETY comment",
                relative.display(),
                number + 1
            );
        }
    }
}

#[test]
fn deciding_takes_no_client_clock_or_path() {
    let pure = [
        "plan.rs",
        "pod.rs",
        "status.rs",
        "validate.rs",
        "workload.rs",
        "cache_key.rs",
        "cause.rs",
        "shape.rs",
        "key.rs",
        "record.rs",
        "start.rs",
        "next.rs",
        "need.rs",
        "account.rs",
        "history.rs",
        "verdict.rs",
    ];
    let world = [
        "async fn",
        "kube::Client",
        "kube::Api",
        "Timestamp::now(",
        "Instant::now(",
        "SystemTime::now(",
        "std::fs",
        "fs_err",
        "std::env::var",
    ];
    let crates = ["operator/src", "builder-image/builder/src"];
    for (path, text) in crates.iter().flat_map(|c| sources(&root().join(c))) {
        let name = path.file_name().unwrap().to_str().unwrap();
        // `pod.rs` of the builder is the entry of the pod; that of the operator makes the Pod.
        let in_operator = path.starts_with(root().join("operator"));
        let in_graph = path.parent().is_some_and(|p| p.ends_with("graph"));
        // The command line is the rim; its `history.rs` is a verb.
        let in_command_line = path.starts_with(root().join("builder-image/builder/src/cli"));
        let elsewhere = in_command_line || (name == "pod.rs" && !in_operator);
        if elsewhere || !(pure.contains(&name) || in_graph) {
            continue;
        }
        let deciding = text.split("#[cfg(test)]").next().unwrap();
        for word in world {
            assert!(
                !code(deciding).contains(word),
                "{} takes `{word}`",
                path.display()
            );
        }
    }
}

#[test]
fn one_module_writes_to_kubernetes() {
    let verbs = [
        ".patch_status(",
        ".replace_status(",
        ".delete_collection(",
        ".create(&PostParams",
        ".patch(&",
    ];
    for (path, text) in sources(&root().join("operator/src")) {
        // The lease is not an object of a reconcile, and has a client of its own.
        if path.ends_with("apply.rs") || path.ends_with("leader.rs") {
            continue;
        }
        let text = text.split("#[cfg(test)]").next().unwrap();
        for verb in verbs {
            assert!(
                !code(text).contains(verb),
                "{} calls `{verb}`",
                path.display()
            );
        }
    }
}

#[test]
fn files_say_what_they_are_and_stay_readable() {
    for (path, text) in all_sources() {
        assert!(
            text.starts_with("//!") || text.starts_with("#!["),
            "{} does not say what it is",
            path.display()
        );
        let lines = text.lines().count();
        assert!(
            lines <= 900,
            "{} has {lines} lines: split it by subject",
            path.display()
        );
    }
}

fn all_sources() -> Vec<(PathBuf, String)> {
    ["crds", "operator", "builder-image", "tests"]
        .iter()
        .flat_map(|top| sources(&root().join(top)))
        .collect()
}

fn sources(folder: &Path) -> Vec<(PathBuf, String)> {
    let mut found = Vec::new();
    for entry in fs_err::read_dir(folder).unwrap().map(Result::unwrap) {
        let path = entry.path();
        if path.is_dir() && !path.ends_with("target") && !path.ends_with("testdata") {
            found.extend(sources(&path));
        } else if path.extension().is_some_and(|e| e == "rs") {
            let text = fs_err::read_to_string(&path).unwrap();
            found.push((path, text));
        }
    }
    found.sort();
    found
}

/// `text` without comments and the contents of this very table, so that words in prose do not count.
fn code(text: &str) -> String {
    text.lines()
        .map(|line| line.split("//").next().unwrap_or_default())
        .collect::<Vec<_>>()
        .join("\n")
}
