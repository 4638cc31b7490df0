//! Keys: public ones from PEM, private ones from cosign's encrypted PEM, and new pairs.

use std::fmt;

use aws_lc_rs::{
    encoding::{AsDer, Pkcs8V1Der, PublicKeyX509Der},
    rand::SystemRandom,
    rsa,
    signature::{
        ECDSA_P256_SHA256_ASN1, ECDSA_P256_SHA256_ASN1_SIGNING, ECDSA_P384_SHA256_ASN1,
        ECDSA_P384_SHA384_ASN1, ECDSA_P384_SHA384_ASN1_SIGNING, ECDSA_P521_SHA256_ASN1,
        ECDSA_P521_SHA512_ASN1, ECDSA_P521_SHA512_ASN1_SIGNING, EcdsaKeyPair, KeyPair,
        ParsedPublicKey, RSA_PKCS1_2048_8192_SHA256, RSA_PKCS1_SHA256, VerificationAlgorithm,
    },
};
use base64::{Engine, prelude::BASE64_STANDARD};
use sha2::{Digest as _, Sha256};
use zeroize::Zeroizing;

use crate::encrypted::{self, KeyFileError};
use crate::pem;

const PUBLIC: &str = "PUBLIC KEY";
/// What cosign has written since version 2.
const SIGSTORE_PRIVATE: &str = "ENCRYPTED SIGSTORE PRIVATE KEY";
/// What it wrote before.
const COSIGN_PRIVATE: &str = "ENCRYPTED COSIGN PRIVATE KEY";

/// A document of a public RSA key with fewer bytes has less than 2048 bits, which no signature is verified with.
const SHORTEST_RSA: usize = 288;

/// Why a key cannot be used.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum KeyError {
    /// No block of PEM.
    #[error("it is no key in PEM form")]
    NotPem,
    /// Another block than the one that is wanted.
    #[error("it is `{found}`, not `{wanted}`")]
    WrongKind {
        /// The label of the block.
        found: String,
        /// The label that is wanted.
        wanted: &'static str,
    },
    /// A kind of key that is not supported.
    #[error("it is no ECDSA key on P-256, P-384 or P-521, nor RSA with 2048 to 8192 bits")]
    Unsupported,
    /// The file of the key.
    #[error(transparent)]
    File(#[from] KeyFileError),
}

/// The key that a signature is verified with.
#[derive(Clone)]
pub struct PublicKey {
    der: Vec<u8>,
    /// The same key with each hash that signers use with it.
    parsed: Vec<ParsedPublicKey>,
}

impl PublicKey {
    /// Reads `-----BEGIN PUBLIC KEY-----`.
    ///
    /// # Errors
    /// When it is no such key, or none of a kind that is supported.
    pub fn from_pem(text: &str) -> Result<Self, KeyError> {
        let (label, der) = pem::decode(text).ok_or(KeyError::NotPem)?;
        if label != PUBLIC {
            return Err(KeyError::WrongKind {
                found: label.chars().take(40).collect(),
                wanted: PUBLIC,
            });
        }
        Self::from_der(der)
    }

    fn from_der(der: Vec<u8>) -> Result<Self, KeyError> {
        // Signers differ in the hash that they use with the larger curves.
        let kinds: [(usize, &[&'static dyn VerificationAlgorithm]); 4] = [
            (0, &[&ECDSA_P256_SHA256_ASN1]),
            (0, &[&ECDSA_P384_SHA384_ASN1, &ECDSA_P384_SHA256_ASN1]),
            (0, &[&ECDSA_P521_SHA512_ASN1, &ECDSA_P521_SHA256_ASN1]),
            (SHORTEST_RSA, &[&RSA_PKCS1_2048_8192_SHA256]),
        ];
        for (shortest, kind) in kinds {
            let parse = |algorithm: &&'static dyn VerificationAlgorithm| {
                ParsedPublicKey::new(*algorithm, &der).ok()
            };
            let parsed: Option<Vec<_>> = kind.iter().map(parse).collect();
            if let Some(parsed) = parsed.filter(|_| der.len() >= shortest) {
                return Ok(Self { der, parsed });
            }
        }
        Err(KeyError::Unsupported)
    }

    /// The key in PEM form.
    pub fn to_pem(&self) -> String {
        pem::encode(PUBLIC, &self.der)
    }

    /// What a bundle names the key by.
    pub(crate) fn hint(&self) -> String {
        BASE64_STANDARD.encode(Sha256::digest(&self.der))
    }

    /// Whether this key made `signature` of `message`.
    pub fn verifies(&self, message: &[u8], signature: &[u8]) -> bool {
        let mut parsed = self.parsed.iter();
        parsed.any(|key| key.verify_sig(message, signature).is_ok())
    }
}

impl fmt::Debug for PublicKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("PublicKey").field(&self.hint()).finish()
    }
}

