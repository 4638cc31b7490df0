//! `DOCKER_CONTENT_TRUST`: push signs what it has pushed, pull refuses what is not signed. Keys are files that the
//! environment names; without them nothing is pushed or pulled, since that is what was asked for.

use std::ffi::OsStr;
use std::path::PathBuf;

use distribution::Client;
use oci::{Descriptor, Digest, Reference};
use signature::{Form, PrivateKey, Verifier};

use super::{SIGN_KEY, VERIFY_KEY, key_file, sign, verify_failure};
use crate::error::Error;

/// Whether images are to be trusted by their signatures.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in crate::cli) struct ContentTrust(bool);

impl ContentTrust {
    /// What the flag `--disable-content-trust` says, or else the environment.
    pub(in crate::cli) fn of(disable: Option<bool>) -> Result<Self, Error> {
        let variable = std::env::var_os("DOCKER_CONTENT_TRUST");
        Self::read(disable, variable.as_deref())
    }

    fn read(disable: Option<bool>, variable: Option<&OsStr>) -> Result<Self, Error> {
        if let Some(disable) = disable {
            return Ok(Self(!disable));
        }
        // The words that docker knows.
        match variable.map(OsStr::to_str) {
            None | Some(Some("" | "0" | "f" | "F" | "false" | "FALSE" | "False")) => {
                Ok(Self(false))
            }
            Some(Some("1" | "t" | "T" | "true" | "TRUE" | "True")) => Ok(Self(true)),
            Some(_) => Err(Error::Request(
                "DOCKER_CONTENT_TRUST is neither 1 nor 0".into(),
            )),
        }
    }

    /// The key that push signs with, where it does.
    pub(in crate::cli) fn signer(self) -> Result<Option<PrivateKey>, Error> {
        if !self.0 {
            return Ok(None);
        }
        let Some(path) = std::env::var_os(SIGN_KEY) else {
            return Err(missing("signs what is pushed", SIGN_KEY, "private"));
        };
        key_file::private(&PathBuf::from(path)).map(Some)
    }

    /// What pull verifies with, where it does.
    pub(in crate::cli) fn verifier(self) -> Result<Option<Verifier>, Error> {
        if !self.0 {
            return Ok(None);
        }
        let Some(paths) = std::env::var_os(VERIFY_KEY) else {
            return Err(missing("verifies what is pulled", VERIFY_KEY, "public"));
        };
        let keys: Result<Vec<_>, _> = std::env::split_paths(&paths)
            .map(|path| key_file::public(&path))
            .collect();
        Ok(Some(Verifier::new(keys?)))
    }
}

fn missing(does: &str, variable: &str, kind: &str) -> Error {
    Error::Refused(format!(
        "DOCKER_CONTENT_TRUST {does}: name the file of the {kind} key in {variable}, or use --disable-content-trust"
    ))
}

/// Signs what was pushed under `name`.
pub(in crate::cli) async fn sign_pushed(
    client: &Client,
    name: &Reference,
    pushed: &Descriptor,
    key: &PrivateKey,
) -> Result<(), Error> {
    sign::sign(client, name, pushed, key, Form::Bundle).await
}

/// Fails where `digest`, which `name` stands for, is not signed.
pub(in crate::cli) async fn verify_pulled(
    client: &Client,
    name: &Reference,
    digest: &Digest,
    verifier: &Verifier,
) -> Result<(), Error> {
    let verified = verifier.verify(client, name.repository(), digest).await;
    verified.map_err(verify_failure(name))?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_flag_counts_more_than_the_environment() {
        for (disable, variable, expected) in [
            (None, None, Some(false)),
            (None, Some("0"), Some(false)),
            (None, Some(""), Some(false)),
            (None, Some("1"), Some(true)),
            (None, Some("true"), Some(true)),
            (None, Some("yes"), None),
            (Some(true), Some("1"), Some(false)),
            (Some(false), None, Some(true)),
        ] {
            let trust = ContentTrust::read(disable, variable.map(OsStr::new));
            assert_eq!(trust.ok(), expected.map(ContentTrust), "{variable:?}");
        }
    }
}
