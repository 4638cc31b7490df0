//! What a RUN changed: its upper directory is the layer, after marks that mean nothing were taken out of it. Only the
//! upper directory is walked, never the image. Links that the step left are not followed.

use std::path::Path;

use crate::{
    layer::{LayerDir, LayerError, Root},
    snapshot::Snapshot,
    tree::{Entry, ImagePath, Kind, Tree},
};

/// Makes the upper directory of a finished RUN over `base` a layer.
///
/// Taken out are whiteouts of what the image never had (a mount point of the step, say), and the opaque mark of
/// directories that the image does not have: overlayfs sets it on every new directory to spare itself a lookup.
///
/// # Errors
/// When the directory cannot be read or changed.
pub fn layer_of_run(upper: &Path, base: &Snapshot) -> Result<LayerDir, LayerError> {
    let layer = LayerDir::open(upper)?;
    let root = Root::open(upper).map_err(|source| LayerError::directory(upper, source))?;
    clean(&layer, &root, base, &ImagePath::root())?;
    Ok(layer)
}

fn clean(
    layer: &LayerDir,
    root: &Root,
    base: &Snapshot,
    directory: &ImagePath,
) -> Result<(), LayerError> {
    let failed = |error| LayerError::write(directory, error);
    let mtime = layer.entry(directory)?.map(|entry| entry.mtime);
    let mut removed = false;
    for (name, entry) in layer.entries(directory)?.unwrap_or_default() {
        let path = directory.child(&name);
        match entry.kind {
            Kind::Directory => {
                if layer.is_opaque(&path)?
                    && !base
                        .lookup(&path)?
                        .is_some_and(|below| Entry::is_directory(&below))
                {
                    root.clear_opaque(&path)
                        .map_err(|error| LayerError::write(&path, error))?;
                }
                clean(layer, root, base, &path)?;
            }
            Kind::Whiteout if base.lookup(&path)?.is_none() => {
                root.remove(&path)
                    .map_err(|error| LayerError::write(&path, error))?;
                removed = true;
            }
            _ => {}
        }
    }
    match mtime {
        Some(mtime) if removed => root.set_directory_mtime(directory, mtime).map_err(failed),
        _ => Ok(()),
    }
}

#[cfg(test)]
mod tests;
