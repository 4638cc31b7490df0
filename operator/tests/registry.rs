//! Scenarios of the Registry controller against an API server in memory.
#![allow(clippy::unwrap_used, reason = "tests")]

mod support;

use crds::Registry;
use operator::context::Context;
use operator::reconcile::{Finished, reconcile};
use operator::registry::RegistryReconciler;
use serde_json::{Value, json};
use support::{FakeApi, Fault};

const REGISTRY: &str = "/apis/coopery.dev/v1alpha1/namespaces/images/registries/main";
const DEPLOYMENT: &str = "/apis/apps/v1/namespaces/images/deployments/main";
const CREDENTIALS: &str = "/api/v1/namespaces/images/secrets/main-credentials";
const CONFIG: &str = "/api/v1/namespaces/images/secrets/main-config";
const SERVICE: &str = "/api/v1/namespaces/images/services/main";
const CLAIM: &str = "/api/v1/namespaces/images/persistentvolumeclaims/main";

fn registry(storage: &Value) -> Value {
    json!({"apiVersion": "coopery.dev/v1alpha1", "kind": "Registry", "metadata": {},
        "spec": {"managed": {"storage": storage}}, "status": {"observedGeneration": -1}})
}

fn start(storage: &Value) -> (FakeApi, Context) {
    let api = FakeApi::new();
    api.put(REGISTRY, registry(storage));
    let context = api.context();
    (api, context)
}

async fn look(api: &FakeApi, context: &Context) -> Finished {
    let object: Registry = serde_json::from_value(api.get(REGISTRY).unwrap()).unwrap();
    reconcile::<RegistryReconciler>(context, &object).await
}

/// The conditions as `Type=Status Reason`.
fn conditions(api: &FakeApi) -> Vec<String> {
    let object = api.get(REGISTRY).unwrap();
    object["status"]["conditions"]
        .as_array()
        .unwrap()
        .iter()
        .map(|c| {
            let text = |key: &str| c[key].as_str().unwrap().to_owned();
            format!("{}={} {}", text("type"), text("status"), text("reason"))
        })
        .collect()
}

/// What the Deployment controller and the kubelet would do.
fn become_ready(api: &FakeApi) {
    api.change(DEPLOYMENT, |deployment| {
        let generation = deployment["metadata"]["generation"].clone();
        deployment["status"] = json!({"observedGeneration": generation, "replicas": 1,
            "updatedReplicas": 1, "readyReplicas": 1, "availableReplicas": 1});
    });
}

/// Objects but events, which are told by their own tests.
fn children(api: &FakeApi) -> Vec<String> {
    api.paths()
        .into_iter()
        .filter(|path| path != REGISTRY && !path.contains("/events/"))
        .collect()
}

#[tokio::test]
async fn nodes_pull_the_registry_with_the_secrets_of_the_settings() {
    let (api, mut context) = start(&json!({"emptyDir": {}}));
    look(&api, &context).await;
    let secrets =
        || api.get(DEPLOYMENT).unwrap()["spec"]["template"]["spec"]["imagePullSecrets"].clone();
    assert_eq!(secrets(), Value::Null);
    let mut settings = (*context.settings).clone();
    settings.registry_image_pull_secrets = vec!["hub".to_owned(), "mirror".to_owned()];
    context.settings = settings.into();
    look(&api, &context).await;
    assert_eq!(secrets(), json!([{"name": "hub"}, {"name": "mirror"}]));
}

#[tokio::test]
async fn a_registry_is_made_becomes_available_and_then_nothing_is_written() {
    let (api, context) = start(&json!({"emptyDir": {}}));
    let finished = look(&api, &context).await;
    assert!(finished.error.is_none(), "{finished:?}");
    assert_eq!(
        children(&api),
        [CONFIG, CREDENTIALS, SERVICE, DEPLOYMENT],
        "nothing but what is needed"
    );
    assert_eq!(
        conditions(&api),
        ["Ready=False Deploying", "Reconciling=True Deploying"]
    );

    become_ready(&api);
    look(&api, &context).await;
    assert_eq!(conditions(&api), ["Ready=True Available"]);
    let status = api.get(REGISTRY).unwrap()["status"].clone();
    assert_eq!(status["host"], "main.images.svc:5000");
    assert_eq!(status["version"], "3.1");
    assert_eq!(status["readyReplicas"], 1);
    assert_eq!(status["observedGeneration"], 1);

    api.writes();
    for _ in 0..10 {
        let finished = look(&api, &context).await;
        assert!(finished.error.is_none(), "{finished:?}");
    }
    assert_eq!(api.writes(), Vec::<String>::new());
}

