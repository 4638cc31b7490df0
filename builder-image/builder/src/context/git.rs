//! A context from a git repository over https. `git` itself fetches and checks out; this module decides what it is told,
//! and finds out beforehand, with the guarded HTTP client, where the repository is and whether it may be read.
//!
//! `git` gets no environment but what is listed here, no configuration but a file in memory, no prompt, no hook, no
//! helper, no protocol but https, and no redirect. Credentials are in that file, bound to the origin of the repository.
//! Submodules and LFS objects are not fetched.

use std::{
    ffi::OsString,
    os::{fd::AsRawFd, unix::fs::PermissionsExt},
    path::{Path, PathBuf},
    process::Stdio,
};

use distribution::Guard;
use protocol::GitRevision;
use rustix::fs::{AtFlags, CWD, Timespec, Timestamps, utimensat};
use tokio::io::AsyncReadExt;
use url::Url;

use super::{
    ContextError, Fetcher, SourceCredentials, check_git_url,
    guard_proxy::GuardProxy,
    http::{check_status, shown},
};
use crate::memory_file::memory_file;

/// The ref that holds what was fetched.
const FETCHED: &str = "refs/coopery/fetched";

/// How much of git's messages is kept, in bytes.
const MAX_MESSAGE: u64 = 16 << 10;

/// What becomes of `.git`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum GitDir {
    /// It is no part of the context.
    #[default]
    Removed,
    /// It stays, with the one commit and the URL it is from.
    Kept,
}

/// Fetches one commit of the repository at `url` and checks it out to the new directory `into`. Files are 0644 or 0755,
/// directories 0755, and all have the time of the commit, so that the same commit is the same context. Returns that time
/// in seconds since 1970.
///
/// The ref is asked for first, because servers serve those always; then the commit itself; then everything.
///
/// # Errors
/// [`ContextError`]: a refused URL or revision before any connection is made.
pub async fn fetch(
    url: &str,
    revision: &GitRevision,
    credentials: Option<SourceCredentials>,
    kept: GitDir,
    fetcher: &Fetcher<'_>,
    into: &Path,
) -> Result<i64, ContextError> {
    let url = check_git_url(url, fetcher.plain_http)?;
    check_revision(revision)?;
    let credentials = credentials.map(SourceCredentials::for_git);
    let found = find_repository(&url, credentials.as_ref(), fetcher).await?;
    let credentials = credentials.filter(|_| found.origin() == url.origin());

    let proxy = match (
        fetcher.http.guard(),
        &fetcher.network.https_proxy,
        found.host_str(),
    ) {
        (Guard::Closed { .. }, None, Some(host)) if found.scheme() == "https" => {
            let host = host.trim_start_matches('[').trim_end_matches(']');
            let port = found.port_or_known_default().unwrap_or(443);
            let started = GuardProxy::start(fetcher.http.guard().clone(), host, port).await;
            Some(started.map_err(|error| ContextError::io("starting a proxy for git", error))?)
        }
        _ => None,
    };
    let beside = into.parent().unwrap_or_else(|| Path::new("."));
    let home = tempfile::Builder::new()
        .prefix("git-")
        .tempdir_in(beside)
        .map_err(|error| ContextError::io("making a directory for git", error))?;
    let authorities = match &fetcher.network.ca_certificates {
        Some(own) => Some(write_authorities(home.path(), own)?),
        None => None,
    };
    let config = config(&Settings {
        url: &found,
        plain_http: fetcher.plain_http,
        authorities: authorities.as_deref(),
        proxy: proxy.as_ref().map(GuardProxy::url),
        authorization: credentials.as_ref().map(SourceCredentials::header),
    });
    let git = Git {
        config: memory_file("git-config", config.as_bytes())
            .map_err(|error| ContextError::io("preparing git", error))?,
        home: home.path().join("home"),
        network: fetcher.network,
        repository: into,
        url: &found,
    };
    fs_err::create_dir(&git.home)
        .map_err(|error| ContextError::io("making a directory for git", error))?;
    let fetched = git.fetch(revision).await;
    if let (Err(_), Some(reason)) = (&fetched, proxy.as_ref().and_then(GuardProxy::refused)) {
        let host = found.host_str().unwrap_or_default().to_owned();
        return Err(distribution::Error::AddressRefused { host, reason }.into());
    }
    fetched?;
    git.check_out(&revision.commit).await?;
    let time = git.commit_time(&revision.commit).await?;
    if kept == GitDir::Kept {
        git.settle(revision, &url).await?;
    }
    let into = into.to_owned();
    let normalised = tokio::task::spawn_blocking(move || -> std::io::Result<i64> {
        if kept == GitDir::Removed {
            fs_err::remove_dir_all(into.join(".git"))?;
        }
        normalise(&into, time)?;
        Ok(time)
    });
    normalised
        .await
        .map_err(std::io::Error::other)
        .and_then(|result| result)
        .map_err(|error| ContextError::io("preparing the context", error))
}

