//! What is in the engine's directory: every object with its kind, size and last use. Reading, but for the sizes of layers,
//! which are counted once and kept.

use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::time::SystemTime;

use serde::Serialize;

use super::layers::{MARKER, Marker, NEW_MARKER};
use super::{Cache, Record, VERSION};
use crate::cache_mount;

/// Blocks of the disk, as `stat` counts them, in bytes.
const BLOCK: u64 = 512;

/// Kinds of what the cache keeps.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Kind {
    /// What a step left, what its inputs were, and what files of contexts held.
    Record,
    /// Packed layers, and documents of base images.
    Blob,
    /// Unpacked layers.
    Layer,
    /// What layers of base images look like.
    Listing,
    /// Directories of `RUN --mount=type=cache`.
    CacheMount,
}

impl Kind {
    /// All kinds.
    pub const ALL: [Self; 5] = [
        Self::Record,
        Self::Blob,
        Self::Layer,
        Self::Listing,
        Self::CacheMount,
    ];

    /// The name for people.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Record => "record",
            Self::Blob => "blob",
            Self::Layer => "layer",
            Self::Listing => "listing",
            Self::CacheMount => "cache-mount",
        }
    }
}

/// One thing that the cache keeps.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Object {
    /// What it is.
    pub kind: Kind,
    /// Its name among its kind.
    pub name: String,
    /// How much it takes on the disk, in bytes.
    pub bytes: u64,
    /// When it was used last.
    pub used: SystemTime,
    /// Whether it is of no use any more: half a layer, a record of what is gone.
    pub dead: bool,
}

impl Cache {
    /// Everything that is there.
    ///
    /// # Errors
    /// When a directory cannot be read.
    pub fn objects(&self) -> io::Result<Vec<Object>> {
        let mut objects = Vec::new();
        for directory in ["cache", "trails", crate::context::DIGESTS] {
            self.files(Kind::Record, &self.root.join(directory), &mut objects)?;
        }
        for algorithm in fs_err::read_dir(self.blobs())? {
            self.files(Kind::Blob, &algorithm?.path(), &mut objects)?;
        }
        self.layers(&mut objects)?;
        // They bound themselves (`base/listing.rs`), and take part in this for those who look.
        let listings = self.root.join("listings");
        if listings.is_dir() {
            self.files(Kind::Listing, &listings, &mut objects)?;
        }
        self.mounts(&mut objects)?;
        Ok(objects)
    }

    /// All records, with their keys and last uses, the latest first.
    ///
    /// # Errors
    /// When the directory cannot be read.
    pub fn records(&self) -> io::Result<Vec<(String, SystemTime, Record)>> {
        let mut records = Vec::new();
        for entry in fs_err::read_dir(self.root.join("cache"))? {
            let entry = entry?;
            let record = || -> Option<_> {
                let used = entry.metadata().ok()?.modified().ok()?;
                let record = serde_json::from_slice(&fs_err::read(entry.path()).ok()?).ok()?;
                Some((entry.file_name().into_string().ok()?, used, record))
            };
            records.extend(record());
        }
        records.sort_by(|a, b| (b.1, &b.0).cmp(&(a.1, &a.0)));
        Ok(records)
    }

    /// Where an object is: its file, the marker of a layer, the directory of a cache mount.
    pub(super) fn place_of(&self, object: &Object) -> PathBuf {
        match object.kind {
            Kind::Record | Kind::Blob | Kind::Listing => self.root.join(&object.name),
            Kind::Layer => self
                .root
                .join("layers")
                .join(format!("{}{MARKER}", object.name)),
            Kind::CacheMount => self.root.join(cache_mount::DIRECTORY).join(&object.name),
        }
    }

