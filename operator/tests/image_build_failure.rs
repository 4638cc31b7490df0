//! Scenarios of builds that fail, are retried, cancelled or time out, and of how each recovers once its cause is mended.
#![allow(clippy::unwrap_used, reason = "tests")]

mod build_world;
mod support;

use build_world::builds::{
    annotate, attempt, build, git, inline, look, push_commit, ready, set_spec, succeed,
};
use build_world::{World, conditions, core, message, now, pass};
use serde_json::json;

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
