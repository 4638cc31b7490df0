//! Unpacks layers: a tar stream, compressed or not, becomes a directory in overlayfs's upper format. Nothing is trusted:
//! paths cannot leave the directory, links are followed inside it only, sizes and counts are bounded, and the digest of
//! what was read is returned for the caller to compare.

use std::{
    ffi::OsStr,
    io::{self, Read},
    os::unix::ffi::OsStrExt,
    path::Path,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
        mpsc::{Receiver, SyncSender, sync_channel},
    },
};

use oci::{DiffId, Digester, MediaType};
use store::decompress;

use crate::{
    layer::{
        LayerDir, LayerError, Listing, ListingWriter, Member, MemberKind, OPAQUE_NAME, Owners,
        PLAIN_DIRECTORY, Picked, Picking, SourceFailed, Streamed, TarError, TarLimits, TarReader,
        WHITEOUT_PREFIX, WriteLayer,
    },
    snapshot::Snapshot,
    tree::{Attributes, ImagePath, Kind, Tree, TreeError},
    upper::Upper,
};

/// Bounds on what an archive may make of the disk.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limits {
    /// Members of the archive.
    pub entries: u64,
    /// Bytes of the uncompressed stream.
    pub bytes: u64,
    /// Uncompressed bytes for each compressed one, counted from 64 MiB on.
    pub ratio: u64,
    /// Bytes of a path or link target.
    pub path: usize,
    /// Components of a path.
    pub depth: usize,
    /// Bytes of an extended header: names and extended attributes of one member.
    pub header: u64,
}

impl Default for Limits {
    /// 2 million entries, 64 GiB, 1100 to one (gzip cannot do better), the kernel's 4096 bytes for a path, 256
    /// components, 1 MiB of extended header.
    fn default() -> Self {
        Self {
            entries: 2_000_000,
            bytes: 64 << 30,
            ratio: 1100,
            path: 4096,
            depth: 256,
            header: 1 << 20,
        }
    }
}

/// How much is handed at once from the thread that decompresses to the one that writes.
const CHUNK: usize = 128 * 1024;
/// How many chunks may wait in between.
const CHUNKS: usize = 8;

/// So much may come out before the ratio is looked at.
const RATIO_FLOOR: u64 = 64 << 20;

