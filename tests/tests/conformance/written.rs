//! What a builder wrote for one case: layouts, archives, directories and documents below one directory, in terms that two
//! builders can agree on. A digest stands for what it is the digest of, wherever that is written as well. Reading only.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::io::Read as _;
use std::path::Path;

use anyhow::Context as _;
use serde_json::{Map, Value};
use sha2::{Digest as _, Sha256};

use crate::compare;
use crate::entry::{Layer, entries, files};
use crate::image::comparable;

/// The annotation of when an image was made.
const CREATED: &str = "org.opencontainers.image.created";

/// One thing that was written, by where it is.
enum Part {
    /// A document, or a line of text.
    Document(Value),
    /// An archive of files, a layer, or a directory.
    Entries(Layer),
}

/// Everything that was written.
pub(crate) struct Written(BTreeMap<String, Part>);

impl Written {
    /// Reads everything in `directory`. Times from `begin` on, in seconds since 1970, count as now. The layer of the base has
    /// the digest `base`, uncompressed.
    pub(crate) fn read(directory: &Path, begin: u64, base: &str) -> anyhow::Result<Self> {
        let mut reading = Reading {
            begin,
            base,
            parts: BTreeMap::new(),
            names: BTreeMap::new(),
        };
        let mut documents = Vec::new();
        let paths = fs_err::read_dir(directory)?.map(|entry| Ok(entry?.path()));
        let mut paths = paths.collect::<std::io::Result<Vec<_>>>()?;
        paths.sort();
        for path in paths {
            let name = path.file_name().context("no name")?.to_string_lossy();
            let name = name.into_owned();
            if path.join("oci-layout").is_file() {
                reading.image(&name, &Files::of_directory(&path)?)?;
            } else if path.is_dir() {
                let found = files(&path, begin)?;
                reading.parts.insert(name, Part::Entries(found));
            } else {
                let bytes = fs_err::read(&path)?;
                if bytes.get(257..262) == Some(b"ustar") {
                    reading.archive(&name, &bytes)?;
                } else if !bytes.is_empty() {
                    documents.push((name, bytes));
                }
            }
        }
        // They name what was read before.
        for (name, bytes) in documents {
            let text = String::from_utf8(bytes)?;
            let document = serde_json::from_str(&text);
            let document = document.unwrap_or_else(|_| Value::String(text.trim().to_owned()));
            let document = reading.with_names(document);
            reading.parts.insert(name, Part::Document(document));
        }
        Ok(Self(reading.parts))
    }

    /// Every difference, ours first.
    pub(crate) fn compare(&self, theirs: &Self) -> Vec<String> {
        let mut found = Vec::new();
        let mut places: Vec<_> = self.0.keys().chain(theirs.0.keys()).collect();
        places.sort();
        places.dedup();
        for place in places {
            match (self.0.get(place), theirs.0.get(place)) {
                (Some(Part::Document(ours)), Some(Part::Document(theirs))) => {
                    let mut differ = Vec::new();
                    compare::values("", ours, theirs, &mut differ);
                    found.extend(differ.into_iter().map(|line| format!("{place}: {line}")));
                }
                (Some(Part::Entries(ours)), Some(Part::Entries(theirs))) => {
                    compare::entries(place, ours, theirs, &mut found);
                }
                (Some(_), None) => found.push(format!("{place}: only ours has it")),
                (None, Some(_)) => found.push(format!("{place}: only theirs has it")),
                _ => found.push(format!("{place}: of different kinds")),
            }
        }
        found
    }

    /// All of it as text: what an `expected` file holds.
    pub(crate) fn render(&self) -> String {
        let mut text = String::new();
        for (place, part) in &self.0 {
            match part {
                Part::Document(document) => writeln!(text, "{place}\n{document:#}"),
                Part::Entries(found) => {
                    writeln!(text, "{place}").expect("a string takes all");
                    let mut lines = found.iter();
                    lines.try_for_each(|(path, entry)| writeln!(text, "  /{path}: {entry}"))
                }
            }
            .expect("a string takes all");
        }
        text
    }
}

