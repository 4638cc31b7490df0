//! Specs that are refused, with the field that the message names, and what is read of those that are not.
#![allow(clippy::unwrap_used, reason = "tests")]

use super::*;
use crate::git::GitRef;
use serde_json::{Value, json};

/// A spec with a git source and one destination, with `change` merged into it.
fn spec(change: &Value) -> ImageBuildSpec {
    let mut value = json!({
        "source": {"git": {"url": "https://git.example.com/a.git", "ref": {"branch": "main"}}},
        "destinations": [{"name": "main", "registry": {"name": "main"}, "repository": "team/app", "tags": ["latest"]}],
    });
    merge(&mut value, change);
    serde_json::from_value(value).unwrap()
}

fn merge(into: &mut Value, from: &Value) {
    match (into, from) {
        (Value::Object(into), Value::Object(from)) => {
            for (key, value) in from {
                if value.is_null() {
                    into.remove(key);
                } else {
                    merge(into.entry(key).or_insert(Value::Null), value);
                }
            }
        }
        (into, from) => *into = from.clone(),
    }
}

fn git(url: &str, reference: &Value) -> Value {
    json!({"source": {"git": {"url": url, "ref": reference}}})
}

#[test]
fn contexts_inputs_and_triggers_are_read_before_a_pod_is_made() {
    for (change, expected) in [
        (
            json!({"dockerfile": {"contexts": [{"name": "base", "image": "h/Upper"}]}}),
            "spec.dockerfile.contexts[0].image",
        ),
        (
            json!({"dockerfile": {"buildArgs": {"BASE": "x"}}, "inputs": [{"name": "BASE", "imageBuild": {"name": "base"}}]}),
            "spec.inputs[0]: BASE is also in spec.dockerfile.buildArgs",
        ),
        (
            json!({"inputs": [{"name": "BASE", "imageBuild": {"name": "base", "output": "size"}}]}),
            "spec.inputs[0].imageBuild.output",
        ),
        (
            json!({"rebuild": {"triggers": ["Commit"]}}),
            "spec.rebuild.triggers",
        ),
        (
            json!({"rebuild": {"schedule": "0 0 31 2 *"}}),
            "spec.rebuild.schedule: such a time never comes",
        ),
        (
            json!({"rebuild": {"schedule": "@daily"}}),
            "spec.rebuild.schedule",
        ),
    ] {
        let violation = validate(&spec(&change)).unwrap_err();
        assert_eq!(violation.reason, Reason::InvalidSpec, "{change}");
        assert!(
            violation.message.contains(expected),
            "{}",
            violation.message
        );
    }
}

