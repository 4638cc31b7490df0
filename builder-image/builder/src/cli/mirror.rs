//! `coopery mirror`: ImageMirrors of a file, carried out without a cluster. What they select and how it is copied is the same;
//! credentials come from where docker keeps them, and nothing is deleted, since only a resource's status knows what it wrote.

mod keys;
mod plan;
mod side;

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write as _;
use std::io::Read;
use std::num::NonZeroU64;
use std::path::PathBuf;

use clap::{Args, ValueEnum};
use crds::image_mirror::{MirrorDestination, MirrorImage};
use distribution::Client;
use distribution::copy::{Copier, CopyOptions, Job};
use futures::StreamExt;
use mirror::manifest::Spec;
use mirror::{
    Entry, Manifest, MirrorTag, Selector, Unchosen, choose, entries, quantity, read_manifests,
};
use oci::{Reference, Repository, Tag};
use serde::Serialize;
use signature::Verifier;

use super::network::NetworkArgs;
use super::{human, output};
use crate::error::{Error, chain};
use crate::runtime::{Stop, run_async};
use keys::KeyArgs;
use plan::{Action, Row, plan};
use side::{Opened, PlaceArgs};

/// The most bytes of a file of manifests.
const MAX_FILE: u64 = 16 << 20;
/// The most tags of a repository.
const MAX_LISTED: usize = 100_000;
/// The most repositories of a registry.
const MAX_REPOSITORIES: usize = 100_000;
/// Repositories that are listed at the same time.
const LISTS: usize = 4;
/// The repository that keeps what is known of a Registry's blobs, below the namespace.
const LEDGER: &str = "coopery-ledger";

#[derive(Args, Debug)]
pub(super) struct MirrorArgs {
    /// File with ImageMirrors, or - for standard input
    file: PathBuf,
    /// Show what would be done, and do nothing
    #[arg(long)]
    dry_run: bool,
    /// How to show what was done
    #[arg(long, value_enum, default_value_t = Format::Table)]
    format: Format,
    #[command(flatten)]
    places: PlaceArgs,
    #[command(flatten)]
    keys: KeyArgs,
    #[command(flatten)]
    network: NetworkArgs,
}

/// How the result is shown.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum Format {
    /// A table
    Table,
    /// One JSON document
    Json,
}

/// What was done for one ImageMirror.
#[derive(Debug, Serialize)]
struct Done {
    name: String,
    images: Vec<Row>,
}

impl MirrorArgs {
    pub(super) fn run(&self) -> Result<(), Error> {
        let manifests = self.read()?;
        let client = self.network.client()?;
        let done = run_async(async |stop| {
            let mut all = Vec::new();
            for manifest in &manifests {
                let work = self.mirror(&client, manifest, &stop);
                let images = work.await.map_err(|error| match error {
                    Error::Request(message) => {
                        Error::Request(format!("`{}`: {message}", manifest.name))
                    }
                    error => error,
                })?;
                let name = manifest.name.clone();
                all.push(Done { name, images });
            }
            Ok(all)
        })?;
        match self.format {
            Format::Json => {
                let json = serde_json::json!({ "mirrors": done, "dryRun": self.dry_run });
                output::line(&json.to_string())?;
            }
            Format::Table => output::line(table(&done).trim_end())?,
        }
        self.end(&done)
    }

    fn read(&self) -> Result<Vec<Manifest>, Error> {
        let shown = self.file.display();
        let failed = |error: std::io::Error| Error::Request(format!("{shown}: {error}"));
        let mut text = String::new();
        let input: Box<dyn Read> = if self.file.as_os_str() == "-" {
            Box::new(std::io::stdin().lock())
        } else {
            Box::new(fs_err::File::open(&self.file).map_err(failed)?)
        };
        let read = input.take(MAX_FILE + 1).read_to_string(&mut text);
        read.map_err(failed)?;
        if text.len() as u64 > MAX_FILE {
            return Err(Error::Request(format!(
                "{shown}: more than {MAX_FILE} bytes"
            )));
        }
        let manifests = read_manifests(&text);
        let manifests = manifests.map_err(|error| Error::Request(format!("{shown}: {error}")))?;
        if manifests.is_empty() {
            return Err(Error::Request(format!("{shown}: it holds no ImageMirror")));
        }
        Ok(manifests)
    }

