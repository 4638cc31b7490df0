//! A context that is not a directory: standard input, a git URL or an http URL, each an archive or a Dockerfile alone.
//! `.dockerignore` does not count in them: what is in there was put there on purpose.

use std::io::{Read, Seek as _, Write as _};
use std::path::Path;

use dockerfile::SourceLocation;
use protocol::GitRevision;
use url::Url;

use super::git_reference::{GitReference, advertised};
use super::{
    ContextError, Fetched, Fetcher, GitDir, MAX_TEXT, SourceCredentials, archive, check_git_url,
    check_http_url, enter_subdirectory, git, http,
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
/// `Dockerfile` beside an empty context. Credentials are those of the build's secrets for the one server.
///
/// # Errors
/// [`ContextError`]. What is in `into` is then left to be removed.
pub async fn fetch_remote(
    source: &RemoteContext,
    fetcher: &Fetcher<'_>,
    into: &Path,
) -> Result<Fetched, ContextError> {
    let fetched = into.join("source");
    let time = match source {
        RemoteContext::Git(text) => {
            let wanted = GitReference::parse(text)?;
            let revision = find_commit(&wanted, fetcher).await?;
            return check_out(&wanted, &revision, fetcher, into).await;
        }
        RemoteContext::Http(text) => {
            let url = check_http_url(text)?;
            let mut file = tempfile::tempfile_in(into)
                .map_err(|error| ContextError::io("making a file for the context", error))?;
            let credentials = http_credentials(&url, fetcher)?;
            let found = http::download(&url, credentials, fetcher, &mut file).await?;
            unpack_or_text(file, into, &fetched)?;
            match found.modified {
                Some(time) => Some(time),
                None => newest(&fetched)
                    .map_err(|error| ContextError::io("reading the context", error))?,
            }
        }
        RemoteContext::Stdin => {
            let mut file = tempfile::tempfile_in(into)
                .map_err(|error| ContextError::io("making a file for the context", error))?;
            std::io::copy(&mut std::io::stdin().lock(), &mut file)
                .and_then(|_| file.flush())
                .map_err(|error| ContextError::io("reading standard input", error))?;
            unpack_or_text(file, into, &fetched)?;
            None
        }
    };
    settle(&fetched, "", into, time)
}

/// Makes the context `context`, the files of one commit, in the directory `into`.
///
/// # Errors
/// As [`fetch_remote`].
pub async fn check_out(
    wanted: &GitReference,
    revision: &GitRevision,
    fetcher: &Fetcher<'_>,
    into: &Path,
) -> Result<Fetched, ContextError> {
    let fetched = into.join("source");
    let credentials = git_credentials(wanted, fetcher)?;
    let kept = match wanted.keep_git_dir {
        Some(true) => GitDir::Kept,
        Some(false) => GitDir::Removed,
        None => fetcher.git_dir,
    };
    let time = git::fetch(&wanted.url, revision, credentials, kept, fetcher, &fetched).await?;
    settle(&fetched, &wanted.subdirectory, into, Some(time))
}

fn settle(
    fetched: &Path,
    subdirectory: &str,
    into: &Path,
    time: Option<i64>,
) -> Result<Fetched, ContextError> {
    let context = enter_subdirectory(fetched, subdirectory)?;
    let directory = into.join("context");
    fs_err::os::unix::fs::symlink(context, &directory)
        .map_err(|error| ContextError::io("making the context", error))?;
    Ok(Fetched { directory, time })
}

/// The commit that is wanted, as the server has it now.
///
/// # Errors
/// When the server cannot be asked, or has none.
pub async fn find_commit(
    wanted: &GitReference,
    fetcher: &Fetcher<'_>,
) -> Result<GitRevision, ContextError> {
    let url = check_git_url(&wanted.url, fetcher.plain_http)?;
    let credentials = git_credentials(wanted, fetcher)?.map(SourceCredentials::for_git);
    let response = git::ask_for_refs(&url, credentials.as_ref(), fetcher).await?;
    let body = response.bytes_bounded(MAX_REFS).await?;
    wanted.revision(&advertised(&body))
}

fn git_credentials(
    wanted: &GitReference,
    fetcher: &Fetcher<'_>,
) -> Result<Option<SourceCredentials>, ContextError> {
    let url = check_git_url(&wanted.url, fetcher.plain_http)?;
    SourceCredentials::of_git(fetcher.secrets, &host(&url))
}

/// What the secrets of the build have for the server of `url`; never for plain HTTP, but on this machine.
///
/// # Errors
/// When what they have cannot be sent.
pub fn http_credentials(
    url: &Url,
    fetcher: &Fetcher<'_>,
) -> Result<Option<SourceCredentials>, ContextError> {
    let found = SourceCredentials::of_http(fetcher.secrets, &host(url))?;
    if found.is_some() && url.scheme() == "http" && !fetcher.plain_http {
        return Err(ContextError::Credentials(
            "is not sent over plain http: write an https URL",
        ));
    }
    Ok(found)
}

/// The name of the server, with its port where that is not the usual one.
fn host(url: &Url) -> String {
    let name = url.host_str().unwrap_or_default();
    match url.port() {
        Some(port) => format!("{name}:{port}"),
        None => name.to_owned(),
    }
}

/// Whether `url` is of a server on this machine, by plain HTTP.
pub fn is_loopback(url: &str) -> bool {
    ["http://127.0.0.1", "http://localhost", "http://[::1]"]
        .iter()
        .any(|start| {
            let rest = url.strip_prefix(start);
            rest.is_some_and(|rest| rest.starts_with([':', '/']))
        })
}

/// The newest time of what is in `directory`; none where nothing is.
fn newest(directory: &Path) -> std::io::Result<Option<i64>> {
    use std::os::unix::fs::MetadataExt as _;
    let mut found = None;
    for entry in fs_err::read_dir(directory)? {
        let entry = entry?;
        let metadata = entry.metadata()?;
        let below = if metadata.is_dir() {
            newest(&entry.path())?
        } else {
            None
        };
        found = found.max(below).max(Some(metadata.mtime()));
    }
    Ok(found)
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
