//! What the operator asks a pod to do.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use crate::{PlatformImage, ProtocolError, VERSION};

/// One task for one pod.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Request {
    /// Always [`VERSION`].
    pub version: u32,
    /// What to do.
    pub task: Task,
    /// How the pod reaches the network.
    #[serde(default)]
    pub network: Network,
    /// dockerconfigjson files with credentials for registries; the first that knows a host wins.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub credentials: Vec<String>,
    /// Hosts (`host[:port]`) of registries that are reached by plain HTTP: those that a Registry resource made.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub plain_http: Vec<String>,
}

impl Request {
    /// The request as JSON.
    #[expect(clippy::missing_panics_doc, reason = "it cannot panic")]
    pub fn to_json(&self) -> String {
        serde_json::to_string(self).expect("maps have string keys and nothing else can fail")
    }

    /// Reads a request.
    ///
    /// # Errors
    /// When `json` is no request, or is one of another version.
    pub fn parse(json: &[u8]) -> Result<Self, ProtocolError> {
        let what = "request";
        crate::outcome::check_version(what, json)?;
        serde_json::from_slice(json).map_err(|source| ProtocolError::Json { what, source })
    }

    /// A request of this version for `task`, with nothing else set.
    pub fn new(task: Task) -> Self {
        Self {
            version: VERSION,
            task,
            network: Network::default(),
            credentials: Vec::new(),
            plain_http: Vec::new(),
        }
    }
}

/// The kinds of work.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
#[allow(
    clippy::large_enum_variant,
    reason = "one value a process, whichever of them is larger at present"
)]
pub enum Task {
    /// Build an image and push it.
    Build(BuildRequest),
    /// Copy images from registry to registry.
    Mirror(MirrorRequest),
    /// Make an index of images that other pods have pushed.
    Join(JoinRequest),
}

/// How a pod reaches the network.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct Network {
    /// PEM certificates of authorities that are trusted besides the public ones.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub ca_certificates: Option<String>,
    /// Proxy for `http:` URLs. Never with credentials in it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub http_proxy: Option<String>,
    /// Proxy for `https:` URLs. Never with credentials in it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub https_proxy: Option<String>,
    /// Hosts, domains and networks that are reached without a proxy, separated by commas.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub no_proxy: Option<String>,
    /// Networks (CIDR) that the network guard lets through although it would refuse them.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub allow_cidrs: Vec<String>,
}

/// A build of one Dockerfile.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct BuildRequest {
    /// Where the context comes from.
    pub source: Source,
    /// The context's directory inside the source; empty for its top.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub subdirectory: String,
    /// What to build.
    pub dockerfile: DockerfileSpec,
    /// Where the image goes; manifests go everywhere by digest before any tag is written.
    pub destinations: Vec<Destination>,
    /// How RUN is isolated. The pod verifies that it can be had and never falls to something weaker.
    pub isolation: Isolation,
    /// Seconds since 1970 for timestamps of the image (SOURCE_DATE_EPOCH).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub source_date_epoch: Option<i64>,
    /// Where results of earlier builds are found, and kept for later ones.
    #[serde(default, skip_serializing_if = "CacheRequest::is_empty")]
    pub cache: CacheRequest,
}

/// Where results of earlier builds are found, and kept for later ones. What cannot be read is as if it were empty; what
/// cannot be written does not fail the build.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct CacheRequest {
    /// `host/repository:tag` of caches to look into, the first that knows a step wins. One that does not exist is empty.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub import: Vec<String>,
    /// `host/repository:tag` that the cache of all steps (`mode=max`) is written to.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub export: Option<String>,
    /// The volume at [`crate::paths::CACHE`]; none where absent.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub volume: Option<CacheVolume>,
}

impl CacheRequest {
    /// Whether nothing outside the workspace is read or written.
    pub const fn is_empty(&self) -> bool {
        self.import.is_empty() && self.export.is_none() && self.volume.is_none()
    }
}

/// A volume that keeps blobs and records of the cache from one pod to the next. One pod uses it at a time.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct CacheVolume {
    /// Bytes that stay after a build: what was not used for longest is removed. No bound where absent.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub quota: Option<u64>,
}

