//! Layers of a base image on disk: fetched, verified, decompressed and unpacked at the same time, several at once.
//!
//! A layer that is being fetched goes two ways: into a blob's file, for an exporter that may need it, and through a
//! bounded pipe into the unpacker. Neither counts before the digest was seen to be right.

use std::io::{Read, Write};
use std::path::Path;
use std::sync::Arc;

use bytes::{Buf, Bytes};
use futures::{StreamExt, TryStreamExt};
use oci::{Descriptor, DiffId, Digester};
use tokio::sync::mpsc;

use super::{Base, Bases, Origin};
use crate::cache::Cache;
use crate::error::BaseError;
use crate::layer::{LayerDir, Owners};
use crate::snapshot::{Snapshot, settle_implied};
use crate::unpack::{Limits, unpack};

/// How many layers are fetched and unpacked at once.
pub(super) const PARALLEL: usize = 4;

/// Chunks that may wait between the network and the unpacker.
pub(super) const PIPE: usize = 16;

/// How much of a file is read at once.
const CHUNK: usize = 256 * 1024;

/// What becomes of a blob that passes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Keep {
    /// It is put into the cache, for an exporter that may need it.
    Blob,
    /// It is read and forgotten.
    Nothing,
}

/// A layer before it got its place: unpacked anew, or there already.
enum Fetched {
    New(LayerDir, tempfile::TempDir),
    Known(LayerDir),
}

impl Bases {
    /// The files of a base image, fetched where they are not there yet.
    ///
    /// # Errors
    /// When a layer cannot be fetched, is not what the image says, or cannot be unpacked.
    pub async fn snapshot(&self, base: &Base) -> Result<Snapshot, BaseError> {
        let _alone = if self.is_unpacked(base) {
            None
        } else {
            self.alone(base).await
        };
        let fetched: Vec<Fetched> = futures::stream::iter(0..base.layers.len())
            .map(|position| self.fetch(base, position))
            .buffered(PARALLEL)
            .try_collect()
            .await?;
        let cache = self.cache.clone();
        let names: Vec<_> = base
            .chains
            .iter()
            .map(|chain| Cache::layer_name(chain.0.hex(), self.owners))
            .collect();
        let owners = self.owners;
        blocking(move || {
            let mut below = Snapshot::empty();
            for (fetched, name) in fetched.into_iter().zip(names) {
                let layer = place(fetched, &below, &cache, &name, owners)?;
                below = below.with(Arc::new(layer));
            }
            Ok(below)
        })
        .await
    }

    /// Makes sure that the blob of a layer is in the cache.
    ///
    /// # Errors
    /// When it cannot be fetched, or is not what its digest says.
    pub async fn blob(&self, base: &Base, descriptor: &Descriptor) -> Result<(), BaseError> {
        if self.cache.has_blob(descriptor) {
            return Ok(());
        }
        let (sender, mut receiver) = mpsc::channel::<Bytes>(PIPE);
        let drained = async {
            while receiver.recv().await.is_some() {}
            Ok(())
        };
        tokio::try_join!(self.stream(base, descriptor, sender, Keep::Blob), drained)?;
        Ok(())
    }

    /// The file of a blob that [`Self::blob`] has seen to.
    pub fn blob_path(&self, base: &Base, descriptor: &Descriptor) -> std::path::PathBuf {
        match &base.origin {
            Origin::Layout(layout) if !self.cache.has_blob(descriptor) => {
                layout.blob_path(&descriptor.digest)
            }
            _ => self.cache.blob(&descriptor.digest),
        }
    }