/// Why an archive could not be unpacked.
#[derive(Debug, thiserror::Error)]
pub enum UnpackError {
    /// The media type is not one of a layer.
    #[error("media type {0} is not one of a file system layer")]
    MediaType(MediaType),
    /// The archive is malformed, or the stream failed.
    #[error(transparent)]
    Archive(#[from] TarError),
    /// The directory cannot be written.
    #[error(transparent)]
    Write(#[from] LayerError),
    /// A bound is exceeded.
    #[error(transparent)]
    Limit(#[from] LimitExceeded),
    /// A hard link to nothing in the archive.
    #[error(
        "the archive's member `{name}` is a hard link to {target}, which is not there or is a directory"
    )]
    HardLink {
        /// The member.
        name: String,
        /// What it links to.
        target: ImagePath,
    },
    /// A name that would touch something else than a file.
    #[error("the archive's member `{0}` has a name that no file can have")]
    Name(String),
}

/// A bound on archives is exceeded.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the archive exceeds the limit of {limit} {what}")]
pub struct LimitExceeded {
    /// What is too large.
    pub what: &'static str,
    /// The bound.
    pub limit: u64,
}

impl From<TreeError> for UnpackError {
    fn from(error: TreeError) -> Self {
        Self::Write(error.into())
    }
}

/// Unpacks the layer in `reader` to the new directory `into`. Returns the layer and the digest of its uncompressed
/// stream, which the caller must compare with the image's configuration before using the layer.
///
/// The compression is found by content, as registries and tools do not agree in their media types; `media_type` only
/// tells whether the blob is a layer at all. The whole stream is read, with what follows the end of the archive.
///
/// # Errors
/// [`UnpackError`]. The directory is then left as it is, for the caller to remove.
pub fn unpack(
    reader: impl Read + Send,
    media_type: &MediaType,
    into: &Path,
    limits: &Limits,
    owners: Owners,
) -> Result<(LayerDir, DiffId), UnpackError> {
    if !media_type.is_layer() && !media_type.is_foreign_layer() {
        return Err(UnpackError::MediaType(media_type.clone()));
    }
    let base = Snapshot::empty();
    let mut upper = Upper::create(&base, into, owners)?;
    let diff_id = unpack_onto(&mut upper, reader, &Rules::of_layer(), limits)?;
    Ok((upper.finish()?, diff_id))
}

/// Reads the layer in `reader` as [`unpack`] does, and keeps of it only what its tree looks like. Nothing is written.
///
/// # Errors
/// [`UnpackError`], for the same archives as [`unpack`].
pub fn list(
    reader: impl Read + Send,
    media_type: &MediaType,
    limits: &Limits,
) -> Result<(Listing, DiffId), UnpackError> {
    let (listing, _, diff_id) = list_and_pick(reader, media_type, limits, None)?;
    Ok((listing, diff_id))
}

/// As [`list`], and keeps the contents that `picking` is told to keep; none where the layer has nothing of them.
///
/// # Errors
/// As [`list`], or where contents cannot be written.
pub(crate) fn list_and_pick(
    reader: impl Read + Send,
    media_type: &MediaType,
    limits: &Limits,
    picking: Option<Picking>,
) -> Result<(Listing, Option<Picked>, DiffId), UnpackError> {
    if !media_type.is_layer() && !media_type.is_foreign_layer() {
        return Err(UnpackError::MediaType(media_type.clone()));
    }
    let base = Snapshot::empty();
    let mut upper = Upper::over(&base, ListingWriter::picking(picking));
    let diff_id = unpack_onto(&mut upper, reader, &Rules::of_layer(), limits)?;
    let finished = upper.into_writer().finish();
    let (listing, picked) = finished.map_err(LayerError::Index)?;
    Ok((listing, picked, diff_id))
}

/// Puts the archive in `reader`, compressed or not, into `upper`, and returns the digest of its uncompressed stream.
pub(crate) fn unpack_onto<W: WriteLayer>(
    upper: &mut Upper<'_, W>,
    reader: impl Read + Send,
    rules: &Rules,
    limits: &Limits,
) -> Result<DiffId, UnpackError> {
    let (sender, receiver) = sync_channel(CHUNKS);
    std::thread::scope(|scope| {
        let decompressing = scope.spawn(move || decompressed(reader, limits, &sender));
        // It goes out of scope before the other thread is waited for, which then finds nobody listening.
        let mut tar = TarReader::new(Chunks::new(receiver), limits.of_tar());
        apply(upper, &mut tar, rules, limits)?;
        tar.drain().map_err(unwrap_limit)?;
        let digester = decompressing
            .join()
            .unwrap_or_else(|panic| std::panic::resume_unwind(panic));
        Ok(DiffId(digester.finish()))
    })
}

/// Decompresses and hashes `reader` for another thread, which writes files meanwhile, as long as that listens. What goes
/// wrong is told to it.
fn decompressed(
    reader: impl Read,
    limits: &Limits,
    sender: &SyncSender<io::Result<Vec<u8>>>,
) -> Digester {
    let compressed = Arc::new(AtomicU64::new(0));
    let counted = Counted {
        reader,
        count: Arc::clone(&compressed),
    };
    let stream = match decompress(counted) {
        Ok((_, stream)) => stream,
        Err(error) => {
            // A receiver that is gone has failed, and tells why itself.
            let _ = sender.send(Err(error));
            return Digester::sha256();
        }
    };
    let mut metered = Metered {
        stream,
        digester: Digester::sha256(),
        compressed,
        limits: *limits,
    };
    loop {
        let mut chunk = Vec::with_capacity(CHUNK);
        let read = (&mut metered).take(CHUNK as u64).read_to_end(&mut chunk);
        let ended = chunk.is_empty() || read.is_err();
        if !chunk.is_empty() && sender.send(Ok(chunk)).is_err() {
            break;
        }
        if let Err(error) = read {
            let _ = sender.send(Err(error));
        }
        if ended {
            break;
        }
    }
    metered.digester
}

/// What another thread decompresses.
struct Chunks {
    receiver: Receiver<io::Result<Vec<u8>>>,
    chunk: Vec<u8>,
    taken: usize,
}

impl Chunks {
    const fn new(receiver: Receiver<io::Result<Vec<u8>>>) -> Self {
        Self {
            receiver,
            chunk: Vec::new(),
            taken: 0,
        }
    }
}

impl Read for Chunks {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        if self.taken == self.chunk.len() {
            // The sender goes when all is sent.
            let Ok(next) = self.receiver.recv() else {
                return Ok(0);
            };
            (self.chunk, self.taken) = (next?, 0);
        }
        let count = buffer.len().min(self.chunk.len() - self.taken);
        buffer[..count].copy_from_slice(&self.chunk[self.taken..self.taken + count]);
        self.taken += count;
        Ok(count)
    }
}

