//! The report of a mirror where it is kept: read by its digest, so that it is what this mirror wrote, and written as a new
//! artifact, which the tag then names.

use distribution::{Client, Error};
use futures::{StreamExt, TryStreamExt};
use oci::{Descriptor, Digest, Repository, Tag};

use mirror::{Artifact, Report, ReportError};

/// Layers that are read or written at the same time.
const CONCURRENCY: usize = 4;

/// Why a report could not be read.
#[derive(Debug, thiserror::Error)]
pub enum ReadError {
    /// The registry does not give it.
    #[error(transparent)]
    Registry(#[from] Error),
    /// It is none, or one of something else.
    #[error("the report {name} cannot be used")]
    Report {
        /// Its name.
        name: String,
        /// Why.
        source: ReportError,
    },
}

/// Reads the report of `owner` that `repository` has under `digest`; `None` where it is gone.
///
/// # Errors
/// When the registry does not answer, or with something else than a report of this mirror.
pub async fn read(
    client: &Client,
    repository: &Repository,
    digest: &Digest,
    owner: &str,
) -> Result<Option<Report>, ReadError> {
    let name = repository.at(digest.clone());
    let unusable = |source| ReadError::Report {
        name: name.to_string(),
        source,
    };
    let manifest = match client.manifest(&name).await {
        Ok(manifest) => manifest,
        Err(Error::NotFound { .. }) => return Ok(None),
        Err(error) => return Err(error.into()),
    };
    let (mut report, layers) = Report::read_manifest(&manifest.bytes, owner).map_err(unusable)?;
    let reads: Vec<_> = layers
        .into_iter()
        .map(|layer| async move {
            let bytes = fetch(client, repository, &layer).await?;
            Ok::<_, Error>((layer, bytes))
        })
        .collect();
    let mut reads = futures::stream::iter(reads).buffered(CONCURRENCY);
    while let Some(read) = reads.next().await {
        match read {
            Ok((layer, bytes)) => report.read_layer(&layer, &bytes).map_err(unusable)?,
            Err(Error::NotFound { .. }) => return Ok(None),
            Err(error) => return Err(error.into()),
        }
    }
    Ok(Some(report))
}

async fn fetch(
    client: &Client,
    repository: &Repository,
    layer: &Descriptor,
) -> Result<Vec<u8>, Error> {
    let mut content = client.blob(repository, layer).await?;
    let mut bytes = Vec::new();
    while let Some(part) = content.try_next().await? {
        bytes.extend_from_slice(&part);
    }
    Ok(bytes)
}

/// Writes a report into `repository`, under its digest and as `tag`.
///
/// # Errors
/// When the registry does not take it. `tag` then names what it named before.
pub async fn write(
    client: &Client,
    repository: &Repository,
    tag: &Tag,
    artifact: Artifact,
) -> Result<Digest, Error> {
    let pushes: Vec<_> = artifact
        .blobs
        .into_iter()
        .map(|(blob, bytes)| client.upload_bytes(repository, blob.media_type, bytes))
        .collect();
    let mut pushes = futures::stream::iter(pushes).buffer_unordered(CONCURRENCY);
    while pushes.try_next().await?.is_some() {}
    let name = repository.tagged(tag.clone());
    client
        .put_manifest(&name, &Report::media_type(), artifact.manifest)
        .await
}
