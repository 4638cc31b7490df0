//! What a layer directory cannot hold on disk: devices (a user namespace may not make them), extended attributes that
//! were refused, directories that an archive only implied, and for a process that may not change owners, every owner and
//! permission. Kept as JSON lines beside the directory; paths may be any bytes.

use std::{
    collections::{BTreeMap, BTreeSet, HashSet},
    ffi::{OsStr, OsString},
    io::{self, BufRead, BufReader, BufWriter, Write},
    os::unix::ffi::{OsStrExt, OsStringExt},
    path::Path,
    sync::Arc,
};

use serde::{Deserialize, Serialize};

use super::{LayerError, Owners};
use crate::tree::{Entry, ImagePath, Kind, Xattrs};

/// What is known of one path beyond the disk.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Record {
    /// A device, of which the disk has an empty file in its place.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub device: Option<Kind>,
    /// Permission bits, user and group, where the disk does not have them.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub owner: Option<(u32, u32, u32)>,
    /// Extended attributes that the file system refused.
    #[serde(default, skip_serializing_if = "Xattrs::is_empty")]
    pub xattrs: Xattrs,
}

/// The index of a layer directory.
#[derive(Clone, Debug, Default)]
pub struct Index {
    records: BTreeMap<ImagePath, Arc<Record>>,
    /// Each record once: a layer of many files has few owners and permissions.
    distinct: HashSet<Arc<Record>>,
    implied: BTreeSet<ImagePath>,
}

impl PartialEq for Index {
    /// What is known of each path counts.
    fn eq(&self, other: &Self) -> bool {
        self.records == other.records && self.implied == other.implied
    }
}

impl Eq for Index {}

/// One line of the file.
#[derive(Serialize, Deserialize)]
enum Line {
    /// The first line.
    Layer {
        recorded: bool,
    },
    Record(OsString, Record),
    Implied(OsString),
}

impl Index {
    /// What is recorded of `path`.
    pub fn get(&self, path: &ImagePath) -> Option<&Record> {
        self.records.get(path).map(Arc::as_ref)
    }

    /// Whether `path` is a directory that the layer's archive did not name, so that its attributes are those of the
    /// layers below.
    pub fn is_implied(&self, path: &ImagePath) -> bool {
        self.implied.contains(path)
    }

    /// The directories that the layer's archive did not name.
    pub fn implied(&self) -> impl Iterator<Item = &ImagePath> {
        self.implied.iter()
    }

    pub(super) fn set(&mut self, path: &ImagePath, record: Record) {
        if record == Record::default() {
            self.records.remove(path);
        } else {
            let record = self.distinct(record);
            self.records.insert(path.clone(), record);
        }
    }

    fn distinct(&mut self, record: Record) -> Arc<Record> {
        if let Some(known) = self.distinct.get(&record) {
            return known.clone();
        }
        let record = Arc::new(record);
        self.distinct.insert(record.clone());
        record
    }

    pub(super) fn set_implied(&mut self, path: &ImagePath, implied: bool) {
        if implied {
            self.implied.insert(path.clone());
        } else {
            self.implied.remove(path);
        }
    }

    /// Forgets `path` and everything below it.
    pub(super) fn forget(&mut self, path: &ImagePath) {
        let below: Vec<_> = (self.records.range(path.clone()..).map(|(below, _)| below))
            .take_while(|below| below.is_within(path))
            .cloned()
            .collect();
        for path in below {
            self.records.remove(&path);
        }
        self.implied.retain(|implied| !implied.is_within(path));
    }

    /// What the disk says of `path`, completed.
    pub(super) fn complete(&self, path: &ImagePath, mut entry: Entry) -> Entry {
        let Some(record) = self.records.get(path) else {
            return entry;
        };
        if let Some(device) = &record.device {
            entry.kind = device.clone();
            entry.size = 0;
        }
        if let Some((mode, uid, gid)) = record.owner {
            (entry.mode, entry.uid, entry.gid) = (mode, uid, gid);
        }
        entry
    }

