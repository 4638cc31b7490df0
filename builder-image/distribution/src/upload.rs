//! One upload session: opened (or answered by a mount), continued by chunks, asked how far it is, closed, cancelled. What
//! to do when something of it fails is decided in `push`.

use bytes::Bytes;
use futures::{Stream, StreamExt, TryStreamExt, stream::BoxStream};
use http::{HeaderMap, HeaderValue, Method, StatusCode, header};
use oci::{Descriptor, Digest, Repository};
use serde::{Deserialize, Serialize};
use url::Url;

use crate::{
    Client, Error, ErrorCode, Response, Result,
    client::{Access, Ask},
    http::{Call, Payload, behind_tls, protocol},
};

/// The bytes of a blob to push.
pub type Content = BoxStream<'static, Result<Bytes>>;

/// An upload session that a registry has opened.
#[derive(Debug, Clone)]
pub struct Upload {
    repository: Repository,
    location: Url,
    /// Whether the location is on the registry itself, so that credentials may be sent there.
    ours: bool,
    /// The bytes that the registry has confirmed.
    received: u64,
    /// The fewest bytes that the registry takes in one chunk, but for the last.
    min_chunk: u64,
}

/// What is to be kept of an upload session so that another process can go on with it. The location may be a secret in
/// itself (a signed URL).
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct SavedUpload {
    location: Url,
    received: u64,
}

impl std::fmt::Debug for SavedUpload {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("SavedUpload")
            .field("received", &self.received)
            .finish_non_exhaustive()
    }
}

impl Upload {
    /// The bytes that the registry has confirmed so far.
    pub const fn received(&self) -> u64 {
        self.received
    }

    /// The fewest bytes that the registry takes in one chunk, but for the last (`OCI-Chunk-Min-Length`); 0 when it says
    /// nothing.
    pub(crate) const fn min_chunk(&self) -> u64 {
        self.min_chunk
    }

    /// What another process needs to go on.
    pub fn save(&self) -> SavedUpload {
        SavedUpload {
            location: self.location.clone(),
            received: self.received,
        }
    }

    /// Follows the registry to where it wants the next request: the location may change with every answer.
    fn follow(&mut self, request: &Url, headers: &HeaderMap) -> Result<(), &'static str> {
        let Some(location) = headers.get(header::LOCATION) else {
            return Ok(());
        };
        let text = location.to_str().unwrap_or_default();
        let (location, same) = upload_location(request, text)?;
        self.ours = self.ours && same;
        self.location = location;
        Ok(())
    }
}

