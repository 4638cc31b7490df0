//! An answer and its body: bounded, and given up where it does not get on.

use std::time::Duration;

use bytes::{Bytes, BytesMut};
use futures::{StreamExt, TryStreamExt, stream::BoxStream};
use http::{HeaderMap, StatusCode, header};
use tokio::{io::AsyncRead, time::Instant};
use tokio_util::io::StreamReader;
use url::Url;

use super::{
    failure::{outage, transport_error},
    progress::Clock,
};
use crate::{Error, Outage, Result};

/// An answer whose headers have come and whose body is still on its way.
#[derive(Debug)]
pub struct Response {
    inner: reqwest::Response,
    url: Url,
    action: String,
    clock: Clock,
}

impl Response {
    pub(super) fn new(
        inner: reqwest::Response,
        url: Url,
        action: &str,
        idle_timeout: Duration,
    ) -> Self {
        Self {
            inner,
            url,
            action: action.to_owned(),
            clock: Clock::new(idle_timeout),
        }
    }

    /// The status.
    pub fn status(&self) -> StatusCode {
        self.inner.status()
    }

    /// The headers.
    pub fn headers(&self) -> &HeaderMap {
        self.inner.headers()
    }

    /// The URL that answered, after redirects.
    pub fn url(&self) -> &Url {
        &self.url
    }

    /// The length that the server announces.
    pub fn content_length(&self) -> Option<u64> {
        let value = self.headers().get(header::CONTENT_LENGTH)?;
        value.to_str().ok()?.parse().ok()
    }

    /// The text of a header, where it is there and is text.
    pub(crate) fn header(&self, name: impl header::AsHeaderName) -> Option<&str> {
        self.headers().get(name)?.to_str().ok()
    }

    /// The whole body.
    ///
    /// # Errors
    /// [`Error::TooLarge`] as soon as it has more than `limit` bytes, or announces more.
    pub async fn bytes_bounded(mut self, limit: u64) -> Result<Bytes> {
        let too_large = |action: &str| Error::TooLarge {
            action: action.to_owned(),
            limit,
        };
        if self.content_length().is_some_and(|length| length > limit) {
            return Err(too_large(&self.action));
        }
        let mut body = BytesMut::new();
        while let Some(chunk) = self.chunk().await? {
            if self.clock.is_overdue() {
                return Err(outage(&self.action, Outage::Slow));
            }
            if body.len() as u64 + chunk.len() as u64 > limit {
                return Err(too_large(&self.action));
            }
            body.extend_from_slice(&chunk);
        }
        Ok(body.freeze())
    }

    /// The body as it comes, unbounded.
    pub fn into_stream(self) -> BoxStream<'static, Result<Bytes>> {
        futures::stream::try_unfold(self, async |mut response| {
            Ok(response.chunk().await?.map(|chunk| (chunk, response)))
        })
        .boxed()
    }

    /// The body as it comes, unbounded. Errors of this crate are inside of the I/O errors.
    pub fn into_reader(self) -> impl AsyncRead + Send + Unpin + 'static {
        StreamReader::new(self.into_stream().map_err(Error::into_io))
    }

    async fn chunk(&mut self) -> Result<Option<Bytes>> {
        let began = Instant::now();
        let chunk = tokio::time::timeout(self.clock.left(), self.inner.chunk()).await;
        match chunk {
            Ok(Ok(chunk)) => {
                let length = chunk.as_ref().map_or(0, Bytes::len);
                self.clock.note(began.elapsed(), length);
                Ok(chunk)
            }
            Ok(Err(error)) => Err(transport_error(&self.action, &self.url, &error)),
            Err(_) => Err(outage(&self.action, self.clock.verdict())),
        }
    }
}
