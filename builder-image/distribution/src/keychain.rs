//! Credentials and where they come from: dockerconfigjson with the host and path globs of Kubernetes
//! (k8s.io/kubernetes/pkg/credentialprovider, "Interpretation of config.json"). The helpers that such a file names are
//! left to `helper`.

mod helper;

use std::{collections::BTreeMap, fmt, sync::Arc};

use base64::{Engine, prelude::BASE64_STANDARD};
use oci::Repository;
use serde::Deserialize;

pub use helper::CredentialHelpers;

/// What proves to a server who we are. `Debug` shows no secret.
#[derive(Clone, PartialEq, Eq, Hash)]
pub enum Credentials {
    /// A user and a password: sent as Basic, or exchanged for a token.
    Basic {
        /// The user.
        username: String,
        /// The password.
        password: String,
    },
    /// A long-lived token that is exchanged for short ones (`identitytoken`).
    Identity(String),
    /// A token that is sent as it is (`registrytoken`).
    Bearer(String),
}

impl Credentials {
    /// A user and a password.
    pub fn basic(username: impl Into<String>, password: impl Into<String>) -> Self {
        Self::Basic {
            username: username.into(),
            password: password.into(),
        }
    }

    /// The value of the `Authorization` header, where these credentials are sent directly.
    pub(crate) fn header(&self) -> Option<http::HeaderValue> {
        let text = match self {
            Self::Basic { username, password } => {
                let pair = format!("{username}:{password}");
                format!("Basic {}", BASE64_STANDARD.encode(pair))
            }
            Self::Bearer(token) => format!("Bearer {token}"),
            Self::Identity(_) => return None,
        };
        let mut value = http::HeaderValue::try_from(text).ok()?;
        value.set_sensitive(true);
        Some(value)
    }
}

impl fmt::Debug for Credentials {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Basic { .. } => "Basic(redacted)",
            Self::Identity(_) => "Identity(redacted)",
            Self::Bearer(_) => "Bearer(redacted)",
        })
    }
}

/// Knows the credentials of registries.
pub trait Keychain: Send + Sync {
    /// The credentials for `repository`, or `None` to be anonymous.
    fn credentials(&self, repository: &Repository) -> Option<Credentials>;
}

/// Knows none.
#[derive(Debug, Clone, Copy, Default)]
pub struct Anonymous;

impl Keychain for Anonymous {
    fn credentials(&self, _: &Repository) -> Option<Credentials> {
        None
    }
}

impl<K: Keychain + ?Sized> Keychain for Arc<K> {
    fn credentials(&self, repository: &Repository) -> Option<Credentials> {
        (**self).credentials(repository)
    }
}

/// The first that knows the repository wins.
impl<K: Keychain> Keychain for Vec<K> {
    fn credentials(&self, repository: &Repository) -> Option<Credentials> {
        self.iter().find_map(|k| k.credentials(repository))
    }
}

/// The credentials of one dockerconfigjson file.
#[derive(Debug, Clone, Default)]
pub struct DockerConfig {
    /// Most specific first.
    entries: Vec<(Pattern, Credentials)>,
}

/// Why a dockerconfigjson cannot be used. The messages quote keys, never values.
#[derive(Debug, thiserror::Error)]
pub enum KeychainError {
    /// Not JSON of this shape. The parser's message is left out, since it may quote a secret.
    #[error("the dockerconfigjson is not valid JSON of its kind (line {line}, column {column})")]
    Json {
        /// Line of the mistake, from 1.
        line: usize,
        /// Column of the mistake, from 1.
        column: usize,
    },
    /// `auth` is not base64 of `user:password`.
    #[error("`auth` of `{0}` in the dockerconfigjson is not base64 of user:password")]
    Auth(String),
    /// A credential helper is not the name of a program.
    #[error("`{0}` in the docker configuration is not the name of a credential helper")]
    Helper(String),
    /// A key is not a host, or a host with a path.
    #[error("`{0}` in the dockerconfigjson is not a registry")]
    Host(String),
}

impl KeychainError {
    fn json(error: &serde_json::Error) -> Self {
        Self::Json {
            line: error.line(),
            column: error.column(),
        }
    }
}

