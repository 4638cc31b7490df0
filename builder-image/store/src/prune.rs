//! Removing what a layout no longer needs: blobs that no name leads to. Whoever writes blobs that get their name later holds
//! the layout meanwhile, and nothing is removed then. It never touches names, nor files that are no blobs.

use std::{collections::HashSet, io::Read};

use fs_err as fs;
use oci::{Digest, MAX_MANIFEST_BYTES};
use rustix::fs::FlockOperation;
use serde_json::Value;

use crate::{Doing, Layout, Result};

/// How the temporary files of writers begin.
pub(crate) const NEW: &str = ".new-";

/// Somebody writes blobs that have no name yet. It ends with the value.
#[derive(Debug)]
pub struct Writing(#[expect(dead_code, reason = "it holds the lock")] fs::File);

/// What was removed.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Pruned {
    /// How many blobs.
    pub blobs: usize,
    /// Their bytes.
    pub bytes: u64,
}

impl Layout {
    /// Says that blobs are written that get their name later: until the value is dropped, nobody prunes. Waits for who does.
    ///
    /// # Errors
    /// When the directory cannot be locked.
    pub fn writing(&self) -> Result<Writing> {
        let (directory, action) = (self.root().join("blobs"), "lock the blobs of the layout");
        let directory = fs::File::open(directory).doing(action)?;
        rustix::fs::flock(&directory, FlockOperation::LockShared)
            .map_err(std::io::Error::from)
            .doing(action)?;
        Ok(Writing(directory))
    }

    /// Removes all blobs that no entry of the index leads to, by whatever document, and what killed writers left. None where
    /// somebody is writing: that one may prune when it is done.
    ///
    /// # Errors
    /// When the index or a document cannot be read; nothing is removed then. When a file cannot be removed.
    pub fn prune(&self) -> Result<Option<Pruned>> {
        let action = "prune the image layout";
        let blobs = self.root().join("blobs");
        let lock = fs::File::open(&blobs).doing(action)?;
        match rustix::fs::flock(&lock, FlockOperation::NonBlockingLockExclusive) {
            Err(rustix::io::Errno::WOULDBLOCK) => return Ok(None),
            locked => locked.map_err(std::io::Error::from).doing(action)?,
        }
        let needed = self.needed()?;
        let mut pruned = Pruned::default();
        for algorithm in fs::read_dir(&blobs).doing(action)? {
            let algorithm = algorithm.doing(action)?;
            if !algorithm.file_type().doing(action)?.is_dir() {
                continue;
            }
            for blob in fs::read_dir(algorithm.path()).doing(action)? {
                let blob = blob.doing(action)?;
                let (kind, hex) = (algorithm.file_name(), blob.file_name());
                let (kind, hex) = (kind.to_string_lossy(), hex.to_string_lossy());
                let left = hex.starts_with(NEW);
                let digest = format!("{kind}:{hex}").parse::<Digest>();
                let unneeded = digest.is_ok_and(|digest| !needed.contains(&digest));
                let metadata = blob.metadata().doing(action)?;
                if metadata.is_file() && (left || unneeded) {
                    fs::remove_file(blob.path()).doing(action)?;
                    pruned.blobs += 1;
                    pruned.bytes += metadata.len();
                }
            }
        }
        Ok(Some(pruned))
    }

    /// Every digest that the index or a document below it names. Documents of all kinds count, also of other programs.
    fn needed(&self) -> Result<HashSet<Digest>> {
        let index = serde_json::to_value(self.index()?).unwrap_or_default();
        let mut needed = HashSet::new();
        let mut open = Vec::new();
        collect(&index, &mut open);
        while let Some(digest) = open.pop() {
            if !needed.insert(digest.clone()) {
                continue;
            }
            if let Some(document) = self.json(&digest)? {
                collect(&document, &mut open);
            }
        }
        Ok(needed)
    }

