//! The kind `ImageBuild`: an image made from a source, and where it is pushed to.

use std::collections::BTreeMap;
use std::time::Duration;

use k8s_openapi::api::core::v1::Toleration;
use k8s_openapi::apimachinery::pkg::api::resource::Quantity;
use kube::{CustomResource, KubeSchema};
use serde::{Deserialize, Serialize};

use crate::common::{InvalidDuration, LocalReference, parse_duration, string_map};

mod cache;
mod dockerfile;
mod input;
mod source;
mod status;

pub use cache::{BuildCache, CacheRegistry, CacheVolume};
pub use dockerfile::{Dockerfile, DockerfileContext, DockerfileSecret};
pub use input::{BuildOutput, BuildReference, Input, Rebuild, Trigger};
pub use source::{GitReference, GitSource, HttpSource, OciSource, Source};
pub use status::{
    Attempt, AttemptPart, BaseImage, Build, CacheMiss, DestinationStatus, ImageBuildStatus,
    IsolationStatus, PlatformStatus, SourceStatus,
};

/// What is to be built, how, and where it goes.
#[derive(CustomResource, Clone, Debug, Default, Deserialize, KubeSchema, PartialEq, Serialize)]
#[kube(
    group = "coopery.dev",
    version = "v1alpha1",
    kind = "ImageBuild",
    namespaced,
    status = "ImageBuildStatus",
    derive = "Default",
    derive = "PartialEq",
    shortname = "ib",
    category = "coopery",
    doc = "An ImageBuild is an image built from a source and a Dockerfile, and pushed to its destinations.",
    printcolumn(name = "Image", type_ = "string", json_path = ".status.destinations[0].image", description = "Where the first destination has the image"),
    printcolumn(name = "Digest", type_ = "string", json_path = ".status.digest", description = "Digest of the image"),
    printcolumn(name = "Ready", type_ = "string", json_path = ".status.conditions[?(@.type==\"Ready\")].status", description = "Whether the image is there"),
    printcolumn(name = "Status", type_ = "string", json_path = ".status.conditions[?(@.type==\"Ready\")].reason", description = "Why it is ready or not"),
    printcolumn(name = "Message", type_ = "string", json_path = ".status.conditions[?(@.type==\"Ready\")].message", description = "What is the case and what to do", priority = 1),
    printcolumn(name = "Age", type_ = "date", json_path = ".metadata.creationTimestamp", description = "Time since creation"),
    validation = Rule::new("!has(self.spec.inputs) || !self.spec.inputs.exists(i, i.imageBuild.name == self.metadata.name)").message("an ImageBuild cannot be an input of itself"),
    validation = Rule::new("self.metadata.name.size() <= 52").message("the name of an ImageBuild has at most 52 characters: names and labels of its pods are made from it")
)]
#[serde(rename_all = "camelCase")]
#[x_kube(
    validation = Rule::new("(has(self.source) && (has(self.source.git) || has(self.source.http) || has(self.source.oci) || has(self.source.configMap) || has(self.source.persistentVolumeClaim))) || (has(self.dockerfile) && has(self.dockerfile.inline))")
        .message("there is no Dockerfile: set source to git, http, oci, configMap or persistentVolumeClaim, or write it into dockerfile.inline"),
    validation = Rule::new("!has(self.inputs) || !has(self.dockerfile) || !has(self.dockerfile.buildArgs) || !self.inputs.exists(i, i.name in self.dockerfile.buildArgs)")
        .message("a name is both in inputs and in dockerfile.buildArgs")
)]
pub struct ImageBuildSpec {
    /// Where the build context comes from. Default: an empty context, then dockerfile.inline is needed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub source: Option<Source>,
    /// Which Dockerfile is built and how. Default: the file Dockerfile of the context, its last stage.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub dockerfile: Option<Dockerfile>,
    /// Secrets of type kubernetes.io/dockerconfigjson with which images named in the Dockerfile are pulled. At most 8. Default: none.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 8))]
    #[x_kube(merge_strategy = ListMerge::Map(vec!["name".to_owned()]))]
    pub image_pull_secrets: Vec<LocalReference>,
    /// Images of other ImageBuilds that this one starts from, at most 16, by name. It waits for them. Default: none.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 16))]
    #[x_kube(merge_strategy = ListMerge::Map(vec!["name".to_owned()]))]
    pub inputs: Vec<Input>,
    /// Where the results of steps are kept for later builds. Default: nowhere, every build begins anew in its pod.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cache: Option<BuildCache>,
    /// When an image that is there is built anew. A change of spec always builds.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub rebuild: Option<Rebuild>,
    /// Where the image is pushed to, 1 to 4, by name.
    #[schemars(length(min = 1, max = 4))]
    #[x_kube(merge_strategy = ListMerge::Map(vec!["name".to_owned()]))]
    pub destinations: Vec<Destination>,
    /// How long one build may take, from the start of its pod. Default: 1h. Format: 90s, 5m, 1h30m.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 16))]
    #[x_kube(
        validation = Rule::new("self.matches('^([0-9]{1,5}(h|m|s))+$')").message("timeout must be a duration of hours, minutes and seconds, for instance 1h30m"),
        validation = Rule::new("!self.matches('^([0-9]{1,5}(h|m|s))+$') || duration(self) >= duration('1s')").message("timeout must be at least 1s")
    )]
    pub timeout: Option<String>,
    /// How failures that are not the fault of the Dockerfile are retried.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub retry: Option<Retry>,
    /// How many finished builds keep their pod and its log.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub history: Option<History>,
    /// How RUN is isolated: Auto (default; UserNamespace, or NoRun where the namespace enforces Pod Security restricted), UserNamespace or NoRun.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 32))]
    #[x_kube(validation = Rule::new("self in ['Auto', 'UserNamespace', 'NoRun']").message("isolation must be Auto, UserNamespace or NoRun"))]
    pub isolation: Option<String>,
    /// What the builder pod asks of the cluster.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub pod: Option<PodOptions>,
    /// Starts no new build while true; a running one goes on. Default: false.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub suspend: Option<bool>,
}

