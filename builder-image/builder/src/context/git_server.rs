//! A git server on loopback for tests: `git http-backend` behind a small HTTP server, with TLS where it is wanted, and a
//! repository to serve.
#![allow(clippy::unwrap_used, reason = "tests")]

use std::{
    collections::HashMap,
    io::Write as _,
    os::unix::fs::{PermissionsExt, symlink},
    path::{Path, PathBuf},
    process::{Command, Stdio},
    sync::{Arc, Mutex},
};

use axum::{
    Router,
    body::Bytes,
    extract::{Request, State},
    response::{IntoResponse, Response},
};
use protocol::GitRevision;

/// A server of the repositories below a directory.
#[derive(Clone, Default)]
pub(super) struct Served {
    pub(super) root: PathBuf,
    /// The value of `Authorization` that is asked for.
    pub(super) authorization: Option<String>,
    /// Whether only the oldest version of git's protocol is spoken.
    pub(super) old: bool,
    /// Where `info/refs` is redirected to.
    pub(super) redirect: Option<String>,
    /// The values of `Authorization` that came.
    pub(super) seen: Arc<Mutex<Vec<Option<String>>>>,
}

impl Served {
    pub(super) async fn start(self) -> String {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let router = Router::new().fallback(answer).with_state(self);
        tokio::spawn(async move { axum::serve(listener, router).await });
        format!("http://{address}")
    }
}

async fn answer(State(served): State<Served>, request: Request) -> Response {
    let (parts, body) = request.into_parts();
    let header = |name: &str| {
        parts
            .headers
            .get(name)
            .map(|value| value.to_str().unwrap().to_owned())
    };
    served.seen.lock().unwrap().push(header("authorization"));
    let path = parts.uri.path().to_owned();
    let query = parts.uri.query().unwrap_or_default().to_owned();
    if path.starts_with("/broken") {
        return (axum::http::StatusCode::INTERNAL_SERVER_ERROR, "no").into_response();
    }
    if path.starts_with("/page") {
        return "<html>".into_response();
    }
    if let Some(target) = &served.redirect {
        let location = format!("{target}{path}?{query}");
        return (axum::http::StatusCode::FOUND, [("location", location)]).into_response();
    }
    if served.authorization.is_some() && header("authorization") != served.authorization {
        return (
            axum::http::StatusCode::UNAUTHORIZED,
            [("www-authenticate", "Basic realm=\"git\"")],
        )
            .into_response();
    }
    let body: Bytes = axum::body::to_bytes(body, 1 << 20).await.unwrap();
    let mut command = Command::new("git");
    command
        .arg("http-backend")
        .env_clear()
        .env("PATH", std::env::var_os("PATH").unwrap())
        .env("GIT_PROJECT_ROOT", &served.root)
        .env("GIT_HTTP_EXPORT_ALL", "1")
        .env("GIT_CONFIG_COUNT", "1")
        .env("GIT_CONFIG_KEY_0", "safe.directory")
        .env("GIT_CONFIG_VALUE_0", "*")
        .env("REQUEST_METHOD", parts.method.as_str())
        .env("PATH_INFO", &path)
        .env("QUERY_STRING", &query)
        .env("CONTENT_LENGTH", body.len().to_string())
        .env("CONTENT_TYPE", header("content-type").unwrap_or_default())
        .env(
            "HTTP_CONTENT_ENCODING",
            header("content-encoding").unwrap_or_default(),
        );
    if let (Some(protocol), false) = (header("git-protocol"), served.old) {
        command.env("GIT_PROTOCOL", protocol);
    }
    let output = tokio::task::spawn_blocking(move || {
        let mut child = command
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        let mut stdin = child.stdin.take().unwrap();
        std::thread::spawn(move || stdin.write_all(&body));
        child.wait_with_output().unwrap().stdout
    })
    .await
    .unwrap();
    let end = output
        .windows(4)
        .position(|window| window == b"\r\n\r\n")
        .unwrap();
    let mut response = Response::builder();
    for line in String::from_utf8_lossy(&output[..end]).lines() {
        let (name, value) = line.split_once(": ").unwrap();
        response = match name {
            "Status" => response.status(&value[..3]),
            name => response.header(name, value),
        };
    }
    response
        .body(axum::body::Body::from(output[end + 4..].to_vec()))
        .unwrap()
}