#[tokio::test]
async fn events_tell_changes_once() {
    let (api, context) = start(&json!({"emptyDir": {}}));
    look(&api, &context).await;
    become_ready(&api);
    look(&api, &context).await;
    look(&api, &context).await;
    let reasons: Vec<String> = api
        .paths()
        .iter()
        .filter(|path| path.contains("/events/"))
        .map(|path| {
            api.get(path).unwrap()["reason"]
                .as_str()
                .unwrap()
                .to_owned()
        })
        .collect();
    assert_eq!(reasons.len(), 2, "{reasons:?}");
    assert!(reasons.contains(&"Deploying".to_owned()));
    assert!(reasons.contains(&"Available".to_owned()));
}

#[tokio::test]
async fn a_deleted_secret_is_made_again_and_the_pod_gets_the_new_password() {
    let (api, context) = start(&json!({"emptyDir": {}}));
    look(&api, &context).await;
    let hash = |api: &FakeApi| {
        api.get(DEPLOYMENT).unwrap()["spec"]["template"]["metadata"]["annotations"]
            ["coopery.dev/config-hash"]
            .clone()
    };
    let (password, before) = (
        api.get(CREDENTIALS).unwrap()["data"]["password"].clone(),
        hash(&api),
    );
    api.remove(CONFIG);
    look(&api, &context).await;
    assert_eq!(
        hash(&api),
        before,
        "the same password gives the same configuration"
    );
    api.remove(CREDENTIALS);
    look(&api, &context).await;
    assert_ne!(api.get(CREDENTIALS).unwrap()["data"]["password"], password);
    assert_ne!(hash(&api), before);
}

#[tokio::test]
async fn drift_of_a_child_is_undone() {
    let (api, context) = start(&json!({"emptyDir": {}}));
    look(&api, &context).await;
    api.change(DEPLOYMENT, |d| {
        d["spec"]["replicas"] = json!(5);
        d["metadata"]["labels"]["extra"] = json!("kept");
        d["metadata"]["ownerReferences"] = json!([]);
    });
    api.writes();
    look(&api, &context).await;
    let deployment = api.get(DEPLOYMENT).unwrap();
    assert_eq!(deployment["spec"]["replicas"], 1);
    assert_eq!(deployment["metadata"]["labels"]["extra"], "kept");
    assert_eq!(
        deployment["metadata"]["ownerReferences"][0]["kind"],
        "Registry"
    );
    assert_eq!(api.writes(), [format!("PATCH {DEPLOYMENT}")]);
}

#[tokio::test]
async fn an_object_of_somebody_else_is_not_taken_over() {
    let (api, context) = start(&json!({"emptyDir": {}}));
    api.put(DEPLOYMENT, json!({"spec": {"replicas": 3}}));
    let foreign = api.get(DEPLOYMENT).unwrap();
    let finished = look(&api, &context).await;
    assert!(finished.error.is_some());
    assert_eq!(
        conditions(&api),
        ["Ready=False NameConflict", "Stalled=True NameConflict"]
    );
    assert_eq!(api.get(DEPLOYMENT).unwrap(), foreign);
    assert_eq!(children(&api), [DEPLOYMENT]);
    api.remove(DEPLOYMENT);
    look(&api, &context).await;
    assert_eq!(
        conditions(&api),
        ["Ready=False Deploying", "Reconciling=True Deploying"]
    );
}

#[tokio::test]
async fn an_object_that_appears_between_observing_and_applying_is_not_taken_over() {
    let (api, context) = start(&json!({"emptyDir": {}}));
    let other = api.clone();
    // The Service is the write before the Deployment: just then somebody else makes a Deployment.
    api.faults(move |method, path| {
        if method == "PATCH" && path == SERVICE {
            other.put(DEPLOYMENT, json!({"spec": {"replicas": 3}}));
        }
        None
    });
    let finished = look(&api, &context).await;
    assert!(finished.error.unwrap().is_conflict());
    api.heal();
    look(&api, &context).await;
    assert_eq!(conditions(&api)[0], "Ready=False NameConflict");
    assert_eq!(api.get(DEPLOYMENT).unwrap()["spec"]["replicas"], 3);
}

