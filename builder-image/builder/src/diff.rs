//! What a RUN changed: its upper directory is the layer, after what is not the step's doing was taken out of it. Only
//! the upper directory is walked, never the image. Links that the step left are not followed.

use std::path::Path;

use crate::{
    layer::{LayerDir, LayerError, Root},
    snapshot::Snapshot,
    tree::{Entry, ImagePath, Kind, Tree, TreeError},
};

/// Makes the upper directory of a finished RUN over `base` a layer. `stubs` are the mount points that had to be made for
/// the step, a directory before what is in it.
///
/// Taken out are: stubs that are still empty, directories that are in the layer only because a stub was made in them,
/// and whiteouts of what the image never had. A directory that only stubs changed gets its time back.
///
/// # Errors
/// When the directory cannot be read or changed.
pub fn layer_of_run(
    upper: &Path,
    base: &Snapshot,
    stubs: &[ImagePath],
) -> Result<LayerDir, LayerError> {
    let layer = LayerDir::open(upper)?;
    let root = Root::open(upper).map_err(|source| LayerError::directory(upper, source))?;
    let diff = Diff {
        layer: &layer,
        root,
        base,
    };
    diff.remove_idle_whiteouts(&ImagePath::root())?;
    for stub in stubs.iter().rev() {
        diff.remove_stub(stub)?;
    }
    Ok(layer)
}

struct Diff<'a> {
    layer: &'a LayerDir,
    root: Root,
    base: &'a Snapshot,
}

impl Diff<'_> {
    fn remove(&self, path: &ImagePath, entry: &Entry) -> Result<(), LayerError> {
        self.root
            .remove(path, entry.is_directory())
            .map_err(|error| LayerError::write(path, error))
    }

    fn children(&self, path: &ImagePath) -> Result<Vec<(ImagePath, Entry)>, TreeError> {
        let entries = self.layer.entries(path)?.unwrap_or_default();
        Ok(entries
            .into_iter()
            .map(|(name, entry)| (path.child(name), entry))
            .collect())
    }

    fn remove_idle_whiteouts(&self, directory: &ImagePath) -> Result<(), LayerError> {
        let mtime = self.layer.entry(directory)?.map(|entry| entry.mtime);
        let mut removed = false;
        for (path, entry) in self.children(directory)? {
            match entry.kind {
                Kind::Directory => self.remove_idle_whiteouts(&path)?,
                Kind::Whiteout if self.base.lookup(&path)?.is_none() => {
                    self.remove(&path, &entry)?;
                    removed = true;
                }
                _ => {}
            }
        }
        if let (true, Some(mtime)) = (removed, mtime) {
            self.root
                .set_directory_mtime(directory, mtime)
                .map_err(|error| LayerError::write(directory, error))?;
        }
        Ok(())
    }

    fn remove_stub(&self, stub: &ImagePath) -> Result<(), LayerError> {
        let (Some(entry), Some(parent)) = (self.layer.entry(stub)?, stub.parent()) else {
            return Ok(());
        };
        let untouched = match entry.kind {
            Kind::File => entry.size == 0,
            Kind::Directory => self.children(stub)?.is_empty(),
            _ => false,
        };
        if !untouched || self.base.lookup(stub)?.is_some() {
            return Ok(());
        }
        let before = self.layer.entry(&parent)?;
        self.remove(stub, &entry)?;
        if let Some(before) = before {
            self.settle_parent(&parent, &before)?;
        }
        Ok(())
    }

    /// Takes the directory `path`, in which a stub was, out of the layer where nothing else of it changed; else gives it
    /// the time that it had: the image's, where only directories in it changed, or that before the stub was removed.
    fn settle_parent(&self, path: &ImagePath, upper: &Entry) -> Result<(), LayerError> {
        let children = self.children(path)?;
        let base = self.base.lookup(path)?.filter(Entry::is_directory);
        let mut mtime = upper.mtime;
        if let Some(base) = base
            && !self.layer.is_opaque(path)?
        {
            let same = (base.mode, base.uid, base.gid) == (upper.mode, upper.uid, upper.gid)
                && self.base.xattrs(path)? == self.layer.xattrs(path, &Kind::Directory)?;
            if same && children.is_empty() && !path.is_root() {
                let parent = path.parent().unwrap_or_default();
                let before = self.layer.entry(&parent)?;
                self.remove(path, upper)?;
                return before.map_or(Ok(()), |before| self.settle_parent(&parent, &before));
            }
            let mut only_directories = true;
            for (child, entry) in &children {
                let known = self
                    .base
                    .lookup(child)?
                    .is_some_and(|below| below.is_directory());
                only_directories &=
                    entry.is_directory() && known && !self.layer.is_opaque(child)?;
            }
            if only_directories {
                mtime = base.mtime;
            }
        }
        self.root
            .set_directory_mtime(path, mtime)
            .map_err(|error| LayerError::write(path, error))
    }
}

#[cfg(test)]
mod tests;
