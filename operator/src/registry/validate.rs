//! Reads the spec of a Registry into types that cannot be wrong, and refuses children of somebody else. Pure.

use crds::Registry;
use crds::registry::WhenDeleted;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use kube::{Resource, ResourceExt};

use crate::apply::name_conflict;
use crate::error::{Error, Result};
use crate::plan::{KIND_LABEL, MANAGED_BY_LABEL, NAME_LABEL, is_owned_by};
use crate::reason::Reason;
use crate::registry::observe::Observed;
use crate::registry::{config_name, credentials_name};

/// What a Registry is to be.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Validated {
    /// Where the images are kept.
    pub storage: Storage,
}

/// Where the images are kept.
#[derive(Clone, Debug, Eq, PartialEq)]
pub enum Storage {
    /// A claim.
    Claim {
        /// Size, a quantity.
        size: String,
        /// Storage class; `None` is the cluster's default.
        class: Option<String>,
        /// What happens to it with the Registry.
        when_deleted: WhenDeleted,
    },
    /// A directory of the pod.
    EmptyDir {
        /// Limit of its size, a quantity.
        limit: Option<String>,
    },
}

/// Reads the spec of `registry` and looks whether the names of its children are free or its own.
pub fn validate(registry: &Registry, observed: &Observed) -> Result<Validated> {
    let storage = &registry.spec.managed.storage;
    let storage = match (&storage.persistent_volume_claim, &storage.empty_dir) {
        (Some(claim), None) => Storage::Claim {
            size: claim.size.clone(),
            class: claim.storage_class_name.clone(),
            when_deleted: claim.when_deleted(),
        },
        (None, Some(directory)) => Storage::EmptyDir {
            limit: directory.size_limit.clone(),
        },
        _ => {
            return Err(Error::terminal(
                Reason::InvalidSpec,
                "spec.managed.storage needs exactly one of persistentVolumeClaim and emptyDir",
            ));
        }
    };
    let name = registry.name_any();
    let uid = registry.uid().unwrap_or_default();
    owned(
        "Secret",
        &credentials_name(&name),
        observed.credentials.as_ref(),
        &uid,
    )?;
    owned(
        "Secret",
        &config_name(&name),
        observed.config.as_ref(),
        &uid,
    )?;
    owned("Service", &name, observed.service.as_ref(), &uid)?;
    owned("Deployment", &name, observed.deployment.as_ref(), &uid)?;
    if let (Storage::Claim { .. }, Some(claim)) = (&storage, &observed.claim)
        && !is_owned_by(&claim.metadata, &uid)
        && !is_left_behind(&claim.metadata, &name)
    {
        return Err(name_conflict("PersistentVolumeClaim", &name));
    }
    Ok(Validated { storage })
}

fn owned<K: Resource>(kind: &str, name: &str, child: Option<&K>, uid: &str) -> Result<()> {
    match child {
        Some(child) if is_owned_by(child.meta(), uid) => Ok(()),
        Some(child) if is_going(child.meta()) => Err(Error::transient(
            Reason::NameConflict,
            format!("{kind} {name} of an earlier Registry is still being deleted"),
        )),
        Some(_) => Err(name_conflict(kind, name)),
        None => Ok(()),
    }
}

/// Whether an object is being deleted, or will be since it belongs to a Registry that is gone.
fn is_going(meta: &ObjectMeta) -> bool {
    let of_registry = meta
        .owner_references
        .iter()
        .flatten()
        .any(|owner| owner.kind == "Registry" && owner.controller == Some(true));
    meta.deletion_timestamp.is_some() || of_registry
}

/// Whether a claim was made by an earlier Registry of this name and kept: it is adopted.
fn is_left_behind(meta: &ObjectMeta, name: &str) -> bool {
    let label = |key: &str| {
        meta.labels
            .as_ref()
            .and_then(|labels| labels.get(key))
            .map(String::as_str)
    };
    meta.owner_references.iter().flatten().next().is_none()
        && label(MANAGED_BY_LABEL) == Some("coopery")
        && label(KIND_LABEL) == Some("Registry")
        && label(NAME_LABEL) == Some(name)
}
