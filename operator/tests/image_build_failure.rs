//! Scenarios of builds that wait, fail, are retried, cancelled or lost, and of how each recovers once its cause is mended.
#![allow(clippy::unwrap_used, reason = "tests")]

mod build_world;
mod support;

use build_world::builds::{
    annotate, build, digest, git, inline, look, path, push_commit, set_spec, succeed,
};
use build_world::{World, conditions, core, message, now, ours, pass};
use oci::Digest;
use serde_json::{Value, json};
use support::Fault;

/// Status and reason of Ready, and what of Reconciling and Stalled is true.
fn ready(world: &World) -> String {
    conditions(&build(world))
        .into_iter()
        .filter(|c| {
            c.starts_with("Ready") || c.starts_with("Reconciling") || c.starts_with("Stalled")
        })
        .map(|c| c.replace("=True", "").replace("=False", ""))
        .collect::<Vec<_>>()
        .join(", ")
}

fn attempt(world: &World) -> String {
    build(world)["status"]["attempt"]["pod"]
        .as_str()
        .unwrap()
        .to_owned()
}

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
async fn an_invalid_spec_stalls_and_stops_what_runs() {
    let world = World::new();
    inline(&world, &json!({}));
    look(&world).await;
    world.run(&world.pod());
    set_spec(&world, "/destinations/0/tags", json!(["$(comit)"]));
    look(&world).await;
    assert!(world.pods().is_empty());
    support::rights::assert_within_rights(&world.api);
    look(&world).await;
    assert_eq!(ready(&world), "Ready InvalidTag, Stalled InvalidTag");
    assert!(message(&build(&world)).contains("spec.destinations[0].tags[0]"));
    set_spec(&world, "/destinations/0/tags", json!(["latest"]));
    look(&world).await;
    world.pod();
}

#[tokio::test]
async fn a_failed_step_is_not_tried_again_until_something_changes() {
    let world = World::new();
    inline(&world, &json!({}));
    look(&world).await;
    let pod = world.pod();
    world.end(
        &pod,
        &json!({"failed": {"kind": "StepFailed", "message": "the command failed", "step": "Dockerfile:2: RUN false",
            "exitCode": 3, "output": "one\ntwo\n"}}),
    );
    look(&world).await;
    assert_eq!(ready(&world), "Ready BuildFailed, Stalled BuildFailed");
    let told = message(&build(&world));
    assert!(
        told.starts_with(
            "Dockerfile:2: RUN false: the command failed (exit code 3); its last lines:\none\ntwo"
        ),
        "{told}"
    );
    assert_eq!(world.events(), ["BuildFailed", "Building"]);
    world.api.writes();
    for _ in 0..5 {
        pass(3600);
        look(&world).await;
    }
    assert_eq!(world.api.writes(), Vec::<String>::new());

    annotate(&world, "requestedAt", "again");
    look(&world).await;
    assert_eq!(world.pods().len(), 2);
    assert_eq!(build(&world)["status"]["lastHandledRequestedAt"], "again");
    world.fail(&attempt(&world), "StepFailed", "no");
    look(&world).await;
    set_spec(&world, "/dockerfile/inline", json!("FROM scratch\nENV A=1"));
    look(&world).await;
    assert_eq!(world.pods().len(), 3);
    succeed(&world, &attempt(&world), "image");
    look(&world).await;
    assert_eq!(ready(&world), "Ready Succeeded");
}

#[tokio::test]
async fn failures_outside_of_the_build_are_retried_up_to_the_limit() {
    let world = World::new();
    inline(&world, &json!({"retry": {"limit": 2}}));
    look(&world).await;
    for (round, wait) in [10, 20].into_iter().enumerate() {
        world.fail(
            &attempt(&world),
            "RegistryUnavailable",
            "the registry answered 503",
        );
        look(&world).await;
        assert_eq!(
            ready(&world),
            "Ready RetryPending, Reconciling RetryPending"
        );
        assert!(message(&build(&world)).contains("RegistryUnavailable: the registry answered 503"));
        let count = world.pods().len();
        pass(wait - 1);
        look(&world).await;
        assert_eq!(world.pods().len(), count, "too early");
        pass(1);
        look(&world).await;
        assert_eq!(world.pods().len(), count + 1, "{round}");
        assert_eq!(build(&world)["status"]["builds"][0]["reason"], "Retry");
    }
    world.fail(
        &attempt(&world),
        "RegistryUnavailable",
        "the registry answered 503",
    );
    look(&world).await;
    pass(3600);
    look(&world).await;
    assert_eq!(
        ready(&world),
        "Ready RegistryUnavailable, Stalled RegistryUnavailable"
    );
    assert_eq!(world.pods().len(), 3);
    // Somebody asks again: the count begins anew.
    annotate(&world, "requestedAt", "1");
    look(&world).await;
    world.fail(
        &attempt(&world),
        "RegistryUnavailable",
        "the registry answered 503",
    );
    look(&world).await;
    assert_eq!(
        ready(&world),
        "Ready RetryPending, Reconciling RetryPending"
    );
}

