//! Writes tar archives in the one form that layers have: POSIX headers, PAX records only where a header cannot hold a
//! value, numeric owners without names, whole seconds. The same members give the same bytes.

use std::io::{self, Write};
use std::os::unix::ffi::OsStrExt;

use crate::tree::{Device, Entry, Kind, Xattrs};

const BLOCK: usize = 512;

/// One member of an archive.
#[derive(Debug)]
pub(crate) struct TarHeader<'a> {
    /// The path, relative; of a directory it ends with a slash.
    pub(crate) name: Vec<u8>,
    pub(crate) kind: TarKind<'a>,
    /// Permission bits.
    pub(crate) mode: u32,
    pub(crate) uid: u32,
    pub(crate) gid: u32,
    /// Seconds since the epoch.
    pub(crate) mtime: i64,
    pub(crate) xattrs: &'a Xattrs,
}

/// What a member is.
#[derive(Debug)]
pub(crate) enum TarKind<'a> {
    /// A regular file of this size; its data follows.
    File(u64),
    /// Another name of the member with this name.
    HardLink(&'a [u8]),
    Symlink(&'a [u8]),
    Directory,
    Fifo,
    CharDevice(Device),
    BlockDevice(Device),
}

impl<'a> TarKind<'a> {
    /// What an entry becomes, `first` being the member that it is another name of; none for what archives do not hold.
    pub(crate) fn of(entry: &'a Entry, first: Option<&'a [u8]>) -> Option<Self> {
        if let Some(first) = first {
            return Some(Self::HardLink(first));
        }
        Some(match &entry.kind {
            Kind::File => Self::File(entry.size),
            Kind::Symlink(target) => Self::Symlink(target.as_bytes()),
            Kind::Directory => Self::Directory,
            Kind::Fifo => Self::Fifo,
            Kind::CharDevice(device) => Self::CharDevice(*device),
            Kind::BlockDevice(device) => Self::BlockDevice(*device),
            Kind::Socket | Kind::Whiteout => return None,
        })
    }

    const fn flag(&self) -> u8 {
        match self {
            Self::File(_) => b'0',
            Self::HardLink(_) => b'1',
            Self::Symlink(_) => b'2',
            Self::CharDevice(_) => b'3',
            Self::BlockDevice(_) => b'4',
            Self::Directory => b'5',
            Self::Fifo => b'6',
        }
    }
}

/// Writes the header of a member, and before it the extended header that it needs.
pub(crate) fn write_header(out: &mut impl Write, header: &TarHeader<'_>) -> io::Result<()> {
    let mut records = Records::default();
    let mut block = Block::new();
    let (name, prefix) = split_name(&header.name).unwrap_or_else(|| {
        records.add(b"path", &header.name);
        (&header.name[..header.name.len().min(100)], &[])
    });
    block.text(0, name);
    block.text(345, prefix);
    let link: &[u8] = match &header.kind {
        TarKind::HardLink(target) | TarKind::Symlink(target) => target,
        _ => &[],
    };
    if link.len() > 100 {
        records.add(b"linkpath", link);
    }
    block.text(157, &link[..link.len().min(100)]);
    let size = if let TarKind::File(size) = header.kind {
        size
    } else {
        0
    };
    block.number(124, 12, size, &mut records, b"size");
    block.number(100, 8, u64::from(header.mode & 0o7777), &mut records, b"");
    block.number(108, 8, header.uid.into(), &mut records, b"uid");
    block.number(116, 8, header.gid.into(), &mut records, b"gid");
    if header.mtime < 0 {
        records.add(b"mtime", header.mtime.to_string().as_bytes());
    }
    block.number(
        136,
        12,
        u64::try_from(header.mtime).unwrap_or(0),
        &mut records,
        b"mtime",
    );
    if let TarKind::CharDevice(device) | TarKind::BlockDevice(device) = header.kind {
        block.number(329, 8, device.major.into(), &mut records, b"");
        block.number(337, 8, device.minor.into(), &mut records, b"");
    }
    for (name, value) in header.xattrs {
        records.add(&[b"SCHILY.xattr.", name.as_bytes()].concat(), value);
    }
    if !records.0.is_empty() {
        records.write(out, &header.name)?;
    }
    block.write(out, header.kind.flag())
}

/// Fills the last block of `size` bytes of data.
pub(crate) fn write_padding(out: &mut impl Write, size: u64) -> io::Result<()> {
    let last = usize::try_from(size % BLOCK as u64).unwrap_or_default();
    if last > 0 {
        out.write_all(&[0; BLOCK][last..])?;
    }
    Ok(())
}

/// Writes the end of an archive.
pub(crate) fn write_end(out: &mut impl Write) -> io::Result<()> {
    out.write_all(&[0; 2 * BLOCK])
}

/// The name and prefix of a POSIX header, where `path` fits there and needs no charset.
fn split_name(path: &[u8]) -> Option<(&[u8], &[u8])> {
    if !path.is_ascii() {
        return None;
    }
    if path.len() <= 100 {
        return Some((path, &[]));
    }
    // The first slash that leaves a short enough name; the slash that ends a directory's name is part of the name.
    let earliest = path.len() - 101;
    let slash = (earliest..path.len() - 1).find(|&at| path[at] == b'/')?;
    (slash <= 155 && slash > 0).then(|| (&path[slash + 1..], &path[..slash]))
}

/// The records of an extended header.
#[derive(Default)]
struct Records(Vec<u8>);

impl Records {
    fn add(&mut self, key: &[u8], value: &[u8]) {
        // The length counts its own digits.
        let rest = key.len() + value.len() + 3;
        let mut length = rest + 1;
        while length != rest + length.to_string().len() {
            length = rest + length.to_string().len();
        }
        self.0.extend_from_slice(length.to_string().as_bytes());
        for part in [b" ", key, b"=", value, b"\n"] {
            self.0.extend_from_slice(part);
        }
    }

    /// Writes the extended header; its own name is like that of Go's writer, which readers ignore.
    fn write(&self, out: &mut impl Write, name: &[u8]) -> io::Result<()> {
        let name = name.strip_suffix(b"/").unwrap_or(name);
        let (above, last) = match name.iter().rposition(|&byte| byte == b'/') {
            Some(slash) => name.split_at(slash + 1),
            None => (&[][..], name),
        };
        let mut own: Vec<u8> = [above, b"PaxHeaders.0/", last].concat();
        own.truncate(100);
        own.iter_mut()
            .filter(|byte| !byte.is_ascii())
            .for_each(|byte| *byte = b'_');
        let mut block = Block::new();
        block.text(0, &own);
        for (at, width) in [(100, 8), (108, 8), (116, 8), (136, 12)] {
            block.number(at, width, 0, &mut Self::default(), b"");
        }
        block.number(124, 12, self.0.len() as u64, &mut Self::default(), b"");
        block.write(out, b'x')?;
        out.write_all(&self.0)?;
        write_padding(out, self.0.len() as u64)
    }
}

/// A header block in the making.
struct Block([u8; BLOCK]);

impl Block {
    fn new() -> Self {
        let mut block = [0; BLOCK];
        block[257..265].copy_from_slice(b"ustar\x0000");
        Self(block)
    }

    fn text(&mut self, at: usize, text: &[u8]) {
        self.0[at..at + text.len()].copy_from_slice(text);
    }

    /// Octal digits and a NUL; a number that does not fit goes to the record `key`, the field is then 0.
    fn number(&mut self, at: usize, width: usize, value: u64, records: &mut Records, key: &[u8]) {
        let mut digits = format!("{value:0>width$o}", width = width - 1);
        if digits.len() >= width {
            records.add(key, value.to_string().as_bytes());
            digits = "0".repeat(width - 1);
        }
        self.text(at, digits.as_bytes());
    }

    fn write(mut self, out: &mut impl Write, flag: u8) -> io::Result<()> {
        self.0[156] = flag;
        self.0[148..156].fill(b' ');
        let sum: u32 = self.0.iter().map(|&byte| u32::from(byte)).sum();
        self.text(148, format!("{sum:06o}\0").as_bytes());
        out.write_all(&self.0)
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "tests")]

    use std::{ffi::OsString, os::unix::ffi::OsStringExt};

    use proptest::prelude::*;

    use super::*;
    use crate::layer::tar_reader::{Member, MemberKind, TarLimits, TarReader};

    fn archive(header: &TarHeader<'_>, data: &[u8]) -> Vec<u8> {
        let mut out = Vec::new();
        write_header(&mut out, header).unwrap();
        out.extend_from_slice(data);
        write_padding(&mut out, data.len() as u64).unwrap();
        write_end(&mut out).unwrap();
        out
    }

    fn read(archive: &[u8]) -> Member {
        let limits = TarLimits {
            path: 8192,
            header: 1 << 20,
            holes: 0,
        };
        TarReader::new(archive, limits).next().unwrap().unwrap()
    }

    #[test]
    fn a_plain_header_needs_no_records() {
        let xattrs = Xattrs::new();
        let header = TarHeader {
            name: b"etc/passwd".to_vec(),
            kind: TarKind::File(3),
            mode: 0o644,
            uid: 0,
            gid: 7,
            mtime: 1_700_000_000,
            xattrs: &xattrs,
        };
        let bytes = archive(&header, b"abc");
        assert_eq!(bytes.len(), 512 + 512 + 1024);
        assert_eq!(&bytes[100..124], b"0000644\x000000000\x000000007\0");
        assert_eq!(&bytes[124..148], b"00000000003\x0014524770400\0");
    }

    #[test]
    fn long_names_use_the_prefix_and_then_a_record() {
        let long = [b"d".repeat(80), b"/".to_vec(), b"f".repeat(90)].concat();
        assert_eq!(
            split_name(&long),
            Some((&b"f".repeat(90)[..], &b"d".repeat(80)[..]))
        );
        assert_eq!(split_name(&b"f".repeat(101)), None);
        assert_eq!(split_name("ä".as_bytes()), None);
        let directory = [b"d".repeat(100), b"/".to_vec()].concat();
        assert_eq!(split_name(&directory), None);
    }

    proptest! {
        #[test]
        fn what_is_written_is_read(
            name in proptest::collection::vec(1_u8..=255, 1..400),
            link in proptest::collection::vec(1_u8..=255, 1..300),
            (mode, uid, gid) in (0_u32..0o10000, any::<u32>(), any::<u32>()),
            mtime in -5_000_000_000_i64..100_000_000_000,
            (key, value) in ("user\\.[a-z]{1,12}", proptest::collection::vec(any::<u8>(), 0..300)),
            which in 0..4,
        ) {
            prop_assume!(!name.ends_with(b"/"));
            let xattrs = Xattrs::from([(key, value)]);
            let device = Device { major: 8, minor: 1 };
            let (kind, expected) = match which {
                0 => (TarKind::File(5), MemberKind::File),
                1 => (TarKind::Symlink(&link), MemberKind::Symlink(OsString::from_vec(link.clone()))),
                2 => (TarKind::HardLink(&link), MemberKind::HardLink(OsString::from_vec(link.clone()))),
                _ => (TarKind::CharDevice(device), MemberKind::CharDevice(device)),
            };
            let header = TarHeader { name: name.clone(), kind, mode, uid, gid, mtime, xattrs: &xattrs };
            let member = read(&archive(&header, b"12345"));
            prop_assert_eq!(member.name, OsString::from_vec(name));
            prop_assert_eq!(&member.kind, &expected);
            prop_assert_eq!((member.mode, member.uid, member.gid), (mode, uid, gid));
            prop_assert_eq!((member.mtime.seconds, member.mtime.nanos), (mtime, 0));
            prop_assert_eq!(member.xattrs, xattrs);
        }
    }
}
