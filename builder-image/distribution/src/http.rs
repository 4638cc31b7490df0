//! Guarded HTTP: every connection passes the network guard, redirects are followed by hand, bodies are bounded and may
//! not stall. No authentication flow and no registry API: those are `client` and `token`.

mod failure;
mod resolver;
mod validators;

use std::{
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use bytes::{Bytes, BytesMut};
use futures::{Stream, StreamExt, TryStreamExt, stream::BoxStream};
use http::{HeaderMap, HeaderValue, Method, StatusCode, header};
use tokio::io::AsyncRead;
use tokio_util::io::StreamReader;
use url::Url;

use crate::{
    Credentials, Error, Guard, Result,
    error::masked,
    retry::{RetryPolicy, Verdict, retry_after},
};

pub(crate) use failure::protocol;
use failure::{chain, timeout, transport_error};
use resolver::GuardedResolver;
pub use validators::Validators;

const MAX_REDIRECTS: usize = 10;

/// Proxies, as the usual environment variables name them. A URL of a proxy may hold credentials.
#[derive(Clone, Default)]
pub struct Proxies {
    /// The proxy for `http:` URLs.
    pub http: Option<String>,
    /// The proxy for `https:` URLs.
    pub https: Option<String>,
    /// Hosts, domains and networks that are reached without a proxy, separated by commas.
    pub no_proxy: Option<String>,
}

impl Proxies {
    /// The proxies that the environment variables of this process name, in either case of letters.
    pub fn from_env() -> Self {
        let var = |name: &str| {
            [name.to_owned(), name.to_ascii_lowercase()]
                .into_iter()
                .find_map(|name| std::env::var(name).ok())
                .filter(|value| !value.is_empty())
        };
        Self {
            http: var("HTTP_PROXY"),
            https: var("HTTPS_PROXY"),
            no_proxy: var("NO_PROXY"),
        }
    }
}

impl std::fmt::Debug for Proxies {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Proxies")
            .field("http", &self.http.is_some())
            .field("https", &self.https.is_some())
            .field("no_proxy", &self.no_proxy)
            .finish()
    }
}

/// How to reach servers.
#[derive(Debug, Clone)]
pub struct HttpSettings {
    /// Which addresses may be connected to. Behind a proxy, names are resolved by the proxy, so only addresses in URLs
    /// are judged; the name of the proxy itself is judged like any other.
    pub guard: Guard,
    /// Certificates (PEM) that are trusted besides those of the system.
    pub ca_pem: Option<Vec<u8>>,
    /// Proxies. The environment is not looked at unless [`Proxies::from_env`] is given here.
    pub proxies: Proxies,
    /// The `User-Agent`.
    pub user_agent: String,
    /// How long a connection may take.
    pub connect_timeout: Duration,
    /// How long nothing may come, or nothing may be taken, within an exchange.
    pub idle_timeout: Duration,
    /// What is done about failures that may pass.
    pub retry: RetryPolicy,
}

impl Default for HttpSettings {
    fn default() -> Self {
        Self {
            guard: Guard::default(),
            ca_pem: None,
            proxies: Proxies::default(),
            user_agent: concat!("coopery/", env!("CARGO_PKG_VERSION")).to_owned(),
            connect_timeout: Duration::from_secs(10),
            idle_timeout: Duration::from_secs(60),
            retry: RetryPolicy::default(),
        }
    }
}

/// A guarded HTTP client. Cheap to clone; clones share connections.
#[derive(Clone)]
pub struct HttpClient {
    inner: reqwest::Client,
    guard: Arc<Guard>,
    idle_timeout: Duration,
    pub(crate) retry: RetryPolicy,
}

/// What an exchange sends besides its headers.
pub(crate) enum Payload {
    Empty,
    Bytes(Bytes),
    /// Exactly this many bytes.
    Stream(BoxStream<'static, Result<Bytes>>, u64),
}

/// One request.
pub(crate) struct Call<'a> {
    pub(crate) method: Method,
    pub(crate) url: Url,
    pub(crate) headers: HeaderMap,
    pub(crate) payload: Payload,
    /// Sent to the origin of `url` only, wherever redirects lead.
    pub(crate) authorization: Option<HeaderValue>,
    pub(crate) follow_redirects: bool,
    /// What is being done, for errors.
    pub(crate) action: &'a str,
}

