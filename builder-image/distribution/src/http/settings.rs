//! How servers are reached: timeouts, proxies, certificates; and the clients of the HTTP library that are made of it.

use std::{
    collections::{BTreeMap, HashMap},
    time::Duration,
};

use url::Url;

use super::{failure::chain, resolver::GuardedResolver};
use crate::{Error, Guard, Result, RetryPolicy};

/// Proxies, as the usual environment variables name them. A URL of a proxy may hold credentials.
#[derive(Clone, Default)]
pub struct Proxies {
    /// The proxy for `http:` URLs.
    pub http: Option<String>,
    /// The proxy for `https:` URLs.
    pub https: Option<String>,
    /// Hosts, domains and networks that are reached without a proxy, separated by commas; `*` for all.
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

/// How TLS is spoken to one server.
#[derive(Clone, Default)]
pub struct HostTls {
    /// Certificates (PEM) that are trusted for this server besides those for all.
    pub ca_pem: Option<Vec<u8>>,
    /// Our certificate and its key (PEM, one after the other), for servers that ask who we are.
    pub identity_pem: Option<Vec<u8>>,
    /// Trusts whatever certificate the server has. Whoever is on the way can read and change everything.
    pub unverified: bool,
}

impl std::fmt::Debug for HostTls {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("HostTls")
            .field("ca_pem", &self.ca_pem.is_some())
            .field("identity_pem", &self.identity_pem.is_some())
            .field("unverified", &self.unverified)
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
    /// Servers (`host[:port]`) that are trusted or identified to in another way than all others.
    pub hosts: BTreeMap<String, HostTls>,
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
            hosts: BTreeMap::new(),
            proxies: Proxies::default(),
            user_agent: concat!("coopery/", env!("CARGO_PKG_VERSION")).to_owned(),
            connect_timeout: Duration::from_secs(10),
            idle_timeout: Duration::from_secs(60),
            retry: RetryPolicy::default(),
        }
    }
}

/// The clients of the HTTP library: one for most servers, and those of single ones by their authority.
pub(super) struct Connectors {
    usual: reqwest::Client,
    special: HashMap<String, reqwest::Client>,
}

impl Connectors {
    /// # Errors
    /// [`Error::Settings`] when a certificate, a key or the URL of a proxy is malformed.
    pub(super) fn new(settings: &HttpSettings) -> Result<Self> {
        let special = settings.hosts.iter().map(|(host, tls)| {
            let authority = Url::parse(&format!("https://{host}"))
                .ok()
                .and_then(|url| authority(&url))
                .ok_or_else(|| Error::Settings(format!("`{host}` is not a host")))?;
            Ok((authority, connector(settings, tls)?))
        });
        Ok(Self {
            special: special.collect::<Result<_>>()?,
            usual: connector(settings, &HostTls::default())?,
        })
    }

    /// The client for the server of `url`.
    pub(super) fn of(&self, url: &Url) -> &reqwest::Client {
        if self.special.is_empty() {
            return &self.usual;
        }
        authority(url)
            .and_then(|authority| self.special.get(&authority))
            .unwrap_or(&self.usual)
    }
}

/// Host and port.
fn authority(url: &Url) -> Option<String> {
    let (host, port) = (url.host_str()?, url.port_or_known_default()?);
    Some(format!("{}:{port}", host.trim_end_matches('.')))
}

fn connector(settings: &HttpSettings, tls: &HostTls) -> Result<reqwest::Client> {
    let mut certificates = Vec::new();
    for pem in [&settings.ca_pem, &tls.ca_pem].into_iter().flatten() {
        let invalid = || Error::Settings("the CA certificates are not valid PEM".into());
        certificates.extend(reqwest::Certificate::from_pem_bundle(pem).map_err(|_| invalid())?);
    }
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
            .pool_idle_timeout(Duration::from_secs(30))
            .tls_danger_accept_invalid_certs(tls.unverified);
        if let Some(pem) = &tls.identity_pem {
            // The library's message may quote the file.
            let identity = reqwest::Identity::from_pem(pem).map_err(|_| {
                Error::Settings(
                    "the client certificate is not PEM of a certificate and its key".into(),
                )
            })?;
            builder = builder.identity(identity);
        }
        for proxy in self::proxies(&settings.proxies)? {
            builder = builder.proxy(proxy);
        }
        Ok(builder)
    };
    let build =
        |builder: reqwest::ClientBuilder| builder.build().map_err(|e| Error::Settings(chain(&e)));
    // An image without any system certificates must still reach registries by plain HTTP and with a private CA.
    build(base()?.tls_certs_merge(certificates.clone()))
        .or_else(|_| build(base()?.tls_certs_only(certificates)))
}

type Make = fn(&str) -> reqwest::Result<reqwest::Proxy>;

fn proxies(settings: &Proxies) -> Result<Vec<reqwest::Proxy>> {
    let exceptions = settings.no_proxy.as_deref().unwrap_or_default();
    // The library knows this for names only.
    if exceptions.split(',').any(|entry| entry.trim() == "*") {
        return Ok(Vec::new());
    }
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn single_servers_are_known_by_host_and_port() {
        let of = |text: &str| authority(&Url::parse(text).unwrap()).unwrap();
        for (url, expected) in [
            ("https://h/v2/", "h:443"),
            ("https://H:443/", "h:443"),
            ("https://h:5000/", "h:5000"),
            ("https://h./", "h:443"),
            ("https://[::1]:5000/", "[::1]:5000"),
        ] {
            assert_eq!(of(url), expected);
        }
        assert_ne!(of("https://h:444/"), of("https://h/"));
    }

    #[test]
    fn malformed_settings_are_refused_without_quoting_them() {
        for tls in [
            HostTls {
                ca_pem: Some(b"-----BEGIN CERTIFICATE-----\ns3cret".to_vec()),
                ..HostTls::default()
            },
            HostTls {
                identity_pem: Some(b"s3cret".to_vec()),
                ..HostTls::default()
            },
        ] {
            assert!(!format!("{tls:?}").contains("s3cret"));
            let mut settings = HttpSettings::default();
            settings.hosts.insert("h:5000".into(), tls);
            let error = Connectors::new(&settings).err().unwrap();
            assert!(matches!(error, Error::Settings(_)));
            assert!(!error.to_string().contains("s3cret"), "{error}");
        }
    }
}
