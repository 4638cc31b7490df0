//! Listings of layers: what a base image looks like, for steps that never read its files. A layer whose listing is known
//! is not fetched; any other is streamed once, verified, and nothing of it is kept but the listing:
//! `<root>/listings/<diff id>`, which may be removed at any time.

use std::io::Write;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::SystemTime;

use futures::{StreamExt, TryStreamExt};
use oci::DiffId;
use tokio::sync::mpsc;

use super::fetch::{Keep, PARALLEL, PIPE, Pipe, Verified, blocking};
use super::pick::read_layer;
use super::{Base, Bases};
use crate::cache::{Cache, Packed};
use crate::error::BaseError;
use crate::layer::Listing;
use crate::snapshot::Snapshot;
use crate::wanted::{Guess, Wanted};

/// How much all listings may take on disk, in bytes; beyond it, those go that were used least lately.
const MAX_BYTES: u64 = 512 << 20;

impl Bases {
    /// What a base image looks like, without the contents of its files; but of layers that are fetched for it, those are kept
    /// that are guessed to be needed.
    ///
    /// # Errors
    /// When a layer cannot be fetched or is not what the image says. A layer that is too large to be listed is
    /// [`BaseError::Unpack`]; it may well be unpacked.
    pub async fn listing(
        &self,
        base: &Base,
        guesses: &Arc<[Guess]>,
    ) -> Result<Snapshot, BaseError> {
        let alone = self.alone(base).await;
        if self.is_unpacked(base) {
            drop(alone);
            return self.snapshot(base).await;
        }
        let listings: Vec<Arc<Listing>> = futures::stream::iter(0..base.layers.len())
            .map(|position| self.list_layer(base, position, guesses))
            .buffered(PARALLEL)
            .try_collect()
            .await?;
        Ok(listings
            .into_iter()
            .fold(Snapshot::empty(), |below, listing| {
                below.with_listing(listing)
            }))
    }

    /// Whether all layers of a base are unpacked already.
    pub fn is_unpacked(&self, base: &Base) -> bool {
        base.chains.iter().all(|chain| {
            let name = Cache::layer_name(chain.0.hex(), self.owners);
            self.cache.has_layer(&name)
        })
    }

    /// Whether the listings of all layers of a base are there, or what they can be made of.
    pub fn is_listed(&self, base: &Base) -> bool {
        let store = Listings::of(&self.cache);
        base.layers.iter().all(|layer| {
            store.path(&layer.diff_id).exists() || self.cache.has_blob(&layer.descriptor)
        })
    }

    async fn list_layer(
        &self,
        base: &Base,
        position: usize,
        guesses: &Arc<[Guess]>,
    ) -> Result<Arc<Listing>, BaseError> {
        let layer = base.layers[position].clone();
        let packed = Packed {
            diff_id: layer.diff_id,
            descriptor: layer.descriptor,
        };
        let known = {
            let (cache, packed) = (self.cache.clone(), packed.clone());
            blocking(move || Ok(known_listing(&cache, &packed))).await?
        };
        if let Some(listing) = known {
            return Ok(listing);
        }
        if self.cache.has_blob(&packed.descriptor) {
            let cache = self.cache.clone();
            return blocking(move || list_cached(&cache, &packed)).await;
        }
        let (sender, receiver) = mpsc::channel(PIPE);
        let descriptor = packed.descriptor.clone();
        let fetching = self.stream(base, &descriptor, sender, Keep::Nothing);
        let cache = self.cache.clone();
        let wanted = Wanted {
            guesses: guesses.clone(),
            ..Wanted::default()
        };
        let listing = blocking(move || {
            let (listing, _) = read_layer(&cache, Pipe::new(receiver), &packed, &wanted)?;
            Ok(listing)
        });
        // What the network says comes first: a pipe that broke off is only its consequence.
        let (fetched, listing) = tokio::join!(fetching, listing);
        fetched?;
        listing
    }
}

/// The listing of a layer, where it was made before.
pub(crate) fn known_listing(cache: &Cache, packed: &Packed) -> Option<Arc<Listing>> {
    Listings::of(cache).load(&packed.diff_id).map(Arc::new)
}

