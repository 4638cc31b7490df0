//! What `rm` does: which names are taken away, whether the image goes with them, and what forbids it. Pure.
//!
//! The rules are docker's, but for one: an image that others were made from, or that a container uses, goes by force.
//! Layers are shared by digest here, so nothing is lost to the others.

use std::collections::{BTreeMap, BTreeSet};

use oci::{ChainId, DiffId, Digest, Reference, Repository};

use crate::{Catalog, Found, Image, Wanted};

/// The containers that use images, by the ids of the images.
pub type Users = BTreeMap<Digest, Vec<String>>;

/// How a removal is done.
#[derive(Clone, Copy, Debug, Default)]
pub struct RemovalOptions {
    /// Whatever uses the image, and however many names it has.
    pub force: bool,
    /// Leave parents without a name that nothing else is made from (`--no-prune`).
    pub keep_parents: bool,
}

/// One thing that is done.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Line {
    /// A name was taken away.
    Untagged(Reference),
    /// An image was removed.
    DeletedImage(Digest),
    /// A layer was removed, which is called by the digest of the stack that ends with it.
    DeletedLayer(ChainId),
}

/// What is done, in the order in which it is told.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Plan {
    /// Each thing.
    pub lines: Vec<Line>,
    /// The layers that go, by what configurations call them.
    pub layers: Vec<DiffId>,
}

impl Plan {
    /// The names that are taken away.
    pub fn names(&self) -> BTreeSet<&Reference> {
        let names = self.lines.iter().filter_map(|line| match line {
            Line::Untagged(name) => Some(name),
            _ => None,
        });
        names.collect()
    }

    /// The images that are removed.
    pub fn images(&self) -> BTreeSet<&Digest> {
        let images = self.lines.iter().filter_map(|line| match line {
            Line::DeletedImage(id) => Some(id),
            _ => None,
        });
        images.collect()
    }

    /// Adds what another plan does.
    pub(crate) fn extend(&mut self, other: Self) {
        self.lines.extend(other.lines);
        self.layers.extend(other.layers);
    }
}

/// Why an image is not removed.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Conflict {
    /// Its id has names in several repositories, or several tags.
    #[error("conflict: unable to delete {} (must be forced) - image is referenced in multiple repositories", .0.short())]
    SeveralNames(Digest),
    /// Others were made from it.
    #[error("conflict: unable to delete {} (must be forced) - image has dependent child images", .0.short())]
    Children(Digest),
    /// A container uses it.
    #[error("conflict: unable to delete {} (must be forced) - image is being used by container {container}", id.short())]
    Container {
        /// The image.
        id: Digest,
        /// The container.
        container: String,
    },
    /// A container uses it, and it was asked for by its last name.
    #[error("conflict: unable to remove repository reference \"{name}\" (must force) - container {container} is using its referenced image {}", id.short())]
    ContainerByName {
        /// What was asked for.
        name: String,
        /// The image.
        id: Digest,
        /// The container.
        container: String,
    },
}

/// What is done to remove what was found.
///
/// # Errors
/// [`Conflict`], by force never.
pub fn plan_removal(
    catalog: &Catalog,
    found: &Found<'_>,
    options: RemovalOptions,
    users: &Users,
) -> Result<Plan, Conflict> {
    let image = found.image;
    let names = match &found.wanted {
        Wanted::Name(name) => untagged_with(image, name),
        Wanted::Id if !options.force && !has_one_name(image) => {
            return Err(Conflict::SeveralNames(image.id.clone()));
        }
        Wanted::Id => image.tags.iter().chain(&image.digests).cloned().collect(),
    };
    let mut plan = Plan::default();
    let is_last = names.len() == image.tags.len() + image.digests.len();
    if is_last && !options.force {
        refuse(catalog, found, users)?;
    }
    plan.lines.extend(names.into_iter().map(Line::Untagged));
    if is_last {
        let mut gone = Vec::new();
        delete(catalog, image, options, users, &mut gone, &mut plan);
    }
    Ok(plan)
}

