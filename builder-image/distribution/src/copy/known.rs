//! What a run knows of the destination, and where a blob is therefore to be taken from. Pure.

use std::collections::{HashMap, HashSet};

use oci::{Digest, Repository};

use super::ledger::Ledger;

/// What is known of the destination: what this run saw itself, and what the ledger says.
#[derive(Debug, Default)]
pub(super) struct Known {
    /// Blobs that this run has put into a repository or found there.
    blobs: HashMap<Repository, HashSet<Digest>>,
    /// Manifests that this run has put.
    manifests: HashMap<Repository, HashSet<Digest>>,
    ledger: Ledger,
    /// Blobs that no repository was known to hold before, since the ledger was last kept.
    learned: usize,
}

/// How a repository comes to a blob.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Offer {
    /// This run knows that it has it.
    Present,
    /// From another repository of the same registry, where that really has it.
    Mount(Repository),
    /// The ledger says that it is there: the registry is asked, and it is sent only where that is wrong.
    Ask,
    /// Nothing is known of it. The registry is asked all the same, since that is how an upload is opened.
    Send,
}

impl Known {
    /// How `to` comes to `blob`, which `from` has.
    ///
    /// A mount is asked for wherever it may succeed: where it does not, the same request has opened the upload.
    pub(super) fn offer(&self, blob: &Digest, from: &Repository, to: &Repository) -> Offer {
        if self.blobs.get(to).is_some_and(|there| there.contains(blob)) {
            return Offer::Present;
        }
        match self.ledger.holder(blob, to.path()) {
            Some(path) if path == to.path() => Offer::Ask,
            _ if from.host() == to.host() && from != to => Offer::Mount(from.clone()),
            Some(path) => {
                Repository::new(to.host().clone(), path).map_or(Offer::Send, Offer::Mount)
            }
            None => Offer::Send,
        }
    }

    /// Whether anything is known of `to`, so that blobs may be there.
    pub(super) fn has_seen(&self, to: &Repository) -> bool {
        self.ledger.knows(to.path())
    }

    /// Notes that `to` has `blob` now.
    pub(super) fn arrived(&mut self, blob: &Digest, to: &Repository) {
        insert(&mut self.blobs, to, blob);
        if self.ledger.holder(blob, to.path()).is_none() {
            self.learned += 1;
        }
        self.ledger.learn(to.path(), blob);
    }

    /// Notes that the repository which was offered for `blob` does not have it.
    pub(super) fn refused(&mut self, blob: &Digest, from: &Repository) {
        self.ledger.forget(from.path(), blob);
    }

    /// Notes that `to` does not have what was thought: nothing about these blobs there is believed any more.
    pub(super) fn doubt<'a>(&mut self, blobs: impl Iterator<Item = &'a Digest>, to: &Repository) {
        let mut there = self.blobs.get_mut(to);
        for blob in blobs {
            if let Some(there) = &mut there {
                there.remove(blob);
            }
            self.ledger.forget(to.path(), blob);
        }
        self.manifests.remove(to);
    }

    /// Whether this run has put the manifest there.
    pub(super) fn has_manifest(&self, manifest: &Digest, to: &Repository) -> bool {
        let put = self.manifests.get(to);
        put.is_some_and(|put| put.contains(manifest))
    }

    /// Notes that `to` has the manifest now.
    pub(super) fn put(&mut self, manifest: &Digest, to: &Repository) {
        insert(&mut self.manifests, to, manifest);
    }

    /// Takes in a ledger that was read.
    pub(super) fn merge(&mut self, ledger: &Ledger) {
        self.ledger.merge(ledger);
    }

    /// The ledger, and how much is new in it.
    pub(super) const fn ledger(&self) -> (&Ledger, usize) {
        (&self.ledger, self.learned)
    }

    /// Notes that a ledger with so much news was kept.
    pub(super) const fn kept(&mut self, learned: usize) {
        self.learned = self.learned.saturating_sub(learned);
    }
}

fn insert(all: &mut HashMap<Repository, HashSet<Digest>>, to: &Repository, digest: &Digest) {
    match all.get_mut(to) {
        Some(there) => {
            there.insert(digest.clone());
        }
        None => {
            all.insert(to.clone(), HashSet::from([digest.clone()]));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn repository(name: &str) -> Repository {
        name.parse().unwrap()
    }

    #[test]
    fn what_is_nearest_is_offered() {
        let blob = Digest::of(b"blob");
        let (to, other) = (repository("t.example/a"), repository("t.example/b"));
        let (far, near) = (repository("s.example/x"), repository("t.example/x"));
        let nothing = Known::default();
        assert_eq!(nothing.offer(&blob, &far, &to), Offer::Send);
        assert_eq!(nothing.offer(&blob, &near, &to), Offer::Mount(near.clone()));
        assert_eq!(nothing.offer(&blob, &to, &to), Offer::Send);

        let mut elsewhere = Known::default();
        elsewhere.arrived(&blob, &other);
        assert_eq!(
            elsewhere.offer(&blob, &far, &to),
            Offer::Mount(other.clone())
        );
        assert_eq!(elsewhere.offer(&blob, &far, &other), Offer::Present);
        // What the source is known to have is better than what a ledger says.
        assert_eq!(elsewhere.offer(&blob, &near, &to), Offer::Mount(near));
        elsewhere.refused(&blob, &other);
        assert_eq!(elsewhere.offer(&blob, &far, &to), Offer::Send);

        // A ledger alone proves nothing: the registry is asked.
        let mut told = Known::default();
        let mut ledger = Ledger::default();
        ledger.learn("a", &blob);
        ledger.learn("b", &blob);
        told.merge(&ledger);
        assert_eq!(told.offer(&blob, &far, &to), Offer::Ask);
        assert_eq!(told.ledger().1, 0);
    }

    #[test]
    fn doubt_takes_back_what_this_run_knew() {
        let blob = Digest::of(b"blob");
        let (from, to) = (repository("s.example/x"), repository("t.example/a"));
        let mut known = Known::default();
        known.arrived(&blob, &to);
        known.put(&blob, &to);
        assert!(known.has_manifest(&blob, &to));
        known.doubt(std::iter::once(&blob), &to);
        assert!(!known.has_manifest(&blob, &to));
        assert_eq!(known.offer(&blob, &from, &to), Offer::Send);
    }

    #[test]
    fn news_is_counted_until_it_is_kept() {
        let to = repository("t.example/a");
        let mut known = Known::default();
        known.arrived(&Digest::of(b"1"), &to);
        known.arrived(&Digest::of(b"1"), &to);
        known.arrived(&Digest::of(b"2"), &to);
        // Where a blob is once more is no reason to write.
        known.arrived(&Digest::of(b"2"), &repository("t.example/b"));
        assert_eq!(known.ledger().1, 2);
        known.kept(1);
        assert_eq!(known.ledger().1, 1);
    }
}
