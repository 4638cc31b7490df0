//! `coopery verify`: whether an image in a registry is signed by a key.

use std::path::PathBuf;

use clap::Args;
use oci::Reference;
use serde_json::json;
use signature::{Form, Verifier};

use super::{key_file, verify_failure};
use crate::cli::network::NetworkArgs;
use crate::cli::output;
use crate::cli::registry::until_stopped;
use crate::error::Error;

#[derive(Args, Debug)]
pub(in crate::cli) struct VerifyArgs {
    /// Images to verify, in a registry
    #[arg(value_name = "IMAGE", required = true)]
    images: Vec<Reference>,
    /// Public key; given several times, any of them will do
    #[arg(long, value_name = "FILE", required = true, env = super::VERIFY_KEY, value_delimiter = ':')]
    key: Vec<PathBuf>,
    #[command(flatten)]
    network: NetworkArgs,
}

impl VerifyArgs {
    /// Prints what was verified, as cosign does; fails where an image is not signed.
    pub(in crate::cli) fn run(&self) -> Result<(), Error> {
        let keys: Result<Vec<_>, _> = self.key.iter().map(|path| key_file::public(path)).collect();
        let verifier = Verifier::new(keys?);
        let client = self.network.client()?;
        let verified = until_stopped(async || {
            let mut verified = Vec::new();
            for image in &self.images {
                let image = image.clone().or_latest();
                let doing = format!("looking for {image}");
                // The bytes and not the registry's word: what a digest is of is what was signed.
                let root = client
                    .manifest(&image)
                    .await
                    .map_err(Error::export(doing))?;
                let repository = image.repository();
                let by = verifier.verify(&client, repository, &root.digest).await;
                let by = by.map_err(verify_failure(&image))?;
                let kind = match by.form {
                    Form::Bundle => signature::SIGN_PREDICATE,
                    Form::Tag => signature::PAYLOAD_KIND,
                };
                let name = repository.at(root.digest.clone());
                verified.push(json!({
                    "critical": {
                        "identity": {"docker-reference": name.to_string()},
                        "image": {"docker-manifest-digest": root.digest},
                        "type": kind,
                    },
                    "optional": {"key": by.key},
                }));
            }
            Ok(verified)
        })?;
        output::line(&json!(verified).to_string())
    }
}
