//! What a RUN changed: its upper directory is the layer, after what means nothing was taken out of it. Only the upper
//! directory is walked, never the image. Links that the step left are not followed.

use std::{collections::BTreeSet, ffi::OsString, fs::File, io, path::Path};

use crate::{
    layer::{LayerDir, LayerError, Root},
    snapshot::Snapshot,
    tree::{Entry, ImagePath, Kind, Tree, TreeError},
};

/// Makes the upper directory of a finished RUN over `base` a layer.
///
/// Taken out are whiteouts of what the image never had (a mount point of the step, say), and what overlayfs copied up but
/// the step left as it was. Opaque directories become explicit whiteouts (image-spec, layer.md, "Opaque Whiteout"), so
/// that what a step removed and made again is not in its layer. A file with several names stays: its other names may be
/// new.
///
/// # Errors
/// When the directory cannot be read or changed.
pub fn layer_of_run(upper: &Path, base: &Snapshot) -> Result<LayerDir, LayerError> {
    let layer = LayerDir::open(upper)?;
    let root = Root::open(upper).map_err(|source| LayerError::directory(upper, source))?;
    let cleaner = Cleaner {
        layer: &layer,
        root: &root,
        base,
    };
    cleaner.directory(&ImagePath::root(), true, false)?;
    Ok(layer)
}

struct Cleaner<'a> {
    layer: &'a LayerDir,
    root: &'a Root,
    base: &'a Snapshot,
}

impl Cleaner<'_> {
    /// Cleans a directory; `in_base` says whether the image has a directory there, `hidden` whether a directory above was
    /// opaque. Returns whether anything is left in it.
    fn directory(
        &self,
        directory: &ImagePath,
        in_base: bool,
        hidden: bool,
    ) -> Result<bool, LayerError> {
        let mtime = self.layer.entry(directory)?.map(|entry| entry.mtime);
        let entries = self.layer.entries(directory)?.unwrap_or_default();
        let opaque = self.layer.is_opaque(directory)?;
        let (mut changed, mut left) = (false, 0_usize);
        if in_base && (opaque || hidden) {
            let names: BTreeSet<&OsString> = entries.iter().map(|(name, _)| name).collect();
            for (name, _) in self.base.read_dir(directory)? {
                if !names.contains(&name) {
                    let path = directory.child(&name);
                    written(&path, self.root.whiteout(&path))?;
                    (changed, left) = (true, left + 1);
                }
            }
        }
        if opaque {
            written(directory, self.root.clear_opaque(directory))?;
        }
        for (name, entry) in entries {
            let path = directory.child(&name);
            let below = if in_base {
                self.base.lookup(&path)?
            } else {
                None
            };
            if self.keeps(&path, &entry, below.as_ref(), opaque || hidden)? {
                left += 1;
            } else {
                written(&path, self.root.remove(&path, entry.is_directory()))?;
                changed = true;
            }
        }
        if let Some(mtime) = mtime.filter(|_| changed) {
            written(directory, self.root.set_directory_mtime(directory, mtime))?;
        }
        Ok(left > 0)
    }

    /// Whether the entry at `path` belongs in the layer, over what the image has there.
    fn keeps(
        &self,
        path: &ImagePath,
        entry: &Entry,
        below: Option<&Entry>,
        hidden: bool,
    ) -> Result<bool, LayerError> {
        match &entry.kind {
            Kind::Directory => {
                let below = below.filter(|below| below.is_directory());
                let left = self.directory(path, below.is_some(), hidden)?;
                Ok(match below {
                    Some(below) if !left => !self.same_attributes(path, entry, below)?,
                    _ => true,
                })
            }
            Kind::Whiteout => Ok(below.is_some()),
            kind => match below {
                Some(below) if below.kind == *kind => self.differs(path, entry, below),
                _ => Ok(true),
            },
        }
    }

    /// Whether a file is another than that of the image. Times decide before contents are read.
    fn differs(&self, path: &ImagePath, entry: &Entry, below: &Entry) -> Result<bool, LayerError> {
        if entry.hard_link.is_some()
            || (entry.size, entry.mtime) != (below.size, below.mtime)
            || !self.same_attributes(path, entry, below)?
        {
            return Ok(true);
        }
        if entry.kind != Kind::File {
            return Ok(false);
        }
        let ours = self.root.file(path);
        let ours = ours.map_err(|error| TreeError::io(path, error))?;
        Ok(!same_content(path, ours, self.base.open(path)?)?)
    }

    /// Whether owner, mode and extended attributes are those of the image.
    fn same_attributes(
        &self,
        path: &ImagePath,
        entry: &Entry,
        below: &Entry,
    ) -> Result<bool, LayerError> {
        Ok(
            (entry.mode, entry.uid, entry.gid) == (below.mode, below.uid, below.gid)
                && self.layer.xattrs(path, &entry.kind)? == self.base.xattrs(path)?,
        )
    }
}

fn written<T>(path: &ImagePath, done: io::Result<T>) -> Result<T, LayerError> {
    done.map_err(|error| LayerError::write(path, error))
}

/// Whether the files `a` and `b`, which are at `path`, have the same bytes.
pub(crate) fn same_content(path: &ImagePath, a: File, b: File) -> Result<bool, TreeError> {
    use std::io::{BufRead as _, BufReader};
    let (mut a, mut b) = (
        BufReader::with_capacity(1 << 16, a),
        BufReader::with_capacity(1 << 16, b),
    );
    let failed = |error| TreeError::io(path, error);
    loop {
        let (left, right) = (a.fill_buf().map_err(failed)?, b.fill_buf().map_err(failed)?);
        let length = left.len().min(right.len());
        if left[..length] != right[..length] {
            return Ok(false);
        }
        if length == 0 {
            return Ok(left.len() == right.len());
        }
        a.consume(length);
        b.consume(length);
    }
}

#[cfg(test)]
mod tests;
