//! Scenarios of what a build starts from besides its spec: images of other builds, base images, the time; and what is
//! said of an image that stays although something changed.
#![allow(clippy::unwrap_used, reason = "tests")]

mod build_world;
mod support;

use build_world::builds::{
    annotate, build, commit, digest, git, inline, look, push_commit, request_of, set_spec, succeed,
};
use build_world::{World, conditions, message, now, ours, pass};
use protocol::Task;
use serde_json::{Value, json};

const HUB: &str = "docker.io/library/alpine:3";

fn attempt(world: &World) -> Value {
    build(world)["status"]["attempt"].clone()
}

/// The present pod succeeds, and the status says so.
async fn finish(world: &World, content: &str) {
    let pod = attempt(world)["pod"].as_str().unwrap().to_owned();
    world.network.push(HUB, &digest(content));
    succeed(world, &pod, content);
    look(world).await;
    assert!(
        conditions(&build(world)).contains(&"Ready=True Succeeded".to_owned()),
        "{}",
        message(&build(world))
    );
}

fn builds(world: &World) -> usize {
    build(world)["status"]["builds"].as_array().unwrap().len()
}

fn up_to_date(world: &World) -> String {
    conditions(&build(world))
        .into_iter()
        .find(|c| c.starts_with("UpToDate="))
        .unwrap()
}

/// Another ImageBuild with an image, which is of its present spec or not.
fn input(world: &World, image: &str, current: bool) {
    let ready = if current { "True" } else { "False" };
    world.api.put(
        &ours("imagebuilds", "base"),
        json!({
            "apiVersion": "coopery.dev/v1alpha1", "kind": "ImageBuild", "metadata": {"generation": 1},
            "spec": {"dockerfile": {"inline": "FROM scratch"}, "destinations": [{"name": "a", "image": "h/a", "tags": ["x"]}]},
            "status": {"observedGeneration": 1, "image": image, "digest": image.rsplit('@').next(),
                "conditions": [{"type": "Ready", "status": ready, "reason": "Building", "message": "m",
                    "lastTransitionTime": "2026-01-01T00:00:00Z"}]},
        }),
    );
}

fn image_of(content: &str) -> String {
    format!("main.team.svc:5000/base@{}", digest(content))
}

fn argument(world: &World, name: &str) -> Option<String> {
    let pod = attempt(world)["pod"].as_str().unwrap().to_owned();
    let Task::Build(task) = request_of(world, &pod).task else {
        panic!("no build")
    };
    task.dockerfile.build_args.get(name).cloned()
}

/// Another process takes over: what the one before remembered is gone, and with it the wait for the next question.
fn restart(world: &mut World) {
    let network = world.network.clone();
    world.context = world.api.context().with_clock(now).with_network(network);
}

#[tokio::test]
async fn a_build_waits_for_its_inputs_and_gets_their_digests() {
    let world = World::new();
    let inputs = json!([
        {"name": "BASE", "imageBuild": {"name": "base"}},
        {"name": "BASE_DIGEST", "imageBuild": {"name": "base", "output": "digest"}},
    ]);
    inline(&world, &json!({"inputs": inputs}));
    look(&world).await;
    assert!(world.pods().is_empty());
    assert!(conditions(&build(&world)).contains(&"Reconciling=True InputNotFound".to_owned()));
    assert!(message(&build(&world)).contains("ImageBuild base, the input BASE, does not exist"));
    input(&world, &image_of("one"), false);
    look(&world).await;
    assert!(world.pods().is_empty());
    assert!(conditions(&build(&world)).contains(&"Reconciling=True InputNotReady".to_owned()));
    input(&world, &image_of("one"), true);
    look(&world).await;
    assert_eq!(argument(&world, "BASE"), Some(image_of("one")));
    let expected = digest("one").to_string();
    assert_eq!(argument(&world, "BASE_DIGEST"), Some(expected));
    finish(&world, "app").await;
    assert_eq!(up_to_date(&world), "UpToDate=True Succeeded");

    // While the other one builds, the image stays.
    input(&world, &image_of("two"), false);
    let finished = look(&world).await;
    assert!(finished.requeue.unwrap().as_secs() <= 30);
    assert!(conditions(&build(&world)).contains(&"Ready=True Succeeded".to_owned()));
    assert_eq!(up_to_date(&world), "UpToDate=Unknown InputNotReady");
    input(&world, &image_of("two"), true);
    look(&world).await;
    assert_eq!(attempt(&world)["reason"], "Inputs");
    assert_eq!(argument(&world, "BASE"), Some(image_of("two")));
    support::rights::assert_within_rights(&world.api);
}

#[tokio::test]
async fn what_rebuild_does_not_name_starts_nothing_and_is_said() {
    let world = World::new();
    push_commit(&world, 'a');
    input(&world, &image_of("one"), true);
    let inputs = json!([{"name": "BASE", "imageBuild": {"name": "base"}}]);
    git(
        &world,
        &json!({"inputs": inputs, "rebuild": {"triggers": []}}),
    );
    look(&world).await;
    // Also while it runs.
    input(&world, &image_of("two"), true);
    look(&world).await;
    finish(&world, "app").await;
    assert_eq!(up_to_date(&world), "UpToDate=False InputChanged");
    push_commit(&world, 'b');
    annotate(&world, "requestedAt", "1");
    look(&world).await;
    look(&world).await;
    assert_eq!(world.pods().len(), 1);
    assert!(conditions(&build(&world)).contains(&"Ready=True Succeeded".to_owned()));
    assert_eq!(up_to_date(&world), "UpToDate=False SourceChanged");

    // What is built for another cause is built of all that is there.
    annotate(&world, "forceAt", "1");
    look(&world).await;
    assert_eq!(attempt(&world)["reason"], "Forced");
    assert_eq!(attempt(&world)["commit"], commit('b'));
    assert_eq!(argument(&world, "BASE"), Some(image_of("two")));
    finish(&world, "app2").await;
    look(&world).await;
    assert_eq!(up_to_date(&world), "UpToDate=True Succeeded");
    assert_eq!(world.pods().len(), 2);
}