impl<'a> Call<'a> {
    pub(crate) fn new(method: Method, url: Url, action: &'a str) -> Self {
        Self {
            method,
            url,
            headers: HeaderMap::new(),
            payload: Payload::Empty,
            authorization: None,
            follow_redirects: false,
            action,
        }
    }
}

impl HttpClient {
    /// A client with these settings.
    ///
    /// # Errors
    /// [`Error::Settings`] when the certificates or a proxy's URL are malformed.
    pub fn new(settings: &HttpSettings) -> Result<Self> {
        let certificates = match &settings.ca_pem {
            Some(pem) => reqwest::Certificate::from_pem_bundle(pem)
                .map_err(|_| Error::Settings("the CA certificates are not valid PEM".into()))?,
            None => Vec::new(),
        };
        let base = || -> Result<reqwest::ClientBuilder> {
            let mut builder = reqwest::Client::builder()
                .redirect(reqwest::redirect::Policy::none())
                .referer(false)
                .retry(reqwest::retry::never())
                .http1_only()
                .no_proxy()
                .dns_resolver(GuardedResolver(settings.guard.clone()))
                .user_agent(settings.user_agent.as_str())
                .connect_timeout(settings.connect_timeout)
                .tcp_keepalive(Duration::from_secs(30))
                .pool_idle_timeout(Duration::from_secs(30));
            for proxy in proxies(&settings.proxies)? {
                builder = builder.proxy(proxy);
            }
            Ok(builder)
        };
        let build = |builder: reqwest::ClientBuilder| {
            builder.build().map_err(|e| Error::Settings(chain(&e)))
        };
        // An image without any system certificates must still reach registries by plain HTTP and with a private CA.
        let inner = match build(base()?.tls_certs_merge(certificates.clone())) {
            Ok(client) => client,
            Err(_) => build(base()?.tls_certs_only(certificates))?,
        };
        Ok(Self {
            inner,
            guard: Arc::new(settings.guard.clone()),
            idle_timeout: settings.idle_timeout,
            retry: settings.retry.clone(),
        })
    }

    /// The network guard of this client.
    pub fn guard(&self) -> &Guard {
        &self.guard
    }

    /// Gets `url`, following up to ten redirects, never from `https:` to `http:`; `credentials` go to the origin of `url`
    /// alone. Failures that may pass are retried. The answer is returned whatever its status, but for those that
    /// were retried in vain.
    pub async fn get(&self, url: &Url, credentials: Option<&Credentials>) -> Result<Response> {
        self.get_if_changed(url, credentials, &Validators::default())
            .await
    }

    /// As [`HttpClient::get`], but the answer has the status 304 and no body where what is behind the URL is still what
    /// `known` was said of.
    pub async fn get_if_changed(
        &self,
        url: &Url,
        credentials: Option<&Credentials>,
        known: &Validators,
    ) -> Result<Response> {
        let action = format!("get {}", masked(url));
        let mut attempt = 0;
        loop {
            let mut call = Call::new(Method::GET, url.clone(), &action);
            call.headers = known.to_headers();
            call.authorization = credentials.and_then(Credentials::header);
            call.follow_redirects = true;
            let error = match self.exchange(call).await {
                Ok(response) if !self.retry.is_transient_status(response.status()) => {
                    return Ok(response);
                }
                Ok(response) => {
                    let after = retry_after(response.headers());
                    Error::of_status(&action, response.status(), None, false, after)
                }
                Err(error) => error,
            };
            match self.retry.verdict(&error, attempt) {
                Verdict::Retry(delay) => tokio::time::sleep(delay).await,
                Verdict::GiveUp => return Err(error),
            }
            attempt += 1;
        }
    }

