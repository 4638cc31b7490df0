//! Makes a listing of a layer as if the layer were unpacked: the same operations as on a directory, in memory.

use std::{
    collections::{BTreeMap, BTreeSet, VecDeque},
    ffi::{OsStr, OsString},
    fs::File,
    io::{self, Write},
    os::unix::ffi::OsStrExt,
};

use rustix::io::Errno;

use super::{
    CONTENT, HEADER, IMPLIED, Listing, MAGIC, OPAQUE, Picked, Picking, RECORD, Record, halves, tag,
};
use crate::{
    layer::{Content, LayerError, PLAIN_DIRECTORY, WriteLayer},
    tree::{Attributes, Entry, FileId, ImagePath, Kind, Xattrs},
};

/// The names of files whose contents are kept: `--chown` and `WORKDIR` look into them, wherever a link may have put them.
const KEPT: [&[u8]; 2] = [b"passwd", b"group"];
/// Larger ones are not kept.
const MAX_KEPT: u64 = 1 << 20;
/// How much a listing may take of memory, in bytes. A larger layer is unpacked instead.
const MAX_BYTES: usize = 96 << 20;
/// What a name takes of memory beside its bytes: the tree of its directory has two thirds of its places filled.
const NAME: usize = 48;
/// The longest name that a file can have on Linux.
const MAX_NAME: usize = 255;

/// A listing in the making.
#[derive(Debug)]
pub(crate) struct ListingWriter {
    /// All entries that ever were; those that nothing leads to any more are forgotten at the end. The first is the root.
    nodes: Vec<Node>,
    /// About how many bytes all of this takes.
    bytes: usize,
    /// What is kept of contents.
    picking: Option<Picking>,
}

#[derive(Debug)]
struct Node {
    body: Body,
    mode: u16,
    uid: u32,
    gid: u32,
    seconds: i64,
    nanos: u32,
    /// How many names lead here.
    names: u32,
    /// Few have any.
    xattrs: Option<Box<Xattrs>>,
}

#[derive(Debug)]
enum Body {
    Directory(Box<Directory>),
    File {
        size: u64,
        content: Option<Box<[u8]>>,
    },
    /// Anything else.
    Other(Box<Kind>),
}

#[derive(Debug, Default)]
struct Directory {
    entries: BTreeMap<Box<[u8]>, u32>,
    opaque: bool,
    implied: bool,
}

impl Node {
    fn new(body: Body, attributes: &Attributes) -> Self {
        let mut node = Self {
            body,
            mode: 0,
            uid: 0,
            gid: 0,
            seconds: 0,
            nanos: 0,
            names: 1,
            xattrs: None,
        };
        node.describe(attributes);
        node
    }

    fn describe(&mut self, attributes: &Attributes) {
        self.mode = u16::try_from(attributes.mode & 0o7777).unwrap_or_default();
        (self.uid, self.gid) = (attributes.uid, attributes.gid);
        self.seconds = attributes.mtime.seconds;
        self.nanos = attributes.mtime.nanos;
        let xattrs = &attributes.xattrs;
        self.xattrs = (!xattrs.is_empty()).then(|| Box::new(xattrs.clone()));
    }

    fn directory(&self) -> Option<&Directory> {
        match &self.body {
            Body::Directory(directory) => Some(directory),
            _ => None,
        }
    }

    fn directory_mut(&mut self) -> Option<&mut Directory> {
        match &mut self.body {
            Body::Directory(directory) => Some(directory),
            _ => None,
        }
    }

    /// About how many bytes this takes beside itself.
    fn size(&self) -> usize {
        let body = match &self.body {
            Body::File { content, .. } => content.as_ref().map_or(0, |content| content.len()),
            Body::Other(kind) => match &**kind {
                Kind::Symlink(target) => target.len(),
                _ => 0,
            },
            Body::Directory(_) => size_of::<Directory>(),
        };
        let xattrs = self.xattrs.iter().flat_map(|xattrs| xattrs.iter());
        body + xattrs
            .map(|(name, value)| name.len() + value.len())
            .sum::<usize>()
    }

