//! Writing to registries: blobs from streams, files and memory, with new attempts where one breaks off; manifests and
//! tags. The requests of an upload are in `upload`.

use std::{
    path::Path,
    pin::Pin,
    sync::{Arc, Mutex, PoisonError},
    task::{Context, Poll},
};

use bytes::Bytes;
use futures::{FutureExt, Stream, StreamExt, TryStreamExt, future::BoxFuture};
use http::{HeaderValue, Method, StatusCode, header};
use oci::{Descriptor, Digest, Digester, MAX_MANIFEST_BYTES, MediaType, Reference, Repository};
use tokio::io::AsyncRead;
use tokio_util::io::ReaderStream;

use crate::{
    Client, Content, Error, ErrorKind, Result, SavedUpload, Upload,
    client::{Access, Ask},
    http::protocol,
};

/// How much of a file is read at once.
const CHUNK: usize = 256 * 1024;
/// Broken uploads of blobs up to this size are left for the registry to clear away.
const KEPT_UPLOAD: u64 = 16 * 1024 * 1024;

/// What became of a blob that was to be pushed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Pushed {
    /// The registry had it already: in this repository, or in the one that was named to mount from.
    Mounted,
    /// Its bytes were sent.
    Uploaded,
}

/// A manifest that was put.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Put {
    /// Its digest.
    pub digest: Digest,
    /// Whether the registry lists it as a referrer of its subject (the header `OCI-Subject`). Where it does not, whoever put
    /// it has to list it under the [fallback tag](crate::fallback_tag).
    pub is_listed: bool,
}

/// How a blob is pushed in chunks.
#[derive(Default)]
pub struct ChunkedPush<'a> {
    /// Another repository of the same registry to mount the blob from.
    pub from: Option<&'a Repository>,
    /// The bytes of each request but the last; 0 sends all in one. The registry's own minimum counts as well.
    pub chunk: u64,
    /// An upload that another process has left.
    pub saved: Option<SavedUpload>,
    /// Told after each chunk what is needed to go on from there.
    pub note: Option<&'a (dyn Fn(SavedUpload) + Send + Sync)>,
}

