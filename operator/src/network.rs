//! What the operator asks of servers outside of the cluster's API: the commit of a git reference, and what a tag or
//! digest of a registry stands for. Nothing else leaves the operator: no blobs, no pushes. A trait, so that scenarios
//! run without a network.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use distribution::{
    Client, ClientBuilder, Credentials, DockerConfig, Error, Guard, HostLimits, HttpClient,
    HttpSettings, Proxies, RawManifest, RetryPolicy,
};
use futures::FutureExt;
use futures::future::BoxFuture;
use oci::{Descriptor, Reference, RegistryHost, Repository, Tag};
use tokio::sync::Semaphore;

use crate::git::{
    GitCredentials, GitError, GitRef, LOOKUP_TIMEOUT, MAX_ADVERTISEMENT_BYTES, discovery_url,
    find_commit,
};
use crate::settings::Settings;

/// What all questions to one registry keep to, whoever they are for: 50 a second at most, and of a budget that the registry
/// announces something is left for the pods, which have to pull.
const LIMITS: HostLimits = HostLimits {
    concurrency: 0,
    interval: Duration::from_millis(20),
    reserve: 5,
};
/// Questions to one registry that are on their way at the same time. The others wait, and their time does not run.
const QUESTIONS: usize = 16;
/// The longest pause that a registry is believed.
const LONGEST_PAUSE: Duration = Duration::from_secs(3600);
/// How long one question to a registry may take.
const REGISTRY_TIMEOUT: Duration = Duration::from_secs(10);
/// How long the listing of a repository's tags may take.
const LIST_TIMEOUT: Duration = Duration::from_secs(30);
/// The most tags of one repository that are looked at.
const MAX_LISTED: usize = 100_000;
/// What an answer to the reference discovery calls itself.
const ADVERTISEMENT: &str = "application/x-git-upload-pack-advertisement";

/// A question for the commit of a git reference.
#[derive(Clone, Debug)]
pub struct GitQuestion {
    /// The repository.
    pub url: String,
    /// What is looked up.
    pub reference: GitRef,
    /// Who asks.
    pub credentials: Option<GitCredentials>,
    /// Certificates (PEM) that are trusted besides the usual ones.
    pub ca_pem: Option<Vec<u8>>,
}

/// How a registry is asked.
#[derive(Clone, Debug, Default)]
pub struct RegistryAccess {
    /// Who asks.
    pub credentials: Vec<DockerConfig>,
    /// Whether the registry is one that a Registry resource made, which is spoken to by plain HTTP.
    pub plain_http: bool,
    /// Certificates (PEM) that are trusted besides the usual ones.
    pub ca_pem: Option<Vec<u8>>,
}

/// What the operator asks of other servers.
pub trait Network: Send + Sync {
    /// The commit that a git reference stands for now.
    fn commit<'a>(&'a self, question: &'a GitQuestion) -> BoxFuture<'a, Result<String, GitError>>;

    /// What a reference of a registry stands for now; none when there is no such thing. With a digest, the content was
    /// read and has that digest.
    fn manifest<'a>(
        &'a self,
        reference: &'a Reference,
        access: &'a RegistryAccess,
    ) -> BoxFuture<'a, Result<Option<Descriptor>, Error>>;

    /// The manifest or index that a reference stands for now, at most 4 MiB; none when there is no such thing.
    fn document<'a>(
        &'a self,
        reference: &'a Reference,
        access: &'a RegistryAccess,
    ) -> BoxFuture<'a, Result<Option<RawManifest>, Error>>;

    /// The tags that a repository lists, all of them.
    fn tags<'a>(
        &'a self,
        repository: &'a Repository,
        access: &'a RegistryAccess,
    ) -> BoxFuture<'a, Result<Vec<Tag>, Error>>;
}

