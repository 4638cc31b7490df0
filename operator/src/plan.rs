//! What a reconcile decided to write: a value, made by pure code and carried out by `apply`.
//!
//! The marker types make the compiler prove that a status is derived from what the API server answered:
//! only `apply` turns `Plan<Prepared, _>` into `Plan<Applied, _>`.

use std::collections::BTreeMap;
use std::time::Duration;

use k8s_openapi::apimachinery::pkg::apis::meta::v1::{ObjectMeta, OwnerReference};
use kube::core::{ApiResource, NamespaceResourceScope};
use kube::{Resource, ResourceExt};
use serde::Serialize;
use serde::de::DeserializeOwned;
use serde_json::Value;
use sha2::{Digest, Sha256};

use crate::reason::Reason;

/// The label that says who keeps a child.
pub const MANAGED_BY_LABEL: &str = "app.kubernetes.io/managed-by";
/// The label with the kind of a child's owner.
pub const KIND_LABEL: &str = "coopery.dev/kind";
/// The label with the name of a child's owner.
pub const NAME_LABEL: &str = "coopery.dev/name";
/// The label with the unique id of a child's owner.
pub const UID_LABEL: &str = "coopery.dev/uid";
/// The annotation with the hash of what was applied, so that a field that is no longer wanted is noticed.
pub const APPLIED_ANNOTATION: &str = "coopery.dev/applied";

/// A plan that was made.
#[derive(Debug)]
pub struct Prepared(());
/// A plan that was carried out.
#[derive(Debug)]
pub struct Applied(());

/// A child as JSON, with what is needed to address it.
#[derive(Clone, Debug)]
pub struct Child {
    /// Kind and plural of the child.
    pub resource: ApiResource,
    /// Namespace of the child: that of its owner.
    pub namespace: String,
    /// Name of the child.
    pub name: String,
    /// The child as it is wanted.
    pub value: Value,
}

/// One change of the cluster.
#[derive(Clone, Debug)]
pub enum Write {
    /// Server-side apply; left out when `live` holds everything that is wanted.
    Apply {
        /// The child as it is wanted.
        child: Child,
        /// The child as it was observed.
        live: Option<Value>,
    },
    /// Create; that it exists already and is owned by `owner` is success.
    Create {
        /// The child as it is wanted.
        child: Child,
        /// Unique id of the owner.
        owner: String,
    },
    /// Delete the very object that was observed; that it is gone is success.
    Delete {
        /// Kind and plural.
        resource: ApiResource,
        /// Namespace.
        namespace: String,
        /// Name.
        name: String,
        /// Unique id that the object must still have.
        uid: String,
        /// Seconds that a pod gets to end. Default: what the pod says.
        grace: Option<u32>,
    },
}

/// Severity of an event.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Severity {
    /// All is well.
    Normal,
    /// Somebody should look.
    Warning,
}

/// Something worth telling, once.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Event {
    /// How bad it is.
    pub severity: Severity,
    /// Why, as in conditions.
    pub reason: Reason,
    /// What the operator did, CamelCase, for instance `CreatePod`.
    pub action: &'static str,
    /// A sentence for people; cut to 1 KiB.
    pub note: String,
}

/// What a reconcile decided, with the decision `D` that its status is derived from.
#[derive(Debug)]
pub struct Plan<State, D> {
    /// What was decided, carried through unchanged.
    pub decision: D,
    /// Changes, carried out in this order; the first failure ends it.
    pub writes: Vec<Write>,
    /// What is told.
    pub events: Vec<Event>,
    /// When to look again at the latest. Default: at the next resync.
    pub requeue: Option<Duration>,
    /// What the API server answered, by kind and name.
    pub(crate) answers: BTreeMap<(String, String), Value>,
    pub(crate) state: std::marker::PhantomData<State>,
}

impl<D> Plan<Prepared, D> {
    /// A plan that changes nothing.
    pub fn new(decision: D) -> Self {
        Self {
            decision,
            writes: Vec::new(),
            events: Vec::new(),
            requeue: None,
            answers: BTreeMap::new(),
            state: std::marker::PhantomData,
        }
    }

    /// Wants `desired`; nothing is written when `live`, the child as observed, holds all of it.
    pub fn apply<K>(&mut self, desired: &K, live: Option<&K>)
    where
        K: Resource<DynamicType = (), Scope = NamespaceResourceScope> + Serialize,
    {
        let mut child = child(desired);
        let hash = hex::encode(&Sha256::digest(child.value.to_string())[..8]);
        child.value["metadata"]["annotations"][APPLIED_ANNOTATION] = Value::String(hash);
        let live = live.map(to_value);
        self.writes.push(Write::Apply { child, live });
    }

