//! The state machine of expansion: one pass over a word, calling itself for the words inside `${…}`.

use std::collections::BTreeSet;

use super::error::{ExpandError, ExpandErrorKind as Kind};
use super::{Expansion, Scope, pattern};

/// Nested `${…}` deeper than this are refused, so that a hostile text cannot exhaust the stack.
pub(super) const MAX_DEPTH: usize = 100;

/// By how many bytes a result may be longer than its word. Variables that hold each other several times grow
/// exponentially from line to line; the kernel takes no variable above 128 KiB anyway.
pub(super) const MAX_GROWTH: usize = 1 << 20;

/// Deviations from plain expansion.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct Options {
    /// Quotes stay in the result.
    pub(crate) keep_quotes: bool,
    /// Quotes are ordinary characters.
    pub(crate) ignore_quotes: bool,
    /// An unset variable stays as it is written instead of becoming nothing.
    pub(crate) keep_unset: bool,
}

/// A text with its words, as it grows. Characters of quoted or escaped text never end a word.
#[derive(Debug, Default)]
struct Output {
    text: String,
    words: Vec<String>,
    word: String,
}

impl Output {
    fn push_splitting(&mut self, text: &str) {
        self.text.push_str(text);
        for c in text.chars() {
            if c.is_whitespace() {
                self.end_word();
            } else {
                self.word.push(c);
            }
        }
    }

    fn push_whole(&mut self, text: &str) {
        self.text.push_str(text);
        self.word.push_str(text);
    }

    fn end_word(&mut self) {
        if !self.word.is_empty() {
            self.words.push(std::mem::take(&mut self.word));
        }
    }
}

pub(crate) struct Expander<'a, S: ?Sized> {
    word: &'a str,
    at: usize,
    depth: usize,
    escape: char,
    scope: &'a S,
    options: Options,
    used: BTreeSet<String>,
    unset: BTreeSet<String>,
}

impl<'a, S: Scope + ?Sized> Expander<'a, S> {
    pub(crate) fn new(word: &'a str, escape: char, scope: &'a S, options: Options) -> Self {
        Self {
            word,
            at: 0,
            depth: 0,
            escape,
            scope,
            options,
            used: BTreeSet::new(),
            unset: BTreeSet::new(),
        }
    }

    pub(crate) fn run(mut self) -> Result<Expansion, ExpandError> {
        let mut output = self.text_until(None, false)?;
        output.end_word();
        Ok(Expansion {
            text: output.text,
            words: output.words,
            used: self.used,
            unset: self.unset,
        })
    }

    /// The longest result that is accepted.
    fn limit(&self) -> usize {
        self.word.len() + MAX_GROWTH
    }

    fn peek(&self) -> Option<char> {
        self.word[self.at..].chars().next()
    }

    fn next(&mut self) -> Option<char> {
        let c = self.peek()?;
        self.at += c.len_utf8();
        Some(c)
    }

