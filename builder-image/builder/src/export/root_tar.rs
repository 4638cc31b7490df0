//! The files of an image as one archive, owners and all: what `docker export` gives of a container, and `docker import`
//! takes. Sorted, so equal images make equal archives.

use std::collections::HashMap;
use std::io::{self, Read, Write};

use super::files::FilesError;
use crate::layer::{TarHeader, TarKind, write_end, write_header, write_padding};
use crate::runtime::go_on;
use crate::tree::{Entry, FileId, ImagePath, Tree, Xattrs};

/// Writes the files of each of `trees` below its directory; an empty name is the top of the archive. All of them get the
/// time `epoch` where there is one. The directories that hold the trees are no part of any image: they belong to root and
/// have the time 0 without an epoch.
///
/// # Errors
/// When a file cannot be read, or the archive not be written.
pub fn write_root_tar(
    trees: &[(String, &dyn Tree)],
    epoch: Option<i64>,
    out: &mut dyn Write,
) -> Result<(), FilesError> {
    for (name, tree) in trees {
        let mut writer = Writer {
            tree: *tree,
            prefix: if name.is_empty() {
                Vec::new()
            } else {
                format!("{name}/").into_bytes()
            },
            epoch,
            out,
            links: HashMap::new(),
        };
        if !name.is_empty() {
            writer.top()?;
        }
        writer.children(&ImagePath::root())?;
    }
    write_end(&mut &mut *out).map_err(failed(&ImagePath::root()))?;
    out.flush().map_err(failed(&ImagePath::root()))
}

fn failed(path: &ImagePath) -> impl FnOnce(io::Error) -> FilesError + use<> {
    let path = path.clone();
    move |source| FilesError::Write { path, source }
}

/// The mode of the directory of one platform.
pub(super) const TOP_MODE: u32 = 0o755;

struct Writer<'a> {
    tree: &'a dyn Tree,
    prefix: Vec<u8>,
    epoch: Option<i64>,
    out: &'a mut dyn Write,
    /// The first name of each file with several.
    links: HashMap<FileId, Vec<u8>>,
}

impl Writer<'_> {
    /// The directory that holds the tree.
    fn top(&mut self) -> Result<(), FilesError> {
        let header = TarHeader {
            name: self.prefix.clone(),
            kind: TarKind::Directory,
            mode: TOP_MODE,
            uid: 0,
            gid: 0,
            mtime: self.epoch.unwrap_or_default(),
            xattrs: &Xattrs::new(),
        };
        write_header(&mut self.out, &header).map_err(failed(&ImagePath::root()))
    }

    fn children(&mut self, path: &ImagePath) -> Result<(), FilesError> {
        for (name, entry) in self.tree.read_dir(path)? {
            let below = path.child(&name);
            self.entry(&below, &entry)?;
            if entry.is_directory() {
                self.children(&below)?;
            }
        }
        Ok(())
    }

    fn entry(&mut self, path: &ImagePath, entry: &Entry) -> Result<(), FilesError> {
        let mut name = [self.prefix.as_slice(), path.as_bytes()].concat();
        if entry.is_directory() && !name.ends_with(b"/") {
            name.push(b'/');
        }
        let first = entry.hard_link.and_then(|id| self.links.get(&id).cloned());
        let Some(kind) = TarKind::of(entry, first.as_deref()) else {
            return Ok(());
        };
        let xattrs = match first {
            Some(_) => Xattrs::new(),
            None => self.tree.xattrs(path)?,
        };
        let header = TarHeader {
            name: name.clone(),
            kind,
            mode: entry.mode,
            uid: entry.uid,
            gid: entry.gid,
            mtime: self.epoch.unwrap_or(entry.mtime.seconds),
            xattrs: &xattrs,
        };
        write_header(&mut self.out, &header).map_err(failed(path))?;
        if matches!(header.kind, TarKind::File(_)) {
            self.content(path, entry.size)?;
        }
        if let Some(id) = entry.hard_link.filter(|_| first.is_none()) {
            self.links.insert(id, name);
        }
        Ok(())
    }

    fn content(&mut self, path: &ImagePath, size: u64) -> Result<(), FilesError> {
        let mut file = self.tree.open(path)?.take(size);
        let copied = go_on().and_then(|()| io::copy(&mut file, &mut self.out));
        let copied = copied.map_err(failed(path))?;
        if copied < size {
            let short = io::Error::from(io::ErrorKind::UnexpectedEof);
            return Err(failed(path)(short));
        }
        write_padding(&mut self.out, size).map_err(failed(path))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::fixture::{all_owners, snapshot};

    #[test]
    fn the_archive_has_the_merged_files_with_their_owners() {
        let mut archives = Vec::new();
        for owners in all_owners() {
            let directory = tempfile::tempdir().unwrap();
            let tree = snapshot(
                &[
                    "600 5:7 /etc/secret = x; /gone = 1; /usr/bin/tool = tool; /usr/bin/z == /usr/bin/tool",
                    "/gone whiteout; /bin -> usr/bin",
                ],
                directory.path(),
                owners,
            );
            let mut out = Vec::new();
            let trees: [(String, &dyn Tree); 2] =
                [(String::new(), &tree), ("linux_amd64".into(), &tree)];
            write_root_tar(&trees[..1], Some(500), &mut out).unwrap();
            let mut archive = tar::Archive::new(out.as_slice());
            let entries = archive.entries().unwrap().map(|entry| {
                let entry = entry.unwrap();
                let header = entry.header();
                assert_eq!(header.mtime().unwrap(), 500);
                format!(
                    "{} {:o} {}:{} {:?}",
                    entry.path().unwrap().display(),
                    header.mode().unwrap(),
                    header.uid().unwrap(),
                    header.gid().unwrap(),
                    header.link_name().unwrap()
                )
            });
            let shown = entries.collect::<Vec<_>>().join("\n");
            insta::allow_duplicates! { insta::assert_snapshot!(shown, @r#"
            bin 777 0:0 Some("usr/bin")
            etc/ 755 0:0 None
            etc/secret 600 5:7 None
            usr/ 755 0:0 None
            usr/bin/ 755 0:0 None
            usr/bin/tool 644 0:0 None
            usr/bin/z 644 0:0 Some("usr/bin/tool")
            "#); }
            archives.push(out);
            let mut both = Vec::new();
            write_root_tar(&trees, None, &mut both).unwrap();
            let mut archive = tar::Archive::new(both.as_slice());
            assert_eq!(archive.entries().unwrap().count(), 7 + 8);
        }
        assert!(archives.windows(2).all(|pair| pair[0] == pair[1]));
    }
}
