//! Reads what a decision about an ImageBuild depends on: Secrets and Registries by name, the source, own pods, and what
//! destinations hold. Everything comes from the API server or the network guard's client, nothing from a cache of objects.

use std::collections::BTreeMap;

use crds::{ImageBuild, Registry, condition};
use distribution::DockerConfig;
use k8s_openapi::api::core::v1::{ConfigMap, Secret};
use kube::ResourceExt;
use oci::Reference;

use super::key::spec_hash;
use super::observed::{
    BaseLook, Observed, PodView, ReadBack, RegistryState, SecretState, SourceState, ToVerify,
    Verification, missing_base, to_verify,
};
use super::plan::{POLL, POLL_FAILED};
use super::validate::{DestinationSpec, SourceSpec, Target, ValidatedBuild, validate};
use crate::builder_pod::Owner;
use crate::builder_pod::shape::DOCKER_CONFIG_KEY;
use crate::cluster;
use crate::context::Context;
use crate::error::Result;
use crate::git::GitCredentials;
use crate::network::{GitQuestion, RegistryAccess};
use crate::registry;
use crate::request::requested_at;

/// Reads everything that a decision about `build` depends on.
pub async fn observe(context: &Context, build: &ImageBuild) -> Result<Observed> {
    let namespace = build.namespace().unwrap_or_default();
    let spec = validate(&build.spec);
    let mut observed = Observed {
        now: context.now(),
        spec: spec.clone(),
        restricted: cluster::is_restricted(context, &namespace).await?,
        secrets: BTreeMap::new(),
        registries: BTreeMap::new(),
        plain_http: Vec::new(),
        registry_hosts: Vec::new(),
        base: None,
        source: SourceState::Fixed,
        source_ca: None,
        look_again: None,
        pods: pods(context, build, &namespace).await?,
        read_back: None,
        taken: None,
        builder: cluster::builder_settings(context)?,
    };
    let Ok(spec) = spec else {
        return Ok(observed);
    };
    let mut secrets = Secrets::default();
    for name in spec.registry_secrets() {
        secrets.read(context, &namespace, &name).await?;
    }
    if let Some(name) = spec.source.secret() {
        secrets.read(context, &namespace, name).await?;
    }
    observed.source_ca = spec
        .source
        .secret()
        .and_then(|name| secrets.text(name, "ca.crt"));
    registries(context, &namespace, &spec, &mut observed).await?;
    source(context, build, &spec, &secrets, &mut observed).await?;
    observed.secrets = secrets.states(&spec);
    let status = build.status.clone().unwrap_or_default();
    let spec_hash = spec_hash(&build.spec);
    if let Some(wanted) = to_verify(&status, &observed.pods, &spec_hash) {
        observed.read_back = Some(read_back(context, &spec, &secrets, &observed, &wanted).await);
    }
    if let Some((image, pod)) = missing_base(&status, &observed.pods, &spec_hash)
        && !build.spec.suspended()
    {
        observed.base = Some(base(context, build, &spec, &secrets, &observed, &image, &pod).await);
    }
    Ok(observed)
}

/// The Secrets that were read, by name.
#[derive(Default)]
struct Secrets {
    found: BTreeMap<String, Option<Secret>>,
}

impl Secrets {
    async fn read(&mut self, context: &Context, namespace: &str, name: &str) -> Result<()> {
        if !self.found.contains_key(name) {
            let secret = context.get(namespace, name).await?;
            self.found.insert(name.to_owned(), secret);
        }
        Ok(())
    }

    fn get(&self, name: &str) -> Option<&Secret> {
        self.found.get(name)?.as_ref()
    }

    fn value(&self, name: &str, key: &str) -> Option<&[u8]> {
        let data = self.get(name)?.data.as_ref()?;
        data.get(key).map(|value| value.0.as_slice())
    }

    fn text(&self, name: &str, key: &str) -> Option<String> {
        let text = String::from_utf8(self.value(name, key)?.to_vec()).ok()?;
        // Secrets made from files end in a line end that no password has.
        Some(text.trim_end_matches(['\r', '\n']).to_owned())
    }

    fn docker_config(&self, name: &str) -> Option<DockerConfig> {
        DockerConfig::parse(self.value(name, DOCKER_CONFIG_KEY)?).ok()
    }

