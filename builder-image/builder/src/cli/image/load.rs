//! `coopery load`: the images of an archive.

use std::collections::HashSet;
use std::io::{IsTerminal, Read};
use std::path::PathBuf;

use clap::Args;
use images::Images;

use super::{StoreArgs, print};
use crate::cli::human;
use crate::error::Error;

#[derive(Args, Debug)]
pub(in crate::cli) struct LoadArgs {
    /// Read this archive, compressed or not (default: standard input)
    #[arg(short, long, value_name = "FILE")]
    input: Option<PathBuf>,
    /// Print nothing of layers
    #[arg(short, long)]
    quiet: bool,
    #[command(flatten)]
    store: StoreArgs,
}

impl LoadArgs {
    pub(in crate::cli) fn run(&self) -> Result<(), Error> {
        let images = self.store.open()?;
        let input: Box<dyn Read> = match &self.input {
            Some(path) if path.as_os_str() != "-" => Box::new(
                fs_err::File::open(path)
                    .map_err(|error| Error::Request(format!("--input: {error}")))?,
            ),
            _ if std::io::stdin().is_terminal() => {
                return Err(Error::Refused(
                    "requested load from stdin, but stdin is empty".into(),
                ));
            }
            _ => Box::new(std::io::stdin().lock()),
        };
        self.load(&images, input)
    }

    fn load(&self, images: &Images, input: impl Read) -> Result<(), Error> {
        let catalog = images.catalog()?;
        let mut known: HashSet<_> = (catalog.images().iter())
            .flat_map(|image| image.config.rootfs.diff_ids.clone())
            .collect();
        let sizes = images.sizes();
        for kept in images.load(input)? {
            for (id, layer) in &kept.layers {
                if known.insert(id.clone()) && !self.quiet {
                    let size = human::size(sizes.layer(layer)?);
                    let bar = format!("[{}>]", "=".repeat(50));
                    let short = id.0.short();
                    print(&format!("{short}: Loading layer {bar} {size:>8}/{size}\n"))?;
                }
            }
            print(&match &kept.name {
                Some(name) => format!("Loaded image: {}\n", name.familiar()),
                None => format!("Loaded image ID: {}\n", kept.id),
            })?;
        }
        Ok(())
    }
}
