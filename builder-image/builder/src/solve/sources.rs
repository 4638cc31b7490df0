//! What ADD fetches: files behind URLs and git repositories. A URL that was fetched before is asked for only if it has
//! changed; a repository is known by its commit, and fetched only when a step that copies it is executed.

use std::path::PathBuf;

use distribution::Validators;
use futures::StreamExt;
use jiff::Timestamp as Clock;
use oci::{Descriptor, Digest, Digester, MediaType};
use protocol::GitRevision;

use super::{Shared, Solve};
use crate::cache::{Packed, Record};
use crate::cache_key::CacheKey;
use crate::context::git_reference::GitReference;
use crate::context::remote::{self, http_credentials, is_loopback};
use crate::context::{Fetcher, GitDir, http};
use crate::error::StepFailure;
use crate::graph::CopyAction;
use crate::step::add::download_name;
use crate::step::copy::CopySource;
use crate::tree::Timestamp;

/// The largest file that ADD downloads, in bytes.
const MAX_DOWNLOAD: u64 = 64 << 30;

/// What the record of a download is annotated with.
const ETAG: &str = "etag";
const LAST_MODIFIED: &str = "last-modified";

/// How servers of sources are reached.
#[derive(Clone, Debug, Default)]
pub struct Sources {
    /// For git, which speaks for itself.
    pub network: protocol::Network,
    /// Whether git servers on this machine may be reached by plain HTTP.
    pub loopback: bool,
    /// What becomes of the `.git` of named contexts.
    pub git_dir: GitDir,
}

impl super::Engine {
    /// What fetches `url`, with what it may need.
    pub(crate) fn fetcher(&self, url: &str) -> Fetcher<'_> {
        Fetcher {
            http: self.client.http(),
            network: &self.sources.network,
            mounted: PathBuf::new(),
            credentials: PathBuf::new(),
            bases: None,
            plain_http: self.sources.loopback && is_loopback(url),
            secrets: &self.secrets,
            git_dir: self.sources.git_dir,
        }
    }
}

impl super::Engine {
    /// What fetches the named context `name`.
    pub(crate) fn fetcher_of(&self, name: &str) -> Fetcher<'_> {
        self.fetcher(self.named.url(name).unwrap_or_default())
    }
}

/// A repository that a step copies, to be fetched when the step is executed.
#[derive(Debug)]
pub(super) struct Repository {
    text: String,
    wanted: GitReference,
    revision: GitRevision,
    /// Where it is fetched to; its files are in `context`.
    into: tempfile::TempDir,
}

/// A file that was downloaded.
struct Download {
    digest: Digest,
    modified: Option<i64>,
}

impl Solve {
    /// Asks for the commit of the repository `text`.
    pub(super) async fn find_repository(
        &self,
        action: &CopyAction,
        text: &str,
    ) -> Result<(CopySource, Repository), StepFailure> {
        let vertex = self.engine.progress.start(format!("[internal] {text}"));
        let found = async {
            let mut wanted = GitReference::parse(text)?;
            if action.git_dir == GitDir::Kept {
                wanted.keep_git_dir = Some(true);
            }
            wanted.keep_git_dir.get_or_insert(false);
            if let Some(checksum) = &action.checksum {
                wanted.require_commit(checksum)?;
            }
            let revision = remote::find_commit(&wanted, &self.engine.fetcher(text)).await?;
            Ok::<_, StepFailure>((wanted, revision))
        };
        let found = found.await;
        let (wanted, revision) = found.inspect_err(|error| vertex.failed(&error.to_string()))?;
        vertex.output(revision.commit.as_bytes());
        vertex.done();
        let into = self
            .engine
            .cache
            .scratch("git-")
            .map_err(|source| StepFailure::Io {
                doing: "making a directory for a repository",
                source,
            })?;
        let source = CopySource::Repository {
            identity: format!(
                "{} {}{}",
                revision.commit,
                wanted.subdirectory,
                // The repository itself names where it is from.
                match wanted.keep_git_dir {
                    Some(true) => format!(" .git {} {:?}", wanted.url, revision.reference),
                    _ => String::new(),
                }
            ),
            name: text.to_owned(),
            directory: into.path().join("context"),
        };
        Ok((
            source,
            Repository {
                text: text.to_owned(),
                wanted,
                revision,
                into,
            },
        ))
    }

    /// Fetches a repository that was found.
    pub(super) async fn fetch_repository(
        &self,
        repository: &Repository,
    ) -> Result<(), StepFailure> {
        let Repository {
            text,
            wanted,
            revision,
            into,
        } = repository;
        let vertex = self
            .engine
            .progress
            .start(format!("[internal] fetch {text}"));
        let fetcher = self.engine.fetcher(text);
        let fetched = remote::check_out(wanted, revision, &fetcher, into.path()).await;
        fetched.inspect_err(|error| vertex.failed(&error.to_string()))?;
        vertex.done();
        Ok(())
    }

    /// Fetches the URL `text`, unless it is known and did not change.
    pub(super) async fn find_download(
        &self,
        text: &str,
        checksum: Option<&str>,
    ) -> Result<CopySource, StepFailure> {
        let vertex = self.engine.progress.start(format!("[internal] {text}"));
        let found = self.download(text, checksum).await;
        let found = found.inspect_err(|error| vertex.failed(&error.to_string()))?;
        vertex.done();
        Ok(CopySource::Download {
            name: download_name(text),
            file: self.engine.cache.blob(&found.digest),
            digest: found.digest,
            mtime: found.modified.map(Timestamp::from_seconds),
        })
    }

