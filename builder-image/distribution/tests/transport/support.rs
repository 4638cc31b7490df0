//! Scripted servers, clients and images for the scenarios.

use std::{
    net::SocketAddr,
    sync::{Arc, Mutex},
    time::Duration,
};

use axum::{Router, body::Body};
use bytes::Bytes;
use distribution::{
    Client, ClientBuilder, Credentials, DockerConfig, Guard, RetryPolicy,
    memory::{Logged, MemoryRegistry},
};
use futures::StreamExt;
use http::{Request, Response};
use oci::{Descriptor, Index, Manifest, MediaType, Platform};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    task::AbortHandle,
};

/// A client that may reach loopback and is quick to try again.
pub(crate) fn builder() -> ClientBuilder {
    Client::builder().guard(Guard::Open).retry(RetryPolicy {
        attempts: 3,
        base: Duration::from_millis(1),
        max: Duration::from_millis(5),
        max_retry_after: Duration::from_secs(5),
    })
}

pub(crate) fn client() -> Client {
    builder().build().unwrap()
}

/// A client that knows `user` and `password` for `host`.
pub(crate) fn client_with(host: &str, username: &str, password: &str) -> Client {
    let credentials = Credentials::basic(username, password);
    let config = DockerConfig::default().with(host, credentials).unwrap();
    builder().keychain(config).build().unwrap()
}

/// A request as a scripted server saw it.
#[derive(Debug, Clone)]
pub(crate) struct Seen {
    /// Method, and path with query.
    pub(crate) line: String,
    pub(crate) authorization: Option<String>,
    pub(crate) range: Option<String>,
    pub(crate) content_range: Option<String>,
    pub(crate) body: Bytes,
}

/// A server whose answers are a function of the request and its number.
pub(crate) struct Script {
    pub(crate) address: SocketAddr,
    seen: Arc<Mutex<Vec<Seen>>>,
    server: AbortHandle,
}

impl Script {
    pub(crate) async fn start<F>(answer: F) -> Self
    where
        F: Fn(usize, &Request<Bytes>) -> Response<Body> + Clone + Send + Sync + 'static,
    {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let seen = Arc::new(Mutex::new(Vec::new()));
        let log = seen.clone();
        let handler = move |request: axum::extract::Request| {
            let (log, answer) = (log.clone(), answer.clone());
            async move {
                let (parts, body) = request.into_parts();
                let body = axum::body::to_bytes(body, 1 << 24)
                    .await
                    .unwrap_or_default();
                let header = |name| {
                    let value = parts.headers.get(name)?;
                    value.to_str().ok().map(str::to_owned)
                };
                let number = {
                    let mut log = log.lock().unwrap();
                    log.push(Seen {
                        line: format!("{} {}", parts.method, parts.uri),
                        authorization: header("authorization"),
                        range: header("range"),
                        content_range: header("content-range"),
                        body: body.clone(),
                    });
                    log.len() - 1
                };
                answer(number, &Request::from_parts(parts, body))
            }
        };
        let app = Router::new().fallback(handler);
        let server = tokio::spawn(async move {
            let _ = axum::serve(listener, app).await;
        });
        Self {
            address,
            seen,
            server: server.abort_handle(),
        }
    }

    pub(crate) fn seen(&self) -> Vec<Seen> {
        self.seen.lock().unwrap().clone()
    }

    /// The requests so far: method, path with query.
    pub(crate) fn lines(&self) -> Vec<String> {
        self.seen().into_iter().map(|seen| seen.line).collect()
    }

    pub(crate) fn repository(&self, path: &str) -> oci::Repository {
        format!("{}/{path}", self.address).parse().unwrap()
    }
}

impl Drop for Script {
    fn drop(&mut self) {
        self.server.abort();
    }
}

