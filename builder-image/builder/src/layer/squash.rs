//! Packs several layers that stand on each other as one: what an upper layer replaces or deletes of a lower one is not in
//! it, and what they delete of the image below stays deleted.

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::path::Path;
use std::sync::Arc;

use std::os::unix::ffi::OsStrExt;

use super::pack::{Packer, Source};
use super::{
    LayerDir, LayerError, OPAQUE_NAME, PackOptions, PackedLayer, WHITEOUT_PREFIX, is_reserved_name,
};
use crate::tree::{Entry, ImagePath, Kind, Tree};

/// Packs `layers`, the lowest first, which stand on `below`, as one blob, like [`super::pack`].
///
/// # Errors
/// Those of [`super::pack`], and when `below` cannot be read.
pub fn squash(
    layers: &[Arc<LayerDir>],
    below: &dyn Tree,
    options: &PackOptions,
    blobs: &Path,
) -> Result<PackedLayer, LayerError> {
    let sources: Result<Vec<_>, _> = layers.iter().map(|layer| Source::open(layer)).collect();
    let mut squasher = Squasher {
        sources: sources?,
        below,
        out: Packer::create(options, blobs)?,
    };
    let uppermost_first: Vec<usize> = (0..layers.len()).rev().collect();
    squasher.directory(&ImagePath::root(), &uppermost_first, true)?;
    squasher.out.finish()
}

struct Squasher<'a> {
    sources: Vec<Source<'a>>,
    below: &'a dyn Tree,
    out: Packer,
}

/// What the layers make of one directory.
struct Merged {
    /// The layers that contribute to it, uppermost first.
    parts: Vec<usize>,
    /// The layer that describes it, and how; none where all only imply it.
    described: Option<(usize, Entry)>,
    /// Whether it hides what is below.
    hides: bool,
}

