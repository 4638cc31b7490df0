//! The deep check of images where they were copied to: their manifests are read, and every blob is asked for by HEAD, each
//! once in a run, however many images share it. It repairs nothing: a copy does that.

use std::{
    collections::HashSet,
    sync::{Arc, Mutex, PoisonError},
};

use futures::StreamExt;
use oci::{Descriptor, Digest, Reference, Repository};

use super::Platforms;
use super::image::Reading;
use crate::{Client, Error, Result};

/// Questions for blobs of one image at the same time.
const HEADS: usize = 6;

/// A run of checks at one destination.
pub struct Checker {
    destination: Client,
    /// Blobs that were found in a repository, as the first bytes of a hash: some 16 bytes for each of millions.
    seen: Mutex<HashSet<u128>>,
    turns: Arc<tokio::sync::Mutex<()>>,
}

/// How an image is at the destination.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Health {
    /// All of it is there.
    Whole,
    /// The tag names nothing, or something else.
    Other,
    /// So many of its blobs are missing, or some of its manifests, after the first of which nobody looked further.
    Missing(usize),
    /// It has a blob of another size than its manifest says. A registry takes nothing under a digest that it has.
    Broken(Digest),
}

impl Checker {
    /// A run that has seen nothing.
    pub fn new(destination: Client) -> Self {
        Self {
            destination,
            seen: Mutex::default(),
            turns: Arc::default(),
        }
    }

    /// Looks whether all of the image `expected`, of which `platforms` were copied, is where the tag `name` is.
    ///
    /// # Errors
    /// When the registry does not answer, or with something malformed.
    pub async fn check(
        &self,
        name: &Reference,
        expected: &Digest,
        platforms: &Platforms,
    ) -> Result<Health> {
        let reading = Reading {
            source: &self.destination,
            platforms,
            foreign_layers: true,
            turns: &self.turns,
        };
        let root = match self.destination.manifest(name).await {
            Ok(root) if root.digest == *expected => root,
            Ok(_) | Err(Error::NotFound { .. }) => return Ok(Health::Other),
            Err(error) => return Err(error),
        };
        let repository = name.repository();
        let image = match reading.read_below(repository, root).await {
            Ok(image) => image,
            Err(Error::NotFound { .. }) => return Ok(Health::Missing(1)),
            Err(error) => return Err(error),
        };
        let heads: Vec<_> = image
            .blobs
            .iter()
            .filter(|blob| !self.has_seen(repository, blob))
            .map(|blob| async move {
                let found = self.destination.find_blob(repository, &blob.digest).await;
                (blob, found)
            })
            .collect();
        let mut heads = futures::stream::iter(heads).buffer_unordered(HEADS);
        let (mut missing, mut broken) = (0, None);
        while let Some((blob, found)) = heads.next().await {
            match found? {
                None => missing += 1,
                Some(Some(size)) if size != blob.size => broken = Some(blob.digest.clone()),
                Some(_) => self.note(repository, blob),
            }
        }
        Ok(match (missing, broken) {
            (0, None) => Health::Whole,
            (0, Some(digest)) => Health::Broken(digest),
            (missing, _) => Health::Missing(missing),
        })
    }

    fn has_seen(&self, repository: &Repository, blob: &Descriptor) -> bool {
        let seen = self.seen.lock().unwrap_or_else(PoisonError::into_inner);
        seen.contains(&key(repository, blob))
    }

    fn note(&self, repository: &Repository, blob: &Descriptor) {
        let mut seen = self.seen.lock().unwrap_or_else(PoisonError::into_inner);
        seen.insert(key(repository, blob));
    }
}

impl std::fmt::Debug for Checker {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Checker").finish_non_exhaustive()
    }
}

