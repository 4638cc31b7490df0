//! The node of an embedded cluster resolves Service names, and pulls from a registry that runs in
//! the cluster by plain HTTP once told to.
//!
//! Needs root, and the programs that `tests/cluster/build` builds; without root it says so and checks nothing.

#![expect(clippy::unwrap_used, reason = "tests")]

use std::time::{Duration, Instant};

use serde_json::json;
use tests::cluster::{Cluster, ImageArchive, Options, left_out};

const CONFIG: &str =
    "version: 0.1\nstorage: {filesystem: {rootdirectory: /tmp/registry}}\nhttp: {addr: ':5000'}\n";
const HOST: &str = "main.images.svc:5000";

async fn wait(cluster: &Cluster, arguments: &[&str]) {
    let line = [&["-n", "images", "wait", "--timeout=60s"], arguments].concat();
    if let Err(error) = cluster.kubectl(&line).await {
        let pods = cluster
            .kubectl(&["-n", "images", "describe", "pods"])
            .await
            .unwrap();
        panic!("{error}\n{pods}");
    }
}

async fn apply(cluster: &Cluster, object: &serde_json::Value) {
    let directory = tempfile::tempdir().unwrap();
    let file = directory.path().join("object.json");
    fs_err::write(&file, object.to_string()).unwrap();
    cluster
        .kubectl(&["apply", "-f", file.to_str().unwrap()])
        .await
        .unwrap();
}

/// Runs `ctr` on the node until it succeeds: the Service's rules come a moment after its endpoints.
async fn ctr(cluster: &Cluster, arguments: &[&str]) {
    let line = [&["-n", "k8s.io", "images"], arguments].concat();
    let deadline = Instant::now() + Duration::from_secs(10);
    loop {
        let mut command = tokio::process::Command::from(cluster.node_command("ctr", &line));
        let output = command.output().await.unwrap();
        if output.status.success() {
            return;
        }
        let stderr = String::from_utf8_lossy(&output.stderr).into_owned();
        assert!(Instant::now() < deadline, "ctr {line:?}: {stderr}");
        tokio::time::sleep(Duration::from_millis(200)).await;
    }
}

fn pod(name: &str, image: &str, command: &[&str]) -> serde_json::Value {
    json!({
        "apiVersion": "v1", "kind": "Pod",
        "metadata": {"name": name, "namespace": "images", "labels": {"app": name}},
        "spec": {"restartPolicy": "Never", "containers": [{
            "name": name, "image": image, "command": command,
        }]},
    })
}

#[tokio::test]
async fn the_node_pulls_from_a_registry_of_the_cluster() {
    if left_out("pulling from a registry of the cluster") {
        return;
    }
    let cluster = Cluster::start(Options::new("pull")).await.unwrap();
    let busybox = "example.test/busybox:1";
    cluster
        .load(ImageArchive::busybox(busybox).await.unwrap())
        .await
        .unwrap();
    let registry = ImageArchive::new("example.test/registry:1")
        .file(
            "registry",
            Options::new("pull").cache.join("bin/registry"),
            0o755,
        )
        .directory("tmp", 0o1777)
        .bytes("config.yml", CONFIG, 0o644);
    cluster.load(registry).await.unwrap();

    cluster
        .kubectl(&["create", "namespace", "images"])
        .await
        .unwrap();
    apply(
        &cluster,
        &pod(
            "main",
            "example.test/registry:1",
            &["/registry", "serve", "/config.yml"],
        ),
    )
    .await;
    apply(
        &cluster,
        &json!({
            "apiVersion": "v1", "kind": "Service", "metadata": {"name": "main", "namespace": "images"},
            "spec": {"selector": {"app": "main"}, "ports": [{"port": 5000}]},
        }),
    )
    .await;
    wait(&cluster, &["pod/main", "--for=condition=Ready"]).await;

    let pushed = format!("{HOST}/busybox:1");
    ctr(&cluster, &["tag", busybox, &pushed]).await;
    ctr(&cluster, &["push", "--plain-http", &pushed]).await;
    ctr(&cluster, &["rm", &pushed]).await;

    apply(&cluster, &pod("before", &pushed, &["true"])).await;
    wait(
        &cluster,
        &[
            "pod/before",
            "--for=jsonpath={.status.containerStatuses[0].state.waiting.reason}=ErrImagePull",
        ],
    )
    .await;
    cluster.trust_plain_http(HOST).unwrap();
    apply(&cluster, &pod("after", &pushed, &["true"])).await;
    wait(
        &cluster,
        &["pod/after", "--for=jsonpath={.status.phase}=Succeeded"],
    )
    .await;
    cluster.stop().await.unwrap();
}