    /// The blob as JSON; none where it is something else, or absent.
    fn json(&self, digest: &Digest) -> Result<Option<Value>> {
        let action = "read a document of the layout";
        let file = match fs::File::open(self.blob_path(digest)) {
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(None),
            opened => opened.doing(action)?,
        };
        let mut bytes = vec![0; 1];
        if file.metadata().doing(action)?.len() > MAX_MANIFEST_BYTES
            || (&file).read(&mut bytes).doing(action)? == 0
            || bytes != b"{"
        {
            return Ok(None);
        }
        let mut rest = file.take(MAX_MANIFEST_BYTES);
        rest.read_to_end(&mut bytes).doing(action)?;
        Ok(serde_json::from_slice(&bytes).ok())
    }
}

/// All strings that are digests, wherever they stand.
fn collect(value: &Value, found: &mut Vec<Digest>) {
    match value {
        Value::String(text) => found.extend(text.parse::<Digest>()),
        Value::Array(values) => values.iter().for_each(|value| collect(value, found)),
        Value::Object(members) => members.values().for_each(|value| collect(value, found)),
        _ => {}
    }
}

#[cfg(test)]
mod tests {
    use oci::{Descriptor, Index, Manifest, MediaType};

    use super::*;

    /// An image of one layer, without a name.
    fn image(layout: &Layout, layer: &str) -> Descriptor {
        let config = layout.write_bytes(MediaType::OciConfig, b"{}").unwrap();
        let layer = layout.write_bytes(MediaType::OciLayer, layer.as_bytes());
        let manifest = Manifest::new(config, vec![layer.unwrap()]);
        let json = serde_json::to_vec(&manifest).unwrap();
        layout.write_bytes(MediaType::OciManifest, &json).unwrap()
    }

    fn count(layout: &Layout) -> usize {
        fs::read_dir(layout.root().join("blobs/sha256"))
            .unwrap()
            .count()
    }

    #[test]
    fn what_no_name_leads_to_goes() {
        let directory = tempfile::tempdir().unwrap();
        let layout = Layout::create(directory.path()).unwrap();
        let (old, new) = (image(&layout, "old"), image(&layout, "new"));
        // An index of what is no image, as BuildKit writes its caches, and a document that no specification knows.
        let strange = layout.write_bytes("text/plain".into(), b"strange").unwrap();
        let naming = serde_json::json!({"somewhere": {"deep": [strange.digest]}});
        let naming = layout.write_bytes("application/x".into(), naming.to_string().as_bytes());
        let index = Index::new(vec![naming.unwrap()]);
        let index = layout.write_bytes(MediaType::OciIndex, &serde_json::to_vec(&index).unwrap());
        layout.tag("other", index.unwrap()).unwrap();
        layout.tag("cache", old).unwrap();
        layout.tag("cache", new).unwrap();
        // What a killed writer left, and what is no blob.
        fs::write(directory.path().join("blobs/sha256/.new-x"), "half").unwrap();
        fs::write(directory.path().join("blobs/sha256/README"), "mine").unwrap();
        let before = count(&layout);
        let pruned = layout.prune().unwrap().unwrap();
        assert_eq!(pruned.blobs, 3, "layer, manifest, half a blob");
        assert_eq!(count(&layout), before - 3);
        for name in ["cache", "other"] {
            let named = layout.find(name).unwrap().unwrap();
            assert!(layout.has_blob(&named));
        }
        assert!(layout.has_blob(&strange));
        assert!(directory.path().join("blobs/sha256/README").exists());
        assert_eq!(layout.prune().unwrap(), Some(Pruned::default()));
    }

    #[test]
    fn nothing_goes_while_somebody_writes() {
        let directory = tempfile::tempdir().unwrap();
        let layout = Layout::create(directory.path()).unwrap();
        let writing = layout.writing().unwrap();
        let unnamed = image(&layout, "unnamed");
        assert_eq!(layout.prune().unwrap(), None);
        assert!(layout.has_blob(&unnamed));
        drop(writing);
        assert_eq!(layout.prune().unwrap().unwrap().blobs, 3);
    }

    #[test]
    fn a_damaged_index_costs_nothing() {
        let directory = tempfile::tempdir().unwrap();
        let layout = Layout::create(directory.path()).unwrap();
        let image = image(&layout, "kept");
        fs::write(directory.path().join("index.json"), "{").unwrap();
        assert!(layout.prune().is_err());
        assert!(layout.has_blob(&image));
    }
}
