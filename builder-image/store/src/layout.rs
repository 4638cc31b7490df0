//! The layout directory: blobs by digest, and names in `index.json`. Every write is a temporary file that is renamed, so
//! that readers see the old or the new content; writers of `index.json` wait for each other by a lock on the directory.

use std::{
    io::{Read, Write},
    path::{Path, PathBuf},
};

use fs_err as fs;
use oci::{
    Algorithm, Descriptor, Digest, Digester, Document, ImageConfig, Index, MAX_MANIFEST_BYTES,
    Manifest, MediaType, Reference,
};
use rustix::fs::FlockOperation;
use serde::{Serialize, de::DeserializeOwned};
use tempfile::NamedTempFile;

use crate::{
    Blobs, Doing, Result, StoreError,
    durable::publish,
    image::{Naming, Parts, document, entries, read_bounded, read_small},
    name::assign,
    prune::NEW,
};

/// The annotation of a descriptor in `index.json` that names it: by the tag alone, or in full.
pub const REF_NAME: &str = "org.opencontainers.image.ref.name";
/// The annotation that containerd and Docker read the full name of an image from.
pub const IMAGE_NAME: &str = "io.containerd.image.name";

pub(crate) const VERSION_FILE: &str = "oci-layout";
pub(crate) const VERSION_JSON: &str = r#"{"imageLayoutVersion":"1.0.0"}"#;
pub(crate) const INDEX_FILE: &str = "index.json";
/// The largest `index.json` that is read, in bytes: that of about a hundred thousand names.
const MAX_INDEX_BYTES: u64 = 64 << 20;

/// An OCI image layout directory.
#[derive(Debug, Clone)]
pub struct Layout {
    root: PathBuf,
}

impl Layout {
    /// The layout at `root`, made where there is none. Other files in the directory are left alone.
    pub fn create(root: impl Into<PathBuf>) -> Result<Self> {
        let layout = Self { root: root.into() };
        let action = "create the image layout";
        fs::create_dir_all(layout.root.join("blobs/sha256")).doing(action)?;
        if !layout.root.join(VERSION_FILE).exists() {
            layout.replace(VERSION_FILE, VERSION_JSON.as_bytes())?;
        }
        let lock = layout.lock()?;
        if !layout.root.join(INDEX_FILE).exists() {
            layout.write_index(&Index::new(Vec::new()))?;
        }
        drop(lock);
        Self::open(layout.root)
    }

    /// The layout at `root`.
    ///
    /// # Errors
    /// [`StoreError::NotALayout`] when there is none.
    pub fn open(root: impl Into<PathBuf>) -> Result<Self> {
        let root = root.into();
        if !fs::read(root.join(VERSION_FILE)).is_ok_and(|json| is_version(&json)) {
            return Err(StoreError::NotALayout(root));
        }
        Ok(Self { root })
    }

    /// The directory.
    pub fn root(&self) -> &Path {
        &self.root
    }

    /// Where the blob is, or would be.
    pub fn blob_path(&self, digest: &Digest) -> PathBuf {
        let algorithm = digest.algorithm().as_str();
        self.root.join("blobs").join(algorithm).join(digest.hex())
    }

    /// Whether the blob is there with the size that the descriptor says.
    pub fn has_blob(&self, descriptor: &Descriptor) -> bool {
        fs::metadata(self.blob_path(&descriptor.digest))
            .is_ok_and(|m| m.is_file() && m.len() == descriptor.size)
    }

    /// Stores what `reader` gives and tells its digest and size.
    ///
    /// # Errors
    /// [`StoreError::Mismatch`] when it is not `expected`; nothing is stored then.
    pub fn write_blob(
        &self,
        mut reader: impl Read,
        expected: Option<&Digest>,
    ) -> Result<(Digest, u64)> {
        let action = "store a blob";
        let algorithm = expected.map_or(Algorithm::Sha256, Digest::algorithm);
        let directory = self.root.join("blobs").join(algorithm.as_str());
        fs::create_dir_all(&directory).doing(action)?;
        let mut file = NamedTempFile::with_prefix_in(NEW, &directory).doing(action)?;
        let mut digester = Digester::new(algorithm);
        let mut buffer = vec![0; 256 * 1024];
        loop {
            let count = match reader.read(&mut buffer) {
                Ok(0) => break,
                Ok(count) => count,
                Err(error) if error.kind() == std::io::ErrorKind::Interrupted => continue,
                Err(error) => return Err(error).doing(action),
            };
            digester.update(&buffer[..count]);
            file.write_all(&buffer[..count]).doing(action)?;
        }
        let size = digester.len();
        let digest = digester.finish();
        if let Some(expected) = expected.filter(|&expected| *expected != digest) {
            return Err(StoreError::Mismatch {
                expected: expected.to_string(),
                found: digest.to_string(),
            });
        }
        publish_for_all(file, &self.blob_path(&digest), action)?;
        Ok((digest, size))
    }

