//! The task of a mirror: what the request names is turned into jobs of one run of copies, and what became of them into the
//! outcome. Tags of one image are one job, so that it is read once.

use std::collections::BTreeMap;
use std::num::NonZeroU64;

use distribution::Client;
use distribution::copy::{Amount, Copier, CopyOptions, CopyReport, Found, Job, Platforms};
use futures::StreamExt;
use jiff::Timestamp;
use oci::{Platform, Reference};
use protocol::{Failure, FailureKind, MirrorImage, MirrorLimits, MirrorOutcome, MirrorRequest};
use tokio_util::sync::CancellationToken;

use super::trust;
use crate::outcome;
use crate::upkeep::bookkeeping::{Books, Done, Subject};
use crate::upkeep::check::check;
use crate::upkeep::deletion::prune;

/// What became of an image of the request.
type Ended = Result<CopyReport, Box<Failure>>;

/// Copies what `task` names; an image that fails does not keep the others from being copied.
///
/// # Errors
/// When the report of earlier syncs cannot be asked for, or a key cannot be used; nothing is copied then.
pub(super) async fn mirror(
    client: &Client,
    task: &MirrorRequest,
    cancel: &CancellationToken,
) -> Result<MirrorOutcome, Box<Failure>> {
    let mut books = match &task.report {
        Some(report) => Some(Books::open(client, report).await?),
        None => None,
    };
    let work = Work::of(&task.images);
    let mut ended: BTreeMap<usize, Ended> = work
        .refused
        .into_iter()
        .map(|(position, failure)| (position, Err(failure)))
        .collect();
    let options = CopyOptions {
        referrers: task.referrers,
        ..options(&task.limits)
    };
    let mut copier = Copier::new(client.clone(), client.clone(), options);
    if let Some(verifier) = trust::verifier(task.verify.as_deref())? {
        copier = copier.with_gate(verifier);
    }
    if let Some(ledger) = task.ledger.as_deref().and_then(|name| name.parse().ok()) {
        copier = copier.with_ledger(ledger);
    }
    let mut copies = copier.copy_all(&work.jobs);
    loop {
        let next = tokio::select! {
            biased;
            () = cancel.cancelled() => None,
            next = copies.next() => next,
        };
        let Some((job, result)) = next else { break };
        let result = result.map_err(|error| outcome::copy_failure(&error));
        let mut first = true;
        for position in &work.images[job] {
            tell(&task.images[*position], result.as_ref());
            note(
                &mut books,
                &work.jobs[job],
                &task.images[*position],
                result.as_ref(),
            );
            let one = match &result {
                // What was moved is counted once.
                Ok(report) if !first => Ok(CopyReport {
                    copied: Amount::default(),
                    mounted: Amount::default(),
                    ..report.clone()
                }),
                Ok(report) => Ok(report.clone()),
                Err(failure) => Err(Box::new(failure.clone())),
            };
            ended.insert(*position, one);
            first = false;
        }
    }
    drop(copies);
    copier.keep_ledger().await;
    let mut outcome = MirrorOutcome::default();
    for position in 0..task.images.len() {
        let one = ended.remove(&position).unwrap_or_else(|| {
            let message = "the pod was asked to stop";
            Err(Box::new(Failure::new(FailureKind::Cancelled, message)))
        });
        outcome::mirrored(&mut outcome, position, one);
    }
    if let Some(mut books) = books {
        let now = Timestamp::now();
        // Whatever becomes of the rest: what was copied has an account.
        let mut kept = books.keep(now).await;
        if task.check {
            outcome.check = check(client, &copier, &mut books, cancel).await;
        }
        if let Some(request) = &task.prune
            && outcome.failed == 0
            && !cancel.is_cancelled()
        {
            outcome.prune = Some(prune(client, &mut books, request, cancel).await?);
        }
        kept = books.keep(now).await.or(kept);
        if task.images.is_empty() && cancel.is_cancelled() {
            let message = "the pod was asked to stop";
            return Err(Box::new(Failure::new(FailureKind::Cancelled, message)));
        }
        copier.keep_ledger().await;
        outcome.report = kept.map(|digest| digest.to_string());
    }
    Ok(outcome)
}

