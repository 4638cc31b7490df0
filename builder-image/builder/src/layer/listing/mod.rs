//! The listing of a layer: what its tree looks like, without the contents of its files. A COPY onto an image needs no
//! more of it than this. One buffer holds everything, in memory as in its file, so that reading one back costs nothing:
//!
//! ```text
//! magic, CRC-32 of all that follows
//! number of records, number of contents
//! records   one for each entry; those of a directory stand together, sorted by name; the root is the first
//! contents  record, offset and length of the few small files that are kept: accounts
//! heap      names, targets of links, extended attributes, contents
//! ```
//!
//! Other contents may be kept beside it, where they are wanted: [`picking`]. Numbers are little-endian. The reader checks what it follows, so a damaged file is an error and never a panic.

mod picking;
mod writer;

use std::{
    ffi::{OsStr, OsString},
    fs::File,
    io,
    os::unix::ffi::OsStrExt,
};

use crate::memory_file::memory_file;
use crate::tree::{Device, Entry, FileId, ImagePath, Kind, Timestamp, Xattrs};

pub use picking::Picked;
pub(crate) use picking::Picking;
pub(crate) use writer::ListingWriter;

/// The first bytes of a listing; the number changes with the format, and with what is listed.
const MAGIC: &[u8; 8] = b"cooplst1";
/// Magic, checksum and the two numbers.
const HEADER: usize = 8 + 4 + 4 + 4;
/// The bytes of a record.
const RECORD: usize = 52;
/// The bytes that lead to one content.
const CONTENT: usize = 12;
/// A directory hides what is below it.
const OPAQUE: u8 = 1;
/// A directory is only implied.
const IMPLIED: u8 = 2;

/// The kinds of entries, as a record has them.
mod tag {
    pub(super) const FILE: u8 = 0;
    pub(super) const DIRECTORY: u8 = 1;
    pub(super) const SYMLINK: u8 = 2;
    pub(super) const FIFO: u8 = 3;
    pub(super) const CHAR_DEVICE: u8 = 4;
    pub(super) const BLOCK_DEVICE: u8 = 5;
    pub(super) const WHITEOUT: u8 = 6;
}

/// What one layer looks like.
#[derive(Debug)]
pub struct Listing {
    bytes: Vec<u8>,
    /// Tells listings apart.
    checksum: u32,
    records: u32,
    contents: u32,
}

/// The bytes are no listing, or one of another version.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the listing of a layer is damaged, or of another version")]
pub struct DamagedListing;

/// One record, decoded.
#[derive(Clone, Copy, Debug)]
struct Record {
    name: (u32, u32),
    tag: u8,
    flags: u8,
    mode: u16,
    uid: u32,
    gid: u32,
    seconds: i64,
    nanos: u32,
    /// Size; major and minor; offset and length of a link's target; first record and number of a directory's entries.
    body: [u32; 2],
    xattrs: (u32, u32),
    /// Not 0 where the file has several names: the same for all of them.
    inode: u32,
}

impl Record {
    fn encode(&self) -> [u8; RECORD] {
        let seconds = halves(self.seconds.cast_unsigned());
        let numbers = [
            self.name.0,
            self.name.1,
            self.uid,
            self.gid,
            seconds[0],
            seconds[1],
            self.nanos,
            self.body[0],
            self.body[1],
            self.xattrs.0,
            self.xattrs.1,
            self.inode,
            u32::from(self.mode) << 16 | u32::from(self.flags) << 8 | u32::from(self.tag),
        ];
        let mut bytes = [0; RECORD];
        for (field, number) in bytes.as_chunks_mut().0.iter_mut().zip(numbers) {
            *field = number.to_le_bytes();
        }
        bytes
    }

    fn decode(bytes: &[u8; RECORD]) -> Self {
        let [
            name,
            length,
            uid,
            gid,
            low,
            high,
            nanos,
            first,
            second,
            xattrs,
            size,
            inode,
            rest,
        ] = numbers(bytes);
        let [tag, flags, ..] = rest.to_le_bytes();
        Self {
            name: (name, length),
            tag,
            flags,
            mode: u16::try_from(rest >> 16).unwrap_or_default(),
            uid,
            gid,
            seconds: joined([low, high]).cast_signed(),
            nanos,
            body: [first, second],
            xattrs: (xattrs, size),
            inode,
        }
    }
}

