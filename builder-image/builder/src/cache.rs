//! The local cache: records of what steps left, and the directory of all the engine keeps (`--root`).
//!
//! ```text
//! <root>/blobs/sha256/<hex>    blobs: packed layers and fetched ones
//! <root>/layers/<name>         unpacked layers: directories that are complete once they are there
//! <root>/cache/<key>           records
//! <root>/trails/<digest>       what the inputs of an instruction were, to explain misses
//! <root>/listings/<diff id>    what layers of base images look like: see `base/listing.rs`
//! <root>/digests/<context>     what files of contexts held: see `context/file_digests.rs`
//! <root>/tmp/<session>/        work in progress of one process, on the same file system
//! <root>/lock                  held for an instant by who begins to use something, and by who removes something
//! ```
//!
//! A record is written after the blob that it names was flushed to the disk, by rename, so it never promises what is not
//! there, not even after a power cut; a blob that went missing makes it a miss. For unpacked layers see [`layers`]. Several
//! processes may share a root: whoever comes second replaces like with like, and nothing that one uses is removed by
//! another (see [`session`]).

pub mod collect;
mod layers;
mod session;
mod trails;
mod usage;

use std::io::Write;
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use oci::{Descriptor, DiffId, Digest};
use serde::{Deserialize, Serialize};
use store::{flush, publish};

use self::layers::is_layer_name;
use self::session::Session;
pub use self::usage::{Kind, Object};
use crate::cache_key::CacheKey;
use crate::layer::Owners;

/// Changes whenever records are no longer read as they were written.
const VERSION: u32 = 1;

/// What nobody but the owner may look into: files of images are open to whom they say, and may have the setuid bit.
const PRIVATE: [&str; 7] = [
    "blobs",
    "layers",
    "cache",
    "trails",
    "tmp",
    crate::cache_mount::DIRECTORY,
    crate::context::DIGESTS,
];

/// The directories below the engine's root. Cheap to clone; the last clone removes what is in progress.
#[derive(Clone, Debug)]
pub struct Cache {
    root: PathBuf,
    session: Arc<Session>,
}

/// What a step left.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Record {
    version: u32,
    /// The key that steps on top build on: by content, also where the record was found by another key.
    pub key: CacheKey,
    /// The packed layer. A step whose layer no image needed was never packed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub packed: Option<Packed>,
    /// Name of the unpacked layer, where it was kept.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub layer: Option<String>,
    /// When the step was executed, RFC 3339.
    pub created: String,
    /// The instruction, for people who look into the cache.
    pub instruction: String,
}

/// A layer as a blob.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Packed {
    /// Digest of the uncompressed layer.
    pub diff_id: DiffId,
    /// The blob.
    pub descriptor: Descriptor,
}

impl Record {
    /// A record of this version, of a step that has left nothing yet.
    pub fn new(key: CacheKey, created: String, instruction: String) -> Self {
        Self {
            version: VERSION,
            key,
            packed: None,
            layer: None,
            created,
            instruction,
        }
    }
}

/// Makes a directory where it is absent, and closes it to all but its owner, where it is ours to close.
fn make_private(directory: &Path) -> std::io::Result<()> {
    fs_err::create_dir_all(directory)?;
    if fs_err::metadata(directory)?.mode() & 0o077 != 0 {
        match fs_err::set_permissions(directory, PermissionsExt::from_mode(0o700)) {
            Err(error) if error.kind() != std::io::ErrorKind::PermissionDenied => Err(error),
            _ => Ok(()),
        }
    } else {
        Ok(())
    }
}

impl Cache {
    /// Opens the cache below `root`, which is made where it is absent.
    ///
    /// # Errors
    /// When a directory cannot be made.
    pub fn open(root: impl Into<PathBuf>) -> std::io::Result<Self> {
        let root = std::path::absolute(root.into())?;
        for name in PRIVATE {
            make_private(&root.join(name))?;
        }
        fs_err::create_dir_all(root.join("blobs/sha256"))?;
        let session = Arc::new(Session::start(&root)?);
        layers::flush_in_background(&root, session.life());
        Ok(Self { root, session })
    }

    /// The directory that was opened.
    pub fn root(&self) -> &Path {
        &self.root
    }

    /// The directory of blobs, with one directory for each algorithm in it.
    pub fn blobs(&self) -> PathBuf {
        self.root.join("blobs")
    }

