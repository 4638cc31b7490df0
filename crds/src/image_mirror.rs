//! The kind `ImageMirror`: images of one registry kept in another.

use std::time::Duration;

use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use kube::{CustomResource, KubeSchema};
use serde::{Deserialize, Serialize};

use crate::common::{InvalidDuration, LocalReference, SecretKeyReference, parse_duration};
use crate::condition::Condition;

/// What is to be mirrored, from where to where.
#[derive(
    CustomResource, Clone, Debug, Default, Deserialize, Eq, KubeSchema, PartialEq, Serialize,
)]
#[kube(
    group = "coopery.dev",
    version = "v1alpha1",
    kind = "ImageMirror",
    namespaced,
    status = "ImageMirrorStatus",
    derive = "Default",
    derive = "PartialEq",
    shortname = "im",
    category = "coopery",
    doc = "An ImageMirror keeps images of one registry, byte for byte, in another.",
    printcolumn(name = "Image", type_ = "string", json_path = ".status.images[0].repository", description = "Repository of the image that was synced last"),
    printcolumn(name = "Digest", type_ = "string", json_path = ".status.images[0].digest", description = "Digest of the image that was synced last"),
    printcolumn(name = "Tags", type_ = "integer", json_path = ".status.tags.synced", description = "Number of tags that are equal to the source"),
    printcolumn(name = "Ready", type_ = "string", json_path = ".status.conditions[?(@.type==\"Ready\")].status", description = "Whether all tags are mirrored"),
    printcolumn(name = "Status", type_ = "string", json_path = ".status.conditions[?(@.type==\"Ready\")].reason", description = "Why it is ready or not"),
    printcolumn(name = "Message", type_ = "string", json_path = ".status.conditions[?(@.type==\"Ready\")].message", description = "What is the case and what to do", priority = 1),
    printcolumn(name = "Age", type_ = "date", json_path = ".metadata.creationTimestamp", description = "Time since creation"),
    validation = Rule::new("self.metadata.name.size() <= 52").message("the name of an ImageMirror has at most 52 characters: names and labels of its pods are made from it"),
    validation = Rule::new("!has(self.spec.interval) || !has(self.spec.schedule)").message("set at most one of interval and schedule")
)]
#[serde(rename_all = "camelCase")]
pub struct ImageMirrorSpec {
    /// How often the tags of the source are looked up. Default: 15m, unless there is a schedule. At least 5s. Format: 90s, 5m, 1h30m.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 16))]
    #[x_kube(
        validation = Rule::new("self.matches('^([0-9]{1,5}(h|m|s))+$')").message("interval must be a duration of hours, minutes and seconds, for instance 15m"),
        validation = Rule::new("!self.matches('^([0-9]{1,5}(h|m|s))+$') || duration(self) >= duration('5s')").message("interval must be at least 5s")
    )]
    pub interval: Option<String>,
    /// Times at which the tags of the source are looked up, in place of interval. Default: none. Format: the five fields of cron, in UTC, for instance 0 4 * * 0.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 100))]
    #[x_kube(validation = Rule::new("self.matches('^[0-9A-Za-z*,/#?-]+( +[0-9A-Za-z*,/#?-]+){4}$')")
        .message("schedule must be the five fields of cron: minute, hour, day of month, month, day of week"))]
    pub schedule: Option<String>,
    /// The registry that is mirrored: exactly one of host and registry.
    pub source: MirrorSource,
    /// Where the images are kept: exactly one of registry and host. Immutable but for the Secret.
    #[x_kube(validation = Rule::new("has(self.registry) == has(oldSelf.registry) && (!has(self.registry) || self.registry == oldSelf.registry) && has(self.host) == has(oldSelf.host) && (!has(self.host) || self.host == oldSelf.host) && has(self.prefix) == has(oldSelf.prefix) && (!has(self.prefix) || self.prefix == oldSelf.prefix)")
        .message("destination is immutable but for secretRef: create another ImageMirror"))]
    pub destination: MirrorDestination,
    /// What is mirrored, 1 to 100, by name; one repository may occur twice.
    #[schemars(length(min = 1, max = 100))]
    #[x_kube(merge_strategy = ListMerge::Map(vec!["name".to_owned()]))]
    pub images: Vec<MirrorImage>,
    /// What syncs keep to. Default: no limits but the pod's own.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub limits: Option<MirrorLimits>,
    /// What refers to the images: signatures, attestations, SBOMs.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub referrers: Option<MirrorReferrers>,
    /// Publishes only images that one of these keys has signed. Default: images are not verified.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub verify: Option<MirrorVerify>,
    /// What becomes of tags at the destination that this mirror wrote and that are not selected any more. Default: they stay.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub prune: Option<PrunePolicy>,
    /// Whether all manifests and layers of what was mirrored are looked at from time to time, and what is missing copied again. Default: no.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub check: Option<CheckPolicy>,
    /// Starts no new sync while true; a running one goes on. Default: false.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub suspend: Option<bool>,
}

