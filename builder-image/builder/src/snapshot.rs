//! A snapshot: the tree that a stack of layers shows, with whiteouts and opaque directories honoured, as overlayfs would
//! show it. Read only, and without mounting anything. Layers are directories, or listings where contents do not matter.

mod part;

use std::{
    collections::{BTreeMap, BTreeSet, HashMap},
    ffi::OsString,
    fs::File,
    sync::{Arc, Mutex, PoisonError},
};

use self::part::Part;
use crate::{
    layer::{LayerDir, Listing, Picked},
    tree::{Entry, ImagePath, Kind, Tree, TreeError, Xattrs},
};

/// A stack of layers.
#[derive(Debug, Default)]
pub struct Snapshot {
    /// The layers, the lowest first.
    layers: Vec<Part>,
    /// Which layers contribute to a directory, uppermost first; `None` for what is no directory. Layers do not change,
    /// so neither does this.
    parts: Mutex<HashMap<ImagePath, Option<Arc<[usize]>>>>,
    /// The files that somebody asked for, of which only the listing is known.
    lacked: Mutex<BTreeSet<ImagePath>>,
}

impl Clone for Snapshot {
    fn clone(&self) -> Self {
        Self::of(self.layers.clone())
    }
}

/// What a layer or several have at one path.
struct Found {
    /// The uppermost entry; of a directory that layers only imply, the uppermost that one describes.
    entry: Entry,
    /// The layer that `entry` is from.
    layer: usize,
    /// The layers that contribute to a directory, uppermost first; empty for anything else.
    parts: Vec<usize>,
}

impl Snapshot {
    fn of(layers: Vec<Part>) -> Self {
        Self {
            layers,
            parts: Mutex::default(),
            lacked: Mutex::default(),
        }
    }

    /// The tree of `layers`, the lowest first.
    pub fn new(layers: Vec<Arc<LayerDir>>) -> Self {
        Self::of(layers.into_iter().map(Part::Unpacked).collect())
    }

    /// The tree with nothing in it: `scratch`.
    pub fn empty() -> Self {
        Self::default()
    }

    /// This tree with one more layer on top.
    #[must_use]
    pub fn with(&self, layer: Arc<LayerDir>) -> Self {
        self.with_part(Part::Unpacked(layer))
    }

    /// This tree with one more layer on top, of which only the listing is known.
    #[must_use]
    pub fn with_listing(&self, listing: Arc<Listing>) -> Self {
        self.with_part(Part::Listed {
            listing,
            picked: Vec::new(),
        })
    }

    /// This tree with contents of files of its layer number `layer`, which is listed.
    #[must_use]
    pub fn with_picked(&self, layer: usize, contents: Vec<Arc<Picked>>) -> Self {
        let mut layers = self.layers.clone();
        if let Some(Part::Listed { picked, .. }) = layers.get_mut(layer) {
            picked.extend(contents);
        }
        Self::of(layers)
    }

    /// The number and the listing of the layer that the content of the file `path` is to be taken from; `None` where it is
    /// there, or no file.
    ///
    /// # Errors
    /// When the tree cannot be read.
    pub fn lacking(&self, path: &ImagePath) -> Result<Option<(usize, Arc<Listing>)>, TreeError> {
        let Some((entry, layer)) = self.find_any(path)? else {
            return Ok(None);
        };
        if entry.kind != Kind::File {
            return Ok(None);
        }
        let listing = self.layers[layer].lacking(path);
        Ok(listing.map(|listing| (layer, Arc::clone(listing))))
    }

    fn with_part(&self, part: Part) -> Self {
        let mut layers = self.layers.clone();
        layers.push(part);
        Self::of(layers)
    }

    /// The layers as directories, the lowest first; `None` where one is only listed.
    pub fn directories(&self) -> Option<Vec<Arc<LayerDir>>> {
        let directory = |part: &Part| match part {
            Part::Unpacked(layer) => Some(Arc::clone(layer)),
            Part::Listed { .. } => None,
        };
        self.layers.iter().map(directory).collect()
    }