fn key(repository: &Repository, blob: &Descriptor) -> u128 {
    let text = format!("{}@{}", repository.path(), blob.digest);
    let hash = Digest::of(text.as_bytes()).to_sha256().unwrap_or_default();
    hash.first_chunk().copied().map_or(0, u128::from_be_bytes)
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;
    use oci::{Index, Manifest, MediaType};

    use super::*;
    use crate::Guard;
    use crate::memory::MemoryRegistry;

    fn put(registry: &MemoryRegistry, name: &str) -> (Descriptor, Vec<Descriptor>) {
        let blob = |text: String, media_type: MediaType| {
            registry.add_blob("a", text.clone());
            Descriptor::of(media_type, text.as_bytes())
        };
        let config = blob(format!("{{\"name\":\"{name}\"}}"), MediaType::OciConfig);
        let shared = blob("shared".into(), MediaType::OciLayer);
        let own = blob(format!("own of {name}"), MediaType::OciLayer);
        let manifest = Manifest::new(config, vec![shared.clone(), own.clone()]);
        let json: Bytes = serde_json::to_vec(&manifest).unwrap().into();
        registry.add_manifest("a", None, MediaType::OciManifest, json.clone());
        let descriptor = Descriptor::of(MediaType::OciManifest, &json);
        (descriptor, vec![shared, own])
    }

    /// An index of two images that share a layer.
    fn index(registry: &MemoryRegistry) -> (Digest, Vec<Descriptor>, Vec<Descriptor>) {
        let ((x, layers), (y, _)) = (put(registry, "x"), put(registry, "y"));
        let platform = |child: Descriptor, name: &str| child.with_platform(name.parse().unwrap());
        let children = vec![platform(x, "linux/amd64"), platform(y, "linux/arm64")];
        let json = serde_json::to_vec(&Index::new(children.clone())).unwrap();
        let digest = registry.add_manifest("a", Some("1"), MediaType::OciIndex, json);
        (digest, children, layers)
    }

    fn checker() -> Checker {
        Checker::new(Client::builder().guard(Guard::Open).build().unwrap())
    }

    async fn check(registry: &MemoryRegistry, digest: &Digest) -> Health {
        let name = registry.repository("a").tagged("1".parse().unwrap());
        let checker = checker();
        checker
            .check(&name, digest, &Platforms::Whole)
            .await
            .unwrap()
    }

    #[tokio::test]
    async fn what_is_missing_is_found_and_each_blob_is_asked_for_once() {
        let registry = MemoryRegistry::start().await;
        let (digest, _, layers) = index(&registry);
        let name = registry.repository("a").tagged("1".parse().unwrap());
        let checker = checker();
        for heads in [5, 0] {
            registry.clear_requests();
            let health = checker.check(&name, &digest, &Platforms::Whole).await;
            assert_eq!(health.unwrap(), Health::Whole);
            let log = registry.requests();
            let asked = log.iter().filter(|asked| asked.method == "HEAD").count();
            assert_eq!((asked, log.len() - asked), (heads, 3));
        }
        registry.remove_blob("a", &layers[0].digest);
        assert_eq!(check(&registry, &digest).await, Health::Missing(1));
        registry.remove_blob("a", &layers[1].digest);
        assert_eq!(check(&registry, &digest).await, Health::Missing(2));
    }

    #[tokio::test]
    async fn a_tag_that_moved_or_is_gone_is_another_matter() {
        let registry = MemoryRegistry::start().await;
        let (digest, _, _) = index(&registry);
        let other = Digest::of(b"other");
        assert_eq!(check(&registry, &other).await, Health::Other);
        let registry = MemoryRegistry::start().await;
        assert_eq!(check(&registry, &digest).await, Health::Other);
    }

    #[tokio::test]
    async fn children_that_were_not_copied_are_not_missed() {
        let registry = MemoryRegistry::start().await;
        let (x, _) = put(&registry, "x");
        let x = x.with_platform("linux/amd64".parse().unwrap());
        let absent = Descriptor::of(MediaType::OciManifest, b"absent");
        let absent = absent.with_platform("linux/arm64".parse().unwrap());
        let json = serde_json::to_vec(&Index::new(vec![x, absent])).unwrap();
        let digest = registry.add_manifest("a", Some("1"), MediaType::OciIndex, json);
        assert_eq!(check(&registry, &digest).await, Health::Missing(1));
        let name = registry.repository("a").tagged("1".parse().unwrap());
        let sparse = Platforms::Sparse(vec!["linux/amd64".parse().unwrap()]);
        let health = checker().check(&name, &digest, &sparse).await;
        assert_eq!(health.unwrap(), Health::Whole);
    }
}
