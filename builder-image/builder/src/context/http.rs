//! A context from an archive behind an `http:` or `https:` URL. The transport and its rules are those of `distribution`;
//! unpacking is in [`super::archive`].

use std::{io::Write as _, path::Path};

use distribution::Validators;
use futures::StreamExt;
use oci::Digester;
use url::Url;

use super::{ContextError, Fetcher, SourceCredentials, archive, check_http_url};
use crate::unpack::Limits;

/// The largest archive that is downloaded, in bytes.
const MAX_ARCHIVE: u64 = 8 << 30;

/// Downloads the archive at `url`, checks it against `checksum` (`sha256:…`), and unpacks it to the new directory `into`.
///
/// Returns when the server says that it was changed, in seconds since 1970.
///
/// # Errors
/// [`ContextError`]; nothing is unpacked from an archive with another checksum.
pub async fn fetch(
    url: &str,
    checksum: Option<&str>,
    credentials: Option<SourceCredentials>,
    fetcher: &Fetcher<'_>,
    into: &Path,
) -> Result<Option<i64>, ContextError> {
    let url = check_http_url(url)?;
    if credentials.is_some() && url.scheme() == "http" && !fetcher.plain_http {
        return Err(ContextError::Credentials(
            "is not sent over plain http: write an https URL",
        ));
    }
    let beside = into.parent().unwrap_or_else(|| Path::new("."));
    let mut file = tempfile::tempfile_in(beside)
        .map_err(|error| ContextError::io("making a file for the archive", error))?;
    let found = download(&url, credentials, fetcher, &mut file).await?;
    if let Some(expected) = checksum
        && found.digest != expected.to_ascii_lowercase()
    {
        return Err(ContextError::Changed {
            what: "the archive of the source",
            found: found.digest,
            expected: expected.to_owned(),
        });
    }
    let into = into.to_owned();
    let unpacked = tokio::task::spawn_blocking(move || {
        std::io::Seek::rewind(&mut file)
            .map_err(|error| ContextError::io("reading the archive", error))?;
        archive::extract(std::io::BufReader::new(file), &into, &Limits::default())
    });
    unpacked.await.map_err(|error| {
        ContextError::io("unpacking the archive", std::io::Error::other(error))
    })??;
    Ok(found.modified)
}

/// The moment that a header of HTTP names, in seconds since 1970.
pub(crate) fn seconds(date: &str) -> Option<i64> {
    let time = jiff::fmt::rfc2822::parse(date).ok()?;
    Some(time.timestamp().as_second())
}

/// When the server says that what is behind `url` was changed, in seconds since 1970.
///
/// # Errors
/// When it cannot be asked, or does not say.
pub(crate) async fn last_modified(
    url: &Url,
    credentials: Option<SourceCredentials>,
    fetcher: &Fetcher<'_>,
) -> Result<i64, ContextError> {
    let credentials = credentials.map(|credentials| credentials.for_client());
    let response = fetcher.http.get(url, credentials.as_ref()).await?;
    check_status(url, response.status().as_u16())?;
    let date = Validators::of(&response).last_modified;
    date.as_deref()
        .and_then(seconds)
        .ok_or_else(|| ContextError::NotFound {
            url: shown(url),
            problem: "the server does not say when it was changed (Last-Modified)".to_owned(),
        })
}

/// What was downloaded.
pub(super) struct Downloaded {
    /// Its digest.
    pub(super) digest: String,
    /// When the server says that it was changed, in seconds since 1970.
    pub(super) modified: Option<i64>,
}

/// Writes the body to `file`.
pub(super) async fn download(
    url: &Url,
    credentials: Option<SourceCredentials>,
    fetcher: &Fetcher<'_>,
    file: &mut std::fs::File,
) -> Result<Downloaded, ContextError> {
    let credentials = credentials.map(|credentials| credentials.for_client());
    let response = fetcher.http.get(url, credentials.as_ref()).await?;
    check_status(url, response.status().as_u16())?;
    let too_large = || ContextError::TooLarge {
        what: "the archive of the source",
        limit: MAX_ARCHIVE,
    };
    if response
        .content_length()
        .is_some_and(|length| length > MAX_ARCHIVE)
    {
        return Err(too_large());
    }
    let announced = response.content_length();
    let modified = Validators::of(&response).last_modified;
    let mut digester = Digester::sha256();
    let mut body = response.into_stream();
    while let Some(chunk) = body.next().await {
        let chunk = chunk?;
        digester.update(&chunk);
        if digester.len() > MAX_ARCHIVE {
            return Err(too_large());
        }
        file.write_all(&chunk)
            .map_err(|error| ContextError::io("writing the archive", error))?;
    }
    if announced.is_some_and(|announced| announced != digester.len()) {
        let problem = "the download ended early".to_owned();
        return Err(ContextError::Unavailable {
            url: shown(url),
            problem,
        });
    }
    Ok(Downloaded {
        digest: digester.finish().to_string(),
        modified: modified.as_deref().and_then(seconds),
    })
}

