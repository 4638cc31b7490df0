//! The builder pod as it is created: two shapes, one that passes Pod Security baseline and gives RUN a user namespace,
//! one that passes restricted and executes nothing. Pure: a function of what is asked for.

use std::collections::BTreeMap;
use std::time::Duration;

use crds::image_build::PodOptions;
use k8s_openapi::api::core::v1::{
    Capabilities, ConfigMapVolumeSource, Container, DownwardAPIVolumeFile, DownwardAPIVolumeSource,
    EmptyDirVolumeSource, KeyToPath, LocalObjectReference, ObjectFieldSelector,
    PersistentVolumeClaimVolumeSource, Pod, PodSecurityContext, PodSpec, ResourceRequirements,
    SeccompProfile, SecretVolumeSource, SecurityContext, Volume, VolumeMount,
};
use k8s_openapi::apimachinery::pkg::api::resource::Quantity;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use protocol::{Isolation, Network, Request, paths};

use super::{Attempt, CONTAINER, ISOLATION_ANNOTATION};
use crate::image_build::validate::SecretSpec;

/// The user of a pod that needs no root.
const NOBODY: i64 = 65532;
/// The key of a Secret of type kubernetes.io/dockerconfigjson.
pub const DOCKER_CONFIG_KEY: &str = ".dockerconfigjson";
/// The file of a secret in its directory.
const SECRET_FILE: &str = "secret";
/// Time between the wish to stop and the kill: the engine ends its steps and reports.
const GRACE_SECONDS: i64 = 30;

/// What the operator's settings say of builder pods.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct BuilderSettings {
    /// Image of the builder.
    pub image: String,
    /// Pull policy of that image; the cluster's default where absent.
    pub image_pull_policy: Option<String>,
    /// Secrets with which the nodes pull that image.
    pub image_pull_secrets: Vec<String>,
    /// How pods reach the network.
    pub network: Network,
}

/// What a pod is made from.
pub struct PodSpecInput<'a> {
    /// Name, namespace, labels and owner reference.
    pub meta: ObjectMeta,
    /// What it makes.
    pub attempt: &'a Attempt,
    /// The task.
    pub request: &'a Request,
    /// Which of the two shapes.
    pub isolation: Isolation,
    /// What the operator's settings say.
    pub settings: &'a BuilderSettings,
    /// Secrets of type kubernetes.io/dockerconfigjson, in the order of `request.credentials`.
    pub credentials: &'a [String],
    /// Secret of the source.
    pub source_secret: Option<&'a str>,
    /// ConfigMap that is the source.
    pub source_config_map: Option<&'a str>,
    /// Claim that is the source.
    pub source_claim: Option<&'a str>,
    /// Claim that keeps the cache.
    pub cache_claim: Option<&'a str>,
    /// Files for RUN.
    pub secrets: &'a [SecretSpec],
    /// How long it may run.
    pub timeout: Duration,
    /// What people ask of the cluster for it.
    pub options: &'a PodOptions,
}

/// The paths of `request.credentials` for `count` Secrets.
pub fn credential_paths(count: usize) -> Vec<String> {
    (0..count)
        .map(|index| format!("{}/{index}/{DOCKER_CONFIG_KEY}", paths::CREDENTIALS))
        .collect()
}

/// Where the pod has the secret at `index`.
pub fn secret_path(index: usize) -> String {
    format!("{}/{index}/{SECRET_FILE}", paths::SECRETS)
}

