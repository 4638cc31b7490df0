//! A range of a blob on its way in: requested, checked to be that range, and gone on with where a connection broke.
//! Digests are not its matter.

use std::{
    ops::Range,
    sync::{Arc, Mutex, PoisonError},
};

use bytes::{Buf, Bytes};
use futures::{Stream, StreamExt, stream::BoxStream};
use http::{HeaderValue, Method, StatusCode, header};
use oci::{Descriptor, Repository};
use url::Url;

use crate::{
    Client, Error, Response, Result,
    client::{Access, Ask},
    http::{Call, protocol},
};

/// The bytes that must come between interruptions for their count to begin anew, so that a server which lets go after a
/// few bytes each time is given up.
const PROGRESS: u64 = 1024 * 1024;

/// What came so far of a range, and where the rest comes from.
pub(super) struct Download {
    client: Client,
    repository: Repository,
    descriptor: Descriptor,
    action: String,
    /// The next byte that is wanted.
    position: u64,
    /// The byte behind the last that is wanted.
    end: u64,
    /// `None` before the first request and after a broken connection.
    source: Option<BoxStream<'static, Result<Bytes>>>,
    /// Whether the source gives the whole blob, whatever was asked for.
    is_whole: bool,
    /// Interruptions since enough bytes came.
    interruptions: u32,
    /// Where the count of interruptions began.
    floor: u64,
    store: Option<Arc<Store>>,
}

/// The place that a registry redirects to for a blob, as long as it answers: other ranges need not ask the registry.
#[derive(Default)]
pub(super) struct Store(Mutex<Option<Url>>);

impl Store {
    fn get(&self) -> Option<Url> {
        self.lock().clone()
    }

    fn set(&self, url: Option<Url>) {
        *self.lock() = url;
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, Option<Url>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Download {
    pub(super) fn new(
        client: &Client,
        repository: &Repository,
        descriptor: &Descriptor,
        range: Range<u64>,
        store: Option<Arc<Store>>,
    ) -> Self {
        Self {
            client: client.clone(),
            repository: repository.clone(),
            descriptor: descriptor.clone(),
            action: format!("pull blob {repository}@{}", descriptor.digest),
            position: range.start,
            end: range.end,
            source: None,
            is_whole: false,
            interruptions: 0,
            floor: range.start,
            store,
        }
    }

    /// Makes the first request, so that an error of it is not an error of reading.
    pub(super) async fn begin(mut self) -> Result<Self> {
        self.source = Some(self.open().await?);
        Ok(self)
    }

    /// Whether its server gives the whole blob for a range of it.
    pub(super) const fn is_whole(&self) -> bool {
        self.is_whole
    }

    /// This, up to the end of the blob.
    pub(super) fn widened(mut self) -> Self {
        self.end = self.descriptor.size;
        self
    }

    /// The bytes, exactly as many as are wanted.
    pub(super) fn into_stream(self) -> impl Stream<Item = Result<Bytes>> + Send + 'static {
        futures::stream::try_unfold(self, async |mut download| {
            Ok(download.next().await?.map(|bytes| (bytes, download)))
        })
    }

    /// All bytes at once.
    pub(super) async fn collect(mut self) -> Result<Bytes> {
        let size = usize::try_from(self.end - self.position).unwrap_or(0);
        let mut all = Vec::with_capacity(size);
        while let Some(bytes) = self.next().await? {
            all.extend_from_slice(&bytes);
        }
        Ok(all.into())
    }

    async fn next(&mut self) -> Result<Option<Bytes>> {
        loop {
            if self.position == self.end && self.end < self.descriptor.size {
                return Ok(None);
            }
            let Some(source) = &mut self.source else {
                // It tries as often as is allowed.
                self.source = Some(self.open().await?);
                continue;
            };
            let error = match source.next().await {
                Some(Ok(bytes)) => return self.advance(bytes).map(Some),
                Some(Err(error)) => error,
                None if self.position == self.end => return Ok(None),
                None => self.size_mismatch(self.position),
            };
            self.source = None;
            self.client
                .pause_or_give_up(&self.repository, error, self.interruptions, &self.action)
                .await?;
            self.interruptions += 1;
        }
    }

    fn advance(&mut self, mut bytes: Bytes) -> Result<Bytes> {
        let left = self.end - self.position;
        if bytes.len() as u64 > left {
            // Of the whole of a blob, only the range is wanted; everything else was asked for exactly.
            if !self.is_whole || self.end == self.descriptor.size {
                return Err(self.size_mismatch(self.position + bytes.len() as u64));
            }
            bytes.truncate(usize::try_from(left).unwrap_or(usize::MAX));
        }
        self.position += bytes.len() as u64;
        if self.position - self.floor >= PROGRESS {
            (self.interruptions, self.floor) = (0, self.position);
        }
        Ok(bytes)
    }

    /// Requests what is missing.
    async fn open(&mut self) -> Result<BoxStream<'static, Result<Bytes>>> {
        let is_part = self.position > 0 || self.end < self.descriptor.size;
        let range = is_part.then(|| {
            let text = if self.end == self.descriptor.size {
                format!("bytes={}-", self.position)
            } else {
                format!("bytes={}-{}", self.position, self.end.saturating_sub(1))
            };
            HeaderValue::try_from(text).expect("digits are a header value")
        });
        let response = match self.ask_store(range.as_ref()).await {
            Some(response) => response,
            None => self.ask_registry(range.as_ref()).await?,
        };
        match response.status() {
            StatusCode::OK => {
                if let Some(found) = response.content_length()
                    && found != self.descriptor.size
                {
                    return Err(self.size_mismatch(found));
                }
                self.is_whole = true;
                Ok(skip(response.into_stream(), self.position))
            }
            StatusCode::PARTIAL_CONTENT if is_part => {
                if !self.is_wanted(&response) {
                    let problem = "it sent another range than was asked for";
                    return Err(protocol(&self.action, problem));
                }
                self.is_whole = false;
                Ok(response.into_stream())
            }
            _ => Err(self
                .client
                .failure(&self.repository, &self.action, response)
                .await),
        }
    }

