//! A git server for tests: real repositories behind `git http-backend` and TLS. Repositories below `private/` ask for
//! a user name and a password.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::sync::Arc;

use anyhow::Context as _;
use axum::Router;
use axum::body::{Body, Bytes, to_bytes};
use axum::extract::{Request, State};
use axum::http::{HeaderMap, Response, StatusCode, header};
use base64::Engine as _;
use tokio::io::AsyncWriteExt as _;
use tokio::process::Command;

use crate::certificate::Authority;
use crate::tls::{Server, serve};

/// User and password of private repositories.
pub const CREDENTIALS: (&str, &str) = ("builder", "correct horse");
const MAX_BODY: usize = 64 << 20;

/// The server and its repositories.
pub struct GitServer {
    server: Server,
    root: tempfile::TempDir,
}

impl GitServer {
    /// Starts a server without repositories on `address`; its certificate is for `git.host.test`.
    ///
    /// # Errors
    /// The address cannot be bound.
    pub async fn start(authority: &Authority, address: IpAddr) -> anyhow::Result<Self> {
        let root = tempfile::tempdir()?;
        let identity = authority.server("git.host.test", address)?;
        let router = Router::new()
            .fallback(backend)
            .with_state(Arc::new(root.path().to_owned()));
        Ok(Self {
            server: serve(address, &identity, router).await?,
            root,
        })
    }

    /// The URL of a repository, as pods see it.
    pub fn url(&self, repository: &str) -> String {
        format!(
            "https://git.host.test:{}/{repository}.git",
            self.server.address.port()
        )
    }

    /// Commits `files` (path and content) to `branch` of `repository`, which is made when it is new; the commit.
    /// A file that earlier commits had and `files` lacks stays.
    ///
    /// # Errors
    /// git failed.
    pub async fn commit(
        &self,
        repository: &str,
        branch: &str,
        files: &BTreeMap<&str, Vec<u8>>,
    ) -> anyhow::Result<String> {
        let work = self.work_tree(repository).await?;
        let exists = git(&work, &["rev-parse", "--verify", "-q", branch])
            .await
            .is_ok();
        git(
            &work,
            &if exists {
                vec!["checkout", "-q", branch]
            } else {
                vec!["checkout", "-q", "-B", branch]
            },
        )
        .await?;
        for (path, content) in files {
            let path = work.join(path);
            fs_err::create_dir_all(path.parent().context("a file has a parent")?)?;
            fs_err::write(path, content)?;
        }
        self.publish(&work, repository, branch).await
    }

    /// Commits a whole directory to `branch` of `repository`; the commit.
    ///
    /// # Errors
    /// git or cp failed.
    pub async fn commit_directory(
        &self,
        repository: &str,
        branch: &str,
        directory: &Path,
    ) -> anyhow::Result<String> {
        let work = self.work_tree(repository).await?;
        git(&work, &["checkout", "-q", "-B", branch]).await?;
        let status = Command::new("cp")
            .arg("-a")
            .arg(directory.join("."))
            .arg(&work)
            .status()
            .await?;
        anyhow::ensure!(status.success(), "cp failed");
        self.publish(&work, repository, branch).await
    }

    /// Sets `tag` of `repository` to `commit`.
    ///
    /// # Errors
    /// git failed.
    pub async fn tag(&self, repository: &str, tag: &str, commit: &str) -> anyhow::Result<()> {
        let work = self.work_tree(repository).await?;
        git(&work, &["tag", "-a", "-f", "-m", tag, tag, commit]).await?;
        git(&work, &["push", "-q", "-f", "origin", tag]).await?;
        Ok(())
    }

    async fn publish(&self, work: &Path, repository: &str, branch: &str) -> anyhow::Result<String> {
        git(work, &["add", "-A"]).await?;
        git(
            work,
            &["commit", "-q", "--allow-empty", "-m", "Change the sources"],
        )
        .await?;
        git(work, &["push", "-q", "-f", "origin", branch]).await?;
        // Servers advertise HEAD; it names the branch that was pushed first.
        let bare = self.bare(repository);
        git(&bare, &["update-server-info"]).await?;
        Ok(git(work, &["rev-parse", "HEAD"]).await?.trim().to_owned())
    }

    fn bare(&self, repository: &str) -> PathBuf {
        self.root.path().join(format!("{repository}.git"))
    }

    async fn work_tree(&self, repository: &str) -> anyhow::Result<PathBuf> {
        let (bare, work) = (
            self.bare(repository),
            self.root.path().join("work").join(repository),
        );
        if !work.exists() {
            for directory in [&bare, &work] {
                fs_err::create_dir_all(directory)?;
            }
            git(&bare, &["init", "-q", "--bare"]).await?;
            git(
                &bare,
                &["config", "uploadpack.allowReachableSHA1InWant", "true"],
            )
            .await?;
            git(&work, &["init", "-q"]).await?;
            git(&work, &["remote", "add", "origin", &bare.to_string_lossy()]).await?;
        }
        Ok(work)
    }
}

