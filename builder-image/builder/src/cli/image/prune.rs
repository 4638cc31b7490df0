//! `coopery prune`, `image prune`: removing images that nothing needs.

use std::collections::HashMap;
use std::io::{IsTerminal, Write};

use clap::Args;
use images::{Filter, PruneWhat, plan_prune};
use jiff::Timestamp;

use super::remove::lines;
use super::{StoreArgs, print, users};
use crate::cli::human;
use crate::error::Error;

#[derive(Args, Debug)]
pub(in crate::cli) struct PruneArgs {
    /// Remove all images that no container uses, not only those without a name
    #[arg(short, long)]
    all: bool,
    /// Only images that match: until=TIME, label=KEY[=VALUE], label!=KEY[=VALUE], dangling=BOOL
    #[arg(long, value_name = "KEY=VALUE")]
    filter: Vec<String>,
    /// Do not ask
    #[arg(short, long)]
    force: bool,
    #[command(flatten)]
    store: StoreArgs,
}

impl PruneArgs {
    pub(in crate::cli) fn run(&self) -> Result<(), Error> {
        let now = Timestamp::now();
        let mut what = if self.all {
            PruneWhat::Unused
        } else {
            PruneWhat::Dangling
        };
        let mut filters = Vec::new();
        for text in &self.filter {
            match Filter::parse(text, now).map_err(Error::refused)? {
                Filter::Dangling(true) => what = PruneWhat::Dangling,
                Filter::Dangling(false) => what = PruneWhat::Unused,
                filter @ (Filter::Label(_) | Filter::NotLabel(_) | Filter::Until(_)) => {
                    filters.push(filter);
                }
                _ => {
                    return Err(Error::refused(format!(
                        "invalid filter '{text}': known are until, label and dangling"
                    )));
                }
            }
        }
        if !self.force && !confirmed(what)? {
            return Ok(());
        }
        let images = self.store.open()?;
        let catalog = images.catalog()?;
        let plan = plan_prune(&catalog, what, &filters, &users());
        let sizes = images.sizes();
        let mut layers = HashMap::new();
        for image in catalog.images() {
            layers.extend(image.layers());
        }
        let gone = plan.layers.iter().filter_map(|id| layers.get(id));
        let mut freed = 0;
        for layer in gone {
            // A layer that is not there takes no space.
            freed += sizes.layer(layer).unwrap_or_default();
        }
        images.carry_out(&plan, &catalog)?;
        if !plan.lines.is_empty() {
            let lines = lines(&plan, ["untagged", "deleted"]);
            print(&format!("Deleted Images:\n{lines}\n"))?;
        }
        print(&format!("Total reclaimed space: {}\n", human::size(freed)))
    }
}

fn confirmed(what: PruneWhat) -> Result<bool, Error> {
    let which = match what {
        PruneWhat::Dangling => "all dangling images",
        PruneWhat::Unused => "all images without at least one container associated to them",
    };
    if !std::io::stdin().is_terminal() {
        return Err(Error::Request(format!(
            "prune removes {which}; say --force where nobody can be asked"
        )));
    }
    let mut out = std::io::stderr().lock();
    let _ = write!(
        out,
        "WARNING! This will remove {which}.\nAre you sure you want to continue? [y/N] "
    );
    drop(out);
    let mut answer = String::new();
    let read = std::io::stdin().read_line(&mut answer);
    read.map_err(Error::io("reading the answer"))?;
    Ok(matches!(answer.trim(), "y" | "Y" | "yes"))
}