impl Client {
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
        let response = self.send(&ask).await?;
        match response.status() {
            StatusCode::CREATED => Ok(None),
            StatusCode::ACCEPTED => {
                let text = response
                    .header(header::LOCATION)
                    .ok_or_else(|| protocol(&action, "it opened an upload without a Location"))?;
                let (location, ours) =
                    upload_location(&url, text).map_err(|problem| protocol(&action, problem))?;
                let min_chunk = response.header("oci-chunk-min-length");
                Ok(Some(Upload {
                    repository: repository.clone(),
                    location,
                    ours,
                    received: 0,
                    min_chunk: min_chunk.and_then(|n| n.trim().parse().ok()).unwrap_or(0),
                }))
            }
            _ => Err(self.failure(repository, &action, response).await),
        }
    }

    /// The upload that another process has left, as far as the registry has it; `None` where it knows of no such upload.
    pub async fn resume_upload(
        &self,
        repository: &Repository,
        saved: &SavedUpload,
    ) -> Result<Option<Upload>> {
        let base = self.url(repository, "blobs/uploads/")?;
        let mut upload = Upload {
            repository: repository.clone(),
            ours: saved.location.origin() == base.origin(),
            location: saved.location.clone(),
            received: saved.received,
            min_chunk: 0,
        };
        Ok(self.upload_status(&mut upload).await?.then_some(upload))
    }

    /// Asks how much of an upload has arrived. `false` where the registry has lost it.
    pub(crate) async fn upload_status(&self, upload: &mut Upload) -> Result<bool> {
        let repository = upload.repository.clone();
        let action = format!("ask for the state of an upload to {repository}");
        let request = upload.location.clone();
        let mut call = Call::new(Method::GET, request.clone(), &action);
        call.authorization = self.upload_authorization(upload, &action).await?;
        let response = self.call(&upload.repository, call).await?;
        match response.status() {
            StatusCode::NO_CONTENT | StatusCode::OK | StatusCode::ACCEPTED => {
                upload.received = received(response.headers()).unwrap_or(0);
                upload
                    .follow(&request, response.headers())
                    .map_err(|problem| protocol(&action, problem))?;
                Ok(true)
            }
            // 400 and 416: the session went on without us, and the registry does not tell how far.
            StatusCode::NOT_FOUND
            | StatusCode::GONE
            | StatusCode::BAD_REQUEST
            | StatusCode::METHOD_NOT_ALLOWED
            | StatusCode::RANGE_NOT_SATISFIABLE => Ok(false),
            _ => Err(self.failure(&repository, &action, response).await),
        }
    }

    /// Sends the next `length` bytes of an upload, which `content` must have.
    pub(crate) async fn send_chunk(
        &self,
        upload: &mut Upload,
        descriptor: &Descriptor,
        content: Content,
        length: u64,
    ) -> Result<()> {
        let action = push_action(&upload.repository, &descriptor.digest);
        let request = upload.location.clone();
        let (start, end) = (upload.received, upload.received + length);
        let mut call = Call::new(Method::PATCH, request.clone(), &action);
        call.authorization = self.upload_authorization(upload, &action).await?;
        octets(&mut call.headers);
        // The specification has no unit here, unlike RFC 9110.
        let range = HeaderValue::try_from(format!("{start}-{}", end.saturating_sub(1)));
        call.headers.insert(
            header::CONTENT_RANGE,
            range.expect("digits are a header value"),
        );
        call.payload = Payload::Stream(content, length);
        let authorization = call.authorization.clone();
        let response = self.call(&upload.repository, call).await?;
        // ECR answers 201, others 204.
        if !matches!(response.status().as_u16(), 200..=204) {
            return Err(self
                .upload_failure(upload, &action, response, authorization)
                .await);
        }
        upload
            .follow(&request, response.headers())
            .map_err(|problem| protocol(&action, problem))?;
        upload.received = match received(response.headers()) {
            Some(received) if received > end => {
                return Err(protocol(&action, "it has more of an upload than was sent"));
            }
            Some(received) => received,
            None => end,
        };
        if upload.received == end {
            return Ok(());
        }
        Err(Error::UploadLost {
            action,
            problem: "it has taken a part of a chunk",
        })
    }

    /// Sends a blob's bytes into an upload, in one request, and closes it. Of an upload that some chunks went into,
    /// `content` is the rest.
    pub async fn finish_upload(
        &self,
        upload: Upload,
        descriptor: &Descriptor,
        content: Content,
    ) -> Result<()> {
        let action = push_action(&upload.repository, &descriptor.digest);
        let mut location = upload.location.clone();
        location
            .query_pairs_mut()
            .append_pair("digest", descriptor.digest.as_str());
        let mut call = Call::new(Method::PUT, location, &action);
        call.authorization = self.upload_authorization(&upload, &action).await?;
        octets(&mut call.headers);
        call.payload = match descriptor.size.saturating_sub(upload.received) {
            0 => Payload::Empty,
            size => {
                let exact = exactly(content, size, action.clone());
                Payload::Stream(exact.boxed(), size)
            }
        };
        let authorization = call.authorization.clone();
        let response = self.call(&upload.repository, call).await?;
        match response.status() {
            StatusCode::CREATED | StatusCode::OK | StatusCode::NO_CONTENT => Ok(()),
            _ => Err(self
                .upload_failure(&upload, &action, response, authorization)
                .await),
        }
    }

    /// Gives an upload up, so that the registry need not keep what it is for.
    pub async fn cancel_upload(&self, upload: Upload) -> Result<()> {
        let Upload {
            repository,
            location,
            ours,
            ..
        } = upload;
        if !ours {
            return Ok(());
        }
        let action = format!("cancel an upload to {repository}");
        let ask = Ask::new(Method::DELETE, location, &repository, Access::Push, &action);
        let response = self.send(&ask).await?;
        if response.status().is_success() || response.status() == StatusCode::NOT_FOUND {
            return Ok(());
        }
        Err(self.failure(&repository, &action, response).await)
    }

    /// As [`Self::cancel_upload`], by one request, whatever comes of it: the registry clears away in the end.
    pub(crate) async fn forget_upload(&self, upload: Upload) {
        let action = format!("cancel an upload to {}", upload.repository);
        let mut call = Call::new(Method::DELETE, upload.location.clone(), &action);
        match self.upload_authorization(&upload, &action).await {
            Ok(authorization) if upload.ours => call.authorization = authorization,
            _ => return,
        }
        if let Err(error) = self.call(&upload.repository, call).await {
            tracing::debug!(action, %error, "the upload is left");
        }
    }

    async fn upload_authorization(
        &self,
        upload: &Upload,
        action: &str,
    ) -> Result<Option<HeaderValue>> {
        if !upload.ours {
            return Ok(None);
        }
        let ask = Ask::new(
            Method::PUT,
            upload.location.clone(),
            &upload.repository,
            Access::Push,
            action,
        );
        self.prepared_authorization(&ask).await
    }

    /// The error of a request with bytes of an upload. A session that is gone is begun anew, a token that was refused is
    /// not used again.
    async fn upload_failure(
        &self,
        upload: &Upload,
        action: &str,
        response: Response,
        authorization: Option<HeaderValue>,
    ) -> Error {
        let is_lost = matches!(response.status().as_u16(), 404 | 410 | 416);
        if response.status() == StatusCode::UNAUTHORIZED
            && let Some(refused) = authorization
            && self.tokens().discard(&refused)
        {
            return Error::UploadLost {
                action: action.to_owned(),
                problem: "the token ended before the upload",
            };
        }
        let error = self.failure(&upload.repository, action, response).await;
        let code = error.code().map(ErrorCode::as_str);
        let says_lost = matches!(
            code,
            Some("BLOB_UPLOAD_UNKNOWN" | "BLOB_UPLOAD_INVALID" | "RANGE_INVALID")
        );
        if is_lost || says_lost {
            return Error::UploadLost {
                action: action.to_owned(),
                problem: "the registry has lost the upload",
            };
        }
        error
    }
}

