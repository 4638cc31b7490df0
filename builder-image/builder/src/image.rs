//! The image that a build makes: its configuration, history and manifest, as documents. Pure; the same input gives the
//! same bytes.
//!
//! History follows the reference frontend: its comment, the time of each entry, and SOURCE_DATE_EPOCH, which dates what
//! is new and leaves the base's history as it is.

mod annotation;
mod product;

use jiff::Timestamp;
use oci::{Descriptor, DiffId, History, ImageConfig, Manifest, MediaType, Platform, RootFs};

use crate::graph::Target;
use crate::shared_cache::{INLINE_MEMBER, InlineCache};

pub use annotation::{Annotation, Annotations, Level};
pub use product::{ImageIndex, Product, distinct, distinct_size, index_of};

/// What every history entry of a build is marked with.
const COMMENT: &str = "buildkit.dockerfile.v0";

/// A layer of the image.
#[derive(Clone, Debug, PartialEq)]
pub struct Layer {
    /// Digest of the uncompressed archive.
    pub diff_id: DiffId,
    /// The blob.
    pub descriptor: Descriptor,
    /// When it was made, RFC 3339; layers of a base have their times in the base's history.
    pub created: Option<String>,
}

/// How the documents of an image are written.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub struct Documents {
    /// Docker's media types, which know no annotations, in place of those of OCI.
    pub docker_types: bool,
    /// The annotations.
    pub annotations: Annotations,
}

/// An image: its documents and what they refer to.
#[derive(Clone, Debug, PartialEq)]
pub struct Image {
    /// The platform.
    pub platform: Platform,
    /// The configuration, as JSON.
    pub config: Vec<u8>,
    /// The manifest, as JSON.
    pub manifest: Vec<u8>,
    /// The manifest's descriptor.
    pub descriptor: Descriptor,
    /// The configuration's descriptor.
    pub config_descriptor: Descriptor,
    /// The layers, bottom first.
    pub layers: Vec<Descriptor>,
}

impl Image {
    /// Bytes of manifest, configuration and layers together.
    pub fn size(&self) -> u64 {
        let layers: u64 = self.layers.iter().map(|layer| layer.size).sum();
        self.descriptor.size + self.config_descriptor.size + layers
    }
}

/// Puts an image together. `base` has the layers of the base image, `steps` one for each history entry of `target` that
/// has a step, in order; `inline` is a cache of these steps.
pub(crate) fn assemble(
    target: &Target,
    base: &[Layer],
    steps: &[Layer],
    epoch: Option<i64>,
    documents: &Documents,
    inline: Option<&InlineCache>,
) -> Image {
    let history = history(target, base.len(), steps, epoch);
    let layers: Vec<_> = base.iter().chain(steps).collect();
    let config = ImageConfig {
        created: history.iter().rev().find_map(|entry| entry.created.clone()),
        author: target.author.clone(),
        platform: target.platform.clone(),
        config: target.config.clone(),
        rootfs: RootFs {
            diff_ids: layers.iter().map(|layer| layer.diff_id.clone()).collect(),
            ..RootFs::default()
        },
        history,
        other: inline.into_iter().map(inline_member).collect(),
    };
    let config = to_json(&config);
    let docker = documents.docker_types;
    let config_type = if docker {
        MediaType::DockerConfig
    } else {
        MediaType::OciConfig
    };
    let config_descriptor = Descriptor::of(config_type, &config);
    let layers: Vec<_> = layers
        .iter()
        .map(|layer| in_terms(&layer.descriptor, docker))
        .collect();
    let mut manifest = Manifest::new(config_descriptor.clone(), layers.clone());
    let media_type = if docker {
        MediaType::DockerManifest
    } else {
        MediaType::OciManifest
    };
    manifest.media_type = Some(media_type.clone());
    manifest.annotations = documents
        .annotations
        .of(Level::Manifest, Some(&target.platform));
    let manifest = to_json(&manifest);
    Image {
        platform: target.platform.clone(),
        descriptor: Descriptor::of(media_type, &manifest),
        config,
        manifest,
        config_descriptor,
        layers,
    }
}

fn inline_member(inline: &InlineCache) -> (String, serde_json::Value) {
    let value = serde_json::to_value(inline);
    let value = value.expect("a cache has string keys and nothing else can fail");
    (INLINE_MEMBER.to_owned(), value)
}

fn to_json(document: &impl serde::Serialize) -> Vec<u8> {
    serde_json::to_vec(document).expect("documents have string keys and nothing else can fail")
}

/// What Docker calls layers that OCI has names of its own for.
const LAYER_TYPES: [(MediaType, &str); 3] = [
    (
        MediaType::OciLayerGzip,
        "application/vnd.docker.image.rootfs.diff.tar.gzip",
    ),
    (
        MediaType::OciLayer,
        "application/vnd.docker.image.rootfs.diff.tar",
    ),
    (
        MediaType::OciLayerZstd,
        "application/vnd.docker.image.rootfs.diff.tar.zstd",
    ),
];