    async fn fetch(&self, base: &Base, position: usize) -> Result<Fetched, BaseError> {
        let chain = &base.chains[position];
        let name = Cache::layer_name(chain.0.hex(), self.owners);
        if self.cache.has_layer(&name) {
            return Ok(Fetched::Known(LayerDir::open(self.cache.layer(&name))?));
        }
        let layer = base.layers[position].clone();
        let scratch = self
            .cache
            .scratch("base-")
            .map_err(|source| BaseError::Io {
                doing: "making a directory for a layer",
                source,
            })?;
        let into = scratch.path().join("layer");
        let owners = self.owners;
        let descriptor = layer.descriptor.clone();
        if self.cache.has_blob(&descriptor) {
            let blob = self.cache.blob(&descriptor.digest);
            let layer_dir = blocking(move || {
                let reader = Verified::open(&blob, &descriptor)?;
                unpacked(reader, &descriptor, &layer.diff_id, &into, owners)
            })
            .await?;
            return Ok(Fetched::New(layer_dir, scratch));
        }
        let (sender, receiver) = mpsc::channel(PIPE);
        let keep = if base.keeps_blobs {
            Keep::Blob
        } else {
            Keep::Nothing
        };
        let fetching = self.stream(base, &layer.descriptor, sender, keep);
        let unpacking = blocking(move || {
            let pipe = Pipe::new(receiver);
            unpacked(pipe, &descriptor, &layer.diff_id, &into, owners)
        });
        // What the network says comes first: a pipe that broke off is only its consequence.
        let (fetched, unpacked) = tokio::join!(fetching, unpacking);
        fetched?;
        Ok(Fetched::New(unpacked?, scratch))
    }

    /// Reads a blob from where it is, verified, to `sender`, and into the cache if it shall be kept.
    pub(super) async fn stream(
        &self,
        base: &Base,
        descriptor: &Descriptor,
        sender: mpsc::Sender<Bytes>,
        keep: Keep,
    ) -> Result<(), BaseError> {
        let io = |doing| move |source| BaseError::Io { doing, source };
        match &base.origin {
            Origin::Layout(layout) => {
                // A layout's blobs stay where they are.
                let path = layout.blob_path(&descriptor.digest);
                let descriptor = descriptor.clone();
                blocking(move || {
                    let mut reader = Verified::open(&path, &descriptor)?;
                    let mut buffer = vec![0; CHUNK];
                    loop {
                        let count = reader
                            .read(&mut buffer)
                            .map_err(io("reading a layer of the layout"))?;
                        if count == 0 {
                            return Ok(());
                        }
                        // A receiver that is gone has failed, and tells why itself.
                        if sender
                            .blocking_send(Bytes::copy_from_slice(&buffer[..count]))
                            .is_err()
                        {
                            return Ok(());
                        }
                    }
                })
                .await
            }
            Origin::Registry(repository) => {
                let mut blob = self.client.blob(repository, descriptor).await?;
                let mut file = match keep {
                    Keep::Blob => {
                        let made = self.cache.blob_file();
                        Some(made.map_err(io("making a file for a layer"))?)
                    }
                    Keep::Nothing => None,
                };
                while let Some(bytes) = blob.next().await {
                    let bytes = bytes?;
                    if let Some(file) = &mut file {
                        file.write_all(&bytes).map_err(io("writing a layer"))?;
                    }
                    if sender.send(bytes).await.is_err() {
                        return Ok(());
                    }
                }
                let Some(file) = file else {
                    return Ok(());
                };
                // Flushing a large layer takes its time.
                let (cache, digest) = (self.cache.clone(), descriptor.digest.clone());
                blocking(move || cache.adopt(file, &digest).map_err(io("writing a layer"))).await
            }
        }
    }
}

fn unpacked(
    reader: impl Read + Send,
    descriptor: &Descriptor,
    diff_id: &DiffId,
    into: &Path,
    owners: Owners,
) -> Result<LayerDir, BaseError> {
    let digest = || descriptor.digest.clone();
    let (layer, found) = unpack(
        reader,
        &descriptor.media_type,
        into,
        &Limits::default(),
        owners,
    )
    .map_err(|source| BaseError::Unpack {
        digest: digest(),
        source,
    })?;
    if found == *diff_id {
        Ok(layer)
    } else {
        Err(BaseError::DiffId { digest: digest() })
    }
}

/// Gives an unpacked layer its place, complete in itself: directories that it only implies get what is below them.
fn place(
    fetched: Fetched,
    below: &Snapshot,
    cache: &Cache,
    name: &str,
    owners: Owners,
) -> Result<LayerDir, BaseError> {
    match fetched {
        Fetched::Known(layer) => Ok(layer),
        Fetched::New(layer, scratch) => {
            if owners == Owners::OnDisk {
                settle_implied(&layer, below)?;
            }
            // Another process, or another image with the same layers, may have been faster.
            let layer = cache.place_layer(layer, name)?;
            drop(scratch);
            Ok(layer)
        }
    }
}

