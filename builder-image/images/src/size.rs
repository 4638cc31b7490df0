//! How large images are for people: the sum of their uncompressed layers. A layout has compressed ones, so what is not
//! written at their ends is counted once, and remembered in a file of the layout.

use std::{
    collections::HashMap,
    io::{Read, Seek, SeekFrom, Write},
    sync::{Mutex, PoisonError},
};

use fs_err as fs;
use oci::{Descriptor, Digest};
use store::{Format, Layout, StoreError};

use crate::{Image, Result};

/// The file that remembers, a line for each layer.
const FILE: &str = "sizes";
/// Larger gzip streams are counted: their end has the size modulo 4 GiB.
const MAX_TRUSTED: u64 = 512 << 20;

/// Knows the sizes of layers.
#[derive(Debug)]
pub struct Sizes<'a> {
    layout: &'a Layout,
    known: Mutex<HashMap<Digest, u64>>,
}

impl<'a> Sizes<'a> {
    /// The sizes of the layers in `layout`.
    pub fn new(layout: &'a Layout) -> Self {
        let text = fs::read_to_string(layout.root().join(FILE)).unwrap_or_default();
        let known = text.lines().filter_map(|line| {
            let (digest, size) = line.split_once(' ')?;
            Some((digest.parse().ok()?, size.parse().ok()?))
        });
        Self {
            layout,
            known: Mutex::new(known.collect()),
        }
    }

    /// The size of an image in bytes.
    ///
    /// # Errors
    /// When a layer is not there, or is damaged.
    pub fn image(&self, image: &Image) -> Result<u64> {
        let layers = &image.manifest.layers;
        layers.iter().map(|layer| self.layer(layer)).sum()
    }

    /// The size of an uncompressed layer in bytes.
    ///
    /// # Errors
    /// When it is not there, or is damaged. A layer that only other places give out has none.
    pub fn layer(&self, layer: &Descriptor) -> Result<u64> {
        let known = || self.known.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(size) = known().get(&layer.digest) {
            return Ok(*size);
        }
        let path = self.layout.blob_path(&layer.digest);
        let file = match store::open_file(&path, layer) {
            Err(StoreError::Missing(_)) if !layer.urls.is_empty() => return Ok(0),
            opened => opened?,
        };
        let size = match written_size(&file, layer.size).map_err(reading)? {
            Some(size) => size,
            None => self.count(file, &layer.digest)?,
        };
        known().insert(layer.digest.clone(), size);
        Ok(size)
    }

    fn count(&self, mut file: fs::File, digest: &Digest) -> Result<u64> {
        file.rewind().map_err(reading)?;
        let (_, mut content) = store::decompress(file).map_err(reading)?;
        let size = std::io::copy(&mut content, &mut std::io::sink()).map_err(reading)?;
        // Where it cannot be remembered, it is counted again.
        let remembered = fs::OpenOptions::new()
            .create(true)
            .append(true)
            .open(self.layout.root().join(FILE));
        if let Ok(mut file) = remembered {
            let _ = file.write_all(format!("{digest} {size}\n").as_bytes());
        }
        Ok(size)
    }
}

/// The size that a stream says itself: an uncompressed one by its length, a gzip stream by its last four bytes (RFC 1952)
/// where they can be right. Layers are archives, whose length is a multiple of 512.
fn written_size(mut file: &fs::File, length: u64) -> std::io::Result<Option<u64>> {
    let mut prefix = Vec::new();
    file.take(6).read_to_end(&mut prefix)?;
    match Format::detect(&prefix) {
        Format::Plain => Ok(Some(length)),
        Format::Gzip if (18..MAX_TRUSTED).contains(&length) => {
            file.seek(SeekFrom::End(-4))?;
            let mut end = [0; 4];
            file.read_exact(&mut end)?;
            let size = u64::from(u32::from_le_bytes(end));
            // What cannot be compressed grows by less than this.
            let least = length.saturating_sub(length / 100 + 256);
            Ok((size > 0 && size % 512 == 0 && size >= least).then_some(size))
        }
        _ => Ok(None),
    }
}

fn reading(source: std::io::Error) -> StoreError {
    StoreError::Io {
        action: "measure a layer",
        source,
    }
}

#[cfg(test)]
mod tests {

    use oci::MediaType;

    use super::*;

    fn gzip(content: &[u8]) -> Vec<u8> {
        let mut encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
        encoder.write_all(content).unwrap();
        encoder.finish().unwrap()
    }

    #[test]
    fn sizes_are_those_of_uncompressed_layers() {
        let directory = tempfile::tempdir().unwrap();
        let layout = Layout::create(directory.path()).unwrap();
        let content = vec![7; 51_200];
        // Bytes that do not compress.
        let noise: Vec<u8> = (0..1600_u32)
            .flat_map(|n| Digest::of(&n.to_le_bytes()).hex().as_bytes()[..32].to_vec())
            .collect();
        let empty_end = [gzip(&content), gzip(b"")].concat();
        let small_end = [gzip(&noise), gzip(&content[..512])].concat();
        for (bytes, expected, counted) in [
            (content.clone(), 51_200, false),
            (gzip(&content), 51_200, false),
            (gzip(&content[..512]), 512, false),
            (gzip(&noise), 51_200, false),
            (zstd::encode_all(&content[..], 1).unwrap(), 51_200, true),
            // Several members end with the size of the last.
            (empty_end, 51_200, true),
            (small_end, 51_712, true),
            (Vec::new(), 0, false),
        ] {
            let layer = layout.write_bytes(MediaType::OciLayer, &bytes).unwrap();
            let remembered = || fs::read_to_string(directory.path().join(FILE)).unwrap_or_default();
            assert_eq!(Sizes::new(&layout).layer(&layer).unwrap(), expected);
            assert_eq!(remembered().contains(layer.digest.as_str()), counted);
            let before = remembered();
            assert_eq!(Sizes::new(&layout).layer(&layer).unwrap(), expected);
            assert_eq!(remembered(), before);
        }
        let absent = Descriptor::of(MediaType::OciLayer, b"absent");
        assert!(Sizes::new(&layout).layer(&absent).is_err());
    }
}