impl Client {
    /// Pushes a blob in one request. The first request offers to mount it from `from`, or from `repository` itself, which
    /// tells as well whether it is there already; only where it is not, `open` is called, once for each attempt.
    pub async fn push_blob<'a, F>(
        &self,
        repository: &Repository,
        descriptor: &Descriptor,
        from: Option<&Repository>,
        open: F,
    ) -> Result<Pushed>
    where
        F: Fn() -> BoxFuture<'a, Result<Content>>,
    {
        let chunked = ChunkedPush {
            from,
            ..ChunkedPush::default()
        };
        self.push_blob_in_chunks(repository, descriptor, chunked, |_| open())
            .await
    }

    /// Pushes a blob in chunks, each as it comes, without keeping any of it. What the registry has confirmed is not sent
    /// again: after a failure it is asked how far it is, and `open` is called with that offset. Registries that cannot go
    /// on with an upload that broke off (distribution within a chunk) are sent all of it again.
    ///
    /// The bytes from an offset on cannot be verified here; the registry verifies the whole when the upload is closed.
    pub async fn push_blob_in_chunks<'a, F>(
        &self,
        repository: &Repository,
        descriptor: &Descriptor,
        mut options: ChunkedPush<'_>,
        open: F,
    ) -> Result<Pushed>
    where
        F: Fn(u64) -> BoxFuture<'a, Result<Content>>,
    {
        let action = format!("push blob {repository}@{}", descriptor.digest);
        if let Some(local) = self.local(repository.host()) {
            return crate::local::push(local.as_ref(), descriptor, || open(0)).await;
        }
        let from = options.from.unwrap_or(repository);
        let mut going_on = match options.saved.take() {
            Some(saved) => self.resume_upload(repository, &saved).await?,
            None => None,
        };
        let mut attempt = 0;
        loop {
            let upload = match going_on.take() {
                Some(upload) => upload,
                None => match self
                    .mount_or_open(repository, &descriptor.digest, from)
                    .await?
                {
                    Some(upload) => upload,
                    None => return Ok(Pushed::Mounted),
                },
            };
            let (before, mut upload) = (upload.received(), upload);
            let content = match open(before).await {
                Ok(content) => content,
                Err(error) => {
                    self.forget_upload(upload).await;
                    return Err(error);
                }
            };
            let error = match self
                .send_rest(&mut upload, descriptor, &options, content)
                .await
            {
                Ok(()) => return Ok(Pushed::Uploaded),
                Err(error) => error,
            };
            if upload.received() > before {
                attempt = 0;
            }
            let no_chunks = matches!(
                error,
                Error::Refused {
                    status: 405 | 501,
                    ..
                }
            );
            // It may take one chunk and no second.
            let is_stuck = options.chunk > 0
                && attempt > 0
                && upload.received() == before
                && matches!(error, Error::UploadLost { .. });
            if no_chunks && options.chunk > 0 {
                options.chunk = 0;
            } else if let Err(error) = self
                .pause_or_give_up(repository, error, attempt, &action)
                .await
            {
                if !error.is_transient() {
                    // What has come so far is of no use.
                    self.forget_upload(upload).await;
                }
                return Err(error);
            }
            attempt += 1;
            if is_stuck {
                options.chunk = 0;
                self.forget_upload(upload).await;
            } else if upload.received() > 0
                && self.upload_status(&mut upload).await.unwrap_or(false)
                && upload.received() > 0
            {
                going_on = Some(upload);
            } else if descriptor.size > KEPT_UPLOAD {
                self.forget_upload(upload).await;
            }
        }
    }

    /// Sends what an upload lacks, and closes it.
    async fn send_rest(
        &self,
        upload: &mut Upload,
        descriptor: &Descriptor,
        options: &ChunkedPush<'_>,
        content: Content,
    ) -> Result<()> {
        let rest = Rest::new(content);
        let chunk = match options.chunk {
            0 => u64::MAX,
            chunk => chunk.max(upload.min_chunk()),
        };
        while descriptor.size.saturating_sub(upload.received()) > chunk {
            let content = rest.take(chunk);
            self.send_chunk(upload, descriptor, content, chunk).await?;
            if let Some(note) = options.note {
                note(upload.save());
            }
        }
        let content = rest.take(u64::MAX);
        self.finish_upload(upload.clone(), descriptor, content)
            .await
    }

    /// As [`Self::mount`]; where the registry does not let us mount from another repository, as if it were not named.
    async fn mount_or_open(
        &self,
        repository: &Repository,
        digest: &Digest,
        from: &Repository,
    ) -> Result<Option<Upload>> {
        let refusals = [
            ErrorKind::Unauthorized,
            ErrorKind::NotFound,
            ErrorKind::Refused,
        ];
        match self.mount(repository, digest, from).await {
            Err(error) if from != repository && refusals.contains(&error.kind()) => {
                tracing::debug!(%from, %error, "no mount from there");
                self.mount(repository, digest, repository).await
            }
            done => done,
        }
    }

    /// Pushes a file, unless the registry has it.
    pub async fn upload_file(
        &self,
        repository: &Repository,
        descriptor: &Descriptor,
        path: &Path,
    ) -> Result<Pushed> {
        self.push_blob(repository, descriptor, None, || {
            async move {
                let file = fs_err::tokio::File::open(path)
                    .await
                    .map_err(|source| Error::Io {
                        action: "read the blob to push".into(),
                        source,
                    })?;
                Ok(content_of(file.into_parts().0))
            }
            .boxed()
        })
        .await
    }

    /// Pushes bytes, unless the registry has them, and gives their descriptor back.
    pub async fn upload_bytes(
        &self,
        repository: &Repository,
        media_type: MediaType,
        bytes: Bytes,
    ) -> Result<Descriptor> {
        let descriptor = Descriptor::of(media_type, &bytes);
        self.push_blob(repository, &descriptor, None, || {
            let bytes = bytes.clone();
            let content = futures::stream::once(async move { Ok(bytes) }).boxed();
            futures::future::ready(Ok(content)).boxed()
        })
        .await?;
        Ok(descriptor)
    }

    /// Pushes what `reader` gives, which must have the size of `descriptor`. There is one attempt only.
    pub async fn upload(
        &self,
        repository: &Repository,
        descriptor: &Descriptor,
        reader: impl AsyncRead + Send + 'static,
    ) -> Result<Pushed> {
        if let Some(local) = self.local(repository.host()) {
            let content = content_of(reader);
            let open = || async move { Ok(content) }.boxed();
            return crate::local::push(local.as_ref(), descriptor, open).await;
        }
        match self
            .mount(repository, &descriptor.digest, repository)
            .await?
        {
            None => Ok(Pushed::Mounted),
            Some(upload) => {
                self.finish_upload(upload, descriptor, content_of(reader))
                    .await?;
                Ok(Pushed::Uploaded)
            }
        }
    }

    /// Puts a manifest or index under the digest or, where there is none, the tag of `reference`. Everything that it
    /// refers to must be there.
    pub async fn put_manifest(
        &self,
        reference: &Reference,
        media_type: &MediaType,
        bytes: Bytes,
    ) -> Result<Digest> {
        let put = self.put_referrer(reference, media_type, bytes).await?;
        Ok(put.digest)
    }

    /// As [`Self::put_manifest`], and says whether the registry took notice of the manifest's subject.
    pub async fn put_referrer(
        &self,
        reference: &Reference,
        media_type: &MediaType,
        bytes: Bytes,
    ) -> Result<Put> {
        let action = format!("push manifest {reference}");
        if bytes.len() as u64 > MAX_MANIFEST_BYTES {
            return Err(Error::TooLarge {
                action,
                limit: MAX_MANIFEST_BYTES,
            });
        }
        let algorithm = reference.digest().map(Digest::algorithm);
        let mut digester = algorithm.map_or_else(Digester::sha256, Digester::new);
        digester.update(&bytes);
        let digest = digester.finish();
        let mismatch = |expected: Digest, found: Digest| Error::DigestMismatch {
            action: action.clone(),
            expected,
            found,
        };
        if let Some(expected) = reference.digest().filter(|&expected| *expected != digest) {
            return Err(mismatch(expected.clone(), digest));
        }
        let repository = reference.repository();
        if let Some(local) = self.local(repository.host()) {
            local.put_manifest(reference, media_type, bytes).await?;
            let is_listed = false;
            return Ok(Put { digest, is_listed });
        }
        let url = self.url(
            repository,
            &format!("manifests/{}", reference.manifest_name()),
        )?;
        let mut ask = Ask::new(Method::PUT, url, repository, Access::Push, &action);
        let content_type = HeaderValue::try_from(media_type.as_str())
            .map_err(|_| protocol(&action, "the media type of the manifest is malformed"))?;
        ask.headers.insert(header::CONTENT_TYPE, content_type);
        ask.body = Some(bytes);
        let response = self.send(&ask).await?;
        if !matches!(response.status(), StatusCode::CREATED | StatusCode::OK) {
            return Err(self.failure(repository, &action, response).await);
        }
        let is_listed = response.header("oci-subject").is_some();
        let stored = response.header("docker-content-digest");
        match stored.and_then(|text| text.parse::<Digest>().ok()) {
            Some(stored) if stored != digest && stored.algorithm() == digest.algorithm() => {
                Err(mismatch(digest, stored))
            }
            _ => Ok(Put { digest, is_listed }),
        }
    }

    /// Deletes the tag, or where `reference` has a digest the manifest with all of its tags. `false` when there was none.
    pub async fn delete_manifest(&self, reference: &Reference) -> Result<bool> {
        if let Some(local) = self.local(reference.repository().host()) {
            return local.untag(reference).await;
        }
        let action = format!("delete {reference}");
        let repository = reference.repository();
        let url = self.url(
            repository,
            &format!("manifests/{}", reference.manifest_name()),
        )?;
        let ask = Ask::new(Method::DELETE, url, repository, Access::Delete, &action);
        let response = self.send(&ask).await?;
        match response.status() {
            StatusCode::NOT_FOUND => Ok(false),
            status if status.is_success() => Ok(true),
            _ => Err(self.failure(repository, &action, response).await),
        }
    }
}

