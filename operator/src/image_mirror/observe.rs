//! Reads what a decision about an ImageMirror depends on: Secrets and the Registry by name, own pods, and the digests of
//! every tag on both sides, at most once in an interval and after every sync.

use std::collections::BTreeMap;

use crds::{ImageMirror, Registry, condition};
use distribution::DockerConfig;
use k8s_openapi::api::core::v1::Secret;
use kube::ResourceExt;
use oci::{Reference, RegistryHost};

use super::look::{Sides, find, look};
use super::observed::{Found, Observed, current_pod};
use super::plan::{force_wish, spec_hash};
use super::upkeep::told_report;
use super::validate::{Side, ValidatedMirror, validate};
use super::verify_keys;
use crate::builder_pod::shape::DOCKER_CONFIG_KEY;
use crate::builder_pod::{Identity, Owner, PodState, PodView};
use crate::cluster;
use crate::context::Context;
use crate::error::Result;
use crate::image_build::observe::state_of;
use crate::image_build::observed::{RegistryState, SecretState};
use crate::network::RegistryAccess;
use crate::reason::Reason;
use crate::request::requested_at;

/// Reads everything that a decision about `mirror` depends on.
pub async fn observe(context: &Context, mirror: &ImageMirror) -> Result<Observed> {
    let namespace = mirror.namespace().unwrap_or_default();
    let registries = context.list::<Registry>(&namespace, "").await?;
    let state = |name: &str| {
        let found = registries.iter().find(|r| r.name_any() == name);
        found.map_or(RegistryState::Missing, state_of)
    };
    let spec = validate(&mirror.spec, state);
    let mut observed = Observed {
        now: context.now(),
        spec: spec.clone(),
        secrets: BTreeMap::new(),
        keys: Vec::new(),
        source: RegistryState::Missing,
        registry: RegistryState::Missing,
        plain_http: Vec::new(),
        pods: pods(context, mirror, &namespace).await?,
        look: None,
        look_again: None,
        report: None,
        taken: None,
        builder: cluster::builder_settings(context)?,
    };
    let Ok(spec) = spec else {
        return Ok(observed);
    };
    let mut configs = BTreeMap::new();
    for name in spec.secrets() {
        let (state, config) = secret(context, &namespace, &name).await?;
        observed.secrets.insert(name.clone(), state);
        configs.extend(config.map(|config| (name, config)));
    }
    verify_keys::read(context, &namespace, &spec, &mut observed).await?;
    for registry in &registries {
        if let RegistryState::Ready { host } = state_of(registry) {
            observed.plain_http.push(host.as_str().to_owned());
        }
    }
    observed.plain_http.sort();
    observed.source = spec.source.state(state);
    observed.registry = spec.destination.state(state);
    observed.report = read_back(context, mirror, &spec, &configs, &observed).await;
    if let Some((source, destination)) = worth_looking(mirror, &observed) {
        let places = Places {
            source: &source,
            destination: &destination,
            lives: lives(mirror, &registries),
        };
        look_at_tags(context, mirror, &spec, &places, &configs, &mut observed).await;
    }
    Ok(observed)
}

/// Which Registries the mirror names, and since when they serve: one that was made again, or started again, may have lost
/// what was seen in it.
fn lives(mirror: &ImageMirror, registries: &[Registry]) -> Vec<String> {
    let named = registries
        .iter()
        .filter(|registry| mirror.names_registry(&registry.name_any()));
    named
        .map(|registry| {
            let conditions = registry.status.as_ref().map(|s| s.conditions.as_slice());
            let ready = condition::find(conditions.unwrap_or_default(), condition::READY);
            let since = ready.map(|ready| ready.last_transition_time.clone());
            format!("{:?} {since:?}", registry.uid())
        })
        .collect()
}

/// The hosts of both sides, where it is of use to look at the tags now: nothing is missing, and no sync runs.
fn worth_looking(
    mirror: &ImageMirror,
    observed: &Observed,
) -> Option<(RegistryHost, RegistryHost)> {
    let (RegistryState::Ready { host: source }, RegistryState::Ready { host }) =
        (&observed.source, &observed.registry)
    else {
        return None;
    };
    let there = observed
        .secrets
        .values()
        .all(|state| matches!(state, SecretState::Present { .. }));
    let status = mirror.status.clone().unwrap_or_default();
    let active = current_pod(&status, &observed.pods)
        .is_some_and(|pod| !matches!(pod.state(), PodState::Ended(_)));
    let worth = there && !active && !mirror.spec.suspended();
    worth.then(|| (source.clone(), host.clone()))
}

