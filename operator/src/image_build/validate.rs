//! Reads the spec of an ImageBuild into types that cannot be wrong. The API server has checked most of it by CEL; a rule
//! is checked again here where breaking it would let somebody do what they may not. Pure.

use std::collections::BTreeMap;
use std::time::Duration;

use crds::image_build::{
    Destination, Dockerfile, GitSource, HttpSource, ImageBuildSpec, Isolation, Source,
};
use oci::Repository;
use protocol::DockerfileSpec;

use super::observed::RegistryState;
use super::tag::{TagTemplate, Values};
use crate::git::{GitRef, discovery_url, is_commit};
use crate::reason::Reason;

/// Room for Dockerfile, arguments and labels in the request: annotations hold 256 KiB together.
const MAX_DOCKERFILE_BYTES: usize = 200 * 1024;
/// An interval shorter than this would be an attack on the git server.
const MIN_INTERVAL: Duration = Duration::from_secs(5);

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
    /// Where the image goes.
    pub destinations: Vec<DestinationSpec>,
    /// Secrets for images that are read.
    pub pull_secrets: Vec<String>,
    /// How long a pod may run.
    pub timeout: Duration,
    /// How RUN is to be isolated.
    pub isolation: Isolation,
}

/// Where a context comes from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum SourceSpec {
    /// There is none.
    Empty,
    /// A git repository.
    Git {
        /// The repository, `https:` without credentials.
        url: String,
        /// What is built of it.
        reference: GitRef,
        /// Secret with `username` and `password`, and `ca.crt`.
        secret: Option<String>,
        /// How often it is looked up.
        interval: Duration,
    },
    /// An archive.
    Http {
        /// Its URL, without credentials.
        url: String,
        /// The digest that it must have.
        checksum: Option<String>,
        /// Secret with `username` and `password`, and `ca.crt`.
        secret: Option<String>,
    },
    /// The files of a ConfigMap.
    ConfigMap {
        /// Its name.
        name: String,
    },
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

impl SourceSpec {
    /// The Secret of the source.
    pub fn secret(&self) -> Option<&str> {
        match self {
            Self::Git { secret, .. } | Self::Http { secret, .. } => secret.as_deref(),
            Self::Empty | Self::ConfigMap { .. } => None,
        }
    }

    /// The ConfigMap of the source.
    pub fn config_map(&self) -> Option<&str> {
        match self {
            Self::ConfigMap { name } => Some(name),
            _ => None,
        }
    }

    /// The values of tag variables at `commit`.
    pub fn values(&self, commit: Option<&str>) -> Values {
        let Self::Git { reference, .. } = self else {
            return Values::default();
        };
        let (branch, tag) = match reference {
            GitRef::Branch(name) => (Some(name.clone()), None),
            GitRef::Tag(name) => (None, Some(name.clone())),
            GitRef::Commit(_) => (None, None),
        };
        Values {
            commit: commit.map(str::to_owned),
            branch,
            tag,
        }
    }
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
        let of_destinations = self.destinations.iter().filter_map(DestinationSpec::secret);
        let mut names = Vec::new();
        for name in of_destinations.chain(self.pull_secrets.iter().cloned()) {
            if !names.contains(&name) {
                names.push(name);
            }
        }
        names
    }

    /// Names of the Registries that are pushed to.
    pub fn registries(&self) -> Vec<&str> {
        let mut names: Vec<&str> = self
            .destinations
            .iter()
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
    let source = source(spec.source.as_ref())?;
    let dockerfile = dockerfile(spec.dockerfile.as_ref())?;
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
            .map(|path| inner_path("spec.source.subdirectory", path))
            .transpose()?
            .unwrap_or_default(),
        dockerfile,
        destinations,
        pull_secrets: spec
            .image_pull_secrets
            .iter()
            .map(|reference| reference.name.clone())
            .collect(),
        timeout,
        isolation: spec
            .isolation()
            .ok_or_else(|| invalid("spec.isolation must be Auto, UserNamespace or NoRun"))?,
    })
}

fn source(source: Option<&Source>) -> Checked<SourceSpec> {
    let Some(source) = source else {
        return Ok(SourceSpec::Empty);
    };
    match (&source.git, &source.http, &source.config_map) {
        (None, None, None) => Ok(SourceSpec::Empty),
        (Some(git), None, None) => git_source(git),
        (None, Some(http), None) => http_source(http),
        (None, None, Some(reference)) => Ok(SourceSpec::ConfigMap {
            name: reference.name.clone(),
        }),
        _ => Err(invalid(
            "spec.source needs at most one of git, http and configMap",
        )),
    }
}