impl DockerConfig {
    /// Reads a dockerconfigjson (`{"auths": {…}}`), or the older dockercfg (the inner object alone).
    ///
    /// Entries without any credentials (left behind by credential helpers) are skipped.
    ///
    /// # Errors
    /// When it is not of that shape.
    pub fn parse(json: &[u8]) -> Result<Self, KeychainError> {
        #[derive(Deserialize)]
        struct File {
            #[serde(default)]
            auths: Option<BTreeMap<String, Entry>>,
        }
        #[derive(Deserialize, Default)]
        #[serde(default)]
        struct Entry {
            auth: Option<String>,
            username: Option<String>,
            password: Option<String>,
            #[serde(alias = "identityToken")]
            identitytoken: Option<String>,
            #[serde(alias = "registryToken")]
            registrytoken: Option<String>,
        }
        let file: File =
            serde_json::from_slice(json).map_err(|error| KeychainError::json(&error))?;
        let auths = match file.auths {
            Some(auths) => auths,
            // Without `auths` this is either the older form or a configuration that holds no credentials.
            None => serde_json::from_slice(json).unwrap_or_default(),
        };
        let set = |text: Option<String>| text.filter(|t| !t.is_empty());
        let mut config = Self::default();
        for (key, entry) in auths {
            let decoded = match set(entry.auth) {
                Some(auth) => Some(decode(&auth).ok_or_else(|| KeychainError::Auth(key.clone()))?),
                None => None,
            };
            let (from_auth_user, from_auth_password) = decoded.unzip();
            let credentials = if let Some(token) = set(entry.identitytoken) {
                Credentials::Identity(token)
            } else if let Some(token) = set(entry.registrytoken) {
                Credentials::Bearer(token)
            } else if let (Some(username), Some(password)) = (
                set(from_auth_user).or(set(entry.username)),
                set(from_auth_password).or(set(entry.password)),
            ) {
                Credentials::Basic { username, password }
            } else {
                continue;
            };
            config = config.with(&key, credentials)?;
        }
        Ok(config)
    }

    /// The same with `credentials` for `registry`: a host, possibly with a port, a path and globs (`*.example.com/team`).
    ///
    /// # Errors
    /// When `registry` is not that.
    pub fn with(mut self, registry: &str, credentials: Credentials) -> Result<Self, KeychainError> {
        let pattern =
            Pattern::parse(registry).ok_or_else(|| KeychainError::Host(registry.to_owned()))?;
        self.entries.push((pattern, credentials));
        self.entries
            .sort_by_key(|(pattern, _)| std::cmp::Reverse(pattern.specificity()));
        Ok(self)
    }
}

impl Keychain for DockerConfig {
    fn credentials(&self, repository: &Repository) -> Option<Credentials> {
        self.entries
            .iter()
            .find(|(pattern, _)| pattern.matches(repository))
            .map(|(_, credentials)| credentials.clone())
    }
}

fn decode(auth: &str) -> Option<(String, String)> {
    let bytes = BASE64_STANDARD.decode(auth.trim()).ok()?;
    let text = String::from_utf8(bytes).ok()?;
    let (user, password) = text.split_once(':')?;
    Some((user.to_owned(), password.trim_matches('\0').to_owned()))
}

/// A key of `auths`: host labels with globs, a port, and a path prefix.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Pattern {
    host: String,
    port: Option<u16>,
    path: String,
}

impl Pattern {
    fn parse(key: &str) -> Option<Self> {
        let key = key
            .strip_prefix("https://")
            .or_else(|| key.strip_prefix("http://"))
            .unwrap_or(key);
        let (authority, path) = key.split_once('/').unwrap_or((key, ""));
        let (host, port) = split_port(authority)?;
        let path = path.trim_end_matches('/');
        // Docker writes its API version behind the host; it is no part of repositories' names.
        let path = ["v1", "v2"]
            .into_iter()
            .find_map(|version| match path.strip_prefix(version) {
                Some("") => Some(""),
                Some(rest) => rest.strip_prefix('/'),
                None => None,
            })
            .unwrap_or(path);
        let host = host.to_ascii_lowercase();
        let host = match host.as_str() {
            "index.docker.io" | "registry-1.docker.io" => "docker.io".to_owned(),
            _ => host,
        };
        (!host.is_empty()).then(|| Self {
            host,
            port,
            path: path.to_owned(),
        })
    }

    /// Longer paths first, then hosts without globs, then hosts with more labels.
    fn specificity(&self) -> (usize, bool, usize) {
        let globs = self.host.contains(['*', '?', '[']) && !self.host.starts_with('[');
        (self.path.len(), !globs, self.host.len())
    }

