//! Unpacked layers: directories below `layers/`, each with a marker beside it that says whether it can be trusted.
//!
//! A layer is many small files, and flushing each would cost more than making it. So a new layer's marker names the boot
//! of the machine that it was made in: within that boot it is what was written. After the machine went down, a layer counts
//! only if it was flushed before, as a whole, which the marker says then; any other is absent, and removed. Layers are
//! flushed in the background of a later command, when the system has written most of them anyway.

use std::io::{self, Write};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

use serde::{Deserialize, Serialize};

use super::Cache;
use super::session::{Life, Lock, set_time};
use crate::layer::{LayerDir, LayerError, Owners};

/// How names of markers end.
pub(super) const MARKER: &str = ".mark";

/// How names of markers begin that are being written, always by who is alone.
pub(super) const NEW_MARKER: &str = ".marker-";

/// How names end of layers that have their owners recorded beside them; without the right to set owners, no others can
/// be made, and with it, these cannot be mounted.
const RECORDED: &str = ".recorded";

/// How long ago a layer was used that is flushed. Before, the system still has much of it to write, and a process cannot
/// end while one of its threads waits for that.
const SETTLED: Duration = Duration::from_secs(60);

/// What is known of an unpacked layer.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Marker {
    /// The boot that the layer was made in.
    pub(super) boot: String,
    /// Whether it was flushed to the disk.
    #[serde(default)]
    pub(super) flushed: bool,
    /// How much it takes on the disk, in bytes, once somebody has counted.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) bytes: Option<u64>,
}

impl Marker {
    /// Whether the layer is what was written.
    pub(super) fn is_valid(&self) -> bool {
        self.flushed || (!self.boot.is_empty() && self.boot == boot())
    }

    pub(super) fn read(path: &Path) -> Option<Self> {
        serde_json::from_slice(&fs_err::read(path).ok()?).ok()
    }

    /// Replaces a marker, or makes one; `used` is when the layer was used last.
    pub(super) fn write(&self, path: &Path, used: SystemTime) -> io::Result<()> {
        let parent = path.parent().unwrap_or(Path::new("."));
        let mut file = tempfile::NamedTempFile::with_prefix_in(NEW_MARKER, parent)?;
        file.write_all(&serde_json::to_vec(self).map_err(io::Error::other)?)?;
        set_time(file.path(), used)?;
        file.persist(path)?;
        Ok(())
    }
}

/// What the kernel calls this boot; empty where it does not say.
fn boot() -> String {
    let id = fs_err::read_to_string("/proc/sys/kernel/random/boot_id");
    id.unwrap_or_default().trim().to_owned()
}

impl Cache {
    /// The directory of the unpacked layer `name`.
    pub fn layer(&self, name: &str) -> PathBuf {
        self.root.join("layers").join(name)
    }

    /// A name for an unpacked layer, which is new where `stem` is.
    pub fn layer_name(stem: &str, owners: Owners) -> String {
        match owners {
            Owners::OnDisk => stem.to_owned(),
            Owners::Recorded => format!("{stem}{RECORDED}"),
        }
    }

    fn marker(&self, name: &str) -> PathBuf {
        self.root.join("layers").join(format!("{name}{MARKER}"))
    }

    fn index(&self, name: &str) -> PathBuf {
        self.root.join("layers").join(format!("{name}.index"))
    }

    /// Whether the unpacked layer `name` is there, whole; it is in use then.
    pub fn has_layer(&self, name: &str) -> bool {
        let marker = self.marker(name);
        self.session.claim(&marker) && self.is_whole(name)
    }

    /// Names of the unpacked layers that begin with `prefix`, sorted. Whether one is there, whole, is another question.
    pub fn layers_named(&self, prefix: &str) -> Vec<String> {
        let entries = fs_err::read_dir(self.root.join("layers"));
        let names = entries.into_iter().flatten().filter_map(Result::ok);
        let mut names: Vec<String> = names
            .filter_map(|entry| entry.file_name().into_string().ok())
            .filter(|name| name.starts_with(prefix) && !name.ends_with(MARKER))
            .collect();
        names.sort_unstable();
        names
    }

