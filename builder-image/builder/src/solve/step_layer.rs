//! The layer of one step: a directory, a blob, or both, each made only when somebody asks for it.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};

use futures::FutureExt;
use futures::future::BoxFuture;
use tokio::sync::{OnceCell, Semaphore};

use super::execute::{Made, Task, Work};
use super::{Engine, Shared, blocking};
use crate::base::{is_unpacked, known_listing, known_or_cached, list_cached, unpack_cached};
use crate::cache::{Packed, Record};
use crate::cache_key::CacheKey;
use crate::error::{Error, Place, StepFailure};
use crate::layer::{LayerDir, LayerError, LentLayer, Listing, Picked, Recipe, pack, recompress};
use crate::snapshot::Snapshot;
use crate::step::Lacking;
use crate::wanted::Wanted;

/// How many layers are packed at once. Each takes all processors and some memory for each of them.
static PACKING: Semaphore = Semaphore::const_new(4);

/// The layer of a COPY whose files are where they are copied from.
pub(super) struct Lent {
    layer: LentLayer,
    /// What makes the layer in the usual way.
    task: Arc<Task>,
    /// Of the instruction.
    place: Place,
    /// What is recorded, and the layer, where it had to be made so.
    copied: OnceCell<Shared<(Record, Arc<LayerDir>)>>,
}

impl Lent {
    pub(super) fn new(layer: LentLayer, task: Arc<Task>, place: Place) -> Self {
        Self {
            layer,
            task,
            place,
            copied: OnceCell::new(),
        }
    }
}

/// What a blob is packed from.
enum Origin {
    Directory(Arc<LayerDir>),
    Lent(Arc<Lent>),
}

/// The layer of one step.
pub(super) struct StepLayer {
    record: Record,
    /// The keys under which the record is kept.
    keys: Vec<CacheKey>,
    /// How the blob of the record was packed.
    recipe: Recipe,
    directory: OnceCell<Shared<Arc<LayerDir>>>,
    /// Until it is packed, the record has neither layer nor blob.
    lent: Option<Arc<Lent>>,
    packed: OnceCell<Shared<Packed>>,
    /// The blobs by other recipes than the engine's.
    variants: Mutex<HashMap<Recipe, Arc<OnceCell<Shared<Packed>>>>>,
    /// The writing of the first record.
    recorded: Recording,
}

/// The writing of a record, which anybody may wait for.
pub(super) type Recording = futures::future::Shared<BoxFuture<'static, Shared<()>>>;

impl Engine {
    /// Writes a record on a thread, waited for or not.
    pub(super) fn begin_record(self: &Arc<Self>, keys: Vec<CacheKey>, record: Record) -> Recording {
        let engine = self.clone();
        let written = tokio::task::spawn_blocking(move || {
            let keys: Vec<_> = keys.iter().collect();
            engine.cache.record(&keys, &record)
        });
        let waited = async move {
            let written = written.await.map_err(|_| Error::Panicked)?;
            Ok(written.map_err(Error::io("writing a cache record"))?)
        };
        waited.boxed().shared()
    }
}

impl StepLayer {
    /// A step of which nothing is here but what `record` names.
    fn new(record: Record, keys: Vec<CacheKey>, recipe: Recipe) -> Self {
        Self {
            record,
            keys,
            recipe,
            directory: OnceCell::new(),
            lent: None,
            packed: OnceCell::new(),
            variants: Mutex::default(),
            recorded: futures::future::ready(Ok(())).boxed().shared(),
        }
    }

    /// A layer that a cache has.
    pub(super) fn cached(record: Record, engine: &Engine) -> Self {
        let usual = engine.pack.recipe();
        let recipe = match &record.packed {
            Some(packed) => engine.imports.recipe(&packed.descriptor.digest, usual),
            None => usual,
        };
        let keys = vec![record.key.clone()];
        Self::new(record, keys, recipe)
    }

    /// A layer whose files are lent. It is recorded under `keys` when it is packed.
    pub(super) fn lent(record: Record, keys: Vec<CacheKey>, lent: Lent, recipe: Recipe) -> Self {
        Self {
            lent: Some(Arc::new(lent)),
            ..Self::new(record, keys, recipe)
        }
    }

    /// A layer that was made just now and is being recorded under `keys`.
    pub(super) fn fresh(
        record: Record,
        keys: Vec<CacheKey>,
        directory: Arc<LayerDir>,
        recipe: Recipe,
        recorded: Recording,
    ) -> Self {
        Self {
            directory: OnceCell::new_with(Some(Ok(directory))),
            recorded,
            ..Self::new(record, keys, recipe)
        }
    }

    /// Waits until the record is on the disk.
    pub(super) async fn recorded(&self) -> Shared<()> {
        self.recorded.clone().await
    }

    /// When the step was executed.
    pub(super) fn created(&self) -> &str {
        &self.record.created
    }

