//! Guarded HTTP: every connection passes the network guard, redirects are followed by hand, bodies are bounded and may
//! not stall. No authentication flow and no registry API: those are `client` and `token`.

mod failure;
mod progress;
mod resolver;
mod response;
mod settings;
mod validators;

use std::{sync::Arc, time::Duration};

use bytes::Bytes;
use futures::stream::BoxStream;
use http::{HeaderMap, HeaderValue, Method, header};
use url::Url;

use crate::{
    Credentials, Error, Guard, Outage, Result,
    error::masked,
    retry::{RetryPolicy, Verdict, is_transient_status, retry_after},
};

pub(crate) use failure::protocol;
use failure::{outage, transport_error};
use progress::{Progress, watched};
pub use response::Response;
use settings::Connectors;
pub use settings::{HostTls, HttpSettings, Proxies};
pub use validators::Validators;

const MAX_REDIRECTS: usize = 10;

/// A guarded HTTP client. Cheap to clone; clones share connections.
#[derive(Clone)]
pub struct HttpClient {
    connectors: Arc<Connectors>,
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
        Ok(Self {
            connectors: Arc::new(Connectors::new(settings)?),
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
                Ok(response) if !is_transient_status(response.status()) => {
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
                .connectors
                .of(&url)
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
            let answer = progress
                .unless_stalled(request.send(), self.idle_timeout)
                .await;
            // What went wrong with the bytes to send explains more than the connection that broke over it.
            if let Some(error) = progress.take_failure() {
                return Err(error);
            }
            let response = match answer {
                Some(Ok(response)) => response,
                Some(Err(error)) => return Err(transport_error(action, &url, &error)),
                None => return Err(outage(action, Outage::Timeout)),
            };
            let next = match response.status().as_u16() {
                301 | 302 | 303 | 307 | 308 if follow_redirects => location(&response, &url),
                _ => None,
            };
            let Some(next) = next else {
                return Ok(Response::new(response, url, action, self.idle_timeout));
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
}

impl std::fmt::Debug for HttpClient {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("HttpClient").finish_non_exhaustive()
    }
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

/// `url` by https, where it is the plain form of a server that was reached by https: behind a proxy that ends TLS, servers
/// often do not know how they are reached.
pub(crate) fn behind_tls(mut url: Url, reached: &Url) -> Url {
    let is_plain_form = reached.scheme() == "https"
        && url.scheme() == "http"
        && url.host() == reached.host()
        && (url.port().is_none() || url.port() == reached.port());
    if is_plain_form && url.set_port(reached.port()).is_ok() {
        // Between http and https that cannot fail.
        let _ = url.set_scheme("https");
    }
    url
}