fn push_action(repository: &Repository, digest: &Digest) -> String {
    format!("push blob {repository}@{digest}")
}

fn octets(headers: &mut HeaderMap) {
    let octets = HeaderValue::from_static("application/octet-stream");
    headers.insert(header::CONTENT_TYPE, octets);
}

/// How much a registry has of an upload, by its `Range` (`0-<last byte>`). An empty upload and one of a single byte look
/// alike (`0-0`); that counts as empty, since going on there is refused where it is wrong.
fn received(headers: &HeaderMap) -> Option<u64> {
    let range = headers.get(header::RANGE)?.to_str().ok()?.trim();
    let range = range.strip_prefix("bytes=").unwrap_or(range);
    let last: u64 = range.strip_prefix("0-")?.parse().ok()?;
    if last == 0 {
        Some(0)
    } else {
        last.checked_add(1)
    }
}

/// Where an upload goes on, and whether that is still the registry that `request` went to.
fn upload_location(request: &Url, location: &str) -> Result<(Url, bool), &'static str> {
    let url = request
        .join(location)
        .map_err(|_| "it opened an upload at a malformed Location")?;
    // Behind a proxy that ends TLS, a registry may not know that it is reached by https.
    let url = behind_tls(url, request);
    if !matches!(url.scheme(), "http" | "https") {
        return Err("it opened an upload that is neither http nor https");
    }
    if request.scheme() == "https" && url.scheme() == "http" {
        return Err("it opened an upload without TLS");
    }
    let ours = url.origin() == request.origin();
    Ok((url, ours))
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
            ("http://h:5000/u", Ok(("https://h:5000/u", true))),
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

    #[test]
    fn registries_tell_how_far_an_upload_is() {
        for (range, expected) in [
            ("0-0", Some(0)),
            ("0-1", Some(2)),
            ("0-1048575", Some(1_048_576)),
            ("bytes=0-9", Some(10)),
            ("5-9", None),
            ("0-", None),
            ("0--1", None),
            ("0-18446744073709551615", None),
            ("0-18446744073709551616", None),
        ] {
            let headers = HeaderMap::from_iter([(header::RANGE, range.parse().unwrap())]);
            assert_eq!(received(&headers), expected, "{range}");
        }
    }

    #[test]
    fn a_saved_upload_shows_no_location() {
        let saved = SavedUpload {
            location: Url::parse("https://h/u?_state=s3cret").unwrap(),
            received: 7,
        };
        assert!(!format!("{saved:?}").contains("s3cret"));
        let json = serde_json::to_string(&saved).unwrap();
        assert_eq!(serde_json::from_str::<SavedUpload>(&json).unwrap(), saved);
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
