//! Embedded clusters start, work side by side, and leave nothing behind, however they end.
//!
//! Needs root, and the programs that `tests/cluster/build` builds; without root it says so and checks nothing.
//! What other clusters of this machine do meanwhile is left out of the comparisons.

#![expect(clippy::unwrap_used, reason = "tests")]

use std::collections::BTreeSet;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use k8s_openapi::api::core::v1::Pod;
use kube::api::Api;
use serde_json::{Value, json};
use tests::cluster::{Cluster, Error, ImageArchive, NODE_NAME, Options, left_out};

/// Clusters are compared with what the machine was before: one test at a time.
static ONE_AT_A_TIME: tokio::sync::Mutex<()> = tokio::sync::Mutex::const_new(());

const IMAGE: &str = "example.test/busybox:1";

/// What a cluster could leave behind: mounts, links, network namespaces, packet filter, cgroups, `/var/lib`.
#[derive(Debug, PartialEq, Eq, Clone)]
struct Machine {
    mounts: BTreeSet<String>,
    links: BTreeSet<String>,
    routes: BTreeSet<String>,
    namespaces: BTreeSet<String>,
    filter: BTreeSet<String>,
    cgroups: BTreeSet<String>,
    var_lib: BTreeSet<String>,
    settings: BTreeSet<String>,
}

impl Machine {
    /// What is there now, but for the clusters of other processes, which are those in `others`.
    fn look(others: &BTreeSet<String>) -> Self {
        let lines = |text: String| -> BTreeSet<String> {
            text.lines()
                .map(str::to_owned)
                .filter(|line| !keys_of(line).iter().any(|key| others.contains(key)))
                .collect()
        };
        let directories = output("find", &["/sys/fs/cgroup", "-type", "d"]);
        let settings = [
            "vm/overcommit_memory",
            "kernel/panic",
            "kernel/panic_on_oops",
            "net/ipv4/ip_forward",
        ];
        Self {
            mounts: lines(fs_err::read_to_string("/proc/self/mountinfo").unwrap()),
            links: lines(output("ip", &["-brief", "link"]))
                .into_iter()
                .map(|line| first_word(&line))
                .collect(),
            routes: lines(output("ip", &["route", "show", "table", "all"])),
            namespaces: lines(output("ip", &["netns", "list"])),
            filter: lines(output("iptables-save", &[]))
                .into_iter()
                .filter(|line| !line.starts_with('#'))
                .collect(),
            cgroups: lines(directories)
                .into_iter()
                .filter(|line| line.contains("/coopery"))
                .collect(),
            var_lib: lines(output("ls", &["-A", "/var/lib"])),
            settings: settings
                .map(|name| {
                    format!(
                        "{name}={}",
                        fs_err::read_to_string(Path::new("/proc/sys").join(name)).unwrap()
                    )
                })
                .into(),
        }
    }
}

/// Names of clusters in a line: `coopery` and a number.
fn keys_of(line: &str) -> Vec<String> {
    line.match_indices("coopery")
        .map(|(at, _)| {
            let digits: String = line[at + 7..]
                .chars()
                .take_while(char::is_ascii_digit)
                .collect();
            format!("coopery{digits}")
        })
        .collect()
}

fn first_word(line: &str) -> String {
    line.split(['@', ' ']).next().unwrap_or_default().to_owned()
}

fn output(program: &str, arguments: &[&str]) -> String {
    let output = Command::new(program)
        .args(arguments)
        .stdin(Stdio::null())
        .output()
        .unwrap();
    String::from_utf8_lossy(&output.stdout).into_owned()
}

/// Every name a cluster of this machine can have, but these.
fn all_keys_but(ours: &[&str]) -> BTreeSet<String> {
    (0..100)
        .map(|index| format!("coopery{index}"))
        .filter(|key| !ours.contains(&key.as_str()))
        .collect()
}

/// Processes by number and start whose network namespace is this one, and those that hold it.
fn processes_in(namespace: &Path) -> Vec<String> {
    let mut found = Vec::new();
    for entry in fs_err::read_dir("/proc").unwrap().flatten() {
        if fs_err::read_link(entry.path().join("ns/pid_for_children"))
            .is_ok_and(|link| link == namespace)
            || fs_err::read_link(entry.path().join("ns/net")).is_ok_and(|link| link == namespace)
        {
            found.push(entry.file_name().to_string_lossy().into_owned());
        }
    }
    found
}

/// The node's namespaces, as `/proc` names them.
async fn namespaces_of(cluster: &Cluster) -> Vec<PathBuf> {
    let mut found = Vec::new();
    for kind in ["net", "pid"] {
        let link = tokio::process::Command::from(
            cluster.node_command("readlink", &[&format!("/proc/1/ns/{kind}")]),
        )
        .output()
        .await
        .unwrap();
        found.push(PathBuf::from(
            String::from_utf8(link.stdout).unwrap().trim(),
        ));
    }
    found
}

