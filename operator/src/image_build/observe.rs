//! Reads what a decision about an ImageBuild depends on: Secrets and Registries by name, the source, own pods, and what
//! destinations hold. Everything comes from the API server or the network guard's client, nothing from a cache of objects.

use std::collections::BTreeMap;

use crds::image_build::{BuildOutput, Trigger};
use crds::{ImageBuild, ImageMirror, Registry, condition};
use distribution::DockerConfig;
use k8s_openapi::api::core::v1::{ConfigMap, PersistentVolumeClaim, Secret};
use kube::ResourceExt;

use super::key::spec_hash;
use super::mirrored::Mirrored;
use super::observed::{
    InputState, Observed, RegistryState, SecretState, SourceState, missing_base, to_verify,
};
use super::plan::POLL;
use super::split::made_before;
use super::validate::{InputSpec, SourceSpec, ValidatedBuild, validate};
use crate::builder_pod::shape::DOCKER_CONFIG_KEY;
use crate::builder_pod::{Identity, Owner, PodView};
use crate::cluster;
use crate::context::Context;
use crate::error::Result;
use crate::git::GitCredentials;
use crate::network::GitQuestion;
use crate::registry;
use crate::request::requested_at;

mod images;

use images::Asker;

/// The key of a Secret with the certificates (PEM) that vouch for a server.
const CA_KEY: &str = "ca.crt";

/// Reads everything that a decision about `build` depends on.
pub async fn observe(context: &Context, build: &ImageBuild) -> Result<Observed> {
    let namespace = build.namespace().unwrap_or_default();
    let spec = validate(&build.spec);
    let (pods, parts) = pods(context, build, &namespace).await?;
    let mut observed = Observed {
        now: context.now(),
        spec: spec.clone(),
        restricted: cluster::is_restricted(context, &namespace).await?,
        secrets: BTreeMap::new(),
        registries: BTreeMap::new(),
        plain_http: Vec::new(),
        registry_hosts: Vec::new(),
        mirrored: Mirrored::default(),
        base: None,
        source: SourceState::Fixed,
        claims: BTreeMap::new(),
        cache_holder: None,
        inputs: BTreeMap::new(),
        bases: Vec::new(),
        source_ca: None,
        look_again: None,
        pods,
        parts,
        kept: Vec::new(),
        read_back: None,
        taken: None,
        builder: cluster::builder_settings(context)?,
    };
    let Ok(spec) = spec else {
        return Ok(observed);
    };
    registries(context, &namespace, &spec, &mut observed).await?;
    let mut secrets = Secrets::default();
    for name in observed.registry_secrets(&spec) {
        secrets.read(context, &namespace, &name).await?;
    }
    for name in spec.source.secrets() {
        secrets.read(context, &namespace, name).await?;
    }
    for secret in &spec.secrets {
        secrets.read(context, &namespace, &secret.secret).await?;
    }
    observed.source_ca = spec
        .source
        .ca_from()
        .and_then(|name| secrets.text(name, CA_KEY));
    source(context, build, &spec, &secrets, &mut observed).await?;
    observed.secrets = secrets.states(&spec);
    let asker = Asker {
        context,
        build,
        spec: &spec,
        secrets: &secrets,
    };
    asker.source(&mut observed).await;
    for name in spec.claims() {
        let found: Option<PersistentVolumeClaim> = context.get(&namespace, name).await?;
        observed.claims.insert(name.to_owned(), found.is_some());
    }
    if let Some(volume) = &spec.cache.volume
        && !observed.pods.iter().any(PodView::is_active)
    {
        let own = build.uid().unwrap_or_default();
        observed.cache_holder = cluster::holder(context, &namespace, &volume.claim, &own).await?;
    }
    for input in &spec.inputs {
        let state = input_state(context, &namespace, input).await?;
        observed.inputs.insert(input.name.clone(), state);
    }
    let status = build.status.clone().unwrap_or_default();
    let spec_hash = spec_hash(&build.spec);
    if let Some(wanted) = to_verify(&status, &observed, &spec_hash) {
        observed.read_back = Some(asker.read_back(&observed, &wanted).await);
    }
    let made = made_before(&status, &spec, &observed);
    observed.kept = asker.kept(&observed, made).await;
    if let Some((image, pod)) = missing_base(&status, &observed.pods, &spec_hash)
        && !build.spec.suspended()
    {
        observed.base = Some(asker.missing(&observed, &image, &pod).await);
    }
    if spec.rebuild.follows(Trigger::BaseImage) && !build.spec.suspended() {
        let (bases, good) = asker.bases(&observed, &status.base_images).await;
        observed.bases = bases;
        observed.look_again_in(good);
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

    /// The key that the build needs of the Secret `name` and that it does not have.
    fn lacked(&self, spec: &ValidatedBuild, name: &str) -> Option<String> {
        if spec.source.ca_secret() == Some(name) && self.value(name, CA_KEY).is_none() {
            return Some(CA_KEY.to_owned());
        }
        let mut named = spec.secrets.iter().filter(|secret| secret.secret == name);
        let lacked = named.find(|secret| self.value(name, &secret.key).is_none());
        lacked.map(|secret| secret.key.clone())
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
                        SecretState::Lacks(DOCKER_CONFIG_KEY.to_owned())
                    }
                    Some(secret) => self.lacked(spec, name).map_or_else(
                        || SecretState::Present {
                            version: format!(
                                "{}/{}",
                                secret.uid().unwrap_or_default(),
                                secret.resource_version().unwrap_or_default()
                            ),
                        },
                        SecretState::Lacks,
                    ),
                };
                (name.clone(), state)
            })
            .collect()
    }
}

