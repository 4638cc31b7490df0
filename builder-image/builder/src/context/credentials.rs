//! The credentials of a source: a user and a password, or a token, from the files of a mounted Secret. They are shown to
//! nobody but the server of the source.

use std::{fmt, path::Path};

use base64::{Engine as _, prelude::BASE64_STANDARD};
use distribution::Credentials;

use super::ContextError;
use crate::secret::Secrets;

/// The largest value that is read, in bytes.
const MAX_VALUE: usize = 64 << 10;

/// A user and a password, or a token.
#[derive(Clone, PartialEq, Eq)]
pub struct SourceCredentials {
    username: String,
    password: String,
    bearer: bool,
}

impl SourceCredentials {
    /// A user and a password.
    pub fn basic(username: impl Into<String>, password: impl Into<String>) -> Self {
        Self {
            username: username.into(),
            password: password.into(),
            bearer: false,
        }
    }

    /// The token or header that the secrets of a build have for the git server `host`, by the names that buildx gives them:
    /// `GIT_AUTH_TOKEN` and `GIT_AUTH_HEADER`, of that host (`.host`) before those of all.
    ///
    /// # Errors
    /// When it is not text, or a header of another scheme than Basic and Bearer.
    pub fn of_git(secrets: &Secrets, host: &str) -> Result<Option<Self>, ContextError> {
        let of_host = format!(".{host}");
        for suffix in [of_host.as_str(), ""] {
            if let Some(header) = secret_text(secrets, &format!("GIT_AUTH_HEADER{suffix}"))? {
                return Self::of_header(&header).map(Some);
            }
            if let Some(token) = secret_text(secrets, &format!("GIT_AUTH_TOKEN{suffix}"))? {
                return Ok(Some(Self::basic("x-access-token", token)));
            }
        }
        Ok(None)
    }

    /// The same for an http server: `HTTP_AUTH_TOKEN_host` and `HTTP_AUTH_HEADER_host`.
    ///
    /// # Errors
    /// As [`SourceCredentials::of_git`].
    pub fn of_http(secrets: &Secrets, host: &str) -> Result<Option<Self>, ContextError> {
        if let Some(header) = secret_text(secrets, &format!("HTTP_AUTH_HEADER_{host}"))? {
            return Self::of_header(&header).map(Some);
        }
        let token = secret_text(secrets, &format!("HTTP_AUTH_TOKEN_{host}"))?;
        Ok(token.map(|token| Self {
            username: String::new(),
            password: token,
            bearer: true,
        }))
    }

    /// What the value of a header `Authorization` says.
    fn of_header(value: &str) -> Result<Self, ContextError> {
        let wrong = || ContextError::Credentials("has a header that is neither Basic nor Bearer");
        let (scheme, rest) = value.split_once(' ').ok_or_else(wrong)?;
        if scheme.eq_ignore_ascii_case("bearer") {
            return Ok(Self {
                username: String::new(),
                password: rest.trim().to_owned(),
                bearer: true,
            });
        }
        if !scheme.eq_ignore_ascii_case("basic") {
            return Err(wrong());
        }
        let pair = BASE64_STANDARD.decode(rest.trim()).map_err(|_| wrong())?;
        let pair = String::from_utf8(pair).map_err(|_| wrong())?;
        let (username, password) = pair.split_once(':').ok_or_else(wrong)?;
        Ok(Self::basic(username, password))
    }

    /// Reads the keys `username` and `password`, or `token`, of the Secret mounted at `directory`.
    ///
    /// # Errors
    /// When neither a password nor a token is there, or a value is not text.
    pub fn read(directory: &Path) -> Result<Self, ContextError> {
        let value = |key: &str| -> Result<Option<String>, ContextError> {
            let bytes = match fs_err::read(directory.join(key)) {
                Ok(bytes) => bytes,
                Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(None),
                Err(error) => {
                    return Err(ContextError::io("reading the Secret of the source", error));
                }
            };
            if bytes.len() > MAX_VALUE {
                return Err(ContextError::Credentials("has a value that is too large"));
            }
            let text = String::from_utf8(bytes)
                .map_err(|_| ContextError::Credentials("has a value that is not text"))?;
            let text = text.trim_end_matches(['\r', '\n']);
            if text.chars().any(char::is_control) {
                return Err(ContextError::Credentials(
                    "has a value with line breaks or control characters",
                ));
            }
            Ok(Some(text.to_owned()))
        };
        match (value("username")?, value("password")?, value("token")?) {
            (username, Some(password), _) => {
                let username = username.unwrap_or_default();
                if username.contains(':') {
                    return Err(ContextError::Credentials("has a username with a colon"));
                }
                Ok(Self {
                    username,
                    password,
                    bearer: false,
                })
            }
            (_, None, Some(token)) => Ok(Self {
                username: String::new(),
                password: token,
                bearer: true,
            }),
            (_, None, None) => Err(ContextError::Credentials(
                "has neither the key `password` nor `token`",
            )),
        }
    }

    /// What tells them from others and gives nothing away.
    pub(crate) fn fingerprint(&self) -> String {
        oci::Digest::of(self.header().as_bytes()).to_string()
    }