    pub(super) fn load(file: &Path) -> Result<Option<(Owners, Self)>, LayerError> {
        let reader = match fs_err::File::open(file) {
            Ok(reader) => BufReader::new(reader),
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            Err(error) => return Err(LayerError::Index(error)),
        };
        let mut index = Self::default();
        let mut owners = Owners::OnDisk;
        for line in reader.lines() {
            let line = serde_json::from_str(&line.map_err(LayerError::Index)?);
            let line = line.map_err(|source| LayerError::IndexFormat {
                path: file.to_owned(),
                source,
            })?;
            match line {
                Line::Layer { recorded: true } => owners = Owners::Recorded,
                Line::Layer { recorded: false } => owners = Owners::OnDisk,
                Line::Record(path, record) => {
                    let record = index.distinct(record);
                    index
                        .records
                        .insert(ImagePath::new(path.as_bytes()), record);
                }
                Line::Implied(path) => {
                    index.implied.insert(ImagePath::new(path.as_bytes()));
                }
            }
        }
        Ok(Some((owners, index)))
    }

    pub(super) fn save(&self, file: &Path, owners: Owners) -> Result<(), LayerError> {
        if *self == Self::default() && owners == Owners::OnDisk {
            return match fs_err::remove_file(file) {
                Err(error) if error.kind() != io::ErrorKind::NotFound => {
                    Err(LayerError::Index(error))
                }
                _ => Ok(()),
            };
        }
        let path_of = |path: &ImagePath| {
            OsString::from_vec(OsStr::as_bytes(path.as_relative().as_os_str()).to_vec())
        };
        let recorded = owners == Owners::Recorded;
        let lines = std::iter::once(Line::Layer { recorded })
            .chain(
                self.records
                    .iter()
                    .map(|(path, record)| Line::Record(path_of(path), Record::clone(record))),
            )
            .chain(self.implied.iter().map(|path| Line::Implied(path_of(path))));
        let mut writer = BufWriter::new(fs_err::File::create(file).map_err(LayerError::Index)?);
        for line in lines {
            serde_json::to_writer(&mut writer, &line)
                .map_err(|error| LayerError::Index(error.into()))?;
            writer.write_all(b"\n").map_err(LayerError::Index)?;
        }
        writer.flush().map_err(LayerError::Index)
    }
}

impl Default for Owners {
    /// Owners are on disk unless an index says otherwise.
    fn default() -> Self {
        Self::OnDisk
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "tests")]

    use super::*;
    use crate::tree::Device;

    #[test]
    fn an_index_survives_the_disk() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("layer.index");
        let mut index = Index::default();
        let odd = ImagePath::new(b"dev/\xff\n\"odd");
        let null = Kind::CharDevice(Device { major: 1, minor: 3 });
        index.set(
            &odd,
            Record {
                device: Some(null.clone()),
                owner: Some((0o666, 1, 2)),
                xattrs: [("security.capability".into(), vec![0, 10, 255])].into(),
            },
        );
        index.set_implied(&ImagePath::new("dev"), true);
        index.save(&file, Owners::Recorded).unwrap();
        let (owners, loaded) = Index::load(&file).unwrap().unwrap();
        assert_eq!((owners, &loaded), (Owners::Recorded, &index));
        assert!(loaded.is_implied(&ImagePath::new("/dev")));
        assert_eq!(loaded.get(&odd).unwrap().device, Some(null));
    }

    #[test]
    fn an_empty_index_leaves_no_file() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("layer.index");
        Index::default().save(&file, Owners::Recorded).unwrap();
        assert!(file.exists());
        Index::default().save(&file, Owners::OnDisk).unwrap();
        assert!(!file.exists());
        assert!(Index::load(&file).unwrap().is_none());
    }

    #[test]
    fn forgetting_takes_a_whole_tree() {
        let record = || Record {
            owner: Some((0, 0, 0)),
            ..Record::default()
        };
        let mut index = Index::default();
        for path in ["a", "a/b", "a/b/c", "a-b", "b"] {
            index.set(&ImagePath::new(path), record());
        }
        index.forget(&ImagePath::new("a"));
        let left: Vec<_> = index.records.keys().map(ToString::to_string).collect();
        assert_eq!(left, ["/a-b", "/b"]);
    }
}