    /// The file of one blob.
    pub fn blob(&self, digest: &Digest) -> PathBuf {
        let mut path = self.blobs();
        path.push(digest.algorithm().as_str());
        path.push(digest.hex());
        path
    }

    /// Whether a blob is there, whole; it is in use then.
    pub fn has_blob(&self, descriptor: &Descriptor) -> bool {
        let path = self.blob(&descriptor.digest);
        self.session.claim(&path)
            && fs_err::metadata(path)
                .is_ok_and(|found| found.is_file() && found.len() == descriptor.size)
    }

    /// The content of a small blob, if it is there and is what its digest says.
    pub fn small_blob(&self, digest: &Digest) -> Option<Vec<u8>> {
        let path = self.blob(digest);
        self.session.claim(&path);
        let bytes = fs_err::read(path).ok()?;
        let mut digester = oci::Digester::new(digest.algorithm());
        digester.update(&bytes);
        (digester.finish() == *digest).then_some(bytes)
    }

    /// Keeps a small blob whose digest was verified.
    ///
    /// # Errors
    /// When it cannot be written.
    pub fn keep(&self, digest: &Digest, bytes: &[u8]) -> std::io::Result<()> {
        let mut file = self.blob_file()?;
        file.write_all(bytes)?;
        self.adopt(file, digest)
    }

    /// A file for a blob that is on its way.
    ///
    /// # Errors
    /// When it cannot be made.
    pub fn blob_file(&self) -> std::io::Result<tempfile::NamedTempFile> {
        tempfile::Builder::new()
            .prefix("blob-")
            .tempfile_in(self.tmp())
    }

    /// Gives a blob whose digest was verified its place.
    ///
    /// # Errors
    /// When it cannot be moved.
    pub fn adopt(&self, file: tempfile::NamedTempFile, digest: &Digest) -> std::io::Result<()> {
        let path = self.blob(digest);
        if let Some(parent) = path.parent() {
            fs_err::create_dir_all(parent)?;
        }
        file.as_file().set_modified(self.session.now())?;
        self.session.grow();
        publish(file, &path)
    }

    /// Work in progress.
    pub fn tmp(&self) -> PathBuf {
        self.session.path.clone()
    }

    /// A new directory for work in progress, removed when the value is dropped.
    ///
    /// # Errors
    /// When it cannot be made.
    pub fn scratch(&self, prefix: &str) -> std::io::Result<tempfile::TempDir> {
        tempfile::Builder::new()
            .prefix(prefix)
            .tempdir_in(self.tmp())
    }

    /// The record of `key`, without what it names and is no longer there; none where nothing is left. A record that
    /// cannot be read is no record. `owners` tells which unpacked layers can be used.
    pub fn lookup(&self, key: &CacheKey, owners: Owners) -> Option<Record> {
        let path = self.record_path(key);
        self.session.claim(&path);
        let text = fs_err::read(path).ok()?;
        let mut record: Record = serde_json::from_slice(&text).ok()?;
        if record.version != VERSION {
            return None;
        }
        record.packed = record
            .packed
            .filter(|packed| self.has_blob(&packed.descriptor));
        record.layer = record
            .layer
            .filter(|name| is_layer_name(name, owners) && self.has_layer(name));
        (record.packed.is_some() || record.layer.is_some()).then_some(record)
    }

    /// Lets nobody remove a cache mount as long as this process lives. One that is not there yet will be as young.
    pub fn claim_mount(&self, directory: &Path) {
        self.session.claim(directory);
    }

    /// Whether this process added anything that takes room.
    pub fn has_grown(&self) -> bool {
        self.session.has_grown()
    }

    /// Writes a record under each of `keys`, after the blob that it names is on the disk.
    ///
    /// # Errors
    /// When a file cannot be written, or the blob is not there.
    pub fn record(&self, keys: &[&CacheKey], record: &Record) -> std::io::Result<()> {
        let text = serde_json::to_vec(record).map_err(std::io::Error::other)?;
        if let Some(packed) = &record.packed {
            let blob = self.blob(&packed.descriptor.digest);
            self.session.claim(&blob);
            self.session.grow();
            flush(&blob)?;
        }
        for key in keys {
            let mut file = tempfile::Builder::new()
                .prefix("record-")
                .tempfile_in(self.tmp())?;
            file.write_all(&text)?;
            file.as_file().set_modified(self.session.now())?;
            publish(file, &self.record_path(key))?;
        }
        Ok(())
    }

