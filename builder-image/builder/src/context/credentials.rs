//! The credentials of a source: a user and a password, or a token, from the files of a mounted Secret. They are shown to
//! nobody but the server of the source.

use std::{fmt, path::Path};

use base64::{Engine as _, prelude::BASE64_STANDARD};
use distribution::Credentials;

use super::ContextError;

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

    /// As the HTTP client takes them.
    pub(super) fn for_client(&self) -> Credentials {
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

impl fmt::Debug for SourceCredentials {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("SourceCredentials(***)")
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "tests")]
    use super::*;

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
    fn a_token_is_a_password_for_git() {
        let token = SourceCredentials {
            username: String::new(),
            password: "t".into(),
            bearer: true,
        };
        assert_eq!(token.for_git(), SourceCredentials::basic("git", "t"));
    }
}
