//! What a build keeps for later builds: `spec.cache`.

use crds::image_build::BuildCache;
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
            bytes(text).ok_or_else(|| {
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

/// The bytes of a quantity of Kubernetes, rounded down; none where it is none, or has an exponent or fractions of bytes only.
fn bytes(quantity: &str) -> Option<u64> {
    let end = quantity.find(|c: char| !c.is_ascii_digit() && c != '.');
    let (number, suffix) = quantity.split_at(end.unwrap_or(quantity.len()));
    let power = |base: u128, exponent| base.checked_pow(exponent);
    let factor = match suffix {
        "" => Some(1),
        "k" => power(1000, 1),
        "M" => power(1000, 2),
        "G" => power(1000, 3),
        "T" => power(1000, 4),
        "P" => power(1000, 5),
        "E" => power(1000, 6),
        "Ki" => power(1024, 1),
        "Mi" => power(1024, 2),
        "Gi" => power(1024, 3),
        "Ti" => power(1024, 4),
        "Pi" => power(1024, 5),
        "Ei" => power(1024, 6),
        _ => None,
    }?;
    let (whole, fraction) = number.split_once('.').unwrap_or((number, ""));
    let digits = u32::try_from(fraction.len()).ok().filter(|n| *n <= 9)?;
    let all: u128 = format!("{whole}{fraction}").parse().ok()?;
    let scaled = all.checked_mul(factor)? / power(10, digits)?;
    u64::try_from(scaled).ok().filter(|bytes| *bytes > 0)
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
            assert_eq!(bytes(text), expected, "{text}");
        }
    }
}