/// The same blob under the media type of the manifest's kind: an OCI manifest with layers of Docker's types is refused by
/// some readers.
fn in_terms(layer: &Descriptor, docker: bool) -> Descriptor {
    let mut same = Descriptor::new(layer.media_type.clone(), layer.digest.clone(), layer.size);
    same.urls.clone_from(&layer.urls);
    let known = LAYER_TYPES
        .iter()
        .find(|(oci, name)| layer.media_type == *oci || layer.media_type.as_str() == *name);
    if let Some((oci, name)) = known {
        same.media_type = if docker {
            MediaType::from(*name)
        } else {
            oci.clone()
        };
    }
    same
}

fn history(
    target: &Target,
    base_layers: usize,
    steps: &[Layer],
    epoch: Option<i64>,
) -> Vec<History> {
    let mut history = base_history(&target.base_history, base_layers);
    let inherited = history.len();
    let mut layers = steps.iter();
    for entry in &target.entries {
        let layer = entry.step.and_then(|_| layers.next());
        history.push(History {
            created: layer.and_then(|layer| layer.created.clone()),
            created_by: Some(entry.created_by.clone()),
            comment: Some(COMMENT.into()),
            empty_layer: layer.is_none(),
            author: None,
        });
    }
    if let Some(epoch) = epoch.and_then(|epoch| Timestamp::from_second(epoch).ok()) {
        for entry in &mut history[inherited..] {
            entry.created = Some(epoch.to_string());
        }
    }
    fill_times(&mut history);
    history
}

/// The history of a base, made to fit its layers: readers count the entries that have one.
fn base_history(inherited: &[History], layers: usize) -> Vec<History> {
    let mut history = inherited.to_vec();
    let mut left = layers;
    for entry in &mut history {
        if !entry.empty_layer {
            entry.empty_layer = left == 0;
            left = left.saturating_sub(1);
        }
    }
    history.extend((0..left).map(|_| History {
        comment: Some("layer without history in the base image".into()),
        ..History::default()
    }));
    history
}

/// Gives entries without a time that of the layer before them; those before the first new layer get that layer's.
fn fill_times(history: &mut [History]) {
    let first_new = history
        .iter()
        .skip_while(|entry| entry.created.is_some())
        .find_map(|entry| entry.created.clone());
    let last_known = history.iter().rev().find_map(|entry| entry.created.clone());
    let mut current = first_new.or(last_known);
    let mut seen_gap = false;
    for entry in history {
        if entry.created.is_none() {
            seen_gap = true;
            entry.created.clone_from(&current);
        } else if seen_gap {
            current.clone_from(&entry.created);
        }
    }
}

#[cfg(test)]
mod tests {
    use oci::{ContainerConfig, Digest};

    use super::*;
    use crate::graph::{Entry, Filesystem, StepId};

    fn layer(name: &str, created: Option<&str>) -> Layer {
        Layer {
            diff_id: DiffId(Digest::of(name.as_bytes())),
            descriptor: Descriptor::of(MediaType::DockerLayerGzip, name.as_bytes()),
            created: created.map(str::to_owned),
        }
    }

    fn target(entries: &[(&str, Option<usize>)], base_history: Vec<History>) -> Target {
        Target {
            filesystem: Filesystem::Scratch,
            platform: "linux/amd64".parse().unwrap(),
            author: None,
            config: ContainerConfig::default(),
            base: None,
            base_history,
            entries: entries
                .iter()
                .map(|(text, step)| Entry {
                    created_by: (*text).into(),
                    step: step.map(StepId),
                })
                .collect(),
        }
    }

    fn assembled(target: &Target, base: &[Layer], steps: &[Layer], epoch: Option<i64>) -> Image {
        assemble(target, base, steps, epoch, &Documents::default(), None)
    }

    fn times(image: &Image) -> Vec<String> {
        let config: ImageConfig = serde_json::from_slice(&image.config).unwrap();
        config
            .history
            .iter()
            .map(|h| {
                format!(
                    "{}{}",
                    h.created.as_deref().unwrap_or("-"),
                    if h.empty_layer { " empty" } else { "" }
                )
            })
            .collect()
    }

    fn old() -> Vec<History> {
        vec![History {
            created: Some("2001".into()),
            created_by: Some("base".into()),
            ..History::default()
        }]
    }