#[test]
fn what_breaks_a_rule_is_refused_with_its_field() {
    let url = "https://git.example.com/a";
    for (change, expected) in [
        (json!({"source": null}), "no Dockerfile"),
        (
            git("ext::sh -c id", &json!({"branch": "main"})),
            "spec.source.git.url",
        ),
        (git("file:///etc", &json!({"branch": "main"})), "only https"),
        (git("https://u:p@h/a", &json!({"branch": "main"})), "Secret"),
        (
            git(url, &json!({"branch": "--upload-pack=/bin/sh"})),
            "ref.branch",
        ),
        (git(url, &json!({"branch": "a..b"})), "ref.branch"),
        (git(url, &json!({"branch": "a b"})), "ref.branch"),
        (
            git(url, &json!({"branch": "main", "tag": "v1"})),
            "exactly one",
        ),
        (git(url, &json!({"branch": null, "tag": "-v1"})), "ref.tag"),
        (
            git(url, &json!({"branch": null, "commit": "abc"})),
            "ref.commit",
        ),
        (json!({"source": {"git": {"interval": "5"}}}), "interval"),
        (
            json!({"source": {"subdirectory": "../../etc"}}),
            "spec.source.subdirectory",
        ),
        (
            json!({"source": {"subdirectory": "/etc"}}),
            "spec.source.subdirectory",
        ),
        (
            json!({"source": {"configMap": {"name": "x"}}}),
            "at most one",
        ),
        (
            json!({"source": {"git": null, "http": {"url": "ftp://h/a"}}}),
            "https",
        ),
        (
            json!({"source": {"git": null, "http": {"url": "http://h/a"}}}),
            "checksum",
        ),
        (
            json!({"source": {"git": null, "http": {"url": "https://h/a", "checksum": "sha256:0"}}}),
            "checksum",
        ),
        (
            json!({"source": {"git": null, "http": {"url": "https://u@h/a"}}}),
            "Secret",
        ),
        (
            json!({"source": {"git": null, "http": {"url": "http://h/a", "checksum": format!("sha256:{}", "0".repeat(64)), "caSecretRef": {"name": "ca"}}}}),
            "caSecretRef",
        ),
        (
            json!({"dockerfile": {"path": "a/../../b"}}),
            "spec.dockerfile.path",
        ),
        (
            json!({"dockerfile": {"path": "a", "inline": "FROM scratch"}}),
            "at most one",
        ),
        (
            json!({"dockerfile": {"inline": "\u{1}".repeat(60_000)}}),
            "ConfigMap",
        ),
        (json!({"timeout": "0s"}), "timeout"),
        (json!({"timeout": "x"}), "timeout"),
        (json!({"isolation": "None"}), "isolation"),
        (json!({"destinations": []}), "spec.destinations"),
        (
            json!({"destinations": [{"name": "a", "image": "docker.io/A", "tags": ["x"]}]}),
            "spec.destinations[0].image",
        ),
        (
            json!({"destinations": [{"name": "a", "registry": {"name": "a"}, "image": "docker.io/a", "tags": ["x"]}]}),
            "either",
        ),
    ] {
        let violation = validate(&spec(&change)).unwrap_err();
        assert_eq!(violation.reason, Reason::InvalidSpec, "{change}");
        assert!(
            violation.message.contains(expected),
            "{change}: {}",
            violation.message
        );
    }
}

#[test]
fn a_tag_that_cannot_be_made_has_a_reason_of_its_own() {
    for (tag, expected) in [
        ("$(comit)", "not a variable"),
        ("$(branch)", "text before it"),
        ("x-$(tag)", "source.git.ref.tag"),
    ] {
        let change = json!({"destinations": [
            {"name": "a", "registry": {"name": "main"}, "repository": "a", "tags": ["ok", tag]}]});
        let violation = validate(&spec(&change)).unwrap_err();
        assert_eq!(violation.reason, Reason::InvalidTag);
        assert!(
            violation
                .message
                .starts_with("spec.destinations[0].tags[1]: ")
        );
        assert!(
            violation.message.contains(expected),
            "{}",
            violation.message
        );
    }
}

#[test]
fn credentials_that_may_push_come_first() {
    let change = json!({
        "imagePullSecrets": [{"name": "hub"}, {"name": "push"}],
        "destinations": [
            {"name": "a", "image": "docker.io/acme/app", "secretRef": {"name": "push"}, "tags": ["x"]},
            {"name": "b", "registry": {"name": "main"}, "repository": "app", "tags": ["x"]},
        ],
    });
    let build = validate(&spec(&change)).unwrap();
    assert_eq!(
        build.registry_secrets(),
        ["push", "main-credentials", "hub"]
    );
    assert_eq!(build.registries(), ["main"]);
}

#[test]
fn defaults_are_read() {
    let build = validate(&spec(&json!({}))).unwrap();
    assert_eq!(build.timeout, Duration::from_secs(3600));
    assert_eq!(build.isolation, Isolation::Auto);
    let SourceSpec::Git {
        reference,
        interval,
        ..
    } = &build.source
    else {
        panic!("not git");
    };
    assert_eq!(*reference, GitRef::Branch("main".into()));
    assert_eq!(*interval, Duration::from_secs(300));
}
