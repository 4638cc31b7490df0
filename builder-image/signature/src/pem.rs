//! PEM (RFC 7468), as far as keys need it: one block with a label.

use base64::{Engine, prelude::BASE64_STANDARD};

/// The largest text that is looked at.
const MAX_TEXT: usize = 64 * 1024;

/// The label and the bytes of the first block of `text`.
pub(crate) fn decode(text: &str) -> Option<(&str, Vec<u8>)> {
    let text = text.get(..text.len().min(MAX_TEXT))?;
    let (_, rest) = text.split_once("-----BEGIN ")?;
    let (label, rest) = rest.split_once("-----")?;
    let end = format!("-----END {label}-----");
    let (body, _) = rest.split_once(end.as_str())?;
    let body: String = body.split_ascii_whitespace().collect();
    Some((label, BASE64_STANDARD.decode(body).ok()?))
}

/// A block.
pub(crate) fn encode(label: &str, bytes: &[u8]) -> String {
    let body = BASE64_STANDARD.encode(bytes);
    let mut text = format!("-----BEGIN {label}-----\n");
    let mut rest = body.as_str();
    while !rest.is_empty() {
        // Base64 is ASCII, so that each position is a boundary.
        let (line, after) = rest.split_at(rest.len().min(64));
        text.push_str(line);
        text.push('\n');
        rest = after;
    }
    text.push_str("-----END ");
    text.push_str(label);
    text.push_str("-----\n");
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn blocks_round_trip_whatever_surrounds_them() {
        for length in [0, 1, 47, 48, 49, 500] {
            let bytes: Vec<u8> = (0..=255).cycle().take(length).collect();
            let text = encode("PUBLIC KEY", &bytes);
            assert!(text.lines().all(|line| line.len() <= 64), "{text}");
            let crlf = format!("comment\r\n{}\r\nafter", text.replace('\n', "\r\n"));
            for text in [&text, &crlf] {
                let (label, decoded) = decode(text).unwrap();
                assert_eq!((label, &decoded), ("PUBLIC KEY", &bytes));
            }
        }
    }

    #[test]
    fn what_is_no_block_is_refused() {
        for text in [
            "",
            "-----BEGIN A-----",
            "-----BEGIN A-----\nAAAA\n-----END B-----",
            "-----BEGIN A-----\n*\n-----END A-----",
            "MFkwEwYHKoZIzj0CAQYIKoZIzj0DAQcDQgAE",
        ] {
            assert_eq!(decode(text), None, "{text}");
        }
        let long = format!("{}{}", " ".repeat(MAX_TEXT), encode("A", b"x"));
        assert_eq!(decode(&long), None);
    }
}
