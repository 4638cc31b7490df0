//! Where something stands in the source text. Byte offsets only; turning them into lines and columns is
//! [`LineIndex`]'s work, and drawing them is the business of [`crate::diagnostic`].

use serde::Serialize;

/// A half-open range of bytes of the source text. Both ends lie on character boundaries.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Default, Serialize)]
pub struct Span {
    /// Offset of the first byte.
    pub start: usize,
    /// Offset behind the last byte.
    pub end: usize,
}

impl Span {
    /// The span from `start` up to, not including, `end`.
    pub fn new(start: usize, end: usize) -> Self {
        Self { start, end }
    }

    /// The smallest span that covers both.
    #[must_use]
    pub fn to(self, other: Self) -> Self {
        Self::new(self.start.min(other.start), self.end.max(other.end))
    }

    /// Length in bytes.
    pub fn len(self) -> usize {
        self.end.saturating_sub(self.start)
    }

    /// Whether the span covers no byte.
    pub fn is_empty(self) -> bool {
        self.len() == 0
    }

    /// Whether the two share a byte.
    pub fn overlaps(self, other: Self) -> bool {
        self.start < other.end && other.start < self.end
    }
}

/// A value and the place that it was read from.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Spanned<T> {
    /// What was read.
    pub value: T,
    /// Where it stands. In a continued line the span also covers the line breaks inside.
    pub span: Span,
}

impl<T> Spanned<T> {
    /// Pairs a value with its place.
    pub fn new(value: T, span: Span) -> Self {
        Self { value, span }
    }
}

impl Spanned<String> {
    /// The text as written: quotes and variables are still in it.
    pub fn as_str(&self) -> &str {
        &self.value
    }
}

/// A piece of an instruction as written, before expansion: quotes, escapes and variables are still in it.
pub type Word = Spanned<String>;

/// Offsets of the line starts of a text, for turning an offset into a line number.
#[derive(Debug, Clone)]
pub struct LineIndex {
    starts: Vec<usize>,
}

impl LineIndex {
    /// Finds the line starts of `text`.
    pub fn new(text: &str) -> Self {
        let starts = std::iter::once(0)
            .chain(text.match_indices('\n').map(|(at, _)| at + 1))
            .collect();
        Self { starts }
    }

    /// The 1-based number of the line that holds byte `offset`.
    pub fn line(&self, offset: usize) -> usize {
        self.starts.partition_point(|start| *start <= offset)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_are_counted_from_one_and_end_with_their_newline() {
        let index = LineIndex::new("ab\n\ncd");
        let lines: Vec<_> = (0..=6).map(|offset| index.line(offset)).collect();
        assert_eq!(lines, [1, 1, 1, 2, 3, 3, 3]);
    }

    #[test]
    fn spans_join_and_overlap() {
        let (left, right) = (Span::new(2, 5), Span::new(4, 9));
        assert_eq!(left.to(right), Span::new(2, 9));
        assert!(left.overlaps(right));
        assert!(!left.overlaps(Span::new(5, 6)));
        assert!(Span::new(3, 3).is_empty());
    }
}