/// A number as two, the low half first.
fn halves(number: u64) -> [u32; 2] {
    numbers(&number.to_le_bytes())
}

fn joined([low, high]: [u32; 2]) -> u64 {
    u64::from(high) << 32 | u64::from(low)
}

impl Listing {
    /// The listing in the file whose content is `bytes`.
    ///
    /// # Errors
    /// When they are not what [`Self::as_bytes`] gave out.
    pub fn from_bytes(bytes: Vec<u8>) -> Result<Self, DamagedListing> {
        let head = bytes.first_chunk::<HEADER>().ok_or(DamagedListing)?;
        let [_, _, checksum, records, contents] = numbers(head);
        let listing = Self {
            bytes,
            checksum,
            records,
            contents,
        };
        let sound = listing.bytes.starts_with(MAGIC)
            && crc32fast::hash(&listing.bytes[12..]) == checksum
            && listing.records > 0
            && listing.heap_start() <= listing.bytes.len();
        sound.then_some(listing).ok_or(DamagedListing)
    }

    /// What a file of this listing holds.
    pub fn as_bytes(&self) -> &[u8] {
        &self.bytes
    }

    /// Tells listings of the same layer apart: by what they say, and by their version.
    pub(crate) const fn checksum(&self) -> u32 {
        self.checksum
    }

    /// The number of the record of the regular file `path`, and its size in bytes.
    fn file_at(&self, path: &ImagePath) -> Option<(u32, u64)> {
        let (number, record) = self.find(path)?;
        (record.tag == tag::FILE).then(|| (number, joined(record.body)))
    }

    /// What the content of a record is called where it is kept beside the listing: the same for all names of a file.
    fn content_name(&self, number: u32) -> Option<String> {
        Some(match self.record(number)?.inode {
            0 => number.to_string(),
            node => picking::of_node(node),
        })
    }

    const fn contents_start(&self) -> usize {
        HEADER + self.records as usize * RECORD
    }

    const fn heap_start(&self) -> usize {
        self.contents_start() + self.contents as usize * CONTENT
    }

    fn heap(&self, (offset, length): (u32, u32)) -> &[u8] {
        let start = self.heap_start() + offset as usize;
        self.bytes
            .get(start..start + length as usize)
            .unwrap_or_default()
    }

    fn record(&self, number: u32) -> Option<Record> {
        let start = HEADER + number as usize * RECORD;
        if number >= self.records {
            return None;
        }
        let bytes = self.bytes.get(start..)?.first_chunk()?;
        Some(Record::decode(bytes))
    }

    /// The number and record of `path`.
    fn find(&self, path: &ImagePath) -> Option<(u32, Record)> {
        let mut found = (0, self.record(0)?);
        for name in path.components() {
            if found.1.tag != tag::DIRECTORY {
                return None;
            }
            let [first, count] = found.1.body;
            let (mut low, mut high) = (first, first.checked_add(count)?);
            found = loop {
                if low >= high {
                    return None;
                }
                let middle = low + (high - low) / 2;
                let record = self.record(middle)?;
                match self.heap(record.name).cmp(name.as_bytes()) {
                    std::cmp::Ordering::Less => low = middle + 1,
                    std::cmp::Ordering::Greater => high = middle,
                    std::cmp::Ordering::Equal => break (middle, record),
                }
            };
        }
        Some(found)
    }

