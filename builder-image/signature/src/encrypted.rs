//! The encryption of cosign's private keys: JSON with a key derived from the passphrase by scrypt (RFC 7914), and
//! `NaCl`'s secretbox (XSalsa20 and Poly1305) around the PKCS #8 document.

use aws_lc_rs::rand::fill;
use base64::{Engine, prelude::BASE64_STANDARD};
use poly1305::{Poly1305, universal_hash::KeyInit};
use salsa20::{
    XSalsa20,
    cipher::{KeyIvInit, StreamCipher},
};
use serde::{Deserialize, Serialize};
use zeroize::Zeroizing;

const SCRYPT: &str = "scrypt";
const SECRETBOX: &str = "nacl/secretbox";
const TAG: usize = 16;

/// Why a private key cannot be had from its file.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum KeyFileError {
    /// It is not of the form that cosign writes.
    #[error("the encrypted key is malformed")]
    Malformed,
    /// Another derivation or cipher than cosign's, or parameters that would take all memory.
    #[error("the key is encrypted in a way that is not supported: {0}")]
    Unsupported(String),
    /// The passphrase is wrong, or the file was changed.
    #[error("the passphrase is wrong")]
    WrongPassphrase,
    /// The system gave no random bytes.
    #[error("the system gives no random numbers")]
    NoRandomness,
}

#[derive(Serialize, Deserialize)]
struct Sealed {
    kdf: Kdf,
    cipher: Cipher,
    ciphertext: String,
}

#[derive(Serialize, Deserialize)]
struct Kdf {
    name: String,
    params: Params,
    salt: String,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
struct Params {
    #[serde(rename = "N")]
    n: u32,
    r: u32,
    p: u32,
}

#[derive(Serialize, Deserialize)]
struct Cipher {
    name: String,
    nonce: String,
}

impl Params {
    /// What cosign writes now.
    const STANDARD: Self = Self::of(16);

    const fn of(log_n: u8) -> Self {
        Self {
            n: 1 << log_n,
            r: 8,
            p: 1,
        }
    }

