//! Scenarios of builds whose base image is not there: they are started again by themselves when it appears, and wait for
//! it where mirrors and builds of the namespace bring it.
#![allow(clippy::unwrap_used, reason = "tests")]

mod build_world;
mod support;

use build_world::builds::{annotate, build, digest, inline, look, set_spec, succeed};
use build_world::{World, conditions, core, message, now, pass};
use serde_json::json;

const ELSEWHERE: &str = "docker.io/acme/base:1";
const MIRRORED: &str = "main.team.svc:5000/mirror/base:1";

/// The true ones of Ready, Reconciling and Stalled, or why Ready is not.
fn ready(world: &World) -> String {
    let wanted = ["Ready", "Reconciling", "Stalled"];
    conditions(&build(world))
        .into_iter()
        .filter(|c| wanted.iter().any(|word| c.starts_with(word)))
        .collect::<Vec<_>>()
        .join(", ")
}

fn attempt(world: &World) -> String {
    let build = build(world);
    build["status"]["attempt"]["pod"].as_str().unwrap().into()
}

/// The present pod ends because `image` is not there.
fn miss(world: &World, image: &str) {
    world.end(
        &attempt(world),
        &json!({"failed": {"kind": "BaseImageNotFound", "image": image,
            "message": format!("Dockerfile:1: base image `{image}`: not found")}}),
    );
}

fn asked(world: &World) -> Vec<(String, bool, usize)> {
    world.network.asked.lock().unwrap().clone()
}

/// Another process takes over: what the one before remembered is gone, and with it the wait for the next question.
fn restart(world: &mut World) {
    let network = world.network.clone();
    world.context = world.api.context().with_clock(now).with_network(network);
}

#[tokio::test]
async fn a_base_that_appears_is_built_from_without_a_touch() {
    let mut world = World::new();
    inline(
        &world,
        &json!({"retry": {"limit": 0}, "imagePullSecrets": [{"name": "hub"}]}),
    );
    world.secret("hub");
    look(&world).await;
    miss(&world, ELSEWHERE);
    for _ in 0..3 {
        let finished = look(&world).await;
        assert!(finished.requeue.unwrap().as_secs() <= 10);
        assert_eq!(
            ready(&world),
            "Ready=False BaseImageNotFound, Stalled=True BaseImageNotFound"
        );
    }
    let told = message(&build(&world));
    assert!(told.contains(ELSEWHERE), "{told}");
    assert!(told.contains("the build starts when it is there"), "{told}");
    // Asked once in ten seconds, with the credentials that the pod has.
    assert_eq!(asked(&world), [(ELSEWHERE.to_owned(), false, 2)]);
    assert_eq!(
        build(&world)["status"]["attempt"]["missingImage"],
        ELSEWHERE
    );
    assert_eq!(world.pods().len(), 1);

    world.network.push(ELSEWHERE, &digest("base"));
    look(&world).await;
    assert_eq!(
        world.pods().len(),
        1,
        "the last answer is not ten seconds old"
    );
    restart(&mut world);
    look(&world).await;
    assert_eq!(world.pods().len(), 2);
    let attempt_made = build(&world)["status"]["attempt"].clone();
    assert_eq!(attempt_made["reason"], "BaseImage");
    assert_eq!(attempt_made["retries"], 0);
    assert!(attempt_made["missingImage"].is_null());
    succeed(&world, &attempt(&world), "app");
    look(&world).await;
    assert_eq!(ready(&world), "Ready=True Succeeded");
}

#[tokio::test]
async fn a_base_of_a_registry_here_is_waited_for() {
    let mut world = World::new();
    inline(&world, &json!({}));
    look(&world).await;
    miss(&world, MIRRORED);
    look(&world).await;
    let waiting = "Ready=False BaseImageNotFound, Reconciling=True BaseImageNotFound";
    assert_eq!(ready(&world), waiting);
    assert_eq!(asked(&world), [(MIRRORED.to_owned(), true, 1)]);
    // Nothing of this is lost with the pod, or while the Registry is away.
    world.api.remove(&core("pods", &attempt(&world)));
    world.serve_registry(false);
    restart(&mut world);
    look(&world).await;
    assert_eq!(ready(&world), waiting);
    assert!(message(&build(&world)).contains(MIRRORED));
    world.network.push(MIRRORED, &digest("base"));
    restart(&mut world);
    look(&world).await;
    assert_eq!(
        ready(&world),
        "Ready=False RegistryNotReady, Reconciling=True RegistryNotReady"
    );
    world.serve_registry(true);
    look(&world).await;
    world.pod();
}

