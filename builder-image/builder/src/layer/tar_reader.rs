//! Reads tar archives strictly: ustar, PAX, GNU's long names and sparse files. What two well-known readers would take differently is
//! refused, so that nothing can hide between them. PAX records are read by their length (values are any bytes), headers
//! are bounded, and member data is handed on as a stream: memory does not grow with the archive.

use std::{
    ffi::{OsStr, OsString},
    io::{self, Read},
    os::unix::ffi::OsStringExt,
};

use super::extended_header::Extensions;
use super::sparse::{Run, SparseMap, SparseRecords, Written, map_before_data};
use super::tar_header::{BLOCK, Header, until_nul};
use crate::tree::{Device, Timestamp, Xattrs};

/// Bounds on the headers of an archive.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct TarLimits {
    /// The longest name or link target in bytes.
    pub(crate) path: usize,
    /// The largest extended header, or map of a sparse file, in bytes.
    pub(crate) header: u64,
    /// How many bytes of sparse files an archive may have that are not in it.
    pub(crate) holes: u64,
}

/// What a member of an archive is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum MemberKind {
    /// A regular file; its data follows.
    File,
    /// A second name of another member.
    HardLink(OsString),
    /// A symbolic link.
    Symlink(OsString),
    /// A directory.
    Directory,
    /// A named pipe.
    Fifo,
    /// A character device.
    CharDevice(Device),
    /// A block device.
    BlockDevice(Device),
}

/// One member of an archive, as its headers describe it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Member {
    /// The name as it is written, not yet normalised.
    pub(crate) name: OsString,
    /// What it is.
    pub(crate) kind: MemberKind,
    /// Permission bits.
    pub(crate) mode: u32,
    /// The owning user.
    pub(crate) uid: u32,
    /// The owning group.
    pub(crate) gid: u32,
    /// The time of the last change.
    pub(crate) mtime: Timestamp,
    /// The size of a regular file's data.
    pub(crate) size: u64,
    /// Extended attributes that an image records.
    pub(crate) xattrs: Xattrs,
}

