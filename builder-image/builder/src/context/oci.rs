//! A context from a registry: the content of an artifact, as Flux and Shipwright push sources, or the files of an image.
//!
//! An artifact is what has another configuration than an image's: its first layer that is a tar archive, compressed or not,
//! is the context; media types end in `tar`, `tar+gzip` or `tar+zstd` (`application/vnd.cncf.flux.content.v1.tar+gzip`). Of
//! an image, all layers are applied; of an index, the image for this machine's platform is taken.

use std::{io::Write as _, path::Path};

use futures::StreamExt;
use oci::{Descriptor, Document, Manifest, MediaType, Platform, Reference};

use super::{ContextError, archive};
use crate::base::Bases;
use crate::export::write_files;
use crate::graph::BaseName;
use crate::unpack::Limits;

/// The largest layer of an artifact that is downloaded, in bytes.
const MAX_LAYER: u64 = 8 << 30;

/// Writes the content of `image` (a name with a digest) to the new directory `into`.
///
/// # Errors
/// [`ContextError`]; `into` is then left to be removed.
pub(super) async fn fetch(image: &str, bases: &Bases, into: &Path) -> Result<(), ContextError> {
    let refused = |problem: String| ContextError::Artifact {
        image: image.to_owned(),
        problem,
    };
    let reference: Reference = image
        .parse()
        .map_err(|error: oci::ReferenceError| refused(error.to_string()))?;
    let raw = bases.client().manifest(&reference).await?;
    let document = raw.document().map_err(|error| refused(error.to_string()))?;
    match document {
        Document::Manifest(manifest) if !is_image(&manifest) => {
            let layer = content_layer(&manifest).map_err(refused)?;
            unpack_layer(bases.client(), &reference, layer, into).await
        }
        _ => {
            let name = BaseName::Image(reference);
            let base = bases.resolve(&name, &Platform::host()).await?;
            let files = bases.snapshot(&base).await?;
            let target = into.to_owned();
            tokio::task::spawn_blocking(move || write_files(&files, &target, None))
                .await
                .map_err(|error| {
                    ContextError::io("writing the files", std::io::Error::other(error))
                })?
                .map_err(|error| refused(crate::error::chain(&error)))?;
            Ok(())
        }
    }
}

fn is_image(manifest: &Manifest) -> bool {
    let config = &manifest.config.media_type;
    matches!(config, MediaType::OciConfig | MediaType::DockerConfig)
}

/// The layer that is the context.
fn content_layer(manifest: &Manifest) -> Result<&Descriptor, String> {
    let is_archive = |layer: &&Descriptor| {
        let name = layer.media_type.as_str();
        ["tar", "tar+gzip", "tar.gzip", "tar+zstd"]
            .iter()
            .any(|end| name.ends_with(&format!(".{end}")))
    };
    let found = manifest.layers.iter().find(is_archive).ok_or_else(|| {
        let types: Vec<&str> = manifest
            .layers
            .iter()
            .map(|layer| layer.media_type.as_str())
            .collect();
        format!(
            "none of its layers is a tar archive, their media types are {}; push it with one that ends in tar+gzip",
            types.join(", ")
        )
    })?;
    if found.size > MAX_LAYER {
        return Err(format!("its layer is larger than {MAX_LAYER} bytes"));
    }
    Ok(found)
}

