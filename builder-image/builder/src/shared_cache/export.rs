//! Writing the caches that a build was asked for. Layers first, then the document, the manifest at the very end: a cache of
//! that name is always whole, also where two builds write it at once (the later one stays).

use std::collections::HashSet;
use std::path::PathBuf;
use std::sync::Arc;

use bytes::Bytes;
use futures::{StreamExt, TryStreamExt};
use oci::{Descriptor, MediaType, Reference, Repository};
use store::Layout;

use super::document::{CacheDocument, DamagedDocument, Entry};
use super::origin::copy_verified;
use super::{CacheMode, CachePlace, CacheTarget};
use crate::cache::{Cache, Record};
use crate::error::{BaseError, Error, chain};
use crate::export::{Destination, Pusher, Source};
use crate::solve::{Engine, Solve, Solved};

/// Layers that are packed and sent at once.
const PARALLEL: usize = 4;

/// Why a cache could not be written.
#[derive(Debug, thiserror::Error)]
enum WriteError {
    #[error(transparent)]
    Build(#[from] Error),
    #[error(transparent)]
    Shared(#[from] Arc<Error>),
    #[error(transparent)]
    Registry(#[from] distribution::Error),
    #[error(transparent)]
    Layer(#[from] BaseError),
    #[error(transparent)]
    Layout(#[from] store::StoreError),
    #[error(transparent)]
    Document(#[from] DamagedDocument),
    #[error("writing the cache")]
    Io(#[from] std::io::Error),
    #[error("writing the cache broke off")]
    BrokeOff,
}

/// Writes what `solves` know to all of `targets`. `pushed` are repositories that the image went to.
///
/// # Errors
/// The first failure of a target that does not say to ignore it.
pub async fn export_caches(
    engine: &Arc<Engine>,
    solves: &[Solve],
    targets: &[CacheTarget],
    pushed: &[Repository],
) -> Result<(), Error> {
    for target in targets {
        let vertex = engine
            .progress
            .start(format!("exporting cache to {}", target.place));
        let writing = Writing {
            engine,
            target,
            pushed,
        };
        match writing.write(solves).await {
            Ok(count) => {
                vertex.output(format!("{count} steps").as_bytes());
                vertex.done();
            }
            Err(error) => {
                let told = chain(&error);
                vertex.failed(&told);
                if !target.ignore_error {
                    return Err(Error::CacheExport {
                        place: target.place.to_string(),
                        source: match error {
                            WriteError::Registry(error) => Box::new(error),
                            other => Box::new(other),
                        },
                    });
                }
                tracing::warn!("the cache {} was not written: {told}", target.place);
            }
        }
    }
    // Not earlier: what one cache no longer names, the next may still be made of.
    prune(targets).await;
    Ok(())
}

/// Removes from directories what their names no longer lead to. A failure is told, and is none of the build.
async fn prune(targets: &[CacheTarget]) {
    for target in targets {
        let CachePlace::Directory {
            path, prune: true, ..
        } = &target.place
        else {
            continue;
        };
        let directory = path.clone();
        let pruned = blocking(move || Ok(Layout::open(directory)?.prune()?)).await;
        match pruned {
            Ok(Some(pruned)) if pruned.blobs > 0 => tracing::info!(
                blobs = pruned.blobs,
                bytes = pruned.bytes,
                "removed from the cache in {} what no name in it leads to",
                path.display()
            ),
            Ok(Some(_)) => {}
            Ok(None) => tracing::info!(
                "the cache in {} is being written by another build, which removes what is old",
                path.display()
            ),
            Err(error) => {
                let told = chain(&error);
                tracing::warn!("the cache in {} keeps what is old: {told}", path.display());
            }
        }
    }
}

/// One cache on its way.
struct Writing<'a> {
    engine: &'a Arc<Engine>,
    target: &'a CacheTarget,
    pushed: &'a [Repository],
}

impl Writing<'_> {
    /// Returns how many steps were written.
    async fn write(&self, solves: &[Solve]) -> Result<usize, WriteError> {
        let mut seen = HashSet::new();
        let mut steps = Vec::new();
        for solve in solves {
            for step in solve.solved(self.target.mode == CacheMode::Max)? {
                if seen.insert(step.keys.clone()) {
                    steps.push((solve, step));
                }
            }
        }
        let count = steps.len();
        match &self.target.place {
            CachePlace::Store(store) => {
                for (solve, step) in steps {
                    self.keep(store, solve, step).await?;
                }
            }
            CachePlace::Registry(reference) => {
                let destination = Destination {
                    name: reference.to_string(),
                    repository: reference.repository().clone(),
                    tags: Vec::new(),
                };
                let pusher = Pusher::new(self.engine.clone(), vec![destination], self.pushed);
                let entries = self.entries(steps, async |blob| {
                    pusher.layer(blob, &Source::Cache).await?;
                    Ok(())
                });
                let document = CacheDocument::new(&entries.await?);
                self.push(reference, &document).await?;
            }
            CachePlace::Directory { path, tag, .. } => {
                let layout = Layout::create(path)?;
                let _writing = layout.writing()?;
                let entries = self.entries(steps, async |blob| self.copy(&layout, blob).await);
                let document = CacheDocument::new(&entries.await?);
                let (layout, tag) = (layout.clone(), tag.clone());
                blocking(move || tag_in(&layout, &tag, &document)).await?;
            }
        }
        Ok(count)
    }

    /// The steps with their layers as blobs, each brought to its place as soon as it is there.
    async fn entries(
        &self,
        steps: Vec<(&Solve, Solved)>,
        bring: impl AsyncFn(&Descriptor) -> Result<(), WriteError>,
    ) -> Result<Vec<Entry>, WriteError> {
        let usual = self.engine.pack.recipe().compression;
        let compression = self.target.compression.unwrap_or(usual);
        let bring = &bring;
        let entries = steps.into_iter().map(|(solve, step)| async move {
            let packed = solve.pack_solved(&step, compression).await?;
            bring(&packed.descriptor).await?;
            Ok::<_, WriteError>(Entry {
                packed,
                compression,
                created: step.created().to_owned(),
                trails: solve.trails_of(&step),
                keys: step.keys,
                instruction: step.instruction,
            })
        });
        let entries: Vec<_> = entries.collect();
        futures::stream::iter(entries)
            .buffered(PARALLEL)
            .try_collect()
            .await
    }

    async fn push(
        &self,
        reference: &Reference,
        document: &CacheDocument,
    ) -> Result<(), WriteError> {
        let client = &self.engine.client;
        let Documents {
            config,
            config_type,
            manifest,
            descriptor,
        } = Documents::of(document)?;
        let repository = reference.repository();
        client
            .upload_bytes(repository, config_type, Bytes::from(config))
            .await?;
        client
            .put_manifest(reference, &descriptor.media_type, Bytes::from(manifest))
            .await?;
        Ok(())
    }

    /// Copies a blob into a layout that does not have it.
    async fn copy(&self, layout: &Layout, blob: &Descriptor) -> Result<(), WriteError> {
        if layout.has_blob(blob) {
            return Ok(());
        }
        let path = self.file(blob).await?;
        let (layout, blob) = (layout.clone(), blob.clone());
        blocking(move || {
            let file = store::open_file(&path, &blob)?;
            layout.write_blob(file, Some(&blob.digest))?;
            Ok(())
        })
        .await
    }

    /// Keeps a step with the records of another place.
    async fn keep(&self, store: &Cache, solve: &Solve, step: Solved) -> Result<(), WriteError> {
        let owners = self.engine.owners;
        let is_kept = |key| {
            let known = store.lookup(key, owners);
            known.is_some_and(|known| known.packed.is_some())
        };
        if step.keys.iter().all(is_kept) {
            return Ok(());
        }
        let usual = self.engine.pack.recipe().compression;
        let packed = solve.pack_solved(&step, usual).await?;
        let blob = packed.descriptor.clone();
        let path = if store.has_blob(&blob) {
            None
        } else {
            Some(self.file(&blob).await?)
        };
        let trails = solve.trails_of(&step);
        let store = store.clone();
        blocking(move || {
            if let Some(path) = path {
                let mut to = store.blob_file()?;
                copy_verified(store::open_file(&path, &blob)?, &mut to, &blob, &path)?;
                store.adopt(to, &blob.digest)?;
            }
            let created = step.created().to_owned();
            let mut record = Record::new(step.keys[0].clone(), created, step.instruction.clone());
            record.packed = Some(packed);
            let keys: Vec<_> = step.keys.iter().collect();
            store.record(&keys, &record)?;
            if let Some(trail) = trails.first() {
                store.keep_trail(&step.instruction, trail);
            }
            Ok(())
        })
        .await
    }

    /// The file of a blob, which is fetched where it is only known.
    async fn file(&self, blob: &Descriptor) -> Result<PathBuf, WriteError> {
        let engine = self.engine;
        let fetched = engine.imports.fetch(&engine.client, &engine.cache, blob);
        fetched.await?;
        Ok(engine.cache.blob(&blob.digest))
    }
}

/// A cache as it is written: its document, which is the configuration of an image, and the manifest of that.
struct Documents {
    config: Vec<u8>,
    config_type: MediaType,
    manifest: Vec<u8>,
    descriptor: Descriptor,
}

impl Documents {
    fn of(document: &CacheDocument) -> Result<Self, DamagedDocument> {
        let config = document.to_json()?;
        let described = CacheDocument::descriptor(&config);
        let config_type = described.media_type.clone();
        let manifest = serde_json::to_vec(&document.manifest(described))?;
        Ok(Self {
            config,
            config_type,
            descriptor: Descriptor::of(MediaType::OciManifest, &manifest),
            manifest,
        })
    }
}

fn tag_in(layout: &Layout, tag: &str, document: &CacheDocument) -> Result<(), WriteError> {
    let documents = Documents::of(document)?;
    let manifest = documents.descriptor;
    layout.write_blob(documents.config.as_slice(), None)?;
    layout.write_blob(documents.manifest.as_slice(), Some(&manifest.digest))?;
    layout.tag(tag, manifest)?;
    Ok(())
}

async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> Result<T, WriteError> + Send + 'static,
) -> Result<T, WriteError> {
    let done = tokio::task::spawn_blocking(work).await;
    done.map_err(|_| WriteError::BrokeOff)?
}