fn refuse(catalog: &Catalog, found: &Found<'_>, users: &Users) -> Result<(), Conflict> {
    let image = found.image;
    let id = image.id.clone();
    if let Some(container) = users.get(&id).and_then(|users| users.first()) {
        let container = container.clone();
        return Err(match &found.wanted {
            Wanted::Name(name) => Conflict::ContainerByName {
                name: name.familiar(),
                id,
                container,
            },
            Wanted::Id => Conflict::Container { id, container },
        });
    }
    match catalog.children(image).next() {
        Some(_) => Err(Conflict::Children(id)),
        None => Ok(()),
    }
}

/// The names that go when `name` goes: names with a digest say where a tag of the repository came from, and go with the
/// last tag.
fn untagged_with(image: &Image, name: &Reference) -> Vec<Reference> {
    let is_sibling = |other: &&Reference| other.repository() == name.repository();
    let mut names = vec![name.clone()];
    let other_tags = (image.tags.iter())
        .filter(is_sibling)
        .any(|other| other != name);
    if name.digest().is_none() && !other_tags {
        names.extend(image.digests.iter().filter(is_sibling).cloned());
    }
    names
}

/// Whether an image has no more than one tag, and digests of no other repository.
fn has_one_name(image: &Image) -> bool {
    let repositories: BTreeSet<&Repository> = (image.tags.iter().chain(&image.digests))
        .map(Reference::repository)
        .collect();
    image.tags.len() <= 1 && repositories.len() <= 1
}

/// Removes an image, its layers that nothing else has, and parents that only it kept.
pub(crate) fn delete(
    catalog: &Catalog,
    image: &Image,
    options: RemovalOptions,
    users: &Users,
    gone: &mut Vec<Digest>,
    plan: &mut Plan,
) {
    gone.push(image.id.clone());
    plan.lines.push(Line::DeletedImage(image.id.clone()));
    let layers = &image.config.rootfs.diff_ids;
    for count in (1..=layers.len()).rev() {
        let stack = &layers[..count];
        if catalog.has_stack(stack, gone) {
            break;
        }
        plan.lines
            .extend(ChainId::of(stack).map(Line::DeletedLayer));
        plan.layers.extend(stack.last().cloned());
    }
    if options.keep_parents {
        return;
    }
    let parent = catalog.parent(image).filter(|parent| {
        let kept = catalog
            .children(parent)
            .any(|child| !gone.contains(&child.id));
        let is_named = !parent.tags.is_empty() || !parent.digests.is_empty();
        !kept && !is_named && !users.contains_key(&parent.id) && !gone.contains(&parent.id)
    });
    if let Some(parent) = parent {
        delete(catalog, parent, options, users, gone, plan);
    }
}

#[cfg(test)]
mod tests {

    use super::*;
    use crate::test_image::{TestImage, catalog};

    const DIGEST: &str = "sha256:e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855";

    /// What is done, ids masked as far as it does not matter.
    fn remove(catalog: &Catalog, text: &str, force: bool, users: &Users) -> Vec<String> {
        let found = catalog.find(text).unwrap();
        let options = RemovalOptions {
            force,
            ..RemovalOptions::default()
        };
        match plan_removal(catalog, &found, options, users) {
            Err(conflict) => vec![conflict.to_string()],
            Ok(plan) => (plan.lines.iter())
                .map(|line| match line {
                    Line::Untagged(name) => format!("Untagged: {}", name.familiar()),
                    Line::DeletedImage(_) => "Deleted: image".into(),
                    Line::DeletedLayer(_) => "Deleted: layer".into(),
                })
                .collect(),
        }
    }

