//! Scenarios of an ImageMirror: copied, equal, moved at the source, missing, failing, deleted at the destination.
#![allow(clippy::unwrap_used, reason = "tests")]

mod build_world;
mod support;

use build_world::{World, conditions, core, message, ours, pass};
use crds::ImageMirror;
use oci::Digest;
use operator::image_mirror::ImageMirrorReconciler;
use operator::reconcile::{Finished, reconcile};
use protocol::{MirrorRequest, Request, Task};
use serde_json::{Value, json};

const SOURCE: &str = "docker.io/library/alpine";
const DESTINATION: &str = "main.team.svc:5000/mirror/library/alpine";

fn path() -> String {
    ours("imagemirrors", "hub")
}

fn mirror(world: &World, tags: &[&str]) {
    world.api.put(
        &path(),
        json!({"apiVersion": "coopery.dev/v1alpha1", "kind": "ImageMirror", "metadata": {},
            "spec": {
                "interval": "15m",
                "source": {"host": "docker.io"},
                "destination": {"registry": {"name": "main"}, "prefix": "mirror"},
                "images": [{"name": "alpine", "repository": "library/alpine", "tags": {"names": tags}}],
            },
            "status": {"observedGeneration": -1}}),
    );
}

async fn look(world: &World) -> Finished {
    let object: ImageMirror = serde_json::from_value(world.api.get(&path()).unwrap()).unwrap();
    reconcile::<ImageMirrorReconciler>(&world.context, &object).await
}

fn object(world: &World) -> Value {
    world.api.get(&path()).unwrap()
}

fn annotate(world: &World, name: &str, value: &str) {
    world.api.change(&path(), |mirror| {
        mirror["metadata"]["annotations"][format!("reconcile.coopery.dev/{name}")] = json!(value);
    });
}

fn push(world: &World, tag: &str, content: &str) -> Digest {
    let digest = Digest::of(content.as_bytes());
    world.network.push(&format!("{SOURCE}:{tag}"), &digest);
    digest
}

fn request(world: &World, pod: &str) -> MirrorRequest {
    let pod = world.api.get(&core("pods", pod)).unwrap();
    let text = pod["metadata"]["annotations"]["coopery.dev/request"]
        .as_str()
        .unwrap();
    match Request::parse(text.as_bytes()).unwrap().task {
        Task::Mirror(request) => request,
        _ => panic!("no mirror"),
    }
}

fn attempt(world: &World) -> String {
    object(world)["status"]["attempt"]["pod"]
        .as_str()
        .unwrap()
        .to_owned()
}

/// The pod copies what it was asked for, but for `failing` tags.
fn copy(world: &World, pod: &str, failing: &[&str]) {
    let request = request(world, pod);
    let mut images = Vec::new();
    for (index, image) in request.images.iter().enumerate() {
        let digest: Digest = image.digest.clone().unwrap().parse().unwrap();
        if failing
            .iter()
            .any(|tag| image.source.ends_with(&format!(":{tag}")))
        {
            images.push(json!({"index": index, "failure": {"kind": "RegistryUnavailable", "message": "it answered 503"}}));
        } else {
            world.network.push(&image.destination, &digest);
            images.push(json!({"index": index, "digest": digest.to_string()}));
        }
    }
    world.end(
        pod,
        &json!({"mirrored": {"copied": request.images.len() - failing.len(), "failed": failing.len(),
            "bytesCopied": 10, "images": images}}),
    );
}

fn ready(world: &World) -> String {
    conditions(&object(world)).join(", ")
}

