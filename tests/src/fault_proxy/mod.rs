//! A proxy between an operator process and the API server that counts the operator's writes, and does harm at one of them:
//! the operator is killed before or after it, its reply is lost, or it is refused.
//!
//! The operator speaks plain HTTP to it (its kubeconfig names the proxy and holds no credentials); the proxy speaks to the
//! API server as the administrator. Reads and watches pass through unchanged.

mod write;

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, OnceLock, PoisonError, Weak};
use std::time::Duration;

use anyhow::Context as _;
use bytes::Bytes;
use http::{HeaderValue, Request, Response, StatusCode, header};
use hyper::body::Incoming;
use hyper::service::service_fn;
use hyper_util::rt::{TokioExecutor, TokioIo};
use hyper_util::server::conn::auto::Builder;
use kube::Client;
use kube::client::Body;
use kube::config::{KubeConfigOptions, Kubeconfig};
use tokio::net::TcpListener;
use tokio::sync::Notify;
use tokio::task::{AbortHandle, JoinSet};

use crate::operator_process::OperatorProcess;

/// The longest body of a write: more than the API server takes.
const MAX_BODY: usize = 4 << 20;
/// How long a request that [`Fault::Hang`] holds is held at most.
const HANG: Duration = Duration::from_secs(60);

/// What is done at a write.
#[derive(Clone, Copy, Debug, Eq, Ord, PartialEq, PartialOrd)]
pub enum Fault {
    /// The operator is killed, the write does not reach the API server, and a new operator is started.
    CrashBefore,
    /// The API server did the write; the operator is killed before it hears of it, and a new one is started.
    CrashAfter,
    /// The API server did the write; the connection breaks before the operator hears of it.
    LoseReply,
    /// The write is refused with 409 Conflict.
    Conflict,
    /// The write is refused with 429 Too Many Requests and `Retry-After: 1`.
    TooManyRequests,
    /// The write is refused with 500 Internal Server Error.
    InternalError,
    /// The write does not reach the API server, and nobody answers.
    Hang,
    /// The write reaches the API server only after [`FaultProxy::release`].
    Delay,
}

impl Fault {
    /// The faults that every write is tried with.
    pub const AT_EVERY_WRITE: [Self; 3] = [Self::CrashBefore, Self::CrashAfter, Self::LoseReply];
    /// The faults that some writes are tried with: the operator lives on and nothing was written.
    pub const REFUSALS: [Self; 4] = [
        Self::Conflict,
        Self::TooManyRequests,
        Self::InternalError,
        Self::Hang,
    ];

    /// Whether the operator is killed.
    pub fn kills(self) -> bool {
        matches!(self, Self::CrashBefore | Self::CrashAfter)
    }
}

/// The write at which harm is done: its name, and which one of that name, from 1.
#[derive(Clone, Debug, Eq, Ord, PartialEq, PartialOrd)]
pub struct Point {
    /// The name, as [`FaultProxy::writes`] gives it.
    pub write: String,
    /// Which one, from 1.
    pub occurrence: usize,
}

/// A write that came.
#[derive(Clone, Debug)]
pub struct Written {
    /// Which it was.
    pub point: Point,
    /// What became of it: a status, or the fault.
    pub outcome: String,
}

/// The proxy of one operator. Dropping it closes every connection.
pub struct FaultProxy {
    address: SocketAddr,
    kubeconfig: PathBuf,
    shared: Arc<Shared>,
    task: AbortHandle,
}

struct Shared {
    client: Client,
    target: Option<(Point, Fault)>,
    operator: OnceLock<Weak<OperatorProcess>>,
    released: Notify,
    log: Mutex<Log>,
}

#[derive(Default)]
struct Log {
    written: Vec<Written>,
    counts: BTreeMap<String, usize>,
    hit: bool,
    failure: Option<String>,
}

impl Drop for FaultProxy {
    fn drop(&mut self) {
        self.task.abort();
    }
}

