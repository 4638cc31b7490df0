//! Writing to registries: uploads of blobs, mounts from other repositories, manifests and tags.

use std::path::Path;

use bytes::Bytes;
use futures::{FutureExt, Stream, StreamExt, TryStreamExt, future::BoxFuture, stream::BoxStream};
use http::{HeaderValue, Method, StatusCode, header};
use oci::{Descriptor, Digest, Digester, MAX_MANIFEST_BYTES, MediaType, Reference, Repository};
use tokio::io::AsyncRead;
use tokio_util::io::ReaderStream;
use url::Url;

use crate::{
    Client, Error, Result,
    client::{Access, Ask},
    http::{Call, Payload, protocol},
};

/// How much of a file is read at once.
const CHUNK: usize = 256 * 1024;

/// What became of a blob that was to be pushed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Pushed {
    /// The registry had it already: in this repository, or in the one that was named to mount from.
    Mounted,
    /// Its bytes were sent.
    Uploaded,
}

/// An upload session that a registry has opened.
#[derive(Debug)]
pub struct Upload {
    repository: Repository,
    location: Url,
    /// Whether the location is on the registry itself, so that credentials may be sent there.
    ours: bool,
}

/// The bytes of a blob to push.
pub type Content = BoxStream<'static, Result<Bytes>>;