    /// The layer as a directory; `below` is what is below it.
    pub(super) async fn directory(
        &self,
        engine: &Arc<Engine>,
        below: &Snapshot,
    ) -> Shared<Arc<LayerDir>> {
        let open = || async {
            self.fetch(engine).await?;
            let mut record = self.record.clone();
            if let Some(lent) = &self.lent {
                // What is in the blob is what the layer is, whatever has become of the files since.
                record.packed = Some(self.packed(engine).await?);
                if let Some(Ok((_, directory))) = lent.copied.get() {
                    return Ok(directory.clone());
                }
            }
            let (engine, below) = (engine.clone(), below.clone());
            let layer = blocking(move || match (&record.layer, &record.packed) {
                (Some(name), _) => LayerDir::open(engine.cache.layer(name)).map_err(Error::Pack),
                (None, Some(packed)) => unpack_cached(&engine.cache, packed, &below, engine.owners)
                    .map_err(|error| {
                        engine.imports.blame(&packed.descriptor.digest, &error);
                        Error::Cache(record.instruction.clone(), Box::new(error))
                    }),
                (None, None) => unreachable!("a record names a layer or a blob"),
            });
            Ok(Arc::new(layer.await??))
        };
        self.directory.get_or_init(open).await.clone()
    }

    /// Brings the blob that the files are in to the engine's directory, where only another cache has it.
    pub(super) async fn fetch(&self, engine: &Arc<Engine>) -> Shared<()> {
        let Record {
            layer: None,
            packed: Some(packed),
            ..
        } = &self.record
        else {
            return Ok(());
        };
        if self.directory.initialized() || is_unpacked(&engine.cache, packed, engine.owners) {
            return Ok(());
        }
        self.fetch_blob(engine, packed).await
    }

    async fn fetch_blob(&self, engine: &Arc<Engine>, packed: &Packed) -> Shared<()> {
        let (imports, blob) = (&engine.imports, &packed.descriptor);
        let fetched = imports.fetch(&engine.client, &engine.cache, blob).await;
        let instruction = || self.record.instruction.clone();
        fetched.map_err(|error| Arc::new(Error::Cache(instruction(), Box::new(error))))
    }

    /// What the layer looks like, where it is a blob and nobody has unpacked it.
    pub(super) async fn listing(&self, engine: &Arc<Engine>) -> Option<Arc<Listing>> {
        if let Some(lent) = &self.lent {
            return Some(lent.layer.listing().clone());
        }
        let packed = match &self.record {
            Record {
                layer: None,
                packed: Some(packed),
                ..
            } if !self.directory.initialized() => packed.clone(),
            _ => return None,
        };
        let cache = engine.cache.clone();
        let known = {
            let (cache, packed) = (cache.clone(), packed.clone());
            blocking(move || known_listing(&cache, &packed)).await
        };
        if let Ok(Some(known)) = known {
            return Some(known);
        }
        self.fetch_blob(engine, &packed).await.ok()?;
        // One that cannot be listed is unpacked, which tells what is wrong with it.
        blocking(move || list_cached(&cache, &packed).ok())
            .await
            .ok()?
    }

    /// Contents of files of a layer that is only listed; none where the blob cannot be had, or is damaged.
    pub(super) async fn pick(
        &self,
        engine: &Arc<Engine>,
        lacking: Lacking,
    ) -> Option<Vec<Arc<Picked>>> {
        let packed = self.record.packed.clone()?;
        let wanted = Wanted {
            paths: lacking.paths,
            ..Wanted::default()
        };
        let find = || {
            let (cache, packed) = (engine.cache.clone(), packed.clone());
            let (listing, wanted) = (lacking.listing.clone(), wanted.clone());
            blocking(move || known_or_cached(&cache, &packed, &listing, &wanted))
        };
        if let Some(known) = find().await.ok()?.ok()? {
            return Some(known);
        }
        // Another cache has it.
        self.fetch_blob(engine, &packed).await.ok()?;
        find().await.ok()?.ok()?
    }

    /// The layer as the engine packs it, which it is unless another cache has it.
    fn packed<'a>(&'a self, engine: &'a Arc<Engine>) -> BoxFuture<'a, Shared<Packed>> {
        let packed = async move {
            if let Some(packed) = &self.record.packed {
                return Ok(packed.clone());
            }
            let make = || async {
                if let Some(lent) = &self.lent {
                    let packed = self
                        .pack(engine, Origin::Lent(lent.clone()), &self.record)
                        .await?;
                    return match packed {
                        Ok(packed) => Ok(packed),
                        Err(error) if !error.is_of_source() => Err(Error::Pack(error).into()),
                        Err(error) => {
                            tracing::debug!(%error, "packing a copy of the files");
                            let (record, directory) = self.copied(engine, lent).await?;
                            let packed = self.pack(engine, Origin::Directory(directory), &record);
                            Ok(packed.await?.map_err(Error::Pack)?)
                        }
                    };
                }
                // A layer of a record without a blob is a directory, which needs nothing below it.
                let directory = self.directory(engine, &Snapshot::empty()).await?;
                // The record that names the blob replaces the first one.
                self.recorded().await?;
                let packed = self.pack(engine, Origin::Directory(directory), &self.record);
                Ok(packed.await?.map_err(Error::Pack)?)
            };
            self.packed.get_or_init(make).await.clone()
        };
        packed.boxed()
    }

