//! Which image of an OCI layout `oci-layout://DIRECTORY[:TAG|@DIGEST]` means. The layout itself is the crate `store`'s.

use oci::{Descriptor, Digest, Index};
use store::REF_NAME;

use crate::error::BaseError;

/// How many names an error lists.
const MOST_NAMES: usize = 10;

/// The image of that tag or digest; without either the only image there is, or `latest` of several.
///
/// # Errors
/// When there is none, or several to choose from.
pub(super) fn choose(index: &Index, wanted: Option<&str>) -> Result<Descriptor, BaseError> {
    let find = |wanted: &str| {
        let by_digest = wanted.parse::<Digest>().ok();
        let mut entries = index.manifests.iter();
        entries.find(|entry| match &by_digest {
            Some(digest) => entry.digest == *digest,
            None => entry
                .annotations
                .get(REF_NAME)
                .is_some_and(|name| is_name(name, wanted)),
        })
    };
    let known = || {
        let mut names = index.manifests.iter().map(|entry| {
            let name = entry.annotations.get(REF_NAME);
            name.map_or(entry.digest.as_str(), String::as_str)
        });
        let first: Vec<_> = names.by_ref().take(MOST_NAMES).collect();
        let more = if names.next().is_some() { ", …" } else { "" };
        format!("{}{more}", first.join(", "))
    };
    let found = match (wanted, index.manifests.as_slice()) {
        (_, []) => Err("the layout has no image".to_owned()),
        (Some(wanted), _) => find(wanted)
            .ok_or_else(|| format!("the layout has no image `{wanted}`; it has {}", known())),
        (None, [only]) => Ok(only),
        (None, _) => find("latest").ok_or_else(|| {
            format!(
                "the layout has the images {}: name one, `oci-layout://DIRECTORY:TAG` or `…@DIGEST`",
                known()
            )
        }),
    };
    found.cloned().map_err(BaseError::Choice)
}

/// Whether an entry called `name` is meant by `wanted`: some tools write a tag, some a whole reference.
fn is_name(name: &str, wanted: &str) -> bool {
    name == wanted || name.rsplit_once(':').is_some_and(|(_, tag)| tag == wanted)
}

#[cfg(test)]
mod tests {
    use oci::MediaType;

    use super::*;

    #[test]
    fn an_image_is_chosen_by_name_or_because_it_is_alone() {
        let entry = |name: &str| {
            let mut entry = Descriptor::of(MediaType::OciManifest, name.as_bytes());
            if !name.is_empty() {
                entry.annotations.insert(REF_NAME.into(), name.into());
            }
            entry
        };
        let digest = Digest::of(b"1").to_string();
        for (names, wanted, found) in [
            (&["1"][..], None, Some("1")),
            (&["1"], Some("1"), Some("1")),
            (&["1"], Some("2"), None),
            (&[], None, None),
            (&["", "1"], None, None),
            (&["", "latest"], None, Some("latest")),
            (&["", "acme/app:1"], Some("1"), Some("acme/app:1")),
            (&["", "1"], Some(&digest), Some("1")),
        ] {
            let index = Index::new(names.iter().map(|name| entry(name)).collect());
            let chosen = choose(&index, wanted).ok();
            assert_eq!(chosen, found.map(entry), "{names:?} {wanted:?}");
        }
        let index = Index::new(["1", "2"].map(entry).into());
        let error = choose(&index, Some("3")).unwrap_err();
        assert_eq!(
            error.to_string(),
            "the layout has no image `3`; it has 1, 2"
        );
    }
}