/// Refuses what is no commit or ref, or could be taken for an option or a pattern.
fn check_revision(revision: &GitRevision) -> Result<(), ContextError> {
    let refuse = |what, value: &str, problem| {
        Err(ContextError::Revision {
            what,
            value: value.to_owned(),
            problem,
        })
    };
    let commit = &revision.commit;
    let hexadecimal = |character: char| matches!(character, '0'..='9' | 'a'..='f');
    if !matches!(commit.len(), 40 | 64) || !commit.chars().all(hexadecimal) {
        return refuse("commit", commit, "it is not 40 or 64 hexadecimal digits");
    }
    if let Some(reference) = &revision.reference {
        if !reference.starts_with("refs/") {
            return refuse("ref", reference, "it does not begin with refs/");
        }
        // git-check-ref-format(1).
        let bad = |character: char| character.is_control() || " ~^:?*[\\".contains(character);
        let part = |part: &str| {
            part.is_empty()
                || part.starts_with(['.', '-'])
                || part.ends_with('.')
                || part.strip_suffix(".lock").is_some()
        };
        if reference.contains(bad)
            || reference.contains("..")
            || reference.contains("@{")
            || reference.split('/').any(part)
        {
            return refuse("ref", reference, "it is not the full name of a ref");
        }
    }
    Ok(())
}

/// What the URL of a repository has behind it in the question for its refs.
const SUFFIX: &str = "/info/refs";

/// Asks for the refs of the repository, as git would. Credentials are sent to the origin of `url` alone.
pub(super) async fn ask_for_refs(
    url: &Url,
    credentials: Option<&SourceCredentials>,
    fetcher: &Fetcher<'_>,
) -> Result<distribution::Response, ContextError> {
    let mut question = url.clone();
    question.set_path(&format!("{}{SUFFIX}", url.path().trim_end_matches('/')));
    question.set_query(Some("service=git-upload-pack"));
    let credentials = credentials.map(SourceCredentials::for_client);
    let response = fetcher.http.get(&question, credentials.as_ref()).await?;
    check_status(url, response.status().as_u16())?;
    let kind = response
        .headers()
        .get("content-type")
        .and_then(|kind| kind.to_str().ok());
    if kind != Some("application/x-git-upload-pack-advertisement") {
        return Err(ContextError::NotFound {
            url: shown(url),
            problem: "the server answers, but not as a git repository does".to_owned(),
        });
    }
    Ok(response)
}

/// The URL of the repository after redirects.
async fn find_repository(
    url: &Url,
    credentials: Option<&SourceCredentials>,
    fetcher: &Fetcher<'_>,
) -> Result<Url, ContextError> {
    let response = ask_for_refs(url, credentials, fetcher).await?;
    let mut found = response.url().clone();
    let path = found
        .path()
        .strip_suffix(SUFFIX)
        .ok_or_else(|| ContextError::NotFound {
            url: shown(url),
            problem: "it redirects to something else".to_owned(),
        })?
        .to_owned();
    found.set_path(&path);
    found.set_query(None);
    found.set_fragment(None);
    Ok(check_git_url(found.as_str(), fetcher.plain_http)?)
}

struct Settings<'a> {
    url: &'a Url,
    plain_http: bool,
    authorities: Option<&'a Path>,
    proxy: Option<String>,
    authorization: Option<String>,
}