    fn lookup(&mut self, name: &str) -> Option<&'a str> {
        let value = self.scope.get(name);
        let seen = if value.is_some() {
            &mut self.used
        } else {
            &mut self.unset
        };
        if !seen.contains(name) {
            seen.insert(name.to_owned());
        }
        value
    }

    /// Reads up to a stop character, which is consumed, or without one to the end of the word. Beside the stop character
    /// stands the offset of the `${` that is at fault if it never comes. With `raw_escapes` the escape characters stay,
    /// because the text is a pattern that gives them a meaning of its own.
    fn text_until(
        &mut self,
        stop: Option<(char, usize)>,
        raw_escapes: bool,
    ) -> Result<Output, ExpandError> {
        let mut output = Output::default();
        let mut buffer = [0; 4];
        while let Some(c) = self.peek() {
            if output.text.len() > self.limit() {
                return Err(failure(0, Kind::TooLong));
            }
            if stop.is_some_and(|(stop, _)| c == stop) {
                self.at += c.len_utf8();
                return Ok(output);
            }
            match c {
                '\'' if !self.options.ignore_quotes => {
                    let quoted = self.single_quoted()?;
                    output.push_whole(&quoted);
                }
                '"' if !self.options.ignore_quotes => {
                    let quoted = self.double_quoted(raw_escapes)?;
                    output.push_whole(&quoted);
                }
                '$' => {
                    let value = self.dollar()?;
                    output.push_splitting(&value);
                }
                c if c == self.escape => {
                    self.at += c.len_utf8();
                    if raw_escapes {
                        output.push_whole(c.encode_utf8(&mut buffer));
                    }
                    // An escape character at the very end is dropped.
                    if let Some(escaped) = self.next() {
                        output.push_whole(escaped.encode_utf8(&mut buffer));
                    }
                }
                c => {
                    self.at += c.len_utf8();
                    output.push_splitting(c.encode_utf8(&mut buffer));
                }
            }
        }
        if output.text.len() > self.limit() {
            return Err(failure(0, Kind::TooLong));
        }
        match stop {
            None => Ok(output),
            Some(('/', open)) => Err(failure(open, Kind::MissingSlash)),
            Some((_, open)) => Err(failure(open, Kind::MissingBrace)),
        }
    }

    fn single_quoted(&mut self) -> Result<String, ExpandError> {
        let open = self.at;
        let inner = &self.word[open + 1..];
        let Some(length) = inner.find('\'') else {
            return Err(failure(open, Kind::UnterminatedQuote('\'')));
        };
        self.at = open + length + 2;
        Ok(if self.options.keep_quotes {
            format!("'{}'", &inner[..length])
        } else {
            inner[..length].to_owned()
        })
    }

    fn double_quoted(&mut self, raw_escapes: bool) -> Result<String, ExpandError> {
        let open = self.at;
        self.at += 1;
        let mut text = String::new();
        if self.options.keep_quotes {
            text.push('"');
        }
        while let Some(c) = self.peek() {
            if text.len() > self.limit() {
                return Err(failure(0, Kind::TooLong));
            }
            match c {
                '"' => {
                    self.at += 1;
                    if self.options.keep_quotes {
                        text.push('"');
                    }
                    return Ok(text);
                }
                '$' => text.push_str(&self.dollar()?),
                c if c == self.escape => {
                    self.at += c.len_utf8();
                    if raw_escapes {
                        text.push(c);
                    }
                    match self.peek() {
                        Some(escaped) if escaped == '"' || escaped == '$' || escaped == c => {
                            self.at += escaped.len_utf8();
                            text.push(escaped);
                        }
                        Some(_) => text.push(c),
                        None => {}
                    }
                }
                c => {
                    self.at += c.len_utf8();
                    text.push(c);
                }
            }
        }
        Err(failure(open, Kind::UnterminatedQuote('"')))
    }

    fn dollar(&mut self) -> Result<String, ExpandError> {
        let start = self.at;
        self.at += 1;
        if self.peek() == Some('{') {
            self.at += 1;
            self.depth += 1;
            if self.depth > MAX_DEPTH {
                return Err(failure(start, Kind::TooDeep));
            }
            let value = self.braced(start);
            self.depth -= 1;
            return value;
        }
        let name = self.name();
        if name.is_empty() {
            return Ok("$".to_owned());
        }
        Ok(match self.lookup(name) {
            Some(value) => value.to_owned(),
            None if self.options.keep_unset => self.word[start..self.at].to_owned(),
            None => String::new(),
        })
    }

    /// Reads a name: digits, or one special character, or letters, digits and underscores. May be empty.
    fn name(&mut self) -> &'a str {
        let rest = &self.word[self.at..];
        let Some(first) = rest.chars().next() else {
            return "";
        };
        let length = if first.is_ascii_digit() {
            rest.find(|c: char| !c.is_ascii_digit())
                .unwrap_or(rest.len())
        } else if is_special(first) {
            first.len_utf8()
        } else {
            rest.find(|c: char| !c.is_alphanumeric() && c != '_')
                .unwrap_or(rest.len())
        };
        self.at += length;
        &rest[..length]
    }

    /// Reads what follows `${`; `start` is the offset of the dollar.
    fn braced(&mut self, start: usize) -> Result<String, ExpandError> {
        match self.peek() {
            None => return Err(failure(start, Kind::MissingBrace)),
            Some('{' | '}' | ':') => {
                return Err(failure(start, Kind::BadSubstitution));
            }
            Some(_) => {}
        }
        let name = self.name();
        let modifier_at = self.at;
        let Some(mut modifier) = self.next() else {
            return Err(failure(start, Kind::MissingBrace));
        };
        let colon = modifier == ':';
        if colon {
            modifier = self
                .next()
                .ok_or_else(|| failure(start, Kind::MissingBrace))?;
        }
        let written = &self.word[modifier_at..self.at];
        let unsupported = || Kind::UnsupportedModifier(written.to_owned());
        match modifier {
            '}' if !colon => {
                return Ok(match self.lookup(name) {
                    Some(value) => value.to_owned(),
                    None if self.options.keep_unset => self.word[start..self.at].to_owned(),
                    None => String::new(),
                });
            }
            '/' if !colon => return self.replaced(start, name),
            '-' | '+' | '?' => {}
            '#' | '%' if !colon => {}
            _ => return Err(failure(modifier_at, unsupported())),
        }

        let pattern_offset = self.at;
        let argument = self
            .text_until(Some(('}', start)), matches!(modifier, '#' | '%'))?
            .text;
        let value = self.lookup(name);
        if value.is_none() && self.options.keep_unset {
            return Ok(self.word[start..self.at].to_owned());
        }
        let usable = value.filter(|value| !(colon && value.is_empty()));
        match modifier {
            '-' => Ok(usable.map_or(argument, str::to_owned)),
            '+' => Ok(usable.map_or_else(String::new, |_| argument)),
            '?' => usable.map(str::to_owned).ok_or_else(|| {
                let message = match (argument.is_empty(), value) {
                    (false, _) => argument,
                    (true, None) => "is not allowed to be unset".to_owned(),
                    (true, Some(_)) => "is not allowed to be empty".to_owned(),
                };
                let name = name.to_owned();
                failure(start, Kind::Required { name, message })
            }),
            _ => {
                let doubled = argument.starts_with(modifier);
                let pattern = &argument[usize::from(doubled)..];
                let value = value.unwrap_or_default();
                let cut = if modifier == '#' {
                    pattern::without_prefix(value, pattern, doubled)
                } else {
                    pattern::without_suffix(value, pattern, doubled)
                };
                cut.map_err(|reason| invalid_pattern(pattern_offset, pattern, reason))
            }
        }
    }

    /// Reads what follows `${v/`.
    fn replaced(&mut self, start: usize, name: &str) -> Result<String, ExpandError> {
        let all = self.peek() == Some('/');
        if all {
            self.at += 1;
        }
        let pattern_offset = self.at;
        let pattern = self.text_until(Some(('/', start)), true)?.text;
        let replacement = self.text_until(Some(('}', start)), true)?.text;
        let value = self.lookup(name);
        if value.is_none() && self.options.keep_unset {
            return Ok(self.word[start..self.at].to_owned());
        }
        let limit = self.limit();
        pattern::replace(
            value.unwrap_or_default(),
            &pattern,
            &replacement,
            all,
            limit,
        )
        .map_err(|reason| invalid_pattern(pattern_offset, &pattern, reason))?
        .ok_or_else(|| failure(start, Kind::TooLong))
    }
}

fn invalid_pattern(offset: usize, pattern: &str, reason: String) -> ExpandError {
    let pattern = pattern.to_owned();
    failure(offset, Kind::InvalidPattern { pattern, reason })
}

fn failure(offset: usize, kind: Kind) -> ExpandError {
    ExpandError { offset, kind }
}

/// The special parameters of a POSIX shell (XCU 2.5.2); a Dockerfile scope never holds them, so they expand to nothing.
fn is_special(c: char) -> bool {
    matches!(c, '@' | '*' | '#' | '?' | '-' | '$' | '!' | '0')
}