/// The registry that is mirrored.
#[derive(Clone, Debug, Default, Deserialize, Eq, KubeSchema, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
#[x_kube(
    validation = Rule::new("has(self.host) != has(self.registry)").message("source needs exactly one of host and registry"),
    validation = Rule::new("!has(self.secretRef) || has(self.host)").message("source.secretRef goes with host: the credentials of a Registry are used by themselves")
)]
pub struct MirrorSource {
    /// Name of a registry. Format: host or host:port, for instance docker.io.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 253))]
    #[x_kube(validation = Rule::new("self.matches('^[A-Za-z0-9]([A-Za-z0-9.-]*[A-Za-z0-9])?(:[0-9]{1,5})?$')")
        .message("host must be the name of a registry, for instance docker.io or registry.example.com:5000, without scheme and path"))]
    pub host: Option<String>,
    /// Secret of type kubernetes.io/dockerconfigjson with which is pulled from the host. Default: none, without credentials.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub secret_ref: Option<LocalReference>,
    /// A Registry of the same namespace.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub registry: Option<LocalReference>,
}

/// What refers to the images: signatures, attestations, SBOMs.
#[derive(Clone, Debug, Default, Deserialize, Eq, KubeSchema, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct MirrorReferrers {
    /// Whether they are copied with each image, before its tag is written. Default: true where verify is set, else false.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub copy: Option<bool>,
}

/// Which images are trusted.
#[derive(Clone, Debug, Default, Deserialize, Eq, KubeSchema, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct MirrorVerify {
    /// Public keys as cosign makes them, 1 to 8, of which any will do. What cannot be verified is not published.
    #[schemars(length(min = 1, max = 8))]
    pub keys: Vec<MirrorVerifyKey>,
}

/// A key that signatures are verified with.
#[derive(Clone, Debug, Default, Deserialize, Eq, KubeSchema, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct MirrorVerifyKey {
    /// Secret with the public key, PEM.
    pub secret_ref: SecretKeyReference,
}

/// Where mirrored images are kept.
#[derive(Clone, Debug, Default, Deserialize, Eq, KubeSchema, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
#[x_kube(
    validation = Rule::new("has(self.host) != has(self.registry)").message("destination needs exactly one of registry and host"),
    validation = Rule::new("!has(self.secretRef) || has(self.host)").message("destination.secretRef goes with host: the credentials of a Registry are used by themselves")
)]
pub struct MirrorDestination {
    /// A Registry of the same namespace.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub registry: Option<LocalReference>,
    /// Name of a registry. Format: host or host:port, for instance registry.example.com.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 253))]
    #[x_kube(validation = Rule::new("self.matches('^[A-Za-z0-9]([A-Za-z0-9.-]*[A-Za-z0-9])?(:[0-9]{1,5})?$')")
        .message("host must be the name of a registry, for instance docker.io or registry.example.com:5000, without scheme and path"))]
    pub host: Option<String>,
    /// Secret of type kubernetes.io/dockerconfigjson with which is pushed to the host. It alone may be changed. Default: none, without credentials.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub secret_ref: Option<LocalReference>,
    /// Path below which the repositories are kept. Default: none. Format: lower case path components, for instance mirror/docker.io.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 100))]
    #[x_kube(validation = Rule::new("self.matches('^[a-z0-9]+((\\\\.|_|__|-+)[a-z0-9]+)*(/[a-z0-9]+((\\\\.|_|__|-+)[a-z0-9]+)*)*$')")
        .message("prefix must be lower case path components, for instance mirror/docker.io, without a '/' at its ends"))]
    pub prefix: Option<String>,
}