    /// Whether contents of all files are there.
    pub fn is_unpacked(&self) -> bool {
        let unpacked = |part: &Part| matches!(part, Part::Unpacked(_));
        self.layers.iter().all(unpacked)
    }

    /// Whether somebody asked this value for the content of a file that is only listed. What failed for it, or was decided
    /// after it, is to be done again with that content.
    pub fn lacked_content(&self) -> bool {
        let lacked = self.lacked.lock().unwrap_or_else(PoisonError::into_inner);
        !lacked.is_empty()
    }

    /// The files that [`Self::lacked_content`] is about.
    pub fn lacked(&self) -> BTreeSet<ImagePath> {
        let lacked = self.lacked.lock().unwrap_or_else(PoisonError::into_inner);
        lacked.clone()
    }

    fn parts_of(&self, path: &ImagePath) -> Result<Option<Arc<[usize]>>, TreeError> {
        let cache = || self.parts.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(known) = cache().get(path) {
            return Ok(known.clone());
        }
        let parts = match path.parent() {
            None => Some(self.root_parts()?),
            Some(_) => self
                .find(path)?
                .filter(|found| found.entry.is_directory())
                .map(|found| found.parts.into()),
        };
        cache().insert(path.clone(), parts.clone());
        Ok(parts)
    }

    fn root_parts(&self) -> Result<Arc<[usize]>, TreeError> {
        let mut parts = Vec::new();
        for (number, layer) in self.layers.iter().enumerate().rev() {
            parts.push(number);
            if layer.is_opaque(&ImagePath::root())? {
                break;
            }
        }
        Ok(parts.into())
    }

    /// What the stack has at `path`, which is not the root.
    fn find(&self, path: &ImagePath) -> Result<Option<Found>, TreeError> {
        let Some(above) = path.parent() else {
            return Ok(None);
        };
        let Some(candidates) = self.parts_of(&above)? else {
            return Ok(None);
        };
        let mut found: Option<Found> = None;
        for &number in candidates.iter() {
            let layer = &self.layers[number];
            let Some(entry) = layer.entry(path)? else {
                continue;
            };
            if !entry.is_directory() {
                // Below a directory, a file or a whiteout only ends the stack.
                if found.is_none() && entry.kind != Kind::Whiteout {
                    found = Some(Found {
                        entry,
                        layer: number,
                        parts: Vec::new(),
                    });
                }
                break;
            }
            match &mut found {
                None => {
                    found = Some(Found {
                        entry,
                        layer: number,
                        parts: vec![number],
                    });
                }
                Some(upper) => {
                    if self.layers[upper.layer].is_implied(path) {
                        upper.entry = entry;
                        upper.layer = number;
                    }
                    upper.parts.push(number);
                }
            }
            if layer.is_opaque(path)? {
                break;
            }
        }
        Ok(found)
    }

    fn root_entry(&self) -> Result<Option<(Entry, usize)>, TreeError> {
        let root = ImagePath::root();
        let described = |number: &usize| !self.layers[*number].is_implied(&root);
        let parts = self.root_parts()?;
        let Some(number) = parts
            .iter()
            .copied()
            .find(described)
            .or(parts.first().copied())
        else {
            return Ok(None);
        };
        Ok(self.layers[number]
            .entry(&root)?
            .map(|entry| (entry, number)))
    }

    /// The layer that the regular file `path` is from.
    fn layer_of_file(&self, path: &ImagePath) -> Result<&Part, TreeError> {
        match self.find_any(path)? {
            None => Err(TreeError::NotFound(path.clone())),
            Some((entry, _)) if entry.kind != Kind::File => Err(TreeError::NotAFile(path.clone())),
            Some((_, layer)) => Ok(&self.layers[layer]),
        }
    }

    /// Notes that the content of the file `path` was asked for and is not there.
    fn lacks(&self, path: &ImagePath) -> TreeError {
        let mut lacked = self.lacked.lock().unwrap_or_else(PoisonError::into_inner);
        lacked.insert(path.clone());
        TreeError::NotUnpacked(path.clone())
    }