/// The listing of a layer whose blob is in the cache.
///
/// # Errors
/// When the blob is damaged or too large to be listed.
pub(crate) fn list_cached(cache: &Cache, packed: &Packed) -> Result<Arc<Listing>, BaseError> {
    if let Some(listing) = known_listing(cache, packed) {
        return Ok(listing);
    }
    let blob = cache.blob(&packed.descriptor.digest);
    let reader = Verified::open(&blob, &packed.descriptor)?;
    Ok(read_layer(cache, reader, packed, &Wanted::default())?.0)
}

/// Keeps the listing of a layer.
pub(super) fn keep_listing(
    cache: &Cache,
    diff_id: &DiffId,
    listing: &Listing,
) -> Result<(), BaseError> {
    Listings::of(cache).keep(diff_id, listing)
}

/// The directory of listings.
#[derive(Clone, Debug)]
struct Listings {
    directory: PathBuf,
    scratch: PathBuf,
}

impl Listings {
    fn of(cache: &Cache) -> Self {
        Self {
            directory: cache.root().join("listings"),
            scratch: cache.tmp(),
        }
    }

    fn path(&self, diff_id: &DiffId) -> PathBuf {
        self.directory.join(diff_id.0.hex())
    }

    /// The listing of a layer; none where it is unknown or damaged.
    fn load(&self, diff_id: &DiffId) -> Option<Listing> {
        let path = self.path(diff_id);
        let listing = Listing::from_bytes(fs_err::read(&path).ok()?).ok()?;
        // Tells what was used lately; nothing depends on it.
        let touched = fs_err::File::options().append(true).open(&path);
        let _ = touched.map(|file| file.file().set_modified(SystemTime::now()));
        Some(listing)
    }

    /// Keeps a listing, and removes others where there are too many.
    fn keep(&self, diff_id: &DiffId, listing: &Listing) -> Result<(), BaseError> {
        let write = || {
            fs_err::create_dir_all(&self.directory)?;
            let mut file = tempfile::Builder::new()
                .prefix("listing-")
                .tempfile_in(&self.scratch)?;
            file.write_all(listing.as_bytes())?;
            // Its checksum tells a listing that a power cut has spoilt, so nothing is flushed.
            file.persist(self.path(diff_id))?;
            prune(&self.directory, MAX_BYTES)
        };
        write().map_err(|source| BaseError::Io {
            doing: "keeping the listing of a layer",
            source,
        })
    }
}

/// Removes files of `directory`, those first that were used least lately, until the rest takes no more than `limit` bytes.
fn prune(directory: &Path, limit: u64) -> std::io::Result<()> {
    let mut files = Vec::new();
    for entry in fs_err::read_dir(directory)? {
        let entry = entry?;
        // Another process may be pruning, too.
        let Ok(metadata) = entry.metadata() else {
            continue;
        };
        files.push((metadata.modified()?, metadata.len(), entry.path()));
    }
    files.sort();
    let mut total: u64 = files.iter().map(|(_, length, _)| length).sum();
    for (_, length, path) in files {
        if total <= limit {
            break;
        }
        let _ = fs_err::remove_file(path);
        total -= length;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[test]
    fn the_listings_that_were_used_least_lately_go_first() {
        let directory = tempfile::tempdir().unwrap();
        for (name, age) in [("old", 30), ("used", 10), ("new", 20)] {
            let path = directory.path().join(name);
            fs_err::write(&path, [0; 100]).unwrap();
            let time = SystemTime::now() - Duration::from_secs(age);
            let file = fs_err::File::options().append(true).open(&path).unwrap();
            file.file().set_modified(time).unwrap();
        }
        prune(directory.path(), 300).unwrap();
        assert_eq!(fs_err::read_dir(directory.path()).unwrap().count(), 3);
        prune(directory.path(), 150).unwrap();
        let left: Vec<_> = fs_err::read_dir(directory.path()).unwrap().collect();
        assert_eq!(left.len(), 1);
        assert!(directory.path().join("used").exists());
    }
}