/// Notes in the report what became of an image.
fn note(
    books: &mut Option<Books>,
    job: &Job,
    image: &MirrorImage,
    result: Result<&CopyReport, &Failure>,
) {
    let to: Option<Reference> = image.destination.parse().ok();
    let subject = to.and_then(|to| Subject::new(&job.from, &to));
    if let (Some(books), Some(subject)) = (books, subject) {
        let done = Done {
            result,
            platforms: &job.platforms,
        };
        books.note(&subject, &done, Timestamp::now());
    }
}

/// How is copied.
fn options(limits: &MirrorLimits) -> CopyOptions {
    let mut options = CopyOptions {
        bytes_per_second: limits.bytes_per_second.and_then(NonZeroU64::new),
        ..CopyOptions::default()
    };
    if let Some(concurrency) = limits.concurrency.and_then(|n| usize::try_from(n).ok()) {
        (options.images, options.blobs) = (concurrency, concurrency);
    }
    options
}

fn tell(image: &MirrorImage, result: Result<&CopyReport, &Failure>) {
    match result {
        Ok(report) => {
            let done = if report.unchanged {
                "unchanged"
            } else {
                "copied"
            };
            tracing::info!(
                source = image.source,
                destination = image.destination,
                digest = %report.root.digest,
                "{done}"
            );
        }
        Err(failure) => tracing::error!(source = image.source, "{}", failure.message),
    }
}

/// What is to be done for a request.
#[derive(Debug, Default)]
struct Work {
    jobs: Vec<Job>,
    /// Positions in the request of the images that each job is for.
    images: Vec<Vec<usize>>,
    /// Images that cannot be copied as they are named.
    refused: Vec<(usize, Box<Failure>)>,
}

impl Work {
    /// One job for all tags of one image in one repository, in the order of the request.
    fn of(images: &[MirrorImage]) -> Self {
        let mut work = Self::default();
        let mut known: BTreeMap<(String, String, String), usize> = BTreeMap::new();
        for (position, image) in images.iter().enumerate() {
            let (from, to) = match read(image) {
                Ok(names) => names,
                Err(failure) => {
                    work.refused.push((position, failure));
                    continue;
                }
            };
            let found = match image.replaces {
                None => Found::Unknown,
                Some(false) => Found::Nothing,
                Some(true) => Found::Other,
            };
            let platforms = match platforms(image) {
                Ok(platforms) => platforms,
                Err(failure) => {
                    work.refused.push((position, failure));
                    continue;
                }
            };
            let key = (
                identity(&from),
                to.repository().to_string(),
                format!("{platforms:?}"),
            );
            // An image without a tag is a job of its own: it is written by its digest.
            let same = known.get(&key).filter(|_| to.tag().is_some()).copied();
            if let Some(job) = same {
                let all = &mut work.jobs[job];
                all.tags.extend(to.tag().cloned());
                all.found = both(all.found, found);
                work.images[job].push(position);
                continue;
            }
            if to.tag().is_some() {
                known.insert(key, work.jobs.len());
            }
            work.jobs.push(Job {
                found,
                platforms,
                ..Job::new(from, &to)
            });
            work.images.push(vec![position]);
        }
        work
    }
}

/// What is true of two tags together.
const fn both(a: Found, b: Found) -> Found {
    match (a, b) {
        (Found::Unknown, _) | (_, Found::Unknown) => Found::Unknown,
        (Found::Other, _) | (_, Found::Other) => Found::Other,
        (Found::Nothing, Found::Nothing) => Found::Nothing,
    }
}

