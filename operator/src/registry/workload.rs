//! The Kubernetes objects of a Registry, each built from validated values. Pure.

use std::collections::BTreeMap;

use crds::Registry;
use crds::registry::WhenDeleted;
use k8s_openapi::ByteString;
use k8s_openapi::api::apps::v1::{Deployment, DeploymentSpec, DeploymentStrategy};
use k8s_openapi::api::core::v1::{
    Capabilities, Container, ContainerPort, EmptyDirVolumeSource, EnvVar, HTTPGetAction,
    LocalObjectReference, PersistentVolumeClaim, PersistentVolumeClaimSpec,
    PersistentVolumeClaimVolumeSource, PodSecurityContext, PodSpec, PodTemplateSpec, Probe,
    ResourceRequirements, SeccompProfile, Secret, SecretVolumeSource, SecurityContext, Service,
    ServicePort, ServiceSpec, Volume, VolumeMount, VolumeResourceRequirements,
};
use k8s_openapi::apimachinery::pkg::api::resource::Quantity;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{LabelSelector, ObjectMeta};
use k8s_openapi::apimachinery::pkg::util::intstr::IntOrString;
use kube::ResourceExt;

use crate::plan::{NAME_LABEL, UID_LABEL, child_labels, child_meta};
use crate::registry::config::{CONFIG_DIRECTORY, DATA_DIRECTORY, DEBUG_PORT};
use crate::registry::observe::Image;
use crate::registry::validate::Storage;
use crate::registry::{PORT, config_name, credentials_name};

/// Annotation of the pod with the hash of its configuration.
pub const CONFIG_HASH_ANNOTATION: &str = "coopery.dev/config-hash";
/// User and group of the registry: not root, and no user of the image.
const USER: i64 = 65532;

/// The Secret with the generated user.
pub fn credentials_secret(registry: &Registry, data: BTreeMap<String, ByteString>) -> Secret {
    Secret {
        metadata: child_meta(registry, credentials_name(&registry.name_any())),
        type_: Some("kubernetes.io/dockerconfigjson".to_owned()),
        data: Some(data),
        ..Secret::default()
    }
}

/// The Secret with the configuration.
pub fn config_secret(registry: &Registry, data: BTreeMap<String, ByteString>) -> Secret {
    Secret {
        metadata: child_meta(registry, config_name(&registry.name_any())),
        type_: Some("Opaque".to_owned()),
        data: Some(data),
        ..Secret::default()
    }
}

/// The claim with the images. It has an owner only when it is to go with the Registry.
pub fn claim(
    registry: &Registry,
    size: &str,
    class: Option<&str>,
    when_deleted: WhenDeleted,
) -> PersistentVolumeClaim {
    let mut metadata = child_meta(registry, registry.name_any());
    if when_deleted == WhenDeleted::Retain {
        metadata.owner_references = None;
    }
    PersistentVolumeClaim {
        metadata,
        spec: Some(PersistentVolumeClaimSpec {
            access_modes: Some(vec!["ReadWriteOnce".to_owned()]),
            storage_class_name: class.map(str::to_owned),
            resources: Some(VolumeResourceRequirements {
                requests: Some(BTreeMap::from([(
                    "storage".to_owned(),
                    Quantity(size.to_owned()),
                )])),
                limits: None,
            }),
            ..PersistentVolumeClaimSpec::default()
        }),
        status: None,
    }
}

/// The Service that gives the registry its name.
pub fn service(registry: &Registry) -> Service {
    Service {
        metadata: child_meta(registry, registry.name_any()),
        spec: Some(ServiceSpec {
            type_: Some("ClusterIP".to_owned()),
            selector: Some(selector(registry)),
            ports: Some(vec![ServicePort {
                name: Some("registry".to_owned()),
                port: PORT,
                protocol: Some("TCP".to_owned()),
                target_port: Some(IntOrString::String("registry".to_owned())),
                ..ServicePort::default()
            }]),
            ..ServiceSpec::default()
        }),
        status: None,
    }
}

/// The Deployment of the registry. A pod is recreated, never rolled: two must not write to one filesystem.
pub fn deployment(
    registry: &Registry,
    image: &Image,
    storage: &Storage,
    config_hash: &str,
) -> Deployment {
    Deployment {
        metadata: child_meta(registry, registry.name_any()),
        spec: Some(DeploymentSpec {
            replicas: Some(1),
            revision_history_limit: Some(2),
            selector: LabelSelector {
                match_labels: Some(selector(registry)),
                match_expressions: None,
            },
            strategy: Some(DeploymentStrategy {
                type_: Some("Recreate".to_owned()),
                rolling_update: None,
            }),
            template: PodTemplateSpec {
                metadata: Some(ObjectMeta {
                    labels: Some(child_labels(registry)),
                    annotations: Some(BTreeMap::from([(
                        CONFIG_HASH_ANNOTATION.to_owned(),
                        config_hash.to_owned(),
                    )])),
                    ..ObjectMeta::default()
                }),
                spec: Some(pod(registry, image, storage)),
            },
            ..DeploymentSpec::default()
        }),
        status: None,
    }
}

