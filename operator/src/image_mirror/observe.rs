//! Reads what a decision about an ImageMirror depends on: Secrets and the Registry by name, own pods, and the digests of
//! every tag on both sides, at most once in an interval and after every sync.

use std::collections::BTreeMap;

use crds::{ImageMirror, Registry};
use distribution::DockerConfig;
use k8s_openapi::api::core::v1::Secret;
use kube::ResourceExt;
use oci::{Reference, RegistryHost};

use super::look::{Sides, find, look};
use super::observed::{Found, Observed, current_pod};
use super::plan::{force_wish, spec_hash};
use super::upkeep::told_report;
use super::validate::{ValidatedMirror, validate};
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
    let spec = validate(&mirror.spec);
    let mut observed = Observed {
        now: context.now(),
        spec: spec.clone(),
        secrets: BTreeMap::new(),
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
    for registry in context.list::<Registry>(&namespace, "").await? {
        let state = state_of(&registry);
        if let RegistryState::Ready { host } = &state {
            observed.plain_http.push(host.as_str().to_owned());
        }
        if registry.name_any() == spec.registry {
            observed.registry = state;
        }
    }
    observed.plain_http.sort();
    observed.report = read_back(context, mirror, &spec, &configs, &observed).await;
    if let Some(host) = worth_looking(mirror, &observed) {
        look_at_tags(context, mirror, &spec, &host, &configs, &mut observed).await;
    }
    Ok(observed)
}

/// The host of the destination, where it is of use to look at the tags now: nothing is missing, and no sync runs.
fn worth_looking(mirror: &ImageMirror, observed: &Observed) -> Option<RegistryHost> {
    let RegistryState::Ready { host } = &observed.registry else {
        return None;
    };
    let there = observed
        .secrets
        .values()
        .all(|state| matches!(state, SecretState::Present { .. }));
    let status = mirror.status.clone().unwrap_or_default();
    let active = current_pod(&status, &observed.pods)
        .is_some_and(|pod| !matches!(pod.state(), PodState::Ended(_)));
    (there && !active && !mirror.spec.suspended()).then(|| host.clone())
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
    let access = destination(spec, configs);
    let found = find(context, &report, &access, Reason::RegistryUnauthorized).await;
    Some((report, found))
}

/// How the destination is asked.
fn destination(spec: &ValidatedMirror, configs: &BTreeMap<String, DockerConfig>) -> RegistryAccess {
    RegistryAccess {
        credentials: configs
            .get(&spec.registry_secret())
            .cloned()
            .into_iter()
            .collect(),
        plain_http: true,
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

/// Looks at all tags on both sides, or remembers what was seen.
async fn look_at_tags(
    context: &Context,
    mirror: &ImageMirror,
    spec: &ValidatedMirror,
    host: &RegistryHost,
    configs: &BTreeMap<String, DockerConfig>,
    observed: &mut Observed,
) {
    let config = |name: &str| configs.get(name).cloned();
    let sides = Sides {
        spec,
        host,
        source: RegistryAccess {
            credentials: spec
                .source_secret
                .iter()
                .filter_map(|name| config(name))
                .collect(),
            plain_http: observed
                .plain_http
                .iter()
                .any(|plain| plain == spec.source.as_str()),
            ca_pem: None,
        },
        destination: destination(spec, configs),
    };
    let core = format!(
        "{} {host} {:?} {:?} {:?}",
        spec_hash(&mirror.spec),
        observed.secrets,
        requested_at(mirror),
        force_wish(mirror),
    );
    // A sync that has ended since makes obsolete what was seen of its tags.
    let last = observed.pods.last().map(|pod| &pod.pod.identity.uid);
    let uid = mirror.uid().unwrap_or_default();
    let (seen, good) = look(context, &sides, &uid, core, &format!("{last:?}")).await;
    observed.look = Some(seen);
    observed.look_again = Some(good);
}
