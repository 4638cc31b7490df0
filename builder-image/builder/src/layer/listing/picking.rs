//! Contents of some files of a layer, kept while the layer is listed: plain files of one directory, named by what the listing
//! calls them. No name of the archive ever becomes a name on disk.

use std::{
    collections::{BTreeMap, BTreeSet},
    fs::File,
    io::{self, Write},
    path::{Path, PathBuf},
};

use super::Listing;
use crate::{
    layer::{Content, Index, LayerDir, Owners},
    tree::ImagePath,
    wanted::Wanted,
};

/// What is kept of a layer that is being listed.
#[derive(Debug)]
pub(crate) struct Picking {
    wanted: Wanted,
    directory: PathBuf,
    /// The nodes of the listing in the making whose contents are there.
    nodes: BTreeSet<u32>,
}

impl Picking {
    /// Will keep what is `wanted` in the new directory `directory`.
    pub(crate) fn new(wanted: Wanted, directory: &Path) -> io::Result<Self> {
        fs_err::create_dir(directory)?;
        Ok(Self {
            wanted,
            directory: directory.to_owned(),
            nodes: BTreeSet::new(),
        })
    }

    /// Whether the content of `path` is to be kept.
    pub(super) fn takes(&self, path: &ImagePath) -> bool {
        self.wanted.takes(path)
    }

    /// Keeps the content of the node `number`, hands it to `out` as well, and returns its size.
    pub(super) fn keep(
        &mut self,
        number: u32,
        content: &mut dyn Content,
        out: &mut dyn Write,
    ) -> io::Result<u64> {
        let mut file = fs_err::File::create_new(self.directory.join(of_node(number)))?;
        self.nodes.insert(number);
        content.read_into(&mut Both(&mut file, out))
    }

    /// The nodes whose contents were kept.
    pub(super) fn nodes(&self) -> &BTreeSet<u32> {
        &self.nodes
    }

    /// Gives the contents their names by the records that their nodes became; what became none was replaced in the archive
    /// later on. Returns what is there, `None` where that is nothing.
    pub(super) fn settle(
        self,
        records: &BTreeMap<u32, u32>,
        listing: &Listing,
    ) -> io::Result<Option<Picked>> {
        let mut kept = false;
        for number in &self.nodes {
            let staged = self.directory.join(of_node(*number));
            match records.get(number) {
                None => fs_err::remove_file(staged)?,
                Some(&record) => {
                    kept = true;
                    let name = listing.content_name(record).unwrap_or_default();
                    // One with several names is called by its node already.
                    if name != of_node(*number) {
                        fs_err::rename(staged, self.directory.join(name))?;
                    }
                }
            }
        }
        Ok(kept.then_some(Picked {
            directory: self.directory,
        }))
    }
}

/// What the content of a node is called before it is known which record it becomes, and if it becomes several.
pub(super) fn of_node(number: u32) -> String {
    format!("n{number}")
}

/// Writes to two places.
struct Both<'a>(&'a mut fs_err::File, &'a mut dyn Write);

impl Write for Both<'_> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0.write_all(bytes)?;
        self.1.write_all(bytes)?;
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// Contents of some files of a listed layer: a directory.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Picked {
    /// Where they are.
    pub directory: PathBuf,
}

impl Picked {
    /// The directory as a layer, to be put where layers are.
    pub(crate) fn into_layer(self) -> LayerDir {
        LayerDir::from_parts(self.directory, Owners::OnDisk, Index::default())
    }

    /// What [`Self::into_layer`] gave out.
    pub(crate) fn of_layer(layer: LayerDir) -> Self {
        Self {
            directory: layer.path,
        }
    }

    /// Whether the content of the file `path` of `listing` is there, whole.
    pub(crate) fn has(&self, listing: &Listing, path: &ImagePath) -> bool {
        self.place(listing, path).is_some_and(|(place, size)| {
            fs_err::symlink_metadata(place)
                .is_ok_and(|found| found.is_file() && found.len() == size)
        })
    }

    /// Opens the content of the file `path` of `listing`; `None` where it is not there, whole.
    pub(crate) fn open(&self, listing: &Listing, path: &ImagePath) -> io::Result<Option<File>> {
        let Some((place, size)) = self.place(listing, path) else {
            return Ok(None);
        };
        match fs_err::File::open(place) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(error) => Err(error),
            Ok(file) => {
                let whole = file.metadata()?.len() == size;
                Ok(whole.then(|| file.into_parts().0))
            }
        }
    }

    /// Where the content of a file has to be, and its size.
    fn place(&self, listing: &Listing, path: &ImagePath) -> Option<(PathBuf, u64)> {
        let (record, size) = listing.file_at(path)?;
        Some((self.directory.join(listing.content_name(record)?), size))
    }
}
