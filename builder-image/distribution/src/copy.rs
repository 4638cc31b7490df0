//! Copying of images from registry to registry, bytes unchanged: resolve once, copy by digest, blobs before manifests,
//! children before their index, the tag last. What the destination has is mounted, what it lacks is sent while it arrives.
//!
//! A [`Copier`] is one run over any number of images: each blob is fetched once, however many of them share it, and what
//! earlier runs learned of the destination is read from a [`Ledger`] that is kept there. `image` reads, `plan` and
//! `known` decide, `blobs` moves the bytes, `copier` carries out, and `referrers` does for signatures and the like what
//! `copier` does for images. `check` looks whether what was copied is still whole.
//!
//! It selects no tags and deletes nothing; callers do.

mod blobs;
mod check;
mod copier;
mod image;
mod known;
mod ledger;
mod pace;
mod plan;
mod platforms;
mod referrers;

use std::num::NonZeroU64;

use futures::future::BoxFuture;
use oci::{Descriptor, Digest, Reference, Repository};

use crate::{Client, Parts, Result};

pub use check::{Checker, Health};
pub use copier::{Copier, Found, Job, LEDGER_TAG};
pub use ledger::Ledger;
pub use platforms::Platforms;

/// How images are copied.
#[derive(Debug, Clone)]
pub struct CopyOptions {
    /// Images that are worked on at the same time, so that one is read while another is written.
    pub images: usize,
    /// Blobs on their way at the same time, of all images together.
    pub blobs: usize,
    /// Bytes of blobs a second, of all images together; each is counted once, on its way through. None for no limit.
    pub bytes_per_second: Option<NonZeroU64>,
    /// Copies manifests that name foreign layers, leaving those layers where their URLs say. Otherwise they are refused.
    pub foreign_layers: bool,
    /// Copies what refers to the images as well, before their tags are written: signatures, attestations, SBOMs.
    pub referrers: bool,
    /// How large blobs are moved.
    pub large: LargeBlobs,
}

/// How large blobs are moved. In memory are at most `at_once × (parts.connections + 3) × parts.size` bytes of them: what has
/// come, what is being sent, and what is held back to be verified.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct LargeBlobs {
    /// Blobs of at least so many bytes are read in parts, where their server has ranges.
    pub from: u64,
    /// The parts.
    pub parts: Parts,
    /// Blobs that are read in parts at the same time; others that come meanwhile are read by one connection each.
    pub at_once: usize,
    /// Larger blobs are sent in chunks of so many bytes, so that an interruption costs no more than one of them; 0 sends
    /// every blob in one request.
    pub chunk: u64,
}

impl Default for LargeBlobs {
    /// From 64 MiB on, one of them at a time, by six connections of 2 MiB each; chunks of 256 MiB.
    fn default() -> Self {
        Self {
            from: 64 * MIB,
            parts: Parts {
                connections: 6,
                size: 2 * MIB,
            },
            at_once: 1,
            chunk: 256 * MIB,
        }
    }
}

const MIB: u64 = 1024 * 1024;

impl Default for CopyOptions {
    fn default() -> Self {
        Self {
            images: 4,
            blobs: 6,
            bytes_per_second: None,
            foreign_layers: false,
            referrers: false,
            large: LargeBlobs::default(),
        }
    }
}

/// Decides whether an image may be copied, before anything of it is.
pub trait Gate: Send + Sync {
    /// Fails where the image `digest` of `repository`, as `source` has it, may not be copied: with
    /// [`Error::Untrusted`](crate::Error::Untrusted) where that is known, and with any other error where it cannot be found
    /// out.
    fn admit<'a>(
        &'a self,
        source: &'a Client,
        repository: &'a Repository,
        digest: &'a Digest,
    ) -> BoxFuture<'a, Result<()>>;
}

/// What a copy did.
#[derive(Debug, Clone, PartialEq)]
pub struct CopyReport {
    /// The manifest or index that the destination has now.
    pub root: Descriptor,
    /// Whether the destination had it already under every name, so that nothing was done.
    pub unchanged: bool,
    /// Manifests and indexes put, those of further names included.
    pub manifests: usize,
    /// What refers to the image and was not there: signatures, attestations, SBOMs. Their manifests and blobs are counted
    /// with those of the image.
    pub referrers: usize,
    /// Blobs sent, and their bytes.
    pub copied: Amount,
    /// Blobs that the destination's registry had, and their bytes.
    pub mounted: Amount,
}

/// A number of blobs and their size in bytes.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Amount {
    /// How many.
    pub blobs: usize,
    /// Their size.
    pub bytes: u64,
}

impl CopyReport {
    /// A copy of `root` that has done nothing yet.
    const fn of(root: Descriptor) -> Self {
        Self {
            root,
            unchanged: false,
            manifests: 0,
            referrers: 0,
            copied: Amount { blobs: 0, bytes: 0 },
            mounted: Amount { blobs: 0, bytes: 0 },
        }
    }
}

impl Amount {
    const fn add(&mut self, bytes: u64) {
        self.blobs += 1;
        self.bytes += bytes;
    }
}

/// What a copy would have to bring.
#[derive(Debug, Clone, PartialEq)]
pub struct Content {
    /// The manifest or index that the destination would have.
    pub root: Descriptor,
    /// Each blob of it once.
    pub blobs: Vec<Descriptor>,
}

/// What is to be copied for `from`: its manifests are read, and no blobs.
///
/// # Errors
/// As [`Copier::copy`], in so far as the source is concerned.
pub async fn content(source: &Client, from: &Reference, platforms: &Platforms) -> Result<Content> {
    let reading = image::Reading {
        source,
        platforms,
        foreign_layers: false,
        turns: &std::sync::Arc::default(),
    };
    let image = reading.read(from).await?;
    Ok(Content {
        root: image.root.descriptor(),
        blobs: image.blobs,
    })
}

/// Copies the image or index `from` of `source` to `to` of `destination`, with no ledger.
///
/// When it fails, `to` is what it was before; blobs and untagged manifests may be left at the destination.
///
/// # Errors
/// As [`Copier::copy`].
pub async fn copy(
    source: &Client,
    from: &Reference,
    destination: &Client,
    to: &Reference,
    options: &CopyOptions,
) -> Result<CopyReport> {
    let copier = Copier::new(source.clone(), destination.clone(), options.clone());
    copier.copy(&Job::new(from.clone(), to)).await
}
