//! A registry in memory, for tests: the whole of pull and push of the distribution specification on a loopback port,
//! with authentication, a log of requests, and faults at will. It keeps everything and forgets it when dropped.
//!
//! Not for anything else: it checks what a registry must check, but it bounds nothing.

mod server;

use std::{
    collections::{BTreeMap, HashMap, HashSet},
    fmt,
    net::SocketAddr,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use bytes::Bytes;
use http::{HeaderMap, Method};
use oci::{Digest, MediaType, RegistryHost, Repository};
use tokio::{net::TcpListener, task::AbortHandle};

use crate::RawManifest;

/// A registry in memory. Dropping it closes its port.
pub struct MemoryRegistry {
    address: SocketAddr,
    shared: Arc<Shared>,
    server: AbortHandle,
}

/// Who may do what.
#[derive(Debug, Clone, Default)]
pub enum Access {
    /// Everybody everything.
    #[default]
    Open,
    /// Basic authentication of one user.
    Basic {
        /// The user.
        username: String,
        /// The password.
        password: String,
    },
    /// Tokens from `/auth/token` on the same port.
    Token {
        /// The user.
        username: String,
        /// The password.
        password: String,
        /// Whether everybody may pull.
        anonymous_pull: bool,
        /// How long tokens are said to be valid, in seconds.
        expires_in: u64,
    },
}

/// A request as the log keeps it and as faults are chosen by.
#[derive(Debug, Clone)]
pub struct Logged {
    /// The method.
    pub method: Method,
    /// The path.
    pub path: String,
    /// The query, percent-encoded.
    pub query: Option<String>,
    /// The headers.
    pub headers: HeaderMap,
    /// The position in the log, from 0.
    pub number: usize,
    /// The status of the answer; 0 as long as there is none.
    pub status: u16,
}

impl fmt::Display for Logged {
    /// `GET /v2/a/manifests/latest 200`
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {} {}", self.method, self.path, self.status)
    }
}

