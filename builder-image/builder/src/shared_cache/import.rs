//! The caches that a build reads: what they know of steps, and where their blobs are. A cache that cannot be read, or that
//! promises what it does not have, is told of and left aside: it never makes a build fail.

use std::collections::{BTreeMap, HashMap};
use std::sync::{Arc, Mutex, PoisonError, RwLock};

use oci::{Descriptor, Digest};
use store::Layout;

use super::document::CacheDocument;
use super::read::{ReadError, of_layout, of_registry};
use super::{CacheSource, Origin};
use crate::cache::{Cache, Record};
use crate::cache_key::CacheKey;
use crate::cause::Trail;
use crate::error::{BaseError, chain};
use crate::layer::{Compression, Owners, Recipe};
use crate::progress::Progress;

/// The caches that a build reads.
#[derive(Debug, Default)]
pub struct Imports {
    sources: Vec<CacheSource>,
    /// What was read, in the order of the sources.
    caches: RwLock<Vec<Arc<Import>>>,
    /// The blobs that answers have named, with the cache that has them.
    named: Mutex<HashMap<Digest, Arc<Import>>>,
    /// The blobs that are fetched, each by one at a time.
    flights: Mutex<HashMap<Digest, Arc<tokio::sync::Mutex<()>>>>,
    /// Names of caches that turned out to be damaged.
    broken: Mutex<Vec<String>>,
}

/// One cache that was read.
#[derive(Debug)]
struct Import {
    name: String,
    origin: Origin,
    records: HashMap<CacheKey, (Record, Compression)>,
    trails: BTreeMap<String, Vec<Trail>>,
}

impl Import {
    fn new(name: String, origin: Origin, documents: Vec<CacheDocument>) -> Self {
        let mut import = Self {
            name,
            origin,
            records: HashMap::new(),
            trails: BTreeMap::new(),
        };
        for document in documents {
            for (keys, record, compression) in document.records() {
                for key in keys {
                    let found = (record.clone(), compression);
                    import.records.entry(key).or_insert(found);
                }
            }
            for (instruction, trails) in document.into_trails() {
                import.trails.entry(instruction).or_default().extend(trails);
            }
        }
        import
    }

    fn lookup(&self, key: &CacheKey) -> Option<Record> {
        match &self.origin {
            Origin::Store(cache) => {
                let mut record = cache.lookup(key, Owners::OnDisk)?;
                record.layer = None;
                record.packed.is_some().then_some(record)
            }
            Origin::Registry(_) | Origin::Layout(_) => {
                self.records.get(key).map(|(record, _)| record.clone())
            }
        }
    }
}

impl Imports {
    /// Caches that are still to be read; the first that knows a step wins.
    pub fn new(sources: Vec<CacheSource>) -> Self {
        Self {
            sources,
            ..Self::default()
        }
    }

    /// Reads the caches, all at the same time. What cannot be read is told.
    pub async fn read(&self, client: &distribution::Client, progress: &Progress) {
        let reads = self.sources.iter().map(|source| async move {
            let name = source.to_string();
            let vertex = progress.start(format!("importing cache manifest from {name}"));
            match read(client, source).await {
                Ok((origin, documents)) => {
                    vertex.done();
                    Some(Arc::new(Import::new(name, origin, documents)))
                }
                Err(error) => {
                    let told = format!("the cache {name} is left aside: {}", chain(&error));
                    vertex.output(told.as_bytes());
                    vertex.done();
                    tracing::warn!("{told}");
                    None
                }
            }
        });
        let read = futures::future::join_all(reads).await;
        let mut caches = self.caches.write().unwrap_or_else(PoisonError::into_inner);
        *caches = read.into_iter().flatten().collect();
    }

    /// What the first cache that knows a step has of it.
    pub(crate) fn lookup(&self, key: &CacheKey) -> Option<Record> {
        let caches = self.caches.read().unwrap_or_else(PoisonError::into_inner);
        let found = caches
            .iter()
            .find_map(|cache| Some((cache, cache.lookup(key)?)));
        let (cache, record) = found?;
        if let Some(packed) = &record.packed {
            let mut named = self.named.lock().unwrap_or_else(PoisonError::into_inner);
            let digest = packed.descriptor.digest.clone();
            named.entry(digest).or_insert_with(|| cache.clone());
        }
        Some(record)
    }