async fn git(directory: &Path, arguments: &[&str]) -> anyhow::Result<String> {
    let output = Command::new("git")
        .args([
            "-c",
            "user.name=Test",
            "-c",
            "user.email=test@example.com",
            "-c",
            "safe.directory=*",
            "-c",
            "init.defaultBranch=main",
        ])
        .args(arguments)
        .current_dir(directory)
        .stdin(Stdio::null())
        .output()
        .await?;
    anyhow::ensure!(
        output.status.success(),
        "git {arguments:?}: {}",
        String::from_utf8_lossy(&output.stderr)
    );
    Ok(String::from_utf8(output.stdout)?)
}

/// Serves the repositories below `root` on loopback, by plain HTTP; the address. The server ends with the process.
///
/// # Errors
/// The address cannot be bound, or the thread not be started.
pub fn serve_plain(root: PathBuf) -> anyhow::Result<std::net::SocketAddr> {
    let listener = std::net::TcpListener::bind(("127.0.0.1", 0))?;
    listener.set_nonblocking(true)?;
    let address = listener.local_addr()?;
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()?;
    let router = Router::new().fallback(backend).with_state(Arc::new(root));
    std::thread::spawn(move || {
        runtime.block_on(async {
            let listener = tokio::net::TcpListener::from_std(listener)?;
            axum::serve(listener, router).await
        })
    });
    Ok(address)
}

/// Hands a request to `git http-backend` by the rules of CGI (RFC 3875).
async fn backend(State(root): State<Arc<PathBuf>>, request: Request) -> Response<Body> {
    match cgi(&root, request).await {
        Ok(response) => response,
        Err(error) => answer(
            StatusCode::INTERNAL_SERVER_ERROR,
            &[],
            Body::from(format!("{error:#}")),
        ),
    }
}

async fn cgi(root: &Path, request: Request) -> anyhow::Result<Response<Body>> {
    let (parts, body) = request.into_parts();
    let path = parts.uri.path().to_owned();
    if path.starts_with("/private/") && !authorized(&parts.headers) {
        let challenge = [("www-authenticate", "Basic realm=\"git\"")];
        return Ok(answer(StatusCode::UNAUTHORIZED, &challenge, Body::empty()));
    }
    let header = |name: header::HeaderName| {
        parts
            .headers
            .get(name)
            .and_then(|v| v.to_str().ok())
            .unwrap_or_default()
            .to_owned()
    };
    let encoding = header(header::CONTENT_ENCODING);
    let body: Bytes = to_bytes(body, MAX_BODY).await?;
    let mut child = Command::new("git")
        .args(["-c", "safe.directory=*", "http-backend"])
        .env("GIT_PROJECT_ROOT", root)
        .env("GIT_HTTP_EXPORT_ALL", "1")
        .env("REQUEST_METHOD", parts.method.as_str())
        .env("PATH_INFO", &path)
        .env("QUERY_STRING", parts.uri.query().unwrap_or_default())
        .env("CONTENT_TYPE", header(header::CONTENT_TYPE))
        .env("CONTENT_LENGTH", body.len().to_string())
        .env("HTTP_CONTENT_ENCODING", encoding)
        .env("GIT_PROTOCOL", header("git-protocol".parse()?))
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .kill_on_drop(true)
        .spawn()?;
    let mut stdin = child.stdin.take().context("stdin is piped")?;
    let write = tokio::spawn(async move { stdin.write_all(&body).await });
    let output = child.wait_with_output().await?;
    // A backend that refuses the request does not read its body.
    let _ = write.await?;
    parse(&output.stdout)
}

/// Splits what a CGI program printed into status, headers and body.
fn parse(output: &[u8]) -> anyhow::Result<Response<Body>> {
    let end = output
        .windows(4)
        .position(|w| w == b"\r\n\r\n")
        .context("the backend printed no headers")?;
    let (head, body) = (std::str::from_utf8(&output[..end])?, &output[end + 4..]);
    let mut status = StatusCode::OK;
    let mut headers = Vec::new();
    for line in head.lines() {
        let (name, value) = line.split_once(':').context("a header without a colon")?;
        let value = value.trim();
        if name.eq_ignore_ascii_case("status") {
            status = value.split(' ').next().unwrap_or_default().parse()?;
        } else {
            headers.push((name, value));
        }
    }
    Ok(answer(status, &headers, Body::from(body.to_vec())))
}

fn answer(status: StatusCode, headers: &[(&str, &str)], body: Body) -> Response<Body> {
    let mut response = Response::builder().status(status);
    for (name, value) in headers {
        response = response.header(*name, *value);
    }
    response
        .body(body)
        .expect("header names and values come from a server program")
}

fn authorized(headers: &HeaderMap) -> bool {
    let (user, password) = CREDENTIALS;
    let expected = base64::engine::general_purpose::STANDARD.encode(format!("{user}:{password}"));
    headers
        .get(header::AUTHORIZATION)
        .and_then(|v| v.to_str().ok())
        == Some(&format!("Basic {expected}"))
}