/// What goes wrong with a request.
#[derive(Debug, Clone)]
pub enum Fault {
    /// This answer instead of the right one: status, headers, body.
    Answer(u16, Vec<(&'static str, String)>, String),
    /// The right answer, its connection cut after so many bytes of the body.
    Cut(usize),
    /// The right answer with another first byte in the body.
    Corrupt,
    /// The right answer without this header.
    Without(&'static str),
    /// The right answer after a while.
    Delay(Duration),
}

type FaultHook = Box<dyn Fn(&Logged) -> Option<Fault> + Send + Sync>;

struct Shared {
    access: Access,
    content: Mutex<Content>,
    log: Mutex<Vec<Logged>>,
    faults: Mutex<Option<FaultHook>>,
}

#[derive(Default)]
struct Content {
    blobs: HashMap<Digest, Bytes>,
    repositories: BTreeMap<String, Contained>,
    uploads: HashMap<String, Vec<u8>>,
    tokens: HashMap<String, HashSet<String>>,
    counter: u64,
    /// Whether the referrers API is served.
    referrers: bool,
}

#[derive(Default)]
struct Contained {
    blobs: HashSet<Digest>,
    manifests: HashMap<Digest, (MediaType, Bytes)>,
    tags: BTreeMap<String, Digest>,
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl MemoryRegistry {
    /// Starts an open registry on a free loopback port.
    ///
    /// # Panics
    /// Where there is no Tokio runtime, or no port.
    pub async fn start() -> Self {
        Self::start_with(Access::Open).await
    }

    /// Starts a registry with `access` on a free loopback port.
    ///
    /// # Panics
    /// Where there is no Tokio runtime, or no port.
    pub async fn start_with(access: Access) -> Self {
        let listener = TcpListener::bind(("127.0.0.1", 0))
            .await
            .expect("a loopback port is free");
        let address = listener.local_addr().expect("the listener is bound");
        let shared = Arc::new(Shared {
            access,
            content: Mutex::default(),
            log: Mutex::default(),
            faults: Mutex::default(),
        });
        let server = tokio::spawn(server::serve(listener, shared.clone())).abort_handle();
        Self {
            address,
            shared,
            server,
        }
    }

    /// The address of the port.
    pub const fn address(&self) -> SocketAddr {
        self.address
    }

    /// The host for image names, `127.0.0.1:<port>`.
    ///
    /// # Panics
    /// Never: an address is a host.
    pub fn host(&self) -> RegistryHost {
        let host = self.address.to_string().parse();
        host.expect("an address is a registry host")
    }

    /// The repository `path` of this registry.
    ///
    /// # Panics
    /// When `path` is not the path of a repository.
    pub fn repository(&self, path: &str) -> Repository {
        Repository::new(self.host(), path).expect("a valid repository path")
    }

    /// The requests so far.
    pub fn requests(&self) -> Vec<Logged> {
        lock(&self.shared.log).clone()
    }

    /// Forgets the requests so far.
    pub fn clear_requests(&self) {
        lock(&self.shared.log).clear();
    }

    /// Asks `hook` before each request what shall go wrong. It replaces the hook before it.
    pub fn set_faults(&self, hook: impl Fn(&Logged) -> Option<Fault> + Send + Sync + 'static) {
        *lock(&self.shared.faults) = Some(Box::new(hook));
    }

    /// Lets nothing go wrong any more.
    pub fn clear_faults(&self) {
        *lock(&self.shared.faults) = None;
    }

    /// Serves the referrers API from now on, as registries of the distribution specification 1.1 do. Without it, the registry
    /// is as distribution v3: it takes no notice of subjects.
    pub fn serve_referrers(&self) {
        lock(&self.shared.content).referrers = true;
    }

    /// Puts a blob into a repository.
    pub fn add_blob(&self, repository: &str, bytes: impl Into<Bytes>) -> Digest {
        let bytes = bytes.into();
        let digest = Digest::of(&bytes);
        let mut content = lock(&self.shared.content);
        content.blobs.insert(digest.clone(), bytes);
        let contained = content.repositories.entry(repository.into()).or_default();
        contained.blobs.insert(digest.clone());
        digest
    }

    /// Puts a manifest into a repository, under `tag` if there is one. What it refers to is not looked for.
    pub fn add_manifest(
        &self,
        repository: &str,
        tag: Option<&str>,
        media_type: MediaType,
        bytes: impl Into<Bytes>,
    ) -> Digest {
        let bytes = bytes.into();
        let digest = Digest::of(&bytes);
        let mut content = lock(&self.shared.content);
        let contained = content.repositories.entry(repository.into()).or_default();
        contained
            .manifests
            .insert(digest.clone(), (media_type, bytes));
        if let Some(tag) = tag {
            contained.tags.insert(tag.into(), digest.clone());
        }
        digest
    }

    /// The manifest under a tag or a digest.
    pub fn manifest(&self, repository: &str, name: &str) -> Option<RawManifest> {
        let content = lock(&self.shared.content);
        let (digest, media_type, bytes) = content.repositories.get(repository)?.find(name)?;
        Some(RawManifest {
            media_type,
            digest,
            bytes,
        })
    }

    /// The bytes of a blob, where the repository has it.
    pub fn blob(&self, repository: &str, digest: &Digest) -> Option<Bytes> {
        let content = lock(&self.shared.content);
        let contained = content.repositories.get(repository)?;
        contained.blobs.get(digest)?;
        content.blobs.get(digest).cloned()
    }

    /// Takes a blob out of a repository, as a wrong garbage collection does.
    pub fn remove_blob(&self, repository: &str, digest: &Digest) {
        if let Some(contained) = lock(&self.shared.content).repositories.get_mut(repository) {
            contained.blobs.remove(digest);
        }
    }

    /// Takes a tag out of a repository, as its owner does; what it named stays.
    pub fn remove_tag(&self, repository: &str, tag: &str) {
        if let Some(contained) = lock(&self.shared.content).repositories.get_mut(repository) {
            contained.tags.remove(tag);
        }
    }

    /// The tags of a repository, sorted.
    pub fn tags(&self, repository: &str) -> Vec<String> {
        let content = lock(&self.shared.content);
        let contained = content.repositories.get(repository);
        contained.map_or_else(Vec::new, |c| c.tags.keys().cloned().collect())
    }

    /// The uploads that were opened and neither finished nor cancelled.
    pub fn open_uploads(&self) -> usize {
        lock(&self.shared.content).uploads.len()
    }

    /// Makes all tokens that were given out invalid.
    pub fn revoke_tokens(&self) {
        lock(&self.shared.content).tokens.clear();
    }
}

impl Contained {
    fn find(&self, name: &str) -> Option<(Digest, MediaType, Bytes)> {
        let digest = match self.tags.get(name) {
            Some(digest) => digest.clone(),
            None => name.parse().ok()?,
        };
        let (media_type, bytes) = self.manifests.get(&digest)?;
        Some((digest, media_type.clone(), bytes.clone()))
    }
}

impl Drop for MemoryRegistry {
    fn drop(&mut self) {
        self.server.abort();
    }
}

impl fmt::Debug for MemoryRegistry {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("MemoryRegistry")
            .field("address", &self.address)
            .finish_non_exhaustive()
    }
}
