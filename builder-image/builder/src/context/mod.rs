//! The files that a build is offered: a directory seen through `.dockerignore` ([`BuildContext`]), and where it comes from
//! ([`fetch`]). It runs no step and knows no image.

pub mod archive;
pub mod config_map;
mod credentials;
pub mod dockerignore;
mod error;
mod file_digests;
pub mod git;
pub mod git_reference;
#[cfg(test)]
mod git_server;
mod guard_proxy;
pub mod http;
mod oci;
pub mod pattern;
pub mod remote;
mod url_rules;

use std::{
    collections::{BTreeMap, HashMap},
    ffi::OsString,
    fs::File,
    path::{Path, PathBuf},
    sync::{Arc, Mutex, PoisonError},
    time::SystemTime,
};

use ::oci::Digest;
use distribution::HttpClient;
use protocol::Source;
use rustix::fs::{CWD, Mode, OFlags, ResolveFlags};

pub use credentials::SourceCredentials;
pub use error::ContextError;
pub(crate) use file_digests::DIRECTORY as DIGESTS;
pub use git::GitDir;
pub use url_rules::{UrlError, check_git_url, check_http_url};

use self::dockerignore::{Dockerignore, Matched};
use self::file_digests::FileDigests;
use crate::{
    base::Bases,
    cache::Cache,
    layer::{Root, Stamp, stamp_of_file, xattrs_of},
    secret::Secrets,
    tree::{Entry, ImagePath, Kind, Tree, TreeError, Xattrs},
};

/// The largest Dockerfile and `.dockerignore` that are read, in bytes.
const MAX_TEXT: u64 = 4 << 20;

/// A directory whose files a build is offered. Everything belongs to 0:0; what `.dockerignore` names is not there.
#[derive(Debug)]
pub struct BuildContext {
    root: Root,
    ignore: Dockerignore,
    /// What was decided about directories so far: whether they are ignored, and what that means for what is below.
    decided: Mutex<HashMap<ImagePath, Decision>>,
    /// What earlier builds have read.
    digests: Option<FileDigests>,
    /// What files of the directories that were read last were then: each within the one before it.
    looked: Mutex<Vec<Looked>>,
}

type Decision = (bool, Arc<Matched>);

/// How many files of one directory have their stamps remembered while it is read; the others are looked at again.
const MAX_LOOKED: usize = 10_000;

/// The stamps of the regular files of one directory, sorted by name.
#[derive(Debug)]
struct Looked {
    path: ImagePath,
    stamps: Vec<(OsString, Stamp)>,
}

impl BuildContext {
    /// The context in `directory`, with everything offered.
    ///
    /// # Errors
    /// When it is no directory that can be opened.
    pub fn open(directory: &Path) -> Result<Self, ContextError> {
        let root = Root::open(directory).map_err(|source| {
            ContextError::io(
                format!("opening the context {}", directory.display()),
                source,
            )
        })?;
        Ok(Self {
            root,
            ignore: Dockerignore::default(),
            decided: Mutex::default(),
            digests: None,
            looked: Mutex::default(),
        })
    }

    /// The same context, of which files that did not change are not read again: their digests are kept below the engine's
    /// directory. Only for a directory that people work in, not for one that was fetched for this build.
    #[must_use]
    pub fn remembering(self, cache: &Cache) -> Self {
        self.remembering_at(cache, SystemTime::now())
    }

    fn remembering_at(self, cache: &Cache, now: SystemTime) -> Self {
        let top = self.root.stamp().ok();
        let digests = top.and_then(|(top, kind)| FileDigests::load(cache.root(), &top, kind, now));
        Self { digests, ..self }
    }

    /// Keeps the digests of what was read, for the next build. Where that fails, more is read then.
    pub fn keep_digests(&self, cache: &Cache) {
        if let Some(Err(error)) = (self.digests.as_ref()).map(|known| known.keep(&cache.tmp())) {
            tracing::debug!(%error, "digests of the context's files cannot be kept");
        }
    }

    /// What the regular file `path` was when its directory was read; what it is now, where that was not just before.
    fn stamp(&self, path: &ImagePath) -> Option<Stamp> {
        let (parent, name) = (path.parent()?, path.name()?);
        let find = |looked: &[Looked]| {
            let directory = looked.iter().rfind(|looked| looked.path == parent)?;
            let stamps = &directory.stamps;
            let place = stamps.binary_search_by(|(known, _)| known.as_os_str().cmp(name));
            place.ok().map(|place| stamps[place].1)
        };
        let looked = self.looked.lock().unwrap_or_else(PoisonError::into_inner);
        let known = find(&looked);
        drop(looked);
        if known.is_some() {
            return known;
        }
        let (entry, stamp) = self.root.stamped_entry(path).ok()??;
        (entry.kind == Kind::File).then_some(stamp)
    }