async fn unpack_layer(
    client: &distribution::Client,
    reference: &Reference,
    layer: &Descriptor,
    into: &Path,
) -> Result<(), ContextError> {
    let beside = into.parent().unwrap_or_else(|| Path::new("."));
    let mut file = tempfile::tempfile_in(beside)
        .map_err(|error| ContextError::io("making a file for the layer", error))?;
    let mut bytes = client.blob(reference.repository(), layer).await?;
    while let Some(chunk) = bytes.next().await {
        file.write_all(&chunk?)
            .map_err(|error| ContextError::io("writing the layer", error))?;
    }
    let into = into.to_owned();
    let unpacked = tokio::task::spawn_blocking(move || {
        std::io::Seek::rewind(&mut file)
            .map_err(|error| ContextError::io("reading the layer", error))?;
        archive::extract(std::io::BufReader::new(file), &into, &Limits::default())
    });
    unpacked
        .await
        .map_err(|error| ContextError::io("unpacking the layer", std::io::Error::other(error)))?
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "tests")]
    use std::collections::BTreeMap;

    use distribution::memory::MemoryRegistry;
    use distribution::{Client, Guard};

    use super::*;
    use crate::cache::Cache;
    use crate::layer::Owners;

    const FLUX_CONFIG: &str = "application/vnd.cncf.flux.config.v1+json";
    const FLUX_CONTENT: &str = "application/vnd.cncf.flux.content.v1.tar+gzip";

    fn archive(files: &[(&str, &str)]) -> Vec<u8> {
        let encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
        let mut builder = tar::Builder::new(encoder);
        for (name, text) in files {
            let mut header = tar::Header::new_gnu();
            header.set_size(text.len() as u64);
            header.set_mode(0o644);
            builder
                .append_data(&mut header, name, text.as_bytes())
                .unwrap();
        }
        builder.into_inner().unwrap().finish().unwrap()
    }

    /// Pushes a manifest of a configuration and layers of these types; returns its name.
    fn push(registry: &MemoryRegistry, config: (&str, &str), layers: &[(&str, Vec<u8>)]) -> String {
        registry.add_blob("a", config.1.to_owned());
        let described = |kind: &str, bytes: &[u8]| Descriptor::of(MediaType::from(kind), bytes);
        let mut descriptors = Vec::new();
        for (kind, bytes) in layers {
            registry.add_blob("a", bytes.clone());
            descriptors.push(described(kind, bytes));
        }
        let manifest = Manifest::new(described(config.0, config.1.as_bytes()), descriptors);
        let bytes = serde_json::to_vec(&manifest).unwrap();
        let digest = registry.add_manifest("a", None, MediaType::OciManifest, bytes);
        format!("{}/a@{digest}", registry.host())
    }

    async fn fetched(image: &str) -> Result<BTreeMap<String, String>, ContextError> {
        let work = tempfile::tempdir().unwrap();
        let client = Client::builder().guard(Guard::Open).build().unwrap();
        let cache = Cache::open(work.path().join("cache").as_path()).unwrap();
        let bases = Bases::new(client, cache, Owners::Recorded, BTreeMap::new());
        let into = work.path().join("context");
        fetch(image, &bases, &into).await?;
        let files = fs_err::read_dir(&into).unwrap().map(|entry| {
            let entry = entry.unwrap();
            let text = fs_err::read_to_string(entry.path()).unwrap();
            (entry.file_name().into_string().unwrap(), text)
        });
        Ok(files.collect())
    }

    #[tokio::test]
    async fn the_first_archive_of_an_artifact_is_the_context() {
        let registry = MemoryRegistry::start().await;
        let readme = ("text/markdown", b"# read me".to_vec());
        let content = |name: &str| (FLUX_CONTENT, archive(&[(name, "FROM scratch\n")]));
        let layers = [readme.clone(), content("Dockerfile"), content("other")];
        let image = push(&registry, (FLUX_CONFIG, "{}"), &layers);
        let files = fetched(&image).await.unwrap();
        assert_eq!(
            files,
            BTreeMap::from([("Dockerfile".to_owned(), "FROM scratch\n".to_owned())])
        );
        let image = push(&registry, (FLUX_CONFIG, "{}"), &[readme]);
        let error = fetched(&image).await.unwrap_err();
        assert_eq!(error.kind(), protocol::FailureKind::SourceRefused);
        assert!(error.to_string().contains("text/markdown"), "{error}");
    }

    #[tokio::test]
    async fn all_layers_of_an_image_make_the_context() {
        let registry = MemoryRegistry::start().await;
        let layers = [
            archive(&[("Dockerfile", "FROM old\n"), ("gone", "x")]),
            archive(&[("Dockerfile", "FROM scratch\n"), (".wh.gone", "")]),
        ];
        let diff_ids: Vec<String> = layers
            .iter()
            .map(|layer| {
                let mut plain = Vec::new();
                let mut decoder = flate2::read::GzDecoder::new(&layer[..]);
                std::io::Read::read_to_end(&mut decoder, &mut plain).unwrap();
                oci::Digest::of(&plain).to_string()
            })
            .collect();
        let Platform {
            os, architecture, ..
        } = Platform::host();
        let config = serde_json::json!({"os": os, "architecture": architecture, "config": {},
            "rootfs": {"type": "layers", "diff_ids": diff_ids}})
        .to_string();
        let layers = layers.map(|layer| (MediaType::OciLayerGzip.as_str().to_owned(), layer));
        let layers: Vec<(&str, Vec<u8>)> = layers
            .iter()
            .map(|(t, l)| (t.as_str(), l.clone()))
            .collect();
        let image = push(&registry, (MediaType::OciConfig.as_str(), &config), &layers);
        let files = fetched(&image).await.unwrap();
        assert_eq!(
            files,
            BTreeMap::from([("Dockerfile".to_owned(), "FROM scratch\n".to_owned())])
        );
    }

    #[tokio::test]
    async fn what_is_not_there_is_said() {
        let registry = MemoryRegistry::start().await;
        let digest = oci::Digest::of(b"nothing");
        let error = fetched(&format!("{}/a@{digest}", registry.host()))
            .await
            .unwrap_err();
        assert_eq!(error.kind(), protocol::FailureKind::SourceNotFound);
    }
}
