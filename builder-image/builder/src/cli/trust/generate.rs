//! `coopery generate-key-pair`: a new key, encrypted, and its public half, as cosign writes them.

use std::io::Write;

use std::path::{Path, PathBuf};

use clap::Args;
use fs_err::OpenOptions;
use fs_err::os::unix::fs::OpenOptionsExt;
use signature::PrivateKey;

use super::key_file::passphrase;
use crate::cli::output;
use crate::cli::registry::ask_hidden;
use crate::error::Error;

#[derive(Args, Debug)]
pub(in crate::cli) struct GenerateArgs {
    /// Write PREFIX.key and PREFIX.pub
    #[arg(long, value_name = "PREFIX", default_value = "cosign")]
    output_key_prefix: String,
}

impl GenerateArgs {
    /// Writes both files, neither over another. The passphrase is asked for twice, or taken from `COOPERY_PASSWORD` or
    /// `COSIGN_PASSWORD`.
    pub(in crate::cli) fn run(&self) -> Result<(), Error> {
        let path = |suffix: &str| PathBuf::from(format!("{}.{suffix}", self.output_key_prefix));
        let (private, public) = (path("key"), path("pub"));
        for path in [&private, &public] {
            if path.exists() {
                return Err(Error::Refused(format!(
                    "{} exists: choose another --output-key-prefix, or move it away",
                    path.display()
                )));
            }
        }
        let passphrase = passphrase(|| {
            let first = ask_hidden("Enter password for private key: ")?;
            if ask_hidden("Enter password for private key again: ")? != first {
                return Err(Error::Refused("the passwords are not the same".into()));
            }
            Ok(first)
        })?;
        let failed = |error| Error::Refused(format!("making a key: {error}"));
        let key = PrivateKey::generate().map_err(failed)?;
        let text = key.to_pem(&passphrase).map_err(failed)?;
        write(&private, &text, 0o600)?;
        write(&public, &key.public().to_pem(), 0o644)?;
        output::line(&private.display().to_string())?;
        output::line(&public.display().to_string())
    }
}

fn write(path: &Path, text: &str, mode: u32) -> Result<(), Error> {
    let mut options = OpenOptions::new();
    options.write(true).create_new(true).mode(mode);
    let file = options.open(path);
    file.and_then(|mut file| file.write_all(text.as_bytes()))
        .map_err(Error::io("writing the key"))
}
