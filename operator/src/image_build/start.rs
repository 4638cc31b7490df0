//! The start of one build: its request and its pod. Pure.

use crds::ImageBuild;
use crds::image_build::{Attempt as AttemptStatus, PodOptions};
use k8s_openapi::api::core::v1::Pod;
use kube::ResourceExt;
use protocol::{
    BuildRequest, CacheRequest, CacheVolume, Destination, DockerfileSpec, GitRevision, Isolation,
    Request, SecretFile, Source, Task,
};

use super::observed::{InputState, Observed, SourceState};
use super::record::running;
use super::validate::{SourceSpec, ValidatedBuild};
use crate::builder_pod::shape::{credential_paths, secret_path};
use crate::builder_pod::{Attempt, Owner, PodSpecInput, build_pod};
use crate::plan::child_meta;

/// A build that is to be started.
#[derive(Clone, Debug)]
pub struct Start {
    /// Name of the build and its pod.
    pub name: String,
    /// The attempt as it stands in the status when the pod is there, but for the pod's uid.
    pub attempt: AttemptStatus,
    /// The pod.
    pub pod: Pod,
}

/// Makes attempt `number` at `key`. Everything that the build needs must have been observed to be there.
pub fn start(
    build: &ImageBuild,
    spec: &ValidatedBuild,
    observed: &Observed,
    key: &str,
    number: u32,
    retries: u32,
    reason: &str,
) -> Start {
    let (isolation, _) = observed.isolation(spec.isolation);
    let attempt = Attempt {
        key: key.to_owned(),
        number,
        retries,
        generation: build.metadata.generation.unwrap_or_default(),
        reason: reason.to_owned(),
        commit: observed.commit().map(str::to_owned),
        environment: observed.environment(isolation),
        part: None,
    };
    let task = build_request(build, spec, observed, isolation, observed.commit());
    let task = Task::Build(task);
    let none = PodOptions::default();
    let options = build.spec.pod.as_ref().unwrap_or(&none);
    let pod = pod_for(build, spec, observed, &attempt, task, isolation, options);
    let name = pod.name_any();
    Start {
        attempt: running(&attempt, name.clone(), None),
        name,
        pod,
    }
}

/// The pod that does `task` for `attempt`. What it mounts follows from the task: only a build has a source and
/// secrets, and the claim of the cache where the task asks for it.
pub(super) fn pod_for(
    build: &ImageBuild,
    spec: &ValidatedBuild,
    observed: &Observed,
    attempt: &Attempt,
    task: Task,
    isolation: Isolation,
    options: &PodOptions,
) -> Pod {
    let built = match &task {
        Task::Build(task) => Some(task),
        _ => None,
    };
    let source = built.map(|_| &spec.source);
    let volume = built.and_then(|task| task.cache.volume.as_ref());
    let cache = volume.and(spec.cache.volume.as_ref());
    let secrets: &[_] = if built.is_some() { &spec.secrets } else { &[] };
    let credentials = observed.registry_secrets(spec);
    let request = envelope(observed, task, credentials.len());
    build_pod(&PodSpecInput {
        meta: child_meta(build, attempt.pod_name(&Owner::of(build))),
        attempt,
        request: &request,
        isolation,
        settings: &observed.builder,
        credentials: &credentials,
        source_secret: source.and_then(|source| source.secret()),
        source_config_map: source.and_then(|source| source.config_map()),
        source_claim: source.and_then(|source| source.claim()),
        cache_claim: cache.map(|volume| &*volume.claim),
        secrets,
        timeout: spec.timeout,
        options,
    })
}

/// Where the image of `commit` goes.
pub(super) fn destinations(
    spec: &ValidatedBuild,
    observed: &Observed,
    commit: Option<&str>,
) -> Vec<Destination> {
    let values = spec.source.values(commit);
    spec.destinations
        .iter()
        .filter_map(|destination| {
            let mut tags: Vec<String> = destination
                .tags
                .iter()
                .filter_map(|tag| tag.expand(&values).ok())
                .map(|tag| tag.as_str().to_owned())
                .collect();
            tags.sort();
            tags.dedup();
            Some(Destination {
                name: destination.name.clone(),
                repository: destination.repository(&observed.registries)?,
                tags,
            })
        })
        .collect()
}

