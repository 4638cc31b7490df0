//! Contents of single files out of the layers of images, for a COPY from an image that nobody runs on: a layer is streamed,
//! verified as when it is unpacked, and only what is wanted of it stays, as a layer of the cache: `pick-<diff id>-…`.

use std::collections::BTreeSet;
use std::io::Read;
use std::sync::Arc;

use oci::{DiffId, Digester};
use tokio::sync::mpsc;

use super::fetch::{Keep, PIPE, Pipe, Verified, blocking};
use super::listing::keep_listing;
use super::{Base, Bases};
use crate::cache::{Cache, Packed};
use crate::error::BaseError;
use crate::layer::{Listing, Owners, Picked, Picking};
use crate::tree::ImagePath;
use crate::unpack::{Limits, list_and_pick};
use crate::wanted::Wanted;

impl Bases {
    /// Contents of files of one layer of a base, which looks like `listing`: all of `wanted.paths`, and what is guessed as
    /// well where the layer has to be fetched, which `begin` is told then.
    ///
    /// # Errors
    /// When the layer cannot be fetched, or is not what the image says.
    pub async fn pick(
        &self,
        base: &Base,
        position: usize,
        listing: &Arc<Listing>,
        wanted: &Wanted,
        begin: impl FnOnce() + Send,
    ) -> Result<Vec<Arc<Picked>>, BaseError> {
        let _alone = self.alone(base).await;
        let layer = &base.layers[position];
        let packed = Packed {
            diff_id: layer.diff_id.clone(),
            descriptor: layer.descriptor.clone(),
        };
        let known = {
            let (cache, packed) = (self.cache.clone(), packed.clone());
            let (listing, wanted) = (listing.clone(), wanted.clone());
            blocking(move || known_or_cached(&cache, &packed, &listing, &wanted))
        };
        if let Some(known) = known.await? {
            return Ok(known);
        }
        begin();
        let (sender, receiver) = mpsc::channel(PIPE);
        let fetching = self.stream(base, &layer.descriptor, sender, Keep::Nothing);
        let (cache, wanted) = (self.cache.clone(), wanted.clone());
        let picking = blocking(move || read_layer(&cache, Pipe::new(receiver), &packed, &wanted));
        // What the network says comes first: a pipe that broke off is only its consequence.
        let (fetched, picked) = tokio::join!(fetching, picking);
        fetched?;
        Ok(picked?.1.into_iter().collect())
    }
}

/// Contents of files of a layer whose blob is in the cache; nothing where neither they nor the blob are there.
///
/// # Errors
/// When the blob is damaged.
pub(crate) fn known_or_cached(
    cache: &Cache,
    packed: &Packed,
    listing: &Listing,
    wanted: &Wanted,
) -> Result<Option<Vec<Arc<Picked>>>, BaseError> {
    if let Some(known) = find(cache, &packed.diff_id, listing, &wanted.paths) {
        return Ok(Some(known));
    }
    if !cache.has_blob(&packed.descriptor) {
        return Ok(None);
    }
    let reader = Verified::open(&cache.blob(&packed.descriptor.digest), &packed.descriptor)?;
    let (_, picked) = read_layer(cache, reader, packed, wanted)?;
    Ok(Some(picked.into_iter().collect()))
}

/// What the layer in `reader` looks like, and the contents that are wanted of it, if it has any. Both are kept once the whole
/// was seen to be what the image says.
pub(super) fn read_layer(
    cache: &Cache,
    reader: impl Read + Send,
    packed: &Packed,
    wanted: &Wanted,
) -> Result<(Arc<Listing>, Option<Arc<Picked>>), BaseError> {
    let Packed {
        diff_id,
        descriptor,
    } = packed;
    let digest = || descriptor.digest.clone();
    let io = |source| BaseError::Io {
        doing: "keeping files of a layer",
        source,
    };
    let scratch = (!wanted.is_empty())
        .then(|| cache.scratch("pick-"))
        .transpose();
    let scratch = scratch.map_err(io)?;
    let picking = scratch
        .as_ref()
        .map(|scratch| Picking::new(wanted.clone(), &scratch.path().join("layer")));
    let picking = picking.transpose().map_err(io)?;
    let limits = Limits::default();
    let (listing, picked, found) = list_and_pick(reader, &descriptor.media_type, &limits, picking)
        .map_err(|source| BaseError::Unpack {
            digest: digest(),
            source,
        })?;
    if found != *diff_id {
        return Err(BaseError::DiffId { digest: digest() });
    }
    keep_listing(cache, diff_id, &listing)?;
    let picked = picked.map(|picked| place(cache, diff_id, &listing, picked));
    Ok((Arc::new(listing), picked.transpose()?))
}

/// How the names of all layers of the cache begin that hold files of the layer `diff_id`.
fn prefix(diff_id: &DiffId, listing: &Listing) -> String {
    format!("pick-{}-{:08x}-", diff_id.0.hex(), listing.checksum())
}

/// Gives contents their place. Another one with the same files may be there already.
fn place(
    cache: &Cache,
    diff_id: &DiffId,
    listing: &Listing,
    picked: Picked,
) -> Result<Arc<Picked>, BaseError> {
    let names = || -> std::io::Result<BTreeSet<_>> {
        let entries = fs_err::read_dir(&picked.directory)?;
        entries.map(|entry| Ok(entry?.file_name())).collect()
    };
    let names = names().map_err(|source| BaseError::Io {
        doing: "keeping files of a layer",
        source,
    })?;
    let mut digester = Digester::sha256();
    for name in &names {
        digester.update(name.as_encoded_bytes());
        digester.update(b"\n");
    }
    let digest = digester.finish();
    // What owners files have is in the listing alone.
    let stem = format!("{}{}", prefix(diff_id, listing), &digest.hex()[..16]);
    let name = Cache::layer_name(&stem, Owners::OnDisk);
    let placed = cache.place_layer(picked.into_layer(), &name)?;
    Ok(Arc::new(Picked::of_layer(placed)))
}

/// The contents of all `paths`, where they were kept before.
fn find(
    cache: &Cache,
    diff_id: &DiffId,
    listing: &Listing,
    paths: &BTreeSet<ImagePath>,
) -> Option<Vec<Arc<Picked>>> {
    let mut lacking: Vec<&ImagePath> = paths.iter().collect();
    let mut found = Vec::new();
    for name in cache.layers_named(&prefix(diff_id, listing)) {
        let picked = Picked {
            directory: cache.layer(&name),
        };
        let rest: Vec<_> = (lacking.iter().copied())
            .filter(|path| !picked.has(listing, path))
            .collect();
        // Only what is of use is used.
        if rest.len() < lacking.len() && cache.has_layer(&name) {
            lacking = rest;
            found.push(Arc::new(picked));
        }
    }
    lacking.is_empty().then_some(found)
}
