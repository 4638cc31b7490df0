//! The deletion of tags that a mirror has written and that are not selected any more. A tag is deleted only where it still
//! names what was written: what somebody else has put there since is theirs. Where a registry deletes manifests only, a
//! manifest is deleted when no other tag leads to it.

use std::collections::{BTreeMap, HashSet};

use distribution::{Client, Error, Result};
use futures::{StreamExt, TryStreamExt};
use mirror::{Place, PrunePlan, Selection};
use oci::{Digest, Document, RegistryHost, Repository, Tag};
use protocol::{Failure, FailureKind, MAX_PLAN, PruneOutcome, PruneRequest};
use tokio_util::sync::CancellationToken;

use super::bookkeeping::Books;
use super::short;

/// Tags of one repository that are looked at, where a manifest is to be deleted.
const MAX_TAGS: usize = 100_000;
/// Questions at the same time.
const CONCURRENCY: usize = 8;

/// What became of a tag.
enum Fate {
    Deleted,
    /// Another tag leads to its manifest, and the registry deletes manifests only.
    Kept,
    Failed(String),
}

/// Deletes what `request` says of what `books` names, and takes it out of them.
///
/// # Errors
/// When `request` is malformed.
pub async fn prune(
    client: &Client,
    books: &mut Books,
    request: &PruneRequest,
    cancel: &CancellationToken,
) -> Result<PruneOutcome, Box<Failure>> {
    let selection = Selection::parse(&request.selected).ok_or_else(|| {
        let message = "the selected tags cannot be read";
        Box::new(Failure::new(FailureKind::InvalidRequest, message))
    })?;
    let prefix = request.prefix.as_deref();
    let plan = PrunePlan::of(&books.report, &selection, prefix, request.max_percent);
    let count = |number: usize| u32::try_from(number).unwrap_or(u32::MAX);
    let mut outcome = PruneOutcome {
        written: count(plan.written),
        planned: count(plan.tags.len()),
        plan: plan
            .tags
            .iter()
            .take(MAX_PLAN)
            .map(Place::to_string)
            .collect(),
        ..PruneOutcome::default()
    };
    if !request.delete || plan.refusal().is_some() {
        return Ok(outcome);
    }
    let mut repositories: BTreeMap<_, Vec<Place>> = BTreeMap::new();
    for place in plan.tags {
        let tags = repositories.entry(place.repository.clone()).or_default();
        tags.push(place);
    }
    for (path, places) in repositories {
        if cancel.is_cancelled() {
            outcome.failed += count(places.len());
            outcome.failure = Some("the pod was asked to stop".to_owned());
            continue;
        }
        let fates = delete_in(client, books, books.host(), &path, &places).await;
        for (place, fate) in places.iter().zip(fates) {
            match fate {
                Fate::Deleted => {
                    tracing::info!(%place, "deleted");
                    books.report.forget(place);
                    outcome.deleted += 1;
                }
                Fate::Kept => outcome.kept += 1,
                Fate::Failed(message) => {
                    tracing::error!(%place, message, "not deleted");
                    outcome.failed += 1;
                    let message = short(&format!("{place}: {message}"));
                    outcome.failure.get_or_insert(message);
                }
            }
        }
    }
    Ok(outcome)
}

