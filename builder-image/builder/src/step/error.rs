//! Why a step on files failed.

use crate::{
    context::{ContextError, dockerignore::DockerignoreError, pattern::PatternError},
    layer::LayerError,
    tree::{ImagePath, TreeError},
    unpack::UnpackError,
};

/// Why COPY, ADD or WORKDIR failed.
#[derive(Debug, thiserror::Error)]
pub enum StepError {
    /// A source that has no wildcard does not exist.
    #[error("`{0}`: no such file or directory")]
    SourceNotFound(String),
    /// Several sources and a destination that is no directory.
    #[error("several sources need a directory as destination: write `{0}/` instead of `{0}`")]
    DestinationNotADirectory(ImagePath),
    /// A directory of the image is where a file is to be written.
    #[error("cannot replace the directory {0} with a file")]
    ReplacesDirectory(ImagePath),
    /// A file of the image is where a directory is to be written.
    #[error("cannot copy the directory `{from}` to {to}, which is not a directory")]
    ReplacesFile {
        /// The source.
        from: ImagePath,
        /// What is in the way.
        to: ImagePath,
    },
    /// `--link` with an owner by name.
    #[error("--link does not look into the image, so --chown needs numbers instead of `{0}`")]
    NamedOwnerWithLink(String),
    /// A source is not a pattern.
    #[error(transparent)]
    Pattern(#[from] PatternError),
    /// A pattern of `--exclude` or `--parents` is malformed.
    #[error("`{pattern}` is not a pattern")]
    Filter {
        /// The pattern.
        pattern: String,
        /// Why.
        source: DockerignoreError,
    },
    /// A tree cannot be read.
    #[error(transparent)]
    Read(#[from] TreeError),
    /// The layer cannot be written.
    #[error(transparent)]
    Write(LayerError),
    /// An archive cannot be unpacked.
    #[error("`{archive}` cannot be unpacked")]
    Unpack {
        /// The archive.
        archive: String,
        /// Why.
        source: UnpackError,
    },
    /// A repository that was fetched cannot be read.
    #[error("reading the files of the repository failed")]
    Repository(#[source] Box<ContextError>),
    /// A file that was downloaded cannot be read.
    #[error("`{name}`: reading the downloaded file failed")]
    Download {
        /// The file.
        name: String,
        /// Why.
        source: std::io::Error,
    },
}

impl From<LayerError> for StepError {
    fn from(error: LayerError) -> Self {
        match error {
            LayerError::Read(error) => Self::Read(error),
            other => Self::Write(other),
        }
    }
}
