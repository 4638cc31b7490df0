//! From the text to logical lines: continuations joined, comments and blank lines inside them dropped.
//!
//! Every logical line remembers where its pieces came from, so that a range of it can be turned into a [`Span`] of the
//! source. What a line means is not decided here; heredoc bodies are read with [`Lines::next_physical`].

use std::ops::Range;

use crate::diagnostic::Diagnostic;
use crate::lint::Rule;
use crate::span::Span;

/// The longest physical line, in bytes and without its newline, that the reference frontend reads.
const MAX_LINE: usize = 65_535;

/// One line of the text.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Physical<'t> {
    /// Offset of the first byte.
    pub(crate) start: usize,
    /// The line without its newline and without carriage returns before it.
    pub(crate) text: &'t str,
    /// The line with its newline, if it has one.
    pub(crate) full: &'t str,
}

impl Physical<'_> {
    pub(crate) fn span(&self) -> Span {
        Span::new(self.start, self.start + self.text.len())
    }
}

/// An instruction with its continuations, as one text.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Line {
    pub(crate) text: String,
    /// Where each physical piece begins: in `text` and in the source.
    pieces: Vec<(usize, usize)>,
}

impl Line {
    /// The place in the source of a range of `text`. Line breaks and comments between pieces are covered with it.
    pub(crate) fn span(&self, range: Range<usize>) -> Span {
        let start = self.to_source(range.start, range.start);
        if range.is_empty() {
            return Span::new(start, start);
        }
        // An end belongs to the piece of the character before it, not to the piece that may begin there.
        Span::new(start, self.to_source(range.end - 1, range.end))
    }

    /// Maps `offset` by the piece that holds byte `holder`.
    fn to_source(&self, holder: usize, offset: usize) -> usize {
        let next = self.pieces.partition_point(|(at, _)| *at <= holder);
        let (at, source) = self.pieces[next.saturating_sub(1)];
        source + offset - at
    }
}

/// Reads a text line by line.
#[derive(Debug)]
pub(crate) struct Lines<'t> {
    text: &'t str,
    at: usize,
    /// The character that continues a line, from the `escape` directive.
    pub(crate) escape: char,
}

impl<'t> Lines<'t> {
    /// Begins at byte `at` of `text`.
    pub(crate) fn new(text: &'t str, at: usize, escape: char) -> Self {
        Self { text, at, escape }
    }

    /// Offset of the next line.
    pub(crate) fn offset(&self) -> usize {
        self.at
    }

