//! The chart without an operator: its values and their descriptions, its templates on a real API server, and the rights that
//! it gives. Whether the operator runs is asked elsewhere (`chart_lifecycle`, `e2e`).
//!
//! Needs root and the programs that `tests/cluster/build` builds; without root it says so and checks only the files.

#![expect(clippy::unwrap_used, reason = "tests")]

#[path = "chart/rights.rs"]
mod rights;

use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;
use std::process::{Command, Output};

use rights::Place;
use serde_json::Value;
use tests::cluster::{Cluster, Options, left_out};
use tests::stage::repository;

fn chart() -> PathBuf {
    repository().join("charts/coopery")
}

fn read(file: &str) -> String {
    fs_err::read_to_string(chart().join(file)).unwrap()
}

fn value_files() -> Vec<PathBuf> {
    let mut files: Vec<PathBuf> = fs_err::read_dir(chart().join("ci"))
        .unwrap()
        .map(|entry| entry.unwrap().path())
        .collect();
    files.sort();
    assert!(files.len() >= 3, "{files:?}");
    files
}

/// The values that the schema describes by themselves, and the schema of each: an object without named fields is one value.
fn described(path: &str, schema: &Value, into: &mut BTreeMap<String, Value>) {
    let fields = schema["properties"].as_object().into_iter().flatten();
    for (name, field) in fields {
        let path = format!("{path}{name}");
        if field["properties"].is_object() && path != "resources" {
            described(&format!("{path}."), field, into);
        } else {
            into.insert(path, field.clone());
        }
    }
}

#[test]
fn every_value_is_described() {
    let schema: Value = serde_json::from_str(&read("values.schema.json")).unwrap();
    let values: Value = serde_saphyr::from_str(&read("values.yaml")).unwrap();
    let mut known = BTreeMap::new();
    described("", &schema, &mut known);
    known.remove("global");
    for (path, schema) in &known {
        assert!(
            schema["description"].is_string(),
            "{path} has no description"
        );
        let pointer = format!("/{}", path.replace('.', "/"));
        assert!(
            values.pointer(&pointer).is_some(),
            "values.yaml has no {path}"
        );
    }
    let readme = read("README.md");
    let rows = readme.lines().filter_map(|line| line.strip_prefix("| `"));
    let listed: BTreeSet<&str> = rows
        .filter_map(|row| row.split_once("` | "))
        .filter(|(_, rest)| rest.matches(" | ").count() == 1)
        .map(|(name, _)| name)
        .filter(|name| !name.starts_with('<'))
        .collect();
    let known: BTreeSet<&str> = known.keys().map(String::as_str).collect();
    assert_eq!(listed, known, "the table of README.md");
}

#[test]
fn copies_are_current() {
    let table = fs_err::read_to_string(repository().join("operator/rbac.yaml")).unwrap();
    assert!(
        table == read("files/rbac.yaml"),
        "files/rbac.yaml is stale: run `make generate`"
    );
}

/// Runs Helm without a cluster.
fn helm(arguments: &[&str]) -> Output {
    let program = Options::new("chart-templates").cache.join("bin/helm");
    Command::new(program).args(arguments).output().unwrap()
}

/// What the chart makes of these arguments.
fn template(arguments: &[&str]) -> String {
    let chart = chart();
    let all = [
        &[
            "template",
            "coopery",
            chart.to_str().unwrap(),
            "--namespace",
            "coopery-system",
        ],
        arguments,
    ]
    .concat();
    let output = helm(&all);
    let error = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "helm {all:?}: {error}");
    String::from_utf8(output.stdout).unwrap()
}