/// Own pods, the oldest first, with the warnings about those that wait: those that do all of an attempt, and those that do
/// a part of one.
async fn pods(
    context: &Context,
    build: &ImageBuild,
    namespace: &str,
) -> Result<(Vec<PodView>, Vec<PodView>)> {
    let owner = Owner::of(build);
    let mut known = Vec::new();
    if let Some(attempt) = build.status.as_ref().and_then(|s| s.attempt.as_ref()) {
        known.extend(Identity::of(attempt.pod.as_ref(), attempt.pod_uid.as_ref()));
        let parts = attempt.parts.iter();
        known.extend(parts.filter_map(|p| Identity::of(p.pod.as_ref(), p.pod_uid.as_ref())));
    }
    let pods = cluster::own_pods(context, namespace, &owner, &known).await?;
    Ok(pods
        .into_iter()
        .partition(|view| view.pod.attempt.part.is_none()))
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
    if spec.uses_mirrors {
        let mirrors: Vec<ImageMirror> = context.list(namespace, "").await?;
        observed.mirrored = Mirrored::of(&mirrors, &all);
    }
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
        SourceSpec::Empty
        | SourceSpec::Http { .. }
        | SourceSpec::Oci { .. }
        | SourceSpec::Claim { .. } => {}
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
            ..
        } => {
            let mut versions = Vec::new();
            for name in spec.source.secrets() {
                let Some(secret) = secrets.get(name) else {
                    observed.source = SourceState::NotLookedUp;
                    return Ok(());
                };
                versions.push(secret.resource_version().unwrap_or_default());
            }
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
                "{url} {reference:?} {versions:?} {}",
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
            observed.look_again_in(good);
        }
    }
    Ok(())
}

/// What the input of another ImageBuild is at present. Its image counts while it is of the spec that it has now.
async fn input_state(context: &Context, namespace: &str, input: &InputSpec) -> Result<InputState> {
    let found: Option<ImageBuild> = context.get(namespace, &input.build).await?;
    let Some(build) = found else {
        return Ok(InputState::Missing);
    };
    let generation = build.metadata.generation;
    let status = build.status.unwrap_or_default();
    let Some(ready) = condition::find(&status.conditions, condition::READY) else {
        return Ok(InputState::NotReady {
            message: "the operator has not looked at it yet".to_owned(),
        });
    };
    let value = match input.output {
        BuildOutput::Image => status.image,
        BuildOutput::Digest => status.digest,
    };
    let is_current = ready.status == "True" && status.observed_generation == generation;
    Ok(match value.filter(|_| is_current) {
        Some(value) => InputState::Ready { value },
        None => InputState::NotReady {
            message: ready.reason.clone(),
        },
    })
}
