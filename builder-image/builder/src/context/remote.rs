//! A context that is not a directory: standard input, a git URL or an http URL, each an archive or a Dockerfile alone.
//! `.dockerignore` does not count in them: what is in there was put there on purpose.

use std::io::{Read, Seek as _, Write as _};
use std::path::Path;

use dockerfile::SourceLocation;
use protocol::GitRevision;

use super::git_reference::{GitReference, advertised};
use super::{
    ContextError, Fetcher, MAX_TEXT, archive, check_git_url, check_http_url, enter_subdirectory,
    git, http,
};
use crate::unpack::{self, Limits, UnpackError};

/// The largest answer of a git server about its refs that is read, in bytes.
const MAX_REFS: u64 = 64 << 20;

/// Where a context comes from that is not a directory.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum RemoteContext {
    /// Standard input.
    Stdin,
    /// A git repository.
    Git(String),
    /// Something behind a URL.
    Http(String),
}

impl RemoteContext {
    /// What `text` names; `None` if it is the path of a directory.
    pub fn of(text: &str) -> Option<Self> {
        if text == "-" {
            return Some(Self::Stdin);
        }
        if text.starts_with("github.com/") || SourceLocation::of(text) == SourceLocation::Git {
            return Some(Self::Git(text.to_owned()));
        }
        (SourceLocation::of(text) == SourceLocation::Http).then(|| Self::Http(text.to_owned()))
    }
}

/// Makes the context `context` in the directory `into`; where the source is a Dockerfile alone, it becomes the file
/// `Dockerfile` beside an empty context.
///
/// # Errors
/// [`ContextError`]. What is in `into` is then left to be removed.
pub async fn fetch_remote(
    source: &RemoteContext,
    fetcher: &Fetcher<'_>,
    into: &Path,
) -> Result<(), ContextError> {
    let fetched = into.join("source");
    let subdirectory = match source {
        RemoteContext::Git(text) => {
            let wanted = GitReference::parse(text)?;
            let revision = resolve(&wanted, fetcher).await?;
            git::fetch(&wanted.url, &revision, None, fetcher, &fetched).await?;
            wanted.subdirectory
        }
        RemoteContext::Http(text) => {
            let url = check_http_url(text)?;
            let mut file = tempfile::tempfile_in(into)
                .map_err(|error| ContextError::io("making a file for the context", error))?;
            http::download(&url, None, fetcher, &mut file).await?;
            unpack_or_text(file, into, &fetched)?;
            String::new()
        }
        RemoteContext::Stdin => {
            let mut file = tempfile::tempfile_in(into)
                .map_err(|error| ContextError::io("making a file for the context", error))?;
            std::io::copy(&mut std::io::stdin().lock(), &mut file)
                .and_then(|_| file.flush())
                .map_err(|error| ContextError::io("reading standard input", error))?;
            unpack_or_text(file, into, &fetched)?;
            String::new()
        }
    };
    let context = enter_subdirectory(&fetched, &subdirectory)?;
    fs_err::os::unix::fs::symlink(context, into.join("context"))
        .map_err(|error| ContextError::io("making the context", error))
}

/// The commit that is wanted, as the server has it now.
async fn resolve(
    wanted: &GitReference,
    fetcher: &Fetcher<'_>,
) -> Result<GitRevision, ContextError> {
    let url = check_git_url(&wanted.url, fetcher.plain_http)?;
    let response = git::ask_for_refs(&url, None, fetcher).await?;
    let body = response.bytes_bounded(MAX_REFS).await?;
    wanted.revision(&advertised(&body))
}

/// Unpacks the archive in `file` to `fetched`, or takes the file as a Dockerfile.
fn unpack_or_text(
    mut file: std::fs::File,
    into: &Path,
    fetched: &Path,
) -> Result<(), ContextError> {
    let io = |doing: &'static str| move |error| ContextError::io(doing, error);
    let limits = Limits::default();
    file.rewind().map_err(io("reading the context"))?;
    let found = unpack::is_archive(&mut file, &limits);
    file.rewind().map_err(io("reading the context"))?;
    if found.map_err(|error| ContextError::Archive(UnpackError::Archive(error)))? {
        return archive::extract(std::io::BufReader::new(file), fetched, &limits);
    }
    let mut text = Vec::new();
    file.take(MAX_TEXT + 1)
        .read_to_end(&mut text)
        .map_err(io("reading the context"))?;
    if text.len() as u64 > MAX_TEXT || std::str::from_utf8(&text).is_err() {
        return Err(ContextError::NeitherArchiveNorDockerfile);
    }
    fs_err::create_dir(fetched).map_err(io("making the context"))?;
    fs_err::write(into.join("Dockerfile"), text).map_err(io("writing the Dockerfile"))
}
