//! What a server says of an answer so that it can be asked later whether there is another one (RFC 9110, section 13).

use http::{HeaderMap, HeaderValue, header};

use super::Response;

/// What tells one version of something behind a URL from another.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Validators {
    /// `ETag`
    pub etag: Option<String>,
    /// `Last-Modified`
    pub last_modified: Option<String>,
}

impl Validators {
    /// Those of an answer.
    pub fn of(response: &Response) -> Self {
        let text = |name| response.header(name).map(str::to_owned);
        Self {
            etag: text(header::ETAG),
            last_modified: text(header::LAST_MODIFIED),
        }
    }

    /// Whether the server says anything.
    pub fn is_empty(&self) -> bool {
        self.etag.is_none() && self.last_modified.is_none()
    }

    /// The headers that ask for the body only where there is another one.
    pub(super) fn to_headers(&self) -> HeaderMap {
        let mut headers = HeaderMap::new();
        // The date counts only where there is no tag, for servers and for us.
        let (name, value) = match (&self.etag, &self.last_modified) {
            (Some(etag), _) => (header::IF_NONE_MATCH, etag),
            (None, Some(date)) => (header::IF_MODIFIED_SINCE, date),
            (None, None) => return headers,
        };
        headers.extend(HeaderValue::from_str(value).ok().map(|value| (name, value)));
        headers
    }
}
