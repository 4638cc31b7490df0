//! What a pod reports when it is done.

use serde::{Deserialize, Serialize};

use crate::{ProtocolError, VERSION};

/// The kubelet keeps this much of a container's termination message, in bytes.
pub const MAX_OUTCOME_BYTES: usize = 4096;

/// A report names at most this many steps that the cache did not answer: the first ones, which explain the rest.
pub const MAX_MISSES: usize = 5;

/// A report names at most this many tags that are to be deleted.
pub const MAX_PLAN: usize = 10;

/// How a task ended.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Outcome {
    /// Always [`VERSION`].
    pub version: u32,
    /// What happened.
    pub report: Report,
}

/// Success or failure of a task.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum Report {
    /// The image was built and pushed.
    Built(BuildOutcome),
    /// The mirror went through all images; some may have failed.
    Mirrored(MirrorOutcome),
    /// The task failed.
    Failed(Failure),
}

impl Outcome {
    /// An outcome of this version.
    pub const fn new(report: Report) -> Self {
        Self {
            version: VERSION,
            report,
        }
    }

    /// The outcome as JSON of at most [`MAX_OUTCOME_BYTES`]; lists and messages are cut where it would be longer.
    #[expect(clippy::missing_panics_doc, reason = "it cannot panic")]
    pub fn to_json(&self) -> String {
        let mut bounded = self.clone();
        loop {
            let json = serde_json::to_string(&bounded).expect("plain values always serialise");
            if json.len() <= MAX_OUTCOME_BYTES || !bounded.report.shrink() {
                return json;
            }
        }
    }

    /// Reads an outcome.
    ///
    /// # Errors
    /// When `json` is no outcome, or is one of another version.
    pub fn parse(json: &[u8]) -> Result<Self, ProtocolError> {
        let what = "outcome";
        check_version(what, json)?;
        serde_json::from_slice(json).map_err(|source| ProtocolError::Json { what, source })
    }
}

impl Report {
    /// Makes the report shorter; false when nothing is left to cut.
    fn shrink(&mut self) -> bool {
        match self {
            Self::Built(built) => built.misses.pop().is_some() || built.base_images.pop().is_some(),
            Self::Mirrored(mirrored) => {
                let plan = mirrored.prune.as_mut().map(|prune| &mut prune.plan);
                mirrored.images.pop().is_some() || plan.is_some_and(|plan| plan.pop().is_some())
            }
            Self::Failed(failure) => failure.shrink(),
        }
    }
}

/// A finished build.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct BuildOutcome {
    /// Digest of the manifest, or of the index where there are several platforms.
    pub digest: String,
    /// Compressed size: manifest, configuration and layers, in bytes; of an index, all its images together.
    pub size: u64,
    /// The platform, `linux/amd64`; of an index, the first one.
    pub platform: String,
    /// The images of an index, in its order; empty where the result is one manifest.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub platforms: Vec<PlatformImage>,
    /// One for each destination, in the order of the request.
    pub destinations: Vec<PushedImage>,
    /// Base images, as named and as resolved.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub base_images: Vec<BaseImage>,
    /// What the source turned out to be.
    #[serde(default)]
    pub source: Resolved,
    /// Steps in the graph that was solved.
    pub steps: u32,
    /// Steps that were answered by the cache.
    pub cached_steps: u32,
    /// The first steps that the cache did not answer although it was asked, at most [`MAX_MISSES`].
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub misses: Vec<CacheMiss>,
    /// How RUN was isolated.
    pub isolation: crate::Isolation,
}

/// The image of one platform of an index.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct PlatformImage {
    /// The platform, `linux/arm64` or `linux/arm/v7`.
    pub platform: String,
    /// Digest of its manifest.
    pub digest: String,
    /// Compressed size: manifest, configuration and layers, in bytes.
    pub size: u64,
}

/// A step that the cache did not answer.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct CacheMiss {
    /// The instruction with its place, `Dockerfile:7: COPY . /src`, at most 128 bytes.
    pub step: String,
    /// Which input differs from the last time, at most 256 bytes.
    pub reason: String,
}

