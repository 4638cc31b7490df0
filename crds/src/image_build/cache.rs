//! What a build keeps for later builds, outside of its pod.

use kube::KubeSchema;
use serde::{Deserialize, Serialize};

use crate::common::LocalReference;

/// Where the results of steps are kept for later builds. Without it, every build begins anew in its pod.
#[derive(Clone, Debug, Default, Deserialize, Eq, KubeSchema, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
#[x_kube(validation = Rule::new("has(self.registry) || has(self.volume)")
    .message("cache needs registry, volume or both"))]
pub struct BuildCache {
    /// A tag of a registry that the cache of all stages is read from and written to. One that is not there is empty.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub registry: Option<CacheRegistry>,
    /// A volume that keeps the cache. It serves one builder pod at a time.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub volume: Option<CacheVolume>,
}

/// Where in a registry a cache is.
#[derive(Clone, Debug, Default, Deserialize, Eq, KubeSchema, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
#[x_kube(
    validation = Rule::new("has(self.registry) != has(self.image)")
        .message("cache.registry needs exactly one of registry and image"),
    validation = Rule::new("has(self.registry) == has(self.repository)")
        .message("registry and repository of the cache belong together: registry names the Registry, repository the path in it"),
    validation = Rule::new("!has(self.secretRef) || has(self.image)")
        .message("secretRef of the cache belongs to image; a Registry has credentials of its own")
)]
pub struct CacheRegistry {
    /// A Registry of the same namespace.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub registry: Option<LocalReference>,
    /// Path in the Registry. Format: lower case path components, for instance team/cache.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 200))]
    #[x_kube(validation = Rule::new("self.matches('^[a-z0-9]+((\\\\.|_|__|-+)[a-z0-9]+)*(/[a-z0-9]+((\\\\.|_|__|-+)[a-z0-9]+)*)*$')")
        .message("repository of the cache must be lower case path components, for instance team/cache, without host, tag and digest"))]
    pub repository: Option<String>,
    /// A repository of any registry. Format: host/path, without tag and digest, for instance registry.example.com/team/cache.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 255))]
    #[x_kube(validation = Rule::new("self.matches('^[A-Za-z0-9.-]+(:[0-9]{1,5})?(/[a-z0-9]+((\\\\.|_|__|-+)[a-z0-9]+)*)+$')")
        .message("image of the cache must be host/path without tag and digest, for instance registry.example.com/team/cache"))]
    pub image: Option<String>,
    /// Secret of type kubernetes.io/dockerconfigjson for image, which may push. Default: none, without credentials.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub secret_ref: Option<LocalReference>,
    /// Tag of the cache. Builds that share one overwrite each other's. Default: the name of the ImageBuild.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 128))]
    #[x_kube(validation = Rule::new("self.matches('^[A-Za-z0-9_][A-Za-z0-9_.-]*$')")
        .message("tag of the cache has letters, digits, '_', '.' and '-', and does not begin with '.' or '-'"))]
    pub tag: Option<String>,
}

/// A volume that keeps a cache.
#[derive(Clone, Debug, Default, Deserialize, Eq, KubeSchema, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct CacheVolume {
    /// The claim. Other builds may name it too; they wait for each other.
    pub persistent_volume_claim: LocalReference,
    /// How much stays after a build; what was not used for longest is removed. Default: no bound. Format: a quantity, for instance 20Gi.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 32))]
    #[x_kube(validation = Rule::new("isQuantity(self) && quantity(self).isGreaterThan(quantity('0'))")
        .message("quota must be a quantity greater than zero, for instance 20Gi"))]
    pub quota: Option<String>,
}
