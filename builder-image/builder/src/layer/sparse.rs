//! Sparse files in archives: where their data belongs, as GNU's old headers, PAX records of its format 0.1, and the data of its
//! format 1.0 say it (GNU tar manual, "Sparse Formats"). Who reads such a member gets the whole file, zeros included. Format
//! 0.0 is refused: its records have one name many times, of which readers take the last.

use super::tar_reader::TarError;

/// Where the data of a sparse file belongs.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct SparseMap {
    /// Offset and length of each piece of data, ascending.
    pieces: Vec<(u64, u64)>,
    /// The size of the whole file.
    pub(super) size: u64,
}

impl SparseMap {
    /// The map of a file of `size` bytes of which `data` are in the archive. Pieces without a length say where the file ends.
    pub(super) fn new(pieces: Vec<(u64, u64)>, size: u64, data: u64) -> Result<Self, TarError> {
        let wrong = || TarError::Extended("the map of a sparse file contradicts itself");
        let (mut end, mut sum) = (0, 0_u64);
        for &(offset, length) in &pieces {
            if offset < end {
                return Err(wrong());
            }
            end = offset.checked_add(length).ok_or_else(wrong)?;
            sum = sum.checked_add(length).ok_or_else(wrong)?;
        }
        if end > size || sum != data {
            return Err(wrong());
        }
        Ok(Self { pieces, size })
    }

    /// How many of the bytes are not in the archive.
    pub(super) fn holes(&self) -> u64 {
        let data: u64 = self.pieces.iter().map(|(_, length)| length).sum();
        self.size - data
    }

    /// What comes at `position`: that many bytes of data, or of nothing. None at the end.
    pub(super) fn at(&self, position: u64) -> Option<Run> {
        let after = self
            .pieces
            .partition_point(|(offset, length)| offset + length <= position);
        let run = match self.pieces.get(after) {
            Some((offset, length)) if *offset <= position => Run::Data(offset + length - position),
            Some((offset, _)) => Run::Hole(offset - position),
            None => Run::Hole(self.size - position),
        };
        (position < self.size).then_some(run)
    }
}

/// What is in a part of a sparse file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Run {
    /// So many bytes, which are in the archive.
    Data(u64),
    /// So many zeros, which are not.
    Hole(u64),
}

/// What PAX records say of a sparse file.
#[derive(Debug, Default)]
pub(super) struct SparseRecords {
    major: Option<u64>,
    minor: Option<u64>,
    /// The name, in place of one that others see.
    pub(super) name: Option<Vec<u8>>,
    /// The size of the whole file.
    size: Option<u64>,
    map: Option<Vec<u8>>,
    repeated: bool,
}

/// How the map of a sparse file is written.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Written {
    /// In the records.
    Here(Vec<(u64, u64)>),
    /// Before the data.
    BeforeData,
}

impl SparseRecords {
    /// A record whose name begins with `GNU.sparse.`; `key` is the rest.
    pub(super) fn set(&mut self, key: &[u8], value: &[u8]) -> Result<(), TarError> {
        let number = || {
            let number = decimal(value);
            number.ok_or(TarError::Extended("a number of a sparse file is none"))
        };
        match key {
            b"major" => self.major = Some(number()?),
            b"minor" => self.minor = Some(number()?),
            b"name" => self.name = Some(value.to_vec()),
            b"size" | b"realsize" => self.size = Some(number()?),
            b"map" => self.map = Some(value.to_vec()),
            b"offset" | b"numbytes" => self.repeated = true,
            // How many pieces there are is seen.
            _ => {}
        }
        Ok(())
    }

    pub(super) const fn is_empty(&self) -> bool {
        self.major.is_none() && self.map.is_none() && self.size.is_none() && !self.repeated
    }

    /// The size of the whole file, and where its map is.
    pub(super) fn read(&self) -> Result<(u64, Written), TarError> {
        let size = self
            .size
            .ok_or(TarError::Extended("a sparse file has no size"))?;
        match (self.major, self.minor, &self.map) {
            (Some(1), Some(0), _) => Ok((size, Written::BeforeData)),
            (None | Some(0), _, Some(map)) if !self.repeated => {
                let numbers: Option<Vec<u64>> = if map.is_empty() {
                    Some(Vec::new())
                } else {
                    map.split(|&byte| byte == b',').map(decimal).collect()
                };
                let numbers = numbers.filter(|numbers| numbers.len() % 2 == 0);
                let numbers =
                    numbers.ok_or(TarError::Extended("the map of a sparse file is none"))?;
                let pieces = numbers.chunks_exact(2).map(|pair| (pair[0], pair[1]));
                Ok((size, Written::Here(pieces.collect())))
            }
            _ => Err(TarError::Extended(
                "a sparse file of a format that is not supported: make the archive with GNU tar's --format=gnu, or with --sparse-version=1.0",
            )),
        }
    }
}