/// The network, behind the guard.
pub struct GuardedNetwork {
    settings: HttpSettings,
    registries: Client,
    /// Clients of Registries, which share their connections with `registries`.
    plain: Mutex<HashMap<RegistryHost, Client>>,
    /// Whose turn it is to ask a registry.
    turns: Mutex<HashMap<RegistryHost, Arc<Turns>>>,
}

/// Whose turn it is to ask a registry.
struct Turns {
    free: Semaphore,
    /// Until when nobody asks, because the registry said so.
    away: Mutex<Option<Instant>>,
}

/// Nobody answers: for tests of kinds that ask nobody.
pub struct NoNetwork;

impl GuardedNetwork {
    /// The network as `settings` describe it. The CA file and the proxies of builder pods hold for the operator as well.
    ///
    /// # Errors
    /// When a CIDR, the CA file or the URL of a proxy is malformed; a sentence.
    pub fn new(settings: &Settings) -> Result<Self, String> {
        let guard = Guard::closed(&settings.allow_cidrs)
            .map_err(|error| format!("--allow-cidr: {error}"))?;
        let ca_pem = settings
            .builder_ca_file
            .as_ref()
            .map(fs_err::read)
            .transpose()
            .map_err(|error| format!("--builder-ca-file: {error}"))?;
        let from_env = Proxies::from_env();
        let settings = HttpSettings {
            guard,
            ca_pem,
            proxies: Proxies {
                http: settings.builder_http_proxy.clone().or(from_env.http),
                https: settings.builder_https_proxy.clone().or(from_env.https),
                no_proxy: settings.builder_no_proxy.clone().or(from_env.no_proxy),
            },
            connect_timeout: Duration::from_secs(5),
            idle_timeout: REGISTRY_TIMEOUT,
            // The next look at the object is the retry.
            retry: RetryPolicy {
                attempts: 2,
                base: Duration::from_millis(200),
                max: Duration::from_secs(1),
                max_retry_after: Duration::from_secs(2),
            },
            ..HttpSettings::default()
        };
        Ok(Self {
            registries: registries(&settings)
                .limits(LIMITS)
                .build()
                .map_err(|error| error.to_string())?,
            settings,
            plain: Mutex::default(),
            turns: Mutex::default(),
        })
    }

    fn client(&self, host: &RegistryHost, access: &RegistryAccess) -> Result<Client, Error> {
        if let Some(extra) = &access.ca_pem {
            let mut client = registries(&self.trusting(extra)).traffic_of(&self.registries);
            if access.plain_http {
                client = client.plain_http([host.as_str()]);
            }
            let client = client.build()?;
            return Ok(client.with_keychain(access.credentials.clone()));
        }
        let client = if access.plain_http {
            self.plain
                .lock()
                .unwrap_or_else(PoisonError::into_inner)
                .entry(host.clone())
                .or_insert_with(|| self.registries.with_plain_http([host.as_str()]))
                .clone()
        } else {
            self.registries.clone()
        };
        Ok(client.with_keychain(access.credentials.clone()))
    }

    /// Asks `question` of `host` by `client` when it is its turn, and no longer than `limit`. Where the registry has asked
    /// for a pause, whoever was asking then, nobody asks before it is over.
    async fn ask<A>(
        &self,
        client: &Client,
        host: &RegistryHost,
        limit: Duration,
        question: impl Future<Output = Result<A, Error>>,
        action: impl Fn() -> String,
    ) -> Result<A, Error> {
        let turns = {
            let mut all = self.turns.lock().unwrap_or_else(PoisonError::into_inner);
            let turns = all.entry(host.clone());
            let turns = turns.or_insert_with(|| {
                Arc::new(Turns {
                    free: Semaphore::new(QUESTIONS),
                    away: Mutex::default(),
                })
            });
            turns.clone()
        };
        let _turn = turns.free.acquire().await;
        let lock = || turns.away.lock().unwrap_or_else(PoisonError::into_inner);
        let away = *lock();
        if let Some(left) = away.and_then(|until| until.checked_duration_since(Instant::now())) {
            return Err(Error::Unavailable {
                action: action(),
                outage: distribution::Outage::RateLimited,
                retry_after: Some(left),
            });
        }
        let answer = within(limit, question, action).await;
        // A budget that is spent stops only what is counted.
        let budget = client.budget(host);
        if let Err(Error::Unavailable { retry_after, .. }) = &answer
            && budget.is_none_or(|budget| budget.remaining > LIMITS.reserve)
        {
            *lock() = retry_after.map(|after| Instant::now() + after.min(LONGEST_PAUSE));
        }
        answer
    }