/// Why an archive cannot be read.
#[derive(Debug, thiserror::Error)]
pub enum TarError {
    /// The stream failed.
    #[error("reading the archive failed")]
    Io(#[from] io::Error),
    /// The stream ended within a member.
    #[error("the archive ends in the middle of a member")]
    Truncated,
    /// A header's checksum does not fit: this is no tar archive, or it is damaged.
    #[error("not a tar archive, or a damaged one: a header's checksum is wrong")]
    Checksum,
    /// A number or text of a header is malformed.
    #[error("the archive's header of `{name}` has a malformed {field}")]
    Field {
        /// The member.
        name: String,
        /// The field.
        field: &'static str,
    },
    /// An extended header is malformed.
    #[error("the archive has a malformed extended header: {0}")]
    Extended(&'static str),
    /// Readers do not agree on what this means.
    #[error("the archive's member `{name}` is ambiguous: {why}")]
    Ambiguous {
        /// The member.
        name: String,
        /// What contradicts what.
        why: &'static str,
    },
    /// A kind of member that is not supported.
    #[error("the archive's member `{name}` is {what}, which is not supported")]
    Unsupported {
        /// The member.
        name: String,
        /// The kind.
        what: &'static str,
    },
    /// A bound is exceeded.
    #[error("the archive's {what} exceeds {limit}")]
    Limit {
        /// What is too large.
        what: &'static str,
        /// The bound.
        limit: u64,
    },
}

/// A tar archive in a stream.
#[derive(Debug)]
pub(crate) struct TarReader<R> {
    stream: R,
    limits: TarLimits,
    /// Data and padding of the current member that was not read yet.
    data: u64,
    padding: u64,
    /// The current member, where it is sparse, and how much of it was read.
    sparse: Option<(SparseMap, u64)>,
    /// The bytes of holes so far.
    holes: u64,
    ended: bool,
}

impl<R: Read> TarReader<R> {
    pub(crate) const fn new(stream: R, limits: TarLimits) -> Self {
        Self {
            stream,
            limits,
            data: 0,
            padding: 0,
            sparse: None,
            holes: 0,
            ended: false,
        }
    }

    /// The next member, skipping what is left of the one before; `None` at the end of the archive.
    pub(crate) fn next(&mut self) -> Result<Option<Member>, TarError> {
        self.skip_data()?;
        let mut extensions = Extensions::default();
        loop {
            let Some(header) = self.header()? else {
                return if extensions.is_empty() {
                    Ok(None)
                } else {
                    Err(TarError::Truncated)
                };
            };
            let size = header.number(124..136, "size")?;
            match header.flag() {
                b'x' if extensions.seen_pax => {
                    return Err(TarError::Extended("two of them describe one member"));
                }
                b'x' => {
                    let records = self.extended(size)?;
                    extensions.read_pax(&records)?;
                }
                // The records of a global header are not applied by the readers that images are made for.
                b'g' => {
                    self.extended(size)?;
                }
                b'L' => extensions.set_gnu_name(&self.extended(size)?)?,
                b'K' => extensions.set_gnu_link(&self.extended(size)?)?,
                // A label of the archive as a whole.
                b'V' if size == 0 => {}
                _ => {
                    let name = extensions.sparse.name.take();
                    extensions.path = name.or(extensions.path);
                    let records = std::mem::take(&mut extensions.sparse);
                    let mut member = self.member(&header, size, extensions)?;
                    if member.kind == MemberKind::File {
                        self.begin_data(member.size);
                        if let Some(map) = self.map(&header, &records)? {
                            member.size = map.size;
                            self.sparse = Some((map, 0));
                        }
                    } else if !records.is_empty() {
                        return Err(TarError::Extended("what is no file is sparse"));
                    }
                    return Ok(Some(member));
                }
            }
        }
    }

    /// The data of the current member.
    pub(crate) fn data(&mut self) -> impl Read + '_ {
        Data(self)
    }

    /// Reads the stream to its end: some writers pad the archive, and a layer's digest covers all of it.
    pub(crate) fn drain(mut self) -> Result<R, TarError> {
        io::copy(&mut self.stream, &mut io::sink())?;
        Ok(self.stream)
    }

    const fn begin_data(&mut self, size: u64) {
        self.data = size;
        self.padding = (BLOCK as u64 - size % BLOCK as u64) % BLOCK as u64;
    }

    /// Some of the member's bytes that are in the archive.
    fn stored(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let read = self.stream.read(buffer)?;
        if read == 0 {
            let error = io::Error::new(io::ErrorKind::UnexpectedEof, TarError::Truncated);
            return Err(error);
        }
        self.data -= read as u64;
        Ok(read)
    }

    fn skip_data(&mut self) -> Result<(), TarError> {
        let wanted = self.data + self.padding;
        let skipped = io::copy(&mut (&mut self.stream).take(wanted), &mut io::sink())?;
        (self.data, self.padding, self.sparse) = (0, 0, None);
        if skipped == wanted {
            Ok(())
        } else {
            Err(TarError::Truncated)
        }
    }

    /// Where the data of a sparse file belongs; none where the member is an ordinary file, whose data comes next.
    fn map(
        &mut self,
        header: &Header,
        records: &SparseRecords,
    ) -> Result<Option<SparseMap>, TarError> {
        let (pieces, size) = if header.flag() == b'S' {
            if !records.is_empty() {
                return Err(TarError::Extended("a sparse file has two maps"));
            }
            self.gnu_map(header)?
        } else if records.is_empty() {
            return Ok(None);
        } else {
            match records.read()? {
                (size, Written::Here(pieces)) => (pieces, size),
                (size, Written::BeforeData) => {
                    let (limit, stored) = (self.limits.header, self.data);
                    let block = || self.block()?.ok_or(TarError::Truncated);
                    let (pieces, length) = map_before_data(block, limit.min(stored))?;
                    self.data -= length;
                    (pieces, size)
                }
            }
        };
        let map = SparseMap::new(pieces, size, self.data)?;
        self.holes = self.holes.saturating_add(map.holes());
        if self.holes > self.limits.holes {
            return Err(TarError::Limit {
                what: "bytes of sparse files",
                limit: self.limits.holes,
            });
        }
        Ok(Some(map))
    }

    /// The map in an old header of GNU, and in the blocks that follow it.
    fn gnu_map(&mut self, header: &Header) -> Result<(Vec<(u64, u64)>, u64), TarError> {
        let size = header.number(483..495, "size")?;
        let mut pieces = Vec::new();
        let (mut block, mut at, mut number, mut more) = (Header(header.0), 386, 4, 482);
        let mut read = 0;
        loop {
            for piece in 0..number {
                let start = at + piece * 24;
                // A piece that is not there ends the map.
                if block.0[start..start + 24].iter().all(|&byte| byte == 0) {
                    break;
                }
                pieces.push((
                    block.number(start..start + 12, "map")?,
                    block.number(start + 12..start + 24, "map")?,
                ));
            }
            if block.0[more] == 0 {
                return Ok((pieces, size));
            }
            read += BLOCK as u64;
            if read > self.limits.header {
                return Err(TarError::Limit {
                    what: "map of a sparse file",
                    limit: self.limits.header,
                });
            }
            block = Header(self.block()?.ok_or(TarError::Truncated)?);
            (at, number, more) = (0, 21, 504);
        }
    }

    /// The content of an extended header.
    fn extended(&mut self, size: u64) -> Result<Vec<u8>, TarError> {
        if size > self.limits.header {
            return Err(TarError::Limit {
                what: "extended header",
                limit: self.limits.header,
            });
        }
        self.begin_data(size);
        let mut content = Vec::new();
        (&mut self.stream).take(size).read_to_end(&mut content)?;
        if (content.len() as u64) < size {
            return Err(TarError::Truncated);
        }
        self.data = 0;
        self.skip_data()?;
        Ok(content)
    }

    /// The next header block; `None` at two blocks of zeros or at the end of the stream.
    fn header(&mut self) -> Result<Option<Header>, TarError> {
        if self.ended {
            return Ok(None);
        }
        let Some(block) = self.block()? else {
            self.ended = true;
            return Ok(None);
        };
        if block.iter().all(|&byte| byte == 0) {
            self.ended = true;
            // A second one belongs here. A stream that ends after the first is as good.
            return match self.block()? {
                Some(second) if second.iter().any(|&byte| byte != 0) => Err(TarError::Ambiguous {
                    name: String::new(),
                    why: "a block of zeros stands before it",
                }),
                _ => Ok(None),
            };
        }
        let header = Header(block);
        header.check()?;
        Ok(Some(header))
    }

    fn block(&mut self) -> Result<Option<[u8; BLOCK]>, TarError> {
        crate::runtime::go_on()?;
        let mut block = [0; BLOCK];
        let mut filled = 0;
        while filled < BLOCK {
            match self.stream.read(&mut block[filled..]) {
                Ok(0) if filled == 0 => return Ok(None),
                Ok(0) => return Err(TarError::Truncated),
                Ok(read) => filled += read,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(error.into()),
            }
        }
        Ok(Some(block))
    }

    fn member(
        &self,
        header: &Header,
        size: u64,
        extensions: Extensions,
    ) -> Result<Member, TarError> {
        let name = self.one_of("name", extensions.gnu_name, extensions.path, || {
            header.name()
        })?;
        let shown = || String::from_utf8_lossy(&name[..name.len().min(200)]).into_owned();
        let ambiguous = |why| TarError::Ambiguous { name: shown(), why };
        let unsupported = |what| TarError::Unsupported {
            name: shown(),
            what,
        };
        let device = || -> Result<Device, TarError> {
            Ok(Device {
                major: header.small_number(329..337, "device number")?,
                minor: header.small_number(337..345, "device number")?,
            })
        };
        let link = || -> Result<OsString, TarError> {
            let text = self.one_of(
                "link target",
                extensions.gnu_link.clone(),
                extensions.link.clone(),
                || until_nul(&header.0[157..257]).to_vec(),
            )?;
            Ok(OsString::from_vec(text))
        };
        let file_size = extensions.size.unwrap_or(size);
        let kind = match header.flag() {
            // Archives of the seventh edition have no type for directories.
            0 if name.ends_with(b"/") => MemberKind::Directory,
            0 | b'0' | b'7' => MemberKind::File,
            b'1' => MemberKind::HardLink(link()?),
            b'2' => MemberKind::Symlink(link()?),
            b'3' => MemberKind::CharDevice(device()?),
            b'4' => MemberKind::BlockDevice(device()?),
            b'5' => MemberKind::Directory,
            b'6' => MemberKind::Fifo,
            b'S' if header.is_gnu() => MemberKind::File,
            b'S' => return Err(unsupported("a sparse file of unknown format")),
            b'M' => return Err(unsupported("the continuation of another archive")),
            _ => return Err(unsupported("of an unknown type")),
        };
        // Of a hard link, all readers ignore the size; of the others, some skip that much and some do not.
        let has_data = matches!(kind, MemberKind::File | MemberKind::HardLink(_));
        if !has_data && file_size != 0 {
            return Err(ambiguous("it has a size but is no regular file"));
        }
        if matches!(kind, MemberKind::HardLink(_)) && extensions.size.is_some_and(|size| size != 0)
        {
            return Err(ambiguous("a hard link has data"));
        }
        Ok(Member {
            size: if kind == MemberKind::File {
                file_size
            } else {
                0
            },
            kind,
            mode: header.small_number(100..108, "mode")? & 0o7777,
            uid: match extensions.uid {
                Some(uid) => uid,
                None => header.small_number(108..116, "user id")?,
            },
            gid: match extensions.gid {
                Some(gid) => gid,
                None => header.small_number(116..124, "group id")?,
            },
            mtime: match extensions.mtime {
                Some(mtime) => mtime,
                None => Timestamp::from_seconds(header.signed(136..148, "time")?),
            },
            xattrs: extensions.xattrs,
            name: OsString::from_vec(name),
        })
    }

    /// A text that GNU's and PAX's headers and the plain header may all give.
    fn one_of(
        &self,
        what: &'static str,
        gnu: Option<Vec<u8>>,
        pax: Option<Vec<u8>>,
        plain: impl FnOnce() -> Vec<u8>,
    ) -> Result<Vec<u8>, TarError> {
        let text = match (gnu, pax) {
            (Some(gnu), Some(pax)) if gnu != pax => {
                return Err(TarError::Ambiguous {
                    name: String::from_utf8_lossy(&pax[..pax.len().min(200)]).into_owned(),
                    why: "its GNU and PAX headers differ",
                });
            }
            (Some(text), _) | (None, Some(text)) => text,
            (None, None) => plain(),
        };
        if text.len() > self.limits.path {
            return Err(TarError::Limit {
                what,
                limit: self.limits.path as u64,
            });
        }
        if text.is_empty() || text.contains(&0) {
            return Err(TarError::Field {
                name: String::from_utf8_lossy(&text).into_owned(),
                field: what,
            });
        }
        Ok(text)
    }
}

/// The data of a member.
struct Data<'a, R>(&'a mut TarReader<R>);

impl<R: Read> Read for Data<'_, R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let run = match &self.0.sparse {
            None => Run::Data(self.0.data),
            Some((map, position)) => map.at(*position).unwrap_or(Run::Data(0)),
        };
        let (Run::Data(length) | Run::Hole(length)) = run;
        let wanted = usize::try_from(length).unwrap_or(usize::MAX);
        let wanted = wanted.min(buffer.len());
        if wanted == 0 {
            return Ok(0);
        }
        let read = match run {
            Run::Data(_) => self.0.stored(&mut buffer[..wanted])?,
            Run::Hole(_) => {
                crate::runtime::go_on()?;
                buffer[..wanted].fill(0);
                wanted
            }
        };
        if let Some((_, position)) = &mut self.0.sparse {
            *position += read as u64;
        }
        Ok(read)
    }
}

impl Member {
    /// The name for messages.
    pub(crate) fn shown(&self) -> String {
        let name: &OsStr = &self.name;
        name.to_string_lossy().chars().take(200).collect()
    }
}