    /// One exchange, redirects included, without retries.
    pub(crate) async fn exchange(&self, call: Call<'_>) -> Result<Response> {
        let Call {
            method,
            mut url,
            headers,
            mut payload,
            mut authorization,
            follow_redirects,
            action,
        } = call;
        for _ in 0..=MAX_REDIRECTS {
            self.check(&url)?;
            let mut request = self
                .inner
                .request(method.clone(), url.clone())
                .headers(headers.clone());
            if let Some(value) = &authorization {
                request = request.header(header::AUTHORIZATION, value.clone());
            }
            let progress = Arc::new(Progress::default());
            request = match std::mem::replace(&mut payload, Payload::Empty) {
                Payload::Empty if method == Method::POST || method == Method::PUT => {
                    request.header(header::CONTENT_LENGTH, 0)
                }
                Payload::Empty => request,
                Payload::Bytes(bytes) => request.body(bytes),
                Payload::Stream(stream, length) => request
                    .header(header::CONTENT_LENGTH, length)
                    .body(reqwest::Body::wrap_stream(watched(
                        stream,
                        progress.clone(),
                    ))),
            };
            let answer = self.unless_stalled(request.send(), &progress).await;
            // What went wrong with the bytes to send explains more than the connection that broke over it.
            if let Some(error) = progress.take_failure() {
                return Err(error);
            }
            let response = match answer {
                Some(Ok(response)) => response,
                Some(Err(error)) => return Err(transport_error(action, &url, &error)),
                None => return Err(timeout(action)),
            };
            let next = match response.status().as_u16() {
                301 | 302 | 303 | 307 | 308 if follow_redirects => location(&response, &url),
                _ => None,
            };
            let Some(next) = next else {
                return Ok(Response {
                    inner: response,
                    url,
                    action: action.to_owned(),
                    idle_timeout: self.idle_timeout,
                });
            };
            let next = next.map_err(|problem| protocol(action, problem))?;
            if url.scheme() == "https" && next.scheme() != "https" {
                return Err(protocol(action, "it redirects from https to http"));
            }
            if next.origin() != url.origin() {
                authorization = None;
            }
            url = next;
        }
        Err(protocol(action, "it redirects too often"))
    }

    /// Refuses URLs that are never asked for: other schemes, user names in them, addresses that the guard refuses.
    fn check(&self, url: &Url) -> Result<()> {
        let problem = |problem| Error::Url {
            url: masked(url),
            problem,
        };
        if !matches!(url.scheme(), "http" | "https") {
            return Err(problem("only http and https are supported"));
        }
        if !url.username().is_empty() || url.password().is_some() {
            return Err(problem("it has a user or password in it"));
        }
        self.guard
            .check_url(url)
            .map_err(|reason| Error::AddressRefused {
                host: url.host_str().unwrap_or_default().to_owned(),
                reason,
            })
    }

    /// Waits for `answer` as long as bytes are taken from us; `None` when nothing moved for the idle timeout.
    async fn unless_stalled<T>(
        &self,
        answer: impl Future<Output = T>,
        progress: &Progress,
    ) -> Option<T> {
        let mut answer = std::pin::pin!(answer);
        let mut seen = 0;
        loop {
            if let Ok(answer) = tokio::time::timeout(self.idle_timeout, answer.as_mut()).await {
                return Some(answer);
            }
            let now = progress.sent.load(Ordering::Relaxed);
            if now == seen {
                return None;
            }
            seen = now;
        }
    }
}

impl std::fmt::Debug for HttpClient {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("HttpClient").finish_non_exhaustive()
    }
}

/// How far a streamed request body is, and what its source failed with.
#[derive(Default)]
struct Progress {
    sent: AtomicU64,
    failure: std::sync::Mutex<Option<Error>>,
}

impl Progress {
    fn take_failure(&self) -> Option<Error> {
        self.failure
            .lock()
            .unwrap_or_else(std::sync::PoisonError::into_inner)
            .take()
    }
}

fn watched(
    stream: BoxStream<'static, Result<Bytes>>,
    progress: Arc<Progress>,
) -> impl Stream<Item = std::io::Result<Bytes>> + Send + 'static {
    stream.map(move |item| match item {
        Ok(bytes) => {
            let sent = bytes.len() as u64;
            progress.sent.fetch_add(sent, Ordering::Relaxed);
            Ok(bytes)
        }
        Err(error) => {
            let mut failure = progress
                .failure
                .lock()
                .unwrap_or_else(std::sync::PoisonError::into_inner);
            *failure = Some(error);
            Err(std::io::Error::other("the source of the body failed"))
        }
    })
}