    fn to_entry(&self, record: &Record) -> Entry {
        let device = || Device {
            major: record.body[0],
            minor: record.body[1],
        };
        let kind = match record.tag {
            tag::DIRECTORY => Kind::Directory,
            tag::SYMLINK => {
                let target = self.heap((record.body[0], record.body[1]));
                Kind::Symlink(OsStr::from_bytes(target).to_owned())
            }
            tag::FIFO => Kind::Fifo,
            tag::CHAR_DEVICE => Kind::CharDevice(device()),
            tag::BLOCK_DEVICE => Kind::BlockDevice(device()),
            tag::WHITEOUT => Kind::Whiteout,
            _ => Kind::File,
        };
        let size = if kind == Kind::File {
            joined(record.body)
        } else {
            0
        };
        // No file system has such a number.
        let device = u64::MAX << 32 | u64::from(self.checksum);
        Entry {
            size,
            mode: record.mode.into(),
            uid: record.uid,
            gid: record.gid,
            mtime: Timestamp {
                seconds: record.seconds,
                nanos: record.nanos,
            },
            hard_link: (record.inode != 0).then(|| FileId {
                device,
                inode: record.inode.into(),
            }),
            kind,
        }
    }

    /// The entry at `path`, whiteouts included.
    pub(crate) fn entry(&self, path: &ImagePath) -> Option<Entry> {
        self.find(path).map(|(_, record)| self.to_entry(&record))
    }

    /// The entries of one directory, whiteouts included, sorted; `None` where there is no directory.
    pub(crate) fn entries(&self, path: &ImagePath) -> Option<Vec<(OsString, Entry)>> {
        let (_, directory) = self.find(path)?;
        if directory.tag != tag::DIRECTORY {
            return None;
        }
        let [first, count] = directory.body;
        let numbers = first..first.saturating_add(count);
        let records = numbers.filter_map(|number| self.record(number));
        let named = records.map(|record| {
            let name = OsStr::from_bytes(self.heap(record.name)).to_owned();
            (name, self.to_entry(&record))
        });
        Some(named.collect())
    }

    /// Whether the directory `path` hides what the layers below have in it.
    pub(crate) fn is_opaque(&self, path: &ImagePath) -> bool {
        self.find(path)
            .is_some_and(|(_, record)| record.flags & OPAQUE != 0)
    }

    /// Whether `path` is a directory that the layer's archive did not name.
    pub(crate) fn is_implied(&self, path: &ImagePath) -> bool {
        self.find(path)
            .is_some_and(|(_, record)| record.flags & IMPLIED != 0)
    }

    /// The extended attributes of one entry.
    pub(crate) fn xattrs(&self, path: &ImagePath) -> Xattrs {
        let mut xattrs = Xattrs::new();
        let Some((_, record)) = self.find(path) else {
            return xattrs;
        };
        let mut rest = self.heap(record.xattrs);
        let mut next = || -> Option<&[u8]> {
            let (length, after) = rest.split_first_chunk::<4>()?;
            let (field, after) = after.split_at_checked(u32::from_le_bytes(*length) as usize)?;
            rest = after;
            Some(field)
        };
        while let (Some(name), Some(value)) = (next(), next()) {
            xattrs.insert(String::from_utf8_lossy(name).into_owned(), value.to_vec());
        }
        xattrs
    }

    /// Where the content of the regular file `path` is, if it was kept.
    fn content(&self, path: &ImagePath) -> Option<(u32, u32)> {
        let (number, _) = self.find(path)?;
        let table = &self.bytes[self.contents_start()..self.heap_start()];
        table.as_chunks::<CONTENT>().0.iter().find_map(|row| {
            let [record, offset, length] = numbers(row);
            (record == number).then_some((offset, length))
        })
    }

    /// Whether the content of the regular file `path` was kept.
    pub(crate) fn has_content(&self, path: &ImagePath) -> bool {
        self.content(path).is_some()
    }

    /// The regular file `path`, where its content was kept.
    pub(crate) fn open(&self, path: &ImagePath) -> io::Result<Option<File>> {
        let Some(content) = self.content(path) else {
            return Ok(None);
        };
        memory_file("listed", self.heap(content)).map(Some)
    }
}

/// The numbers that `bytes` hold.
fn numbers<const BYTES: usize, const COUNT: usize>(bytes: &[u8; BYTES]) -> [u32; COUNT] {
    let mut numbers = [0; COUNT];
    for (number, field) in numbers.iter_mut().zip(bytes.as_chunks().0) {
        *number = u32::from_le_bytes(*field);
    }
    numbers
}
