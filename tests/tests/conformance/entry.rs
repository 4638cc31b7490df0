//! An entry of a layer's archive, of another archive, or of a directory: what two builders must agree on. Reading only.

use std::collections::BTreeMap;
use std::fmt;
use std::io::Read;
use std::os::unix::fs::{FileTypeExt as _, MetadataExt as _, PermissionsExt as _};
use std::path::Path;

use sha2::{Digest as _, Sha256};

/// The entries of a layer, archive or directory by path.
pub(crate) type Layer = BTreeMap<String, Entry>;

/// One header of a layer's archive, and what follows it.
#[derive(Clone, PartialEq, Eq)]
pub(crate) struct Entry {
    pub(crate) kind: char,
    mode: u32,
    uid: u64,
    gid: u64,
    size: u64,
    device: Option<(u32, u32)>,
    pub(crate) link: String,
    names: String,
    attributes: BTreeMap<String, String>,
    content: String,
    /// Seconds since 1970; the moment of the build is the same for all.
    mtime: u64,
}

/// The first of the times that files of contexts have.
pub(crate) const CONTEXT_TIME: u64 = 1_500_100_000;
const CONTEXT_TIMES_END: u64 = 1_500_200_000;

/// The moment of the commits of `app.git`. Files of repositories have the time of their commit, as with newer BuildKit; that
/// of today dates them to the moment of the build.
const COMMIT_TIME: u64 = 1_588_655_105;

/// What stands for "while this was built".
const NOW: u64 = u64::MAX;

impl Entry {
    /// Whether both are the same to whoever uses the image. Directories that the reference dates to the moment of the
    /// build may have another time: ours depends on the inputs alone.
    pub(crate) fn agrees(&self, theirs: &Self) -> bool {
        let mut ours = self.clone();
        if (ours.kind == 'd' || ours.mtime == COMMIT_TIME) && theirs.mtime == NOW {
            ours.mtime = NOW;
        }
        ours == *theirs
    }
}

impl fmt::Display for Entry {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self {
            kind,
            mode,
            uid,
            gid,
            size,
            ..
        } = self;
        write!(f, "{kind}{mode:04o} {uid}:{gid} {size}")?;
        match self.mtime {
            NOW => write!(f, " now")?,
            seconds => write!(f, " @{seconds}")?,
        }
        if !self.link.is_empty() {
            write!(f, " -> {}", self.link)?;
        }
        if let Some((major, minor)) = self.device {
            write!(f, " {major},{minor}")?;
        }
        if !self.names.is_empty() {
            write!(f, " names {}", self.names)?;
        }
        for (name, value) in &self.attributes {
            write!(f, " {name}={value:?}")?;
        }
        write!(f, " {}", self.content)
    }
}

/// The entries of an archive.
pub(crate) fn entries(reader: impl Read, begin: u64) -> anyhow::Result<Layer> {
    let mut layer = Layer::new();
    let mut archive = tar::Archive::new(reader);
    for entry in archive.entries()? {
        let mut entry = entry?;
        let path = String::from_utf8_lossy(&entry.path_bytes())
            .trim_start_matches("./")
            .trim_matches('/')
            .to_owned();
        let mut attributes = BTreeMap::new();
        if let Some(extensions) = entry.pax_extensions()? {
            for extension in extensions {
                let extension = extension?;
                if let Ok(key) = extension.key()
                    && let Some(name) = key.strip_prefix("SCHILY.xattr.")
                {
                    let value = String::from_utf8_lossy(extension.value_bytes()).into_owned();
                    attributes.insert(name.to_owned(), value);
                }
            }
        }
        let link = (entry.link_name_bytes())
            .map(|link| String::from_utf8_lossy(&link).into_owned())
            .unwrap_or_default();
        let header = entry.header();
        let kind = match header.entry_type() {
            tar::EntryType::Directory => 'd',
            tar::EntryType::Symlink => 'l',
            tar::EntryType::Link => 'h',
            tar::EntryType::Fifo => 'p',
            tar::EntryType::Char => 'c',
            tar::EntryType::Block => 'b',
            _ => '-',
        };
        let names = [header.username(), header.groupname()]
            .map(|name| name.ok().flatten().unwrap_or_default().to_owned())
            .join(" ");
        let mtime = header.mtime()?;
        let read = Entry {
            kind,
            mode: header.mode()? & 0o7777,
            uid: header.uid()?,
            gid: header.gid()?,
            size: header.size()?,
            device: matches!(kind, 'c' | 'b')
                .then(|| -> std::io::Result<_> {
                    let (major, minor) = (header.device_major()?, header.device_minor()?);
                    Ok((major.unwrap_or_default(), minor.unwrap_or_default()))
                })
                .transpose()?,
            link,
            names: names.trim().to_owned(),
            attributes,
            content: String::new(),
            mtime: comparable_time(kind, mtime, begin),
        };
        let mut bytes = Vec::new();
        entry.read_to_end(&mut bytes)?;
        let content = shown(&bytes);
        anyhow::ensure!(
            layer
                .insert(path.clone(), Entry { content, ..read })
                .is_none(),
            "{path} is in a layer twice"
        );
    }
    Ok(layer)
}

