//! What a failure is, decided in one place: the reason that people are told, and whether the same request is worth another
//! attempt. Pure. How long to wait in between is decided in `retry`.
//!
//! | Failure | Reason | Again |
//! |---|---|---|
//! | 408, 425, 429, code TOOMANYREQUESTS | Unavailable | patiently |
//! | 500, 502, 503, 504 and other 5xx | Unavailable | patiently |
//! | 501, 505, 507, 508, 510, 511: not this server, not now | Refused | never |
//! | name not resolved, connection refused or reset, end of file in the headers or in a body, nothing for too long, too slow | Unavailable | patiently |
//! | an upload session that the registry has lost | Unavailable | patiently |
//! | certificate not trusted, server without TLS, client certificate refused | Certificate | never |
//! | digest or length wrong, here or by the registry's word (DIGEST_INVALID, SIZE_INVALID) | DigestMismatch | once |
//! | 401, 403 | Unauthorized | never |
//! | 404 | NotFound | never |
//! | address refused by the guard | AddressRefused | never |
//! | everything else | Refused, TooLarge, InvalidManifest, Local | never |

use crate::{Error, ErrorKind, Outage};

/// Whether the same request may be made again.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Again {
    /// It would fail in the same way.
    Never,
    /// It may have been an accident on the way; a second one of the same kind is none.
    Once,
    /// It may pass, with pauses in between.
    Patiently,
}

impl Error {
    /// The kind of this error.
    pub fn kind(&self) -> ErrorKind {
        match self {
            Self::Unauthorized { .. } => ErrorKind::Unauthorized,
            Self::NotFound { .. } | Self::PlatformMissing { .. } => ErrorKind::NotFound,
            Self::Unavailable { .. } | Self::UploadLost { .. } => ErrorKind::Unavailable,
            Self::Refused { .. } if self.is_mismatch_there() => ErrorKind::DigestMismatch,
            Self::Refused { .. } | Self::Protocol { .. } | Self::ForeignLayer(_) => {
                ErrorKind::Refused
            }
            Self::DigestMismatch { .. } | Self::SizeMismatch { .. } => ErrorKind::DigestMismatch,
            Self::TooLarge { .. } | Self::TooComplex { .. } => ErrorKind::TooLarge,
            Self::AddressRefused { .. } => ErrorKind::AddressRefused,
            Self::Certificate { .. } | Self::Tls { .. } => ErrorKind::Certificate,
            Self::Document { .. } => ErrorKind::InvalidManifest,
            Self::Untrusted(_) => ErrorKind::Untrusted,
            Self::Url { .. } | Self::Settings(_) | Self::Io { .. } => ErrorKind::Local,
        }
    }

    /// Whether the same request is worth another attempt.
    pub fn again(&self) -> Again {
        match self {
            Self::Unavailable { .. } | Self::UploadLost { .. } => Again::Patiently,
            Self::DigestMismatch { .. } | Self::SizeMismatch { .. } => Again::Once,
            Self::Refused { .. } if self.is_mismatch_there() => Again::Once,
            _ => Again::Never,
        }
    }

    /// Whether the same request may succeed later without anybody changing anything.
    pub fn is_transient(&self) -> bool {
        self.again() == Again::Patiently
    }

    /// Whether the registry found that the bytes are not those of the digest.
    fn is_mismatch_there(&self) -> bool {
        let code = self.code().map(crate::ErrorCode::as_str);
        matches!(code, Some("DIGEST_INVALID" | "SIZE_INVALID"))
    }
}

/// Whether a status says that the server fails at the moment, rather than that it never does what is asked.
pub(crate) const fn is_outage(status: u16) -> bool {
    matches!(status, 500..=599) && !matches!(status, 501 | 505 | 507 | 508 | 510 | 511)
}

