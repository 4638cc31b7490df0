//! `coopery tag`: another name for an image.

use clap::Args;
use oci::Reference;

use super::StoreArgs;
use crate::error::Error;

#[derive(Args, Debug)]
pub(in crate::cli) struct TagArgs {
    /// The image: a name, an id, or the beginning of one
    #[arg(value_name = "SOURCE_IMAGE[:TAG]")]
    source: String,
    /// The name that it gets; latest where it has no tag
    #[arg(value_name = "TARGET_IMAGE[:TAG]")]
    target: String,
    #[command(flatten)]
    store: StoreArgs,
}

impl TagArgs {
    pub(in crate::cli) fn run(&self) -> Result<(), Error> {
        let target = self.target.parse::<Reference>().map_err(|error| {
            Error::Refused(format!(
                "Error parsing reference: \"{}\" is not a valid repository/tag: {error}",
                self.target
            ))
        })?;
        Ok(self.store.open()?.tag(&self.source, &target)?)
    }
}
