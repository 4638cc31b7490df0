//! The only module that writes to Kubernetes (the leader's lease apart): children of a plan, events, status.
//!
//! No write is sent after the lease of this process ended. Every write can be repeated: children are applied
//! server-side or have deterministic names, a delete names the unique id of what it deletes, a status names the version
//! that it was derived from, an event is named by what it tells. It decides nothing.

use std::marker::PhantomData;

use crds::condition::truncate;
use k8s_openapi::api::core::v1::ObjectReference;
use k8s_openapi::api::events::v1::Event as KubernetesEvent;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{MicroTime, ObjectMeta};
use kube::api::{DeleteParams, DynamicObject, Patch, PatchParams, PostParams, Preconditions};
use kube::core::{ApiResource, NamespaceResourceScope};
use kube::{Api, Resource, ResourceExt};
use serde::Serialize;
use serde_json::{Value, json};
use sha2::{Digest, Sha256};

use crate::context::Context;
use crate::error::{Error, Result};
use crate::plan::{Applied, Child, Event, Plan, Prepared, Severity, Write, covers, is_owned_by};
use crate::reason::Reason;

/// The field manager of everything that the operator writes.
pub const FIELD_MANAGER: &str = "coopery-operator";

/// An event's note is cut to what the API server takes.
const MAX_NOTE_BYTES: usize = 1024;

/// A plan whose writes did not all succeed: the decision is still there for the status.
#[derive(Debug)]
pub struct Failed<D> {
    /// What was decided.
    pub decision: D,
    /// What went wrong.
    pub error: Error,
}

/// Carries out the writes of `plan` in their order; the first failure ends it.
pub async fn apply<D>(
    context: &Context,
    plan: Plan<Prepared, D>,
) -> Result<Plan<Applied, D>, Box<Failed<D>>> {
    let Plan {
        decision,
        writes,
        events,
        requeue,
        mut answers,
        state: PhantomData,
    } = plan;
    for write in writes {
        match carry_out(context, write).await {
            Ok(Some((kind, name, answer))) => {
                answers.insert((kind, name), answer);
            }
            Ok(None) => {}
            Err(error) => return Err(Box::new(Failed { decision, error })),
        }
    }
    Ok(Plan {
        decision,
        writes: Vec::new(),
        events,
        requeue,
        answers,
        state: PhantomData,
    })
}

/// Does one write. Returns kind, name and the answer of what exists afterwards.
async fn carry_out(context: &Context, write: Write) -> Result<Option<(String, String, Value)>> {
    context.tenure.check()?;
    match write {
        Write::Apply { child, live } => {
            let kind = child.resource.kind.clone();
            let name = child.name.clone();
            if let Some(live) = &live
                && covers(live, &child.value)
            {
                return Ok(Some((kind, name, live.clone())));
            }
            let uid = live.map(|live| live["metadata"]["uid"].clone());
            let answer = apply_child(context, child, uid).await?;
            Ok(Some((kind, name, answer)))
        }
        Write::Create { child, owner } => {
            let kind = child.resource.kind.clone();
            let name = child.name.clone();
            let answer = create_child(context, &child, &owner).await?;
            Ok(Some((kind, name, answer)))
        }
        Write::Delete {
            resource,
            namespace,
            name,
            uid,
            grace,
        } => {
            delete(context, &resource, &namespace, &name, uid, grace).await?;
            Ok(None)
        }
    }
}

/// Applies `child` server-side. It is forced only onto the very object that was observed to be ours (`uid`):
/// one that somebody else made meanwhile leads to a conflict, and is seen at the next look.
async fn apply_child(context: &Context, mut child: Child, uid: Option<Value>) -> Result<Value> {
    let mut params = PatchParams::apply(FIELD_MANAGER);
    if let Some(uid) = uid {
        child.value["metadata"]["uid"] = uid;
        params = params.force();
    }
    let result = api(context, &child)
        .patch(&child.name, &params, &Patch::Apply(&child.value))
        .await;
    context
        .metrics
        .write("apply", &child.resource.kind, result.is_ok());
    let object = result.map_err(Error::kube(format!("apply {}", describe(&child))))?;
    to_json(&object)
}

/// Creates `child`. That it exists and is ours is success: the name says what it is for.
async fn create_child(context: &Context, child: &Child, owner: &str) -> Result<Value> {
    let api = api(context, child);
    let object: DynamicObject =
        serde_json::from_value(child.value.clone()).map_err(Error::json(describe(child)))?;
    let params = PostParams {
        field_manager: Some(FIELD_MANAGER.to_owned()),
        ..PostParams::default()
    };
    let result = api.create(&params, &object).await;
    context
        .metrics
        .write("create", &child.resource.kind, result.is_ok());
    match result {
        Ok(object) => to_json(&object),
        Err(kube::Error::Api(status)) if status.is_already_exists() => {
            let existing = api
                .get(&child.name)
                .await
                .map_err(Error::kube(format!("get {}", describe(child))))?;
            if is_owned_by(&existing.metadata, owner) {
                to_json(&existing)
            } else {
                Err(name_conflict(&child.resource.kind, &child.name))
            }
        }
        Err(error) => Err(Error::kube(format!("create {}", describe(child)))(error)),
    }
}

