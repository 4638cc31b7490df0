//! One header block of a tar archive: its fields, and the numbers and texts in them. What they mean together is the business
//! of the reader.

use super::tar_reader::TarError;

/// The size of a block.
pub(super) const BLOCK: usize = 512;

/// One header block.
pub(super) struct Header(pub(super) [u8; BLOCK]);

impl Header {
    pub(super) const fn flag(&self) -> u8 {
        self.0[156]
    }

    /// Whether it is of GNU's own format, which has maps of sparse files.
    pub(super) fn is_gnu(&self) -> bool {
        &self.0[257..265] == b"ustar  \0"
    }

    fn field_error(&self, field: &'static str) -> TarError {
        TarError::Field {
            name: String::from_utf8_lossy(until_nul(&self.0[..100])).into_owned(),
            field,
        }
    }

    /// The checksum is the sum of all bytes, with blanks in its own place; some old writers summed signed bytes.
    pub(super) fn check(&self) -> Result<(), TarError> {
        let recorded = parse_octal(&self.0[148..156]).ok_or(TarError::Checksum)?;
        let byte = |(at, &byte): (usize, &u8)| if (148..156).contains(&at) { b' ' } else { byte };
        let bytes = || self.0.iter().enumerate().map(byte);
        let unsigned: u64 = bytes().map(u64::from).sum();
        let signed: i64 = bytes().map(|byte| i64::from(byte.cast_signed())).sum();
        if recorded == unsigned || i64::try_from(recorded) == Ok(signed) {
            Ok(())
        } else {
            Err(TarError::Checksum)
        }
    }

    pub(super) fn name(&self) -> Vec<u8> {
        let name = until_nul(&self.0[..100]);
        // Only the POSIX magic has a prefix: GNU's has other things in its place.
        let prefix: &[u8] = if &self.0[257..263] == b"ustar\0" {
            until_nul(&self.0[345..500])
        } else {
            &[]
        };
        if prefix.is_empty() {
            name.to_vec()
        } else {
            [prefix, b"/", name].concat()
        }
    }

    /// A number in octal digits, or in GNU's base-256 where it is large or negative.
    pub(super) fn signed(
        &self,
        range: std::ops::Range<usize>,
        field: &'static str,
    ) -> Result<i64, TarError> {
        let bytes = &self.0[range];
        let error = || self.field_error(field);
        if bytes[0] & 0x80 == 0 {
            return i64::try_from(parse_octal(bytes).ok_or_else(error)?).map_err(|_| error());
        }
        let negative = bytes[0] & 0x40 != 0;
        let first = if negative { bytes[0] } else { bytes[0] & 0x7f };
        let mut value: i128 = if negative {
            i128::from(first.cast_signed())
        } else {
            i128::from(first)
        };
        for &byte in &bytes[1..] {
            value = value << 8 | i128::from(byte);
            if value > i128::from(i64::MAX) || value < i128::from(i64::MIN) {
                return Err(error());
            }
        }
        i64::try_from(value).map_err(|_| error())
    }

    pub(super) fn number(
        &self,
        range: std::ops::Range<usize>,
        field: &'static str,
    ) -> Result<u64, TarError> {
        u64::try_from(self.signed(range, field)?).map_err(|_| self.field_error(field))
    }

    pub(super) fn small_number(
        &self,
        range: std::ops::Range<usize>,
        field: &'static str,
    ) -> Result<u32, TarError> {
        u32::try_from(self.number(range, field)?).map_err(|_| self.field_error(field))
    }
}

pub(super) fn until_nul(bytes: &[u8]) -> &[u8] {
    bytes.split(|&byte| byte == 0).next().unwrap_or_default()
}

/// Octal digits, blanks or NULs before them, a blank or NUL or nothing after them; no digit at all is 0.
fn parse_octal(bytes: &[u8]) -> Option<u64> {
    let start = bytes
        .iter()
        .position(|byte| !matches!(byte, 0 | b' '))
        .unwrap_or(bytes.len());
    let digits = &bytes[start..];
    let end = digits
        .iter()
        .position(|byte| !matches!(byte, b'0'..=b'7'))
        .unwrap_or(digits.len());
    if digits
        .get(end)
        .is_some_and(|byte| !matches!(byte, 0 | b' '))
    {
        return None;
    }
    digits[..end].iter().try_fold(0_u64, |value, digit| {
        value.checked_mul(8)?.checked_add(u64::from(digit - b'0'))
    })
}
