//! The ledger: which repository of a registry holds which blob, as runs of one namespace have learned. It is kept as a
//! manifest without content in a repository of that namespace, so that reading it is one request, and writing it another.
//!
//! It only suggests: a mount that it suggests is one that the registry may refuse, after which the blob is sent. So a
//! wrong, stale or lost ledger costs requests and never correctness. Pure.

use std::collections::{BTreeMap, BTreeSet};

use base64::{Engine, prelude::BASE64_STANDARD_NO_PAD};
use bytes::Bytes;
use oci::{Digest, Index, MediaType};

/// What the manifest of a ledger says that it is.
const ARTIFACT_TYPE: &str = "application/vnd.coopery.ledger.v1";
/// The annotation with the name of the place that the ledger is of.
const SCOPE: &str = "dev.coopery.ledger.scope";
/// The annotation with the repositories and their blobs.
const BLOBS: &str = "dev.coopery.ledger.blobs";
/// The size that a ledger is cut to, in bytes, below the 4 MiB that registries take: some 180,000 blobs.
const MAX_BYTES: usize = 3 * 1024 * 1024;
/// How much of a digest is kept: two blobs that share so much only lead to a mount that is refused.
const PREFIX: usize = 12;

/// The first bytes of a digest.
type Prefix = [u8; PREFIX];

/// Which repository holds which blob. Repositories of one registry, by their paths.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Ledger {
    repositories: BTreeMap<String, Held>,
    /// The next mark of use.
    clock: u64,
}

#[derive(Debug, Clone, Default, PartialEq, Eq)]
struct Held {
    blobs: BTreeSet<Prefix>,
    /// Higher where it was used later.
    used: u64,
}

impl Ledger {
    /// Notes that `repository` holds `blob`.
    pub fn learn(&mut self, repository: &str, blob: &Digest) {
        self.clock += 1;
        let held = self.repositories.entry(repository.to_owned()).or_default();
        held.used = self.clock;
        held.blobs.insert(prefix(blob));
    }

    /// Notes that `repository` does not hold `blob`.
    pub fn forget(&mut self, repository: &str, blob: &Digest) {
        if let Some(held) = self.repositories.get_mut(repository) {
            held.blobs.remove(&prefix(blob));
        }
    }

    /// A repository that holds `blob`: `preferred` where it does, else the one that was used last.
    pub fn holder(&self, blob: &Digest, preferred: &str) -> Option<&str> {
        let prefix = prefix(blob);
        let holds = |held: &Held| held.blobs.contains(&prefix);
        if let Some((path, _)) = self
            .repositories
            .get_key_value(preferred)
            .filter(|(_, held)| holds(held))
        {
            return Some(path);
        }
        let all = self.repositories.iter().filter(|(_, held)| holds(held));
        all.max_by_key(|(_, held)| held.used)
            .map(|(path, _)| path.as_str())
    }

    /// Whether anything is known of `repository`.
    pub fn knows(&self, repository: &str) -> bool {
        self.repositories.contains_key(repository)
    }

    /// Takes in what another ledger of the same place knows; what this one knows counts as used later.
    pub fn merge(&mut self, other: &Self) {
        self.clock += other.clock;
        for held in self.repositories.values_mut() {
            held.used += other.clock;
        }
        for (path, theirs) in &other.repositories {
            let held = self.repositories.entry(path.clone()).or_default();
            held.used = held.used.max(theirs.used);
            held.blobs.extend(&theirs.blobs);
        }
    }

    /// The ledger as the bytes of a manifest. What was not used for longest is left out where it would be too large.
    #[expect(clippy::missing_panics_doc, reason = "it cannot panic")]
    pub fn to_manifest(&self, scope: &str) -> Bytes {
        let mut all: Vec<_> = self.repositories.iter().collect();
        all.sort_by_key(|(path, held)| (std::cmp::Reverse(held.used), *path));
        let mut room = MAX_BYTES;
        let mut kept = Vec::new();
        for (path, held) in all.into_iter().filter(|(_, held)| !held.blobs.is_empty()) {
            let blobs: Vec<u8> = held.blobs.iter().flatten().copied().collect();
            let blobs = BASE64_STANDARD_NO_PAD.encode(blobs);
            let size = path.len() + blobs.len() + 16;
            if size > room {
                break;
            }
            room -= size;
            kept.push((path, blobs));
        }
        let mut index = Index::new(Vec::new());
        index.artifact_type = Some(ARTIFACT_TYPE.to_owned());
        let text = serde_json::to_string(&kept).expect("pairs of strings are JSON");
        index.annotations = BTreeMap::from([
            (SCOPE.to_owned(), scope.to_owned()),
            (BLOBS.to_owned(), text),
        ]);
        serde_json::to_vec(&index)
            .expect("an index has string keys")
            .into()
    }

    /// The media type of a ledger's manifest.
    pub const fn media_type() -> MediaType {
        MediaType::OciIndex
    }

