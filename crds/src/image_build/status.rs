//! The status of an `ImageBuild`: what was built, from what, and how the last builds went.

use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use kube::KubeSchema;
use serde::{Deserialize, Serialize};

use crate::condition::Condition;

/// What a build is observed to be.
#[derive(Clone, Debug, Default, Deserialize, Eq, KubeSchema, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct ImageBuildStatus {
    /// Generation of the spec that this status was derived from; -1 before the operator saw the object.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub observed_generation: Option<i64>,
    /// Generation of the spec that the image in this status was built from.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub built_generation: Option<i64>,
    /// Ready, Succeeded, UpToDate, Verified, and while they are true Reconciling and Stalled.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 16))]
    #[x_kube(merge_strategy = ListMerge::Map(vec!["type".to_owned()]))]
    pub conditions: Vec<Condition>,
    /// The image at the first destination, by digest: what a Pod should name. Format: host/path@sha256:....
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 512))]
    pub image: Option<String>,
    /// Digest of the image's manifest.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 160))]
    pub digest: Option<String>,
    /// Bytes of the image as it is stored: manifest, configuration and compressed layers.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub size: Option<i64>,
    /// The image of each platform, where the image is an index, at most 8.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 8))]
    #[x_kube(merge_strategy = ListMerge::Map(vec!["platform".to_owned()]))]
    pub platforms: Vec<PlatformStatus>,
    /// What each destination holds.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 4))]
    #[x_kube(merge_strategy = ListMerge::Map(vec!["name".to_owned()]))]
    pub destinations: Vec<DestinationStatus>,
    /// What of the source the image was built from.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub source: Option<SourceStatus>,
    /// Images that the build started from, at most 16.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 16))]
    pub base_images: Vec<BaseImage>,
    /// How RUN was isolated in the last build, and why not otherwise.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub isolation: Option<IsolationStatus>,
    /// The last builds, newest first, at most 10.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 10))]
    pub builds: Vec<Build>,
    /// The attempt that runs, ran last, or comes next.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub attempt: Option<Attempt>,
    /// Value of the annotation reconcile.coopery.dev/requestedAt that was last acted on.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 64))]
    pub last_handled_requested_at: Option<String>,
    /// Value of the annotation reconcile.coopery.dev/forceAt that was last acted on.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 64))]
    pub last_handled_force_at: Option<String>,
}

/// What a destination holds.
#[derive(Clone, Debug, Default, Deserialize, Eq, KubeSchema, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct DestinationStatus {
    /// Name of the destination in the spec.
    #[schemars(length(max = 63))]
    pub name: String,
    /// The image there, by its first tag. Format: host/path:tag.
    #[schemars(length(max = 512))]
    pub image: String,
    /// Digest of the manifest there.
    #[schemars(length(max = 160))]
    pub digest: String,
    /// Whether the operator read the manifest back: True, False or Unknown (the operator cannot reach the host).
    #[schemars(length(max = 16))]
    pub verified: String,
}

/// The image of one platform of an index.
#[derive(Clone, Debug, Default, Deserialize, Eq, KubeSchema, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct PlatformStatus {
    /// The platform, for instance linux/arm64.
    #[schemars(length(max = 32))]
    pub platform: String,
    /// Digest of its manifest.
    #[schemars(length(max = 160))]
    pub digest: String,
    /// Bytes of the image as it is stored: manifest, configuration and compressed layers.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub size: Option<i64>,
}

/// What of the source was built.
#[derive(Clone, Debug, Default, Deserialize, Eq, KubeSchema, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct SourceStatus {
    /// Commit of a git source.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 64))]
    pub commit: Option<String>,
    /// Digest of an oci source.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 160))]
    pub digest: Option<String>,
    /// Branch of a git source.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 244))]
    pub branch: Option<String>,
}

/// An image that a build started from.
#[derive(Clone, Debug, Default, Deserialize, Eq, KubeSchema, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct BaseImage {
    /// The image as the Dockerfile names it.
    #[schemars(length(max = 512))]
    pub reference: String,
    /// Digest that the name had when it was resolved.
    #[schemars(length(max = 160))]
    pub digest: String,
    /// Repository that it was taken from, where that is kept by an ImageMirror. Format: host/path.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 512))]
    pub mirror: Option<String>,
}

/// How RUN was isolated.
#[derive(Clone, Debug, Default, Deserialize, Eq, KubeSchema, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct IsolationStatus {
    /// UserNamespace or NoRun.
    #[schemars(length(max = 32))]
    pub mode: String,
    /// Why this mode, or what a stronger one lacks. Default: none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 512))]
    pub message: Option<String>,
}

