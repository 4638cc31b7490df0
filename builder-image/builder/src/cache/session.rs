//! One process at work in the engine's directory: its work in progress, and its claim on what it uses.
//!
//! Everything that the cache keeps has the time of its last use as the time of its file. A session knows when it began,
//! and never lets what it uses look older than that; whoever removes something takes nothing that is younger than the
//! oldest session alive. So no list of what is in use is needed. A use and a removal exclude each other by the lock of the
//! directory (`<root>/lock`): it is held for an instant by those who use, and for a few files at a time by who removes.

use std::fs::File;
use std::io;
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::SystemTime;

use rustix::fs::{AtFlags, CWD, FlockOperation, Mode, OFlags, Timespec, Timestamps, UTIME_OMIT};
use rustix::fs::{flock, open, utimensat};

/// The file whose time is when the session began.
const BEGAN: &str = "began";

/// A directory for the work in progress of one process. It is locked as long as the process lives, so that others can
/// tell it from what a killed process has left.
#[derive(Debug)]
pub(super) struct Session {
    pub(super) path: PathBuf,
    began: SystemTime,
    lock: Lock,
    grown: AtomicBool,
    life: Life,
    _alive: OwnedFd,
}

/// Tells a thread that nobody waits for whether its session still lives. Cheap to clone.
#[derive(Clone, Debug)]
pub(super) struct Life(Arc<Mutex<bool>>);

impl Life {
    /// Does something that the end of the session waits for; nothing after that.
    pub(super) fn within<T>(&self, work: impl FnOnce() -> T) -> Option<T> {
        let lives = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        lives.then(work)
    }

    fn end(&self) {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner) = false;
    }
}

impl Session {
    /// Makes a new one below `root`, and removes those that nobody holds any more.
    pub(super) fn start(root: &Path) -> io::Result<Self> {
        let tmp = root.join("tmp");
        for entry in fs_err::read_dir(&tmp)? {
            let path = entry?.path();
            // Whoever makes one at this moment has it locked, or makes another when it is gone or locked: so it stays locked
            // until it is gone.
            if let Ok(_held) = hold(&path) {
                let _ = fs_err::remove_dir_all(&path);
            }
        }
        let lock = Lock::open(root)?;
        loop {
            let path = tempfile::Builder::new()
                .prefix("session-")
                .tempdir_in(&tmp)?
                .keep();
            match hold(&path) {
                Ok(alive) if path.is_dir() => {
                    let file = fs_err::File::create(path.join(BEGAN))?;
                    return Ok(Self {
                        began: file.metadata()?.modified()?,
                        path,
                        lock,
                        grown: AtomicBool::new(false),
                        life: Life(Arc::new(Mutex::new(true))),
                        _alive: alive,
                    });
                }
                Ok(_) => {}
                Err(error) if error.kind() == io::ErrorKind::NotFound => {}
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                Err(error) => return Err(error),
            }
        }
    }

    /// Claims a file, or a directory's marker, for as long as the session lives. False where it is not there.
    pub(super) fn claim(&self, path: &Path) -> bool {
        self.lock.shared(|| {
            let Ok(found) = fs_err::symlink_metadata(path) else {
                return false;
            };
            if found.modified().is_ok_and(|used| used < self.began) {
                // A directory that is only read keeps its times, and nothing is removed from it.
                let _ = set_time(path, self.now());
            }
            true
        })
    }

    /// For threads that work for the session without keeping it alive.
    pub(super) fn life(&self) -> Life {
        self.life.clone()
    }

    /// Notes that something was added.
    pub(super) fn grow(&self) {
        self.grown.store(true, Ordering::Relaxed);
    }

    /// Whether something was added.
    pub(super) fn has_grown(&self) -> bool {
        self.grown.load(Ordering::Relaxed)
    }

    /// The time of a use: never before the session began, even where the clock was set back since.
    pub(super) fn now(&self) -> SystemTime {
        SystemTime::now().max(self.began)
    }

    /// Does something while nobody uses or removes anything.
    pub(super) fn alone<T>(&self, work: impl FnOnce() -> T) -> T {
        self.lock.exclusive(work)
    }

    /// When the oldest of the other sessions alive began. To be asked under [`Self::alone`].
    pub(super) fn oldest_other(&self) -> Option<SystemTime> {
        let entries = fs_err::read_dir(self.path.parent()?).ok()?;
        let others = entries.filter_map(Result::ok).map(|entry| entry.path());
        others
            .filter(|path| *path != self.path && hold(path).is_err())
            .map(|path| {
                let began = fs_err::metadata(path.join(BEGAN)).and_then(|began| began.modified());
                // One that has just been made has not begun, and might as well be the oldest.
                began.unwrap_or(SystemTime::UNIX_EPOCH)
            })
            .min()
    }
}

impl Drop for Session {
    fn drop(&mut self) {
        self.life.end();
        // What cannot be removed now is removed by the next process.
        let _ = fs_err::remove_dir_all(&self.path);
    }
}

/// The lock of an engine's directory.
#[derive(Debug)]
pub(super) struct Lock(Mutex<File>);

impl Lock {
    pub(super) fn open(root: &Path) -> io::Result<Self> {
        let file = fs_err::OpenOptions::new()
            .create(true)
            .append(true)
            .open(root.join("lock"))?;
        Ok(Self(Mutex::new(file.into_parts().0)))
    }

    fn shared<T>(&self, work: impl FnOnce() -> T) -> T {
        self.with(FlockOperation::LockShared, work)
    }

    pub(super) fn exclusive<T>(&self, work: impl FnOnce() -> T) -> T {
        self.with(FlockOperation::LockExclusive, work)
    }

    fn with<T>(&self, operation: FlockOperation, work: impl FnOnce() -> T) -> T {
        // The lock belongs to the open file, which all threads share: one at a time.
        let file = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        while flock(&*file, operation) == Err(rustix::io::Errno::INTR) {}
        let result = work();
        let _ = flock(&*file, FlockOperation::Unlock);
        result
    }
}

/// Locks a directory as long as the value lives, without waiting.
fn hold(path: &Path) -> io::Result<OwnedFd> {
    let flags = OFlags::DIRECTORY | OFlags::CLOEXEC | OFlags::RDONLY;
    let directory = open(path, flags, Mode::empty())?;
    flock(&directory, FlockOperation::NonBlockingLockExclusive)?;
    Ok(directory)
}

/// Sets the time of last change of a file.
pub(super) fn set_time(path: &Path, time: SystemTime) -> io::Result<()> {
    let since = time
        .duration_since(SystemTime::UNIX_EPOCH)
        .unwrap_or_default();
    let times = Timestamps {
        last_access: Timespec {
            tv_sec: 0,
            tv_nsec: UTIME_OMIT,
        },
        last_modification: Timespec {
            tv_sec: i64::try_from(since.as_secs()).unwrap_or(i64::MAX),
            tv_nsec: since.subsec_nanos().into(),
        },
    };
    Ok(utimensat(CWD, path, &times, AtFlags::empty())?)
}
