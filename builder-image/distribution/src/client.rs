//! The client of registries: which host is spoken to how, and the loop that tries again. Authentication is in
//! `authenticate`, the requests themselves are in `pull` and `push`.

use std::{
    collections::{HashMap, HashSet},
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use bytes::Bytes;
use http::{HeaderMap, HeaderValue, Method, StatusCode};
use oci::{RegistryHost, Repository};
use tokio::sync::RwLock;
use url::Url;

use crate::{
    Anonymous, Budget, Error, ErrorCode, Guard, HostLimits, HostTls, HttpClient, HttpSettings,
    Keychain, Outage, Proxies, Response, Result, RetryPolicy,
    authenticate::Demand,
    http::{Call, Payload},
    local::{Locals, not_found},
    retry::{Verdict, is_transient_status, retry_after},
    token::TokenBroker,
    traffic::{HostTraffic, Traffic},
};

/// The largest body of an error that is looked at for its code.
const MAX_ERROR_BODY: u64 = 64 * 1024;

/// A client of any number of registries. Cheap to clone; clones share connections, tokens and pauses.
#[derive(Clone)]
pub struct Client {
    shared: Arc<Shared>,
    pub(crate) keychain: Arc<dyn Keychain>,
    pub(crate) locals: Locals,
}

struct Shared {
    http: HttpClient,
    plain_http: HashSet<String>,
    tokens: TokenBroker,
    traffic: Arc<Traffic>,
    hosts: Mutex<HashMap<RegistryHost, Arc<Host>>>,
}

/// What is known of one registry.
pub(crate) struct Host {
    pub(crate) base: Url,
    pub(crate) demand: Arc<RwLock<Demand>>,
    traffic: Arc<HostTraffic>,
}

/// Settings of a [`Client`].
#[derive(Default)]
pub struct ClientBuilder {
    keychain: Option<Arc<dyn Keychain>>,
    plain_http: HashSet<String>,
    http: HttpSettings,
    limits: HostLimits,
    traffic: Option<Arc<Traffic>>,
}

impl ClientBuilder {
    /// Where credentials come from. Default: none are known.
    #[must_use]
    pub fn keychain(mut self, keychain: impl Keychain + 'static) -> Self {
        self.keychain = Some(Arc::new(keychain));
        self
    }

    /// The network guard. Default: closed, without exceptions.
    #[must_use]
    pub fn guard(mut self, guard: Guard) -> Self {
        self.http.guard = guard;
        self
    }

    /// Certificates (PEM) that are trusted besides those of the system.
    #[must_use]
    pub fn ca_pem(mut self, pem: impl Into<Vec<u8>>) -> Self {
        self.http.ca_pem = Some(pem.into());
        self
    }

    /// Hosts (`host[:port]`, as in image names) that are spoken to by plain HTTP. With an open guard, loopback
    /// registries are as well.
    #[must_use]
    pub fn plain_http<S: Into<String>>(mut self, hosts: impl IntoIterator<Item = S>) -> Self {
        self.plain_http.extend(hosts.into_iter().map(Into::into));
        self
    }

    /// Proxies. Default: none.
    #[must_use]
    pub fn proxies(mut self, proxies: Proxies) -> Self {
        self.http.proxies = proxies;
        self
    }

    /// The `User-Agent`. Default: `coopery/<version>`.
    #[must_use]
    pub fn user_agent(mut self, user_agent: impl Into<String>) -> Self {
        self.http.user_agent = user_agent.into();
        self
    }

    /// What is done about failures that may pass. Default: five attempts.
    #[must_use]
    pub fn retry(mut self, retry: RetryPolicy) -> Self {
        self.http.retry = retry;
        self
    }

    /// How TLS is spoken to one registry, `host[:port]` as in image names.
    #[must_use]
    pub fn host_tls(mut self, host: &RegistryHost, tls: HostTls) -> Self {
        self.http.hosts.insert(host.api_host().to_owned(), tls);
        self
    }

    /// What is kept to on each registry. Default: no limits.
    #[must_use]
    pub const fn limits(mut self, limits: HostLimits) -> Self {
        self.limits = limits;
        self
    }

    /// Shares limits, pauses and budgets of registries with `other`, for clients that differ in what they trust.
    #[must_use]
    pub fn traffic_of(mut self, other: &Client) -> Self {
        self.traffic = Some(other.shared.traffic.clone());
        self
    }

    /// How long a connection may take, and how long nothing may move within an exchange. Default: 10 s and 60 s.
    #[must_use]
    pub const fn timeouts(mut self, connect: Duration, idle: Duration) -> Self {
        self.http.connect_timeout = connect;
        self.http.idle_timeout = idle;
        self
    }

    /// The client.
    ///
    /// # Errors
    /// [`Error::Settings`] when certificates or proxies are malformed.
    pub fn build(self) -> Result<Client> {
        Ok(Client {
            shared: Arc::new(Shared {
                http: HttpClient::new(&self.http)?,
                plain_http: self.plain_http,
                tokens: TokenBroker::default(),
                traffic: self
                    .traffic
                    .unwrap_or_else(|| Arc::new(Traffic::new(self.limits))),
                hosts: Mutex::default(),
            }),
            keychain: self.keychain.unwrap_or_else(|| Arc::new(Anonymous)),
            locals: Locals::default(),
        })
    }
}

/// What a request does, which decides the scope of its token.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Access {
    Pull,
    Push,
    Delete,
    /// The list of repositories.
    Catalog,
    /// Nothing but to be let in.
    Registry,
}