    /// What is to be known of each: whether it is there, usable for what it is named for, and its version.
    fn states(&self, spec: &ValidatedBuild) -> BTreeMap<String, SecretState> {
        let of_registries = spec.registry_secrets();
        self.found
            .iter()
            .map(|(name, secret)| {
                let state = match secret {
                    None => SecretState::Missing,
                    Some(_)
                        if of_registries.contains(name) && self.docker_config(name).is_none() =>
                    {
                        SecretState::Lacks(DOCKER_CONFIG_KEY)
                    }
                    Some(secret) => SecretState::Present {
                        version: format!(
                            "{}/{}",
                            secret.uid().unwrap_or_default(),
                            secret.resource_version().unwrap_or_default()
                        ),
                    },
                };
                (name.clone(), state)
            })
            .collect()
    }
}

/// Own pods, the oldest first, with the warnings about those that wait.
async fn pods(context: &Context, build: &ImageBuild, namespace: &str) -> Result<Vec<PodView>> {
    let owner = Owner::of(build);
    let attempt = build.status.as_ref().and_then(|s| s.attempt.as_ref());
    let name = attempt.and_then(|attempt| attempt.pod.as_deref());
    let uid = attempt.and_then(|attempt| attempt.pod_uid.as_deref());
    let pods = cluster::own_pods(context, namespace, &owner, name, uid).await?;
    Ok(pods
        .into_iter()
        .map(|(pod, events)| PodView { pod, events })
        .collect())
}

async fn registries(
    context: &Context,
    namespace: &str,
    spec: &ValidatedBuild,
    observed: &mut Observed,
) -> Result<()> {
    let all: Vec<Registry> = context.list(namespace, "").await?;
    for registry in &all {
        if let RegistryState::Ready { host } = state_of(registry) {
            observed.plain_http.push(host.as_str().to_owned());
        }
    }
    observed.plain_http.sort();
    observed.registry_hosts = all
        .iter()
        .map(|registry| {
            let told = registry.status.as_ref().and_then(|s| s.host.clone());
            told.unwrap_or_else(|| registry::host(&registry.name_any(), namespace))
        })
        .collect();
    for name in spec.registries() {
        let state = all
            .iter()
            .find(|registry| registry.name_any() == name)
            .map_or(RegistryState::Missing, state_of);
        observed.registries.insert(name.to_owned(), state);
    }
    Ok(())
}

/// What a Registry's status says. Its host counts only while it serves the present spec.
pub fn state_of(registry: &Registry) -> RegistryState {
    let status = registry.status.clone().unwrap_or_default();
    let ready = condition::find(&status.conditions, condition::READY);
    let host = status.host.as_deref().and_then(|host| host.parse().ok());
    match (ready, host) {
        (Some(ready), Some(host)) if ready.status == "True" => RegistryState::Ready { host },
        (Some(ready), _) => RegistryState::NotReady {
            message: format!("{}: {}", ready.reason, ready.message),
        },
        (None, _) => RegistryState::NotReady {
            message: "the operator has not looked at it yet".to_owned(),
        },
    }
}

async fn source(
    context: &Context,
    build: &ImageBuild,
    spec: &ValidatedBuild,
    secrets: &Secrets,
    observed: &mut Observed,
) -> Result<()> {
    match &spec.source {
        SourceSpec::Empty | SourceSpec::Http { .. } => {}
        SourceSpec::ConfigMap { name } => {
            let namespace = build.namespace().unwrap_or_default();
            let found: Option<ConfigMap> = context.get(&namespace, name).await?;
            observed.source =
                SourceState::ConfigMap(found.as_ref().map(cluster::config_map_digest));
        }
        SourceSpec::Git {
            url,
            reference,
            secret,
            interval,
        } => {
            let version = match secret {
                None => String::new(),
                Some(name) => match secrets.get(name) {
                    None => {
                        observed.source = SourceState::NotLookedUp;
                        return Ok(());
                    }
                    Some(secret) => secret.resource_version().unwrap_or_default(),
                },
            };
            let text = |key: &str| secrets.text(secret.as_deref()?, key);
            let question = GitQuestion {
                url: url.clone(),
                reference: reference.clone(),
                credentials: text("password").map(|password| GitCredentials {
                    username: text("username").unwrap_or_default(),
                    password,
                }),
                ca_pem: observed.source_ca.clone().map(String::into_bytes),
            };
            let asked = format!(
                "{url} {reference:?} {version} {}",
                requested_at(build).unwrap_or_default()
            );
            let uid = build.uid().unwrap_or_default();
            let (answer, good) = context
                .lookups
                .answer(&uid, &asked, || async {
                    let answer = context.network.commit(&question).await;
                    let good_for = match answer {
                        Ok(_) => *interval,
                        Err(_) => POLL.min(*interval),
                    };
                    (answer, good_for)
                })
                .await;
            observed.source = SourceState::Git(answer);
            observed.look_again = Some(good);
        }
    }
    Ok(())
}

