//! All layers of the target that the build made, as one (`--squash`).

use futures::future::try_join_all;

use super::files::Need;
use super::{Shared, Solve, blocking};
use crate::cache::{Packed, Record};
use crate::cache_key::CacheKey;
use crate::error::Error;
use crate::image::Layer;
use crate::layer::{Recipe, squash};
use crate::snapshot::Snapshot;

impl Solve {
    /// The layer that stands for all those of [`Self::target_steps`], which are not none, packed by `recipe`. A hit needs no
    /// file of them.
    ///
    /// # Errors
    /// The first failure of any step, or of packing.
    pub async fn squashed(&self, recipe: Recipe) -> Shared<Layer> {
        let ids = self.target_steps();
        let made = try_join_all(ids.iter().map(|id| self.layer(*id))).await?;
        let times: Vec<_> = made.iter().map(|layer| layer.created()).collect();
        let created = times.last().map(|time| (*time).to_owned());
        let below = self.key_of(self.graph.target.filesystem).await?;
        let key = CacheKey::made_of(&below, &times.join(" "), &format!("squashed, {recipe}"));
        let known = self.engine.cache.lookup(&key, self.engine.owners);
        let packed = match known.and_then(|known| known.packed) {
            Some(packed) => packed,
            None => self.squash_files(ids.len(), recipe, key).await?,
        };
        Ok(Layer {
            diff_id: packed.diff_id,
            descriptor: packed.descriptor,
            created,
        })
    }

    /// Packs the `count` uppermost layers as one.
    async fn squash_files(&self, count: usize, recipe: Recipe, key: CacheKey) -> Shared<Packed> {
        let target = self.graph.target.filesystem;
        let snapshot = self.snapshot(target, Need::Contents).await?;
        let engine = self.engine.clone();
        let made = blocking(move || {
            let mut layers = snapshot
                .directories()
                .expect("with its contents, every layer is a directory");
            let upper = layers.split_off(layers.len() - count);
            let below = Snapshot::new(layers);
            let options = engine.pack.with(recipe);
            let layer = squash(&upper, &below, &options, &engine.cache.blobs());
            let layer = layer.map_err(Error::Pack)?;
            let packed = Packed {
                diff_id: layer.diff_id,
                descriptor: layer.descriptor,
            };
            let mut record = Record::new(key.clone(), String::new(), "--squash".into());
            record.packed = Some(packed.clone());
            let recorded = engine.cache.record(&[&key], &record);
            recorded.map_err(Error::io("writing a cache record"))?;
            Ok::<_, Error>(packed)
        });
        Ok(made.await??)
    }
}
