//! Makes another blob of the same archive: a layer that was packed or downloaded with one compression, with another. Its
//! files are not looked at, so it needs neither a directory nor the layers below.

use std::{
    io::{Read, Write},
    path::Path,
};

use oci::DiffId;
use store::decompress;

use super::{LayerError, PackOptions, PackedLayer, blob_writer::BlobWriter};

/// Writes the archive of the blob `reader`, whose digest must be `diff_id`, as `options` say to `<blobs>/sha256/<digest>`.
///
/// Blocks while it works. Equal archives and options give equal blobs, wherever the archive came from. No time is changed.
///
/// # Errors
/// When the blob cannot be read, is not what `diff_id` says, or the new one cannot be written.
pub fn recompress(
    reader: impl Read,
    diff_id: &DiffId,
    options: &PackOptions,
    blobs: &Path,
) -> Result<PackedLayer, LayerError> {
    let (_, mut archive) = decompress(reader).map_err(LayerError::Blob)?;
    let mut blob = BlobWriter::create(options, blobs).map_err(LayerError::Blob)?;
    let mut buffer = vec![0; 256 * 1024];
    loop {
        match archive.read(&mut buffer) {
            Ok(0) => break,
            Ok(count) => blob.write_all(&buffer[..count]).map_err(LayerError::Blob)?,
            Err(error) if error.kind() == std::io::ErrorKind::Interrupted => {}
            Err(error) => return Err(LayerError::Blob(error)),
        }
    }
    blob.finish(Some(diff_id))
}