/// Makes the pod.
pub fn build_pod(input: &PodSpecInput<'_>) -> Pod {
    let no_run = input.isolation == Isolation::NoRun;
    let mut annotations = input.attempt.annotations();
    annotations.extend(
        [
            (protocol::REQUEST_ANNOTATION, input.request.to_json()),
            (ISOLATION_ANNOTATION, isolation_word(input.isolation).into()),
            ("kubectl.kubernetes.io/default-container", CONTAINER.into()),
            (
                "cluster-autoscaler.kubernetes.io/safe-to-evict",
                "false".into(),
            ),
        ]
        .map(|(name, value)| (name.to_owned(), value)),
    );
    let (volumes, mounts) = volumes(input);
    Pod {
        metadata: ObjectMeta {
            annotations: Some(annotations),
            ..input.meta.clone()
        },
        spec: Some(PodSpec {
            restart_policy: Some("Never".into()),
            active_deadline_seconds: Some(
                i64::try_from(input.timeout.as_secs()).unwrap_or(i64::MAX),
            ),
            termination_grace_period_seconds: Some(GRACE_SECONDS),
            automount_service_account_token: Some(false),
            enable_service_links: Some(false),
            host_users: Some(false).filter(|_| !no_run),
            security_context: Some(pod_security(no_run)),
            image_pull_secrets: none_if_empty(
                input
                    .settings
                    .image_pull_secrets
                    .iter()
                    .map(|name| LocalObjectReference { name: name.clone() })
                    .collect(),
            ),
            containers: vec![Container {
                name: CONTAINER.into(),
                image: Some(input.settings.image.clone()),
                image_pull_policy: input.settings.image_pull_policy.clone(),
                command: Some(vec!["coopery".into()]),
                args: Some(vec!["pod".into()]),
                resources: resources(input.options),
                security_context: Some(container_security(no_run)),
                volume_mounts: Some(mounts),
                ..Container::default()
            }],
            volumes: Some(volumes),
            node_selector: Some(input.options.node_selector.clone()).filter(|map| !map.is_empty()),
            tolerations: none_if_empty(input.options.tolerations.clone()),
            runtime_class_name: input.options.runtime_class_name.clone(),
            priority_class_name: input.options.priority_class_name.clone(),
            ..PodSpec::default()
        }),
        status: None,
    }
}

/// The word of an isolation mode in status and annotations.
pub const fn isolation_word(isolation: Isolation) -> &'static str {
    match isolation {
        Isolation::UserNamespace => "UserNamespace",
        Isolation::NoRun => "NoRun",
    }
}

fn pod_security(no_run: bool) -> PodSecurityContext {
    if no_run {
        PodSecurityContext {
            run_as_non_root: Some(true),
            run_as_user: Some(NOBODY),
            run_as_group: Some(NOBODY),
            fs_group: Some(NOBODY),
            seccomp_profile: Some(SeccompProfile {
                type_: "RuntimeDefault".into(),
                localhost_profile: None,
            }),
            ..PodSecurityContext::default()
        }
    } else {
        // Root of the pod's user namespace, which is nobody on the node.
        PodSecurityContext {
            run_as_user: Some(0),
            run_as_group: Some(0),
            ..PodSecurityContext::default()
        }
    }
}

fn container_security(no_run: bool) -> SecurityContext {
    if no_run {
        SecurityContext {
            allow_privilege_escalation: Some(false),
            read_only_root_filesystem: Some(true),
            capabilities: Some(Capabilities {
                drop: Some(vec!["ALL".into()]),
                add: None,
            }),
            ..SecurityContext::default()
        }
    } else {
        // Programs of RUN that set the user id (su, sudo) need escalation, within the pod's user namespace. A fresh
        // /proc in the nested namespace needs one that is not masked outside of it. Seccomp is unset: baseline forbids
        // to say Unconfined, and RuntimeDefault forbids unshare and mount.
        SecurityContext {
            allow_privilege_escalation: Some(true),
            proc_mount: Some("Unmasked".into()),
            ..SecurityContext::default()
        }
    }
}

fn resources(options: &PodOptions) -> Option<ResourceRequirements> {
    let asked = options.resources.as_ref()?;
    let some = |map: &BTreeMap<String, Quantity>| Some(map.clone()).filter(|map| !map.is_empty());
    Some(ResourceRequirements {
        requests: some(&asked.requests),
        limits: some(&asked.limits),
        claims: None,
    })
}

/// A volume, where it is mounted, and whether it can be written.
struct Mounted {
    volume: Volume,
    path: String,
    writable: bool,
}

fn volumes(input: &PodSpecInput<'_>) -> (Vec<Volume>, Vec<VolumeMount>) {
    let mut mounted = own_volumes(input);
    mounted.extend(referenced_volumes(input));
    mounted
        .into_iter()
        .map(|item| {
            let mount = VolumeMount {
                name: item.volume.name.clone(),
                mount_path: item.path,
                read_only: Some(true).filter(|_| !item.writable),
                ..VolumeMount::default()
            };
            (item.volume, mount)
        })
        .unzip()
}

fn named(name: &str) -> Volume {
    Volume {
        name: name.into(),
        ..Volume::default()
    }
}

