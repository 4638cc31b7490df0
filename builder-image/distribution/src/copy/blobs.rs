//! Blobs on their way from source to destination: each is fetched once in a run, however many images want it, a bounded
//! number at the same time, and its bytes go out while they come in. Large ones are read in parts and sent in chunks.

use std::{
    collections::HashMap,
    sync::{Arc, Mutex, PoisonError},
};

use futures::{FutureExt, StreamExt};
use oci::{Descriptor, Digest, Repository};
use tokio::{
    sync::{OwnedMutexGuard, Semaphore},
    task::JoinHandle,
};

use super::known::{Known, Offer};
use super::pace::Pace;
use super::{CopyOptions, LargeBlobs};
use crate::{BlobReader, ChunkedPush, Client, Content, Pushed, Result};

/// The blobs of a run.
pub(super) struct Blobs {
    source: Client,
    destination: Client,
    /// What is known of the destination.
    pub(super) known: Mutex<Known>,
    flights: Mutex<HashMap<Digest, Arc<tokio::sync::Mutex<()>>>>,
    permits: Semaphore,
    large: LargeBlobs,
    /// Large blobs that may be read in parts, which are held in memory.
    in_parts: Arc<Semaphore>,
    pace: Option<Arc<Pace>>,
}

/// A request that is of no use to anybody once this is dropped.
struct Ahead(JoinHandle<Result<Content>>);

impl Drop for Ahead {
    fn drop(&mut self) {
        self.0.abort();
    }
}

impl Blobs {
    /// Blobs from `source` to `destination`, as many at the same time and as fast as `options` say.
    pub(super) fn new(source: Client, destination: Client, options: &CopyOptions) -> Self {
        Self {
            source,
            destination,
            known: Mutex::default(),
            flights: Mutex::default(),
            permits: Semaphore::new(options.blobs.max(1)),
            large: options.large,
            in_parts: Arc::new(Semaphore::new(options.large.at_once)),
            pace: options
                .bytes_per_second
                .map(|rate| Arc::new(Pace::new(rate))),
        }
    }

    /// What is known, for a moment.
    pub(super) fn with_known<R>(&self, action: impl FnOnce(&mut Known) -> R) -> R {
        action(&mut self.known.lock().unwrap_or_else(PoisonError::into_inner))
    }

    /// Brings `blob` of `from` to `to`; `None` where this run has done so before. `fresh`: a blob of which nothing is known
    /// will have to be sent.
    pub(super) async fn bring(
        &self,
        blob: &Descriptor,
        from: &Repository,
        to: &Repository,
        fresh: bool,
    ) -> Result<Option<Pushed>> {
        // Whoever comes second finds that it is there, or mounts it from where the first has put it.
        let _flight = self.flight(&blob.digest).await;
        let offer = self.with_known(|known| known.offer(&blob.digest, from, to));
        let mount_from = match &offer {
            Offer::Present => return Ok(None),
            Offer::Mount(other) => Some(other),
            Offer::Ask | Offer::Send => None,
        };
        let _permit = self.permits.acquire().await.expect("nobody closes it");
        // Where there is no upload to open, there is nothing to do meanwhile.
        let fresh = fresh && self.destination.local(to.host()).is_none();
        let ahead = (fresh && offer == Offer::Send).then(|| self.ask_ahead(blob, from));
        let ahead = Mutex::new(ahead);
        let open = |offset| {
            let ahead = ahead.lock().unwrap_or_else(PoisonError::into_inner).take();
            let read = self.reading(blob, from, offset);
            async move {
                let content = match ahead.filter(|_| offset == 0) {
                    Some(mut ahead) => match (&mut ahead.0).await {
                        Ok(content) => content,
                        // It panicked, which the second try will show.
                        Err(_) => read.open().await,
                    },
                    None => read.open().await,
                };
                content.map(|content| match &self.pace {
                    Some(pace) => pace.limit(content),
                    None => content,
                })
            }
            .boxed()
        };
        let options = ChunkedPush {
            from: mount_from,
            chunk: self.large.chunk,
            ..ChunkedPush::default()
        };
        let pushed = self
            .destination
            .push_blob_in_chunks(to, blob, options, open)
            .await;
        self.with_known(|known| match (&pushed, mount_from) {
            (Ok(Pushed::Mounted), _) => known.arrived(&blob.digest, to),
            (Ok(Pushed::Uploaded), other) => {
                if let Some(other) = other {
                    known.refused(&blob.digest, other);
                }
                known.arrived(&blob.digest, to);
            }
            (Err(_), _) => {}
        });
        pushed.map(Some)
    }

    /// Asks the source for a blob while the destination opens the upload.
    fn ask_ahead(&self, blob: &Descriptor, from: &Repository) -> Ahead {
        Ahead(tokio::spawn(self.reading(blob, from, 0).open()))
    }

    fn reading(&self, blob: &Descriptor, from: &Repository, offset: u64) -> Reading {
        Reading {
            source: self.source.clone(),
            from: from.clone(),
            blob: blob.clone(),
            offset,
            large: self.large,
            in_parts: self.in_parts.clone(),
        }
    }

    async fn flight(&self, blob: &Digest) -> OwnedMutexGuard<()> {
        let flight = {
            let mut flights = self.flights.lock().unwrap_or_else(PoisonError::into_inner);
            // Those that nobody waits for or holds any more.
            if flights.len() >= 256 {
                flights.retain(|_, flight| Arc::strong_count(flight) > 1);
            }
            flights.entry(blob.clone()).or_default().clone()
        };
        flight.lock_owned().await
    }
}

/// How a blob is read from the source.
struct Reading {
    source: Client,
    from: Repository,
    blob: Descriptor,
    offset: u64,
    large: LargeBlobs,
    in_parts: Arc<Semaphore>,
}

impl Reading {
    /// Opens it: a large one in parts, where not too many are read so already.
    async fn open(self) -> Result<Content> {
        let (source, from, blob) = (&self.source, &self.from, &self.blob);
        let read = |reader: Result<BlobReader>| reader.map(StreamExt::boxed);
        if self.offset > 0 {
            return read(source.blob_from(from, blob, self.offset).await);
        }
        let room =
            (blob.size >= self.large.from).then(|| self.in_parts.clone().try_acquire_owned());
        let Some(Ok(room)) = room else {
            return read(source.blob(from, blob).await);
        };
        let reader = source.blob_in_parts(from, blob, self.large.parts).await?;
        // The room is taken until the last part was read.
        let content = reader.inspect(move |_| {
            let _taken = &room;
        });
        Ok(content.boxed())
    }
}
