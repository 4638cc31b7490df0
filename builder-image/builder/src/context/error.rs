//! Why a context could not be had.

use std::io;

use protocol::FailureKind;

use super::{UrlError, dockerignore::DockerignoreError};
use crate::{error::BaseError, tree::TreeError, unpack::UnpackError};

/// Why a context could not be had. No message holds a credential.
#[derive(Debug, thiserror::Error)]
pub enum ContextError {
    /// The URL of the source breaks a rule.
    #[error(transparent)]
    Url(#[from] UrlError),
    /// The commit or ref is not one.
    #[error("{what} `{value}` is refused: {problem}")]
    Revision {
        /// `commit` or `ref`.
        what: &'static str,
        /// What was given.
        value: String,
        /// What is wrong with it.
        problem: &'static str,
    },
    /// The credentials of the source are incomplete.
    #[error("the Secret of the source {0}")]
    Credentials(&'static str),
    /// The server refused the request.
    #[error("{url}: the server refuses access (status {status}): check the Secret of the source")]
    Unauthorized {
        /// The source.
        url: String,
        /// The status of HTTP.
        status: u16,
    },
    /// The server has no such thing.
    #[error("{url}: {problem}")]
    NotFound {
        /// The source.
        url: String,
        /// What is not there.
        problem: String,
    },
    /// The server answered with an error, or not at all.
    #[error("{url}: {problem}")]
    Unavailable {
        /// The source.
        url: String,
        /// What happened.
        problem: String,
    },
    /// The transport failed.
    #[error(transparent)]
    Transport(#[from] distribution::Error),
    /// `git` cannot be started.
    #[error("the program git cannot be started")]
    NoGit(#[source] io::Error),
    /// The content is not what was expected.
    #[error("{what} has the digest {found}, {expected} was expected")]
    Changed {
        /// What was fetched.
        what: &'static str,
        /// The digest that it has.
        found: String,
        /// The digest that was asked for.
        expected: String,
    },
    /// The source is larger than what is accepted.
    #[error("{what} is larger than {limit} bytes")]
    TooLarge {
        /// What was fetched.
        what: &'static str,
        /// The bound.
        limit: u64,
    },
    /// The archive cannot be unpacked.
    #[error("the archive of the source cannot be unpacked: {0}")]
    Archive(#[source] UnpackError),
    /// An artifact or image is not one that can be a source.
    #[error("{image}: {problem}")]
    Artifact {
        /// The name.
        image: String,
        /// What is wrong.
        problem: String,
    },
    /// The image of the source cannot be read.
    #[error("the image of the source: {0}")]
    Image(#[from] BaseError),
    /// Images are no sources here.
    #[error("an image cannot be the source of this build")]
    NoImages,
    /// The URL of a repository asks for what cannot be.
    #[error("git repository `{url}`: {problem}")]
    GitReference {
        /// The repository.
        url: String,
        /// What is wrong.
        problem: String,
    },
    /// What came from standard input or a URL is no context.
    #[error("the build context is neither a tar archive nor the text of a Dockerfile")]
    NeitherArchiveNorDockerfile,
    /// A context that was given a name cannot be had.
    #[error("the context `{name}`")]
    Named {
        /// Its name.
        name: String,
        /// Why.
        source: Box<Self>,
    },
    /// A path leads out of the source.
    #[error("subdirectory `{0}` leads out of the source")]
    Outside(String),
    /// The subdirectory is not there.
    #[error("the source has no directory `{0}`")]
    NoSubdirectory(String),
    /// The Dockerfile is not there.
    #[error("the context has no file `{0}`: name the Dockerfile's path inside the context")]
    NoDockerfile(String),
    /// The Dockerfile is not UTF-8.
    #[error("`{0}` is not text in UTF-8")]
    NotText(String),
    /// A `.dockerignore` is malformed.
    #[error("{name}: {source}")]
    Dockerignore {
        /// The file in the context.
        name: String,
        /// The line and what is wrong with it.
        source: DockerignoreError,
    },
    /// The context cannot be read.
    #[error(transparent)]
    Tree(#[from] TreeError),
    /// A system call failed.
    #[error("{doing} failed")]
    Io {
        /// What was being done.
        doing: String,
        /// How it failed.
        source: io::Error,
    },
}

impl ContextError {
    pub(crate) fn io(doing: impl Into<String>, source: impl Into<io::Error>) -> Self {
        Self::Io {
            doing: doing.into(),
            source: source.into(),
        }
    }

    /// The kind of failure that is reported.
    pub fn kind(&self) -> FailureKind {
        match self {
            Self::Url(_)
            | Self::Revision { .. }
            | Self::TooLarge { .. }
            | Self::Archive(_)
            | Self::GitReference { .. }
            | Self::Artifact { .. }
            | Self::NoImages
            | Self::NeitherArchiveNorDockerfile
            | Self::Outside(_) => FailureKind::SourceRefused,
            Self::Unauthorized { .. } | Self::Credentials(_) => FailureKind::SourceUnauthorized,
            Self::NotFound { .. } | Self::NoSubdirectory(_) | Self::NoDockerfile(_) => {
                FailureKind::SourceNotFound
            }
            Self::Unavailable { .. } => FailureKind::SourceUnavailable,
            Self::Transport(error) => match error {
                distribution::Error::AddressRefused { .. } => FailureKind::AddressRefused,
                distribution::Error::TooLarge { .. } => FailureKind::SourceRefused,
                distribution::Error::Unauthorized { .. } => FailureKind::SourceUnauthorized,
                distribution::Error::NotFound { .. } => FailureKind::SourceNotFound,
                _ => FailureKind::SourceUnavailable,
            },
            Self::Image(error) => match error.kind() {
                FailureKind::BaseImageNotFound => FailureKind::SourceNotFound,
                FailureKind::BaseImageUnauthorized => FailureKind::SourceUnauthorized,
                FailureKind::RegistryUnavailable => FailureKind::SourceUnavailable,
                other => other,
            },
            Self::Changed { .. } => FailureKind::SourceChanged,
            Self::Named { source, .. } => source.kind(),
            Self::NotText(_) | Self::Dockerignore { .. } => FailureKind::Dockerfile,
            Self::Io { source, .. } if source.kind() == io::ErrorKind::StorageFull => {
                FailureKind::OutOfDisk
            }
            Self::Tree(_) | Self::Io { .. } | Self::NoGit(_) => FailureKind::Internal,
        }
    }
}
