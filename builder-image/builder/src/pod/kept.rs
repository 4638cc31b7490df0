//! What a pod keeps for later ones: the cache in a registry, and the one on a claim. What cannot be read is as if it were
//! empty; what cannot be written is told, and the image is there all the same.

use std::path::Path;

use oci::Reference;
use protocol::BuildRequest;

use crate::cache::Cache;
use crate::error::Error;
use crate::shared_cache::{CacheMode, CachePlace, CacheSource, CacheTarget, Imports};

/// The caches of a request.
pub(super) struct Kept {
    import: Vec<Reference>,
    export: Option<Reference>,
    volume: Option<Cache>,
    quota: Option<u64>,
}

impl Kept {
    /// Reads what the request says; opens the claim, which is at `path`.
    ///
    /// # Errors
    /// When a name is none.
    pub(super) fn open(task: &BuildRequest, path: &Path) -> Result<Self, Error> {
        let parse = |name: &String| {
            let parsed: Result<Reference, _> = name.parse();
            parsed.map_err(|error| Error::Request(format!("the cache `{name}`: {error}")))
        };
        let request = &task.cache;
        let volume = request.volume.as_ref().and_then(|_| {
            let opened = Cache::open(path);
            let told = |error: &std::io::Error| {
                tracing::warn!(%error, "the volume of the cache cannot be used");
            };
            opened.inspect_err(told).ok()
        });
        Ok(Self {
            import: request.import.iter().map(parse).collect::<Result<_, _>>()?,
            export: request.export.as_ref().map(parse).transpose()?,
            quota: request.volume.as_ref().and_then(|volume| volume.quota),
            volume,
        })
    }

    /// The caches that are asked: the nearest first.
    pub(super) fn imports(&self) -> Imports {
        let volume = self.volume.iter().cloned().map(CacheSource::Store);
        let registries = self.import.iter().cloned().map(CacheSource::Registry);
        Imports::new(volume.chain(registries).collect())
    }

    /// The caches that are written.
    pub(super) fn targets(&self) -> Vec<CacheTarget> {
        let volume = self.volume.iter().cloned().map(CachePlace::Store);
        let registry = self.export.iter().cloned().map(CachePlace::Registry);
        let places = volume.chain(registry);
        let targets = places.map(|place| CacheTarget {
            place,
            mode: CacheMode::Max,
            compression: None,
            ignore_error: true,
        });
        targets.collect()
    }

    /// Removes from the claim what is over its quota.
    pub(super) async fn keep_to_quota(&self) {
        if let (Some(volume), Some(quota)) = (&self.volume, self.quota) {
            crate::build::keep_to_quota(volume.clone(), Some(quota)).await;
        }
    }
}

#[cfg(test)]
mod tests {
    use protocol::{CacheRequest, CacheVolume, DockerfileSpec, Isolation, Source};

    use super::*;

    fn task(cache: CacheRequest) -> BuildRequest {
        BuildRequest {
            source: Source::Empty,
            subdirectory: String::new(),
            dockerfile: DockerfileSpec::default(),
            destinations: Vec::new(),
            isolation: Isolation::NoRun,
            source_date_epoch: None,
            cache,
        }
    }

    #[test]
    fn the_volume_is_asked_first_and_all_stages_are_kept() {
        let directory = tempfile::tempdir().unwrap();
        let request = task(CacheRequest {
            import: vec!["h:1/cache:a".into(), "h:1/cache:b".into()],
            export: Some("h:1/cache:a".into()),
            volume: Some(CacheVolume { quota: Some(1) }),
        });
        let kept = Kept::open(&request, directory.path()).unwrap();
        let targets = kept.targets();
        let places: Vec<_> = targets.iter().map(|to| to.place.to_string()).collect();
        let volume = directory.path().display().to_string();
        assert_eq!(places, [volume, "h:1/cache:a".into()]);
        assert!(
            targets
                .iter()
                .all(|to| to.ignore_error && to.mode == CacheMode::Max)
        );
        // A claim that cannot be written is no failure.
        let file = directory.path().join("file");
        fs_err::write(&file, "").unwrap();
        let kept = Kept::open(&request, &file).unwrap();
        assert_eq!(kept.targets().len(), 1);
        assert!(
            Kept::open(&task(CacheRequest::default()), &file).is_ok_and(|k| k.targets().is_empty())
        );
        let wrong = task(CacheRequest {
            export: Some("UPPER".into()),
            ..CacheRequest::default()
        });
        assert!(Kept::open(&wrong, &file).is_err());
    }
}
