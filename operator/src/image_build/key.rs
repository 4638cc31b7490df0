//! What makes one build differ from another: the key, one hash for each thing that may call for a build. A change of the
//! spec stops a running build; any other change waits for it. Pure.

use std::fmt;

use crds::image_build::ImageBuildSpec;
use serde_json::Value;

use crate::builder_pod::identity::hash_hex;

/// Hexadecimal digits of the hash of a spec.
const SPEC_DIGITS: usize = 16;
/// Hexadecimal digits of each other part.
const DIGITS: usize = 12;
/// The part of what there is none of.
const NONE: &str = "0";

/// The key of a build; as text the parts with `-` between them, at most 128 bytes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Key {
    /// Hash of the spec.
    pub spec: String,
    /// Of the wish to build again.
    pub force: String,
    /// Of the source's revision: commit, or digest of a ConfigMap.
    pub source: String,
    /// Of the inputs.
    pub inputs: String,
    /// Of base images that are others than those of the build before.
    pub bases: String,
    /// Of the time of the schedule for which it was started.
    pub schedule: String,
}

impl Key {
    /// The key of building this spec with nothing else.
    pub fn of_spec(spec_hash: &str) -> Self {
        let none = || NONE.to_owned();
        Self {
            spec: spec_hash.to_owned(),
            force: none(),
            source: none(),
            inputs: none(),
            bases: none(),
            schedule: none(),
        }
    }

    /// Reads a key. Parts that are not there are as if there had been nothing to hash.
    pub fn read(text: &str) -> Self {
        let mut parts = text.split('-').map(str::to_owned);
        let mut next = || parts.next().unwrap_or_else(|| NONE.to_owned());
        Self {
            spec: next(),
            force: next(),
            source: next(),
            inputs: next(),
            bases: next(),
            schedule: next(),
        }
    }
}

impl fmt::Display for Key {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self {
            spec,
            force,
            source,
            inputs,
            bases,
            schedule,
        } = self;
        write!(f, "{spec}-{force}-{source}-{inputs}-{bases}-{schedule}")
    }
}

/// The part that stands for `texts`.
pub fn part(texts: &[&str]) -> String {
    if texts.is_empty() {
        NONE.to_owned()
    } else {
        hash_hex(texts, DIGITS)
    }
}

/// The hash of all that decides what is built and how, but for source content and the wish to build again. Fields that
/// only say when and how often are left out.
pub fn spec_hash(spec: &ImageBuildSpec) -> String {
    // A spec has only string keys, so it is always JSON.
    let mut value = serde_json::to_value(spec).unwrap_or_default();
    if let Value::Object(fields) = &mut value {
        for field in ["suspend", "history", "retry", "rebuild"] {
            fields.remove(field);
        }
    }
    for source in ["/source/git", "/source/oci"] {
        if let Some(Value::Object(source)) = value.pointer_mut(source) {
            source.remove("interval");
        }
    }
    hash_hex(&[&value.to_string()], SPEC_DIGITS)
}

/// The part of a key that stands for the spec.
pub fn spec_part(key: &str) -> &str {
    key.split('-').next().unwrap_or(key)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "tests")]
    use super::*;
    use serde_json::json;

    fn spec(value: Value) -> ImageBuildSpec {
        serde_json::from_value(value).unwrap()
    }

    #[test]
    fn the_hash_is_of_what_is_built_and_not_of_when() {
        let base = json!({
            "source": {"git": {"url": "https://h/a", "ref": {"branch": "main"}, "interval": "5m"}},
            "destinations": [{"name": "m", "image": "h/a", "tags": ["x"]}],
            "suspend": true, "history": {"failed": 1}, "retry": {"limit": 1},
            "rebuild": {"triggers": ["Source"], "schedule": "0 4 * * 0"},
        });
        let mut other = base.clone();
        other["suspend"] = json!(false);
        other["history"] = json!({"failed": 5});
        other["retry"] = json!({"limit": 0});
        other["rebuild"] = json!({});
        other["source"]["git"]["interval"] = json!("1m");
        let hash = spec_hash(&spec(base.clone()));
        assert_eq!(spec_hash(&spec(other)), hash);
        for (pointer, value) in [
            ("/destinations/0/tags/0", json!("y")),
            ("/source/git/ref/branch", json!("dev")),
        ] {
            let mut other = base.clone();
            *other.pointer_mut(pointer).unwrap() = value;
            assert_ne!(spec_hash(&spec(other)), hash, "{pointer}");
        }
        let mut other = base;
        other["timeout"] = json!("2h");
        assert_ne!(spec_hash(&spec(other)), hash);
    }

    #[test]
    fn a_key_is_read_as_it_was_written() {
        let mut key = Key::of_spec("0123456789abcdef");
        key.force = part(&["1"]);
        key.inputs = part(&["BASE", "sha256:a"]);
        let text = key.to_string();
        assert!(text.len() <= 128, "{text}");
        assert_eq!(Key::read(&text), key);
        assert_eq!(spec_part(&text), "0123456789abcdef");
        assert_eq!(Key::read("0123456789abcdef").schedule, NONE);
        assert_eq!(part(&[]), NONE);
        assert_ne!(part(&[""]), NONE);
    }
}
