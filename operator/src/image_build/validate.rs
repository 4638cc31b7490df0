//! Reads the spec of an ImageBuild into types that cannot be wrong. The API server has checked most of it by CEL; a rule
//! is checked again here where breaking it would let somebody do what they may not. Pure.

use std::collections::BTreeMap;
use std::time::Duration;

use crds::common::LocalReference;
use crds::image_build::{Destination, ImageBuildSpec, Isolation};
use oci::Repository;
use protocol::DockerfileSpec;

use super::observed::RegistryState;
use super::tag::{TagTemplate, Values};
use crate::reason::Reason;

mod cache;
mod dockerfile;
mod input;
mod source;

pub use cache::{CacheSpec, VolumeSpec};
pub use dockerfile::SecretSpec;
pub use input::{InputSpec, RebuildSpec};
pub use source::SourceSpec;

/// What is wrong with a spec.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Violation {
    /// The reason in conditions.
    pub reason: Reason,
    /// The field and what is wrong with it.
    pub message: String,
}

/// A spec that can be carried out.
#[derive(Clone, Debug, PartialEq)]
pub struct ValidatedBuild {
    /// Where the context comes from.
    pub source: SourceSpec,
    /// The context's directory inside the source; empty for its top.
    pub subdirectory: String,
    /// What to build.
    pub dockerfile: DockerfileSpec,
    /// Files for RUN, in the order in which the pod has them.
    pub secrets: Vec<SecretSpec>,
    /// Images of other builds.
    pub inputs: Vec<InputSpec>,
    /// When an image that is there is built anew.
    pub rebuild: RebuildSpec,
    /// Where the image goes.
    pub destinations: Vec<DestinationSpec>,
    /// What is kept for later builds.
    pub cache: CacheSpec,
    /// Secrets for images that are read.
    pub pull_secrets: Vec<String>,
    /// Whether images are taken from mirrors of the namespace.
    pub uses_mirrors: bool,
    /// How long a pod may run.
    pub timeout: Duration,
    /// How RUN is to be isolated.
    pub isolation: Isolation,
}

/// A place that the image is pushed to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DestinationSpec {
    /// Its name in the resource.
    pub name: String,
    /// Registry and repository.
    pub target: Target,
    /// The tags.
    pub tags: Vec<TagTemplate>,
}

/// Registry and repository of a destination.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Target {
    /// A Registry of the same namespace.
    Registry {
        /// Name of the Registry.
        name: String,
        /// Path in it.
        path: String,
    },
    /// Any registry.
    Image {
        /// Host and path.
        repository: Repository,
        /// Secret of type kubernetes.io/dockerconfigjson.
        secret: Option<String>,
    },
}

impl DestinationSpec {
    /// `host/repository` of the destination; none while the Registry that it names does not serve.
    pub fn repository(&self, registries: &BTreeMap<String, RegistryState>) -> Option<String> {
        self.parsed(registries)
            .map(|repository| repository.to_string())
    }

    /// The same as a parsed name; none also where host and path together are no name.
    pub fn parsed(&self, registries: &BTreeMap<String, RegistryState>) -> Option<Repository> {
        match &self.target {
            Target::Image { repository, .. } => Some(repository.clone()),
            Target::Registry { name, path } => match registries.get(name)? {
                RegistryState::Ready { host } => Repository::new(host.clone(), path).ok(),
                _ => None,
            },
        }
    }

    /// The Secret with which is pushed.
    pub fn secret(&self) -> Option<String> {
        match &self.target {
            Target::Registry { name, .. } => Some(registry_secret(name)),
            Target::Image { secret, .. } => secret.clone(),
        }
    }
}

impl ValidatedBuild {
    /// Names of Secrets of type kubernetes.io/dockerconfigjson, in the order in which credentials are looked for:
    /// those that may push come first, for they can also read.
    pub fn registry_secrets(&self) -> Vec<String> {
        let of_destinations = self.places().filter_map(DestinationSpec::secret);
        let mut names = Vec::new();
        let of_source = self.source.registry_secret().map(str::to_owned);
        let to_read = of_source
            .into_iter()
            .chain(self.pull_secrets.iter().cloned());
        for name in of_destinations.chain(to_read) {
            if !names.contains(&name) {
                names.push(name);
            }
        }
        names
    }

    /// All places that are written to: the destinations, and that of the cache.
    fn places(&self) -> impl Iterator<Item = &DestinationSpec> {
        let cache = self.cache.registry.iter().map(|(place, _)| place);
        self.destinations.iter().chain(cache)
    }

    /// Names of the claims that the pod mounts.
    pub fn claims(&self) -> Vec<&str> {
        let cache = self.cache.volume.as_ref().map(|volume| &*volume.claim);
        self.source.claim().into_iter().chain(cache).collect()
    }