    #[test]
    fn an_image_of_one_layer() {
        let target = target(
            &[
                ("ARG A=1", None),
                ("COPY a / # buildkit", Some(0)),
                ("CMD [\"a\"]", None),
            ],
            vec![],
        );
        let image = assembled(
            &target,
            &[],
            &[layer("l", Some("2026-01-01T00:00:00Z"))],
            None,
        );
        insta::assert_snapshot!(String::from_utf8(image.config.clone()).unwrap(), @r#"{"created":"2026-01-01T00:00:00Z","architecture":"amd64","os":"linux","config":{},"rootfs":{"type":"layers","diff_ids":["sha256:acac86c0e609ca906f632b0e2dacccb2b77d22b0621f20ebece1a4835b93f6f0"]},"history":[{"created":"2026-01-01T00:00:00Z","created_by":"ARG A=1","comment":"buildkit.dockerfile.v0","empty_layer":true},{"created":"2026-01-01T00:00:00Z","created_by":"COPY a / # buildkit","comment":"buildkit.dockerfile.v0"},{"created":"2026-01-01T00:00:00Z","created_by":"CMD [\"a\"]","comment":"buildkit.dockerfile.v0","empty_layer":true}]}"#);
        insta::assert_snapshot!(String::from_utf8(image.manifest.clone()).unwrap(), @r#"{"schemaVersion":2,"mediaType":"application/vnd.oci.image.manifest.v1+json","config":{"mediaType":"application/vnd.oci.image.config.v1+json","digest":"sha256:fc173f79e8a209e543f308530e2adbe703a9e039ba662c7ef0119cc81de7eee1","size":541},"layers":[{"mediaType":"application/vnd.oci.image.layer.v1.tar+gzip","digest":"sha256:acac86c0e609ca906f632b0e2dacccb2b77d22b0621f20ebece1a4835b93f6f0","size":1}]}"#);
        assert_eq!(
            image.descriptor,
            Descriptor::of(MediaType::OciManifest, &image.manifest)
        );
        assert_eq!(
            image.size(),
            image.manifest.len() as u64 + image.config.len() as u64 + 1
        );
    }

    #[test]
    fn entries_without_a_time_get_that_of_a_layer() {
        let entries = [
            ("ENV", None),
            ("RUN 1", Some(0)),
            ("ENV", None),
            ("RUN 2", Some(1)),
            ("CMD", None),
        ];
        let layers = [layer("1", Some("2011")), layer("2", Some("2012"))];
        let image = assembled(&target(&entries, old()), &[layer("b", None)], &layers, None);
        assert_eq!(
            times(&image),
            [
                "2001",
                "2011 empty",
                "2011",
                "2011 empty",
                "2012",
                "2012 empty"
            ]
        );
        // Metadata alone is as old as the base; without any time there is none.
        let image = assembled(
            &target(&[("ENV", None)], old()),
            &[layer("b", None)],
            &[],
            None,
        );
        assert_eq!(times(&image), ["2001", "2001 empty"]);
        assert_eq!(
            times(&assembled(
                &target(&[("ENV", None)], vec![]),
                &[],
                &[],
                None
            )),
            ["- empty"]
        );
    }

    #[test]
    fn the_epoch_dates_what_is_new_only() {
        let entries = [("RUN 1", Some(0)), ("CMD", None)];
        let image = assembled(
            &target(&entries, old()),
            &[layer("b", None)],
            &[layer("1", Some("2011"))],
            Some(0),
        );
        assert_eq!(
            times(&image),
            ["2001", "1970-01-01T00:00:00Z", "1970-01-01T00:00:00Z empty"]
        );
    }

    #[test]
    fn a_base_history_is_made_to_fit_its_layers() {
        let two = [layer("b", None), layer("c", None)];
        assert_eq!(
            times(&assembled(&target(&[], old()), &two, &[], None)),
            ["2001", "2001"]
        );
        assert_eq!(
            times(&assembled(&target(&[], old()), &[], &[], None)),
            ["2001 empty"]
        );
    }

    #[test]
    fn documents_have_the_types_and_annotations_that_were_asked_for() {
        let target = target(&[("COPY a /", Some(0))], vec![]);
        let zstd = Layer {
            descriptor: Descriptor::of(MediaType::OciLayerZstd, b"z"),
            ..layer("l", None)
        };
        let made = |docker_types, annotations| {
            let documents = Documents {
                docker_types,
                annotations: Annotations(annotations),
            };
            let image = assemble(
                &target,
                &[layer("b", None)],
                std::slice::from_ref(&zstd),
                None,
                &documents,
                None,
            );
            let manifest: Manifest = serde_json::from_slice(&image.manifest).unwrap();
            let types = std::iter::once(&manifest.config).chain(&manifest.layers);
            let types: Vec<_> = types.map(|d| d.media_type.as_str().to_owned()).collect();
            assert_eq!(
                manifest.media_type.as_ref(),
                Some(&image.descriptor.media_type)
            );
            (types, manifest.annotations)
        };
        let annotation = Annotation {
            level: Level::Manifest,
            platform: None,
            key: "k".into(),
            value: "v".into(),
        };
        let (types, annotations) = made(false, vec![annotation]);
        assert_eq!(
            types,
            [
                "application/vnd.oci.image.config.v1+json",
                "application/vnd.oci.image.layer.v1.tar+gzip",
                "application/vnd.oci.image.layer.v1.tar+zstd"
            ]
        );
        assert_eq!(annotations["k"], "v");
        let (types, _) = made(true, Vec::new());
        assert_eq!(
            types,
            [
                "application/vnd.docker.container.image.v1+json",
                "application/vnd.docker.image.rootfs.diff.tar.gzip",
                "application/vnd.docker.image.rootfs.diff.tar.zstd"
            ]
        );
    }
}