/// An image in its destination.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct PushedImage {
    /// The name of the destination in the resource.
    pub name: String,
    /// `host/repository@sha256:…`
    pub image: String,
}

/// A base image as the Dockerfile names it and as the registry resolved it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct BaseImage {
    /// The full reference.
    pub reference: String,
    /// The digest that it had.
    pub digest: String,
    /// `host/repository` of the mirror that it was taken from.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub mirror: Option<String>,
}

/// What a source turned out to be.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct Resolved {
    /// The git commit that was built.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub commit: Option<String>,
    /// `sha256:…` of the archive or artifact that was built.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub checksum: Option<String>,
}

/// A finished mirror run.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct MirrorOutcome {
    /// Images whose manifests were sent.
    pub copied: u32,
    /// Images that were there already.
    pub unchanged: u32,
    /// Images that could not be copied.
    pub failed: u32,
    /// Blobs that were mounted from another repository of the destination.
    pub mounted_blobs: u32,
    /// Bytes of blobs that were sent.
    pub bytes_copied: u64,
    /// Bytes of blobs that were mounted.
    pub bytes_mounted: u64,
    /// Digest of the report that was written; absent where nothing in it changed or it could not be written.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub report: Option<String>,
    /// What was deleted; absent where that was not asked for, or something had failed before.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub prune: Option<PruneOutcome>,
    /// What was found missing; absent where nobody was asked to look, or not everything was looked at.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub check: Option<CheckOutcome>,
    /// One for each image, in the order of the request, as many as fit.
    pub images: Vec<MirroredImage>,
}

/// What a prune deleted, or would delete.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct PruneOutcome {
    /// Tags that the report says were written.
    pub written: u32,
    /// Tags of those that are to be deleted.
    pub planned: u32,
    /// Tags that were deleted, or found to be gone or somebody else's.
    pub deleted: u32,
    /// Tags that share their manifest with another one, at a registry that deletes manifests only.
    pub kept: u32,
    /// Tags that could not be deleted.
    pub failed: u32,
    /// The first tags that are to be deleted, `path:tag`, at most [`MAX_PLAN`], as many as fit.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub plan: Vec<String>,
    /// Why the first of those failed, at most 256 bytes.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub failure: Option<String>,
}

/// What a deep check found.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct CheckOutcome {
    /// Tags that were looked at.
    pub tags: u32,
    /// Manifests and blobs of them that were missing.
    pub missing: u32,
    /// Tags to which what was missing was copied again.
    pub repaired: u32,
    /// Tags that could not be looked at or repaired.
    pub failed: u32,
    /// Why the first of those failed, at most 256 bytes.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub failure: Option<String>,
}

/// What became of one image of a mirror run.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct MirroredImage {
    /// Position in the request.
    pub index: u32,
    /// The digest in source and destination, where it was copied or unchanged.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub digest: Option<String>,
    /// Why it failed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub failure: Option<Failure>,
}

/// A failure: what kind, and what people should know.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Failure {
    /// Decides the reason in status, and whether the operator tries again.
    pub kind: FailureKind,
    /// One sentence: what failed, where, and what to do. No secrets, no bodies of foreign servers.
    pub message: String,
    /// The instruction, `Dockerfile:7: RUN make`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub step: Option<String>,
    /// How the step's process ended.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub exit_code: Option<i32>,
    /// The base image that its registry does not have, as a whole reference: host, path, tag or digest. Only where another
    /// attempt can succeed as soon as the registry has it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub image: Option<String>,
    /// Last lines of the step's output, at most 1 KiB.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub output: String,
    /// What was known of the source when it failed.
    #[serde(default)]
    pub source: Resolved,
}

impl Failure {
    /// A failure of `kind` that has nothing but a message.
    pub fn new(kind: FailureKind, message: impl Into<String>) -> Self {
        Self {
            kind,
            message: message.into(),
            step: None,
            exit_code: None,
            image: None,
            output: String::new(),
            source: Resolved::default(),
        }
    }