fn content_of(reader: impl AsyncRead + Send + 'static) -> Content {
    ReaderStream::with_capacity(reader, CHUNK)
        .map_err(|source| match source.downcast::<Error>() {
            Ok(error) => error,
            Err(source) => Error::Io {
                action: "read the blob to push".into(),
                source,
            },
        })
        .boxed()
}

/// The content of a blob, of which one request after another takes a part.
#[derive(Clone)]
struct Rest(Arc<Mutex<Parts>>);

struct Parts {
    content: Content,
    /// What came and belongs to the next request.
    left: Bytes,
}

impl Rest {
    fn new(content: Content) -> Self {
        let left = Bytes::new();
        Self(Arc::new(Mutex::new(Parts { content, left })))
    }

    /// The next `length` bytes, or fewer where there are no more.
    fn take(&self, length: u64) -> Content {
        let (shared, mut wanted) = (self.0.clone(), length);
        futures::stream::poll_fn(move |context| {
            if wanted == 0 {
                return Poll::Ready(None);
            }
            let mut parts = shared.lock().unwrap_or_else(PoisonError::into_inner);
            let next = parts.poll(context, wanted);
            if let Poll::Ready(Some(Ok(bytes))) = &next {
                wanted -= bytes.len() as u64;
            }
            next
        })
        .boxed()
    }
}

impl Parts {
    fn poll(&mut self, context: &mut Context<'_>, most: u64) -> Poll<Option<Result<Bytes>>> {
        if self.left.is_empty() {
            match Pin::new(&mut self.content).poll_next(context) {
                Poll::Ready(Some(Ok(bytes))) => self.left = bytes,
                other => return other,
            }
        }
        let most = usize::try_from(most).unwrap_or(usize::MAX);
        let count = self.left.len().min(most);
        Poll::Ready(Some(Ok(self.left.split_to(count))))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn requests_take_the_content_in_turn() {
        let parts = ["ab", "cdefg", "", "h"].map(|part| Ok(Bytes::from_static(part.as_bytes())));
        let rest = Rest::new(futures::stream::iter(parts).boxed());
        for (length, expected) in [(1, "a"), (3, "bcd"), (0, ""), (u64::MAX, "efgh"), (5, "")] {
            let taken: Vec<Bytes> = rest.take(length).try_collect().await.unwrap();
            assert_eq!(taken.concat(), expected.as_bytes());
        }
    }
}