    fn entry(&self, number: u32) -> Entry {
        let (kind, size) = match &self.body {
            Body::Directory(_) => (Kind::Directory, 0),
            Body::File { size, .. } => (Kind::File, *size),
            Body::Other(kind) => ((**kind).clone(), 0),
        };
        Entry {
            kind,
            size,
            mode: self.mode.into(),
            uid: self.uid,
            gid: self.gid,
            mtime: crate::tree::Timestamp {
                seconds: self.seconds,
                nanos: self.nanos,
            },
            hard_link: (self.names > 1).then_some(FileId {
                device: u64::MAX,
                inode: number.into(),
            }),
        }
    }
}

impl Default for ListingWriter {
    /// An empty layer, whose root nobody has described yet.
    fn default() -> Self {
        let root = Directory {
            implied: true,
            ..Directory::default()
        };
        Self {
            nodes: vec![Node::new(Body::Directory(Box::new(root)), &PLAIN_DIRECTORY)],
            bytes: 0,
            picking: None,
        }
    }
}

impl ListingWriter {
    /// An empty layer, of which contents are kept where that is asked for.
    pub(crate) fn picking(picking: Option<Picking>) -> Self {
        Self {
            picking,
            ..Self::default()
        }
    }

    /// Whether the content of a file of this name is read, and kept if it is small.
    pub(crate) fn keeps(path: &ImagePath) -> bool {
        path.name()
            .is_some_and(|name| KEPT.contains(&name.as_bytes()))
    }

    fn find(&self, path: &ImagePath) -> Option<u32> {
        path.components().try_fold(0, |number, name| {
            let directory = self.nodes[number as usize].directory()?;
            directory.entries.get(name.as_bytes()).copied()
        })
    }

    fn node(&self, path: &ImagePath) -> Option<&Node> {
        self.find(path).map(|number| &self.nodes[number as usize])
    }

    fn directory_at(&mut self, path: &ImagePath) -> Option<&mut Directory> {
        let number = self.find(path)?;
        self.nodes[number as usize].directory_mut()
    }

    /// Gives the node `number` the name `path`, under the conditions of a file system.
    fn enter(&mut self, path: &ImagePath, number: u32) -> Result<(), LayerError> {
        let fail = |errno| Err(LayerError::write(path, errno));
        let (Some(above), Some(name)) = (path.parent(), path.name()) else {
            return fail(Errno::EXIST);
        };
        if name.len() > MAX_NAME {
            return fail(Errno::NAMETOOLONG);
        }
        let Some(directory) = self.directory_at(&above) else {
            return fail(Errno::NOTDIR);
        };
        if directory.entries.contains_key(name.as_bytes()) {
            return fail(Errno::EXIST);
        }
        directory.entries.insert(name.as_bytes().into(), number);
        self.bytes += name.len() + size_of::<Node>() + NAME + RECORD;
        if self.bytes > MAX_BYTES {
            return fail(Errno::NOMEM);
        }
        Ok(())
    }

    fn add(&mut self, path: &ImagePath, node: Node) -> Result<(), LayerError> {
        let number =
            u32::try_from(self.nodes.len()).map_err(|_| LayerError::write(path, Errno::NOSPC))?;
        self.bytes += node.size();
        self.enter(path, number)?;
        self.nodes.push(node);
        Ok(())
    }

    /// The finished listing, and the contents that were kept, if any.
    pub(crate) fn finish(self) -> io::Result<(Listing, Option<Picked>)> {
        let picking = self.picking.as_ref();
        let noted = picking.map_or_else(BTreeSet::new, |picking| picking.nodes().clone());
        let mut encoder = Encoder::new(&self.nodes, noted);
        encoder.nodes(&self.nodes);
        let (listing, records) = encoder.finish();
        let picked = match self.picking {
            Some(picking) => picking.settle(&records, &listing)?,
            None => None,
        };
        Ok((listing, picked))
    }
}