    fn shrink(&mut self) -> bool {
        fn keep_half(text: &mut String, keep_end: bool) {
            let mut middle = text.len() / 2;
            while !text.is_char_boundary(middle) {
                middle += 1;
            }
            if keep_end {
                text.drain(..middle);
            } else {
                text.truncate(middle);
            }
        }
        if self.output.len() > 256 {
            keep_half(&mut self.output, true);
        } else if self.message.len() > 256 {
            keep_half(&mut self.message, false);
        } else if !self.output.is_empty() {
            self.output.clear();
        } else if self.step.is_some() {
            self.step = None;
        } else {
            return false;
        }
        true
    }
}

/// The kinds of failure. Whether the operator tries again is said by [`FailureKind::is_transient`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum FailureKind {
    /// The request cannot be carried out: an invalid combination, another version.
    InvalidRequest,
    /// The Dockerfile is wrong, or asks for what is not supported.
    Dockerfile,
    /// A file that COPY or ADD names is not in the context or the stage.
    ContextFile,
    /// A RUN step exited with something else than 0.
    StepFailed,
    /// A RUN step was killed because memory ran out.
    OutOfMemory,
    /// The workspace is full.
    OutOfDisk,
    /// A RUN step needs a machine of another architecture than the pod's. Nothing was built: each platform needs a pod on a
    /// node of its own architecture.
    ForeignPlatform,
    /// The isolation that was asked for cannot be had here.
    IsolationUnavailable,
    /// The source does not have the revision, the subdirectory or the file.
    SourceNotFound,
    /// The source refused the credentials.
    SourceUnauthorized,
    /// The source could not be reached, or broke off.
    SourceUnavailable,
    /// The source has other content than was expected (checksum, changed ConfigMap).
    SourceChanged,
    /// The source breaks a rule: a path outside it, a refused protocol, too large.
    SourceRefused,
    /// A base image does not exist, or not for this platform.
    BaseImageNotFound,
    /// A registry refused the credentials for a base image, or there are none for it.
    BaseImageUnauthorized,
    /// A registry refused the credentials for what was sent, or there are none for it.
    RegistryUnauthorized,
    /// A registry could not be reached, answered with a server error, or asked to slow down.
    RegistryUnavailable,
    /// A registry refused what was sent, or served what breaks the specification.
    RegistryRefused,
    /// Content did not have its digest.
    DigestMismatch,
    /// An image has no signature by a key that is trusted, so that it is not published.
    ImageUntrusted,
    /// An address that the network guard does not let through.
    AddressRefused,
    /// The pod was asked to stop.
    Cancelled,
    /// Anything else: a bug, or a broken machine.
    Internal,
}

impl FailureKind {
    /// Whether trying the same again may help: failures of machines, networks and registries, not of what people wrote.
    pub const fn is_transient(self) -> bool {
        match self {
            Self::SourceUnavailable
            | Self::SourceChanged
            | Self::RegistryUnavailable
            | Self::DigestMismatch
            | Self::Cancelled
            | Self::Internal => true,
            Self::InvalidRequest
            | Self::Dockerfile
            | Self::ContextFile
            | Self::StepFailed
            | Self::OutOfMemory
            | Self::OutOfDisk
            | Self::ForeignPlatform
            | Self::IsolationUnavailable
            | Self::SourceNotFound
            | Self::SourceUnauthorized
            | Self::SourceRefused
            | Self::BaseImageNotFound
            | Self::BaseImageUnauthorized
            | Self::RegistryUnauthorized
            | Self::RegistryRefused
            | Self::ImageUntrusted
            | Self::AddressRefused => false,
        }
    }
}

