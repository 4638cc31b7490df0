//! Blobs on their way in: a reader that verifies length and digest while the bytes pass. How the bytes come is in
//! `download`.

mod download;

use std::{
    pin::Pin,
    sync::Arc,
    task::{Context, Poll, ready},
};

use bytes::{Buf, Bytes};
use futures::{FutureExt, Stream, StreamExt, stream::BoxStream};
use oci::{Descriptor, Digester, Repository};
use tokio::{
    io::{AsyncRead, ReadBuf},
    task::JoinHandle,
};

use crate::{Client, Error, Result};
use download::{Download, Store};

/// The bytes of a blob, as an [`AsyncRead`] and as a [`Stream`].
///
/// Nothing that was read is to be trusted before the end was reached without an error: only there the digest is known.
/// Errors of the [`AsyncRead`] hold an [`Error`].
pub struct BlobReader {
    stream: BoxStream<'static, Result<Bytes>>,
    rest: Bytes,
}

/// How a large blob is read in parts. The parts that have come and were not read yet are held in memory: at most
/// `connections` of them.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Parts {
    /// Ranges that are read at the same time.
    pub connections: usize,
    /// The bytes of a range.
    pub size: u64,
}

impl Default for Parts {
    /// Four connections, four MiB each.
    fn default() -> Self {
        Self {
            connections: 4,
            size: 4 * 1024 * 1024,
        }
    }
}

impl BlobReader {
    fn new(content: impl Stream<Item = Result<Bytes>> + Send + 'static) -> Self {
        Self {
            stream: content.boxed(),
            rest: Bytes::new(),
        }
    }

    fn verified(
        content: impl Stream<Item = Result<Bytes>> + Send + 'static,
        descriptor: &Descriptor,
        repository: &Repository,
    ) -> Self {
        Self::new(verified(content, descriptor, repository))
    }

    /// All bytes, where the descriptor says that there are at most `limit`.
    ///
    /// # Errors
    /// [`Error::TooLarge`] before anything is read, and those of reading.
    pub(crate) async fn collect(mut self, size: u64) -> Result<Bytes> {
        let mut bytes = Vec::with_capacity(usize::try_from(size).unwrap_or(0));
        while let Some(chunk) = self.next().await {
            bytes.extend_from_slice(&chunk?);
        }
        Ok(bytes.into())
    }
}

impl std::fmt::Debug for BlobReader {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("BlobReader").finish_non_exhaustive()
    }
}

impl Stream for BlobReader {
    type Item = Result<Bytes>;

    fn poll_next(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        if self.rest.has_remaining() {
            return Poll::Ready(Some(Ok(std::mem::take(&mut self.rest))));
        }
        self.stream.poll_next_unpin(cx)
    }
}

impl AsyncRead for BlobReader {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<std::io::Result<()>> {
        while !self.rest.has_remaining() {
            match ready!(self.stream.poll_next_unpin(cx)) {
                Some(Ok(bytes)) => self.rest = bytes,
                Some(Err(error)) => return Poll::Ready(Err(error.into_io())),
                None => return Poll::Ready(Ok(())),
            }
        }
        let count = self.rest.len().min(buffer.remaining());
        buffer.put_slice(&self.rest.split_to(count));
        Poll::Ready(Ok(()))
    }
}

impl Client {
    /// Opens the blob of `descriptor`. The request is made now, so that an error of it is not an error of reading.
    pub async fn blob(
        &self,
        repository: &Repository,
        descriptor: &Descriptor,
    ) -> Result<BlobReader> {
        if let Some(content) = self.local_blob(repository, descriptor, 0).await {
            return Ok(BlobReader::verified(content?, descriptor, repository));
        }
        let whole = 0..descriptor.size;
        let download = Download::new(self, repository, descriptor, whole, None);
        let content = download.begin().await?.into_stream();
        Ok(BlobReader::verified(content, descriptor, repository))
    }

    /// Opens the blob of `descriptor` at `offset`. Of a part, only the length is verified: who puts parts together must
    /// verify the digest.
    pub async fn blob_from(
        &self,
        repository: &Repository,
        descriptor: &Descriptor,
        offset: u64,
    ) -> Result<BlobReader> {
        if offset == 0 {
            return self.blob(repository, descriptor).await;
        }
        if offset >= descriptor.size {
            return Ok(BlobReader::new(futures::stream::empty()));
        }
        if let Some(content) = self.local_blob(repository, descriptor, offset).await {
            return Ok(BlobReader::new(content?));
        }
        let rest = offset..descriptor.size;
        let download = Download::new(self, repository, descriptor, rest, None);
        Ok(BlobReader::new(download.begin().await?.into_stream()))
    }

