//! What can go wrong with a registry, in kinds that callers map to reasons. Messages name images and hosts; they quote
//! no URL beyond scheme, host and path, and of a server's body nothing but its error code.

use std::{fmt, time::Duration};

use oci::{Digest, DocumentError};
use url::Url;

use crate::classify::outage_of;

/// A failed exchange with a registry or another server.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The server wants other credentials than it got.
    #[error("{action}: {}{}", unauthorized(*.anonymous), Suffix(.code.as_ref()))]
    Unauthorized {
        /// What was being done, `pull manifest docker.io/library/alpine:3`.
        action: String,
        /// Whether no credentials were known for the host.
        anonymous: bool,
        /// The registry's error code.
        code: Option<ErrorCode>,
    },
    /// There is no such repository, manifest or blob.
    #[error("{action}: not found{}", Suffix(.code.as_ref()))]
    NotFound {
        /// What was being done.
        action: String,
        /// The registry's error code.
        code: Option<ErrorCode>,
    },
    /// The server cannot be reached, fails, or asks to come back later. Trying again may help.
    #[error("{action}: {outage}")]
    Unavailable {
        /// What was being done.
        action: String,
        /// In which way.
        outage: Outage,
        /// How long the server asks to wait.
        retry_after: Option<Duration>,
    },
    /// What was sent of a blob is gone at the registry. Sending it again may help.
    #[error("{action}: {problem}")]
    UploadLost {
        /// What was being done.
        action: String,
        /// What became of the upload.
        problem: &'static str,
    },
    /// The server understood and said no.
    #[error("{action}: the registry answered {status}{}", Suffix(.code.as_ref()))]
    Refused {
        /// What was being done.
        action: String,
        /// The HTTP status.
        status: u16,
        /// The registry's error code.
        code: Option<ErrorCode>,
    },
    /// The server does not keep to the specification, or asks for what is never done.
    #[error("{action}: {problem}")]
    Protocol {
        /// What was being done.
        action: String,
        /// What the server did.
        problem: &'static str,
    },
    /// The bytes are not those of the digest.
    #[error("{action}: expected {expected}, but the content is {found}")]
    DigestMismatch {
        /// What was being done.
        action: String,
        /// The digest asked for.
        expected: Digest,
        /// The digest of what came.
        found: Digest,
    },
    /// The content has another length than its descriptor says.
    #[error("{action}: expected {expected} bytes, but got {found}")]
    SizeMismatch {
        /// What was being done.
        action: String,
        /// The size in the descriptor.
        expected: u64,
        /// The bytes that came, or were announced.
        found: u64,
    },
    /// The answer is larger than is accepted.
    #[error("{action}: the answer has more than {limit} bytes")]
    TooLarge {
        /// What was being done.
        action: String,
        /// The limit in bytes.
        limit: u64,
    },
    /// The image has more manifests, or is nested deeper, than is accepted.
    #[error("{action}: the image has {problem}")]
    TooComplex {
        /// What was being done.
        action: String,
        /// Which limit is exceeded.
        problem: &'static str,
    },
    /// The network guard does not let a connection to this address through.
    #[error("connections to {host} are refused: {reason}")]
    AddressRefused {
        /// The host as the URL names it.
        host: String,
        /// The class of the address.
        reason: &'static str,
    },
    /// The server's certificate is not trusted.
    #[error("{action}: the certificate of {host} is not trusted: {problem}")]
    Certificate {
        /// What was being done.
        action: String,
        /// The host.
        host: String,
        /// What the verifier found.
        problem: String,
    },
    /// The server does not speak TLS, or not with us.
    #[error("{action}: no TLS with {host}: {problem}")]
    Tls {
        /// What was being done.
        action: String,
        /// The host.
        host: String,
        /// What happened, and what to do about it.
        problem: String,
    },
    /// A layer whose bytes are to be fetched from a URL in the manifest; such URLs are not followed.
    #[error("layer {0} is a foreign layer: its bytes are not in the registry")]
    ForeignLayer(Digest),
    /// The manifest cannot be read.
    #[error("{action}: invalid manifest")]
    Document {
        /// What was being done.
        action: String,
        /// What is wrong with it.
        source: DocumentError,
    },
    /// None of the platforms that are wanted is in the index.
    #[error("the index {digest} has no image for {platforms}")]
    PlatformMissing {
        /// The index.
        digest: Digest,
        /// The platforms that are wanted.
        platforms: String,
    },
    /// The image may not be copied: who decides about it does not trust it. The message is theirs.
    #[error("{0}")]
    Untrusted(String),
    /// A URL that is not followed: malformed, of another scheme than http and https, or with a user name in it.
    #[error("`{url}` is not accepted: {problem}")]
    Url {
        /// The URL without user, password and query.
        url: String,
        /// What is wrong with it.
        problem: &'static str,
    },
    /// The client cannot be made from these settings.
    #[error("invalid network settings: {0}")]
    Settings(String),
    /// A file on this side cannot be read or written.
    #[error("{action}")]
    Io {
        /// What was being done.
        action: String,
        /// The system's error.
        source: std::io::Error,
    },
}