/// Children of this process that have ended and were not collected.
fn zombies() -> Vec<String> {
    let own = std::process::id().to_string();
    output("ps", &["-o", "stat=,pid=,comm=", "--ppid", &own])
        .lines()
        .filter(|line| line.starts_with('Z'))
        .map(str::to_owned)
        .collect()
}

/// A namespace that enforces Pod Security baseline, and in it a server that is not root and keeps its file on a claim.
fn serving() -> Value {
    let restricted = json!({
        "runAsUser": 1000, "runAsGroup": 1000, "runAsNonRoot": true, "allowPrivilegeEscalation": false,
        "capabilities": {"drop": ["ALL"]}, "seccompProfile": {"type": "RuntimeDefault"},
    });
    let enforce = json!({"pod-security.kubernetes.io/enforce": "baseline"});
    json!([
        {"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": "work", "labels": enforce}},
        {"apiVersion": "v1", "kind": "PersistentVolumeClaim", "metadata": {"name": "data", "namespace": "work"},
         "spec": {"accessModes": ["ReadWriteOnce"], "resources": {"requests": {"storage": "1Gi"}}}},
        {"apiVersion": "v1", "kind": "Service", "metadata": {"name": "server", "namespace": "work"},
         "spec": {"selector": {"app": "server"}, "ports": [{"port": 80, "targetPort": 8080}]}},
        {"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "web", "namespace": "work", "labels": {"app": "server"}},
         "spec": {
            "containers": [{
                "name": "web", "image": IMAGE, "securityContext": restricted,
                "command": ["sh", "-c", "echo hello >/data/index.html && exec httpd -f -p 8080 -h /data"],
                "readinessProbe": {"httpGet": {"path": "/", "port": 8080}, "periodSeconds": 1},
                "volumeMounts": [{"name": "data", "mountPath": "/data"}],
            }],
            "volumes": [{"name": "data", "persistentVolumeClaim": {"claimName": "data"}}],
        }},
    ])
}

/// A pod with a user namespace of its own that makes another inside, as builders do.
fn checking() -> Value {
    let script = r#"set -eux
nslookup kubernetes.default.svc.cluster.local
nslookup git.host.test
attempts=0
until test "$(wget -qO- http://server/)" = hello; do
    attempts=$((attempts + 1)); test $attempts -lt 50; sleep 0.2
done
test "$(wget -qO- http://server.work.svc/)" = hello
test "$(awk '{print $2 != 0}' /proc/self/uid_map)" = 1
unshare -U -r -p -f --mount-proc sh -c 'test $$ = 1; test $(id -u) = 0; ps'
unshare -U -r -m sh -c 'mount -t tmpfs none /root; mount --bind /tmp /root'
if nc -w 5 203.0.113.1 80 </dev/null; then exit 9; fi
echo all is well
"#;
    json!([
        {"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "check", "namespace": "work"},
         "spec": {
            "hostUsers": false, "restartPolicy": "Never", "automountServiceAccountToken": false,
            "containers": [{
                "name": "check", "image": IMAGE, "command": ["sh", "-c", script], "securityContext": {"procMount": "Unmasked"},
            }],
        }},
    ])
}

async fn apply(cluster: &Cluster, directory: &Path, items: Value) {
    let file = directory.join("objects.json");
    fs_err::write(
        &file,
        json!({"apiVersion": "v1", "kind": "List", "items": items}).to_string(),
    )
    .unwrap();
    cluster
        .kubectl(&["apply", "-f", file.to_str().unwrap()])
        .await
        .unwrap();
}