    /// As the HTTP client takes them.
    pub(crate) fn for_client(&self) -> Credentials {
        if self.bearer {
            Credentials::Bearer(self.password.clone())
        } else {
            Credentials::basic(self.username.clone(), self.password.clone())
        }
    }

    /// The value of the header `Authorization`.
    pub(super) fn header(&self) -> String {
        if self.bearer {
            format!("Bearer {}", self.password)
        } else {
            let pair = format!("{}:{}", self.username, self.password);
            format!("Basic {}", BASE64_STANDARD.encode(pair))
        }
    }

    /// For git: its servers take a token as the password of any user.
    pub(super) fn for_git(self) -> Self {
        let username = if self.username.is_empty() {
            "git".to_owned()
        } else {
            self.username
        };
        Self {
            username,
            bearer: false,
            ..self
        }
    }
}

/// A secret of one line.
fn secret_text(secrets: &Secrets, id: &str) -> Result<Option<String>, ContextError> {
    let Some(secret) = secrets.values.get(id) else {
        return Ok(None);
    };
    let text = std::str::from_utf8(secret.bytes())
        .map_err(|_| ContextError::Credentials("has a value that is not text"))?;
    let text = text.trim_end_matches(['\r', '\n']);
    if text.chars().any(char::is_control) {
        return Err(ContextError::Credentials(
            "has a value with line breaks or control characters",
        ));
    }
    Ok(Some(text.to_owned()))
}

impl fmt::Debug for SourceCredentials {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("SourceCredentials(***)")
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "tests")]
    use super::*;
    use crate::secret::Secret;

    #[test]
    fn keys_of_the_secret() {
        type Row<'a> = (&'a [(&'a str, &'a str)], Option<&'a str>);
        let rows: [Row<'_>; 7] = [
            (
                &[("username", "ann"), ("password", "pw\n")],
                Some("Basic YW5uOnB3"),
            ),
            (&[("password", "pw")], Some("Basic OnB3")),
            (&[("token", "t")], Some("Bearer t")),
            (
                &[("username", "ann"), ("password", "pw"), ("token", "t")],
                Some("Basic YW5uOnB3"),
            ),
            (&[("username", "ann")], None),
            (&[("username", "a:b"), ("password", "pw")], None),
            (&[("password", "p\r\nHost: evil")], None),
        ];
        for (files, expected) in rows {
            let directory = tempfile::tempdir().unwrap();
            for (name, value) in files {
                fs_err::write(directory.path().join(name), value).unwrap();
            }
            let read = SourceCredentials::read(directory.path());
            assert_eq!(
                read.as_ref().ok().map(SourceCredentials::header).as_deref(),
                expected,
                "{files:?}"
            );
            assert!(!format!("{read:?}").contains("pw"), "{read:?}");
        }
    }

    #[test]
    fn secrets_of_the_build_are_for_one_host() {
        let secrets = |names: &[(&str, &str)]| Secrets {
            values: (names.iter())
                .map(|(name, value)| ((*name).to_owned(), Secret::new(value.as_bytes())))
                .collect(),
            ..Secrets::default()
        };
        let header = |found: Result<Option<SourceCredentials>, ContextError>| match found {
            Ok(found) => found.map_or("none".to_owned(), |found| found.header()),
            Err(error) => error.to_string(),
        };
        let token = "Basic eC1hY2Nlc3MtdG9rZW46dA==";
        for (names, git, http) in [
            (&[][..], "none", "none"),
            (&[("GIT_AUTH_TOKEN", "t\n")], token, "none"),
            (
                &[("GIT_AUTH_TOKEN.h", "t"), ("GIT_AUTH_TOKEN", "u")],
                token,
                "none",
            ),
            (&[("GIT_AUTH_TOKEN.other", "t")], "none", "none"),
            (&[("GIT_AUTH_HEADER", "bearer x")], "Bearer x", "none"),
            (
                &[
                    ("GIT_AUTH_HEADER.h", "Basic YTpi"),
                    ("GIT_AUTH_HEADER", "Bearer x"),
                ],
                "Basic YTpi",
                "none",
            ),
            (
                &[("GIT_AUTH_HEADER", "Digest x")],
                "the Secret of the source has a header that is neither Basic nor Bearer",
                "none",
            ),
            (&[("HTTP_AUTH_TOKEN_h", "t")], "none", "Bearer t"),
            (
                &[
                    ("HTTP_AUTH_HEADER_h", "Basic YTpi"),
                    ("HTTP_AUTH_TOKEN_other", "t"),
                ],
                "none",
                "Basic YTpi",
            ),
            (
                &[("HTTP_AUTH_TOKEN_h", "a\nb")],
                "none",
                "the Secret of the source has a value with line breaks or control characters",
            ),
        ] {
            let secrets = secrets(names);
            assert_eq!(
                header(SourceCredentials::of_git(&secrets, "h")),
                git,
                "{names:?}"
            );
            assert_eq!(
                header(SourceCredentials::of_http(&secrets, "h")),
                http,
                "{names:?}"
            );
        }
    }

    #[test]
    fn a_token_is_a_password_for_git() {
        let token = SourceCredentials {
            username: String::new(),
            password: "t".into(),
            bearer: true,
        };
        assert_eq!(token.for_git(), SourceCredentials::basic("git", "t"));
    }
}
