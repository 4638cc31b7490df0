//! Scenarios of builds that need a pod for each platform, because a RUN is for another processor than the first pod's node's.
#![allow(clippy::unwrap_used, reason = "tests")]

mod build_world;
mod support;

use build_world::builds::{
    annotate, attempt, build, digest, inline, look, path, ready, request_of, set_spec,
};
use build_world::{World, core, message, pass};
use oci::Digest;
use protocol::{BuildRequest, JoinRequest, Task};
use serde_json::{Value, json};

const AMD64: &str = "linux/amd64";
const ARM64: &str = "linux/arm64";
const REPOSITORY: &str = "main.team.svc:5000/team/app";

/// A build for two platforms whose first pod has found out that it needs a pod for each.
async fn parted(spec: &Value) -> World {
    let world = World::new();
    start(&world, spec).await;
    let whole = world.pod();
    world.run(&whole);
    look(&world).await;
    world.fail(
        &whole,
        "ForeignPlatform",
        "Dockerfile:2: RUN make: for linux/arm64",
    );
    look(&world).await;
    world
}

async fn start(world: &World, spec: &Value) {
    let mut all =
        json!({"dockerfile": {"inline": "FROM a\nRUN make", "platforms": [AMD64, ARM64]}});
    for (key, value) in spec.as_object().unwrap() {
        all[key] = value.clone();
    }
    inline(world, &all);
    look(world).await;
}

fn part(world: &World, name: &str) -> Value {
    let build = build(world);
    let parts = build["status"]["attempt"]["parts"].as_array().unwrap();
    parts
        .iter()
        .find(|part| part["name"] == name)
        .unwrap()
        .clone()
}

fn pod_of(world: &World, name: &str) -> String {
    part(world, name)["pod"].as_str().unwrap().to_owned()
}

fn spec_of(world: &World, pod: &str) -> Value {
    world.api.get(&core("pods", pod)).unwrap()["spec"].clone()
}

fn build_task(world: &World, pod: &str) -> BuildRequest {
    match request_of(world, pod).task {
        Task::Build(task) => task,
        other => panic!("{other:?}"),
    }
}

fn join_task(world: &World, pod: &str) -> JoinRequest {
    match request_of(world, pod).task {
        Task::Join(task) => task,
        other => panic!("{other:?}"),
    }
}

/// The pod of a platform succeeds, and the registry has what it reports.
fn succeed_part(world: &World, platform: &str, steps: u32) -> Digest {
    let made = digest(platform);
    let tag = platform.replace('/', "-");
    world
        .network
        .push(&format!("{REPOSITORY}:latest-{tag}"), &made);
    let base = |name: &str| json!({"reference": format!("docker.io/library/{name}:1"), "digest": digest(name).to_string()});
    world.end(
        &pod_of(world, platform),
        &json!({"built": {"digest": made.to_string(), "size": 100, "platform": platform, "destinations": [],
            "baseImages": [base("shared"), base(&tag)], "steps": steps, "cachedSteps": 1,
            "misses": [{"step": format!("Dockerfile:2: {platform}"), "reason": "new"}], "isolation": "UserNamespace"}}),
    );
    made
}

/// The pod that joins succeeds, and the registry has the index.
fn succeed_join(world: &World) -> Digest {
    let index = digest("index");
    world.network.push(&format!("{REPOSITORY}:latest"), &index);
    world.end(
        &pod_of(world, "join"),
        &json!({"built": {"digest": index.to_string(), "size": 150, "platform": AMD64, "destinations": [],
            "steps": 0, "cachedSteps": 0, "isolation": "NoRun"}}),
    );
    index
}

fn assert_succeeded(world: &World) {
    let ready = ready(world);
    assert!(ready.contains("Ready Succeeded"), "{ready}");
}

