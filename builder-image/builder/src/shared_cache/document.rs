//! The document of a cache: which steps it has, by which keys they are found, and which layers they left. Pure. It is the
//! configuration of an OCI manifest whose layers are those layers, so that any registry keeps them as long as the cache.

use std::collections::{BTreeMap, HashMap};

use oci::{Descriptor, DiffId, Manifest, MediaType};
use serde::{Deserialize, Serialize};

use crate::cache::{Packed, Record};
use crate::cache_key::CacheKey;
use crate::cause::Trail;
use crate::layer::Compression;

/// The media type of the document.
pub(super) const MEDIA_TYPE: &str = "application/vnd.coopery.cache.config.v1+json";

/// Changes whenever documents are no longer read as they were written.
const VERSION: u32 = 1;

/// The largest document that is read, in bytes.
pub const MAX_DOCUMENT: u64 = 16 << 20;

/// How many trails of one instruction a document has.
const TRAILS: usize = 4;

/// The longest instruction that is read, in bytes.
const MAX_INSTRUCTION: usize = 64 << 10;

/// What a cache has.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct CacheDocument {
    version: u32,
    layers: Vec<StoredLayer>,
    records: Vec<StoredRecord>,
    /// What the inputs of instructions were, to explain misses.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    trails: BTreeMap<String, Vec<Trail>>,
}

/// A layer, once for all records that name it.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
struct StoredLayer {
    diff_id: DiffId,
    blob: Descriptor,
    /// How the blob was compressed: [`Compression`]'s text.
    compression: String,
}

/// What a step left.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
struct StoredRecord {
    /// The key by content, and the others under which the step is found.
    keys: Vec<CacheKey>,
    /// Position of its layer.
    layer: usize,
    created: String,
    instruction: String,
}

/// Why a document cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum DamagedDocument {
    /// It is no such document.
    #[error("it cannot be read as a cache: {0}")]
    Json(#[from] serde_json::Error),
    /// It is of another version of the engine.
    #[error("it is of version {0}, and this engine reads version {VERSION}")]
    Version(u32),
    /// It contradicts itself.
    #[error("it is damaged: {0}")]
    Content(&'static str),
    /// It is larger than any that is read.
    #[error("it is larger than {MAX_DOCUMENT} bytes: export less, with mode=min")]
    TooLarge,
}

/// A step to be written.
#[derive(Clone, Debug)]
pub(super) struct Entry {
    pub(super) keys: Vec<CacheKey>,
    pub(super) packed: Packed,
    pub(super) compression: Compression,
    pub(super) created: String,
    pub(super) instruction: String,
    pub(super) trails: Vec<Trail>,
}

impl CacheDocument {
    /// The document of these steps.
    pub(super) fn new(entries: &[Entry]) -> Self {
        let mut document = Self {
            version: VERSION,
            layers: Vec::new(),
            records: Vec::new(),
            trails: BTreeMap::new(),
        };
        let mut known = HashMap::new();
        for entry in entries {
            let layers = &mut document.layers;
            let digest = &entry.packed.descriptor.digest;
            let layer = *known.entry(digest).or_insert_with(|| {
                layers.push(StoredLayer {
                    diff_id: entry.packed.diff_id.clone(),
                    blob: entry.packed.descriptor.clone(),
                    compression: entry.compression.to_string(),
                });
                layers.len() - 1
            });
            document.records.push(StoredRecord {
                keys: entry.keys.clone(),
                layer,
                created: entry.created.clone(),
                instruction: entry.instruction.clone(),
            });
            let trails = document.trails.entry(entry.instruction.clone());
            let trails = trails.or_default();
            for trail in &entry.trails {
                if trails.len() < TRAILS && !trails.contains(trail) {
                    trails.push(trail.clone());
                }
            }
        }
        document.trails.retain(|_, trails| !trails.is_empty());
        document
    }

    /// The bytes of the document. Without what explains misses where it would be too large with it.
    pub(super) fn to_json(&self) -> Result<Vec<u8>, DamagedDocument> {
        let json = serde_json::to_vec(self)?;
        if json.len() as u64 <= MAX_DOCUMENT {
            return Ok(json);
        }
        let bare = Self {
            trails: BTreeMap::new(),
            ..self.clone()
        };
        let json = serde_json::to_vec(&bare)?;
        if json.len() as u64 <= MAX_DOCUMENT {
            Ok(json)
        } else {
            Err(DamagedDocument::TooLarge)
        }
    }

    /// Reads a document that anybody may have written.
    pub(super) fn parse(json: &[u8]) -> Result<Self, DamagedDocument> {
        #[derive(Deserialize)]
        struct Versioned {
            version: u32,
        }
        if json.len() as u64 > MAX_DOCUMENT {
            return Err(DamagedDocument::TooLarge);
        }
        let Versioned { version } = serde_json::from_slice(json)?;
        if version != VERSION {
            return Err(DamagedDocument::Version(version));
        }
        let document: Self = serde_json::from_slice(json)?;
        document.check().map_err(DamagedDocument::Content)?;
        Ok(document)
    }

    fn check(&self) -> Result<(), &'static str> {
        if !self.layers.iter().all(|l| l.blob.media_type.is_layer()) {
            return Err("a layer of it has the media type of something else");
        }
        for record in &self.records {
            if record.layer >= self.layers.len() {
                return Err("a record names a layer that is not there");
            }
            if record.keys.is_empty() {
                return Err("a record has no key");
            }
            if record.instruction.len() > MAX_INSTRUCTION {
                return Err("an instruction is too long");
            }
            if record.created.parse::<jiff::Timestamp>().is_err() {
                return Err("a record has no time");
            }
        }
        Ok(())
    }

    /// The manifest that holds the layers; `config` is the document's own descriptor.
    pub(super) fn manifest(&self, config: Descriptor) -> Manifest {
        let layers = self.layers.iter().map(|layer| layer.blob.clone());
        Manifest::new(config, layers.collect())
    }

    /// The descriptor of the document.
    pub(super) fn descriptor(json: &[u8]) -> Descriptor {
        Descriptor::of(MediaType::from(MEDIA_TYPE), json)
    }

    /// The records by all of their keys, with the compression of their layers. What this engine cannot have packed is left out.
    pub(super) fn records(&self) -> Vec<(Vec<CacheKey>, Record, Compression)> {
        let records = self.records.iter().filter_map(|stored| {
            let layer = &self.layers[stored.layer];
            let compression = layer.compression.parse().ok()?;
            let key = stored.keys.first()?.clone();
            let mut record = Record::new(key, stored.created.clone(), stored.instruction.clone());
            let blob = &layer.blob;
            record.packed = Some(Packed {
                diff_id: layer.diff_id.clone(),
                descriptor: Descriptor::new(
                    blob.media_type.clone(),
                    blob.digest.clone(),
                    blob.size,
                ),
            });
            Some((stored.keys.clone(), record, compression))
        });
        records.collect()
    }

    /// The trails, by instruction.
    pub(super) fn into_trails(self) -> BTreeMap<String, Vec<Trail>> {
        self.trails
    }
}

