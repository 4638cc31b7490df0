//! Looks at both sides of a mirror: lists tags where a selection needs that, and asks for the digests, by HEAD. What was
//! seen is remembered for the interval: after a sync only what it was to change is asked for again, and where one look is
//! not enough for all tags the next one goes on.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::sync::Arc;
use std::time::{Duration, Instant};

use distribution::{Error, ErrorKind};
use futures::StreamExt;
use jiff::Timestamp;
use mirror::{Entry, MirrorTag, Selector};
use oci::{Digest, Reference, RegistryHost, Repository};

use super::cadence::Cadence;
use super::chosen::{Listing, Problem, choose};
use super::observed::{Found, Look, TagLook};
use super::validate::ValidatedMirror;
use crate::context::Context;
use crate::network::RegistryAccess;
use crate::reason::Reason;

/// Tags that are looked at at the same time.
const CONCURRENCY: usize = 16;
/// Repositories that are listed at the same time.
const LISTS: usize = 4;
/// How soon is looked again after a failure that may pass.
const AGAIN_AFTER_FAILURE: Duration = Duration::from_secs(30);
/// How soon is looked again for a tag that the source does not have.
const AGAIN_AFTER_MISSING: Duration = Duration::from_secs(60);
/// How soon a look goes on that was not done.
const GO_ON: Duration = Duration::from_secs(1);

/// What was seen, for the looks to come.
#[derive(Debug)]
pub struct Remembered {
    /// All that it depends on but the syncs, as text.
    core: String,
    /// When everything was last looked at from the beginning.
    begun: Instant,
    /// The time of the schedule that this was for.
    slot: Option<Timestamp>,
    /// What was seen.
    look: Arc<Look>,
}

/// Who is asked, and how.
pub struct Sides<'a> {
    /// The spec.
    pub spec: &'a ValidatedMirror,
    /// The host of the destination.
    pub host: &'a RegistryHost,
    /// How the source is asked.
    pub source: RegistryAccess,
    /// How the destination is asked.
    pub destination: RegistryAccess,
}

/// Looks at all tags on both sides, or remembers what was seen, for the object `uid`. `core` is all that a look depends on
/// but the syncs, and `sync` the last of those, as text. Also says how long what was seen is good for.
pub async fn look(
    context: &Context,
    sides: &Sides<'_>,
    uid: &str,
    core: String,
    sync: &str,
) -> (Arc<Look>, Duration) {
    let cadence = &sides.spec.cadence;
    let slot = cadence.slot(context.now());
    let question = format!("{core} {sync} {cadence:?} {slot:?}");
    let before = context.tag_lookups.last(uid);
    let before = before.filter(|seen| seen.core == core);
    // A round that takes longer than the interval is finished before the next begins.
    let same_round = before.as_ref().is_some_and(|seen| {
        let is_over = match cadence {
            Cadence::Every(interval) => seen.begun.elapsed() >= *interval,
            Cadence::At(_) => seen.slot != slot,
        };
        !is_over || seen.look.tags.iter().any(|(_, look)| !look.current)
    });
    let (seen, good_for) = context
        .tag_lookups
        .answer(uid, &question, || async {
            let begun = before.as_ref().filter(|_| same_round);
            let (begun, begun_for) =
                begun.map_or_else(|| (Instant::now(), slot), |seen| (seen.begun, seen.slot));
            let before = before.as_ref().map(|seen| seen.look.as_ref());
            let look = sides.look(context, before, same_round).await;
            let left = match cadence {
                Cadence::Every(interval) => interval.saturating_sub(begun.elapsed()),
                // A round that was not done in time is followed by the present one.
                Cadence::At(_) if begun_for != slot => GO_ON,
                Cadence::At(_) => cadence.wait(context.now()),
            };
            let good_for = good_for(&look, left);
            let look = Arc::new(look);
            let seen = Remembered {
                core,
                begun,
                slot: begun_for,
                look,
            };
            (Arc::new(seen), good_for)
        })
        .await;
    (seen.look.clone(), good_for)
}

fn good_for(look: &Look, left: Duration) -> Duration {
    let found = look.tags.iter().filter_map(|(_, look)| look.problem());
    let transient = look.problems.iter().map(|problem| problem.transient);
    let mut good_for = left;
    for transient in transient.chain(found.map(|(_, _, transient)| transient)) {
        good_for = good_for.min(if transient {
            AGAIN_AFTER_FAILURE
        } else {
            AGAIN_AFTER_MISSING
        });
    }
    if look
        .tags
        .iter()
        .any(|(_, look)| look.is_open() || !look.current)
    {
        good_for = good_for.min(GO_ON);
    }
    good_for
}

