//! What a step needs of layers that are only listed: what COPY would read, by the same walk that finds what it copies, and
//! what a step has asked for in vain. Reading listings only.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
};

use crate::{
    layer::Listing,
    snapshot::Snapshot,
    step::{
        StepError,
        copy::{CopySource, CopySpec},
        source::{select, walk},
    },
    tree::{ImagePath, Kind, TreeError},
};

/// Files of one listed layer whose contents are not there.
#[derive(Debug)]
pub struct Lacking {
    /// What the layer looks like.
    pub listing: Arc<Listing>,
    /// The files.
    pub paths: BTreeSet<ImagePath>,
}

/// Files without contents, by the number of their layer.
pub type LackingFiles = BTreeMap<usize, Lacking>;

/// What is lacking in `from` for the sources of `spec`.
///
/// # Errors
/// As [`super::digest_inputs`], but for contents.
pub fn lacking(spec: &CopySpec, from: &Snapshot) -> Result<LackingFiles, StepError> {
    let mut found = LackingFiles::new();
    for source in &spec.sources {
        let CopySource::Path(text) = source else {
            continue;
        };
        for selection in &select(spec, from, text)? {
            walk(from, selection, &mut |visit| {
                if visit.entry.kind == Kind::File {
                    note(&mut found, from, visit.path)?;
                }
                Ok(())
            })?;
        }
    }
    Ok(found)
}

/// What somebody has asked `tree` for in vain.
///
/// # Errors
/// When the tree cannot be read.
pub fn lacked(tree: &Snapshot) -> Result<LackingFiles, TreeError> {
    let mut found = LackingFiles::new();
    for path in tree.lacked() {
        note(&mut found, tree, &path)?;
    }
    Ok(found)
}

fn note(found: &mut LackingFiles, tree: &Snapshot, path: &ImagePath) -> Result<(), TreeError> {
    if let Some((layer, listing)) = tree.lacking(path)? {
        let files = found.entry(layer).or_insert_with(|| Lacking {
            listing,
            paths: BTreeSet::new(),
        });
        files.paths.insert(path.clone());
    }
    Ok(())
}
