//! Contexts that were given a name: images, files or stages that stand in for what a Dockerfile names. Files are fetched
//! when a build first needs them, once for all platforms. What stands in for what is decided in [`crate::graph`].

use std::collections::{BTreeMap, HashMap};
use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError};

use oci::Reference;
use tokio::sync::OnceCell;

use crate::cache::Cache;
use crate::context::remote::{RemoteContext, fetch_remote};
use crate::context::{BuildContext, ContextError, Fetcher};
use crate::graph::ContextKind;
use crate::progress::Progress;

/// What a context that was named on the command line is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum NamedContext {
    /// An image in a registry.
    Image(Reference),
    /// An image in an OCI layout.
    Layout {
        /// The directory.
        directory: PathBuf,
        /// Tag or digest; the only image where absent.
        image: Option<String>,
    },
    /// A directory of this machine, with an ignore file of its own.
    Directory(PathBuf),
    /// A git repository, or what is behind a URL.
    Remote(RemoteContext),
    /// A stage of the Dockerfile, or another context.
    Stage(String),
}

impl NamedContext {
    /// What it is to the graph.
    pub fn kind(&self) -> ContextKind {
        match self {
            Self::Image(_) | Self::Layout { .. } => ContextKind::Image,
            Self::Directory(_) | Self::Remote(_) => ContextKind::Files,
            Self::Stage(name) => ContextKind::Stage(name.clone()),
        }
    }
}

/// The files of a context.
#[derive(Debug)]
pub struct ContextFiles {
    /// What it offers.
    pub context: Arc<BuildContext>,
    /// The moment that it is of, in seconds since 1970; directories have none.
    pub time: Option<i64>,
    /// Where it was fetched to.
    _fetched: Option<tempfile::TempDir>,
}

type Ready = Arc<OnceCell<Arc<ContextFiles>>>;

/// The files of all named contexts.
#[derive(Debug, Default)]
pub struct NamedFiles {
    contexts: BTreeMap<String, NamedContext>,
    ready: Mutex<HashMap<String, Ready>>,
}

impl NamedFiles {
    /// Those of `contexts`; the others have no files.
    pub fn new(contexts: BTreeMap<String, NamedContext>) -> Self {
        Self {
            contexts,
            ready: Mutex::default(),
        }
    }

    /// Where the context `name` is fetched from.
    pub fn url(&self, name: &str) -> Option<&str> {
        match self.contexts.get(name)? {
            NamedContext::Remote(RemoteContext::Git(url) | RemoteContext::Http(url)) => Some(url),
            _ => None,
        }
    }

    /// The files of the context `name`, fetched if they are not there yet.
    ///
    /// # Errors
    /// When they cannot be had.
    pub async fn get(
        &self,
        name: &str,
        fetcher: &Fetcher<'_>,
        cache: &Cache,
        progress: &Progress,
    ) -> Result<Arc<ContextFiles>, ContextError> {
        let ready = {
            let mut all = self.ready.lock().unwrap_or_else(PoisonError::into_inner);
            all.entry(name.to_owned()).or_default().clone()
        };
        let loaded = ready.get_or_try_init(|| async {
            let vertex = progress.start(format!("[context {name}] load"));
            let loaded = self.load(name, fetcher, cache).await;
            match &loaded {
                Ok(_) => vertex.done(),
                Err(error) => vertex.failed(&error.to_string()),
            }
            loaded.map(Arc::new)
        });
        let named = |source| ContextError::Named {
            name: name.to_owned(),
            source: Box::new(source),
        };
        loaded.await.cloned().map_err(named)
    }

    async fn load(
        &self,
        name: &str,
        fetcher: &Fetcher<'_>,
        cache: &Cache,
    ) -> Result<ContextFiles, ContextError> {
        match self.contexts.get(name) {
            Some(NamedContext::Directory(directory)) => Ok(ContextFiles {
                context: Arc::new(BuildContext::open(directory)?.with_dockerignore(None)?),
                time: None,
                _fetched: None,
            }),
            Some(NamedContext::Remote(remote)) => {
                let into = cache
                    .scratch("context-")
                    .map_err(|error| ContextError::io("making a directory", error))?;
                let fetched = fetch_remote(remote, fetcher, into.path()).await?;
                Ok(ContextFiles {
                    context: Arc::new(BuildContext::open(&fetched.directory)?),
                    time: fetched.time,
                    _fetched: Some(into),
                })
            }
            // The graph asks for the files of those contexts alone that have some.
            _ => Err(ContextError::NoSubdirectory(name.to_owned())),
        }
    }
}
