//! Digests of files of a context that were read before, so that what did not change is not read again. A file is known by its
//! inode, its size and the time of its last change of status (`ctime`), which nobody can set. All of it is one small file
//! below the engine's directory, which may be removed at any time: `<root>/digests/<device>-<inode>` of the context.
//!
//! A file that is changed in the same instant in which it was read looks as before. So only what was last changed some time
//! before the build began is ever remembered, and only on file systems whose clock is this machine's.

use std::collections::HashMap;
use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, SystemTime};

use oci::Digest;

use crate::layer::Stamp;

/// Where the digests are, below the engine's directory.
pub(crate) const DIRECTORY: &str = "digests";

/// The first bytes of the file; the number changes with the format.
const MAGIC: &[u8; 8] = b"coopdig1";
/// Magic and checksum.
const HEADER: usize = 12;
/// Inode, size, time of change; SHA-256.
const KEY: usize = 24;
const RECORD: usize = KEY + 32;
/// More files than this are not remembered: all of it is in memory.
const MAX_RECORDS: usize = 100_000;
/// How many contexts are remembered.
const MAX_CONTEXTS: usize = 16;
/// How long ago a file must have been changed. Of file systems that are trusted, the coarsest clock has seconds.
const SETTLED: Duration = Duration::from_secs(3);

/// File systems of this machine, whose times of change are its own: ext4, XFS, Btrfs, overlayfs, tmpfs, F2FS, ZFS, bcachefs.
const TRUSTED: [u64; 8] = [
    0xef53,
    0x5846_5342,
    0x9123_683e,
    0x794c_7630,
    0x0102_1994,
    0xf2f5_2010,
    0x2fc1_2fc1,
    0xca45_1a4e,
];

/// What a file is known by.
type Key = [u8; KEY];

/// The digests of one context.
#[derive(Debug)]
pub(super) struct FileDigests {
    path: PathBuf,
    device: u64,
    /// Changes before this moment are settled, in nanoseconds since 1970.
    settled: i64,
    state: Mutex<State>,
}

#[derive(Debug, Default)]
struct State {
    /// What earlier builds knew: records, sorted by key.
    known: Vec<[u8; RECORD]>,
    /// Which of these were asked for.
    used: Vec<bool>,
    /// What this build has read.
    learnt: HashMap<Key, [u8; 32]>,
}

impl FileDigests {
    /// What is known of the context whose top has the stamp `top`; `None` where its file system cannot be trusted.
    /// `kind` is the number of the file system's kind, as `statfs` tells it.
    pub(super) fn load(root: &Path, top: &Stamp, kind: u64, now: SystemTime) -> Option<Self> {
        if !TRUSTED.contains(&(kind & 0xffff_ffff)) {
            return None;
        }
        let path = root
            .join(DIRECTORY)
            .join(format!("{:x}-{:x}", top.device, top.inode));
        let since = now
            .checked_sub(SETTLED)?
            .duration_since(SystemTime::UNIX_EPOCH);
        let known = fs_err::read(&path).ok().and_then(|bytes| records(&bytes));
        let known = known.unwrap_or_default();
        Some(Self {
            path,
            device: top.device,
            settled: i64::try_from(since.ok()?.as_nanos()).ok()?,
            state: Mutex::new(State {
                used: vec![false; known.len()],
                known,
                learnt: HashMap::new(),
            }),
        })
    }

    /// The digest of the content of the file with this stamp.
    pub(super) fn known(&self, stamp: &Stamp) -> Option<Digest> {
        if stamp.device != self.device {
            return None;
        }
        let key = key(stamp);
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(learnt) = state.learnt.get(&key) {
            return Some(Digest::from_sha256(learnt));
        }
        let place = state
            .known
            .binary_search_by(|record| record[..KEY].cmp(&key))
            .ok()?;
        state.used[place] = true;
        state.known[place].last_chunk().map(Digest::from_sha256)
    }

    /// Remembers the digest of a file that had this stamp before and after it was read.
    pub(super) fn learn(&self, stamp: &Stamp, digest: &Digest) {
        let settled = stamp.device == self.device && stamp.changed < self.settled;
        let Some(hash) = digest.to_sha256().filter(|_| settled) else {
            return;
        };
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        if state.learnt.len() < MAX_RECORDS {
            state.learnt.insert(key(stamp), hash);
        }
    }

    /// Keeps what was learnt, if anything was, beside what was known; what nobody asked for is forgotten first.
    pub(super) fn keep(&self, scratch: &Path) -> io::Result<()> {
        let state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        if state.learnt.is_empty() {
            // Tells what was used lately.
            let _ = fs_err::File::options()
                .append(true)
                .open(&self.path)
                .map(|file| file.file().set_modified(SystemTime::now()));
            return Ok(());
        }
        let of_use = |wanted: bool| {
            let known = state.known.iter().zip(&state.used);
            known.filter_map(move |(record, used)| (*used == wanted).then_some(*record))
        };
        let learnt = state.learnt.iter().map(|(key, digest)| {
            let mut record = [0; RECORD];
            record[..KEY].copy_from_slice(key);
            record[KEY..].copy_from_slice(digest);
            record
        });
        let all = of_use(true).chain(learnt).chain(of_use(false));
        let mut all: Vec<[u8; RECORD]> = all.take(MAX_RECORDS).collect();
        all.sort_unstable();
        let body = all.as_flattened();
        let mut file = tempfile::NamedTempFile::with_prefix_in("digests-", scratch)?;
        file.write_all(MAGIC)?;
        file.write_all(&crc32fast::hash(body).to_le_bytes())?;
        file.write_all(body)?;
        // Its checksum tells one that a power cut has spoilt, so nothing is flushed.
        file.persist(&self.path)?;
        let directory = self.path.parent().unwrap_or(Path::new("."));
        prune(directory)
    }
}