impl FaultProxy {
    /// Starts a proxy to the API server of `kubeconfig` that does harm once, at `target`; `directory` is for its files.
    ///
    /// # Errors
    /// The kubeconfig cannot be used, or no port is free.
    pub async fn start(
        kubeconfig: &Path,
        directory: &Path,
        target: Option<(Point, Fault)>,
    ) -> anyhow::Result<Self> {
        let read = Kubeconfig::read_from(kubeconfig)?;
        let mut config =
            kube::Config::from_custom_kubeconfig(read, &KubeConfigOptions::default()).await?;
        // What the API server says is for the operator to hear.
        config.default_retry = false;
        config.proxy_url = None;
        let shared = Arc::new(Shared {
            client: Client::try_from(config)?,
            target,
            operator: OnceLock::new(),
            released: Notify::new(),
            log: Mutex::default(),
        });
        let listener = TcpListener::bind(("127.0.0.1", 0)).await?;
        let address = listener.local_addr()?;
        let task = tokio::spawn(accept(listener, shared.clone())).abort_handle();
        let path = directory.join(format!("proxy-{}.kubeconfig", address.port()));
        let text = serde_json::json!({
            "apiVersion": "v1", "kind": "Config", "current-context": "proxy",
            "clusters": [{"name": "proxy", "cluster": {"server": format!("http://{address}")}}],
            "contexts": [{"name": "proxy", "context": {"cluster": "proxy", "user": "operator"}}],
            "users": [{"name": "operator", "user": {}}],
        });
        fs_err::write(&path, text.to_string())?;
        Ok(Self {
            address,
            kubeconfig: path,
            shared,
            task,
        })
    }

    /// Where it listens.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// The kubeconfig that leads to it.
    pub fn kubeconfig(&self) -> &Path {
        &self.kubeconfig
    }

    /// Names the process that crashes kill and restart. Only the first call counts.
    pub fn set_operator(&self, operator: &Arc<OperatorProcess>) {
        let _ = self.shared.operator.set(Arc::downgrade(operator));
    }

    /// Every write that came so far, in order.
    pub fn writes(&self) -> Vec<Written> {
        self.shared.log().written.clone()
    }

    /// Lets the write go on that [`Fault::Delay`] holds.
    pub fn release(&self) {
        self.shared.released.notify_one();
    }

    /// Whether harm was done.
    pub fn hit(&self) -> bool {
        self.shared.log().hit
    }

    /// Fails when the harm could not be done as it should.
    ///
    /// # Errors
    /// The operator could not be killed or restarted.
    pub fn check(&self) -> anyhow::Result<()> {
        match &self.shared.log().failure {
            Some(failure) => anyhow::bail!("fault proxy: {failure}"),
            None => Ok(()),
        }
    }
}

impl Shared {
    fn log(&self) -> std::sync::MutexGuard<'_, Log> {
        self.log.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Notes a write; its place in the log, and the fault that is meant for it.
    fn note(&self, write: String) -> (usize, Option<Fault>) {
        let mut log = self.log();
        let count = log.counts.entry(write.clone()).or_insert(0);
        *count += 1;
        let point = Point {
            occurrence: *count,
            write,
        };
        let fault = self
            .target
            .as_ref()
            .filter(|(target, _)| *target == point)
            .map(|(_, fault)| *fault);
        log.hit |= fault.is_some();
        log.written.push(Written {
            point,
            outcome: "under way".to_owned(),
        });
        (log.written.len() - 1, fault)
    }

    fn conclude(&self, place: usize, outcome: String) {
        self.log().written[place].outcome = outcome;
    }

    async fn forward(&self, request: Request<Bytes>) -> anyhow::Result<Response<Body>> {
        let (mut parts, body) = request.into_parts();
        for name in [
            header::HOST,
            header::CONNECTION,
            header::CONTENT_LENGTH,
            header::TRANSFER_ENCODING,
            header::ACCEPT_ENCODING,
        ] {
            parts.headers.remove(name);
        }
        // The client adds the server's address and the version of the connection.
        let path = parts.uri.path_and_query().context("a request has a path")?;
        parts.uri = http::Uri::from(path.clone());
        parts.version = http::Version::HTTP_11;
        let request = Request::from_parts(parts, Body::from(body));
        let mut response = self.client.send(request).await?;
        *response.version_mut() = http::Version::HTTP_11;
        response.headers_mut().remove(header::TRANSFER_ENCODING);
        Ok(response)
    }

