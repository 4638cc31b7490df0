//! Reads the spec of an ImageMirror into types that cannot be wrong. Pure.

use std::time::Duration;

use crds::ImageMirrorSpec;
use mirror::Entry;
use oci::RegistryHost;

use crate::image_build::validate::{Violation, registry_secret};
use crate::reason::Reason;

/// A shorter interval would be an attack on the source.
const MIN_INTERVAL: Duration = Duration::from_secs(5);

/// A spec that can be carried out.
#[derive(Clone, Debug)]
pub struct ValidatedMirror {
    /// How often the source is looked at.
    pub interval: Duration,
    /// Secret with which the source is read.
    pub source_secret: Option<String>,
    /// The registry that is read.
    pub source: RegistryHost,
    /// The Registry that is written to.
    pub registry: String,
    /// What is mirrored, in the order of the spec.
    pub entries: Vec<Entry>,
}

impl ValidatedMirror {
    /// The Secret with the credentials of the Registry.
    pub fn registry_secret(&self) -> String {
        registry_secret(&self.registry)
    }

    /// Names of Secrets, in the order in which credentials are looked for.
    pub fn secrets(&self) -> Vec<String> {
        let mut names = vec![self.registry_secret()];
        names.extend(
            self.source_secret
                .clone()
                .filter(|name| !names.contains(name)),
        );
        names
    }
}

/// Reads `spec`.
///
/// # Errors
/// The first rule that it breaks, with the field.
pub fn validate(spec: &ImageMirrorSpec) -> Result<ValidatedMirror, Violation> {
    let invalid = |message: String| Violation {
        reason: Reason::InvalidSpec,
        message,
    };
    let interval = spec
        .interval()
        .map_err(|error| invalid(format!("spec.interval: {error}")))?;
    let host: RegistryHost = spec
        .source
        .host
        .parse()
        .map_err(|error| invalid(format!("spec.source.host: {error}")))?;
    let entries = mirror::entries(&host, &spec.destination, &spec.images);
    let entries = entries.map_err(|error| Violation {
        reason: if error.is_tag {
            Reason::InvalidTag
        } else {
            Reason::InvalidSpec
        },
        message: error.message,
    })?;
    Ok(ValidatedMirror {
        interval: interval.max(MIN_INTERVAL),
        source_secret: spec.source.secret_ref.as_ref().map(|s| s.name.clone()),
        source: host,
        registry: spec.destination.registry.name.clone(),
        entries,
    })
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "tests")]
    use super::*;
    use serde_json::{Value, json};

    fn read(images: &Value) -> Result<ValidatedMirror, Violation> {
        let spec = json!({"source": {"host": "docker.io"}, "images": images,
            "destination": {"registry": {"name": "main"}, "prefix": "mirror"}});
        validate(&serde_json::from_value(spec).unwrap())
    }

    #[test]
    fn defaults_and_secrets_follow_from_the_spec() {
        let mirror =
            read(&json!([{"name": "a", "repository": "a", "tags": {"names": ["1"]}}])).unwrap();
        assert_eq!(mirror.secrets(), ["main-credentials"]);
        assert_eq!(mirror.interval, Duration::from_secs(900));
    }

    #[test]
    fn what_is_wrong_with_an_entry_has_a_reason() {
        for (images, reason) in [
            (json!([]), Reason::InvalidSpec),
            (
                json!([{"name": "a", "repository": "a", "tags": {"names": [".x"]}}]),
                Reason::InvalidTag,
            ),
        ] {
            assert_eq!(read(&images).unwrap_err().reason, reason);
        }
    }
}
