//! The files that a COPY or ADD read, each with a digest of 64 bits. A long list is folded: what lies deeper than some
//! depth counts with its directory, so a listing stays small however many files there are.

use std::collections::{BTreeMap, BTreeSet};

use serde::{Deserialize, Serialize};

/// A listing has at most this many entries,
const MAX_ENTRIES: usize = 1024;

/// and at most this many bytes of names.
const MAX_BYTES: usize = 64 << 10;

/// Files with the digests of what they are and hold.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct FileMarks {
    /// Components that names have at most; no bound where absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    depth: Option<usize>,
    files: BTreeMap<String, u64>,
    #[serde(skip)]
    bytes: usize,
}

/// Which files differ.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Delta {
    /// Those that are there in both, and different.
    pub changed: Vec<String>,
    /// Those that were not there.
    pub added: Vec<String>,
    /// Those that are no longer there.
    pub removed: Vec<String>,
}

impl Delta {
    /// Whether nothing differs.
    pub fn is_empty(&self) -> bool {
        self.changed.is_empty() && self.added.is_empty() && self.removed.is_empty()
    }
}

impl FileMarks {
    /// Adds what is at `path`, relative to what is copied from.
    pub fn add(&mut self, path: &str, mark: &Mark) {
        self.insert(path.trim_matches('/'), mark.0);
        while self.files.len() > MAX_ENTRIES || self.bytes > MAX_BYTES {
            let deepest = self.files.keys().map(|path| components(path)).max();
            let depth = deepest.unwrap_or_default().saturating_sub(1);
            *self = self.folded(depth);
            if depth == 0 {
                return;
            }
        }
    }

    fn insert(&mut self, path: &str, mark: u64) {
        let path = match self.depth {
            Some(depth) => cut(path, depth),
            None => path,
        };
        if let Some(known) = self.files.get_mut(path) {
            // The order of addition must not count: it is another one when a listing was folded in between.
            *known = known.wrapping_add(mark);
        } else {
            self.bytes += path.len();
            self.files.insert(path.to_owned(), mark);
        }
    }

    fn folded(&self, depth: usize) -> Self {
        let mut folded = Self {
            depth: Some(depth),
            ..Self::default()
        };
        for (path, mark) in &self.files {
            folded.insert(path, *mark);
        }
        folded
    }

    /// What differs from an `earlier` one. Listings of different depths are compared at the smaller one.
    pub fn delta(&self, earlier: &Self) -> Delta {
        let depth = match (self.depth, earlier.depth) {
            (Some(one), Some(other)) => Some(one.min(other)),
            (one, other) => one.or(other),
        };
        let at = |listing: &Self| match depth {
            Some(depth) if listing.depth != Some(depth) => listing.folded(depth),
            _ => listing.clone(),
        };
        let (new, old) = (at(self), at(earlier));
        let all: BTreeSet<_> = new.files.keys().chain(old.files.keys()).collect();
        let mut delta = Delta::default();
        for path in all {
            let into = match (old.files.get(path), new.files.get(path)) {
                (None, _) => &mut delta.added,
                (_, None) => &mut delta.removed,
                (old, new) if old != new => &mut delta.changed,
                _ => continue,
            };
            let shown = if path.is_empty() { "." } else { path.as_str() };
            into.push(shown.to_owned());
        }
        delta
    }
}

fn components(path: &str) -> usize {
    path.split('/').filter(|part| !part.is_empty()).count()
}

/// The first `depth` components.
fn cut(path: &str, depth: usize) -> &str {
    if depth == 0 {
        return "";
    }
    match path.match_indices('/').nth(depth - 1) {
        Some((end, _)) => &path[..end],
        None => path,
    }
}

/// The digest of one entry (FNV-1a). It tells entries of one copy apart for people; nothing relies on it.
#[derive(Clone, Debug)]
pub struct Mark(u64);

impl Mark {
    /// The digest of nothing.
    pub const fn new() -> Self {
        Self(0xcbf2_9ce4_8422_2325)
    }

    /// Adds bytes.
    pub fn update(&mut self, bytes: &[u8]) {
        for byte in bytes {
            self.0 = (self.0 ^ u64::from(*byte)).wrapping_mul(0x0100_0000_01b3);
        }
    }
}

impl Default for Mark {
    fn default() -> Self {
        Self::new()
    }
}
