//! What a decision about an ImageBuild depends on besides the resource: values that `observe` reads and `plan` decides on.

use std::collections::BTreeMap;
use std::time::Duration;

use crds::image_build::{ImageBuildStatus, Isolation as Wanted};
use jiff::Timestamp;
use oci::RegistryHost;
use protocol::Isolation;

use super::key::spec_part;
use super::mirrored::Mirrored;
use super::split::{self, Made};
use super::validate::{ValidatedBuild, Violation, registry_secret};
use crate::builder_pod::identity::hash_hex;
use crate::builder_pod::{BuilderSettings, Ended, PodState, PodView};
use crate::git::GitError;
use crate::reason::Reason;

/// Everything outside of the resource that a decision depends on.
#[derive(Clone, Debug)]
pub struct Observed {
    /// The time.
    pub now: Timestamp,
    /// The spec as it was read, or what is wrong with it.
    pub spec: Result<ValidatedBuild, Violation>,
    /// Whether the namespace enforces Pod Security restricted.
    pub restricted: bool,
    /// Secrets that the spec names.
    pub secrets: BTreeMap<String, SecretState>,
    /// Registries that the spec names.
    pub registries: BTreeMap<String, RegistryState>,
    /// Hosts of all Registries of the namespace, which are reached by plain HTTP.
    pub plain_http: Vec<String>,
    /// Hosts of all Registries of the namespace, whether they serve or not.
    pub registry_hosts: Vec<String>,
    /// What mirrors of the namespace keep, where the build may read it from there.
    pub mirrored: Mirrored,
    /// Whether the base image that the last attempt failed for want of is there, where that was to be looked at.
    pub base: Option<BaseLook>,
    /// What the source is at present.
    pub source: SourceState,
    /// The claims that the spec names, and whether they exist.
    pub claims: BTreeMap<String, bool>,
    /// The pod of another build that has the claim of the cache.
    pub cache_holder: Option<String>,
    /// What the inputs are at present, by their names.
    pub inputs: BTreeMap<String, InputState>,
    /// What the base images of the last image are at present, where that was to be looked at.
    pub bases: Vec<BaseNow>,
    /// Certificates (PEM) with which the Secret of the source vouches for its server.
    pub source_ca: Option<String>,
    /// When the source or the base images are to be looked at again.
    pub look_again: Option<Duration>,
    /// Own pods that do all of an attempt, the oldest first.
    pub pods: Vec<PodView>,
    /// Own pods that do a part of one, the oldest first.
    pub parts: Vec<PodView>,
    /// Images of platforms that the attempt that is about to be parted keeps of earlier ones.
    pub kept: Vec<Made>,
    /// What the destinations hold, where that was to be looked at.
    pub read_back: Option<ReadBack>,
    /// A name that the next pod needs and that somebody else's pod has.
    pub taken: Option<String>,
    /// What the operator's settings say of builder pods.
    pub builder: BuilderSettings,
}

/// A Secret that the spec names.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum SecretState {
    /// It is not there.
    Missing,
    /// It is there, without a key that is needed.
    Lacks(String),
    /// It is there.
    Present {
        /// Changes when the Secret does.
        version: String,
    },
}

/// A Registry that the spec names.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum RegistryState {
    /// It is not there.
    Missing,
    /// It does not serve yet.
    NotReady {
        /// What its Ready condition says.
        message: String,
    },
    /// It serves.
    Ready {
        /// The name of the registry in images.
        host: RegistryHost,
    },
}

/// What a source is at present.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum SourceState {
    /// There is nothing to look at: no source, an archive, or a spec that cannot be read.
    Fixed,
    /// The commit of a git source, or why there is none.
    Git(Result<String, GitError>),
    /// The digest of an artifact or image, or why there is none.
    Oci(Result<String, SourceFailure>),
    /// A Secret of the source is missing, so that nothing could be looked up.
    NotLookedUp,
    /// The digest of a ConfigMap, none when it is missing.
    ConfigMap(Option<String>),
}

/// Why it is not known what a source in a registry is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SourceFailure {
    /// The reason in conditions.
    pub reason: Reason,
    /// What happened, for people.
    pub message: String,
    /// Whether it may pass by itself.
    pub transient: bool,
}

/// What an input is at present.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum InputState {
    /// There is no such ImageBuild.
    Missing,
    /// Its image is not there, or not of its present spec.
    NotReady {
        /// What its Ready condition says.
        message: String,
    },
    /// It is there.
    Ready {
        /// The value of the build argument.
        value: String,
    },
}