    /// Packs `origin`, and records that beside what `record` says.
    async fn pack(
        &self,
        engine: &Arc<Engine>,
        origin: Origin,
        record: &Record,
    ) -> Shared<Result<Packed, LayerError>> {
        let _room = PACKING.acquire().await;
        let (engine, keys, mut record) = (engine.clone(), self.keys.clone(), record.clone());
        let packed = blocking(move || {
            let blobs = engine.cache.blobs();
            let layer = match &origin {
                Origin::Directory(directory) => pack(directory, &engine.pack, &blobs),
                Origin::Lent(lent) => lent.layer.pack(&engine.pack, &blobs),
            };
            let packed = match layer {
                Ok(layer) => Packed {
                    diff_id: layer.diff_id,
                    descriptor: layer.descriptor,
                },
                Err(error) => return Ok(Err(error)),
            };
            let keys: Vec<_> = keys.iter().collect();
            record.packed = Some(packed.clone());
            let recorded = engine.cache.record(&keys, &record);
            recorded.map_err(Error::io("writing a cache record"))?;
            Ok::<_, Error>(Ok(packed))
        });
        Ok(packed.await??)
    }

    /// The layer of a COPY, made in the usual way after all.
    async fn copied(&self, engine: &Arc<Engine>, lent: &Lent) -> Shared<(Record, Arc<LayerDir>)> {
        let make = || async {
            let fail = |source| {
                Arc::new(Error::Step {
                    place: lent.place.clone(),
                    source: Box::new(source),
                    output: String::new(),
                    help: None,
                })
            };
            let work = Work {
                engine: engine.clone(),
                task: lent.task.clone(),
            };
            let made = blocking(move || work.layer()).await?.map_err(fail)?;
            let Made::Layer(made) = made else {
                return Err(fail(StepFailure::Io {
                    doing: "reading the layers below the step",
                    source: std::io::ErrorKind::NotFound.into(),
                }));
            };
            let (mut record, _, directory) = *made;
            record.created.clone_from(&self.record.created);
            Ok((record, Arc::new(directory)))
        };
        lent.copied.get_or_init(make).await.clone()
    }

    /// The layer as a blob by `recipe`; `below` is what is below it, should it have to be unpacked.
    pub(super) async fn packed_by(
        &self,
        engine: &Arc<Engine>,
        recipe: Recipe,
        below: BoxFuture<'_, Shared<Snapshot>>,
    ) -> Shared<Packed> {
        if recipe == self.recipe {
            return self.packed(engine).await;
        }
        let variant = {
            let mut variants = self.variants.lock().unwrap_or_else(PoisonError::into_inner);
            variants.entry(recipe).or_default().clone()
        };
        variant
            .get_or_init(|| self.variant(engine, recipe, below))
            .await
            .clone()
    }

    /// Makes the blob by a recipe of its own, from the blob that there is or from the directory, and records it beside.
    async fn variant(
        &self,
        engine: &Arc<Engine>,
        recipe: Recipe,
        below: BoxFuture<'_, Shared<Snapshot>>,
    ) -> Shared<Packed> {
        let record = &self.record;
        let key = CacheKey::made_of(&record.key, &record.created, &recipe.to_string());
        let known = engine.cache.lookup(&key, engine.owners);
        if let Some(packed) = known.and_then(|known| known.packed) {
            return Ok(packed);
        }
        let blob = record
            .packed
            .clone()
            .filter(|_| recipe.clamp_mtime.is_none());
        let directory = match &blob {
            Some(_) => None,
            None if record.layer.is_some() => {
                Some(self.directory(engine, &Snapshot::empty()).await?)
            }
            None => Some(self.directory(engine, &below.await?).await?),
        };
        if let Some(packed) = &blob {
            self.fetch_blob(engine, packed).await?;
        }
        let (created, text) = (record.created.clone(), record.instruction.clone());
        let engine = engine.clone();
        let made = blocking(move || {
            let options = engine.pack.with(recipe);
            let blobs = engine.cache.blobs();
            let layer = match (&blob, &directory) {
                (Some(packed), _) => {
                    let path = engine.cache.blob(&packed.descriptor.digest);
                    let file = fs_err::File::open(path).map_err(Error::io("opening a layer"))?;
                    recompress(file, &packed.diff_id, &options, &blobs)
                }
                (None, Some(directory)) => pack(directory, &options, &blobs),
                (None, None) => unreachable!("without a blob there is a directory"),
            };
            let layer = layer.map_err(Error::Pack)?;
            let packed = Packed {
                diff_id: layer.diff_id,
                descriptor: layer.descriptor,
            };
            let mut record = Record::new(key.clone(), created, text);
            record.packed = Some(packed.clone());
            let recorded = engine.cache.record(&[&key], &record);
            recorded.map_err(Error::io("writing a cache record"))?;
            Ok::<_, Error>(packed)
        });
        Ok(made.await??)
    }
}
