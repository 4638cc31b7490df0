//! Annotations on the command line: `--annotation [LEVEL[,LEVEL…]:]KEY=VALUE` and the attributes `annotation….KEY=VALUE` of
//! `--output`, each with an optional platform: `manifest[linux/arm64]:KEY=VALUE`.

use std::str::FromStr;

use oci::Platform;

use crate::image::{Annotation, Level};

/// Which annotation is meant, before its value is known.
#[derive(Debug)]
pub(super) struct Annotated {
    level: Level,
    platform: Option<Platform>,
    key: String,
}

impl Annotated {
    /// What an attribute of an output says, if it is about annotations.
    pub(super) fn of_attribute(attribute: &str) -> Option<Result<Self, String>> {
        let rest = attribute.strip_prefix("annotation")?;
        let (place, key) = if let Some((place, key)) = rest.split_once(']') {
            (format!("{place}]"), key.strip_prefix('.')?)
        } else {
            let (place, key) = rest.split_once('.')?;
            (place.to_owned(), key)
        };
        let place = place.strip_prefix('-').unwrap_or(&place);
        let place = if place.is_empty() || place.starts_with('[') {
            format!("manifest{place}")
        } else {
            place.to_owned()
        };
        Some(level(&place).map(|(level, platform)| Self {
            level,
            platform,
            key: key.to_owned(),
        }))
    }

    pub(super) fn with(self, value: &str) -> Annotation {
        Annotation {
            level: self.level,
            platform: self.platform,
            key: self.key,
            value: value.to_owned(),
        }
    }
}

/// `manifest[linux/arm64]`
fn level(text: &str) -> Result<(Level, Option<Platform>), String> {
    let (name, platform) = match text.split_once('[') {
        Some((name, platform)) => {
            let platform = platform
                .strip_suffix(']')
                .ok_or_else(|| format!("`{text}` lacks a `]`"))?;
            let platform = platform.parse::<Platform>().map_err(|e| e.to_string())?;
            (name, Some(platform))
        }
        None => (text, None),
    };
    let level = Level::parse(name).ok_or_else(|| {
        format!(
            "`{name}` has no annotations; expected manifest, index, manifest-descriptor or index-descriptor"
        )
    })?;
    if level.is_of_index() && platform.is_some() {
        return Err(format!(
            "`{text}`: the index is that of all platforms, leave the platform out"
        ));
    }
    Ok((level, platform))
}

/// One `--annotation`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct AnnotationArg(pub(super) Vec<Annotation>);

impl FromStr for AnnotationArg {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let (name, value) = text.split_once('=').ok_or("expected [LEVEL:]KEY=VALUE")?;
        // A key may hold colons itself; a level stands before the first one.
        let (levels, key) = match name.split_once(':') {
            Some((levels, key)) if levels.split(',').all(|text| level(text).is_ok()) => {
                (levels, key)
            }
            Some((levels, _)) if levels.contains(['[', ',']) => {
                let wrong = levels.split(',').find_map(|text| level(text).err());
                return Err(wrong.unwrap_or_default());
            }
            _ => ("manifest", name),
        };
        if key.is_empty() {
            return Err("the name is missing".into());
        }
        let annotations = levels.split(',').map(|text| {
            let (level, platform) = level(text)?;
            Ok(Annotation {
                level,
                platform,
                key: key.to_owned(),
                value: value.to_owned(),
            })
        });
        annotations.collect::<Result<_, String>>().map(Self)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn annotations_name_levels_and_platforms() {
        for (text, expected) in [
            ("a=b", &[(Level::Manifest, "", "a")][..]),
            ("a:b=c", &[(Level::Manifest, "", "a:b")]),
            (
                "index,manifest:a=b=c",
                &[(Level::Index, "", "a"), (Level::Manifest, "", "a")],
            ),
            (
                "manifest[linux/arm64/v8]:a=",
                &[(Level::Manifest, "linux/arm64", "a")],
            ),
            (
                "manifest-descriptor[linux/arm]:a=b",
                &[(Level::ManifestDescriptor, "linux/arm/v7", "a")],
            ),
            ("index-descriptor:a=b", &[(Level::IndexDescriptor, "", "a")]),
        ] {
            let found = text.parse::<AnnotationArg>().unwrap();
            let found: Vec<_> = found
                .0
                .iter()
                .map(|a| {
                    let platform = a.platform.as_ref().map(ToString::to_string);
                    (a.level, platform.unwrap_or_default(), a.key.as_str())
                })
                .collect();
            let expected: Vec<_> = expected
                .iter()
                .map(|(level, platform, key)| (*level, (*platform).to_owned(), *key))
                .collect();
            assert_eq!(found, expected, "{text}");
        }
        for text in [
            "a",
            "=b",
            "index:=b",
            "index[linux/arm64]:a=b",
            "manifest[linux:a=b",
            "manifest[x]:a=b",
        ] {
            assert!(text.parse::<AnnotationArg>().is_err(), "{text}");
        }
    }
}