    /// Remembers what the files of the directory `path` are, as long as nothing beside it is read.
    fn look(&self, path: &ImagePath, stamps: Vec<(OsString, Stamp)>) {
        let mut looked = self.looked.lock().unwrap_or_else(PoisonError::into_inner);
        while (looked.last())
            .is_some_and(|above| above.path == *path || !path.is_within(&above.path))
        {
            looked.pop();
        }
        looked.push(Looked {
            path: path.clone(),
            stamps,
        });
    }

    /// The same context without what its `.dockerignore` names. `<dockerfile>.dockerignore` wins over the file at the top;
    /// `dockerfile` is the path of the Dockerfile in the context, where it has one.
    ///
    /// # Errors
    /// When the file cannot be read, or has a line that is no pattern.
    pub fn with_dockerignore(self, dockerfile: Option<&str>) -> Result<Self, ContextError> {
        let own = dockerfile.map(dockerignore::name_for);
        for name in own.as_deref().into_iter().chain([dockerignore::NAME]) {
            let Some(text) = Offered(&self.root).read(&ImagePath::new(name), MAX_TEXT)? else {
                continue;
            };
            let ignore =
                Dockerignore::parse(&String::from_utf8_lossy(&text)).map_err(|source| {
                    ContextError::Dockerignore {
                        name: name.to_owned(),
                        source,
                    }
                })?;
            return Ok(Self {
                ignore,
                decided: Mutex::default(),
                ..self
            });
        }
        Ok(self)
    }

    /// The text of the Dockerfile at `path`, whether it is ignored or not; links inside the context are followed. For
    /// `Dockerfile` itself, `dockerfile` is taken where only that exists. Also returns the path that was read.
    ///
    /// # Errors
    /// [`ContextError::NoDockerfile`]; or when it is no text.
    pub fn read_dockerfile(&self, path: &str) -> Result<(String, String), ContextError> {
        let path = if path.is_empty() { "Dockerfile" } else { path };
        let lower = (path.rsplit('/').next() == Some("Dockerfile"))
            .then(|| format!("{}dockerfile", &path[..path.len() - "Dockerfile".len()]));
        for name in [Some(path.to_owned()), lower].into_iter().flatten() {
            if let Some(bytes) = Offered(&self.root).read(&ImagePath::new(&name), MAX_TEXT)? {
                let text =
                    String::from_utf8(bytes).map_err(|_| ContextError::NotText(name.clone()))?;
                return Ok((name, text));
            }
        }
        Err(ContextError::NoDockerfile(path.to_owned()))
    }

    /// Whether `path` (relative, a file or a directory) and everything below it is left out by the `.dockerignore`.
    pub fn ignores(&self, path: &str) -> bool {
        let (ignored, _) = self.decide(&ImagePath::new(path));
        ignored && !self.ignore.may_except_below(path)
    }

    /// What is decided about `path`; asks about everything above it first.
    fn decide(&self, path: &ImagePath) -> Decision {
        let Some(parent) = path.parent() else {
            return Decision::default();
        };
        let (_, above) = self.decide_above(&parent);
        let (ignored, matched) = self
            .ignore
            .matches(&path.as_relative().to_string_lossy(), &above);
        (ignored, Arc::new(matched))
    }

    /// What is decided about the directory `path`, which is remembered: there may be many files below it.
    fn decide_above(&self, path: &ImagePath) -> Decision {
        let decided = || self.decided.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(known) = decided().get(path) {
            return known.clone();
        }
        let decision = self.decide(path);
        decided().insert(path.clone(), decision.clone());
        decision
    }

    /// Fails where something ignores `path`. Whether it is there at all, opening tells.
    fn check_offered(&self, path: &ImagePath) -> Result<(), TreeError> {
        if self.ignore.is_empty() || self.lookup(path)?.is_some() {
            Ok(())
        } else {
            Err(TreeError::NotFound(path.clone()))
        }
    }

    /// Whether `entry` at `path` is offered: it is not ignored, or something below it is not.
    fn is_offered(&self, path: &ImagePath, entry: &Entry) -> Result<bool, TreeError> {
        if self.ignore.is_empty() || !self.decide(path).0 {
            return Ok(true);
        }
        if !entry.is_directory()
            || !self
                .ignore
                .may_except_below(&path.as_relative().to_string_lossy())
        {
            return Ok(false);
        }
        for (name, below) in Offered(&self.root).read_dir(path)? {
            if self.is_offered(&path.child(&name), &below)? {
                return Ok(true);
            }
        }
        Ok(false)
    }
}

