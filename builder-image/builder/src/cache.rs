//! The local cache: records of what steps left, and the directory of all the engine keeps (`--root`).
//!
//! ```text
//! <root>/blobs/sha256/<hex>    blobs: packed layers and fetched ones
//! <root>/layers/<name>         unpacked layers: directories that are complete once they are there
//! <root>/cache/<key>           records
//! <root>/tmp/                  work in progress, on the same file system
//! ```
//!
//! A record is written after the blob that it names, by rename, so it never promises what is not there; a blob that went
//! missing makes it a miss. Several processes may share a root: whoever comes second replaces like with like.

use std::io::Write;
use std::path::{Path, PathBuf};

use oci::{Descriptor, DiffId, Digest};
use serde::{Deserialize, Serialize};

use crate::cache_key::CacheKey;

/// Changes whenever records are no longer read as they were written.
const VERSION: u32 = 1;

/// The directories below the engine's root.
#[derive(Clone, Debug)]
pub struct Cache {
    root: PathBuf,
}

/// What a step left.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Record {
    version: u32,
    /// The key that steps on top build on: by content, also where the record was found by another key.
    pub key: CacheKey,
    /// Digest of the uncompressed layer.
    pub diff_id: DiffId,
    /// The packed layer.
    pub descriptor: Descriptor,
    /// When the step was executed, RFC 3339.
    pub created: String,
    /// Name of the unpacked layer, where it was kept.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub layer: Option<String>,
    /// The instruction, for people who look into the cache.
    pub instruction: String,
}

impl Record {
    /// A record of this version.
    pub fn new(
        key: CacheKey,
        diff_id: DiffId,
        descriptor: Descriptor,
        created: String,
        layer: Option<String>,
        instruction: String,
    ) -> Self {
        Self {
            version: VERSION,
            key,
            diff_id,
            descriptor,
            created,
            layer,
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
        for name in ["blobs/sha256", "layers", "cache", "tmp"] {
            fs_err::create_dir_all(root.join(name))?;
        }
        Ok(Self { root })
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

    /// The directory of the unpacked layer `name`.
    pub fn layer(&self, name: &str) -> PathBuf {
        self.root.join("layers").join(name)
    }

    /// Work in progress.
    pub fn tmp(&self) -> PathBuf {
        self.root.join("tmp")
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

    /// The record of `key`, if there is one and its blob is still there. A record that cannot be read is no record.
    pub fn lookup(&self, key: &CacheKey) -> Option<Record> {
        let text = fs_err::read(self.record_path(key)).ok()?;
        let record: Record = serde_json::from_slice(&text).ok()?;
        (record.version == VERSION && self.has_blob(&record.descriptor)).then_some(record)
    }

    /// Writes a record under each of `keys`.
    ///
    /// # Errors
    /// When a file cannot be written.
    pub fn record(&self, keys: &[&CacheKey], record: &Record) -> std::io::Result<()> {
        let text = serde_json::to_vec(record).map_err(std::io::Error::other)?;
        for key in keys {
            let mut file = tempfile::Builder::new()
                .prefix("record-")
                .tempfile_in(self.tmp())?;
            file.write_all(&text)?;
            file.persist(self.record_path(key))
                .map_err(|error| error.error)?;
        }
        Ok(())
    }

    fn record_path(&self, key: &CacheKey) -> PathBuf {
        self.root.join("cache").join(key.hex())
    }
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "tests")]
    use oci::{ChainId, MediaType};

    use super::*;

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
        let record = Record::new(
            by_content.clone(),
            diff_id,
            descriptor.clone(),
            "now".into(),
            None,
            "RUN".into(),
        );
        assert_eq!(cache.lookup(&by_content), None);
        fs_err::write(cache.blob(&descriptor.digest), b"blob").unwrap();
        cache.record(&[&by_content, &by_source], &record).unwrap();
        assert_eq!(cache.lookup(&by_content), Some(record.clone()));
        assert_eq!(cache.lookup(&by_source), Some(record));
        fs_err::write(cache.blob(&descriptor.digest), b"blo").unwrap();
        assert_eq!(cache.lookup(&by_content), None);
        assert_eq!(fs_err::read_dir(cache.tmp()).unwrap().count(), 0);
    }

    #[test]
    fn what_cannot_be_read_is_a_miss() {
        let root = tempfile::tempdir().unwrap();
        let cache = Cache::open(root.path()).unwrap();
        let key = CacheKey::scratch();
        fs_err::write(cache.record_path(&key), b"{\"version\":1").unwrap();
        assert_eq!(cache.lookup(&key), None);
    }
}