    async fn ask_registry(&mut self, range: Option<&HeaderValue>) -> Result<Response> {
        let path = format!("blobs/{}", self.descriptor.digest);
        let url = self.client.url(&self.repository, &path)?;
        let origin = url.origin();
        let mut ask = Ask::new(
            Method::GET,
            url,
            &self.repository,
            Access::Pull,
            &self.action,
        );
        if let Some(range) = range {
            ask.headers.insert(header::RANGE, range.clone());
        }
        let response = self.client.send(&ask).await?;
        if let Some(store) = &self.store
            && response.url().origin() != origin
        {
            store.set(Some(response.url().clone()));
        }
        Ok(response)
    }

    /// The answer of the place that the registry redirected to before; `None` where there is none, or it gives no range
    /// any more (such URLs are valid for minutes).
    async fn ask_store(&mut self, range: Option<&HeaderValue>) -> Option<Response> {
        let (store, range) = (self.store.as_ref()?, range?);
        let mut call = Call::new(Method::GET, store.get()?, &self.action);
        call.headers.insert(header::RANGE, range.clone());
        let answer = self.client.http().exchange(call).await.ok();
        let answer = answer.filter(|answer| answer.status() == StatusCode::PARTIAL_CONTENT);
        if answer.is_none() {
            store.set(None);
        }
        answer
    }

    /// Whether `Content-Range` says `bytes <position>-<last>/<size>`.
    fn is_wanted(&self, response: &Response) -> bool {
        let (size, last) = (self.descriptor.size, self.end.saturating_sub(1));
        let range = response.header(header::CONTENT_RANGE).map(str::trim);
        range == Some(&format!("bytes {}-{last}/{size}", self.position))
            || range == Some(&format!("bytes {}-{last}/*", self.position))
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
