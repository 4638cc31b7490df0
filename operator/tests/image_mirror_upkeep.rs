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
    // No two pods are made within one second: which of them is the newer could not be said.
    pass(1);
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

/// A mirror of these tags that was synced and whose status names a report.
async fn synced(world: &World, tags: &[&str], spec: &Value) {
    mirror(world, tags, spec);
    look(world).await;
    let first = report(world, "first");
    copy(world, &json!({"report": first.to_string()}));
    look(world).await;
}

fn select(world: &World, tags: &[&str]) {
    world.api.change(&path(), |mirror| {
        mirror["spec"]["images"][0]["tags"]["names"] = json!(tags);
    });
}

fn selects(request: &MirrorRequest, tag: &str) -> bool {
    let selected = &request.prune.as_ref().unwrap().selected;
    let selection = mirror::Selection::parse(selected).unwrap();
    selection.contains(&mirror::Place::new("mirror/acme/app", tag.parse().unwrap()))
}

#[tokio::test]
async fn what_is_not_selected_any_more_is_planned_and_nothing_more_is_done() {
    let world = World::new();
    synced(&world, &["1", "2"], &json!({"prune": {"mode": "Plan"}})).await;
    // No status, no prune: the first pod could not have one. The second looks once.
    look(&world).await;
    let asked = request(&world);
    assert!(asked.images.is_empty() && !asked.prune.as_ref().unwrap().delete);
    assert_eq!(
        ready(&world),
        "Ready=True Syncing, Reconciling=True Syncing"
    );
    copy(&world, &json!({"prune": {"written": 2}}));
    look(&world).await;
    assert_eq!(ready(&world), "Ready=True Synced");
    let pod = attempt(&world);
    select(&world, &["1"]);
    look(&world).await;
    assert_ne!(attempt(&world), pod);
    let asked = request(&world);
    let prune = asked.prune.as_ref().unwrap();
    assert_eq!(
        (prune.prefix.as_deref(), prune.max_percent),
        (Some("mirror"), 10)
    );
    assert!(selects(&asked, "1") && !selects(&asked, "2"));
    copy(
        &world,
        &json!({"prune": {"written": 2, "planned": 1, "plan": ["mirror/acme/app:2"]}}),
    );
    look(&world).await;
    assert_eq!(ready(&world), "Ready=True Synced");
    assert_eq!(status(&world)["prunePlan"], json!(["mirror/acme/app:2"]));
    assert_eq!(status(&world)["lastPrune"]["planned"], 1);
    assert_eq!(
        status(&world)["lastSync"]["copied"],
        2,
        "a prune is no sync"
    );
    let pod = attempt(&world);
    for _ in 0..3 {
        pass(900);
        look(&world).await;
    }
    assert_eq!(attempt(&world), pod, "what is known is not asked for again");
    world.api.change(&path(), |mirror| {
        mirror["spec"]["prune"] = json!({"mode": "None"});
    });
    look(&world).await;
    assert_eq!(status(&world)["prunePlan"], Value::Null);
    assert_eq!(attempt(&world), pod);
}

#[tokio::test]
async fn too_much_at_once_is_told_until_it_is_allowed() {
    let world = World::new();
    synced(&world, &["1", "2", "3"], &json!({})).await;
    world.api.change(&path(), |mirror| {
        mirror["spec"]["prune"] = json!({"mode": "Delete"});
    });
    select(&world, &["1"]);
    look(&world).await;
    assert!(request(&world).prune.unwrap().delete);
    let plan = ["mirror/acme/app:2", "mirror/acme/app:3"];
    copy(
        &world,
        &json!({"prune": {"written": 3, "planned": 2, "plan": plan}}),
    );
    look(&world).await;
    assert_eq!(
        ready(&world),
        "Ready=False PruneRefused, Stalled=True PruneRefused"
    );
    let told = build_world::message(&world.api.get(&path()).unwrap());
    assert!(told.starts_with("2 of 3 tags"), "{told}");
    assert!(told.contains("set maxPercent to 67"), "{told}");
    assert_eq!(status(&world)["prunePlan"], json!(plan));
    world.api.change(&path(), |mirror| {
        mirror["spec"]["prune"]["maxPercent"] = json!(67);
    });
    look(&world).await;
    assert_eq!(request(&world).prune.unwrap().max_percent, 67);
    copy(
        &world,
        &json!({"prune": {"written": 3, "planned": 2, "deleted": 2, "plan": plan}}),
    );
    look(&world).await;
    assert_eq!(ready(&world), "Ready=True Synced");
    assert_eq!(status(&world)["prunePlan"], Value::Null);
    assert_eq!(status(&world)["lastPrune"]["deleted"], 2);
}

