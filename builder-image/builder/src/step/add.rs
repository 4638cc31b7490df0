//! What ADD does beyond COPY: archives are found by content and unpacked. Downloading is the caller's work; the file
//! comes in as [`crate::step::copy::CopySource::Download`].

use std::io::Read;

use crate::{
    layer::WriteLayer,
    step::StepError,
    tree::ImagePath,
    unpack::{self, Limits, Rules, UnpackError},
    upper::Upper,
};

/// The mode of a downloaded file.
pub const DOWNLOAD_MODE: u32 = 0o600;

/// The name that the file behind `url` has: the last part of its path, percent-decoded, `__unnamed__` where there is none.
pub fn download_name(url: &str) -> String {
    let path = url.split_once("://").map_or(url, |(_, rest)| rest);
    let path = path.split(['?', '#']).next().unwrap_or_default();
    let path = path.split_once('/').map_or("", |(_, path)| path);
    let path = decode(path);
    match path.trim_end_matches('/').rsplit('/').next() {
        Some(name) if !matches!(name, "" | "." | "..") => name.to_owned(),
        _ => "__unnamed__".to_owned(),
    }
}

/// Replaces `%41` by what it stands for; what makes no UTF-8 stays as it is written.
fn decode(path: &str) -> String {
    let bytes = path.as_bytes();
    let mut decoded = Vec::with_capacity(bytes.len());
    let mut at = 0;
    while let Some(&byte) = bytes.get(at) {
        let digits = path.get(at + 1..at + 3).filter(|_| byte == b'%');
        match digits.and_then(|digits| u8::from_str_radix(digits, 16).ok()) {
            Some(0) | None => {
                decoded.push(byte);
                at += 1;
            }
            Some(value) => {
                decoded.push(value);
                at += 3;
            }
        }
    }
    String::from_utf8(decoded).unwrap_or_else(|_| path.to_owned())
}

/// Whether the file `name` is an archive that ADD unpacks.
pub(super) fn is_archive(name: &str, file: impl Read, limits: &Limits) -> Result<bool, StepError> {
    unpack::is_archive(file, limits).map_err(|error| StepError::Unpack {
        archive: name.to_owned(),
        source: UnpackError::Archive(error),
    })
}

/// Unpacks the archive `name` into the directory `into`. The owner is that of the archive unless `owner` is given.
pub(super) fn unpack<W: WriteLayer>(
    name: &str,
    file: impl Read + Send,
    upper: &mut Upper<'_, W>,
    into: ImagePath,
    owner: Option<(u32, u32)>,
    limits: &Limits,
) -> Result<(), StepError> {
    let rules = Rules {
        into,
        owner,
        // As in the reference, `--chown` is for what the archive has.
        implied: (0, 0),
        whiteouts: false,
    };
    unpack::unpack_onto(upper, file, &rules, limits)
        .map(drop)
        .map_err(|source| StepError::Unpack {
            archive: name.to_owned(),
            source,
        })
}

#[cfg(test)]
mod tests;
