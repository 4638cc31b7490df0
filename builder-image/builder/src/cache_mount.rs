//! The directories of `RUN --mount=type=cache`: where they are, who may use one at the same time, and how a new one
//! begins. They outlive builds and belong to no step: nothing of them is in a key or a layer.
//!
//! ```text
//! <root>/mounts/<hex>/        one cache: its name and what it began with, as a digest
//!     name                    its name, for people
//!     lock                    held while its directories are looked at or made
//!     <n>/                    a directory that is mounted
//!     <n>.lock                held while somebody uses it: together, or alone
//! ```
//!
//! Locks are held by open files, so they end with the process however it ends, and other processes see them.

use std::io;
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};
use std::time::Duration;

use dockerfile::Sharing;
use oci::{Digest, Digester};
use rustix::fs::{FlockOperation, Mode, OFlags, flock, open};
use rustix::io::Errno;

use crate::graph::FileOwner;

/// The directory below the engine's root.
pub const DIRECTORY: &str = "mounts";

/// How often a cache is looked at that somebody else uses.
const TICK: Duration = Duration::from_millis(20);

/// Identifies a cache: caches of one name that begin with other files are others.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct CacheName {
    id: String,
    digest: Digest,
}

impl CacheName {
    /// The cache `id` that begins with `seed`, the digest of files and where they are, and belongs to `owner`.
    pub fn new(id: &str, seed: Option<(&Digest, &str)>, owner: Option<&FileOwner>) -> Self {
        let mut digester = Digester::sha256();
        let mut part = |text: &str| {
            digester.update(&(text.len() as u64).to_le_bytes());
            digester.update(text.as_bytes());
        };
        part(id);
        part(seed.map_or("", |(digest, _)| digest.as_str()));
        part(seed.map_or("", |(_, path)| path));
        part(&owner.map_or_else(String::new, |owner| {
            format!("{:o} {} {}", owner.mode, owner.uid, owner.gid)
        }));
        Self {
            id: id.to_owned(),
            digest: digester.finish(),
        }
    }

    /// Where the cache is below the engine's `root`.
    pub fn directory(&self, root: &Path) -> PathBuf {
        root.join(DIRECTORY).join(self.digest.hex())
    }
}

/// A directory in use. It is free again when the value is dropped.
#[derive(Debug)]
pub struct Lease {
    /// The directory.
    pub path: PathBuf,
    _lock: Lock,
}

/// A file that is locked. It is unlocked here and not by being closed: a process that is just being started has it, too.
#[derive(Debug)]
struct Lock(OwnedFd);

impl Drop for Lock {
    fn drop(&mut self) {
        let _ = flock(&self.0, FlockOperation::Unlock);
    }
}

/// Takes a directory of the cache `name` below the engine's `root`. `fill` makes a new one at the path that it is given,
/// where nothing is. Blocking: somebody else's [`Sharing::Locked`] use is waited for, until `cancelled` says yes.
///
/// # Errors
/// When a file cannot be made; [`io::ErrorKind::Interrupted`] when cancelled.
pub fn lease(
    root: &Path,
    name: &CacheName,
    sharing: Sharing,
    fill: &mut dyn FnMut(&Path) -> io::Result<()>,
    cancelled: &dyn Fn() -> bool,
) -> io::Result<Lease> {
    let directory = name.directory(root);
    fs_err::create_dir_all(&directory)?;
    loop {
        if let Some(lease) = try_lease(&directory, name, sharing, fill)? {
            return Ok(lease);
        }
        if cancelled() {
            return Err(io::ErrorKind::Interrupted.into());
        }
        std::thread::sleep(TICK);
    }
}

fn try_lease(
    directory: &Path,
    name: &CacheName,
    sharing: Sharing,
    fill: &mut dyn FnMut(&Path) -> io::Result<()>,
) -> io::Result<Option<Lease>> {
    let _looking = lock(&directory.join("lock"), FlockOperation::LockExclusive)?;
    let use_lock = match sharing {
        Sharing::Shared => FlockOperation::NonBlockingLockShared,
        Sharing::Private | Sharing::Locked => FlockOperation::NonBlockingLockExclusive,
    };
    for number in 0_u32.. {
        let path = directory.join(number.to_string());
        let exists = path.is_dir();
        if !exists && number > 0 && sharing == Sharing::Locked {
            // Those that are there are in use: one of them is waited for.
            return Ok(None);
        }
        let Some(lock) = lock(&directory.join(format!("{number}.lock")), use_lock)? else {
            continue;
        };
        if !exists {
            let making = directory.join("making");
            if making.exists() {
                fs_err::remove_dir_all(&making)?;
            }
            fill(&making)?;
            fs_err::rename(&making, &path)?;
            fs_err::write(directory.join("name"), &name.id)?;
        }
        return Ok(Some(Lease { path, _lock: lock }));
    }
    Ok(None)
}

