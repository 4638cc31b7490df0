//! The kind `Registry`: an image registry that the operator runs in the cluster.

use kube::{CustomResource, KubeSchema};
use serde::{Deserialize, Serialize};

use crate::condition::Condition;

/// What a registry is to be.
#[derive(
    CustomResource, Clone, Debug, Default, Deserialize, Eq, KubeSchema, PartialEq, Serialize,
)]
#[kube(
    group = "coopery.dev",
    version = "v1alpha1",
    kind = "Registry",
    plural = "registries",
    namespaced,
    status = "RegistryStatus",
    derive = "Default",
    derive = "PartialEq",
    shortname = "reg",
    category = "coopery",
    doc = "A Registry is an image registry that the operator runs in the cluster, at NAME.NAMESPACE.svc:5000.",
    printcolumn(name = "Host", type_ = "string", json_path = ".status.host", description = "Name of the registry in image references"),
    printcolumn(name = "Version", type_ = "string", json_path = ".status.version", description = "Version of the registry program", priority = 1),
    printcolumn(name = "Ready", type_ = "string", json_path = ".status.conditions[?(@.type==\"Ready\")].status", description = "Whether the registry serves"),
    printcolumn(name = "Status", type_ = "string", json_path = ".status.conditions[?(@.type==\"Ready\")].reason", description = "Why it is ready or not"),
    printcolumn(name = "Message", type_ = "string", json_path = ".status.conditions[?(@.type==\"Ready\")].message", description = "What is the case and what to do", priority = 1),
    printcolumn(name = "Age", type_ = "date", json_path = ".metadata.creationTimestamp", description = "Time since creation"),
    validation = Rule::new("self.metadata.name.size() <= 50").message("the name of a Registry has at most 50 characters: the names of its Service and Secrets are made from it"),
    validation = Rule::new("self.metadata.name.matches('^[a-z]([a-z0-9-]*[a-z0-9])?$')").message("the name of a Registry is the name of its Service: lower case letters, digits and '-', beginning with a letter")
)]
#[serde(rename_all = "camelCase")]
pub struct RegistrySpec {
    /// The registry runs in the cluster, kept by the operator.
    pub managed: ManagedRegistry,
}

/// How a registry in the cluster is run.
#[derive(Clone, Debug, Default, Deserialize, Eq, KubeSchema, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct ManagedRegistry {
    /// Where the images are kept: exactly one of persistentVolumeClaim and emptyDir. Immutable, but the claim may grow.
    pub storage: Storage,
}

/// Where a managed registry keeps its images.
#[derive(Clone, Debug, Default, Deserialize, Eq, KubeSchema, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
#[x_kube(
    validation = Rule::new("has(self.persistentVolumeClaim) != has(self.emptyDir)")
        .message("storage needs exactly one of persistentVolumeClaim and emptyDir"),
    validation = Rule::new("has(self.persistentVolumeClaim) == has(oldSelf.persistentVolumeClaim)")
        .message("the kind of storage is immutable: create another Registry and copy the images")
)]
pub struct Storage {
    /// A claim named as the registry's Deployment; the images outlive the pod.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub persistent_volume_claim: Option<ClaimStorage>,
    /// A directory that lives as long as the pod: for trials and caches.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub empty_dir: Option<EmptyDirStorage>,
}

/// The claim that holds the images.
#[derive(Clone, Debug, Default, Deserialize, Eq, KubeSchema, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
#[x_kube(
    validation = Rule::new("has(self.storageClassName) == has(oldSelf.storageClassName) && (!has(self.storageClassName) || self.storageClassName == oldSelf.storageClassName)")
        .message("storageClassName is immutable: create another Registry and copy the images")
)]
pub struct ClaimStorage {
    /// Size of the claim; it may only grow. Format: a quantity, for instance 50Gi.
    #[schemars(length(min = 1, max = 32))]
    #[x_kube(
        validation = Rule::new("isQuantity(self) && quantity(self).isGreaterThan(quantity('0'))")
            .message("size must be a quantity greater than zero, for instance 50Gi"),
        validation = Rule::new("!isQuantity(self) || !isQuantity(oldSelf) || quantity(self).compareTo(quantity(oldSelf)) >= 0")
            .message("size may only grow: a claim cannot be made smaller")
    )]
    pub size: String,
    /// Storage class of the claim. Default: the cluster's default class. Immutable.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 253))]
    pub storage_class_name: Option<String>,
    /// What happens to the claim when the Registry is deleted: Retain (default; a Registry of the same name adopts it) or Delete.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 16))]
    #[x_kube(validation = Rule::new("self in ['Retain', 'Delete']").message("whenDeleted must be Retain or Delete"))]
    pub when_deleted: Option<String>,
}

impl ClaimStorage {
    /// What happens to the claim with the Registry; anything but `Delete` keeps the images.
    pub fn when_deleted(&self) -> WhenDeleted {
        match self.when_deleted.as_deref() {
            Some("Delete") => WhenDeleted::Delete,
            _ => WhenDeleted::Retain,
        }
    }
}

/// Fate of a claim whose Registry is deleted.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum WhenDeleted {
    /// The claim stays, without an owner.
    Retain,
    /// The claim is owned by the Registry and goes with it.
    Delete,
}

/// Images that live as long as the pod.
#[derive(Clone, Debug, Default, Deserialize, Eq, KubeSchema, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct EmptyDirStorage {
    /// Limit of the directory's size; the pod is evicted when it is exceeded. Default: none. Format: a quantity, for instance 10Gi.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 32))]
    #[x_kube(validation = Rule::new("isQuantity(self) && quantity(self).isGreaterThan(quantity('0'))")
        .message("sizeLimit must be a quantity greater than zero, for instance 10Gi"))]
    pub size_limit: Option<String>,
}

/// What a registry is observed to be.
#[derive(Clone, Debug, Default, Deserialize, Eq, KubeSchema, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct RegistryStatus {
    /// Generation of the spec that this status was derived from; -1 before the operator saw the object.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub observed_generation: Option<i64>,
    /// Ready, and while they are true Reconciling and Stalled.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 16))]
    #[x_kube(merge_strategy = ListMerge::Map(vec!["type".to_owned()]))]
    pub conditions: Vec<Condition>,
    /// Name of the registry in image references. Format: host:port.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 255))]
    pub host: Option<String>,
    /// Version of the registry program, as its image is tagged.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 128))]
    pub version: Option<String>,
    /// Number of pods that serve.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ready_replicas: Option<i32>,
    /// Value of the annotation reconcile.coopery.dev/requestedAt that was last acted on.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 64))]
    pub last_handled_requested_at: Option<String>,
}
