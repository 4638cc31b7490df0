//! Which repositories a build may read from a mirror: what the ImageMirrors of its namespace keep in Registries of that
//! namespace. Pure.

use crds::{ImageMirror, Registry};
use kube::ResourceExt;
use mirror::{Entry, Selector};
use oci::{RegistryHost, Repository, Tag};
use protocol::MirroredRepository;

use super::observe::state_of;
use super::observed::RegistryState;
use crate::image_mirror::validate::{Side, validate};

/// More are not handed to a pod: they travel in an annotation.
const MOST: usize = 300;

/// What is kept where.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Mirrored {
    /// The repositories, in the order of their names.
    pub repositories: Vec<MirroredRepository>,
    /// Names of the Registries that keep them.
    pub registries: Vec<String>,
}

impl Mirrored {
    /// What `mirrors` keep in those of `registries` that serve. A mirror that goes away, or whose spec cannot be carried
    /// out, covers nothing.
    pub fn of(mirrors: &[ImageMirror], registries: &[Registry]) -> Self {
        let mut found = Self::default();
        for mirror in mirrors {
            let state = |name: &str| {
                let found = registries.iter().find(|r| r.name_any() == name);
                found.map_or(RegistryState::Missing, state_of)
            };
            let Ok(spec) = validate(&mirror.spec, state) else {
                continue;
            };
            // What is kept elsewhere is mirrored for others.
            let Side::Registry(registry) = spec.destination else {
                continue;
            };
            let RegistryState::Ready { host } = state(&registry) else {
                continue;
            };
            if mirror.metadata.deletion_timestamp.is_some() {
                continue;
            }
            let entries = spec.entries.iter();
            let repositories: Vec<_> = entries.filter_map(|entry| kept(entry, &host)).collect();
            if !repositories.is_empty() && !found.registries.contains(&registry) {
                found.registries.push(registry);
            }
            found.repositories.extend(repositories);
        }
        found
            .repositories
            .sort_by(|a, b| (&a.source, &a.mirror).cmp(&(&b.source, &b.mirror)));
        found.repositories.dedup();
        found.repositories.truncate(MOST);
        found
    }
}

/// What `entry` keeps in the registry `host`.
fn kept(entry: &Entry, host: &RegistryHost) -> Option<MirroredRepository> {
    let mirror = Repository::new(host.clone(), &entry.path).ok()?;
    let names = || {
        let selector = entry.selector.iter();
        let names = selector.flat_map(Selector::names);
        names.map(Tag::to_string).collect()
    };
    // What is selected by pattern is there once it was synced.
    let by_pattern = entry.selector.as_ref().is_some_and(Selector::needs_list);
    let tags = (!by_pattern).then(names);
    Some(MirroredRepository {
        source: entry.source.to_string(),
        mirror: mirror.to_string(),
        tags,
    })
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "tests")]
    use serde_json::json;

    use super::*;

    #[test]
    fn mirrors_in_registries_that_serve_cover_what_they_select() {
        let registry = |name: &str, ready: &str| -> Registry {
            let object = json!({"apiVersion": "coopery.dev/v1alpha1", "kind": "Registry",
                "metadata": {"name": name},
                "spec": {"managed": {"storage": {"emptyDir": {}}}},
                "status": {"host": format!("{name}.team.svc:5000"), "conditions": [{"type": "Ready", "status": ready,
                    "reason": "R", "message": "", "lastTransitionTime": "2026-01-01T00:00:00Z"}]}});
            serde_json::from_value(object).unwrap()
        };
        let mirror = |name: &str, registry: &str| -> ImageMirror {
            let object = json!({"apiVersion": "coopery.dev/v1alpha1", "kind": "ImageMirror", "metadata": {"name": name},
            "spec": {"source": {"host": "docker.io"},
                "destination": {"registry": {"name": registry}, "prefix": "mirror"},
                "images": [
                    {"name": "b", "repository": "library/nginx", "tags": {"semver": ">=1"}, "destination": "nginx"},
                    {"name": "a", "repository": "library/alpine", "tags": {"names": ["3.22", "edge"]}},
                    {"name": "c", "repository": "library/pinned",
                        "digests": [format!("sha256:{}", "a".repeat(64))]},
                ]}});
            serde_json::from_value(object).unwrap()
        };
        let mut going = mirror("going", "main");
        let now = jiff::Timestamp::UNIX_EPOCH;
        going.metadata.deletion_timestamp =
            Some(k8s_openapi::apimachinery::pkg::apis::meta::v1::Time(now));
        let mut unfit = mirror("unfit", "main");
        unfit.spec.images.clear();
        let all = [
            mirror("a", "main"),
            mirror("b", "other"),
            mirror("c", "absent"),
            going,
            unfit,
        ];
        let found = Mirrored::of(
            &all,
            &[registry("main", "True"), registry("other", "False")],
        );
        assert_eq!(found.registries, ["main"]);
        let told: Vec<_> = found
            .repositories
            .iter()
            .map(|r| (r.source.as_str(), r.mirror.as_str(), r.tags.clone()))
            .collect();
        let host = "main.team.svc:5000/mirror";
        assert_eq!(
            told,
            [
                (
                    "docker.io/library/alpine",
                    &*format!("{host}/library/alpine"),
                    Some(vec!["3.22".to_owned(), "edge".to_owned()])
                ),
                ("docker.io/library/nginx", &*format!("{host}/nginx"), None),
                (
                    "docker.io/library/pinned",
                    &*format!("{host}/library/pinned"),
                    Some(vec![])
                ),
            ]
        );
    }
}