    fn is_whole(&self, name: &str) -> bool {
        let marker = Marker::read(&self.marker(name));
        marker.is_some_and(|marker| marker.is_valid()) && self.layer(name).is_dir()
    }

    /// Gives an unpacked layer its place. Another one that is there already, whole, is taken instead.
    ///
    /// # Errors
    /// When it cannot be moved.
    pub fn place_layer(&self, layer: LayerDir, name: &str) -> Result<LayerDir, LayerError> {
        let place = self.layer(name);
        self.session.alone(|| {
            if self.is_whole(name) {
                set_time(&self.marker(name), self.session.now()).map_err(LayerError::Index)?;
                return LayerDir::open(place);
            }
            // Half a layer, or half of what a killed process moved.
            if place.exists() || self.index(name).exists() {
                self.discard_layer(name).map_err(LayerError::Index)?;
            }
            let layer = layer.rename_to(place)?;
            self.session.grow();
            let marker = Marker {
                boot: boot(),
                flushed: false,
                bytes: None,
            };
            let written = marker.write(&self.marker(name), self.session.now());
            written.map_err(LayerError::Index)?;
            Ok(layer)
        })
    }

    /// Moves a layer to where work in progress is, marker first. It goes away with the session at the latest. To be called
    /// alone.
    pub(super) fn discard_layer(&self, name: &str) -> io::Result<PathBuf> {
        let trash = tempfile::TempDir::with_prefix_in("trash-", self.tmp())?.keep();
        let place = self.layer(name);
        for (path, to) in [
            (self.marker(name), "mark"),
            (
                self.root.join("layers").join(format!("{name}.index")),
                "index",
            ),
            (place, "layer"),
        ] {
            match fs_err::rename(path, trash.join(to)) {
                Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
                _ => {}
            }
        }
        Ok(trash)
    }
}

/// Whether `name` is that of a layer whose owners are kept in this way, and of nothing outside the directory of layers.
pub(super) fn is_layer_name(name: &str, owners: Owners) -> bool {
    let plain = |b: u8| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'.');
    !name.is_empty()
        && !name.starts_with('.')
        && !name.ends_with(MARKER)
        && name.bytes().all(plain)
        && name.ends_with(RECORDED) == (owners == Owners::Recorded)
}

/// Flushes the layers that were made in this boot, not flushed yet and not used for a minute, on a thread that nobody waits
/// for. It changes nothing any more once the session is over.
pub(super) fn flush_in_background(root: &Path, life: Life) {
    let root = root.to_owned();
    std::thread::spawn(move || {
        if let Err(error) = flush_layers(&root, &life) {
            tracing::debug!(%error, "unpacked layers cannot be flushed");
        }
    });
}