    /// Reads a ledger of `scope`; `None` for everything else, however it looks.
    pub fn parse(manifest: &[u8], scope: &str) -> Option<Self> {
        let index: Index = serde_json::from_slice(manifest).ok()?;
        let is_ours = index.artifact_type.as_deref() == Some(ARTIFACT_TYPE)
            && index.annotations.get(SCOPE).map(String::as_str) == Some(scope);
        if !is_ours {
            return None;
        }
        let kept: Vec<(String, String)> =
            serde_json::from_str(index.annotations.get(BLOBS)?).ok()?;
        let mut ledger = Self::default();
        // The last used is the first.
        for (path, blobs) in kept.into_iter().rev() {
            let blobs = BASE64_STANDARD_NO_PAD.decode(blobs).ok()?;
            let (prefixes, rest) = blobs.as_chunks::<PREFIX>();
            if !rest.is_empty() {
                return None;
            }
            ledger.clock += 1;
            let held = Held {
                blobs: prefixes.iter().copied().collect(),
                used: ledger.clock,
            };
            ledger.repositories.insert(path, held);
        }
        Some(ledger)
    }
}

fn prefix(digest: &Digest) -> Prefix {
    let mut prefix = [0; PREFIX];
    let hex = digest.hex().as_bytes();
    let (pairs, _) = hex.as_chunks::<2>();
    let nibble = |digit: u8| match digit {
        b'0'..=b'9' => digit - b'0',
        _ => digit.wrapping_sub(b'a').wrapping_add(10),
    };
    for (byte, [high, low]) in prefix.iter_mut().zip(pairs) {
        *byte = nibble(*high) << 4 | nibble(*low);
    }
    prefix
}

#[cfg(test)]
mod tests {
    use super::*;

    fn blob(name: &str) -> Digest {
        Digest::of(name.as_bytes())
    }

    #[test]
    fn prefixes_are_the_first_bytes_of_a_digest() {
        let digest = format!("sha256:00ff1a{}", "c0".repeat(29));
        let expected = [0, 255, 26, 192, 192, 192, 192, 192, 192, 192, 192, 192];
        assert_eq!(prefix(&digest.parse().unwrap()), expected);
    }

    #[test]
    fn a_ledger_survives_writing_and_reading() {
        let mut ledger = Ledger::default();
        for (repository, name) in [("a", "1"), ("b", "1"), ("b", "2"), ("a", "1")] {
            ledger.learn(repository, &blob(name));
        }
        let bytes = ledger.to_manifest("h/team");
        let read = Ledger::parse(&bytes, "h/team").unwrap();
        assert_eq!(read.holder(&blob("1"), "x"), Some("a"), "it was used last");
        assert_eq!(read.holder(&blob("1"), "b"), Some("b"));
        assert_eq!(read.holder(&blob("2"), "a"), Some("b"));
        assert_eq!(read.holder(&blob("3"), "a"), None);
        assert_eq!(read.to_manifest("h/team"), bytes);
        let document = oci::Document::parse(&Ledger::media_type(), &bytes).unwrap();
        assert!(document.references().is_empty());
    }

    #[test]
    fn what_is_no_ledger_of_this_place_is_none() {
        let mut ledger = Ledger::default();
        ledger.learn("a", &blob("1"));
        let bytes = ledger.to_manifest("h/team");
        assert_eq!(Ledger::parse(&bytes, "h/other"), None);
        let text = String::from_utf8(bytes.to_vec()).unwrap();
        for broken in [
            "{}".to_owned(),
            text.replace("ledger.v1", "ledger.v2"),
            text.replace("dev.coopery.ledger.blobs", "x"),
            text.replace(r#"[[\"a\""#, "[[1"),
            text.replace("[[", "[[["),
        ] {
            assert_ne!(broken, text);
            assert_eq!(Ledger::parse(broken.as_bytes(), "h/team"), None, "{broken}");
        }
    }

    #[test]
    fn merging_keeps_both() {
        let (mut ours, mut theirs) = (Ledger::default(), Ledger::default());
        ours.learn("a", &blob("1"));
        theirs.learn("a", &blob("2"));
        theirs.learn("b", &blob("3"));
        ours.merge(&theirs);
        for (name, holder) in [("1", "a"), ("2", "a"), ("3", "b")] {
            assert_eq!(ours.holder(&blob(name), ""), Some(holder));
        }
        ours.forget("b", &blob("3"));
        assert_eq!(ours.holder(&blob("3"), ""), None);
    }

    #[test]
    fn a_ledger_too_large_forgets_what_was_not_used_for_longest() {
        // What differs must be in the part of the digest that is kept.
        let numbered = |number: usize| -> Digest {
            let text = format!("sha256:{number:024x}{}", "0".repeat(40));
            text.parse().unwrap()
        };
        let mut ledger = Ledger::default();
        for number in 0..250_000 {
            ledger.learn(&format!("r{}", number / 1000), &numbered(number));
        }
        let bytes = ledger.to_manifest("h/team");
        assert!(bytes.len() <= MAX_BYTES + 1024, "{}", bytes.len());
        let read = Ledger::parse(&bytes, "h/team").unwrap();
        assert_eq!(read.holder(&numbered(249_999), ""), Some("r249"));
        assert_eq!(read.holder(&numbered(0), ""), None);
    }
}