impl Tree for BuildContext {
    fn lookup(&self, path: &ImagePath) -> Result<Option<Entry>, TreeError> {
        match Offered(&self.root).lookup(path)? {
            Some(entry) if self.is_offered(path, &entry)? => Ok(Some(entry)),
            _ => Ok(None),
        }
    }

    fn read_dir(&self, path: &ImagePath) -> Result<Vec<(OsString, Entry)>, TreeError> {
        let read = self.root.stamped_entries(path);
        let read = read.map_err(|error| TreeError::io(path, error))?;
        let read = read.ok_or_else(|| TreeError::NotADirectory(path.clone()))?;
        if self.digests.is_some() {
            let files = read.iter().filter(|(_, entry, _)| entry.kind == Kind::File);
            let stamps = files.map(|(name, _, stamp)| (name.clone(), *stamp));
            self.look(path, stamps.take(MAX_LOOKED).collect());
        }
        let mut entries = Vec::new();
        for (name, entry, _) in read {
            let entry = normalised(entry);
            if self.is_offered(&path.child(&name), &entry)? {
                entries.push((name, entry));
            }
        }
        Ok(entries)
    }

    fn open(&self, path: &ImagePath) -> Result<File, TreeError> {
        self.check_offered(path)?;
        Offered(&self.root).open(path)
    }

    fn open_with_xattrs(&self, path: &ImagePath) -> Result<(File, Xattrs), TreeError> {
        self.check_offered(path)?;
        let wrap = |error| TreeError::io(path, error);
        let file = self.root.file(path).map_err(wrap)?;
        let xattrs = xattrs_of(&file).map_err(wrap)?;
        Ok((file, xattrs))
    }

    fn xattrs(&self, path: &ImagePath) -> Result<Xattrs, TreeError> {
        Offered(&self.root).xattrs(path)
    }

    fn known_digest(&self, path: &ImagePath) -> Option<Digest> {
        self.digests.as_ref()?.known(&self.stamp(path)?)
    }

    fn learn_digest(&self, path: &ImagePath, file: &File, digest: &Digest) {
        let Some(digests) = &self.digests else {
            return;
        };
        // One that was written to meanwhile was changed just now, which is no time that is remembered.
        if let Ok(stamp) = stamp_of_file(file)
            && self.stamp(path) == Some(stamp)
        {
            digests.learn(&stamp, digest);
        }
    }
}

/// The whole directory as a tree, with nothing ignored.
struct Offered<'a>(&'a Root);

/// Files of a context belong to root: whose they are on this machine means nothing in the image.
fn normalised(entry: Entry) -> Entry {
    Entry {
        uid: 0,
        gid: 0,
        ..entry
    }
}

impl Tree for Offered<'_> {
    fn lookup(&self, path: &ImagePath) -> Result<Option<Entry>, TreeError> {
        let found = self
            .0
            .entry(path)
            .map_err(|error| TreeError::io(path, error))?;
        Ok(found.map(normalised))
    }

    fn read_dir(&self, path: &ImagePath) -> Result<Vec<(OsString, Entry)>, TreeError> {
        let entries = self
            .0
            .entries(path)
            .map_err(|error| TreeError::io(path, error))?;
        let entries = entries.ok_or_else(|| TreeError::NotADirectory(path.clone()))?;
        Ok(entries
            .into_iter()
            .map(|(name, entry)| (name, normalised(entry)))
            .collect())
    }

    fn open(&self, path: &ImagePath) -> Result<File, TreeError> {
        self.0
            .file(path)
            .map_err(|error| TreeError::io(path, error))
    }

    fn xattrs(&self, path: &ImagePath) -> Result<Xattrs, TreeError> {
        match self.lookup(path)? {
            Some(entry) if matches!(entry.kind, Kind::File | Kind::Directory) => self
                .0
                .xattrs(path)
                .map_err(|error| TreeError::io(path, error)),
            _ => Ok(Xattrs::new()),
        }
    }
}

/// What the argument BUILDKIT_CONTEXT_KEEP_GIT_DIR asks for.
pub fn git_dir(build_args: &BTreeMap<String, String>) -> GitDir {
    let keep = build_args.get("BUILDKIT_CONTEXT_KEEP_GIT_DIR");
    match keep.map(String::as_str) {
        Some("1" | "true") => GitDir::Kept,
        _ => GitDir::Removed,
    }
}

/// What fetching a source needs besides the source.
pub struct Fetcher<'a> {
    /// Reaches servers, with network guard, authorities and proxies.
    pub http: &'a HttpClient,
    /// How the pod reaches the network: for `git`, which speaks for itself.
    pub network: &'a protocol::Network,
    /// Where a ConfigMap or a claim is mounted.
    pub mounted: PathBuf,
    /// Where the Secret of the source is mounted.
    pub credentials: PathBuf,
    /// Reads images and artifacts: none where no source is one.
    pub bases: Option<&'a Bases>,
    /// Whether git repositories may be reached by plain HTTP, and credentials be sent over it: never in a cluster.
    pub plain_http: bool,
    /// The secrets of the build, some of which are for servers by their names.
    pub secrets: &'a Secrets,
    /// What becomes of the `.git` of repositories that do not say so themselves.
    pub git_dir: GitDir,
}

