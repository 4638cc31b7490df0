//! `--filter` of images, as docker has them: dangling, label, before, since, reference and until. Pure.

use jiff::{SignedDuration, Timestamp};

use crate::{Catalog, Image};

/// One `--filter`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Filter {
    /// Whether it has no tag.
    Dangling(bool),
    /// A label that it has, with or without a value.
    Label(LabelMatch),
    /// A label that it does not have.
    NotLabel(LabelMatch),
    /// Made before that image.
    Before(String),
    /// Made after that image.
    Since(String),
    /// One of its names matches the pattern.
    Reference(String),
    /// Made before that moment.
    Until(Timestamp),
}

/// A label, or a label of one value.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LabelMatch {
    /// The label.
    pub key: String,
    /// Its value; any where absent.
    pub value: Option<String>,
}

/// Why a text is no filter.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum FilterError {
    /// There is no `=` in it.
    #[error(
        "invalid argument \"{0}\" for \"-f, --filter\" flag: bad format of filter (expected name=value)"
    )]
    Format(String),
    /// No filter is called so.
    #[error(
        "invalid filter '{0}': known are dangling, label, label!, before, since, reference and until"
    )]
    Unknown(String),
    /// Not a value of this filter.
    #[error("invalid filter '{key}={value}'")]
    Value {
        /// The filter.
        key: String,
        /// What it was given.
        value: String,
    },
    /// `before` or `since` an image that is not there.
    #[error("No such image: {0}")]
    NoImage(String),
}

impl Filter {
    /// Reads `NAME=VALUE`; `now` is what durations are counted from.
    ///
    /// # Errors
    /// When it is none.
    pub fn parse(text: &str, now: Timestamp) -> Result<Self, FilterError> {
        let (key, value) = match text.split_once("!=") {
            Some(("label", value)) => ("label!", value),
            _ => text
                .split_once('=')
                .ok_or_else(|| FilterError::Format(text.into()))?,
        };
        let key = key.trim().to_ascii_lowercase();
        let wrong = || FilterError::Value {
            key: key.clone(),
            value: value.into(),
        };
        let label = || {
            let (key, value) = value
                .split_once('=')
                .map_or((value, None), |(k, v)| (k, Some(v)));
            LabelMatch {
                key: key.into(),
                value: value.map(Into::into),
            }
        };
        Ok(match key.as_str() {
            "dangling" => Self::Dangling(match value.to_ascii_lowercase().as_str() {
                "1" | "t" | "true" => true,
                "0" | "f" | "false" => false,
                _ => return Err(wrong()),
            }),
            "label" => Self::Label(label()),
            "label!" => Self::NotLabel(label()),
            "before" => Self::Before(value.into()),
            "since" => Self::Since(value.into()),
            "reference" => Self::Reference(value.into()),
            "until" => Self::Until(moment(value, now).ok_or_else(wrong)?),
            _ => return Err(FilterError::Unknown(key)),
        })
    }

    /// Makes sure that what it refers to is there.
    ///
    /// # Errors
    /// [`FilterError::NoImage`].
    pub fn check(&self, catalog: &Catalog) -> Result<(), FilterError> {
        match self {
            Self::Before(image) | Self::Since(image) if catalog.find(image).is_err() => {
                Err(FilterError::NoImage(image.clone()))
            }
            _ => Ok(()),
        }
    }

    /// Whether an image that passes is called `name` to who asks: a filter by name shows no other names.
    pub fn shows(&self, name: &oci::Reference) -> bool {
        match self {
            Self::Reference(pattern) => reference_matches(pattern, name),
            _ => true,
        }
    }

    /// Whether an image passes.
    pub fn passes(&self, catalog: &Catalog, image: &Image) -> bool {
        let created_of = |text: &str| catalog.find(text).ok().and_then(|f| f.image.created());
        match self {
            Self::Dangling(wanted) => image.is_dangling() == *wanted,
            Self::Label(label) => label.is_on(image),
            Self::NotLabel(label) => !label.is_on(image),
            Self::Before(other) => image.created() < created_of(other),
            Self::Since(other) => image.created() > created_of(other),
            Self::Reference(pattern) => {
                let mut names = image.tags.iter().chain(&image.digests);
                names.any(|name| reference_matches(pattern, name))
            }
            Self::Until(moment) => image.created().is_some_and(|created| created < *moment),
        }
    }
}

impl LabelMatch {
    fn is_on(&self, image: &Image) -> bool {
        let found = image.config.config.labels.get(&self.key);
        found.is_some_and(|found| self.value.as_ref().is_none_or(|value| value == found))
    }
}

/// A moment as people write it: RFC 3339, a day, seconds since 1970, or how long ago (`24h`, `10m30s`).
pub fn moment(text: &str, now: Timestamp) -> Option<Timestamp> {
    if let Ok(moment) = text.parse::<Timestamp>() {
        return Some(moment);
    }
    if let Ok(seconds) = text.parse::<i64>() {
        return Timestamp::from_second(seconds).ok();
    }
    if let Ok(local) = text.parse::<jiff::civil::DateTime>() {
        return Some(local.to_zoned(jiff::tz::TimeZone::UTC).ok()?.timestamp());
    }
    let ago: SignedDuration = text.parse().ok()?;
    now.checked_sub(ago).ok()
}

