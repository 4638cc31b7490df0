//! The digest of what COPY and ADD read, for the cache key: what selected files are called, are and hold, but not when
//! they were changed. Every field has its length before it, so that no two inputs look alike.

use std::io::{self, Read};

use oci::{Digest, Digester};

use crate::{
    cause::{Listing, Mark},
    step::{
        StepError,
        copy::{CopySource, CopySpec, Selection, select},
        source::{Filter, Seen},
    },
    tree::{Entry, ImagePath, Kind, Tree, TreeError},
};

/// The digest of all sources of `spec` in `from`. Two copies with the same digest and the same flags make the same files
/// but for their times. With it, a listing of what was read, by which people are told what changed.
///
/// The fields are those of BuildKit's tarsum: name, type, mode, owner, size, link target, device, extended attributes
/// that an image records, content.
///
/// # Errors
/// When a source is missing or cannot be read.
pub fn digest_inputs(spec: &CopySpec, from: &dyn Tree) -> Result<(Digest, Listing), StepError> {
    let mut hash = Fields::new();
    hash.text("coopery copy inputs 1");
    for source in &spec.sources {
        match source {
            CopySource::Path(text) => {
                let selections = select(spec, from, text)?;
                hash.end();
                hash.number(selections.len() as u64);
                for Selection { source, filter } in &selections {
                    hash.text("path");
                    hash.bytes(
                        source
                            .named
                            .name()
                            .map_or(&[][..], std::os::unix::ffi::OsStrExt::as_bytes),
                    );
                    let mut walk = Walk {
                        from,
                        filter,
                        hash: &mut hash,
                        pending: Vec::new(),
                    };
                    walk.entry(
                        &source.path,
                        &source.entry,
                        &ImagePath::root(),
                        &Seen::default(),
                    )?;
                }
            }
            CopySource::Inline { name, content } => {
                hash.begin(name);
                hash.text("inline");
                hash.text(name);
                hash.bytes(content);
            }
            CopySource::Download { name, file, .. } => {
                hash.begin(name);
                hash.text("download");
                hash.text(name);
                let mut content = Digester::sha256();
                let read =
                    fs_err::File::open(file).and_then(|mut file| io::copy(&mut file, &mut content));
                read.map_err(|source| StepError::Download {
                    name: name.clone(),
                    source,
                })?;
                hash.text(content.finish().as_str());
            }
        }
    }
    Ok(hash.finish())
}

struct Walk<'a> {
    from: &'a dyn Tree,
    filter: &'a Filter,
    hash: &'a mut Fields,
    /// Directories that count only if something in them is taken.
    pending: Vec<Option<(ImagePath, Entry, ImagePath)>>,
}

impl Walk<'_> {
    fn entry(
        &mut self,
        path: &ImagePath,
        entry: &Entry,
        relative: &ImagePath,
        above: &Seen,
    ) -> Result<(), StepError> {
        let (taken, seen) = if relative.is_root() {
            (true, Seen::default())
        } else {
            self.filter.takes(relative, above)
        };
        if taken {
            let waiting: Vec<_> = self.pending.iter_mut().filter_map(Option::take).collect();
            for (path, entry, relative) in waiting {
                self.header(&path, &entry, &relative)?;
            }
            self.header(path, entry, relative)?;
            if entry.kind == Kind::File {
                self.content(path)?;
            }
        }
        if entry.is_directory() {
            self.pending
                .push((!taken).then(|| (path.clone(), entry.clone(), relative.clone())));
            for (name, below) in self.from.read_dir(path)? {
                self.entry(&path.child(&name), &below, &relative.child(&name), &seen)?;
            }
            self.pending.pop();
        }
        Ok(())
    }

    fn header(
        &mut self,
        path: &ImagePath,
        entry: &Entry,
        relative: &ImagePath,
    ) -> Result<(), StepError> {
        let hash = &mut *self.hash;
        hash.begin(&String::from_utf8_lossy(path.as_bytes()));
        hash.bytes(relative.as_bytes());
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
        hash.bytes(link.map_or(&[][..], |target| {
            std::os::unix::ffi::OsStrExt::as_bytes(target.as_os_str())
        }));
        hash.number(device.map_or(0, |device| {
            u64::from(device.major) << 32 | u64::from(device.minor)
        }));
        let xattrs = self.from.xattrs(path)?;
        hash.number(xattrs.len() as u64);
        for (name, value) in &xattrs {
            hash.text(name);
            hash.bytes(value);
        }
        Ok(())
    }

    fn content(&mut self, path: &ImagePath) -> Result<(), StepError> {
        let mut file = self.from.open(path)?;
        let mut content = Digester::sha256();
        let mut buffer = vec![0; 128 * 1024];
        loop {
            match file.read(&mut buffer) {
                Ok(0) => break,
                Ok(read) => content.update(&buffer[..read]),
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(TreeError::io(path, error).into()),
            }
        }
        self.hash.text(content.finish().as_str());
        Ok(())
    }
}

/// Fields with their lengths, and the listing of what they describe.
struct Fields {
    digester: Digester,
    listing: Listing,
    /// The name of the entry that is being described, and its digest so far.
    entry: Option<(String, Mark)>,
}

impl Fields {
    fn new() -> Self {
        Self {
            digester: Digester::sha256(),
            listing: Listing::default(),
            entry: None,
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

    fn finish(mut self) -> (Digest, Listing) {
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
