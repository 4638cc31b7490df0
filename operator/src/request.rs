//! The annotations by which people ask for something now. Pure.

use crds::{FLUX_REQUESTED_AT_ANNOTATION, FORCE_AT_ANNOTATION, REQUESTED_AT_ANNOTATION};
use kube::{Resource, ResourceExt};

/// What is kept of a value in status.
const MAX_CHARACTERS: usize = 64;

/// The value by which was asked to look again: ours, or that of Flux's command line.
pub fn requested_at<K: Resource>(object: &K) -> Option<String> {
    annotation(object, REQUESTED_AT_ANNOTATION)
        .or_else(|| annotation(object, FLUX_REQUESTED_AT_ANNOTATION))
}

/// The value by which was asked to build or sync again.
pub fn force_at<K: Resource>(object: &K) -> Option<String> {
    annotation(object, FORCE_AT_ANNOTATION)
}

/// The value of the annotation `key`, cut to what a status holds.
pub fn annotation<K: Resource>(object: &K, key: &str) -> Option<String> {
    object
        .annotations()
        .get(key)
        .map(|value| value.chars().take(MAX_CHARACTERS).collect())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crds::Registry;

    #[test]
    fn ours_goes_before_flux() {
        let mut registry = Registry::default();
        assert_eq!(requested_at(&registry), None);
        let annotations = registry.annotations_mut();
        annotations.insert(FLUX_REQUESTED_AT_ANNOTATION.to_owned(), "flux".to_owned());
        assert_eq!(requested_at(&registry).as_deref(), Some("flux"));
        registry
            .annotations_mut()
            .insert(REQUESTED_AT_ANNOTATION.to_owned(), "x".repeat(100));
        assert_eq!(requested_at(&registry).map(|v| v.len()), Some(64));
    }
}
