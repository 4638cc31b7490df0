//! Scenarios of what surrounds the five steps: panics, timeouts, failures of the status patch.
#![allow(clippy::unwrap_used, reason = "tests")]

mod support;

use crds::condition::Condition;
use crds::{Registry, RegistryStatus};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use kube::core::DeserializeGuard;
use kube::runtime::controller::Controller;
use operator::condition::Summary;
use operator::context::Context;
use operator::error::Result;
use operator::plan::{Plan, Prepared};
use operator::reason::Reason;
use operator::reconcile::{Outcome, Reconciler, reconcile};
use serde_json::json;
use support::{FakeApi, Fault};

const REGISTRY: &str = "/apis/coopery.dev/v1alpha1/namespaces/images/registries/main";

/// A reconciler that misbehaves as the object's name says.
struct Misbehaving;

impl Reconciler for Misbehaving {
    type Object = Registry;
    type Observed = ();
    type Validated = ();
    type Decision = ();

    fn watches(
        controller: Controller<DeserializeGuard<Registry>>,
        _: &Context,
    ) -> Controller<DeserializeGuard<Registry>> {
        controller
    }

    async fn observe(_: &Context, object: &Registry) -> Result<()> {
        match object.metadata.labels.as_ref().unwrap()["mode"].as_str() {
            "panic" => panic!("as asked"),
            "hang" => std::future::pending().await,
            _ => Ok(()),
        }
    }

    fn validate(_: &Registry, (): &()) -> Result<()> {
        Ok(())
    }

    fn plan(object: &Registry, (): (), (): ()) -> Plan<Prepared, ()> {
        assert_ne!(
            object.metadata.labels.as_ref().unwrap()["mode"],
            "panic in plan",
            "as asked"
        );
        Plan::new(())
    }

    fn status(object: &Registry, outcome: Outcome<'_, ()>, now: &Time) -> RegistryStatus {
        let mut status = object.status.clone().unwrap_or_default();
        let summary = match outcome {
            Outcome::Applied(_) => Summary::ready(Reason::Available, "well"),
            Outcome::Failed { error, .. } => Summary::of_error(error),
        };
        summary.write(&mut status.conditions, 1, now);
        status
    }

    fn conditions(status: &RegistryStatus) -> &[Condition] {
        &status.conditions
    }
}

fn start(mode: &str) -> (FakeApi, Context) {
    let api = FakeApi::new();
    api.put(
        REGISTRY,
        json!({"apiVersion": "coopery.dev/v1alpha1", "kind": "Registry",
            "metadata": {"labels": {"mode": mode}}, "spec": {"managed": {"storage": {"emptyDir": {}}}}}),
    );
    let context = api.context();
    (api, context)
}

fn read(api: &FakeApi) -> Registry {
    serde_json::from_value(api.get(REGISTRY).unwrap()).unwrap()
}

fn ready_reason(api: &FakeApi) -> String {
    api.get(REGISTRY).unwrap()["status"]["conditions"][0]["reason"]
        .as_str()
        .unwrap()
        .to_owned()
}

#[tokio::test]
async fn a_panic_ends_one_reconcile_and_is_told() {
    for mode in ["panic", "panic in plan"] {
        let (api, context) = start(mode);
        let finished = reconcile::<Misbehaving>(&context, &read(&api)).await;
        assert_eq!(finished.error.unwrap().reason(), Reason::InternalError);
        assert_eq!(ready_reason(&api), "InternalError");
        api.change(REGISTRY, |r| {
            r["metadata"]["labels"]["mode"] = json!("good");
        });
        reconcile::<Misbehaving>(&context, &read(&api)).await;
        assert_eq!(ready_reason(&api), "Available");
    }
}

#[tokio::test(start_paused = true)]
async fn a_reconcile_that_hangs_is_ended_and_told() {
    let (api, context) = start("hang");
    let finished = reconcile::<Misbehaving>(&context, &read(&api)).await;
    assert_eq!(finished.error.unwrap().reason(), Reason::ReconcileTimeout);
    assert_eq!(ready_reason(&api), "ReconcileTimeout");
}

#[tokio::test(start_paused = true)]
async fn an_api_server_that_hangs_does_not_hold_a_reconcile() {
    let (api, context) = start("good");
    let object = read(&api);
    api.faults(|_, _| Some(Fault::Hang));
    let finished = reconcile::<Misbehaving>(&context, &object).await;
    assert_eq!(finished.error.unwrap().reason(), Reason::ReconcileTimeout);
}

#[tokio::test]
async fn an_unchanged_status_is_not_written() {
    let (api, context) = start("good");
    reconcile::<Misbehaving>(&context, &read(&api)).await;
    assert_eq!(
        api.writes().last().unwrap(),
        &format!("PATCH {REGISTRY}/status")
    );
    reconcile::<Misbehaving>(&context, &read(&api)).await;
    assert_eq!(api.writes(), Vec::<String>::new());
}

fn events(api: &FakeApi) -> usize {
    let events = api.paths().into_iter().filter(|p| p.contains("/events/"));
    events.count()
}

#[tokio::test]
async fn what_was_told_before_a_status_that_was_not_written_is_told_once() {
    // The object is changed between the look and the status: the API server answers with a conflict.
    let (api, context) = start("good");
    let stale = read(&api);
    api.change(REGISTRY, |r| r["spec"]["suspend"] = json!(true));
    let finished = reconcile::<Misbehaving>(&context, &stale).await;
    assert_eq!(finished.error.unwrap().reason(), Reason::Conflict);
    assert_eq!(events(&api), 1);
    reconcile::<Misbehaving>(&context, &read(&api)).await;
    assert_eq!(ready_reason(&api), "Available");
    assert_eq!(events(&api), 1);

    // The process dies after the event and before the status, and somebody changes the object before it is back.
    let (api, context) = start("good");
    api.faults(|_, path| path.ends_with("/status").then_some(Fault::Hang));
    let object = read(&api);
    let died = tokio::time::timeout(
        std::time::Duration::from_millis(50),
        reconcile::<Misbehaving>(&context, &object),
    );
    assert!(died.await.is_err());
    assert_eq!(events(&api), 1);
    api.heal();
    api.change(REGISTRY, |r| r["spec"]["suspend"] = json!(true));
    reconcile::<Misbehaving>(&context, &read(&api)).await;
    assert_eq!(ready_reason(&api), "Available");
    assert_eq!(events(&api), 1);

    // What happens again later is told again.
    api.change(REGISTRY, |r| {
        r["metadata"]["labels"]["mode"] = json!("panic");
    });
    reconcile::<Misbehaving>(&context, &read(&api)).await;
    api.change(REGISTRY, |r| {
        r["metadata"]["labels"]["mode"] = json!("good");
    });
    reconcile::<Misbehaving>(&context, &read(&api)).await;
    assert_eq!(events(&api), 3);
}

#[tokio::test]
async fn an_object_that_is_gone_is_no_failure() {
    let (api, context) = start("good");
    let object = read(&api);
    api.remove(REGISTRY);
    let finished = reconcile::<Misbehaving>(&context, &object).await;
    assert!(finished.error.is_none(), "{finished:?}");
}