/// A source that was fetched.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Fetched {
    /// The directory of the context.
    pub directory: PathBuf,
    /// The moment that the source is of, in seconds since 1970: that of the commit, or what the server says.
    pub time: Option<i64>,
}

#[cfg(test)]
static NO_SECRETS: Secrets = Secrets {
    values: BTreeMap::new(),
    agents: BTreeMap::new(),
};

#[cfg(test)]
impl<'a> Fetcher<'a> {
    /// One that mounts nothing and may reach servers by plain HTTP.
    fn for_tests(http: &'a HttpClient, network: &'a protocol::Network) -> Self {
        Self {
            http,
            network,
            mounted: PathBuf::new(),
            credentials: PathBuf::new(),
            plain_http: true,
            bases: None,
            secrets: &NO_SECRETS,
            git_dir: GitDir::Removed,
        }
    }
}

/// Fetches `source` into the new directory `into` and returns the directory of the context, which is `subdirectory` of it.
///
/// # Errors
/// [`ContextError`], whose [`ContextError::kind`] says whether trying again may help. `into` is then left to be removed.
pub async fn fetch(
    source: &Source,
    subdirectory: &str,
    fetcher: &Fetcher<'_>,
    into: &Path,
) -> Result<Fetched, ContextError> {
    let credentials = |wanted: bool| {
        wanted
            .then(|| SourceCredentials::read(&fetcher.credentials))
            .transpose()
    };
    let time = match source {
        Source::Empty => {
            fs_err::create_dir(into)
                .map_err(|error| ContextError::io("making the context", error))?;
            None
        }
        Source::Git {
            url,
            revision,
            credentials: wanted,
        } => {
            let credentials = credentials(*wanted)?;
            Some(git::fetch(url, revision, credentials, fetcher.git_dir, fetcher, into).await?)
        }
        Source::Http {
            url,
            checksum,
            credentials: wanted,
        } => {
            http::fetch(
                url,
                checksum.as_deref(),
                credentials(*wanted)?,
                fetcher,
                into,
            )
            .await?
        }
        Source::Volume => None,
        Source::ConfigMap { digest } => {
            config_map::copy(&fetcher.mounted, digest, into)?;
            None
        }
        Source::Oci { image } => {
            let bases = fetcher.bases.ok_or(ContextError::NoImages)?;
            oci::fetch(image, bases, into).await?;
            None
        }
    };
    // The files of a volume are used where they are: nothing of them is written.
    let root = match source {
        Source::Volume => &fetcher.mounted,
        _ => into,
    };
    Ok(Fetched {
        directory: enter_subdirectory(root, subdirectory)?,
        time,
    })
}

/// The directory `subdirectory` of `root`. Links are followed as long as they stay inside.
///
/// # Errors
/// [`ContextError::Outside`] and [`ContextError::NoSubdirectory`].
pub fn enter_subdirectory(root: &Path, subdirectory: &str) -> Result<PathBuf, ContextError> {
    use rustix::io::Errno;
    let outside = || ContextError::Outside(subdirectory.to_owned());
    let relative = subdirectory.trim_matches('/');
    if relative.is_empty() {
        return Ok(root.to_owned());
    }
    if subdirectory.starts_with('/') || relative.split('/').any(|part| part == "..") {
        return Err(outside());
    }
    let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
    let system = |errno: Errno| ContextError::io("opening the context", errno);
    let top = rustix::fs::openat(CWD, root, flags, Mode::empty()).map_err(system)?;
    let resolve = ResolveFlags::BENEATH | ResolveFlags::NO_MAGICLINKS;
    match rustix::fs::openat2(&top, relative, flags, Mode::empty(), resolve) {
        Ok(found) => {
            use std::os::fd::AsRawFd;
            // The tree is ours and nothing changes it, so the name that the kernel has for the directory stays right.
            fs_err::read_link(format!("/proc/self/fd/{}", found.as_raw_fd()))
                .map_err(|error| ContextError::io("finding the subdirectory", error))
        }
        Err(Errno::XDEV | Errno::LOOP) => Err(outside()),
        Err(Errno::NOENT | Errno::NOTDIR) => {
            Err(ContextError::NoSubdirectory(subdirectory.to_owned()))
        }
        Err(errno) => Err(system(errno)),
    }
}

#[cfg(test)]
mod tests;