/// Where a build context comes from.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum Source {
    /// No context: a Dockerfile that copies nothing from it.
    Empty,
    /// A git repository.
    #[serde(rename_all = "camelCase")]
    Git {
        /// `https:` URL without credentials.
        url: String,
        /// What to check out.
        revision: GitRevision,
        /// Whether [`crate::paths::SOURCE_CREDENTIALS`] has `username` and `password`.
        #[serde(default)]
        credentials: bool,
    },
    /// A tar archive, plain or compressed.
    #[serde(rename_all = "camelCase")]
    Http {
        /// `http:` or `https:` URL without credentials.
        url: String,
        /// `sha256:…` that the archive must have.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        checksum: Option<String>,
        /// Whether [`crate::paths::SOURCE_CREDENTIALS`] has `username` and `password`, or `token`.
        #[serde(default)]
        credentials: bool,
    },
    /// The content of an artifact or image in a registry.
    #[serde(rename_all = "camelCase")]
    Oci {
        /// `host/repository@sha256:…`, read with the credentials of the request.
        image: String,
    },
    /// The files of a ConfigMap, mounted at [`crate::paths::SOURCE`].
    #[serde(rename_all = "camelCase")]
    ConfigMap {
        /// `sha256:…` over the data, as [`Source::config_map_digest_input`] frames it: the pod refuses other data.
        digest: String,
    },
    /// The files of a claim, mounted at [`crate::paths::SOURCE`] for reading.
    Volume,
}

impl Source {
    /// The bytes whose SHA-256 digest identifies the content of a ConfigMap: for each key in order, the lengths of key and
    /// value as decimal numbers, and the two.
    pub fn config_map_digest_input<'a>(
        data: impl IntoIterator<Item = (&'a str, &'a [u8])>,
    ) -> Vec<u8> {
        let sorted: BTreeMap<&str, &[u8]> = data.into_iter().collect();
        let mut input = Vec::new();
        for (key, value) in sorted {
            input.extend_from_slice(format!("{} {} {key} ", key.len(), value.len()).as_bytes());
            input.extend_from_slice(value);
        }
        input
    }
}

/// What to check out of a git repository. The operator has resolved the name already, so that the pod builds what the
/// status says; the name is kept because many servers serve names only.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct GitRevision {
    /// The commit, 40 or 64 hexadecimal digits.
    pub commit: String,
    /// The full name of the ref that the commit was found at, `refs/heads/main`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reference: Option<String>,
}

/// What to build of a context.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct DockerfileSpec {
    /// Path of the Dockerfile inside the context; empty for `Dockerfile`.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub path: String,
    /// The Dockerfile itself, instead of a path.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub inline: Option<String>,
    /// The stage to build; the last one where absent.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub target: Option<String>,
    /// Build arguments.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub build_args: BTreeMap<String, String>,
    /// Labels that the image gets besides its own.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub labels: BTreeMap<String, String>,
    /// Whether every step runs anew.
    pub no_cache: bool,
    /// Files for `RUN --mount=type=secret`. They count neither for the cache nor for the image.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub secrets: Vec<SecretFile>,
    /// Images that stand for names in FROM and `--from`, before stages and registries are asked.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub contexts: Vec<NamedContext>,
    /// Platforms (`linux/arm64`) of the image, in the order of the index. Empty: the platform of the pod's node, and the
    /// result is a manifest. One: a manifest for it. Several: an index.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub platforms: Vec<String>,
    /// Repositories whose images are looked for in another one first.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub mirrors: Vec<MirroredRepository>,
}

/// A repository that is mirrored. What the mirror does not have is taken from the repository itself.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct MirroredRepository {
    /// `host/repository` as FROM names it, in full.
    pub source: String,
    /// `host/repository` that it is mirrored to.
    pub mirror: String,
    /// The tags that are mirrored; absent where they are not known by name.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tags: Option<Vec<String>>,
}

/// A secret of a build.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct SecretFile {
    /// The id that `RUN --mount=type=secret,id=…` names.
    pub id: String,
    /// The file in the pod that holds it, below [`crate::paths::SECRETS`].
    pub path: String,
}

/// A named context: an image in place of a name.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct NamedContext {
    /// The name that is replaced.
    pub name: String,
    /// `host/repository:tag` or `host/repository@sha256:…`.
    pub image: String,
}

/// A place that the image is pushed to.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Destination {
    /// The name of the destination in the resource.
    pub name: String,
    /// `host/repository`.
    pub repository: String,
    /// Tags, written after every manifest is in place.
    pub tags: Vec<String>,
}

/// How RUN is isolated (`docs/isolation.md`).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Isolation {
    /// RUN in a user namespace of its own, nested in the pod's.
    UserNamespace,
    /// RUN is refused; everything else works without any privilege.
    NoRun,
}