    /// The next line as it stands; `None` at the end of the text.
    pub(crate) fn next_physical(
        &mut self,
        diagnostics: &mut Vec<Diagnostic>,
    ) -> Option<Physical<'t>> {
        let rest = &self.text[self.at..];
        if rest.is_empty() {
            return None;
        }
        let full = rest.find('\n').map_or(rest, |newline| &rest[..=newline]);
        let start = self.at;
        self.at += full.len();
        let length = full.strip_suffix('\n').unwrap_or(full).len();
        let line = Physical {
            start,
            text: full.trim_end_matches(['\r', '\n']),
            full,
        };
        if length > MAX_LINE {
            // The caret marks the beginning only: drawing the whole line would help nobody.
            let head = line.text.chars().next().map_or(0, char::len_utf8);
            diagnostics.push(
                Diagnostic::error(
                    "line-too-long",
                    Span::new(start, start + head),
                    format!("line has {length} bytes, more than the allowed {MAX_LINE}"),
                )
                .help(
                    "split the line with continuations, or move the data into a file and COPY it",
                ),
            );
        }
        Some(line)
    }

    /// The next instruction with its continuations; `None` at the end of the text. Comments and blank lines before and
    /// inside it are skipped.
    pub(crate) fn next_logical(&mut self, diagnostics: &mut Vec<Diagnostic>) -> Option<Line> {
        let first = loop {
            let line = self.next_physical(diagnostics)?;
            let trimmed = line.text.trim_start();
            if !trimmed.is_empty() && !trimmed.starts_with('#') {
                break Physical {
                    start: line.start + line.text.len() - trimmed.len(),
                    text: trimmed,
                    ..line
                };
            }
        };
        let mut line = Line {
            text: String::new(),
            pieces: Vec::new(),
        };
        let mut continued = self.append(&mut line, &first);
        let mut blank = None;
        while continued {
            let Some(next) = self.next_physical(diagnostics) else {
                break;
            };
            let trimmed = next.text.trim_start();
            if trimmed.is_empty() {
                blank.get_or_insert(next.span());
            } else if !trimmed.starts_with('#') {
                continued = self.append(&mut line, &next);
            }
        }
        if let Some(span) = blank {
            diagnostics.push(
                Rule::NoEmptyContinuation.at(span, "empty continuation line")
                .label("the instruction goes on behind this line")
                .help("remove the blank line, or the continuation before it if the instruction ends there"),
            );
        }
        Some(line)
    }

    /// Adds a physical line and tells whether another one follows.
    fn append(&self, line: &mut Line, physical: &Physical<'_>) -> bool {
        let (text, continued) = match self.without_continuation(physical.text) {
            Some(text) => (text, true),
            None => (physical.text, false),
        };
        line.pieces.push((line.text.len(), physical.start));
        line.text.push_str(text);
        continued
    }

    /// The line without its continuation character, if it has one: the escape character, not itself escaped, with
    /// nothing but blanks behind it.
    fn without_continuation<'l>(&self, text: &'l str) -> Option<&'l str> {
        let before = text
            .trim_end_matches([' ', '\t'])
            .strip_suffix(self.escape)?;
        (!before.ends_with(self.escape)).then_some(before)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn logical(text: &str) -> Vec<String> {
        let mut lines = Lines::new(text, 0, '\\');
        let mut diagnostics = Vec::new();
        std::iter::from_fn(|| lines.next_logical(&mut diagnostics).map(|line| line.text)).collect()
    }

    #[test]
    fn lines_are_joined() {
        for (text, expected) in [
            ("", &[][..]),
            ("\n  \n# c\n", &[]),
            ("A b", &["A b"]),
            ("A b\r\nC\r\n", &["A b", "C"]),
            ("  A b  \n", &["A b  "]),
            ("A \\\n  b\nC", &["A   b", "C"]),
            ("A \\  \t\n b", &["A  b"]),
            ("A \\\r\n b\r\n", &["A  b"]),
            ("A \\\n# c\n\n   # d\n b\n", &["A  b"]),
            ("A \\\\\nB", &["A \\\\", "B"]),
            ("A \\\\\\\nB", &["A \\\\\\", "B"]),
            ("\\\nA", &["A"]),
            ("A \\", &["A "]),
            ("A `\nB", &["A `", "B"]),
            ("A # not a comment\n", &["A # not a comment"]),
            ("# c \\\nA", &["A"]),
        ] {
            assert_eq!(logical(text), expected, "{text:?}");
        }
    }

    #[test]
    fn ranges_map_back_to_the_source() {
        let text = "  AB \\\n# c\n  CD\n";
        let mut lines = Lines::new(text, 0, '\\');
        let mut diagnostics = Vec::new();
        let line = lines.next_logical(&mut diagnostics).expect("one line");
        assert_eq!(line.text, "AB   CD");
        let source = |range| {
            let span = line.span(range);
            &text[span.start..span.end]
        };
        assert_eq!(source(0..2), "AB");
        assert_eq!(source(5..7), "CD");
        assert_eq!(source(0..3), "AB ");
        assert_eq!(source(1..6), "B \\\n# c\n  C");
        assert_eq!(source(7..7), "");
    }

    #[test]
    fn the_longest_line_is_the_one_of_the_reference() {
        for (length, ending, refused) in [
            (MAX_LINE, "", false),
            (MAX_LINE, "\n", false),
            (MAX_LINE, "\r\n", true),
            (MAX_LINE + 1, "", true),
            (MAX_LINE + 1, "\n", true),
        ] {
            let text = "A".repeat(length) + ending;
            let mut diagnostics = Vec::new();
            Lines::new(&text, 0, '\\').next_physical(&mut diagnostics);
            assert_eq!(
                diagnostics.len(),
                usize::from(refused),
                "{length} {ending:?}"
            );
        }
    }
}