impl WriteLayer for ListingWriter {
    fn has_directory(&self, path: &ImagePath) -> bool {
        self.node(path)
            .is_some_and(|node| node.directory().is_some())
    }

    fn is_opaque(&self, path: &ImagePath) -> bool {
        self.node(path)
            .and_then(Node::directory)
            .is_some_and(|directory| directory.opaque)
    }

    fn entry(&self, path: &ImagePath) -> Result<Option<Entry>, LayerError> {
        let found = self.find(path);
        Ok(found.map(|number| self.nodes[number as usize].entry(number)))
    }

    fn entries(&self, path: &ImagePath) -> Result<Vec<(OsString, Entry)>, LayerError> {
        let directory = self.node(path).and_then(Node::directory);
        let entries = directory.into_iter().flat_map(|found| &found.entries);
        Ok(entries
            .map(|(name, &number)| {
                let entry = self.nodes[number as usize].entry(number);
                (OsStr::from_bytes(name).to_owned(), entry)
            })
            .collect())
    }

    fn open(&self, _: &ImagePath) -> io::Result<File> {
        Err(Errno::OPNOTSUPP.into())
    }

    fn xattrs(&self, path: &ImagePath, _: &Kind) -> io::Result<Xattrs> {
        let xattrs = self.node(path).and_then(|node| node.xattrs.as_deref());
        Ok(xattrs.cloned().unwrap_or_default())
    }

    fn directory(&mut self, path: &ImagePath, attributes: &Attributes) -> Result<(), LayerError> {
        let Some(number) = self.find(path) else {
            let body = Body::Directory(Box::default());
            return self.add(path, Node::new(body, attributes));
        };
        let node = &mut self.nodes[number as usize];
        // As on disk, extended attributes that were set before stay.
        let mut attributes = attributes.clone();
        for (name, value) in node.xattrs.iter().flat_map(|xattrs| xattrs.iter()) {
            let known = attributes.xattrs.entry(name.clone());
            known.or_insert_with(|| value.clone());
        }
        node.describe(&attributes);
        let Some(directory) = node.directory_mut() else {
            return Err(LayerError::write(path, Errno::EXIST));
        };
        directory.implied = false;
        Ok(())
    }

    fn imply(&mut self, path: &ImagePath) {
        if let Some(directory) = self.directory_at(path) {
            directory.implied = true;
        }
    }

    fn set_opaque(&mut self, path: &ImagePath) -> Result<(), LayerError> {
        let directory = self.directory_at(path);
        let found = directory.map(|directory| directory.opaque = true);
        found.ok_or_else(|| LayerError::write(path, Errno::NOENT))
    }

    fn file(
        &mut self,
        path: &ImagePath,
        attributes: &Attributes,
        content: &mut dyn Content,
    ) -> Result<u64, LayerError> {
        let mut keeper = Keeper(Self::keeps(path).then(Vec::new));
        let picking = self.picking.as_mut().filter(|picking| picking.takes(path));
        let size = match picking {
            // The node that is added below.
            Some(picking) => {
                let number = u32::try_from(self.nodes.len()).unwrap_or(u32::MAX);
                picking.keep(number, content, &mut keeper)
            }
            None => content.read_into(&mut keeper),
        };
        let size = size.map_err(|error| LayerError::write(path, error))?;
        let content = keeper.0.map(Vec::into_boxed_slice);
        self.add(path, Node::new(Body::File { size, content }, attributes))?;
        Ok(size)
    }

    fn symlink(
        &mut self,
        path: &ImagePath,
        target: &OsStr,
        attributes: &Attributes,
    ) -> Result<(), LayerError> {
        let attributes = Attributes {
            mode: 0o777,
            ..attributes.clone()
        };
        let body = Body::Other(Box::new(Kind::Symlink(target.to_owned())));
        self.add(path, Node::new(body, &attributes))
    }

    fn special(
        &mut self,
        path: &ImagePath,
        kind: &Kind,
        attributes: &Attributes,
    ) -> Result<(), LayerError> {
        let body = Body::Other(Box::new(kind.clone()));
        self.add(path, Node::new(body, attributes))
    }

