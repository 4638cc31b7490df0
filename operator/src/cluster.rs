//! Small questions to the cluster that builds and mirrors both ask: the Pod Security level of a namespace, own pods and the
//! warnings about them, the content of a ConfigMap, and what the settings say of builder pods.

use k8s_openapi::api::core::v1::{ConfigMap, Event, Namespace, Pod};
use kube::api::ListParams;
use kube::core::NamespaceResourceScope;
use kube::{Api, Resource, ResourceExt};
use protocol::{Network, Source};

use crate::builder_pod::{
    BuilderSettings, Identity, ObservedPod, Owner, PodEvent, PodState, PodView,
};
use crate::context::Context;
use crate::error::{Class, Error, Result};
use crate::plan::{KIND_LABEL, is_owned_by};
use crate::reason::Reason;

/// The label by which a namespace enforces a Pod Security level.
const ENFORCE_LABEL: &str = "pod-security.kubernetes.io/enforce";
/// Warnings that are looked at.
const MAX_WARNINGS: u32 = 50;

/// Whether `namespace` enforces Pod Security restricted.
pub async fn is_restricted(context: &Context, namespace: &str) -> Result<bool> {
    let api: Api<Namespace> = Api::all(context.client.clone());
    let found = match api.get_opt(namespace).await {
        // An operator that keeps to one namespace may lack the right; the API server then tells when it creates the pod.
        Err(kube::Error::Api(status)) if status.code == 403 => None,
        found => found.map_err(Error::kube(format!("get Namespace {namespace}")))?,
    };
    Ok(found.is_some_and(|found| {
        found
            .labels()
            .get(ENFORCE_LABEL)
            .is_some_and(|level| level == "restricted")
    }))
}

/// `name`, when a pod of that name exists that does not belong to `owner`.
pub async fn taken<K>(context: &Context, owner: &K, name: &str) -> Result<Option<String>>
where
    K: Resource<Scope = NamespaceResourceScope>,
{
    let namespace = owner.namespace().unwrap_or_default();
    let there: Option<Pod> = context.get(&namespace, name).await?;
    let uid = owner.uid().unwrap_or_default();
    let foreign = there.filter(|pod| !is_owned_by(&pod.metadata, &uid));
    Ok(foreign.map(|pod| pod.name_any()))
}

/// The builder pod in `namespace` that has the claim, of any owner but the one with the uid `own`.
pub async fn holder(
    context: &Context,
    namespace: &str,
    claim: &str,
    own: &str,
) -> Result<Option<String>> {
    let pods: Vec<Pod> = context
        .list(namespace, &format!("{KIND_LABEL}=ImageBuild"))
        .await?;
    let others = pods.iter().filter(|pod| !is_owned_by(&pod.metadata, own));
    let mut holders: Vec<_> = others.filter(|pod| holds(pod, claim)).collect();
    holders.sort_by_key(|pod| (pod.creation_timestamp().map(|time| time.0), pod.name_any()));
    Ok(holders.first().map(|pod| pod.name_any()))
}

/// Whether a pod that has not ended mounts a claim.
fn holds(pod: &Pod, claim: &str) -> bool {
    let phase = pod.status.as_ref().and_then(|s| s.phase.as_deref());
    let ended = matches!(phase, Some("Succeeded" | "Failed"));
    let volumes = pod
        .spec
        .iter()
        .flat_map(|spec| spec.volumes.iter().flatten());
    let mut claims = volumes.filter_map(|volume| volume.persistent_volume_claim.as_ref());
    !ended && claims.any(|volume| volume.claim_name == claim)
}