/// git's only configuration.
fn config(settings: &Settings<'_>) -> String {
    let mut text = String::from(
        "[core]\n\thooksPath = /dev/null\n\tfsmonitor = false\n\tattributesFile = /dev/null\n\
         \texcludesFile = /dev/null\n\tautocrlf = false\n\tsymlinks = true\n\
         [protocol]\n\tallow = never\n[protocol \"https\"]\n\tallow = always\n\
         [credential]\n\thelper =\n[submodule]\n\trecurse = false\n[gc]\n\tauto = 0\n\
         [maintenance]\n\tauto = false\n[advice]\n\tdetachedHead = false\n\
         [init]\n\tdefaultBranch = main\n[safe]\n\tdirectory = *\n\
         [http]\n\tfollowRedirects = false\n\tlowSpeedLimit = 1000\n\tlowSpeedTime = 60\n",
    );
    let mut set = |section: &str, name: &str, value: &str| {
        let value = value.replace('\\', "\\\\").replace('"', "\\\"");
        for part in ["[", section, "]\n\t", name, " = \"", &value, "\"\n"] {
            text.push_str(part);
        }
    };
    if settings.plain_http {
        set("protocol \"http\"", "allow", "always");
    }
    if let Some(path) = settings.authorities {
        set("http", "sslCAInfo", &path.to_string_lossy());
    }
    if let Some(proxy) = &settings.proxy {
        set("http", "proxy", proxy);
    }
    if let Some(value) = &settings.authorization {
        let origin = settings.url.origin().ascii_serialization();
        set(
            &format!("http \"{origin}/\""),
            "extraHeader",
            &format!("Authorization: {value}"),
        );
    }
    text
}

/// The system's authorities and ours in one file: git takes one file, instead of the system's.
fn write_authorities(directory: &Path, own: &str) -> Result<PathBuf, ContextError> {
    const SYSTEM: [&str; 4] = [
        "/etc/ssl/certs/ca-certificates.crt",
        "/etc/pki/tls/certs/ca-bundle.crt",
        "/etc/ssl/ca-bundle.pem",
        "/etc/ssl/cert.pem",
    ];
    let named = std::env::var("SSL_CERT_FILE").ok();
    let system = named
        .iter()
        .map(String::as_str)
        .chain(SYSTEM)
        .find_map(|path| fs_err::read_to_string(path).ok());
    let path = directory.join("authorities.pem");
    fs_err::write(&path, format!("{}\n{own}\n", system.unwrap_or_default()))
        .map_err(|error| ContextError::io("writing the authorities for git", error))?;
    Ok(path)
}

/// What git is started with.
struct Git<'a> {
    config: std::fs::File,
    home: PathBuf,
    network: &'a protocol::Network,
    repository: &'a Path,
    url: &'a Url,
}

/// How a fetch failed.
enum Failed {
    /// The server does not give out this ref or commit.
    Missing,
    Otherwise(ContextError),
}

