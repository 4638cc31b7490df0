//! What a build needs before it can start, and which of it is not there: Registries, Secrets, the source. Pure.

use super::observed::{InputState, Observed, RegistryState, SecretState, SourceState};
use super::validate::{SourceSpec, ValidatedBuild};
use crate::condition::{Progress, Summary};
use crate::reason::Reason;

/// What is waited for, or what is wrong.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Blocked {
    /// The reason.
    pub reason: Reason,
    /// For people; the remedy is not in it.
    pub message: String,
    /// Waiting or stalled.
    progress: Progress,
}

impl Blocked {
    /// It may come by itself.
    pub fn waiting(reason: Reason, message: impl Into<String>) -> Self {
        Self {
            reason,
            message: message.into(),
            progress: Progress::Reconciling,
        }
    }

    /// People must do something.
    pub fn stalled(reason: Reason, message: impl Into<String>) -> Self {
        Self {
            reason,
            message: message.into(),
            progress: Progress::Stalled,
        }
    }

    /// The conditions that say so.
    pub fn summary(&self) -> Summary {
        match self.progress {
            Progress::Stalled => Summary::stalled(self.reason, &self.message),
            _ => Summary::waiting(self.reason, &self.message),
        }
    }
}

impl Observed {
    /// Why it is not known what the source is.
    pub fn source_problem(&self, spec: &ValidatedBuild) -> Option<Blocked> {
        match (&self.source, &spec.source) {
            (SourceState::Git(Err(error)), _) => {
                let message = format!("spec.source.git: {error}");
                Some(if error.is_transient() {
                    Blocked::waiting(error.reason(), message)
                } else {
                    Blocked::stalled(error.reason(), message)
                })
            }
            (SourceState::Oci(Err(failure)), _) => {
                let message = format!("spec.source.oci: {}", failure.message);
                Some(if failure.transient {
                    Blocked::waiting(failure.reason, message)
                } else {
                    Blocked::stalled(failure.reason, message)
                })
            }
            (SourceState::ConfigMap(None), SourceSpec::ConfigMap { name }) => {
                Some(Blocked::waiting(
                    Reason::ConfigMapNotFound,
                    format!("ConfigMap {name}, the source, does not exist"),
                ))
            }
            (SourceState::NotLookedUp, source) => {
                let mut named = source.registry_secret().into_iter().chain(source.secrets());
                let problem = named.find_map(|name| self.secret_problem(name));
                Some(problem.unwrap_or_else(|| {
                    let message = "a Secret of the source does not exist";
                    Blocked::waiting(Reason::SecretNotFound, message)
                }))
            }
            _ => None,
        }
    }

    /// Which input is not there.
    pub fn input_problem(&self, spec: &ValidatedBuild) -> Option<Blocked> {
        spec.inputs.iter().find_map(|input| {
            let build = &input.build;
            match self.inputs.get(&input.name) {
                Some(InputState::Ready { .. }) => None,
                Some(InputState::NotReady { message }) => Some(Blocked::waiting(
                    Reason::InputNotReady,
                    format!(
                        "ImageBuild {build}, the input {}, is not ready: {message}",
                        input.name
                    ),
                )),
                Some(InputState::Missing) | None => Some(Blocked::waiting(
                    Reason::InputNotFound,
                    format!(
                        "ImageBuild {build}, the input {}, does not exist",
                        input.name
                    ),
                )),
            }
        })
    }

    fn secret_problem(&self, name: &str) -> Option<Blocked> {
        match self.secrets.get(name) {
            Some(SecretState::Missing) => Some(Blocked::waiting(
                Reason::SecretNotFound,
                format!("Secret {name} does not exist"),
            )),
            Some(SecretState::Lacks(key)) => Some(Blocked::waiting(
                Reason::SecretInvalid,
                format!("Secret {name} has no usable key {key}"),
            )),
            _ => None,
        }
    }

    /// Why the cache cannot be used yet, or at all.
    fn cache_problem(&self, spec: &ValidatedBuild) -> Option<Blocked> {
        let place = spec.cache.registry.as_ref().map(|(place, _)| place);
        if place.is_some_and(|place| place.parsed(&self.registries).is_none()) {
            return Some(Blocked::stalled(
                Reason::InvalidSpec,
                "spec.cache.registry: host and repository together are too long",
            ));
        }
        let (holder, volume) = (self.cache_holder.as_ref()?, spec.cache.volume.as_ref()?);
        Some(Blocked::waiting(
            Reason::WaitingForCacheVolume,
            format!(
                "PersistentVolumeClaim {}, the cache, serves pod {holder}",
                volume.claim
            ),
        ))
    }

    /// What must be there before a pod can be started.
    pub fn missing(&self, spec: &ValidatedBuild) -> Option<Blocked> {
        for name in spec.registries() {
            match self.registries.get(name) {
                Some(RegistryState::Ready { .. }) => {}
                Some(RegistryState::NotReady { message }) => {
                    return Some(Blocked::waiting(
                        Reason::RegistryNotReady,
                        format!("Registry {name} is not ready: {message}"),
                    ));
                }
                _ => {
                    return Some(Blocked::waiting(
                        Reason::RegistryNotFound,
                        format!("Registry {name} does not exist"),
                    ));
                }
            }
        }
        for (index, destination) in spec.destinations.iter().enumerate() {
            if destination.parsed(&self.registries).is_none() {
                return Some(Blocked::stalled(
                    Reason::InvalidSpec,
                    format!(
                        "spec.destinations[{index}]: host and repository together are too long"
                    ),
                ));
            }
        }
        if let Some((name, _)) = self.claims.iter().find(|(_, exists)| !**exists) {
            return Some(Blocked::waiting(
                Reason::ClaimNotFound,
                format!("PersistentVolumeClaim {name} does not exist"),
            ));
        }
        if let Some(blocked) = self.cache_problem(spec) {
            return Some(blocked);
        }
        let secrets = spec.registry_secrets();
        secrets
            .iter()
            .map(String::as_str)
            .chain(spec.source.secrets())
            .chain(spec.secrets.iter().map(|secret| secret.secret.as_str()))
            .find_map(|name| self.secret_problem(name))
    }
}