/// The labels by which Service and Deployment know their pods.
fn selector(registry: &Registry) -> BTreeMap<String, String> {
    child_labels(registry)
        .into_iter()
        .filter(|(key, _)| key == NAME_LABEL || key == UID_LABEL)
        .collect()
}

/// The pod: it passes Pod Security restricted and has no token of the API server.
fn pod(registry: &Registry, image: &Image, storage: &Storage) -> PodSpec {
    PodSpec {
        automount_service_account_token: Some(false),
        // A Service named `registry` would otherwise set REGISTRY_PORT, which distribution takes for configuration.
        enable_service_links: Some(false),
        termination_grace_period_seconds: Some(30),
        security_context: Some(PodSecurityContext {
            run_as_non_root: Some(true),
            run_as_user: Some(USER),
            run_as_group: Some(USER),
            fs_group: Some(USER),
            fs_group_change_policy: Some("OnRootMismatch".to_owned()),
            seccomp_profile: Some(SeccompProfile {
                type_: "RuntimeDefault".to_owned(),
                localhost_profile: None,
            }),
            ..PodSecurityContext::default()
        }),
        image_pull_secrets: (!image.pull_secrets.is_empty()).then(|| {
            let secrets = image.pull_secrets.iter().cloned();
            secrets.map(|name| LocalObjectReference { name }).collect()
        }),
        containers: vec![container(image)],
        volumes: Some(vec![
            Volume {
                name: "config".to_owned(),
                secret: Some(SecretVolumeSource {
                    secret_name: Some(config_name(&registry.name_any())),
                    default_mode: Some(0o440),
                    ..SecretVolumeSource::default()
                }),
                ..Volume::default()
            },
            data_volume(registry, storage),
        ]),
        ..PodSpec::default()
    }
}

fn data_volume(registry: &Registry, storage: &Storage) -> Volume {
    let mut volume = Volume {
        name: "data".to_owned(),
        ..Volume::default()
    };
    match storage {
        Storage::Claim { .. } => {
            volume.persistent_volume_claim = Some(PersistentVolumeClaimVolumeSource {
                claim_name: registry.name_any(),
                read_only: None,
            });
        }
        Storage::EmptyDir { limit } => {
            volume.empty_dir = Some(EmptyDirVolumeSource {
                medium: None,
                size_limit: limit.clone().map(Quantity),
            });
        }
    }
    volume
}

fn container(image: &Image) -> Container {
    Container {
        name: "registry".to_owned(),
        image: Some(image.name.clone()),
        image_pull_policy: Some(image.pull_policy.as_str().to_owned()),
        command: Some(vec![
            "registry".to_owned(),
            "serve".to_owned(),
            format!("{CONFIG_DIRECTORY}/config.yml"),
        ]),
        env: Some(vec![EnvVar {
            name: "OTEL_TRACES_EXPORTER".to_owned(),
            value: Some("none".to_owned()),
            value_from: None,
        }]),
        ports: Some(vec![port("registry", PORT), port("debug", DEBUG_PORT)]),
        startup_probe: Some(probe("/", "registry", 1, 60)),
        liveness_probe: Some(probe("/", "registry", 10, 3)),
        readiness_probe: Some(probe("/debug/health", "debug", 5, 2)),
        resources: Some(ResourceRequirements {
            requests: Some(BTreeMap::from([
                ("cpu".to_owned(), Quantity("50m".to_owned())),
                ("memory".to_owned(), Quantity("64Mi".to_owned())),
            ])),
            ..ResourceRequirements::default()
        }),
        security_context: Some(SecurityContext {
            allow_privilege_escalation: Some(false),
            read_only_root_filesystem: Some(true),
            capabilities: Some(Capabilities {
                add: None,
                drop: Some(vec!["ALL".to_owned()]),
            }),
            ..SecurityContext::default()
        }),
        volume_mounts: Some(vec![
            VolumeMount {
                name: "config".to_owned(),
                mount_path: CONFIG_DIRECTORY.to_owned(),
                read_only: Some(true),
                ..VolumeMount::default()
            },
            VolumeMount {
                name: "data".to_owned(),
                mount_path: DATA_DIRECTORY.to_owned(),
                ..VolumeMount::default()
            },
        ]),
        ..Container::default()
    }
}

fn port(name: &str, number: i32) -> ContainerPort {
    ContainerPort {
        name: Some(name.to_owned()),
        container_port: number,
        protocol: Some("TCP".to_owned()),
        ..ContainerPort::default()
    }
}

fn probe(path: &str, port: &str, period: i32, failures: i32) -> Probe {
    Probe {
        http_get: Some(HTTPGetAction {
            path: Some(path.to_owned()),
            port: IntOrString::String(port.to_owned()),
            ..HTTPGetAction::default()
        }),
        period_seconds: Some(period),
        timeout_seconds: Some(5),
        failure_threshold: Some(failures),
        ..Probe::default()
    }
}