#[tokio::test]
async fn a_retained_claim_is_adopted_and_that_of_somebody_else_is_not() {
    let claim = json!({"persistentVolumeClaim": {"size": "1Gi"}});
    let (api, context) = start(&claim);
    look(&api, &context).await;
    let kept = api.get(CLAIM).unwrap();
    assert!(kept["metadata"]["ownerReferences"].is_null());

    // The Registry is deleted and made again: the claim is still there, with the old unique id.
    for path in children(&api) {
        if path != CLAIM {
            api.remove(&path);
        }
    }
    api.remove(REGISTRY);
    api.put(REGISTRY, registry(&claim));
    let finished = look(&api, &context).await;
    assert!(finished.error.is_none(), "{finished:?}");
    let adopted = api.get(CLAIM).unwrap();
    assert_eq!(adopted["metadata"]["uid"], kept["metadata"]["uid"]);
    assert_eq!(
        adopted["metadata"]["labels"]["coopery.dev/uid"],
        api.get(REGISTRY).unwrap()["metadata"]["uid"]
    );

    let (api, context) = start(&claim);
    api.put(CLAIM, json!({"spec": {}}));
    look(&api, &context).await;
    assert_eq!(conditions(&api)[0], "Ready=False NameConflict");
}

#[tokio::test]
async fn a_failed_write_is_told_in_the_status_and_cured_by_the_next_look() {
    for (code, message, reason) in [
        (503, "the server is currently unable", "ApiUnavailable"),
        (403, "exceeded quota: small", "QuotaExceeded"),
        (403, "services is forbidden: User cannot patch", "Forbidden"),
    ] {
        let (api, context) = start(&json!({"emptyDir": {}}));
        let message = message.to_owned();
        api.faults(move |method, path| {
            (method == "PATCH" && path == SERVICE).then(|| Fault::Refuse(code, message.clone()))
        });
        let finished = look(&api, &context).await;
        assert!(finished.error.is_some());
        assert_eq!(conditions(&api)[0], format!("Ready=False {reason}"));
        assert_eq!(conditions(&api)[1], format!("Reconciling=True {reason}"));
        api.heal();
        look(&api, &context).await;
        assert_eq!(conditions(&api)[0], "Ready=False Deploying");
    }
}

#[tokio::test]
async fn why_no_pod_runs_is_told() {
    let (api, context) = start(&json!({"persistentVolumeClaim": {"size": "1Gi"}}));
    look(&api, &context).await;
    let uid = api.get(REGISTRY).unwrap()["metadata"]["uid"].clone();
    let pod = "/api/v1/namespaces/images/pods/main-0";
    let labels = json!({"coopery.dev/kind": "Registry", "coopery.dev/uid": uid});

    api.change(DEPLOYMENT, |d| {
        d["status"] = json!({"conditions": [{"type": "ReplicaFailure", "status": "True",
            "message": "pods \"main\" is forbidden: violates PodSecurity \"restricted\""}]});
    });
    look(&api, &context).await;
    assert_eq!(conditions(&api)[0], "Ready=False PodSecurityForbidden");

    api.put(pod, json!({"metadata": {"labels": labels}, "status": {"conditions": [
        {"type": "PodScheduled", "status": "False", "reason": "Unschedulable", "message": "0/1 nodes"}]}}));
    look(&api, &context).await;
    assert_eq!(conditions(&api)[0], "Ready=False Unschedulable");

    api.change(CLAIM, |c| c["status"] = json!({"phase": "Pending"}));
    look(&api, &context).await;
    assert_eq!(conditions(&api)[0], "Ready=False ClaimPending");

    api.change(CLAIM, |c| c["status"] = json!({"phase": "Bound"}));
    api.put(
        pod,
        json!({"metadata": {"labels": labels}, "status": {"containerStatuses": [
        {"name": "registry", "image": "", "imageID": "", "ready": false, "restartCount": 0,
         "state": {"waiting": {"reason": "ImagePullBackOff", "message": "not found"}}}]}}),
    );
    look(&api, &context).await;
    assert_eq!(conditions(&api)[0], "Ready=False ImagePullBackOff");
}