/// A request to a registry, which can be sent any number of times.
pub(crate) struct Ask<'a> {
    pub(crate) repository: &'a Repository,
    pub(crate) access: Access,
    /// Another repository of the same registry that is read as well (cross-repository mount).
    pub(crate) also_pull: Option<&'a Repository>,
    pub(crate) method: Method,
    pub(crate) url: Url,
    pub(crate) headers: HeaderMap,
    pub(crate) body: Option<Bytes>,
    /// What is being done, for errors.
    pub(crate) action: &'a str,
}

impl<'a> Ask<'a> {
    pub(crate) fn new(
        method: Method,
        url: Url,
        repository: &'a Repository,
        access: Access,
        action: &'a str,
    ) -> Self {
        Self {
            repository,
            access,
            also_pull: None,
            method,
            url,
            headers: HeaderMap::new(),
            body: None,
            action,
        }
    }

    /// Whether registries count this as a pull: Docker Hub does so for each GET of a manifest, not for HEAD.
    fn is_counted(&self) -> bool {
        self.method == Method::GET && self.url.path().contains("/manifests/")
    }

    /// The scopes in the order of their importance: some registries read only the first.
    pub(crate) fn scopes(&self) -> Vec<String> {
        let actions = match self.access {
            Access::Registry => return Vec::new(),
            Access::Catalog => return vec!["registry:catalog:*".into()],
            Access::Pull => "pull",
            Access::Push => "pull,push",
            Access::Delete => "pull,delete",
        };
        let mut scopes = vec![format!("repository:{}:{actions}", self.repository.path())];
        if let Some(other) = self.also_pull.filter(|&other| other != self.repository) {
            scopes.push(format!("repository:{}:pull", other.path()));
        }
        scopes
    }
}

impl Client {
    /// A client with default settings but for those given next.
    pub fn builder() -> ClientBuilder {
        ClientBuilder::default()
    }

    /// The same client with other credentials; connections, pauses and what is known of hosts are shared.
    #[must_use]
    pub fn with_keychain(&self, keychain: impl Keychain + 'static) -> Self {
        Self {
            shared: self.shared.clone(),
            keychain: Arc::new(keychain),
            locals: self.locals.clone(),
        }
    }

    /// The same client for which `hosts` are spoken to by plain HTTP as well. Connections, limits and pauses are
    /// shared; tokens and what is known of hosts are not.
    #[must_use]
    pub fn with_plain_http<S: Into<String>>(&self, hosts: impl IntoIterator<Item = S>) -> Self {
        let mut plain_http = self.shared.plain_http.clone();
        plain_http.extend(hosts.into_iter().map(Into::into));
        Self {
            shared: Arc::new(Shared {
                http: self.shared.http.clone(),
                plain_http,
                tokens: TokenBroker::default(),
                traffic: self.shared.traffic.clone(),
                hosts: Mutex::default(),
            }),
            keychain: self.keychain.clone(),
            locals: self.locals.clone(),
        }
    }

    /// The HTTP client below, for servers that are no registries.
    pub fn http(&self) -> &HttpClient {
        &self.shared.http
    }