#[tokio::test]
async fn a_base_that_is_shown_and_not_served_is_tried_more_and_more_seldom() {
    let world = World::new();
    inline(&world, &json!({}));
    look(&world).await;
    world.network.push(MIRRORED, &digest("base"));
    // It came between the pod's question and ours.
    miss(&world, MIRRORED);
    look(&world).await;
    assert_eq!(world.pods().len(), 2);
    for (attempts, wait) in [(2, 10), (3, 20), (4, 40)] {
        miss(&world, MIRRORED);
        look(&world).await;
        pass(wait - 1);
        look(&world).await;
        let number = build(&world)["status"]["attempt"]["number"].clone();
        assert_eq!(number, attempts - 1, "after less than {wait} s");
        pass(1);
        look(&world).await;
        let number = build(&world)["status"]["attempt"]["number"].clone();
        assert_eq!(number, attempts, "after {wait} s");
    }
}

#[tokio::test]
async fn an_image_that_is_there_but_not_for_the_platform_is_not_asked_for() {
    let world = World::new();
    inline(&world, &json!({}));
    look(&world).await;
    let sentence = "base image `x`: it has no image for linux/arm64";
    world.fail(&world.pod(), "BaseImageNotFound", sentence);
    look(&world).await;
    assert_eq!(
        ready(&world),
        "Ready=False BaseImageNotFound, Stalled=True BaseImageNotFound"
    );
    assert!(asked(&world).is_empty());
    assert!(!message(&build(&world)).contains("starts when"));
}

#[tokio::test]
async fn a_registry_that_cannot_be_asked_is_told() {
    let mut world = World::new();
    inline(&world, &json!({}));
    look(&world).await;
    *world.network.unreachable.lock().unwrap() = true;
    miss(&world, ELSEWHERE);
    look(&world).await;
    let told = message(&build(&world));
    assert!(told.contains("cannot see whether it is there"), "{told}");
    assert_eq!(world.pods().len(), 1);
    *world.network.unreachable.lock().unwrap() = false;
    world.network.push(ELSEWHERE, &digest("base"));
    restart(&mut world);
    look(&world).await;
    assert_eq!(world.pods().len(), 2);
}

#[tokio::test]
async fn a_suspended_or_cancelled_build_looks_for_no_base() {
    let world = World::new();
    inline(&world, &json!({"suspend": false}));
    look(&world).await;
    miss(&world, MIRRORED);
    world.network.push(MIRRORED, &digest("base"));
    set_spec(&world, "/suspend", json!(true));
    look(&world).await;
    assert_eq!(ready(&world), "Ready=False Suspended");
    annotate(&world, "cancel", &attempt(&world));
    set_spec(&world, "/suspend", json!(false));
    look(&world).await;
    look(&world).await;
    assert_eq!(
        ready(&world),
        "Ready=False Cancelled, Stalled=True Cancelled"
    );
    assert_eq!(world.pods().len(), 1);
}

#[tokio::test]
async fn a_changed_spec_ends_the_search() {
    let world = World::new();
    inline(&world, &json!({}));
    look(&world).await;
    miss(&world, MIRRORED);
    set_spec(&world, "/dockerfile/inline", json!("FROM scratch\nENV A=1"));
    look(&world).await;
    assert!(asked(&world).is_empty());
    assert_eq!(build(&world)["status"]["attempt"]["reason"], "Spec");
    succeed(&world, &attempt(&world), "app");
    look(&world).await;
    assert_eq!(ready(&world), "Ready=True Succeeded");
}

#[tokio::test]
async fn refused_pull_credentials_name_the_pull_secrets() {
    let world = World::new();
    inline(&world, &json!({"imagePullSecrets": [{"name": "hub"}]}));
    world.secret("hub");
    look(&world).await;
    world.fail(&world.pod(), "BaseImageUnauthorized", "access denied");
    look(&world).await;
    assert_eq!(
        ready(&world),
        "Ready=False ImageUnauthorized, Stalled=True ImageUnauthorized"
    );
    assert!(message(&build(&world)).contains("imagePullSecrets"));
    look(&world).await;
    assert_eq!(world.pods().len(), 1);
    world.secret("hub");
    look(&world).await;
    assert_eq!(world.pods().len(), 2);
}