/// What two names of one image have in common.
fn identity(from: &Reference) -> String {
    match from.digest() {
        Some(digest) => from.repository().at(digest.clone()).to_string(),
        None => from.to_string(),
    }
}

fn read(image: &MirrorImage) -> Result<(Reference, Reference), Box<Failure>> {
    fn invalid(name: &str, error: impl std::fmt::Display) -> Box<Failure> {
        let message = format!("`{name}`: {error}");
        Box::new(Failure::new(FailureKind::InvalidRequest, message))
    }
    let parse = |name: &str| {
        let parsed: Result<Reference, _> = name.parse();
        parsed.map_err(|error| invalid(name, error))
    };
    let (mut from, to) = (parse(&image.source)?, parse(&image.destination)?);
    if let Some(digest) = &image.digest {
        from = from.pinned(digest.parse().map_err(|error| invalid(digest, error))?);
    }
    Ok((from, to))
}

fn platforms(image: &MirrorImage) -> Result<Platforms, Box<Failure>> {
    let Some(wanted) = &image.platforms else {
        return Ok(Platforms::Whole);
    };
    let only = wanted.only.iter().map(|name| name.parse());
    let only: Result<Vec<Platform>, _> = only.collect();
    let only = only.map_err(|error| {
        let message = format!("`{}`: {error}", image.destination);
        Box::new(Failure::new(FailureKind::InvalidRequest, message))
    })?;
    Ok(if wanted.rewrite {
        Platforms::Rewrite(only)
    } else {
        Platforms::Sparse(only)
    })
}

#[cfg(test)]
mod tests {
    use oci::Digest;
    use protocol::MirrorPlatforms;

    use super::*;

    fn image(
        source: &str,
        content: &str,
        destination: &str,
        replaces: Option<bool>,
    ) -> MirrorImage {
        MirrorImage {
            source: source.to_owned(),
            digest: (!content.is_empty()).then(|| Digest::of(content.as_bytes()).to_string()),
            destination: destination.to_owned(),
            replaces,
            platforms: None,
        }
    }

    fn only(mut image: MirrorImage, platform: &str) -> MirrorImage {
        image.platforms = Some(MirrorPlatforms {
            only: vec![platform.to_owned()],
            rewrite: true,
        });
        image
    }

    #[test]
    fn tags_of_one_image_are_one_job() {
        let work = Work::of(&[
            image("s.example/a:1", "x", "t.example/a:1", Some(false)),
            image("s.example/a:2", "y", "t.example/a:2", Some(false)),
            image("s.example/a:latest", "x", "t.example/a:latest", Some(true)),
            image("S", "x", "t.example/a:3", None),
            // Another repository, and nobody knows what it holds.
            image("s.example/a:1", "x", "t.example/b:1", None),
            image("s.example/a:9", "", "t.example/a:9", None),
            only(
                image("s.example/a:1", "x", "t.example/a:arm", None),
                "linux/arm64",
            ),
            only(
                image("s.example/a:1", "x", "t.example/a:bad", None),
                "linux",
            ),
        ]);
        let jobs: Vec<_> = work
            .jobs
            .iter()
            .map(|job| {
                let tags: Vec<_> = job.tags.iter().map(oci::Tag::as_str).collect();
                format!("{} {} {:?}", job.to, tags.join(","), job.found)
            })
            .collect();
        assert_eq!(
            jobs,
            [
                "t.example/a 1,latest Other",
                "t.example/a 2 Nothing",
                "t.example/b 1 Unknown",
                "t.example/a 9 Unknown",
                "t.example/a arm Unknown"
            ]
        );
        let images = [vec![0, 2], vec![1], vec![4], vec![5], vec![6]];
        assert_eq!(work.images, images);
        assert!(work.jobs[4].platforms.rewrites());
        let refused: Vec<_> = work.refused.iter().map(|(position, _)| *position).collect();
        assert_eq!(refused, [3, 7]);
    }
}