    /// Opens a large blob and reads several of its ranges at the same time, in order for the reader: one connection alone
    /// gets no more than its window for each round trip. Smaller blobs, and those of servers without ranges, come as by
    /// [`Self::blob`].
    pub async fn blob_in_parts(
        &self,
        repository: &Repository,
        descriptor: &Descriptor,
        parts: Parts,
    ) -> Result<BlobReader> {
        let Parts { connections, size } = parts;
        let total = descriptor.size;
        let is_local = self.local(repository.host()).is_some();
        if is_local || connections < 2 || size == 0 || total / 2 < size {
            return self.blob(repository, descriptor).await;
        }
        let store = Arc::new(Store::default());
        // It tells whether there are ranges at all.
        let first = Download::new(self, repository, descriptor, 0..size, Some(store.clone()));
        let first = first.begin().await?;
        if first.is_whole() {
            let content = first.widened().into_stream();
            return Ok(BlobReader::verified(content, descriptor, repository));
        }
        let (client, from, blob) = (self.clone(), repository.clone(), descriptor.clone());
        let others = (1..total.div_ceil(size)).map(move |number| {
            let range = number * size..total.min((number + 1) * size);
            Download::new(&client, &from, &blob, range, Some(store.clone()))
        });
        // Tasks of their own: they go on while whoever reads is busy with what came before.
        let content = futures::stream::iter(std::iter::once(first).chain(others))
            .map(|part| Part(tokio::spawn(part.collect())))
            .buffered(connections);
        Ok(BlobReader::verified(content, descriptor, repository))
    }

    /// The whole of a small blob (an image configuration).
    ///
    /// # Errors
    /// [`Error::TooLarge`] when the descriptor says more than `limit` bytes; nothing is requested then.
    pub async fn small_blob(
        &self,
        repository: &Repository,
        descriptor: &Descriptor,
        limit: u64,
    ) -> Result<Bytes> {
        if descriptor.size > limit {
            return Err(Error::TooLarge {
                action: format!("pull blob {repository}@{}", descriptor.digest),
                limit,
            });
        }
        let reader = self.blob(repository, descriptor).await?;
        reader.collect(descriptor.size).await
    }
}

/// A part on its way, given up where nobody waits for it any more.
struct Part(JoinHandle<Result<Bytes>>);

impl Future for Part {
    type Output = Result<Bytes>;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        Poll::Ready(match ready!(self.0.poll_unpin(cx)) {
            Ok(part) => part,
            Err(ended) => match ended.try_into_panic() {
                Ok(panic) => std::panic::resume_unwind(panic),
                // The runtime ends: so does whoever would hear of it.
                Err(_) => return Poll::Pending,
            },
        })
    }
}

impl Drop for Part {
    fn drop(&mut self) {
        self.0.abort();
    }
}

/// `content`, which fails at its end where it has not the digest and the size of `descriptor`.
fn verified(
    content: impl Stream<Item = Result<Bytes>> + Send + 'static,
    descriptor: &Descriptor,
    repository: &Repository,
) -> impl Stream<Item = Result<Bytes>> + Send + 'static {
    let digester = Digester::new(descriptor.digest.algorithm());
    let action = format!("pull blob {repository}@{}", descriptor.digest);
    let state = Some((content.boxed(), digester, descriptor.clone(), action));
    futures::stream::try_unfold(state, async |state| {
        let Some((mut content, mut digester, descriptor, action)) = state else {
            return Ok(None);
        };
        if let Some(bytes) = content.next().await.transpose()? {
            digester.update(&bytes);
            return Ok(Some((bytes, Some((content, digester, descriptor, action)))));
        }
        let (size, found) = (digester.len(), digester.finish());
        if size != descriptor.size {
            return Err(Error::SizeMismatch {
                action,
                expected: descriptor.size,
                found: size,
            });
        }
        if found != descriptor.digest {
            return Err(Error::DigestMismatch {
                action,
                expected: descriptor.digest,
                found,
            });
        }
        Ok(None)
    })
}
