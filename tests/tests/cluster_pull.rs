//! The node of an embedded cluster resolves Service names, and pulls from a registry that runs in
//! the cluster by plain HTTP once told to. Pods reach servers of the test, on the host and on the node. Images that our engine
//! made in every form start as pods.
//!
//! Needs root, and the programs of `make build cluster`; without root it says so and checks nothing.

#![expect(clippy::unwrap_used, reason = "tests")]

use std::time::{Duration, Instant};

use serde_json::json;
use tests::cluster::{Cluster, ImageArchive, Options, left_out};
use tests::plain_registry::PlainRegistry;
use tests::stage::release_binary;
use tokio::io::{AsyncReadExt, AsyncWriteExt};

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

    images_of_every_form_start_as_pods(&cluster).await;

    let host = serve_once(&cluster.addresses().host().to_string()).await;
    let mut server = std::process::Command::new("busybox");
    server.args([
        "httpd",
        "-f",
        "-p",
        "8099",
        "-h",
        env!("CARGO_MANIFEST_DIR"),
    ]);
    let _server = cluster.spawn_in_namespace(&server).unwrap();
    let node = cluster.addresses().node();
    let script = format!(
        "set -ex; test \"$(wget -qO- http://git.host.test:{host}/)\" = served
         attempts=0; until wget -qO- http://{node}:8099/Cargo.toml; do attempts=$((attempts + 1)); test $attempts -lt 50; sleep 0.1; done"
    );
    apply(&cluster, &pod("reach", busybox, &["sh", "-c", &script])).await;
    wait(
        &cluster,
        &["pod/reach", "--for=jsonpath={.status.phase}=Succeeded"],
    )
    .await;
    cluster.stop().await.unwrap();
}

/// What our engine makes, form by form, is pulled from a registry and run by the node's containerd.
async fn images_of_every_form_start_as_pods(cluster: &Cluster) {
    let programs = Options::new("pull").cache.join("bin");
    let registry = PlainRegistry::start_on(&programs, cluster.addresses().host().into()).unwrap();
    cluster.trust_plain_http(registry.host()).unwrap();
    let directory = tempfile::tempdir_in("/var/tmp").unwrap();
    let context = directory.path().join("context");
    fs_err::create_dir(&context).unwrap();
    fs_err::copy("/bin/busybox", context.join("busybox")).unwrap();
    let dockerfile =
        "FROM scratch\nCOPY busybox /bin/busybox\nCOPY <<made /made\nby the engine\nmade\n";
    fs_err::write(context.join("Dockerfile"), dockerfile).unwrap();
    let forms = [
        ("gzip", "compression=gzip"),
        ("zstd", "compression=zstd"),
        ("zstd-19", "compression=zstd,compression-level=19"),
        ("uncompressed", "compression=uncompressed"),
        ("docker", "oci-mediatypes=false"),
        ("docker-zstd", "oci-mediatypes=false,compression=zstd"),
        (
            "docker-uncompressed",
            "oci-mediatypes=false,compression=uncompressed",
        ),
        (
            "annotated-index",
            "compression=zstd,annotation-index.of=index,annotation.of=manifest",
        ),
    ];
    for (form, attributes) in forms {
        let name = format!("{}/{form}:1", registry.host());
        let built = tokio::process::Command::new(release_binary("coopery").unwrap())
            .args(["build", "--root"])
            .arg(directory.path().join("root"))
            .args(["--plain-http", registry.host(), "-o"])
            .arg(format!("type=registry,name={name},{attributes}"))
            .arg(&context)
            .output()
            .await
            .unwrap();
        assert!(
            built.status.success(),
            "{form}: {}",
            String::from_utf8_lossy(&built.stderr)
        );
        let command = ["/bin/busybox", "grep", "-q", "by the engine", "/made"];
        apply(cluster, &pod(form, &name, &command)).await;
    }
    for (form, _) in forms {
        let started = [
            &format!("pod/{form}"),
            "--for=jsonpath={.status.phase}=Succeeded",
        ];
        wait(cluster, &started).await;
    }
}

/// Answers one request at a free port of this address; the port.
async fn serve_once(address: &str) -> u16 {
    let listener = tokio::net::TcpListener::bind((address, 0)).await.unwrap();
    let port = listener.local_addr().unwrap().port();
    tokio::spawn(async move {
        let (mut connection, _) = listener.accept().await.unwrap();
        let mut request = [0; 4096];
        let length = connection.read(&mut request).await.unwrap();
        assert!(request[..length].starts_with(b"GET / "));
        let answer = b"HTTP/1.0 200 OK\r\nContent-Length: 6\r\n\r\nserved";
        connection.write_all(answer).await.unwrap();
    });
    port
}
