//! The deep check of what a mirror wrote: every tag of its report is looked at where it was copied to, and what is missing
//! of it is copied again, by digest from where it came from. A tag that is gone, or names something else now, is taken out of
//! the report: whether it is mirrored again is decided by the selection.

use distribution::Client;
use distribution::copy::{Checker, Copier, Found, Health, Job};
use futures::StreamExt;
use mirror::{Place, Written};
use oci::{Reference, RegistryHost, Repository};
use protocol::CheckOutcome;
use tokio_util::sync::CancellationToken;

use super::bookkeeping::Books;
use super::short;
use crate::error::chain;

/// Tags that are looked at at the same time.
const CONCURRENCY: usize = 4;

/// What became of a tag.
enum Fate {
    Whole,
    /// It is not what was written any more.
    Other,
    /// So much was missing and is there again.
    Repaired(usize),
    Failed {
        missing: usize,
        message: String,
    },
}

/// Looks at everything that `books` name; `None` where `cancel` came before the end.
pub async fn check(
    client: &Client,
    copier: &Copier,
    books: &mut Books,
    cancel: &CancellationToken,
) -> Option<CheckOutcome> {
    let checker = Checker::new(client.clone());
    let host = books.host().clone();
    let places: Vec<Place> = books.report.written().keys().cloned().collect();
    let mut outcome = CheckOutcome::default();
    let mut gone = Vec::new();
    {
        let written = books.report.written();
        let looks: Vec<_> = places
            .iter()
            .filter_map(|place| Some((place, written.get(place)?)))
            .map(|(place, written)| {
                let (checker, host) = (&checker, &host);
                async move { (place, look(checker, copier, host, place, written).await) }
            })
            .collect();
        let mut looks = futures::stream::iter(looks).buffer_unordered(CONCURRENCY);
        loop {
            let next = tokio::select! {
                biased;
                () = cancel.cancelled() => return None,
                next = looks.next() => next,
            };
            let Some((place, fate)) = next else { break };
            outcome.tags += 1;
            match fate {
                Fate::Whole => {}
                Fate::Other => gone.push(place.clone()),
                Fate::Repaired(missing) => {
                    tracing::info!(%place, missing, "repaired");
                    outcome.missing += count(missing);
                    outcome.repaired += 1;
                }
                Fate::Failed { missing, message } => {
                    tracing::error!(%place, message, "not whole");
                    outcome.missing += count(missing);
                    outcome.failed += 1;
                    let message = short(&format!("{place}: {message}"));
                    outcome.failure.get_or_insert(message);
                }
            }
        }
    }
    for place in gone {
        books.report.forget(&place);
    }
    Some(outcome)
}

fn count(number: usize) -> u32 {
    u32::try_from(number).unwrap_or(u32::MAX)
}

async fn look(
    checker: &Checker,
    copier: &Copier,
    host: &RegistryHost,
    place: &Place,
    written: &Written,
) -> Fate {
    let failed = |missing: usize, message: String| Fate::Failed { missing, message };
    let to = match Repository::new(host.clone(), &place.repository) {
        Ok(to) => to,
        Err(error) => return failed(0, chain(&error)),
    };
    let name = to.tagged(place.tag.clone());
    let health = || checker.check(&name, &written.digest, &written.platforms);
    let missing = match health().await {
        Ok(Health::Whole) => return Fate::Whole,
        Ok(Health::Other) => return Fate::Other,
        Ok(Health::Broken(digest)) => return failed(1, broken(&digest)),
        Ok(Health::Missing(missing)) => missing,
        Err(error) => return failed(0, chain(&error)),
    };
    let source: Repository = match written.source.parse() {
        Ok(source) => source,
        Err(error) => return failed(missing, chain(&error)),
    };
    let from: Reference = source.at(written.source_digest.clone());
    // The tag is as it should be: nothing is written to it.
    let job = Job {
        from: from.clone(),
        tags: Vec::new(),
        found: Found::Other,
        platforms: written.platforms.clone(),
        ..Job::new(from, &to.at(written.digest.clone()))
    };
    if let Err(error) = copier.copy(&job).await {
        return failed(
            missing,
            format!("{missing} of it are missing: {}", chain(&error)),
        );
    }
    match health().await {
        Ok(Health::Whole) => Fate::Repaired(missing),
        Ok(Health::Broken(digest)) => failed(missing, broken(&digest)),
        Ok(_) => failed(
            missing,
            "it was copied again, and is not whole all the same".to_owned(),
        ),
        Err(error) => failed(missing, chain(&error)),
    }
}

fn broken(digest: &oci::Digest) -> String {
    format!("the registry has {digest} in another size: delete that blob in its storage")
}
