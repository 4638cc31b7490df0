//! Writes an archive into a blob: digest, compression, digest and file in one pass. The file appears under its digest only
//! when it is complete. What the archive holds is others' business.

use std::io::{self, BufWriter, Write};
use std::path::{Path, PathBuf};

use oci::{Descriptor, DiffId, Digest, Digester, MediaType};

use super::compress::Compressor;
use super::{LayerError, PackOptions, PackedLayer};
use crate::runtime::go_on;

/// The way from the compressor to the file.
type Compressed = Compressor<Hashed<BufWriter<tempfile::NamedTempFile>>>;

/// A blob in the making. What is written to it is the uncompressed archive.
pub(super) struct BlobWriter {
    archive: Hashed<Compressed>,
    directory: PathBuf,
    media_type: MediaType,
}

impl BlobWriter {
    /// Begins a blob of `<blobs>/sha256/`.
    pub(super) fn create(options: &PackOptions, blobs: &Path) -> io::Result<Self> {
        let directory = blobs.join("sha256");
        fs_err::create_dir_all(&directory)?;
        let file = tempfile::Builder::new()
            .prefix(".layer-")
            .tempfile_in(&directory)?;
        let hashed = Hashed {
            out: BufWriter::with_capacity(256 * 1024, file),
            digester: Digester::sha256(),
        };
        let compressor = Compressor::new(hashed, options.compression, options.threads.get())?;
        Ok(Self {
            archive: Hashed {
                out: compressor,
                digester: Digester::sha256(),
            },
            directory,
            media_type: options.compression.media_type(),
        })
    }

    /// Ends the blob and gives its file its name, unless the archive is not the `expected` one.
    pub(super) fn finish(self, expected: Option<&DiffId>) -> Result<PackedLayer, LayerError> {
        let diff_id = DiffId(self.archive.digester.finish());
        if let Some(expected) = expected.filter(|expected| **expected != diff_id) {
            return Err(LayerError::Content {
                expected: expected.clone(),
                found: diff_id,
            });
        }
        let (media_type, directory) = (self.media_type, self.directory);
        let written = Self::keep(self.archive.out, &directory).map_err(LayerError::Blob)?;
        let (digest, size, blob) = written;
        Ok(PackedLayer {
            diff_id,
            descriptor: Descriptor::new(media_type, digest, size),
            blob,
        })
    }

    fn keep(out: Compressed, directory: &Path) -> io::Result<(Digest, u64, PathBuf)> {
        let hashed = out.finish()?;
        let size = hashed.digester.len();
        let digest = hashed.digester.finish();
        let file = hashed
            .out
            .into_inner()
            .map_err(io::IntoInnerError::into_error)?;
        let blob = directory.join(digest.hex());
        file.persist(&blob).map_err(|error| error.error)?;
        Ok((digest, size, blob))
    }
}

impl Write for BlobWriter {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        go_on()?;
        self.archive.write(bytes)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.archive.flush()
    }
}

/// Hashes and counts what is written through it.
struct Hashed<W> {
    out: W,
    digester: Digester,
}

impl<W: Write> Write for Hashed<W> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let written = self.out.write(bytes)?;
        self.digester.update(&bytes[..written]);
        Ok(written)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.out.flush()
    }
}
