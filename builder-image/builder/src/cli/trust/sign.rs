//! `coopery sign`: a signature of an image in a registry, beside the image.

use std::path::PathBuf;

use clap::Args;
use distribution::Client;
use oci::{Descriptor, Document, Reference};
use signature::{Form, PrivateKey};

use super::key_file;
use super::sign_failure;
use crate::cli::network::NetworkArgs;
use crate::cli::output;
use crate::cli::registry::until_stopped;
use crate::error::Error;

#[derive(Args, Debug)]
pub(in crate::cli) struct SignArgs {
    /// Images to sign, in a registry
    #[arg(value_name = "IMAGE", required = true)]
    images: Vec<Reference>,
    /// Private key, as generate-key-pair and cosign write it; its password is asked for, or in COOPERY_PASSWORD or COSIGN_PASSWORD
    #[arg(long, value_name = "FILE", env = super::SIGN_KEY)]
    key: PathBuf,
    /// Sign the image of each platform of an index as well
    #[arg(short, long)]
    recursive: bool,
    /// Write the tag sha256-….sig, as cosign did before version 3, instead of a bundle that refers to the image
    #[arg(long)]
    signature_tag: bool,
    #[command(flatten)]
    network: NetworkArgs,
}

impl SignArgs {
    pub(in crate::cli) fn run(&self) -> Result<(), Error> {
        let key = key_file::private(&self.key)?;
        let client = self.network.client()?;
        let form = if self.signature_tag {
            Form::Tag
        } else {
            Form::Bundle
        };
        until_stopped(async || {
            for image in &self.images {
                let image = image.clone().or_latest();
                for found in self.found(&client, &image).await? {
                    sign(&client, &image, &found, &key, form).await?;
                    let signed = image.repository().at(found.digest);
                    output::line(&signed.to_string())?;
                }
            }
            Ok(())
        })
    }

    /// What is to be signed: the image, and what its index names.
    async fn found(&self, client: &Client, image: &Reference) -> Result<Vec<Descriptor>, Error> {
        let doing = || format!("looking for {image}");
        let root = client
            .manifest(image)
            .await
            .map_err(Error::export(doing()))?;
        let mut found = vec![root.descriptor()];
        let document = root
            .document()
            .map_err(|error| Error::Refused(format!("{image}: {error}")))?;
        if let (true, Document::Index(index)) = (self.recursive, document) {
            found.extend(index.manifests);
        }
        Ok(found)
    }
}

/// Signs what is at `found` in the repository of `image`, now.
pub(super) async fn sign(
    client: &Client,
    image: &Reference,
    found: &Descriptor,
    key: &PrivateKey,
    form: Form,
) -> Result<(), Error> {
    let now = jiff::Timestamp::now().strftime("%Y-%m-%dT%H:%M:%SZ");
    let repository = image.repository();
    signature::sign(client, repository, found, key, form, &now.to_string())
        .await
        .map_err(sign_failure(image))?;
    Ok(())
}