/// The map of format 1.0, which stands before the data: decimal numbers, each on its line: how many pieces, then offset and length
/// of each. `next` gives the next block; `limit` is how many bytes the map may have. Also returns how long it is.
pub(super) fn map_before_data<const N: usize>(
    mut next: impl FnMut() -> Result<[u8; N], TarError>,
    limit: u64,
) -> Result<(Vec<(u64, u64)>, u64), TarError> {
    let (mut digits, mut numbers, mut wanted) = (Vec::new(), Vec::new(), None);
    let mut read = 0;
    loop {
        read += N as u64;
        if read > limit {
            return Err(TarError::Limit {
                what: "map of a sparse file",
                limit,
            });
        }
        for byte in next()? {
            if wanted == Some(numbers.len()) {
                break;
            }
            if byte != b'\n' {
                digits.push(byte);
                continue;
            }
            let number = decimal(&digits);
            let number = number.ok_or(TarError::Extended("the map of a sparse file is none"))?;
            digits.clear();
            match wanted {
                // More than this is over the limit anyway.
                None => wanted = Some(usize::try_from(number.min(limit)).unwrap_or_default() * 2),
                Some(_) => numbers.push(number),
            }
        }
        if wanted == Some(numbers.len()) {
            let pieces = numbers.chunks_exact(2).map(|pair| (pair[0], pair[1]));
            return Ok((pieces.collect(), read));
        }
    }
}

fn decimal(digits: &[u8]) -> Option<u64> {
    if digits.is_empty() || digits.len() > 20 {
        return None;
    }
    digits.iter().try_fold(0_u64, |value, digit| match digit {
        b'0'..=b'9' => value.checked_mul(10)?.checked_add(u64::from(digit - b'0')),
        _ => None,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn maps_tell_what_is_where() {
        let map = SparseMap::new(vec![(10, 5), (20, 0), (30, 1)], 40, 6).unwrap();
        assert_eq!(map.holes(), 34);
        for (position, expected) in [
            (0, Some(Run::Hole(10))),
            (10, Some(Run::Data(5))),
            (14, Some(Run::Data(1))),
            (15, Some(Run::Hole(5))),
            (20, Some(Run::Hole(10))),
            (30, Some(Run::Data(1))),
            (31, Some(Run::Hole(9))),
            (40, None),
        ] {
            assert_eq!(map.at(position), expected, "{position}");
        }
        assert_eq!(SparseMap::new(vec![], 0, 0).unwrap().at(0), None);
    }

    #[test]
    fn maps_that_contradict_themselves_are_refused() {
        for (pieces, size, data) in [
            (vec![(0, 5), (4, 1)], 10, 6),
            (vec![(5, 1), (0, 1)], 10, 2),
            (vec![(0, 5)], 4, 5),
            (vec![(0, 5)], 10, 4),
            (vec![(u64::MAX, 1)], 10, 1),
            (vec![(0, u64::MAX), (u64::MAX, 1)], u64::MAX, 0),
        ] {
            assert!(
                SparseMap::new(pieces.clone(), size, data).is_err(),
                "{pieces:?}"
            );
        }
    }

    #[test]
    fn records_of_all_formats_are_known() {
        let read = |records: &[(&str, &str)]| {
            let mut sparse = SparseRecords::default();
            for (key, value) in records {
                sparse.set(key.as_bytes(), value.as_bytes())?;
            }
            sparse.read()
        };
        let one = [("major", "1"), ("minor", "0"), ("realsize", "9")];
        assert_eq!(read(&one).unwrap(), (9, Written::BeforeData));
        let map = [("size", "9"), ("numblocks", "1"), ("map", "3,4")];
        assert_eq!(read(&map).unwrap(), (9, Written::Here(vec![(3, 4)])));
        for wrong in [
            &[("major", "1"), ("minor", "0")][..],
            &[("major", "2"), ("minor", "0"), ("realsize", "9")],
            &[("size", "9"), ("offset", "1"), ("numbytes", "1")],
            &[("size", "9"), ("map", "1,2,3")],
            &[("size", "x")],
        ] {
            assert!(read(wrong).is_err(), "{wrong:?}");
        }
    }

    #[test]
    fn a_map_before_the_data_ends_with_its_block() {
        let map = |text: &str, limit| {
            let mut blocks = text.as_bytes().chunks(8).map(|chunk| {
                let mut block = [0; 8];
                block[..chunk.len()].copy_from_slice(chunk);
                block
            });
            map_before_data(|| blocks.next().ok_or(TarError::Truncated), limit)
        };
        assert_eq!(map("0\n", 99).unwrap(), (vec![], 8));
        let two = "2\n0\n5\n100\n7\n";
        assert_eq!(map(two, 99).unwrap(), (vec![(0, 5), (100, 7)], 16));
        assert!(map(two, 15).is_err());
        for wrong in ["2\n0\n5\n", "x\n", "\n", "99999999999999999999999\n"] {
            assert!(map(wrong, 99).is_err(), "{wrong:?}");
        }
    }
}