fn flush_layers(root: &Path, life: &Life) -> io::Result<()> {
    let waiting = |path: &Path| -> Option<(u64, Marker)> {
        let marker = Marker::read(path).filter(|marker| marker.is_valid() && !marker.flushed)?;
        Some((fs_err::metadata(path).ok()?.ino(), marker))
    };
    let entries = fs_err::read_dir(root.join("layers"))?.filter_map(Result::ok);
    let paths = entries.map(|entry| entry.path());
    let markers = paths.filter(|path| path.to_string_lossy().ends_with(MARKER));
    let settled = |path: &Path| {
        let used = fs_err::metadata(path).and_then(|found| found.modified());
        used.is_ok_and(|used| used.elapsed().is_ok_and(|since| since >= SETTLED))
    };
    let markers: Vec<_> = markers
        .filter(|path| settled(path))
        .filter_map(|path| waiting(&path).map(|(inode, _)| (path, inode)))
        .collect();
    if markers.is_empty() {
        return Ok(());
    }
    // All that the markers found so far stand for was written before.
    rustix::fs::syncfs(fs_err::File::open(root)?.file())?;
    let Some(lock) = life.within(|| Lock::open(root)) else {
        return Ok(());
    };
    let lock = lock?;
    for (path, before) in markers {
        let mark = || -> io::Result<()> {
            // It may have been removed since, or have made room for one that was not there when all was flushed.
            let Some((_, marker)) = waiting(&path).filter(|(inode, _)| *inode == before) else {
                return Ok(());
            };
            let used = fs_err::metadata(&path)?.modified()?;
            let marker = Marker {
                flushed: true,
                ..marker
            };
            marker.write(&path, used)
        };
        let Some(marked) = life.within(|| lock.exclusive(mark)) else {
            return Ok(());
        };
        marked?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;

    fn layer(cache: &Cache, text: &str) -> LayerDir {
        let scratch = tempfile::tempdir_in(cache.tmp()).unwrap().keep();
        let layer = crate::fixture::layer(text, &scratch.join("l"), Owners::Recorded);
        Arc::into_inner(layer).unwrap()
    }

    #[test]
    fn after_a_power_cut_only_flushed_layers_count() {
        let root = tempfile::tempdir().unwrap();
        let cache = Cache::open(root.path()).unwrap();
        cache.place_layer(layer(&cache, "/a = a"), "l").unwrap();
        assert!(cache.has_layer("l"));
        for (boot, flushed, whole) in [
            ("other", false, false),
            ("other", true, true),
            ("", false, false),
        ] {
            let marker = Marker {
                boot: boot.into(),
                flushed,
                bytes: None,
            };
            marker.write(&cache.marker("l"), SystemTime::now()).unwrap();
            assert_eq!(cache.has_layer("l"), whole, "{boot} {flushed}");
        }
        // What was cut off is replaced, and what is whole is not.
        let placed = cache.place_layer(layer(&cache, "/b = b"), "l").unwrap();
        assert!(placed.path.join("b").exists() && !placed.path.join("a").exists());
        let placed = cache.place_layer(layer(&cache, "/c = c"), "l").unwrap();
        assert!(placed.path.join("b").exists() && !placed.path.join("c").exists());
        for damage in ["", "{", "{\"boot\":1}"] {
            fs_err::write(cache.marker("l"), damage).unwrap();
            assert!(!cache.has_layer("l"), "{damage}");
        }
    }

    #[test]
    fn layers_of_this_boot_are_flushed_once() {
        let root = tempfile::tempdir().unwrap();
        let cache = Cache::open(root.path()).unwrap();
        cache.place_layer(layer(&cache, "/a = a"), "l").unwrap();
        flush_layers(root.path(), &cache.session.life()).unwrap();
        let marker = Marker::read(&cache.marker("l")).unwrap();
        assert!(!marker.flushed, "its bytes are still on their way");
        let used = SystemTime::UNIX_EPOCH + Duration::from_secs(7);
        set_time(&cache.marker("l"), used).unwrap();
        flush_layers(root.path(), &cache.session.life()).unwrap();
        let marker = Marker::read(&cache.marker("l")).unwrap();
        assert!(marker.flushed);
        let found = fs_err::metadata(cache.marker("l")).unwrap();
        assert_eq!(found.modified().unwrap(), used, "flushing is no use");
        // One of another boot was never written as a whole.
        let lost = Marker {
            boot: "other".into(),
            flushed: false,
            bytes: None,
        };
        lost.write(&cache.marker("l"), used).unwrap();
        flush_layers(root.path(), &cache.session.life()).unwrap();
        assert_eq!(Marker::read(&cache.marker("l")), Some(lost));
    }

    #[test]
    fn nothing_is_marked_after_the_session() {
        let root = tempfile::tempdir().unwrap();
        let cache = Cache::open(root.path()).unwrap();
        cache.place_layer(layer(&cache, "/a = a"), "l").unwrap();
        let (marker, life) = (cache.marker("l"), cache.session.life());
        set_time(&marker, SystemTime::UNIX_EPOCH).unwrap();
        drop(cache);
        flush_layers(root.path(), &life).unwrap();
        assert!(!Marker::read(&marker).unwrap().flushed);
    }
}
