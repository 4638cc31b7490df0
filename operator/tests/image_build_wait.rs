//! Scenarios of builds that wait: for what their spec names, for the API server to allow a pod, for a node. Each goes on by
//! itself once people have made or mended it.
#![allow(clippy::unwrap_used, reason = "tests")]

mod build_world;
mod support;

use build_world::builds::{build, inline, look, path, ready};
use build_world::{World, core, message, ours};
use serde_json::json;
use support::Fault;

#[tokio::test]
async fn a_missing_secret_is_waited_for() {
    let world = World::new();
    world.api.remove(&core("secrets", "main-credentials"));
    inline(&world, &json!({"imagePullSecrets": [{"name": "hub"}]}));
    for missing in ["main-credentials", "hub"] {
        let finished = look(&world).await;
        assert_eq!(
            ready(&world),
            "Ready SecretNotFound, Reconciling SecretNotFound"
        );
        assert!(message(&build(&world)).contains(missing));
        assert!(finished.requeue.unwrap().as_secs() <= 10);
        assert!(world.pods().is_empty());
        world.secret(missing);
    }
    look(&world).await;
    assert_eq!(
        ready(&world),
        "Ready=Unknown Building, Reconciling Building"
    );
    world.pod();
}

#[tokio::test]
async fn a_secret_without_its_key_is_named() {
    let world = World::new();
    inline(&world, &json!({}));
    world
        .api
        .change(&core("secrets", "main-credentials"), |secret| {
            secret["data"] = json!({"password": "eA=="});
        });
    look(&world).await;
    assert_eq!(
        ready(&world),
        "Ready SecretInvalid, Reconciling SecretInvalid"
    );
    assert!(message(&build(&world)).contains(".dockerconfigjson"));
}

#[tokio::test]
async fn a_registry_is_waited_for() {
    let world = World::new();
    world.api.remove(&ours("registries", "main"));
    inline(&world, &json!({}));
    look(&world).await;
    assert_eq!(
        ready(&world),
        "Ready RegistryNotFound, Reconciling RegistryNotFound"
    );
    world.serve_registry(false);
    look(&world).await;
    assert_eq!(
        ready(&world),
        "Ready RegistryNotReady, Reconciling RegistryNotReady"
    );
    world.serve_registry(true);
    look(&world).await;
    world.pod();
}

#[tokio::test]
async fn a_config_map_is_waited_for_and_its_change_is_built() {
    let world = World::new();
    inline(
        &world,
        &json!({"source": {"configMap": {"name": "site"}}, "dockerfile": {}}),
    );
    look(&world).await;
    assert_eq!(
        ready(&world),
        "Ready ConfigMapNotFound, Reconciling ConfigMapNotFound"
    );
    let config_map = |text: &str| json!({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {}, "data": {"Dockerfile": text}});
    world
        .api
        .put(&core("configmaps", "site"), config_map("FROMM scratch"));
    look(&world).await;
    let first = world.pod();
    world.fail(
        &first,
        "Dockerfile",
        "Dockerfile:1: unknown instruction `FROMM`",
    );
    let finished = look(&world).await;
    assert_eq!(
        ready(&world),
        "Ready InvalidDockerfile, Stalled InvalidDockerfile"
    );
    assert!(message(&build(&world)).starts_with("Dockerfile:1: unknown instruction"));
    assert!(finished.requeue.unwrap().as_secs() <= 10);
    world
        .api
        .put(&core("configmaps", "site"), config_map("FROM scratch"));
    look(&world).await;
    assert_eq!(
        ready(&world),
        "Ready=Unknown Building, Reconciling Building"
    );
    assert_eq!(build(&world)["status"]["builds"][0]["reason"], "Source");
}

#[tokio::test]
async fn refusals_of_the_api_server_have_their_reason_and_pass() {
    for (code, text, reason, progress) in [
        (
            403,
            "pods \"x\" is forbidden: exceeded quota: q",
            "QuotaExceeded",
            "Reconciling",
        ),
        (
            403,
            "pods \"x\" is forbidden: violates PodSecurity \"restricted:latest\": hostUsers",
            "PodSecurityForbidden",
            "Reconciling",
        ),
        (
            500,
            "etcdserver: leader changed",
            "ApiUnavailable",
            "Reconciling",
        ),
    ] {
        let world = World::new();
        inline(&world, &json!({}));
        world.api.faults(move |method, path| {
            (method == "POST" && path.ends_with("/pods"))
                .then(|| Fault::Refuse(code, text.to_owned()))
        });
        look(&world).await;
        assert_eq!(
            ready(&world),
            format!("Ready {reason}, {progress} {reason}")
        );
        assert!(message(&build(&world)).contains(text));
        world.api.heal();
        look(&world).await;
        world.pod();
        assert_eq!(
            ready(&world),
            "Ready=Unknown Building, Reconciling Building"
        );
    }
}

#[tokio::test]
async fn a_foreign_pod_under_our_name_is_not_taken_over() {
    let world = World::new();
    inline(&world, &json!({}));
    look(&world).await;
    let name = world.pod();
    // The same resource, never looked at, and somebody else's pod under the name of its first.
    world.api.change(&core("pods", &name), |pod| {
        pod["metadata"]["ownerReferences"] = json!([]);
        pod["metadata"]["labels"] = json!({});
        pod["metadata"]["uid"] = json!("foreign");
    });
    world.api.change(&path(), |build| {
        build["status"] = json!({"observedGeneration": -1});
    });
    let finished = look(&world).await;
    assert_eq!(ready(&world), "Ready NameConflict, Stalled NameConflict");
    assert!(finished.requeue.unwrap().as_secs() <= 10);
    assert_eq!(world.pods(), std::slice::from_ref(&name));
    world.api.remove(&core("pods", &name));
    look(&world).await;
    assert_eq!(
        ready(&world),
        "Ready=Unknown Building, Reconciling Building"
    );
}

#[tokio::test]
async fn what_a_pod_waits_for_is_told_and_a_moment_is_no_news() {
    let world = World::new();
    inline(&world, &json!({}));
    look(&world).await;
    let pod = world.pod();
    world.kubelet(&pod, json!({"phase": "Pending"}));
    world.api.writes();
    look(&world).await;
    assert_eq!(world.api.writes(), Vec::<String>::new());
    world.kubelet(
        &pod,
        json!({"phase": "Pending", "conditions": [{"type": "PodScheduled", "status": "False",
            "reason": "Unschedulable", "message": "0/1 nodes are available: 1 Insufficient cpu."}]}),
    );
    look(&world).await;
    assert_eq!(
        ready(&world),
        "Ready Unschedulable, Reconciling Unschedulable"
    );
    assert!(message(&build(&world)).contains("Insufficient cpu"));
    world.api.put(
        &core("events", "e"),
        json!({"apiVersion": "v1", "kind": "Event", "metadata": {}, "type": "Warning", "reason": "FailedMount",
            "message": "MountVolume.SetUp failed for volume \"credentials-0\" : secret \"main-credentials\" not found",
            "involvedObject": {}}),
    );
    world.kubelet(&pod, json!({"phase": "Pending"}));
    look(&world).await;
    assert_eq!(
        ready(&world),
        "Ready SecretNotFound, Reconciling SecretNotFound"
    );
}
