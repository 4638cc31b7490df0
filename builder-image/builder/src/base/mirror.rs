//! Repositories that are mirrored: where an image may be taken from instead of the registry that its name says. Pure.

use std::collections::BTreeSet;

use oci::{Reference, Repository, Tag};

/// A repository that is mirrored.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Mirrored {
    /// The repository as it is named.
    pub source: Repository,
    /// Where its images are kept.
    pub mirror: Repository,
    /// The tags that are mirrored, where they are known by name. What is named by its digest is looked for in any case.
    pub tags: Option<BTreeSet<String>>,
}

impl Mirrored {
    fn has(&self, tag: &Tag) -> bool {
        let tags = self.tags.as_ref();
        tags.is_none_or(|tags| tags.contains(tag.as_str()))
    }
}

/// Where images may be taken from instead, in the order in which these places are asked.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Mirrors(Vec<Mirrored>);

impl Mirrors {
    /// These places.
    pub fn new(mirrored: Vec<Mirrored>) -> Self {
        Self(mirrored)
    }

    /// The names that `reference` may have instead, each once.
    pub(super) fn of(&self, reference: &Reference) -> Vec<Reference> {
        let mut names = Vec::new();
        for mirrored in &self.0 {
            if mirrored.source != *reference.repository() {
                continue;
            }
            let name = match (reference.digest(), reference.tag()) {
                (Some(digest), _) => mirrored.mirror.at(digest.clone()),
                (None, Some(tag)) if mirrored.has(tag) => mirrored.mirror.tagged(tag.clone()),
                _ => continue,
            };
            if !names.contains(&name) {
                names.push(name);
            }
        }
        names
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_translated_where_their_tag_is_mirrored() {
        let mirrored = |source: &str, mirror: &str, tags: Option<&[&str]>| Mirrored {
            source: source.parse().unwrap(),
            mirror: mirror.parse().unwrap(),
            tags: tags.map(|tags| tags.iter().map(|&tag| tag.to_owned()).collect()),
        };
        let mirrors = Mirrors::new(vec![
            mirrored(
                "docker.io/library/alpine",
                "r:5000/mirror/alpine",
                Some(&["3.22"]),
            ),
            mirrored("docker.io/library/alpine", "r:5000/all/alpine", None),
            mirrored("quay.io/a/b", "r:5000/a/b", Some(&["1"])),
        ]);
        let digest = format!("sha256:{}", "a".repeat(64));
        for (name, expected) in [
            (
                "alpine:3.22",
                vec!["r:5000/mirror/alpine:3.22", "r:5000/all/alpine:3.22"],
            ),
            (
                "index.docker.io/library/alpine:edge",
                vec!["r:5000/all/alpine:edge"],
            ),
            ("quay.io/a/b:2", vec![]),
            ("quay.io/library/alpine:3.22", vec![]),
            (
                &format!("quay.io/a/b:9@{digest}"),
                vec![&*format!("r:5000/a/b@{digest}")],
            ),
        ] {
            let found = mirrors.of(&name.parse().unwrap());
            let found: Vec<_> = found.iter().map(ToString::to_string).collect();
            assert_eq!(found, expected, "{name}");
        }
    }
}
