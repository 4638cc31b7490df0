//! Names of images: `[registry/]repository[:tag][@digest]`, with Docker's defaults in this one place.
//! Grammar: distribution-spec, "Pulling manifests"; defaults: the `distribution/reference` package.

use std::{fmt, str::FromStr};

use serde::{Deserialize, Deserializer, Serialize, Serializer};

use crate::{Digest, DigestError};

const DOCKER_HUB: &str = "docker.io";
const MAX_NAME: usize = 255;

/// The host of a registry as images name it: `docker.io`, `registry.example.com:5000`, `[::1]:5000`.
#[derive(Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct RegistryHost(Box<str>);

impl RegistryHost {
    /// The text, as it stands in image names.
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// Whether this is Docker Hub, whose name in image names is not the name of its API server.
    pub fn is_docker_hub(&self) -> bool {
        &*self.0 == DOCKER_HUB
    }

    /// The `host[:port]` that serves the API: Docker Hub answers at `registry-1.docker.io`, all others at their name.
    pub fn api_host(&self) -> &str {
        if self.is_docker_hub() {
            "registry-1.docker.io"
        } else {
            &self.0
        }
    }

    /// The host without the port, and without the brackets of an IPv6 address.
    pub fn hostname(&self) -> &str {
        match self
            .0
            .strip_prefix('[')
            .and_then(|rest| rest.split_once(']'))
        {
            Some((address, _)) => address,
            None => self.0.split(':').next().unwrap_or(&self.0),
        }
    }

    /// Whether the host is this machine: `localhost`, `*.localhost`, or a loopback address.
    pub fn is_loopback(&self) -> bool {
        let host = self.hostname();
        host == "localhost"
            || host.ends_with(".localhost")
            || host
                .parse::<std::net::IpAddr>()
                .is_ok_and(|address| address.is_loopback())
    }
}

impl FromStr for RegistryHost {
    type Err = ReferenceError;

    fn from_str(text: &str) -> Result<Self, ReferenceError> {
        let error = || ReferenceError::Host(clip(text));
        let (host, port) = match text.strip_prefix('[') {
            Some(rest) => {
                let (address, after) = rest.split_once(']').ok_or_else(error)?;
                address.parse::<std::net::Ipv6Addr>().map_err(|_| error())?;
                match after {
                    "" => ("v6", None),
                    after => ("v6", Some(after.strip_prefix(':').ok_or_else(error)?)),
                }
            }
            None => match text.split_once(':') {
                Some((host, port)) => (host, Some(port)),
                None => (text, None),
            },
        };
        let label = |label: &str| {
            !label.is_empty()
                && !label.starts_with('-')
                && !label.ends_with('-')
                && label
                    .bytes()
                    .all(|b| b.is_ascii_alphanumeric() || b == b'-')
        };
        let port_ok = port.is_none_or(|p| {
            !p.is_empty()
                && p.bytes().all(|b| b.is_ascii_digit())
                && p.parse::<u16>().is_ok_and(|p| p > 0)
        });
        if text.len() > MAX_NAME || !host.split('.').all(label) || !port_ok {
            return Err(error());
        }
        let text = text.to_ascii_lowercase();
        Ok(Self(match text.as_str() {
            "index.docker.io" | "registry-1.docker.io" => DOCKER_HUB.into(),
            _ => text.into(),
        }))
    }
}

/// A repository of a registry: `registry.example.com/team/app`. Tags and manifests live in it.
#[derive(Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Repository {
    host: RegistryHost,
    path: Box<str>,
}

impl Repository {
    /// The repository `path` of `host`.
    ///
    /// # Errors
    /// When `path` is not a repository path.
    pub fn new(host: RegistryHost, path: &str) -> Result<Self, ReferenceError> {
        if path.bytes().any(|b| b.is_ascii_uppercase()) {
            return Err(ReferenceError::Uppercase(clip(path)));
        }
        if path.len() + host.0.len() + 1 > MAX_NAME || !path.split('/').all(is_path_component) {
            return Err(ReferenceError::Path(clip(path)));
        }
        Ok(Self {
            host,
            path: path.into(),
        })
    }