/// Deletes `places` of the repository at `path`.
async fn delete_in(
    client: &Client,
    books: &Books,
    host: &RegistryHost,
    path: &str,
    places: &[Place],
) -> Vec<Fate> {
    let failed = |error: &dyn std::error::Error| Fate::Failed(crate::error::chain(error));
    let repository = match Repository::new(host.clone(), path) {
        Ok(repository) => repository,
        Err(error) => return places.iter().map(|_| failed(&error)).collect(),
    };
    let written = |place: &Place| books.report.written().get(place).map(|w| w.digest.clone());
    let mut fates: Vec<Option<Fate>> = Vec::new();
    let mut tags_stay = false;
    for place in places {
        let is_there = still_there(client, &repository, place, written(place).as_ref()).await;
        fates.push(match is_there {
            Ok(false) => Some(Fate::Deleted),
            Err(error) => Some(failed(&error)),
            Ok(true) if tags_stay => None,
            Ok(true) => {
                let tag = repository.tagged(place.tag.clone());
                match client.delete_manifest(&tag).await {
                    Ok(_) => Some(Fate::Deleted),
                    Err(error) if refuses_tags(&error) => {
                        tags_stay = true;
                        None
                    }
                    Err(error) => Some(failed(&error)),
                }
            }
        });
    }
    if fates.iter().all(Option::is_some) {
        return fates.into_iter().flatten().collect();
    }
    // What goes with its manifest: of this repository, what is to be deleted and is still there.
    let going: Vec<&Place> = places
        .iter()
        .zip(&fates)
        .filter(|(_, fate)| fate.is_none())
        .map(|(place, _)| place)
        .collect();
    let mut used = match used(client, &repository, &going).await {
        Ok(used) => used,
        Err(error) => {
            let fates = fates.into_iter();
            return fates.map(|f| f.unwrap_or_else(|| failed(&error))).collect();
        }
    };
    let of_report = books.report.written().iter();
    used.extend(
        of_report
            .filter(|(place, _)| *place.repository == *path && !going.contains(place))
            .map(|(_, written)| written.digest.clone()),
    );
    let mut done: HashSet<Digest> = HashSet::new();
    for (place, fate) in places.iter().zip(&mut fates) {
        let (None, Some(digest)) = (&fate, written(place)) else {
            continue;
        };
        *fate = Some(if used.contains(&digest) {
            Fate::Kept
        } else if done.contains(&digest) {
            Fate::Deleted
        } else {
            match client.delete_manifest(&repository.at(digest.clone())).await {
                Ok(_) => {
                    done.insert(digest);
                    Fate::Deleted
                }
                Err(error) => failed(&error),
            }
        });
    }
    let unnamed = || Fate::Failed("the report does not name its digest".to_owned());
    fates
        .into_iter()
        .map(|f| f.unwrap_or_else(unnamed))
        .collect()
}

/// Whether the tag still names what was written.
async fn still_there(
    client: &Client,
    repository: &Repository,
    place: &Place,
    written: Option<&Digest>,
) -> Result<bool> {
    let found = client
        .resolve(&repository.tagged(place.tag.clone()))
        .await?;
    Ok(found.is_some_and(|found| Some(&found.digest) == written))
}

/// Whether a registry says that it does not delete tags: as 405 or 501, or by not taking a tag for a digest.
const fn refuses_tags(error: &Error) -> bool {
    matches!(
        error,
        Error::Refused {
            status: 400 | 405 | 501,
            ..
        }
    )
}

/// The manifests of `repository` that tags besides `going` lead to: their own, and those that their indexes name.
async fn used(
    client: &Client,
    repository: &Repository,
    going: &[&Place],
) -> Result<HashSet<Digest>> {
    let going: HashSet<&str> = going.iter().map(|place| place.tag.as_str()).collect();
    let tags = client.tags(repository, MAX_TAGS).await?;
    let others: Vec<_> = tags
        .into_iter()
        .filter(|tag| !going.contains(tag.as_str()))
        .map(|tag| leads_to(client, repository, tag))
        .collect();
    let mut others = futures::stream::iter(others).buffer_unordered(CONCURRENCY);
    let mut used = HashSet::new();
    while let Some(digests) = others.try_next().await? {
        used.extend(digests);
    }
    Ok(used)
}

/// The manifest that a tag names, and all below it.
async fn leads_to(client: &Client, repository: &Repository, tag: Tag) -> Result<Vec<Digest>> {
    let mut next = vec![repository.tagged(tag)];
    let mut all: Vec<Digest> = Vec::new();
    while let Some(name) = next.pop() {
        let manifest = match client.manifest(&name).await {
            Ok(manifest) => manifest,
            Err(Error::NotFound { .. }) => continue,
            Err(error) => return Err(error),
        };
        all.push(manifest.digest.clone());
        let document = manifest.document().map_err(|source| Error::Document {
            action: format!("read manifest {name}"),
            source,
        })?;
        if let Document::Index(index) = document {
            let below = index.manifests.into_iter().map(|child| child.digest);
            for child in below
                .filter(|child| !all.contains(child))
                .collect::<Vec<_>>()
            {
                next.push(repository.at(child));
            }
        }
    }
    Ok(all)
}