#[tokio::test]
async fn a_failed_rebuild_keeps_the_image() {
    let world = World::new();
    push_commit(&world, 'a');
    git(&world, &json!({}));
    look(&world).await;
    let image = succeed(&world, &world.pod(), "one");
    look(&world).await;
    push_commit(&world, 'b');
    annotate(&world, "requestedAt", "1");
    look(&world).await;
    world.fail(&attempt(&world), "StepFailed", "no");
    look(&world).await;
    assert_eq!(ready(&world), "Ready BuildFailed, Stalled BuildFailed");
    let status = build(&world)["status"].clone();
    assert_eq!(status["digest"], image.to_string());
    assert!(conditions(&build(&world)).contains(&"UpToDate=False BuildFailed".to_owned()));
}

#[tokio::test]
async fn refused_credentials_are_tried_again_when_the_secret_changes() {
    let world = World::new();
    inline(&world, &json!({}));
    look(&world).await;
    world.fail(&world.pod(), "RegistryUnauthorized", "access denied");
    look(&world).await;
    assert_eq!(
        ready(&world),
        "Ready RegistryUnauthorized, Stalled RegistryUnauthorized"
    );
    look(&world).await;
    assert_eq!(world.pods().len(), 1);
    world.secret("main-credentials");
    look(&world).await;
    assert_eq!(world.pods().len(), 2);
}

#[tokio::test]
async fn cancel_stops_the_build_that_it_names_and_no_other() {
    let world = World::new();
    inline(&world, &json!({}));
    look(&world).await;
    let pod = world.pod();
    world.run(&pod);
    annotate(&world, "cancel", "another");
    look(&world).await;
    assert_eq!(world.pods(), std::slice::from_ref(&pod));
    annotate(&world, "cancel", &pod);
    look(&world).await;
    assert!(world.pods().is_empty());
    assert_eq!(ready(&world), "Ready Cancelled, Reconciling Cancelled");
    assert_eq!(build(&world)["status"]["builds"][0]["result"], "Cancelled");
    look(&world).await;
    assert_eq!(ready(&world), "Ready Cancelled, Stalled Cancelled");
    assert_eq!(build(&world)["status"]["builds"][0]["result"], "Cancelled");
    pass(3600);
    look(&world).await;
    assert!(world.pods().is_empty());
    annotate(&world, "forceAt", "1");
    look(&world).await;
    world.pod();
}

#[tokio::test]
async fn a_build_that_waits_for_its_retry_can_be_cancelled() {
    let world = World::new();
    inline(&world, &json!({}));
    look(&world).await;
    let pod = world.pod();
    world.fail(&pod, "Internal", "bug");
    look(&world).await;
    annotate(&world, "cancel", &pod);
    look(&world).await;
    pass(3600);
    look(&world).await;
    assert_eq!(ready(&world), "Ready Cancelled, Stalled Cancelled");
    assert_eq!(world.pods().len(), 1);
}

#[tokio::test]
async fn timeouts_are_told_and_not_retried() {
    let world = World::new();
    inline(&world, &json!({"timeout": "60s"}));
    look(&world).await;
    let pod = world.pod();
    world.kubelet(
        &pod,
        json!({"phase": "Failed", "reason": "DeadlineExceeded", "startTime": now().to_string()}),
    );
    look(&world).await;
    pass(3600);
    look(&world).await;
    assert_eq!(ready(&world), "Ready Timeout, Stalled Timeout");
    assert_eq!(world.pods(), [pod]);
    // A longer timeout is a change of the spec.
    set_spec(&world, "/timeout", json!("2h"));
    look(&world).await;
    let running = attempt(&world);
    world.run(&running);
    pass(2 * 3600 + 1000);
    look(&world).await;
    assert!(!world.pods().contains(&running), "its node did not stop it");
    look(&world).await;
    assert_eq!(ready(&world), "Ready Timeout, Stalled Timeout");
}

#[tokio::test]
async fn a_lost_pod_is_told_apart_and_made_again() {
    let world = World::new();
    inline(&world, &json!({}));
    look(&world).await;
    let first = world.pod();
    world.run(&first);
    look(&world).await;
    world.api.remove(&core("pods", &first));
    look(&world).await;
    assert_eq!(
        ready(&world),
        "Ready RetryPending, Reconciling RetryPending"
    );
    assert!(message(&build(&world)).starts_with("PodLost: "));
    pass(10);
    look(&world).await;
    let second = world.pod();
    assert_ne!(first, second);
    world.kubelet(
        &second,
        json!({"phase": "Failed", "reason": "Evicted", "message": "The node was low on resource: memory."}),
    );
    look(&world).await;
    assert!(message(&build(&world)).starts_with("Evicted: "));
    pass(20);
    look(&world).await;
    // The pod's node is drained: the pod is going, and nothing starts before it is gone.
    let third = attempt(&world);
    world.api.change(&core("pods", &third), |pod| {
        pod["metadata"]["deletionTimestamp"] = json!(now().to_string());
        pod["status"] = json!({"phase": "Running", "conditions": [{"type": "DisruptionTarget", "status": "True",
            "reason": "DeletionByTaintManager", "message": "m"}]});
    });
    look(&world).await;
    assert_eq!(ready(&world), "Ready NodeLost, Reconciling NodeLost");
    assert_eq!(attempt(&world), third);
    world.api.remove(&core("pods", &third));
    look(&world).await;
    assert_eq!(
        ready(&world),
        "Ready NodeLost, Stalled NodeLost",
        "the limit is 2"
    );
}

