//! All images at one moment: by name, by id, and how they descend from each other. Pure.

use std::{
    cmp::Reverse,
    collections::{BTreeMap, HashMap},
};

use jiff::Timestamp;
use oci::{ChainId, Descriptor, DiffId, Digest, ImageConfig, Manifest, Reference, Tag};

use crate::{ImagesError, Result};

/// An entry of the layout that is an image, as it was read.
#[derive(Clone, Debug)]
pub struct Entry {
    /// Its name there.
    pub name: Option<Reference>,
    /// What the entry names: a manifest, or an index.
    pub root: Descriptor,
    /// The manifest of the image: of several platforms that of this machine, else the first that is there.
    pub manifest: Manifest,
    /// The descriptor of that manifest.
    pub manifest_descriptor: Descriptor,
    /// The configuration.
    pub config: ImageConfig,
}

/// An image with all of its names.
#[derive(Clone, Debug)]
pub struct Image {
    /// The digest of the configuration.
    pub id: Digest,
    /// Names with a tag, sorted.
    pub tags: Vec<Reference>,
    /// Names with a digest (`alpine@sha256:…`): where it was pulled from or pushed to; sorted.
    pub digests: Vec<Reference>,
    /// What its entries name; one of them, should they differ in how layers are compressed.
    pub root: Descriptor,
    /// Its manifest.
    pub manifest: Manifest,
    /// The descriptor of that manifest.
    pub manifest_descriptor: Descriptor,
    /// Its configuration.
    pub config: ImageConfig,
    /// What all of its entries name, each once.
    pub roots: Vec<Digest>,
}

impl Image {
    /// Whether nothing calls it by a tag.
    pub fn is_dangling(&self) -> bool {
        self.tags.is_empty()
    }

    /// When it was made, where it says so.
    pub fn created(&self) -> Option<Timestamp> {
        self.config.created.as_ref()?.parse().ok()
    }

    /// The digests of the stacks of its layers: of the lowest alone, and so on to all of them.
    pub fn chains(&self) -> Vec<ChainId> {
        let layers = &self.config.rootfs.diff_ids;
        let stacks = (1..=layers.len()).map(|count| ChainId::of(&layers[..count]));
        stacks.flatten().collect()
    }

    /// The layers, bottom first: what the configuration calls them, and their blobs.
    pub fn layers(&self) -> impl DoubleEndedIterator<Item = (&DiffId, &Descriptor)> {
        self.config
            .rootfs
            .diff_ids
            .iter()
            .zip(&self.manifest.layers)
    }

    /// Whether `child` was made from this image: its layers and its history begin with those of this one, and it has more.
    fn is_parent_of(&self, child: &Self) -> bool {
        let (layers, history) = (&self.config.rootfs.diff_ids, &self.config.history);
        let more = &child.config;
        self.id != child.id
            && (!layers.is_empty() || !history.is_empty())
            && more.rootfs.diff_ids.starts_with(layers)
            && more.history.starts_with(history)
            && (more.rootfs.diff_ids.len(), more.history.len()) != (layers.len(), history.len())
    }
}

/// What somebody asks for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Wanted {
    /// A name, which the image has.
    Name(Reference),
    /// An id or its beginning.
    Id,
}

/// An image that was asked for.
#[derive(Clone, Debug)]
pub struct Found<'a> {
    /// The image.
    pub image: &'a Image,
    /// How it was asked for.
    pub wanted: Wanted,
}

/// All images.
#[derive(Clone, Debug, Default)]
pub struct Catalog {
    images: Vec<Image>,
    names: HashMap<Reference, usize>,
}

impl Catalog {
    /// The images that entries stand for, the latest made first.
    pub fn new(entries: impl IntoIterator<Item = Entry>) -> Self {
        let mut by_id: BTreeMap<Digest, Image> = BTreeMap::new();
        for entry in entries {
            let id = entry.manifest.config.digest.clone();
            let image = by_id.entry(id.clone()).or_insert_with(|| Image {
                id,
                tags: Vec::new(),
                digests: Vec::new(),
                root: entry.root.clone(),
                manifest: entry.manifest,
                manifest_descriptor: entry.manifest_descriptor,
                config: entry.config,
                roots: Vec::new(),
            });
            if !image.roots.contains(&entry.root.digest) {
                image.roots.push(entry.root.digest);
            }
            match entry.name {
                Some(name) if name.digest().is_some() => image.digests.push(name),
                Some(name) => image.tags.push(name),
                None => {}
            }
        }
        let mut images: Vec<_> = by_id.into_values().collect();
        for image in &mut images {
            image.tags.sort();
            image.digests.sort();
        }
        images.sort_by_cached_key(|image| (Reverse(image.created()), image.tags.clone()));
        let mut names = HashMap::new();
        for (position, image) in images.iter().enumerate() {
            for name in image.tags.iter().chain(&image.digests) {
                names.insert(name.clone(), position);
            }
        }
        Self { images, names }
    }