    /// Names of the Registries that are pushed to.
    pub fn registries(&self) -> Vec<&str> {
        let mut names: Vec<&str> = self
            .places()
            .filter_map(|destination| match &destination.target {
                Target::Registry { name, .. } => Some(name.as_str()),
                Target::Image { .. } => None,
            })
            .collect();
        names.sort_unstable();
        names.dedup();
        names
    }
}

/// The Secret with the credentials of the Registry `name`.
pub fn registry_secret(name: &str) -> String {
    format!("{name}-credentials")
}

type Checked<T> = Result<T, Violation>;

fn invalid(message: impl Into<String>) -> Violation {
    Violation {
        reason: Reason::InvalidSpec,
        message: message.into(),
    }
}

/// Reads `spec`.
///
/// # Errors
/// The first rule that it breaks, with the field.
pub fn validate(spec: &ImageBuildSpec) -> Checked<ValidatedBuild> {
    let source = source::source(spec.source.as_ref())?;
    let dockerfile = dockerfile::dockerfile(spec.dockerfile.as_ref())?;
    if source == SourceSpec::Empty && dockerfile.inline.is_none() {
        return Err(invalid(
            "there is no Dockerfile: set spec.source, or spec.dockerfile.inline",
        ));
    }
    let subdirectory = spec.source.as_ref().and_then(|s| s.subdirectory.as_deref());
    let timeout = spec
        .timeout()
        .map_err(|error| invalid(format!("spec.timeout: {error}")))?;
    if timeout.is_zero() {
        return Err(invalid("spec.timeout must be at least 1s"));
    }
    // Any commit will do to see whether every variable has a value and every result is a tag.
    let values = match &source {
        SourceSpec::Git { .. } => source.values(Some(&"0".repeat(40))),
        _ => Values::default(),
    };
    let destinations = spec
        .destinations
        .iter()
        .enumerate()
        .map(|(index, item)| destination(item, &format!("spec.destinations[{index}]"), &values))
        .collect::<Checked<Vec<_>>>()?;
    if destinations.is_empty() {
        return Err(invalid("spec.destinations needs at least one entry"));
    }
    Ok(ValidatedBuild {
        source,
        subdirectory: subdirectory
            .map(|path| source::inner_path("spec.source.subdirectory", path))
            .transpose()?
            .unwrap_or_default(),
        inputs: input::inputs(&spec.inputs, &dockerfile.build_args)?,
        rebuild: input::rebuild(spec.rebuild.as_ref())?,
        secrets: dockerfile::secrets(spec.dockerfile.as_ref()),
        dockerfile,
        destinations,
        cache: cache::cache(spec.cache.as_ref())?,
        pull_secrets: spec
            .image_pull_secrets
            .iter()
            .map(|reference| reference.name.clone())
            .collect(),
        uses_mirrors: spec
            .dockerfile
            .as_ref()
            .and_then(|d| d.use_mirrors)
            .unwrap_or(true),
        timeout,
        isolation: spec
            .isolation()
            .ok_or_else(|| invalid("spec.isolation must be Auto, UserNamespace or NoRun"))?,
    })
}

/// A repository as the spec has it: Registry and path in it, or host and path.
type Place<'a> = (
    &'a Option<LocalReference>,
    &'a Option<String>,
    &'a Option<String>,
);

fn target(place: Place<'_>, secret: Option<&LocalReference>, field: &str) -> Checked<Target> {
    match place {
        (Some(registry), Some(path), None) => Ok(Target::Registry {
            name: registry.name.clone(),
            path: path.clone(),
        }),
        (None, None, Some(image)) => Ok(Target::Image {
            repository: image
                .parse()
                .map_err(|error| invalid(format!("{field}.image: {error}")))?,
            secret: secret.map(|secret| secret.name.clone()),
        }),
        _ => Err(invalid(format!(
            "{field} needs either registry and repository, or image"
        ))),
    }
}

fn destination(item: &Destination, field: &str, values: &Values) -> Checked<DestinationSpec> {
    let place = (&item.registry, &item.repository, &item.image);
    let target = target(place, item.secret_ref.as_ref(), field)?;
    let tags = item
        .tags
        .iter()
        .enumerate()
        .map(|(index, text)| {
            TagTemplate::parse(text)
                .and_then(|template| template.expand(values).map(|_| template))
                .map_err(|error| Violation {
                    reason: Reason::InvalidTag,
                    message: format!("{field}.tags[{index}]: {error}"),
                })
        })
        .collect::<Checked<Vec<_>>>()?;
    if tags.is_empty() {
        return Err(invalid(format!("{field}.tags needs at least one tag")));
    }
    Ok(DestinationSpec {
        name: item.name.clone(),
        target,
        tags,
    })
}

#[cfg(test)]
#[path = "validate_tests.rs"]
mod tests;
