//! What the entries of a layout call their images: paths and tags of repositories, as a registry would have them. Pure.

use std::collections::BTreeMap;

use oci::{Descriptor, Reference, Tag};
use store::{IMAGE_NAME, REF_NAME};

/// The annotation with the repository of an image of an archive; its name then is `<repository>:<tag>`. Without it, a name
/// of one component may be one of Docker Hub or of any registry.
const REPOSITORY: &str = "dev.coopery.archive.repository";

/// How new entries are called.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Naming {
    /// `<repository>:<tag>`: an archive of any number of repositories.
    Whole,
    /// What is tagged `latest` so, all else by its tag: an archive of one image, and what refers to it.
    One {
        /// The `org.opencontainers.image.ref.name`; none for the image without one.
        name: Option<String>,
        /// The name that `docker load` gives it.
        image: Option<Reference>,
    },
}

/// Repository and tag; an empty repository stands for any.
pub(super) type Name = (String, Tag);

/// The name of an entry, if it has one that can be asked for.
pub(super) fn name_of(entry: &Descriptor) -> Option<Name> {
    let called = entry.annotations.get(REF_NAME);
    if let Some(repository) = entry.annotations.get(REPOSITORY) {
        let tag = called?
            .strip_prefix(repository.as_str())?
            .strip_prefix(':')?;
        return Some((repository.clone(), tag.parse().ok()?));
    }
    let full = entry.annotations.get(IMAGE_NAME);
    let full = full.or_else(|| called.filter(|name| name.contains(['/', ':'])));
    if let Some(full) = full {
        let full: Reference = full.parse().ok()?;
        let path = full.repository().path().to_owned();
        return Some((path, full.tag()?.clone()));
    }
    Some((String::new(), called?.parse().ok()?))
}

/// What `entry` is called as `tag` of `repository`.
pub(super) fn annotations(
    naming: &Naming,
    repository: &str,
    tag: &Tag,
) -> BTreeMap<String, String> {
    match naming {
        Naming::Whole => BTreeMap::from([
            (
                REF_NAME.to_owned(),
                format!("{repository}:{}", tag.as_str()),
            ),
            (REPOSITORY.to_owned(), repository.to_owned()),
        ]),
        Naming::One { .. } if *tag != Tag::latest() => {
            BTreeMap::from([(REF_NAME.to_owned(), tag.as_str().to_owned())])
        }
        Naming::One { name, image } => {
            let name = name.clone().map(|name| (REF_NAME.to_owned(), name));
            let image = image.as_ref();
            let image = image.map(|image| (IMAGE_NAME.to_owned(), image.to_string()));
            name.into_iter().chain(image).collect()
        }
    }
}

/// What is called `tag` of `repository` among `names`: by that very name, as an image of Docker Hub, or where the archive
/// knows tags only.
pub(super) fn find<'a, T>(
    names: &'a BTreeMap<Name, T>,
    repository: &str,
    tag: &Tag,
) -> Option<&'a T> {
    let library = format!("library/{repository}");
    [repository, library.as_str(), ""]
        .iter()
        .find_map(|path| names.get(&((*path).to_owned(), tag.clone())))
}

#[cfg(test)]
mod tests {
    use oci::MediaType;

    use super::*;

    fn entry(annotations: &[(&str, &str)]) -> Descriptor {
        let mut entry = Descriptor::of(MediaType::OciManifest, b"x");
        let pairs = annotations.iter();
        entry.annotations = pairs.map(|(k, v)| ((*k).into(), (*v).into())).collect();
        entry
    }

    #[test]
    fn names_are_read_as_they_are_found() {
        for (annotations, expected) in [
            (
                &[(REF_NAME, "app:1"), (REPOSITORY, "app")][..],
                Some("app 1"),
            ),
            (&[(REF_NAME, "a/b:1"), (REPOSITORY, "a/b")], Some("a/b 1")),
            // What the annotation contradicts is no name.
            (&[(REF_NAME, "c:1"), (REPOSITORY, "a/b")], None),
            (&[(REF_NAME, "app:1")], Some("library/app 1")),
            (&[(REF_NAME, "1.29")], Some(" 1.29")),
            (
                &[(REF_NAME, "1"), (IMAGE_NAME, "quay.io/a/b:2")],
                Some("a/b 2"),
            ),
            (&[(REF_NAME, "h.example:5000/a@x")], None),
            (&[], None),
        ] {
            let name = name_of(&entry(annotations));
            let name = name.map(|(path, tag)| format!("{path} {}", tag.as_str()));
            assert_eq!(name.as_deref(), expected, "{annotations:?}");
        }
    }

    #[test]
    fn what_is_called_whole_is_found_by_it() {
        let tag: Tag = "1".parse().unwrap();
        let mut names = BTreeMap::new();
        for path in ["app", "library/nginx", ""] {
            let mut written = entry(&[]);
            written.annotations = annotations(&Naming::Whole, path, &tag);
            if !path.is_empty() {
                assert_eq!(name_of(&written), Some((path.to_owned(), tag.clone())));
            }
            names.insert((path.to_owned(), tag.clone()), path);
        }
        for (asked, found) in [
            ("app", "app"),
            ("nginx", "library/nginx"),
            ("library/nginx", "library/nginx"),
            ("other", ""),
        ] {
            assert_eq!(find(&names, asked, &tag), Some(&found), "{asked}");
        }
    }
}