/// Where the image is pushed to.
#[derive(Clone, Debug, Default, Deserialize, Eq, KubeSchema, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
#[x_kube(
    validation = Rule::new("has(self.registry) != has(self.image)")
        .message("a destination needs exactly one of registry and image"),
    validation = Rule::new("has(self.registry) == has(self.repository)")
        .message("registry and repository belong together: registry names the Registry, repository the path in it"),
    validation = Rule::new("!has(self.secretRef) || has(self.image)")
        .message("secretRef belongs to image; a Registry has credentials of its own")
)]
pub struct Destination {
    /// Name of the destination in this resource and its status.
    #[schemars(length(min = 1, max = 63))]
    pub name: String,
    /// A Registry of the same namespace.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub registry: Option<LocalReference>,
    /// Path in the Registry. Format: lower case path components, for instance team/app.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 200))]
    #[x_kube(validation = Rule::new("self.matches('^[a-z0-9]+((\\\\.|_|__|-+)[a-z0-9]+)*(/[a-z0-9]+((\\\\.|_|__|-+)[a-z0-9]+)*)*$')")
        .message("repository must be lower case path components, for instance team/app, without host, tag and digest"))]
    pub repository: Option<String>,
    /// A repository of any registry. Format: host/path, without tag and digest, for instance docker.io/acme/app.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 255))]
    #[x_kube(validation = Rule::new("self.matches('^[A-Za-z0-9.-]+(:[0-9]{1,5})?(/[a-z0-9]+((\\\\.|_|__|-+)[a-z0-9]+)*)+$')")
        .message("image must be host/path without tag and digest, for instance docker.io/acme/app"))]
    pub image: Option<String>,
    /// Secret of type kubernetes.io/dockerconfigjson with which image is pushed. Default: none, without credentials.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub secret_ref: Option<LocalReference>,
    /// Tags of the image, 1 to 16. $(commit), $(shortCommit), $(branch) and $(tag) are replaced, the last two only after a literal prefix.
    #[schemars(length(min = 1, max = 16), inner(length(min = 1, max = 128)))]
    #[x_kube(
        merge_strategy = ListMerge::Set,
        validation = Rule::new("self.all(t, t.matches('^([A-Za-z0-9_]|[$][(][A-Za-z]+[)])([A-Za-z0-9_.-]|[$][(][A-Za-z]+[)])*$'))")
            .message("a tag has letters, digits, '_', '.' and '-', does not begin with '.' or '-', and may hold $(commit), $(shortCommit), $(branch) and $(tag)")
    )]
    pub tags: Vec<String>,
}

