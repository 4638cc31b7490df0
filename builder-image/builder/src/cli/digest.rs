//! `coopery digest`: what a tag stands for now.

use clap::Args;
use oci::Reference;

use super::network::NetworkArgs;
use super::output;
use crate::error::Error;
use crate::runtime::run_async;

#[derive(Args)]
pub(super) struct DigestArgs {
    /// Image in a registry
    image: Reference,
    #[command(flatten)]
    network: NetworkArgs,
}

pub(super) fn run(args: &DigestArgs) -> Result<(), Error> {
    let client = args.network.client()?;
    let image = args.image.clone().or_latest();
    let found = run_async(async |_| {
        client
            .resolve(&image)
            .await
            .map_err(Error::export(format!("looking for {image}")))
    })?;
    match found {
        Some(descriptor) => output::line(descriptor.digest.as_str()),
        None => Err(Error::Request(format!("{image}: not found"))),
    }
}
