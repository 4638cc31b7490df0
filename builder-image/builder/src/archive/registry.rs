//! A layout as a registry without a server. Blobs are written as they come, names in batches: a name stands in `index.json` only
//! when everything below it is there. Nothing that a layout holds is trusted: documents are bounded and verified here, blobs
//! by who reads them.

use std::collections::BTreeMap;
use std::io::SeekFrom;
use std::sync::{Mutex, MutexGuard, PoisonError};

use bytes::Bytes;
use distribution::{Content, Error, LocalRegistry, RawManifest, Result};
use futures::future::BoxFuture;
use futures::{FutureExt, StreamExt, TryStreamExt};
use oci::{Descriptor, Digest, MAX_MANIFEST_BYTES, MediaType, Reference, Tag};
use store::{Layout, REF_NAME, StoreError, Writing};
use tokio::io::AsyncSeekExt;
use tokio_util::io::{ReaderStream, StreamReader, SyncIoBridge};

use super::name::{Name, Naming, annotations, find, name_of};

/// How much of a blob is read at once.
const CHUNK: usize = 256 * 1024;
/// How many names are held back before they are written: each time, the whole index is.
const BATCH: usize = 200;

/// A layout that answers as a registry.
pub struct LayoutRegistry {
    layout: Layout,
    naming: Naming,
    names: Mutex<Names>,
    /// Nobody removes what has no name yet.
    _writing: Option<Writing>,
}

/// What the entries are called, and what is not written yet.
#[derive(Default)]
struct Names {
    known: BTreeMap<Name, Descriptor>,
    changed: Vec<Change>,
}

/// A change of the index.
enum Change {
    Set(Box<Descriptor>),
    Remove(Name),
}

impl LayoutRegistry {
    /// The images of `layout`, which are only read.
    ///
    /// # Errors
    /// When its index cannot be read.
    pub fn open(layout: Layout) -> Result<Self, StoreError> {
        Self::with(layout, Naming::Whole, None)
    }

    /// The same, to be written to; new entries are called as `naming` says.
    ///
    /// # Errors
    /// When its index cannot be read.
    pub fn create(layout: Layout, naming: Naming) -> Result<Self, StoreError> {
        let writing = layout.writing()?;
        Self::with(layout, naming, Some(writing))
    }

    fn with(layout: Layout, naming: Naming, writing: Option<Writing>) -> Result<Self, StoreError> {
        let entries = layout.index()?.manifests.into_iter();
        let known = entries.filter_map(|entry| Some((name_of(&entry)?, entry)));
        Ok(Self {
            names: Mutex::new(Names {
                known: known.collect(),
                changed: Vec::new(),
            }),
            layout,
            naming,
            _writing: writing,
        })
    }

    /// The layout.
    pub const fn layout(&self) -> &Layout {
        &self.layout
    }

    /// Writes the names that were held back.
    ///
    /// # Errors
    /// When the index cannot be written. Names are then what they were.
    pub fn flush(&self) -> Result<(), StoreError> {
        let changed = std::mem::take(&mut self.names().changed);
        if changed.is_empty() {
            return Ok(());
        }
        self.layout.change(|entries| {
            let called = |entry: &Descriptor| entry.annotations.get(REF_NAME).cloned();
            for change in changed {
                match change {
                    Change::Set(entry) => {
                        entries.retain(|old| called(old) != called(&entry));
                        entries.push(*entry);
                    }
                    Change::Remove(name) => {
                        entries.retain(|old| name_of(old).as_ref() != Some(&name));
                    }
                }
            }
        })
    }

    fn names(&self) -> MutexGuard<'_, Names> {
        self.names.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn find(&self, reference: &Reference) -> Option<Descriptor> {
        let (path, tag) = (reference.repository().path(), reference.tag()?);
        let names = self.names();
        // An archive of one image has one, whatever is asked for.
        if let Naming::One { .. } = self.naming {
            return names.known.get(&self.own_name(path, tag)?).cloned();
        }
        find(&names.known, path, tag).cloned()
    }

    /// What an entry for `tag` of `path` is called.
    fn own_name(&self, path: &str, tag: &Tag) -> Option<Name> {
        let mut entry = Descriptor::of(MediaType::OciManifest, b"");
        entry.annotations = annotations(&self.naming, path, tag);
        name_of(&entry)
    }

    fn read(&self, reference: &Reference) -> Result<Option<RawManifest>> {
        let named = match reference.digest() {
            Some(_) => None,
            None => match self.find(reference) {
                Some(named) => Some(named),
                None => return Ok(None),
            },
        };
        let digest = named.as_ref().map(|named| &named.digest);
        let Some(digest) = digest.or(reference.digest()) else {
            return Ok(None);
        };
        let path = self.layout.blob_path(digest);
        let size = match fs_err::metadata(&path) {
            Ok(found) if found.is_file() => found.len(),
            _ => return Ok(None),
        };
        let blob = Descriptor::new(MediaType::OciManifest, digest.clone(), size);
        let bytes = self.layout.read_small(&blob, MAX_MANIFEST_BYTES);
        let bytes = bytes.map_err(|error| failed("read a manifest of the archive", error))?;
        let mut manifest = RawManifest::kept(digest.clone(), bytes.into());
        if let Some(named) = named {
            manifest.media_type = named.media_type;
        }
        Ok(Some(manifest))
    }