    /// Wants `desired` to be created once and never changed; `owner` is the unique id of its owner.
    pub fn create<K>(&mut self, desired: &K, owner: &str)
    where
        K: Resource<DynamicType = (), Scope = NamespaceResourceScope> + Serialize,
    {
        let owner = owner.to_owned();
        let child = child(desired);
        self.writes.push(Write::Create { child, owner });
    }

    /// Wants `live`, an object that was observed, to be gone.
    pub fn delete<K>(&mut self, live: &K, grace: Option<u32>)
    where
        K: Resource<DynamicType = (), Scope = NamespaceResourceScope>,
    {
        self.writes.push(Write::Delete {
            resource: ApiResource::erase::<K>(&()),
            namespace: live.namespace().unwrap_or_default(),
            name: live.name_any(),
            uid: live.uid().unwrap_or_default(),
            grace,
        });
    }

    /// Tells something.
    pub fn tell(
        &mut self,
        severity: Severity,
        reason: Reason,
        action: &'static str,
        note: impl Into<String>,
    ) {
        self.events.push(Event {
            severity,
            reason,
            action,
            note: note.into(),
        });
    }

    /// Wants to look again after `delay` at the latest; the shortest of several holds.
    pub fn requeue_after(&mut self, delay: Duration) {
        self.requeue = Some(self.requeue.map_or(delay, |old| old.min(delay)));
    }
}

impl<D> Plan<Applied, D> {
    /// The child `name` of kind `K` as the API server answered, or as it was observed when nothing was to be written.
    pub fn answer<K>(&self, name: &str) -> Option<K>
    where
        K: Resource<DynamicType = ()> + DeserializeOwned,
    {
        let key = (K::kind(&()).into_owned(), name.to_owned());
        serde_json::from_value(self.answers.get(&key)?.clone()).ok()
    }
}

/// The child as JSON, with the kind that typed objects leave out when they were read from a list.
fn child<K>(desired: &K) -> Child
where
    K: Resource<DynamicType = (), Scope = NamespaceResourceScope> + Serialize,
{
    Child {
        resource: ApiResource::erase::<K>(&()),
        namespace: desired.namespace().unwrap_or_default(),
        name: desired.name_any(),
        value: to_value(desired),
    }
}

fn to_value<K: Resource<DynamicType = ()> + Serialize>(object: &K) -> Value {
    let mut value = serde_json::to_value(object)
        .expect("Kubernetes objects have only string keys, which JSON can write");
    value["apiVersion"] = Value::String(K::api_version(&()).into_owned());
    value["kind"] = Value::String(K::kind(&()).into_owned());
    value
}

/// Name, namespace, labels and owner reference of a child of `owner`.
///
/// Labels of the owner are not copied: tools that track by label would claim or prune the child.
pub fn child_meta<K>(owner: &K, name: impl Into<String>) -> ObjectMeta
where
    K: Resource<DynamicType = ()>,
{
    ObjectMeta {
        name: Some(name.into()),
        namespace: owner.namespace(),
        labels: Some(child_labels(owner)),
        owner_references: Some(vec![owner_reference(owner)]),
        ..ObjectMeta::default()
    }
}

/// The labels of a child of `owner`.
pub fn child_labels<K: Resource<DynamicType = ()>>(owner: &K) -> BTreeMap<String, String> {
    BTreeMap::from([
        (MANAGED_BY_LABEL.to_owned(), "coopery".to_owned()),
        (KIND_LABEL.to_owned(), K::kind(&()).into_owned()),
        (NAME_LABEL.to_owned(), owner.name_any()),
        (UID_LABEL.to_owned(), owner.uid().unwrap_or_default()),
    ])
}

/// The reference of a child to `owner`, its controller.
pub fn owner_reference<K: Resource<DynamicType = ()>>(owner: &K) -> OwnerReference {
    OwnerReference {
        api_version: K::api_version(&()).into_owned(),
        kind: K::kind(&()).into_owned(),
        name: owner.name_any(),
        uid: owner.uid().unwrap_or_default(),
        controller: Some(true),
        block_owner_deletion: Some(true),
    }
}

