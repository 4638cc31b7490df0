//! Extended headers of tar archives: PAX records, read by their length as their values are any bytes, and GNU's long
//! names. What contradicts itself is refused.

use super::sparse::SparseRecords;
use super::tar_header::until_nul;
use super::tar_reader::TarError;
use crate::tree::{Timestamp, Xattrs, is_image_xattr};

const SPARSE_RECORD: &[u8] = b"GNU.sparse.";
const XATTR_RECORD: &[u8] = b"SCHILY.xattr.";

/// What extended headers say of the member that follows them.
#[derive(Default)]
pub(super) struct Extensions {
    pub(super) gnu_name: Option<Vec<u8>>,
    pub(super) gnu_link: Option<Vec<u8>>,
    pub(super) seen_pax: bool,
    pub(super) path: Option<Vec<u8>>,
    pub(super) link: Option<Vec<u8>>,
    pub(super) size: Option<u64>,
    pub(super) uid: Option<u32>,
    pub(super) gid: Option<u32>,
    pub(super) mtime: Option<Timestamp>,
    pub(super) sparse: SparseRecords,
    pub(super) xattrs: Xattrs,
}

impl Extensions {
    pub(super) fn is_empty(&self) -> bool {
        !self.seen_pax && self.gnu_name.is_none() && self.gnu_link.is_none()
    }

    pub(super) fn set_gnu_name(&mut self, content: &[u8]) -> Result<(), TarError> {
        match self.gnu_name.replace(until_nul(content).to_vec()) {
            None => Ok(()),
            Some(_) => Err(TarError::Extended("two long names describe one member")),
        }
    }

    pub(super) fn set_gnu_link(&mut self, content: &[u8]) -> Result<(), TarError> {
        match self.gnu_link.replace(until_nul(content).to_vec()) {
            None => Ok(()),
            Some(_) => Err(TarError::Extended(
                "two long link targets describe one member",
            )),
        }
    }

    /// Reads records of the form `length SP key=value LF` (POSIX, pax, "Extended Header").
    pub(super) fn read_pax(&mut self, mut records: &[u8]) -> Result<(), TarError> {
        self.seen_pax = true;
        let error = TarError::Extended;
        while !records.is_empty() {
            let blank = records
                .iter()
                .position(|&byte| byte == b' ')
                .ok_or(error("a record has no length"))?;
            let length =
                parse_decimal(&records[..blank]).ok_or(error("a record's length is no number"))?;
            let length =
                usize::try_from(length).map_err(|_| error("a record's length is too large"))?;
            if length <= blank + 1 || length > records.len() || records[length - 1] != b'\n' {
                return Err(error("a record's length is wrong"));
            }
            let record = &records[blank + 1..length - 1];
            let equals = record
                .iter()
                .position(|&byte| byte == b'=')
                .ok_or(error("a record has no value"))?;
            self.set_pax(&record[..equals], &record[equals + 1..])?;
            records = &records[length..];
        }
        Ok(())
    }

    fn set_pax(&mut self, key: &[u8], value: &[u8]) -> Result<(), TarError> {
        let error = |what| move || TarError::Extended(what);
        // An empty value takes back what a record before it said.
        let id = |what| -> Result<Option<u32>, TarError> {
            if value.is_empty() {
                return Ok(None);
            }
            let number = parse_decimal(value).and_then(|id| u32::try_from(id).ok());
            number.map(Some).ok_or_else(error(what))
        };
        let text = || (!value.is_empty()).then(|| value.to_vec());
        match key {
            b"path" => self.path = text(),
            b"linkpath" => self.link = text(),
            b"size" if value.is_empty() => self.size = None,
            b"size" => {
                self.size = Some(parse_decimal(value).ok_or_else(error("a size is no number"))?);
            }
            b"uid" => self.uid = id("a user id is no number")?,
            b"gid" => self.gid = id("a group id is no number")?,
            b"mtime" if value.is_empty() => self.mtime = None,
            b"mtime" => {
                self.mtime = Some(parse_time(value).ok_or_else(error("a time is no number"))?);
            }
            _ => {
                if let Some(key) = key.strip_prefix(SPARSE_RECORD) {
                    return self.sparse.set(key, value);
                }
                if let Some(name) = key.strip_prefix(XATTR_RECORD)
                    && let Ok(name) = std::str::from_utf8(name)
                    && is_image_xattr(name)
                {
                    self.xattrs.insert(name.to_owned(), value.to_vec());
                }
            }
        }
        Ok(())
    }
}

fn parse_decimal(digits: &[u8]) -> Option<u64> {
    if digits.is_empty() || digits.len() > 20 {
        return None;
    }
    digits.iter().try_fold(0_u64, |value, digit| match digit {
        b'0'..=b'9' => value.checked_mul(10)?.checked_add(u64::from(digit - b'0')),
        _ => None,
    })
}

/// `[-]seconds[.fraction]`; digits beyond nanoseconds are cut.
fn parse_time(text: &[u8]) -> Option<Timestamp> {
    let (negative, text) = match text.strip_prefix(b"-") {
        Some(rest) => (true, rest),
        None => (false, text),
    };
    let mut parts = text.splitn(2, |&byte| byte == b'.');
    let seconds = i64::try_from(parse_decimal(parts.next()?)?).ok()?;
    let fraction = parts.next().unwrap_or_default();
    if !fraction.iter().all(u8::is_ascii_digit) {
        return None;
    }
    let digit = |at: usize| fraction.get(at).map_or(0, |digit| u32::from(digit - b'0'));
    let nanos = (0..9).fold(0, |value, at| value * 10 + digit(at));
    Some(match (negative, nanos) {
        (false, _) => Timestamp { seconds, nanos },
        (true, 0) => Timestamp {
            seconds: -seconds,
            nanos,
        },
        (true, _) => Timestamp {
            seconds: -seconds - 1,
            nanos: 1_000_000_000 - nanos,
        },
    })
}
