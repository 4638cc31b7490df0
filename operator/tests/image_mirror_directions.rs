//! Scenarios of an ImageMirror from a Registry, to another registry, and within Registries: who is asked with which
//! credentials, and what happens when a Registry changes.
#![allow(clippy::unwrap_used, reason = "tests")]

mod build_world;
mod support;

use build_world::{NAMESPACE, World, conditions, core, message, ours};
use crds::ImageMirror;
use oci::Digest;
use operator::image_mirror::ImageMirrorReconciler;
use operator::reconcile::reconcile;
use protocol::{MirrorRequest, Request, Task};
use serde_json::{Value, json};

const MAIN: &str = "main.team.svc:5000";
const EDGE: &str = "edge.team.svc:5000";

fn path() -> String {
    ours("imagemirrors", "out")
}

fn mirror(world: &World, source: &Value, destination: &Value) {
    world.api.put(
        &path(),
        json!({"apiVersion": "coopery.dev/v1alpha1", "kind": "ImageMirror", "metadata": {},
            "spec": {
                "source": source, "destination": destination,
                "images": [{"name": "app", "repository": "team/app", "tags": {"names": ["1"]}}],
                "limits": {"concurrency": 2, "bytesPerSecond": "50Mi"},
            },
            "status": {"observedGeneration": -1}}),
    );
}

async fn look(world: &World) {
    let object: ImageMirror = serde_json::from_value(world.api.get(&path()).unwrap()).unwrap();
    reconcile::<ImageMirrorReconciler>(&world.context, &object).await;
}

fn ready(world: &World) -> String {
    conditions(&world.api.get(&path()).unwrap()).join(", ")
}

/// A Registry that serves since `since`.
fn registry(world: &World, name: &str, uid: &str, since: &str) {
    world.api.put(
        &ours("registries", name),
        json!({
            "apiVersion": "coopery.dev/v1alpha1", "kind": "Registry", "metadata": {"uid": uid},
            "spec": {"managed": {"storage": {"emptyDir": {}}}},
            "status": {"host": format!("{name}.{NAMESPACE}.svc:5000"), "conditions": [{"type": "Ready", "status": "True",
                "reason": "Ready", "message": "m", "lastTransitionTime": since}]},
        }),
    );
    world.secret(&format!("{name}-credentials"));
}

fn push(world: &World, host: &str, content: &str) -> Digest {
    let digest = Digest::of(content.as_bytes());
    world.network.push(&format!("{host}/team/app:1"), &digest);
    digest
}

fn request(world: &World, pod: &Value) -> (Request, MirrorRequest) {
    let _ = world;
    let text = &pod["metadata"]["annotations"]["coopery.dev/request"];
    let request = Request::parse(text.as_str().unwrap().as_bytes()).unwrap();
    match request.task.clone() {
        Task::Mirror(mirror) => (request, mirror),
        _ => panic!("no mirror"),
    }
}

/// Names of the Secrets that the pod is given.
fn secrets(pod: &Value) -> Vec<String> {
    let volumes = pod["spec"]["volumes"].as_array().unwrap();
    let named = volumes
        .iter()
        .filter_map(|volume| volume["secret"]["secretName"].as_str());
    named.map(str::to_owned).collect()
}

#[tokio::test]
async fn images_go_from_a_registry_to_a_registry_of_others() {
    let world = World::new();
    push(&world, MAIN, "a");
    world.secret("push");
    let destination = json!({"host": "ghcr.io", "secretRef": {"name": "push"}, "prefix": "acme"});
    mirror(&world, &json!({"registry": {"name": "main"}}), &destination);
    look(&world).await;
    let name = world.pod();
    let pod = world.api.get(&core("pods", &name)).unwrap();
    let (all, copies) = request(&world, &pod);
    assert_eq!(copies.images[0].source, format!("{MAIN}/team/app:1"));
    assert_eq!(copies.images[0].destination, "ghcr.io/acme/team/app:1");
    // Only the Registry is spoken to without TLS, and in a registry of others nothing is kept that nobody asked for.
    assert_eq!(all.plain_http, [MAIN]);
    assert_eq!(copies.ledger, None);
    assert_eq!(copies.limits.concurrency, Some(2));
    assert_eq!(copies.limits.bytes_per_second, Some(50 << 20));
    assert_eq!(secrets(&pod), ["push", "main-credentials"]);
    let asked = world.network.asked.lock().unwrap().clone();
    for (name, plain, credentials) in asked {
        assert_eq!((plain, credentials), (name.starts_with(MAIN), 1), "{name}");
    }
    // It is there now.
    let digest = push(&world, MAIN, "a");
    world.network.push("ghcr.io/acme/team/app:1", &digest);
    world.end(
        &name,
        &json!({"mirrored": {"copied": 1, "failed": 0, "bytesCopied": 1, "images": []}}),
    );
    look(&world).await;
    assert_eq!(ready(&world), "Ready=True Synced");
    let status = world.api.get(&path()).unwrap()["status"].clone();
    assert_eq!(status["images"][0]["repository"], "ghcr.io/acme/team/app");
    support::rights::assert_within_rights(&world.api);
}

