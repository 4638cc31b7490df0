//! The patterns of `${v#p}`, `${v%p}` and `${v/p/r}`: `*` stands for any text, `?` for one character, `\` takes the
//! meaning from `*`, `?` and itself. No brackets, and neither wildcard matches a newline.
//!
//! A pattern becomes a regular expression without alternation, so matching is linear whatever the pattern.

use regex::{NoExpand, Regex};

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Token {
    Literal(char),
    One,
    Many,
}

fn tokens(pattern: &str) -> Result<Vec<Token>, String> {
    let mut tokens = Vec::new();
    let mut chars = pattern.chars().peekable();
    while let Some(c) = chars.next() {
        tokens.push(match c {
            '*' => Token::Many,
            '?' => Token::One,
            // `\}` and `\/` only keep the substitution from ending; the pattern holds the bare character.
            '\\' => match chars.next() {
                Some(escaped @ ('*' | '?' | '\\' | '}' | '/')) => Token::Literal(escaped),
                Some(other) => return Err(format!("invalid escape `\\{other}`")),
                None => return Err("it ends in an escape".to_owned()),
            },
            c => Token::Literal(c),
        });
    }
    Ok(tokens)
}

fn compile(tokens: &[Token], anchor: &str, longest: bool) -> Result<Regex, String> {
    let mut expression = anchor.to_owned();
    let mut buffer = [0; 4];
    for token in tokens {
        match token {
            Token::Literal(c) => expression.push_str(&regex::escape(c.encode_utf8(&mut buffer))),
            Token::One => expression.push('.'),
            Token::Many => expression.push_str(if longest { ".*" } else { ".*?" }),
        }
    }
    Regex::new(&expression).map_err(|_| "it is too large".to_owned())
}

/// `value` without the shortest or longest prefix that matches.
pub(super) fn without_prefix(value: &str, pattern: &str, longest: bool) -> Result<String, String> {
    let regex = compile(&tokens(pattern)?, r"\A", longest)?;
    let cut = regex.find(value).map_or(0, |found| found.end());
    Ok(value[cut..].to_owned())
}

/// `value` without the shortest or longest suffix that matches.
pub(super) fn without_suffix(value: &str, pattern: &str, longest: bool) -> Result<String, String> {
    // A search runs from the left and finds the longest suffix first; mirrored, the suffix is a prefix.
    let mut mirrored = tokens(pattern)?;
    mirrored.reverse();
    let regex = compile(&mirrored, r"\A", longest)?;
    let reversed: String = value.chars().rev().collect();
    let cut = regex.find(&reversed).map_or(0, |found| found.end());
    Ok(value[..value.len() - cut].to_owned())
}

/// `value` with the first or every longest match replaced; `replacement` is taken literally. `None` if the result
/// would be longer than `limit`.
pub(super) fn replace(
    value: &str,
    pattern: &str,
    replacement: &str,
    all: bool,
    limit: usize,
) -> Result<Option<String>, String> {
    let regex = compile(&tokens(pattern)?, "", true)?;
    let at_most = if all { usize::MAX } else { 1 };
    let matches = regex.find_iter(value).take(at_most).count();
    let longest = matches
        .saturating_mul(replacement.len())
        .saturating_add(value.len());
    if longest > limit {
        return Ok(None);
    }
    let replaced = regex.replacen(value, usize::from(!all), NoExpand(replacement));
    Ok(Some(replaced.into_owned()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn prefixes_and_suffixes() {
        for (value, pattern, [short, long], [short_end, long_end]) in [
            ("abcabc", "", ["abcabc"; 2], ["abcabc"; 2]),
            ("abcabc", "a*b", ["cabc", "c"], ["abcabc"; 2]),
            ("abcabc", "b*c", ["abcabc"; 2], ["abca", "a"]),
            ("abcabc", "*", ["abcabc", ""], ["abcabc", ""]),
            ("abcabc", "?", ["bcabc"; 2], ["abcab"; 2]),
            ("a*b*c", r"a\*", ["b*c"; 2], ["a*b*c"; 2]),
            ("a.b", "a.", ["b"; 2], ["a.b"; 2]),
            ("axb", "a.", ["axb"; 2], ["axb"; 2]),
            ("[ab]c", "[ab]", ["c"; 2], ["[ab]c"; 2]),
            ("äöü", "?", ["öü"; 2], ["äö"; 2]),
        ] {
            assert_eq!(without_prefix(value, pattern, false).unwrap(), short);
            assert_eq!(without_prefix(value, pattern, true).unwrap(), long);
            assert_eq!(without_suffix(value, pattern, false).unwrap(), short_end);
            assert_eq!(without_suffix(value, pattern, true).unwrap(), long_end);
        }
    }

    #[test]
    fn replacement_is_literal() {
        let replaced = |all, limit| replace("abab", "a", "$0", all, limit).unwrap();
        assert_eq!(replaced(false, 100).as_deref(), Some("$0bab"));
        assert_eq!(replaced(true, 100).as_deref(), Some("$0b$0b"));
        assert_eq!(replaced(true, 7), None);
    }

    #[test]
    fn wrong_escapes_are_refused() {
        assert!(without_prefix("v", r"\x", false).is_err());
        assert!(without_prefix("v", r"x\", false).is_err());
    }
}
