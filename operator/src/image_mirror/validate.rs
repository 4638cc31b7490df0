//! Reads the spec of an ImageMirror into types that cannot be wrong. Pure.

use std::time::Duration;

use crds::ImageMirrorSpec;
use crds::common::LocalReference;
use mirror::{Entry, quantity};
use oci::RegistryHost;
use protocol::MirrorLimits;

use super::cadence::Cadence;
use crate::image_build::observed::RegistryState;
use crate::image_build::validate::{Violation, registry_secret};
use crate::reason::Reason;

/// With less, a transfer would be taken for one that hangs.
const MIN_RATE: u64 = 64 * 1024;
/// A shorter interval would be an attack on the source.
const MIN_INTERVAL: Duration = Duration::from_secs(5);

/// A spec that can be carried out.
#[derive(Clone, Debug)]
pub struct ValidatedMirror {
    /// When the source is looked at.
    pub cadence: Cadence,
    /// What a sync keeps to.
    pub limits: MirrorLimits,
    /// The registry that is read.
    pub source: Side,
    /// The registry that is written to.
    pub destination: Side,
    /// What is mirrored, in the order of the spec.
    pub entries: Vec<Entry>,
    /// Whether what refers to the images goes along.
    pub referrers: bool,
    /// Secrets and their keys that hold the public keys which images are verified with; none where they are not verified.
    pub verify: Option<Vec<(String, String)>>,
}

/// One of the two registries of a mirror.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Side {
    /// A Registry of the namespace.
    Registry(String),
    /// Another one.
    Host {
        /// Its name.
        host: RegistryHost,
        /// Secret with the credentials for it.
        secret: Option<String>,
    },
}

impl Side {
    fn read(
        field: &str,
        host: Option<&String>,
        secret: Option<&LocalReference>,
        registry: Option<&LocalReference>,
    ) -> Result<Self, String> {
        match (host, registry) {
            (None, Some(_)) if secret.is_some() => {
                Err(format!("{field}.secretRef goes with {field}.host"))
            }
            (None, Some(registry)) => Ok(Self::Registry(registry.name.clone())),
            (Some(host), None) => Ok(Self::Host {
                host: host
                    .parse()
                    .map_err(|error| format!("{field}.host: {error}"))?,
                secret: secret.map(|secret| secret.name.clone()),
            }),
            _ => Err(format!("{field} needs exactly one of host and registry")),
        }
    }

    /// The Secret with the credentials, if there is one.
    pub fn secret(&self) -> Option<String> {
        match self {
            Self::Registry(name) => Some(registry_secret(name)),
            Self::Host { secret, .. } => secret.clone(),
        }
    }

    /// What is known of it: `of` a Registry; there is nothing to be known of another host.
    pub fn state(&self, of: impl FnOnce(&str) -> RegistryState) -> RegistryState {
        match self {
            Self::Registry(name) => of(name),
            Self::Host { host, .. } => RegistryState::Ready { host: host.clone() },
        }
    }
}

impl ValidatedMirror {
    /// Names of Secrets, in the order in which credentials are looked for.
    pub fn secrets(&self) -> Vec<String> {
        let mut names: Vec<String> = self.destination.secret().into_iter().collect();
        let source = self.source.secret();
        names.extend(source.filter(|name| !names.contains(name)));
        names
    }
}

/// When the source is looked at, or what is wrong with the fields that say so.
fn cadence(spec: &ImageMirrorSpec) -> Result<Cadence, String> {
    let Some(schedule) = &spec.schedule else {
        let interval = spec.interval();
        let interval = interval.map_err(|error| format!("spec.interval: {error}"))?;
        return Ok(Cadence::Every(interval.max(MIN_INTERVAL)));
    };
    if spec.interval.is_some() {
        return Err("set at most one of spec.interval and spec.schedule".to_owned());
    }
    let schedule = schedule.parse();
    let schedule = schedule.map_err(|error: String| format!("spec.schedule: {error}"))?;
    Ok(Cadence::At(schedule))
}