    pub(crate) fn host(&self, name: &RegistryHost) -> Result<Arc<Host>> {
        let mut hosts = self
            .shared
            .hosts
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        if let Some(host) = hosts.get(name) {
            return Ok(host.clone());
        }
        let plain = self.shared.plain_http.contains(name.as_str())
            || (name.is_loopback() && *self.shared.http.guard() == Guard::Open);
        let scheme = if plain { "http" } else { "https" };
        let text = format!("{scheme}://{}/v2/", name.api_host());
        let base = Url::parse(&text).map_err(|_| Error::Url {
            url: text,
            problem: "it is not the URL of a registry",
        })?;
        let host = Arc::new(Host {
            base,
            demand: Arc::new(RwLock::new(Demand::Unknown)),
            traffic: self.shared.traffic.of(name),
        });
        hosts.insert(name.clone(), host.clone());
        Ok(host)
    }

    /// The URL of `rest` (`manifests/latest`) in `repository`.
    pub(crate) fn url(&self, repository: &Repository, rest: &str) -> Result<Url> {
        let host = self.host(repository.host())?;
        let mut url = host.base.clone();
        // Paths of repositories, digests and tags consist of characters that are safe in a URL's path.
        url.set_path(&format!("/v2/{}/{rest}", repository.path()));
        Ok(url)
    }

    /// Sends `ask` until there is an answer that stands: authenticates, waits and tries again where that may help.
    /// The answer may have any status but 401 and those that may pass.
    pub(crate) async fn send(&self, ask: &Ask<'_>) -> Result<Response> {
        self.send_counted(ask, &mut 0).await
    }

    /// As [`Self::send`], after `attempt` attempts, and counting its own.
    async fn send_counted(&self, ask: &Ask<'_>, attempt: &mut u32) -> Result<Response> {
        if self.local(ask.repository.host()).is_some() {
            // It has no server that could answer; what it can do is done without asking.
            return Err(not_found(ask.action.to_owned()));
        }
        let host = self.host(ask.repository.host())?;
        loop {
            host.traffic.pause.wait().await;
            if ask.is_counted() {
                self.take_from_budget(&host, ask.action).await?;
            }
            let error = match self.send_authenticated(&host, ask).await {
                Ok(response) if !is_transient_status(response.status()) => return Ok(response),
                Ok(response) => self.failure(ask.repository, ask.action, response).await,
                Err(error) => error,
            };
            self.pause_or_fail(&host, error, *attempt, ask.action)
                .await?;
            *attempt += 1;
        }
    }

    /// What `read` makes of the headers and the whole body of the answer 200 to `ask`. A body that breaks off, or that
    /// `read` finds corrupt, is asked for again.
    pub(crate) async fn send_for_body<T>(
        &self,
        ask: &Ask<'_>,
        limit: u64,
        read: impl Fn(&HeaderMap, Bytes) -> Result<T>,
    ) -> Result<T> {
        let mut attempt = 0;
        loop {
            let response = self.send_counted(ask, &mut attempt).await?;
            if response.status() != StatusCode::OK {
                return Err(self.failure(ask.repository, ask.action, response).await);
            }
            let headers = response.headers().clone();
            let error = match response.bytes_bounded(limit).await {
                Ok(body) => match read(&headers, body) {
                    Ok(read) => return Ok(read),
                    Err(error) => error,
                },
                Err(error) => error,
            };
            self.pause_or_give_up(ask.repository, error, attempt, ask.action)
                .await?;
            attempt += 1;
        }
    }

    /// Takes a request from what the registry has announced to allow, and waits for it where that is not long.
    async fn take_from_budget(&self, host: &Host, action: &str) -> Result<()> {
        while let Err(wait) = host.traffic.take() {
            if wait > self.retry().max_retry_after {
                return Err(Error::Unavailable {
                    action: action.to_owned(),
                    outage: Outage::RateLimited,
                    retry_after: Some(wait),
                });
            }
            tokio::time::sleep(wait).await;
        }
        Ok(())
    }