/// One repository and which of its tags are mirrored.
#[derive(Clone, Debug, Default, Deserialize, Eq, KubeSchema, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
#[x_kube(validation = Rule::new("has(self.tags) || (has(self.digests) && self.digests.size() > 0)").message("an image needs tags or digests"))]
pub struct MirrorImage {
    /// Name of the entry in this resource.
    #[schemars(length(min = 1, max = 63))]
    pub name: String,
    /// Repository of the source. Format: lower case path components, for instance library/nginx.
    #[schemars(length(min = 1, max = 200))]
    #[x_kube(validation = Rule::new("self.matches('^[a-z0-9]+((\\\\.|_|__|-+)[a-z0-9]+)*(/[a-z0-9]+((\\\\.|_|__|-+)[a-z0-9]+)*)*$')")
        .message("repository must be lower case path components, for instance library/nginx, without host, tag and digest"))]
    pub repository: String,
    /// Which tags are mirrored. Required unless digests are named.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tags: Option<TagSelection>,
    /// Manifests that are mirrored by digest, at most 100: each gets the tag sha256-<first 12 digits>. Format: sha256:<64 hexadecimal digits>.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 100), inner(length(max = 71)))]
    #[x_kube(
        merge_strategy = ListMerge::Set,
        validation = Rule::new("self.all(d, d.matches('^sha256:[a-f0-9]{64}$'))").message("a digest is sha256: and 64 hexadecimal digits")
    )]
    pub digests: Vec<String>,
    /// Which platforms of an index are mirrored. Default: the whole index, bytes unchanged.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub platforms: Option<PlatformSelection>,
    /// Repository below the destination's prefix. Default: the repository of the source.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 150))]
    #[x_kube(validation = Rule::new("self.matches('^[a-z0-9]+((\\\\.|_|__|-+)[a-z0-9]+)*(/[a-z0-9]+((\\\\.|_|__|-+)[a-z0-9]+)*)*$')")
        .message("destination must be lower case path components, for instance nginx, without host, tag and digest"))]
    pub destination: Option<String>,
}

/// Which tags of a repository are mirrored: names, and those listed that are within semver and match regex; less what is
/// excluded; of those listed, the newest.
#[derive(Clone, Debug, Default, Deserialize, Eq, KubeSchema, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
#[x_kube(
    validation = Rule::new("(has(self.names) && self.names.size() > 0) || has(self.semver) || has(self.regex) || (has(self.all) && self.all)")
        .message("tags selects nothing: set names, semver, regex or all"),
    validation = Rule::new("!(has(self.all) && self.all) || !((has(self.names) && self.names.size() > 0) || has(self.semver) || has(self.regex))")
        .message("all goes with neither names, semver nor regex")
)]
pub struct TagSelection {
    /// Tags by name, at most 100, mirrored whatever the other fields say.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 100), inner(length(min = 1, max = 128)))]
    #[x_kube(
        merge_strategy = ListMerge::Set,
        validation = Rule::new("self.all(t, t.matches('^[A-Za-z0-9_][A-Za-z0-9_.-]*$'))")
            .message("a tag has letters, digits, '_', '.' and '-', and does not begin with '.' or '-'")
    )]
    pub names: Vec<String>,
    /// Versions that are mirrored. A tag with a suffix (1.27-alpine) is a pre-release and left out, unless the range names one or regex is set, which then says what suffixes are wanted. Format: comparators that must all hold, alternatives divided by ||, for instance >=1.25 <2.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 256))]
    pub semver: Option<String>,
    /// Pattern that a tag must match somewhere; ^ and $ bind it to the ends. Format: RE2.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 256))]
    pub regex: Option<String>,
    /// All tags of the repository. Default: false.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub all: Option<bool>,
    /// Pattern of tags that are left out, matched as regex is; names are never left out.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 256))]
    pub exclude: Option<String>,
    /// How many of the tags that are listed are mirrored, the newest by version or, where they are no versions, by the numbers in their names. Names do not count. Default: all.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1, max = 10000))]
    pub newest: Option<i32>,
}

