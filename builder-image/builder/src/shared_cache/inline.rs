//! The cache in an image's own configuration: which of its layers are the results of which steps. Pure. It has no times
//! and no trails, so that equal builds give equal images, whatever was cached.

use oci::{ImageConfig, Manifest};
use serde::{Deserialize, Serialize};

use super::document::{CacheDocument, DamagedDocument, Entry};
use crate::cache::Packed;
use crate::cache_key::CacheKey;
use crate::layer::Compression;

/// The member of the configuration.
pub(crate) const MEMBER: &str = "coopery.cache.v1";

/// Which layers of an image stand for which steps.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct InlineCache {
    compression: String,
    records: Vec<InlineRecord>,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
struct InlineRecord {
    keys: Vec<CacheKey>,
    /// Position among the layers of the image.
    layer: usize,
}

impl InlineCache {
    /// The cache of an image whose uppermost layers have these keys; `below` layers are under them.
    pub(crate) fn new(compression: Compression, below: usize, keys: Vec<Vec<CacheKey>>) -> Self {
        let records = keys.into_iter().enumerate();
        Self {
            compression: compression.to_string(),
            records: records
                .map(|(position, keys)| InlineRecord {
                    keys,
                    layer: below + position,
                })
                .collect(),
        }
    }

    /// The cache in a configuration, with what else its images tell of their layers. None where there is none.
    pub(super) fn read(
        manifest: &Manifest,
        config: &ImageConfig,
    ) -> Option<Result<CacheDocument, DamagedDocument>> {
        let member = config.other.get(MEMBER)?;
        let read = || {
            let inline: Self = serde_json::from_value(member.clone())?;
            let compression = inline.compression.parse();
            let compression =
                compression.map_err(|()| DamagedDocument::Content("a compression is unknown"))?;
            let mut made = config.history.iter().filter(|entry| !entry.empty_layer);
            let times: Vec<_> = made.by_ref().collect();
            let entries: Option<Vec<Entry>> = inline
                .records
                .into_iter()
                .map(|record| {
                    let history = times.get(record.layer)?;
                    Some(Entry {
                        keys: record.keys,
                        packed: Packed {
                            diff_id: config.rootfs.diff_ids.get(record.layer)?.clone(),
                            descriptor: manifest.layers.get(record.layer)?.clone(),
                        },
                        compression,
                        created: history.created.clone()?,
                        instruction: history.created_by.clone().unwrap_or_default(),
                        trails: Vec::new(),
                    })
                })
                .collect();
            let entries = entries.ok_or(DamagedDocument::Content(
                "a record names a layer that is not there",
            ))?;
            // Through the same checks as a document of its own.
            CacheDocument::parse(&CacheDocument::new(&entries).to_json()?)
        };
        Some(read())
    }
}

/// Whether a manifest is that of an image that BuildKit wrote its cache as.
pub(super) fn is_of_buildkit(config_type: &str) -> bool {
    config_type.starts_with("application/vnd.buildkit.cacheconfig")
}