#[tokio::test]
async fn each_platform_has_a_pod_on_its_nodes_and_one_joins_them() {
    let world = parted(&json!({})).await;
    let whole = attempt(&world);
    let (amd64, arm64) = (pod_of(&world, AMD64), pod_of(&world, ARM64));
    assert_eq!(world.pods().len(), 3);
    for (pod, platform, architecture) in [(&amd64, AMD64, "amd64"), (&arm64, ARM64, "arm64")] {
        let task = build_task(&world, pod);
        assert_eq!(task.dockerfile.platforms, [platform]);
        let tag = format!("latest-linux-{architecture}");
        assert_eq!(task.destinations[0].tags, [tag]);
        assert_eq!(
            spec_of(&world, pod)["nodeSelector"],
            json!({"kubernetes.io/arch": architecture})
        );
        world.run(pod);
    }
    assert_eq!(
        ready(&world),
        "Ready=Unknown Building, Reconciling Building"
    );
    // Looking again starts nothing.
    look(&world).await;
    assert_eq!(world.pods().len(), 3);
    let first = succeed_part(&world, AMD64, 5);
    look(&world).await;
    assert_eq!(part(&world, AMD64)["digest"], first.to_string());
    assert_eq!(world.pods().len(), 3, "the index waits for all platforms");
    let second = succeed_part(&world, ARM64, 7);
    look(&world).await;
    let join = pod_of(&world, "join");
    let task = join_task(&world, &join);
    let joined: Vec<_> = task
        .images
        .iter()
        .map(|i| (i.platform.as_str(), i.digest.clone()))
        .collect();
    assert_eq!(
        joined,
        [(AMD64, first.to_string()), (ARM64, second.to_string())]
    );
    assert_eq!(task.destinations[0].tags, ["latest"]);
    let spec = spec_of(&world, &join);
    assert_eq!(spec["nodeSelector"], Value::Null);
    assert_eq!(spec["securityContext"]["runAsNonRoot"], true);
    let index = succeed_join(&world);
    look(&world).await;
    let status = build(&world)["status"].clone();
    assert_succeeded(&world);
    assert_eq!(status["digest"], index.to_string());
    assert_eq!(status["size"], 150);
    assert_eq!(
        status["platforms"],
        json!([{"platform": AMD64, "digest": first.to_string(), "size": 100},
            {"platform": ARM64, "digest": second.to_string(), "size": 100}])
    );
    assert_eq!(status["isolation"]["mode"], "UserNamespace");
    assert_eq!(status["baseImages"].as_array().unwrap().len(), 3);
    let record = &status["builds"][0];
    assert_eq!(
        status["builds"].as_array().unwrap().len(),
        1,
        "one build, however many pods"
    );
    assert_eq!(
        (&record["steps"], &record["cachedSteps"]),
        (&json!(12), &json!(2))
    );
    assert_eq!(record["cacheMisses"].as_array().unwrap().len(), 2);
    assert_eq!(record["name"], whole);
    // The index and its images were read back.
    let asked = world.network.asked.lock().unwrap().clone();
    for wanted in [&index, &first, &second] {
        let name = format!("{REPOSITORY}@{wanted}");
        assert!(asked.iter().any(|(asked, ..)| *asked == name), "{name}");
    }
    let version = build(&world)["metadata"]["resourceVersion"].clone();
    look(&world).await;
    assert_eq!(build(&world)["metadata"]["resourceVersion"], version);
    assert_eq!(world.pods().len(), 4, "the pods are kept for their logs");
    support::rights::assert_within_rights(&world.api);
}

#[tokio::test]
async fn a_platform_without_a_node_is_told_with_its_architecture() {
    let world = parted(&json!({})).await;
    succeed_part(&world, AMD64, 1);
    world.kubelet(
        &pod_of(&world, ARM64),
        json!({"phase": "Pending", "conditions": [{"type": "PodScheduled", "status": "False",
            "reason": "Unschedulable", "message": "0/1 nodes are available"}]}),
    );
    look(&world).await;
    assert_eq!(
        ready(&world),
        "Ready Unschedulable, Reconciling Unschedulable"
    );
    let message = message(&build(&world));
    for part in [
        ARM64,
        "kubernetes.io/arch=arm64",
        "0/1 nodes are available",
        &pod_of(&world, ARM64),
    ] {
        assert!(message.contains(part), "{message}");
    }
}