#[tokio::test]
async fn tags_are_copied_read_back_and_then_nothing_is_written() {
    let world = World::new();
    let digest = push(&world, "3.22", "a");
    mirror(&world, &["3.22"]);
    look(&world).await;
    assert_eq!(
        ready(&world),
        "Ready=Unknown Syncing, Reconciling=True Syncing"
    );
    let pod = world.pod();
    let request = request(&world, &pod);
    assert_eq!(request.images[0].source, format!("{SOURCE}:3.22"));
    assert_eq!(request.images[0].digest, Some(digest.to_string()));
    assert_eq!(request.images[0].destination, format!("{DESTINATION}:3.22"));
    let shape = world.api.get(&core("pods", &pod)).unwrap();
    assert_eq!(shape["spec"]["securityContext"]["runAsNonRoot"], true);

    world.run(&pod);
    look(&world).await;
    pass(20);
    copy(&world, &pod, &[]);
    look(&world).await;
    assert_eq!(ready(&world), "Ready=True Synced");
    let status = object(&world)["status"].clone();
    assert_eq!(
        status["tags"],
        json!({"selected": 1, "synced": 1, "failed": 0})
    );
    assert_eq!(status["images"][0]["repository"], DESTINATION);
    assert_eq!(status["images"][0]["digest"], digest.to_string());
    assert_eq!(status["lastSync"]["copied"], 1);
    assert_eq!(status["lastSync"]["bytesCopied"], 10);
    assert!(status["nextSync"].is_string());
    assert_eq!(world.events(), ["Synced", "Syncing"]);

    let asked = world.network.asked.lock().unwrap().clone();
    for (name, plain, credentials) in asked {
        let ours = name.starts_with("main.team.svc");
        assert_eq!((plain, credentials), (ours, usize::from(ours)), "{name}");
    }
    support::rights::assert_within_rights(&world.api);
    world.api.writes();
    for _ in 0..10 {
        pass(900);
        look(&world).await;
    }
    assert_eq!(world.api.writes(), Vec::<String>::new());
    assert_eq!(world.pods().len(), 1);
}

#[tokio::test]
async fn what_is_equal_already_starts_no_pod() {
    let world = World::new();
    let digest = push(&world, "3.22", "a");
    world.network.push(&format!("{DESTINATION}:3.22"), &digest);
    mirror(&world, &["3.22"]);
    look(&world).await;
    assert_eq!(ready(&world), "Ready=True Synced");
    assert!(world.pods().is_empty());
    assert_eq!(object(&world)["status"]["lastSync"], Value::Null);
    // Unless that is wished.
    annotate(&world, "forceAt", "1");
    look(&world).await;
    copy(&world, &world.pod(), &[]);
    look(&world).await;
    look(&world).await;
    assert_eq!(ready(&world), "Ready=True Synced");
    assert_eq!(world.pods().len(), 1);
    assert_eq!(object(&world)["status"]["lastHandledForceAt"], "1");
}

#[tokio::test]
async fn the_registries_are_asked_once_in_an_interval() {
    let world = World::new();
    let digest = push(&world, "3.22", "a");
    world.network.push(&format!("{DESTINATION}:3.22"), &digest);
    mirror(&world, &["3.22"]);
    for _ in 0..5 {
        let finished = look(&world).await;
        assert!(finished.requeue.unwrap().as_secs() <= 900);
    }
    assert_eq!(world.network.asked.lock().unwrap().len(), 2);
    annotate(&world, "requestedAt", "now");
    look(&world).await;
    assert_eq!(world.network.asked.lock().unwrap().len(), 4);
    assert_eq!(object(&world)["status"]["lastHandledRequestedAt"], "now");
}

#[tokio::test]
async fn a_schedule_says_when_is_looked() {
    let world = World::new();
    let digest = push(&world, "3.22", "a");
    world.network.push(&format!("{DESTINATION}:3.22"), &digest);
    mirror(&world, &["3.22"]);
    world.api.change(&path(), |mirror| {
        mirror["spec"]["interval"].take();
        mirror["spec"]["schedule"] = json!("0 * * * *");
    });
    let asked = || world.network.asked.lock().unwrap().len();
    let finished = look(&world).await;
    // 1,800,000,000 is 8:00:00.
    assert_eq!(finished.requeue.unwrap().as_secs(), 3600);
    assert_eq!(object(&world)["status"]["nextSync"], "2027-01-15T09:00:00Z");
    pass(3599);
    look(&world).await;
    assert_eq!(asked(), 2);
    let digest = push(&world, "3.22", "b");
    pass(1);
    look(&world).await;
    assert_eq!(asked(), 4);
    assert_eq!(object(&world)["status"]["nextSync"], "2027-01-15T10:00:00Z");
    let pod = world.pod();
    assert_eq!(
        request(&world, &pod).images[0].digest,
        Some(digest.to_string())
    );
    // What fails more often than is retried waits for the next time.
    for wait in [10, 20, 0] {
        copy(&world, &attempt(&world), &["3.22"]);
        look(&world).await;
        pass(wait);
        look(&world).await;
    }
    assert_eq!(
        object(&world)["status"]["attempt"]["nextTime"],
        "2027-01-15T10:00:00Z"
    );
    let pod = attempt(&world);
    pass(3540);
    look(&world).await;
    assert_eq!(attempt(&world), pod);
    pass(30);
    look(&world).await;
    assert_ne!(attempt(&world), pod);
}