/// What is known of a tag from what was seen `before`. In the same round, a tag that was equal need not be asked for again,
/// nor the source of one that differed, which was copied meanwhile.
fn known(before: &TagLook, same_round: bool) -> TagLook {
    let mut look = before.clone();
    if !same_round {
        look.current = false;
    }
    if look.current && look.pending().is_some() {
        look.destination = Found::NotLookedAt;
    } else if look.current && look.synced().is_none() {
        return TagLook::NOT_YET;
    }
    look
}

impl Sides<'_> {
    async fn look(&self, context: &Context, before: Option<&Look>, same_round: bool) -> Look {
        // The rest of a reconcile needs its time as well.
        let until = Instant::now() + context.settings.reconcile_timeout / 2;
        let (chosen, problems) =
            if let Some(look) = before.filter(|look| same_round && look.problems.is_empty()) {
                let chosen: Vec<MirrorTag> = look.tags.iter().map(|(tag, _)| tag.clone()).collect();
                (chosen, Vec::new())
            } else {
                let all = choose(&self.spec.entries, self.list(context).await);
                (all.tags, all.problems)
            };
        let seen_before: HashMap<(&str, &str), &(MirrorTag, TagLook)> = before
            .iter()
            .flat_map(|look| &look.tags)
            .map(|seen| ((seen.0.path.as_str(), seen.0.tag.as_str()), seen))
            .collect();
        // Made beforehand: a stream over a closure that borrows would not be general enough to be sent.
        let questions: Vec<_> = chosen
            .into_iter()
            .map(|tag| {
                let seen = seen_before.get(&(tag.path.as_str(), tag.tag.as_str()));
                let seen = seen.filter(|(before, _)| *before == tag);
                let seen = seen.map_or(TagLook::NOT_YET, |(_, look)| known(look, same_round));
                self.look_at(context, tag, seen, until)
            })
            .collect();
        let tags = futures::stream::iter(questions)
            .buffered(CONCURRENCY)
            .collect()
            .await;
        Look { tags, problems }
    }

    /// Lists each repository that a selection needs, once.
    async fn list(&self, context: &Context) -> BTreeMap<Repository, Listing> {
        let needs = |entry: &&Entry| entry.selector.as_ref().is_some_and(Selector::needs_list);
        let repositories: HashSet<&Repository> = self
            .spec
            .entries
            .iter()
            .filter(needs)
            .map(|entry| &entry.source)
            .collect();
        let questions: Vec<_> = repositories
            .into_iter()
            .map(|repository| async move {
                let answer = context.network.tags(repository, &self.source).await;
                let listing = answer.map_or_else(
                    |error| {
                        let (reason, message, transient) =
                            failure(&error, Reason::ImageUnauthorized);
                        Listing::Failed(Problem {
                            what: repository.to_string(),
                            reason,
                            message,
                            transient,
                        })
                    },
                    Listing::Tags,
                );
                (repository.clone(), listing)
            })
            .collect();
        futures::stream::iter(questions)
            .buffer_unordered(LISTS)
            .collect()
            .await
    }

    /// Asks for what is not known of `tag`, unless the time is over.
    async fn look_at(
        &self,
        context: &Context,
        tag: MirrorTag,
        mut seen: TagLook,
        until: Instant,
    ) -> (MirrorTag, TagLook) {
        if Instant::now() >= until {
            return (tag, seen);
        }
        if !seen.current {
            let (source, rewritten) = self.source_of(context, &tag).await;
            seen = TagLook {
                source,
                rewritten,
                destination: Found::NotLookedAt,
                current: true,
            };
        }
        let has_source = matches!(seen.source, Found::Digest(_));
        if has_source && seen.destination == Found::NotLookedAt {
            seen.destination = match tag.destination(self.host) {
                Some(place) => {
                    find(
                        context,
                        &place,
                        &self.destination,
                        Reason::RegistryUnauthorized,
                    )
                    .await
                }
                None => Found::Failed {
                    reason: Reason::InvalidSpec,
                    message: "host and repository together are too long".to_owned(),
                    transient: false,
                },
            };
        }
        (tag, seen)
    }

    /// What the source has under `tag`, and the digest that it will have at the destination where that is another.
    async fn source_of(&self, context: &Context, tag: &MirrorTag) -> (Found, Option<Digest>) {
        let found = match tag.source.digest() {
            // It is what it is called, if it is there: who copies it finds out.
            Some(digest) => Found::Digest(digest.clone()),
            None => {
                find(
                    context,
                    &tag.source,
                    &self.source,
                    Reason::ImageUnauthorized,
                )
                .await
            }
        };
        match &found {
            Found::Digest(digest) if tag.platforms.rewrites() => {
                match self.rewritten(context, tag, digest).await {
                    Ok(rewritten) => (found, rewritten),
                    Err(failed) => (failed, None),
                }
            }
            _ => (found, None),
        }
    }

    async fn rewritten(
        &self,
        context: &Context,
        tag: &MirrorTag,
        digest: &Digest,
    ) -> Result<Option<Digest>, Found> {
        let failed = |error: &Error| {
            let (reason, message, transient) = failure(error, Reason::ImageUnauthorized);
            Found::Failed {
                reason,
                message,
                transient,
            }
        };
        let name = tag.source.repository().at(digest.clone());
        let document = context.network.document(&name, &self.source).await;
        let Some(document) = document.map_err(|error| failed(&error))? else {
            return Err(Found::Nothing);
        };
        let result = tag.platforms.result_of(document);
        let result = result.map_err(|error| failed(&error))?.digest;
        Ok((result != *digest).then_some(result))
    }
}

