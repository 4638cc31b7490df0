//! The files that a build is offered: a directory seen through `.dockerignore` ([`BuildContext`]), and where it comes from
//! ([`fetch`]). It runs no step and knows no image.

pub mod archive;
pub mod config_map;
mod credentials;
pub mod dockerignore;
mod error;
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
};

use distribution::HttpClient;
use protocol::Source;
use rustix::fs::{CWD, Mode, OFlags, ResolveFlags};

pub use credentials::SourceCredentials;
pub use error::ContextError;
pub use git::GitDir;
pub use url_rules::{UrlError, check_git_url, check_http_url};

use self::dockerignore::{Dockerignore, Matched};
use crate::{
    base::Bases,
    layer::{Root, xattrs_of},
    secret::Secrets,
    tree::{Entry, ImagePath, Tree, TreeError, Xattrs},
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
}

type Decision = (bool, Arc<Matched>);

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
        })
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

    /// What was decided about `path`; asks about everything above it first.
    fn decide(&self, path: &ImagePath) -> Decision {
        let Some(parent) = path.parent() else {
            return Decision::default();
        };
        let decided = || self.decided.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(known) = decided().get(path) {
            return known.clone();
        }
        let (_, above) = self.decide(&parent);
        let (ignored, matched) = self
            .ignore
            .matches(&path.as_relative().to_string_lossy(), &above);
        let decision = (ignored, Arc::new(matched));
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
        let mut entries = Vec::new();
        for (name, entry) in Offered(&self.root).read_dir(path)? {
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
            Some(entry)
                if matches!(
                    entry.kind,
                    crate::tree::Kind::File | crate::tree::Kind::Directory
                ) =>
            {
                self.0
                    .xattrs(path)
                    .map_err(|error| TreeError::io(path, error))
            }
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
mod tests {
    #![allow(clippy::unwrap_used, reason = "tests")]
    use std::os::unix::fs::symlink;

    use super::*;

    fn context(files: &[&str]) -> tempfile::TempDir {
        let directory = tempfile::tempdir().unwrap();
        for file in files {
            let path = directory.path().join(file);
            fs_err::create_dir_all(path.parent().unwrap()).unwrap();
            fs_err::write(path, file).unwrap();
        }
        directory
    }

    fn names(context: &BuildContext, path: &str) -> Vec<String> {
        let entries = context.read_dir(&ImagePath::new(path)).unwrap();
        entries
            .into_iter()
            .map(|(name, _)| name.into_string().unwrap())
            .collect()
    }

    #[test]
    fn ignored_files_are_not_there_and_parents_of_excepted_ones_are() {
        let directory = context(&[
            "a.md",
            "keep.md",
            "src/deep/file.rs",
            "src/deep/other",
            "src/x",
            "target/big",
            "empty/no",
        ]);
        fs_err::write(
            directory.path().join(".dockerignore"),
            "*\n!keep.md\n!src/**/*.rs\n",
        )
        .unwrap();
        let context = BuildContext::open(directory.path())
            .unwrap()
            .with_dockerignore(Some("Dockerfile"))
            .unwrap();
        assert_eq!(names(&context, "/"), ["keep.md", "src"]);
        assert_eq!(names(&context, "/src"), ["deep"]);
        assert_eq!(names(&context, "/src/deep"), ["file.rs"]);
        let look = |path: &str| context.lookup(&ImagePath::new(path)).unwrap().is_some();
        assert!(look("/") && look("src") && look("src/deep/file.rs"));
        assert!(!look("src/x") && !look("target") && !look("target/big") && !look("nothing"));
        assert!(context.open(&ImagePath::new("src/x")).is_err());
        assert_eq!(
            context
                .lookup(&ImagePath::new("keep.md"))
                .unwrap()
                .unwrap()
                .uid,
            0
        );
    }

    #[test]
    fn the_ignore_file_of_the_dockerfile_wins() {
        let directory = context(&["a", "b", "docker/Dockerfile"]);
        fs_err::write(directory.path().join(".dockerignore"), "a").unwrap();
        fs_err::write(directory.path().join("docker/Dockerfile.dockerignore"), "b").unwrap();
        let open = |dockerfile| {
            BuildContext::open(directory.path())
                .unwrap()
                .with_dockerignore(dockerfile)
                .unwrap()
        };
        assert_eq!(
            names(&open(Some("docker/Dockerfile")), "/"),
            [".dockerignore", "a", "docker"]
        );
        assert_eq!(names(&open(None), "/"), [".dockerignore", "b", "docker"]);
        fs_err::write(directory.path().join(".dockerignore"), "x\n[").unwrap();
        let error = BuildContext::open(directory.path())
            .unwrap()
            .with_dockerignore(None)
            .unwrap_err();
        assert!(error.to_string().contains("line 2"), "{error}");
    }

    #[test]
    fn dockerfiles_are_found() {
        let directory = context(&["sub/dockerfile", "other"]);
        symlink("sub/dockerfile", directory.path().join("link")).unwrap();
        symlink("/etc/passwd", directory.path().join("leak")).unwrap();
        let context = BuildContext::open(directory.path()).unwrap();
        let read = |path: &str| context.read_dockerfile(path);
        assert_eq!(
            read("sub/Dockerfile").unwrap(),
            ("sub/dockerfile".into(), "sub/dockerfile".into())
        );
        assert_eq!(read("link").unwrap().1, "sub/dockerfile");
        // An absolute link is one inside of the context.
        assert!(matches!(read("leak"), Err(ContextError::NoDockerfile(_))));
        assert!(matches!(read(""), Err(ContextError::NoDockerfile(name)) if name == "Dockerfile"));
    }

    #[test]
    fn subdirectories_stay_inside() {
        let directory = context(&["svc/app/file", "file"]);
        let root = directory.path().canonicalize().unwrap();
        for (target, link) in [
            ("svc/app", "inside"),
            ("/etc", "absolute"),
            ("../..", "up"),
            ("svc/../../x", "sneaky"),
            ("loop", "loop"),
        ] {
            symlink(target, root.join(link)).unwrap();
        }
        let rows: [(&str, Option<&str>); 5] = [
            ("", Some("")),
            ("svc/app", Some("svc/app")),
            ("svc/app/", Some("svc/app")),
            ("./svc", Some("svc")),
            ("inside", Some("svc/app")),
        ];
        for (path, expected) in rows {
            assert_eq!(
                enter_subdirectory(&root, path).ok(),
                expected.map(|path| root.join(path)),
                "{path}"
            );
        }
        for path in [
            "..",
            "../..",
            "svc/../..",
            "/etc",
            "/svc",
            "absolute",
            "up",
            "sneaky",
            "loop",
        ] {
            assert!(
                matches!(
                    enter_subdirectory(&root, path),
                    Err(ContextError::Outside(_))
                ),
                "{path}"
            );
        }
        for path in ["nothing", "file", "svc/nothing"] {
            assert!(
                matches!(
                    enter_subdirectory(&root, path),
                    Err(ContextError::NoSubdirectory(_))
                ),
                "{path}"
            );
        }
    }
}