/// Looks at the version before the rest, so that a newer document is refused by its version and not by a detail.
pub(crate) fn check_version(what: &'static str, json: &[u8]) -> Result<(), ProtocolError> {
    #[derive(Deserialize)]
    struct Probe {
        version: u32,
    }
    let probe: Probe =
        serde_json::from_slice(json).map_err(|source| ProtocolError::Json { what, source })?;
    if probe.version == VERSION {
        Ok(())
    } else {
        Err(ProtocolError::Version {
            what,
            found: probe.version,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_long_failure_is_cut_and_stays_readable() {
        let mut failure = Failure::new(FailureKind::StepFailed, "é".repeat(4000));
        failure.output = format!("{}last line", "ü\n".repeat(4000));
        failure.step = Some("Dockerfile:7: RUN make".into());
        let json = Outcome::new(Report::Failed(failure)).to_json();
        assert!(json.len() <= MAX_OUTCOME_BYTES, "{}", json.len());
        let Report::Failed(read) = Outcome::parse(json.as_bytes()).unwrap().report else {
            panic!("not a failure")
        };
        assert!(read.output.ends_with("last line"));
        assert_eq!(read.step.as_deref(), Some("Dockerfile:7: RUN make"));
    }

    #[test]
    fn a_missing_image_is_named_and_kept_whatever_is_cut() {
        let mut failure = Failure::new(FailureKind::BaseImageNotFound, "x".repeat(8000));
        failure.image = Some(format!("h.example.com:5000/{}:1", "a".repeat(200)));
        let json = Outcome::new(Report::Failed(failure.clone())).to_json();
        assert!(json.len() <= MAX_OUTCOME_BYTES, "{}", json.len());
        let Report::Failed(read) = Outcome::parse(json.as_bytes()).unwrap().report else {
            panic!("not a failure")
        };
        assert_eq!(read.image, failure.image);
        // An engine that knows of no such member is understood.
        let old =
            br#"{"version":1,"report":{"failed":{"kind":"BaseImageNotFound","message":"m"}}}"#;
        let old = Outcome::parse(old).unwrap();
        assert_eq!(
            old,
            Outcome::new(Report::Failed(Failure::new(
                FailureKind::BaseImageNotFound,
                "m"
            )))
        );
    }

    #[test]
    fn misses_are_cut_before_base_images() {
        let base = BaseImage {
            reference: format!("h.example.com/{}:1", "b".repeat(200)),
            digest: format!("sha256:{}", "a".repeat(64)),
            mirror: Some(format!("h.example.com/{}", "m".repeat(50))),
        };
        let miss = CacheMiss {
            step: "s".repeat(128),
            reason: "r".repeat(256),
        };
        let outcome = BuildOutcome {
            digest: format!("sha256:{}", "a".repeat(64)),
            size: 1,
            platform: "linux/amd64".into(),
            platforms: vec![],
            destinations: vec![],
            base_images: vec![base; 8],
            source: Resolved::default(),
            steps: 5,
            cached_steps: 0,
            misses: vec![miss; MAX_MISSES],
            isolation: crate::Isolation::NoRun,
        };
        let json = Outcome::new(Report::Built(outcome.clone())).to_json();
        assert!(json.len() <= MAX_OUTCOME_BYTES, "{}", json.len());
        let Report::Built(read) = Outcome::parse(json.as_bytes()).unwrap().report else {
            panic!("not a build")
        };
        assert_eq!(read.base_images, outcome.base_images);
        assert!(read.misses.len() < MAX_MISSES);
    }

    #[test]
    fn a_long_list_is_cut() {
        let image = |index| MirroredImage {
            index,
            digest: Some(format!("sha256:{}", "a".repeat(64))),
            failure: None,
        };
        let outcome = MirrorOutcome {
            images: (0..1000).map(image).collect(),
            ..Default::default()
        };
        let json = Outcome::new(Report::Mirrored(outcome)).to_json();
        assert!(json.len() <= MAX_OUTCOME_BYTES && Outcome::parse(json.as_bytes()).is_ok());
        let plan = PruneOutcome {
            plan: vec!["p".repeat(384); MAX_PLAN],
            failure: Some("f".repeat(256)),
            ..PruneOutcome::default()
        };
        let outcome = MirrorOutcome {
            images: (0..1000).map(image).collect(),
            report: Some(format!("sha256:{}", "a".repeat(64))),
            prune: Some(plan),
            check: Some(CheckOutcome {
                failure: Some("f".repeat(256)),
                ..CheckOutcome::default()
            }),
            ..Default::default()
        };
        let json = Outcome::new(Report::Mirrored(outcome)).to_json();
        assert!(json.len() <= MAX_OUTCOME_BYTES);
        let Report::Mirrored(read) = Outcome::parse(json.as_bytes()).unwrap().report else {
            panic!("not a mirror")
        };
        assert!(read.report.is_some() && read.prune.unwrap().plan.len() >= 5);
    }
}