    /// Stores `bytes` as a blob of `media_type`.
    pub fn write_bytes(&self, media_type: MediaType, bytes: &[u8]) -> Result<Descriptor> {
        let (digest, size) = self.write_blob(bytes, None)?;
        Ok(Descriptor::new(media_type, digest, size))
    }

    /// Reads a blob of at most `limit` bytes, and makes sure that it is what its digest says.
    ///
    /// # Errors
    /// [`StoreError::Missing`], [`StoreError::TooLarge`] and [`StoreError::Mismatch`].
    pub fn read_small(&self, blob: &Descriptor, limit: u64) -> Result<Vec<u8>> {
        read_small(self, blob, limit)
    }

    /// The manifest or index that a descriptor names.
    pub fn document(&self, descriptor: &Descriptor) -> Result<Document> {
        document(self, descriptor)
    }

    /// The configuration of an image.
    pub fn config(&self, manifest: &Manifest) -> Result<ImageConfig> {
        let json = self.read_small(&manifest.config, MAX_MANIFEST_BYTES)?;
        parse(&json, manifest.config.digest.as_str())
    }

    /// All named descriptors, in the order of `index.json`.
    pub fn index(&self) -> Result<Index> {
        let file = fs::File::open(self.root.join(INDEX_FILE)).doing("read the index")?;
        let json = read_bounded(file, INDEX_FILE, MAX_INDEX_BYTES)?;
        parse(&json, INDEX_FILE)
    }

    /// What `name` stands for.
    pub fn find(&self, name: &str) -> Result<Option<Descriptor>> {
        let index = self.index()?;
        Ok(index.manifests.into_iter().find(|d| has_name(d, name)))
    }

    /// Lets `name` stand for `descriptor` alone.
    pub fn tag(&self, name: &str, mut descriptor: Descriptor) -> Result<()> {
        descriptor.annotations.insert(REF_NAME.into(), name.into());
        self.enter(vec![descriptor])
    }

    /// Copies an image, whose blobs `source` has, into the layout. Each of `names` stands for it alone then, by its tag;
    /// an image without names takes the place of the one without names.
    ///
    /// # Errors
    /// [`StoreError::Missing`] when a blob is not there, [`StoreError::Mismatch`] when one is not what it should be. Names
    /// are then as they were.
    pub fn import(
        &self,
        source: &impl Blobs,
        names: &[Reference],
        image: &Descriptor,
    ) -> Result<()> {
        let _writing = self.writing()?;
        self.copy(source, image)?;
        self.enter(entries(image, names, Naming::Tag))
    }

    /// As [`Self::import`], for a layout of many repositories: each of `names` stands for the image as a whole and as
    /// people write it, `app:1` for `docker.io/library/app:1`. An image that loses its last name stays, without one.
    ///
    /// # Errors
    /// Those of [`Self::import`].
    pub fn keep(&self, source: &impl Blobs, names: &[Reference], image: &Descriptor) -> Result<()> {
        let _writing = self.writing()?;
        self.copy(source, image)?;
        self.change(|entries| assign(entries, names, image))
    }

    /// Copies all blobs of an image that are not here yet.
    fn copy(&self, source: &impl Blobs, image: &Descriptor) -> Result<()> {
        for blob in Parts::of(image, source)?.blobs {
            if !self.has_blob(&blob) {
                self.write_blob(source.open(&blob)?, Some(&blob.digest))?;
            }
        }
        Ok(())
    }

    /// Writes `new` into `index.json`, in place of what has the same names.
    fn enter(&self, new: Vec<Descriptor>) -> Result<()> {
        let name_of = |entry: &Descriptor| entry.annotations.get(REF_NAME).cloned();
        self.change(|entries| {
            entries.retain(|old| !new.iter().any(|new| name_of(new) == name_of(old)));
            entries.extend(new);
        })
    }