    fn hard_link(&mut self, path: &ImagePath, target: &ImagePath) -> Result<(), LayerError> {
        let Some(number) = self
            .find(target)
            .filter(|&number| number != 0 && self.nodes[number as usize].directory().is_none())
        else {
            return Err(LayerError::write(path, Errno::PERM));
        };
        self.enter(path, number)?;
        self.nodes[number as usize].names += 1;
        Ok(())
    }

    fn whiteout(&mut self, path: &ImagePath) -> Result<(), LayerError> {
        let body = Body::Other(Box::new(Kind::Whiteout));
        self.add(path, Node::new(body, &Attributes::default()))
    }

    fn remove(&mut self, path: &ImagePath) -> Result<(), LayerError> {
        let fail = || LayerError::write(path, Errno::NOENT);
        let (Some(above), Some(name)) = (path.parent(), path.name()) else {
            return Err(LayerError::write(path, Errno::BUSY));
        };
        let directory = self.directory_at(&above).ok_or_else(fail)?;
        let removed = directory.entries.remove(name.as_bytes()).ok_or_else(fail)?;
        let mut waiting = vec![removed];
        while let Some(number) = waiting.pop() {
            let node = &mut self.nodes[number as usize];
            node.names = node.names.saturating_sub(1);
            if let Some(directory) = node.directory_mut() {
                waiting.extend(std::mem::take(&mut directory.entries).into_values());
            }
        }
        Ok(())
    }
}

/// Keeps what is written to it, as long as that is little.
struct Keeper(Option<Vec<u8>>);

impl Write for Keeper {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        if let Some(kept) = &mut self.0 {
            if (kept.len() + bytes.len()) as u64 > MAX_KEPT {
                self.0 = None;
            } else {
                kept.extend_from_slice(bytes);
            }
        }
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// Writes a listing, all of it into one buffer: it stands beside the nodes, and may be as large as they are.
struct Encoder {
    bytes: Vec<u8>,
    /// How many records were written.
    count: u32,
    /// How many contents were written.
    contents: u32,
    /// Where the contents begin, and where the heap does.
    contents_at: usize,
    heap_at: usize,
    /// The nodes of which it is to be noted what they become.
    noted: BTreeSet<u32>,
    /// The first record of each of them.
    placed: BTreeMap<u32, u32>,
}

impl Encoder {
    /// For what leads to `nodes` from the first of them.
    fn new(nodes: &[Node], noted: BTreeSet<u32>) -> Self {
        let (mut records, mut contents) = (1, 0);
        let mut waiting = vec![0];
        while let Some(number) = waiting.pop() {
            let directory = nodes[number as usize].directory();
            for &below in directory
                .into_iter()
                .flat_map(|found| found.entries.values())
            {
                records += 1;
                match &nodes[below as usize].body {
                    Body::Directory(_) => waiting.push(below),
                    Body::File { content, .. } => contents += usize::from(content.is_some()),
                    Body::Other(_) => {}
                }
            }
        }
        let contents_at = HEADER + records * RECORD;
        let heap_at = contents_at + contents * CONTENT;
        Self {
            bytes: vec![0; heap_at],
            count: 0,
            contents: 0,
            contents_at,
            heap_at,
            noted,
            placed: BTreeMap::new(),
        }
    }

    /// Writes all nodes, breadth first, so that the entries of a directory stand together.
    fn nodes(&mut self, nodes: &[Node]) {
        let mut waiting: VecDeque<u32> = [0].into();
        self.node(nodes, 0, b"", 1);
        let entries = |number: u32| {
            let directory = nodes[number as usize].directory();
            directory.map_or(0, |found| {
                u32::try_from(found.entries.len()).unwrap_or_default()
            })
        };
        let mut next = 1 + entries(0);
        while let Some(number) = waiting.pop_front() {
            let directory = nodes[number as usize].directory();
            for (name, &below) in directory.into_iter().flat_map(|found| &found.entries) {
                let node = &nodes[below as usize];
                let mut first = 0;
                if node.directory().is_some() {
                    waiting.push_back(below);
                    first = next;
                    next += entries(below);
                }
                self.node(nodes, below, name, first);
            }
        }
    }

