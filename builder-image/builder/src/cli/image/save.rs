//! `coopery save`: images as an archive, which docker, podman, skopeo and crane read.

use std::io::IsTerminal;
use std::path::PathBuf;

use clap::{Args, ValueEnum};
use images::{Catalog, Wanted};
use oci::Reference;
use store::{Form, Named};

use super::StoreArgs;
use crate::error::Error;
use crate::export::{ArchiveError, write_aside};
use crate::runtime::UntilOver;

/// What an archive is for.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum)]
enum ArchiveFormat {
    /// For docker load, and all that read OCI layouts
    #[default]
    DockerArchive,
    /// An OCI layout alone
    OciArchive,
}

#[derive(Args, Debug)]
pub(in crate::cli) struct SaveArgs {
    /// Images: names, ids, or beginnings of ids; a name without a tag means all tags of the repository
    #[arg(value_name = "IMAGE", required = true)]
    images: Vec<String>,
    /// Write to this file (default: standard output)
    #[arg(short, long, value_name = "FILE")]
    output: Option<PathBuf>,
    /// What the archive is for
    #[arg(long, value_enum, default_value_t)]
    format: ArchiveFormat,
    #[command(flatten)]
    store: StoreArgs,
}

impl SaveArgs {
    pub(in crate::cli) fn run(&self) -> Result<(), Error> {
        if self.output.is_none() && std::io::stdout().is_terminal() {
            return Err(Error::Refused(
                "cowardly refusing to save to a terminal. Use the -o flag or redirect".into(),
            ));
        }
        let images = self.store.open()?;
        // What is saved stays until it is written.
        let held = images.hold()?;
        let named = self.named(&images.catalog()?)?;
        let form = match self.format {
            ArchiveFormat::DockerArchive => Form::Docker,
            ArchiveFormat::OciArchive => Form::Oci,
        };
        let path = self
            .output
            .as_deref()
            .filter(|path| path.as_os_str() != "-");
        write_aside(path, |to, path| {
            let written = store::write_archive(images.layout(), &named, form, UntilOver(to));
            written.map_err(|source| ArchiveError::Store {
                path: path.to_owned(),
                source,
            })
        })?;
        drop(held);
        Ok(())
    }

    /// The images with the names that they are saved by, in the order of the arguments.
    fn named(&self, catalog: &Catalog) -> Result<Vec<Named>, Error> {
        let mut all: Vec<Named> = Vec::new();
        let mut add = |image: &images::Image, name: Option<Reference>| {
            let known = all
                .iter_mut()
                .find(|named| named.image.digest == image.root.digest);
            match known {
                Some(known) => {
                    known
                        .names
                        .extend(name.filter(|name| !known.names.contains(name)));
                }
                None => all.push(Named {
                    names: name.into_iter().collect(),
                    image: image.root.clone(),
                }),
            }
        };
        for text in &self.images {
            let repository = text.parse::<Reference>().ok();
            let tags: Vec<_> = repository
                .iter()
                .filter(|name| name.tag().is_none() && name.digest().is_none())
                .flat_map(|name| catalog.tags_of(name))
                .collect();
            if tags.is_empty() {
                let found = catalog.find(text)?;
                let name = match found.wanted {
                    Wanted::Name(name) => Some(name).filter(|name| name.tag().is_some()),
                    Wanted::Id => None,
                };
                add(found.image, name);
            }
            for tag in tags {
                if let Some(image) = catalog.by_name(tag) {
                    add(image, Some(tag.clone()));
                }
            }
        }
        Ok(all)
    }
}
