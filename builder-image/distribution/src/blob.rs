//! Blobs on their way in: a reader that verifies length and digest while the bytes pass, and goes on where a broken
//! connection stopped.

use std::{
    pin::Pin,
    task::{Context, Poll, ready},
};

use bytes::{Buf, Bytes};
use futures::{Stream, StreamExt, stream::BoxStream};
use http::{HeaderValue, Method, StatusCode, header};
use oci::{Descriptor, Digester, Repository};
use tokio::io::{AsyncRead, ReadBuf};

use crate::{
    Client, Error, Response, Result,
    client::{Access, Ask},
    http::protocol,
};

/// The bytes of a blob, as an [`AsyncRead`] and as a [`Stream`].
///
/// Nothing that was read is to be trusted before the end was reached without an error: only there the digest is known.
/// Errors of the [`AsyncRead`] hold an [`Error`].
pub struct BlobReader {
    stream: BoxStream<'static, Result<Bytes>>,
    rest: Bytes,
}

impl BlobReader {
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

/// A download: what came so far and where the rest comes from.
struct Download {
    client: Client,
    repository: Repository,
    descriptor: Descriptor,
    action: String,
    /// `None` before the first request and after a broken connection.
    source: Option<BoxStream<'static, Result<Bytes>>>,
    digester: Digester,
    /// Interruptions since bytes last came.
    interruptions: u32,
}

impl Client {
    /// Opens the blob of `descriptor`. The request is made now, so that an error of it is not an error of reading.
    pub async fn blob(
        &self,
        repository: &Repository,
        descriptor: &Descriptor,
    ) -> Result<BlobReader> {
        let mut download = Download {
            client: self.clone(),
            repository: repository.clone(),
            descriptor: descriptor.clone(),
            action: format!("pull blob {repository}@{}", descriptor.digest),
            source: None,
            digester: Digester::new(descriptor.digest.algorithm()),
            interruptions: 0,
        };
        download.source = Some(download.open().await?);
        let stream = futures::stream::try_unfold(Some(download), async |download| {
            let Some(mut download) = download else {
                return Ok(None);
            };
            if let Some(bytes) = download.next().await? {
                return Ok(Some((bytes, Some(download))));
            }
            download.finish()?;
            Ok(None)
        });
        Ok(BlobReader {
            stream: stream.boxed(),
            rest: Bytes::new(),
        })
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

impl Download {
    /// Requests what is missing.
    async fn open(&mut self) -> Result<BoxStream<'static, Result<Bytes>>> {
        let path = format!("blobs/{}", self.descriptor.digest);
        let url = self.client.url(&self.repository, &path)?;
        let mut ask = Ask::new(
            Method::GET,
            url,
            &self.repository,
            Access::Pull,
            &self.action,
        );
        let offset = self.digester.len();
        if offset > 0 {
            let range = HeaderValue::try_from(format!("bytes={offset}-"));
            ask.headers
                .insert(header::RANGE, range.expect("digits are a header value"));
        }
        let response = self.client.send(ask).await?;
        match response.status() {
            StatusCode::OK => {
                if let Some(found) = response.content_length()
                    && found != self.descriptor.size
                {
                    return Err(self.size_mismatch(found));
                }
                Ok(skip(response.into_stream(), offset))
            }
            StatusCode::PARTIAL_CONTENT if offset > 0 => {
                if self.is_the_rest(&response, offset) {
                    Ok(response.into_stream())
                } else {
                    Err(protocol(
                        &self.action,
                        "it sent another range than was asked for",
                    ))
                }
            }
            _ => Err(self
                .client
                .failure(&self.repository, &self.action, response)
                .await),
        }
    }

    /// Whether `Content-Range` says `bytes <offset>-<last>/<size>`.
    fn is_the_rest(&self, response: &Response, offset: u64) -> bool {
        let size = self.descriptor.size;
        let last = size.saturating_sub(1);
        let range = response.header(header::CONTENT_RANGE).map(str::trim);
        range == Some(&format!("bytes {offset}-{last}/{size}"))
            || range == Some(&format!("bytes {offset}-{last}/*"))
    }

    async fn next(&mut self) -> Result<Option<Bytes>> {
        loop {
            let error = match &mut self.source {
                Some(source) => match source.next().await {
                    Some(Ok(bytes)) => {
                        self.digester.update(&bytes);
                        self.interruptions = 0;
                        if self.digester.len() > self.descriptor.size {
                            return Err(self.size_mismatch(self.digester.len()));
                        }
                        return Ok(Some(bytes));
                    }
                    Some(Err(error)) => error,
                    None => return Ok(None),
                },
                None => match self.open().await {
                    Ok(source) => {
                        self.source = Some(source);
                        continue;
                    }
                    // `open` has tried as often as is allowed.
                    Err(error) => return Err(error),
                },
            };
            self.source = None;
            self.client
                .pause_or_give_up(&self.repository, error, self.interruptions, &self.action)
                .await?;
            self.interruptions += 1;
        }
    }

    fn finish(self) -> Result<()> {
        if self.digester.len() != self.descriptor.size {
            return Err(self.size_mismatch(self.digester.len()));
        }
        let found = self.digester.finish();
        if found == self.descriptor.digest {
            return Ok(());
        }
        Err(Error::DigestMismatch {
            action: self.action,
            expected: self.descriptor.digest,
            found,
        })
    }

    fn size_mismatch(&self, found: u64) -> Error {
        Error::SizeMismatch {
            action: self.action.clone(),
            expected: self.descriptor.size,
            found,
        }
    }
}

/// `stream` without its first `count` bytes.
fn skip(
    stream: BoxStream<'static, Result<Bytes>>,
    count: u64,
) -> BoxStream<'static, Result<Bytes>> {
    if count == 0 {
        return stream;
    }
    let mut left = count;
    stream
        .filter_map(move |item| {
            let item = item.map(|mut bytes| {
                let skipped = usize::try_from(left).map_or(bytes.len(), |l| l.min(bytes.len()));
                bytes.advance(skipped);
                left -= skipped as u64;
                bytes
            });
            let keep = !matches!(&item, Ok(bytes) if bytes.is_empty());
            futures::future::ready(keep.then_some(item))
        })
        .boxed()
}
