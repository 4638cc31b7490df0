//! The tags of a resource, from its selections and what the repositories list: each place in the destination once. Pure.

use std::collections::hash_map::Entry as Place;
use std::collections::{BTreeMap, HashMap};

use oci::{Reference, Repository, Tag};

use crate::entry::{Entry, MirrorTag};

/// Tags of one resource: each costs up to two requests at every look.
pub const MAX_TAGS: usize = 10_000;

/// What is mirrored.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Chosen {
    /// The tags, in the order of the spec.
    pub tags: Vec<MirrorTag>,
    /// What could not be chosen.
    pub problems: Vec<Unchosen>,
}

/// Why something could not be chosen.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Unchosen {
    /// The tags of a repository are needed, and not known.
    #[error("the tags of {0} could not be listed")]
    NotListed(Repository),
    /// A selection matches no tag.
    #[error("{field}.tags selects none of its {listed} tags")]
    Nothing {
        /// The repository.
        source_repository: Repository,
        /// The entry, `spec.images[0]`.
        field: String,
        /// How many tags it lists.
        listed: usize,
    },
    /// Another image has the place already.
    #[error("{other} and this would both be {place}")]
    Clash {
        /// What is left out.
        image: Reference,
        /// What has the place.
        other: Reference,
        /// Path and tag at the destination.
        place: String,
    },
    /// More tags than are taken.
    #[error(
        "{0} tags more than the {MAX_TAGS} that one ImageMirror takes: divide them among several"
    )]
    TooMany(usize),
}

impl Unchosen {
    /// What it is about: a repository, an image, or a field.
    pub fn what(&self) -> String {
        match self {
            Self::NotListed(repository)
            | Self::Nothing {
                source_repository: repository,
                ..
            } => repository.to_string(),
            Self::Clash { image, .. } => image.to_string(),
            Self::TooMany(_) => "spec.images".to_owned(),
        }
    }
}

/// Chooses the tags of `entries`, from the `listings` of those repositories of which tags must be listed. Where one is not among
/// them, the names of its entries are mirrored.
pub fn choose(entries: &[Entry], listings: &BTreeMap<Repository, Vec<Tag>>) -> Chosen {
    let mut chosen = Chosen::default();
    let mut places: HashMap<(String, String), usize> = HashMap::new();
    let mut beyond = 0;
    for entry in entries {
        let mut problem = None;
        let mut wanted: Vec<MirrorTag> = Vec::new();
        if let Some(selector) = &entry.selector {
            let listed = match listings.get(&entry.source) {
                _ if !selector.needs_list() => &[][..],
                Some(tags) => tags,
                None => {
                    problem = Some(Unchosen::NotListed(entry.source.clone()));
                    &[]
                }
            };
            let tags = selector.select(listed);
            if tags.is_empty() && problem.is_none() {
                problem = Some(Unchosen::Nothing {
                    source_repository: entry.source.clone(),
                    field: entry.field.clone(),
                    listed: listed.len(),
                });
            }
            let references = tags
                .into_iter()
                .map(|tag| (entry.source.tagged(tag.clone()), tag));
            wanted.extend(references.map(|(source, tag)| entry.tag(source, tag)));
        }
        wanted.extend(entry.digests.iter().filter_map(|digest| {
            let tag = crate::tag_of(digest)?;
            Some(entry.tag(entry.source.at(digest.clone()), tag))
        }));
        for tag in wanted {
            match places.entry((tag.path.clone(), tag.tag.as_str().to_owned())) {
                Place::Occupied(other) => {
                    let other = &chosen.tags[*other.get()];
                    if other.source != tag.source || other.platforms != tag.platforms {
                        chosen.problems.push(Unchosen::Clash {
                            other: other.source.clone(),
                            place: format!("{}:{}", tag.path, tag.tag.as_str()),
                            image: tag.source,
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
        chosen.problems.push(Unchosen::TooMany(beyond));
    }
    chosen
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "tests")]
    use serde_json::{Value, json};

    use super::*;
    use crate::entries;

    fn read(images: &Value) -> Vec<Entry> {
        let destination = json!({"registry": {"name": "main"}, "prefix": "m"});
        let destination = serde_json::from_value(destination).unwrap();
        let images: Vec<_> = serde_json::from_value(images.clone()).unwrap();
        entries(&"docker.io".parse().unwrap(), &destination, &images).unwrap()
    }

    fn choose_of(images: &Value, listings: &[(&str, &[&str])]) -> Chosen {
        let listings = listings.iter().map(|(repository, tags)| {
            let tags = tags.iter().map(|tag| tag.parse().unwrap()).collect();
            let repository = format!("docker.io/{repository}").parse().unwrap();
            (repository, tags)
        });
        choose(&read(images), &listings.collect())
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
        assert_eq!(problem.what(), "docker.io/acme/b:2");
        assert_eq!(
            problem.to_string(),
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
        let told: Vec<_> = chosen.problems.iter().map(ToString::to_string).collect();
        assert_eq!(
            told,
            [
                "spec.images[0].tags selects none of its 1 tags",
                "spec.images[2].tags selects none of its 0 tags"
            ]
        );
        let chosen = choose_of(&images, &[("acme/a", &["x"])]);
        // Names need no list, and what is wrong with a repository is told once.
        assert_eq!(chosen.tags.len(), 2);
        let failed = Unchosen::NotListed("docker.io/acme/b".parse().unwrap());
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
        assert!(chosen.problems[0].to_string().starts_with("7 tags more"));
    }
}