/// In which way a server is unavailable.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Outage {
    /// The name has no address.
    #[error("the name of the server cannot be resolved")]
    Dns,
    /// No connection could be made.
    #[error("no connection to the server: {0}")]
    Connect(String),
    /// Nothing came for too long.
    #[error("the server did not answer in time")]
    Timeout,
    /// Bytes came, but so few that it would not end.
    #[error("the server is too slow")]
    Slow,
    /// The connection broke in the middle.
    #[error("the connection broke: {0}")]
    Broken(String),
    /// The server asks for fewer requests (429).
    #[error("the server asks to slow down (429)")]
    RateLimited,
    /// The server failed (5xx).
    #[error("the server failed with status {0}")]
    Status(u16),
}

/// The kind of an [`Error`], stable, for reasons and metric labels.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum ErrorKind {
    /// Credentials missing or refused.
    Unauthorized,
    /// No such content.
    NotFound,
    /// Unreachable, failing or rate limited: transient.
    Unavailable,
    /// The server said no, or broke the specification.
    Refused,
    /// Digest or length of the content is wrong.
    DigestMismatch,
    /// A bound was exceeded.
    TooLarge,
    /// The network guard refused the address.
    AddressRefused,
    /// The certificate is not trusted.
    Certificate,
    /// A manifest that cannot be read.
    InvalidManifest,
    /// The image is not trusted.
    Untrusted,
    /// A mistake in settings or a failure of this machine.
    Local,
}

impl ErrorKind {
    /// The kind as a CamelCase word.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Unauthorized => "Unauthorized",
            Self::NotFound => "NotFound",
            Self::Unavailable => "Unavailable",
            Self::Refused => "Refused",
            Self::DigestMismatch => "DigestMismatch",
            Self::TooLarge => "TooLarge",
            Self::AddressRefused => "AddressRefused",
            Self::Certificate => "Certificate",
            Self::InvalidManifest => "InvalidManifest",
            Self::Untrusted => "Untrusted",
            Self::Local => "Local",
        }
    }
}

impl Error {
    /// The registry's error code, where it gave one.
    pub const fn code(&self) -> Option<&ErrorCode> {
        match self {
            Self::Unauthorized { code, .. }
            | Self::NotFound { code, .. }
            | Self::Refused { code, .. } => code.as_ref(),
            _ => None,
        }
    }

    /// Whether the server asked for fewer requests.
    pub(crate) const fn is_rate_limit(&self) -> bool {
        matches!(
            self,
            Self::Unavailable {
                outage: Outage::RateLimited,
                ..
            }
        )
    }

    /// How long the server asks to wait before the next request.
    pub const fn retry_after(&self) -> Option<Duration> {
        match self {
            Self::Unavailable { retry_after, .. } => *retry_after,
            _ => None,
        }
    }