/// Waits for a pod; the object when `wanted` says yes.
async fn pod_until(cluster: &Cluster, name: &str, wanted: impl Fn(&Pod) -> bool) -> Pod {
    let pods = Api::<Pod>::namespaced(cluster.client().await.unwrap(), "work");
    let deadline = Instant::now() + Duration::from_secs(60);
    loop {
        if let Some(pod) = pods.get_opt(name).await.unwrap()
            && wanted(&pod)
        {
            return pod;
        }
        assert!(
            Instant::now() < deadline,
            "{name}: {}",
            cluster
                .kubectl(&["-n", "work", "describe", "pods"])
                .await
                .unwrap()
        );
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
}

fn phase(pod: &Pod) -> &str {
    pod.status
        .as_ref()
        .and_then(|status| status.phase.as_deref())
        .unwrap_or_default()
}

fn is_ready(pod: &Pod) -> bool {
    let conditions = pod
        .status
        .as_ref()
        .and_then(|status| status.conditions.as_ref());
    conditions.is_some_and(|conditions| {
        conditions
            .iter()
            .any(|condition| condition.type_ == "Ready" && condition.status == "True")
    })
}

/// Runs pods in a cluster, and looks at it from the host.
async fn exercise(cluster: &Cluster, directory: &Path) {
    cluster
        .load(ImageArchive::busybox(IMAGE).await.unwrap())
        .await
        .unwrap();
    apply(cluster, directory, serving()).await;
    pod_until(cluster, "web", is_ready).await;
    apply(cluster, directory, checking()).await;
    let done = pod_until(cluster, "check", |pod| {
        matches!(phase(pod), "Succeeded" | "Failed")
    })
    .await;
    let log = cluster
        .kubectl(&["-n", "work", "logs", "check"])
        .await
        .unwrap();
    assert_eq!(phase(&done), "Succeeded", "{log}");
    assert!(log.contains("all is well"), "{log}");
    let service = cluster
        .kubectl(&[
            "-n",
            "work",
            "get",
            "service",
            "server",
            "-o",
            "jsonpath={.spec.clusterIP}",
        ])
        .await
        .unwrap();
    let http = reqwest::Client::builder().no_proxy().build().unwrap();
    let answer = http
        .get(format!("http://{service}/"))
        .timeout(Duration::from_secs(5))
        .send()
        .await
        .unwrap()
        .text()
        .await
        .unwrap();
    assert_eq!(answer, "hello\n");
}

#[tokio::test]
async fn two_clusters_work_side_by_side_and_leave_nothing() {
    if left_out("two clusters side by side") {
        return;
    }
    let _turn = ONE_AT_A_TIME.lock().await;
    let directory = tempfile::tempdir().unwrap();
    let before = |ours: &[&str]| Machine::look(&all_keys_but(ours));
    let everything = before(&[]);

    let begin = Instant::now();
    let first = Cluster::start(Options::new("lifecycle-first"))
        .await
        .unwrap();
    let took = begin.elapsed();
    assert!(took < Duration::from_secs(30), "Ready after {took:?}");
    let second = Cluster::start(Options::new("lifecycle-second"))
        .await
        .unwrap();
    assert_ne!(first.addresses(), second.addresses());
    for cluster in [&first, &second] {
        exercise(cluster, directory.path()).await;
        assert_eq!(
            cluster
                .kubectl(&["get", "nodes", "-o", "name"])
                .await
                .unwrap(),
            format!("node/{NODE_NAME}\n")
        );
    }
    let again = Cluster::start(Options::new("lifecycle-first"))
        .await
        .unwrap_err();
    assert!(matches!(again, Error::AlreadyRuns { .. }), "{again}");

    let keys = [first.key().to_owned(), second.key().to_owned()];
    let keys: Vec<&str> = keys.iter().map(String::as_str).collect();
    let namespaces = [namespaces_of(&first).await, namespaces_of(&second).await].concat();
    let states = [first.logs_dir(), second.logs_dir()];
    assert!(
        namespaces
            .iter()
            .all(|namespace| !processes_in(namespace).is_empty())
    );
    assert_ne!(before(&keys), everything);

    first.stop().await.unwrap();
    second.stop().await.unwrap();
    assert_eq!(before(&keys), everything);
    for namespace in namespaces {
        assert_eq!(processes_in(&namespace), Vec::<String>::new());
    }
    assert_eq!(zombies(), Vec::<String>::new());
    for logs in states {
        let left: Vec<_> = fs_err::read_dir(logs.parent().unwrap())
            .unwrap()
            .map(|entry| entry.unwrap().file_name())
            .collect();
        assert_eq!(left, ["logs"]);
        assert!(logs.join("kube-apiserver.log").exists());
    }
}

/// A build directory like the real one, but with another program in one place.
fn programs_with(broken: &str, script: &str) -> (tempfile::TempDir, Options) {
    let real = Options::new("x").cache.join("bin");
    let directory = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).unwrap();
    let bin = directory.path().join("bin");
    fs_err::create_dir(&bin).unwrap();
    for entry in fs_err::read_dir(real).unwrap().flatten() {
        let (from, to) = (entry.path(), bin.join(entry.file_name()));
        if entry.file_name() == broken {
            fs_err::write(&to, script).unwrap();
            fs_err::set_permissions(&to, std::os::unix::fs::PermissionsExt::from_mode(0o755))
                .unwrap();
        } else if fs_err::hard_link(&from, &to).is_err() {
            fs_err::copy(&from, &to).unwrap();
        }
    }
    let options = Options {
        cache: directory.path().to_owned(),
        ..Options::new("lifecycle-broken")
    };
    (directory, options)
}

