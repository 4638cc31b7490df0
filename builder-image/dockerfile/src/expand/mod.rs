//! Variable expansion and word splitting of instruction arguments.
//!
//! The rules are those of the reference frontend, which resemble a POSIX shell and differ from it in places:
//!
//! | Written | Means |
//! |---|---|
//! | `$v` `${v}` | the value, or nothing |
//! | `${v:-w}` `${v-w}` | `w` if `v` is unset (with `:` also if empty) |
//! | `${v:+w}` `${v+w}` | `w` if `v` is set (with `:` and not empty), else nothing |
//! | `${v:?w}` `${v?w}` | the value, or an error with the text `w` |
//! | `${v#p}` `${v##p}` | the value without the shortest, longest prefix that matches `p` |
//! | `${v%p}` `${v%%p}` | the same with a suffix |
//! | `${v/p/r}` `${v//p/r}` | the first match, every match of `p` replaced by `r` |
//!
//! Patterns know `*` and `?` and no brackets (see `pattern.rs`). The word after a modifier is itself expanded, always,
//! also where its result is then not used. `'…'` is literal. Inside `"…"` the escape character escapes only `"`, `$` and
//! itself; outside it escapes anything. There is no command substitution and no arithmetic.
//!
//! This module knows nothing of instructions: which of them are expanded is said in [`crate::instruction`].

mod error;
mod expander;
mod pattern;
mod scope;
#[cfg(test)]
mod table;

use std::collections::BTreeSet;

pub use error::{ExpandError, ExpandErrorKind};
pub(crate) use expander::{Expander, Options};
pub use scope::Scope;

/// What came of an expansion.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Expansion {
    /// The whole text, with the blanks between words as they stand.
    pub text: String,
    /// The text split at unquoted blanks, also those that came out of variables; no empty words.
    pub words: Vec<String>,
    /// Names that the scope knows.
    pub used: BTreeSet<String>,
    /// Names that the scope does not know.
    pub unset: BTreeSet<String>,
}

/// Expands one word: quotes are removed and variables replaced, and the result is never split.
///
/// `escape` is [`crate::Dockerfile::escape`].
pub fn expand<S: Scope + ?Sized>(
    word: &str,
    escape: char,
    scope: &S,
) -> Result<String, ExpandError> {
    expand_traced(word, escape, scope).map(|expansion| expansion.text)
}

/// Expands a word and splits the result at unquoted blanks, as EXPOSE does.
pub fn expand_words<S: Scope + ?Sized>(
    word: &str,
    escape: char,
    scope: &S,
) -> Result<Vec<String>, ExpandError> {
    expand_traced(word, escape, scope).map(|expansion| expansion.words)
}

/// Expands a word and also tells which variables it asked for.
pub fn expand_traced<S: Scope + ?Sized>(
    word: &str,
    escape: char,
    scope: &S,
) -> Result<Expansion, ExpandError> {
    Expander::new(word, escape, scope, Options::default()).run()
}

/// Expands the body of a COPY or ADD heredoc whose delimiter is not quoted: quotes are kept as they are, and the escape
/// character is `\` whatever the directive says.
pub fn expand_heredoc<S: Scope + ?Sized>(body: &str, scope: &S) -> Result<String, ExpandError> {
    let options = Options {
        ignore_quotes: true,
        ..Options::default()
    };
    Expander::new(body, '\\', scope, options)
        .run()
        .map(|expansion| expansion.text)
}

/// Checks the syntax of a word without knowing any variable: `${v:?…}` never fails here.
pub(crate) fn check(word: &str, escape: char) -> Result<(), ExpandError> {
    let options = Options {
        keep_unset: true,
        ..Options::default()
    };
    Expander::new(word, escape, &(), options).run().map(drop)
}
