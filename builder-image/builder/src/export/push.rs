//! Pushing: blobs as soon as they are there, then configuration and manifests by digest, then tags.

use std::sync::Arc;

use bytes::Bytes;
use futures::{FutureExt, StreamExt, TryStreamExt};
use oci::{Descriptor, Repository};
use tokio::sync::Semaphore;

use super::Destination;
use crate::base::{Base, Origin};
use crate::error::Error;
use crate::image::Product;
use crate::shared_cache::Origin as CacheOrigin;
use crate::solve::Engine;

/// Blobs that are sent at once to one repository.
const PARALLEL: usize = 4;

/// How much of a file is read at once.
const CHUNK: usize = 256 * 1024;

/// Sends images to their destinations.
pub struct Pusher {
    engine: Arc<Engine>,
    destinations: Vec<(Destination, Semaphore)>,
    /// Repositories that may have the layers already.
    elsewhere: Vec<Repository>,
}

/// Where the bytes of a layer are.
#[derive(Clone, Debug)]
pub enum Source {
    /// In the cache, or in another cache that was asked.
    Cache,
    /// With the base image, unless the cache happens to have them.
    Base(Arc<Base>),
}

impl Pusher {
    /// A pusher of what the engine has and knows. `elsewhere` are repositories that may have the layers already.
    pub fn new(
        engine: Arc<Engine>,
        destinations: Vec<Destination>,
        elsewhere: &[Repository],
    ) -> Self {
        let destinations = destinations
            .into_iter()
            .map(|destination| (destination, Semaphore::new(PARALLEL)))
            .collect();
        Self {
            engine,
            destinations,
            elsewhere: elsewhere.to_vec(),
        }
    }

    /// Whether there is anything to push to.
    pub fn is_idle(&self) -> bool {
        self.destinations.is_empty()
    }

    /// The names that [`Self::tags`] writes.
    pub fn names(&self) -> impl Iterator<Item = oci::Reference> {
        self.destinations.iter().flat_map(|(destination, _)| {
            let tags = destination.tags.iter();
            tags.map(|tag| destination.repository.tagged(tag.clone()))
        })
    }

    /// Sends a layer everywhere, unless it is there: mounted where the destination's registry has it with the base.
    ///
    /// # Errors
    /// When a registry refuses, or the bytes cannot be read.
    pub async fn layer(&self, descriptor: &Descriptor, source: &Source) -> Result<(), Error> {
        let all = self
            .destinations
            .iter()
            .map(|(destination, room)| async move {
                let _room = room.acquire().await;
                self.layer_to(destination, descriptor, source)
                    .await
                    .map_err(failed(&destination.repository, "pushing a layer to"))
            });
        futures::future::try_join_all(all).await.map(drop)
    }

    async fn layer_to(
        &self,
        destination: &Destination,
        descriptor: &Descriptor,
        source: &Source,
    ) -> distribution::Result<()> {
        let Engine {
            cache,
            client,
            imports,
            ..
        } = &*self.engine;
        let blob = cache.blob(&descriptor.digest);
        let repository = &destination.repository;
        let origin = match source {
            Source::Base(_) => None,
            Source::Cache => imports.origin(&descriptor.digest),
        };
        let base = match (source, &origin) {
            (Source::Base(base), _) => match &base.origin {
                Origin::Registry(from) => Some(from),
                Origin::Layout(_) => None,
            },
            (Source::Cache, Some(CacheOrigin::Registry(from))) => Some(from),
            (Source::Cache, _) => None,
        };
        let is_near = |from: &&Repository| from.host() == repository.host();
        let elsewhere = self.elsewhere.iter().find(is_near);
        let mount_from = base.filter(is_near).or(elsewhere);
        // What is not in a registry is copied here first, which is where it is verified.
        if matches!(&origin, Some(origin) if !matches!(origin, CacheOrigin::Registry(_))) {
            let fetched = imports.fetch(client, cache, descriptor).await;
            fetched.map_err(|error| distribution::Error::Io {
                action: "read a layer of a cache".into(),
                source: std::io::Error::other(crate::error::chain(&error)),
            })?;
        }
        if cache.has_blob(descriptor) {
            let open = || {
                let blob = blob.clone();
                async move { open_file(blob).await }.boxed()
            };
            client
                .push_blob(repository, descriptor, mount_from, open)
                .await?;
            return Ok(());
        }
        if descriptor.media_type.is_foreign_layer() {
            return Err(distribution::Error::ForeignLayer(descriptor.digest.clone()));
        }
        let open = || {
            async move {
                match (base, source) {
                    (Some(from), Source::Cache) => {
                        let engine = self.engine.clone();
                        let digest = descriptor.digest.clone();
                        let blamed = move |error: &distribution::Error| {
                            engine.imports.blame(&digest, error);
                        };
                        let blob = client.blob(from, descriptor).await;
                        let blob = blob.inspect_err(&blamed)?;
                        Ok(blob.inspect_err(blamed).boxed())
                    }
                    (Some(from), _) => Ok(client.blob(from, descriptor).await?.boxed()),
                    (None, Source::Base(base)) => match &base.origin {
                        Origin::Layout(layout) => {
                            open_file(layout.blob_path(&descriptor.digest)).await
                        }
                        Origin::Registry(_) => {
                            unreachable!("a base of a registry has a repository")
                        }
                    },
                    (None, Source::Cache) => open_file(cache.blob(&descriptor.digest)).await,
                }
            }
            .boxed()
        };
        client
            .push_blob(repository, descriptor, mount_from, open)
            .await?;
        Ok(())
    }

