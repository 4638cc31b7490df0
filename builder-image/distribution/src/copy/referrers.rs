//! What refers to an image is copied with it: signatures, attestations and SBOMs, by the referrers API, by the fallback tag
//! of registries that lack it, and by the tags of cosign; and what refers to those. They are there before the image has its
//! tag, so that whoever verifies by the tag finds them.
//!
//! Nothing of it is trusted: what does not name the image as its subject is left out, and depth, number and bytes have
//! bounds.

use std::{
    collections::HashSet,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
};

use futures::{FutureExt, StreamExt, TryStreamExt, future::BoxFuture};
use oci::{Descriptor, Digest, Repository, Tag};
use tokio::sync::Mutex;

use super::copier::{Cargo, Copier, Found, Job};
use super::image::{Image, Reading};
use super::{CopyReport, Platforms};
use crate::{CosignTag, Error, ReferrersOrigin, Result, referrers::referrer};

/// How far from the image: a signature of an attestation of an SBOM of it is the third.
const MAX_DEPTH: usize = 3;
/// What is accepted of one image, so that a hostile one ends.
const MAX_REFERRERS: usize = 1000;
const MAX_MANIFEST_BYTES: usize = 32 * 1024 * 1024;
const MAX_BLOB_BYTES: u64 = 16 * 1024 * 1024 * 1024;
/// Manifests whose referrers are asked for at the same time.
const LOOKUPS: usize = 4;

/// What the copying of referrers keeps from image to image.
#[derive(Default)]
pub(super) struct Referring {
    /// Whether the source is known to lack the referrers API.
    lacks_api: AtomicBool,
    /// Whose turn it is among large ones. Not that of the images: the image that they refer to may have it.
    turns: Arc<Mutex<()>>,
    /// Held while the list under a fallback tag is read, changed and written.
    lists: Mutex<()>,
}

/// What refers to one manifest of the source.
struct Referred {
    subject: Digest,
    /// By the referrers API or the fallback tag.
    listed: Vec<Descriptor>,
    /// By the tags of cosign.
    tagged: Vec<(CosignTag, Descriptor)>,
}

impl Referred {
    fn is_empty(&self) -> bool {
        self.listed.is_empty() && self.tagged.is_empty()
    }
}

/// What was copied so far for one image.
#[derive(Default)]
struct Spent {
    found: usize,
    seen: HashSet<Digest>,
    manifest_bytes: usize,
    blob_bytes: u64,
}

impl Spent {
    /// Takes `image` in.
    fn add(&mut self, image: &Image, action: &str) -> Result<()> {
        let manifests = std::iter::once(&image.root).chain(image.below.iter().map(|n| &n.manifest));
        self.manifest_bytes += manifests
            .map(|manifest| manifest.bytes.len())
            .sum::<usize>();
        for blob in &image.blobs {
            self.blob_bytes = self.blob_bytes.saturating_add(blob.size);
        }
        if self.manifest_bytes > MAX_MANIFEST_BYTES || self.blob_bytes > MAX_BLOB_BYTES {
            return Err(too_complex(action, "referrers with too many bytes"));
        }
        Ok(())
    }

    /// Takes in what was found, before any of it is copied.
    fn note(&mut self, found: &[Referred], action: &str) -> Result<()> {
        self.found += found
            .iter()
            .map(|one| one.listed.len() + one.tagged.len())
            .sum::<usize>();
        if self.found > MAX_REFERRERS {
            return Err(too_complex(action, "too many referrers"));
        }
        Ok(())
    }

    /// Whether `digest` is new.
    fn see(&mut self, digest: &Digest) -> bool {
        self.seen.insert(digest.clone())
    }
}

fn too_complex(action: &str, problem: &'static str) -> Error {
    let action = action.to_owned();
    Error::TooComplex { action, problem }
}