    /// What the inputs of an instruction were when the caches were written.
    pub(crate) fn trails(&self, instruction: &str) -> Vec<Trail> {
        let caches = self.caches.read().unwrap_or_else(PoisonError::into_inner);
        let known = caches.iter().flat_map(|cache| match &cache.origin {
            Origin::Store(store) => store.trails(instruction),
            _ => cache.trails.get(instruction).cloned().unwrap_or_default(),
        });
        known.collect()
    }

    fn named(&self, digest: &Digest) -> Option<Arc<Import>> {
        let named = self.named.lock().unwrap_or_else(PoisonError::into_inner);
        named.get(digest).cloned()
    }

    /// Where a blob is that an answer has named.
    pub(crate) fn origin(&self, digest: &Digest) -> Option<Origin> {
        Some(self.named(digest)?.origin.clone())
    }

    /// How the blob of an answer was packed, where that is not as `usual`.
    pub(crate) fn recipe(&self, digest: &Digest, usual: Recipe) -> Recipe {
        let packed = self.named(digest).and_then(|import| {
            let mut all = import.records.values();
            let is_it = |record: &Record| {
                let packed = record.packed.as_ref();
                packed.is_some_and(|packed| packed.descriptor.digest == *digest)
            };
            let found = all.find(|(record, _)| is_it(record));
            found.map(|(_, compression)| *compression)
        });
        packed.map_or(usual, |compression| Recipe {
            compression,
            clamp_mtime: None,
        })
    }

    /// Brings the blob of an answer into `cache`, unless it is there.
    ///
    /// # Errors
    /// When it cannot be had, or is not what its digest says. The cache that promised it is damaged then.
    pub(crate) async fn fetch(
        &self,
        client: &distribution::Client,
        cache: &Cache,
        descriptor: &Descriptor,
    ) -> Result<(), BaseError> {
        let Some(import) = self.named(&descriptor.digest) else {
            return Ok(());
        };
        let flight = {
            let mut flights = self.flights.lock().unwrap_or_else(PoisonError::into_inner);
            let flight = flights.entry(descriptor.digest.clone());
            flight.or_default().clone()
        };
        let _alone = flight.lock().await;
        if cache.has_blob(descriptor) {
            return Ok(());
        }
        let fetched = import.origin.fetch(client, cache, descriptor).await;
        fetched.inspect_err(|error| self.blame(&descriptor.digest, error))
    }

    /// Notes that the layer of an answer cannot be used.
    pub(crate) fn blame(&self, digest: &Digest, error: &(dyn std::error::Error + 'static)) {
        if let Some(import) = self.named(digest) {
            let told = chain(error);
            tracing::warn!("the cache {} is left aside: {told}", import.name);
            let mut broken = self.broken.lock().unwrap_or_else(PoisonError::into_inner);
            broken.push(import.name.clone());
        }
    }

    /// Forgets the caches that turned out to be damaged; whether there was one. Who gets an error may then do without them.
    pub(crate) fn drop_broken(&self) -> bool {
        let broken = {
            let mut broken = self.broken.lock().unwrap_or_else(PoisonError::into_inner);
            std::mem::take(&mut *broken)
        };
        let is_broken = |cache: &Arc<Import>| broken.contains(&cache.name);
        let mut caches = self.caches.write().unwrap_or_else(PoisonError::into_inner);
        let before = caches.len();
        caches.retain(|cache| !is_broken(cache));
        let mut named = self.named.lock().unwrap_or_else(PoisonError::into_inner);
        named.retain(|_, cache| !is_broken(cache));
        caches.len() < before
    }
}

async fn read(
    client: &distribution::Client,
    source: &CacheSource,
) -> Result<(Origin, Vec<CacheDocument>), ReadError> {
    match source {
        CacheSource::Registry(reference) => of_registry(client, reference).await,
        CacheSource::Store(cache) => Ok((Origin::Store(cache.clone()), Vec::new())),
        CacheSource::Directory { path, wanted } => {
            if !path.exists() {
                return Err(ReadError::Absent);
            }
            let (layout, wanted) = (Layout::open(path)?, wanted.clone());
            let read = tokio::task::spawn_blocking(move || of_layout(layout, &wanted));
            read.await
                .unwrap_or(Err(ReadError::Other("reading it broke off")))
        }
    }
}