#[tokio::test]
async fn nothing_is_pruned_without_a_report_or_while_something_is_not_as_it_should_be() {
    let world = World::new();
    let delete = json!({"prune": {"mode": "Delete", "maxPercent": 100}});
    mirror(&world, &["1", "2"], &delete);
    look(&world).await;
    assert_eq!(request(&world).prune, None, "no status, no prune");
    copy(&world, &json!({}));
    look(&world).await;
    assert_eq!(ready(&world), "Ready=True Synced");

    let world = World::new();
    synced(&world, &["1", "2"], &json!({})).await;
    let pod = attempt(&world);
    // A name that the source lacks, a list that is empty, and one that fails.
    for tags in [
        json!({"names": ["1", "nope"]}),
        json!({"regex": "^9"}),
        json!({"names": ["1"], "regex": "^1"}),
    ] {
        world.api.change(&path(), |mirror| {
            mirror["spec"]["prune"] = delete["prune"].clone();
            mirror["spec"]["images"][0]["tags"] = tags.clone();
        });
        if tags["names"].is_null() {
            world.network.list(SOURCE, &["1", "2"]);
        } else {
            world.network.lists.lock().unwrap().clear();
        }
        look(&world).await;
        assert!(
            ready(&world).starts_with("Ready=False"),
            "{tags} {}",
            ready(&world)
        );
        assert_eq!(attempt(&world), pod, "{tags}");
    }
}

#[tokio::test]
async fn a_prune_goes_with_the_copy_of_what_is_new() {
    let world = World::new();
    synced(&world, &["1"], &json!({})).await;
    push(&world, "2", "2");
    world.api.change(&path(), |mirror| {
        mirror["spec"]["prune"] = json!({"mode": "Delete", "maxPercent": 100});
    });
    select(&world, &["2"]);
    look(&world).await;
    let asked = request(&world);
    assert_eq!(asked.images.len(), 1);
    assert!(selects(&asked, "2") && !selects(&asked, "1"));
    // A prune that fails is tried again, after a while.
    let failed = json!({"written": 2, "planned": 1, "failed": 1, "failure": "mirror/acme/app:1: it answered 503"});
    copy(&world, &json!({"prune": failed}));
    look(&world).await;
    let pod = attempt(&world);
    assert!(request(&world).images.is_empty());
    copy(&world, &json!({"prune": failed}));
    look(&world).await;
    assert_eq!(attempt(&world), pod);
    assert!(ready(&world).contains("RetryPending"), "{}", ready(&world));
    pass(10);
    look(&world).await;
    assert_ne!(attempt(&world), pod);
    copy(
        &world,
        &json!({"prune": {"written": 2, "planned": 1, "deleted": 1}}),
    );
    look(&world).await;
    assert_eq!(ready(&world), "Ready=True Synced");
    support::rights::assert_within_rights(&world.api);
}

#[tokio::test]
async fn everything_is_looked_at_when_that_is_due() {
    let world = World::new();
    synced(&world, &["1"], &json!({"check": {"interval": "24h"}})).await;
    assert_eq!(ready(&world), "Ready=True Synced");
    let first = attempt(&world);
    pass(24 * 3600 - 1);
    look(&world).await;
    assert_eq!(attempt(&world), first);
    pass(1);
    look(&world).await;
    let asked = request(&world);
    assert!(asked.check && asked.images.is_empty() && asked.report.unwrap().previous.is_some());
    assert_eq!(
        ready(&world),
        "Ready=True Syncing, Reconciling=True Syncing"
    );
    copy(
        &world,
        &json!({"check": {"tags": 1, "missing": 2, "repaired": 1}}),
    );
    look(&world).await;
    assert_eq!(ready(&world), "Ready=True Synced");
    assert_eq!(status(&world)["lastCheck"]["missing"], 2);
    let second = attempt(&world);
    assert_ne!(first, second);

    pass(24 * 3600);
    look(&world).await;
    let failure = "mirror/acme/app:1: 1 of it are missing: it answered 404";
    copy(
        &world,
        &json!({"check": {"tags": 1, "missing": 1, "failed": 1, "failure": failure}}),
    );
    look(&world).await;
    assert_eq!(
        ready(&world),
        "Ready=False CheckFailed, Stalled=True CheckFailed"
    );
    let told = build_world::message(&world.api.get(&path()).unwrap());
    assert!(told.contains(failure), "{told}");
    // What is copied again may have mended it.
    pass(60);
    annotate(&world, "forceAt", "1");
    look(&world).await;
    assert_eq!(request(&world).images.len(), 1);
    copy(&world, &json!({}));
    pass(60);
    look(&world).await;
    assert!(request(&world).check);
    copy(&world, &json!({"check": {"tags": 1}}));
    look(&world).await;
    assert_eq!(ready(&world), "Ready=True Synced");
}