impl Git<'_> {
    async fn fetch(&self, revision: &GitRevision) -> Result<(), ContextError> {
        let by_name = revision
            .reference
            .iter()
            .map(|name| format!("+{name}:{FETCHED}"));
        let by_commit = format!("+{}:{FETCHED}", revision.commit);
        for refspec in by_name.chain([by_commit]) {
            self.init(&revision.commit).await?;
            match self.try_fetch(&["--depth", "1"], &[&refspec]).await {
                Ok(()) if self.has(&revision.commit).await? => return Ok(()),
                Ok(()) | Err(Failed::Missing) => {}
                Err(Failed::Otherwise(error)) => return Err(error),
            }
        }
        self.init(&revision.commit).await?;
        let everything = [
            "+refs/heads/*:refs/coopery/heads/*",
            "+refs/tags/*:refs/coopery/tags/*",
        ];
        match self.try_fetch(&[], &everything).await {
            Ok(()) if self.has(&revision.commit).await? => Ok(()),
            Ok(()) | Err(Failed::Missing) => Err(ContextError::NotFound {
                url: shown(self.url),
                problem: format!(
                    "the repository has no commit {} on any branch or tag",
                    revision.commit
                ),
            }),
            Err(Failed::Otherwise(error)) => Err(error),
        }
    }

    /// A fresh and empty repository.
    async fn init(&self, commit: &str) -> Result<(), ContextError> {
        if self.repository.exists() {
            fs_err::remove_dir_all(self.repository)
                .map_err(|error| ContextError::io("removing what was fetched", error))?;
        }
        fs_err::create_dir(self.repository)
            .map_err(|error| ContextError::io("making the context", error))?;
        let format = if commit.len() == 64 {
            "--object-format=sha256"
        } else {
            "--object-format=sha1"
        };
        self.run(&["init", "--quiet", "--template=", format])
            .await
            .map(drop)
    }

    async fn try_fetch(&self, options: &[&str], refspecs: &[&str]) -> Result<(), Failed> {
        let mut arguments = vec!["fetch", "--quiet", "--no-tags", "--no-recurse-submodules"];
        arguments.extend(options);
        arguments.extend(["--", self.url.as_str()]);
        arguments.extend(refspecs);
        let (status, _, message) = self.execute(&arguments).await.map_err(Failed::Otherwise)?;
        if status.success() {
            Ok(())
        } else {
            Err(explain(self.url, &message))
        }
    }

    /// Whether the commit itself was fetched, not only its name.
    async fn has(&self, commit: &str) -> Result<bool, ContextError> {
        let object = format!("{commit}^{{commit}}");
        let (status, ..) = self.execute(&["cat-file", "-e", &object]).await?;
        Ok(status.success())
    }

    async fn check_out(&self, commit: &str) -> Result<(), ContextError> {
        self.run(&["checkout", "--quiet", "--force", "--detach", commit, "--"])
            .await
            .map(drop)
    }

    /// Leaves a repository as people expect it: at its commit, with the ref and its origin, without a trace of how it was
    /// fetched.
    async fn settle(&self, revision: &GitRevision, url: &Url) -> Result<(), ContextError> {
        if let Some(name) = &revision.reference {
            let branch = name.strip_prefix("refs/heads/");
            let name = branch.map_or_else(
                || name.clone(),
                |branch| format!("refs/remotes/origin/{branch}"),
            );
            self.run(&["update-ref", &name, &revision.commit]).await?;
        }
        self.run(&["update-ref", "-d", FETCHED]).await?;
        self.run(&["remote", "add", "origin", url.as_str()]).await?;
        for trace in [".git/FETCH_HEAD", ".git/logs"] {
            let path = self.repository.join(trace);
            let removed = if path.is_dir() {
                fs_err::remove_dir_all(&path)
            } else {
                fs_err::remove_file(&path)
            };
            match removed {
                Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
                    return Err(ContextError::io("tidying the repository", error));
                }
                _ => {}
            }
        }
        Ok(())
    }

    /// When the commit was made, in seconds since 1970.
    async fn commit_time(&self, commit: &str) -> Result<i64, ContextError> {
        let text = self
            .run(&[
                "show",
                "--no-patch",
                "--no-show-signature",
                "--format=%ct",
                commit,
                "--",
            ])
            .await?;
        Ok(text.trim().parse().unwrap_or(0))
    }

    async fn run(&self, arguments: &[&str]) -> Result<String, ContextError> {
        let (status, output, message) = self.execute(arguments).await?;
        if status.success() {
            return Ok(output);
        }
        let doing = format!("git {}", arguments[0]);
        Err(ContextError::io(
            doing,
            std::io::Error::other(last_line(&message)),
        ))
    }

    /// Runs git in the repository. Returns its status, and what it wrote to standard output and error.
    async fn execute(
        &self,
        arguments: &[&str],
    ) -> Result<(std::process::ExitStatus, String, String), ContextError> {
        let mut command = std::process::Command::new("git");
        command
            .args(arguments)
            .current_dir(self.repository)
            .env_clear()
            .envs(self.environment());
        crate::exec::keep_open(&mut command, &self.config);
        let mut child = tokio::process::Command::from(command)
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .kill_on_drop(true)
            .spawn()
            .map_err(ContextError::NoGit)?;
        let (stdout, stderr) = (child.stdout.take(), child.stderr.take());
        let (status, output, message) =
            tokio::join!(child.wait(), read_bounded(stdout), read_bounded(stderr));
        let status = status.map_err(|error| ContextError::io("waiting for git", error))?;
        Ok((status, output, message))
    }

    fn environment(&self) -> Vec<(&'static str, OsString)> {
        let mut environment: Vec<(&str, OsString)> = vec![
            (
                "PATH",
                std::env::var_os("PATH").unwrap_or_else(|| "/usr/local/bin:/usr/bin:/bin".into()),
            ),
            ("HOME", self.home.clone().into()),
            ("XDG_CONFIG_HOME", self.home.clone().into()),
            ("LC_ALL", "C".into()),
            ("GIT_CONFIG_NOSYSTEM", "1".into()),
            (
                "GIT_CONFIG_GLOBAL",
                format!("/proc/self/fd/{}", self.config.as_raw_fd()).into(),
            ),
            ("GIT_ATTR_NOSYSTEM", "1".into()),
            ("GIT_TERMINAL_PROMPT", "0".into()),
            ("GIT_ASKPASS", "false".into()),
            ("GIT_CEILING_DIRECTORIES", self.repository.into()),
        ];
        let proxies = [
            ("http_proxy", &self.network.http_proxy),
            ("https_proxy", &self.network.https_proxy),
            ("no_proxy", &self.network.no_proxy),
        ];
        for (name, value) in proxies {
            environment.extend(value.as_ref().map(|value| (name, value.into())));
        }
        environment
    }
}