    /// Sends configurations and manifests everywhere, by digest, the index last. All layers must be there.
    ///
    /// # Errors
    /// When a registry refuses.
    pub async fn manifests(&self, product: &Product) -> Result<(), Error> {
        let all = self.destinations.iter().map(|(destination, _)| {
            let repository = &destination.repository;
            async move {
                let images = product.images.iter().map(|image| async move {
                    let config = Bytes::copy_from_slice(&image.config);
                    let media_type = image.config_descriptor.media_type.clone();
                    self.engine
                        .client
                        .upload_bytes(repository, media_type, config)
                        .await?;
                    let name = repository.at(image.descriptor.digest.clone());
                    self.put(&name, &image.descriptor, &image.manifest).await
                });
                futures::future::try_join_all(images).await?;
                if let Some(index) = &product.index {
                    let name = repository.at(index.descriptor.digest.clone());
                    self.put(&name, &index.descriptor, &index.bytes).await?;
                }
                Ok(())
            }
            .map(|result| result.map_err(failed(repository, "pushing the manifest to")))
        });
        futures::future::try_join_all(all).await.map(drop)
    }

    /// Writes all tags. The manifests must be everywhere, so that no tag changes when one is refused.
    ///
    /// # Errors
    /// When a registry refuses.
    pub async fn tags(&self, product: &Product) -> Result<(), Error> {
        let bytes = match &product.index {
            Some(index) => &index.bytes,
            None => &product.images[0].manifest,
        };
        let tags = self.destinations.iter().flat_map(|(destination, _)| {
            let repository = &destination.repository;
            destination.tags.iter().map(move |tag| {
                let reference = repository.tagged(tag.clone());
                async move {
                    let put = self.put(&reference, product.descriptor(), bytes).await;
                    put.map_err(failed(repository, "writing a tag of"))
                }
            })
        });
        futures::stream::iter(tags)
            .buffer_unordered(PARALLEL)
            .try_collect()
            .await
    }

    async fn put(
        &self,
        reference: &oci::Reference,
        descriptor: &Descriptor,
        bytes: &[u8],
    ) -> distribution::Result<()> {
        let bytes = Bytes::copy_from_slice(bytes);
        self.engine
            .client
            .put_manifest(reference, &descriptor.media_type, bytes)
            .await?;
        Ok(())
    }
}

fn failed(
    repository: &oci::Repository,
    doing: &str,
) -> impl FnOnce(distribution::Error) -> Error + use<> {
    Error::export(format!("{doing} {repository}"))
}

type Content = futures::stream::BoxStream<'static, distribution::Result<Bytes>>;

async fn open_file(path: std::path::PathBuf) -> distribution::Result<Content> {
    let io = |source| distribution::Error::Io {
        action: "read the blob to push".into(),
        source,
    };
    let file = fs_err::tokio::File::open(path).await.map_err(io)?;
    let stream = tokio_util::io::ReaderStream::with_capacity(file.into_parts().0, CHUNK);
    Ok(stream.map_err(io).boxed())
}