    fn files(&self, kind: Kind, directory: &Path, objects: &mut Vec<Object>) -> io::Result<()> {
        for entry in fs_err::read_dir(directory)? {
            let path = entry?.path();
            // What goes away at this moment is no matter.
            let Ok(found) = fs_err::symlink_metadata(&path) else {
                continue;
            };
            let name = path.strip_prefix(&self.root).unwrap_or(&path);
            objects.push(Object {
                kind,
                name: name.to_string_lossy().into_owned(),
                bytes: found.blocks() * BLOCK,
                used: found.modified()?,
                dead: directory.ends_with("cache") && self.is_dead_record(&path),
            });
        }
        Ok(())
    }

    /// Whether a record names nothing that is there.
    fn is_dead_record(&self, path: &Path) -> bool {
        let record = fs_err::read(path).ok();
        let record = record.and_then(|json| serde_json::from_slice::<Record>(&json).ok());
        let Some(record) = record.filter(|record| record.version == VERSION) else {
            return true;
        };
        let blob = record
            .packed
            .as_ref()
            .map(|p| self.blob(&p.descriptor.digest));
        let layer = record.layer.as_ref().map(|name| self.layer(name));
        !blob.is_some_and(|blob| blob.exists()) && !layer.is_some_and(|layer| layer.exists())
    }

    fn layers(&self, objects: &mut Vec<Object>) -> io::Result<()> {
        let directory = self.root.join("layers");
        for entry in fs_err::read_dir(&directory)? {
            let entry = entry?;
            let Some(name) = entry.file_name().to_str().map(str::to_owned) else {
                continue;
            };
            if name.starts_with(NEW_MARKER) {
                // Nobody writes it who is alive, or it is gone by now.
                let _ = self.session.alone(|| fs_err::remove_file(entry.path()));
            }
            if !entry.file_type()?.is_dir() {
                continue;
            }
            let path = directory.join(format!("{name}{MARKER}"));
            let marker = Marker::read(&path).filter(Marker::is_valid);
            let used = fs_err::metadata(&path).and_then(|found| found.modified());
            let dead = marker.is_none();
            let counted = marker.as_ref().and_then(|marker| marker.bytes);
            let bytes = counted.unwrap_or_else(|| size_of(&entry.path()));
            if marker.is_some() && counted.is_none() {
                self.keep_size(&path, bytes);
            }
            objects.push(Object {
                kind: Kind::Layer,
                name,
                bytes,
                used: used.unwrap_or(SystemTime::UNIX_EPOCH),
                dead,
            });
        }
        Ok(())
    }

    fn keep_size(&self, path: &Path, bytes: u64) {
        self.session.alone(|| {
            if let (Some(marker), Ok(found)) = (Marker::read(path), fs_err::metadata(path)) {
                let used = found.modified().unwrap_or(SystemTime::UNIX_EPOCH);
                let marker = Marker {
                    bytes: Some(bytes),
                    ..marker
                };
                // It is counted again where it cannot be kept.
                let _ = marker.write(path, used);
            }
        });
    }

    fn mounts(&self, objects: &mut Vec<Object>) -> io::Result<()> {
        let entries = match fs_err::read_dir(self.root.join(cache_mount::DIRECTORY)) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
            entries => entries?,
        };
        for entry in entries {
            let entry = entry?;
            let (Ok(found), Some(name)) = (
                entry.metadata(),
                entry.file_name().to_str().map(str::to_owned),
            ) else {
                continue;
            };
            objects.push(Object {
                kind: Kind::CacheMount,
                name,
                bytes: size_of(&entry.path()),
                used: found.modified()?,
                dead: false,
            });
        }
        Ok(())
    }
}

/// What a file or directory takes on the disk. What cannot be read counts nothing.
fn size_of(path: &Path) -> u64 {
    let Ok(found) = fs_err::symlink_metadata(path) else {
        return 0;
    };
    let own = found.blocks() * BLOCK;
    if !found.is_dir() {
        return own;
    }
    let entries = fs_err::read_dir(path).into_iter().flatten();
    let below = entries.filter_map(Result::ok);
    own + below.map(|entry| size_of(&entry.path())).sum::<u64>()
}