    /// The settings with `extra` among the trusted certificates.
    fn trusting(&self, extra: &[u8]) -> HttpSettings {
        let mut settings = self.settings.clone();
        let mut pem = settings.ca_pem.take().unwrap_or_default();
        pem.extend_from_slice(b"\n");
        pem.extend_from_slice(extra);
        settings.ca_pem = Some(pem);
        settings
    }

    /// The client for a git server: another one where its Secret brings a certificate.
    fn git_client(&self, question: &GitQuestion) -> Result<HttpClient, GitError> {
        let Some(extra) = &question.ca_pem else {
            return Ok(self.registries.http().clone());
        };
        HttpClient::new(&self.trusting(extra))
            .map_err(|_| GitError::Malformed("ca.crt of its Secret is not valid PEM"))
    }

    async fn look_up(&self, question: &GitQuestion) -> Result<String, GitError> {
        if let GitRef::Commit(hash) = &question.reference {
            return Ok(hash.clone());
        }
        let url = discovery_url(&question.url).map_err(GitError::Malformed)?;
        let credentials = question
            .credentials
            .as_ref()
            .map(|c| Credentials::basic(c.username.clone(), c.password.clone()));
        let response = self
            .git_client(question)?
            .get(&url, credentials.as_ref())
            .await
            .map_err(|error| git_error(&error))?;
        match response.status().as_u16() {
            200 => {}
            status @ (401 | 403) => return Err(GitError::Unauthorized { status }),
            404 => return Err(GitError::RepositoryNotFound),
            status => return Err(GitError::Status { status }),
        }
        let is_advertisement = response
            .headers()
            .get(http::header::CONTENT_TYPE)
            .and_then(|value| value.to_str().ok())
            .is_some_and(|value| value.trim() == ADVERTISEMENT);
        if !is_advertisement {
            return Err(GitError::Malformed("another content type"));
        }
        let body = response
            .bytes_bounded(MAX_ADVERTISEMENT_BYTES)
            .await
            .map_err(|error| git_error(&error))?;
        find_commit(&body, &question.reference)
    }
}

/// Settings of a client of registries.
fn registries(settings: &HttpSettings) -> ClientBuilder {
    let mut builder = Client::builder()
        .guard(settings.guard.clone())
        .proxies(settings.proxies.clone())
        .timeouts(settings.connect_timeout, settings.idle_timeout)
        .retry(settings.retry.clone());
    if let Some(pem) = &settings.ca_pem {
        builder = builder.ca_pem(pem.clone());
    }
    builder
}

fn git_error(error: &Error) -> GitError {
    match error {
        Error::Unauthorized { .. } => GitError::Unauthorized { status: 401 },
        Error::NotFound { .. } => GitError::RepositoryNotFound,
        Error::TooLarge { .. } => GitError::TooLarge,
        Error::AddressRefused { .. } => GitError::AddressRefused(error.to_string()),
        Error::Unavailable { outage, .. } => GitError::Unreachable(outage.to_string()),
        other => GitError::Unreachable(other.to_string()),
    }
}

impl Network for GuardedNetwork {
    fn commit<'a>(&'a self, question: &'a GitQuestion) -> BoxFuture<'a, Result<String, GitError>> {
        async move {
            tokio::time::timeout(LOOKUP_TIMEOUT, self.look_up(question))
                .await
                .unwrap_or_else(|_| Err(GitError::Unreachable("it took longer than 10s".into())))
        }
        .boxed()
    }