    /// All images, the latest made first.
    pub fn images(&self) -> &[Image] {
        &self.images
    }

    /// The image of an id.
    pub fn by_id(&self, id: &Digest) -> Option<&Image> {
        self.images.iter().find(|image| image.id == *id)
    }

    /// The image that has a name.
    pub fn by_name(&self, name: &Reference) -> Option<&Image> {
        self.names.get(name).map(|position| &self.images[*position])
    }

    /// The image that `text` means: an id with its algorithm, else a name (with `latest` where it has no tag), else the
    /// beginning of an id.
    ///
    /// # Errors
    /// [`ImagesError::NotFound`] and [`ImagesError::Ambiguous`]; [`ImagesError::Name`] when it can be neither.
    pub fn find(&self, text: &str) -> Result<Found<'_>> {
        let of_id = |image| Found {
            image,
            wanted: Wanted::Id,
        };
        if let Some(image) = text.parse().ok().and_then(|id| self.by_id(&id)) {
            return Ok(of_id(image));
        }
        let name = text.parse::<Reference>().map(|name| entry_name(&name));
        if let Ok(name) = &name
            && let Some(image) = self.by_name(name)
        {
            let wanted = Wanted::Name(name.clone());
            return Ok(Found { image, wanted });
        }
        let beginning = text.strip_prefix("sha256:").unwrap_or(text);
        let is_id = !beginning.is_empty() && beginning.bytes().all(|b| b.is_ascii_hexdigit());
        let beginning = beginning.to_ascii_lowercase();
        let mut found = self
            .images
            .iter()
            .filter(|image| is_id && image.id.hex().starts_with(&beginning));
        match (found.next(), found.next()) {
            (Some(image), None) => Ok(of_id(image)),
            (Some(first), Some(second)) => Err(ImagesError::Ambiguous {
                text: text.into(),
                found: [first, second]
                    .into_iter()
                    .chain(found)
                    .map(|image| image.id.clone())
                    .collect(),
            }),
            (None, _) => Err(match name {
                Ok(name) => ImagesError::NotFound(name.familiar()),
                Err(_) if is_id => ImagesError::NotFound(text.into()),
                Err(error) => error.into(),
            }),
        }
    }

    /// All names with tags of a repository, in order.
    pub fn tags_of<'a>(&'a self, name: &'a Reference) -> impl Iterator<Item = &'a Reference> {
        let mut tags: Vec<_> = (self.images.iter())
            .flat_map(|image| &image.tags)
            .filter(|tag| tag.repository() == name.repository())
            .collect();
        tags.sort();
        tags.into_iter()
    }

    /// The images that were made from `image`.
    pub fn children<'a>(&'a self, image: &'a Image) -> impl Iterator<Item = &'a Image> {
        self.images.iter().filter(|other| image.is_parent_of(other))
    }

    /// The image that `image` was made from: of several the one that is nearest.
    pub fn parent(&self, image: &Image) -> Option<&Image> {
        let parents = self.images.iter().filter(|other| other.is_parent_of(image));
        parents.max_by_key(|parent| {
            let config = &parent.config;
            (config.history.len(), config.rootfs.diff_ids.len())
        })
    }

    /// Whether an image other than those of `without` has a stack of layers as its lowest ones.
    pub(crate) fn has_stack(&self, stack: &[DiffId], without: &[Digest]) -> bool {
        let mut others = self
            .images
            .iter()
            .filter(|image| !without.contains(&image.id));
        others.any(|image| image.config.rootfs.diff_ids.starts_with(stack))
    }
}

/// The name that an entry has for what was asked for: a digest alone decides, else there is a tag, `latest` if no other.
pub fn entry_name(reference: &Reference) -> Reference {
    let repository = reference.repository();
    if let Some(digest) = reference.digest() {
        return repository.at(digest.clone());
    }
    repository.tagged(reference.tag().cloned().unwrap_or_else(Tag::latest))
}

#[cfg(test)]
mod tests {

    use super::*;
    use crate::test_image::{TestImage, catalog};