#[tokio::test]
async fn another_interval_holds_at_once() {
    let world = World::new();
    let digest = push(&world, "3.22", "a");
    world.network.push(&format!("{DESTINATION}:3.22"), &digest);
    mirror(&world, &["3.22"]);
    world
        .api
        .change(&path(), |mirror| mirror["spec"]["interval"] = json!("8h"));
    assert!(look(&world).await.requeue.unwrap().as_secs() > 8 * 3590);
    world
        .api
        .change(&path(), |mirror| mirror["spec"]["interval"] = json!("1h"));
    assert!(look(&world).await.requeue.unwrap().as_secs() <= 3600);
    // For that, nobody is asked.
    assert_eq!(world.network.asked.lock().unwrap().len(), 2);
}

#[tokio::test]
async fn a_tag_that_moved_is_copied_again_and_the_pod_before_is_deleted() {
    let world = World::new();
    push(&world, "edge", "a");
    mirror(&world, &["edge"]);
    look(&world).await;
    let first = world.pod();
    copy(&world, &first, &[]);
    look(&world).await;
    let digest = push(&world, "edge", "b");
    annotate(&world, "requestedAt", "1");
    pass(60);
    look(&world).await;
    let second = attempt(&world);
    assert_ne!(first, second);
    copy(&world, &second, &[]);
    look(&world).await;
    assert_eq!(ready(&world), "Ready=True Synced");
    assert_eq!(world.pods(), [second]);
    assert_eq!(
        object(&world)["status"]["images"][0]["digest"],
        digest.to_string()
    );
}

#[tokio::test]
async fn a_tag_that_the_source_lacks_is_told_and_the_others_are_copied() {
    let world = World::new();
    push(&world, "3.22", "a");
    mirror(&world, &["3.22", "nope"]);
    look(&world).await;
    let pod = world.pod();
    assert_eq!(request(&world, &pod).images.len(), 1);
    copy(&world, &pod, &[]);
    look(&world).await;
    assert_eq!(
        ready(&world),
        "Ready=False TagNotFound, Stalled=True TagNotFound"
    );
    assert!(message(&object(&world)).contains("alpine:nope"));
    let status = object(&world)["status"].clone();
    assert_eq!(
        status["tags"],
        json!({"selected": 2, "synced": 1, "failed": 1})
    );
    assert_eq!(
        status["failures"],
        json!([format!(
            "{SOURCE}:nope: TagNotFound: the source has no such tag"
        )])
    );
    let digest = push(&world, "nope", "b");
    world.network.push(&format!("{DESTINATION}:nope"), &digest);
    annotate(&world, "requestedAt", "1");
    look(&world).await;
    assert_eq!(ready(&world), "Ready=True Synced");
    assert_eq!(object(&world)["status"]["failures"], Value::Null);
}

