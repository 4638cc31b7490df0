//! The bytes of files that are written into a layer, wherever they come from.

use std::{
    fs::File,
    io::{self, Read, Write},
};

use super::root::Stamp;
use crate::tree::ImagePath;

/// How much is read at once of content that the kernel cannot copy by itself.
const CHUNK: usize = 64 * 1024;

/// Files up to this size are read and written, others are copied by the kernel from there on: as many whole blocks as any
/// file system needs that shares them between files.
const SMALL: usize = 16 * 1024;

/// Where the bytes of a file come from.
pub(crate) trait Content {
    /// Writes all of it to `file` and returns how many bytes that were.
    fn copy_to(&mut self, file: &mut File) -> io::Result<u64>;

    /// Hands all of it to `out` and returns how many bytes that were.
    fn read_into(&mut self, out: &mut dyn Write) -> io::Result<u64>;

    /// Where it can be read later, if it can: the path in its tree, and what tells whether it was changed meanwhile.
    fn lend(&self) -> io::Result<Option<(ImagePath, Stamp)>> {
        Ok(None)
    }
}

impl Content for File {
    /// Copies within the kernel where it can, and where that is worth its preparation: most files are small.
    fn copy_to(&mut self, file: &mut File) -> io::Result<u64> {
        let mut start = [0; SMALL];
        let mut length = 0;
        while length < start.len() {
            match self.read(&mut start[length..]) {
                Ok(0) => {
                    file.write_all(&start[..length])?;
                    return Ok(length as u64);
                }
                Ok(read) => length += read,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            }
        }
        file.write_all(&start)?;
        Ok(length as u64 + io::copy(self, file)?)
    }

    fn read_into(&mut self, mut out: &mut dyn Write) -> io::Result<u64> {
        io::copy(self, &mut out)
    }
}

impl Content for &[u8] {
    fn copy_to(&mut self, file: &mut File) -> io::Result<u64> {
        self.read_into(file)
    }

    fn read_into(&mut self, out: &mut dyn Write) -> io::Result<u64> {
        out.write_all(self)?;
        Ok(self.len() as u64)
    }
}

/// Any reader as content. Its failures are told apart from those of writing: [`SourceFailed`].
pub(crate) struct Streamed<'a, R> {
    reader: R,
    buffer: &'a mut Vec<u8>,
}

impl<'a, R> Streamed<'a, R> {
    /// Content that is read by way of `buffer`, which many small files can share.
    pub(crate) fn new(reader: R, buffer: &'a mut Vec<u8>) -> Self {
        buffer.resize(CHUNK, 0);
        Self { reader, buffer }
    }
}

/// Reading the content failed, not writing it.
#[derive(Debug, thiserror::Error)]
#[error("reading the content failed")]
pub(crate) struct SourceFailed(#[source] pub(crate) io::Error);

impl<R: Read> Content for Streamed<'_, R> {
    fn copy_to(&mut self, file: &mut File) -> io::Result<u64> {
        self.read_into(file)
    }

    fn read_into(&mut self, out: &mut dyn Write) -> io::Result<u64> {
        let mut total = 0;
        loop {
            crate::runtime::go_on()?;
            let read = match self.reader.read(self.buffer) {
                Ok(0) => return Ok(total),
                Ok(read) => read,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
                Err(error) => return Err(io::Error::other(SourceFailed(error))),
            };
            out.write_all(&self.buffer[..read])?;
            total += read as u64;
        }
    }
}

#[cfg(test)]
mod tests {
    use std::io::Seek;

    use super::*;

    #[test]
    fn files_of_all_sizes_are_copied_whole() {
        for size in [0, 1, SMALL - 1, SMALL, SMALL + 1, 5 * SMALL + 7] {
            let bytes: Vec<u8> = (0..=250).cycle().take(size).collect();
            let (mut from, mut to) = (tempfile::tempfile().unwrap(), tempfile::tempfile().unwrap());
            from.write_all(&bytes).unwrap();
            from.rewind().unwrap();
            assert_eq!(from.copy_to(&mut to).unwrap(), size as u64);
            to.rewind().unwrap();
            let mut copied = Vec::new();
            to.read_to_end(&mut copied).unwrap();
            assert!(copied == bytes, "{size}");
        }
    }
}