    /// Takes `name` away. `false` when it stood for nothing. Blobs stay.
    pub fn untag(&self, name: &str) -> Result<bool> {
        self.change(|entries| {
            let before = entries.len();
            entries.retain(|entry| !has_name(entry, name));
            entries.len() < before
        })
    }

    /// Changes the entries of `index.json`. Other writers wait; readers see the old entries or the new ones.
    ///
    /// # Errors
    /// When the index cannot be read or written. It is then what it was.
    pub fn change<T>(&self, change: impl FnOnce(&mut Vec<Descriptor>) -> T) -> Result<T> {
        let lock = self.lock()?;
        let mut index = self.index()?;
        let before = index.manifests.clone();
        let result = change(&mut index.manifests);
        if index.manifests != before {
            self.write_index(&index)?;
        }
        drop(lock);
        Ok(result)
    }

    fn write_index(&self, index: &Index) -> Result<()> {
        self.replace(INDEX_FILE, &to_json(INDEX_FILE, index)?)
    }

    fn replace(&self, name: &str, bytes: &[u8]) -> Result<()> {
        let action = "write the image layout";
        let mut file = NamedTempFile::with_prefix_in(NEW, &self.root).doing(action)?;
        file.write_all(bytes).doing(action)?;
        publish_for_all(file, &self.root.join(name), action)
    }

    /// Waits for other writers of the index. The lock ends with the value.
    fn lock(&self) -> Result<fs::File> {
        let action = "lock the image layout";
        let directory = fs::File::open(&self.root).doing(action)?;
        rustix::fs::flock(&directory, FlockOperation::LockExclusive)
            .map_err(std::io::Error::from)
            .doing(action)?;
        Ok(directory)
    }
}

/// Publishes a file, readable by all as files of a layout are.
fn publish_for_all(file: NamedTempFile, path: &Path, action: &'static str) -> Result<()> {
    let mode = rustix::fs::Mode::from_raw_mode(0o644);
    rustix::fs::fchmod(file.as_file(), mode)
        .map_err(std::io::Error::from)
        .doing(action)?;
    publish(file, path).doing(action)
}

fn has_name(descriptor: &Descriptor, name: &str) -> bool {
    descriptor.annotations.get(REF_NAME).map(String::as_str) == Some(name)
}

pub(crate) fn is_version(json: &[u8]) -> bool {
    serde_json::from_slice::<serde_json::Value>(json)
        .is_ok_and(|version| version["imageLayoutVersion"] == "1.0.0")
}

pub(crate) fn parse<T: DeserializeOwned>(json: &[u8], name: &str) -> Result<T> {
    serde_json::from_slice(json).map_err(|source| StoreError::Json {
        name: name.into(),
        source,
    })
}