    async fn mirror(
        &self,
        client: &Client,
        manifest: &Manifest,
        stop: &Stop,
    ) -> Result<Vec<Row>, Error> {
        let spec = &manifest.spec;
        if spec.prune.is_some() {
            tracing::warn!(
                mirror = manifest.name,
                "nothing is pruned without a cluster: what a mirror wrote is named by the status of its resource"
            );
        }
        let verifier = self.keys.verifier(spec.verify.as_ref())?;
        let source = self.places.source(&spec.source)?;
        let destination = self.places.destination(&spec.destination, self.dry_run)?;
        let client = destination.serve(&source.serve(client));
        let work = async {
            let mut rows = Vec::new();
            let tags = choose_tags(&client, spec, &source, &destination, &mut rows).await?;
            if self.dry_run {
                rows.splice(0..0, plan(&client, &tags).await);
            } else {
                let copied = self
                    .copy(&client, manifest, &destination, verifier, &tags)
                    .await;
                rows.splice(0..0, copied);
            }
            Ok(rows)
        };
        let result = tokio::select! {
            biased;
            () = stop.token.cancelled() => Err(Error::Cancelled),
            rows = work => rows,
        };
        if let Some(archive) = destination.archive.filter(|_| !self.dry_run) {
            // What has arrived is kept, also where something else failed.
            let finished = tokio::task::spawn_blocking(move || archive.finish()).await;
            finished.map_err(|_| Error::Panicked)??;
        }
        result
    }

    /// Copies `tags`; one that fails does not keep the others from being copied.
    async fn copy(
        &self,
        client: &Client,
        manifest: &Manifest,
        destination: &Opened,
        verifier: Option<Verifier>,
        tags: &[(MirrorTag, Reference)],
    ) -> Vec<Row> {
        let spec = &manifest.spec;
        let mut options = CopyOptions {
            referrers: spec.copies_referrers(),
            ..CopyOptions::default()
        };
        if let Some(most) = spec.limits.as_ref().and_then(|limits| limits.concurrency) {
            options.images = most.max(1);
            options.blobs = most.max(1);
        }
        let rate = spec
            .limits
            .as_ref()
            .and_then(|l| l.bytes_per_second.as_deref());
        options.bytes_per_second = rate.and_then(quantity::bytes).and_then(NonZeroU64::new);
        let mut copier = Copier::new(client.clone(), client.clone(), options);
        if let Some(verifier) = verifier {
            copier = copier.with_gate(verifier);
        }
        let namespace = manifest.namespace.as_deref().unwrap_or("default");
        if destination.is_registry
            && let Ok(ledger) =
                Repository::new(destination.host.clone(), &format!("{namespace}/{LEDGER}"))
        {
            copier = copier.with_ledger(ledger);
        }
        let jobs: Vec<Job> = tags
            .iter()
            .map(|(tag, to)| Job {
                platforms: (*tag.platforms).clone(),
                ..Job::new(tag.source.clone(), to)
            })
            .collect();
        let mut rows: BTreeMap<usize, Row> = BTreeMap::new();
        let mut copies = copier.copy_all(&jobs);
        while let Some((position, result)) = copies.next().await {
            let (tag, to) = &tags[position];
            let (source, destination) = (tag.source.to_string(), to.to_string());
            let row = match result {
                Ok(report) => Row {
                    action: if report.unchanged {
                        Action::Unchanged
                    } else {
                        Action::Copied
                    },
                    source,
                    destination,
                    digest: Some(report.root.digest),
                    bytes: report.copied.bytes,
                    message: None,
                    is_users: false,
                },
                Err(error) => {
                    use distribution::ErrorKind::{NotFound, Untrusted};
                    let users = matches!(error.kind(), NotFound | Untrusted);
                    Row::failed(source, destination, chain(&error), users)
                }
            };
            tell(&row);
            rows.insert(position, row);
        }
        drop(copies);
        copier.keep_ledger().await;
        rows.into_values().collect()
    }

    /// The summary, and the failure where there was one.
    fn end(&self, done: &[Done]) -> Result<(), Error> {
        let rows = || done.iter().flat_map(|done| &done.images);
        let count = |action: Action| rows().filter(|row| row.action == action).count();
        let bytes = human::size(rows().map(|row| row.bytes).sum());
        let (failed, unchanged) = (count(Action::Failed), count(Action::Unchanged));
        if self.dry_run {
            let (add, update) = (count(Action::Add), count(Action::Update));
            tracing::info!(
                "{add} to add, {update} to update, {unchanged} unchanged, {failed} failed, 0 to prune; at most {bytes}"
            );
        } else {
            let copied = count(Action::Copied);
            tracing::info!("{copied} copied, {unchanged} unchanged, {failed} failed; {bytes}");
        }
        if failed == 0 {
            return Ok(());
        }
        Err(Error::Mirror {
            failed,
            all: rows().count(),
            users: rows().all(|row| row.action != Action::Failed || row.is_users),
        })
    }
}