    fn put(&self, reference: &Reference, media_type: &MediaType, bytes: &Bytes) -> Result<()> {
        let action = "write a manifest into the archive";
        let written = self.layout.write_blob(&**bytes, reference.digest());
        let (digest, size) = written.map_err(|error| failed(action, error))?;
        let Some(tag) = reference.tag().filter(|_| reference.digest().is_none()) else {
            return Ok(());
        };
        let path = reference.repository().path();
        let mut entry = Descriptor::new(media_type.clone(), digest, size);
        entry.annotations = annotations(&self.naming, path, tag);
        let is_full = {
            let mut names = self.names();
            if let Some(name) = name_of(&entry) {
                names.known.insert(name, entry.clone());
            }
            names.changed.push(Change::Set(entry.into()));
            names.changed.len() >= BATCH
        };
        if is_full {
            self.flush().map_err(|error| failed(action, error))?;
        }
        Ok(())
    }

    async fn write(&self, blob: &Descriptor, content: Content) -> Result<()> {
        let reader = StreamReader::new(content.map_err(std::io::Error::other));
        let reader = SyncIoBridge::new(reader);
        let (layout, digest) = (self.layout.clone(), blob.digest.clone());
        let written =
            tokio::task::spawn_blocking(move || layout.write_blob(reader, Some(&digest))).await;
        let action = "write a blob into the archive";
        match written.map_err(|_| failed(action, std::io::Error::other("a thread broke off")))? {
            Ok(_) => Ok(()),
            // What the source says stands in the error of reading.
            Err(StoreError::Io { source, action }) => Err(match source.downcast::<Error>() {
                Ok(error) => error,
                Err(source) => failed(action, source),
            }),
            Err(error) => Err(failed(action, error)),
        }
    }
}

impl LocalRegistry for LayoutRegistry {
    fn manifest<'a>(
        &'a self,
        reference: &'a Reference,
    ) -> BoxFuture<'a, Result<Option<RawManifest>>> {
        async { self.read(reference) }.boxed()
    }

    fn put_manifest<'a>(
        &'a self,
        reference: &'a Reference,
        media_type: &'a MediaType,
        bytes: Bytes,
    ) -> BoxFuture<'a, Result<()>> {
        async move { self.put(reference, media_type, &bytes) }.boxed()
    }

    fn untag<'a>(&'a self, reference: &'a Reference) -> BoxFuture<'a, Result<bool>> {
        let tag = reference.tag();
        let name = tag.map(|tag| (reference.repository().path().to_owned(), tag.clone()));
        let mut names = self.names();
        let removed = name.filter(|name| names.known.remove(name).is_some());
        let was_there = removed.is_some();
        names.changed.extend(removed.map(Change::Remove));
        async move { Ok(was_there) }.boxed()
    }

    fn blob<'a>(
        &'a self,
        blob: &'a Digest,
        offset: u64,
    ) -> BoxFuture<'a, Result<Option<(u64, Content)>>> {
        let action = "read a blob of the archive";
        async move {
            let path = self.layout.blob_path(blob);
            let size = match fs_err::tokio::metadata(&path).await {
                // Opening a pipe would wait for its writer.
                Ok(found) if found.is_file() => found.len(),
                _ => return Ok(None),
            };
            let file = fs_err::tokio::File::open(&path).await;
            let mut file = file.map_err(|error| failed(action, error))?.into_parts().0;
            let sought = file.seek(SeekFrom::Start(offset)).await;
            sought.map_err(|error| failed(action, error))?;
            let content = ReaderStream::with_capacity(file, CHUNK);
            let content = content.map_err(move |error| failed(action, error)).boxed();
            Ok(Some((size, content)))
        }
        .boxed()
    }

    fn push_blob<'a>(
        &'a self,
        blob: &'a Descriptor,
        content: Content,
    ) -> BoxFuture<'a, Result<()>> {
        self.write(blob, content).boxed()
    }

    fn tags(&self) -> BoxFuture<'_, Result<Vec<(String, Tag)>>> {
        let all = self.names().known.keys().cloned().collect();
        async { Ok(all) }.boxed()
    }
}

fn failed(action: &str, error: impl Into<Box<dyn std::error::Error + Send + Sync>>) -> Error {
    Error::Io {
        action: action.to_owned(),
        source: std::io::Error::other(error),
    }
}
