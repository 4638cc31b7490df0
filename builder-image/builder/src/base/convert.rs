//! Layers of a base image with another compression than the image has them with (`force-compression`). What has the
//! wanted one already, and what only its owner may give out, stays as it is.

use oci::{ChainId, MediaType};

use super::fetch::{Verified, blocking};
use super::{Base, Bases};
use crate::cache::{Packed, Record};
use crate::cache_key::CacheKey;
use crate::error::BaseError;
use crate::image::Layer;
use crate::layer::{Compression, PackOptions, recompress};

impl Bases {
    /// `layer` of `base`, compressed as `options` say: another blob, in the cache, where the compression differs.
    ///
    /// # Errors
    /// When the layer cannot be fetched, or written.
    pub async fn converted(
        &self,
        base: &Base,
        layer: &Layer,
        options: &PackOptions,
    ) -> Result<Layer, BaseError> {
        let media_type = &layer.descriptor.media_type;
        if media_type.is_foreign_layer() || is_compressed_by(media_type, options.compression) {
            return Ok(layer.clone());
        }
        let io = |doing| move |source| BaseError::Io { doing, source };
        let content = CacheKey::base(Some(&ChainId(layer.diff_id.0.clone())));
        let key = CacheKey::made_of(&content, "", &options.recipe().to_string());
        let known = self.cache.lookup(&key, self.owners);
        let packed = if let Some(packed) = known.and_then(|known| known.packed) {
            packed
        } else {
            self.blob(base, &layer.descriptor).await?;
            let path = self.blob_path(base, &layer.descriptor);
            let (cache, options, layer) = (self.cache.clone(), options.clone(), layer.clone());
            blocking(move || {
                let blob = Verified::open(&path, &layer.descriptor)?;
                let made = recompress(blob, &layer.diff_id, &options, &cache.blobs())?;
                let packed = Packed {
                    diff_id: made.diff_id,
                    descriptor: made.descriptor,
                };
                let mut record = Record::new(key.clone(), String::new(), "FROM".into());
                record.packed = Some(packed.clone());
                let recorded = cache.record(&[&key], &record);
                recorded.map_err(io("writing a cache record"))?;
                Ok(packed)
            })
            .await?
        };
        Ok(Layer {
            diff_id: packed.diff_id,
            descriptor: packed.descriptor,
            created: None,
        })
    }
}

fn is_compressed_by(media_type: &MediaType, compression: Compression) -> bool {
    let name = media_type.as_str();
    let suffix = match compression {
        Compression::Gzip { .. } => "gzip",
        Compression::Zstd { .. } => "zstd",
        Compression::None => ".tar",
    };
    name.ends_with(suffix)
}
