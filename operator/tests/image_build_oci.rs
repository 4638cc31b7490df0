//! Scenarios of builds whose source is an artifact or an image in a registry.
#![allow(clippy::unwrap_used, reason = "tests")]

mod build_world;
mod support;

use build_world::builds::{annotate, build, digest, inline, look, ready, request_of, succeed};
use build_world::{World, core, message};
use oci::Digest;
use protocol::{Source, Task};
use serde_json::{Value, json};

const IMAGE: &str = "registry.example.com/team/context:main";

fn source(world: &World, pod: &str) -> Source {
    match request_of(world, pod).task {
        Task::Build(task) => task.source,
        other => panic!("{other:?}"),
    }
}

/// A build of the artifact, with `more` in its source.
async fn start(world: &World, more: &Value) {
    let mut source = json!({"image": IMAGE});
    for (key, value) in more.as_object().unwrap() {
        source[key] = value.clone();
    }
    inline(world, &json!({"source": {"oci": source}, "dockerfile": {}}));
    look(world).await;
}

fn at(digest: &Digest) -> Source {
    Source::Oci {
        image: format!("registry.example.com/team/context@{digest}"),
    }
}

#[tokio::test]
async fn the_tag_is_resolved_and_another_digest_is_built() {
    let world = World::new();
    start(&world, &json!({})).await;
    assert!(world.pods().is_empty());
    assert_eq!(
        ready(&world),
        "Ready SourceNotFound, Reconciling SourceNotFound"
    );
    assert!(
        message(&build(&world)).contains(IMAGE),
        "{}",
        message(&build(&world))
    );
    let one = digest("one");
    world.network.push(IMAGE, &one);
    annotate(&world, "requestedAt", "1");
    look(&world).await;
    let pod = world.pod();
    assert_eq!(source(&world, &pod), at(&one));
    succeed(&world, &pod, "image");
    look(&world).await;
    let status = build(&world)["status"].clone();
    assert_eq!(status["source"], json!({"digest": one.to_string()}));
    // It is looked at again after its interval, or when somebody asks.
    let asked = || {
        let asked = world.network.asked.lock().unwrap();
        asked.iter().filter(|(name, ..)| name == IMAGE).count()
    };
    let before = asked();
    look(&world).await;
    assert_eq!(asked(), before);
    let two = digest("two");
    world.network.push(IMAGE, &two);
    annotate(&world, "requestedAt", "2");
    look(&world).await;
    assert_eq!(asked(), before + 1);
    let second = world.pods().into_iter().find(|name| *name != pod).unwrap();
    assert_eq!(source(&world, &second), at(&two));
    assert_eq!(build(&world)["status"]["attempt"]["reason"], "Source");
    support::rights::assert_within_rights(&world.api);
}

#[tokio::test]
async fn a_digest_is_not_looked_up() {
    let world = World::new();
    let one = digest("one");
    let image = format!("registry.example.com/team/context@{one}");
    start(&world, &json!({"image": image})).await;
    assert_eq!(source(&world, &world.pod()), at(&one));
    assert!(world.network.asked.lock().unwrap().is_empty());
}

#[tokio::test]
async fn its_secrets_are_waited_for_and_given_to_the_pod() {
    use base64::Engine;
    let world = World::new();
    world.network.push(IMAGE, &digest("one"));
    start(
        &world,
        &json!({"secretRef": {"name": "context"}, "caSecretRef": {"name": "authority"}}),
    )
    .await;
    assert_eq!(
        ready(&world),
        "Ready SecretNotFound, Reconciling SecretNotFound"
    );
    assert!(
        message(&build(&world)).contains("Secret context"),
        "{}",
        message(&build(&world))
    );
    world.secret("context");
    look(&world).await;
    assert!(
        message(&build(&world)).contains("Secret authority"),
        "{}",
        message(&build(&world))
    );
    assert!(world.network.asked.lock().unwrap().is_empty());
    let pem = base64::prelude::BASE64_STANDARD.encode("-----BEGIN CERTIFICATE-----");
    world.api.put(
        &core("secrets", "authority"),
        json!({"apiVersion": "v1", "kind": "Secret", "metadata": {}, "data": {"ca.crt": pem}}),
    );
    look(&world).await;
    let pod = world.pod();
    let request = request_of(&world, &pod);
    let certificates = request.network.ca_certificates.unwrap();
    assert!(certificates.contains("BEGIN CERTIFICATE"));
    assert_eq!(request.credentials.len(), 2);
    let volumes = world.api.get(&core("pods", &pod)).unwrap()["spec"]["volumes"].clone();
    assert_eq!(
        volumes
            .as_array()
            .unwrap()
            .iter()
            .filter(|v| v["secret"]["secretName"] == "context")
            .count(),
        1
    );
    let asked = world.network.asked.lock().unwrap().clone();
    assert!(
        asked
            .iter()
            .any(|(name, plain, credentials)| name == IMAGE && !plain && *credentials == 2)
    );
}
