//! What can go wrong with a build, and what each failure is called in an outcome.
//!
//! A failure says in one line what failed and where; [`Error::render`] draws the place in the Dockerfile.

mod draw;

use std::sync::Arc;

use dockerfile::{Diagnostic, Span, UnknownStage};
use protocol::{Failure, FailureKind};
use store::StoreError;

use crate::context::ContextError;
use crate::exec::{ExecError, ProbeError};
use crate::graph::GraphError;
use crate::layer::LayerError;
use crate::step::StepError;
use crate::unpack::UnpackError;

/// The Dockerfile as it was read: its name for messages, and its text.
#[derive(Clone, Debug, Default)]
pub struct SourceFile {
    /// `Dockerfile`, as people know it.
    pub name: String,
    /// What was parsed.
    pub text: String,
}

/// Where in a Dockerfile something failed.
#[derive(Clone, Debug)]
pub struct Place {
    /// The file.
    pub file: Arc<SourceFile>,
    /// The words.
    pub span: Span,
    /// The instruction in one line, `RUN make`.
    pub instruction: String,
}

impl Place {
    /// `Dockerfile:7`.
    pub fn line(&self) -> String {
        let line = dockerfile::LineIndex::new(&self.file.text).line(self.span.start);
        format!("{}:{line}", self.file.name)
    }
}