/// One key of a Secret, as the one file of a volume.
fn one_key(volume: &str, secret: &str, key: &str, file: &str, mode: Option<i32>) -> Volume {
    Volume {
        secret: Some(SecretVolumeSource {
            secret_name: Some(secret.into()),
            items: Some(vec![KeyToPath {
                key: key.into(),
                path: file.into(),
                mode: None,
            }]),
            default_mode: mode,
            optional: None,
        }),
        ..named(volume)
    }
}

/// The request, and where the engine writes.
fn own_volumes(input: &PodSpecInput<'_>) -> Vec<Mounted> {
    let (directory, file) = paths::REQUEST
        .rsplit_once('/')
        .unwrap_or(("/", paths::REQUEST));
    let request = DownwardAPIVolumeFile {
        path: file.into(),
        field_ref: Some(ObjectFieldSelector {
            api_version: None,
            field_path: format!("metadata.annotations['{}']", protocol::REQUEST_ANNOTATION),
        }),
        ..DownwardAPIVolumeFile::default()
    };
    let workspace = input.options.workspace.as_ref();
    let mut mounted = vec![
        Mounted {
            volume: Volume {
                downward_api: Some(DownwardAPIVolumeSource {
                    items: Some(vec![request]),
                    default_mode: None,
                }),
                ..named("request")
            },
            path: directory.into(),
            writable: false,
        },
        Mounted {
            volume: Volume {
                empty_dir: Some(EmptyDirVolumeSource {
                    medium: None,
                    size_limit: workspace
                        .and_then(|workspace| workspace.size_limit.clone())
                        .map(Quantity),
                }),
                ..named("workspace")
            },
            path: paths::WORKSPACE.into(),
            writable: true,
        },
    ];
    if input.isolation == Isolation::NoRun {
        mounted.push(Mounted {
            volume: Volume {
                empty_dir: Some(EmptyDirVolumeSource::default()),
                ..named("tmp")
            },
            path: "/tmp".into(),
            writable: true,
        });
    }
    mounted
}

/// Secrets and the ConfigMap that the resource names.
fn referenced_volumes(input: &PodSpecInput<'_>) -> Vec<Mounted> {
    // Root reads in the one shape, the group in the other.
    let no_run = input.isolation == Isolation::NoRun;
    let mode = Some(if no_run { 0o440 } else { 0o400 });
    let mut mounted = Vec::new();
    for (index, secret) in input.credentials.iter().enumerate() {
        mounted.push(Mounted {
            volume: one_key(
                &format!("credentials-{index}"),
                secret,
                DOCKER_CONFIG_KEY,
                DOCKER_CONFIG_KEY,
                mode,
            ),
            path: format!("{}/{index}", paths::CREDENTIALS),
            writable: false,
        });
    }
    if let Some(secret) = input.source_secret {
        mounted.push(Mounted {
            volume: Volume {
                secret: Some(SecretVolumeSource {
                    secret_name: Some(secret.into()),
                    default_mode: mode,
                    ..SecretVolumeSource::default()
                }),
                ..named("source-credentials")
            },
            path: paths::SOURCE_CREDENTIALS.into(),
            writable: false,
        });
    }
    if let Some(config_map) = input.source_config_map {
        mounted.push(Mounted {
            volume: Volume {
                config_map: Some(ConfigMapVolumeSource {
                    name: config_map.into(),
                    ..ConfigMapVolumeSource::default()
                }),
                ..named("source")
            },
            path: paths::SOURCE.into(),
            writable: false,
        });
    }
    for (index, secret) in input.secrets.iter().enumerate() {
        mounted.push(Mounted {
            volume: one_key(
                &format!("secret-{index}"),
                &secret.secret,
                &secret.key,
                SECRET_FILE,
                mode,
            ),
            path: format!("{}/{index}", paths::SECRETS),
            writable: false,
        });
    }
    for (claim, name, path, writable) in [
        (input.source_claim, "source", paths::SOURCE, false),
        (input.cache_claim, "cache", paths::CACHE, true),
    ] {
        mounted.extend(claim.map(|claim| Mounted {
            volume: Volume {
                persistent_volume_claim: Some(PersistentVolumeClaimVolumeSource {
                    claim_name: claim.into(),
                    read_only: None,
                }),
                ..named(name)
            },
            path: path.into(),
            writable,
        }));
    }
    mounted
}

fn none_if_empty<T>(list: Vec<T>) -> Option<Vec<T>> {
    Some(list).filter(|list| !list.is_empty())
}

#[cfg(test)]
#[path = "shape_tests.rs"]
mod tests;
