//! The images of this machine on disk: reading all of them, giving names, removing, and archives. Any number of processes
//! may do so at once: names change under a lock, and blobs that no name leads to are removed only while nobody holds them.

use std::{io::Read, path::PathBuf};

use oci::{
    Descriptor, DiffId, Digest, Document, ImageConfig, Manifest, MediaType, Platform, Reference,
};
use store::{Archived, IMAGE_NAME, Layout, REF_NAME, StoreError, Writing};

use crate::{Catalog, Entry, Image, ImagesError, Plan, Result, Sizes, entry_name};

/// The images of one directory.
#[derive(Clone, Debug)]
pub struct Images {
    layout: Layout,
}

/// An image that came from elsewhere.
#[derive(Clone, Debug, PartialEq)]
pub struct Kept {
    /// Its name, where the archive had one.
    pub name: Option<Reference>,
    /// Its id.
    pub id: Digest,
    /// Its layers, bottom first: what the configuration calls them, and their blobs.
    pub layers: Vec<(DiffId, Descriptor)>,
}

impl Images {
    /// The images in `directory`, which is made where there is none.
    pub fn open(directory: impl Into<PathBuf>) -> Result<Self> {
        let layout = Layout::create(directory)?;
        Ok(Self { layout })
    }

    /// The layout that has them.
    pub const fn layout(&self) -> &Layout {
        &self.layout
    }

    /// The sizes of their layers.
    pub fn sizes(&self) -> Sizes<'_> {
        Sizes::new(&self.layout)
    }

    /// Keeps everything that is there until the value ends; to be had before blobs are brought that no name leads to yet.
    pub fn hold(&self) -> Result<Writing> {
        Ok(self.layout.writing()?)
    }

    /// All images. Entries that are none, or that are damaged, are left out.
    pub fn catalog(&self) -> Result<Catalog> {
        let index = self.layout.index()?;
        let mut entries = Vec::new();
        for descriptor in index.manifests {
            let name = name_of_entry(&descriptor);
            match self.read(name, descriptor) {
                Ok(entry) => entries.push(entry),
                Err(ImagesError::Store(error @ StoreError::Io { .. })) => return Err(error.into()),
                Err(_) => {}
            }
        }
        Ok(Catalog::new(entries))
    }

    /// Reads the documents of an image.
    fn read(&self, name: Option<Reference>, mut root: Descriptor) -> Result<Entry> {
        root.annotations.remove(REF_NAME);
        root.annotations.remove(IMAGE_NAME);
        let (manifest_descriptor, manifest) = self.manifest(&root)?;
        let config = self.layout.config(&manifest)?;
        Ok(Entry {
            name,
            root,
            manifest,
            manifest_descriptor,
            config,
        })
    }

    /// The manifest below `root`: of several platforms that of this machine, else the first that is there.
    fn manifest(&self, root: &Descriptor) -> Result<(Descriptor, Manifest)> {
        let index = match self.layout.document(root)? {
            Document::Manifest(manifest) => return Ok((root.clone(), manifest)),
            Document::Index(index) => index,
        };
        let host = Platform::host();
        let ours = index.select(&host);
        for child in ours.into_iter().chain(&index.manifests) {
            if let Ok(Document::Manifest(manifest)) = self.layout.document(child) {
                return Ok((child.clone(), manifest));
            }
        }
        Err(StoreError::Missing(root.digest.clone()).into())
    }

    /// Lets each of `names` stand for an image whose blobs are here; without names it is kept as it is. They must be held
    /// from before they came.
    pub fn enter(&self, names: &[Reference], image: &Descriptor) -> Result<()> {
        let change = |entries: &mut Vec<_>| store::assign(entries, names, image);
        Ok(self.layout.change(change)?)
    }

    /// Gives the image that `source` means the name `target`, too.
    ///
    /// # Errors
    /// [`ImagesError::DigestAsTag`], and those of [`Catalog::find`].
    pub fn tag(&self, source: &str, target: &Reference) -> Result<()> {
        if target.digest().is_some() {
            return Err(ImagesError::DigestAsTag);
        }
        let catalog = self.catalog()?;
        let root = &catalog.find(source)?.image.root;
        let target = entry_name(target);
        // Whoever removes the image meanwhile has it removed.
        let is_there = self.layout.change(|entries| {
            let is_there = entries.iter().any(|entry| entry.digest == root.digest);
            if is_there {
                store::assign(entries, std::slice::from_ref(&target), root);
            }
            is_there
        })?;
        if is_there {
            Ok(())
        } else {
            Err(ImagesError::NotFound(source.into()))
        }
    }

    /// Carries out what was planned by `catalog`, and removes blobs that nothing leads to any more. What got another name,
    /// or another image, meanwhile stays.
    pub fn carry_out(&self, plan: &Plan, catalog: &Catalog) -> Result<()> {
        let (names, images) = (plan.names(), plan.images());
        let roots = |image: &Image| image.roots.clone();
        let gone: Vec<Digest> = (images.iter())
            .filter_map(|id| catalog.by_id(id))
            .flat_map(roots)
            .collect();
        self.layout.change(|entries| {
            entries.retain(|entry| match name_of_entry(entry) {
                None => !gone.contains(&entry.digest),
                Some(name) => {
                    let known = catalog.by_name(&name);
                    let is_same = known.is_some_and(|image| image.roots.contains(&entry.digest));
                    !(names.contains(&name) && is_same)
                }
            });
        })?;
        self.layout.prune()?;
        Ok(())
    }

    /// Reads the images of an archive, compressed or not: those of `docker save`, and OCI layouts.
    ///
    /// # Errors
    /// When it is none, incomplete or damaged. No name is changed then.
    pub fn load(&self, archive: impl Read) -> Result<Vec<Kept>> {
        let held = self.hold()?;
        let decompressed = store::decompress(archive).map_err(|source| StoreError::Io {
            action: "read the archive",
            source,
        });
        let (_, archive) = decompressed?;
        let archived = store::read_archive(archive, &self.layout)?;
        let kept: Vec<_> = archived
            .into_iter()
            .map(|image| {
                let Archived {
                    name, descriptor, ..
                } = image;
                let name = name.map(|name| entry_name(&name));
                let entry = self.read(name.clone(), descriptor)?;
                verify_layers(&entry)?;
                Ok((entry, name))
            })
            .collect::<Result<_>>()?;
        let mut loaded = Vec::new();
        for (entry, name) in kept {
            self.enter(name.as_slice(), &entry.root)?;
            let ids = entry.config.rootfs.diff_ids.into_iter();
            loaded.push(Kept {
                name,
                id: entry.manifest.config.digest,
                layers: ids.zip(entry.manifest.layers).collect(),
            });
        }
        drop(held);
        Ok(loaded)
    }

    /// Adds an image of `layers`, whose blobs are here and held, and gives its id back.
    pub fn add(
        &self,
        config: &ImageConfig,
        layers: Vec<Descriptor>,
        names: &[Reference],
    ) -> Result<Digest> {
        let to_json = |source| StoreError::Json {
            name: "the new image".into(),
            source,
        };
        let json = serde_json::to_vec(config).map_err(to_json)?;
        let config = self.layout.write_bytes(MediaType::OciConfig, &json)?;
        let id = config.digest.clone();
        let json = serde_json::to_vec(&Manifest::new(config, layers)).map_err(to_json)?;
        let root = self.layout.write_bytes(MediaType::OciManifest, &json)?;
        self.enter(names, &root)?;
        Ok(id)
    }
}