impl Squasher<'_> {
    /// Writes everything that the layers `parts` have in the directory `path`, where the image below is `visible` or not.
    fn directory(
        &mut self,
        path: &ImagePath,
        parts: &[usize],
        visible: bool,
    ) -> Result<(), LayerError> {
        let mut names: BTreeMap<OsString, Vec<(usize, Entry)>> = BTreeMap::new();
        for &part in parts {
            let entries = self.sources[part].layer.entries(path)?;
            for (name, entry) in entries.unwrap_or_default() {
                names.entry(name).or_default().push((part, entry));
            }
        }
        for (name, found) in names {
            let child = path.child(&name);
            if is_reserved_name(&name) {
                return Err(LayerError::ReservedName(child));
            }
            let (uppermost, entry) = &found[0];
            let covered = if visible {
                self.below.lookup(&child)?
            } else {
                None
            };
            match entry.kind {
                Kind::Whiteout if covered.is_some() => {
                    let name = [WHITEOUT_PREFIX, name.as_bytes()].concat();
                    self.out.marker(path, &name)?;
                }
                Kind::Whiteout | Kind::Socket => {}
                Kind::Directory => {
                    let merged = self.merge(&child, &found)?;
                    if let Some((part, entry)) = &merged.described {
                        self.out.entry(&self.sources[*part], &child, entry)?;
                    }
                    let covers = covered.is_some_and(|covered| covered.is_directory());
                    if merged.hides && covers {
                        self.out.marker(&child, OPAQUE_NAME)?;
                    }
                    self.directory(&child, &merged.parts, covers && !merged.hides)?;
                }
                _ => self.out.entry(&self.sources[*uppermost], &child, entry)?,
            }
        }
        Ok(())
    }

    /// What becomes of the directory `path`, of which the layers have `found`, uppermost first.
    fn merge(&self, path: &ImagePath, found: &[(usize, Entry)]) -> Result<Merged, LayerError> {
        let mut merged = Merged {
            parts: Vec::new(),
            described: None,
            hides: false,
        };
        for (part, entry) in found {
            if !entry.is_directory() {
                // A file or a deletion that the directory took the place of.
                merged.hides = true;
                break;
            }
            let layer = self.sources[*part].layer;
            merged.parts.push(*part);
            if merged.described.is_none() && !layer.index().is_implied(path) {
                merged.described = Some((*part, entry.clone()));
            }
            if layer.is_opaque(path)? {
                merged.hides = true;
                break;
            }
        }
        Ok(merged)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::fixture::{all_owners, layer, show, snapshot};
    use crate::layer::Compression;
    use crate::snapshot::Snapshot;
    use crate::unpack::{Limits, unpack};

    /// The tree of `base` and `layers` one by one and squashed, and the names in the squashed layer.
    fn squashed(base: &str, layers: &[&str]) -> String {
        let mut names = Vec::new();
        for owners in all_owners() {
            let dir = tempfile::tempdir().unwrap();
            let path = |name: &str| dir.path().join(name);
            let below = snapshot(&[base], dir.path(), owners);
            let layers: Vec<_> = (0..)
                .zip(layers)
                .map(|(number, text)| layer(text, &path(&format!("upper{number}")), owners))
                .collect();
            let one_by_one = layers
                .iter()
                .fold(below.clone(), |below, layer| below.with(Arc::clone(layer)));
            let options = PackOptions {
                compression: Compression::None,
                ..PackOptions::default()
            };
            let packed = squash(&layers, &below, &options, &path("blobs")).unwrap();
            let blob = fs_err::read(&packed.blob).unwrap();
            let media_type = &packed.descriptor.media_type;
            let into = path("squashed");
            let (layer, _) = unpack(
                blob.as_slice(),
                media_type,
                &into,
                &Limits::default(),
                owners,
            )
            .unwrap();
            let together: Snapshot = below.with(Arc::new(layer));
            assert_eq!(show(&together), show(&one_by_one), "{base} {layers:?}");
            let mut archive = tar::Archive::new(blob.as_slice());
            let found = archive.entries().unwrap().map(|entry| {
                let entry = entry.unwrap();
                entry.path().unwrap().display().to_string()
            });
            names.push(found.collect::<Vec<_>>().join(" "));
        }
        assert!(names.windows(2).all(|pair| pair[0] == pair[1]));
        names.remove(0)
    }

    #[test]
    fn one_layer_shows_what_several_did() {
        for (base, layers, names) in [
            ("", &["/a = 1", "/a = 2; /b = 3"][..], "a b"),
            // What was made and deleted on the way is not in it.
            ("/keep = k", &["/tmp = t", "/tmp whiteout"], ""),
            // What is below stays deleted.
            ("/gone = g", &["/gone whiteout", "/a = 1"], "a .wh.gone"),
            ("/gone = g", &["/gone whiteout", "/gone = new"], "gone"),
            // A directory that was deleted and made again hides what is below.
            (
                "/d/old = o",
                &["/d whiteout", "/d/; /d/new = n"],
                "d/ d/.wh..wh..opq d/new",
            ),
            (
                "/d/old = o",
                &["/d/; /d/one = 1", "/d/; /d opaque; /d/two = 2"],
                "d/ d/.wh..wh..opq d/two",
            ),
            // Of nothing below, nothing is hidden.
            (
                "",
                &["/d/one = 1", "/d/; /d opaque; /d/two = 2"],
                "d/ d/two",
            ),
            (
                "/d/a = 1",
                &["/d/; /d/b = 2", "/d/; /d/a whiteout"],
                "d/ d/.wh.a d/b",
            ),
            ("/x = file", &["/x/; /x/y = 1"], "x/ x/y"),
            ("/x/y = 1", &["/x = file", "/z = 1"], "x z"),
            ("", &["/a = 1; /b == /a", "/a = 2"], "a b"),
        ] {
            assert_eq!(squashed(base, layers), names, "{base} {layers:?}");
        }
    }
}
