//! Removing what was not used for longest. What goes is decided by [`victims`], which is pure; it goes a few files at a
//! time, so that builds that run meanwhile wait for milliseconds at most, and only after another look whether it is in use.

use std::collections::HashSet;
use std::io;
use std::path::PathBuf;
use std::time::{Duration, SystemTime};

use super::{Cache, Kind, Object};

/// How many objects are moved away while others wait.
const BATCH: usize = 64;

/// What may go.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Policy {
    /// Bytes that may stay; without it, everything goes that may.
    pub keep_bytes: Option<u64>,
    /// Only what was not used for this long.
    pub unused_for: Option<Duration>,
    /// Only these kinds; all where empty.
    pub kinds: HashSet<Kind>,
    /// Only what has a name that begins like this, or a digest.
    pub name: Option<String>,
    /// Cache mounts, too, which hold what no build can make again by itself.
    pub mounts: bool,
}

/// What was removed.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Removed {
    /// The objects.
    pub objects: Vec<Object>,
    /// Their size together, in bytes.
    pub bytes: u64,
}

/// Positions of what goes, in the order in which it goes. What was used since `busy` is in use by somebody.
pub fn victims(
    objects: &[Object],
    policy: &Policy,
    now: SystemTime,
    busy: SystemTime,
) -> Vec<usize> {
    let before = policy
        .unused_for
        .map_or(Some(busy), |unused| now.checked_sub(unused))
        .map_or(SystemTime::UNIX_EPOCH, |before| before.min(busy));
    let may_go = |object: &Object| {
        object.used < before
            && (policy.kinds.is_empty() || policy.kinds.contains(&object.kind))
            && (policy.mounts
                || policy.kinds.contains(&Kind::CacheMount)
                || object.kind != Kind::CacheMount)
            && policy
                .name
                .as_ref()
                .is_none_or(|name| is_called(object, name))
    };
    let mut left: u64 = objects.iter().map(|object| object.bytes).sum();
    let keep = policy.keep_bytes.unwrap_or(0);
    let (dead, mut alive): (Vec<usize>, Vec<usize>) =
        (0..objects.len()).partition(|position| objects[*position].dead);
    // Of what was used at the same time, what can be made again from the rest goes first.
    alive.sort_by_key(|position| {
        let object = &objects[*position];
        (object.used, object.kind != Kind::Layer, &object.name)
    });
    let mut victims = Vec::new();
    for position in dead {
        if objects[position].used < busy {
            left = left.saturating_sub(objects[position].bytes);
            victims.push(position);
        }
    }
    for position in alive {
        let object = &objects[position];
        // Below a quota, records take next to nothing, and go with what they name.
        let is_record = policy.keep_bytes.is_some() && object.name.starts_with("cache/");
        if may_go(object) && !is_record && (policy.keep_bytes.is_none() || left > keep) {
            left = left.saturating_sub(object.bytes);
            victims.push(position);
        }
    }
    victims
}

fn is_called(object: &Object, start: &str) -> bool {
    let file = object.name.rsplit('/').next().unwrap_or_default();
    file.starts_with(start.strip_prefix("sha256:").unwrap_or(start))
}

/// How many bytes a cache may have on a file system of `total` bytes with `free` left, of which it takes `used` itself: a
/// fifth, and so much less that a tenth stays free; but on a disk that others have filled, at least a twentieth.
pub fn default_quota(total: u64, free: u64, used: u64) -> u64 {
    let room = (used + free).saturating_sub(total / 10);
    room.clamp(total / 20, total / 5)
}

impl Cache {
    /// The quota where nobody asked for another one.
    ///
    /// # Errors
    /// When the file system does not tell its size.
    pub fn default_quota(&self, objects: &[Object]) -> io::Result<u64> {
        let disk = rustix::fs::statvfs(&self.root)?;
        let used = objects.iter().map(|object| object.bytes).sum();
        Ok(default_quota(
            disk.f_blocks * disk.f_frsize,
            disk.f_bavail * disk.f_frsize,
            used,
        ))
    }

