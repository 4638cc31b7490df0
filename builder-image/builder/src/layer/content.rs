//! The bytes of files that are written into a layer, wherever they come from.

use std::{
    fs::File,
    io::{self, Read, Write},
};

/// Where the bytes of a file come from.
pub(crate) trait Content {
    /// Writes all of it to `file` and returns how many bytes that were.
    fn copy_to(&mut self, file: &mut File) -> io::Result<u64>;
}

impl Content for File {
    /// Copies within the kernel where it can.
    fn copy_to(&mut self, file: &mut File) -> io::Result<u64> {
        io::copy(self, file)
    }
}

impl Content for &[u8] {
    fn copy_to(&mut self, file: &mut File) -> io::Result<u64> {
        file.write_all(self)?;
        Ok(self.len() as u64)
    }
}

/// Any reader as content. Its failures are told apart from those of writing: [`SourceFailed`].
pub(crate) struct Streamed<R>(pub(crate) R);

/// Reading the content failed, not writing it.
#[derive(Debug, thiserror::Error)]
#[error("reading the content failed")]
pub(crate) struct SourceFailed(#[source] pub(crate) io::Error);

impl<R: Read> Content for Streamed<R> {
    fn copy_to(&mut self, file: &mut File) -> io::Result<u64> {
        let mut buffer = vec![0; 128 * 1024];
        let mut total = 0;
        loop {
            let read = match self.0.read(&mut buffer) {
                Ok(0) => return Ok(total),
                Ok(read) => read,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
                Err(error) => return Err(io::Error::other(SourceFailed(error))),
            };
            file.write_all(&buffer[..read])?;
            total += read as u64;
        }
    }
}
