//! What people do with the images of this machine: the verbs of `docker image`, with docker's flags, words and errors.
//! The images themselves are the crate `images`'.

mod history;
mod import;
mod inspect;
mod list;
mod load;
mod prune;
mod remove;
mod save;
mod tag;
mod usage;

use std::io::Write;
use std::path::PathBuf;

use clap::Args;
use images::{Catalog, Image, Images, Users};

pub(super) use history::HistoryArgs;
pub(super) use import::ImportArgs;
pub(super) use inspect::InspectArgs;
pub(super) use list::ListArgs;
pub(super) use load::LoadArgs;
pub(super) use prune::PruneArgs;
pub(super) use remove::RemoveArgs;
pub(super) use save::SaveArgs;
pub(super) use tag::TagArgs;
pub(super) use usage::group_usage;

use super::root;
use crate::error::Error;

/// Which images are meant.
#[derive(Args, Debug)]
pub(super) struct StoreArgs {
    /// Directory of cache, layers and images (default: $COOPERY_ROOT, else $XDG_DATA_HOME/coopery)
    #[arg(long, value_name = "DIR")]
    root: Option<PathBuf>,
}

impl StoreArgs {
    /// The images of this machine.
    pub(super) fn open(&self) -> Result<Images, Error> {
        let root = root::directory(self.root.as_deref())?;
        Ok(Images::open(root.join("images"))?)
    }
}

/// The containers of this machine, by the images that they use. There are none: a `RUN` ends with its step.
fn users() -> Users {
    Users::new()
}

/// Writes text to standard output. Who stops reading has read enough.
pub(super) fn print(text: &str) -> Result<(), Error> {
    let mut out = std::io::stdout().lock();
    match out.write_all(text.as_bytes()).and_then(|()| out.flush()) {
        Err(error) if error.kind() != std::io::ErrorKind::BrokenPipe => {
            Err(Error::io("writing the result")(error))
        }
        _ => Ok(()),
    }
}

/// An image that is asked for.
fn find<'a>(catalog: &'a Catalog, text: &str) -> Result<&'a Image, Error> {
    Ok(catalog.find(text)?.image)
}

/// The failures of several requests that were each tried.
pub(super) fn all_of(failures: Vec<Error>) -> Result<(), Error> {
    let texts: Vec<_> = failures.iter().map(|error| error.render(false)).collect();
    match failures.into_iter().next() {
        None => Ok(()),
        Some(only) if texts.len() == 1 => Err(only),
        Some(_) => Err(Error::Refused(texts.join("\n"))),
    }
}