#[tokio::test]
async fn a_status_is_not_derived_from_an_old_view() {
    let (api, context) = start(&json!({"emptyDir": {}}));
    let old: Registry = serde_json::from_value(api.get(REGISTRY).unwrap()).unwrap();
    look(&api, &context).await;
    let before = api.get(REGISTRY).unwrap();
    let finished = reconcile::<RegistryReconciler>(&context, &old).await;
    assert!(finished.error.unwrap().is_conflict());
    assert_eq!(api.get(REGISTRY).unwrap(), before);
}

/// Every write of the way to Available is refused once, and its reply lost once: the end is the same.
#[tokio::test]
async fn a_crash_at_any_write_leads_to_the_same_end() {
    let storage = json!({"persistentVolumeClaim": {"size": "1Gi"}});
    let settle = async |api: &FakeApi, context: &Context| {
        for _ in 0..4 {
            look(api, context).await;
            if api.get(DEPLOYMENT).is_some() {
                become_ready(api);
            }
        }
        assert_eq!(conditions(api), ["Ready=True Available"]);
        children(api)
    };
    let (api, context) = start(&storage);
    let expected = settle(&api, &context).await;
    let writes = api.writes().len();
    assert!(writes >= 8, "{writes}");
    let mut covered = 0;
    for at in 0..writes {
        for lost in [false, true] {
            let (api, context) = start(&storage);
            let mut count = 0;
            api.faults(move |method, _| {
                if method == "GET" {
                    return None;
                }
                count += 1;
                (count == at + 1).then(|| {
                    if lost {
                        Fault::LoseReply
                    } else {
                        Fault::Refuse(500, "crash".to_owned())
                    }
                })
            });
            assert_eq!(
                settle(&api, &context).await,
                expected,
                "write {at} lost {lost}"
            );
            covered += 1;
        }
    }
    assert_eq!(covered, 2 * writes);
}

#[tokio::test]
async fn a_registry_that_is_being_deleted_is_left_alone() {
    let (api, context) = start(&json!({"emptyDir": {}}));
    api.change(REGISTRY, |r| {
        r["metadata"]["deletionTimestamp"] = json!("2026-01-01T00:00:00Z");
    });
    let finished = look(&api, &context).await;
    assert!(finished.error.is_none() && finished.requeue.is_none());
    assert_eq!(api.writes(), Vec::<String>::new());
}

#[tokio::test]
async fn objects_of_a_registry() {
    let (api, context) =
        start(&json!({"persistentVolumeClaim": {"size": "1Gi", "whenDeleted": "Delete"}}));
    look(&api, &context).await;
    let mut deployment = api.get(DEPLOYMENT).unwrap();
    deployment["spec"]["template"]["metadata"]["annotations"] = json!("[hash]");
    insta::assert_yaml_snapshot!("deployment", deployment["spec"]);
    insta::assert_yaml_snapshot!("service", api.get(SERVICE).unwrap()["spec"]);
    insta::assert_yaml_snapshot!("claim", api.get(CLAIM).unwrap()["spec"]);
    let meta = &api.get(CLAIM).unwrap()["metadata"];
    assert_eq!(meta["ownerReferences"][0]["controller"], true);
    assert_eq!(meta["labels"]["app.kubernetes.io/managed-by"], "coopery");
}

#[tokio::test]
async fn children_of_an_earlier_registry_are_waited_for() {
    let (api, context) = start(&json!({"emptyDir": {}}));
    look(&api, &context).await;
    api.remove(REGISTRY);
    api.put(REGISTRY, registry(&json!({"emptyDir": {}})));
    look(&api, &context).await;
    assert_eq!(
        conditions(&api),
        ["Ready=False NameConflict", "Reconciling=True NameConflict"]
    );
    // Garbage collection.
    for path in children(&api) {
        api.remove(&path);
    }
    look(&api, &context).await;
    assert_eq!(conditions(&api)[0], "Ready=False Deploying");
}

/// Every request of the way to Available is one that the committed table of rights allows.
#[tokio::test]
async fn requests_are_within_the_rights() {
    let (api, context) = start(&json!({"persistentVolumeClaim": {"size": "1Gi"}}));
    look(&api, &context).await;
    become_ready(&api);
    look(&api, &context).await;
    support::rights::assert_within_rights(&api);
}
