//! The outcome of a pod's task, from what a build or a mirror run came to. Pure, but for nothing.

use protocol::{
    BaseImage, BuildOutcome, CacheMiss, Failure, FailureKind, Isolation, MirrorOutcome,
    MirroredImage, Outcome, PlatformImage, PushedImage, Report, Resolved,
};

use crate::build::Built;
use crate::error::{Error, chain, registry_kind};
use crate::image::Product;
use crate::progress::escape;
use crate::solve::Miss;

/// How long the text of a step in a miss may be, in bytes.
const MAX_STEP: usize = 128;

/// How long the reason of a miss may be, in bytes.
const MAX_REASON: usize = 256;

/// The outcome of a finished build. `destinations` are names and repositories in the order of the request.
pub fn built(
    built: &Built,
    destinations: &[(String, oci::Repository)],
    source: Resolved,
    isolation: Isolation,
) -> Outcome {
    let digest = &built.product.descriptor().digest;
    let count = |number: usize| u32::try_from(number).unwrap_or(u32::MAX);
    Outcome::new(Report::Built(BuildOutcome {
        digest: digest.to_string(),
        size: built.product.size(),
        platform: built.image().platform.to_string(),
        platforms: platforms(&built.product),
        destinations: destinations
            .iter()
            .map(|(name, repository)| PushedImage {
                name: name.clone(),
                image: repository.at(digest.clone()).to_string(),
            })
            .collect(),
        base_images: built
            .bases
            .iter()
            .map(|base| BaseImage {
                reference: base.name.clone(),
                digest: base.digest.to_string(),
                mirror: base.mirror.as_ref().map(ToString::to_string),
            })
            .collect(),
        source,
        steps: count(built.counts.steps),
        cached_steps: count(built.counts.cached),
        misses: misses(&built.misses),
        isolation,
    }))
}

/// The first misses, each at most as long as the protocol says.
fn misses(misses: &[Miss]) -> Vec<CacheMiss> {
    let short = |text: &str, limit: usize| {
        let mut text = escape(text.as_bytes());
        if text.len() > limit {
            let end = (0..=limit - "…".len())
                .rev()
                .find(|end| text.is_char_boundary(*end));
            text.truncate(end.unwrap_or_default());
            text.push('…');
        }
        text
    };
    let first = misses.iter().take(protocol::MAX_MISSES);
    first
        .map(|miss| CacheMiss {
            step: short(&miss.step, MAX_STEP),
            reason: short(&miss.cause.to_string(), MAX_REASON),
        })
        .collect()
}

/// The images of an index.
fn platforms(product: &Product) -> Vec<PlatformImage> {
    let listed = product.images.iter().filter(|_| product.index.is_some());
    listed
        .map(|image| PlatformImage {
            platform: image.platform.to_string(),
            digest: image.descriptor.digest.to_string(),
            size: image.size(),
        })
        .collect()
}

/// The outcome of a failed build.
pub fn failed(error: &Error, source: Resolved) -> Outcome {
    let mut failure = error.to_failure();
    failure.source = source;
    Outcome::new(Report::Failed(failure))
}

/// What became of one image of a mirror run.
pub fn mirrored(
    outcome: &mut MirrorOutcome,
    index: usize,
    result: Result<distribution::copy::CopyReport, Box<Failure>>,
) {
    let mut image = MirroredImage {
        index: u32::try_from(index).unwrap_or(u32::MAX),
        digest: None,
        failure: None,
    };
    match result {
        Ok(report) => {
            image.digest = Some(report.root.digest.to_string());
            if report.unchanged {
                outcome.unchanged += 1;
            } else {
                outcome.copied += 1;
            }
            outcome.mounted_blobs += u32::try_from(report.mounted.blobs).unwrap_or(u32::MAX);
            outcome.bytes_copied += report.copied.bytes;
            outcome.bytes_mounted += report.mounted.bytes;
        }
        Err(failure) => {
            outcome.failed += 1;
            image.failure = Some(*failure);
        }
    }
    outcome.images.push(image);
}

/// The failure of copying an image.
pub fn copy_failure(error: &distribution::Error) -> Failure {
    let kind = match error.kind() {
        distribution::ErrorKind::NotFound => FailureKind::BaseImageNotFound,
        _ => registry_kind(error),
    };
    Failure::new(kind, chain(error))
}