    /// This error as an I/O error, from which `downcast` gets it back.
    pub fn into_io(self) -> std::io::Error {
        let kind = match self.kind() {
            ErrorKind::Unauthorized | ErrorKind::AddressRefused => {
                std::io::ErrorKind::PermissionDenied
            }
            ErrorKind::NotFound => std::io::ErrorKind::NotFound,
            ErrorKind::Unavailable => std::io::ErrorKind::ConnectionAborted,
            _ => std::io::ErrorKind::InvalidData,
        };
        std::io::Error::new(kind, self)
    }

    /// The error for an answer with a status that is none of those expected.
    pub(crate) fn of_status(
        action: &str,
        status: http::StatusCode,
        code: Option<ErrorCode>,
        anonymous: bool,
        retry_after: Option<Duration>,
    ) -> Self {
        let action = action.to_owned();
        let text = code.as_ref().map(ErrorCode::as_str);
        if let Some(outage) = outage_of(status.as_u16(), text) {
            return Self::Unavailable {
                action,
                outage,
                retry_after,
            };
        }
        match status.as_u16() {
            401 | 403 => Self::Unauthorized {
                action,
                anonymous,
                code,
            },
            404 => Self::NotFound { action, code },
            status => Self::Refused {
                action,
                status,
                code,
            },
        }
    }
}

/// The error code of a registry (`MANIFEST_UNKNOWN`): capital letters, digits and underscores, nothing else of its answer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ErrorCode(Box<str>);

impl ErrorCode {
    /// The code of the first error in a body of the specification's form, if it has one.
    pub(crate) fn of_body(body: &[u8]) -> Option<Self> {
        #[derive(serde::Deserialize)]
        struct Body {
            errors: Vec<Entry>,
        }
        #[derive(serde::Deserialize)]
        struct Entry {
            code: String,
        }
        let body: Body = serde_json::from_slice(body).ok()?;
        let code = body.errors.into_iter().next()?.code;
        let word = |b: u8| b.is_ascii_uppercase() || b.is_ascii_digit() || b == b'_';
        (!code.is_empty() && code.len() <= 64 && code.bytes().all(word)).then(|| Self(code.into()))
    }

    /// The text.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

struct Suffix<'a>(Option<&'a ErrorCode>);

impl fmt::Display for Suffix<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.0 {
            Some(code) => write!(f, " ({})", code.0),
            None => Ok(()),
        }
    }
}

const fn unauthorized(anonymous: bool) -> &'static str {
    if anonymous {
        "access denied: no credentials are known for this repository"
    } else {
        "access denied: the credentials are wrong or lack the right"
    }
}

/// A URL as messages may show it: without user, password, query and fragment.
pub(crate) fn masked(url: &Url) -> String {
    let mut url = url.clone();
    // These fail only for URLs that cannot have a user, which then have none.
    let _ = url.set_username("");
    let _ = url.set_password(None);
    url.set_query(None);
    url.set_fragment(None);
    url.into()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_code_of_a_body_is_quoted() {
        let code = |body: &str| ErrorCode::of_body(body.as_bytes()).map(|c| c.0.to_string());
        assert_eq!(
            code(r#"{"errors":[{"code":"MANIFEST_UNKNOWN","message":"x"}]}"#).unwrap(),
            "MANIFEST_UNKNOWN"
        );
        for body in [
            "",
            "<html>",
            r#"{"errors":[]}"#,
            r#"{"errors":[{"code":"<script>"}]}"#,
            r#"{"errors":[{"code":""}]}"#,
        ] {
            assert_eq!(code(body), None, "{body}");
        }
    }

    #[test]
    fn masked_urls_have_no_secrets() {
        let url = Url::parse("https://user:pw@host:1/path?X-Amz-Signature=abc#f").unwrap();
        assert_eq!(masked(&url), "https://host:1/path");
    }
}