#[cfg(test)]
mod tests {
    use oci::{ChainId, Digest};

    use super::*;

    fn key(name: &str) -> CacheKey {
        CacheKey::base(Some(&ChainId(Digest::of(name.as_bytes()))))
    }

    fn entry(name: &str, layer: &str) -> Entry {
        let mut trail = Trail::default();
        trail.note("args", name);
        Entry {
            keys: vec![key(name), key(&format!("{name} by source"))],
            packed: Packed {
                diff_id: DiffId(Digest::of(layer.as_bytes())),
                descriptor: Descriptor::of(MediaType::OciLayerGzip, layer.as_bytes()),
            },
            compression: Compression::default(),
            created: "2026-01-01T00:00:00Z".into(),
            instruction: format!("RUN {name}"),
            trails: vec![trail.clone(), trail],
        }
    }

    #[test]
    fn what_is_written_is_read() {
        let document = CacheDocument::new(&[entry("a", "x"), entry("b", "y"), entry("c", "x")]);
        let json = document.to_json().unwrap();
        let read = CacheDocument::parse(&json).unwrap();
        assert_eq!(read, document);
        let manifest = read.manifest(CacheDocument::descriptor(&json));
        assert_eq!(manifest.layers.len(), 2);
        let records = read.records();
        assert_eq!(records.len(), 3);
        let (keys, record, compression) = &records[2];
        assert_eq!((keys.len(), &record.key), (2, &key("c")));
        assert_eq!(*compression, Compression::default());
        assert_eq!(record.packed, Some(entry("c", "x").packed));
        assert_eq!(read.into_trails()["RUN a"].len(), 1);
    }

    #[test]
    fn what_makes_no_sense_is_refused() {
        let json = |change: &dyn Fn(&mut serde_json::Value)| {
            let document = CacheDocument::new(&[entry("a", "x")]);
            let mut json = serde_json::to_value(document).unwrap();
            change(&mut json);
            CacheDocument::parse(json.to_string().as_bytes())
        };
        assert!(json(&|_| {}).is_ok());
        for (change, message) in [
            (
                (&|json: &mut serde_json::Value| json["version"] = 2.into())
                    as &dyn Fn(&mut serde_json::Value),
                "of version 2",
            ),
            (&|json| json["records"][0]["layer"] = 1.into(), "not there"),
            (&|json| json["records"][0]["keys"] = [0; 0].into(), "no key"),
            (
                &|json| json["records"][0]["created"] = "x".into(),
                "no time",
            ),
            (
                &|json| json["records"][0]["keys"][0] = "sha256:../../x".into(),
                "cannot be read",
            ),
            (
                &|json| json["layers"][0]["blob"]["mediaType"] = "text/plain".into(),
                "media type",
            ),
            (
                &|json| json["records"][0]["instruction"] = "x".repeat(70_000).into(),
                "too long",
            ),
        ] {
            let error = json(change).unwrap_err().to_string();
            assert!(error.contains(message), "{message}: {error}");
        }
        assert!(CacheDocument::parse(b"{\"version\":1").is_err());
        // A compression that this engine does not know is not one that it could have packed.
        let unknown = json(&|json| json["layers"][0]["compression"] = "xz-9".into()).unwrap();
        assert!(unknown.records().is_empty());
    }

    #[test]
    fn a_large_document_loses_what_explains_misses() {
        let mut entry = entry("a", "x");
        entry.trails[0].note(&"x".repeat(17 << 20), "y");
        let json = CacheDocument::new(&[entry.clone()]).to_json().unwrap();
        assert!(
            CacheDocument::parse(&json)
                .unwrap()
                .into_trails()
                .is_empty()
        );
        entry.instruction = "x".repeat(17 << 20);
        assert!(CacheDocument::new(&[entry]).to_json().is_err());
    }
}