    /// Forwards a write until its reply has come whole.
    async fn commit(
        &self,
        place: usize,
        request: Request<Bytes>,
    ) -> anyhow::Result<Response<Body>> {
        let (parts, body) = self.forward(request).await?.into_parts();
        let body = body.collect_bytes().await?;
        self.conclude(place, parts.status.as_u16().to_string());
        Ok(Response::from_parts(parts, Body::from(body)))
    }

    async fn crash(&self) -> anyhow::Result<()> {
        let operator = self
            .operator
            .get()
            .and_then(Weak::upgrade)
            .context("there is no operator to kill")?;
        operator.restart().await
    }

    /// Answers one request; an error breaks the connection.
    async fn answer(self: Arc<Self>, request: Request<Incoming>) -> anyhow::Result<Response<Body>> {
        let (parts, body) = request.into_parts();
        let body = axum::body::to_bytes(axum::body::Body::new(body), MAX_BODY).await?;
        let name = write::name(&parts.method, parts.uri.path(), &body);
        let request = Request::from_parts(parts, body);
        let Some(name) = name else {
            return self.forward(request).await;
        };
        let (place, fault) = self.note(name);
        // A task of its own: it is carried out also when the operator is gone meanwhile.
        let carried = tokio::spawn(async move { self.carry_out(place, fault, request).await });
        carried.await?
    }

    async fn carry_out(
        &self,
        place: usize,
        fault: Option<Fault>,
        request: Request<Bytes>,
    ) -> anyhow::Result<Response<Body>> {
        let Some(fault) = fault else {
            return self.commit(place, request).await;
        };
        let refused = |code, reason: &str| {
            self.conclude(place, format!("{fault:?}"));
            refusal(code, reason)
        };
        match fault {
            Fault::CrashAfter | Fault::LoseReply => {
                let reply = self.commit(place, request).await?;
                self.conclude(place, format!("{} {fault:?}", reply.status().as_u16()));
            }
            Fault::CrashBefore | Fault::Hang => self.conclude(place, format!("{fault:?}")),
            Fault::Delay => {
                self.conclude(place, format!("{fault:?}"));
                self.released.notified().await;
                return self.commit(place, request).await;
            }
            Fault::Conflict => return Ok(refused(StatusCode::CONFLICT, "Conflict")),
            Fault::TooManyRequests => {
                return Ok(refused(StatusCode::TOO_MANY_REQUESTS, "TooManyRequests"));
            }
            Fault::InternalError => {
                return Ok(refused(StatusCode::INTERNAL_SERVER_ERROR, "InternalError"));
            }
        }
        if fault == Fault::Hang {
            tokio::time::sleep(HANG).await;
        }
        if fault.kills()
            && let Err(error) = self.crash().await
        {
            self.log().failure = Some(format!("{error:#}"));
        }
        anyhow::bail!("{fault:?}")
    }
}

/// An answer as the API server gives it.
fn refusal(code: StatusCode, reason: &str) -> Response<Body> {
    let status = serde_json::json!({
        "apiVersion": "v1", "kind": "Status", "status": "Failure", "metadata": {},
        "code": code.as_u16(), "reason": reason, "message": "refused by the fault proxy",
    });
    let mut response = Response::new(Body::from(status.to_string().into_bytes()));
    *response.status_mut() = code;
    let headers = response.headers_mut();
    headers.insert(
        header::CONTENT_TYPE,
        HeaderValue::from_static("application/json"),
    );
    if code == StatusCode::TOO_MANY_REQUESTS {
        headers.insert(header::RETRY_AFTER, HeaderValue::from_static("1"));
    }
    response
}

async fn accept(listener: TcpListener, shared: Arc<Shared>) {
    let mut connections = JoinSet::new();
    loop {
        let Ok((stream, _)) = listener.accept().await else {
            continue;
        };
        let shared = shared.clone();
        connections.spawn(async move {
            let service = service_fn(move |request| shared.clone().answer(request));
            // That it breaks is the purpose.
            let _ = Builder::new(TokioExecutor::new())
                .serve_connection(TokioIo::new(stream), service)
                .await;
        });
        while connections.try_join_next().is_some() {}
    }
}