/// A time of change: while this was built, or the moment itself.
const fn comparable_time(kind: char, mtime: u64, begin: u64) -> u64 {
    match mtime {
        mtime if mtime >= begin => NOW,
        // The daemon keeps the directories of earlier cases, and their times with them.
        CONTEXT_TIME..CONTEXT_TIMES_END if kind == 'd' => CONTEXT_TIME,
        mtime => mtime,
    }
}

/// Content as a line shows it.
fn shown(bytes: &[u8]) -> String {
    match std::str::from_utf8(bytes) {
        Ok("") => String::new(),
        Ok(text) if text.len() < 1024 => format!("{text:?}"),
        _ => hex::encode(Sha256::digest(bytes)),
    }
}

/// Everything below a directory, which is no entry itself. A further name of a file is a link to the first.
pub(crate) fn files(directory: &Path, begin: u64) -> anyhow::Result<Layer> {
    let mut found = Layer::new();
    let mut first_names = BTreeMap::new();
    collect(directory, "", begin, &mut first_names, &mut found)?;
    Ok(found)
}

fn collect(
    directory: &Path,
    prefix: &str,
    begin: u64,
    first_names: &mut BTreeMap<(u64, u64), String>,
    found: &mut Layer,
) -> anyhow::Result<()> {
    let mut names = Vec::new();
    for entry in fs_err::read_dir(directory)? {
        names.push(entry?.file_name().to_string_lossy().into_owned());
    }
    names.sort();
    for name in names {
        let (path, shown_path) = (directory.join(&name), format!("{prefix}{name}"));
        let metadata = fs_err::symlink_metadata(&path)?;
        let kind = metadata.file_type();
        let id = (metadata.dev(), metadata.ino());
        let mut entry = Entry {
            kind: '-',
            mode: metadata.permissions().mode() & 0o7777,
            uid: metadata.uid().into(),
            gid: metadata.gid().into(),
            size: 0,
            device: None,
            link: String::new(),
            names: String::new(),
            attributes: attributes(&path)?,
            content: String::new(),
            mtime: metadata.mtime().try_into().unwrap_or_default(),
        };
        if kind.is_dir() {
            entry.kind = 'd';
        } else if kind.is_symlink() {
            entry.kind = 'l';
            entry.link = fs_err::read_link(&path)?.to_string_lossy().into_owned();
        } else if kind.is_fifo() {
            entry.kind = 'p';
        } else if let Some(first) = first_names.get(&id) {
            (entry.kind, entry.link) = ('h', first.clone());
        } else if kind.is_file() {
            let bytes = fs_err::read(&path)?;
            (entry.size, entry.content) = (metadata.len(), shown(&bytes));
            first_names.insert(id, shown_path.clone());
        } else {
            entry.kind = if kind.is_char_device() { 'c' } else { 'b' };
            let (major, minor) = (
                rustix::fs::major(metadata.rdev()),
                rustix::fs::minor(metadata.rdev()),
            );
            entry.device = Some((major, minor));
        }
        entry.mtime = comparable_time(entry.kind, entry.mtime, begin);
        let is_directory = entry.kind == 'd';
        found.insert(shown_path.clone(), entry);
        if is_directory {
            collect(&path, &format!("{shown_path}/"), begin, first_names, found)?;
        }
    }
    Ok(())
}

/// The extended attributes of a file, but for those that the system gives by itself.
fn attributes(path: &Path) -> anyhow::Result<BTreeMap<String, String>> {
    let mut names = vec![0; 64 << 10];
    let length = rustix::fs::llistxattr(path, &mut names[..])?;
    names.truncate(length);
    let mut found = BTreeMap::new();
    for name in names
        .split(|byte| *byte == 0)
        .filter(|name| !name.is_empty())
    {
        let name = String::from_utf8_lossy(name).into_owned();
        if name.starts_with("system.") || name == "security.selinux" {
            continue;
        }
        let mut value = vec![0; 64 << 10];
        let length = rustix::fs::lgetxattr(path, name.as_str(), &mut value[..])?;
        value.truncate(length);
        found.insert(name, String::from_utf8_lossy(&value).into_owned());
    }
    Ok(found)
}