async fn read_bounded(pipe: Option<impl tokio::io::AsyncRead + Unpin>) -> String {
    let mut bytes = Vec::new();
    if let Some(mut pipe) = pipe {
        // What comes after the bound is read, so that git does not wait, and thrown away.
        let _ = (&mut pipe).take(MAX_MESSAGE).read_to_end(&mut bytes).await;
        let _ = tokio::io::copy(&mut pipe, &mut tokio::io::sink()).await;
    }
    String::from_utf8_lossy(&bytes).into_owned()
}

/// What git's message about a failed fetch means.
fn explain(url: &Url, message: &str) -> Failed {
    let has = |texts: &[&str]| texts.iter().any(|text| message.contains(text));
    let url = shown(url);
    if has(&[
        "couldn't find remote ref",
        "not our ref",
        "unadvertised object",
        "no such remote ref",
    ]) {
        return Failed::Missing;
    }
    if has(&[
        "Authentication failed",
        "could not read Username",
        "error: 401",
        "error: 403",
    ]) {
        let status = if message.contains("403") { 403 } else { 401 };
        return Failed::Otherwise(ContextError::Unauthorized { url, status });
    }
    if has(&["No space left on device"]) {
        return Failed::Otherwise(ContextError::io(
            "git fetch",
            std::io::Error::from(std::io::ErrorKind::StorageFull),
        ));
    }
    Failed::Otherwise(ContextError::Unavailable {
        url,
        problem: format!("git: {}", last_line(message)),
    })
}

/// The line of git's messages that says most: the last `fatal:`, else the last one.
fn last_line(message: &str) -> String {
    let lines = || {
        message
            .lines()
            .map(str::trim)
            .filter(|line| !line.is_empty())
    };
    let fatal = lines()
        .filter_map(|line| line.strip_prefix("fatal: "))
        .next_back();
    let line = fatal
        .or_else(|| lines().next_back())
        .unwrap_or("it says nothing");
    line.chars()
        .filter(|character| !character.is_control())
        .take(300)
        .collect()
}

/// Gives everything in the tree the permissions that BuildKit gives, and one time.
fn normalise(directory: &Path, time: i64) -> std::io::Result<()> {
    for entry in fs_err::read_dir(directory)? {
        let entry = entry?;
        let (path, kind) = (entry.path(), entry.file_type()?);
        if kind.is_dir() {
            normalise(&path, time)?;
            continue;
        }
        if kind.is_file() {
            let executable = entry.metadata()?.permissions().mode() & 0o111 != 0;
            let mode = if executable { 0o755 } else { 0o644 };
            fs_err::set_permissions(&path, PermissionsExt::from_mode(mode))?;
        }
        set_time(&path, time)?;
    }
    fs_err::set_permissions(directory, PermissionsExt::from_mode(0o755))?;
    set_time(directory, time)
}

fn set_time(path: &Path, time: i64) -> std::io::Result<()> {
    let time = Timespec {
        tv_sec: time,
        tv_nsec: 0,
    };
    let times = Timestamps {
        last_access: time,
        last_modification: time,
    };
    Ok(utimensat(CWD, path, &times, AtFlags::SYMLINK_NOFOLLOW)?)
}

#[cfg(test)]
#[path = "git_tests.rs"]
mod tests;
