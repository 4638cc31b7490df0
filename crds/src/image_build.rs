//! The kind `ImageBuild`: an image made from a source, and where it is pushed to.

use std::collections::BTreeMap;
use std::time::Duration;

use k8s_openapi::api::core::v1::Toleration;
use k8s_openapi::apimachinery::pkg::api::resource::Quantity;
use kube::{CustomResource, KubeSchema};
use serde::{Deserialize, Serialize};

use crate::common::{InvalidDuration, LocalReference, parse_duration, string_map};

mod status;

pub use status::{
    Attempt, BaseImage, Build, DestinationStatus, ImageBuildStatus, IsolationStatus, SourceStatus,
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
    validation = Rule::new("self.metadata.name.size() <= 52").message("the name of an ImageBuild has at most 52 characters: names and labels of its pods are made from it")
)]
#[serde(rename_all = "camelCase")]
#[x_kube(
    validation = Rule::new("(has(self.source) && (has(self.source.git) || has(self.source.http) || has(self.source.configMap))) || (has(self.dockerfile) && has(self.dockerfile.inline))")
        .message("there is no Dockerfile: set source to git, http or configMap, or write it into dockerfile.inline")
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

/// Where the build context comes from.
#[derive(Clone, Debug, Default, Deserialize, Eq, KubeSchema, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
#[x_kube(
    validation = Rule::new("(has(self.git) ? 1 : 0) + (has(self.http) ? 1 : 0) + (has(self.configMap) ? 1 : 0) <= 1")
        .message("source needs at most one of git, http and configMap"),
    validation = Rule::new("!has(self.subdirectory) || has(self.git) || has(self.http)")
        .message("subdirectory needs a source with directories: git or http")
)]
pub struct Source {
    /// A git repository.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub git: Option<GitSource>,
    /// An archive behind a URL.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub http: Option<HttpSource>,
    /// A ConfigMap: each key is a file of the context.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub config_map: Option<LocalReference>,
    /// Directory of the source that is the context. Default: its top. Format: a relative path without `..`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 512))]
    #[x_kube(validation = Rule::new("!self.startsWith('/') && !self.split('/').exists(s, s == '..')")
        .message("subdirectory must be a relative path inside the source, without '..'"))]
    pub subdirectory: Option<String>,
}

/// A git repository as source.
#[derive(Clone, Debug, Default, Deserialize, Eq, KubeSchema, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct GitSource {
    /// URL of the repository. Format: https://host/path, without user name and password.
    #[schemars(length(min = 1, max = 2048))]
    #[x_kube(validation = Rule::new("self.matches('^https://[^/@\\\\s]+/[^\\\\s]+$')")
        .message("url must be https://host/path without a user name (credentials belong in secretRef); other schemes are not supported"))]
    pub url: String,
    /// What is built: exactly one of branch, tag and commit.
    #[serde(rename = "ref")]
    pub reference: GitReference,
    /// Secret with the keys username and password, and ca.crt where the server's certificate is private. Default: none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub secret_ref: Option<LocalReference>,
    /// How often the branch or tag is looked up; a new commit is built. Default: 5m. At least 5s. Format: 90s, 5m, 1h30m.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 16))]
    #[x_kube(
        validation = Rule::new("self.matches('^([0-9]{1,5}(h|m|s))+$')").message("interval must be a duration of hours, minutes and seconds, for instance 5m"),
        validation = Rule::new("!self.matches('^([0-9]{1,5}(h|m|s))+$') || duration(self) >= duration('5s')").message("interval must be at least 5s")
    )]
    pub interval: Option<String>,
}

impl GitSource {
    /// How often the reference is looked up. Default: five minutes.
    pub fn interval(&self) -> Result<Duration, InvalidDuration> {
        self.interval
            .as_deref()
            .map_or(Ok(Duration::from_secs(300)), parse_duration)
    }
}

