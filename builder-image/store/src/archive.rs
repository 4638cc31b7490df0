//! Archives of images: the layout as a tar file, with the `manifest.json` that makes Docker read it as well; and the
//! reading of such archives and of those that older `docker save` wrote. Equal images make equal archives.

use std::{
    collections::{BTreeMap, BTreeSet, HashMap},
    io::{self, BufWriter, Read, Write},
};

use oci::{
    Descriptor, Digest, Index, MAX_MANIFEST_BYTES, Manifest, MediaType, Platform, Reference,
};
use serde::{Deserialize, Serialize};
use tar::{EntryType, Header};

use crate::{
    Blobs, Doing, IMAGE_NAME, Layout, REF_NAME, Result, StoreError,
    image::{Naming, Parts, entries, read_bounded},
    layout::{INDEX_FILE, VERSION_FILE, VERSION_JSON, is_version, parse, to_json},
};

const DOCKER_FILE: &str = "manifest.json";
/// What is read and written at once, in bytes.
const BUFFER: usize = 256 << 10;
/// Headers and contents fill whole blocks of this many bytes.
const TAR_BLOCK: usize = 512;
/// How many files an archive may have.
const MAX_FILES: usize = 100_000;

/// One image in an archive, as Docker describes it.
#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "PascalCase")]
struct DockerImage {
    config: String,
    layers: Vec<String>,
    repo_tags: Option<Vec<String>>,
}

/// An image that an archive held.
#[derive(Debug, Clone, PartialEq)]
pub struct Archived {
    /// The name that the archive gives it, in full.
    pub name: Option<Reference>,
    /// Its manifest or index, in the layout now.
    pub descriptor: Descriptor,
    /// How the archive calls it, as annotations of an entry of `index.json`.
    pub annotations: BTreeMap<String, String>,
}

/// What an archive is written for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Form {
    /// What reads OCI layouts: `skopeo`, `podman load`, `ctr images import`.
    Oci,
    /// `docker load` as well, by a `manifest.json`.
    Docker,
}

/// An image that is to be written, with all its names.
#[derive(Debug, Clone)]
pub struct Named {
    /// The names, in full; an image may have none.
    pub names: Vec<Reference>,
    /// Its manifest or index.
    pub image: Descriptor,
}

/// Writes images, whose blobs `source` has, as an archive that [`read_archive`] reads, too. Children of an index that are
/// not there are left out.
///
/// # Errors
/// [`StoreError::Missing`] when a blob of an image is not there; then nothing has been written.
pub fn write_archive(
    source: &impl Blobs,
    images: &[Named],
    form: Form,
    out: impl Write,
) -> Result<()> {
    let mut index = Index::new(Vec::new());
    let mut docker = Vec::new();
    let mut blobs = Vec::new();
    for Named { names, image } in images {
        let parts = Parts::of(image, source)?;
        index.manifests.extend(entries(image, names, Naming::Tag));
        docker.extend(docker_image(&parts, names));
        blobs.extend(parts.blobs);
    }
    write(source, &index, &docker, blobs, form, out)
}

/// Writes all of `layout` as an archive, its entries as they are. What no entry leads to is left out.
///
/// # Errors
/// [`StoreError::Missing`] when a blob of an image is not there; then nothing has been written.
pub fn write_layout(layout: &Layout, form: Form, out: impl Write) -> Result<()> {
    let index = layout.index()?;
    let mut docker = Vec::new();
    let mut blobs = Vec::new();
    for entry in &index.manifests {
        let parts = Parts::of(entry, layout)?;
        let name = full_name(&entry.annotations);
        docker.extend(docker_image(&parts, name.as_slice()));
        blobs.extend(parts.blobs);
    }
    write(layout, &index, &docker, blobs, form, out)
}