impl Client {
    /// Pushes a blob. The first request offers to mount it from `from`, or from `repository` itself, which tells as well
    /// whether it is there already; only where it is not, `open` is called, once for each attempt.
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
        let action = format!("push blob {repository}@{}", descriptor.digest);
        let from = from.unwrap_or(repository);
        let mut attempt = 0;
        loop {
            let Some(upload) = self.mount(repository, &descriptor.digest, from).await? else {
                return Ok(Pushed::Mounted);
            };
            let content = open().await?;
            let error = match self.finish_upload(upload, descriptor, content).await {
                Ok(()) => return Ok(Pushed::Uploaded),
                Err(error) => error,
            };
            self.pause_or_give_up(repository, error, attempt, &action)
                .await?;
            attempt += 1;
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

    /// Makes a blob of the repository `from` one of `repository`, on the same registry. `None` when that is done;
    /// otherwise the registry has opened an upload in its stead, to be finished or cancelled.
    ///
    /// With `from` the repository itself, this asks whether the blob is there.
    pub async fn mount(
        &self,
        repository: &Repository,
        digest: &Digest,
        from: &Repository,
    ) -> Result<Option<Upload>> {
        let action = format!("push blob {repository}@{digest}");
        let mut url = self.url(repository, "blobs/uploads/")?;
        if from.host() == repository.host() {
            url.query_pairs_mut()
                .append_pair("mount", digest.as_str())
                .append_pair("from", from.path());
        }
        let mut ask = Ask::new(Method::POST, url.clone(), repository, Access::Push, &action);
        ask.also_pull = Some(from).filter(|from| from.host() == repository.host());
        let response = self.send(ask).await?;
        match response.status() {
            StatusCode::CREATED => Ok(None),
            StatusCode::ACCEPTED => {
                let text = response
                    .header(header::LOCATION)
                    .ok_or_else(|| protocol(&action, "it opened an upload without a Location"))?;
                let (location, ours) =
                    upload_location(&url, text).map_err(|problem| protocol(&action, problem))?;
                Ok(Some(Upload {
                    repository: repository.clone(),
                    location,
                    ours,
                }))
            }
            _ => Err(self.failure(repository, &action, response).await),
        }
    }

    /// Sends a blob's bytes into an upload, in one request, and closes it.
    pub async fn finish_upload(
        &self,
        upload: Upload,
        descriptor: &Descriptor,
        content: Content,
    ) -> Result<()> {
        let Upload {
            repository,
            mut location,
            ours,
        } = upload;
        let action = format!("push blob {repository}@{}", descriptor.digest);
        location
            .query_pairs_mut()
            .append_pair("digest", descriptor.digest.as_str());
        let mut call = Call::new(Method::PUT, location.clone(), &action);
        if ours {
            let ask = Ask::new(Method::PUT, location, &repository, Access::Push, &action);
            call.authorization = self.prepared_authorization(&ask).await?;
        }
        let octets = HeaderValue::from_static("application/octet-stream");
        call.headers.insert(header::CONTENT_TYPE, octets);
        call.payload = match descriptor.size {
            0 => Payload::Empty,
            size => {
                let exact = exactly(content, size, action.clone());
                Payload::Stream(exact.boxed(), size)
            }
        };
        let response = self.http().exchange(call).await?;
        match response.status() {
            StatusCode::CREATED | StatusCode::OK | StatusCode::NO_CONTENT => Ok(()),
            _ => Err(self.failure(&repository, &action, response).await),
        }
    }

    /// Gives an upload up, so that the registry need not keep what it is for.
    pub async fn cancel_upload(&self, upload: Upload) -> Result<()> {
        let Upload {
            repository,
            location,
            ours,
        } = upload;
        if !ours {
            return Ok(());
        }
        let action = format!("cancel an upload to {repository}");
        let ask = Ask::new(Method::DELETE, location, &repository, Access::Push, &action);
        let response = self.send(ask).await?;
        if response.status().is_success() || response.status() == StatusCode::NOT_FOUND {
            return Ok(());
        }
        Err(self.failure(&repository, &action, response).await)
    }

    /// Puts a manifest or index under the digest or, where there is none, the tag of `reference`. Everything that it
    /// refers to must be there.
    pub async fn put_manifest(
        &self,
        reference: &Reference,
        media_type: &MediaType,
        bytes: Bytes,
    ) -> Result<Digest> {
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
        let url = self.url(
            repository,
            &format!("manifests/{}", reference.manifest_name()),
        )?;
        let mut ask = Ask::new(Method::PUT, url, repository, Access::Push, &action);
        let content_type = HeaderValue::try_from(media_type.as_str())
            .map_err(|_| protocol(&action, "the media type of the manifest is malformed"))?;
        ask.headers.insert(header::CONTENT_TYPE, content_type);
        ask.body = Some(bytes);
        let response = self.send(ask).await?;
        if !matches!(response.status(), StatusCode::CREATED | StatusCode::OK) {
            return Err(self.failure(repository, &action, response).await);
        }
        let stored = response.header("docker-content-digest");
        match stored.and_then(|text| text.parse::<Digest>().ok()) {
            Some(stored) if stored != digest && stored.algorithm() == digest.algorithm() => {
                Err(mismatch(digest, stored))
            }
            _ => Ok(digest),
        }
    }

    /// Deletes the tag, or where `reference` has a digest the manifest with all of its tags. `false` when there was none.
    pub async fn delete_manifest(&self, reference: &Reference) -> Result<bool> {
        let action = format!("delete {reference}");
        let repository = reference.repository();
        let url = self.url(
            repository,
            &format!("manifests/{}", reference.manifest_name()),
        )?;
        let ask = Ask::new(Method::DELETE, url, repository, Access::Delete, &action);
        let response = self.send(ask).await?;
        match response.status() {
            StatusCode::NOT_FOUND => Ok(false),
            status if status.is_success() => Ok(true),
            _ => Err(self.failure(repository, &action, response).await),
        }
    }
}

/// Where an upload goes on, and whether that is still the registry that `request` went to.
fn upload_location(request: &Url, location: &str) -> Result<(Url, bool), &'static str> {
    let mut url = request
        .join(location)
        .map_err(|_| "it opened an upload at a malformed Location")?;
    // Behind a proxy that ends TLS, a registry may not know that it is reached by https.
    if request.scheme() == "https" && url.scheme() == "http" && url.host() == request.host() {
        let port = request.port();
        if url.set_scheme("https").is_ok() && url.set_port(port).is_ok() {
            return Ok((url, true));
        }
    }
    if !matches!(url.scheme(), "http" | "https") {
        return Err("it opened an upload that is neither http nor https");
    }
    if request.scheme() == "https" && url.scheme() == "http" {
        return Err("it opened an upload without TLS");
    }
    let ours = url.origin() == request.origin();
    Ok((url, ours))
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

/// `content`, failing where it has not exactly `size` bytes: the request announced that many. Its last bytes are held
/// back until its end was reached, so that what fails only there (a wrong digest) never arrives complete.
fn exactly(
    content: Content,
    size: u64,
    action: String,
) -> impl Stream<Item = Result<Bytes>> + Send + 'static {
    let state = (Some(content), 0_u64, action);
    futures::stream::try_unfold(state, move |(content, seen, action)| async move {
        let Some(mut content) = content else {
            return Ok(None);
        };
        let mismatch = |found| Error::SizeMismatch {
            action: action.clone(),
            expected: size,
            found,
        };
        let Some(bytes) = content.try_next().await? else {
            return Err(mismatch(seen));
        };
        let seen = seen + bytes.len() as u64;
        if seen < size {
            return Ok(Some((bytes, (Some(content), seen, action))));
        }
        while let Some(more) = content.try_next().await? {
            if !more.is_empty() {
                return Err(mismatch(seen + more.len() as u64));
            }
        }
        if seen > size {
            return Err(mismatch(seen));
        }
        Ok(Some((bytes, (None, seen, action))))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn uploads_go_on_where_the_registry_says() {
        let request = Url::parse("https://h:5000/v2/a/b/blobs/uploads/?mount=x").unwrap();
        for (location, expected) in [
            (
                "/v2/a/b/blobs/uploads/1?_state=s",
                Ok(("https://h:5000/v2/a/b/blobs/uploads/1?_state=s", true)),
            ),
            ("1", Ok(("https://h:5000/v2/a/b/blobs/uploads/1", true))),
            ("https://h:5000/u", Ok(("https://h:5000/u", true))),
            ("http://h/u", Ok(("https://h:5000/u", true))),
            ("https://h/u", Ok(("https://h/u", false))),
            (
                "https://store.example/u?sig=1",
                Ok(("https://store.example/u?sig=1", false)),
            ),
            (
                "http://store.example/u",
                Err("it opened an upload without TLS"),
            ),
            (
                "ftp://h/u",
                Err("it opened an upload that is neither http nor https"),
            ),
            (
                "https://",
                Err("it opened an upload at a malformed Location"),
            ),
        ] {
            let found = upload_location(&request, location);
            let found = found.as_ref().map(|(url, ours)| (url.as_str(), *ours));
            assert_eq!(found.map_err(|e| *e), expected, "{location}");
        }
    }

    #[tokio::test]
    async fn content_must_have_its_size() {
        let content = |parts: &'static [&'static str]| {
            futures::stream::iter(parts)
                .map(|p| Ok(Bytes::from_static(p.as_bytes())))
                .boxed()
        };
        for (parts, size, ok) in [
            (&["ab", "c"] as &[_], 3, true),
            (&["ab", "c"], 4, false),
            (&["ab", "c"], 2, false),
            (&[], 1, false),
            (&["a", ""], 1, true),
        ] {
            let read: Result<Vec<_>> = exactly(content(parts), size, "push".into())
                .try_collect()
                .await;
            assert_eq!(read.is_ok(), ok, "{parts:?} {size}");
        }
    }
}