    fn found(catalog: &Catalog, text: &str) -> String {
        match catalog.find(text) {
            Ok(Found { image, wanted }) => {
                let first = image.tags.first().map(Reference::familiar);
                let by = match wanted {
                    Wanted::Name(name) => name.familiar(),
                    Wanted::Id => "id".into(),
                };
                format!("{} by {by}", first.unwrap_or_else(|| "<none>".into()))
            }
            Err(ImagesError::Ambiguous { found, .. }) => format!("{} images", found.len()),
            Err(error) => error.to_string(),
        }
    }

    #[test]
    fn images_are_found_by_name_and_by_beginnings_of_their_ids() {
        let pulled = "quay.io/acme/nginx@sha256:e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855";
        let images = [
            TestImage::new("a").named(&["nginx:latest", "nginx:1.20"]),
            TestImage::new("b").named(&["quay.io/acme/nginx:latest", pulled]),
            TestImage::new("c"),
        ];
        let catalog = catalog(&images);
        let id = images[0].id();
        let unique = (1..=64)
            .map(|length| &id.hex()[..length])
            .find(|start| {
                catalog
                    .images()
                    .iter()
                    .filter(|i| i.id.hex().starts_with(start))
                    .count()
                    == 1
            })
            .unwrap();
        for (text, expected) in [
            ("nginx", "nginx:1.20 by nginx:latest"),
            ("docker.io/library/nginx:1.20", "nginx:1.20 by nginx:1.20"),
            (
                "quay.io/acme/nginx",
                "quay.io/acme/nginx:latest by quay.io/acme/nginx:latest",
            ),
            (pulled, &format!("quay.io/acme/nginx:latest by {pulled}")),
            (id.as_str(), "nginx:1.20 by id"),
            (id.short(), "nginx:1.20 by id"),
            (unique, "nginx:1.20 by id"),
            (&format!("sha256:{unique}"), "nginx:1.20 by id"),
            (&unique.to_uppercase(), "nginx:1.20 by id"),
            (images[2].id().short(), "<none> by id"),
            ("alpine", "No such image: alpine:latest"),
            ("acme/nginx", "No such image: acme/nginx:latest"),
        ] {
            // A beginning that has no letter is also the name of an image that is not there.
            assert_eq!(found(&catalog, text), expected, "{text}");
        }
        assert!(found(&catalog, "UPPER/case").starts_with("invalid reference format"));
    }

    #[test]
    fn beginnings_of_several_ids_are_refused() {
        let images: Vec<_> = (0..40).map(|n| TestImage::new(&n.to_string())).collect();
        let catalog = catalog(&images);
        // Of forty ids two begin with the same digit.
        let mut starts: Vec<_> = images
            .iter()
            .map(|i| i.id().hex()[..1].to_owned())
            .collect();
        starts.sort();
        let double = starts.windows(2).find(|pair| pair[0] == pair[1]).unwrap();
        assert!(found(&catalog, &double[0]).ends_with(" images"));
        let text = catalog.find(&double[0]).unwrap_err().to_string();
        assert!(
            text.contains("begins the ids of several images: "),
            "{text}"
        );
    }

    #[test]
    fn children_continue_the_layers_and_the_history_of_their_parent() {
        let base = TestImage::new("base").layers(&["1"]);
        let child = base.clone().layers(&["1", "2"]).named(&["child"]);
        let metadata = child.clone().renamed(&["metadata"]).empty_step("CMD x");
        // The same lowest layer, made otherwise.
        let stranger = TestImage::new("other")
            .layers(&["1", "2"])
            .named(&["stranger"]);
        let catalog = catalog(&[base.clone(), child.clone(), metadata.clone(), stranger]);
        let get = |image: &TestImage| catalog.by_id(&image.id()).unwrap();
        let children: Vec<_> = catalog.children(get(&base)).map(|i| i.id.clone()).collect();
        assert_eq!(children.len(), 2);
        assert!(children.contains(&child.id()) && children.contains(&metadata.id()));
        assert_eq!(catalog.parent(get(&metadata)).unwrap().id, child.id());
        assert_eq!(catalog.parent(get(&child)).unwrap().id, base.id());
        assert!(catalog.parent(get(&base)).is_none());
        assert_eq!(get(&child).chains().len(), 2);
    }

    #[test]
    fn one_configuration_is_one_image() {
        let image = TestImage::new("a").named(&["a:1"]);
        let packed_otherwise = image.clone().renamed(&["a:2"]).compressed();
        let catalog = catalog(&[image, packed_otherwise]);
        assert_eq!(catalog.images().len(), 1);
        let image = &catalog.images()[0];
        assert_eq!((image.tags.len(), image.roots.len()), (2, 2));
    }
}