/// The key that signs.
pub struct PrivateKey {
    pair: Pair,
    public: PublicKey,
}

enum Pair {
    Ecdsa(EcdsaKeyPair),
    Rsa(rsa::KeyPair),
}

impl PrivateKey {
    /// A new ECDSA key on P-256, as cosign makes them.
    ///
    /// # Errors
    /// Only where the system gives no random numbers.
    pub fn generate() -> Result<Self, KeyError> {
        let pair = EcdsaKeyPair::generate(&ECDSA_P256_SHA256_ASN1_SIGNING);
        let pair = pair.map_err(|_| KeyError::File(KeyFileError::NoRandomness))?;
        Self::of(Pair::Ecdsa(pair))
    }

    /// The key in the form that cosign keeps it in, encrypted with `passphrase`.
    ///
    /// # Errors
    /// Only where the system gives no random numbers.
    pub fn to_pem(&self, passphrase: &[u8]) -> Result<String, KeyError> {
        let failed = |_| KeyError::Unsupported;
        let document: Zeroizing<Vec<u8>> = match &self.pair {
            Pair::Ecdsa(pair) => pair.to_pkcs8v1().map_err(failed)?.as_ref().to_vec().into(),
            Pair::Rsa(pair) => {
                let document: Pkcs8V1Der<'_> = pair.as_der().map_err(failed)?;
                document.as_ref().to_vec().into()
            }
        };
        let sealed = encrypted::seal(&document, passphrase)?;
        Ok(pem::encode(SIGSTORE_PRIVATE, &sealed))
    }

    /// Reads an encrypted private key of cosign.
    ///
    /// # Errors
    /// When it is none, when the passphrase is wrong, or when its kind is not supported.
    pub fn from_pem(text: &str, passphrase: &[u8]) -> Result<Self, KeyError> {
        let (label, sealed) = pem::decode(text).ok_or(KeyError::NotPem)?;
        if label != SIGSTORE_PRIVATE && label != COSIGN_PRIVATE {
            return Err(KeyError::WrongKind {
                found: label.chars().take(40).collect(),
                wanted: SIGSTORE_PRIVATE,
            });
        }
        let document = encrypted::open(&sealed, passphrase)?;
        for algorithm in [
            &ECDSA_P256_SHA256_ASN1_SIGNING,
            &ECDSA_P384_SHA384_ASN1_SIGNING,
            &ECDSA_P521_SHA512_ASN1_SIGNING,
        ] {
            if let Ok(pair) = EcdsaKeyPair::from_pkcs8(algorithm, &document) {
                return Self::of(Pair::Ecdsa(pair));
            }
        }
        let pair = rsa::KeyPair::from_pkcs8(&document).map_err(|_| KeyError::Unsupported)?;
        Self::of(Pair::Rsa(pair))
    }