    fn record_path(&self, key: &CacheKey) -> PathBuf {
        self.root.join("cache").join(key.hex())
    }
}

#[cfg(test)]
mod tests {
    use oci::{ChainId, MediaType};

    use super::*;

    fn record(key: &CacheKey) -> Record {
        Record::new(key.clone(), "now".into(), "RUN".into())
    }

    fn put_layer(cache: &Cache, name: &str) {
        let scratch = tempfile::tempdir_in(cache.tmp()).unwrap();
        let layer = crate::fixture::layer("/a = a", &scratch.path().join("l"), Owners::Recorded);
        let layer = Arc::into_inner(layer).unwrap();
        if !matches!(name, "." | "../layers/a") {
            cache.place_layer(layer, name).unwrap();
        }
    }

    #[test]
    fn a_record_is_found_by_all_its_keys_until_its_blob_is_gone() {
        let root = tempfile::tempdir().unwrap();
        let cache = Cache::open(root.path()).unwrap();
        let (by_content, by_source) = (
            CacheKey::scratch(),
            CacheKey::base(Some(&ChainId(Digest::of(b"x")))),
        );
        let descriptor = Descriptor::of(MediaType::OciLayerGzip, b"blob");
        let diff_id = DiffId(Digest::of(b"tar"));
        let packed = Some(Packed {
            diff_id,
            descriptor: descriptor.clone(),
        });
        let record = Record {
            packed,
            ..record(&by_content)
        };
        assert_eq!(cache.lookup(&by_content, Owners::OnDisk), None);
        fs_err::write(cache.blob(&descriptor.digest), b"blob").unwrap();
        cache.record(&[&by_content, &by_source], &record).unwrap();
        assert_eq!(
            cache.lookup(&by_content, Owners::OnDisk),
            Some(record.clone())
        );
        assert_eq!(cache.lookup(&by_source, Owners::Recorded), Some(record));
        fs_err::write(cache.blob(&descriptor.digest), b"blo").unwrap();
        assert_eq!(cache.lookup(&by_content, Owners::OnDisk), None);
        let left = fs_err::read_dir(cache.tmp()).unwrap().count();
        assert_eq!(left, 1, "only the time of the session's beginning");
    }

    #[test]
    fn what_a_killed_process_left_is_removed_and_what_others_do_is_not() {
        let root = tempfile::tempdir().unwrap();
        let first = Cache::open(root.path()).unwrap();
        let left = root.path().join("tmp/session-left");
        fs_err::create_dir_all(left.join("deep")).unwrap();
        let second = Cache::open(root.path()).unwrap();
        assert!(!left.exists() && first.tmp().is_dir() && second.tmp().is_dir());
        assert_ne!(first.tmp(), second.tmp());
        let clone = first.clone();
        drop(first);
        assert!(clone.tmp().is_dir());
        drop((clone, second));
        assert_eq!(
            fs_err::read_dir(root.path().join("tmp")).unwrap().count(),
            0
        );
    }

    #[test]
    fn unpacked_layers_serve_those_who_can_use_them() {
        let root = tempfile::tempdir().unwrap();
        let cache = Cache::open(root.path()).unwrap();
        let key = CacheKey::scratch();
        for (name, owners, found) in [
            ("a", Owners::OnDisk, true),
            ("a", Owners::Recorded, false),
            ("a.recorded", Owners::Recorded, true),
            ("a.recorded", Owners::OnDisk, false),
            ("../layers/a", Owners::OnDisk, false),
            (".", Owners::OnDisk, false),
        ] {
            put_layer(&cache, name);
            cache
                .record(
                    &[&key],
                    &Record {
                        layer: Some(name.into()),
                        ..record(&key)
                    },
                )
                .unwrap();
            assert_eq!(
                cache.lookup(&key, owners).is_some(),
                found,
                "{name} {owners:?}"
            );
        }
    }

    #[test]
    fn what_cannot_be_read_is_a_miss() {
        let root = tempfile::tempdir().unwrap();
        let cache = Cache::open(root.path()).unwrap();
        let key = CacheKey::scratch();
        fs_err::write(cache.record_path(&key), b"{\"version\":1").unwrap();
        assert_eq!(cache.lookup(&key, Owners::OnDisk), None);
    }
}
