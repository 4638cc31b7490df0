//! The tags of a resource, chosen from what the repositories list, and in the operator's words what is wrong with them. Pure.

use std::collections::BTreeMap;

use mirror::{Entry, MirrorTag, Unchosen};
use oci::{Repository, Tag};

use crate::reason::Reason;

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

/// Chooses the tags of `entries`. Where a repository could not be listed, the names of its entries are mirrored.
pub fn choose(entries: &[Entry], listings: BTreeMap<Repository, Listing>) -> Chosen {
    let mut failed = BTreeMap::new();
    let mut listed = BTreeMap::new();
    for (repository, listing) in listings {
        match listing {
            Listing::Tags(tags) => {
                listed.insert(repository, tags);
            }
            Listing::Failed(problem) => {
                failed.insert(repository, problem);
            }
        }
    }
    let chosen = mirror::choose(entries, &listed);
    let problems = chosen.problems.into_iter().map(|unchosen| {
        if let Unchosen::NotListed(repository) = &unchosen
            && let Some(problem) = failed.get(repository)
        {
            return problem.clone();
        }
        Problem {
            what: unchosen.what(),
            reason: match unchosen {
                Unchosen::Nothing { .. } => Reason::TagNotFound,
                Unchosen::NotListed(_) => Reason::RegistryUnavailable,
                Unchosen::Clash { .. } | Unchosen::TooMany(_) => Reason::InvalidSpec,
            },
            message: unchosen.to_string(),
            transient: matches!(unchosen, Unchosen::NotListed(_)),
        }
    });
    Chosen {
        problems: problems.collect(),
        tags: chosen.tags,
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "tests")]
    use serde_json::json;

    use super::*;
    use crate::image_build::observed::RegistryState;
    use crate::image_mirror::validate::validate;

    #[test]
    fn what_is_wrong_with_a_list_is_told_in_its_own_words() {
        let spec = json!({"source": {"host": "docker.io"}, "destination": {"registry": {"name": "main"}}, "images": [
            {"name": "a", "repository": "acme/a", "tags": {"regex": "^x"}},
            {"name": "b", "repository": "acme/b", "tags": {"regex": "^x"}},
        ]});
        let spec = validate(&serde_json::from_value(spec).unwrap(), |_| {
            RegistryState::Missing
        })
        .unwrap();
        let failed = Problem {
            what: "docker.io/acme/b".into(),
            reason: Reason::ImageUnauthorized,
            message: "no".into(),
            transient: false,
        };
        let listings = BTreeMap::from([
            (
                spec.entries[0].source.clone(),
                Listing::Tags(vec!["1".parse().unwrap()]),
            ),
            (
                spec.entries[1].source.clone(),
                Listing::Failed(failed.clone()),
            ),
        ]);
        let chosen = choose(&spec.entries, listings);
        assert_eq!(chosen.tags, []);
        assert_eq!(chosen.problems[0].reason, Reason::TagNotFound);
        assert_eq!(chosen.problems[1..], [failed]);
    }
}