    async fn download(&self, text: &str, checksum: Option<&str>) -> Result<Download, StepFailure> {
        let url: url::Url = text.parse().map_err(|_| distribution::Error::Url {
            url: text.into(),
            problem: "it is malformed",
        })?;
        let wrong = |found: String| StepFailure::Checksum {
            url: text.into(),
            expected: checksum.unwrap_or_default().into(),
            found,
        };
        let expected = checksum.map(str::parse::<Digest>).transpose();
        let expected = expected.map_err(|_| wrong("a digest of another algorithm".into()))?;

        let cache = &self.engine.cache;
        let fetcher = self.engine.fetcher(text);
        let credentials = http_credentials(&url, &fetcher)?;
        // What a server shows to one it may not show to another.
        let who = credentials
            .as_ref()
            .map(crate::context::SourceCredentials::fingerprint);
        let key = CacheKey::download(text, who.as_deref());
        let known = cache.lookup(&key, self.engine.owners);
        let known = known
            .and_then(|record| record.packed)
            .map(|packed| packed.descriptor);
        let answered = |known: &Descriptor| Download {
            digest: known.digest.clone(),
            modified: (known.annotations.get(LAST_MODIFIED)).and_then(|date| http::seconds(date)),
        };
        if let (Some(known), Some(expected)) = (&known, &expected)
            && known.digest == *expected
            && !self.engine.no_cache
        {
            return Ok(answered(known));
        }
        let validators = match &known {
            Some(known) if !self.engine.no_cache => Validators {
                etag: known.annotations.get(ETAG).cloned(),
                last_modified: known.annotations.get(LAST_MODIFIED).cloned(),
            },
            _ => Validators::default(),
        };
        let credentials = credentials.map(|credentials| credentials.for_client());
        let client = self.engine.client.http();
        let response = client
            .get_if_changed(&url, credentials.as_ref(), &validators)
            .await?;
        let action = format!("get {text}");
        let response = match (response.status().as_u16(), &known) {
            (200, _) => response,
            (304, Some(known)) => {
                let found = answered(known);
                return match expected {
                    Some(expected) if expected != found.digest => {
                        Err(wrong(found.digest.to_string()))
                    }
                    _ => Ok(found),
                };
            }
            (404 | 410, _) => {
                return Err(distribution::Error::NotFound { action, code: None }.into());
            }
            (status, _) => {
                let refused = distribution::Error::Refused {
                    action,
                    status,
                    code: None,
                };
                return Err(refused.into());
            }
        };

        let validators = Validators::of(&response);
        let (digest, size) = self.keep(response, expected.as_ref(), &wrong).await?;
        if !validators.is_empty() {
            let mut descriptor = Descriptor::new(
                MediaType::from("application/octet-stream"),
                digest.clone(),
                size,
            );
            let named = [
                (ETAG, validators.etag),
                (LAST_MODIFIED, validators.last_modified.clone()),
            ];
            let named = named
                .into_iter()
                .filter_map(|(name, value)| Some((name.to_owned(), value?)));
            descriptor.annotations.extend(named);
            let mut record = Record::new(key, Clock::now().to_string(), format!("ADD {text}"));
            record.packed = Some(Packed {
                diff_id: oci::DiffId(digest.clone()),
                descriptor,
            });
            cache
                .record(&[&record.key], &record)
                .map_err(io("writing a cache record"))?;
        }
        Ok(Download {
            digest,
            modified: validators.last_modified.as_deref().and_then(http::seconds),
        })
    }

    /// Makes a blob of the body. One with another digest than `expected` is not kept.
    async fn keep(
        &self,
        response: distribution::Response,
        expected: Option<&Digest>,
        wrong: &(dyn Fn(String) -> StepFailure + Sync),
    ) -> Result<(Digest, u64), StepFailure> {
        let cache = &self.engine.cache;
        let action = format!("get {}", response.url());
        let mut digester = Digester::sha256();
        let mut other = expected.map(|expected| Digester::new(expected.algorithm()));
        let file = cache.blob_file().map_err(io("writing a download"))?;
        let handle = file
            .as_file()
            .try_clone()
            .map_err(io("writing a download"))?;
        let mut handle = tokio::fs::File::from_std(handle);
        let mut body = response.into_stream();
        while let Some(bytes) = body.next().await {
            let bytes = bytes?;
            digester.update(&bytes);
            if let Some(other) = &mut other {
                other.update(&bytes);
            }
            if digester.len() > MAX_DOWNLOAD {
                return Err(distribution::Error::TooLarge {
                    action,
                    limit: MAX_DOWNLOAD,
                }
                .into());
            }
            tokio::io::AsyncWriteExt::write_all(&mut handle, &bytes)
                .await
                .map_err(io("writing a download"))?;
        }
        tokio::io::AsyncWriteExt::flush(&mut handle)
            .await
            .map_err(io("writing a download"))?;
        if let (Some(expected), Some(found)) = (expected, other.map(Digester::finish))
            && *expected != found
        {
            return Err(wrong(found.to_string()));
        }
        let size = digester.len();
        let digest = digester.finish();
        cache
            .adopt(file, &digest)
            .map_err(io("keeping a download"))?;
        Ok((digest, size))
    }

    /// Fetches the repositories that a step copies.
    pub(super) async fn fetch_repositories(
        &self,
        step: &crate::graph::Step,
        repositories: &[Repository],
    ) -> Shared<()> {
        for repository in repositories {
            let fetched = self.fetch_repository(repository).await;
            fetched.map_err(|source| self.step_error(step, source, String::new()))?;
        }
        Ok(())
    }
}

fn io(doing: &'static str) -> impl FnOnce(std::io::Error) -> StepFailure {
    move |source| StepFailure::Io { doing, source }
}