#[tokio::test]
async fn a_failing_tag_is_retried_and_then_waits_for_the_interval() {
    let world = World::new();
    push(&world, "a", "a");
    push(&world, "b", "b");
    mirror(&world, &["a", "b"]);
    look(&world).await;
    copy(&world, &attempt(&world), &["b"]);
    pass(5);
    look(&world).await;
    // What is left is something else than what was tried: it starts at once.
    for wait in [10, 20] {
        let pod = attempt(&world);
        assert_eq!(request(&world, &pod).images.len(), 1);
        copy(&world, &pod, &["b"]);
        look(&world).await;
        assert_eq!(
            ready(&world),
            "Ready=False RetryPending, Reconciling=True RetryPending"
        );
        assert_eq!(attempt(&world), pod);
        pass(wait);
        look(&world).await;
        assert_ne!(attempt(&world), pod);
    }
    let pod = attempt(&world);
    copy(&world, &pod, &["b"]);
    look(&world).await;
    assert_eq!(
        ready(&world),
        "Ready=False SyncFailed, Stalled=True SyncFailed"
    );
    assert_eq!(
        object(&world)["status"]["failures"],
        json!([format!("{SOURCE}:b: RegistryUnavailable: it answered 503")])
    );
    pass(899);
    look(&world).await;
    assert_eq!(attempt(&world), pod);
    pass(1);
    look(&world).await;
    assert_ne!(attempt(&world), pod, "the next interval tries again");
    copy(&world, &attempt(&world), &[]);
    look(&world).await;
    assert_eq!(ready(&world), "Ready=True Synced");
}

#[tokio::test]
async fn a_pod_that_lies_is_not_believed() {
    let world = World::new();
    push(&world, "3.22", "a");
    mirror(&world, &["3.22"]);
    look(&world).await;
    world.end(
        &world.pod(),
        &json!({"mirrored": {"copied": 1, "images": [{"index": 0, "digest": "sha256:00"}]}}),
    );
    look(&world).await;
    assert_eq!(
        ready(&world),
        "Ready=False VerificationFailed, Stalled=True VerificationFailed"
    );
    assert_eq!(object(&world)["status"]["images"], Value::Null);
}

#[tokio::test]
async fn a_registry_that_does_not_answer_is_waited_for() {
    let world = World::new();
    push(&world, "3.22", "a");
    mirror(&world, &["3.22"]);
    *world.network.unreachable.lock().unwrap() = true;
    let finished = look(&world).await;
    assert_eq!(
        ready(&world),
        "Ready=False RegistryUnavailable, Reconciling=True RegistryUnavailable"
    );
    assert!(finished.requeue.unwrap().as_secs() <= 30);
    assert!(world.pods().is_empty());
}

#[tokio::test]
async fn what_is_missing_is_waited_for() {
    let world = World::new();
    push(&world, "3.22", "a");
    mirror(&world, &["3.22"]);
    world.serve_registry(false);
    look(&world).await;
    assert!(ready(&world).starts_with("Ready=False RegistryNotReady"));
    world.serve_registry(true);
    world.api.remove(&core("secrets", "main-credentials"));
    look(&world).await;
    assert!(ready(&world).starts_with("Ready=False SecretNotFound"));
    world.secret("main-credentials");
    look(&world).await;
    world.pod();
}

#[tokio::test]
async fn suspend_starts_nothing_and_a_changed_spec_stops_the_pod() {
    let world = World::new();
    push(&world, "3.22", "a");
    mirror(&world, &["3.22"]);
    world
        .api
        .change(&path(), |mirror| mirror["spec"]["suspend"] = json!(true));
    look(&world).await;
    assert_eq!(ready(&world), "Ready=False Suspended");
    assert!(world.pods().is_empty());
    world
        .api
        .change(&path(), |mirror| mirror["spec"]["suspend"] = json!(false));
    look(&world).await;
    let first = world.pod();
    world.run(&first);
    push(&world, "3.21", "b");
    world.api.change(&path(), |mirror| {
        mirror["spec"]["images"][0]["tags"]["names"] = json!(["3.21"]);
    });
    look(&world).await;
    assert!(world.pods().is_empty());
    look(&world).await;
    let second = world.pod();
    assert_ne!(first, second);
    assert!(request(&world, &second).images[0].source.ends_with(":3.21"));
}

#[tokio::test]
async fn a_lost_pod_is_made_again() {
    let world = World::new();
    push(&world, "3.22", "a");
    mirror(&world, &["3.22"]);
    look(&world).await;
    let first = world.pod();
    world.run(&first);
    world.api.remove(&core("pods", &first));
    look(&world).await;
    assert!(
        ready(&world).starts_with("Ready=False RetryPending"),
        "{}",
        ready(&world)
    );
    pass(10);
    look(&world).await;
    assert_ne!(world.pod(), first);
}