    #[test]
    fn names_go_and_images_with_their_last_name() {
        let pulled = format!("quay.io/acme/nginx@{DIGEST}");
        let base = TestImage::new("base").layers(&["1"]);
        let single = TestImage::new("s")
            .layers(&["1", "2", "3"])
            .named(&["quay.io/acme/nginx", &pulled]);
        let double = base.clone().named(&["a:1", "a:2"]);
        let two = TestImage::new("two").named(&["x:1", "y:1", &format!("x@{DIGEST}")]);
        let nameless = TestImage::new("nameless");
        let catalog = catalog(&[
            single.clone(),
            double.clone(),
            two.clone(),
            nameless.clone(),
        ]);
        let none = Users::new();
        let digest = format!("Untagged: {pulled}");
        for (text, force, expected) in [
            (
                single.id().short(),
                false,
                // The lowest layer is that of `double`, too.
                &[
                    "Untagged: quay.io/acme/nginx:latest",
                    &digest,
                    "Deleted: image",
                    "Deleted: layer",
                    "Deleted: layer",
                ][..],
            ),
            (
                "quay.io/acme/nginx",
                false,
                &[
                    "Untagged: quay.io/acme/nginx:latest",
                    &digest,
                    "Deleted: image",
                    "Deleted: layer",
                    "Deleted: layer",
                ],
            ),
            (&pulled, false, &[&digest]),
            ("a:1", false, &["Untagged: a:1"]),
            ("a:1", true, &["Untagged: a:1"]),
            (
                "x:1",
                false,
                &["Untagged: x:1", &format!("Untagged: x@{DIGEST}")],
            ),
            (
                double.id().short(),
                true,
                &["Untagged: a:1", "Untagged: a:2", "Deleted: image"],
            ),
            (
                nameless.id().short(),
                false,
                &["Deleted: image", "Deleted: layer"],
            ),
        ] {
            assert_eq!(remove(&catalog, text, force, &none), expected, "{text}");
        }
        for image in [&double, &two] {
            let id = image.id();
            let expected = format!(
                "conflict: unable to delete {} (must be forced) - image is referenced in multiple repositories",
                id.short()
            );
            assert_eq!(remove(&catalog, id.short(), false, &none), [expected]);
        }
    }

    #[test]
    fn parents_and_used_images_need_force() {
        let base = TestImage::new("base").layers(&["1"]).named(&["base"]);
        let child = base.clone().renamed(&["child"]).layers(&["1", "2"]);
        let catalog = catalog(&[base.clone(), child.clone()]);
        let none = Users::new();
        let id = base.id();
        let children = format!(
            "conflict: unable to delete {} (must be forced) - image has dependent child images",
            id.short()
        );
        for text in ["base", id.short()] {
            let refused = remove(&catalog, text, false, &none);
            assert_eq!(refused, std::slice::from_ref(&children));
            assert_eq!(
                remove(&catalog, text, true, &none),
                ["Untagged: base:latest", "Deleted: image"]
            );
        }
        let users = Users::from([(child.id(), vec!["f11f8ad3b336".to_owned()])]);
        let expected = format!(
            "conflict: unable to remove repository reference \"child:latest\" (must force) - container f11f8ad3b336 is using its referenced image {}",
            child.id().short()
        );
        assert_eq!(remove(&catalog, "child", false, &users), [expected]);
        let refused = remove(&catalog, child.id().short(), false, &users);
        assert!(refused[0].ends_with("image is being used by container f11f8ad3b336"));
        assert_eq!(remove(&catalog, "child", true, &users).len(), 3);
    }

    #[test]
    fn parents_without_a_name_go_with_their_last_child() {
        let base = TestImage::new("base").layers(&["1"]);
        let middle = base.clone().layers(&["1", "2"]);
        let child = middle.clone().layers(&["1", "2", "3"]).named(&["child"]);
        let all = [base.clone(), middle.clone(), child.clone()];
        let deleted = |users: &Users, keep_parents: bool| {
            let catalog = catalog(&all);
            let found = catalog.find("child").unwrap();
            let options = RemovalOptions {
                keep_parents,
                ..RemovalOptions::default()
            };
            let plan = plan_removal(&catalog, &found, options, users).unwrap();
            (plan.images().len(), plan.layers.len())
        };
        assert_eq!(deleted(&Users::new(), false), (3, 3));
        assert_eq!(deleted(&Users::new(), true), (1, 1));
        let users = Users::from([(middle.id(), vec!["c".to_owned()])]);
        assert_eq!(deleted(&users, false), (1, 1));
    }
}