/// What is in a file of digests; `None` where it is damaged.
fn records(bytes: &[u8]) -> Option<Vec<[u8; RECORD]>> {
    let (head, body) = bytes.split_first_chunk::<HEADER>()?;
    let checksum = crc32fast::hash(body).to_le_bytes();
    let (records, rest) = body.as_chunks::<RECORD>();
    let sound = head.starts_with(MAGIC) && head.ends_with(&checksum) && rest.is_empty();
    sound.then(|| records.to_vec())
}

/// Numbers are big-endian, so that the order of the bytes is one for searching.
fn key(stamp: &Stamp) -> Key {
    let mut key = [0; KEY];
    key[..8].copy_from_slice(&stamp.inode.to_be_bytes());
    key[8..16].copy_from_slice(&stamp.size.to_be_bytes());
    key[16..].copy_from_slice(&stamp.changed.to_be_bytes());
    key
}

/// Forgets the contexts that were used least lately, where there are too many.
fn prune(directory: &Path) -> io::Result<()> {
    let mut files = Vec::new();
    for entry in fs_err::read_dir(directory)? {
        let entry = entry?;
        // Another process may be pruning, too.
        if let Ok(used) = entry.metadata().and_then(|found| found.modified()) {
            files.push((used, entry.path()));
        }
    }
    files.sort();
    let beyond = files.len().saturating_sub(MAX_CONTEXTS);
    for (_, path) in files.drain(..beyond) {
        let _ = fs_err::remove_file(path);
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    const EXT4: u64 = 0xef53;
    const NFS: u64 = 0x6969;

    fn stamp(inode: u64, changed: i64) -> Stamp {
        Stamp {
            device: 7,
            inode,
            size: 3,
            changed,
        }
    }

    fn at(seconds: u64) -> SystemTime {
        SystemTime::UNIX_EPOCH + Duration::from_secs(seconds)
    }

    const SECOND: i64 = 1_000_000_000;

    fn load(root: &Path) -> FileDigests {
        fs_err::create_dir_all(root.join(DIRECTORY)).unwrap();
        FileDigests::load(root, &stamp(1, 0), EXT4, at(100)).unwrap()
    }

    #[test]
    fn what_was_learnt_is_known_to_the_next_build() {
        let root = tempfile::tempdir().unwrap();
        let first = load(root.path());
        let known = stamp(2, 50 * SECOND);
        assert_eq!(first.known(&known), None);
        first.learn(&known, &Digest::of(b"two"));
        first.learn(&stamp(3, 50 * SECOND), &Digest::of(b"three"));
        assert_eq!(first.known(&known), Some(Digest::of(b"two")));
        first.keep(root.path()).unwrap();
        let second = load(root.path());
        assert_eq!(second.known(&known), Some(Digest::of(b"two")));
        let others = [
            stamp(2, 50 * SECOND + 1),
            stamp(4, 50 * SECOND),
            Stamp { size: 4, ..known },
            Stamp { device: 8, ..known },
        ];
        for other in others {
            assert_eq!(second.known(&other), None, "{other:?}");
        }
        second.learn(&stamp(5, SECOND), &Digest::of(b"five"));
        second.keep(root.path()).unwrap();
        let third = load(root.path());
        assert_eq!(third.known(&known), Some(Digest::of(b"two")));
        assert_eq!(
            third.known(&stamp(3, 50 * SECOND)),
            Some(Digest::of(b"three"))
        );
        assert_eq!(third.known(&stamp(5, SECOND)), Some(Digest::of(b"five")));
    }

    #[test]
    fn what_was_changed_just_now_is_not_remembered() {
        let root = tempfile::tempdir().unwrap();
        let digests = load(root.path());
        // The build began at 100 s.
        for (changed, remembered) in [
            (90, true),
            (96, true),
            (98, false),
            (100, false),
            (200, false),
        ] {
            let stamp = stamp(2, changed * SECOND);
            digests.learn(&stamp, &Digest::of(b"x"));
            assert_eq!(digests.known(&stamp).is_some(), remembered, "{changed}");
        }
    }

    #[test]
    fn clocks_of_other_machines_are_not_trusted() {
        let root = tempfile::tempdir().unwrap();
        let load = |kind| FileDigests::load(root.path(), &stamp(1, 0), kind, at(100));
        assert!(load(EXT4).is_some() && load(NFS).is_none());
    }

    #[test]
    fn a_damaged_file_is_no_file() {
        let root = tempfile::tempdir().unwrap();
        let digests = load(root.path());
        digests.learn(&stamp(2, SECOND), &Digest::of(b"x"));
        digests.keep(root.path()).unwrap();
        let bytes = fs_err::read(&digests.path).unwrap();
        assert!(records(&bytes).is_some());
        for place in 0..bytes.len() {
            let mut damaged = bytes.clone();
            damaged[place] ^= 1;
            assert!(records(&damaged).is_none(), "byte {place}");
            assert!(records(&bytes[..place]).is_none(), "cut at {place}");
        }
    }

    #[test]
    fn contexts_that_were_not_used_for_long_are_forgotten() {
        let root = tempfile::tempdir().unwrap();
        for context in 0..20 {
            fs_err::create_dir_all(root.path().join(DIRECTORY)).unwrap();
            let top = stamp(context, 0);
            let digests = FileDigests::load(root.path(), &top, EXT4, at(100)).unwrap();
            digests.learn(&stamp(2, SECOND), &Digest::of(b"x"));
            digests.keep(root.path()).unwrap();
        }
        let left = fs_err::read_dir(root.path().join(DIRECTORY)).unwrap();
        assert_eq!(left.count(), MAX_CONTEXTS);
    }
}
