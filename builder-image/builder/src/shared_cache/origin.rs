//! Where the blobs of a cache that was read are, and bringing one into the engine's directory.

use std::io::{Read, Write};
use std::path::Path;

use futures::StreamExt;
use oci::{Descriptor, Digester, Repository};
use store::{Layout, StoreError};

use crate::cache::Cache;
use crate::error::BaseError;

/// How much of a file is read at once.
const CHUNK: usize = 256 * 1024;

/// Where blobs are.
#[derive(Clone, Debug)]
pub(crate) enum Origin {
    /// In a registry.
    Registry(Repository),
    /// In an OCI layout.
    Layout(Layout),
    /// In the engine's directory of another place.
    Store(Cache),
}

impl Origin {
    /// Brings a blob into `cache`, verified.
    pub(super) async fn fetch(
        &self,
        client: &distribution::Client,
        cache: &Cache,
        descriptor: &Descriptor,
    ) -> Result<(), BaseError> {
        let path = match self {
            Self::Layout(layout) => layout.blob_path(&descriptor.digest),
            Self::Store(store) => store.blob(&descriptor.digest),
            Self::Registry(repository) => {
                return download(client, repository, cache, descriptor).await;
            }
        };
        let (cache, descriptor) = (cache.clone(), descriptor.clone());
        let copied = tokio::task::spawn_blocking(move || copy(&path, &cache, &descriptor));
        copied.await.unwrap_or_else(|_| {
            Err(BaseError::Io {
                doing: "copying a layer of a cache",
                source: std::io::ErrorKind::Other.into(),
            })
        })
    }
}

fn io(doing: &'static str) -> impl FnOnce(std::io::Error) -> BaseError {
    move |source| BaseError::Io { doing, source }
}

async fn download(
    client: &distribution::Client,
    repository: &Repository,
    cache: &Cache,
    descriptor: &Descriptor,
) -> Result<(), BaseError> {
    let mut blob = client.blob(repository, descriptor).await?;
    let mut file = cache.blob_file().map_err(io("making a file for a layer"))?;
    while let Some(bytes) = blob.next().await {
        file.write_all(&bytes?).map_err(io("writing a layer"))?;
    }
    let (cache, digest) = (cache.clone(), descriptor.digest.clone());
    let adopted = tokio::task::spawn_blocking(move || cache.adopt(file, &digest));
    let adopted = adopted.await.map_err(std::io::Error::other);
    adopted
        .and_then(|adopted| adopted)
        .map_err(io("writing a layer"))
}

/// Copies a blob's file, which is refused where it is not what its descriptor says.
fn copy(from: &Path, cache: &Cache, descriptor: &Descriptor) -> Result<(), BaseError> {
    let file = store::open_file(from, descriptor)?;
    let mut to = cache.blob_file().map_err(io("making a file for a layer"))?;
    copy_verified(file, &mut to, descriptor, from)?;
    cache
        .adopt(to, &descriptor.digest)
        .map_err(io("writing a layer"))
}

/// Copies what `from` gives to `to`; fails at its end where it is not what its descriptor says.
pub(super) fn copy_verified(
    from: impl Read,
    mut to: impl Write,
    descriptor: &Descriptor,
    path: &Path,
) -> Result<(), BaseError> {
    let mut digester = Digester::new(descriptor.digest.algorithm());
    // One byte more tells a file that is too long.
    let mut from = from.take(descriptor.size.saturating_add(1));
    let mut buffer = vec![0; CHUNK];
    loop {
        let count = match from.read(&mut buffer) {
            Ok(0) => break,
            Ok(count) => count,
            Err(error) if error.kind() == std::io::ErrorKind::Interrupted => continue,
            Err(error) => return Err(io("reading a layer of a cache")(error)),
        };
        digester.update(&buffer[..count]);
        to.write_all(&buffer[..count])
            .map_err(io("writing a layer"))?;
    }
    let found = digester.finish();
    if found == descriptor.digest {
        Ok(())
    } else {
        let mismatch = StoreError::Mismatch {
            expected: descriptor.digest.to_string(),
            found: found.to_string(),
        };
        tracing::debug!(path = %path.display(), "a blob is damaged");
        Err(mismatch.into())
    }
}