fn write(
    source: &impl Blobs,
    index: &Index,
    docker: &[DockerImage],
    mut blobs: Vec<Descriptor>,
    form: Form,
    out: impl Write,
) -> Result<()> {
    let action = "write the archive";
    let mut seen = BTreeSet::new();
    blobs.retain(|blob| seen.insert(blob.digest.clone()));

    let mut out = BufWriter::with_capacity(BUFFER, out);
    let mut append = |name: &str, size: u64, content: &mut dyn Read| {
        append(&mut out, name, size, content).doing(action)
    };
    let mut document = |name: &str, bytes: &[u8]| append(name, bytes.len() as u64, &mut &*bytes);
    document(VERSION_FILE, VERSION_JSON.as_bytes())?;
    document(INDEX_FILE, &to_json(INDEX_FILE, index)?)?;
    if form == Form::Docker {
        document(DOCKER_FILE, &to_json(DOCKER_FILE, &docker)?)?;
    }
    for blob in &blobs {
        append(&path_of(&blob.digest), blob.size, &mut source.open(blob)?)?;
    }
    out.write_all(&[0; 2 * TAR_BLOCK]).doing(action)?;
    out.flush().doing(action)
}

/// Writes one file of an archive. Unlike that of the tar library, it reads in large pieces.
fn append<W: Write>(
    out: &mut BufWriter<W>,
    name: &str,
    size: u64,
    content: &mut dyn Read,
) -> io::Result<()> {
    let mut header = Header::new_gnu();
    header.set_path(name)?;
    header.set_entry_type(EntryType::Regular);
    header.set_mode(0o644);
    header.set_mtime(0);
    header.set_size(size);
    header.set_cksum();
    out.write_all(header.as_bytes())?;
    // Content goes straight into the buffer of the writer.
    let copied = io::copy(content, out)?;
    if copied != size {
        return Err(io::ErrorKind::UnexpectedEof.into());
    }
    let past = usize::try_from(size % TAR_BLOCK as u64).unwrap_or_default();
    let padding = (TAR_BLOCK - past) % TAR_BLOCK;
    out.write_all(&[0; TAR_BLOCK][..padding])
}

/// An image as Docker describes it. It takes one for a name: of several platforms that of this machine.
fn docker_image(parts: &Parts, names: &[Reference]) -> Option<DockerImage> {
    let host = Platform::host();
    let is_ours = |platform: &Option<Platform>| platform.as_ref().is_some_and(|p| host.matches(p));
    let mut manifests = parts.manifests.iter();
    let ours = manifests.find(|(platform, _)| is_ours(platform));
    let (_, manifest) = ours.or(parts.manifests.first())?;
    let tags = names.iter().filter(|name| name.tag().is_some());
    Some(DockerImage {
        config: path_of(&manifest.config.digest),
        layers: manifest.layers.iter().map(|l| path_of(&l.digest)).collect(),
        repo_tags: Some(tags.map(Reference::familiar).collect()),
    })
}

fn path_of(digest: &Digest) -> String {
    format!("blobs/{}/{}", digest.algorithm().as_str(), digest.hex())
}