    /// The registry.
    pub const fn host(&self) -> &RegistryHost {
        &self.host
    }

    /// The path within the registry, `team/app`; on Docker Hub with its `library/`.
    pub fn path(&self) -> &str {
        &self.path
    }

    /// The reference of `tag` in this repository.
    #[must_use]
    pub fn tagged(&self, tag: Tag) -> Reference {
        Reference {
            repository: self.clone(),
            tag: Some(tag),
            digest: None,
        }
    }

    /// The reference of `digest` in this repository.
    #[must_use]
    pub fn at(&self, digest: Digest) -> Reference {
        Reference {
            repository: self.clone(),
            tag: None,
            digest: Some(digest),
        }
    }
}

impl FromStr for Repository {
    type Err = ReferenceError;

    /// Parses a name without tag and digest; defaults as for [`Reference`]. Upper case makes no host of a first component:
    /// hosts are kept in lower case, and that one would be read as part of the path.
    fn from_str(text: &str) -> Result<Self, ReferenceError> {
        let (first, rest) = match text.split_once('/') {
            Some((first, rest))
                if first.contains(['.', ':', '[']) || first.eq_ignore_ascii_case("localhost") =>
            {
                (first, rest)
            }
            _ => (DOCKER_HUB, text),
        };
        let host: RegistryHost = first.parse()?;
        if host.is_docker_hub() && !rest.contains('/') && !rest.is_empty() {
            return Self::new(host, &format!("library/{rest}"));
        }
        Self::new(host, rest)
    }
}

/// A name within a repository that can be moved from one manifest to another.
#[derive(Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Tag(Box<str>);

impl Tag {
    /// The longest tag, in bytes (distribution-spec, "Pulling manifests").
    pub const MAX_LENGTH: usize = 128;

    /// `latest`, which stands where a name has neither tag nor digest.
    pub fn latest() -> Self {
        Self("latest".into())
    }

    /// The text.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl FromStr for Tag {
    type Err = ReferenceError;

    fn from_str(text: &str) -> Result<Self, ReferenceError> {
        let word = |b: u8| b.is_ascii_alphanumeric() || b == b'_';
        let ok = text.len() <= Self::MAX_LENGTH
            && text.bytes().next().is_some_and(word)
            && text.bytes().all(|b| word(b) || matches!(b, b'.' | b'-'));
        if ok {
            Ok(Self(text.into()))
        } else {
            Err(ReferenceError::Tag(clip(text)))
        }
    }
}

/// The name of an image: a repository and a tag, a digest, or both (then the digest decides and the tag is for people).
#[derive(Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Reference {
    repository: Repository,
    tag: Option<Tag>,
    digest: Option<Digest>,
}

/// Why a text is not the name of an image.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ReferenceError {
    /// Nothing there.
    #[error("the image name is empty")]
    Empty,
    /// The registry part is not a host.
    #[error("`{0}` is not a registry host: expected host or host:port")]
    Host(String),
    /// The repository part is not a path.
    #[error(
        "`{0}` is not a repository name: components are lower-case letters and digits, separated by `/`, `.`, `_`, `__` or `-`"
    )]
    Path(String),
    /// The repository part has capital letters.
    #[error("`{0}` is not a repository name: it must be lower case")]
    Uppercase(String),
    /// The tag has other characters than it may, or too many.
    #[error(
        "`{0}` is not a tag: at most 128 letters, digits, `_`, `.` and `-`, not starting with `.` or `-`"
    )]
    Tag(String),
    /// The digest is malformed.
    #[error(transparent)]
    Digest(#[from] DigestError),
}

impl Reference {
    /// The registry and path.
    pub const fn repository(&self) -> &Repository {
        &self.repository
    }