#[tokio::test]
async fn a_component_that_dies_is_named_with_its_log_and_nothing_is_left() {
    if left_out("a component that dies") {
        return;
    }
    let _turn = ONE_AT_A_TIME.lock().await;
    let everything = Machine::look(&all_keys_but(&[]));
    let (_directory, options) = programs_with("etcd", "#!/bin/sh\necho no room left\nexit 3\n");
    let begin = Instant::now();
    let error = Cluster::start(options).await.unwrap_err();
    assert!(begin.elapsed() < Duration::from_secs(20));
    let message = error.to_string();
    assert!(
        message.contains("etcd ended (exit code 3)") && message.contains("no room left"),
        "{message}"
    );
    assert_eq!(Machine::look(&all_keys_but(&[])), everything);
    assert_eq!(zombies(), Vec::<String>::new());
}

#[tokio::test]
async fn a_start_that_takes_too_long_says_for_what_it_waited() {
    if left_out("a start that takes too long") {
        return;
    }
    let _turn = ONE_AT_A_TIME.lock().await;
    let everything = Machine::look(&all_keys_but(&[]));
    let (_directory, options) = programs_with(
        "kube-apiserver",
        "#!/bin/sh\necho thinking\nexec sleep 600\n",
    );
    let error = Cluster::start(Options {
        timeout: Duration::from_secs(4),
        ..options
    })
    .await
    .unwrap_err();
    let message = error.to_string();
    assert!(
        message.contains("in vain for the API server")
            && message.contains("--- kube-apiserver\nthinking"),
        "{message}"
    );
    assert_eq!(Machine::look(&all_keys_but(&[])), everything);
}

/// The state directory's record, when the start has come that far.
async fn wait_for_start(options: &Options) -> Cluster {
    let deadline = Instant::now() + Duration::from_secs(20);
    loop {
        if let Ok(cluster) = Cluster::attach(options) {
            return cluster;
        }
        assert!(
            Instant::now() < deadline,
            "the cluster has not begun to start"
        );
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

#[tokio::test]
async fn a_process_that_is_killed_takes_its_cluster_along() {
    if left_out("a process that is killed") {
        return;
    }
    let _turn = ONE_AT_A_TIME.lock().await;
    for signal in [rustix::process::Signal::INT, rustix::process::Signal::KILL] {
        let options = Options::new("lifecycle-killed");
        let before = Machine::look(&all_keys_but(&[]));
        let mut child = Command::new(env!("CARGO_BIN_EXE_cluster"))
            .args(["up", "--name", &options.name])
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .process_group(0)
            .spawn()
            .unwrap();
        let cluster = wait_for_start(&options).await;
        let namespaces = namespaces_of(&cluster).await;
        let key = cluster.key().to_owned();
        rustix::process::kill_process(rustix::process::Pid::from_child(&child), signal).unwrap();
        assert!(
            !tokio::task::spawn_blocking(move || child.wait())
                .await
                .unwrap()
                .unwrap()
                .success()
        );
        let deadline = Instant::now() + Duration::from_secs(20);
        let gone = |state: &Machine| {
            *state == before
                && namespaces
                    .iter()
                    .all(|namespace| processes_in(namespace).is_empty())
        };
        while !gone(&Machine::look(&all_keys_but(&[&key]))) {
            assert!(
                Instant::now() < deadline,
                "{signal:?}: {:?}",
                Machine::look(&all_keys_but(&[&key]))
            );
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    }
}

#[tokio::test]
async fn a_detached_cluster_outlives_its_starter_and_is_stopped_by_another() {
    if left_out("a detached cluster") {
        return;
    }
    let _turn = ONE_AT_A_TIME.lock().await;
    let options = Options::new("lifecycle-detached");
    let before = Machine::look(&all_keys_but(&[]));
    let cluster = |arguments: &[&str]| {
        let mut command = tokio::process::Command::new(env!("CARGO_BIN_EXE_cluster"));
        command
            .args(arguments)
            .args(["--name", &options.name])
            .stdin(Stdio::null());
        command
    };
    let up = cluster(&["up"]).output().await.unwrap();
    assert!(
        up.status.success(),
        "{}",
        String::from_utf8_lossy(&up.stderr)
    );
    let kubeconfig = String::from_utf8(up.stdout).unwrap();
    let attached = Cluster::attach(&options).unwrap();
    assert_eq!(attached.kubeconfig(), Path::new(kubeconfig.trim()));
    assert_eq!(
        attached
            .kubectl(&["get", "--raw", "/readyz"])
            .await
            .unwrap(),
        "ok"
    );
    let key = attached.key().to_owned();
    assert!(cluster(&["down"]).status().await.unwrap().success());
    assert_eq!(Machine::look(&all_keys_but(&[&key])), before);
    assert!(matches!(
        Cluster::attach(&options),
        Err(Error::DoesNotRun { .. })
    ));
    let again = cluster(&["down"]).output().await.unwrap();
    assert!(again.status.success(), "stopping twice is no error");
    assert!(String::from_utf8_lossy(&again.stderr).contains("does not run"));
}