/// The files of a layout, in a directory or an archive.
struct Files(BTreeMap<String, Vec<u8>>);

impl Files {
    fn of_directory(directory: &Path) -> anyhow::Result<Self> {
        let mut found = BTreeMap::new();
        let mut open = vec![(directory.to_owned(), String::new())];
        while let Some((directory, prefix)) = open.pop() {
            for entry in fs_err::read_dir(directory)? {
                let path = entry?.path();
                let name = path.file_name().context("no name")?.to_string_lossy();
                let name = format!("{prefix}{name}");
                if path.is_dir() {
                    open.push((path, format!("{name}/")));
                } else {
                    found.insert(name, fs_err::read(&path)?);
                }
            }
        }
        Ok(Self(found))
    }

    fn of_archive(bytes: &[u8]) -> anyhow::Result<Self> {
        let mut found = BTreeMap::new();
        for entry in tar::Archive::new(bytes).entries()? {
            let mut entry = entry?;
            if entry.header().entry_type().is_file() {
                let name = entry.path()?.to_string_lossy().into_owned();
                let mut content = Vec::new();
                entry.read_to_end(&mut content)?;
                found.insert(name, content);
            }
        }
        Ok(Self(found))
    }

    fn document(&self, name: &str) -> anyhow::Result<Value> {
        let bytes = self.0.get(name).with_context(|| format!("no {name}"))?;
        Ok(serde_json::from_slice(bytes)?)
    }

    /// A blob, which is what its descriptor says.
    fn blob(&self, descriptor: &Value) -> anyhow::Result<&[u8]> {
        let digest = descriptor["digest"].as_str().context("no digest")?;
        let name = format!("blobs/{}", digest.replace(':', "/"));
        let bytes = self.0.get(&name).with_context(|| format!("no {name}"))?;
        anyhow::ensure!(descriptor["size"] == bytes.len(), "{name} has another size");
        let found = format!("sha256:{}", hex::encode(Sha256::digest(bytes)));
        anyhow::ensure!(found == digest, "{name} has another digest");
        Ok(bytes)
    }
}

struct Reading<'a> {
    begin: u64,
    base: &'a str,
    parts: BTreeMap<String, Part>,
    /// What each digest is that of.
    names: BTreeMap<String, String>,
}