/// The URL without query and credentials.
pub(super) fn shown(url: &Url) -> String {
    let mut shown = url.clone();
    shown.set_query(None);
    shown.set_fragment(None);
    let _ = shown.set_username("");
    let _ = shown.set_password(None);
    shown.to_string()
}

/// What an answer other than 200 means for a source.
pub(super) fn check_status(url: &Url, status: u16) -> Result<(), ContextError> {
    let url = shown(url);
    match status {
        200 => Ok(()),
        401 | 403 | 407 => Err(ContextError::Unauthorized { url, status }),
        404 | 410 => Err(ContextError::NotFound {
            url,
            problem: format!(
                "not found (status {status}); a private source may look so without the right Secret"
            ),
        }),
        status => Err(ContextError::Unavailable {
            url,
            problem: format!("the server answered {status}"),
        }),
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "tests")]
    use axum::{Router, extract::Request, http::StatusCode, response::IntoResponse};
    use distribution::{Guard, HttpClient, HttpSettings, RetryPolicy};
    use protocol::{FailureKind, Network};

    use super::*;

    fn archive() -> Vec<u8> {
        let mut builder = tar::Builder::new(Vec::new());
        let mut header = tar::Header::new_gnu();
        header.set_size(5);
        header.set_mode(0o644);
        builder
            .append_data(&mut header, "Dockerfile", &b"FROM "[..])
            .unwrap();
        builder.into_inner().unwrap()
    }

    async fn server() -> String {
        let answer = async |request: Request| match request.uri().path() {
            "/app.tar" => archive().into_response(),
            "/secret.tar"
                if request
                    .headers()
                    .get("authorization")
                    .is_some_and(|value| value == "Bearer t0k3n") =>
            {
                archive().into_response()
            }
            "/secret.tar" => StatusCode::UNAUTHORIZED.into_response(),
            "/html" => "<html>".into_response(),
            "/broken" => StatusCode::BAD_GATEWAY.into_response(),
            _ => StatusCode::NOT_FOUND.into_response(),
        };
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        tokio::spawn(async move { axum::serve(listener, Router::new().fallback(answer)).await });
        format!("http://{address}")
    }

    async fn fetch_with(
        url: &str,
        checksum: Option<&str>,
        guard: Guard,
        credentials: Option<SourceCredentials>,
    ) -> Result<Option<i64>, ContextError> {
        let _ = rustls::crypto::aws_lc_rs::default_provider().install_default();
        let retry = RetryPolicy {
            attempts: 1,
            ..RetryPolicy::default()
        };
        let http = HttpClient::new(&HttpSettings {
            guard,
            retry,
            ..HttpSettings::default()
        })
        .unwrap();
        let network = Network::default();
        let fetcher = Fetcher::for_tests(&http, &network);
        let work = tempfile::tempdir().unwrap();
        let into = work.path().join("context");
        let result = fetch(url, checksum, credentials, &fetcher, &into).await;
        assert_eq!(result.is_ok(), into.join("Dockerfile").exists());
        result
    }

    #[tokio::test]
    async fn archives_are_fetched_and_checked() {
        let server = server().await;
        let digest = oci::Digest::of(&archive()).to_string();
        let wrong = format!("sha256:{}", "0".repeat(64));
        let rows: &[(&str, Option<&str>, Option<FailureKind>)] = &[
            ("/app.tar", None, None),
            ("/app.tar?token=x", Some(&digest), None),
            ("/app.tar", Some(&wrong), Some(FailureKind::SourceChanged)),
            ("/gone.tar", None, Some(FailureKind::SourceNotFound)),
            ("/secret.tar", None, Some(FailureKind::SourceUnauthorized)),
            ("/html", None, Some(FailureKind::SourceRefused)),
            ("/broken", None, Some(FailureKind::SourceUnavailable)),
        ];
        for (path, checksum, expected) in rows {
            let result = fetch_with(&format!("{server}{path}"), *checksum, Guard::Open, None).await;
            assert_eq!(
                result.as_ref().err().map(ContextError::kind),
                *expected,
                "{path}: {result:?}"
            );
        }
        let refused = fetch_with(&format!("{server}/app.tar"), None, Guard::default(), None)
            .await
            .unwrap_err();
        assert_eq!(refused.kind(), FailureKind::AddressRefused, "{refused}");
    }

    #[tokio::test]
    async fn a_token_is_sent() {
        let server = server().await;
        let secret = tempfile::tempdir().unwrap();
        fs_err::write(secret.path().join("token"), "t0k3n\n").unwrap();
        let credentials = SourceCredentials::read(secret.path()).unwrap();
        fetch_with(
            &format!("{server}/secret.tar"),
            None,
            Guard::Open,
            Some(credentials),
        )
        .await
        .unwrap();
    }
}
