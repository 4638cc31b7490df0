//! Content digests: `Digest` (of any bytes), `DiffId` (of one uncompressed layer) and `ChainId` (of a stack of layers).
//! Grammar and algorithms: OCI image-spec, descriptor.md, "Digests"; chain ids: config.md, "Layer ChainID".

use std::{fmt, str::FromStr};

use serde::{Deserialize, Deserializer, Serialize, Serializer};
use sha2::{Digest as _, Sha256, Sha512};

/// A hash function that the image specification registers.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Algorithm {
    /// SHA-256, 64 hexadecimal digits.
    Sha256,
    /// SHA-512, 128 hexadecimal digits.
    Sha512,
}

impl Algorithm {
    /// The name that stands before the colon of a digest.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Sha256 => "sha256",
            Self::Sha512 => "sha512",
        }
    }

    const fn hex_len(self) -> usize {
        match self {
            Self::Sha256 => 64,
            Self::Sha512 => 128,
        }
    }
}

/// The content hash of some bytes: an algorithm and lower-case hexadecimal digits, `sha256:…`.
///
/// A value of this type is always well-formed, so it is safe as a file name and in a URL path.
#[derive(Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Digest {
    algorithm: Algorithm,
    text: Box<str>,
}

/// Why a text is not a digest.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum DigestError {
    /// There is no `algorithm:hex` in it, or the hexadecimal part has a wrong length or wrong digits.
    #[error("`{0}` is not a digest: expected `sha256:` and 64 lower-case hexadecimal digits")]
    Malformed(String),
    /// The algorithm is none of those that are supported.
    #[error("digest algorithm `{0}` is not supported: use sha256 or sha512")]
    UnsupportedAlgorithm(String),
}

impl Digest {
    /// The SHA-256 digest of `bytes`.
    pub fn of(bytes: &[u8]) -> Self {
        Self::from_hash(Algorithm::Sha256, &Sha256::digest(bytes))
    }

    /// The digest whose SHA-256 hash is `hash`.
    pub fn from_sha256(hash: &[u8; 32]) -> Self {
        Self::from_hash(Algorithm::Sha256, hash)
    }

    /// The SHA-256 hash that it stands for; none of another algorithm.
    pub fn to_sha256(&self) -> Option<[u8; 32]> {
        let mut hash = [0; 32];
        let is_one = self.algorithm == Algorithm::Sha256;
        (is_one && hex::decode_to_slice(self.hex(), &mut hash).is_ok()).then_some(hash)
    }

    fn from_hash(algorithm: Algorithm, hash: &[u8]) -> Self {
        Self {
            algorithm,
            text: format!("{}:{}", algorithm.as_str(), hex::encode(hash)).into(),
        }
    }

    /// The hash function that made this digest.
    pub const fn algorithm(&self) -> Algorithm {
        self.algorithm
    }

    /// The hexadecimal digits, without the algorithm.
    pub fn hex(&self) -> &str {
        &self.text[self.algorithm.as_str().len() + 1..]
    }

    /// The first twelve hexadecimal digits, as people see them in listings.
    pub fn short(&self) -> &str {
        &self.hex()[..12]
    }

    /// The whole text, `sha256:…`.
    pub fn as_str(&self) -> &str {
        &self.text
    }
}

impl FromStr for Digest {
    type Err = DigestError;

    fn from_str(text: &str) -> Result<Self, DigestError> {
        let malformed = || DigestError::Malformed(text.chars().take(160).collect());
        let (name, hex) = text.split_once(':').ok_or_else(malformed)?;
        let algorithm = match name {
            "sha256" => Algorithm::Sha256,
            "sha512" => Algorithm::Sha512,
            _ if !name.is_empty()
                && name
                    .bytes()
                    .all(|b| b.is_ascii_lowercase() || b.is_ascii_digit()) =>
            {
                return Err(DigestError::UnsupportedAlgorithm(
                    name.chars().take(40).collect(),
                ));
            }
            _ => return Err(malformed()),
        };
        if hex.len() != algorithm.hex_len()
            || !hex.bytes().all(|b| matches!(b, b'0'..=b'9' | b'a'..=b'f'))
        {
            return Err(malformed());
        }
        Ok(Self {
            algorithm,
            text: text.into(),
        })
    }
}

impl fmt::Display for Digest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text)
    }
}

impl fmt::Debug for Digest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text)
    }
}

impl Serialize for Digest {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(&self.text)
    }
}