/// Looks whether the report is there that the present pod says it wrote.
async fn read_back(
    context: &Context,
    mirror: &ImageMirror,
    spec: &ValidatedMirror,
    configs: &BTreeMap<String, DockerConfig>,
    observed: &Observed,
) -> Option<(Reference, Found)> {
    let report = told_report(mirror, observed)?;
    let host = report.repository().host();
    let access = access(&spec.destination, configs, observed, host);
    let found = find(context, &report, &access, Reason::RegistryUnauthorized).await;
    Some((report, found))
}

/// How the registry `host` is asked, which is `side`.
fn access(
    side: &Side,
    configs: &BTreeMap<String, DockerConfig>,
    observed: &Observed,
    host: &RegistryHost,
) -> RegistryAccess {
    let config = side.secret().and_then(|name| configs.get(&name).cloned());
    let mut plain = observed.plain_http.iter();
    RegistryAccess {
        credentials: config.into_iter().collect(),
        plain_http: plain.any(|plain| plain == host.as_str()),
        ca_pem: None,
    }
}

async fn secret(
    context: &Context,
    namespace: &str,
    name: &str,
) -> Result<(SecretState, Option<DockerConfig>)> {
    let Some(secret) = context.get::<Secret>(namespace, name).await? else {
        return Ok((SecretState::Missing, None));
    };
    let data = secret.data.as_ref();
    let config = data
        .and_then(|data| data.get(DOCKER_CONFIG_KEY))
        .and_then(|value| DockerConfig::parse(&value.0).ok());
    let state = match &config {
        None => SecretState::Lacks(DOCKER_CONFIG_KEY.to_owned()),
        Some(_) => SecretState::Present {
            version: format!(
                "{}/{}",
                secret.uid().unwrap_or_default(),
                secret.resource_version().unwrap_or_default()
            ),
        },
    };
    Ok((state, config))
}

/// Own pods, the oldest first, with the warnings about those that wait.
async fn pods(context: &Context, mirror: &ImageMirror, namespace: &str) -> Result<Vec<PodView>> {
    let owner = Owner::of(mirror);
    let attempt = mirror.status.as_ref().and_then(|s| s.attempt.as_ref());
    let known =
        attempt.and_then(|attempt| Identity::of(attempt.pod.as_ref(), attempt.pod_uid.as_ref()));
    let known: Vec<Identity> = known.into_iter().collect();
    cluster::own_pods(context, namespace, &owner, &known).await
}

/// The two registries of a mirror.
struct Places<'a> {
    source: &'a RegistryHost,
    destination: &'a RegistryHost,
    /// Which Registries they are and since when they serve.
    lives: Vec<String>,
}

/// Looks at all tags on both sides, or remembers what was seen.
async fn look_at_tags(
    context: &Context,
    mirror: &ImageMirror,
    spec: &ValidatedMirror,
    places: &Places<'_>,
    configs: &BTreeMap<String, DockerConfig>,
    observed: &mut Observed,
) {
    let sides = Sides {
        spec,
        host: places.destination,
        source: access(&spec.source, configs, observed, places.source),
        destination: access(&spec.destination, configs, observed, places.destination),
    };
    let core = format!(
        "{} {} {} {:?} {:?} {:?} {:?}",
        spec_hash(&mirror.spec),
        places.source,
        places.destination,
        places.lives,
        observed.secrets,
        requested_at(mirror),
        force_wish(mirror),
    );
    // A sync that has ended since makes obsolete what was seen of its tags.
    let status = mirror.status.clone().unwrap_or_default();
    let last = current_pod(&status, &observed.pods).or(observed.pods.last());
    let last = last.map(|pod| &pod.pod.identity.uid);
    let uid = mirror.uid().unwrap_or_default();
    let (seen, good) = look(context, &sides, &uid, core, &format!("{last:?}")).await;
    observed.look = Some(seen);
    observed.look_again = Some(good);
}