/// Locks a file, which is made where it is absent; `None` where somebody else holds it.
fn lock(path: &Path, operation: FlockOperation) -> io::Result<Option<Lock>> {
    let flags = OFlags::CREATE | OFlags::RDWR | OFlags::CLOEXEC | OFlags::NOFOLLOW;
    let file = open(path, flags, Mode::from_raw_mode(0o600))?;
    loop {
        match flock(&file, operation) {
            Ok(()) => return Ok(Some(Lock(file))),
            Err(Errno::WOULDBLOCK) => return Ok(None),
            Err(Errno::INTR) => {}
            Err(errno) => return Err(errno.into()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn take(root: &Path, id: &str, sharing: Sharing) -> Option<Lease> {
        let name = CacheName::new(id, None, None);
        let mut fill = |path: &Path| fs_err::create_dir(path);
        lease(root, &name, sharing, &mut fill, &|| true).ok()
    }

    fn number(lease: &Lease) -> String {
        let name = lease.path.file_name().unwrap();
        name.to_string_lossy().into_owned()
    }

    #[test]
    fn who_may_use_a_cache_at_the_same_time() {
        use Sharing::{Locked, Private, Shared};
        // What comes second while the first is in use: the number of its directory, or nothing when it has to wait.
        for (first, second, expected) in [
            (Shared, Shared, Some("0")),
            (Shared, Private, Some("1")),
            (Shared, Locked, None),
            (Private, Shared, Some("1")),
            (Private, Private, Some("1")),
            (Private, Locked, None),
            (Locked, Shared, Some("1")),
            (Locked, Private, Some("1")),
            (Locked, Locked, None),
        ] {
            let root = tempfile::tempdir().unwrap();
            let held = take(root.path(), "a", first).unwrap();
            assert_eq!(number(&held), "0");
            let found = take(root.path(), "a", second);
            let found = found.as_ref().map(number);
            assert_eq!(found.as_deref(), expected, "{first:?} {second:?}");
            assert_eq!(number(&take(root.path(), "b", second).unwrap()), "0");
            drop(held);
            // The first that is free is used again.
            assert_eq!(number(&take(root.path(), "a", second).unwrap()), "0");
        }
    }

    #[test]
    fn a_cache_is_filled_once_and_a_failure_leaves_none() {
        let root = tempfile::tempdir().unwrap();
        let name = CacheName::new("a", None, None);
        let filled = std::cell::Cell::new(0);
        let get = |fail: bool| {
            let mut fill = |path: &Path| {
                fs_err::create_dir(path)?;
                filled.set(filled.get() + 1);
                if fail {
                    return Err(io::Error::other("no"));
                }
                Ok(())
            };
            lease(root.path(), &name, Sharing::Shared, &mut fill, &|| false)
        };
        assert!(get(true).is_err());
        assert_eq!(filled.get(), 1);
        let first = get(false).unwrap();
        fs_err::write(first.path.join("kept"), "").unwrap();
        drop(first);
        assert!(get(true).unwrap().path.join("kept").exists());
        assert_eq!(filled.get(), 2);
    }

    #[test]
    fn caches_of_one_name_that_begin_otherwise_are_others() {
        let owner = FileOwner {
            mode: 0o700,
            uid: 1,
            gid: 2,
        };
        let (one, two) = (Digest::of(b"1"), Digest::of(b"2"));
        let names = [
            CacheName::new("a", None, None),
            CacheName::new("b", None, None),
            CacheName::new("a", None, Some(&owner)),
            CacheName::new("a", Some((&one, "/")), None),
            CacheName::new("a", Some((&two, "/")), None),
            CacheName::new("a", Some((&one, "/x")), None),
        ];
        let distinct: std::collections::BTreeSet<_> = names.iter().collect();
        assert_eq!(distinct.len(), names.len());
    }
}