    /// The logarithm of N, where these are parameters of cosign: others could take all memory and time.
    fn log_n(self) -> Option<u8> {
        (15..=17).find(|log_n| Self::of(*log_n) == self)
    }
}

/// Encrypts `plain`.
pub(crate) fn seal(plain: &[u8], passphrase: &[u8]) -> Result<Vec<u8>, KeyFileError> {
    let (mut salt, mut nonce) = ([0; 32], [0; 24]);
    fill(&mut salt).map_err(|_| KeyFileError::NoRandomness)?;
    fill(&mut nonce).map_err(|_| KeyFileError::NoRandomness)?;
    let key = derive(passphrase, &salt, 16)?;
    let (mut cipher, tag_key) = secretbox(&key, &nonce);
    let mut boxed = vec![0; TAG];
    boxed.extend_from_slice(plain);
    cipher.apply_keystream(&mut boxed[TAG..]);
    let tag = Poly1305::new(&(*tag_key).into()).compute_unpadded(&boxed[TAG..]);
    boxed[..TAG].copy_from_slice(&tag);
    let sealed = Sealed {
        kdf: Kdf {
            name: SCRYPT.to_owned(),
            params: Params::STANDARD,
            salt: BASE64_STANDARD.encode(salt),
        },
        cipher: Cipher {
            name: SECRETBOX.to_owned(),
            nonce: BASE64_STANDARD.encode(nonce),
        },
        ciphertext: BASE64_STANDARD.encode(boxed),
    };
    serde_json::to_vec(&sealed).map_err(|_| KeyFileError::Malformed)
}

/// Decrypts what [`seal`] or cosign wrote.
pub(crate) fn open(sealed: &[u8], passphrase: &[u8]) -> Result<Zeroizing<Vec<u8>>, KeyFileError> {
    let sealed: Sealed = serde_json::from_slice(sealed).map_err(|_| KeyFileError::Malformed)?;
    for (name, expected) in [(&sealed.kdf.name, SCRYPT), (&sealed.cipher.name, SECRETBOX)] {
        if name != expected {
            let name = name.chars().take(32).collect();
            return Err(KeyFileError::Unsupported(name));
        }
    }
    let log_n = sealed.kdf.params.log_n().ok_or_else(|| {
        let Params { n, r, p } = sealed.kdf.params;
        KeyFileError::Unsupported(format!("scrypt with N={n}, r={r}, p={p}"))
    })?;
    let decode = |text: &str| {
        let bytes = BASE64_STANDARD.decode(text);
        bytes.map_err(|_| KeyFileError::Malformed)
    };
    let salt = decode(&sealed.kdf.salt)?;
    let nonce: [u8; 24] = decode(&sealed.cipher.nonce)?
        .try_into()
        .map_err(|_| KeyFileError::Malformed)?;
    let boxed = decode(&sealed.ciphertext)?;
    let (tag, ciphertext) = boxed.split_at_checked(TAG).ok_or(KeyFileError::Malformed)?;
    let key = derive(passphrase, &salt, log_n)?;
    let (mut cipher, tag_key) = secretbox(&key, &nonce);
    let found = Poly1305::new(&(*tag_key).into()).compute_unpadded(ciphertext);
    // An attacker who can time this has the file already.
    if found.as_slice() != tag {
        return Err(KeyFileError::WrongPassphrase);
    }
    let mut plain = Zeroizing::new(ciphertext.to_vec());
    cipher.apply_keystream(&mut plain);
    Ok(plain)
}

fn derive(passphrase: &[u8], salt: &[u8], log_n: u8) -> Result<Zeroizing<[u8; 32]>, KeyFileError> {
    let mut key = Zeroizing::new([0; 32]);
    let params = scrypt::Params::new(log_n, 8, 1).map_err(|_| KeyFileError::Malformed)?;
    scrypt::scrypt(passphrase, salt, &params, &mut *key).map_err(|_| KeyFileError::Malformed)?;
    Ok(key)
}

/// The cipher behind the first 32 bytes of its stream, which are the key of the tag.
fn secretbox(key: &[u8; 32], nonce: &[u8; 24]) -> (XSalsa20, Zeroizing<[u8; 32]>) {
    let mut cipher = XSalsa20::new(key.into(), nonce.into());
    let mut tag_key = Zeroizing::new([0; 32]);
    cipher.apply_keystream(&mut *tag_key);
    (cipher, tag_key)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_sealed_opens_with_its_passphrase_only() {
        let sealed = seal(b"a secret", b"pass").unwrap();
        assert_eq!(*open(&sealed, b"pass").unwrap(), b"a secret");
        assert_eq!(open(&sealed, b"Pass"), Err(KeyFileError::WrongPassphrase));
        assert_ne!(sealed, seal(b"a secret", b"pass").unwrap());

        let mut changed: Sealed = serde_json::from_slice(&sealed).unwrap();
        let mut bytes = BASE64_STANDARD.decode(&changed.ciphertext).unwrap();
        *bytes.last_mut().unwrap() ^= 1;
        changed.ciphertext = BASE64_STANDARD.encode(bytes);
        let changed = serde_json::to_vec(&changed).unwrap();
        assert_eq!(open(&changed, b"pass"), Err(KeyFileError::WrongPassphrase));
    }

    #[test]
    fn parameters_that_are_not_cosigns_are_refused_before_any_work() {
        let sealed = String::from_utf8(seal(b"x", b"pass").unwrap()).unwrap();
        for (from, to) in [
            ("\"N\":65536", "\"N\":1073741824"),
            ("\"r\":8", "\"r\":4096"),
            ("\"p\":1", "\"p\":9999"),
            ("scrypt", "pbkdf2"),
            ("nacl/secretbox", "aes"),
        ] {
            let changed = sealed.replace(from, to);
            assert_ne!(changed, sealed);
            let error = open(changed.as_bytes(), b"pass").unwrap_err();
            assert!(matches!(error, KeyFileError::Unsupported(_)), "{error}");
        }
        for broken in ["", "{}", r#"{"kdf":{},"cipher":{},"ciphertext":""}"#] {
            let error = open(broken.as_bytes(), b"pass").unwrap_err();
            assert_eq!(error, KeyFileError::Malformed);
        }
    }
}