/// How failures are retried.
#[derive(Clone, Debug, Default, Deserialize, Eq, KubeSchema, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Retry {
    /// How often a build is started again after a failure of the infrastructure or a registry. A failed RUN is not retried. Default: 2. 0 to 10.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 0, max = 10))]
    pub limit: Option<i32>,
}

/// How many finished builds are kept.
#[derive(Clone, Debug, Default, Deserialize, Eq, KubeSchema, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct History {
    /// Succeeded builds whose pod is kept. Default: 3. 0 to 10.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 0, max = 10))]
    pub succeeded: Option<i32>,
    /// Failed builds whose pod is kept. Default: 3. 0 to 10.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 0, max = 10))]
    pub failed: Option<i32>,
}

/// What a builder pod asks of the cluster.
#[derive(Clone, Debug, Default, Deserialize, KubeSchema, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct PodOptions {
    /// Requests and limits of the builder. Default: none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub resources: Option<Resources>,
    /// Disk that the build works on.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub workspace: Option<Workspace>,
    /// Labels that the node must have. Default: none.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    #[schemars(schema_with = "string_map::<32, 63>")]
    pub node_selector: BTreeMap<String, String>,
    /// Taints of nodes that the pod tolerates. Default: none.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 32))]
    pub tolerations: Vec<Toleration>,
    /// Runtime class of the pod. Default: the cluster's.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 253))]
    pub runtime_class_name: Option<String>,
    /// Priority class of the pod. Default: the cluster's.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 253))]
    pub priority_class_name: Option<String>,
}

/// Requests and limits of a container.
#[derive(Clone, Debug, Default, Deserialize, KubeSchema, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Resources {
    /// What the scheduler sets aside, by resource: cpu, memory, ephemeral-storage. Default: none.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    #[schemars(extend("maxProperties" = 16))]
    pub requests: BTreeMap<String, Quantity>,
    /// What the container may use at most, by resource. Default: none.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    #[schemars(extend("maxProperties" = 16))]
    pub limits: BTreeMap<String, Quantity>,
}

/// Disk that a build works on.
#[derive(Clone, Debug, Default, Deserialize, Eq, KubeSchema, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Workspace {
    /// Limit of what a build may write; beyond it the pod is evicted. Default: none. Format: a quantity, for instance 20Gi.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 32))]
    #[x_kube(validation = Rule::new("isQuantity(self) && quantity(self).isGreaterThan(quantity('0'))")
        .message("sizeLimit must be a quantity greater than zero, for instance 20Gi"))]
    pub size_limit: Option<String>,
}

/// How RUN is isolated, as asked for.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Isolation {
    /// `UserNamespace`, or `NoRun` where the namespace enforces Pod Security restricted.
    Auto,
    /// RUN in a nested user namespace; the pod passes Pod Security baseline.
    UserNamespace,
    /// Nothing is executed; the pod passes Pod Security restricted.
    NoRun,
}

impl ImageBuildSpec {
    /// How long one build may take. Default: one hour.
    pub fn timeout(&self) -> Result<Duration, InvalidDuration> {
        self.timeout
            .as_deref()
            .map_or(Ok(Duration::from_secs(3600)), parse_duration)
    }

    /// How often an infrastructure failure is retried. Default: 2.
    pub fn retry_limit(&self) -> u32 {
        let limit = self.retry.as_ref().and_then(|r| r.limit).unwrap_or(2);
        u32::try_from(limit).unwrap_or(0)
    }

    /// How many pods of succeeded builds are kept. Default: 3.
    pub fn succeeded_history(&self) -> usize {
        let kept = self.history.as_ref().and_then(|h| h.succeeded);
        usize::try_from(kept.unwrap_or(3)).unwrap_or(0)
    }

    /// How many pods of failed builds are kept. Default: 3.
    pub fn failed_history(&self) -> usize {
        let kept = self.history.as_ref().and_then(|h| h.failed);
        usize::try_from(kept.unwrap_or(3)).unwrap_or(0)
    }

    /// How RUN is isolated; `None` when the word is unknown to this version. Default: `Auto`.
    pub fn isolation(&self) -> Option<Isolation> {
        match self.isolation.as_deref() {
            None | Some("Auto") => Some(Isolation::Auto),
            Some("UserNamespace") => Some(Isolation::UserNamespace),
            Some("NoRun") => Some(Isolation::NoRun),
            Some(_) => None,
        }
    }

    /// Whether no new build is started.
    pub fn suspended(&self) -> bool {
        self.suspend.unwrap_or(false)
    }
}