    fn of(pair: Pair) -> Result<Self, KeyError> {
        let der: Result<PublicKeyX509Der<'_>, _> = match &pair {
            Pair::Ecdsa(pair) => pair.public_key().as_der(),
            Pair::Rsa(pair) => pair.public_key().as_der(),
        };
        let der = der.map_err(|_| KeyError::Unsupported)?.as_ref().to_vec();
        let public = PublicKey::from_der(der)?;
        Ok(Self { pair, public })
    }

    /// The key that verifies what this one signs.
    pub const fn public(&self) -> &PublicKey {
        &self.public
    }

    /// A signature of `message`.
    pub(crate) fn sign(&self, message: &[u8]) -> Result<Vec<u8>, KeyError> {
        let random = SystemRandom::new();
        let failed = |_| KeyError::File(KeyFileError::NoRandomness);
        match &self.pair {
            Pair::Ecdsa(pair) => {
                let signature = pair.sign(&random, message).map_err(failed)?;
                Ok(signature.as_ref().to_vec())
            }
            Pair::Rsa(pair) => {
                let mut signature = vec![0; pair.public_modulus_len()];
                pair.sign(&RSA_PKCS1_SHA256, &random, message, &mut signature)
                    .map_err(failed)?;
                Ok(signature)
            }
        }
    }
}

impl fmt::Debug for PrivateKey {
    /// Only what is public.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("PrivateKey")
            .field("public", &self.public)
            .finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A pair that cosign 3.1.3 made, with the passphrase `pass`.
    const KEY: &str = include_str!("../testdata/cosign.key");
    const PUB: &str = include_str!("../testdata/cosign.pub");

    #[test]
    fn keys_of_cosign_are_read() {
        let key = PrivateKey::from_pem(KEY, b"pass").unwrap();
        assert_eq!(key.public().to_pem(), PUB);
        let public = PublicKey::from_pem(PUB).unwrap();
        let signature = key.sign(b"message").unwrap();
        assert!(public.verifies(b"message", &signature));
        assert!(!public.verifies(b"Message", &signature));
        assert!(!public.verifies(b"message", b""));
        let error = PrivateKey::from_pem(KEY, b"").unwrap_err();
        assert_eq!(error, KeyError::File(KeyFileError::WrongPassphrase));
        let older = KEY.replace("SIGSTORE", "COSIGN");
        assert!(PrivateKey::from_pem(&older, b"pass").is_ok());
    }

    #[test]
    fn new_keys_come_back_from_their_files() {
        let key = PrivateKey::generate().unwrap();
        let file = key.to_pem(b"").unwrap();
        let again = PrivateKey::from_pem(&file, b"").unwrap();
        assert_eq!(again.public().to_pem(), key.public().to_pem());
        assert!(!format!("{key:?}").contains("pair"));
    }

    #[test]
    fn other_keys_are_refused() {
        let wrong = PublicKey::from_pem(KEY).unwrap_err();
        assert!(wrong.to_string().contains("ENCRYPTED"), "{wrong}");
        assert!(PrivateKey::from_pem(PUB, b"pass").is_err());
        assert_eq!(
            PublicKey::from_pem("nonsense").unwrap_err(),
            KeyError::NotPem
        );
        // Ed25519, which cosign signs prehashed; a point that is not on its curve; an RSA key of 512 bits.
        let ed25519 = "MCowBQYDK2VwAyEAGb9ECWmEzf6FQbrBZ9w7lshQhqowtrbLDFw4rXAxZuE=";
        let point = "MFkwEwYHKoZIzj0CAQYIKoZIzj0DAQcDQgAEnsTJbgTL2mXsWObplceRPJy7geYU7oZ5/7M798YHnnFqVfLxJR6MBdVDB/LCEE/8JE+k/8rvjv6sMa+tgWd5nA==";
        let rsa = "MFwwDQYJKoZIhvcNAQEBBQADSwAwSAJBAL0FFyWUfAzlwU5gIp2P3IkYhkRAdFy4cF0HGQWQ2RzuOVJpwiwmUJBG6ChIGTrZTWlRj+NkGmCCuE6Nt8Ar0ysCAwEAAQ==";
        for body in [ed25519, point, rsa] {
            let text = format!("-----BEGIN PUBLIC KEY-----\n{body}\n-----END PUBLIC KEY-----\n");
            let error = PublicKey::from_pem(&text).err();
            assert_eq!(error, Some(KeyError::Unsupported), "{body}");
        }
    }
}
