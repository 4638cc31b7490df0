//! What `RUN --mount` of type secret and ssh may mount: values and agents that the caller of a build hands over. They
//! live in memory, and are part of no key, record, layer or message; [`Redactor`] keeps them out of the output of steps.

use std::collections::BTreeMap;
use std::fmt;
use std::io::{self, Read as _};
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// The largest secret, in bytes, as BuildKit has it.
pub const MAX_SECRET: u64 = 500 * 1024;

/// Shorter pieces of a secret are not looked for in output: they would be found everywhere.
const MIN_REDACTED: usize = 6;

/// What stands in place of a secret.
const REDACTED: &[u8] = b"***";

/// Secrets and agents by id.
#[derive(Clone, Debug, Default)]
pub struct Secrets {
    /// `--secret`
    pub values: BTreeMap<String, Secret>,
    /// `--ssh`: the sockets of agents.
    pub agents: BTreeMap<String, PathBuf>,
}

/// The bytes of a secret. Shown as nothing but its size.
#[derive(Clone, PartialEq, Eq)]
pub struct Secret(Arc<[u8]>);

impl Secret {
    /// The secret that `bytes` are.
    pub fn new(bytes: impl Into<Arc<[u8]>>) -> Self {
        Self(bytes.into())
    }

    /// The content of a file, of at most [`MAX_SECRET`] bytes.
    ///
    /// # Errors
    /// When it cannot be read, or is larger.
    pub fn read(path: &Path) -> io::Result<Self> {
        let mut bytes = Vec::new();
        fs_err::File::open(path)?
            .take(MAX_SECRET + 1)
            .read_to_end(&mut bytes)?;
        if bytes.len() as u64 > MAX_SECRET {
            return Err(io::Error::other(format!(
                "it has more than {MAX_SECRET} bytes"
            )));
        }
        Ok(Self::new(bytes))
    }

    /// The bytes.
    pub fn bytes(&self) -> &[u8] {
        &self.0
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Secret({} bytes)", self.0.len())
    }
}

/// Takes secrets out of lines of output. A secret of several lines is found line by line.
#[derive(Clone, Debug, Default)]
pub struct Redactor {
    pieces: Vec<Secret>,
}

impl Redactor {
    /// Looks for `secrets`.
    pub fn new<'a>(secrets: impl IntoIterator<Item = &'a Secret>) -> Self {
        let mut pieces: Vec<Secret> = secrets
            .into_iter()
            .flat_map(|secret| secret.bytes().split(|byte| *byte == b'\n'))
            .map(<[u8]>::trim_ascii)
            .filter(|piece| piece.len() >= MIN_REDACTED)
            .map(Secret::new)
            .collect();
        // The longest first: one may be part of another.
        pieces.sort_by(|a, b| (b.0.len(), &b.0).cmp(&(a.0.len(), &a.0)));
        pieces.dedup();
        Self { pieces }
    }

    /// The line without secrets; `None` where it has none.
    pub fn redact(&self, line: &[u8]) -> Option<Vec<u8>> {
        let mut result: Option<Vec<u8>> = None;
        for piece in &self.pieces {
            let text = result.as_deref().unwrap_or(line);
            if let Some(replaced) = replace(text, piece.bytes()) {
                result = Some(replaced);
            }
        }
        result
    }
}

fn replace(text: &[u8], piece: &[u8]) -> Option<Vec<u8>> {
    let find = |from: usize| {
        let found = text[from..].windows(piece.len()).position(|w| w == piece)?;
        Some(from + found)
    };
    let mut at = find(0)?;
    let (mut result, mut from) = (Vec::with_capacity(text.len()), 0);
    loop {
        result.extend_from_slice(&text[from..at]);
        result.extend_from_slice(REDACTED);
        from = at + piece.len();
        match find(from) {
            Some(next) => at = next,
            None => break,
        }
    }
    result.extend_from_slice(&text[from..]);
    Some(result)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn secrets_are_taken_out_of_lines() {
        let secrets = ["s3cr3t-token\n", "-----BEGIN\nline one\nxy\n", "s3cr3t"]
            .map(|text| Secret::new(text.as_bytes()));
        let redactor = Redactor::new(&secrets);
        for (line, expected) in [
            ("nothing here", None),
            ("TOKEN=s3cr3t-token", Some("TOKEN=***")),
            ("s3cr3t-token s3cr3t-toke", Some("*** ***-toke")),
            ("-----BEGIN", Some("***")),
            ("a line one.", Some("a ***.")),
            ("xy", None),
            ("", None),
        ] {
            let found = redactor.redact(line.as_bytes());
            let expected = expected.map(|text| text.as_bytes().to_vec());
            assert_eq!(found, expected, "{line}");
        }
        assert_eq!(format!("{:?}", secrets[0]), "Secret(13 bytes)");
    }
}