/// The pods of `owner`, the oldest first, with the warnings about those that wait. `known` are those that the owner's status
/// names.
pub async fn own_pods(
    context: &Context,
    namespace: &str,
    owner: &Owner,
    known: &[Identity],
) -> Result<Vec<PodView>> {
    let mut found: Vec<Pod> = context.list(namespace, &owner.selector()).await?;
    // Somebody may have taken the labels off a pod that the status names.
    for Identity { name, .. } in known {
        if !found.iter().any(|pod| pod.name_any() == *name)
            && let Some(pod) = context.get(namespace, name).await?
        {
            found.push(pod);
        }
    }
    let mut pods = Vec::new();
    for pod in found {
        if let Some(pod) = ObservedPod::recognise(owner, known, pod) {
            let waits = matches!(PodState::of(&pod.pod, &[]), PodState::Waiting { .. });
            let events = if waits {
                warnings(context, namespace, &pod.identity.uid).await?
            } else {
                Vec::new()
            };
            pods.push(PodView { pod, events });
        }
    }
    pods.sort_by_key(|view| (view.pod.created, view.pod.attempt.number));
    Ok(pods)
}

/// The warnings about the pod with this uid, the oldest first.
async fn warnings(context: &Context, namespace: &str, uid: &str) -> Result<Vec<PodEvent>> {
    let api: Api<Event> = Api::namespaced(context.client.clone(), namespace);
    let params = ListParams::default()
        .fields(&format!("involvedObject.uid={uid},type=Warning"))
        .limit(MAX_WARNINGS);
    let mut events = api
        .list(&params)
        .await
        .map_err(Error::kube("list events of a pod"))?
        .items;
    events.sort_by_key(|event| {
        let last = event.last_timestamp.as_ref().map(|time| time.0);
        last.or(event.event_time.as_ref().map(|time| time.0))
    });
    Ok(events
        .into_iter()
        .map(|event| PodEvent {
            reason: event.reason.unwrap_or_default(),
            message: event.message.unwrap_or_default(),
        })
        .collect())
}

/// The digest of a ConfigMap's content, as the pod computes it of the mounted files.
pub fn config_map_digest(config_map: &ConfigMap) -> String {
    let texts = config_map
        .data
        .iter()
        .flatten()
        .map(|(key, value)| (key.as_str(), value.as_bytes()));
    let binaries = config_map
        .binary_data
        .iter()
        .flatten()
        .map(|(key, value)| (key.as_str(), value.0.as_slice()));
    let input = Source::config_map_digest_input(texts.chain(binaries));
    oci::Digest::of(&input).to_string()
}

/// What the settings say of builder pods. The CA file is read each time: it may be renewed.
pub fn builder_settings(context: &Context) -> Result<BuilderSettings> {
    let settings = &context.settings;
    let ca_certificates = match &settings.builder_ca_file {
        None => None,
        Some(path) => Some(
            fs_err::read_to_string(path).map_err(|error| Error::Refused {
                class: Class::Transient,
                reason: Reason::InternalError,
                message: error.to_string(),
            })?,
        ),
    };
    Ok(BuilderSettings {
        image: settings.builder_image.clone(),
        image_pull_policy: Some(settings.builder_image_pull_policy.as_str().to_owned()),
        image_pull_secrets: settings.builder_image_pull_secrets.clone(),
        network: Network {
            ca_certificates,
            http_proxy: settings.builder_http_proxy.clone(),
            https_proxy: settings.builder_https_proxy.clone(),
            no_proxy: settings.builder_no_proxy.clone(),
            allow_cidrs: settings.allow_cidrs.clone(),
        },
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use k8s_openapi::ByteString;
    use std::collections::BTreeMap;

    #[test]
    fn a_config_map_is_its_files() {
        let of = |data: &[(&str, &str)], binary: &[(&str, &str)]| {
            config_map_digest(&ConfigMap {
                data: Some(
                    data.iter()
                        .map(|(k, v)| ((*k).to_owned(), (*v).to_owned()))
                        .collect::<BTreeMap<_, _>>(),
                ),
                binary_data: Some(
                    binary
                        .iter()
                        .map(|(k, v)| ((*k).to_owned(), ByteString(v.as_bytes().to_vec())))
                        .collect(),
                ),
                ..ConfigMap::default()
            })
        };
        assert_eq!(of(&[("a", "1")], &[]), of(&[], &[("a", "1")]));
        assert_ne!(of(&[("a", "1")], &[]), of(&[("a", "2")], &[]));
    }
}