    fn matches(&self, repository: &Repository) -> bool {
        let Some((host, port)) = split_port(repository.host().as_str()) else {
            return false;
        };
        let labels = |h: &str| -> Vec<String> { h.split('.').map(str::to_owned).collect() };
        let (pattern, labels) = (labels(&self.host), labels(host));
        let host_matches = if self.host.starts_with('[') {
            self.host == host
        } else {
            pattern.len() == labels.len()
                && pattern
                    .iter()
                    .zip(&labels)
                    .all(|(p, l)| glob(p.as_bytes(), l.as_bytes()))
        };
        let path_matches = self.path.is_empty()
            || repository
                .path()
                .strip_prefix(self.path.as_str())
                .is_some_and(|rest| rest.is_empty() || rest.starts_with('/'));
        host_matches && self.port == port && path_matches
    }
}

fn split_port(authority: &str) -> Option<(&str, Option<u16>)> {
    let bracket = authority.rfind(']').map_or(0, |end| end + 1);
    match authority[bracket..].rfind(':') {
        Some(colon) => {
            let (host, port) = authority.split_at(bracket + colon);
            Some((host, Some(port[1..].parse().ok()?)))
        }
        None => Some((authority, None)),
    }
}

/// As Go's `path.Match`, which Kubernetes uses: `*` stands for any number of characters, `?` for one, `[a-c]` and `[^x]`
/// for one of a set. A pattern that is malformed matches nothing.
fn glob(pattern: &[u8], text: &[u8]) -> bool {
    let (mut p, mut t) = (0, 0);
    // Where the last star stands, and the text that it does not yet stand for. Earlier stars need not be tried again,
    // which keeps the time short whatever the pattern.
    let mut star = None;
    while t < text.len() {
        if pattern.get(p) == Some(&b'*') {
            p += 1;
            star = Some((p, t));
        } else if let Some(length) = one(&pattern[p..], text[t]) {
            (p, t) = (p + length, t + 1);
        } else if let Some((after, seen)) = star {
            (p, t) = (after, seen + 1);
            star = Some((after, t));
        } else {
            return false;
        }
    }
    pattern[p..].iter().all(|b| *b == b'*')
}

/// The length of the beginning of `pattern` that stands for one character, where that may be `c`.
fn one(pattern: &[u8], c: u8) -> Option<usize> {
    match pattern {
        [b'?', ..] => Some(1),
        [b'[', set @ ..] => {
            let (is_in, rest) = in_set(set, c)?;
            is_in.then_some(pattern.len() - rest.len())
        }
        [first, ..] => (*first == c).then_some(1),
        [] => None,
    }
}