/// Reads the images of an archive (a plain tar file) into `layout`, and tells which they are. No name is given to them
/// there. Blobs are verified; nothing in the archive decides where a file is written.
///
/// # Errors
/// [`StoreError::NotAnArchive`] when it holds no image, [`StoreError::Missing`] when one is incomplete.
pub fn read_archive(reader: impl Read, layout: &Layout) -> Result<Vec<Archived>> {
    let action = "read the archive";
    let mut documents: HashMap<String, Vec<u8>> = HashMap::new();
    // Files of older archives, by their paths there.
    let mut files: HashMap<String, (Digest, u64)> = HashMap::new();
    let mut links: HashMap<String, String> = HashMap::new();
    let mut archive = tar::Archive::new(reader);
    for (number, entry) in archive.entries().doing(action)?.enumerate() {
        if number >= MAX_FILES {
            return Err(StoreError::NotAnArchive("it has too many files"));
        }
        let entry = entry.doing(action)?;
        let path = String::from_utf8_lossy(&entry.path_bytes()).into_owned();
        let path = path.trim_start_matches("./").to_owned();
        match entry.header().entry_type() {
            EntryType::Symlink | EntryType::Link => {
                let target = entry.link_name_bytes().unwrap_or_default();
                let target = String::from_utf8_lossy(&target);
                // They lead from one `<id>/layer.tar` to another.
                let target = target.trim_start_matches("../").to_owned();
                links.insert(path, target);
            }
            EntryType::Regular | EntryType::Continuous => match path.as_str() {
                VERSION_FILE | INDEX_FILE | DOCKER_FILE => {
                    let bytes = read_bounded(entry, &path, MAX_MANIFEST_BYTES)?;
                    documents.insert(path, bytes);
                }
                _ => {
                    let expected = named_digest(&path);
                    let stored = layout.write_blob(entry, expected.as_ref())?;
                    files.insert(path, stored);
                }
            },
            _ => {}
        }
    }
    let get = |name: &str| documents.get(name).map(Vec::as_slice);
    let docker: Vec<DockerImage> = match get(DOCKER_FILE) {
        Some(json) => parse(json, DOCKER_FILE)?,
        None => Vec::new(),
    };
    match (get(VERSION_FILE), get(INDEX_FILE)) {
        (Some(version), Some(index)) if is_version(version) => {
            let index: Index = parse(index, INDEX_FILE)?;
            images_of_layout(layout, index)
        }
        _ if docker.is_empty() => Err(StoreError::NotAnArchive(
            "it has neither index.json nor manifest.json",
        )),
        _ => images_of_docker(layout, docker, &files, &links),
    }
}

/// The digest that a path in a layout stands for.
fn named_digest(path: &str) -> Option<Digest> {
    let (algorithm, hex) = path.strip_prefix("blobs/")?.split_once('/')?;
    format!("{algorithm}:{hex}").parse().ok()
}

fn images_of_layout(layout: &Layout, index: Index) -> Result<Vec<Archived>> {
    let mut images = Vec::new();
    for mut descriptor in index.manifests {
        // Fails where something is missing.
        Parts::of(&descriptor, layout)?;
        let annotations = std::mem::take(&mut descriptor.annotations);
        images.push(Archived {
            name: full_name(&annotations),
            descriptor,
            annotations,
        });
    }
    Ok(images)
}

/// The name in full of an entry of `index.json`. A bare tag is no name.
fn full_name(annotations: &BTreeMap<String, String>) -> Option<Reference> {
    let full = |name: &&String| name.contains(['/', ':']);
    let called = annotations.get(REF_NAME).filter(full);
    annotations.get(IMAGE_NAME).or(called)?.parse().ok()
}

fn images_of_docker(
    layout: &Layout,
    docker: Vec<DockerImage>,
    files: &HashMap<String, (Digest, u64)>,
    links: &HashMap<String, String>,
) -> Result<Vec<Archived>> {
    let find = |path: &String| {
        let path = links.get(path).unwrap_or(path);
        let found = files.get(path).cloned();
        found.ok_or(StoreError::NotAnArchive("a file that it names is missing"))
    };
    let mut images = Vec::new();
    for image in docker {
        let (digest, size) = find(&image.config)?;
        let config = Descriptor::new(MediaType::OciConfig, digest, size);
        let layers = image.layers.iter().map(|path| {
            let (digest, size) = find(path)?;
            let mut layer = Descriptor::new(MediaType::OciLayer, digest, size);
            layer.media_type = layer_type(layout, &layer)?;
            Ok(layer)
        });
        let manifest = Manifest::new(config, layers.collect::<Result<_>>()?);
        layout.config(&manifest)?;
        let json = to_json(DOCKER_FILE, &manifest)?;
        let descriptor = layout.write_bytes(MediaType::OciManifest, &json)?;
        let tags = image.repo_tags.unwrap_or_default();
        let mut names: Vec<Option<Reference>> = tags.iter().map(|t| t.parse().ok()).collect();
        if names.is_empty() {
            names.push(None);
        }
        images.extend(names.into_iter().map(|name| {
            let entry = entries(&descriptor, name.as_slice(), Naming::Whole);
            let mut entry = entry.into_iter();
            Archived {
                name,
                annotations: entry.next().map(|e| e.annotations).unwrap_or_default(),
                descriptor: descriptor.clone(),
            }
        }));
    }
    Ok(images)
}