/// Which platforms of an index are mirrored.
#[derive(Clone, Debug, Default, Deserialize, Eq, KubeSchema, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct PlatformSelection {
    /// Platforms, 1 to 16; attestations go with their images. Format: os/architecture or os/architecture/variant.
    #[schemars(length(min = 1, max = 16), inner(length(max = 64)))]
    #[x_kube(
        merge_strategy = ListMerge::Set,
        validation = Rule::new("self.all(p, p.matches('^[A-Za-z0-9_.-]+/[A-Za-z0-9_.-]+(/[A-Za-z0-9_.-]+)?$'))")
            .message("a platform is os/architecture or os/architecture/variant, for instance linux/arm64")
    )]
    pub only: Vec<String>,
    /// What becomes of the index. Sparse: it stays as it is and names images that the destination lacks, which not every registry takes. Rewrite: it is written anew without the others, and has another digest than at the source.
    #[schemars(length(max = 16))]
    #[x_kube(validation = Rule::new("self in ['Sparse', 'Rewrite']").message("index must be Sparse or Rewrite"))]
    pub index: String,
}

/// What a sync keeps to.
#[derive(Clone, Debug, Default, Deserialize, Eq, KubeSchema, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct MirrorLimits {
    /// Images that are worked on, and blobs that are on their way, at the same time. Default: 4 images, 6 blobs.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1, max = 16))]
    pub concurrency: Option<i32>,
    /// Bytes of layers a second: what is read of the source is written to the destination at the same time, and counted once. Default: no limit. At least 64Ki. Format: a quantity, for instance 50Mi.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 32))]
    #[x_kube(validation = Rule::new("isQuantity(self) && quantity(self).compareTo(quantity('64Ki')) >= 0")
        .message("bytesPerSecond must be a quantity of at least 64Ki, for instance 50Mi"))]
    pub bytes_per_second: Option<String>,
}

/// What becomes of tags at the destination that are not selected any more.
#[derive(Clone, Debug, Default, Deserialize, Eq, KubeSchema, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct PrunePolicy {
    /// None: they stay. Plan: they stay, and status.prunePlan lists them. Delete: they are deleted. Default: None.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 16))]
    #[x_kube(validation = Rule::new("self in ['None', 'Plan', 'Delete']").message("mode must be None, Plan or Delete"))]
    pub mode: Option<String>,
    /// How many of a hundred tags that were written may be deleted at once; were it more, none is. Default: 10.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 0, max = 100))]
    pub max_percent: Option<i32>,
}

/// When everything that was mirrored is looked at.
#[derive(Clone, Debug, Default, Deserialize, Eq, KubeSchema, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct CheckPolicy {
    /// How often, after the last check or else the first sync. At least 1m. Format: 90s, 5m, 24h.
    #[schemars(length(max = 16))]
    #[x_kube(
        validation = Rule::new("self.matches('^([0-9]{1,5}(h|m|s))+$')").message("interval must be a duration of hours, minutes and seconds, for instance 24h"),
        validation = Rule::new("!self.matches('^([0-9]{1,5}(h|m|s))+$') || duration(self) >= duration('1m')").message("interval must be at least 1m")
    )]
    pub interval: String,
}

