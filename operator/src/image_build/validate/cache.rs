//! What a build keeps for later builds: `spec.cache`.

use crds::image_build::BuildCache;
use mirror::quantity;
use oci::Tag;

use super::{Checked, DestinationSpec, invalid, target};

/// What a build keeps for later builds.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct CacheSpec {
    /// The repository of the cache and its tag; without one, the name of the ImageBuild.
    pub registry: Option<(DestinationSpec, Option<Tag>)>,
    /// The volume.
    pub volume: Option<VolumeSpec>,
}

/// The volume of a cache.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct VolumeSpec {
    /// Name of the claim.
    pub claim: String,
    /// Bytes that stay after a build; all where absent.
    pub quota: Option<u64>,
}

/// Reads `spec.cache`.
pub(super) fn cache(spec: Option<&BuildCache>) -> Checked<CacheSpec> {
    let Some(spec) = spec else {
        return Ok(CacheSpec::default());
    };
    let field = "spec.cache.registry";
    let registry = spec.registry.as_ref().map(|item| {
        let place = DestinationSpec {
            name: "cache".to_owned(),
            target: target(
                (&item.registry, &item.repository, &item.image),
                item.secret_ref.as_ref(),
                field,
            )?,
            tags: Vec::new(),
        };
        let tag = item.tag.as_deref().map(str::parse).transpose();
        Ok((
            place,
            tag.map_err(|error| invalid(format!("{field}.tag: {error}")))?,
        ))
    });
    let volume = spec.volume.as_ref().map(|volume| {
        let quota = volume.quota.as_deref().map(|text| {
            quantity::bytes(text).ok_or_else(|| {
                invalid(format!(
                    "spec.cache.volume.quota: `{text}` is no size in bytes, for instance 20Gi"
                ))
            })
        });
        Ok(VolumeSpec {
            claim: volume.persistent_volume_claim.name.clone(),
            quota: quota.transpose()?,
        })
    });
    Ok(CacheSpec {
        registry: registry.transpose()?,
        volume: volume.transpose()?,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn quotas_are_quantities() {
        for (text, expected) in [
            ("1", Some(1)),
            ("20Gi", Some(20 << 30)),
            ("1.5Ki", Some(1536)),
            ("0.5k", Some(500)),
            ("2M", Some(2_000_000)),
            ("16E", Some(16_000_000_000_000_000_000)),
            ("0", None),
            ("0.1", None),
            ("", None),
            (".", None),
            ("-1", None),
            ("1e3", None),
            ("100m", None),
            ("64Ei", None),
            ("1..2", None),
        ] {
            assert_eq!(quantity::bytes(text), expected, "{text}");
        }
    }
}