/// The name of an entry: other tools write the short one alone.
fn name_of_entry(entry: &Descriptor) -> Option<Reference> {
    let short = entry.annotations.get(REF_NAME)?;
    let full = entry.annotations.get(IMAGE_NAME);
    let name = full
        .into_iter()
        .chain([short])
        .find_map(|name| name.parse().ok());
    name.map(|name| entry_name(&name))
}

/// Makes sure that the configuration tells of as many layers as there are, and that uncompressed ones are those. What is
/// compressed is found out by whoever unpacks it.
fn verify_layers(entry: &Entry) -> Result<()> {
    let layers = &entry.manifest.layers;
    let ids = &entry.config.rootfs.diff_ids;
    let damaged = |layer: &Descriptor, expected: String| ImagesError::Layer {
        layer: layer.digest.clone(),
        image: entry.manifest.config.digest.clone(),
        expected,
    };
    if layers.len() != ids.len() {
        return Err(damaged(
            &entry.manifest.config,
            format!("that of {} layers", layers.len()),
        ));
    }
    for (layer, id) in layers.iter().zip(ids) {
        if layer.media_type == MediaType::OciLayer && layer.digest != id.0 {
            return Err(damaged(layer, id.to_string()));
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {

    use std::io::Write;

    use oci::RootFs;
    use store::{Form, Named};

    use super::*;
    use crate::{RemovalOptions, Users, plan_removal};

    fn images() -> (tempfile::TempDir, Images) {
        let directory = tempfile::tempdir().unwrap();
        let images = Images::open(directory.path()).unwrap();
        (directory, images)
    }

    fn add(images: &Images, layers: &[&str], names: &[&str]) -> Digest {
        let held = images.hold().unwrap();
        let blobs: Vec<_> = layers
            .iter()
            .map(|layer| {
                images
                    .layout
                    .write_bytes(MediaType::OciLayer, layer.as_bytes())
                    .unwrap()
            })
            .collect();
        let config = ImageConfig {
            platform: Platform::host(),
            rootfs: RootFs {
                diff_ids: blobs
                    .iter()
                    .map(|blob| DiffId(blob.digest.clone()))
                    .collect(),
                ..RootFs::default()
            },
            ..ImageConfig::default()
        };
        let names: Vec<Reference> = names
            .iter()
            .map(|name| name.parse::<Reference>().unwrap().or_latest())
            .collect();
        let id = images.add(&config, blobs, &names).unwrap();
        drop(held);
        id
    }

    fn remove(images: &Images, text: &str, force: bool) -> Plan {
        let catalog = images.catalog().unwrap();
        let found = catalog.find(text).unwrap();
        let options = RemovalOptions {
            force,
            ..RemovalOptions::default()
        };
        let plan = plan_removal(&catalog, &found, options, &Users::new()).unwrap();
        images.carry_out(&plan, &catalog).unwrap();
        plan
    }

    fn blobs(directory: &tempfile::TempDir) -> usize {
        let blobs = directory.path().join("blobs/sha256");
        fs_err::read_dir(blobs).unwrap().count()
    }

    fn archive(images: &Images, text: &str, form: Form) -> Vec<u8> {
        let catalog = images.catalog().unwrap();
        let image = catalog.find(text).unwrap().image;
        let named = Named {
            names: image.tags.clone(),
            image: image.root.clone(),
        };
        let mut archive = Vec::new();
        store::write_archive(images.layout(), &[named], form, &mut archive).unwrap();
        archive
    }

    #[test]
    fn images_are_named_removed_and_share_their_layers() {
        let (directory, images) = images();
        let first = add(&images, &["base", "one"], &["app:1"]);
        add(&images, &["base", "two"], &["app:2"]);
        assert_eq!(blobs(&directory), 7);
        images
            .tag(first.short(), &"other".parse().unwrap())
            .unwrap();
        images.tag("app:2", &"app:1".parse().unwrap()).unwrap();
        let catalog = images.catalog().unwrap();
        assert_eq!(catalog.find("app:1").unwrap().image.tags.len(), 2);
        assert_eq!(catalog.find("other").unwrap().image.id, first);
        assert!(images.tag("absent", &"x".parse().unwrap()).is_err());

        let plan = remove(&images, "other", false);
        assert_eq!(
            (plan.names().len(), plan.images().len(), plan.layers.len()),
            (1, 1, 1)
        );
        assert_eq!(blobs(&directory), 4);
        remove(&images, "app:1", false);
        assert_eq!(blobs(&directory), 4);
        remove(&images, "app:2", false);
        assert_eq!(blobs(&directory), 0);
        assert!(images.catalog().unwrap().images().is_empty());
    }

    #[test]
    fn an_image_whose_name_moved_is_dangling() {
        let (_directory, images) = images();
        let first = add(&images, &["1"], &["app"]);
        add(&images, &["2"], &["app"]);
        let catalog = images.catalog().unwrap();
        assert_eq!(catalog.images().len(), 2);
        assert!(catalog.by_id(&first).unwrap().is_dangling());
        remove(&images, first.short(), false);
        assert_eq!(images.catalog().unwrap().images().len(), 1);
    }

    #[test]
    fn names_that_moved_after_the_plan_stay() {
        let (_directory, images) = images();
        let first = add(&images, &["1"], &["app"]);
        let catalog = images.catalog().unwrap();
        let found = catalog.find("app").unwrap();
        let plan =
            plan_removal(&catalog, &found, RemovalOptions::default(), &Users::new()).unwrap();
        let second = add(&images, &["2"], &["app"]);
        images.carry_out(&plan, &catalog).unwrap();
        let after = images.catalog().unwrap();
        assert_eq!(after.find("app").unwrap().image.id, second);
        assert!(after.by_id(&first).is_none());
    }

    #[test]
    fn archives_come_back_with_the_same_ids_however_they_are_compressed() {
        let (_first, from) = images();
        let id = add(&from, &["1", "2"], &["app:1", "app:2"]);
        let nameless = add(&from, &["3"], &[]);
        let gzip = |bytes: &[u8]| {
            let mut encoder =
                flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
            encoder.write_all(bytes).unwrap();
            encoder.finish().unwrap()
        };
        let zstd = |bytes: &[u8]| zstd::encode_all(bytes, 1).unwrap();
        let plain = archive(&from, "app:1", Form::Docker);
        for bytes in [
            plain.clone(),
            gzip(&plain),
            zstd(&plain),
            archive(&from, "app:1", Form::Oci),
        ] {
            let (_second, to) = images();
            let loaded = to.load(bytes.as_slice()).unwrap();
            let names: Vec<_> = loaded
                .iter()
                .map(|kept| kept.name.as_ref().unwrap().familiar())
                .collect();
            assert_eq!(names, ["app:1", "app:2"]);
            assert!(
                loaded
                    .iter()
                    .all(|kept| kept.id == id && kept.layers.len() == 2)
            );
            assert_eq!(to.catalog().unwrap().find("app:2").unwrap().image.id, id);
            let loaded = to
                .load(archive(&from, nameless.short(), Form::Oci).as_slice())
                .unwrap();
            assert_eq!((&loaded[0].name, &loaded[0].id), (&None, &nameless));
            assert!(
                to.catalog()
                    .unwrap()
                    .by_id(&nameless)
                    .unwrap()
                    .is_dangling()
            );
        }
        let (_third, to) = images();
        assert!(to.load(&plain[..plain.len() / 2]).is_err());
        assert!(to.load(&b"no archive"[..]).is_err());
        assert!(to.catalog().unwrap().images().is_empty());
    }

    #[test]
    fn an_archive_whose_layers_are_others_is_refused() {
        let (_first, from) = images();
        let layer = from
            .layout
            .write_bytes(MediaType::OciLayer, b"other")
            .unwrap();
        let config = ImageConfig {
            platform: Platform::host(),
            rootfs: RootFs {
                diff_ids: vec![DiffId(Digest::of(b"said"))],
                ..RootFs::default()
            },
            ..ImageConfig::default()
        };
        from.add(
            &config,
            vec![layer],
            &["lie".parse::<Reference>().unwrap().or_latest()],
        )
        .unwrap();
        let (_second, to) = images();
        let error = to
            .load(archive(&from, "lie", Form::Docker).as_slice())
            .unwrap_err();
        assert!(
            error.to_string().contains("the archive is damaged"),
            "{error}"
        );
        assert!(to.catalog().unwrap().images().is_empty());
    }

    #[test]
    fn what_others_bring_meanwhile_is_not_removed() {
        let (directory, images) = images();
        let held = images.hold().unwrap();
        let layer = images
            .layout
            .write_bytes(MediaType::OciLayer, b"arriving")
            .unwrap();
        add(&images, &["1"], &["app"]);
        remove(&images, "app", false);
        assert!(images.layout.has_blob(&layer));
        drop(held);
        assert_eq!(blobs(&directory), 4);
        images.layout.prune().unwrap();
        assert_eq!(blobs(&directory), 0);
    }

    #[test]
    fn processes_give_and_take_names_at_once() {
        let (_directory, images) = images();
        std::thread::scope(|scope| {
            for thread in 0..4 {
                let images = images.clone();
                scope.spawn(move || {
                    for round in 0..10 {
                        let (kept, gone) = (
                            format!("kept{thread}:{round}"),
                            format!("gone{thread}:{round}"),
                        );
                        add(&images, &["base", &kept], &[&kept]);
                        add(&images, &["base", &gone], &[&gone]);
                        remove(&images, &gone, true);
                    }
                });
            }
        });
        let catalog = images.catalog().unwrap();
        assert_eq!(catalog.images().len(), 40);
        let sizes = images.sizes();
        for image in catalog.images() {
            sizes.image(image).unwrap();
        }
    }

    #[test]
    fn names_of_other_tools_are_read() {
        let (_directory, images) = images();
        let id = add(&images, &["1"], &["app:1"]);
        images
            .layout
            .change(|entries| {
                for entry in entries {
                    entry.annotations.remove(IMAGE_NAME);
                }
            })
            .unwrap();
        let catalog = images.catalog().unwrap();
        assert_eq!(catalog.find("app:1").unwrap().image.id, id);
        remove(&images, "app:1", false);
        assert!(images.catalog().unwrap().images().is_empty());
    }
}