impl PrunePolicy {
    /// How many of a hundred tags that were written may be deleted at once. Default: ten.
    pub fn max_percent(&self) -> u32 {
        u32::try_from(self.max_percent.unwrap_or(10)).unwrap_or(0)
    }
}

impl CheckPolicy {
    /// How often.
    ///
    /// # Errors
    /// When that is no duration.
    pub fn interval(&self) -> Result<Duration, InvalidDuration> {
        parse_duration(&self.interval)
    }
}

impl ImageMirrorSpec {
    /// How often the source is looked at. Default: fifteen minutes.
    pub fn interval(&self) -> Result<Duration, InvalidDuration> {
        self.interval
            .as_deref()
            .map_or(Ok(Duration::from_secs(900)), parse_duration)
    }

    /// Whether what refers to the images is copied with them.
    pub fn copies_referrers(&self) -> bool {
        let wish = self.referrers.as_ref().and_then(|wish| wish.copy);
        wish.unwrap_or(self.verify.is_some())
    }

    /// Whether no new sync is started.
    pub fn suspended(&self) -> bool {
        self.suspend.unwrap_or(false)
    }
}

impl ImageMirror {
    /// Whether the mirror reads or writes the Registry `name` of its namespace.
    pub fn names_registry(&self, name: &str) -> bool {
        let sides = [&self.spec.source.registry, &self.spec.destination.registry];
        sides.into_iter().flatten().any(|side| side.name == name)
    }
}

impl MirrorDestination {
    /// Repository of the destination that `image` is mirrored to.
    pub fn repository(&self, image: &MirrorImage) -> String {
        let path = image.destination.as_deref().unwrap_or(&image.repository);
        match &self.prefix {
            Some(prefix) => format!("{prefix}/{path}"),
            None => path.to_owned(),
        }
    }
}

/// What a mirror is observed to be.
#[derive(Clone, Debug, Default, Deserialize, Eq, KubeSchema, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct ImageMirrorStatus {
    /// Generation of the spec that this status was derived from; -1 before the operator saw the object.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub observed_generation: Option<i64>,
    /// Ready, and while they are true Reconciling and Stalled.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 16))]
    #[x_kube(merge_strategy = ListMerge::Map(vec!["type".to_owned()]))]
    pub conditions: Vec<Condition>,
    /// The last sync in which something was copied or failed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub last_sync: Option<LastSync>,
    /// When the source is looked at again: the next time of the schedule, or an interval after the last sync. Format: RFC 3339.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub next_sync: Option<Time>,
    /// Counts of tags.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tags: Option<TagCounts>,
    /// Images that were synced last, newest first, at most 15.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 15))]
    pub images: Vec<SyncedImage>,
    /// What failed in the last sync, at most 10, at most 256 bytes each.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 10), inner(length(max = 256)))]
    pub failures: Vec<String>,
    /// The report of all that this mirror wrote, an artifact at the destination. Format: host/repository@digest.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 512))]
    pub report: Option<String>,
    /// Tags that the last prune is to delete, at most 10; status.lastPrune counts all of them. Format: path:tag.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 10), inner(length(max = 400)))]
    pub prune_plan: Vec<String>,
    /// The last time that was looked for tags to delete.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub last_prune: Option<LastPrune>,
    /// The last time that everything was looked at.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub last_check: Option<LastCheck>,
    /// The sync that runs, ran last, or comes next.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub attempt: Option<SyncAttempt>,
    /// Value of the annotation reconcile.coopery.dev/requestedAt that was last acted on.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 64))]
    pub last_handled_requested_at: Option<String>,
    /// Value of the annotation reconcile.coopery.dev/forceAt that was last acted on.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 64))]
    pub last_handled_force_at: Option<String>,
}