/// An answer whose headers have come and whose body is still on its way.
#[derive(Debug)]
pub struct Response {
    inner: reqwest::Response,
    url: Url,
    action: String,
    idle_timeout: Duration,
}

impl Response {
    /// The status.
    pub fn status(&self) -> StatusCode {
        self.inner.status()
    }

    /// The headers.
    pub fn headers(&self) -> &HeaderMap {
        self.inner.headers()
    }

    /// The URL that answered, after redirects.
    pub fn url(&self) -> &Url {
        &self.url
    }

    /// The length that the server announces.
    pub fn content_length(&self) -> Option<u64> {
        let value = self.headers().get(header::CONTENT_LENGTH)?;
        value.to_str().ok()?.parse().ok()
    }

    /// The text of a header, where it is there and is text.
    pub(crate) fn header(&self, name: impl header::AsHeaderName) -> Option<&str> {
        self.headers().get(name)?.to_str().ok()
    }

    /// The whole body.
    ///
    /// # Errors
    /// [`Error::TooLarge`] as soon as it has more than `limit` bytes, or announces more.
    pub async fn bytes_bounded(mut self, limit: u64) -> Result<Bytes> {
        let too_large = |action: &str| Error::TooLarge {
            action: action.to_owned(),
            limit,
        };
        if self.content_length().is_some_and(|length| length > limit) {
            return Err(too_large(&self.action));
        }
        let mut body = BytesMut::new();
        while let Some(chunk) = self.chunk().await? {
            if body.len() as u64 + chunk.len() as u64 > limit {
                return Err(too_large(&self.action));
            }
            body.extend_from_slice(&chunk);
        }
        Ok(body.freeze())
    }

    /// The body as it comes, unbounded.
    pub fn into_stream(self) -> BoxStream<'static, Result<Bytes>> {
        futures::stream::try_unfold(self, async |mut response| {
            Ok(response.chunk().await?.map(|chunk| (chunk, response)))
        })
        .boxed()
    }

    /// The body as it comes, unbounded. Errors of this crate are inside of the I/O errors.
    pub fn into_reader(self) -> impl AsyncRead + Send + Unpin + 'static {
        StreamReader::new(self.into_stream().map_err(Error::into_io))
    }

    async fn chunk(&mut self) -> Result<Option<Bytes>> {
        match tokio::time::timeout(self.idle_timeout, self.inner.chunk()).await {
            Ok(Ok(chunk)) => Ok(chunk),
            Ok(Err(error)) => Err(transport_error(&self.action, &self.url, &error)),
            Err(_) => Err(timeout(&self.action)),
        }
    }
}

type Make = fn(&str) -> reqwest::Result<reqwest::Proxy>;

fn proxies(settings: &Proxies) -> Result<Vec<reqwest::Proxy>> {
    let no_proxy = settings
        .no_proxy
        .as_deref()
        .and_then(reqwest::NoProxy::from_string);
    let mut proxies = Vec::new();
    let named: [(&Option<String>, Make, &str); 2] = [
        (&settings.http, |url| reqwest::Proxy::http(url), "http"),
        (&settings.https, |url| reqwest::Proxy::https(url), "https"),
    ];
    for (url, make, which) in named {
        let Some(url) = url else { continue };
        let proxy = make(url)
            .map_err(|_| Error::Settings(format!("the URL of the {which} proxy is malformed")))?;
        proxies.push(proxy.no_proxy(no_proxy.clone()));
    }
    Ok(proxies)
}

/// Where a redirect leads; `None` when it names no place.
fn location(
    response: &reqwest::Response,
    base: &Url,
) -> Option<std::result::Result<Url, &'static str>> {
    let value = response.headers().get(header::LOCATION)?;
    let url = value.to_str().ok().and_then(|text| base.join(text).ok());
    Some(url.ok_or("it redirects to a malformed URL"))
}
