//! Reads the children of a Registry. Objects are read by name from the API server, not from a cache.

use crds::Registry;
use k8s_openapi::api::apps::v1::Deployment;
use k8s_openapi::api::core::v1::{PersistentVolumeClaim, Pod, Secret, Service};
use kube::{Resource, ResourceExt};

use crate::context::Context;
use crate::error::Result;
use crate::plan::{KIND_LABEL, UID_LABEL};
use crate::registry::{config_name, credentials_name};
use crate::settings::PullPolicy;

/// What a decision about a Registry depends on.
#[derive(Debug, Default)]
pub struct Observed {
    /// The Secret with the generated user.
    pub credentials: Option<Secret>,
    /// The Secret with the configuration.
    pub config: Option<Secret>,
    /// The claim, also of an earlier Registry of the same name.
    pub claim: Option<PersistentVolumeClaim>,
    /// The Service.
    pub service: Option<Service>,
    /// The Deployment.
    pub deployment: Option<Deployment>,
    /// The pods of the Deployment.
    pub pods: Vec<Pod>,
    /// A password to use if one is needed: chance comes in here.
    pub fresh_password: String,
    /// The image that registries run.
    pub image: Image,
}

/// The image that registries run, by the settings.
#[derive(Debug, Default)]
pub struct Image {
    /// Its name.
    pub name: String,
    /// When nodes pull it.
    pub pull_policy: PullPolicy,
    /// Secrets with which they do, in the namespace of the Registry.
    pub pull_secrets: Vec<String>,
}

/// Reads everything that a decision about `registry` depends on.
pub async fn observe(context: &Context, registry: &Registry) -> Result<Observed> {
    let name = registry.name_any();
    let namespace = registry.namespace().unwrap_or_default();
    let namespace = namespace.as_str();
    let selector = format!(
        "{KIND_LABEL}={},{UID_LABEL}={}",
        Registry::kind(&()),
        registry.uid().unwrap_or_default()
    );
    let (credentials_name, config_name) = (credentials_name(&name), config_name(&name));
    let (credentials, config, claim, service, deployment, pods) = futures::try_join!(
        context.get(namespace, &credentials_name),
        context.get(namespace, &config_name),
        context.get(namespace, &name),
        context.get(namespace, &name),
        context.get(namespace, &name),
        context.list(namespace, &selector),
    )?;
    Ok(Observed {
        credentials,
        config,
        claim,
        service,
        deployment,
        pods,
        fresh_password: random_password(),
        image: Image {
            name: context.settings.registry_image.clone(),
            pull_policy: context.settings.registry_image_pull_policy,
            pull_secrets: context.settings.registry_image_pull_secrets.clone(),
        },
    })
}

/// 32 random letters and digits: 190 bits.
fn random_password() -> String {
    use rand::Rng;
    rand::rng()
        .sample_iter(rand::distr::Alphanumeric)
        .take(32)
        .map(char::from)
        .collect()
}
