//! Base images: resolving them to a manifest and a configuration, and, only when something must look inside, fetching
//! and unpacking their layers. What is not looked into is never fetched: the exporter mounts or copies it.

mod convert;
mod fetch;
mod layout;
mod listing;
mod local;
mod mirror;
mod pick;

use std::collections::{BTreeMap, HashMap};
use std::sync::{Arc, Mutex, PoisonError};

use oci::{
    ChainId, Descriptor, DiffId, Digest, Document, ImageConfig, Manifest, MediaType, Platform,
    Reference, Repository,
};
use store::Layout;
use tokio::sync::OnceCell;

use crate::cache::Cache;
use crate::error::BaseError;
use crate::graph::BaseName;
use crate::image::Layer;
use crate::layer::Owners;
use crate::named_context::NamedContext;

pub use local::LocalImages;
pub use mirror::{Mirrored, Mirrors};

pub(crate) use fetch::{is_unpacked, unpack_cached};
pub(crate) use listing::{known_listing, list_cached};
pub(crate) use pick::known_or_cached;

/// The largest configuration that is read, in bytes.
const MAX_CONFIG: u64 = 8 << 20;

/// What a name stands for, once it was looked up.
type Resolved = Arc<OnceCell<Option<Descriptor>>>;

/// Finds base images and fetches what is needed of them.
#[derive(Clone)]
pub struct Bases {
    client: distribution::Client,
    cache: Cache,
    owners: Owners,
    contexts: Arc<BTreeMap<String, NamedContext>>,
    /// Images that are here already.
    local: Option<Arc<LocalImages>>,
    /// Where images may be taken from instead.
    mirrors: Arc<Mirrors>,
    /// What names of images stood for when they were looked up.
    resolved: Arc<Mutex<HashMap<Reference, Resolved>>>,
    /// Held while an image is fetched, by its lowest layer: see `fetch.rs`.
    fetching: Arc<Mutex<HashMap<DiffId, Arc<tokio::sync::Mutex<()>>>>>,
}

/// Where the blobs of a base are.
#[derive(Clone, Debug)]
pub enum Origin {
    /// In a registry.
    Registry(Repository),
    /// In a directory.
    Layout(Layout),
}

/// A base image that was found.
#[derive(Clone, Debug)]
pub struct Base {
    /// The name as the Dockerfile has it, in full.
    pub name: String,
    /// The digest that the name stands for: of an index where there is one.
    pub digest: Digest,
    /// Where its blobs are.
    pub origin: Origin,
    /// The repository that it was taken from, where that is a mirror of the one that its name says.
    pub mirror: Option<Repository>,
    /// Its configuration.
    pub config: ImageConfig,
    /// Its layers, bottom first.
    pub layers: Vec<Layer>,
    /// For each layer, the digest of the stack up to it.
    pub chains: Vec<ChainId>,
    /// Whether the blobs of layers that are unpacked are kept: an exporter may need them.
    pub keeps_blobs: bool,
}

impl Bases {
    /// A finder that keeps what it fetches in `cache`, unpacked as `owners` says.
    pub fn new(
        client: distribution::Client,
        cache: Cache,
        owners: Owners,
        contexts: BTreeMap<String, NamedContext>,
    ) -> Self {
        Self {
            client,
            cache,
            owners,
            contexts: Arc::new(contexts),
            local: None,
            mirrors: Arc::default(),
            resolved: Arc::default(),
            fetching: Arc::default(),
        }
    }

    /// The same finder, which looks into images of this machine before it asks registries.
    #[must_use]
    pub fn with_local(mut self, images: Option<LocalImages>) -> Self {
        self.local = images.map(Arc::new);
        self
    }

    /// The same finder, which looks for images at mirrors before it asks the registries that their names say.
    #[must_use]
    pub fn with_mirrors(mut self, mirrors: Mirrors) -> Self {
        self.mirrors = Arc::new(mirrors);
        self
    }

    /// What speaks with registries.
    pub fn client(&self) -> &distribution::Client {
        &self.client
    }

    /// Finds the image that `name` stands for.
    ///
    /// # Errors
    /// When there is none, none for `platform`, or its documents cannot be read.
    pub async fn resolve(&self, name: &BaseName, platform: &Platform) -> Result<Base, BaseError> {
        match name {
            BaseName::Image(reference) => self.of_registry(reference, platform).await,
            BaseName::Context(context) => match self.contexts.get(context) {
                Some(NamedContext::Image(reference)) => self.of_registry(reference, platform).await,
                Some(NamedContext::Layout { directory, image }) => {
                    let layout = Layout::open(directory)?;
                    let root = layout::choose(&layout.index()?, image.as_deref())?;
                    let origin = Origin::Layout(layout);
                    self.read(context.clone(), root, origin, platform).await
                }
                _ => Err(BaseError::Malformed(format!(
                    "the context `{context}` is no image"
                ))),
            },
        }
    }

    /// Lets one image at a time of those with the same lowest layer be fetched: what they have in common is then there
    /// for the second. Whole images wait, as layers that wait for each other could do so in a circle.
    async fn alone(&self, base: &Base) -> Option<tokio::sync::OwnedMutexGuard<()>> {
        let lowest = base.layers.first()?.diff_id.clone();
        let place = {
            let mut fetching = self.fetching.lock().unwrap_or_else(PoisonError::into_inner);
            fetching.entry(lowest).or_default().clone()
        };
        Some(place.lock_owned().await)
    }