#[tokio::test]
async fn only_the_platform_that_failed_is_retried() {
    let world = parted(&json!({})).await;
    let (amd64, arm64) = (pod_of(&world, AMD64), pod_of(&world, ARM64));
    succeed_part(&world, AMD64, 1);
    world.fail(&arm64, "RegistryUnavailable", "the registry is away");
    look(&world).await;
    assert_eq!(
        ready(&world),
        "Ready RetryPending, Reconciling RetryPending"
    );
    assert!(
        message(&build(&world)).contains("linux/arm64"),
        "{}",
        message(&build(&world))
    );
    pass(9);
    look(&world).await;
    assert_eq!(world.pods().len(), 3);
    pass(2);
    look(&world).await;
    let again = pod_of(&world, ARM64);
    assert_ne!(again, arm64);
    assert_eq!(pod_of(&world, AMD64), amd64);
    assert_eq!(part(&world, ARM64)["retries"], 1);
    // The node of the retry goes away with it.
    world.run(&again);
    look(&world).await;
    world.api.remove(&core("pods", &again));
    look(&world).await;
    assert_eq!(part(&world, ARM64)["failure"], "PodLost");
    pass(30);
    look(&world).await;
    assert_eq!(part(&world, ARM64)["retries"], 2);
    succeed_part(&world, ARM64, 1);
    look(&world).await;
    succeed_join(&world);
    look(&world).await;
    assert_succeeded(&world);
    assert_eq!(
        build(&world)["status"]["builds"].as_array().unwrap().len(),
        1
    );
}

#[tokio::test]
async fn a_platform_that_fails_for_good_stops_the_others() {
    let world = parted(&json!({})).await;
    let (amd64, arm64) = (pod_of(&world, AMD64), pod_of(&world, ARM64));
    world.run(&amd64);
    world.fail(&arm64, "StepFailed", "Dockerfile:2: make failed");
    look(&world).await;
    assert_eq!(ready(&world), "Ready BuildFailed, Stalled BuildFailed");
    let told = message(&build(&world));
    assert!(
        told.contains("linux/arm64: Dockerfile:2: make failed"),
        "{told}"
    );
    look(&world).await;
    assert!(!world.pods().contains(&amd64), "{:?}", world.pods());
    assert!(world.pods().contains(&arm64), "its log is wanted");
    assert!(message(&build(&world)).contains("Dockerfile:2: make failed"));
    // Asked again, it is found out again what the build needs.
    annotate(&world, "requestedAt", "now");
    look(&world).await;
    assert_eq!(build(&world)["status"]["attempt"]["number"], 1);
    assert_eq!(build(&world)["status"]["attempt"]["parts"], Value::Null);
}