/// Whether `c` is in the set that `pattern` begins with, and what follows it. `None` where the set has no end.
fn in_set(pattern: &[u8], c: u8) -> Option<(bool, &[u8])> {
    let (is_negated, mut rest) = match pattern {
        [b'^', rest @ ..] => (true, rest),
        _ => (false, pattern),
    };
    let (mut found, mut is_first) = (false, true);
    loop {
        rest = match rest {
            [b']', rest @ ..] if !is_first => return Some((found != is_negated, rest)),
            [low, b'-', high, rest @ ..] if *high != b']' => {
                found |= (*low..=*high).contains(&c);
                rest
            }
            [one, rest @ ..] => {
                found |= *one == c;
                rest
            }
            [] => return None,
        };
        is_first = false;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn user_for(keys: &[&str], repository: &str) -> Option<String> {
        let config = keys.iter().fold(DockerConfig::default(), |config, key| {
            config.with(key, Credentials::basic(*key, "x")).unwrap()
        });
        match config.credentials(&repository.parse().unwrap()) {
            Some(Credentials::Basic { username, .. }) => Some(username),
            _ => None,
        }
    }

    #[test]
    fn keys_match_as_in_kubernetes() {
        for (key, repository, expected) in [
            ("https://index.docker.io/v1/", "alpine", true),
            ("index.docker.io", "docker.io/library/alpine", true),
            ("docker.io", "acme/app", true),
            ("registry-1.docker.io", "acme/app", true),
            ("quay.io", "quay.io/a/b", true),
            ("https://quay.io", "quay.io/a/b", true),
            ("quay.io/v2/", "quay.io/a/b", true),
            ("quay.io", "quay.io:443/a/b", false),
            ("host:5000", "host:5000/a", true),
            ("host:5000", "host:5001/a", false),
            ("host:5000", "host.example:5000/a", false),
            ("*.example.com", "a.example.com/x", true),
            ("*.example.com", "example.com/x", false),
            ("*.example.com", "a.b.example.com/x", false),
            (
                "prefix*.example.com:5000",
                "prefix-1.example.com:5000/x",
                true,
            ),
            ("*.*.example.com", "a.b.example.com/x", true),
            ("registry-?.example.com", "registry-1.example.com/x", true),
            ("registry-?.example.com", "registry-12.example.com/x", false),
            (
                "registry-[0-4x].example.com",
                "registry-3.example.com/x",
                true,
            ),
            (
                "registry-[0-4x].example.com",
                "registry-x.example.com/x",
                true,
            ),
            (
                "registry-[0-4x].example.com",
                "registry-5.example.com/x",
                false,
            ),
            (
                "registry-[^0-4].example.com",
                "registry-5.example.com/x",
                true,
            ),
            (
                "registry-[0-4.example.com",
                "registry-3.example.com/x",
                false,
            ),
            ("example.com/team", "example.com/team/app", true),
            ("example.com/team", "example.com/team", true),
            ("example.com/team", "example.com/teamster/app", false),
            ("EXAMPLE.com", "example.com/app", true),
            ("[::1]:5000", "[::1]:5000/app", true),
            ("evil.com", "example.com/app", false),
        ] {
            assert_eq!(
                user_for(&[key], repository).is_some(),
                expected,
                "{key} {repository}"
            );
        }
    }

    #[test]
    fn globs_of_any_kind_end_soon() {
        let pattern = format!("{}b", "*a".repeat(40));
        assert!(!glob(pattern.as_bytes(), "a".repeat(63).as_bytes()));
        for (pattern, text, expected) in [
            ("*", "", true),
            ("a*b*c", "axxbxbxc", true),
            ("a*b*c", "axxbxbx", false),
            ("**", "x", true),
            ("x?", "x", false),
        ] {
            let found = glob(pattern.as_bytes(), text.as_bytes());
            assert_eq!(found, expected, "{pattern} {text}");
        }
    }

    #[test]
    fn the_most_specific_key_wins() {
        let keys = ["*.io", "quay.io", "quay.io/team", "quay.io/team/app"];
        assert_eq!(
            user_for(&keys, "quay.io/team/app").unwrap(),
            "quay.io/team/app"
        );
        assert_eq!(user_for(&keys, "quay.io/team/x").unwrap(), "quay.io/team");
        assert_eq!(user_for(&keys, "quay.io/x").unwrap(), "quay.io");
        assert_eq!(user_for(&keys, "gcr.io/x").unwrap(), "*.io");
    }

    #[test]
    fn files_of_all_forms_are_read() {
        let auth = BASE64_STANDARD.encode("u:p:w");
        let repository = "h.io/a".parse().unwrap();
        let of = |json: String| {
            DockerConfig::parse(json.as_bytes())
                .unwrap()
                .credentials(&repository)
        };
        let basic = Some(Credentials::basic("u", "p:w"));
        assert_eq!(
            of(format!(r#"{{"auths":{{"h.io":{{"auth":"{auth}"}}}}}}"#)),
            basic
        );
        assert_eq!(of(format!(r#"{{"h.io":{{"auth":"{auth}"}}}}"#)), basic);
        let split = r#"{"auths":{"h.io":{"username":"u","password":"p:w"}}}"#;
        assert_eq!(of(split.into()), basic);
        let identity = r#"{"auths":{"h.io":{"auth":"","identitytoken":"t"}}}"#;
        assert_eq!(of(identity.into()), Some(Credentials::Identity("t".into())));
        let helper = r#"{"auths":{"h.io":{}},"credsStore":"desktop"}"#;
        assert_eq!(of(helper.into()), None);
        assert_eq!(of(r#"{"credsStore":"desktop"}"#.into()), None);
    }

    #[test]
    fn mistakes_are_told_without_secrets() {
        let error = |json: &str| {
            DockerConfig::parse(json.as_bytes())
                .unwrap_err()
                .to_string()
        };
        assert!(error(r#"{"auths":{"h":{"auth":"s3cret!"}}}"#).contains("`auth` of `h`"));
        assert!(!error(r#"{"auths":{"h":{"auth":"s3cret!"}}}"#).contains("s3cret"));
        assert!(!error(r#"{"auths":{"h":{"auth":{"s3cret":1}}}}"#).contains("s3cret"));
        assert!(error("nonsense").contains("line 1"));
        let shown = format!("{:?}", Credentials::basic("user", "s3cret"));
        assert!(!shown.contains("s3cret") && !shown.contains("user"));
    }
}