/// Deletes the object only if it still has `uid`; gone or replaced is success.
async fn delete(
    context: &Context,
    resource: &ApiResource,
    namespace: &str,
    name: &str,
    uid: String,
    grace: Option<u32>,
) -> Result<()> {
    let api: Api<DynamicObject> = Api::namespaced_with(context.client.clone(), namespace, resource);
    let params = DeleteParams {
        grace_period_seconds: grace,
        preconditions: Some(Preconditions {
            uid: Some(uid),
            resource_version: None,
        }),
        ..DeleteParams::background()
    };
    let result = api.delete(name, &params).await;
    context
        .metrics
        .write("delete", &resource.kind, result.is_ok());
    match result {
        Ok(_) => Ok(()),
        Err(kube::Error::Api(status)) if status.is_not_found() || status.is_conflict() => Ok(()),
        Err(error) => Err(Error::kube(format!("delete {} {name}", resource.kind))(
            error,
        )),
    }
}

/// The error for an object of somebody else under a name that is needed.
pub fn name_conflict(kind: &str, name: &str) -> Error {
    Error::terminal(
        Reason::NameConflict,
        format!("{kind} {name} exists and belongs to somebody else"),
    )
}

/// Writes `status` if it differs from that of `object`. It fails with a conflict when the object changed
/// since it was read, so that no status is derived from an old view.
pub async fn patch_status<K, S>(
    context: &Context,
    object: &K,
    old: Option<&S>,
    status: &S,
) -> Result<()>
where
    K: Resource<DynamicType = (), Scope = NamespaceResourceScope>
        + Clone
        + serde::de::DeserializeOwned
        + std::fmt::Debug,
    S: Serialize + PartialEq,
{
    if old == Some(status) {
        return Ok(());
    }
    context.tenure.check()?;
    let name = object.name_any();
    let kind = K::kind(&());
    let patch = json!({
        "apiVersion": K::api_version(&()),
        "kind": kind,
        "metadata": {
            "name": name,
            "uid": object.uid(),
            "resourceVersion": object.resource_version(),
        },
        "status": status,
    });
    let api: Api<K> = Api::namespaced(
        context.client.clone(),
        &object.namespace().unwrap_or_default(),
    );
    let params = PatchParams::apply(FIELD_MANAGER).force();
    let result = api
        .patch_status(&name, &params, &Patch::Apply(&patch))
        .await;
    context.metrics.write("status", &kind, result.is_ok());
    result
        .map(drop)
        .map_err(Error::kube(format!("write the status of {kind} {name}")))
}

/// Tells `events` about `object`. The names are made from what is told and the status that it is a change of, so that
/// telling it twice (after a crash, after a status that was not written for a conflict, by a second operator) makes one
/// event. A failure is logged: no reconcile fails for an event.
pub async fn publish<K, S>(context: &Context, object: &K, old: Option<&S>, events: &[Event])
where
    K: Resource<DynamicType = (), Scope = NamespaceResourceScope>,
    S: Serialize,
{
    let old = json!(old).to_string();
    let namespace = object.namespace().unwrap_or_default();
    let api: Api<KubernetesEvent> = Api::namespaced(context.client.clone(), &namespace);
    for event in events {
        if let Err(error) = context.tenure.check() {
            tracing::warn!(%error, reason = event.reason.as_str(), "event not written");
            return;
        }
        let body = event_body(context, object, &namespace, &old, event);
        let result = api.create(&PostParams::default(), &body).await;
        context.metrics.write("event", "Event", result.is_ok());
        match result {
            Ok(_) => {}
            Err(kube::Error::Api(status)) if status.is_already_exists() => {}
            Err(error) => {
                tracing::warn!(%error, reason = event.reason.as_str(), "event not written");
            }
        }
    }
}

fn event_body<K>(
    context: &Context,
    object: &K,
    namespace: &str,
    old: &str,
    event: &Event,
) -> KubernetesEvent
where
    K: Resource<DynamicType = ()>,
{
    let note = truncate(&event.note, MAX_NOTE_BYTES);
    let uid = object.uid().unwrap_or_default();
    let hash = Sha256::digest(format!(
        "{uid}\n{old}\n{}\n{}\n{note}",
        event.reason.as_str(),
        event.action
    ));
    KubernetesEvent {
        metadata: ObjectMeta {
            name: Some(format!("{}.{}", object.name_any(), hex::encode(&hash[..8]))),
            namespace: Some(namespace.to_owned()),
            ..ObjectMeta::default()
        },
        event_time: Some(MicroTime(context.now())),
        type_: Some(
            match event.severity {
                Severity::Normal => "Normal",
                Severity::Warning => "Warning",
            }
            .to_owned(),
        ),
        reason: Some(event.reason.as_str().to_owned()),
        action: Some(event.action.to_owned()),
        note: Some(note),
        reporting_controller: Some("coopery.dev/operator".to_owned()),
        reporting_instance: Some(context.identity.clone()),
        regarding: Some(ObjectReference {
            api_version: Some(K::api_version(&()).into_owned()),
            kind: Some(K::kind(&()).into_owned()),
            name: Some(object.name_any()),
            namespace: Some(namespace.to_owned()),
            uid: Some(uid),
            ..ObjectReference::default()
        }),
        ..KubernetesEvent::default()
    }
}

fn api(context: &Context, child: &Child) -> Api<DynamicObject> {
    Api::namespaced_with(context.client.clone(), &child.namespace, &child.resource)
}

fn describe(child: &Child) -> String {
    format!("{} {}", child.resource.kind, child.name)
}

fn to_json(object: &DynamicObject) -> Result<Value> {
    serde_json::to_value(object).map_err(Error::json(format!(
        "read the answer for {}",
        object.name_any()
    )))
}