#[test]
fn helm_finds_nothing_to_lint() {
    if left_out("helm_finds_nothing_to_lint") {
        return;
    }
    for values in value_files() {
        let (chart, values) = (chart(), values.to_str().unwrap().to_owned());
        let output = helm(&[
            "lint",
            "--strict",
            chart.to_str().unwrap(),
            "--values",
            &values,
        ]);
        let text = String::from_utf8_lossy(&output.stdout);
        assert!(output.status.success(), "{values}: {text}");
        for line in text.lines().filter(|line| line.starts_with('[')) {
            assert!(line.contains("icon is recommended"), "{values}: {line}");
        }
    }
}

#[test]
fn wrong_values_are_refused_by_name() {
    if left_out("wrong_values_are_refused_by_name") {
        return;
    }
    for (set, expected) in [
        ("replica=2", "additional properties 'replica' not allowed"),
        ("replicas=many", "at '/replicas': got string, want integer"),
        ("replicas=6", "at '/replicas': maximum: got 6, want 5"),
        ("concurrency=0", "at '/concurrency': minimum: got 0, want 1"),
        (
            "log.format=xml",
            "at '/log/format': value must be one of 'json', 'text'",
        ),
        ("image.tag=a:b", "at '/image/tag'"),
        ("image.digest=abc", "at '/image/digest'"),
        ("image.pullPolicy=Sometimes", "at '/image/pullPolicy'"),
        (
            "builder.image.repository=",
            "at '/builder/image/repository'",
        ),
        (
            "builder.image.pullPolicy=Sometimes",
            "at '/builder/image/pullPolicy'",
        ),
        (
            "builder.imagePullSecrets={hub}",
            "at '/builder/imagePullSecrets/0'",
        ),
        (
            "registry.image.pullPolicy=Sometimes",
            "at '/registry/image/pullPolicy'",
        ),
        ("builder.caCertificates=abc", "at '/builder/caCertificates'"),
        (
            "builder.proxy.http=http://user:password@host",
            "at '/builder/proxy/http'",
        ),
        (
            "network.allowCIDRs={10.0.0.0}",
            "at '/network/allowCIDRs/0'",
        ),
        (
            "leaderElection.leaseDuration=15",
            "at '/leaderElection/leaseDuration': got number, want string",
        ),
        ("resync=10", "at '/resync': got number, want string"),
        ("watchNamespace=A_b", "at '/watchNamespace'"),
        (
            "commonLabels.app\\.kubernetes\\.io/name=x",
            "at '/commonLabels/app.kubernetes.io~1name'",
        ),
        (
            "podDisruptionBudget.minAvailable=half",
            "at '/podDisruptionBudget/minAvailable'",
        ),
        (
            "resources.request.cpu=1",
            "at '/resources': additional properties 'request' not allowed",
        ),
        (
            "serviceAccount.create=false",
            "serviceAccount.name is required where serviceAccount.create is false",
        ),
    ] {
        let chart = chart();
        let output = helm(&["template", "coopery", chart.to_str().unwrap(), "--set", set]);
        let error = String::from_utf8_lossy(&output.stderr);
        assert!(!output.status.success(), "{set} was accepted");
        assert!(error.contains(expected), "{set}: {error}");
    }
}

#[test]
fn definitions_are_kept_unless_told_otherwise() {
    if left_out("definitions_are_kept_unless_told_otherwise") {
        return;
    }
    let kept = |arguments: &[&str]| {
        let text = template(arguments);
        (
            text.matches("kind: CustomResourceDefinition\n").count(),
            text.matches("helm.sh/resource-policy: keep").count(),
        )
    };
    assert_eq!(kept(&[]), (3, 3));
    assert_eq!(kept(&["--set", "crds.keep=false"]), (3, 0));
    assert_eq!(kept(&["--set", "crds.enabled=false"]), (0, 0));
}

/// Runs kubectl with `input`; what it printed on both streams.
async fn kubectl(cluster: &Cluster, arguments: &[&str], input: &str) -> String {
    let file = tempfile::NamedTempFile::new().unwrap();
    fs_err::write(file.path(), input).unwrap();
    let mut command = cluster.command("kubectl", arguments);
    command.arg("--filename").arg(file.path());
    let output = tokio::process::Command::from(command)
        .output()
        .await
        .unwrap();
    let text = [output.stdout, output.stderr].concat();
    let text = String::from_utf8(text).unwrap();
    assert!(output.status.success(), "kubectl {arguments:?}: {text}");
    text
}

