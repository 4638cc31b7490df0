//! The local cache: records of what steps left, and the directory of all the engine keeps (`--root`).
//!
//! ```text
//! <root>/blobs/sha256/<hex>    blobs: packed layers and fetched ones
//! <root>/layers/<name>         unpacked layers: directories that are complete once they are there
//! <root>/cache/<key>           records
//! <root>/trails/<digest>       what the inputs of an instruction were, to explain misses
//! <root>/listings/<diff id>    what layers of base images look like: see `base/listing.rs`
//! <root>/tmp/<session>/        work in progress of one process, on the same file system
//! ```
//!
//! A record is written after the blob that it names was flushed to the disk, by rename, so it never promises what is not
//! there, not even after a power cut; a blob that went missing makes it a miss. Unpacked layers, many small files each, are
//! left to the system to flush. Several processes may share a root: whoever comes second replaces like with like.

mod trails;

use std::io::Write;
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use oci::{Descriptor, DiffId, Digest};
use rustix::fs::{FlockOperation, Mode, OFlags, flock, open};
use serde::{Deserialize, Serialize};
use store::{flush, publish};

use crate::cache_key::CacheKey;
use crate::layer::Owners;

/// Changes whenever records are no longer read as they were written.
const VERSION: u32 = 1;

/// How names end of layers that have their owners recorded beside them; without the right to set owners, no others can
/// be made, and with it, these cannot be mounted.
const RECORDED: &str = ".recorded";

/// The directories below the engine's root. Cheap to clone; the last clone removes what is in progress.
#[derive(Clone, Debug)]
pub struct Cache {
    root: PathBuf,
    session: Arc<Session>,
}

/// A directory for the work in progress of one process. It is locked as long as the process lives, so that others can
/// tell it from what a killed process has left.
#[derive(Debug)]
struct Session {
    path: PathBuf,
    _lock: OwnedFd,
}

impl Session {
    /// Makes a new one below `tmp`, and removes those that nobody holds any more.
    fn start(tmp: &Path) -> std::io::Result<Self> {
        for entry in fs_err::read_dir(tmp)? {
            let path = entry?.path();
            // Whoever makes one at this moment has it locked, or makes another when it is gone.
            if lock(&path).is_ok() {
                let _ = fs_err::remove_dir_all(&path);
            }
        }
        loop {
            let path = tempfile::Builder::new()
                .prefix("session-")
                .tempdir_in(tmp)?
                .keep();
            match lock(&path) {
                Ok(lock) if path.is_dir() => return Ok(Self { path, _lock: lock }),
                Ok(_) => {}
                Err(error) if error.kind() == std::io::ErrorKind::NotFound => {}
                Err(error) if error.kind() == std::io::ErrorKind::WouldBlock => {}
                Err(error) => return Err(error),
            }
        }
    }
}

impl Drop for Session {
    fn drop(&mut self) {
        // What cannot be removed now is removed by the next process.
        let _ = fs_err::remove_dir_all(&self.path);
    }
}

/// Locks a directory, without waiting.
fn lock(path: &Path) -> std::io::Result<OwnedFd> {
    let flags = OFlags::DIRECTORY | OFlags::CLOEXEC | OFlags::RDONLY;
    let directory = open(path, flags, Mode::empty())?;
    flock(&directory, FlockOperation::NonBlockingLockExclusive)?;
    Ok(directory)
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

impl Cache {
    /// Opens the cache below `root`, which is made where it is absent.
    ///
    /// # Errors
    /// When a directory cannot be made.
    pub fn open(root: impl Into<PathBuf>) -> std::io::Result<Self> {
        let root = std::path::absolute(root.into())?;
        for name in ["blobs/sha256", "layers", "cache", "trails", "tmp"] {
            fs_err::create_dir_all(root.join(name))?;
        }
        let session = Arc::new(Session::start(&root.join("tmp"))?);
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

    /// Whether a blob is there, whole.
    pub fn has_blob(&self, descriptor: &Descriptor) -> bool {
        fs_err::metadata(self.blob(&descriptor.digest))
            .is_ok_and(|found| found.is_file() && found.len() == descriptor.size)
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
        publish(file, &path)
    }

    /// The directory of the unpacked layer `name`.
    pub fn layer(&self, name: &str) -> PathBuf {
        self.root.join("layers").join(name)
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
        let text = fs_err::read(self.record_path(key)).ok()?;
        let mut record: Record = serde_json::from_slice(&text).ok()?;
        if record.version != VERSION {
            return None;
        }
        record.packed = record
            .packed
            .filter(|packed| self.has_blob(&packed.descriptor));
        record.layer = record
            .layer
            .filter(|name| is_layer_name(name, owners) && self.layer(name).is_dir());
        (record.packed.is_some() || record.layer.is_some()).then_some(record)
    }

    /// Writes a record under each of `keys`, after the blob that it names is on the disk.
    ///
    /// # Errors
    /// When a file cannot be written, or the blob is not there.
    pub fn record(&self, keys: &[&CacheKey], record: &Record) -> std::io::Result<()> {
        let text = serde_json::to_vec(record).map_err(std::io::Error::other)?;
        if let Some(packed) = &record.packed {
            flush(&self.blob(&packed.descriptor.digest))?;
        }
        for key in keys {
            let mut file = tempfile::Builder::new()
                .prefix("record-")
                .tempfile_in(self.tmp())?;
            file.write_all(&text)?;
            publish(file, &self.record_path(key))?;
        }
        Ok(())
    }

    /// A name for an unpacked layer, which is new where `stem` is.
    pub fn layer_name(stem: &str, owners: Owners) -> String {
        match owners {
            Owners::OnDisk => stem.to_owned(),
            Owners::Recorded => format!("{stem}{RECORDED}"),
        }
    }

    fn record_path(&self, key: &CacheKey) -> PathBuf {
        self.root.join("cache").join(key.hex())
    }
}

/// Whether `name` is that of a layer whose owners are kept in this way, and of nothing outside the directory of layers.
fn is_layer_name(name: &str, owners: Owners) -> bool {
    let plain = |b: u8| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'.');
    !name.is_empty()
        && !name.starts_with('.')
        && name.bytes().all(plain)
        && name.ends_with(RECORDED) == (owners == Owners::Recorded)
}

#[cfg(test)]
mod tests {
    use oci::{ChainId, MediaType};

    use super::*;

    fn record(key: &CacheKey) -> Record {
        Record::new(key.clone(), "now".into(), "RUN".into())
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
        assert_eq!(fs_err::read_dir(cache.tmp()).unwrap().count(), 0);
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
            fs_err::create_dir_all(cache.layer(name)).unwrap();
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