/// What a sync keeps to, or what is wrong with it.
fn limits(spec: &ImageMirrorSpec) -> Result<MirrorLimits, String> {
    let Some(limits) = &spec.limits else {
        return Ok(MirrorLimits::default());
    };
    let concurrency = limits.concurrency.map(|number| {
        let number = u32::try_from(number).ok();
        number.filter(|number| *number > 0)
    });
    if concurrency == Some(None) {
        return Err("spec.limits.concurrency must be at least 1".to_owned());
    }
    let rate = limits.bytes_per_second.as_deref().map(quantity::bytes);
    if rate.is_some_and(|rate| rate.is_none_or(|rate| rate < MIN_RATE)) {
        return Err("spec.limits.bytesPerSecond must be a quantity of at least 64Ki".to_owned());
    }
    Ok(MirrorLimits {
        concurrency: concurrency.flatten(),
        bytes_per_second: rate.flatten(),
    })
}

/// Reads `spec`. The hosts of Registries are found out by `state`; while one does not serve, what is read from it has a
/// name that stands for none.
///
/// # Errors
/// The first rule that it breaks, with the field.
pub fn validate(
    spec: &ImageMirrorSpec,
    state: impl FnOnce(&str) -> RegistryState,
) -> Result<ValidatedMirror, Violation> {
    let invalid = |message: String| Violation {
        reason: Reason::InvalidSpec,
        message,
    };
    let cadence = cadence(spec).map_err(invalid)?;
    let limits = limits(spec).map_err(invalid)?;
    let (source, destination) = (&spec.source, &spec.destination);
    let source = Side::read(
        "spec.source",
        source.host.as_ref(),
        source.secret_ref.as_ref(),
        source.registry.as_ref(),
    );
    let source = source.map_err(invalid)?;
    let destination = Side::read(
        "spec.destination",
        destination.host.as_ref(),
        destination.secret_ref.as_ref(),
        destination.registry.as_ref(),
    );
    let destination = destination.map_err(invalid)?;
    let host = match source.state(state) {
        RegistryState::Ready { host } => host,
        RegistryState::NotReady { .. } | RegistryState::Missing => "registry.invalid"
            .parse()
            .map_err(|error| invalid(format!("{error}")))?,
    };
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
        cadence,
        limits,
        source,
        destination,
        entries,
        referrers: spec.copies_referrers(),
        verify: spec.verify.as_ref().map(|verify| {
            let secrets = verify.keys.iter().map(|key| &key.secret_ref);
            secrets
                .map(|at| (at.name.clone(), at.key.clone()))
                .collect()
        }),
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
        validate(&serde_json::from_value(spec).unwrap(), |_| {
            RegistryState::Missing
        })
    }

    #[test]
    fn defaults_and_secrets_follow_from_the_spec() {
        let mirror =
            read(&json!([{"name": "a", "repository": "a", "tags": {"names": ["1"]}}])).unwrap();
        assert_eq!(mirror.secrets(), ["main-credentials"]);
        assert_eq!(mirror.cadence, Cadence::Every(Duration::from_secs(900)));
    }

    #[test]
    fn an_interval_or_a_schedule_says_when_is_looked() {
        for (fields, expected) in [
            (json!({"interval": "2s"}), Ok(Cadence::Every(MIN_INTERVAL))),
            (
                json!({"schedule": "0 4 * * 0"}),
                Ok(Cadence::At("0 4 * * 0".parse().unwrap())),
            ),
            (json!({"interval": "soon"}), Err("spec.interval: ")),
            (json!({"schedule": "0 0 31 2 *"}), Err("spec.schedule: ")),
            (
                json!({"schedule": "0 4 * * 0", "interval": "1h"}),
                Err("at most one of"),
            ),
        ] {
            let mut spec = json!({"source": {"host": "docker.io"}, "destination": {"registry": {"name": "main"}},
                "images": [{"name": "a", "repository": "a", "tags": {"all": true}}]});
            for (name, value) in fields.as_object().unwrap() {
                spec[name] = value.clone();
            }
            let read = validate(&serde_json::from_value(spec).unwrap(), |_| {
                RegistryState::Missing
            });
            match expected {
                Ok(cadence) => assert_eq!(read.unwrap().cadence, cadence),
                Err(told) => {
                    let message = read.unwrap_err().message;
                    assert!(message.contains(told), "{message}");
                }
            }
        }
    }

    #[test]
    fn limits_are_numbers() {
        for (limits, expected) in [
            (json!(null), Some((None, None))),
            (json!({"concurrency": 2}), Some((Some(2), None))),
            (
                json!({"bytesPerSecond": "50Mi"}),
                Some((None, Some(50 << 20))),
            ),
            (json!({"bytesPerSecond": "63Ki"}), None),
            (json!({"bytesPerSecond": "fast"}), None),
            (json!({"concurrency": 0}), None),
            (json!({"concurrency": -1}), None),
        ] {
            let spec = json!({"source": {"host": "docker.io"}, "destination": {"registry": {"name": "main"}},
                "images": [{"name": "a", "repository": "a", "tags": {"all": true}}], "limits": limits});
            let read = validate(&serde_json::from_value(spec).unwrap(), |_| {
                RegistryState::Missing
            })
            .ok();
            let read = read.map(|read| (read.limits.concurrency, read.limits.bytes_per_second));
            assert_eq!(read, expected, "{limits}");
        }
    }

    #[test]
    fn a_side_is_a_registry_or_a_host() {
        let host = |host: &str, secret: Option<&str>| {
            Ok(Side::Host {
                host: host.parse().unwrap(),
                secret: secret.map(str::to_owned),
            })
        };
        for (side, expected) in [
            (json!({"host": "ghcr.io"}), host("ghcr.io", None)),
            (
                json!({"host": "h:5000", "secretRef": {"name": "s"}}),
                host("h:5000", Some("s")),
            ),
            (
                json!({"registry": {"name": "main"}}),
                Ok(Side::Registry("main".into())),
            ),
            (json!({}), Err("exactly one of")),
            (
                json!({"host": "h", "registry": {"name": "main"}}),
                Err("exactly one of"),
            ),
            (
                json!({"registry": {"name": "main"}, "secretRef": {"name": "s"}}),
                Err("goes with"),
            ),
            (json!({"host": "-"}), Err(".host: ")),
        ] {
            let other = json!({"host": "other.example"});
            let images = json!([{"name": "a", "repository": "a", "tags": {"all": true}}]);
            for (source, destination) in [(&side, &other), (&other, &side)] {
                let spec = json!({"source": source, "destination": destination, "images": images});
                let state = |_: &str| RegistryState::Ready {
                    host: "main.team.svc:5000".parse().unwrap(),
                };
                let read = validate(&serde_json::from_value(spec).unwrap(), state);
                match (&expected, read) {
                    (Ok(side), Ok(read)) => {
                        let is_source = *source != other;
                        let found = if is_source {
                            &read.source
                        } else {
                            &read.destination
                        };
                        assert_eq!(found, side);
                        let host = read.entries[0].source.host().as_str().to_owned();
                        let of_registry = matches!(read.source, Side::Registry(_));
                        assert_eq!(host == "main.team.svc:5000", of_registry, "{host}");
                        let secrets: Vec<String> = side.secret().into_iter().collect();
                        assert_eq!(read.secrets(), secrets);
                    }
                    (Err(told), Err(violation)) => {
                        assert!(violation.message.contains(told), "{}", violation.message);
                    }
                    (expected, read) => panic!("{expected:?} {read:?}"),
                }
            }
        }
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