fn tell(row: &Row) {
    match (&row.message, row.action) {
        (Some(message), _) => tracing::error!("{}: {message}", row.source),
        (None, Action::Unchanged) => tracing::info!("{}: unchanged", row.destination),
        (None, _) => tracing::info!("{}: copied", row.destination),
    }
}

/// The tags that `spec` selects, and where each goes. What cannot be selected is told in `rows`.
async fn choose_tags(
    client: &Client,
    spec: &Spec,
    source: &Opened,
    destination: &Opened,
    rows: &mut Vec<Row>,
) -> Result<Vec<(MirrorTag, Reference)>, Error> {
    let images = each_repository(client, source, &spec.images).await?;
    let place = MirrorDestination {
        prefix: spec.destination.prefix.clone(),
        ..MirrorDestination::default()
    };
    let entries = entries(&source.host, &place, &images);
    let entries = entries.map_err(|error| Error::Request(error.to_string()))?;
    let listings = list(client, &entries, rows).await;
    let chosen = choose(&entries, &listings);
    for problem in chosen.problems {
        let row = Row::failed(problem.what(), String::new(), problem.to_string(), true);
        // Why a list is missing was told when it was asked for.
        if !matches!(problem, Unchosen::NotListed(_)) {
            tell(&row);
            rows.push(row);
        }
    }
    let mut tags = Vec::new();
    for tag in chosen.tags {
        match tag.destination(&destination.host) {
            Some(to) => tags.push((tag, to)),
            None => rows.push(Row::failed(
                tag.source.to_string(),
                tag.path,
                "host and repository together are too long".to_owned(),
                true,
            )),
        }
    }
    Ok(tags)
}

/// The entries of `images`, with one for each repository of the source in place of those that name `*`.
async fn each_repository(
    client: &Client,
    source: &Opened,
    images: &[MirrorImage],
) -> Result<Vec<MirrorImage>, Error> {
    let mut each = Vec::new();
    for (at, image) in images.iter().enumerate() {
        if image.repository != "*" {
            each.push(image.clone());
            continue;
        }
        if image.destination.is_some() || !image.digests.is_empty() {
            let message = "all repositories go with neither destination nor digests";
            return Err(Error::Request(format!("spec.images[{at}]: {message}")));
        }
        let all = client.catalog(&source.host, MAX_REPOSITORIES).await;
        let doing = format!("listing the repositories of {}", source.host);
        for repository in all.map_err(Error::export(doing))? {
            each.push(MirrorImage {
                repository,
                ..image.clone()
            });
        }
    }
    Ok(each)
}

/// The tags of each repository that a selection needs. What cannot be listed is told in `rows`.
async fn list(
    client: &Client,
    entries: &[Entry],
    rows: &mut Vec<Row>,
) -> BTreeMap<Repository, Vec<Tag>> {
    let needs = |entry: &&Entry| entry.selector.as_ref().is_some_and(Selector::needs_list);
    let repositories: BTreeSet<&Repository> = entries
        .iter()
        .filter(needs)
        .map(|entry| &entry.source)
        .collect();
    let questions: Vec<_> = repositories
        .into_iter()
        .map(|repository| async move { (repository, client.tags(repository, MAX_LISTED).await) })
        .collect();
    let mut answers = futures::stream::iter(questions).buffered(LISTS);
    let mut listings = BTreeMap::new();
    while let Some((repository, tags)) = answers.next().await {
        match tags {
            Ok(tags) => {
                listings.insert(repository.clone(), tags);
            }
            Err(error) => {
                let users = error.kind() == distribution::ErrorKind::NotFound;
                let row = Row::failed(repository.to_string(), String::new(), chain(&error), users);
                tell(&row);
                rows.push(row);
            }
        }
    }
    listings
}

fn table(done: &[Done]) -> String {
    let rows = || done.iter().flat_map(|done| &done.images);
    let shown = |row: &Row| match row.destination.as_str() {
        "" => row.source.clone(),
        destination => destination.to_owned(),
    };
    let width = rows().map(|row| shown(row).len()).max().unwrap_or(0);
    let width = width.max("IMAGE".len());
    let mut table = format!(
        "{:<10} {:<width$} {:<19} {}\n",
        "ACTION", "IMAGE", "DIGEST", "SIZE"
    );
    for row in rows() {
        let action = format!("{:?}", row.action).to_lowercase();
        let digest = row.digest.as_ref();
        let digest = digest.map_or("-".to_owned(), |digest| {
            format!("sha256:{}", digest.short())
        });
        let size = human::size(row.bytes);
        let _ = writeln!(
            table,
            "{action:<10} {:<width$} {digest:<19} {size}",
            shown(row)
        );
    }
    table
}