    /// The tag, if one was named.
    pub const fn tag(&self) -> Option<&Tag> {
        self.tag.as_ref()
    }

    /// The digest, if one was named.
    pub const fn digest(&self) -> Option<&Digest> {
        self.digest.as_ref()
    }

    /// The same reference with the tag `latest` where it has neither tag nor digest.
    #[must_use]
    pub fn or_latest(mut self) -> Self {
        if self.tag.is_none() && self.digest.is_none() {
            self.tag = Some(Tag::latest());
        }
        self
    }

    /// The same reference fixed to `digest`, the tag kept for people.
    #[must_use]
    pub fn pinned(mut self, digest: Digest) -> Self {
        self.digest = Some(digest);
        self
    }

    /// What stands in `/v2/<path>/manifests/<this>`: the digest, else the tag, else `latest`.
    pub fn manifest_name(&self) -> &str {
        match (&self.digest, &self.tag) {
            (Some(digest), _) => digest.as_str(),
            (None, Some(tag)) => tag.as_str(),
            (None, None) => "latest",
        }
    }

    /// The short form that people type: Docker Hub's host and `library/` left out.
    pub fn familiar(&self) -> String {
        let name = if self.repository.host.is_docker_hub() {
            let path = self.repository.path();
            path.strip_prefix("library/").unwrap_or(path).to_owned()
        } else {
            self.repository.to_string()
        };
        self.with_suffixes(name)
    }

    fn with_suffixes(&self, mut name: String) -> String {
        if let Some(tag) = &self.tag {
            name.push(':');
            name.push_str(&tag.0);
        }
        if let Some(digest) = &self.digest {
            name.push('@');
            name.push_str(digest.as_str());
        }
        name
    }
}

impl From<Repository> for Reference {
    fn from(repository: Repository) -> Self {
        Self {
            repository,
            tag: None,
            digest: None,
        }
    }
}

impl FromStr for Reference {
    type Err = ReferenceError;

    fn from_str(text: &str) -> Result<Self, ReferenceError> {
        if text.is_empty() {
            return Err(ReferenceError::Empty);
        }
        let (name, digest) = match text.split_once('@') {
            Some((name, digest)) => (name, Some(digest.parse()?)),
            None => (text, None),
        };
        let (name, tag) = match name.rsplit_once(':') {
            Some((before, tag)) if !tag.contains('/') && !(tag.ends_with(']')) => {
                (before, Some(tag.parse()?))
            }
            _ => (name, None),
        };
        Ok(Self {
            repository: name.parse()?,
            tag,
            digest,
        })
    }
}

/// `[a-z0-9]+((\.|_|__|-+)[a-z0-9]+)*`
fn is_path_component(component: &str) -> bool {
    let alphanumeric = |b: &u8| b.is_ascii_lowercase() || b.is_ascii_digit();
    let bytes = component.as_bytes();
    let (Some(first), Some(last)) = (bytes.first(), bytes.last()) else {
        return false;
    };
    alphanumeric(first)
        && alphanumeric(last)
        && bytes.split(alphanumeric).all(|separator| {
            separator.is_empty()
                || matches!(separator, b"." | b"_" | b"__")
                || separator.iter().all(|&b| b == b'-')
        })
}

fn clip(text: &str) -> String {
    text.chars().take(MAX_NAME).collect()
}

impl fmt::Display for RegistryHost {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl fmt::Display for Repository {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.host, self.path)
    }
}

impl fmt::Display for Tag {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl fmt::Display for Reference {
    /// The full form, `docker.io/library/alpine:3`, which parses to the same value.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.with_suffixes(self.repository.to_string()))
    }
}

