//! Registries without a server: images that are kept in a directory or an archive answer for a host of their own. What
//! copies, lists and deletes images then need not know which of its sides has a server.
//!
//! Such a registry has no referrers API: what refers to an image is found by the fallback tag. How it keeps its images is
//! the matter of whoever implements [`LocalRegistry`].

use std::{collections::HashMap, sync::Arc};

use bytes::Bytes;
use futures::{Stream, future::BoxFuture};
use oci::{Descriptor, Digest, MediaType, Reference, RegistryHost, Repository, Tag};

use crate::{Client, Content, Error, Pushed, RawManifest, Result};

/// A host that no server has (RFC 2606, section 2), for an archive.
pub const ARCHIVE_HOST: &str = "archive.invalid";

/// Images that are kept without a server.
pub trait LocalRegistry: Send + Sync {
    /// The manifest that `reference` names; by digest, whichever repository it names.
    fn manifest<'a>(
        &'a self,
        reference: &'a Reference,
    ) -> BoxFuture<'a, Result<Option<RawManifest>>>;

    /// Keeps a manifest under the digest or, where there is none, the tag of `reference`. Everything that it refers to was
    /// given before.
    fn put_manifest<'a>(
        &'a self,
        reference: &'a Reference,
        media_type: &'a MediaType,
        bytes: Bytes,
    ) -> BoxFuture<'a, Result<()>>;

    /// Forgets a tag. `false` when there was none.
    fn untag<'a>(&'a self, reference: &'a Reference) -> BoxFuture<'a, Result<bool>>;

    /// The size of a blob, and its content from `offset` on, which is verified by who asks.
    fn blob<'a>(
        &'a self,
        blob: &'a Digest,
        offset: u64,
    ) -> BoxFuture<'a, Result<Option<(u64, Content)>>>;

    /// Keeps a blob, where `content` is what `blob` says.
    fn push_blob<'a>(&'a self, blob: &'a Descriptor, content: Content)
    -> BoxFuture<'a, Result<()>>;

    /// All tags of all repositories: paths and tags, in order.
    fn tags(&self) -> BoxFuture<'_, Result<Vec<(String, Tag)>>>;
}

/// The hosts that need no server.
pub(crate) type Locals = Arc<HashMap<RegistryHost, Arc<dyn LocalRegistry>>>;

impl Client {
    /// The same client, for which `local` answers for `host`. Connections, tokens and limits are shared.
    #[must_use]
    pub fn with_local(&self, host: RegistryHost, local: Arc<dyn LocalRegistry>) -> Self {
        let mut locals = HashMap::clone(&self.locals);
        locals.insert(host, local);
        let mut client = self.clone();
        client.locals = Arc::new(locals);
        client
    }

    pub(crate) fn local(&self, host: &RegistryHost) -> Option<Arc<dyn LocalRegistry>> {
        self.locals.get(host).cloned()
    }

    /// The content of a blob, where `repository` needs no server.
    pub(crate) async fn local_blob(
        &self,
        repository: &Repository,
        blob: &Descriptor,
        offset: u64,
    ) -> Option<Result<Content>> {
        let local = self.local(repository.host())?;
        let found = local.blob(&blob.digest, offset).await;
        Some(found.and_then(|found| match found {
            Some((_, content)) => Ok(content),
            None => Err(not_found(format!("pull blob {repository}@{}", blob.digest))),
        }))
    }

    /// All tags of `repository` as one page, where it needs no server.
    pub(crate) fn local_tags(
        &self,
        repository: &Repository,
    ) -> Option<impl Stream<Item = Result<Vec<Tag>>> + Send + 'static + use<>> {
        let local = self.local(repository.host())?;
        let repository = repository.clone();
        Some(futures::stream::once(async move {
            let all = local.tags().await?;
            let tags = all
                .into_iter()
                .filter(|(path, _)| path == repository.path());
            let tags: Vec<Tag> = tags.map(|(_, tag)| tag).collect();
            if tags.is_empty() {
                return Err(not_found(format!("list tags of {repository}")));
            }
            Ok(tags)
        }))
    }
}

/// Pushes a blob to `local`, unless that has it.
pub(crate) async fn push<'a>(
    local: &dyn LocalRegistry,
    blob: &Descriptor,
    open: impl FnOnce() -> BoxFuture<'a, Result<Content>>,
) -> Result<Pushed> {
    let found = local.blob(&blob.digest, 0).await?;
    // What another program has left half written is written again.
    if found.is_some_and(|(size, _)| size == blob.size) {
        return Ok(Pushed::Mounted);
    }
    local.push_blob(blob, open().await?).await?;
    Ok(Pushed::Uploaded)
}

pub(crate) const fn not_found(action: String) -> Error {
    Error::NotFound { action, code: None }
}
