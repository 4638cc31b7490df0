//! What a mirror would do: both sides are asked for digests, and manifests of what differs are read for their sizes. Nothing
//! is written.

use std::collections::HashSet;

use distribution::copy::content;
use distribution::{Client, Error};
use futures::StreamExt;
use mirror::MirrorTag;
use oci::{Descriptor, Digest, Reference};
use serde::Serialize;

/// Tags that are looked at at the same time.
const LOOKS: usize = 8;

/// What is to be done with a tag.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub(super) enum Action {
    /// The destination does not have it.
    Add,
    /// The destination has something else.
    Update,
    /// Both sides are equal.
    Unchanged,
    /// It was written.
    Copied,
    /// It cannot be mirrored.
    Failed,
}

/// What is to become of one tag, or became of it.
#[derive(Debug, Serialize)]
pub(super) struct Row {
    /// What is done.
    pub(super) action: Action,
    /// What is copied.
    pub(super) source: String,
    /// Where to.
    pub(super) destination: String,
    /// The digest there, afterwards.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) digest: Option<Digest>,
    /// Bytes that are brought: in a plan at most so many, since the destination may have some in other repositories.
    pub(super) bytes: u64,
    /// Why it fails.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) message: Option<String>,
    /// Whether it fails for what was asked for.
    #[serde(skip)]
    pub(super) is_users: bool,
}

impl Row {
    /// What cannot be mirrored, and why.
    pub(super) fn failed(
        source: String,
        destination: String,
        message: String,
        users: bool,
    ) -> Self {
        Self {
            action: Action::Failed,
            source,
            destination,
            digest: None,
            bytes: 0,
            message: Some(message),
            is_users: users,
        }
    }
}

/// Plans the copy of each of `tags` to its place, in their order.
pub(super) async fn plan(client: &Client, tags: &[(MirrorTag, Reference)]) -> Vec<Row> {
    let looks: Vec<_> = tags.iter().map(|(tag, to)| look(client, tag, to)).collect();
    let mut looks = futures::stream::iter(looks).buffered(LOOKS);
    let mut rows = Vec::new();
    // What images share is brought once.
    let mut seen: HashSet<Digest> = HashSet::new();
    while let Some((mut row, blobs)) = looks.next().await {
        let new = blobs
            .into_iter()
            .filter(|blob| seen.insert(blob.digest.clone()));
        row.bytes = new.map(|blob| blob.size).sum();
        rows.push(row);
    }
    rows
}

async fn look(client: &Client, tag: &MirrorTag, to: &Reference) -> (Row, Vec<Descriptor>) {
    let (source, destination) = (tag.source.to_string(), to.to_string());
    match compare(client, tag, to).await {
        Ok((action, digest, blobs)) => {
            let row = Row {
                action,
                source,
                destination,
                digest: Some(digest),
                bytes: 0,
                message: None,
                is_users: false,
            };
            (row, blobs)
        }
        Err(error) => {
            let users = matches!(
                error,
                Error::NotFound { .. } | Error::PlatformMissing { .. }
            );
            let message = crate::error::chain(&error);
            (Row::failed(source, destination, message, users), Vec::new())
        }
    }
}

async fn compare(
    client: &Client,
    tag: &MirrorTag,
    to: &Reference,
) -> Result<(Action, Digest, Vec<Descriptor>), Error> {
    let there = client.resolve(to).await?;
    if let Some(there) = &there
        && !tag.platforms.rewrites()
    {
        let here = client.resolve(&tag.source).await?;
        if here.is_some_and(|here| here.digest == there.digest) {
            return Ok((Action::Unchanged, there.digest.clone(), Vec::new()));
        }
    }
    let image = content(client, &tag.source, &tag.platforms).await?;
    let action = match there {
        Some(there) if there.digest == image.root.digest => {
            return Ok((Action::Unchanged, there.digest, Vec::new()));
        }
        Some(_) => Action::Update,
        None => Action::Add,
    };
    Ok((action, image.root.digest, image.blobs))
}
