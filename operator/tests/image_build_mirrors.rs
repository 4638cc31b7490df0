//! Scenarios of builds in a namespace with mirrors: what a pod is told of them, what the status says, and who is asked
//! afterwards.
#![allow(clippy::unwrap_used, reason = "tests")]

mod build_world;
mod support;

use build_world::builds::{attempt, build, built, digest, inline, look, request_of, set_spec};
use build_world::{World, conditions, ours};
use protocol::{DockerfileSpec, Task};
use serde_json::json;

const HUB: &str = "docker.io/library/alpine:3";
const MIRROR: &str = "main.team.svc:5000/mirror/library/alpine";

fn mirror(world: &World) {
    world.api.put(
        &ours("imagemirrors", "hub"),
        json!({
            "apiVersion": "coopery.dev/v1alpha1", "kind": "ImageMirror", "metadata": {},
            "spec": {"source": {"host": "docker.io"}, "destination": {"registry": {"name": "main"}, "prefix": "mirror"},
                "images": [{"name": "alpine", "repository": "library/alpine", "tags": {"names": ["3"]}}]},
        }),
    );
}

/// What the present pod was asked, and the number of its credentials.
fn asked(world: &World) -> (DockerfileSpec, usize) {
    let request = request_of(world, &attempt(world));
    let Task::Build(task) = request.task else {
        panic!("it builds")
    };
    (task.dockerfile, request.credentials.len())
}

#[tokio::test]
async fn a_pod_is_told_of_the_mirrors_of_its_namespace_unless_they_are_turned_off() {
    let world = World::new();
    mirror(&world);
    inline(
        &world,
        &json!({"destinations": [{"name": "hub", "image": "quay.io/acme/app", "tags": ["latest"]}]}),
    );
    look(&world).await;
    let (dockerfile, credentials) = asked(&world);
    let mirrors = serde_json::to_value(&dockerfile.mirrors).unwrap();
    assert_eq!(
        mirrors,
        json!([{"source": "docker.io/library/alpine", "mirror": MIRROR, "tags": ["3"]}])
    );
    assert_eq!(
        credentials, 1,
        "those of the Registry that keeps the mirror"
    );
    set_spec(
        &world,
        "/dockerfile",
        json!({"inline": "FROM scratch", "useMirrors": false}),
    );
    look(&world).await;
    look(&world).await;
    let (dockerfile, credentials) = asked(&world);
    assert_eq!(dockerfile.inline.as_deref(), Some("FROM scratch"));
    assert_eq!((dockerfile.mirrors.len(), credentials), (0, 0));
}

#[tokio::test]
async fn a_mirror_in_a_registry_that_does_not_serve_covers_nothing() {
    let world = World::new();
    mirror(&world);
    world.serve_registry(false);
    inline(
        &world,
        &json!({"destinations": [{"name": "hub", "image": "quay.io/acme/app", "tags": ["latest"]}]}),
    );
    look(&world).await;
    let (dockerfile, credentials) = asked(&world);
    assert_eq!((dockerfile.mirrors.len(), credentials), (0, 0));
}

#[tokio::test]
async fn the_status_names_the_mirror_and_only_the_mirror_is_asked_afterwards() {
    let world = World::new();
    mirror(&world);
    inline(&world, &json!({"rebuild": {"triggers": ["BaseImage"]}}));
    look(&world).await;
    let image = digest("one");
    world
        .network
        .push("main.team.svc:5000/team/app:latest", &image);
    world.network.push(&format!("{MIRROR}:3"), &image);
    let mut report = built(&image);
    report["built"]["baseImages"][0]["mirror"] = json!(MIRROR);
    world.end(&attempt(&world), &report);
    look(&world).await;
    look(&world).await;
    assert!(conditions(&build(&world)).contains(&"Ready=True Succeeded".to_owned()));
    assert_eq!(
        build(&world)["status"]["baseImages"],
        json!([{"reference": HUB, "digest": image.to_string(), "mirror": MIRROR}])
    );
    let questions = || world.network.asked.lock().unwrap().clone();
    let about = |host: &str| {
        questions()
            .iter()
            .filter(|(name, ..)| name.starts_with(host))
            .count()
    };
    assert!(about(MIRROR) > 0, "{:?}", questions());
    assert_eq!(about("docker.io"), 0, "{:?}", questions());
    assert_eq!(world.pods().len(), 1);
}