impl<'de> Deserialize<'de> for Digest {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        String::deserialize(deserializer)?
            .parse()
            .map_err(serde::de::Error::custom)
    }
}

/// A digest in the making: feed it bytes, then take the digest and the number of bytes.
#[derive(Clone, Debug)]
pub struct Digester {
    state: State,
    len: u64,
}

#[derive(Clone, Debug)]
enum State {
    Sha256(Sha256),
    Sha512(Box<Sha512>),
}

impl Digester {
    /// Starts an empty SHA-256 digest.
    pub fn sha256() -> Self {
        Self::new(Algorithm::Sha256)
    }

    /// Starts an empty digest of `algorithm`.
    pub fn new(algorithm: Algorithm) -> Self {
        let state = match algorithm {
            Algorithm::Sha256 => State::Sha256(Sha256::new()),
            Algorithm::Sha512 => State::Sha512(Box::new(Sha512::new())),
        };
        Self { state, len: 0 }
    }

    /// Adds `bytes`.
    pub fn update(&mut self, bytes: &[u8]) {
        self.len += bytes.len() as u64;
        match &mut self.state {
            State::Sha256(hash) => hash.update(bytes),
            State::Sha512(hash) => hash.update(bytes),
        }
    }

    /// The number of bytes seen so far.
    pub const fn len(&self) -> u64 {
        self.len
    }

    /// Whether no byte was seen so far.
    pub const fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// The digest of all bytes seen.
    pub fn finish(self) -> Digest {
        match self.state {
            State::Sha256(hash) => Digest::from_hash(Algorithm::Sha256, &hash.finalize()),
            State::Sha512(hash) => Digest::from_hash(Algorithm::Sha512, &hash.finalize()),
        }
    }
}

impl std::io::Write for Digester {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        self.update(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}

/// The digest of one layer's uncompressed tar stream (`rootfs.diff_ids` of an image configuration).
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(transparent)]
pub struct DiffId(pub Digest);

impl fmt::Display for DiffId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// The digest of a layer together with all layers below it.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(transparent)]
pub struct ChainId(pub Digest);

impl ChainId {
    /// The chain id of a stack of layers, bottom first; `None` for an empty stack.
    pub fn of<'a>(layers: impl IntoIterator<Item = &'a DiffId>) -> Option<Self> {
        layers.into_iter().fold(None, |below, layer| {
            Some(Self(match below {
                None => layer.0.clone(),
                Some(Self(below)) => Digest::of(format!("{below} {layer}").as_bytes()),
            }))
        })
    }
}

impl fmt::Display for ChainId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const EMPTY: &str = "sha256:e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855";

    #[test]
    fn digest_of_bytes_is_its_text() {
        assert_eq!(Digest::of(b"").as_str(), EMPTY);
        let digest: Digest = EMPTY.parse().unwrap();
        assert_eq!(digest, Digest::of(b""));
        assert_eq!(
            (digest.short(), digest.algorithm()),
            ("e3b0c44298fc", Algorithm::Sha256)
        );
    }

    #[test]
    fn malformed_digests_are_refused() {
        let upper = EMPTY.to_uppercase();
        for text in [
            "",
            "sha256",
            "sha256:",
            "sha256:abc",
            "sha256:../../etc/passwd",
            &upper,
            &EMPTY[1..],
            &format!("{EMPTY}0"),
            ":abc",
        ] {
            assert!(text.parse::<Digest>().is_err(), "{text}");
        }
        assert_eq!(
            "md5:abc".parse::<Digest>(),
            Err(DigestError::UnsupportedAlgorithm("md5".into()))
        );
        assert!(
            format!("sha512:{}", "a".repeat(128))
                .parse::<Digest>()
                .is_ok()
        );
    }

    #[test]
    fn digester_counts_and_hashes() {
        let mut digester = Digester::sha256();
        digester.update(b"a");
        digester.update(b"b");
        assert_eq!(digester.len(), 2);
        assert_eq!(digester.finish(), Digest::of(b"ab"));
    }

    #[test]
    fn chain_ids_follow_the_specification() {
        let (a, b) = (DiffId(Digest::of(b"a")), DiffId(Digest::of(b"b")));
        assert_eq!(ChainId::of([]), None);
        assert_eq!(ChainId::of([&a]).unwrap().0, a.0);
        assert_eq!(
            ChainId::of([&a, &b]).unwrap().0,
            Digest::of(format!("{a} {b}").as_bytes())
        );
    }
}
