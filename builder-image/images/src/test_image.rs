//! Images made up for tests of the pure parts: documents that fit together, and no blobs.

use oci::{
    Descriptor, DiffId, Digest, History, ImageConfig, Manifest, MediaType, Platform, RootFs,
};

use crate::{Catalog, Entry};

#[derive(Clone, Debug)]
pub(crate) struct TestImage {
    pub(crate) config: ImageConfig,
    names: Vec<String>,
    layer_type: MediaType,
}

impl TestImage {
    /// An image of one layer, both called `name`, made on the day after those before it.
    pub(crate) fn new(name: &str) -> Self {
        let config = ImageConfig {
            platform: Platform::host(),
            created: Some("2021-06-01T00:00:00Z".into()),
            author: Some(name.into()),
            ..ImageConfig::default()
        };
        let image = Self {
            config,
            names: Vec::new(),
            layer_type: MediaType::OciLayer,
        };
        image.layers(&[name])
    }

    /// With these layers. Those it has already keep their place in the history.
    pub(crate) fn layers(mut self, layers: &[&str]) -> Self {
        let had = self.config.rootfs.diff_ids.len();
        let ids = layers
            .iter()
            .map(|layer| DiffId(Digest::of(layer.as_bytes())));
        self.config.rootfs = RootFs {
            diff_ids: ids.collect(),
            ..RootFs::default()
        };
        if had == 1 && layers.len() == 1 {
            self.config.history.clear();
        }
        let author = self.config.author.clone();
        for layer in &layers[self.config.history.len().min(layers.len())..] {
            self.config.history.push(History {
                created: Some("2021-06-01T00:00:00Z".into()),
                created_by: Some(format!(
                    "{} ADD {layer}",
                    author.clone().unwrap_or_default()
                )),
                ..History::default()
            });
        }
        self
    }

    pub(crate) fn empty_step(mut self, text: &str) -> Self {
        self.config.history.push(History {
            created_by: Some(text.into()),
            empty_layer: true,
            ..History::default()
        });
        self
    }

    pub(crate) fn created(mut self, when: &str) -> Self {
        self.config.created = Some(when.into());
        self
    }

    pub(crate) fn label(mut self, key: &str, value: &str) -> Self {
        self.config.config.labels.insert(key.into(), value.into());
        self
    }

    /// With these names besides those that it has.
    pub(crate) fn named(mut self, names: &[&str]) -> Self {
        self.names.extend(names.iter().map(ToString::to_string));
        self
    }

    pub(crate) fn renamed(mut self, names: &[&str]) -> Self {
        self.names.clear();
        self.named(names)
    }

    /// The same image with other blobs.
    pub(crate) fn compressed(mut self) -> Self {
        self.layer_type = MediaType::OciLayerGzip;
        self
    }

    pub(crate) fn id(&self) -> Digest {
        Digest::of(&serde_json::to_vec(&self.config).unwrap())
    }

    pub(crate) fn entries(&self) -> Vec<Entry> {
        let config = serde_json::to_vec(&self.config).unwrap();
        let config = Descriptor::of(MediaType::OciConfig, &config);
        let layers = self
            .config
            .rootfs
            .diff_ids
            .iter()
            .map(|id| Descriptor::new(self.layer_type.clone(), id.0.clone(), 10));
        let manifest = Manifest::new(config, layers.collect());
        let root = serde_json::to_vec(&manifest).unwrap();
        let root = Descriptor::of(MediaType::OciManifest, &root);
        let names = self.names.iter().map(|name| {
            let name: oci::Reference = name.parse().unwrap();
            Some(name.or_latest())
        });
        let mut names: Vec<_> = names.collect();
        if names.is_empty() {
            names.push(None);
        }
        let entry = |name| Entry {
            name,
            root: root.clone(),
            manifest: manifest.clone(),
            manifest_descriptor: root.clone(),
            config: self.config.clone(),
        };
        names.into_iter().map(entry).collect()
    }
}

pub(crate) fn catalog(images: &[TestImage]) -> Catalog {
    Catalog::new(images.iter().flat_map(TestImage::entries))
}