/// What a server does with a connection after it has read the head of a request.
#[derive(Clone, Copy)]
pub(crate) enum Act {
    /// Sends this and closes.
    Send(&'static str),
    /// Sends this and then nothing more, with the connection open.
    Hang(&'static str),
    /// Sends this, and then a chunk of one byte again and again.
    Drip(&'static str),
}

/// A server that does with each connection what `act` says of its number. For what no HTTP library would send.
pub(crate) struct Raw {
    pub(crate) address: SocketAddr,
    heads: Arc<Mutex<Vec<String>>>,
    server: AbortHandle,
}

impl Raw {
    pub(crate) async fn start(act: impl Fn(usize) -> Act + Send + Sync + 'static) -> Self {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let heads = Arc::new(Mutex::new(Vec::new()));
        let (log, act) = (heads.clone(), Arc::new(act));
        let server = tokio::spawn(async move {
            let mut connections = tokio::task::JoinSet::new();
            while let Ok((mut socket, _)) = listener.accept().await {
                let (log, act) = (log.clone(), act.clone());
                // It ends when the client goes away, or with the server.
                connections.spawn(async move {
                    let mut head = Vec::new();
                    while !head.ends_with(b"\r\n\r\n") {
                        match socket.read_u8().await {
                            Ok(byte) => head.push(byte),
                            // A connection that was not needed.
                            Err(_) => return,
                        }
                    }
                    let number = {
                        let mut log = log.lock().unwrap();
                        log.push(String::from_utf8_lossy(&head).into_owned());
                        log.len() - 1
                    };
                    let act = act(number);
                    let (Act::Send(text) | Act::Hang(text) | Act::Drip(text)) = act;
                    let _ = socket.write_all(text.as_bytes()).await;
                    match act {
                        Act::Send(_) => {}
                        Act::Hang(_) => std::future::pending().await,
                        Act::Drip(_) => {
                            while socket.write_all(b"1\r\nx\r\n").await.is_ok() {
                                tokio::time::sleep(Duration::from_millis(5)).await;
                            }
                        }
                    }
                });
            }
        });
        Self {
            address,
            heads,
            server: server.abort_handle(),
        }
    }

    /// The heads of the requests so far.
    pub(crate) fn heads(&self) -> Vec<String> {
        self.heads.lock().unwrap().clone()
    }

    pub(crate) fn repository(&self, path: &str) -> oci::Repository {
        format!("{}/{path}", self.address).parse().unwrap()
    }
}

impl Drop for Raw {
    fn drop(&mut self) {
        self.server.abort();
    }
}

/// An answer.
pub(crate) fn answer(
    status: u16,
    headers: &[(&str, &str)],
    body: impl Into<Body>,
) -> Response<Body> {
    let mut response = Response::builder().status(status);
    for (name, value) in headers {
        response = response.header(*name, *value);
    }
    response.body(body.into()).unwrap()
}

/// An answer whose body has no announced length.
pub(crate) fn chunked(status: u16, chunks: Vec<Bytes>) -> Response<Body> {
    let chunks = chunks.into_iter().map(std::io::Result::Ok);
    let body = Body::from_stream(futures::stream::iter(chunks));
    Response::builder().status(status).body(body).unwrap()
}

/// The lines of a registry's log.
pub(crate) fn lines(requests: &[Logged]) -> Vec<String> {
    requests.iter().map(ToString::to_string).collect()
}

/// How many requests `wanted` picks.
pub(crate) fn count(registry: &MemoryRegistry, wanted: impl Fn(&Logged) -> bool) -> usize {
    registry.requests().iter().filter(|r| wanted(r)).count()
}

pub(crate) const KIB: usize = 1024;

/// Bytes that are different everywhere, and their descriptor.
pub(crate) fn blob_of(size: usize) -> (Bytes, Descriptor) {
    let words = u32::try_from(size.div_ceil(4)).unwrap();
    let bytes: Vec<u8> = (0..words).flat_map(u32::to_le_bytes).take(size).collect();
    let descriptor = Descriptor::of(MediaType::OciLayer, &bytes);
    (bytes.into(), descriptor)
}

/// Puts an image into `registry`: a configuration and layers of these sizes, each layer with contents of its own.
pub(crate) fn add_image(
    registry: &MemoryRegistry,
    repository: &str,
    tag: Option<&str>,
    architecture: &str,
    layers: &[(&str, usize)],
) -> Descriptor {
    let config = format!(r#"{{"architecture":"{architecture}","os":"linux"}}"#);
    let config_digest = registry.add_blob(repository, config.clone());
    let layers = layers.iter().map(|(seed, size)| {
        let bytes: Bytes = seed.bytes().cycle().take(*size).collect();
        registry.add_blob(repository, bytes.clone());
        Descriptor::of(MediaType::OciLayerGzip, &bytes)
    });
    let config = Descriptor::new(MediaType::OciConfig, config_digest, config.len() as u64);
    // Not the form that a serialiser would write: copies must keep the bytes.
    let json = serde_json::to_string_pretty(&Manifest::new(config, layers.collect())).unwrap();
    registry.add_manifest(repository, tag, MediaType::OciManifest, json.clone());
    Descriptor::of(MediaType::OciManifest, json.as_bytes())
}

/// Puts an index of two platforms and 13 distinct blobs into `registry`.
pub(crate) fn add_index(registry: &MemoryRegistry, repository: &str, tag: &str) -> Descriptor {
    let shared = ("shared", 50 * KIB);
    let children = ["amd64", "arm64"].map(|architecture| {
        let seeds: Vec<String> = (0..5).map(|i| format!("{architecture}{i}")).collect();
        let mut layers: Vec<_> = seeds.iter().map(|s| (s.as_str(), 20 * KIB)).collect();
        layers.push(shared);
        let platform: Platform = format!("linux/{architecture}").parse().unwrap();
        add_image(registry, repository, None, architecture, &layers).with_platform(platform)
    });
    let json = serde_json::to_string_pretty(&Index::new(children.to_vec())).unwrap();
    registry.add_manifest(repository, Some(tag), MediaType::OciIndex, json.clone());
    Descriptor::of(MediaType::OciIndex, json.as_bytes())
}

/// A body whose connection breaks after `part`.
pub(crate) fn broken(part: Bytes) -> Body {
    let end = async {
        tokio::task::yield_now().await;
        Err(std::io::Error::other("cut"))
    };
    let parts = futures::stream::once(async { Ok(part) }).chain(futures::stream::once(end));
    Body::from_stream(parts)
}
