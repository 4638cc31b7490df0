//! The tags of a resource, from its selections and what the repositories list: each place in the destination once. Pure.

use std::collections::hash_map::Entry as Place;
use std::collections::{BTreeMap, HashMap};

use oci::{Digest, Repository, Tag};

use super::validate::{Entry, MirrorTag};
use crate::reason::Reason;

/// Tags of one resource: each costs up to two requests at every look.
pub const MAX_TAGS: usize = 10_000;

/// The tags that a repository lists, in so far as they were needed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Listing {
    /// These, all of them.
    Tags(Vec<Tag>),
    /// They could not be listed.
    Failed(Problem),
}

/// What keeps part of a resource from being mirrored.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Problem {
    /// What it is about: a repository, or a tag of it.
    pub what: String,
    /// Why.
    pub reason: Reason,
    /// Why, for people.
    pub message: String,
    /// Whether it may pass by itself.
    pub transient: bool,
}

/// What is mirrored.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Chosen {
    /// The tags, in the order of the spec.
    pub tags: Vec<MirrorTag>,
    /// What could not be chosen.
    pub problems: Vec<Problem>,
}

/// The tag that an image has which is mirrored by digest: a collection of garbage keeps what has a tag.
pub fn tag_of(digest: &Digest) -> Option<Tag> {
    let hex = digest.hex().get(..12)?;
    format!("sha256-{hex}").parse().ok()
}