/// Runs git for the tests and returns what it prints.
fn git(directory: &Path, arguments: &[&str]) -> String {
    let output = Command::new("git")
        .args([
            "-c",
            "user.name=t",
            "-c",
            "user.email=t@example.com",
            "-c",
            "init.defaultBranch=main",
        ])
        .args(arguments)
        .current_dir(directory)
        .env("GIT_COMMITTER_DATE", "2020-05-05T05:05:05Z")
        .env("GIT_AUTHOR_DATE", "2020-05-05T05:05:05Z")
        .env("GIT_CONFIG_GLOBAL", "/dev/null")
        .output()
        .unwrap();
    assert!(
        output.status.success(),
        "{arguments:?}: {}",
        String::from_utf8_lossy(&output.stderr)
    );
    String::from_utf8(output.stdout).unwrap().trim().to_owned()
}

/// A directory with the repository `app`, and its commits by name.
pub(super) struct Repository {
    root: tempfile::TempDir,
    commits: HashMap<&'static str, String>,
}

impl Repository {
    pub(super) fn new() -> Self {
        let root = tempfile::tempdir().unwrap();
        let app = root.path().join("app");
        fs_err::create_dir(&app).unwrap();
        git(&app, &["init", "--quiet"]);
        let mut commits = HashMap::new();
        let mut commit = |name: &'static str| {
            git(&app, &["add", "--all"]);
            git(&app, &["commit", "--quiet", "--message", name]);
            commits.insert(name, git(&app, &["rev-parse", "HEAD"]));
        };
        fs_err::write(app.join("version"), "1").unwrap();
        fs_err::write(app.join("build.sh"), "#!/bin/sh\n").unwrap();
        fs_err::set_permissions(app.join("build.sh"), PermissionsExt::from_mode(0o700)).unwrap();
        fs_err::create_dir_all(app.join("svc/deep")).unwrap();
        fs_err::write(app.join("svc/deep/file"), "deep").unwrap();
        symlink("version", app.join("link")).unwrap();
        symlink("/etc", app.join("secrets")).unwrap();
        // What would run a program, if its names were known.
        fs_err::write(app.join(".gitattributes"), "* filter=evil\n").unwrap();
        commit("first");
        git(&app, &["tag", "--annotate", "--message", "v1", "v1"]);
        fs_err::write(app.join("version"), "2").unwrap();
        commit("second");
        fs_err::write(app.join("version"), "3").unwrap();
        commit("third");
        git(
            &app,
            &[
                "checkout",
                "--quiet",
                "-b",
                "side",
                "first".replace("first", "v1").as_str(),
            ],
        );
        fs_err::write(app.join("version"), "side").unwrap();
        commit("side");
        git(&app, &["checkout", "--quiet", "main"]);
        Self { root, commits }
    }

    pub(super) fn served(&self) -> Served {
        Served {
            root: self.root.path().to_owned(),
            ..Served::default()
        }
    }

    pub(super) fn revision(&self, commit: &str, reference: Option<&str>) -> GitRevision {
        GitRevision {
            commit: self.commits[commit].clone(),
            reference: reference.map(str::to_owned),
        }
    }
}

/// Puts TLS before the server at `plain` (`http://address`); returns the URL and the certificate of its own authority.
pub(super) async fn with_tls(plain: &str) -> (String, String) {
    let _ = rustls::crypto::aws_lc_rs::default_provider().install_default();
    let certified = rcgen::generate_simple_self_signed(vec!["localhost".to_owned()]).unwrap();
    let key =
        rustls::pki_types::PrivateKeyDer::try_from(certified.signing_key.serialize_der()).unwrap();
    let settings = rustls::ServerConfig::builder()
        .with_no_client_auth()
        .with_single_cert(vec![certified.cert.der().clone()], key)
        .unwrap();
    let acceptor = tokio_rustls::TlsAcceptor::from(Arc::new(settings));
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = listener.local_addr().unwrap().port();
    let server = plain.strip_prefix("http://").unwrap().to_owned();
    tokio::spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            let (acceptor, server) = (acceptor.clone(), server.clone());
            tokio::spawn(async move {
                let mut client = acceptor.accept(stream).await.unwrap();
                let mut server = tokio::net::TcpStream::connect(server).await.unwrap();
                let _ = tokio::io::copy_bidirectional(&mut client, &mut server).await;
            });
        }
    });
    (format!("https://localhost:{port}"), certified.cert.pem())
}