/// Whether `reader` holds a tar archive, compressed or not: ADD unpacks what has a readable first member.
///
/// # Errors
/// An archive that is one but is refused.
pub(crate) fn is_archive(reader: impl Read, limits: &Limits) -> Result<bool, TarError> {
    let Ok((_, stream)) = decompress(reader) else {
        return Ok(false);
    };
    match TarReader::new(stream, limits.of_tar()).next() {
        Ok(first) => Ok(first.is_some()),
        Err(TarError::Io(_) | TarError::Checksum | TarError::Truncated) => Ok(false),
        Err(error) => Err(error),
    }
}

impl Limits {
    pub(crate) const fn of_tar(&self) -> TarLimits {
        TarLimits {
            path: self.path,
            header: self.header,
            holes: self.bytes,
        }
    }
}

/// How the members of an archive are put into a tree.
pub(crate) struct Rules {
    /// The directory that the archive's root stands for, free of symbolic links.
    pub(crate) into: ImagePath,
    /// The owner of everything, where it is not the archive's.
    pub(crate) owner: Option<(u32, u32)>,
    /// The owner of directories that no member describes.
    pub(crate) implied: (u32, u32),
    /// Whether the archive is a layer: names with `.wh.` are deletions, directories that it does not name are those of
    /// the layers below. Otherwise such names are refused and such directories are made.
    pub(crate) whiteouts: bool,
}

impl Rules {
    /// A layer of an image.
    fn of_layer() -> Self {
        Self {
            into: ImagePath::root(),
            owner: None,
            implied: (0, 0),
            whiteouts: true,
        }
    }
}

/// Puts all members of `tar` into `upper`.
pub(crate) fn apply<R: Read, W: WriteLayer>(
    upper: &mut Upper<'_, W>,
    tar: &mut TarReader<R>,
    rules: &Rules,
    limits: &Limits,
) -> Result<(), UnpackError> {
    let mut entries = 0;
    let mut buffer = Vec::new();
    while let Some(member) = tar.next().map_err(unwrap_limit)? {
        entries += 1;
        if entries > limits.entries {
            return Err(LimitExceeded {
                what: "entries",
                limit: limits.entries,
            }
            .into());
        }
        put(upper, tar, rules, limits, &member, &mut buffer)?;
    }
    Ok(())
}

fn put<R: Read, W: WriteLayer>(
    upper: &mut Upper<'_, W>,
    tar: &mut TarReader<R>,
    rules: &Rules,
    limits: &Limits,
    member: &Member,
    buffer: &mut Vec<u8>,
) -> Result<(), UnpackError> {
    let relative = ImagePath::new(member.name.as_bytes());
    if relative.depth() > limits.depth {
        return Err(LimitExceeded {
            what: "components of a path",
            limit: limits.depth as u64,
        }
        .into());
    }
    let attributes = Attributes {
        mode: member.mode,
        uid: rules.owner.map_or(member.uid, |(uid, _)| uid),
        gid: rules.owner.map_or(member.gid, |(_, gid)| gid),
        mtime: member.mtime,
        xattrs: member.xattrs.clone(),
    };
    let (Some(above), Some(name)) = (relative.parent(), relative.name()) else {
        // The archive's own root: of a layer it describes the root, of an added archive it must not alter the target.
        if rules.whiteouts && member.kind == MemberKind::Directory {
            upper.directory(&ImagePath::root(), &attributes)?;
        }
        return Ok(());
    };
    let parent = resolve_below(upper, rules, &above)?;
    let implied = Attributes {
        uid: rules.implied.0,
        gid: rules.implied.1,
        mtime: if rules.whiteouts {
            PLAIN_DIRECTORY.mtime
        } else {
            member.mtime
        },
        ..PLAIN_DIRECTORY
    };
    upper.make_directories(&parent, &implied, rules.whiteouts)?;
    if rules.whiteouts
        && let Some(hidden) = name.as_bytes().strip_prefix(WHITEOUT_PREFIX)
    {
        return put_whiteout(upper, &parent, name, hidden);
    }
    let path = parent.child(name);
    match &member.kind {
        MemberKind::Directory => upper.directory(&path, &attributes)?,
        MemberKind::File => {
            let mut content = Streamed::new(tar.data(), buffer);
            let written = upper.file(&path, &attributes, &mut content);
            written.map_err(unwrap_source)?;
        }
        MemberKind::Symlink(target) => upper.symlink(&path, target, &attributes)?,
        MemberKind::Fifo => upper.special(&path, &Kind::Fifo, &attributes)?,
        MemberKind::CharDevice(device) => {
            upper.special(&path, &Kind::CharDevice(*device), &attributes)?;
        }
        MemberKind::BlockDevice(device) => {
            upper.special(&path, &Kind::BlockDevice(*device), &attributes)?;
        }
        MemberKind::HardLink(target) => put_hard_link(upper, rules, member, &path, target)?,
    }
    Ok(())
}

