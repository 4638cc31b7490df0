//! What makes one build differ from another: the key. It has two parts, `<spec>-<source>`, because a change of the spec
//! stops a running build and a new commit waits for it. Pure.

use crds::image_build::ImageBuildSpec;
use serde_json::Value;

use crate::builder_pod::identity::hash_hex;

/// Hexadecimal digits of each part.
const DIGITS: usize = 16;

/// The hash of all that decides what is built and how, but for source content and the wish to build again. Fields that
/// only say when and how often are left out.
pub fn spec_hash(spec: &ImageBuildSpec) -> String {
    // A spec has only string keys, so it is always JSON.
    let mut value = serde_json::to_value(spec).unwrap_or_default();
    if let Value::Object(fields) = &mut value {
        for field in ["suspend", "history", "retry"] {
            fields.remove(field);
        }
    }
    if let Some(Value::Object(git)) = value.pointer_mut("/source/git") {
        git.remove("interval");
    }
    hash_hex(&[&value.to_string()], DIGITS)
}

/// The key of building a spec with this hash from this revision of the source (commit, or digest of a ConfigMap).
pub fn key(spec_hash: &str, revision: Option<&str>, force_at: Option<&str>) -> String {
    let source = hash_hex(
        &[revision.unwrap_or_default(), force_at.unwrap_or_default()],
        DIGITS,
    );
    format!("{spec_hash}-{source}")
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
    fn the_key_is_of_what_is_built_and_not_of_when() {
        let base = json!({
            "source": {"git": {"url": "https://h/a", "ref": {"branch": "main"}, "interval": "5m"}},
            "destinations": [{"name": "m", "image": "h/a", "tags": ["x"]}],
            "suspend": true, "history": {"failed": 1}, "retry": {"limit": 1},
        });
        let mut other = base.clone();
        other["suspend"] = json!(false);
        other["history"] = json!({"failed": 5});
        other["retry"] = json!({"limit": 0});
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
    fn commit_and_force_make_another_key_of_the_same_spec() {
        let first = key("s", Some("a"), None);
        for other in [
            key("s", Some("b"), None),
            key("s", Some("a"), Some("1")),
            key("s", None, Some("a")),
        ] {
            assert_ne!(other, first);
            assert_eq!(spec_part(&other), "s");
        }
    }
}