/// An index of images that are at every destination already.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct JoinRequest {
    /// The images, in the order of the index.
    pub images: Vec<PlatformImage>,
    /// Where they are and the index goes; the index goes everywhere by digest before any tag is written.
    pub destinations: Vec<Destination>,
}

/// A copy of images.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct MirrorRequest {
    /// The images, in order.
    pub images: Vec<MirrorImage>,
    /// `host/repository` that keeps what earlier syncs learned of the destination's blobs; none is read or written where
    /// absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ledger: Option<String>,
    /// The report of what this mirror wrote; none is kept where absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub report: Option<ReportRequest>,
    /// What the copy keeps to.
    #[serde(default, skip_serializing_if = "MirrorLimits::is_none")]
    pub limits: MirrorLimits,
    /// Whether signatures, attestations and SBOMs are copied with the images.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub referrers: bool,
    /// Keys of which one must have signed each image before anything of it is published; none need to where absent. With
    /// an empty list, nothing is published.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub verify: Option<Vec<VerifyKey>>,
    /// What is deleted when every image was copied; nothing where absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub prune: Option<PruneRequest>,
    /// Whether all that the report names is looked at, and what is missing copied again.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub check: bool,
}

/// What of that which the report names is deleted: what lies below the prefix and is not selected.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct PruneRequest {
    /// Whether it is deleted. Otherwise it is only told.
    pub delete: bool,
    /// Path below which something may be deleted; all of the registry where absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub prefix: Option<String>,
    /// How many of a hundred tags that were written may be deleted. With more, nothing is.
    pub max_percent: u32,
    /// Fingerprints of the tags that are selected, as the crate `mirror` writes them.
    pub selected: String,
}

/// Where a mirror keeps account of what it wrote.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct ReportRequest {
    /// `host/repository` of the reports.
    pub repository: String,
    /// The unique id of the resource, which is the tag of its report as well.
    pub owner: String,
    /// Digest of the report so far, as the status names it; none where absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub previous: Option<String>,
}

/// What a copy keeps to; where a field is absent, the pod decides.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct MirrorLimits {
    /// Images that are worked on, and blobs that are on their way, at the same time.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub concurrency: Option<u32>,
    /// Bytes of blobs a second.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub bytes_per_second: Option<u64>,
}

impl MirrorLimits {
    fn is_none(&self) -> bool {
        *self == Self::default()
    }
}

/// A key that signatures are verified with.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct VerifyKey {
    /// Where it is from, for messages: `secret/key`.
    pub name: String,
    /// The public key, PEM.
    pub pem: String,
}

/// One tag to copy.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct MirrorImage {
    /// `host/repository:tag` or `host/repository@digest` to copy from.
    pub source: String,
    /// The digest that the tag had when the operator looked: what is copied.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub digest: Option<String>,
    /// `host/repository:tag` to copy to.
    pub destination: String,
    /// Whether something is there under that name already, which is to be written again whatever it is. Absent where
    /// nobody looked: then it is left alone if it is equal.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub replaces: Option<bool>,
    /// Which platforms of an index are copied; all, with unchanged bytes, where absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub platforms: Option<MirrorPlatforms>,
}

/// Which platforms of an index are copied.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct MirrorPlatforms {
    /// The platforms, `linux/arm64`.
    pub only: Vec<String>,
    /// Whether the index is written anew without the others. Otherwise it keeps its bytes.
    pub rewrite: bool,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn requests_round_trip_and_other_versions_are_refused() {
        let request = Request::new(Task::Mirror(MirrorRequest::default()));
        let json = request.to_json();
        assert_eq!(
            json,
            r#"{"version":1,"task":{"mirror":{"images":[]}},"network":{}}"#
        );
        assert_eq!(Request::parse(json.as_bytes()).unwrap(), request);
        let error = Request::parse(br#"{"version":2,"task":{"new":{}}}"#).unwrap_err();
        assert!(error.to_string().contains("version 2"), "{error}");
        assert!(Request::parse(b"{}").is_err());
    }

    #[test]
    fn config_map_framing_tells_keys_from_values() {
        let of = |data: &[(&str, &str)]| {
            Source::config_map_digest_input(data.iter().map(|(k, v)| (*k, v.as_bytes())))
        };
        assert_ne!(of(&[("a", "bc")]), of(&[("ab", "c")]));
        assert_ne!(of(&[("a", ""), ("b", "")]), of(&[("a", "b")]));
        assert_eq!(of(&[("b", "1"), ("a", "2")]), of(&[("a", "2"), ("b", "1")]));
    }
}