/// Looks at the destinations: the manifest by its digest, and every tag.
async fn read_back(
    context: &Context,
    spec: &ValidatedBuild,
    secrets: &Secrets,
    observed: &Observed,
    wanted: &ToVerify,
) -> ReadBack {
    let mut read = ReadBack {
        digest: wanted.digest.clone(),
        destinations: Vec::new(),
    };
    for destination in &spec.destinations {
        if !wanted.only.is_empty() && !wanted.only.contains(&destination.name) {
            continue;
        }
        let access = RegistryAccess {
            credentials: destination
                .secret()
                .iter()
                .filter_map(|name| secrets.docker_config(name))
                .collect(),
            plain_http: matches!(destination.target, Target::Registry { .. }),
        };
        let found = verify(context, spec, destination, observed, wanted, &access).await;
        read.destinations.push((destination.name.clone(), found));
    }
    read
}

async fn verify(
    context: &Context,
    spec: &ValidatedBuild,
    destination: &DestinationSpec,
    observed: &Observed,
    wanted: &ToVerify,
    access: &RegistryAccess,
) -> Verification {
    let Some(repository) = destination.parsed(&observed.registries) else {
        return Verification::Unknown("its Registry is not ready".to_owned());
    };
    let Ok(digest) = wanted.digest.parse::<oci::Digest>() else {
        return Verification::Differs(
            "the builder reported something that is no digest".to_owned(),
        );
    };
    let values = spec.source.values(wanted.commit.as_deref());
    let tags = destination
        .tags
        .iter()
        .filter_map(|tag| tag.expand(&values).ok());
    let mut references = vec![repository.at(digest.clone())];
    references.extend(tags.map(|tag| repository.tagged(tag)));
    for reference in &references {
        match look(context, reference, access).await {
            Err(why) => return Verification::Unknown(why),
            Ok(Some(found)) if found == digest => {}
            Ok(Some(found)) => {
                return Verification::Differs(format!("{reference} is {found}"));
            }
            Ok(None) => return Verification::Differs(format!("{reference} does not exist")),
        }
    }
    Verification::Same
}

/// Asks whether the image is there for want of which the build of `pod` failed: with the credentials that a pod has, and
/// not before the last answer is as old as a failed build's interval.
async fn base(
    context: &Context,
    build: &ImageBuild,
    spec: &ValidatedBuild,
    secrets: &Secrets,
    observed: &Observed,
    image: &str,
    pod: &str,
) -> BaseLook {
    let reference: Reference = match image.parse() {
        Ok(reference) => reference,
        Err(error) => return BaseLook::Unknown(format!("{error}")),
    };
    let access = RegistryAccess {
        credentials: spec
            .registry_secrets()
            .iter()
            .filter_map(|name| secrets.docker_config(name))
            .collect(),
        plain_http: observed.is_registry_host(reference.repository().host()),
    };
    let question = format!("{image} {pod} {:?}", observed.secrets);
    let ask = || async {
        let found = match look(context, &reference, &access).await {
            Ok(Some(_)) => BaseLook::There,
            Ok(None) => BaseLook::Absent,
            Err(why) => BaseLook::Unknown(why),
        };
        (found, POLL_FAILED)
    };
    let uid = build.uid().unwrap_or_default();
    context.base_lookups.answer(&uid, &question, ask).await.0
}

async fn look(
    context: &Context,
    reference: &Reference,
    access: &RegistryAccess,
) -> Result<Option<oci::Digest>, String> {
    match context.network.manifest(reference, access).await {
        Ok(found) => Ok(found.map(|descriptor| descriptor.digest)),
        Err(distribution::Error::DigestMismatch { found, .. }) => Ok(Some(found)),
        Err(error) => Err(error.to_string()),
    }
}
