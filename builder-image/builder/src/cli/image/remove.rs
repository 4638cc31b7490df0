//! `coopery rm`, `rmi`, `image rm`: taking names away, and images with their last name.

use clap::Args;
use images::{Images, Line, Plan, RemovalOptions, plan_removal};

use super::{StoreArgs, all_of, print, users};
use crate::error::Error;

#[derive(Args, Debug)]
pub(in crate::cli) struct RemoveArgs {
    /// Images: names, ids, or beginnings of ids
    #[arg(value_name = "IMAGE", required = true)]
    pub(in crate::cli) images: Vec<String>,
    /// Remove it whatever uses it, and with all of its names
    #[arg(short, long)]
    force: bool,
    /// Leave parents that have no name
    #[arg(long)]
    no_prune: bool,
    #[command(flatten)]
    pub(in crate::cli) store: StoreArgs,
}

impl RemoveArgs {
    pub(in crate::cli) fn run(&self) -> Result<(), Error> {
        let failures = self
            .images
            .iter()
            .filter_map(|text| self.remove_one(text).err());
        all_of(failures.collect())
    }

    /// Removes one, and tells what was done.
    pub(in crate::cli) fn remove_one(&self, text: &str) -> Result<(), Error> {
        match self.remove(&self.store.open()?, text) {
            Ok(plan) => print(&lines(&plan, ["Untagged", "Deleted"])),
            // What is not there is no failure of who insists that it shall not be there.
            Err(Error::Refused(why)) if self.force && why.contains("No such image") => {
                tracing::warn!("No such image: {text}");
                Ok(())
            }
            Err(error) => Err(error),
        }
    }

    fn remove(&self, images: &Images, text: &str) -> Result<Plan, Error> {
        let catalog = images.catalog()?;
        let found = catalog.find(text)?;
        let options = RemovalOptions {
            force: self.force,
            keep_parents: self.no_prune,
        };
        let plan = plan_removal(&catalog, &found, options, &users()).map_err(Error::refused)?;
        images.carry_out(&plan, &catalog)?;
        Ok(plan)
    }
}

/// What was done, a line for each thing.
pub(super) fn lines(plan: &Plan, words: [&str; 2]) -> String {
    let [untagged, deleted] = words;
    let lines = plan.lines.iter().map(|line| match line {
        Line::Untagged(name) => format!("{untagged}: {}\n", name.familiar()),
        Line::DeletedImage(id) => format!("{deleted}: {id}\n"),
        Line::DeletedLayer(chain) => format!("{deleted}: {chain}\n"),
    });
    lines.collect()
}