    /// Positions of what the policy lets go, with no regard to what is kept, and nobody uses.
    pub fn removable(&self, objects: &[Object], policy: &Policy) -> Vec<usize> {
        let busy = self.session.alone(|| self.busy_since());
        victims(objects, policy, SystemTime::now(), busy)
    }

    /// Removes what the policy lets go and nobody uses. This process counts as nobody.
    ///
    /// # Errors
    /// When something cannot be read or removed.
    pub fn remove(&self, objects: &[Object], policy: &Policy) -> io::Result<Removed> {
        let mut removed = Removed::default();
        let now = SystemTime::now();
        let busy = self.session.alone(|| self.busy_since());
        let chosen = victims(objects, policy, now, busy);
        for batch in chosen.chunks(BATCH) {
            let moved = self.session.alone(|| -> io::Result<Vec<PathBuf>> {
                let busy = self.busy_since();
                let mut trash = Vec::new();
                for position in batch {
                    let object = &objects[*position];
                    // Somebody may have begun to use it.
                    let found = fs_err::symlink_metadata(self.place_of(object));
                    let used = found.and_then(|found| found.modified());
                    let is_same = used
                        .as_ref()
                        .map_or(object.dead, |used| *used == object.used);
                    if !is_same || object.used >= busy {
                        continue;
                    }
                    trash.extend(self.take_away(object)?);
                    removed.bytes += object.bytes;
                    removed.objects.push(object.clone());
                }
                Ok(trash)
            })?;
            for path in moved {
                fs_err::remove_dir_all(path)?;
            }
        }
        Ok(removed)
    }

    /// The time of which everything that was used later may be in use. To be asked alone.
    fn busy_since(&self) -> SystemTime {
        self.session.oldest_other().unwrap_or_else(|| {
            // Nobody else: what is used in this very instant is ours.
            SystemTime::now() + Duration::from_secs(1)
        })
    }

    /// Removes a file, or moves a directory to where it can be removed at leisure. To be called alone.
    fn take_away(&self, object: &Object) -> io::Result<Option<PathBuf>> {
        match object.kind {
            Kind::Record | Kind::Blob | Kind::Listing => {
                match fs_err::remove_file(self.place_of(object)) {
                    // Another process that removes was faster.
                    Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
                    _ => Ok(None),
                }
            }
            Kind::Layer => self.discard_layer(&object.name).map(Some),
            Kind::CacheMount => {
                let trash = tempfile::TempDir::with_prefix_in("trash-", self.tmp())?.keep();
                fs_err::rename(self.place_of(object), trash.join("mount"))?;
                Ok(Some(trash))
            }
        }
    }

    /// Brings the cache below `quota` bytes, or below the default one, and removes what is of no use.
    ///
    /// # Errors
    /// When something cannot be read or removed.
    pub fn keep_to(&self, quota: Option<u64>) -> io::Result<Removed> {
        let objects = self.objects()?;
        let keep_bytes = match quota {
            Some(quota) => quota,
            None => self.default_quota(&objects)?,
        };
        let policy = Policy {
            keep_bytes: Some(keep_bytes),
            mounts: true,
            ..Policy::default()
        };
        let mut removed = self.remove(&objects, &policy)?;
        if !removed.objects.is_empty() {
            let orphans = self.remove_orphans()?;
            removed.bytes += orphans.bytes;
            removed.objects.extend(orphans.objects);
        }
        Ok(removed)
    }

    /// Removes records of what is gone.
    ///
    /// # Errors
    /// When something cannot be read or removed.
    pub fn remove_orphans(&self) -> io::Result<Removed> {
        let mut records = self.objects()?;
        records.retain(|object| object.dead);
        self.remove(&records, &Policy::default())
    }
}

#[cfg(test)]
mod tests;