#[tokio::test]
async fn a_failed_build_follows_every_change() {
    let world = World::new();
    push_commit(&world, 'a');
    git(&world, &json!({"rebuild": {"triggers": []}}));
    look(&world).await;
    world.fail(&world.pod(), "StepFailed", "exit 1");
    look(&world).await;
    push_commit(&world, 'b');
    annotate(&world, "requestedAt", "1");
    look(&world).await;
    assert_eq!(attempt(&world)["commit"], commit('b'));
}

#[tokio::test]
async fn a_base_image_that_moved_is_built_from_once() {
    let mut world = World::new();
    inline(&world, &json!({"rebuild": {"triggers": ["BaseImage"]}}));
    look(&world).await;
    finish(&world, "one").await;
    look(&world).await;
    assert_eq!(world.pods().len(), 1);

    world.network.push(HUB, &digest("two"));
    look(&world).await;
    assert_eq!(
        world.pods().len(),
        1,
        "the last answer is not five minutes old"
    );
    restart(&mut world);
    let finished = look(&world).await;
    assert_eq!(world.pods().len(), 2);
    assert_eq!(attempt(&world)["reason"], "BaseImage");
    assert!(finished.requeue.is_some());
    // It fails, and is not begun again for the same base, not even by another process.
    let pod = attempt(&world)["pod"].as_str().unwrap().to_owned();
    world.fail(&pod, "StepFailed", "exit 1");
    for _ in 0..3 {
        look(&world).await;
        restart(&mut world);
    }
    assert_eq!(world.pods().len(), 2);
    assert!(
        build(&world)["status"]["image"]
            .as_str()
            .unwrap()
            .ends_with(&digest("one").to_string())
    );

    // The next one succeeds; a registry that does not answer then calls for nothing.
    world.network.push(HUB, &digest("three"));
    restart(&mut world);
    look(&world).await;
    assert_eq!(world.pods().len(), 3);
    finish(&world, "three").await;
    *world.network.unreachable.lock().unwrap() = true;
    restart(&mut world);
    look(&world).await;
    *world.network.unreachable.lock().unwrap() = false;
    restart(&mut world);
    look(&world).await;
    assert_eq!(world.pods().len(), 3);
    assert_eq!(up_to_date(&world), "UpToDate=True Succeeded");
}

#[tokio::test]
async fn base_images_are_asked_for_only_where_that_is_wished_and_within_the_budget() {
    for (on, asked) in [(json!(["Source"]), false), (json!(["BaseImage"]), true)] {
        let mut world = World::new();
        inline(&world, &json!({"rebuild": {"triggers": on}}));
        look(&world).await;
        finish(&world, "one").await;
        let questions = || {
            let asked = world.network.asked.lock().unwrap();
            asked.iter().filter(|(name, ..)| name == HUB).count()
        };
        look(&world).await;
        look(&world).await;
        assert_eq!(questions(), usize::from(asked));
        restart(&mut world);
        while world.context.budget.spend(&"docker.io".parse().unwrap()) {}
        world.network.push(HUB, &digest("two"));
        look(&world).await;
        assert_eq!(world.pods().len(), 1, "there was nothing left to ask with");
    }
}

#[tokio::test]
async fn a_schedule_builds_at_its_time_and_once() {
    let world = World::new();
    // 08:00:00 UTC is the time of the scenario.
    inline(&world, &json!({"rebuild": {"schedule": "30 8 * * *"}}));
    look(&world).await;
    finish(&world, "one").await;
    let finished = look(&world).await;
    assert_eq!(finished.requeue.unwrap().as_secs(), 30 * 60);
    pass(30 * 60);
    look(&world).await;
    assert_eq!(builds(&world), 2);
    assert_eq!(attempt(&world)["reason"], "Schedule");
    finish(&world, "two").await;
    for _ in 0..3 {
        pass(3600);
        look(&world).await;
    }
    assert_eq!(builds(&world), 2);
    // Changing when a build starts is no change of what is built.
    set_spec(&world, "/rebuild/schedule", json!("0 9 * * *"));
    look(&world).await;
    assert_eq!(
        builds(&world),
        3,
        "at nine, after the last build at half past eight"
    );
    finish(&world, "three").await;
    set_spec(&world, "/rebuild/schedule", json!("0 3 * * *"));
    look(&world).await;
    assert_eq!(builds(&world), 3);
    // An operator that was away over several times starts one build.
    pass(5 * 24 * 3600);
    look(&world).await;
    finish(&world, "four").await;
    look(&world).await;
    assert_eq!(builds(&world), 4);
    set_spec(&world, "/dockerfile/inline", json!("FROM scratch\nENV A=1"));
    look(&world).await;
    assert_eq!(attempt(&world)["reason"], "Spec");
}
