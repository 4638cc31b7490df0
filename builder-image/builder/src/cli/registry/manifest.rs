//! `coopery manifest inspect`: the manifest or index that a name stands for in its registry.

use clap::{Args, Subcommand};
use oci::{Document, Reference};

use super::{refused_by, until_stopped};
use crate::cli::image::print;
use crate::cli::network::NetworkArgs;
use crate::error::Error;

/// The verbs of `docker manifest` that need no local lists.
#[derive(Debug, Subcommand)]
pub(in crate::cli) enum ManifestCommand {
    /// Display an image manifest, or manifest list
    Inspect(InspectManifestArgs),
}

#[derive(Args, Debug)]
pub(in crate::cli) struct InspectManifestArgs {
    /// The image in a registry
    image: Reference,
    /// Show descriptor and manifest of each child of an index, too
    #[arg(short, long)]
    verbose: bool,
    #[command(flatten)]
    network: NetworkArgs,
}

impl ManifestCommand {
    pub(in crate::cli) fn run(&self) -> Result<(), Error> {
        let Self::Inspect(args) = self;
        let name = args.image.clone().or_latest();
        let client = args.network.client()?;
        let get = async |name: &Reference| {
            let manifest = client.manifest(name).await;
            manifest.map_err(|error| refused_by(error, name, "inspect"))
        };
        let shown = until_stopped(async || {
            let root = get(&name).await?;
            let malformed = |error| Error::refused(format!("{}: {error}", name.familiar()));
            let document = root.document().map_err(malformed)?;
            if !args.verbose {
                return pretty(&document);
            }
            let mut shown = Vec::new();
            match &document {
                Document::Manifest(_) => {
                    return Ok(verbose(&name, &root.descriptor(), &document)?.to_string());
                }
                Document::Index(index) => {
                    for child in &index.manifests {
                        let at = name.repository().at(child.digest.clone());
                        let document = get(&at).await?.document().map_err(malformed)?;
                        shown.push(verbose(&at, child, &document)?);
                    }
                }
            }
            Ok(serde_json::Value::Array(shown).to_string())
        })?;
        print(&format!("{shown}\n"))
    }
}

fn verbose(
    name: &Reference,
    descriptor: &oci::Descriptor,
    document: &Document,
) -> Result<serde_json::Value, Error> {
    let manifest: serde_json::Value = serde_json::from_str(&pretty(document)?)
        .map_err(|error| Error::io("writing the result")(error.into()))?;
    Ok(serde_json::json!({
        "Ref": name.to_string(), "Descriptor": descriptor, "Manifest": manifest,
    }))
}

/// A document with its members in their order.
fn pretty(document: &Document) -> Result<String, Error> {
    let text = match document {
        Document::Manifest(manifest) => serde_json::to_string_pretty(manifest),
        Document::Index(index) => serde_json::to_string_pretty(index),
    };
    text.map_err(|error| Error::io("writing the result")(error.into()))
}