macro_rules! text_type {
    ($($name:ident),*) => {$(
        impl fmt::Debug for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                write!(f, "{self}")
            }
        }

        impl Serialize for $name {
            fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
                serializer.collect_str(self)
            }
        }

        impl<'de> Deserialize<'de> for $name {
            fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
                String::deserialize(deserializer)?.parse().map_err(serde::de::Error::custom)
            }
        }
    )*};
}
text_type!(RegistryHost, Repository, Tag, Reference);

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const SHA: &str = "sha256:e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855";

    #[test]
    fn upper_case_makes_no_host() {
        // Written in lower case it would be another name.
        assert!("Host/app".parse::<Reference>().is_err());
        let local: Reference = "LOCALHOST/app".parse().unwrap();
        assert_eq!(local.to_string(), "localhost/app");
    }

    #[test]
    fn names_get_dockers_defaults() {
        for (text, full, familiar) in [
            ("alpine", "docker.io/library/alpine", "alpine"),
            (
                "alpine:3.22",
                "docker.io/library/alpine:3.22",
                "alpine:3.22",
            ),
            ("acme/app:1", "docker.io/acme/app:1", "acme/app:1"),
            ("docker.io/alpine", "docker.io/library/alpine", "alpine"),
            (
                "index.docker.io/library/alpine",
                "docker.io/library/alpine",
                "alpine",
            ),
            ("localhost/app", "localhost/app", "localhost/app"),
            ("host:5000/app:1", "host:5000/app:1", "host:5000/app:1"),
            (
                "main.images.svc:5000/team/app",
                "main.images.svc:5000/team/app",
                "main.images.svc:5000/team/app",
            ),
            ("[::1]:5000/app", "[::1]:5000/app", "[::1]:5000/app"),
            ("[::1]/app:2", "[::1]/app:2", "[::1]/app:2"),
            (
                "a__b/c-d--e.f_g",
                "docker.io/a__b/c-d--e.f_g",
                "a__b/c-d--e.f_g",
            ),
            (
                "REG.example.com/app",
                "reg.example.com/app",
                "reg.example.com/app",
            ),
        ] {
            let reference: Reference = text.parse().unwrap();
            assert_eq!(
                (
                    reference.to_string().as_str(),
                    reference.familiar().as_str()
                ),
                (full, familiar),
                "{text}"
            );
        }
        let both: Reference = format!("quay.io/a/b:v1@{SHA}").parse().unwrap();
        assert_eq!(
            (both.manifest_name(), both.tag().unwrap().as_str()),
            (SHA, "v1")
        );
    }

    #[test]
    fn malformed_names_are_refused() {
        for text in [
            "",
            "/",
            "a/",
            "/a",
            "a//b",
            "Alpine",
            "a:",
            "a:.x",
            "a@sha256:abc",
            "a b",
            "host:99999/app",
            "host:/app",
            "-a",
            "a-",
            "a___b",
            "a._b",
            "../a",
            "host:5000/../a",
            "[::1/app",
            "[zz]/a",
            "a:b:c",
            &format!("a:{}", "x".repeat(129)),
            &"a".repeat(300),
            "https://host/a",
            "user@host/a",
        ] {
            assert!(text.parse::<Reference>().is_err(), "{text}");
        }
    }

    #[test]
    fn hosts_know_where_their_api_is() {
        let host = |text: &str| text.parse::<RegistryHost>().unwrap();
        assert_eq!(host("docker.io").api_host(), "registry-1.docker.io");
        assert_eq!(host("quay.io").api_host(), "quay.io");
        for (text, loopback) in [
            ("localhost:5000", true),
            ("127.0.0.1", true),
            ("[::1]:5000", true),
            ("x.localhost", true),
            ("10.0.0.1", false),
            ("localhost.com", false),
        ] {
            assert_eq!(host(text).is_loopback(), loopback, "{text}");
        }
    }

    proptest! {
        #[test]
        fn parsing_never_panics_and_round_trips(text in "[a-zA-Z0-9./:@_\\[\\]-]{0,40}") {
            if let Ok(reference) = text.parse::<Reference>() {
                prop_assert_eq!(reference.to_string().parse::<Reference>().unwrap(), reference);
            }
        }
    }
}
