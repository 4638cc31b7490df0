//! The digest of what COPY and ADD read, for the cache key: what selected files are called, are and hold, but not when
//! they were changed. Every field has its length before it, so that no two inputs look alike.

use std::{
    fs::File,
    io::{self, Read},
    os::unix::ffi::OsStrExt,
};

use oci::{Digest, Digester};

use crate::{
    cause::{FileMarks, Mark},
    runtime::go_on,
    step::{
        StepError,
        copy::{CopySource, CopySpec},
        source::{Filter, Selection, Source, Visit, select, walk},
    },
    tree::{ImagePath, Kind, Tree, TreeError},
};

/// The digest of all sources of `spec` in `from`. Two copies with the same digest and the same flags make the same files
/// but for their times. With it, a listing of what was read, by which people are told what changed.
///
/// The fields are those of BuildKit's tarsum: name, type, mode, owner, size, link target, device, extended attributes
/// that an image records, content.
///
/// # Errors
/// When a source is missing or cannot be read.
pub fn digest_inputs(spec: &CopySpec, from: &dyn Tree) -> Result<(Digest, FileMarks), StepError> {
    let mut hash = Fields::new();
    hash.text("coopery copy inputs 1");
    for source in &spec.sources {
        match source {
            CopySource::Path(text) => {
                let selections = select(spec, from, text)?;
                hash.end();
                hash.number(selections.len() as u64);
                for selection in &selections {
                    hash.text("path");
                    let named = selection.source.named.name();
                    hash.bytes(named.map_or(&[][..], OsStrExt::as_bytes));
                    walk(from, selection, &mut |visit| entry(&mut hash, from, visit))?;
                }
            }
            CopySource::Inline { name, content } => {
                hash.begin(name);
                hash.text("inline");
                hash.text(name);
                hash.bytes(content);
            }
            CopySource::Download { name, digest, .. } => {
                hash.begin(name);
                hash.text("download");
                hash.text(name);
                hash.text(digest.as_str());
            }
            CopySource::Repository { name, identity, .. } => {
                hash.begin(name);
                hash.text("repository");
                hash.text(identity);
            }
        }
    }
    Ok(hash.finish())
}

/// The digest of what is at `path` in `from`, links on the way followed: what a mount shows. Neither its name nor what is
/// beside it counts.
///
/// # Errors
/// When nothing is there, or it cannot be read.
pub fn digest_path(from: &dyn Tree, path: &str) -> Result<(Digest, FileMarks), StepError> {
    let named = ImagePath::new(path);
    let Some((found, found_entry)) = from.stat(&named)? else {
        return Err(StepError::SourceNotFound(path.to_owned()));
    };
    let mut hash = Fields::new();
    hash.text("coopery mounted path 1");
    let selection = Selection {
        source: Source {
            named,
            path: found,
            entry: found_entry,
        },
        filter: Filter::default(),
    };
    walk(from, &selection, &mut |visit| entry(&mut hash, from, visit))?;
    Ok(hash.finish())
}

/// What an entry is and holds.
fn entry(hash: &mut Fields, from: &dyn Tree, visit: &Visit<'_>) -> Result<(), StepError> {
    let Visit { path, entry, .. } = *visit;
    hash.begin(&String::from_utf8_lossy(path.as_bytes()));
    hash.bytes(visit.relative.as_bytes());
    let (kind, link, device) = match &entry.kind {
        Kind::File | Kind::Socket => ("file", None, None),
        Kind::Directory => ("directory", None, None),
        Kind::Symlink(target) => ("link", Some(target), None),
        Kind::Fifo => ("pipe", None, None),
        Kind::CharDevice(device) => ("character device", None, Some(device)),
        Kind::BlockDevice(device) => ("block device", None, Some(device)),
        Kind::Whiteout => ("character device", None, None),
    };
    hash.text(kind);
    for number in [entry.mode, entry.uid, entry.gid] {
        hash.number(number.into());
    }
    hash.number(entry.size);
    hash.bytes(link.map_or(&[][..], |target| target.as_bytes()));
    hash.number(device.map_or(0, |device| {
        u64::from(device.major) << 32 | u64::from(device.minor)
    }));
    let (file, xattrs) = if entry.kind == Kind::File {
        if let Some(known) = from.known_digest(path) {
            // No extended attributes, and this content.
            hash.number(0);
            hash.text(known.as_str());
            return Ok(());
        }
        let (file, xattrs) = from.open_with_xattrs(path)?;
        (Some(file), xattrs)
    } else {
        (None, from.xattrs(path)?)
    };
    hash.number(xattrs.len() as u64);
    for (name, value) in &xattrs {
        hash.text(name);
        hash.bytes(value);
    }
    if let Some(mut file) = file {
        let digest = content(hash, &mut file, path)?;
        if xattrs.is_empty() {
            from.learn_digest(path, &file, &digest);
        }
    }
    Ok(())
}

/// The digest of the content of `file`, which is written to `hash`.
fn content(hash: &mut Fields, file: &mut File, path: &ImagePath) -> Result<Digest, StepError> {
    let mut content = Digester::sha256();
    loop {
        go_on().map_err(|error| TreeError::io(path, error))?;
        match file.read(&mut hash.buffer) {
            Ok(0) => break,
            Ok(read) => content.update(&hash.buffer[..read]),
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(TreeError::io(path, error).into()),
        }
    }
    let digest = content.finish();
    hash.text(digest.as_str());
    Ok(digest)
}

/// Fields with their lengths, and the listing of what they describe.
struct Fields {
    digester: Digester,
    listing: FileMarks,
    /// The name of the entry that is being described, and its digest so far.
    entry: Option<(String, Mark)>,
    /// What files are read by.
    buffer: Box<[u8]>,
}

impl Fields {
    fn new() -> Self {
        Self {
            digester: Digester::sha256(),
            listing: FileMarks::default(),
            entry: None,
            buffer: vec![0; 128 * 1024].into(),
        }
    }

    /// What follows describes `name`.
    fn begin(&mut self, name: &str) {
        self.end();
        self.entry = Some((name.to_owned(), Mark::new()));
    }

    /// What follows describes nothing of a name.
    fn end(&mut self) {
        if let Some((name, mark)) = self.entry.take() {
            self.listing.add(&name, &mark);
        }
    }

    fn finish(mut self) -> (Digest, FileMarks) {
        self.end();
        (self.digester.finish(), self.listing)
    }

    fn bytes(&mut self, bytes: &[u8]) {
        self.number(bytes.len() as u64);
        self.write(bytes);
    }

    fn text(&mut self, text: &str) {
        self.bytes(text.as_bytes());
    }

    fn number(&mut self, number: u64) {
        self.write(&number.to_le_bytes());
    }

    fn write(&mut self, bytes: &[u8]) {
        self.digester.update(bytes);
        if let Some((_, mark)) = &mut self.entry {
            mark.update(bytes);
        }
    }
}

#[cfg(test)]
mod tests;