impl Copier {
    /// Copies what refers to the manifests of `image`. With `put_root`, the root is put by its digest before anything that
    /// refers to it.
    pub(super) fn copy_referrers<'a>(
        &'a self,
        job: &'a Job,
        image: &'a Image,
        put_root: bool,
        report: &'a mut CopyReport,
    ) -> BoxFuture<'a, Result<()>> {
        async move {
            if job.from.repository() == &job.to {
                return Ok(());
            }
            let below = image.below.iter().map(|node| &node.manifest.digest);
            let mut level: Vec<_> = std::iter::once(&image.root.digest)
                .chain(below)
                .cloned()
                .collect();
            let from = job.from.repository();
            let action = format!("copy what refers to {}", from.at(level[0].clone()));
            let mut spent = Spent::default();
            for depth in 0..MAX_DEPTH {
                let lookups: Vec<_> = level
                    .drain(..)
                    .map(|subject| self.referrers_of(from, subject))
                    .collect();
                let found: Vec<_> = futures::stream::iter(lookups)
                    .buffered(LOOKUPS)
                    .try_collect()
                    .await?;
                let found: Vec<_> = found.into_iter().filter(|one| !one.is_empty()).collect();
                if found.is_empty() {
                    return Ok(());
                }
                spent.note(&found, &action)?;
                if depth == 0 && put_root {
                    let name = job.to.at(image.root.digest.clone());
                    self.put(&image.root, name).await?;
                    report.manifests += 1;
                }
                for one in found {
                    let copied = self
                        .copy_referred(job, &one, &mut spent, &action, report)
                        .await?;
                    level.extend(copied);
                }
            }
            if !level.is_empty() {
                tracing::debug!(%from, "what refers to {MAX_DEPTH} levels of referrers is left out");
            }
            Ok(())
        }
        .boxed()
    }

    /// What refers to `subject` at the source.
    async fn referrers_of(&self, from: &Repository, subject: Digest) -> Result<Referred> {
        let listed = async {
            if self.referring.lacks_api.load(Ordering::Relaxed) {
                return self.source.fallback(from, &subject, None).await;
            }
            let found = self.source.referrers(from, &subject, None).await?;
            if found.origin != ReferrersOrigin::Api {
                self.referring.lacks_api.store(true, Ordering::Relaxed);
            }
            Ok(found)
        };
        let tagged = futures::future::try_join_all(CosignTag::ALL.map(|kind| {
            let name = from.tagged(kind.of(&subject));
            async move {
                let found = self.source.resolve(&name).await?;
                Ok::<_, Error>(found.map(|found| (kind, found)))
            }
        }));
        let (listed, tagged) = futures::try_join!(listed, tagged)?;
        let mut listed = listed.manifests;
        listed.retain(|entry| entry.media_type.is_manifest() || entry.media_type.is_index());
        Ok(Referred {
            listed,
            tagged: tagged.into_iter().flatten().collect(),
            subject,
        })
    }

    /// Copies what refers to one manifest and is missing; what may be referred to in turn.
    async fn copy_referred(
        &self,
        job: &Job,
        found: &Referred,
        spent: &mut Spent,
        action: &str,
        report: &mut CopyReport,
    ) -> Result<Vec<Digest>> {
        let subject = &found.subject;
        let mut next = Vec::new();
        let mut unlisted = Vec::new();
        let there = if found.listed.is_empty() {
            Vec::new()
        } else {
            let there = self.destination.referrers(&job.to, subject, None).await?;
            there.manifests
        };
        for entry in &found.listed {
            if !spent.see(&entry.digest) {
                continue;
            }
            if there.iter().any(|has| has.digest == entry.digest) {
                next.push(entry.digest.clone());
                continue;
            }
            let image = self.read_referrer(job, &entry.digest).await?;
            let Some((about, described)) = referrer(&image.root)? else {
                continue;
            };
            if about != *subject {
                continue;
            }
            spent.add(&image, action)?;
            if !self.carry_referrer(job, &image, &[], report).await? {
                unlisted.push(described);
            }
            report.referrers += 1;
            next.push(entry.digest.clone());
        }
        if !unlisted.is_empty() {
            let _alone = self.referring.lists.lock().await;
            self.destination
                .add_to_fallback(&job.to, subject, &unlisted)
                .await?;
        }
        for (kind, root) in &found.tagged {
            let tag = kind.of(subject);
            let name = job.to.tagged(tag.clone());
            let there = self.destination.resolve_to_push(&name).await?;
            if there.is_none_or(|there| there.digest != root.digest) {
                let image = self.read_referrer(job, &root.digest).await?;
                spent.add(&image, action)?;
                self.carry_referrer(job, &image, &[tag], report).await?;
                report.referrers += 1;
            }
            // A signature is not signed again.
            if *kind != CosignTag::Signatures && spent.see(&root.digest) {
                next.push(root.digest.clone());
            }
        }
        Ok(next)
    }

    async fn read_referrer(&self, job: &Job, digest: &Digest) -> Result<Image> {
        let reading = Reading {
            source: &self.source,
            platforms: &Platforms::Whole,
            foreign_layers: self.options.foreign_layers,
            turns: &self.referring.turns,
        };
        reading
            .read(&job.from.repository().at(digest.clone()))
            .await
    }

    /// Brings a referrer; whether the destination lists it.
    async fn carry_referrer(
        &self,
        job: &Job,
        image: &Image,
        tags: &[Tag],
        report: &mut CopyReport,
    ) -> Result<bool> {
        let job = Job {
            from: job.from.repository().at(image.root.digest.clone()),
            to: job.to.clone(),
            tags: Vec::new(),
            found: Found::Other,
            platforms: Platforms::Whole,
        };
        let cargo = Cargo {
            tags,
            fresh: false,
            referrers: false,
        };
        self.carry(&job, image, cargo, report).await
    }
}
