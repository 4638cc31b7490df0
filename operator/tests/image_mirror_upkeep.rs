//! Scenarios of what an ImageMirror does besides copying: the report of what it wrote, and what was deleted at the
//! destination by hand.
#![allow(clippy::unwrap_used, reason = "tests")]

mod build_world;
mod support;

use build_world::{World, conditions, core, ours, pass};
use crds::ImageMirror;
use oci::Digest;
use operator::image_mirror::ImageMirrorReconciler;
use operator::reconcile::reconcile;
use protocol::{MirrorRequest, Request, Task};
use serde_json::{Value, json};

const SOURCE: &str = "docker.io/acme/app";
const DESTINATION: &str = "main.team.svc:5000/mirror/acme/app";
const REPORT: &str = "main.team.svc:5000/team/coopery-report";

fn path() -> String {
    ours("imagemirrors", "hub")
}

/// A mirror of these tags, with `spec` besides.
fn mirror(world: &World, tags: &[&str], spec: &Value) {
    for tag in tags {
        push(world, tag, tag);
    }
    let mut all = json!({
        "interval": "15m",
        "source": {"host": "docker.io"},
        "destination": {"registry": {"name": "main"}, "prefix": "mirror"},
        "images": [{"name": "app", "repository": "acme/app", "tags": {"names": tags}}],
    });
    for (field, value) in spec.as_object().unwrap() {
        all[field] = value.clone();
    }
    world.api.put(
        &path(),
        json!({"apiVersion": "coopery.dev/v1alpha1", "kind": "ImageMirror", "metadata": {},
            "spec": all, "status": {"observedGeneration": -1}}),
    );
}

async fn look(world: &World) {
    let object: ImageMirror = serde_json::from_value(world.api.get(&path()).unwrap()).unwrap();
    reconcile::<ImageMirrorReconciler>(&world.context, &object).await;
}

fn status(world: &World) -> Value {
    world.api.get(&path()).unwrap()["status"].clone()
}

fn ready(world: &World) -> String {
    conditions(&world.api.get(&path()).unwrap()).join(", ")
}

fn push(world: &World, tag: &str, content: &str) {
    let digest = Digest::of(content.as_bytes());
    world.network.push(&format!("{SOURCE}:{tag}"), &digest);
}

fn attempt(world: &World) -> String {
    status(world)["attempt"]["pod"].as_str().unwrap().to_owned()
}

fn request(world: &World) -> MirrorRequest {
    let pod = world.api.get(&core("pods", &attempt(world))).unwrap();
    let text = pod["metadata"]["annotations"]["coopery.dev/request"].clone();
    let text = text.as_str().unwrap();
    match Request::parse(text.as_bytes()).unwrap().task {
        Task::Mirror(request) => request,
        _ => panic!("no mirror"),
    }
}

/// The pod copies what it was asked for and says so, `more` besides.
fn copy(world: &World, more: &Value) {
    let request = request(world);
    for image in &request.images {
        let digest: Digest = image.digest.clone().unwrap().parse().unwrap();
        world.network.push(&image.destination, &digest);
    }
    let mut outcome = json!({"copied": request.images.len()});
    for (field, value) in more.as_object().unwrap() {
        outcome[field] = value.clone();
    }
    world.end(&attempt(world), &json!({ "mirrored": outcome }));
}

/// A report that the pod has written.
fn report(world: &World, content: &str) -> Digest {
    let digest = Digest::of(content.as_bytes());
    let owner = world.api.get(&path()).unwrap()["metadata"]["uid"].clone();
    let name = format!("{REPORT}:{}", owner.as_str().unwrap());
    world.network.push(&name, &digest);
    digest
}

fn annotate(world: &World, name: &str, value: &str) {
    world.api.change(&path(), |mirror| {
        mirror["metadata"]["annotations"][format!("reconcile.coopery.dev/{name}")] = json!(value);
    });
}

#[tokio::test]
async fn the_report_is_read_back_named_and_gone_on_from() {
    let world = World::new();
    mirror(&world, &["1"], &json!({}));
    look(&world).await;
    let asked = request(&world).report.unwrap();
    assert_eq!(asked.repository, REPORT);
    assert_eq!(asked.previous, None);
    let uid = world.api.get(&path()).unwrap()["metadata"]["uid"].clone();
    assert_eq!(asked.owner, uid.as_str().unwrap());

    let first = report(&world, "first");
    copy(&world, &json!({"report": first.to_string()}));
    look(&world).await;
    assert_eq!(ready(&world), "Ready=True Synced");
    assert_eq!(status(&world)["report"], format!("{REPORT}@{first}"));

    push(&world, "1", "moved");
    annotate(&world, "requestedAt", "1");
    look(&world).await;
    let asked = request(&world).report.unwrap();
    assert_eq!(asked.previous, Some(first.to_string()));
    // A sync in which nothing was written leaves the report as it is.
    copy(&world, &json!({}));
    look(&world).await;
    assert_eq!(status(&world)["report"], format!("{REPORT}@{first}"));
    support::rights::assert_within_rights(&world.api);
}

#[tokio::test]
async fn a_report_that_is_not_there_is_not_named() {
    let world = World::new();
    mirror(&world, &["1"], &json!({}));
    look(&world).await;
    let nowhere = Digest::of(b"nowhere");
    copy(&world, &json!({"report": nowhere.to_string()}));
    look(&world).await;
    assert_eq!(ready(&world), "Ready=True Synced");
    assert_eq!(status(&world)["report"], Value::Null);
}

#[tokio::test]
async fn a_report_that_could_not_be_looked_for_is_looked_for_again() {
    let world = World::new();
    mirror(&world, &["1"], &json!({}));
    look(&world).await;
    let pod = attempt(&world);
    let first = report(&world, "first");
    copy(&world, &json!({"report": first.to_string()}));
    *world.network.unreachable.lock().unwrap() = true;
    look(&world).await;
    assert_eq!(status(&world)["report"], Value::Null);
    *world.network.unreachable.lock().unwrap() = false;
    push(&world, "1", "moved");
    annotate(&world, "requestedAt", "1");
    look(&world).await;
    assert_ne!(attempt(&world), pod);
    let asked = request(&world).report.unwrap();
    assert_eq!(asked.previous, Some(first.to_string()));
}

#[tokio::test]
async fn a_tag_deleted_at_the_destination_comes_back() {
    let world = World::new();
    mirror(&world, &["1"], &json!({}));
    look(&world).await;
    copy(&world, &json!({}));
    look(&world).await;
    let pod = attempt(&world);
    let gone = format!("{DESTINATION}:1");
    assert!(
        world
            .network
            .manifests
            .lock()
            .unwrap()
            .remove(&gone)
            .is_some()
    );
    pass(900);
    annotate(&world, "requestedAt", "1");
    look(&world).await;
    assert_ne!(attempt(&world), pod);
    copy(&world, &json!({}));
    look(&world).await;
    assert_eq!(ready(&world), "Ready=True Synced");
}
