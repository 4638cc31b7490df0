//! Signatures of images as cosign makes them with a key, in both of its forms: the sigstore bundle that refers to the
//! image, and the tag `sha256-<hex>.sig`. Keys, payloads, signing and verifying are pure; only `remote` speaks to
//! registries.
//!
//! What is verified: that one of the given keys signed a statement about exactly the digest of the image. What is not:
//! transparency logs, timestamps and certificates, which say who had a key and when, and are not needed where the key itself
//! is trusted; nor the name that the image had when it was signed, which a mirror changes.

mod bundle;
mod encrypted;
mod key;
mod pem;
mod remote;
mod simple;

pub use bundle::{BUNDLE_TYPE, SIGN_PREDICATE};
pub use encrypted::KeyFileError;
pub use key::{KeyError, PrivateKey, PublicKey};
pub use remote::{
    Form, MAX_SIGNATURES, NamedKey, SignError, SignedBy, Verifier, VerifyError, sign,
};
pub use simple::{PAYLOAD_KIND, SIMPLE_SIGNING_TYPE};

/// Why a signature does not count.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Problem {
    /// The document cannot be read as what it claims to be.
    #[error("the signature is malformed: {0}")]
    Malformed(&'static str),
    /// No key that was given made it.
    #[error("it is by another key, or was changed")]
    OtherKey,
    /// It was made for another image.
    #[error("it is for another image")]
    OtherImage,
    /// It is no signature of an image: an attestation, for one.
    #[error("it states something else than that the image is signed")]
    OtherStatement,
    /// It is larger than any signature.
    #[error("it is larger than {0} bytes")]
    TooLarge(u64),
}
