//! Types and accessors that several kinds share: references by name and durations.

use std::time::Duration;

use kube::KubeSchema;
use schemars::{Schema, SchemaGenerator, json_schema};
use serde::{Deserialize, Serialize};

/// Names an object in the namespace of the resource that refers to it.
#[derive(Clone, Debug, Default, Deserialize, Eq, KubeSchema, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
#[x_kube(validation = Rule::new("self.name.matches('^[a-z0-9]([a-z0-9.-]*[a-z0-9])?$')")
    .message("name must be the name of an object in the same namespace: lower case letters, digits, '-' and '.'"))]
pub struct LocalReference {
    /// Name of the object, in the same namespace.
    #[schemars(length(min = 1, max = 253))]
    pub name: String,
}

impl LocalReference {
    /// A reference to the object `name`.
    pub fn new(name: impl Into<String>) -> Self {
        Self { name: name.into() }
    }
}

/// Names a key of a Secret in the namespace of the resource that refers to it.
#[derive(Clone, Debug, Default, Deserialize, Eq, KubeSchema, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct SecretKeyReference {
    /// Name of the Secret, in the same namespace.
    #[schemars(length(min = 1, max = 253))]
    #[x_kube(validation = Rule::new("self.matches('^[a-z0-9]([a-z0-9.-]*[a-z0-9])?$')")
        .message("name must be the name of a Secret in the same namespace: lower case letters, digits, '-' and '.'"))]
    pub name: String,
    /// Key of the Secret.
    #[schemars(length(min = 1, max = 253))]
    #[x_kube(validation = Rule::new("self.matches('^[A-Za-z0-9_.-]+$')")
        .message("key must be a key of a Secret: letters, digits, '_', '.' and '-'"))]
    pub key: String,
}

/// Schema of a map of at most `ENTRIES` texts of at most `LENGTH` characters.
pub(crate) fn string_map<const ENTRIES: u32, const LENGTH: u32>(_: &mut SchemaGenerator) -> Schema {
    json_schema!({
        "type": "object",
        "maxProperties": ENTRIES,
        "additionalProperties": {"type": "string", "maxLength": LENGTH},
    })
}

/// Why a text is not a duration.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct InvalidDuration(pub String);

impl std::fmt::Display for InvalidDuration {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(
            f,
            "`{}` is not a duration: write numbers with the units h, m and s, as in 1h30m",
            self.0
        )
    }
}

impl std::error::Error for InvalidDuration {}

/// Reads a duration such as `90s`, `5m` or `1h30m`.
pub fn parse_duration(text: &str) -> Result<Duration, InvalidDuration> {
    let invalid = || InvalidDuration(text.to_owned());
    let mut seconds: u64 = 0;
    let mut rest = text;
    if rest.is_empty() {
        return Err(invalid());
    }
    while !rest.is_empty() {
        let digits = rest
            .find(|c: char| !c.is_ascii_digit())
            .ok_or_else(invalid)?;
        let number: u64 = rest[..digits].parse().map_err(|_| invalid())?;
        let unit = match rest.as_bytes()[digits] {
            b'h' => 3600,
            b'm' => 60,
            b's' => 1,
            _ => return Err(invalid()),
        };
        seconds = number
            .checked_mul(unit)
            .and_then(|n| seconds.checked_add(n))
            .ok_or_else(invalid)?;
        rest = &rest[digits + 1..];
    }
    Ok(Duration::from_secs(seconds))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations() {
        for (text, expected) in [
            ("0s", Some(0)),
            ("90s", Some(90)),
            ("5m", Some(300)),
            ("1h30m", Some(5400)),
            ("1h1m1s", Some(3661)),
            ("", None),
            ("5", None),
            ("m", None),
            ("5d", None),
            ("-5m", None),
            ("1.5h", None),
            ("5m ", None),
            ("99999999999999999999h", None),
            ("18446744073709551615h", None),
            ("5ä", None),
        ] {
            assert_eq!(
                parse_duration(text).ok(),
                expected.map(Duration::from_secs),
                "{text}"
            );
        }
    }
}