impl Reading<'_> {
    fn archive(&mut self, name: &str, bytes: &[u8]) -> anyhow::Result<()> {
        let found = Files::of_archive(bytes)?;
        if found.0.contains_key("oci-layout") {
            return self.image(name, &found);
        }
        let found = entries(bytes, self.begin)?;
        self.parts.insert(name.to_owned(), Part::Entries(found));
        Ok(())
    }

    /// A layout: all documents, each inside of the descriptor that names it, and the layers.
    fn image(&mut self, name: &str, found: &Files) -> anyhow::Result<()> {
        let others = found.0.keys().filter(|path| !path.starts_with("blobs/"));
        let others = others.cloned().map(Value::String).collect();
        let place = format!("{name} files");
        self.parts
            .insert(place, Part::Document(Value::Array(others)));
        let index = found.document("index.json")?;
        let index = self.expanded(name, index, found)?;
        self.document(format!("{name} index.json"), index);
        if found.0.contains_key("manifest.json") {
            let manifest = self.with_names(found.document("manifest.json")?);
            self.document(format!("{name} manifest.json"), manifest);
        }
        Ok(())
    }

    fn document(&mut self, place: String, mut document: Value) {
        tidy(&mut document);
        self.parts.insert(place, Part::Document(document));
    }

    /// A manifest or index in which descriptors hold what they name.
    fn expanded(
        &mut self,
        place: &str,
        mut document: Value,
        found: &Files,
    ) -> anyhow::Result<Value> {
        for member in ["manifests", "layers"] {
            let children = document[member].as_array_mut();
            for (position, child) in children.into_iter().flatten().enumerate() {
                let place = format!("{place} {} {position}", member.trim_end_matches('s'));
                *child = self.child(&place, child, found)?;
            }
        }
        if document["config"].is_object() {
            let place = format!("{place} config");
            document["config"] = self.child(&place, &document["config"], found)?;
        }
        Ok(document)
    }

    fn child(&mut self, place: &str, descriptor: &Value, found: &Files) -> anyhow::Result<Value> {
        let bytes = found.blob(descriptor)?;
        let mut shown = descriptor.as_object().context("no descriptor")?.clone();
        let digest = shown.remove("digest").unwrap_or_default();
        shown.remove("size");
        let digest = digest.as_str().unwrap_or_default().to_owned();
        self.names.entry(digest).or_insert_with(|| place.to_owned());
        let content = if bytes.starts_with(b"{") {
            let document: Value = serde_json::from_slice(bytes)?;
            if document["rootfs"].is_object() {
                comparable(document, self.begin, self.base)?
            } else {
                self.expanded(place, document, found)?
            }
        } else {
            let (compression, plain) = plain(bytes)?;
            let layer = entries(&*plain, self.begin)?;
            self.parts.insert(place.to_owned(), Part::Entries(layer));
            Value::String(compression.to_owned())
        };
        shown.insert("content".into(), content);
        self.without_moment(&mut shown);
        Ok(Value::Object(shown))
    }

    /// Takes the moment of the build away, which the reference notes where there is no epoch: it would be another one in an
    /// equal build.
    fn without_moment(&self, shown: &mut Map<String, Value>) {
        let Some(annotations) = shown.get_mut("annotations").and_then(Value::as_object_mut) else {
            return;
        };
        let created = annotations.get(CREATED).and_then(Value::as_str);
        let moment = created.and_then(|text| text.parse::<jiff::Timestamp>().ok());
        let seconds = moment.and_then(|moment| u64::try_from(moment.as_second()).ok());
        if seconds.is_some_and(|seconds| seconds >= self.begin) {
            annotations.remove(CREATED);
        }
    }

    /// A document in which known digests have names and sizes are left out.
    fn with_names(&self, value: Value) -> Value {
        match value {
            Value::String(text) => {
                let digest = match text.strip_prefix("blobs/sha256/") {
                    Some(hex) => format!("sha256:{hex}"),
                    None => text.clone(),
                };
                Value::String(self.names.get(&digest).cloned().unwrap_or(text))
            }
            Value::Array(values) => {
                let values = values.into_iter();
                values.map(|value| self.with_names(value)).collect()
            }
            Value::Object(members) => {
                let members = members.into_iter().filter(|(name, _)| name != "size");
                let members = members.map(|(name, value)| (name, self.with_names(value)));
                let mut members: Map<_, _> = members.collect();
                self.without_moment(&mut members);
                let mut object = Value::Object(members);
                tidy(&mut object);
                object
            }
            other => other,
        }
    }
}

/// The compression of a layer, and what it is without.
fn plain(bytes: &[u8]) -> anyhow::Result<(&'static str, Vec<u8>)> {
    let mut plain = Vec::new();
    let compression = if bytes.starts_with(&[0x1f, 0x8b]) {
        flate2::read::MultiGzDecoder::new(bytes).read_to_end(&mut plain)?;
        "gzip"
    } else if bytes.starts_with(&[0x28, 0xb5, 0x2f, 0xfd]) {
        zstd::Decoder::new(bytes)?.read_to_end(&mut plain)?;
        "zstd"
    } else {
        plain.extend_from_slice(bytes);
        "uncompressed"
    };
    Ok((compression, plain))
}

/// Leaves out what is empty: Go writes null for none.
fn tidy(value: &mut Value) {
    match value {
        Value::Array(values) => values.iter_mut().for_each(tidy),
        Value::Object(members) => {
            members.values_mut().for_each(tidy);
            members.retain(|name, value| match value {
                Value::Null => false,
                Value::Array(values) => !values.is_empty(),
                Value::Object(members) => !(members.is_empty() && name == "annotations"),
                _ => true,
            });
        }
        _ => {}
    }
}
