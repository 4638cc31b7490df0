//! The contract between the operator and the builder pod: the request that the operator writes, and the outcome that
//! the pod reports. Plain values with a version; no logic beyond reading, writing and bounding them.
//!
//! The request reaches the pod as `request.json` (an annotation, projected as a file), so it never holds a secret:
//! credentials are files whose paths it names. The outcome is the container's termination message, at most
//! [`MAX_OUTCOME_BYTES`]; the operator treats it as a claim and reads manifests back before it believes a digest.

mod outcome;
mod request;

pub use outcome::{
    BaseImage, BuildOutcome, CacheMiss, CheckOutcome, Failure, FailureKind, MAX_MISSES,
    MAX_OUTCOME_BYTES, MAX_PLAN, MirrorOutcome, MirroredImage, Outcome, PlatformImage,
    PruneOutcome, PushedImage, Report, Resolved,
};
pub use request::{
    BuildRequest, CacheRequest, CacheVolume, Destination, DockerfileSpec, GitRevision, Isolation,
    JoinRequest, MirrorImage, MirrorLimits, MirrorPlatforms, MirrorRequest, MirroredRepository,
    NamedContext, Network, PruneRequest, ReportRequest, Request, SecretFile, Source, Task,
    VerifyKey,
};

/// The version of request and outcome. A pod that reads another version refuses the request and says so.
pub const VERSION: u32 = 1;

/// Paths inside the builder pod, which both sides must agree on.
pub mod paths {
    /// The request, projected from the pod's annotation [`super::REQUEST_ANNOTATION`].
    pub const REQUEST: &str = "/run/coopery/request/request.json";
    /// Below it, one directory for each dockerconfigjson Secret, named by its position: `0`, `1`, …
    pub const CREDENTIALS: &str = "/run/coopery/credentials";
    /// The Secret of the source (git or http), its keys as files.
    pub const SOURCE_CREDENTIALS: &str = "/run/coopery/source-credentials";
    /// The ConfigMap of the source, its keys as files, or the claim of the source.
    pub const SOURCE: &str = "/run/coopery/source";
    /// Below it, the files of the build's secrets, one for each, named by its position: `0`, `1`, …
    pub const SECRETS: &str = "/run/coopery/secrets";
    /// The emptyDir that the engine works in.
    pub const WORKSPACE: &str = "/var/lib/coopery";
    /// The claim that keeps the cache: blobs and records, no snapshots.
    pub const CACHE: &str = "/var/cache/coopery";
    /// Where the outcome is written.
    pub const OUTCOME: &str = "/dev/termination-log";
}

/// The annotation of a builder pod that holds the request.
pub const REQUEST_ANNOTATION: &str = "coopery.dev/request";

/// Why a request or an outcome could not be read.
#[derive(Debug, thiserror::Error)]
pub enum ProtocolError {
    /// Not JSON of this shape.
    #[error("the {what} is not valid")]
    Json {
        /// `request` or `outcome`.
        what: &'static str,
        /// What the reader found.
        source: serde_json::Error,
    },
    /// Another version than [`VERSION`].
    #[error(
        "the {what} has version {found}, this program speaks version {VERSION}: operator and builder image must be of the same release"
    )]
    Version {
        /// `request` or `outcome`.
        what: &'static str,
        /// The version found.
        found: u32,
    },
}