#[tokio::test]
async fn images_go_from_one_registry_to_another() {
    let world = World::new();
    registry(&world, "edge", "e", "2026-01-01T00:00:00Z");
    push(&world, MAIN, "a");
    mirror(
        &world,
        &json!({"registry": {"name": "main"}}),
        &json!({"registry": {"name": "edge"}}),
    );
    look(&world).await;
    let pod = world.api.get(&core("pods", &world.pod())).unwrap();
    let (all, copies) = request(&world, &pod);
    assert_eq!(copies.images[0].destination, format!("{EDGE}/team/app:1"));
    assert_eq!(all.plain_http, [EDGE, MAIN]);
    assert_eq!(copies.ledger, Some(format!("{EDGE}/team/coopery-ledger")));
    assert_eq!(secrets(&pod), ["edge-credentials", "main-credentials"]);
}

#[tokio::test]
async fn a_registry_that_is_missing_is_named_whichever_side_it_is() {
    let world = World::new();
    let (main, edge) = (
        json!({"registry": {"name": "main"}}),
        json!({"registry": {"name": "edge"}}),
    );
    push(&world, MAIN, "a");
    for (source, destination) in [(&main, &edge), (&edge, &main)] {
        mirror(&world, source, destination);
        look(&world).await;
        assert!(ready(&world).starts_with("Ready=False RegistryNotFound"));
        let told = message(&world.api.get(&path()).unwrap());
        assert!(told.contains("Registry edge does not exist"), "{told}");
    }
    assert!(world.pods().is_empty());
    assert!(world.network.asked.lock().unwrap().is_empty());
}

#[tokio::test]
async fn a_secret_of_the_destination_is_waited_for() {
    let world = World::new();
    push(&world, "docker.io", "a");
    let destination = json!({"host": "ghcr.io", "secretRef": {"name": "push"}});
    mirror(&world, &json!({"host": "docker.io"}), &destination);
    look(&world).await;
    assert!(ready(&world).starts_with("Ready=False SecretNotFound"));
    world.secret("push");
    look(&world).await;
    let pod = world.api.get(&core("pods", &world.pod())).unwrap();
    assert_eq!(secrets(&pod), ["push"]);
}

#[tokio::test]
async fn a_registry_that_began_anew_is_looked_at_at_once() {
    let world = World::new();
    registry(&world, "edge", "e", "2026-01-01T00:00:00Z");
    let digest = push(&world, "docker.io", "a");
    world.network.push(&format!("{EDGE}/team/app:1"), &digest);
    mirror(
        &world,
        &json!({"host": "docker.io"}),
        &json!({"registry": {"name": "edge"}}),
    );
    let asked = || world.network.asked.lock().unwrap().len();
    look(&world).await;
    look(&world).await;
    assert_eq!((ready(&world).as_str(), asked()), ("Ready=True Synced", 2));
    // It was restarted: what it holds is looked at.
    registry(&world, "edge", "e", "2026-01-01T00:01:00Z");
    look(&world).await;
    assert_eq!((ready(&world).as_str(), asked()), ("Ready=True Synced", 4));
    // Another one of the same name is empty.
    registry(&world, "edge", "f", "2026-01-01T00:01:00Z");
    world.network.manifests.lock().unwrap().clear();
    push(&world, "docker.io", "a");
    look(&world).await;
    assert_eq!(asked(), 6);
    world.pod();
}
