//! Scenarios of builds that mount what the namespace has: claims and secrets.
#![allow(clippy::unwrap_used, reason = "tests")]

mod build_world;
mod support;

use build_world::builds::{build, inline, look, request_of};
use build_world::{World, conditions, core, message};
use protocol::{Source, Task};
use serde_json::json;

fn claim(world: &World, name: &str) {
    world.api.put(
        &core("persistentvolumeclaims", name),
        json!({"apiVersion": "v1", "kind": "PersistentVolumeClaim", "metadata": {}, "spec": {}}),
    );
}

#[tokio::test]
async fn the_claim_of_a_source_is_waited_for_and_mounted_for_reading() {
    let world = World::new();
    inline(
        &world,
        &json!({"source": {"persistentVolumeClaim": {"name": "files"}, "subdirectory": "app"}}),
    );
    look(&world).await;
    assert!(world.pods().is_empty());
    assert!(conditions(&build(&world)).contains(&"Reconciling=True ClaimNotFound".to_owned()));
    assert!(message(&build(&world)).contains("PersistentVolumeClaim files does not exist"));
    claim(&world, "files");
    look(&world).await;
    let pod = world.pod();
    let Task::Build(task) = request_of(&world, &pod).task else {
        panic!("no build")
    };
    assert_eq!(task.source, Source::Volume);
    assert_eq!(task.subdirectory, "app");
    let spec = world.api.get(&core("pods", &pod)).unwrap()["spec"].clone();
    let volumes = spec["volumes"].as_array().unwrap();
    let volume = volumes.iter().find(|v| v["name"] == "source").unwrap();
    assert_eq!(volume["persistentVolumeClaim"]["claimName"], "files");
    let mounts = spec["containers"][0]["volumeMounts"].as_array().unwrap();
    let mount = mounts.iter().find(|m| m["name"] == "source").unwrap();
    assert_eq!(mount["readOnly"], true);
    assert_eq!(mount["mountPath"], protocol::paths::SOURCE);
    support::rights::assert_within_rights(&world.api);
}

#[tokio::test]
async fn a_secret_is_waited_for_with_its_key_and_mounted_alone() {
    use base64::Engine;
    let world = World::new();
    let secrets = json!([{"id": "npmrc", "secretRef": {"name": "npm", "key": ".npmrc"}}]);
    inline(
        &world,
        &json!({"dockerfile": {"inline": "FROM scratch", "secrets": secrets}}),
    );
    look(&world).await;
    assert!(conditions(&build(&world)).contains(&"Reconciling=True SecretNotFound".to_owned()));
    let put = |key: &str| {
        let value = base64::prelude::BASE64_STANDARD.encode("hush-hush");
        world.api.put(
            &core("secrets", "npm"),
            json!({"apiVersion": "v1", "kind": "Secret", "metadata": {}, "data": {key: value}}),
        );
    };
    put("other");
    look(&world).await;
    assert!(world.pods().is_empty());
    assert!(conditions(&build(&world)).contains(&"Reconciling=True SecretInvalid".to_owned()));
    assert!(message(&build(&world)).contains("Secret npm has no usable key .npmrc"));
    put(".npmrc");
    look(&world).await;
    let pod = world.pod();
    let Task::Build(task) = request_of(&world, &pod).task else {
        panic!("no build")
    };
    let secret = &task.dockerfile.secrets[0];
    assert_eq!(
        (secret.id.as_str(), secret.path.as_str()),
        ("npmrc", "/run/coopery/secrets/0/secret")
    );
    let object = world.api.get(&core("pods", &pod)).unwrap();
    let volumes = object["spec"]["volumes"].as_array().unwrap();
    let volume = volumes.iter().find(|v| v["name"] == "secret-0").unwrap();
    assert_eq!(
        volume["secret"],
        json!({"secretName": "npm", "defaultMode": 0o400, "items": [{"key": ".npmrc", "path": "secret"}]})
    );
    for text in [object.to_string(), build(&world).to_string()] {
        assert!(!text.contains("hush-hush"), "{text}");
    }
}
