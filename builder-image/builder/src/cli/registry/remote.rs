//! What `images` and `rm` do with names of images that are in a registry only: list the tags of a repository, and delete.

use clap::Args;
use distribution::Client;
use futures::{StreamExt, TryStreamExt};
use oci::Reference;
use serde::Serialize;

use super::{refused_by, until_stopped};
use crate::cli::image::{ListArgs, RemoveArgs, all_of, print};
use crate::cli::network::NetworkArgs;
use crate::cli::template::Format;
use crate::error::Error;

/// The most tags that are listed.
const MAX_TAGS: usize = 100_000;
/// Tags that are looked up at the same time.
const LOOKUPS: usize = 8;
const COLUMNS: &str = "{{.Repository}}\t{{.Tag}}";
const COLUMNS_WITH_DIGEST: &str = "{{.Repository}}\t{{.Tag}}\t{{.Digest}}";
const HEADERS: [(&str, &str); 3] = [
    ("Repository", "REPOSITORY"),
    ("Tag", "TAG"),
    ("Digest", "DIGEST"),
];

#[derive(Debug, Serialize)]
#[serde(rename_all = "PascalCase")]
struct Row {
    repository: String,
    tag: String,
    digest: String,
}

#[derive(Args, Debug)]
pub(in crate::cli) struct RemoteListArgs {
    #[command(flatten)]
    here: ListArgs,
    /// List the tags of HOST/REPOSITORY in its registry, also where there are images of that name here
    #[arg(long)]
    registry: bool,
    #[command(flatten)]
    network: NetworkArgs,
}

#[derive(Args, Debug)]
pub(in crate::cli) struct RemoteRemoveArgs {
    #[command(flatten)]
    here: RemoveArgs,
    /// Delete HOST/NAME:TAG or HOST/NAME@DIGEST in its registry, also where there is an image of that name here
    #[arg(long)]
    registry: bool,
    #[command(flatten)]
    network: NetworkArgs,
}

impl RemoteListArgs {
    /// Lists what is here; the tags in a registry where a name of one was given and nothing here is called so.
    pub(in crate::cli) fn run(&self) -> Result<(), Error> {
        let in_registry = match self.here.name() {
            Some(text) if self.registry => Some(in_registry(text).ok_or_else(|| no_host(text))?),
            None if self.registry => return Err(no_host("")),
            Some(text) => match in_registry(text) {
                Some(name) if !self.here.has_any(&name)? => Some(name),
                _ => None,
            },
            None => None,
        };
        match in_registry {
            None => self.here.run(),
            Some(name) => {
                let client = self.network.client()?;
                list_tags(
                    &client,
                    &name,
                    self.here.digests,
                    self.here.format.as_deref(),
                )
            }
        }
    }
}

impl RemoteRemoveArgs {
    /// Removes what is here; in a registry what names one and is not here.
    pub(in crate::cli) fn run(&self) -> Result<(), Error> {
        let catalog = self.here.store.open()?.catalog()?;
        let mut failures = Vec::new();
        for text in &self.here.images {
            let elsewhere = match in_registry(text) {
                None if self.registry => {
                    failures.push(no_host(text));
                    continue;
                }
                Some(name) if self.registry || catalog.find(text).is_err() => Some(name),
                _ => None,
            };
            let done = match elsewhere {
                Some(name) => (self.network.client()).and_then(|client| delete(&client, &name)),
                None => self.here.remove_one(text),
            };
            failures.extend(done.err());
        }
        all_of(failures)
    }
}

fn no_host(text: &str) -> Error {
    Error::Request(format!(
        "--registry: `{text}` does not name its registry: write HOST/{}",
        if text.is_empty() { "NAME" } else { text }
    ))
}

/// The image that a text means where it names its registry: `HOST/NAME`.
fn in_registry(text: &str) -> Option<Reference> {
    let (host, _) = text.split_once('/')?;
    let is_host = host.contains(['.', ':']) || host == "localhost";
    text.parse().ok().filter(|_| is_host)
}

/// Prints the tags of a repository, or the one that is named.
fn list_tags(
    client: &Client,
    name: &Reference,
    digests: bool,
    format: Option<&str>,
) -> Result<(), Error> {
    // A template may ask for digests.
    let digests =
        digests || format.is_some_and(|format| format.contains("Digest") || format == "json");
    let repository = name.repository();
    let rows: Vec<Row> = until_stopped(async || {
        let tags = if let Some(tag) = name.tag() {
            vec![tag.clone()]
        } else {
            let tags = client.tags(repository, MAX_TAGS).await;
            tags.map_err(|error| refused_by(error, name, "list"))?
        };
        let rows = futures::stream::iter(tags).map(|tag| async move {
            let tagged = repository.tagged(tag.clone());
            let found = if digests || name.tag().is_some() {
                let found = client.resolve(&tagged).await;
                found.map_err(|error| refused_by(error, &tagged, "list"))?
            } else {
                None
            };
            let digest = found.map(|found| found.digest.to_string());
            if name.tag().is_some() && digest.is_none() {
                return Ok(None);
            }
            Ok::<_, Error>(Some(Row {
                repository: repository.to_string(),
                tag: tag.to_string(),
                digest: digest.unwrap_or_else(|| "<none>".into()),
            }))
        });
        let rows: Vec<Option<Row>> = rows.buffered(LOOKUPS).try_collect().await?;
        Ok(rows.into_iter().flatten().collect())
    })?;
    let columns = if digests {
        COLUMNS_WITH_DIGEST
    } else {
        COLUMNS
    };
    print(&Format::new(format, columns).render(&HEADERS, &rows, 10)?)
}

/// Deletes a tag, or by a digest a manifest with all of its tags, in its registry.
fn delete(client: &Client, name: &Reference) -> Result<(), Error> {
    let name = images::entry_name(name);
    let deleted = until_stopped(async || match client.delete_manifest(&name).await {
        Err(distribution::Error::Refused {
            status: 400 | 405, ..
        }) if name.digest().is_none() => Err(Error::refused(format!(
            "the registry deletes no tags: delete the manifest with all of its tags by its digest, {}@$(coopery digest {})",
            name.repository(),
            name.familiar()
        ))),
        deleted => deleted.map_err(|error| refused_by(error, &name, "delete")),
    })?;
    if deleted {
        print(&format!("Deleted: {}\n", name.familiar()))
    } else {
        Err(Error::refused(format!(
            "No such image: {}",
            name.familiar()
        )))
    }
}