/// What a base image of the last build is at present.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct BaseNow {
    /// The image as the Dockerfile names it.
    pub reference: String,
    /// The digest that its name stands for now; none when that could not be found out.
    pub digest: Option<String>,
}

/// Whether a base image that was missing is there now.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum BaseLook {
    /// Its registry has it.
    There,
    /// Its registry does not have it.
    Absent,
    /// The operator could not find out; why, for people.
    Unknown(String),
}

/// What the destinations hold, by their names.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ReadBack {
    /// The digest that was looked for.
    pub digest: String,
    /// The name of each destination, and what was found there.
    pub destinations: Vec<(String, Verification)>,
}

/// What was found at one destination.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Verification {
    /// The manifest of the digest, under every tag.
    Same,
    /// Something else; what, for people.
    Differs(String),
    /// It could not be looked at; why, for people.
    Unknown(String),
}

/// What of a build is to be read back.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ToVerify {
    /// The digest that every destination is to hold.
    pub digest: String,
    /// The digests of the images of an index, which every destination is to hold too.
    pub images: Vec<String>,
    /// The commit whose tags were written.
    pub commit: Option<String>,
    /// The destinations, by name; all when empty.
    pub only: Vec<String>,
}

/// What is to be read back from the destinations now: of a pod that says it succeeded and was not believed yet, or of
/// destinations that could not be reached the last time.
pub fn to_verify(
    status: &ImageBuildStatus,
    observed: &Observed,
    spec_hash: &str,
) -> Option<ToVerify> {
    let split = status.attempt.as_ref().filter(|attempt| {
        !attempt.parts.is_empty() && attempt.result.as_deref() == Some("Running")
    });
    if let Some(attempt) = split {
        let built = split::outcome(attempt, &observed.parts)?;
        return (spec_part(&attempt.key) == spec_hash).then(|| ToVerify {
            digest: built.digest,
            images: built.platforms.into_iter().map(|p| p.digest).collect(),
            commit: attempt.commit.clone(),
            only: Vec::new(),
        });
    }
    let current = current_pod(status, &observed.pods);
    if let Some(view) = current {
        let recorded = status.attempt.as_ref().is_some_and(|attempt| {
            attempt.pod_uid.as_deref() == Some(&view.pod.identity.uid)
                && attempt
                    .result
                    .as_deref()
                    .is_some_and(|result| result != "Running")
        });
        if !recorded {
            let built = view.built()?;
            return (spec_part(&view.pod.attempt.key) == spec_hash).then(|| ToVerify {
                digest: built.digest,
                images: built.platforms.into_iter().map(|p| p.digest).collect(),
                commit: view.pod.attempt.commit.clone(),
                only: Vec::new(),
            });
        }
    }
    let attempt = status.attempt.as_ref()?;
    let unknown: Vec<String> = status
        .destinations
        .iter()
        .filter(|destination| destination.verified == "Unknown")
        .map(|destination| destination.name.clone())
        .collect();
    let same_spec =
        attempt.result.as_deref() == Some("Succeeded") && spec_part(&attempt.key) == spec_hash;
    (same_spec && !unknown.is_empty()).then(|| ToVerify {
        digest: status.digest.clone().unwrap_or_default(),
        images: status.platforms.iter().map(|p| p.digest.clone()).collect(),
        commit: attempt.commit.clone(),
        only: unknown,
    })
}

/// The base image for want of which the present attempt at the spec of `spec_hash` has failed, and the pod's uid. From
/// the pod where the status does not know yet how it ended.
pub fn missing_base(
    status: &ImageBuildStatus,
    pods: &[PodView],
    spec_hash: &str,
) -> Option<(String, String)> {
    let attempt = status.attempt.as_ref();
    let view = current_pod(status, pods);
    let known = attempt.and_then(|attempt| attempt.pod_uid.as_deref());
    let (key, image, uid) = match (view, attempt) {
        (Some(view), attempt)
            if known != Some(view.pod.identity.uid.as_str())
                || attempt.is_none_or(|a| a.result.as_deref() == Some("Running")) =>
        {
            let PodState::Ended(Ended::Failed(failure)) = view.state() else {
                return None;
            };
            let uid = view.pod.identity.uid.clone();
            (view.pod.attempt.key.clone(), failure.missing_image?, uid)
        }
        (_, Some(attempt)) if attempt.result.as_deref() == Some("Failed") => (
            attempt.key.clone(),
            attempt.missing_image.clone()?,
            attempt.pod_uid.clone().unwrap_or_default(),
        ),
        _ => return None,
    };
    (spec_part(&key) == spec_hash).then_some((image, uid))
}

