//! Scenarios of pods, labels, statuses and processes that are lost, and of two operators at once: one pod, the same end.
#![allow(clippy::unwrap_used, reason = "tests")]

mod build_world;
mod support;

use build_world::builds::{attempt, build, digest, inline, look, path, ready, succeed};
use build_world::{World, core, message, now, pass};
use oci::Digest;
use serde_json::{Value, json};
use support::Fault;

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