/// The media type of a layer by its first bytes.
fn layer_type(layout: &Layout, layer: &Descriptor) -> Result<MediaType> {
    let mut magic = Vec::new();
    let file = layout.open(layer)?;
    file.take(4).read_to_end(&mut magic).doing("read a layer")?;
    Ok(match magic.as_slice() {
        [0x1f, 0x8b, ..] => MediaType::OciLayerGzip,
        [0x28, 0xb5, 0x2f, 0xfd] => MediaType::OciLayerZstd,
        _ => MediaType::OciLayer,
    })
}

#[cfg(test)]
mod tests {
    use oci::Document;

    use super::*;

    fn layout() -> (tempfile::TempDir, Layout) {
        let directory = tempfile::tempdir().unwrap();
        let layout = Layout::create(directory.path()).unwrap();
        (directory, layout)
    }

    fn image(layout: &Layout, content: &str) -> Descriptor {
        let config =
            br#"{"architecture":"amd64","os":"linux","rootfs":{"type":"layers","diff_ids":[]}}"#;
        let config = layout.write_bytes(MediaType::OciConfig, config).unwrap();
        let layer = layout
            .write_bytes(MediaType::OciLayer, content.as_bytes())
            .unwrap();
        let json = serde_json::to_vec(&Manifest::new(config, vec![layer])).unwrap();
        layout.write_bytes(MediaType::OciManifest, &json).unwrap()
    }

    fn named(names: Vec<Reference>, image: &Descriptor) -> Named {
        let image = image.clone();
        Named { names, image }
    }

    fn tar_of(files: &[(&str, &[u8])]) -> Vec<u8> {
        let mut tar = tar::Builder::new(Vec::new());
        for (name, content) in files {
            let mut header = Header::new_gnu();
            header.set_size(content.len() as u64);
            tar.append_data(&mut header, name, *content).unwrap();
        }
        tar.into_inner().unwrap()
    }

    #[test]
    fn archives_are_the_same_each_time_and_come_back() {
        let (_first, layout) = layout();
        let name: Reference = "acme/app:1".parse().unwrap();
        let child = image(&layout, "layer").with_platform(Platform::host());
        let absent = Descriptor::of(MediaType::OciManifest, b"another platform");
        let json = serde_json::to_vec(&Index::new(vec![child, absent])).unwrap();
        let index = layout.write_bytes(MediaType::OciIndex, &json).unwrap();
        let images = [
            named(vec![name.clone()], &index),
            named(Vec::new(), &image(&layout, "x")),
        ];
        let write = || {
            let mut archive = Vec::new();
            write_archive(&layout, &images, Form::Oci, &mut archive).unwrap();
            archive
        };
        assert_eq!(write(), write());

        let (_second, other) = self::layout();
        let read = read_archive(write().as_slice(), &other).unwrap();
        assert_eq!(read[0].name.as_ref(), Some(&name));
        assert_eq!(read[0].descriptor, index);
        assert_eq!(read[1].name, None);
        assert!(other.has_blob(&index));
    }