/// What a sync did.
#[derive(Clone, Debug, Default, Deserialize, Eq, KubeSchema, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct LastSync {
    /// When it started. Format: RFC 3339.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub start_time: Option<Time>,
    /// When it ended. Format: RFC 3339.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub completion_time: Option<Time>,
    /// Number of tags that were written.
    pub copied: i32,
    /// Number of blobs that were mounted from another repository of the destination.
    pub mounted: i32,
    /// Number of tags that were equal already.
    pub unchanged: i32,
    /// Number of tags that could not be mirrored.
    pub failed: i32,
    /// Bytes that were transferred.
    pub bytes_copied: i64,
    /// Bytes of blobs that were mounted.
    #[serde(default)]
    pub bytes_mounted: i64,
}

/// What a prune did.
#[derive(Clone, Debug, Default, Deserialize, Eq, KubeSchema, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct LastPrune {
    /// When. Format: RFC 3339.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub time: Option<Time>,
    /// Hash of the selection and of prune, for which this is known; absent where it is to be tried again.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 64))]
    pub key: Option<String>,
    /// Tags that the report said were written.
    pub written: i32,
    /// Tags of those that were not selected any more.
    pub planned: i32,
    /// Tags that were deleted, or were gone already.
    pub deleted: i32,
    /// Tags that stay because another tag has the same image, at a registry that deletes images only.
    pub kept: i32,
    /// Tags that could not be deleted.
    pub failed: i32,
    /// Why the first of those could not.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 256))]
    pub message: Option<String>,
}

/// What a deep check found.
#[derive(Clone, Debug, Default, Deserialize, Eq, KubeSchema, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct LastCheck {
    /// When it ended. Format: RFC 3339.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub time: Option<Time>,
    /// Tags that were looked at.
    pub tags: i32,
    /// Manifests and blobs of them that were missing.
    pub missing: i32,
    /// Tags to which what was missing was copied again.
    pub repaired: i32,
    /// Tags that could not be looked at or repaired.
    pub failed: i32,
    /// Why the first of those could not.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 256))]
    pub message: Option<String>,
}

/// Counts of tags.
#[derive(Clone, Debug, Default, Deserialize, Eq, KubeSchema, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct TagCounts {
    /// Tags that the spec selects.
    pub selected: i32,
    /// Tags that are equal to the source.
    pub synced: i32,
    /// Tags that could not be mirrored.
    pub failed: i32,
}

/// An image that was synced.
#[derive(Clone, Debug, Default, Deserialize, Eq, KubeSchema, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct SyncedImage {
    /// Repository of the destination. Format: host/path.
    #[schemars(length(max = 512))]
    pub repository: String,
    /// Its tag.
    #[schemars(length(max = 128))]
    pub tag: String,
    /// Digest of its manifest or index.
    #[schemars(length(max = 160))]
    pub digest: String,
    /// Digest at the source, where the index was written anew and so has another.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 160))]
    pub source_digest: Option<String>,
    /// When it was written. Format: RFC 3339.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub synced_at: Option<Time>,
}

/// The sync that runs, ran last, or comes next.
#[derive(Clone, Debug, Default, Deserialize, Eq, KubeSchema, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct SyncAttempt {
    /// Hash of what is synced: spec, digests of the source and force.
    #[schemars(length(max = 128))]
    pub key: String,
    /// Number of the attempt, from 0.
    pub number: i32,
    /// Automatic retries before this attempt, since somebody last asked for one.
    #[serde(default)]
    pub retries: i32,
    /// Hash of the versions of Secrets and of the isolation: an attempt that failed by them is made again when it changes.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 64))]
    pub environment: Option<String>,
    /// Name of the pod, from when it was first seen.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 253))]
    pub pod: Option<String>,
    /// Unique id of the pod, so that a pod of the same name made by somebody else is not taken for it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 64))]
    pub pod_uid: Option<String>,
    /// Running, Succeeded or Failed; absent before its pod exists.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 64))]
    pub result: Option<String>,
    /// Why the attempt failed, as the condition's reason.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 64))]
    pub failure: Option<String>,
    /// When the next attempt may start. Format: RFC 3339.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub next_time: Option<Time>,
}
