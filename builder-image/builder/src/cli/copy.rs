//! `coopery copy`: one image between registries, directories and archives.

use std::path::Path;

use clap::Args;
use distribution::Client;
use distribution::copy::{CopyOptions, copy};
use oci::{Reference, Tag};

use super::network::NetworkArgs;
use super::output;
use crate::archive::{
    Archive, ArchiveFailure, ArchiveForm, ArchivePlace, Naming, Place, any_repository, archive_host,
};
use crate::error::Error;
use crate::runtime::run_async;

#[derive(Args)]
pub(super) struct CopyArgs {
    /// Image to copy: a name, oci:DIR[:NAME], oci-archive:FILE[:NAME] or docker-archive:FILE[:NAME]
    source: Place,
    /// Where to copy it to, written as SOURCE is
    destination: Place,
    /// Copy what refers to the image as well: signatures, attestations, SBOMs
    #[arg(short, long, visible_alias = "referrers")]
    recursive: bool,
    #[command(flatten)]
    network: NetworkArgs,
}

pub(super) fn run(args: &CopyArgs) -> Result<(), Error> {
    let client = args.network.client()?;
    let (client, from, _source) = source(&client, &args.source)?;
    let (client, to, archive) = destination(&client, &args.destination)?;
    let options = CopyOptions {
        referrers: args.recursive,
        ..CopyOptions::default()
    };
    let report = run_async(async |stop| {
        let doing = || {
            format!(
                "copying {} to {}",
                shown(&args.source),
                shown(&args.destination)
            )
        };
        tokio::select! {
            biased;
            () = stop.token.cancelled() => Err(Error::Cancelled),
            report = copy(&client, &from, &client, &to, &options) => {
                let report = report.map_err(Error::export(doing()))?;
                if let Some(archive) = archive {
                    let finished = tokio::task::spawn_blocking(move || archive.finish()).await;
                    finished.map_err(|_| Error::Panicked)??;
                }
                Ok(report)
            }
        }
    })?;
    output::line(report.root.digest.as_str())
}

/// The image to copy, and what it is read with.
fn source(
    client: &Client,
    place: &Place,
) -> Result<(Client, Reference, Option<Archive>), ArchiveFailure> {
    match place {
        Place::Registry(name) => Ok((client.clone(), name.clone().or_latest(), None)),
        Place::Archive(place) => {
            let archive = Archive::open(&place.path, &std::env::temp_dir())?;
            let host = archive_host(0);
            let digest = archive.find(place.name.as_deref())?;
            let from = any_repository(&host).at(digest);
            Ok((archive.serve(client, &host), from, Some(archive)))
        }
    }
}

/// The name to write, and what it is written with.
fn destination(
    client: &Client,
    place: &Place,
) -> Result<(Client, Reference, Option<Archive>), ArchiveFailure> {
    match place {
        Place::Registry(name) => Ok((client.clone(), name.clone().or_latest(), None)),
        Place::Archive(place) => {
            let archive = Archive::create(place.form, &place.path, naming(place), beside(place))?;
            let host = archive_host(1);
            let to = any_repository(&host).tagged(Tag::latest());
            Ok((archive.serve(client, &host), to, Some(archive)))
        }
    }
}

/// The archive has one name for it, whatever the copy calls it.
fn naming(place: &ArchivePlace) -> Naming {
    let loaded = place
        .name
        .as_ref()
        .filter(|_| place.form == ArchiveForm::Docker);
    Naming::One {
        name: place.name.clone(),
        image: loaded
            .and_then(|name| name.parse().ok())
            .map(Reference::or_latest),
    }
}

/// The directory of an archive file, which has room for it.
fn beside(place: &ArchivePlace) -> &Path {
    let parent = place.path.parent();
    let parent = parent.filter(|parent| !parent.as_os_str().is_empty());
    parent.unwrap_or(Path::new("."))
}

fn shown(place: &Place) -> String {
    match place {
        Place::Registry(name) => name.clone().or_latest().to_string(),
        Place::Archive(place) => place.path.display().to_string(),
    }
}