/// What differs, in the spec or after the failure.
type Change = (&'static str, Value, fn(&World));

/// A parted build of which amd64 is there and arm64 has failed for good, asked for again and parted again, after `meanwhile`.
async fn parted_again(spec: &Value, meanwhile: impl FnOnce(&World)) -> World {
    let world = parted(spec).await;
    serve_bases(&world, AMD64);
    succeed_part(&world, AMD64, 3);
    look(&world).await;
    world.fail(
        &pod_of(&world, ARM64),
        "StepFailed",
        "Dockerfile:2: make failed",
    );
    look(&world).await;
    assert_eq!(ready(&world), "Ready BuildFailed, Stalled BuildFailed");
    pass(60);
    annotate(&world, "requestedAt", "now");
    look(&world).await;
    assert_eq!(build(&world)["status"]["attempt"]["number"], 1);
    meanwhile(&world);
    world.fail(
        &attempt(&world),
        "ForeignPlatform",
        "Dockerfile:2: RUN make: for linux/arm64",
    );
    look(&world).await;
    world
}

/// The registries have the images that a platform is built from.
fn serve_bases(world: &World, platform: &str) {
    for name in ["shared", &platform.replace('/', "-")] {
        let reference = format!("docker.io/library/{name}:1");
        world.network.push(&reference, &digest(name));
    }
}

#[tokio::test]
async fn a_new_attempt_keeps_the_platforms_that_are_there() {
    let world = parted_again(&json!({}), |_| {}).await;
    let kept = part(&world, AMD64);
    assert_eq!(kept["result"], "Succeeded");
    assert_eq!(kept["pod"], Value::Null);
    let first = digest(AMD64);
    assert_eq!(kept["digest"], first.to_string());
    assert_eq!(part(&world, ARM64)["result"], "Running");
    let second = succeed_part(&world, ARM64, 4);
    look(&world).await;
    let task = join_task(&world, &pod_of(&world, "join"));
    let joined: Vec<_> = task.images.iter().map(|i| i.digest.clone()).collect();
    assert_eq!(joined, [first.to_string(), second.to_string()]);
    succeed_join(&world);
    look(&world).await;
    assert_succeeded(&world);
    let status = build(&world)["status"].clone();
    assert_eq!(status["platforms"].as_array().unwrap().len(), 2);
    assert_eq!(status["baseImages"].as_array().unwrap().len(), 3);
    assert_eq!(status["builds"][0]["steps"], 7);
    // Two that find out, amd64 once, arm64 twice, and the one that joins.
    assert_eq!(world.pods().len(), 6, "{:?}", world.pods());
    support::rights::assert_within_rights(&world.api);
}

#[tokio::test]
async fn what_is_no_longer_what_would_be_made_is_made_anew() {
    let options = |name: &str, value: Value| {
        let mut dockerfile = json!({"inline": "FROM a\nRUN make", "platforms": [AMD64, ARM64]});
        dockerfile[name] = value;
        json!({"dockerfile": dockerfile})
    };
    let none: fn(&World) = |_| {};
    let cases: [Change; 6] = [
        ("no_cache", options("noCache", json!(true)), none),
        (
            "an archive that may have changed",
            json!({"source": {"http": {"url": "https://h/a.tar"}}}),
            none,
        ),
        ("its tag is another image", json!({}), |world| {
            let name = format!("{REPOSITORY}:latest-linux-amd64");
            world.network.push(&name, &digest("other"));
        }),
        ("its tag is gone", json!({}), |world| {
            let name = format!("{REPOSITORY}:latest-linux-amd64");
            world.network.manifests.lock().unwrap().remove(&name);
        }),
        ("a base is another image", json!({}), |world| {
            let other = digest("other");
            world.network.push("docker.io/library/shared:1", &other);
        }),
        ("nothing can be seen", json!({}), |world| {
            *world.network.unreachable.lock().unwrap() = true;
        }),
    ];
    for (what, spec, meanwhile) in cases {
        let world = parted_again(&spec, meanwhile).await;
        let (amd64, arm64) = (part(&world, AMD64), part(&world, ARM64));
        assert_eq!(amd64["result"], "Running", "{what}");
        assert!(
            amd64["pod"].is_string() && arm64["pod"].is_string(),
            "{what}"
        );
    }
}

#[tokio::test]
async fn the_pod_that_joins_is_retried_alone() {
    let world = parted(&json!({})).await;
    succeed_part(&world, AMD64, 1);
    succeed_part(&world, ARM64, 1);
    look(&world).await;
    let join = pod_of(&world, "join");
    world.kubelet(
        &join,
        json!({"phase": "Failed", "containerStatuses": [{"name": "builder", "image": "", "imageID": "", "ready": false,
            "restartCount": 0, "state": {"terminated": {"exitCode": 137, "reason": "Error"}}}]}),
    );
    look(&world).await;
    assert_eq!(part(&world, "join")["failure"], "BuilderFailed");
    // What is known stays known when people tidy up.
    for platform in [AMD64, ARM64] {
        world.api.remove(&core("pods", &pod_of(&world, platform)));
    }
    pass(11);
    look(&world).await;
    let again = pod_of(&world, "join");
    assert_ne!(again, join);
    assert_eq!(join_task(&world, &again).images.len(), 2);
    succeed_join(&world);
    look(&world).await;
    assert_succeeded(&world);
    assert_eq!(
        build(&world)["status"]["baseImages"]
            .as_array()
            .unwrap()
            .len(),
        3
    );
}

#[tokio::test]
async fn a_new_spec_stops_all_pods_and_builds_anew() {
    let world = parted(&json!({})).await;
    let parts = [pod_of(&world, AMD64), pod_of(&world, ARM64)];
    for pod in &parts {
        world.run(pod);
    }
    set_spec(&world, "/dockerfile/inline", json!("FROM b\nRUN make"));
    look(&world).await;
    assert_eq!(ready(&world), "Ready Superseded, Reconciling Superseded");
    for pod in &parts {
        assert!(!world.pods().contains(pod), "{pod} goes on");
    }
    look(&world).await;
    let status = build(&world)["status"].clone();
    assert_eq!(status["builds"][1]["result"], "Cancelled");
    assert_eq!(status["attempt"]["parts"], Value::Null);
    assert_eq!(status["attempt"]["result"], "Running");
}

#[tokio::test]
async fn the_annotation_cancels_all_pods() {
    let world = parted(&json!({})).await;
    let parts = [pod_of(&world, AMD64), pod_of(&world, ARM64)];
    for pod in &parts {
        world.run(pod);
    }
    annotate(&world, "cancel", &attempt(&world));
    look(&world).await;
    look(&world).await;
    assert_eq!(ready(&world), "Ready Cancelled, Stalled Cancelled");
    for pod in &parts {
        assert!(!world.pods().contains(pod), "{pod} goes on");
    }
}

#[tokio::test]
async fn a_source_that_changed_is_not_built_in_parts() {
    let world = World::new();
    let files = |text: &str| {
        world.api.put(
            &core("configmaps", "files"),
            json!({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {}, "data": {"Dockerfile": text}}),
        );
    };
    files("FROM a");
    start(
        &world,
        &json!({"source": {"configMap": {"name": "files"}}, "dockerfile": {"platforms": [AMD64, ARM64]}}),
    )
    .await;
    let whole = world.pod();
    world.fail(
        &whole,
        "ForeignPlatform",
        "Dockerfile:2: RUN make: for linux/arm64",
    );
    files("FROM b");
    look(&world).await;
    look(&world).await;
    let status = build(&world)["status"].clone();
    assert_ne!(status["attempt"]["pod"], whole);
    assert_eq!(status["attempt"]["reason"], "Source");
    assert_eq!(world.pods().len(), 2);
}

#[tokio::test]
async fn another_operator_and_a_lost_status_start_nothing_twice() {
    let world = parted(&json!({})).await;
    succeed_part(&world, AMD64, 3);
    let pods = world.pods();
    // An operator that died after it made the pods and before it told.
    world.api.change(&path(), |build| {
        build["status"]["attempt"]
            .as_object_mut()
            .unwrap()
            .remove("parts");
    });
    look(&world).await;
    assert_eq!(world.pods(), pods);
    assert_eq!(part(&world, AMD64)["result"], "Succeeded");
    // One that has lost everything.
    world.api.change(&path(), |build| {
        build["status"] = json!({"observedGeneration": -1});
    });
    look(&world).await;
    look(&world).await;
    assert_eq!(world.pods(), pods);
    assert_eq!(part(&world, AMD64)["result"], "Succeeded");
    // Two that look at the same time.
    succeed_part(&world, ARM64, 4);
    tokio::join!(look(&world), look(&world));
    look(&world).await;
    assert_eq!(world.pods().len(), pods.len() + 1);
    let index = succeed_join(&world);
    look(&world).await;
    assert_eq!(build(&world)["status"]["digest"], index.to_string());
    assert_eq!(build(&world)["status"]["builds"][0]["steps"], 7);
}

#[tokio::test]
async fn one_foreign_platform_needs_no_index() {
    let world = World::new();
    start(
        &world,
        &json!({"dockerfile": {"inline": "FROM a\nRUN make", "platforms": [ARM64]}}),
    )
    .await;
    let whole = world.pod();
    world.fail(
        &whole,
        "ForeignPlatform",
        "Dockerfile:2: RUN make: for linux/arm64",
    );
    look(&world).await;
    let arm64 = pod_of(&world, ARM64);
    assert_eq!(build_task(&world, &arm64).destinations[0].tags, ["latest"]);
    let made = succeed_part(&world, ARM64, 2);
    world.network.push(&format!("{REPOSITORY}:latest"), &made);
    look(&world).await;
    assert_succeeded(&world);
    assert_eq!(build(&world)["status"]["digest"], made.to_string());
    assert_eq!(build(&world)["status"]["platforms"], Value::Null);
}

#[tokio::test]
async fn who_chooses_the_architecture_or_no_platform_is_told_what_fails() {
    for spec in [
        json!({"pod": {"nodeSelector": {"kubernetes.io/arch": "amd64"}}}),
        json!({"dockerfile": {"inline": "FROM a\nRUN make"}}),
    ] {
        let world = World::new();
        start(&world, &spec).await;
        let whole = world.pod();
        world.fail(
            &whole,
            "ForeignPlatform",
            "Dockerfile:2: RUN make: for linux/arm64",
        );
        look(&world).await;
        assert_eq!(
            ready(&world),
            "Ready ForeignPlatform, Stalled ForeignPlatform"
        );
        assert_eq!(world.pods(), [whole]);
    }
}
