//! An image as it lies in an OCI layout: its configuration, its layers as lists of entries, and the
//! tree that the layers make. Reading only; what is compared with what is not decided here.

use std::collections::BTreeMap;
use std::io::Read;
use std::path::Path;

use anyhow::Context as _;
use serde_json::Value;
use sha2::{Digest as _, Sha256};

use crate::entry::{Entry, Layer, entries};

/// An image, in the terms that two builders can agree on.
pub(crate) struct Image {
    /// The configuration, and the annotations of the manifest. Times of the build are `now`, and of the layers that were built there is no digest.
    pub(crate) config: Value,
    /// The layers, bottom first.
    pub(crate) layers: Vec<Layer>,
}

impl Image {
    /// Reads the only image of the layout in `directory`. Times from `begin` on, in seconds since 1970, count as now. The
    /// layer of the base has the digest `base`.
    pub(crate) fn read(directory: &Path, begin: u64, base: &str) -> anyhow::Result<Self> {
        let blob = |descriptor: &Value| -> anyhow::Result<Vec<u8>> {
            let digest = descriptor["digest"].as_str().context("no digest")?;
            Ok(fs_err::read(
                directory.join("blobs").join(digest.replace(':', "/")),
            )?)
        };
        let index: Value = serde_json::from_slice(&fs_err::read(directory.join("index.json"))?)?;
        let manifests = index["manifests"].as_array().context("no manifests")?;
        anyhow::ensure!(manifests.len() == 1, "{} manifests", manifests.len());
        let mut manifest: Value = serde_json::from_slice(&blob(&manifests[0])?)?;
        if let Some(nested) = manifest["manifests"].as_array() {
            manifest = serde_json::from_slice(&blob(&nested[0])?)?;
        }
        let config: Value = serde_json::from_slice(&blob(&manifest["config"])?)?;
        let mut layers = Vec::new();
        // Go writes null for none.
        for (position, layer) in (manifest["layers"].as_array().into_iter().flatten()).enumerate() {
            let mut bytes = blob(layer)?;
            let media_type = layer["mediaType"].as_str().unwrap_or_default();
            if media_type.ends_with("gzip") {
                let mut plain = Vec::new();
                flate2::read::MultiGzDecoder::new(&*bytes).read_to_end(&mut plain)?;
                bytes = plain;
            }
            let digest = format!("sha256:{}", hex::encode(Sha256::digest(&bytes)));
            anyhow::ensure!(
                config["rootfs"]["diff_ids"][position] == *digest,
                "layer {position} is not what the configuration says"
            );
            layers.push(entries(&*bytes, begin)?);
        }
        let mut config = comparable(config, begin, base)?;
        config["annotations of the manifest"] = manifest["annotations"].clone();
        Ok(Self { config, layers })
    }

    /// The image as text: configuration and history, then the entries of each layer. What an `expected` file holds.
    pub(crate) fn render(&self) -> String {
        let mut lines = vec![format!("{:#}", self.config)];
        for (position, layer) in self.layers.iter().enumerate() {
            lines.push(format!("layer {position}"));
            let entries = layer.iter();
            lines.extend(entries.map(|(path, entry)| format!("  /{path}: {entry}")));
        }
        lines.join("\n") + "\n"
    }

    /// What a container of the image sees: the layers on top of each other, hard links resolved.
    pub(crate) fn tree(&self) -> BTreeMap<String, Entry> {
        let mut tree: BTreeMap<String, Entry> = BTreeMap::new();
        for layer in &self.layers {
            for path in layer.keys() {
                let (parent, name) = path.rsplit_once('/').unwrap_or(("", path));
                let prefix = |path: &str| {
                    if path.is_empty() {
                        String::new()
                    } else {
                        format!("{path}/")
                    }
                };
                if name == ".wh..wh..opq" {
                    tree.retain(|known, _| !known.starts_with(&prefix(parent)));
                } else if let Some(name) = name.strip_prefix(".wh.") {
                    let gone = format!("{}{name}", prefix(parent));
                    tree.retain(|known, _| *known != gone && !known.starts_with(&prefix(&gone)));
                }
            }
            for (path, entry) in layer {
                if path.rsplit('/').next().unwrap_or(path).starts_with(".wh.") {
                    continue;
                }
                let mut entry = entry.clone();
                if entry.kind == 'h' {
                    if let Some(first) = tree.get(&entry.link) {
                        entry = first.clone();
                    }
                } else if entry.kind != 'd' {
                    let below = format!("{path}/");
                    tree.retain(|known, _| !known.starts_with(&below));
                }
                tree.insert(path.clone(), entry);
            }
        }
        tree
    }
}

/// The digests of an image's layers, uncompressed.
pub(crate) fn layers_of(directory: &Path) -> anyhow::Result<Vec<String>> {
    let read = |path: &str| -> anyhow::Result<Value> {
        Ok(serde_json::from_slice(&fs_err::read(
            directory.join(path),
        )?)?)
    };
    let blob = |descriptor: &Value| {
        let digest = descriptor["digest"].as_str().context("no digest")?;
        read(&format!("blobs/{}", digest.replace(':', "/")))
    };
    let manifest = blob(&read("index.json")?["manifests"][0])?;
    let ids = blob(&manifest["config"])?["rootfs"]["diff_ids"].clone();
    Ok(serde_json::from_value(ids)?)
}

/// The configuration with what two builds of the same image agree on: a moment of the build is `now`, and of the layers
/// only that of the `base` has a digest, because archives of the same entries may differ in bytes.
pub(crate) fn comparable(mut config: Value, begin: u64, base: &str) -> anyhow::Result<Value> {
    let moment = |members: &mut Value| -> anyhow::Result<()> {
        if let Some(text) = members["created"].as_str() {
            let seconds = text.parse::<jiff::Timestamp>()?.as_second();
            let text = match u64::try_from(seconds) {
                Ok(seconds) if seconds >= begin => "now".to_owned(),
                _ => seconds.to_string(),
            };
            members["created"] = text.into();
        }
        Ok(())
    };
    moment(&mut config)?;
    for entry in config["history"].as_array_mut().into_iter().flatten() {
        moment(entry)?;
    }
    for layer in config["rootfs"]["diff_ids"]
        .as_array_mut()
        .into_iter()
        .flatten()
    {
        if layer != base {
            *layer = "built".into();
        }
    }
    // Go writes null for none.
    if config["rootfs"]["diff_ids"].is_null() {
        config["rootfs"]["diff_ids"] = Value::Array(Vec::new());
    }
    Ok(config)
}
