//! Why a word can not be expanded.

use super::expander::{MAX_DEPTH, MAX_GROWTH};
use ExpandErrorKind as Kind;

/// Why a word could not be expanded.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{kind}")]
pub struct ExpandError {
    /// Byte offset into the word at which the offending part begins.
    pub offset: usize,
    /// What is wrong there.
    pub kind: ExpandErrorKind,
}

impl ExpandError {
    /// A remedy, where there is one.
    pub(crate) fn help(&self) -> Option<&'static str> {
        Some(match self.kind {
            Kind::UnsupportedModifier(_) => {
                "the modifiers are `:-` `-` `:+` `+` `:?` `?` `#` `##` `%` `%%` `/` and `//`; escape the dollar to \
                 leave it to a shell"
            }
            Kind::BadSubstitution => "escape the dollar if no variable is meant",
            Kind::InvalidPattern { .. } => {
                "in a pattern only `*`, `?`, `\\`, `/` and `}` can be escaped"
            }
            Kind::UnterminatedQuote(_) => "close the quote, or escape it if it is meant literally",
            Kind::MissingBrace
            | Kind::MissingSlash
            | Kind::Required { .. }
            | Kind::TooDeep
            | Kind::TooLong => {
                return None;
            }
        })
    }
}

/// The kinds of [`ExpandError`].
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ExpandErrorKind {
    /// `${v` without its end.
    #[error("missing `}}` after `${{`")]
    MissingBrace,
    /// `${v/p}` without the second slash.
    #[error("missing `/` between pattern and replacement in `${{…/…/…}}`")]
    MissingSlash,
    /// `${}`, `${:…}` or `${{…`.
    #[error("bad substitution: `${{` must be followed by a name")]
    BadSubstitution,
    /// A modifier that does not exist, such as `${v^}`.
    #[error("unsupported modifier `{0}` in substitution")]
    UnsupportedModifier(String),
    /// A pattern with an escape other than `\*`, `\?`, `\\`, `\/` and `\}`.
    #[error("invalid pattern `{pattern}` in substitution: {reason}")]
    InvalidPattern {
        /// The pattern after expansion.
        pattern: String,
        /// What is wrong with it.
        reason: String,
    },
    /// `${v?message}` of an unset variable, or `${v:?message}` of an empty one.
    #[error("{name}: {message}")]
    Required {
        /// The variable.
        name: String,
        /// The text that the author of the file wrote, or a default one.
        message: String,
    },
    /// A quote that is not closed.
    #[error("unexpected end of the word: no closing {}", quote_name(*.0))]
    UnterminatedQuote(char),
    /// A result that is unreasonably long.
    #[error("the result is more than {MAX_GROWTH} bytes longer than the word")]
    TooLong,
    /// Substitutions nested too deeply.
    #[error("substitutions are nested more than {MAX_DEPTH} deep")]
    TooDeep,
}

fn quote_name(quote: char) -> &'static str {
    if quote == '"' {
        "double quote"
    } else {
        "single quote"
    }
}