    fn manifest<'a>(
        &'a self,
        reference: &'a Reference,
        access: &'a RegistryAccess,
    ) -> BoxFuture<'a, Result<Option<Descriptor>, Error>> {
        let host = reference.repository().host();
        let client = self.client(host, access);
        async move {
            let client = client?;
            let question = async {
                if reference.digest().is_none() {
                    return client.resolve(reference).await;
                }
                match client.manifest(reference).await {
                    Ok(manifest) => Ok(Some(manifest.descriptor())),
                    Err(Error::NotFound { .. }) => Ok(None),
                    Err(error) => Err(error),
                }
            };
            let action = || format!("resolve {reference}");
            self.ask(&client, host, REGISTRY_TIMEOUT, question, action)
                .await
        }
        .boxed()
    }

    fn document<'a>(
        &'a self,
        reference: &'a Reference,
        access: &'a RegistryAccess,
    ) -> BoxFuture<'a, Result<Option<RawManifest>, Error>> {
        let host = reference.repository().host();
        let client = self.client(host, access);
        async move {
            let client = client?;
            let question = client.manifest(reference);
            let action = || format!("read {reference}");
            let answer = self.ask(&client, host, REGISTRY_TIMEOUT, question, action);
            match answer.await {
                Ok(manifest) => Ok(Some(manifest)),
                Err(Error::NotFound { .. }) => Ok(None),
                Err(error) => Err(error),
            }
        }
        .boxed()
    }

    fn tags<'a>(
        &'a self,
        repository: &'a Repository,
        access: &'a RegistryAccess,
    ) -> BoxFuture<'a, Result<Vec<Tag>, Error>> {
        let client = self.client(repository.host(), access);
        async move {
            let client = client?;
            let question = client.tags(repository, MAX_LISTED);
            let action = || format!("list tags of {repository}");
            self.ask(&client, repository.host(), LIST_TIMEOUT, question, action)
                .await
        }
        .boxed()
    }
}

/// `question`, or that nobody answered in time.
async fn within<A>(
    limit: Duration,
    question: impl Future<Output = Result<A, Error>>,
    action: impl FnOnce() -> String,
) -> Result<A, Error> {
    tokio::time::timeout(limit, question)
        .await
        .unwrap_or_else(|_| {
            Err(Error::Unavailable {
                action: action(),
                outage: distribution::Outage::Timeout,
                retry_after: None,
            })
        })
}

/// What nobody answers.
fn nobody(action: String) -> Error {
    Error::Unavailable {
        action,
        outage: distribution::Outage::Dns,
        retry_after: None,
    }
}

impl Network for NoNetwork {
    fn commit<'a>(&'a self, _: &'a GitQuestion) -> BoxFuture<'a, Result<String, GitError>> {
        let error = GitError::Unreachable("there is no network".into());
        std::future::ready(Err(error)).boxed()
    }

    fn manifest<'a>(
        &'a self,
        reference: &'a Reference,
        _: &'a RegistryAccess,
    ) -> BoxFuture<'a, Result<Option<Descriptor>, Error>> {
        std::future::ready(Err(nobody(format!("resolve {reference}")))).boxed()
    }

    fn document<'a>(
        &'a self,
        reference: &'a Reference,
        _: &'a RegistryAccess,
    ) -> BoxFuture<'a, Result<Option<RawManifest>, Error>> {
        std::future::ready(Err(nobody(format!("read {reference}")))).boxed()
    }

    fn tags<'a>(
        &'a self,
        repository: &'a Repository,
        _: &'a RegistryAccess,
    ) -> BoxFuture<'a, Result<Vec<Tag>, Error>> {
        std::future::ready(Err(nobody(format!("list tags of {repository}")))).boxed()
    }
}