/// What a registry has under `reference`.
pub async fn find(
    context: &Context,
    reference: &Reference,
    access: &RegistryAccess,
    unauthorized: Reason,
) -> Found {
    match context.network.manifest(reference, access).await {
        Ok(Some(descriptor)) => Found::Digest(descriptor.digest),
        Ok(None) => Found::Nothing,
        Err(error) => {
            let (reason, message, transient) = failure(&error, unauthorized);
            Found::Failed {
                reason,
                message,
                transient,
            }
        }
    }
}

/// Why, for programs and for people, and whether it may pass.
fn failure(error: &Error, unauthorized: Reason) -> (Reason, String, bool) {
    let reason = match error.kind() {
        ErrorKind::Unauthorized => unauthorized,
        ErrorKind::AddressRefused => Reason::AddressRefused,
        ErrorKind::DigestMismatch => Reason::DigestMismatch,
        ErrorKind::Unavailable | ErrorKind::Certificate => Reason::RegistryUnavailable,
        ErrorKind::NotFound => Reason::TagNotFound,
        _ => Reason::SyncFailed,
    };
    (reason, error.to_string(), error.is_transient())
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "tests")]
    use super::*;

    fn seen(source: Found, destination: Found) -> TagLook {
        TagLook {
            source,
            rewritten: None,
            destination,
            current: true,
        }
    }

    fn has(content: &str) -> Found {
        Found::Digest(Digest::of(content.as_bytes()))
    }

    #[test]
    fn in_one_round_only_what_may_have_changed_is_asked_for_again() {
        let failed = Found::Failed {
            reason: Reason::RegistryUnavailable,
            message: "down".into(),
            transient: true,
        };
        let equal = seen(has("a"), has("a"));
        assert_eq!(known(&equal, true), equal);
        let copied = known(&seen(has("a"), has("b")), true);
        assert_eq!((&copied.source, copied.current), (&has("a"), true));
        assert!(copied.is_open() && known(&seen(has("a"), Found::Nothing), true).is_open());
        for look in [
            seen(failed.clone(), Found::NotLookedAt),
            seen(Found::Nothing, Found::NotLookedAt),
            seen(has("a"), failed),
            TagLook::NOT_YET,
        ] {
            assert_eq!(known(&look, true), TagLook::NOT_YET);
        }
    }

    #[test]
    fn in_the_next_round_what_was_seen_holds_until_it_is_looked_at() {
        let equal = known(&seen(has("a"), has("a")), false);
        assert!(equal.synced().is_some() && !equal.is_open() && !equal.current);
        let look = Look {
            tags: Vec::new(),
            problems: Vec::new(),
        };
        let interval = Duration::from_secs(900);
        assert_eq!(good_for(&look, interval), interval);
    }
}
