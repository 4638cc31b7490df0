//! Images as files: an OCI layout in a directory or an archive, and the archive that `docker load` reads. Written aside
//! and moved into place, so that a file of that name is always whole. Entries are in a fixed order and without times.

use std::io::Write;
use std::path::{Path, PathBuf};

use oci::{Descriptor, Index, Reference};
use serde_json::json;

use super::{Form, Output};
use crate::image::Image;

const LAYOUT: &[u8] = br#"{"imageLayoutVersion":"1.0.0"}"#;

/// Why an image could not be written.
#[derive(Debug, thiserror::Error)]
pub enum ArchiveError {
    /// The file or directory cannot be written.
    #[error("writing {}", path.display())]
    Write {
        /// Where to.
        path: PathBuf,
        /// What happened.
        source: std::io::Error,
    },
    /// A blob cannot be read.
    #[error("reading a layer")]
    Blob(#[source] std::io::Error),
}

/// Writes an image as `output` says. `blob` gives the file of a layer.
///
/// # Errors
/// When something cannot be written or read; an earlier file of that name is then as it was.
pub fn write_archive(
    image: &Image,
    output: &Output,
    blob: &dyn Fn(&Descriptor) -> PathBuf,
) -> Result<(), ArchiveError> {
    let Some(path) = &output.path else {
        let stdout = std::io::stdout().lock();
        let path = Path::new("standard output");
        return archive(image, output, blob, std::io::BufWriter::new(stdout), path).map(drop);
    };
    let write = |source| ArchiveError::Write {
        path: path.clone(),
        source,
    };
    // A pipe or a device takes the bytes; only a file can be replaced by another.
    if fs_err::metadata(path).is_ok_and(|found| !found.is_file()) {
        let file = fs_err::OpenOptions::new()
            .write(true)
            .open(path)
            .map_err(write)?;
        return archive(image, output, blob, std::io::BufWriter::new(file), path).map(drop);
    }
    let parent = path
        .parent()
        .filter(|parent| !parent.as_os_str().is_empty());
    let file = tempfile::Builder::new()
        .prefix(".coopery-")
        .permissions(std::os::unix::fs::PermissionsExt::from_mode(0o644))
        .tempfile_in(parent.unwrap_or(Path::new(".")))
        .map_err(write)?;
    let writer = archive(image, output, blob, std::io::BufWriter::new(file), path)?;
    let file = writer
        .into_inner()
        .map_err(|error| write(error.into_error()))?;
    file.persist(path).map_err(|error| write(error.error))?;
    Ok(())
}

/// Writes an image into a layout directory, which may hold other images: those of the same names are replaced.
///
/// # Errors
/// When something cannot be written or read.
pub fn write_layout(
    image: &Image,
    names: &[Reference],
    directory: &Path,
    blob: &dyn Fn(&Descriptor) -> PathBuf,
) -> Result<(), ArchiveError> {
    let write = |source| ArchiveError::Write {
        path: directory.to_owned(),
        source,
    };
    let blobs = directory.join("blobs/sha256");
    fs_err::create_dir_all(&blobs).map_err(write)?;
    for layer in &image.layers {
        let path = directory.join(blob_name(layer));
        if let Some(parent) = path.parent() {
            fs_err::create_dir_all(parent).map_err(write)?;
        }
        if fs_err::metadata(&path).is_ok_and(|found| found.len() == layer.size) {
            continue;
        }
        let mut file = tempfile::Builder::new()
            .prefix(".blob-")
            .tempfile_in(&blobs)
            .map_err(write)?;
        let mut from = fs_err::File::open(blob(layer)).map_err(ArchiveError::Blob)?;
        std::io::copy(&mut from, &mut file).map_err(write)?;
        publish(file, &path).map_err(write)?;
    }
    for (descriptor, bytes) in documents(image) {
        place(&directory.join(blob_name(descriptor)), bytes).map_err(write)?;
    }
    place(&directory.join("oci-layout"), LAYOUT).map_err(write)?;
    let path = directory.join("index.json");
    let mut index = fs_err::read(&path)
        .ok()
        .and_then(|text| serde_json::from_slice::<Index>(&text).ok())
        .unwrap_or_else(|| Index::new(Vec::new()));
    let new = entries(image, names);
    let name_of = |entry: &Descriptor| entry.annotations.get(REF_NAME).cloned();
    index
        .manifests
        .retain(|entry| !new.iter().any(|new| name_of(new) == name_of(entry)));
    index.manifests.extend(new);
    place(&path, &to_json(&index)).map_err(write)
}

fn place(path: &Path, bytes: &[u8]) -> std::io::Result<()> {
    let parent = path.parent().unwrap_or(Path::new("."));
    let mut file = tempfile::Builder::new()
        .prefix(".new-")
        .tempfile_in(parent)?;
    file.write_all(bytes)?;
    publish(file, path)
}

fn publish(file: tempfile::NamedTempFile, path: &Path) -> std::io::Result<()> {
    let permissions = std::os::unix::fs::PermissionsExt::from_mode(0o644);
    file.as_file().set_permissions(permissions)?;
    file.persist(path).map_err(|error| error.error)?;
    Ok(())
}

fn archive<W: Write>(
    image: &Image,
    output: &Output,
    blob: &dyn Fn(&Descriptor) -> PathBuf,
    writer: W,
    path: &Path,
) -> Result<W, ArchiveError> {
    let write = |source| ArchiveError::Write {
        path: path.to_owned(),
        source,
    };
    let mut tar = tar::Builder::new(writer);
    let mut small = |name: &str, bytes: &[u8]| {
        let mut header = header(bytes.len() as u64);
        tar.append_data(&mut header, name, bytes).map_err(write)
    };
    small("oci-layout", LAYOUT)?;
    small(
        "index.json",
        &to_json(&Index::new(entries(image, &output.names))),
    )?;
    if output.form == Form::DockerArchive {
        small(
            "manifest.json",
            &to_json(&docker_manifest(image, &output.names)),
        )?;
    }
    for (descriptor, bytes) in documents(image) {
        small(&blob_name(descriptor), bytes)?;
    }
    let mut written = std::collections::BTreeSet::new();
    for layer in &image.layers {
        // An image may have the same layer twice.
        if !written.insert(&layer.digest) {
            continue;
        }
        let mut file = fs_err::File::open(blob(layer)).map_err(ArchiveError::Blob)?;
        let mut header = header(layer.size);
        tar.append_data(&mut header, blob_name(layer), &mut file)
            .map_err(write)?;
    }
    let mut writer = tar.into_inner().map_err(write)?;
    writer.flush().map_err(write)?;
    Ok(writer)
}

fn documents(image: &Image) -> [(&Descriptor, &[u8]); 2] {
    [
        (&image.descriptor, &image.manifest),
        (&image.config_descriptor, &image.config),
    ]
}

fn header(size: u64) -> tar::Header {
    let mut header = tar::Header::new_gnu();
    header.set_entry_type(tar::EntryType::Regular);
    header.set_mode(0o644);
    header.set_mtime(0);
    header.set_size(size);
    header
}

fn blob_name(descriptor: &Descriptor) -> String {
    let digest = &descriptor.digest;
    format!("blobs/{}/{}", digest.algorithm().as_str(), digest.hex())
}

/// The annotation of an index's entry that names it (image-spec, annotations.md).
const REF_NAME: &str = "org.opencontainers.image.ref.name";

/// What `ctr images import` and `docker load` name the image by.
const CONTAINERD_NAME: &str = "io.containerd.image.name";

/// The entries of the index: one for each name, or one without a name.
fn entries(image: &Image, names: &[Reference]) -> Vec<Descriptor> {
    let plain = image
        .descriptor
        .clone()
        .with_platform(image.platform.clone());
    if names.is_empty() {
        return vec![plain];
    }
    names
        .iter()
        .map(|name| {
            let mut entry = plain.clone();
            entry
                .annotations
                .insert(CONTAINERD_NAME.into(), name.to_string());
            if let Some(tag) = name.tag() {
                entry
                    .annotations
                    .insert(REF_NAME.into(), tag.as_str().to_owned());
            }
            entry
        })
        .collect()
}

fn docker_manifest(image: &Image, names: &[Reference]) -> serde_json::Value {
    let tags: Vec<_> = names.iter().map(Reference::familiar).collect();
    let layers: Vec<_> = image.layers.iter().map(blob_name).collect();
    json!([{"Config": blob_name(&image.config_descriptor), "RepoTags": tags, "Layers": layers}])
}

fn to_json(document: &impl serde::Serialize) -> Vec<u8> {
    serde_json::to_vec(document).expect("documents have string keys and nothing else can fail")
}