    async fn of_registry(
        &self,
        reference: &Reference,
        platform: &Platform,
    ) -> Result<Base, BaseError> {
        if let Some(local) = &self.local
            && let Some((root, layout)) = local.find(reference, platform)?
        {
            let origin = Origin::Layout(layout);
            return self
                .read(reference.to_string(), root, origin, platform)
                .await;
        }
        for place in self.mirrors.of(reference) {
            match self.at(reference, &place, platform).await {
                Ok(mut base) => {
                    base.mirror = Some(place.repository().clone());
                    return Ok(base);
                }
                Err(error) if is_absent(&error) => {
                    tracing::info!(image = %reference, mirror = %place, "the mirror does not have it");
                }
                Err(error) => return Err(error),
            }
        }
        self.at(reference, reference, platform).await
    }

    /// The image `reference`, as `place` has it.
    async fn at(
        &self,
        reference: &Reference,
        place: &Reference,
        platform: &Platform,
    ) -> Result<Base, BaseError> {
        // Platforms of one build see one image, also where the tag moves meanwhile.
        let known = {
            let mut resolved = self.resolved.lock().unwrap_or_else(PoisonError::into_inner);
            resolved.entry(place.clone()).or_default().clone()
        };
        let found = known
            .get_or_try_init(|| self.client.resolve(place))
            .await?
            .clone()
            .ok_or(BaseError::NotFound)?;
        let origin = Origin::Registry(place.repository().clone());
        self.read(reference.to_string(), found, origin, platform)
            .await
    }

    /// Reads the documents below `root`.
    async fn read(
        &self,
        name: String,
        root: Descriptor,
        origin: Origin,
        platform: &Platform,
    ) -> Result<Base, BaseError> {
        let digest = root.digest.clone();
        let manifest = match self.document(&origin, &root).await? {
            Document::Manifest(manifest) => manifest,
            Document::Index(index) => {
                let child = index
                    .select(platform)
                    .ok_or_else(|| BaseError::NoPlatform {
                        wanted: platform.to_string(),
                        found: index.platforms().map(ToString::to_string).collect(),
                    })?;
                match self.document(&origin, child).await? {
                    Document::Manifest(manifest) => manifest,
                    Document::Index(_) => {
                        return Err(BaseError::Malformed("its index holds an index".into()));
                    }
                }
            }
        };
        let config = self.small(&origin, &manifest.config, MAX_CONFIG).await?;
        let config: ImageConfig = serde_json::from_slice(&config).map_err(|error| {
            BaseError::Malformed(format!("its configuration cannot be read: {error}"))
        })?;
        let (layers, chains) = layers(&manifest, &config)?;
        Ok(Base {
            name,
            digest,
            origin,
            mirror: None,
            config,
            layers,
            chains,
            keeps_blobs: true,
        })
    }

    async fn document(
        &self,
        origin: &Origin,
        descriptor: &Descriptor,
    ) -> Result<Document, BaseError> {
        let bytes = self
            .small(origin, descriptor, oci::MAX_MANIFEST_BYTES)
            .await?;
        Ok(Document::parse(&descriptor.media_type, &bytes)?)
    }

    /// A document, from the cache where it is there.
    async fn small(
        &self,
        origin: &Origin,
        descriptor: &Descriptor,
        limit: u64,
    ) -> Result<Vec<u8>, BaseError> {
        if let Some(bytes) = self.cache.small_blob(&descriptor.digest) {
            return Ok(bytes);
        }
        let is_document = descriptor.media_type.is_index() || descriptor.media_type.is_manifest();
        let bytes = match origin {
            Origin::Layout(layout) => return Ok(layout.read_small(descriptor, limit)?),
            Origin::Registry(repository) if is_document => {
                let pinned = repository.at(descriptor.digest.clone());
                self.client.manifest(&pinned).await?.bytes
            }
            Origin::Registry(repository) => {
                self.client
                    .small_blob(repository, descriptor, limit)
                    .await?
            }
        };
        self.cache
            .keep(&descriptor.digest, &bytes)
            .map_err(|source| BaseError::Io {
                doing: "keeping a document of the base image",
                source,
            })?;
        Ok(bytes.to_vec())
    }
}

/// Whether a mirror does not have an image, or not all of it that is needed here.
fn is_absent(error: &BaseError) -> bool {
    match error {
        BaseError::NotFound | BaseError::NoPlatform { .. } => true,
        BaseError::Registry(error) => error.kind() == distribution::ErrorKind::NotFound,
        _ => false,
    }
}

/// The layers of an image by both of its documents.
fn layers(
    manifest: &Manifest,
    config: &ImageConfig,
) -> Result<(Vec<Layer>, Vec<ChainId>), BaseError> {
    let diff_ids = &config.rootfs.diff_ids;
    if diff_ids.len() != manifest.layers.len() {
        return Err(BaseError::Malformed(format!(
            "its manifest has {} layers and its configuration {}",
            manifest.layers.len(),
            diff_ids.len()
        )));
    }
    if let Some(other) = manifest
        .layers
        .iter()
        .find(|layer| !is_layer(&layer.media_type))
    {
        return Err(BaseError::Malformed(format!(
            "it is no container image: it has content of type `{}`",
            other.media_type
        )));
    }
    let layers = diff_ids
        .iter()
        .zip(&manifest.layers)
        .map(|(diff_id, descriptor)| Layer {
            diff_id: diff_id.clone(),
            descriptor: descriptor.clone(),
            created: None,
        })
        .collect();
    let chains = (1..=diff_ids.len())
        .filter_map(|count| ChainId::of(&diff_ids[..count]))
        .collect();
    Ok((layers, chains))
}

fn is_layer(media_type: &MediaType) -> bool {
    media_type.is_layer()
        || media_type.is_foreign_layer()
        || media_type
            .as_str()
            .starts_with("application/vnd.docker.image.rootfs.diff.tar")
}