#[tokio::test]
async fn the_api_server_takes_what_the_templates_make() {
    if left_out("the_api_server_takes_what_the_templates_make") {
        return;
    }
    let cluster = Cluster::start(Options::new("chart-templates"))
        .await
        .unwrap();
    for name in ["coopery-system", "team"] {
        cluster
            .kubectl(&["create", "namespace", name])
            .await
            .unwrap();
    }
    let restricted = [
        "label",
        "namespace",
        "coopery-system",
        "pod-security.kubernetes.io/enforce=restricted",
        "pod-security.kubernetes.io/warn=restricted",
    ];
    cluster.kubectl(&restricted).await.unwrap();
    let dry_run = ["apply", "--dry-run=server", "--validate=strict"];
    for values in value_files() {
        let text = template(&["--values", values.to_str().unwrap()]);
        let answer = kubectl(&cluster, &dry_run, &text).await;
        assert!(
            answer.contains("deployment.apps/coopery created"),
            "{answer}"
        );
        assert!(
            !answer.contains("Warning"),
            "{}: {answer}",
            values.display()
        );
    }
    // The warning that was looked for above is one that the API server gives.
    let careless = "apiVersion: apps/v1\nkind: Deployment\nmetadata: {name: careless, namespace: coopery-system}\n\
                    spec: {selector: {matchLabels: {a: b}}, template: {metadata: {labels: {a: b}}, \
                    spec: {containers: [{name: main, image: x}]}}}\n";
    let answer = kubectl(&cluster, &dry_run, careless).await;
    assert!(
        answer.contains("Warning: would violate PodSecurity"),
        "{answer}"
    );

    rights_are_those_of_the_table(&cluster).await;
    cluster.stop().await.unwrap();
}

async fn rights_are_those_of_the_table(cluster: &Cluster) {
    let rbac = ["--show-only", "templates/rbac.yaml"];
    let account = "coopery-system:coopery";
    kubectl(cluster, &["apply"], &template(&rbac)).await;
    for (namespace, place) in [("coopery-system", Place::Own), ("default", Place::Watched)] {
        rights::check(cluster, account, "coopery", namespace, place)
            .await
            .unwrap();
    }
    for (verb, resource, subresource) in [
        ("list", "secrets", ""),
        ("watch", "secrets", ""),
        ("create", "pods", "exec"),
        ("get", "pods", "log"),
        ("impersonate", "users", ""),
        ("escalate", "clusterroles.rbac.authorization.k8s.io", ""),
        ("update", "imagebuilds.coopery.dev", ""),
        ("delete", "persistentvolumeclaims", ""),
        ("get", "nodes", ""),
        ("create", "serviceaccounts", "token"),
    ] {
        let account = format!("--as=system:serviceaccount:{account}");
        let subresource = format!("--subresource={subresource}");
        let question = ["auth", "can-i", verb, resource, &subresource, &account];
        let command = cluster.command("kubectl", &question);
        let output = tokio::process::Command::from(command)
            .output()
            .await
            .unwrap();
        assert_eq!(output.stdout, b"no\n", "{question:?}: {output:?}");
    }
    kubectl(cluster, &["delete"], &template(&rbac)).await;

    let namespaced = [&rbac[..], &["--set", "watchNamespace=team"]].concat();
    kubectl(cluster, &["apply"], &template(&namespaced)).await;
    for (namespace, place) in [
        ("coopery-system", Place::OwnOnly),
        ("team", Place::Watched),
        ("default", Place::Elsewhere),
    ] {
        rights::check(cluster, account, "coopery", namespace, place)
            .await
            .unwrap();
    }
}
