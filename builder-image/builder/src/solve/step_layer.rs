//! The layer of one step: a directory, a blob, or both, each made only when somebody asks for it.

use std::sync::Arc;

use tokio::sync::OnceCell;

use super::{Engine, Shared, blocking};
use crate::base::{list_cached, unpack_cached};
use crate::cache::{Packed, Record};
use crate::cache_key::CacheKey;
use crate::error::Error;
use crate::layer::{LayerDir, Listing, pack};
use crate::snapshot::Snapshot;

/// The layer of one step.
pub(super) struct StepLayer {
    record: Record,
    /// The keys under which the record is kept.
    keys: Vec<CacheKey>,
    cached: bool,
    directory: OnceCell<Shared<Arc<LayerDir>>>,
    packed: OnceCell<Shared<Packed>>,
}

impl StepLayer {
    /// A layer that the cache has.
    pub(super) fn cached(record: Record) -> Self {
        Self {
            keys: vec![record.key.clone()],
            record,
            cached: true,
            directory: OnceCell::new(),
            packed: OnceCell::new(),
        }
    }

    /// A layer that was made just now, recorded under `keys`.
    pub(super) fn fresh(record: Record, keys: Vec<CacheKey>, directory: Arc<LayerDir>) -> Self {
        Self {
            record,
            keys,
            cached: false,
            directory: OnceCell::new_with(Some(Ok(directory))),
            packed: OnceCell::new(),
        }
    }

    /// Whether the cache had it.
    pub(super) fn was_cached(&self) -> bool {
        self.cached
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
            let record = self.record.clone();
            let (engine, below) = (engine.clone(), below.clone());
            let layer = blocking(move || match (&record.layer, &record.packed) {
                (Some(name), _) => LayerDir::open(engine.cache.layer(name)).map_err(Error::Pack),
                (None, Some(packed)) => unpack_cached(&engine.cache, packed, &below, engine.owners)
                    .map_err(|error| Error::Cache(record.instruction.clone(), Box::new(error))),
                (None, None) => unreachable!("a record names a layer or a blob"),
            });
            Ok(Arc::new(layer.await??))
        };
        self.directory.get_or_init(open).await.clone()
    }

    /// What the layer looks like, where it is a blob and nobody has unpacked it.
    pub(super) async fn listing(&self, engine: &Arc<Engine>) -> Option<Arc<Listing>> {
        let packed = match &self.record {
            Record {
                layer: None,
                packed: Some(packed),
                ..
            } if !self.directory.initialized() => packed.clone(),
            _ => return None,
        };
        let cache = engine.cache.clone();
        // One that cannot be listed is unpacked, which tells what is wrong with it.
        blocking(move || list_cached(&cache, &packed).ok())
            .await
            .ok()?
    }

    /// The layer as a blob.
    pub(super) async fn packed(&self, engine: &Arc<Engine>) -> Shared<Packed> {
        if let Some(packed) = &self.record.packed {
            return Ok(packed.clone());
        }
        let make = || async {
            // A layer of a record without a blob is a directory, which needs nothing below it.
            let directory = self.directory(engine, &Snapshot::empty()).await?;
            let (engine, keys, record) = (engine.clone(), self.keys.clone(), self.record.clone());
            let packed = blocking(move || {
                let layer =
                    pack(&directory, &engine.pack, &engine.cache.blobs()).map_err(Error::Pack)?;
                let packed = Packed {
                    diff_id: layer.diff_id,
                    descriptor: layer.descriptor,
                };
                let keys: Vec<_> = keys.iter().collect();
                let mut record = record;
                record.packed = Some(packed.clone());
                let recorded = engine.cache.record(&keys, &record);
                recorded.map_err(Error::io("writing a cache record"))?;
                Ok::<_, Error>(packed)
            });
            Ok(packed.await??)
        };
        self.packed.get_or_init(make).await.clone()
    }
}