/// What of a repository is built.
#[derive(Clone, Debug, Default, Deserialize, Eq, KubeSchema, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
#[x_kube(
    validation = Rule::new("(has(self.branch) ? 1 : 0) + (has(self.tag) ? 1 : 0) + (has(self.commit) ? 1 : 0) == 1")
        .message("ref needs exactly one of branch, tag and commit")
)]
pub struct GitReference {
    /// Head of a branch, looked up at every interval.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 244))]
    #[x_kube(validation = Rule::new("self.matches('^[^-\\\\s~^:?*\\\\[\\\\\\\\][^\\\\s~^:?*\\\\[\\\\\\\\]*$') && !self.contains('..') && !self.contains('@{')")
        .message("branch must be the name of a branch, for instance main: no leading '-', no spaces, none of ~^:?*[\\"))]
    pub branch: Option<String>,
    /// A tag, looked up at every interval.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 244))]
    #[x_kube(validation = Rule::new("self.matches('^[^-\\\\s~^:?*\\\\[\\\\\\\\][^\\\\s~^:?*\\\\[\\\\\\\\]*$') && !self.contains('..') && !self.contains('@{')")
        .message("tag must be the name of a tag, for instance v1.2: no leading '-', no spaces, none of ~^:?*[\\"))]
    pub tag: Option<String>,
    /// A commit, in full. Format: 40 (or 64) lower case hexadecimal digits.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 64))]
    #[x_kube(validation = Rule::new("self.matches('^([0-9a-f]{40}|[0-9a-f]{64})$')")
        .message("commit must be the whole hash: 40 or 64 lower case hexadecimal digits"))]
    pub commit: Option<String>,
}

/// An archive behind a URL as source.
#[derive(Clone, Debug, Default, Deserialize, Eq, KubeSchema, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
#[x_kube(
    validation = Rule::new("has(self.checksum) || self.url.startsWith('https://')")
        .message("an http URL needs a checksum: anybody on the way could change the archive"),
    validation = Rule::new("!has(self.secretRef) || self.url.startsWith('https://')")
        .message("secretRef needs an https URL: the credentials would be sent in the clear")
)]
pub struct HttpSource {
    /// URL of a tar archive (plain, gzip, bzip2, xz or zstd). Format: https:// or http://, without user name and password.
    #[schemars(length(min = 1, max = 2048))]
    #[x_kube(validation = Rule::new("self.matches('^https?://[^/@\\\\s]+/[^\\\\s]+$')")
        .message("url must be https://host/path or http://host/path without a user name (credentials belong in secretRef)"))]
    pub url: String,
    /// Digest of the archive. Default: not checked. Format: sha256: and 64 hexadecimal digits.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 71))]
    #[x_kube(validation = Rule::new("self.matches('^sha256:[0-9a-f]{64}$')").message("checksum must be sha256: and 64 lower case hexadecimal digits"))]
    pub checksum: Option<String>,
    /// Secret with the keys username and password, and ca.crt where the server's certificate is private. Default: none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub secret_ref: Option<LocalReference>,
}

/// Which Dockerfile is built and how.
#[derive(Clone, Debug, Default, Deserialize, Eq, KubeSchema, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
#[x_kube(validation = Rule::new("!(has(self.path) && has(self.inline))").message("dockerfile needs at most one of path and inline"))]
pub struct Dockerfile {
    /// File of the context. Default: Dockerfile. Format: a relative path without `..`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 512))]
    #[x_kube(validation = Rule::new("!self.startsWith('/') && !self.split('/').exists(s, s == '..')")
        .message("path must be a relative path inside the context, without '..'"))]
    pub path: Option<String>,
    /// The Dockerfile itself. Default: none. At most 65536 characters.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 65536))]
    pub inline: Option<String>,
    /// Stage that is built. Default: the last.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 128))]
    pub target: Option<String>,
    /// Values of ARG by name. They can be seen in the image's history: no secrets. Default: none.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    #[schemars(schema_with = "string_map::<64, 4096>")]
    #[x_kube(validation = Rule::new("self.all(k, k.matches('^[A-Za-z_][A-Za-z0-9_]*$'))")
        .message("the name of a build argument has letters, digits and '_', and does not begin with a digit"))]
    pub build_args: BTreeMap<String, String>,
    /// Labels of the image, besides those of the Dockerfile. Default: none.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    #[schemars(schema_with = "string_map::<64, 4096>")]
    pub labels: BTreeMap<String, String>,
    /// Runs every step, whatever the cache holds. Default: false.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub no_cache: Option<bool>,
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