/// Why a build failed.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The Dockerfile is wrong.
    #[error("{}", first_line(file, diagnostics))]
    Dockerfile {
        /// The file.
        file: Arc<SourceFile>,
        /// What is wrong, warnings among it.
        diagnostics: Vec<Diagnostic>,
    },
    /// The stage to build does not exist.
    #[error(transparent)]
    Target(UnknownStage),
    /// Something is wrong with an image that the Dockerfile names.
    #[error("{}: base image `{name}`: {source}{}", place.line(), hint(help.as_ref()))]
    Base {
        /// Where it is named.
        place: Place,
        /// The image.
        name: String,
        /// What is wrong.
        source: Box<BaseError>,
        /// What to do.
        help: Option<String>,
    },
    /// A step failed.
    #[error("{}: {source}", place.line())]
    Step {
        /// The instruction.
        place: Place,
        /// What happened.
        source: Box<StepFailure>,
        /// Last lines of its output.
        output: String,
        /// What to do, where that is known.
        help: Option<String>,
    },
    /// The context cannot be had.
    #[error(transparent)]
    Context(Box<ContextError>),
    /// The image could not be written or sent.
    #[error("{doing}")]
    Export {
        /// What was being done.
        doing: String,
        /// What happened.
        source: Box<distribution::Error>,
    },
    /// RUN cannot be isolated here.
    #[error("RUN cannot be isolated: {0}")]
    Isolation(#[from] ProbeError),
    /// A RUN, where nothing may be executed.
    #[error("{}: RUN is not available in isolation mode NoRun: `{}`", .0.line(), .0.instruction)]
    NoRun(Place),
    /// A RUN for another processor than this machine's.
    #[error("{}: RUN cannot be executed for {platform} on this machine: `{}`", place.line(), place.instruction)]
    ForeignRun {
        /// The RUN.
        place: Place,
        /// The platform of the image.
        platform: String,
    },
    /// What the cache holds of an earlier step cannot be used.
    #[error("the cached layer of `{0}` cannot be used")]
    Cache(String, #[source] Box<BaseError>),
    /// A cache that was asked for could not be written.
    #[error("exporting the cache to {place} (with ignore-error=true, the build goes on without)")]
    CacheExport {
        /// Where it goes.
        place: String,
        /// What happened.
        source: Box<dyn std::error::Error + Send + Sync>,
    },
    /// The image could not be written to a file.
    #[error(transparent)]
    Archive(#[from] crate::export::ArchiveError),
    /// An archive of images cannot be used.
    #[error(transparent)]
    Offline(#[from] crate::archive::ArchiveFailure),
    /// A layer could not be packed.
    #[error("packing a layer")]
    Pack(#[source] LayerError),
    /// A file of the engine's own cannot be read or written.
    #[error("{doing}")]
    Io {
        /// What was being done.
        doing: &'static str,
        /// What happened.
        source: std::io::Error,
    },
    /// The images of this machine cannot be read or changed.
    #[error(transparent)]
    Images(images::ImagesError),
    /// What was asked for is refused, in the words that docker has for it.
    #[error("{0}")]
    Refused(String),
    /// Some images could not be mirrored.
    #[error("{failed} of {all} images could not be mirrored")]
    Mirror {
        /// How many.
        failed: usize,
        /// Of how many.
        all: usize,
        /// Whether all of them for what was asked for.
        users: bool,
    },
    /// The request makes no sense.
    #[error("{0}")]
    Request(String),
    /// The build was asked to stop.
    #[error("the build was cancelled")]
    Cancelled,
    /// A thread of the engine ended by a panic.
    #[error("a task of the engine broke off: a bug")]
    Panicked,
    /// The failure of a step that several others waited for.
    #[error(transparent)]
    Shared(#[from] Arc<Error>),
}

/// What happened to a step.
#[derive(Debug, thiserror::Error)]
pub enum StepFailure {
    /// The process ended with another code than 0.
    #[error("process `{command}` did not complete successfully: exit code {code}")]
    Exit {
        /// Program and arguments.
        command: String,
        /// Its exit code.
        code: i32,
    },
    /// The process ended with another code than 0, for want of disk.
    #[error("process `{command}` ran out of disk space: exit code {code}")]
    DiskFull {
        /// Program and arguments.
        command: String,
        /// Its exit code.
        code: i32,
    },
    /// The process could not be run to its end.
    #[error(transparent)]
    Exec(#[from] ExecError),
    /// Files could not be copied.
    #[error(transparent)]
    Files(#[from] StepError),
    /// A secret that the step cannot do without was not given.
    #[error(
        "the secret `{id}` is required and was not given: add it with `--secret id={id},src=FILE`, or to the secrets of the build"
    )]
    NoSecret {
        /// Its name.
        id: String,
    },
    /// An agent that the step cannot do without was not given.
    #[error("the SSH agent `{id}` is required and was not given: add it with `--ssh {id}`")]
    NoAgent {
        /// Its name.
        id: String,
    },
    /// A URL could not be fetched.
    #[error(transparent)]
    Fetch(#[from] distribution::Error),
    /// A repository could not be fetched.
    #[error(transparent)]
    Source(Box<ContextError>),
    /// A URL has other content than its checksum says.
    #[error("`{url}` has the checksum {found}, not {expected}")]
    Checksum {
        /// The URL.
        url: String,
        /// What the Dockerfile says.
        expected: String,
        /// What came.
        found: String,
    },
    /// The file system failed.
    #[error("{doing}")]
    Io {
        /// What was being done.
        doing: &'static str,
        /// What happened.
        source: std::io::Error,
    },
}

/// What is wrong with a base image.
#[derive(Debug, thiserror::Error)]
pub enum BaseError {
    /// The registry does not have it, or does not show it.
    #[error("not found")]
    NotFound,
    /// It is there, but not for the platform.
    #[error("it has no image for {wanted}; it has {}", list(found))]
    NoPlatform {
        /// The platform asked for.
        wanted: String,
        /// The platforms it has.
        found: Vec<String>,
    },
    /// The registry cannot be talked to.
    #[error(transparent)]
    Registry(#[from] distribution::Error),
    /// The layout does not say which of its images is meant, or has no such image.
    #[error("{0}")]
    Choice(String),
    /// The layout that it is in does not have it whole.
    #[error(transparent)]
    Layout(#[from] StoreError),
    /// A document of it cannot be read.
    #[error("its manifest cannot be read: {0}")]
    Document(#[from] oci::DocumentError),
    /// Its documents contradict each other or the specification.
    #[error("{0}")]
    Malformed(String),
    /// A layer cannot be unpacked.
    #[error("layer {digest} cannot be unpacked: {source}")]
    Unpack {
        /// The layer.
        digest: oci::Digest,
        /// Why.
        source: UnpackError,
    },
    /// A layer is not what the image says.
    #[error("layer {digest} does not hold what the image's configuration says")]
    DiffId {
        /// The layer.
        digest: oci::Digest,
    },
    /// A layer cannot be written.
    #[error(transparent)]
    Layer(#[from] LayerError),
    /// The file system failed.
    #[error("{doing}: {source}")]
    Io {
        /// What was being done.
        doing: &'static str,
        /// What happened.
        source: std::io::Error,
    },
}

fn first_line(file: &SourceFile, diagnostics: &[Diagnostic]) -> String {
    let first = diagnostics.iter().find(|diagnostic| diagnostic.is_error());
    first.or(diagnostics.first()).map_or_else(
        || "the Dockerfile is wrong".to_owned(),
        |diagnostic| diagnostic.one_line(&file.name, &file.text),
    )
}

fn hint(help: Option<&String>) -> String {
    help.map(|help| format!("; {help}")).unwrap_or_default()
}

fn list(found: &[String]) -> String {
    if found.is_empty() {
        "none".into()
    } else {
        found.join(", ")
    }
}

impl Error {
    /// The error of a graph for the file that it was made of.
    pub fn graph(error: GraphError, file: &Arc<SourceFile>) -> Self {
        match error {
            GraphError::Dockerfile(diagnostics) => Self::Dockerfile {
                file: file.clone(),
                diagnostics,
            },
            GraphError::Target(target) => Self::Target(target),
            error @ GraphError::Platform { .. } => Self::Request(error.to_string()),
        }
    }

    /// An error of the engine's own files.
    pub fn io(doing: &'static str) -> impl FnOnce(std::io::Error) -> Self {
        move |source| Self::Io { doing, source }
    }

    /// A failure of the exchange with a registry.
    pub fn export(doing: impl Into<String>) -> impl FnOnce(distribution::Error) -> Self {
        let doing = doing.into();
        move |source| Self::Export {
            doing,
            source: Box::new(source),
        }
    }

    /// A refusal, as docker's daemon words it.
    pub fn refused(why: impl std::fmt::Display) -> Self {
        Self::Refused(format!("Error response from daemon: {why}"))
    }

    /// What this failure is called.
    pub fn kind(&self) -> FailureKind {
        match self {
            Self::Shared(error) => error.kind(),
            Self::Dockerfile { .. } | Self::Target(_) => FailureKind::Dockerfile,
            Self::Base { source, .. } => source.kind(),
            Self::Step { source, .. } => source.kind(),
            Self::Context(error) => error.kind(),
            Self::Export { source, .. } => registry_kind(source),
            Self::Isolation(_) | Self::NoRun(_) => FailureKind::IsolationUnavailable,
            Self::Cache(_, error) => disk_or(error.as_ref(), FailureKind::Internal),
            Self::CacheExport { source, .. } => match source.downcast_ref() {
                Some(error) => registry_kind(error),
                None => disk_or(source.as_ref(), FailureKind::Internal),
            },
            Self::Archive(error) => disk_or(error, FailureKind::Internal),
            Self::Offline(error) if error.is_users() => FailureKind::InvalidRequest,
            Self::Offline(error) => disk_or(error, FailureKind::Internal),
            Self::Pack(error) => disk_or(error, FailureKind::Internal),
            Self::Io { source, .. } => disk_or(source, FailureKind::Internal),
            Self::Images(error) => disk_or(error, FailureKind::Internal),
            Self::Mirror { users: false, .. } => FailureKind::RegistryUnavailable,
            Self::Mirror { .. } | Self::Request(_) | Self::Refused(_) => {
                FailureKind::InvalidRequest
            }
            Self::ForeignRun { .. } => FailureKind::ForeignPlatform,
            Self::Cancelled => FailureKind::Cancelled,
            Self::Panicked => FailureKind::Internal,
        }
    }

    /// The failure as the outcome of a pod has it: one line, with what to do where that is known. The place of a failed
    /// step is in its own member.
    pub fn to_failure(&self) -> Failure {
        let mut failure = Failure::new(self.kind(), chain(self));
        match self.root() {
            Self::Step {
                place,
                source,
                output,
                help,
            } => {
                failure.message = format!("{}{}", chain(source.as_ref()), hint(help.as_ref()));
                failure.step = Some(clipped(&format!("{}: {}", place.line(), place.instruction)));
                failure.output.clone_from(output);
                failure.exit_code = match source.as_ref() {
                    StepFailure::Exit { code, .. }
                    | StepFailure::DiskFull { code, .. }
                    | StepFailure::Exec(ExecError::OutOfMemory { code }) => Some(*code),
                    _ => None,
                };
            }
            Self::Dockerfile { diagnostics, .. } => {
                let first = diagnostics.iter().find(|diagnostic| diagnostic.is_error());
                if let Some(help) = first.and_then(|diagnostic| diagnostic.help.first()) {
                    failure.message = format!("{}; {help}", failure.message);
                }
            }
            Self::Base { name, source, .. } if source.may_appear() => {
                failure.image = Some(name.clone());
            }
            _ => {}
        }
        failure
    }

    /// Whether the mistake is the user's, not ours or the world's: exit code 1 instead of 2.
    pub fn is_users(&self) -> bool {
        matches!(
            self.kind(),
            FailureKind::InvalidRequest
                | FailureKind::Dockerfile
                | FailureKind::ContextFile
                | FailureKind::StepFailed
                | FailureKind::SourceNotFound
                | FailureKind::SourceRefused
                | FailureKind::BaseImageNotFound
        )
    }

    fn root(&self) -> &Self {
        match self {
            Self::Shared(error) => error.root(),
            error => error,
        }
    }
}

impl From<images::ImagesError> for Error {
    fn from(error: images::ImagesError) -> Self {
        match error {
            images::ImagesError::Store(_) => Self::Images(error),
            mistake => Self::refused(mistake),
        }
    }
}

impl From<ContextError> for Error {
    fn from(error: ContextError) -> Self {
        Self::Context(Box::new(error))
    }
}

impl From<ContextError> for StepFailure {
    fn from(error: ContextError) -> Self {
        Self::Source(Box::new(error))
    }
}

impl BaseError {
    /// Whether the same build can succeed once a registry has the image: not where the image is there and lacks something.
    fn may_appear(&self) -> bool {
        matches!(self, Self::NotFound)
    }

    /// What this failure is called.
    pub(crate) fn kind(&self) -> FailureKind {
        match self {
            Self::NotFound
            | Self::NoPlatform { .. }
            | Self::Choice(_)
            | Self::Layout(StoreError::NotALayout(_) | StoreError::Missing(_)) => {
                FailureKind::BaseImageNotFound
            }
            Self::Registry(error) => match registry_kind(error) {
                FailureKind::RegistryRefused
                    if error.kind() == distribution::ErrorKind::NotFound =>
                {
                    FailureKind::BaseImageNotFound
                }
                FailureKind::RegistryUnauthorized => FailureKind::BaseImageUnauthorized,
                kind => kind,
            },
            Self::Layout(error) => disk_or(error, FailureKind::RegistryRefused),
            Self::Document(_) | Self::Malformed(_) => FailureKind::RegistryRefused,
            Self::DiffId { .. } => FailureKind::DigestMismatch,
            Self::Unpack { source, .. } => disk_or(source, FailureKind::RegistryRefused),
            Self::Layer(error) => disk_or(error, FailureKind::Internal),
            Self::Io { source, .. } => disk_or(source, FailureKind::Internal),
        }
    }
}

impl StepFailure {
    fn kind(&self) -> FailureKind {
        match self {
            Self::DiskFull { .. } => FailureKind::OutOfDisk,
            Self::Exec(ExecError::OutOfMemory { .. }) => FailureKind::OutOfMemory,
            Self::Exec(ExecError::Runtime { message } | ExecError::Snapshot(message))
                if crate::disk::is_said(message) =>
            {
                FailureKind::OutOfDisk
            }
            Self::Exec(ExecError::Cancelled) => FailureKind::Cancelled,
            Self::Exit { .. }
            | Self::Exec(
                ExecError::WorkingDirectory { .. }
                | ExecError::User { .. }
                | ExecError::MountSource { .. }
                | ExecError::MountTarget { .. }
                | ExecError::SecretVariable { .. },
            ) => FailureKind::StepFailed,
            Self::NoSecret { .. } | Self::NoAgent { .. } => FailureKind::InvalidRequest,
            Self::Exec(error) => disk_or(error, FailureKind::Internal),
            Self::Files(error) => disk_or(error, FailureKind::ContextFile),
            Self::Checksum { .. } => FailureKind::DigestMismatch,
            Self::Source(error) => error.kind(),
            Self::Fetch(error) => match registry_kind(error) {
                FailureKind::RegistryUnavailable => FailureKind::SourceUnavailable,
                FailureKind::RegistryUnauthorized => FailureKind::SourceUnauthorized,
                FailureKind::RegistryRefused => FailureKind::ContextFile,
                kind => kind,
            },
            Self::Io { source, .. } => disk_or(source, FailureKind::Internal),
        }
    }
}

/// What a failed exchange with a registry is called.
pub fn registry_kind(error: &distribution::Error) -> FailureKind {
    use distribution::ErrorKind;
    match error.kind() {
        ErrorKind::Unauthorized => FailureKind::RegistryUnauthorized,
        ErrorKind::Unavailable | ErrorKind::Certificate => FailureKind::RegistryUnavailable,
        ErrorKind::DigestMismatch => FailureKind::DigestMismatch,
        ErrorKind::AddressRefused => FailureKind::AddressRefused,
        ErrorKind::Untrusted => FailureKind::ImageUntrusted,
        ErrorKind::Local => disk_or(error, FailureKind::Internal),
        ErrorKind::NotFound
        | ErrorKind::Refused
        | ErrorKind::TooLarge
        | ErrorKind::InvalidManifest => FailureKind::RegistryRefused,
    }
}

/// A full disk, wherever it hides in the sources of an error, else `otherwise`.
fn disk_or(error: &(dyn std::error::Error + 'static), otherwise: FailureKind) -> FailureKind {
    let mut next = Some(error);
    while let Some(error) = next {
        let full = error.downcast_ref::<std::io::Error>().is_some_and(|error| {
            matches!(
                error.kind(),
                std::io::ErrorKind::StorageFull | std::io::ErrorKind::QuotaExceeded
            )
        });
        if full {
            return FailureKind::OutOfDisk;
        }
        next = error.source();
    }
    otherwise
}

/// The beginning of a long instruction.
fn clipped(text: &str) -> String {
    const MOST: usize = 300;
    if text.chars().count() <= MOST {
        return text.to_owned();
    }
    let mut clipped: String = text.chars().take(MOST).collect();
    clipped.push('…');
    clipped
}

/// An error with its sources in one line, what repeats itself left out.
pub fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut next = error.source();
    while let Some(source) = next {
        let message = source.to_string();
        if !text.ends_with(&message) {
            text = format!("{text}: {message}");
        }
        next = source.source();
    }
    text
}

#[cfg(test)]
mod tests;
