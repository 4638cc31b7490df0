//! Where the context of a build comes from.

use std::time::Duration;

use kube::KubeSchema;
use serde::{Deserialize, Serialize};

use crate::common::{InvalidDuration, LocalReference, parse_duration};

/// Where the build context comes from.
#[derive(Clone, Debug, Default, Deserialize, Eq, KubeSchema, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
#[x_kube(
    validation = Rule::new("(has(self.git) ? 1 : 0) + (has(self.http) ? 1 : 0) + (has(self.oci) ? 1 : 0) + (has(self.configMap) ? 1 : 0) + (has(self.persistentVolumeClaim) ? 1 : 0) <= 1")
        .message("source needs at most one of git, http, oci, configMap and persistentVolumeClaim"),
    validation = Rule::new("!has(self.subdirectory) || has(self.git) || has(self.http) || has(self.oci) || has(self.persistentVolumeClaim)")
        .message("subdirectory needs a source with directories: git, http, oci or persistentVolumeClaim")
)]
pub struct Source {
    /// A git repository.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub git: Option<GitSource>,
    /// An archive behind a URL.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub http: Option<HttpSource>,
    /// An artifact or an image in a registry.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub oci: Option<OciSource>,
    /// A ConfigMap: each key is a file of the context.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub config_map: Option<LocalReference>,
    /// A PersistentVolumeClaim: its files are the context. What changes in it starts no build.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub persistent_volume_claim: Option<LocalReference>,
    /// Directory of the source that is the context. Default: its top. Format: a relative path without `..`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 512))]
    #[x_kube(validation = Rule::new("!self.startsWith('/') && !self.split('/').exists(s, s == '..')")
        .message("subdirectory must be a relative path inside the source, without '..'"))]
    pub subdirectory: Option<String>,
}

/// How often something that moves is looked up: what the field says, else five minutes.
fn interval_or_default(field: Option<&str>) -> Result<Duration, InvalidDuration> {
    field.map_or(Ok(Duration::from_secs(300)), parse_duration)
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
    /// Secret with the keys username and password; its ca.crt counts where caSecretRef is absent. Default: none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub secret_ref: Option<LocalReference>,
    /// Secret with the key ca.crt, where the server's certificate is private. Default: none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ca_secret_ref: Option<LocalReference>,
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
        interval_or_default(self.interval.as_deref())
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

/// An artifact or an image in a registry as source.
#[derive(Clone, Debug, Default, Deserialize, Eq, KubeSchema, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct OciSource {
    /// The artifact, whose first tar layer is the context, or the image, whose files are. Format: as in FROM, for instance registry.example.com/team/context:main or with a digest.
    #[schemars(length(min = 1, max = 512))]
    #[x_kube(validation = Rule::new("self.matches('^[A-Za-z0-9][A-Za-z0-9_./:@-]*$') && !self.contains('//')")
        .message("image must be the name of an artifact or image without oci://, for instance registry.example.com/team/context:main"))]
    pub image: String,
    /// Secret of type kubernetes.io/dockerconfigjson with which it is read. Default: imagePullSecrets and those of the destinations.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub secret_ref: Option<LocalReference>,
    /// Secret with the key ca.crt, where the registry's certificate is private. Default: none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ca_secret_ref: Option<LocalReference>,
    /// How often a tag is looked up; another digest is built. Default: 5m. At least 5s. Format: 90s, 5m, 1h30m.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 16))]
    #[x_kube(
        validation = Rule::new("self.matches('^([0-9]{1,5}(h|m|s))+$')").message("interval of oci must be a duration of hours, minutes and seconds, for instance 5m"),
        validation = Rule::new("!self.matches('^([0-9]{1,5}(h|m|s))+$') || duration(self) >= duration('5s')").message("interval of oci must be at least 5s")
    )]
    pub interval: Option<String>,
}

impl OciSource {
    /// How often the tag is looked up. Default: five minutes.
    pub fn interval(&self) -> Result<Duration, InvalidDuration> {
        interval_or_default(self.interval.as_deref())
    }
}

/// An archive behind a URL as source.
#[derive(Clone, Debug, Default, Deserialize, Eq, KubeSchema, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
#[x_kube(
    validation = Rule::new("has(self.checksum) || self.url.startsWith('https://')")
        .message("an http URL needs a checksum: anybody on the way could change the archive"),
    validation = Rule::new("!has(self.secretRef) || self.url.startsWith('https://')")
        .message("secretRef needs an https URL: the credentials would be sent in the clear"),
    validation = Rule::new("!has(self.caSecretRef) || self.url.startsWith('https://')")
        .message("caSecretRef needs an https URL: http has no certificates")
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
    /// Secret with the keys username and password; its ca.crt counts where caSecretRef is absent. Default: none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub secret_ref: Option<LocalReference>,
    /// Secret with the key ca.crt, where the server's certificate is private. Default: none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ca_secret_ref: Option<LocalReference>,
}
