//! Reads what a decision about an ImageMirror depends on: Secrets and the Registry by name, own pods, and the digests of
//! every tag on both sides, at most once in an interval and after every sync.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use crds::{ImageMirror, Registry};
use distribution::{DockerConfig, ErrorKind};
use futures::StreamExt;
use k8s_openapi::api::core::v1::Secret;
use kube::ResourceExt;
use oci::{Reference, RegistryHost};

use super::observed::{Found, Observed, TagLook, current_pod};
use super::plan::{force_wish, spec_hash};
use super::validate::{MirrorTag, ValidatedMirror, validate};
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

/// Tags that are looked at at the same time.
const CONCURRENCY: usize = 8;
/// How soon is looked again after a failure that may pass.
const AGAIN_AFTER_FAILURE: Duration = Duration::from_secs(30);
/// How soon is looked again for a tag that the source does not have.
const AGAIN_AFTER_MISSING: Duration = Duration::from_secs(60);

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
        tags: None,
        look_again: None,
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
    if let Some(host) = worth_looking(mirror, &observed) {
        look(context, mirror, &spec, &host, &configs, &mut observed).await;
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
async fn look(
    context: &Context,
    mirror: &ImageMirror,
    spec: &ValidatedMirror,
    host: &RegistryHost,
    configs: &BTreeMap<String, DockerConfig>,
    observed: &mut Observed,
) {
    let config = |name: &str| configs.get(name).cloned();
    let source = RegistryAccess {
        credentials: spec
            .source_secret
            .iter()
            .filter_map(|name| config(name))
            .collect(),
        plain_http: spec.tags.first().is_some_and(|tag| {
            let host = tag.source.repository().host().as_str();
            observed.plain_http.iter().any(|plain| plain == host)
        }),
        ca_pem: None,
    };
    let destination = RegistryAccess {
        credentials: config(&spec.registry_secret()).into_iter().collect(),
        plain_http: true,
        ca_pem: None,
    };
    // A sync that has ended since makes everything that was seen before obsolete.
    let last = observed.pods.last().map(|pod| &pod.pod.identity.uid);
    let question = format!(
        "{} {:?} {host} {last:?} {:?} {:?}",
        spec_hash(&mirror.spec),
        observed.secrets,
        requested_at(mirror),
        force_wish(mirror),
    );
    let uid = mirror.uid().unwrap_or_default();
    let (tags, good) = context
        .tag_lookups
        .answer(&uid, &question, || async {
            let looks = look_at(context, &spec.tags, host, &source, &destination).await;
            let good_for = good_for(&looks, spec.interval);
            (Arc::new(looks), good_for)
        })
        .await;
    observed.tags = Some(tags);
    observed.look_again = Some(good);
}

fn good_for(looks: &[TagLook], interval: Duration) -> Duration {
    let mut good_for = interval;
    for look in looks {
        match look.problem() {
            Some((_, _, true)) => good_for = good_for.min(AGAIN_AFTER_FAILURE),
            Some(_) => good_for = good_for.min(AGAIN_AFTER_MISSING),
            None => {}
        }
    }
    good_for
}

async fn look_at(
    context: &Context,
    tags: &[MirrorTag],
    host: &RegistryHost,
    source: &RegistryAccess,
    destination: &RegistryAccess,
) -> Vec<TagLook> {
    // Made beforehand: a stream over a closure that borrows would not be general enough to be sent.
    let questions: Vec<_> = tags
        .iter()
        .map(|tag| look_at_one(context, tag, host, source, destination))
        .collect();
    futures::stream::iter(questions)
        .buffered(CONCURRENCY)
        .collect()
        .await
}

async fn look_at_one(
    context: &Context,
    tag: &MirrorTag,
    host: &RegistryHost,
    source: &RegistryAccess,
    destination: &RegistryAccess,
) -> TagLook {
    let at_source = find(context, &tag.source, source, Reason::ImageUnauthorized).await;
    let at_destination = match (&at_source, tag.destination(host)) {
        (Found::Digest(_), Some(place)) => {
            find(context, &place, destination, Reason::RegistryUnauthorized).await
        }
        (Found::Digest(_), None) => Found::Failed {
            reason: Reason::InvalidSpec,
            message: "host and repository together are too long".to_owned(),
            transient: false,
        },
        _ => Found::NotLookedAt,
    };
    TagLook {
        source: at_source,
        destination: at_destination,
    }
}

async fn find(
    context: &Context,
    reference: &Reference,
    access: &RegistryAccess,
    unauthorized: Reason,
) -> Found {
    match context.network.manifest(reference, access).await {
        Ok(Some(descriptor)) => Found::Digest(descriptor.digest),
        Ok(None) => Found::Nothing,
        Err(error) => Found::Failed {
            reason: match error.kind() {
                ErrorKind::Unauthorized => unauthorized,
                ErrorKind::AddressRefused => Reason::AddressRefused,
                ErrorKind::DigestMismatch => Reason::DigestMismatch,
                ErrorKind::Unavailable | ErrorKind::Certificate => Reason::RegistryUnavailable,
                _ => Reason::SyncFailed,
            },
            message: error.to_string(),
            transient: error.is_transient(),
        },
    }
}