/// One build that ran.
#[derive(Clone, Debug, Default, Deserialize, Eq, KubeSchema, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Build {
    /// Name of the build and of its pod.
    #[schemars(length(max = 253))]
    pub name: String,
    /// Why it was started: Spec, Source, Inputs, Forced, Requested, Retry, Schedule or BaseImage (a base changed, or one that was missing appeared).
    #[schemars(length(max = 64))]
    pub reason: String,
    /// When its pod started. Format: RFC 3339.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub start_time: Option<Time>,
    /// When it ended. Format: RFC 3339.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub completion_time: Option<Time>,
    /// Running, Succeeded, Failed or Cancelled.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 64))]
    pub result: Option<String>,
    /// Digest of the image that it made.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 160))]
    pub digest: Option<String>,
    /// Number of steps of the build.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub steps: Option<i32>,
    /// Number of steps whose result came from the cache.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cached_steps: Option<i32>,
    /// The first steps that the cache did not answer, and what of them differs, at most 5. They explain the rest.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 5))]
    pub cache_misses: Vec<CacheMiss>,
    /// Why it failed. At most 512 bytes.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 512))]
    pub message: Option<String>,
}

/// A step that the cache did not answer.
#[derive(Clone, Debug, Default, Deserialize, Eq, KubeSchema, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct CacheMiss {
    /// The instruction with its place, for instance Dockerfile:7: COPY . /src.
    #[schemars(length(max = 128))]
    pub step: String,
    /// Which input differs from the last time.
    #[schemars(length(max = 256))]
    pub reason: String,
}

/// The attempt that runs, ran last, or comes next.
#[derive(Clone, Debug, Default, Deserialize, Eq, KubeSchema, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Attempt {
    /// Hash of what is built: spec, source and force. Attempts of one key are retries of one another.
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
    /// Why this key is built: Spec, Source, Inputs, Forced, Requested, Retry, Schedule or BaseImage (a base changed, or one that was missing appeared).
    #[schemars(length(max = 64))]
    pub reason: String,
    /// Name of the pod, from when it was first seen.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 253))]
    pub pod: Option<String>,
    /// Unique id of the pod, so that a pod of the same name made by somebody else is not taken for it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 64))]
    pub pod_uid: Option<String>,
    /// Generation of the spec that is built.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub generation: Option<i64>,
    /// Commit that is built, of a git source.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 64))]
    pub commit: Option<String>,
    /// Running, Succeeded, Failed, Cancelled; absent before its pod exists.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 64))]
    pub result: Option<String>,
    /// Why the attempt failed, as the condition's reason.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 64))]
    pub failure: Option<String>,
    /// The base image that the attempt failed for want of: the operator starts another attempt when its registry has it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 1024))]
    pub missing_image: Option<String>,
    /// When the next attempt may start. Format: RFC 3339.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub next_time: Option<Time>,
    /// The pods of an attempt that needs one for each platform, by platform, and last the one that joins their images. Empty where one pod does all.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 9))]
    #[x_kube(merge_strategy = ListMerge::Map(vec!["name".to_owned()]))]
    pub parts: Vec<AttemptPart>,
    /// Images that the platforms that are there were built from, at most 16, until all are there.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 16))]
    pub base_images: Vec<BaseImage>,
}

/// What one pod does of an attempt that needs one for each platform.
#[derive(Clone, Debug, Default, Deserialize, Eq, KubeSchema, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct AttemptPart {
    /// The platform that it builds, for instance linux/arm64; join for the index.
    #[schemars(length(max = 32))]
    pub name: String,
    /// Name of its pod, the last one where it was retried. Absent where an earlier attempt made it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 253))]
    pub pod: Option<String>,
    /// Unique id of the pod.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 64))]
    pub pod_uid: Option<String>,
    /// Automatic retries before this pod.
    #[serde(default)]
    pub retries: i32,
    /// Running, Succeeded or Failed; absent before its pod exists.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 64))]
    pub result: Option<String>,
    /// Why it failed, as the condition's reason.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 64))]
    pub failure: Option<String>,
    /// The same for people. At most 256 bytes.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 256))]
    pub message: Option<String>,
    /// When it is retried. Format: RFC 3339.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub next_time: Option<Time>,
    /// Digest of the manifest that it made.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 160))]
    pub digest: Option<String>,
    /// Bytes of the image as it is stored: manifest, configuration and compressed layers.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub size: Option<i64>,
    /// Number of steps.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub steps: Option<i32>,
    /// Number of steps whose result came from the cache.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cached_steps: Option<i32>,
}