/// Whether `meta` is that of a child of the owner with the unique id `uid`: by owner reference or, where a
/// user removed that, by label. Both gone, the object counts as somebody else's.
pub fn is_owned_by(meta: &ObjectMeta, uid: &str) -> bool {
    let by_reference = meta
        .owner_references
        .iter()
        .flatten()
        .any(|reference| reference.uid == uid);
    let controlled_by_other = meta
        .owner_references
        .iter()
        .flatten()
        .any(|reference| reference.controller == Some(true) && reference.uid != uid);
    let by_label = meta
        .labels
        .iter()
        .flatten()
        .any(|(key, value)| key == UID_LABEL && value == uid);
    !uid.is_empty() && (by_reference || (by_label && !controlled_by_other))
}

/// Whether `live` holds everything that `desired` has: what the API server or others added does not count.
///
/// Lists of objects with a key (`name`, `type`, `containerPort`, `mountPath`, `uid`) are compared by that key;
/// other lists must be equal in length and order.
pub fn covers(live: &Value, desired: &Value) -> bool {
    match (live, desired) {
        (_, Value::Null) => true,
        (Value::Null, Value::Object(wanted)) => wanted.is_empty(),
        (Value::Null, Value::Array(wanted)) => wanted.is_empty(),
        (Value::Object(live), Value::Object(wanted)) => wanted
            .iter()
            .all(|(key, value)| covers(live.get(key).unwrap_or(&Value::Null), value)),
        (Value::Array(live), Value::Array(wanted)) => {
            if let Some(key) = list_key(wanted) {
                wanted.iter().all(|item| {
                    live.iter()
                        .any(|other| other[key] == item[key] && covers(other, item))
                })
            } else {
                live.len() == wanted.len()
                    && live
                        .iter()
                        .zip(wanted)
                        .all(|(live, item)| covers(live, item))
            }
        }
        (live, desired) => live == desired,
    }
}

/// The key by which the objects of a list are told apart.
fn list_key(list: &[Value]) -> Option<&'static str> {
    ["name", "uid", "mountPath", "containerPort", "type"]
        .into_iter()
        .find(|key| !list.is_empty() && list.iter().all(|item| item.get(key).is_some()))
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn covers_ignores_what_others_added() {
        for (live, desired, expected) in [
            (json!({"a": 1, "b": 2}), json!({"a": 1}), true),
            (json!({"a": 1}), json!({"a": 2}), false),
            (json!({"a": 1}), json!({"a": 1, "b": {}}), true),
            (json!({"a": 1}), json!({"a": 1, "b": []}), true),
            (json!({"a": 1}), json!({"a": 1, "b": null}), true),
            (json!({"a": 1}), json!({"b": 1}), false),
            (
                json!({"l": [{"name": "x", "v": 1, "extra": true}, {"name": "injected"}]}),
                json!({"l": [{"name": "x", "v": 1}]}),
                true,
            ),
            (
                json!({"l": [{"name": "y", "v": 1}]}),
                json!({"l": [{"name": "x", "v": 1}]}),
                false,
            ),
            (json!({"l": ["a", "b"]}), json!({"l": ["a"]}), false),
            (json!({"l": ["a"]}), json!({"l": ["a"]}), true),
        ] {
            assert_eq!(covers(&live, &desired), expected, "{live} {desired}");
        }
    }

    #[test]
    fn a_child_is_known_by_reference_or_label_but_not_when_another_controls_it() {
        let reference = |uid: &str| OwnerReference {
            uid: uid.to_owned(),
            controller: Some(true),
            ..OwnerReference::default()
        };
        let meta = |references: Vec<OwnerReference>, label: Option<&str>| ObjectMeta {
            owner_references: Some(references),
            labels: label.map(|uid| BTreeMap::from([(UID_LABEL.to_owned(), uid.to_owned())])),
            ..ObjectMeta::default()
        };
        for (meta, expected) in [
            (meta(vec![reference("u")], None), true),
            (meta(vec![], Some("u")), true),
            (meta(vec![reference("other")], Some("u")), false),
            (meta(vec![reference("other")], None), false),
            (meta(vec![], Some("other")), false),
            (meta(vec![], None), false),
        ] {
            assert_eq!(is_owned_by(&meta, "u"), expected, "{meta:?}");
        }
        assert!(!is_owned_by(&meta(vec![reference("")], Some("")), ""));
    }

    #[test]
    fn the_shortest_requeue_holds() {
        let mut plan = Plan::<Prepared, ()>::new(());
        plan.requeue_after(Duration::from_secs(60));
        plan.requeue_after(Duration::from_secs(5));
        plan.requeue_after(Duration::from_secs(30));
        assert_eq!(plan.requeue, Some(Duration::from_secs(5)));
    }
}