    fn node(&mut self, nodes: &[Node], number: u32, name: &[u8], first: u32) {
        let node = &nodes[number as usize];
        if self.noted.contains(&number) {
            self.placed.entry(number).or_insert(self.count);
        }
        let mut flags = 0;
        let (tag, body) = match &node.body {
            Body::Directory(directory) => {
                flags |= if directory.opaque { OPAQUE } else { 0 };
                flags |= if directory.implied { IMPLIED } else { 0 };
                let count = u32::try_from(directory.entries.len()).unwrap_or_default();
                (tag::DIRECTORY, [first, count])
            }
            Body::File { size, content } => {
                if let Some(content) = content {
                    let (offset, length) = self.put(content);
                    let at = self.contents_at + self.contents as usize * CONTENT;
                    let fields = self.bytes[at..at + CONTENT].as_chunks_mut().0;
                    for (field, number) in fields.iter_mut().zip([self.count, offset, length]) {
                        *field = number.to_le_bytes();
                    }
                    self.contents += 1;
                }
                (tag::FILE, halves(*size))
            }
            Body::Other(kind) => match &**kind {
                Kind::Symlink(target) => {
                    let (offset, length) = self.put(target.as_bytes());
                    (tag::SYMLINK, [offset, length])
                }
                Kind::CharDevice(device) => (tag::CHAR_DEVICE, [device.major, device.minor]),
                Kind::BlockDevice(device) => (tag::BLOCK_DEVICE, [device.major, device.minor]),
                Kind::Whiteout => (tag::WHITEOUT, [0, 0]),
                _ => (tag::FIFO, [0, 0]),
            },
        };
        let mut xattrs = Vec::new();
        for (name, value) in node.xattrs.iter().flat_map(|xattrs| xattrs.iter()) {
            for field in [name.as_bytes(), value] {
                let length = u32::try_from(field.len()).unwrap_or_default();
                xattrs.extend_from_slice(&length.to_le_bytes());
                xattrs.extend_from_slice(field);
            }
        }
        let (name, xattrs) = (self.put(name), self.put(&xattrs));
        let record = Record {
            name,
            tag,
            flags,
            mode: node.mode,
            uid: node.uid,
            gid: node.gid,
            seconds: node.seconds,
            nanos: node.nanos,
            body,
            xattrs,
            inode: if node.names > 1 { number } else { 0 },
        };
        let at = HEADER + self.count as usize * RECORD;
        self.bytes[at..at + RECORD].copy_from_slice(&record.encode());
        self.count += 1;
    }

    fn put(&mut self, bytes: &[u8]) -> (u32, u32) {
        if bytes.is_empty() {
            return (0, 0);
        }
        let offset = u32::try_from(self.bytes.len() - self.heap_at).unwrap_or(u32::MAX);
        self.bytes.extend_from_slice(bytes);
        (offset, u32::try_from(bytes.len()).unwrap_or_default())
    }

    /// The listing, and the first records of the nodes that were to be noted.
    fn finish(self) -> (Listing, BTreeMap<u32, u32>) {
        let (mut bytes, contents) = (self.bytes, self.contents);
        bytes[..8].copy_from_slice(MAGIC);
        bytes[12..16].copy_from_slice(&self.count.to_le_bytes());
        bytes[16..HEADER].copy_from_slice(&contents.to_le_bytes());
        debug_assert_eq!(HEADER + self.count as usize * RECORD, self.contents_at);
        let checksum = crc32fast::hash(&bytes[12..]);
        bytes[8..12].copy_from_slice(&checksum.to_le_bytes());
        let listing = Listing {
            bytes,
            checksum,
            records: self.count,
            contents,
        };
        (listing, self.placed)
    }
}
