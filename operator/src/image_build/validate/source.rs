//! The source of a build as strings become types: URLs, names of git references, paths. Pure.

use std::time::Duration;

use crds::image_build::{GitSource, HttpSource, OciSource, Source};

use crds::LocalReference;

use super::{Checked, invalid};
use crate::git::{GitRef, discovery_url, is_commit};
use crate::image_build::tag::Values;

/// An interval shorter than this would be an attack on the git server.
const MIN_INTERVAL: Duration = Duration::from_secs(5);

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
        /// Secret with `username` and `password`, and perhaps `ca.crt`.
        secret: Option<String>,
        /// Secret with `ca.crt`.
        ca_secret: Option<String>,
        /// How often it is looked up.
        interval: Duration,
    },
    /// An archive.
    Http {
        /// Its URL, without credentials.
        url: String,
        /// The digest that it must have.
        checksum: Option<String>,
        /// Secret with `username` and `password`, and perhaps `ca.crt`.
        secret: Option<String>,
        /// Secret with `ca.crt`.
        ca_secret: Option<String>,
    },
    /// An artifact or image.
    Oci {
        /// Its name, with tag or digest.
        image: oci::Reference,
        /// Secret of type kubernetes.io/dockerconfigjson.
        secret: Option<String>,
        /// Secret with `ca.crt`.
        ca_secret: Option<String>,
        /// How often a tag is looked up.
        interval: Duration,
    },
    /// The files of a ConfigMap.
    ConfigMap {
        /// Its name.
        name: String,
    },
    /// The files of a PersistentVolumeClaim.
    Claim {
        /// Its name.
        name: String,
    },
}

impl SourceSpec {
    /// The Secret of the source.
    pub fn secret(&self) -> Option<&str> {
        match self {
            Self::Git { secret, .. } | Self::Http { secret, .. } => secret.as_deref(),
            Self::Empty | Self::Oci { .. } | Self::ConfigMap { .. } | Self::Claim { .. } => None,
        }
    }

    /// The Secret with which a registry is read for the source.
    pub fn registry_secret(&self) -> Option<&str> {
        match self {
            Self::Oci { secret, .. } => secret.as_deref(),
            _ => None,
        }
    }

    /// The Secret that is named for its `ca.crt`, which vouches for the server of the source.
    pub fn ca_secret(&self) -> Option<&str> {
        match self {
            Self::Git { ca_secret, .. }
            | Self::Http { ca_secret, .. }
            | Self::Oci { ca_secret, .. } => ca_secret.as_deref(),
            Self::Empty | Self::ConfigMap { .. } | Self::Claim { .. } => None,
        }
    }

    /// The Secret whose `ca.crt` counts, if it has one: that of the credentials where none is named for it.
    pub fn ca_from(&self) -> Option<&str> {
        self.ca_secret().or(self.secret())
    }

    /// All Secrets of the source, of registries apart: that of the credentials first.
    pub fn secrets(&self) -> impl Iterator<Item = &str> {
        self.secret().into_iter().chain(self.ca_secret())
    }

    /// The ConfigMap of the source.
    pub fn config_map(&self) -> Option<&str> {
        match self {
            Self::ConfigMap { name } => Some(name),
            _ => None,
        }
    }

    /// The claim of the source.
    pub fn claim(&self) -> Option<&str> {
        match self {
            Self::Claim { name } => Some(name),
            _ => None,
        }
    }

    /// Whether the key of a build changes with what the source holds.
    pub fn shows_changes(&self) -> bool {
        match self {
            Self::Http { checksum, .. } => checksum.is_some(),
            Self::Claim { .. } => false,
            Self::Empty | Self::Git { .. } | Self::Oci { .. } | Self::ConfigMap { .. } => true,
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

pub(super) fn source(source: Option<&Source>) -> Checked<SourceSpec> {
    let Some(source) = source else {
        return Ok(SourceSpec::Empty);
    };
    let mounted = [&source.config_map, &source.persistent_volume_claim];
    match (&source.git, &source.http, &source.oci, mounted) {
        (None, None, None, [None, None]) => Ok(SourceSpec::Empty),
        (Some(git), None, None, [None, None]) => git_source(git),
        (None, Some(http), None, [None, None]) => http_source(http),
        (None, None, Some(oci), [None, None]) => oci_source(oci),
        (None, None, None, [Some(reference), None]) => Ok(SourceSpec::ConfigMap {
            name: reference.name.clone(),
        }),
        (None, None, None, [None, Some(reference)]) => Ok(SourceSpec::Claim {
            name: reference.name.clone(),
        }),
        _ => Err(invalid(
            "spec.source needs at most one of git, http, oci, configMap and persistentVolumeClaim",
        )),
    }
}

fn named(secret: Option<&LocalReference>) -> Option<String> {
    secret.map(|secret| secret.name.clone())
}

fn oci_source(source: &OciSource) -> Checked<SourceSpec> {
    let image: oci::Reference = source
        .image
        .parse()
        .map_err(|error| invalid(format!("spec.source.oci.image: {error}")))?;
    let interval = source
        .interval()
        .map_err(|error| invalid(format!("spec.source.oci.interval: {error}")))?;
    Ok(SourceSpec::Oci {
        image: image.or_latest(),
        secret: named(source.secret_ref.as_ref()),
        ca_secret: named(source.ca_secret_ref.as_ref()),
        interval: interval.max(MIN_INTERVAL),
    })
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
        secret: named(git.secret_ref.as_ref()),
        ca_secret: named(git.ca_secret_ref.as_ref()),
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
        "http" if http.ca_secret_ref.is_some() => {
            return Err(invalid(format!(
                "{field}: http has no certificates that caSecretRef could vouch for; use https"
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
        secret: named(http.secret_ref.as_ref()),
        ca_secret: named(http.ca_secret_ref.as_ref()),
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
pub(super) fn inner_path(field: &str, path: &str) -> Checked<String> {
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
