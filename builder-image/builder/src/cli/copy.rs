//! `coopery copy`: one image from registry to registry.

use clap::Args;
use distribution::copy::{CopyOptions, copy};
use oci::Reference;

use super::network::NetworkArgs;
use super::output;
use crate::error::Error;
use crate::runtime::run_async;

#[derive(Args)]
pub(super) struct CopyArgs {
    /// Image to copy
    source: Reference,
    /// Name to copy it to
    destination: Reference,
    /// Copy what refers to the image as well: signatures, attestations, SBOMs
    #[arg(short, long, visible_alias = "referrers")]
    recursive: bool,
    #[command(flatten)]
    network: NetworkArgs,
}

pub(super) fn run(args: &CopyArgs) -> Result<(), Error> {
    let client = args.network.client()?;
    let (from, to) = (
        args.source.clone().or_latest(),
        args.destination.clone().or_latest(),
    );
    let options = CopyOptions {
        referrers: args.recursive,
        ..CopyOptions::default()
    };
    let report = run_async(async |stop| {
        tokio::select! {
            biased;
            () = stop.token.cancelled() => Err(Error::Cancelled),
            report = copy(&client, &from, &client, &to, &options) => {
                report.map_err(Error::export(format!("copying {from} to {to}")))
            }
        }
    })?;
    output::line(report.root.digest.as_str())
}
