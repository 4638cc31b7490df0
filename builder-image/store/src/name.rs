//! Names in a layout of many repositories: an entry of `index.json` for each name of an image, and one without a name for
//! an image that has none. Pure.

use oci::{Descriptor, Reference};

use crate::{
    REF_NAME,
    image::{Naming, entries},
};

/// Lets each of `names` stand for `image`, and for nothing else. An image that loses its last name by that stays, without
/// one; so does `image` where `names` is empty and it has no name yet.
pub fn assign(all: &mut Vec<Descriptor>, names: &[Reference], image: &Descriptor) {
    let new = entries(image, names, Naming::Whole);
    let name_of = |entry: &Descriptor| entry.annotations.get(REF_NAME).cloned();
    let mut nameless = Vec::new();
    for entry in &new {
        let Some(name) = name_of(entry) else {
            nameless.push(entry.clone());
            continue;
        };
        let known = all
            .iter()
            .position(|old| name_of(old).as_ref() == Some(&name));
        match known {
            Some(known) => {
                let old = std::mem::replace(&mut all[known], entry.clone());
                nameless.push(without_name(old));
            }
            None => all.push(entry.clone()),
        }
    }
    all.extend(nameless);
    let named: Vec<_> = all
        .iter()
        .filter(|entry| name_of(entry).is_some())
        .map(|entry| entry.digest.clone())
        .collect();
    let mut seen = Vec::new();
    all.retain(|entry| {
        name_of(entry).is_some()
            || !named.contains(&entry.digest) && !seen.contains(&entry.digest) && {
                seen.push(entry.digest.clone());
                true
            }
    });
}

fn without_name(mut entry: Descriptor) -> Descriptor {
    entry.annotations.remove(REF_NAME);
    entry.annotations.remove(crate::IMAGE_NAME);
    entry
}

#[cfg(test)]
mod tests {

    use oci::MediaType;

    use super::*;

    #[test]
    fn names_move_and_images_stay() {
        let image = |content: &str| Descriptor::of(MediaType::OciManifest, content.as_bytes());
        let names = |names: &[&str]| -> Vec<Reference> {
            names.iter().map(|name| name.parse().unwrap()).collect()
        };
        let mut all = Vec::new();
        for (given, content, expected) in [
            (&["a:1", "a:2"][..], "x", &["a:1=x", "a:2=x"][..]),
            (&["a:1"], "y", &["a:1=y", "a:2=x"]),
            (&["a:2"], "y", &["a:1=y", "a:2=y", "=x"]),
            (&[], "x", &["a:1=y", "a:2=y", "=x"]),
            (&[], "y", &["a:1=y", "a:2=y", "=x"]),
            (&[], "z", &["a:1=y", "a:2=y", "=x", "=z"]),
            (
                &[
                    "b:1",
                    "h:5000/b@sha256:e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855",
                ],
                "x",
                &[
                    "a:1=y",
                    "a:2=y",
                    "=z",
                    "b:1=x",
                    "h:5000/b@sha256:e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855=x",
                ],
            ),
        ] {
            assign(&mut all, &names(given), &image(content));
            let mut shown: Vec<_> = all
                .iter()
                .map(|entry| {
                    let of = ["x", "y", "z"]
                        .iter()
                        .find(|c| image(c).digest == entry.digest);
                    let name = entry.annotations.get(REF_NAME).cloned().unwrap_or_default();
                    format!("{name}={}", of.unwrap())
                })
                .collect();
            let mut expected = expected.to_vec();
            shown.sort();
            expected.sort_unstable();
            assert_eq!(shown, expected, "{given:?} for {content}");
        }
    }
}