#[tokio::test]
async fn a_pod_without_its_user_namespace_is_deleted() {
    let world = World::new();
    inline(&world, &json!({}));
    look(&world).await;
    let pod = world.pod();
    world.api.change(&core("pods", &pod), |pod| {
        pod["spec"].as_object_mut().unwrap().remove("hostUsers");
    });
    look(&world).await;
    assert!(world.pods().is_empty());
    look(&world).await;
    assert_eq!(
        ready(&world),
        "Ready UserNamespacesUnavailable, Stalled UserNamespacesUnavailable"
    );
    let isolation = build(&world)["status"]["isolation"].clone();
    assert_eq!(isolation["mode"], "UserNamespace");
    assert!(isolation["message"].as_str().unwrap().contains("hostUsers"));
}

#[tokio::test]
async fn a_namespace_that_enforces_restricted_gets_the_shape_without_run() {
    let world = World::new();
    world.api.put_raw(
        "/api/v1/namespaces/team",
        json!({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": "team",
            "labels": {"pod-security.kubernetes.io/enforce": "restricted"}}}),
    );
    inline(&world, &json!({}));
    look(&world).await;
    let pod = world.api.get(&core("pods", &world.pod())).unwrap();
    assert_eq!(pod["spec"]["securityContext"]["runAsNonRoot"], true);
    assert_eq!(
        pod["metadata"]["annotations"]["coopery.dev/isolation"],
        "NoRun"
    );
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
async fn labels_and_owner_reference_that_somebody_took_away_change_nothing() {
    let world = World::new();
    inline(&world, &json!({}));
    look(&world).await;
    let name = world.pod();
    world.run(&name);
    world.api.change(&core("pods", &name), |pod| {
        pod["metadata"]["ownerReferences"] = json!([]);
        pod["metadata"]["labels"] = json!({});
    });
    look(&world).await;
    assert_eq!(world.pods(), std::slice::from_ref(&name));
    succeed(&world, &name, "image");
    look(&world).await;
    assert_eq!(ready(&world), "Ready Succeeded");
}

#[tokio::test]
async fn a_crash_at_any_write_leads_to_the_same_end_with_one_pod() {
    // Each write of the main job is refused once, and once its reply is lost.
    let writes = main_job(None).await;
    assert!(writes >= 4, "{writes}");
    for nth in 0..writes {
        for fault in [Fault::Refuse(500, "crash".to_owned()), Fault::LoseReply] {
            main_job(Some((nth, fault))).await;
        }
    }
}

/// The main job with a fault at one write; returns the number of writes.
async fn main_job(fault: Option<(usize, Fault)>) -> usize {
    let world = World::new();
    inline(&world, &json!({}));
    world.api.writes();
    if let Some((at, fault)) = fault.clone() {
        let mut count = 0;
        world.api.faults(move |method, _| {
            if method == "GET" {
                return None;
            }
            count += 1;
            (count == at + 1).then(|| fault.clone())
        });
    }
    let mut ended = false;
    let mut image: Option<Digest> = None;
    for _ in 0..12 {
        look(&world).await;
        pass(70);
        if let (false, [pod]) = (ended, world.pods().as_slice()) {
            image = Some(succeed(&world, pod, "image"));
            ended = true;
        }
    }
    assert_eq!(world.pods().len(), 1, "{fault:?}");
    assert_eq!(ready(&world), "Ready Succeeded", "{fault:?}");
    let status = build(&world)["status"].clone();
    assert_eq!(status["digest"], image.unwrap().to_string());
    assert_eq!(status["builds"].as_array().unwrap().len(), 1, "{fault:?}");
    world.api.writes().len()
}

#[tokio::test]
async fn a_lost_status_is_rebuilt_from_the_pods() {
    let world = World::new();
    inline(&world, &json!({}));
    look(&world).await;
    let pod = world.pod();
    succeed(&world, &pod, "image");
    look(&world).await;
    world.api.change(&path(), |build| {
        build["status"] = Value::Null;
    });
    look(&world).await;
    assert_eq!(world.pods(), [pod]);
    assert_eq!(ready(&world), "Ready Succeeded");
    assert_eq!(
        build(&world)["status"]["digest"],
        digest("image").to_string()
    );
}

#[tokio::test]
async fn two_operators_make_one_pod() {
    let world = World::new();
    inline(&world, &json!({}));
    let stale = world.api.get(&path()).unwrap();
    look(&world).await;
    let first = world.pod();
    // The other acts on what it saw before.
    let object: crds::ImageBuild = serde_json::from_value(stale).unwrap();
    operator::reconcile::reconcile::<operator::image_build::ImageBuildReconciler>(
        &world.context,
        &object,
    )
    .await;
    assert_eq!(world.pods(), [first]);
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