pub(crate) fn to_json(name: &str, value: &impl Serialize) -> Result<Vec<u8>> {
    serde_json::to_vec(value).map_err(|source| StoreError::Json {
        name: name.into(),
        source,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_layout_is_made_once_and_opened_again() {
        let directory = tempfile::tempdir().unwrap();
        let root = directory.path().join("images");
        assert!(matches!(
            Layout::open(&root),
            Err(StoreError::NotALayout(_))
        ));
        let layout = Layout::create(&root).unwrap();
        let blob = layout.write_bytes(MediaType::OciConfig, b"{}").unwrap();
        layout.tag("a:1", blob.clone()).unwrap();
        let again = Layout::create(&root).unwrap();
        assert!(again.has_blob(&blob));
        assert_eq!(again.find("a:1").unwrap().unwrap().digest, blob.digest);
        fs::write(root.join(VERSION_FILE), r#"{"imageLayoutVersion":"9"}"#).unwrap();
        assert!(Layout::open(&root).is_err());
    }

    #[test]
    fn blobs_are_what_their_digests_say() {
        let directory = tempfile::tempdir().unwrap();
        let layout = Layout::create(directory.path()).unwrap();
        let wanted = Digest::of(b"wanted");
        let error = layout.write_blob(&b"other"[..], Some(&wanted)).unwrap_err();
        assert!(matches!(error, StoreError::Mismatch { .. }));
        let blob = Descriptor::of(MediaType::OciConfig, b"wanted");
        let read = |limit| layout.read_small(&blob, limit);
        assert!(matches!(read(9), Err(StoreError::Missing(_))));
        let left: Vec<_> = fs::read_dir(directory.path().join("blobs/sha256"))
            .unwrap()
            .collect();
        assert!(left.is_empty());
        layout.write_blob(&b"wanted"[..], Some(&wanted)).unwrap();
        assert_eq!(read(6).unwrap(), b"wanted");
        assert!(matches!(
            read(5),
            Err(StoreError::TooLarge { limit: 5, .. })
        ));
        fs::write(layout.blob_path(&wanted), "change").unwrap();
        assert!(matches!(read(9), Err(StoreError::Mismatch { .. })));
        fs::write(layout.blob_path(&wanted), "changed").unwrap();
        assert!(matches!(read(9), Err(StoreError::Missing(_))));
        let long: Digest = format!("sha512:{}", "0".repeat(128)).parse().unwrap();
        assert!(layout.write_blob(&b"x"[..], Some(&long)).is_err());
    }

    #[test]
    fn a_name_stands_for_one_image() {
        let directory = tempfile::tempdir().unwrap();
        let layout = Layout::create(directory.path()).unwrap();
        let write = |text: &str| {
            layout
                .write_bytes(MediaType::OciManifest, text.as_bytes())
                .unwrap()
        };
        let (first, second) = (write("1"), write("2"));
        layout.tag("a:1", first.clone()).unwrap();
        layout.tag("b:1", first).unwrap();
        layout.tag("a:1", second.clone()).unwrap();
        assert_eq!(layout.index().unwrap().manifests.len(), 2);
        assert_eq!(layout.find("a:1").unwrap().unwrap().digest, second.digest);
        assert!(layout.untag("a:1").unwrap() && !layout.untag("a:1").unwrap());
        assert_eq!(layout.find("a:1").unwrap(), None);
    }

    #[test]
    fn images_come_from_elsewhere_and_replace_their_namesakes() {
        let (first, second) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
        let from = Layout::create(first.path()).unwrap();
        let to = Layout::create(second.path()).unwrap();
        let image = |text: &str| {
            let config = from.write_bytes(MediaType::OciConfig, b"{}").unwrap();
            let layer = from.write_bytes(MediaType::OciLayer, text.as_bytes());
            let manifest = Manifest::new(config, vec![layer.unwrap()]);
            let json = serde_json::to_vec(&manifest).unwrap();
            let image = from.write_bytes(MediaType::OciManifest, &json).unwrap();
            (image, manifest.layers[0].clone())
        };
        let names: Vec<Reference> = ["acme/app:1", "acme/app:2"]
            .map(|n| n.parse().unwrap())
            .into();
        let ((old, _), (new, layer)) = (image("old"), image("new"));
        for (image, names) in [
            (&old, &names[..]),
            (&new, &names[1..]),
            (&old, &[]),
            (&new, &[]),
        ] {
            to.import(&from, names, image).unwrap();
        }
        let index = to.index().unwrap();
        let shown: Vec<_> = index
            .manifests
            .iter()
            .map(|d| {
                (
                    d.annotations.get(REF_NAME).map(String::as_str),
                    d.digest.clone(),
                )
            })
            .collect();
        let (old, new) = (old.digest, new.digest);
        assert_eq!(
            shown,
            [(Some("1"), old), (Some("2"), new.clone()), (None, new)]
        );
        assert!(to.has_blob(&layer));

        let (broken, layer) = image("gone");
        fs::remove_file(from.blob_path(&layer.digest)).unwrap();
        let error = to.import(&from, &names, &broken).unwrap_err();
        assert!(matches!(error, StoreError::Missing(missing) if missing == layer.digest));
        assert_eq!(to.index().unwrap(), index);
    }

    #[test]
    fn writers_do_not_lose_each_others_names() {
        let directory = tempfile::tempdir().unwrap();
        let layout = Layout::create(directory.path()).unwrap();
        let blob = layout.write_bytes(MediaType::OciManifest, b"{}").unwrap();
        std::thread::scope(|scope| {
            for thread in 0..4 {
                let (layout, blob) = (layout.clone(), blob.clone());
                scope.spawn(move || {
                    for number in 0..10 {
                        let name = format!("{thread}:{number}");
                        layout.tag(&name, blob.clone()).unwrap();
                    }
                });
            }
        });
        assert_eq!(layout.index().unwrap().manifests.len(), 40);
    }
}