/// The pod of the present attempt: the newest that the status does not know yet (a crash came between its creation and
/// the status), else the one that the status names. A pod that is older than the last recorded build is not new: its
/// record has left the list.
pub fn current_pod<'a>(status: &ImageBuildStatus, pods: &'a [PodView]) -> Option<&'a PodView> {
    let known = status
        .attempt
        .as_ref()
        .and_then(|attempt| attempt.pod_uid.as_deref());
    let last = status
        .builds
        .first()
        .and_then(|build| build.start_time.as_ref())
        .map(|time| time.0);
    pods.iter()
        .rev()
        .find(|view| {
            let identity = &view.pod.identity;
            known != Some(identity.uid.as_str())
                && last.is_none_or(|last| view.pod.created >= last)
                && !status
                    .builds
                    .iter()
                    .any(|build| build.name == identity.name)
        })
        .or_else(|| {
            pods.iter()
                .find(|view| known == Some(view.pod.identity.uid.as_str()))
        })
}

impl Observed {
    /// How RUN is isolated, and why so where the spec leaves it open.
    pub fn isolation(&self, wanted: Wanted) -> (Isolation, Option<&'static str>) {
        match wanted {
            Wanted::NoRun => (Isolation::NoRun, None),
            Wanted::Auto if self.restricted => (
                Isolation::NoRun,
                Some("the namespace enforces Pod Security restricted, which allows no RUN"),
            ),
            Wanted::Auto | Wanted::UserNamespace => (Isolation::UserNamespace, None),
        }
    }

    /// A hash of what a failed attempt may have failed by without any change of spec or source: Secrets, isolation.
    pub fn environment(&self, isolation: Isolation) -> String {
        let mut parts = vec![crate::builder_pod::shape::isolation_word(isolation)];
        for (name, state) in &self.secrets {
            parts.push(name);
            if let SecretState::Present { version } = state {
                parts.push(version);
            }
        }
        hash_hex(&parts, 16)
    }

    /// Names of Secrets of type kubernetes.io/dockerconfigjson that a pod gets, in the order in which credentials are
    /// looked for: those of Registries that are only read because they keep mirrors come last.
    pub fn registry_secrets(&self, spec: &ValidatedBuild) -> Vec<String> {
        let mut names = spec.registry_secrets();
        for registry in &self.mirrored.registries {
            let name = registry_secret(registry);
            let is_lacking = matches!(
                self.secrets.get(&name),
                Some(SecretState::Missing | SecretState::Lacks(_))
            );
            if !is_lacking && !names.contains(&name) {
                names.push(name);
            }
        }
        names
    }

    /// Whether `image` is of a Registry of the namespace, where things arrive by mirrors and builds.
    pub fn is_of_registry(&self, image: &str) -> bool {
        image
            .parse::<oci::Reference>()
            .is_ok_and(|image| self.is_registry_host(image.repository().host()))
    }

    /// Whether `host` is that of a Registry of the namespace.
    pub fn is_registry_host(&self, host: &RegistryHost) -> bool {
        self.registry_hosts.iter().any(|own| own == host.as_str())
    }

    /// What identifies the content of the source at present; none where it has no content of its own, or it is unknown.
    pub fn revision(&self) -> Option<&str> {
        match &self.source {
            SourceState::Git(Ok(commit)) => Some(commit),
            SourceState::Oci(Ok(digest)) | SourceState::ConfigMap(Some(digest)) => Some(digest),
            _ => None,
        }
    }

    /// Names and values of the inputs that are there, one after the other.
    pub fn input_values(&self) -> Vec<&str> {
        let ready = self.inputs.iter().filter_map(|(name, state)| match state {
            InputState::Ready { value } => Some([name.as_str(), value]),
            _ => None,
        });
        ready.flatten().collect()
    }

    /// References and present digests of base images that the image in `status` was not built from, one after the other.
    pub fn moved_bases<'a>(&'a self, status: &ImageBuildStatus) -> Vec<&'a str> {
        let moved = self.bases.iter().filter_map(|base| {
            let digest = base.digest.as_deref()?;
            let built = status
                .base_images
                .iter()
                .find(|built| built.reference == base.reference)?;
            (built.digest != digest).then_some([base.reference.as_str(), digest])
        });
        moved.flatten().collect()
    }

    /// Says that something outside is to be looked at again after that long.
    pub fn look_again_in(&mut self, after: Duration) {
        self.look_again = Some(self.look_again.map_or(after, |before| before.min(after)));
    }

    /// The commit of a git source.
    pub fn commit(&self) -> Option<&str> {
        match &self.source {
            SourceState::Git(Ok(commit)) => Some(commit),
            _ => None,
        }
    }
}