/// What a pod is asked to build.
pub(super) fn build_request(
    build: &ImageBuild,
    spec: &ValidatedBuild,
    observed: &Observed,
    isolation: Isolation,
    commit: Option<&str>,
) -> BuildRequest {
    BuildRequest {
        source: source(spec, observed, commit),
        subdirectory: spec.subdirectory.clone(),
        dockerfile: dockerfile(spec, observed),
        destinations: destinations(spec, observed, commit),
        isolation,
        source_date_epoch: None,
        cache: cache(build, spec, observed),
    }
}

/// The request for `task`: with the network as it is to be reached, and `credentials` Secrets.
fn envelope(observed: &Observed, task: Task, credentials: usize) -> Request {
    // Certificates are no secrets: those for the server of the source go with the request.
    let mut network = observed.builder.network.clone();
    if let Some(more) = &observed.source_ca {
        let known = network.ca_certificates.unwrap_or_default();
        network.ca_certificates = Some(format!("{known}\n{more}").trim_start().to_owned());
    }
    Request {
        network,
        credentials: credential_paths(credentials),
        plain_http: observed.plain_http.clone(),
        ..Request::new(task)
    }
}

/// The Dockerfile with the inputs among its arguments.
fn dockerfile(spec: &ValidatedBuild, observed: &Observed) -> DockerfileSpec {
    let mut dockerfile = spec.dockerfile.clone();
    dockerfile
        .mirrors
        .clone_from(&observed.mirrored.repositories);
    let secrets = spec.secrets.iter().enumerate();
    dockerfile.secrets = secrets
        .map(|(index, secret)| SecretFile {
            id: secret.id.clone(),
            path: secret_path(index),
        })
        .collect();
    for (name, input) in &observed.inputs {
        if let InputState::Ready { value } = input {
            dockerfile.build_args.insert(name.clone(), value.clone());
        }
    }
    dockerfile
}

/// The cache is read from where it is written to.
fn cache(build: &ImageBuild, spec: &ValidatedBuild, observed: &Observed) -> CacheRequest {
    let registry = spec.cache.registry.as_ref();
    let name = registry.and_then(|(place, tag)| {
        let repository = place.repository(&observed.registries)?;
        let tag = tag.as_ref().map_or(build.name_any(), ToString::to_string);
        Some(format!("{repository}:{tag}"))
    });
    CacheRequest {
        import: name.iter().cloned().collect(),
        export: name,
        volume: spec.cache.volume.as_ref().map(|volume| CacheVolume {
            quota: volume.quota,
        }),
    }
}

fn source(spec: &ValidatedBuild, observed: &Observed, commit: Option<&str>) -> Source {
    let credentials = spec.source.secret().is_some();
    match &spec.source {
        SourceSpec::Empty => Source::Empty,
        SourceSpec::Git { url, reference, .. } => Source::Git {
            url: url.clone(),
            revision: GitRevision {
                commit: commit.unwrap_or_default().to_owned(),
                reference: reference.full_name(),
            },
            credentials,
        },
        SourceSpec::Http { url, checksum, .. } => Source::Http {
            url: url.clone(),
            checksum: checksum.clone(),
            credentials,
        },
        SourceSpec::Oci { image, .. } => Source::Oci {
            image: match &observed.source {
                SourceState::Oci(Ok(digest)) => format!("{}@{digest}", image.repository()),
                _ => image.to_string(),
            },
        },
        SourceSpec::Claim { .. } => Source::Volume,
        SourceSpec::ConfigMap { .. } => Source::ConfigMap {
            digest: match &observed.source {
                SourceState::ConfigMap(Some(digest)) => digest.clone(),
                _ => String::new(),
            },
        },
    }
}
