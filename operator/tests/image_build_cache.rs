//! Scenarios of builds that keep a cache: what the pod is asked, and how builds wait for each other's claim.
#![allow(clippy::unwrap_used, reason = "tests")]

mod build_world;
mod support;

use build_world::builds::{build, inline, look, request_of, succeed};
use build_world::{World, conditions, core, message};
use protocol::{CacheRequest, CacheVolume, Task};
use serde_json::{Value, json};

const CLAIM: &str = "build-cache";

fn claim(world: &World) {
    world.api.put(
        &core("persistentvolumeclaims", CLAIM),
        json!({"apiVersion": "v1", "kind": "PersistentVolumeClaim", "metadata": {}, "spec": {}}),
    );
}

fn volume() -> Value {
    json!({"cache": {"volume": {"persistentVolumeClaim": {"name": CLAIM}, "quota": "20Gi"}}})
}

fn cache_of(world: &World, pod: &str) -> CacheRequest {
    let Task::Build(task) = request_of(world, pod).task else {
        panic!("no build")
    };
    task.cache
}

/// A builder pod of another ImageBuild that mounts the claim.
fn other_pod(world: &World, phase: &str) {
    world.api.put(
        &core("pods", "other-1"),
        json!({"apiVersion": "v1", "kind": "Pod",
            "metadata": {"labels": {"coopery.dev/kind": "ImageBuild"},
                "ownerReferences": [{"apiVersion": "coopery.dev/v1alpha1", "kind": "ImageBuild", "name": "other",
                    "uid": "other", "controller": true}]},
            "spec": {"containers": [], "volumes": [{"name": "cache", "persistentVolumeClaim": {"claimName": CLAIM}}]},
            "status": {"phase": phase}}),
    );
}

#[tokio::test]
async fn a_cache_in_a_registry_is_read_and_written_with_its_credentials() {
    let world = World::new();
    world.secret("cache-login");
    for (registry, name, secrets) in [
        (
            json!({"registry": {"name": "main"}, "repository": "team/cache"}),
            "main.team.svc:5000/team/cache:app",
            &["main-credentials"][..],
        ),
        (
            json!({"image": "registry.example.com/cache", "tag": "v1", "secretRef": {"name": "cache-login"}}),
            "registry.example.com/cache:v1",
            &["main-credentials", "cache-login"],
        ),
    ] {
        let world = World::new();
        world.secret("cache-login");
        inline(&world, &json!({"cache": {"registry": registry}}));
        look(&world).await;
        let pod = world.pod();
        let expected = CacheRequest {
            import: vec![name.to_owned()],
            export: Some(name.to_owned()),
            volume: None,
        };
        assert_eq!(cache_of(&world, &pod), expected);
        let object = world.api.get(&core("pods", &pod)).unwrap();
        let volumes = object["spec"]["volumes"].as_array().unwrap();
        let mounted: Vec<_> = volumes
            .iter()
            .filter_map(|volume| volume["secret"]["secretName"].as_str())
            .collect();
        assert_eq!(mounted, secrets);
    }
}

#[tokio::test]
async fn the_registry_of_a_cache_is_waited_for() {
    let world = World::new();
    inline(
        &world,
        &json!({"cache": {"registry": {"registry": {"name": "absent"}, "repository": "cache"}}}),
    );
    look(&world).await;
    assert!(world.pods().is_empty());
    assert!(conditions(&build(&world)).contains(&"Reconciling=True RegistryNotFound".to_owned()));
}

#[tokio::test]
async fn a_claim_is_mounted_for_writing_and_its_quota_handed_on() {
    let world = World::new();
    inline(&world, &volume());
    look(&world).await;
    assert!(conditions(&build(&world)).contains(&"Reconciling=True ClaimNotFound".to_owned()));
    claim(&world);
    look(&world).await;
    let pod = world.pod();
    let quota = Some(20 << 30);
    assert_eq!(cache_of(&world, &pod).volume, Some(CacheVolume { quota }));
    let spec = world.api.get(&core("pods", &pod)).unwrap()["spec"].clone();
    let volumes = spec["volumes"].as_array().unwrap();
    let found = volumes.iter().find(|v| v["name"] == "cache").unwrap();
    assert_eq!(found["persistentVolumeClaim"]["claimName"], CLAIM);
    let mounts = spec["containers"][0]["volumeMounts"].as_array().unwrap();
    let mount = mounts.iter().find(|m| m["name"] == "cache").unwrap();
    assert_eq!(mount["mountPath"], protocol::paths::CACHE);
    assert!(mount["readOnly"].is_null());
    support::rights::assert_within_rights(&world.api);
}

#[tokio::test]
async fn a_claim_serves_one_pod_after_the_other() {
    let world = World::new();
    claim(&world);
    inline(&world, &volume());
    for phase in ["Pending", "Running"] {
        other_pod(&world, phase);
        look(&world).await;
        assert_eq!(world.pods(), ["other-1"], "{phase}");
        let waiting = "Reconciling=True WaitingForCacheVolume".to_owned();
        assert!(conditions(&build(&world)).contains(&waiting));
        assert!(
            message(&build(&world))
                .starts_with("PersistentVolumeClaim build-cache, the cache, serves pod other-1."),
            "{}",
            message(&build(&world))
        );
    }
    other_pod(&world, "Succeeded");
    look(&world).await;
    let own: Vec<_> = world
        .pods()
        .into_iter()
        .filter(|p| p != "other-1")
        .collect();
    assert_eq!(own.len(), 1);
    // A pod of its own holds nobody up: the build ends, and another begins later.
    world.run(&own[0]);
    look(&world).await;
    succeed(&world, &own[0], "one");
    look(&world).await;
    assert!(conditions(&build(&world)).contains(&"Ready=True Succeeded".to_owned()));
    // Who needs nothing does not wait.
    other_pod(&world, "Running");
    look(&world).await;
    assert!(conditions(&build(&world)).contains(&"Ready=True Succeeded".to_owned()));
    support::rights::assert_within_rights(&world.api);
}

#[tokio::test]
async fn pods_that_hold_another_claim_hold_nobody_up() {
    let world = World::new();
    claim(&world);
    inline(&world, &volume());
    other_pod(&world, "Running");
    world.api.change(&core("pods", "other-1"), |pod| {
        pod["spec"]["volumes"][0]["persistentVolumeClaim"]["claimName"] = json!("another");
    });
    look(&world).await;
    assert_eq!(world.pods().len(), 2);
}