/// The way in which a server is unavailable, as far as the status and the registry's code tell.
pub(crate) fn outage_of(status: u16, code: Option<&str>) -> Option<Outage> {
    match (status, code) {
        (429, _) | (400..=599, Some("TOOMANYREQUESTS")) => Some(Outage::RateLimited),
        (408 | 425, _) => Some(Outage::Status(status)),
        _ if is_outage(status) => Some(Outage::Status(status)),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use http::StatusCode;
    use oci::Digest;

    use super::*;
    use crate::ErrorCode;

    fn status(status: u16, code: &str) -> Error {
        let body = format!(r#"{{"errors":[{{"code":"{code}"}}]}}"#);
        let code = ErrorCode::of_body(body.as_bytes());
        let status = StatusCode::from_u16(status).unwrap();
        Error::of_status("pull", status, code, false, Some(Duration::from_secs(1)))
    }

    fn outage(outage: Outage) -> Error {
        Error::Unavailable {
            action: "pull".into(),
            outage,
            retry_after: None,
        }
    }

    #[test]
    fn every_failure_has_a_reason_and_a_verdict() {
        use Again::{Never, Once, Patiently};
        use ErrorKind as Kind;
        let digest = Digest::of(b"");
        let mismatch = Error::DigestMismatch {
            action: "pull".into(),
            expected: digest.clone(),
            found: Digest::of(b"x"),
        };
        let short = Error::SizeMismatch {
            action: "pull".into(),
            expected: 1,
            found: 0,
        };
        let lost = Error::UploadLost {
            action: "push".into(),
            problem: "lost",
        };
        let tls = Error::Tls {
            action: "pull".into(),
            host: "h".into(),
            problem: "no TLS".into(),
        };
        for (error, kind, again) in [
            (status(400, ""), Kind::Refused, Never),
            (status(400, "NAME_INVALID"), Kind::Refused, Never),
            (status(400, "DIGEST_INVALID"), Kind::DigestMismatch, Once),
            (status(400, "SIZE_INVALID"), Kind::DigestMismatch, Once),
            (status(400, "MANIFEST_BLOB_UNKNOWN"), Kind::Refused, Never),
            (status(400, "TOOMANYREQUESTS"), Kind::Unavailable, Patiently),
            (status(401, "UNAUTHORIZED"), Kind::Unauthorized, Never),
            (status(403, "DENIED"), Kind::Unauthorized, Never),
            (status(403, "TOOMANYREQUESTS"), Kind::Unavailable, Patiently),
            (status(404, "MANIFEST_UNKNOWN"), Kind::NotFound, Never),
            (status(405, "UNSUPPORTED"), Kind::Refused, Never),
            (status(408, ""), Kind::Unavailable, Patiently),
            (status(410, ""), Kind::Refused, Never),
            (status(413, ""), Kind::Refused, Never),
            (status(416, ""), Kind::Refused, Never),
            (status(425, ""), Kind::Unavailable, Patiently),
            (status(429, ""), Kind::Unavailable, Patiently),
            (status(500, "UNKNOWN"), Kind::Unavailable, Patiently),
            (status(501, ""), Kind::Refused, Never),
            (status(502, ""), Kind::Unavailable, Patiently),
            (status(503, ""), Kind::Unavailable, Patiently),
            (status(504, ""), Kind::Unavailable, Patiently),
            (status(505, ""), Kind::Refused, Never),
            (status(507, ""), Kind::Refused, Never),
            (status(511, ""), Kind::Refused, Never),
            (status(522, ""), Kind::Unavailable, Patiently),
            (outage(Outage::Dns), Kind::Unavailable, Patiently),
            (
                outage(Outage::Connect("refused".into())),
                Kind::Unavailable,
                Patiently,
            ),
            (outage(Outage::Timeout), Kind::Unavailable, Patiently),
            (outage(Outage::Slow), Kind::Unavailable, Patiently),
            (
                outage(Outage::Broken("end of file".into())),
                Kind::Unavailable,
                Patiently,
            ),
            (lost, Kind::Unavailable, Patiently),
            (mismatch, Kind::DigestMismatch, Once),
            (short, Kind::DigestMismatch, Once),
            (tls, Kind::Certificate, Never),
            (Error::ForeignLayer(digest), Kind::Refused, Never),
            (Error::Untrusted("x".into()), Kind::Untrusted, Never),
            (Error::Settings("x".into()), Kind::Local, Never),
        ] {
            assert_eq!((error.kind(), error.again()), (kind, again), "{error}");
            assert_eq!(error.is_transient(), again == Patiently);
        }
    }

    #[test]
    fn statuses_are_asked_again_as_their_errors_are() {
        for number in 400..600 {
            let error = status(number, "");
            let asked = crate::retry::is_transient_status(StatusCode::from_u16(number).unwrap());
            assert_eq!(asked, error.is_transient(), "{number}");
            assert_eq!(error.retry_after().is_some(), asked, "{number}");
        }
    }
}