    /// Pauses before the next attempt, or gives `error` back where there is to be none. Where the server named the
    /// time, or asked for fewer requests, all requests to the host pause.
    async fn pause_or_fail(
        &self,
        host: &Host,
        error: Error,
        attempt: u32,
        action: &str,
    ) -> Result<()> {
        match self.retry().verdict(&error, attempt) {
            Verdict::GiveUp => {
                // Others that come meanwhile wait as long as anybody would.
                if let Some(after) = error.retry_after() {
                    host.traffic
                        .pause
                        .extend(after.min(self.retry().max_retry_after));
                }
                Err(error)
            }
            Verdict::Retry(pause) => {
                tracing::debug!(action, %error, ?pause, "trying again");
                if error.retry_after().is_some() || error.is_rate_limit() {
                    host.traffic.pause.extend(pause);
                } else {
                    tokio::time::sleep(pause).await;
                }
                Ok(())
            }
        }
    }

    /// As [`Self::pause_or_fail`], for the host of `repository`.
    pub(crate) async fn pause_or_give_up(
        &self,
        repository: &Repository,
        error: Error,
        attempt: u32,
        action: &str,
    ) -> Result<()> {
        let host = self.host(repository.host())?;
        self.pause_or_fail(&host, error, attempt, action).await
    }

    pub(crate) fn tokens(&self) -> &TokenBroker {
        &self.shared.tokens
    }

    pub(crate) fn retry(&self) -> &RetryPolicy {
        &self.shared.http.retry
    }

    pub(crate) async fn exchange(
        &self,
        ask: &Ask<'_>,
        authorization: Option<HeaderValue>,
    ) -> Result<Response> {
        let mut call = Call::new(ask.method.clone(), ask.url.clone(), ask.action);
        call.headers = ask.headers.clone();
        call.authorization = authorization;
        call.follow_redirects = matches!(ask.method, Method::GET | Method::HEAD);
        if let Some(body) = &ask.body {
            call.payload = Payload::Bytes(body.clone());
        }
        self.call(ask.repository, call).await
    }

    /// One exchange with the registry of `repository`, within the limits for it.
    pub(crate) async fn call(&self, repository: &Repository, call: Call<'_>) -> Result<Response> {
        let host = self.host(repository.host())?;
        let origin = call.url.origin();
        if origin != host.base.origin() {
            return self.shared.http.exchange(call).await;
        }
        let mut entered = host.traffic.enter().await;
        if matches!(call.payload, Payload::Stream(..)) {
            // Its source may be the same host, and then needs to enter while this goes on.
            entered = None;
        }
        let response = self.shared.http.exchange(call).await?;
        drop(entered);
        if response.url().origin() == origin {
            host.traffic.learn(response.headers());
        }
        Ok(response)
    }

    /// What `host` said last of the requests that it still allows; `None` as long as it says nothing, which is no limit.
    pub fn budget(&self, host: &RegistryHost) -> Option<Budget> {
        self.shared.traffic.of(host).budget()
    }

    /// The error for an answer whose status is none of those expected.
    pub(crate) async fn failure(
        &self,
        repository: &Repository,
        action: &str,
        response: Response,
    ) -> Error {
        let status = response.status();
        let after = retry_after(response.headers());
        let code = error_code(response).await;
        let anonymous = self.keychain.credentials(repository).is_none();
        Error::of_status(action, status, code, anonymous, after)
    }
}

impl std::fmt::Debug for Client {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Client").finish_non_exhaustive()
    }
}

pub(crate) async fn error_code(response: Response) -> Option<ErrorCode> {
    let body = response.bytes_bounded(MAX_ERROR_BODY).await.ok()?;
    ErrorCode::of_body(&body)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn schemes_follow_settings_and_guard() {
        let scheme = |guard: Guard, host: &str| {
            let client = Client::builder()
                .guard(guard)
                .plain_http(["main.images.svc:5000"])
                .build()
                .unwrap();
            let repository: Repository = format!("{host}/a/b").parse().unwrap();
            let url = client.url(&repository, "tags/list").unwrap();
            (url.scheme().to_owned(), url.host_str().unwrap().to_owned())
        };
        for (guard, host, expected) in [
            (
                Guard::default(),
                "main.images.svc:5000",
                ("http", "main.images.svc"),
            ),
            (Guard::Open, "localhost:5000", ("http", "localhost")),
            (Guard::default(), "localhost:5000", ("https", "localhost")),
            (Guard::Open, "docker.io", ("https", "registry-1.docker.io")),
            (Guard::Open, "[::1]:5000", ("http", "[::1]")),
        ] {
            let (scheme, name) = scheme(guard, host);
            assert_eq!((scheme.as_str(), name.as_str()), expected, "{host}");
        }
    }
}