/// Where `path` of the archive is in the tree, with the symbolic links that are there followed inside the root.
fn resolve_below<W: WriteLayer>(
    upper: &Upper<'_, W>,
    rules: &Rules,
    path: &ImagePath,
) -> Result<ImagePath, UnpackError> {
    let path = rules.into.join([b"./", path.as_bytes()].concat());
    // A directory of the layer itself is known to have no link above it.
    if upper.has_directory(&path) {
        return Ok(path);
    }
    Ok(upper.resolve(&path)?)
}

fn put_whiteout<W: WriteLayer>(
    upper: &mut Upper<'_, W>,
    parent: &ImagePath,
    name: &OsStr,
    hidden: &[u8],
) -> Result<(), UnpackError> {
    if name.as_bytes() == OPAQUE_NAME {
        return Ok(upper.set_opaque(parent)?);
    }
    match hidden {
        b"" | b"." | b".." => Err(UnpackError::Name(name.to_string_lossy().into_owned())),
        // Bookkeeping of a union file system of old.
        _ if hidden.starts_with(WHITEOUT_PREFIX) => Ok(()),
        _ => Ok(upper.whiteout(&parent.child(OsStr::from_bytes(hidden)))?),
    }
}

fn put_hard_link<W: WriteLayer>(
    upper: &mut Upper<'_, W>,
    rules: &Rules,
    member: &Member,
    path: &ImagePath,
    target: &OsStr,
) -> Result<(), UnpackError> {
    let relative = ImagePath::new(target.as_bytes());
    let missing = |target: ImagePath| UnpackError::HardLink {
        name: member.shown(),
        target,
    };
    let (Some(above), Some(name)) = (relative.parent(), relative.name()) else {
        return Err(missing(relative));
    };
    let target = resolve_below(upper, rules, &above)?.child(name);
    match upper.entry(&target)? {
        Some(entry) if entry.is_directory() => Err(missing(target)),
        Some(_) if upper.has(&target)? => Ok(upper.hard_link(path, &target)?),
        // Of an added archive, the target may be a file of the image: a link cannot reach into another layer.
        Some(entry) if entry.kind == Kind::File && !rules.whiteouts => {
            let attributes = entry.attributes(upper.xattrs(&target)?);
            let mut content = upper.open(&target)?;
            upper.file(path, &attributes, &mut content)?;
            Ok(())
        }
        None | Some(_) => Err(missing(target)),
    }
}

/// An exceeded limit that came up through a reader is a limit again.
fn unwrap_limit(error: TarError) -> UnpackError {
    if let TarError::Io(io) = &error
        && let Some(limit) = io
            .get_ref()
            .and_then(|inner| inner.downcast_ref::<LimitExceeded>())
    {
        return UnpackError::Limit(*limit);
    }
    UnpackError::Archive(error)
}

/// A failure of the archive's stream, met while a file was written, is one of the archive.
fn unwrap_source(error: LayerError) -> UnpackError {
    let LayerError::Write { path, source } = error else {
        return UnpackError::Write(error);
    };
    match source
        .downcast::<SourceFailed>()
        .map(|failed| failed.0.downcast::<TarError>())
    {
        Ok(Ok(error)) => UnpackError::Archive(error),
        Ok(Err(cause)) => unwrap_limit(TarError::Io(cause)),
        Err(source) => UnpackError::Write(LayerError::Write { path, source }),
    }
}

/// Counts what is read through it.
struct Counted<R> {
    reader: R,
    count: Arc<AtomicU64>,
}

impl<R: Read> Read for Counted<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let read = self.reader.read(buffer)?;
        self.count.fetch_add(read as u64, Ordering::Relaxed);
        Ok(read)
    }
}

/// Hashes what is read through it, and ends with an error where a limit is exceeded.
struct Metered<R> {
    stream: R,
    digester: Digester,
    compressed: Arc<AtomicU64>,
    limits: Limits,
}

impl<R: Read> Read for Metered<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let read = self.stream.read(buffer)?;
        self.digester.update(&buffer[..read]);
        let (total, compressed) = (self.digester.len(), self.compressed.load(Ordering::Relaxed));
        let exceeded = if total > self.limits.bytes {
            Some(LimitExceeded {
                what: "uncompressed bytes",
                limit: self.limits.bytes,
            })
        } else if total > RATIO_FLOOR && total / self.limits.ratio > compressed {
            Some(LimitExceeded {
                what: "uncompressed bytes for each compressed one",
                limit: self.limits.ratio,
            })
        } else {
            None
        };
        exceeded.map_or(Ok(read), |limit| Err(io::Error::other(limit)))
    }
}

#[cfg(test)]
mod tests;
