//! WORKDIR: makes the directory where it is missing. Changing the configuration is the caller's work, as is leaving the
//! step out for `/`, which makes no layer.

use std::path::Path;

use crate::{
    layer::LayerDir,
    step::{StepError, copy::Onto, owner_of},
    tree::{Attributes, ImagePath, Tree, Xattrs},
    upper::Upper,
};

/// The working directory after `WORKDIR text` where it was `current`: absolute and without `..`.
pub fn next_workdir(current: &str, text: &str) -> String {
    ImagePath::new(current).join(text).to_string()
}

/// Makes the layer of `WORKDIR path` in the new directory `into`: the directories that are missing, 0755 and owned by
/// `user` (the current `USER`; empty for root). What exists is left alone, so the layer may well be empty. Symbolic links
/// are followed inside the image.
///
/// # Errors
/// [`StepError`], as where a file is in the way; the directory is then left for the caller to remove.
pub fn workdir(
    path: &str,
    user: &str,
    onto: &Onto<'_>,
    into: &Path,
) -> Result<LayerDir, StepError> {
    let (uid, gid) = owner_of(user, onto.base)?;
    let mut upper = Upper::create(onto.base, into, onto.owners)?;
    let resolved = upper.resolve(&ImagePath::new(path))?;
    let attributes = Attributes {
        mode: 0o755,
        uid,
        gid,
        mtime: onto.created,
        xattrs: Xattrs::new(),
    };
    upper.make_directories(&resolved, &attributes, false)?;
    Ok(upper.finish()?)
}

#[cfg(test)]
mod tests;