/// Whether a pattern (`nginx`, `quay.io/*/nginx`, `*:latest`) matches a name as people write it, with its tag or without.
fn reference_matches(pattern: &str, name: &oci::Reference) -> bool {
    let familiar = name.familiar();
    let bare = oci::Reference::from(name.repository().clone()).familiar();
    // A pattern may be a name in full, and needs no tag.
    let is_name = pattern.parse::<oci::Reference>().is_ok_and(|wanted| {
        wanted.repository() == name.repository()
            && wanted.tag().is_none_or(|tag| Some(tag) == name.tag())
            && wanted
                .digest()
                .is_none_or(|digest| Some(digest) == name.digest())
    });
    is_name
        || [familiar, bare]
            .iter()
            .any(|text| glob(pattern.as_bytes(), text.as_bytes()))
}

/// `*` stands for any characters but `/`, `?` for one, `[…]` for one of those listed.
fn glob(pattern: &[u8], text: &[u8]) -> bool {
    match (pattern.split_first(), text.split_first()) {
        (None, None) => true,
        (Some((b'*', rest)), _) => {
            glob(rest, text)
                || text
                    .split_first()
                    .is_some_and(|(first, after)| *first != b'/' && glob(pattern, after))
        }
        (Some((b'?', rest)), Some((first, after))) => *first != b'/' && glob(rest, after),
        (Some((b'[', rest)), Some((first, after))) => {
            let Some(end) = rest.iter().position(|b| *b == b']') else {
                return false;
            };
            let (set, rest) = (&rest[..end], &rest[end + 1..]);
            let (negated, set) = match set.strip_prefix(b"^") {
                Some(set) => (true, set),
                None => (false, set),
            };
            in_set(set, *first) != negated && glob(rest, after)
        }
        (Some((p, rest)), Some((t, after))) => p == t && glob(rest, after),
        _ => false,
    }
}

fn in_set(set: &[u8], byte: u8) -> bool {
    match set {
        [low, b'-', high, rest @ ..] => (*low..=*high).contains(&byte) || in_set(rest, byte),
        [one, rest @ ..] => *one == byte || in_set(rest, byte),
        [] => false,
    }
}

#[cfg(test)]
mod tests {

    use super::*;
    use crate::test_image::{TestImage, catalog};

    fn now() -> Timestamp {
        "2021-06-10T00:00:00Z".parse().unwrap()
    }

    #[test]
    fn images_pass_filters() {
        let catalog = catalog(&[
            TestImage::new("a")
                .named(&["nginx:1.20"])
                .created("2021-06-01T00:00:00Z"),
            TestImage::new("b")
                .named(&["quay.io/acme/nginx"])
                .created("2021-06-02T00:00:00Z")
                .label("tier", "web"),
            TestImage::new("c")
                .created("2021-06-03T00:00:00Z")
                .label("tier", "db"),
        ]);
        for (text, expected) in [
            ("dangling=true", "c"),
            ("dangling=0", "b a"),
            ("label=tier", "c b"),
            ("label=tier=web", "b"),
            ("label!=tier=web", "c a"),
            ("before=quay.io/acme/nginx", "a"),
            ("since=nginx:1.20", "c b"),
            ("reference=nginx", "a"),
            ("reference=nginx:1.*", "a"),
            ("reference=*", "a"),
            ("reference=*/*/nginx", "b"),
            ("reference=quay.io/acme/nginx:lat?st", "b"),
            ("reference=docker.io/library/nginx:1.20", "a"),
            ("reference=ngin[a-z]:1.2[^1]", "a"),
            ("reference=alpine", ""),
            ("until=191h", "b a"),
            ("until=2021-06-02", "a"),
            ("until=1622592001", "b a"),
        ] {
            let filter = Filter::parse(text, now()).unwrap();
            filter.check(&catalog).unwrap();
            let passed: Vec<_> = (catalog.images().iter())
                .filter(|image| filter.passes(&catalog, image))
                .map(|image| image.config.author.clone().unwrap())
                .collect();
            assert_eq!(passed.join(" "), expected, "{text}");
        }
        let since = Filter::parse("since=alpine", now()).unwrap();
        assert_eq!(
            since.check(&catalog),
            Err(FilterError::NoImage("alpine".into()))
        );
    }

    #[test]
    fn mistakes_are_told() {
        for (text, expected) in [
            ("dangling", "expected name=value"),
            ("dangling=perhaps", "invalid filter 'dangling=perhaps'"),
            ("size=1", "invalid filter 'size'"),
            ("until=soon", "invalid filter 'until=soon'"),
        ] {
            let error = Filter::parse(text, now()).unwrap_err().to_string();
            assert!(error.contains(expected), "{text}: {error}");
        }
    }
}
