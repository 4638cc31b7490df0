//! Keys in files, and the passphrase of a private one: from the environment or from a person, never from the command line,
//! where everybody on the machine could read it.

use std::path::Path;

use signature::{NamedKey, PrivateKey, PublicKey};

use crate::cli::registry::ask_hidden;
use crate::error::Error;

/// The largest file that is read as a key.
const MAX_FILE: u64 = 64 * 1024;
/// Variables with the passphrase: ours, and cosign's.
const PASSWORDS: [&str; 2] = ["COOPERY_PASSWORD", "COSIGN_PASSWORD"];

fn read(path: &Path) -> Result<String, Error> {
    let refused = |error: &dyn std::fmt::Display| {
        Error::Request(format!("--key {}: {error}", path.display()))
    };
    let size = fs_err::metadata(path).map_err(|error| refused(&error.kind()))?;
    if size.len() > MAX_FILE {
        return Err(refused(&"it is too large for a key"));
    }
    fs_err::read_to_string(path).map_err(|error| refused(&error.kind()))
}

/// The passphrase: from the environment where it is set there, even to nothing, else `ask`ed for.
pub(super) fn passphrase(ask: impl FnOnce() -> Result<String, Error>) -> Result<Vec<u8>, Error> {
    let mut set = PASSWORDS.iter().filter_map(std::env::var_os);
    match set.next() {
        Some(passphrase) => Ok(passphrase.into_encoded_bytes()),
        None => Ok(ask()?.into_bytes()),
    }
}

/// The private key in a file.
pub(super) fn private(path: &Path) -> Result<PrivateKey, Error> {
    let text = read(path)?;
    let passphrase = passphrase(|| {
        ask_hidden(&format!(
            "Enter password for private key {}: ",
            path.display()
        ))
    })?;
    PrivateKey::from_pem(&text, &passphrase)
        .map_err(|error| Error::Request(format!("--key {}: {error}", path.display())))
}

/// The public key in a file.
pub(super) fn public(path: &Path) -> Result<NamedKey, Error> {
    let key = PublicKey::from_pem(&read(path)?)
        .map_err(|error| Error::Request(format!("--key {}: {error}", path.display())))?;
    Ok(NamedKey {
        name: path.display().to_string(),
        key,
    })
}