    #[test]
    fn other_tools_find_names_and_layers() {
        let (_directory, layout) = layout();
        let image = image(&layout, "layer");
        let names = ["docker.io/library/app:1", "app:2"].map(|name| name.parse().unwrap());
        let mut archive = Vec::new();
        let images = [named(names.into(), &image)];
        write_archive(&layout, &images, Form::Docker, &mut archive).unwrap();
        let mut found = BTreeMap::new();
        for entry in tar::Archive::new(archive.as_slice()).entries().unwrap() {
            let mut entry = entry.unwrap();
            assert_eq!(
                (
                    entry.header().mtime().unwrap(),
                    entry.header().mode().unwrap()
                ),
                (0, 0o644)
            );
            let path = entry.path().unwrap().display().to_string();
            let mut text = String::new();
            entry.read_to_string(&mut text).unwrap();
            found.insert(path, text);
        }
        assert_eq!(found.len(), 6);
        let index: Index = serde_json::from_str(&found[INDEX_FILE]).unwrap();
        let annotations = &index.manifests[0].annotations;
        assert_eq!(annotations[IMAGE_NAME], "docker.io/library/app:1");
        assert_eq!(annotations[REF_NAME], "1");
        let docker: Vec<DockerImage> = serde_json::from_str(&found[DOCKER_FILE]).unwrap();
        assert_eq!(
            docker[0].repo_tags.as_deref(),
            Some(&["app:1".to_owned(), "app:2".to_owned()][..])
        );
        assert_eq!(found[&docker[0].layers[0]], "layer");
    }

    #[test]
    fn archives_of_older_dockers_are_read() {
        let (_directory, layout) = layout();
        let manifest = br#"[{"Config":"c.json","RepoTags":["app:1","app:2"],"Layers":["a/layer.tar","b/layer.tar"]}]"#;
        let config =
            br#"{"architecture":"amd64","os":"linux","rootfs":{"type":"layers","diff_ids":[]}}"#;
        let files: [(&str, &[u8]); 3] = [
            ("c.json", config),
            ("a/layer.tar", b"layer"),
            (DOCKER_FILE, manifest),
        ];
        let mut tar = tar_of(&files);
        // The second layer is a link to the first.
        tar.truncate(tar.len() - 1024);
        let mut link = tar::Builder::new(Vec::new());
        let mut header = Header::new_gnu();
        header.set_entry_type(EntryType::Symlink);
        header.set_size(0);
        link.append_link(&mut header, "b/layer.tar", "../a/layer.tar")
            .unwrap();
        tar.extend(link.into_inner().unwrap());
        let read = read_archive(tar.as_slice(), &layout).unwrap();
        let names: Vec<_> = read
            .iter()
            .map(|i| i.name.as_ref().unwrap().familiar())
            .collect();
        assert_eq!(names, ["app:1", "app:2"]);
        let Document::Manifest(manifest) = layout.document(&read[0].descriptor).unwrap() else {
            panic!("it is a manifest");
        };
        assert_eq!(manifest.layers[0], manifest.layers[1]);
        assert_eq!(manifest.layers[0].digest, Digest::of(b"layer"));
    }

    #[test]
    fn archives_that_lie_or_lack_are_refused() {
        let (directory, layout) = layout();
        let lie = format!("blobs/sha256/{}", Digest::of(b"x").hex());
        let absent = Index::new(vec![Descriptor::of(MediaType::OciManifest, b"absent")]);
        let absent = serde_json::to_vec(&absent).unwrap();
        let cases: [&[(&str, &[u8])]; 5] = [
            &[],
            &[("etc/passwd", b"root")],
            &[(&lie, b"y")],
            &[
                (VERSION_FILE, VERSION_JSON.as_bytes()),
                (INDEX_FILE, &absent),
            ],
            &[(DOCKER_FILE, br#"[{"Config":"c","Layers":["../../x"]}]"#)],
        ];
        for files in cases {
            assert!(read_archive(tar_of(files).as_slice(), &layout).is_err());
        }
        assert!(read_archive(&b"not a tar"[..], &layout).is_err());
        let mut names: Vec<_> = fs_err::read_dir(directory.path())
            .unwrap()
            .map(|entry| entry.unwrap().file_name())
            .collect();
        names.sort();
        assert_eq!(names, ["blobs", INDEX_FILE, VERSION_FILE]);
    }
}