fn git_source(git: &GitSource) -> Checked<SourceSpec> {
    discovery_url(&git.url).map_err(|what| {
        invalid(format!(
            "spec.source.git.url: {what}; it must be https://host/path"
        ))
    })?;
    let wanted = &git.reference;
    let reference = match (&wanted.branch, &wanted.tag, &wanted.commit) {
        (Some(name), None, None) => GitRef::Branch(ref_name("spec.source.git.ref.branch", name)?),
        (None, Some(name), None) => GitRef::Tag(ref_name("spec.source.git.ref.tag", name)?),
        (None, None, Some(hash)) if is_commit(hash) => GitRef::Commit(hash.clone()),
        (None, None, Some(_)) => {
            return Err(invalid(
                "spec.source.git.ref.commit must be the whole hash: 40 or 64 lower-case hexadecimal digits",
            ));
        }
        _ => {
            return Err(invalid(
                "spec.source.git.ref needs exactly one of branch, tag and commit",
            ));
        }
    };
    let interval = git
        .interval()
        .map_err(|error| invalid(format!("spec.source.git.interval: {error}")))?;
    Ok(SourceSpec::Git {
        url: git.url.clone(),
        reference,
        secret: git.secret_ref.as_ref().map(|secret| secret.name.clone()),
        interval: interval.max(MIN_INTERVAL),
    })
}

fn http_source(http: &HttpSource) -> Checked<SourceSpec> {
    let field = "spec.source.http.url";
    let url = url::Url::parse(&http.url).map_err(|_| {
        invalid(format!(
            "{field} is not a URL: it must be https://host/path"
        ))
    })?;
    if !url.username().is_empty() || url.password().is_some() {
        return Err(invalid(format!(
            "{field}: credentials belong into a Secret, named by secretRef"
        )));
    }
    match url.scheme() {
        "http" if http.checksum.is_none() || http.secret_ref.is_some() => {
            return Err(invalid(format!(
                "{field}: http needs a checksum and cannot carry credentials; use https"
            )));
        }
        "https" | "http" => {}
        _ => {
            return Err(invalid(format!(
                "{field}: only https and http are supported"
            )));
        }
    }
    if let Some(checksum) = &http.checksum {
        checksum
            .parse::<oci::Digest>()
            .map_err(|error| invalid(format!("spec.source.http.checksum: {error}")))?;
    }
    Ok(SourceSpec::Http {
        url: http.url.clone(),
        checksum: http.checksum.clone(),
        secret: http.secret_ref.as_ref().map(|secret| secret.name.clone()),
    })
}

/// The name of a branch or tag, as far as git-check-ref-format(1) matters for safety.
fn ref_name(field: &str, name: &str) -> Checked<String> {
    let forbidden = |c: char| c.is_control() || c.is_whitespace() || "~^:?*[\\".contains(c);
    let bad = name.is_empty()
        || name.starts_with(['-', '/'])
        || name.ends_with(['/', '.'])
        || name.contains("..")
        || name.contains("//")
        || name.contains("@{")
        || name.contains(forbidden);
    if bad {
        Err(invalid(format!(
            "{field}: `{}` is not the name of a git reference",
            name.escape_default()
        )))
    } else {
        Ok(name.to_owned())
    }
}

/// A path inside the source.
fn inner_path(field: &str, path: &str) -> Checked<String> {
    if path.starts_with('/')
        || path.contains(['\0', '\\'])
        || path.split('/').any(|component| component == "..")
    {
        return Err(invalid(format!(
            "{field}: `{}` must be a relative path without `..`",
            path.escape_default()
        )));
    }
    Ok(path.to_owned())
}

fn dockerfile(dockerfile: Option<&Dockerfile>) -> Checked<DockerfileSpec> {
    let Some(dockerfile) = dockerfile else {
        return Ok(DockerfileSpec::default());
    };
    if dockerfile.path.is_some() && dockerfile.inline.is_some() {
        return Err(invalid(
            "spec.dockerfile needs at most one of path and inline",
        ));
    }
    let read = DockerfileSpec {
        path: dockerfile
            .path
            .as_deref()
            .map(|path| inner_path("spec.dockerfile.path", path))
            .transpose()?
            .unwrap_or_default(),
        inline: dockerfile.inline.clone(),
        target: dockerfile.target.clone(),
        build_args: dockerfile.build_args.clone(),
        labels: dockerfile.labels.clone(),
        no_cache: dockerfile.no_cache.unwrap_or(false),
        ..DockerfileSpec::default()
    };
    let size = serde_json::to_string(&read).map_or(0, |json| json.len());
    if size > MAX_DOCKERFILE_BYTES {
        return Err(invalid(format!(
            "spec.dockerfile has {size} bytes as JSON, the most is {MAX_DOCKERFILE_BYTES}: put the Dockerfile into a ConfigMap or a repository"
        )));
    }
    Ok(read)
}

fn destination(item: &Destination, field: &str, values: &Values) -> Checked<DestinationSpec> {
    let target = match (&item.registry, &item.repository, &item.image) {
        (Some(registry), Some(path), None) => Target::Registry {
            name: registry.name.clone(),
            path: path.clone(),
        },
        (None, None, Some(image)) => Target::Image {
            repository: image
                .parse()
                .map_err(|error| invalid(format!("{field}.image: {error}")))?,
            secret: item.secret_ref.as_ref().map(|secret| secret.name.clone()),
        },
        _ => {
            return Err(invalid(format!(
                "{field} needs either registry and repository, or image"
            )));
        }
    };
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