/// Whether a step's layer is there as [`unpack_cached`] leaves it.
pub(crate) fn is_unpacked(cache: &Cache, packed: &crate::cache::Packed, owners: Owners) -> bool {
    cache.has_layer(&step_layer_name(packed, owners))
}

fn step_layer_name(packed: &crate::cache::Packed, owners: Owners) -> String {
    Cache::layer_name(&format!("step-{}", packed.diff_id.0.hex()), owners)
}

/// Unpacks the blob of a step's layer that is in the cache.
///
/// # Errors
/// When the blob is damaged or cannot be unpacked.
pub(crate) fn unpack_cached(
    cache: &Cache,
    packed: &crate::cache::Packed,
    below: &Snapshot,
    owners: Owners,
) -> Result<LayerDir, BaseError> {
    let name = step_layer_name(packed, owners);
    if cache.has_layer(&name) {
        return Ok(LayerDir::open(cache.layer(&name))?);
    }
    let scratch = cache.scratch("layer-").map_err(|source| BaseError::Io {
        doing: "making a directory for a layer",
        source,
    })?;
    let reader = Verified::open(&cache.blob(&packed.descriptor.digest), &packed.descriptor)?;
    let into = scratch.path().join("layer");
    let layer = unpacked(reader, &packed.descriptor, &packed.diff_id, &into, owners)?;
    place(Fetched::New(layer, scratch), below, cache, &name, owners)
}

pub(super) async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> Result<T, BaseError> + Send + 'static,
) -> Result<T, BaseError> {
    match tokio::task::spawn_blocking(work).await {
        Ok(result) => result,
        Err(error) => match error.try_into_panic() {
            Ok(panic) => std::panic::resume_unwind(panic),
            Err(_) => Err(BaseError::Malformed("the engine is stopping".into())),
        },
    }
}

/// The reading end of the pipe from the network.
pub(super) struct Pipe {
    receiver: mpsc::Receiver<Bytes>,
    rest: Bytes,
}

impl Pipe {
    pub(super) const fn new(receiver: mpsc::Receiver<Bytes>) -> Self {
        Self {
            receiver,
            rest: Bytes::new(),
        }
    }
}

impl Read for Pipe {
    fn read(&mut self, buffer: &mut [u8]) -> std::io::Result<usize> {
        while self.rest.is_empty() {
            match self.receiver.blocking_recv() {
                Some(bytes) => self.rest = bytes,
                None => return Ok(0),
            }
        }
        let count = buffer.len().min(self.rest.len());
        self.rest.copy_to_slice(&mut buffer[..count]);
        Ok(count)
    }
}

/// A file whose size and digest are checked when its end is reached.
pub(super) struct Verified {
    file: fs_err::File,
    digester: Option<Digester>,
    expected: Descriptor,
}

impl Verified {
    pub(super) fn open(path: &Path, descriptor: &Descriptor) -> Result<Self, BaseError> {
        let file = fs_err::File::open(path).map_err(|source| BaseError::Io {
            doing: "opening a layer",
            source,
        })?;
        Ok(Self {
            file,
            digester: Some(Digester::new(descriptor.digest.algorithm())),
            expected: descriptor.clone(),
        })
    }
}

impl Read for Verified {
    fn read(&mut self, buffer: &mut [u8]) -> std::io::Result<usize> {
        let count = self.file.read(buffer)?;
        if count > 0 {
            if let Some(digester) = &mut self.digester {
                digester.update(&buffer[..count]);
            }
        } else if !buffer.is_empty()
            && let Some(digester) = self.digester.take()
            && digester.finish() != self.expected.digest
        {
            let message = format!("{} is damaged on disk", self.expected.digest);
            return Err(std::io::Error::new(
                std::io::ErrorKind::InvalidData,
                message,
            ));
        }
        Ok(count)
    }
}
