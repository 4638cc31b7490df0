//! What a build makes in one form: an image, or one for each of several platforms and the index of them. Pure.

use std::collections::BTreeSet;

use oci::{Descriptor, Index, MediaType, Platform};

use super::{Documents, Image, Level, to_json};

/// The images of one build in one form.
#[derive(Clone, Debug, PartialEq)]
pub struct Product {
    /// The images, one for each platform, in the order that the platforms were asked for.
    pub images: Vec<Image>,
    /// The index of them, where there is one.
    pub index: Option<ImageIndex>,
}

/// The index of an image of several platforms.
#[derive(Clone, Debug, PartialEq)]
pub struct ImageIndex {
    /// The document, as JSON.
    pub bytes: Vec<u8>,
    /// Its descriptor.
    pub descriptor: Descriptor,
}

impl Product {
    /// The images as they are called: by an index where `indexed`, else by the only manifest.
    ///
    /// # Panics
    /// When there is no image, or several without an index.
    pub fn new(images: Vec<Image>, indexed: bool, documents: &Documents) -> Self {
        assert!(
            images.len() == 1 || (indexed && !images.is_empty()),
            "several images have an index"
        );
        let index = indexed.then(|| index(&images, documents));
        Self { images, index }
    }

    /// What the names of the image stand for: the index, or the only manifest.
    pub fn descriptor(&self) -> &Descriptor {
        match &self.index {
            Some(index) => &index.descriptor,
            None => &self.images[0].descriptor,
        }
    }

    /// What stands for the image in the index of a layout, annotations included.
    pub fn entry(&self, documents: &Documents) -> Descriptor {
        let annotations = &documents.annotations;
        match &self.index {
            Some(index) => {
                let mut entry = index.descriptor.clone();
                entry.annotations = annotations.of(Level::IndexDescriptor, None);
                entry
            }
            None => child(&self.images[0], documents),
        }
    }

    /// Bytes of all documents and layers, those that several images share counted once.
    pub fn size(&self) -> u64 {
        let index = self.index.iter().map(|index| &index.descriptor);
        let images = self.images.iter().flat_map(|image| {
            let documents = [&image.descriptor, &image.config_descriptor];
            documents.into_iter().chain(&image.layers)
        });
        distinct_size(index.chain(images))
    }
}

/// Bytes of `blobs`, those that are named several times counted once.
pub fn distinct_size<'a>(blobs: impl IntoIterator<Item = &'a Descriptor>) -> u64 {
    let mut seen = BTreeSet::new();
    let blobs = blobs.into_iter().filter(|blob| seen.insert(&blob.digest));
    blobs.map(|blob| blob.size).sum()
}

/// What stands for an image in an index.
fn child(image: &Image, documents: &Documents) -> Descriptor {
    let mut child = image
        .descriptor
        .clone()
        .with_platform(image.platform.clone());
    child.annotations = documents
        .annotations
        .of(Level::ManifestDescriptor, Some(&image.platform));
    child
}

fn index(images: &[Image], documents: &Documents) -> ImageIndex {
    let children = images.iter().map(|image| child(image, documents));
    index_of(children.collect(), documents)
}

/// The index of the images that `children` stand for.
pub fn index_of(children: Vec<Descriptor>, documents: &Documents) -> ImageIndex {
    let mut index = Index::new(children);
    let media_type = if documents.docker_types {
        MediaType::DockerManifestList
    } else {
        MediaType::OciIndex
    };
    index.media_type = Some(media_type.clone());
    index.annotations = documents.annotations.of(Level::Index, None);
    let bytes = to_json(&index);
    ImageIndex {
        descriptor: Descriptor::of(media_type, &bytes),
        bytes,
    }
}

/// The platforms of an image, each once, in their normal form.
pub fn distinct(platforms: &[Platform]) -> Vec<Platform> {
    let mut distinct: Vec<Platform> = Vec::new();
    for platform in platforms {
        if !distinct.iter().any(|known| known.matches(platform)) {
            distinct.push(platform.clone().normalized());
        }
    }
    distinct
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::image::{Annotation, Annotations};

    fn image(platform: &str, manifest: &str) -> Image {
        let layer = Descriptor::of(MediaType::OciLayerGzip, b"shared");
        Image {
            platform: platform.parse().unwrap(),
            config: b"{}".to_vec(),
            config_descriptor: Descriptor::of(MediaType::OciConfig, b"{}"),
            descriptor: Descriptor::of(MediaType::OciManifest, manifest.as_bytes()),
            manifest: manifest.into(),
            layers: vec![layer],
        }
    }

    #[test]
    fn several_platforms_have_an_index_in_their_order() {
        let annotation = |level, value: &str| Annotation {
            level,
            platform: None,
            key: "k".into(),
            value: value.into(),
        };
        let documents = Documents {
            annotations: Annotations(vec![
                annotation(Level::Index, "index"),
                annotation(Level::IndexDescriptor, "layout"),
                annotation(Level::ManifestDescriptor, "child"),
            ]),
            ..Documents::default()
        };
        let images = vec![image("linux/arm64", "a"), image("linux/arm/v7", "bc")];
        let product = Product::new(images, true, &documents);
        let index = product.index.clone().unwrap();
        insta::assert_snapshot!(String::from_utf8(index.bytes.clone()).unwrap(), @r#"{"schemaVersion":2,"mediaType":"application/vnd.oci.image.index.v1+json","manifests":[{"mediaType":"application/vnd.oci.image.manifest.v1+json","digest":"sha256:ca978112ca1bbdcafac231b39a23dc4da786eff8147c4e72b9807785afee48bb","size":1,"annotations":{"k":"child"},"platform":{"architecture":"arm64","os":"linux"}},{"mediaType":"application/vnd.oci.image.manifest.v1+json","digest":"sha256:1e0bbd6c686ba050b8eb03ffeedc64fdc9d80947fce821abbe5d6dc8d252c5ac","size":2,"annotations":{"k":"child"},"platform":{"architecture":"arm","os":"linux","variant":"v7"}}],"annotations":{"k":"index"}}"#);
        assert_eq!(product.descriptor(), &index.descriptor);
        assert_eq!(product.entry(&documents).annotations["k"], "layout");
        // The layer and the configuration count once.
        assert_eq!(product.size(), index.bytes.len() as u64 + 1 + 2 + 2 + 6);
        let alone = Product::new(vec![image("linux/arm64", "a")], false, &documents);
        assert_eq!(alone.descriptor().media_type, MediaType::OciManifest);
        assert_eq!(alone.entry(&documents).annotations["k"], "child");
        let docker = Documents {
            docker_types: true,
            ..Documents::default()
        };
        let list = Product::new(vec![image("linux/arm64", "a")], true, &docker);
        assert_eq!(list.descriptor().media_type, MediaType::DockerManifestList);
    }

    #[test]
    fn platforms_count_once() {
        let platforms = ["linux/amd64", "linux/x86_64", "linux/arm", "linux/arm/v7"];
        let distinct: Vec<_> = distinct(&platforms.map(|p| p.parse().unwrap()))
            .iter()
            .map(ToString::to_string)
            .collect();
        assert_eq!(distinct, ["linux/amd64", "linux/arm/v7"]);
    }
}