/// Chooses the tags of `entries`. Where a repository could not be listed, the names of its entries are mirrored.
pub fn choose(entries: &[Entry], listings: &BTreeMap<Repository, Listing>) -> Chosen {
    let mut chosen = Chosen::default();
    let mut places: HashMap<(String, String), usize> = HashMap::new();
    let mut beyond = 0;
    for entry in entries {
        let mut problem = None;
        let mut wanted: Vec<MirrorTag> = Vec::new();
        if let Some(selector) = &entry.selector {
            let listed = match listings.get(&entry.source) {
                _ if !selector.needs_list() => &[][..],
                Some(Listing::Tags(tags)) => tags,
                Some(Listing::Failed(failed)) => {
                    problem = Some(failed.clone());
                    &[]
                }
                None => &[],
            };
            let tags = selector.select(listed);
            if tags.is_empty() && problem.is_none() {
                problem = Some(Problem {
                    what: entry.source.to_string(),
                    reason: Reason::TagNotFound,
                    message: format!(
                        "{}.tags selects none of its {} tags",
                        entry.field,
                        listed.len()
                    ),
                    transient: false,
                });
            }
            let references = tags
                .into_iter()
                .map(|tag| (entry.source.tagged(tag.clone()), tag));
            wanted.extend(references.map(|(source, tag)| entry.tag(source, tag)));
        }
        wanted.extend(entry.digests.iter().filter_map(|digest| {
            let tag = tag_of(digest)?;
            Some(entry.tag(entry.source.at(digest.clone()), tag))
        }));
        for tag in wanted {
            match places.entry((tag.path.clone(), tag.tag.as_str().to_owned())) {
                Place::Occupied(other) => {
                    let other = &chosen.tags[*other.get()];
                    if other.source != tag.source || other.platforms != tag.platforms {
                        chosen.problems.push(Problem {
                            what: tag.source.to_string(),
                            reason: Reason::InvalidSpec,
                            message: format!(
                                "{} and this would both be {}:{}",
                                other.source,
                                tag.path,
                                tag.tag.as_str()
                            ),
                            transient: false,
                        });
                    }
                }
                Place::Vacant(_) if chosen.tags.len() >= MAX_TAGS => beyond += 1,
                Place::Vacant(place) => {
                    place.insert(chosen.tags.len());
                    chosen.tags.push(tag);
                }
            }
        }
        // Entries of one repository share its listing, and what is wrong with it.
        chosen
            .problems
            .extend(problem.filter(|problem| !chosen.problems.contains(problem)));
    }
    if beyond > 0 {
        chosen.problems.push(Problem {
            what: "spec.images".to_owned(),
            reason: Reason::InvalidSpec,
            message: format!(
                "{beyond} tags more than the {MAX_TAGS} that one ImageMirror takes: divide them among several"
            ),
            transient: false,
        });
    }
    chosen
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "tests")]
    use serde_json::{Value, json};

    use super::*;
    use crate::image_mirror::validate::validate;

    fn choose_of(images: &Value, listings: &[(&str, &[&str])]) -> Chosen {
        let spec = json!({"source": {"host": "docker.io"}, "images": images,
            "destination": {"registry": {"name": "main"}, "prefix": "m"}});
        let spec = validate(&serde_json::from_value(spec).unwrap()).unwrap();
        let listings = listings.iter().map(|(repository, tags)| {
            let tags = tags.iter().map(|tag| tag.parse().unwrap()).collect();
            let repository = format!("docker.io/{repository}").parse().unwrap();
            (repository, Listing::Tags(tags))
        });
        choose(&spec.entries, &listings.collect())
    }

    fn lines(chosen: &Chosen) -> Vec<String> {
        let line = |tag: &MirrorTag| format!("{} -> {}:{}", tag.source, tag.path, tag.tag.as_str());
        chosen.tags.iter().map(line).collect()
    }

    #[test]
    fn entries_of_one_repository_are_taken_together() {
        let chosen = choose_of(
            &json!([
                {"name": "a", "repository": "acme/app", "tags": {"semver": ">=1"}},
                {"name": "b", "repository": "acme/app", "tags": {"names": ["edge", "1.0"]}},
                {"name": "c", "repository": "acme/app", "destination": "old",
                 "digests": [format!("sha256:{}", "ab".repeat(32))]},
            ]),
            &[("acme/app", &["1.0", "1.1", "edge"])],
        );
        assert_eq!(
            lines(&chosen),
            [
                "docker.io/acme/app:1.1 -> m/acme/app:1.1",
                "docker.io/acme/app:1.0 -> m/acme/app:1.0",
                "docker.io/acme/app:edge -> m/acme/app:edge",
                &format!(
                    "docker.io/acme/app@sha256:{} -> m/old:sha256-abababababab",
                    "ab".repeat(32)
                ),
            ]
        );
        assert_eq!(chosen.problems, []);
    }

    #[test]
    fn two_images_for_one_place_are_told_and_the_first_is_taken() {
        let chosen = choose_of(
            &json!([
                {"name": "a", "repository": "acme/a", "tags": {"all": true}, "destination": "x"},
                {"name": "b", "repository": "acme/b", "tags": {"all": true}, "destination": "x"},
            ]),
            &[("acme/a", &["1", "2"]), ("acme/b", &["2", "3"])],
        );
        assert_eq!(chosen.tags.len(), 3);
        assert_eq!(chosen.problems.len(), 1);
        let problem = &chosen.problems[0];
        assert_eq!(problem.what, "docker.io/acme/b:2");
        assert_eq!(
            problem.message,
            "docker.io/acme/a:2 and this would both be m/x:2"
        );
    }

    #[test]
    fn a_selection_of_nothing_and_a_list_that_failed_are_told() {
        let images = json!([
            {"name": "a", "repository": "acme/a", "tags": {"regex": "^x"}},
            {"name": "b", "repository": "acme/b", "tags": {"names": ["1"], "regex": "^x"}},
            {"name": "c", "repository": "acme/b", "tags": {"regex": "^y"}},
        ]);
        let chosen = choose_of(&images, &[("acme/a", &["1"]), ("acme/b", &[])]);
        assert_eq!(lines(&chosen), ["docker.io/acme/b:1 -> m/acme/b:1"]);
        let told: Vec<_> = chosen.problems.iter().map(|p| p.message.as_str()).collect();
        assert_eq!(
            told,
            [
                "spec.images[0].tags selects none of its 1 tags",
                "spec.images[2].tags selects none of its 0 tags"
            ]
        );
        let failed = Problem {
            what: "docker.io/acme/b".into(),
            reason: Reason::RegistryUnavailable,
            message: "down".into(),
            transient: true,
        };
        let spec = json!({"source": {"host": "docker.io"}, "images": images,
            "destination": {"registry": {"name": "main"}}});
        let spec = validate(&serde_json::from_value(spec).unwrap()).unwrap();
        let listings = BTreeMap::from([
            (
                spec.entries[0].source.clone(),
                Listing::Tags(vec!["x".parse().unwrap()]),
            ),
            (
                spec.entries[1].source.clone(),
                Listing::Failed(failed.clone()),
            ),
        ]);
        let chosen = choose(&spec.entries, &listings);
        // Names need no list, and what is wrong with a repository is told once.
        assert_eq!(chosen.tags.len(), 2);
        assert_eq!(chosen.problems, [failed]);
    }

    #[test]
    fn more_tags_than_are_taken_are_told() {
        let names: Vec<String> = (0..MAX_TAGS + 7)
            .map(|number| format!("t{number}"))
            .collect();
        let names: Vec<&str> = names.iter().map(String::as_str).collect();
        let images = json!([{"name": "a", "repository": "acme/a", "tags": {"all": true}}]);
        let chosen = choose_of(&images, &[("acme/a", &names)]);
        assert_eq!(chosen.tags.len(), MAX_TAGS);
        assert!(chosen.problems[0].message.starts_with("7 tags more"));
    }
}
