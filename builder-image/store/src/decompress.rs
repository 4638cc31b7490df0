//! Finds out by content how a stream is compressed, and reads through the compression. Streams of several gzip members
//! or zstd frames are read to their end.

use std::io::{self, BufRead, BufReader, Cursor, Read};

/// How a stream is compressed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Format {
    /// Not at all.
    Plain,
    /// gzip (RFC 1952).
    Gzip,
    /// bzip2.
    Bzip2,
    /// xz.
    Xz,
    /// Zstandard (RFC 8878).
    Zstd,
}

impl Format {
    /// How many bytes [`Format::detect`] wants.
    const PREFIX: usize = 6;

    /// The format of a stream that begins with `prefix`.
    pub fn detect(prefix: &[u8]) -> Self {
        match prefix {
            [0x1f, 0x8b, 8, ..] => Self::Gzip,
            [b'B', b'Z', b'h', ..] => Self::Bzip2,
            [0xfd, b'7', b'z', b'X', b'Z', 0, ..] => Self::Xz,
            // A frame, or one that decoders skip, which may come first.
            [0x28, 0xb5, 0x2f, 0xfd, ..] | [0x50..=0x5f, 0x2a, 0x4d, 0x18, ..] => Self::Zstd,
            _ => Self::Plain,
        }
    }
}

/// The uncompressed content of `reader`, and how it is compressed.
pub fn decompress<'a>(mut reader: impl Read + 'a) -> io::Result<(Format, Box<dyn Read + 'a>)> {
    let mut prefix = Vec::with_capacity(Format::PREFIX);
    (&mut reader)
        .take(Format::PREFIX as u64)
        .read_to_end(&mut prefix)?;
    let format = Format::detect(&prefix);
    let stream = BufReader::with_capacity(128 * 1024, Cursor::new(prefix).chain(reader));
    Ok((format, decoder(format, stream)?))
}

fn decoder<'a>(format: Format, stream: impl BufRead + 'a) -> io::Result<Box<dyn Read + 'a>> {
    Ok(match format {
        Format::Plain => Box::new(stream),
        Format::Gzip => Box::new(flate2::bufread::MultiGzDecoder::new(stream)),
        Format::Bzip2 => Box::new(bzip2::bufread::MultiBzDecoder::new(stream)),
        Format::Xz => Box::new(xz2::bufread::XzDecoder::new_multi_decoder(stream)),
        // Larger windows than 128 MiB are refused by default.
        Format::Zstd => Box::new(zstd::stream::read::Decoder::with_buffer(stream)?),
    })
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "tests")]

    use std::io::Write;

    use super::*;

    fn read(bytes: &[u8]) -> (Format, Vec<u8>) {
        let (format, mut reader) = decompress(bytes).unwrap();
        let mut content = Vec::new();
        reader.read_to_end(&mut content).unwrap();
        (format, content)
    }

    fn gzip(content: &[u8]) -> Vec<u8> {
        let mut encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::default());
        encoder.write_all(content).unwrap();
        encoder.finish().unwrap()
    }

    #[test]
    fn all_formats_are_found_by_content() {
        let mut bzip2 = bzip2::write::BzEncoder::new(Vec::new(), bzip2::Compression::default());
        bzip2.write_all(b"content").unwrap();
        let mut xz = xz2::write::XzEncoder::new(Vec::new(), 1);
        xz.write_all(b"content").unwrap();
        for (format, bytes) in [
            (Format::Plain, b"content".to_vec()),
            (Format::Gzip, gzip(b"content")),
            (Format::Bzip2, bzip2.finish().unwrap()),
            (Format::Xz, xz.finish().unwrap()),
            (Format::Zstd, zstd::encode_all(&b"content"[..], 3).unwrap()),
        ] {
            assert_eq!(read(&bytes), (format, b"content".to_vec()));
        }
        assert_eq!(read(b""), (Format::Plain, Vec::new()));
        assert_eq!(read(b"BZ"), (Format::Plain, b"BZ".to_vec()));
    }

    #[test]
    fn every_member_and_frame_is_read() {
        let members = [gzip(b"one "), gzip(b""), gzip(b"two")].concat();
        assert_eq!(read(&members), (Format::Gzip, b"one two".to_vec()));
        let skipped = [&[0x50, 0x2a, 0x4d, 0x18, 3, 0, 0, 0][..], b"abc"].concat();
        let frame = |content: &[u8]| zstd::encode_all(content, 1).unwrap();
        let frames = [skipped.clone(), frame(b"one "), skipped, frame(b"two")].concat();
        assert_eq!(read(&frames), (Format::Zstd, b"one two".to_vec()));
    }
}
