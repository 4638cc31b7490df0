//! Annotations of an image's documents: what is written where, for which platform. Pure; the flags that say so are read by
//! the command line.

use std::collections::BTreeMap;

use oci::Platform;

/// The document that an annotation is written to (image-spec, annotations.md).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Level {
    /// The manifest of an image.
    Manifest,
    /// What stands for a manifest in an index or a layout.
    ManifestDescriptor,
    /// The index of an image of several platforms.
    Index,
    /// What stands for the index in a layout.
    IndexDescriptor,
}

impl Level {
    /// The level that flags call so.
    pub fn parse(text: &str) -> Option<Self> {
        Some(match text {
            "manifest" => Self::Manifest,
            "manifest-descriptor" => Self::ManifestDescriptor,
            "index" => Self::Index,
            "index-descriptor" => Self::IndexDescriptor,
            _ => return None,
        })
    }

    /// Whether it belongs to the index, which there is only one of.
    pub const fn is_of_index(self) -> bool {
        matches!(self, Self::Index | Self::IndexDescriptor)
    }
}

/// One annotation.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Annotation {
    /// Where it is written.
    pub level: Level,
    /// The platform whose image has it; all where absent.
    pub platform: Option<Platform>,
    /// Its name.
    pub key: String,
    /// Its value.
    pub value: String,
}

/// Annotations in the order that they were asked for; of two with one name the later holds.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub struct Annotations(pub Vec<Annotation>);

impl Annotations {
    /// The first that is for a platform of which there is no image.
    pub fn of_absent_platform(&self, platforms: &[Platform]) -> Option<&Annotation> {
        let is_absent = |annotation: &&Annotation| {
            let wanted = annotation.platform.as_ref();
            wanted.is_some_and(|wanted| !platforms.iter().any(|platform| wanted.matches(platform)))
        };
        self.0.iter().find(is_absent)
    }

    /// Those of `level` for an image of `platform`.
    pub fn of(&self, level: Level, platform: Option<&Platform>) -> BTreeMap<String, String> {
        let applies = |annotation: &&Annotation| {
            annotation.level == level
                && match (&annotation.platform, platform) {
                    (Some(wanted), Some(platform)) => wanted.matches(platform),
                    (wanted, _) => wanted.is_none(),
                }
        };
        let found = self.0.iter().filter(applies);
        found
            .map(|annotation| (annotation.key.clone(), annotation.value.clone()))
            .collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn annotations_reach_their_level_and_platform() {
        let annotation = |level, platform: Option<&str>, value: &str| Annotation {
            level,
            platform: platform.map(|platform| platform.parse().unwrap()),
            key: "k".into(),
            value: value.into(),
        };
        let all = Annotations(vec![
            annotation(Level::Manifest, None, "all"),
            annotation(Level::Manifest, Some("linux/arm64"), "arm"),
            annotation(Level::Index, None, "index"),
        ]);
        for (level, platform, expected) in [
            (Level::Manifest, Some("linux/amd64"), Some("all")),
            (Level::Manifest, Some("linux/arm64/v8"), Some("arm")),
            (Level::Index, None, Some("index")),
            (Level::IndexDescriptor, None, None),
            (Level::ManifestDescriptor, Some("linux/amd64"), None),
        ] {
            let platform: Option<Platform> = platform.map(|platform| platform.parse().unwrap());
            let found = all.of(level, platform.as_ref());
            assert_eq!(found.get("k").map(String::as_str), expected, "{level:?}");
        }
        let absent = |platform: &str| all.of_absent_platform(&[platform.parse().unwrap()]);
        assert_eq!(absent("linux/arm64"), None);
        assert_eq!(absent("linux/amd64").unwrap().value, "arm");
    }
}