    /// The entry at `path` and the layer that it is from.
    fn find_any(&self, path: &ImagePath) -> Result<Option<(Entry, usize)>, TreeError> {
        if path.is_root() {
            return self.root_entry();
        }
        Ok(self.find(path)?.map(|found| (found.entry, found.layer)))
    }
}

impl Tree for Snapshot {
    fn lookup(&self, path: &ImagePath) -> Result<Option<Entry>, TreeError> {
        if path.is_root() && self.layers.is_empty() {
            return Ok(Some(scratch_root()));
        }
        Ok(self.find_any(path)?.map(|(entry, _)| entry))
    }

    fn read_dir(&self, path: &ImagePath) -> Result<Vec<(OsString, Entry)>, TreeError> {
        let Some(parts) = self.parts_of(path)? else {
            return Err(match self.lookup(path)? {
                None => TreeError::NotFound(path.clone()),
                Some(_) => TreeError::NotADirectory(path.clone()),
            });
        };
        // The uppermost layer that has a name decides; a directory that it only implies is decided further down.
        let mut merged: BTreeMap<OsString, (Entry, bool)> = BTreeMap::new();
        for &number in parts.iter() {
            let layer = &self.layers[number];
            for (name, entry) in layer.entries(path)?.unwrap_or_default() {
                let below = path.child(&name);
                let implied =
                    entry.is_directory() && layer.is_implied(&below) && !layer.is_opaque(&below)?;
                match merged.get_mut(&name) {
                    None => {
                        merged.insert(name, (entry, implied));
                    }
                    Some((known, undecided)) if *undecided => {
                        if entry.is_directory() {
                            *known = entry;
                        }
                        *undecided = implied;
                    }
                    Some(_) => {}
                }
            }
        }
        let shown = |(name, (entry, _)): (OsString, (Entry, bool))| {
            (entry.kind != Kind::Whiteout).then_some((name, entry))
        };
        Ok(merged.into_iter().filter_map(shown).collect())
    }

    fn open(&self, path: &ImagePath) -> Result<File, TreeError> {
        let opened = self.layer_of_file(path)?.open(path)?;
        opened.ok_or_else(|| self.lacks(path))
    }

    fn open_with_xattrs(&self, path: &ImagePath) -> Result<(File, Xattrs), TreeError> {
        let opened = self.layer_of_file(path)?.open_with_xattrs(path)?;
        opened.ok_or_else(|| self.lacks(path))
    }

    fn xattrs(&self, path: &ImagePath) -> Result<Xattrs, TreeError> {
        match self.find_any(path)? {
            None if path.is_root() => Ok(Xattrs::new()),
            None => Err(TreeError::NotFound(path.clone())),
            Some((entry, layer)) => self.layers[layer].xattrs(path, &entry.kind),
        }
    }
}

/// The root directory of a tree without layers.
fn scratch_root() -> Entry {
    Entry {
        kind: Kind::Directory,
        mode: 0o755,
        uid: 0,
        gid: 0,
        mtime: crate::tree::Timestamp::default(),
        size: 0,
        hard_link: None,
    }
}

/// Gives the directories that `layer`'s archive only implied the attributes that they have in `below`, on disk, so that
/// overlayfs shows them as the layer's image means them. Needed before a RUN, for each layer that is not settled yet,
/// with what is below it; a layer that is shared between images with different layers below must not be shared then.
///
/// # Errors
/// When a directory cannot be changed.
pub fn settle_implied(layer: &LayerDir, below: &Snapshot) -> Result<(), crate::layer::LayerError> {
    for path in layer.index().implied() {
        let Some(entry) = below.lookup(path)?.filter(Entry::is_directory) else {
            continue;
        };
        let xattrs = below.xattrs(path)?;
        crate::layer::settle_directory(layer, path, &entry.attributes(xattrs))?;
    }
    Ok(())
}

#[cfg(test)]
mod tests;
