//! Patterns of file names: Go's `filepath.Match`, and the patterns of `.dockerignore` with `**`. Text only; nothing here
//! looks at a file.

use std::ffi::OsStr;

/// A pattern that breaks the grammar: an unclosed or empty `[]`, or a `\` with nothing after it.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("syntax error in pattern {0:?}")]
pub struct PatternError(pub String);

/// Whether the whole of `name` matches `pattern`, by the rules of Go's `filepath.Match`
/// (<https://pkg.go.dev/path/filepath#Match>): `*` and `?` match anything but `/`, `[a-z]` and `[^a-z]` one character,
/// `\` takes the next character literally.
///
/// # Errors
/// When the pattern is malformed. As in Go, a name may fail to match before the malformed part is seen; the whole
/// pattern is checked all the same.
pub fn match_path(pattern: &str, name: &str) -> Result<bool, PatternError> {
    Pattern::parse(pattern).map(|parsed| parsed.matches(name))
}

/// Whether a component of a path is a pattern; a wildcard behind a backslash is none.
pub fn has_wildcard(component: &OsStr) -> bool {
    let text = component.to_string_lossy();
    let mut escaped = false;
    text.chars().any(|character| {
        let wildcard = !escaped && matches!(character, '*' | '?' | '[');
        escaped = !escaped && character == '\\';
        wildcard
    })
}

/// One element of a pattern.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Element {
    Literal(char),
    /// `?`
    Any,
    /// `*`
    Star,
    /// `**` before other elements, only in patterns of `.dockerignore`: any number of directories, each with its slash.
    Directories,
    /// `**` that takes anything, only in patterns of `.dockerignore`.
    Anything,
    Class {
        negated: bool,
        slash: bool,
        ranges: Vec<(char, char)>,
    },
}

/// A parsed pattern.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Pattern {
    elements: Vec<Element>,
    /// The one name that it matches, where it has no wildcard.
    literal: Option<String>,
}

impl Pattern {
    /// Reads a pattern of `filepath.Match`.
    ///
    /// # Errors
    /// When it is malformed.
    pub fn parse(pattern: &str) -> Result<Self, PatternError> {
        Self::read(pattern, false)
    }

    /// Reads a pattern of `.dockerignore`, with what <https://pkg.go.dev/github.com/moby/patternmatcher> makes of `**`: before
    /// other elements it stands for any number of directories; at the end, and at the start of a name without further
    /// wildcards, for anything. A class may match `/`.
    ///
    /// # Errors
    /// When it is malformed.
    pub fn parse_ignore(pattern: &str) -> Result<Self, PatternError> {
        Self::read(pattern, true)
    }

    /// The one name that it matches; `None` where it has a wildcard.
    pub fn literal(&self) -> Option<&str> {
        self.literal.as_deref()
    }

    fn read(pattern: &str, double_stars: bool) -> Result<Self, PatternError> {
        let malformed = || PatternError(pattern.to_owned());
        let mut elements = Vec::new();
        let mut rest = pattern.chars().peekable();
        while let Some(character) = rest.next() {
            elements.push(match character {
                '*' if double_stars && rest.next_if_eq(&'*').is_some() => {
                    let slash = rest.next_if_eq(&'/').is_some();
                    let plain = !rest.clone().any(|character| "*?[]\\".contains(character));
                    if rest.peek().is_none() || (elements.is_empty() && !slash && plain) {
                        Element::Anything
                    } else {
                        Element::Directories
                    }
                }
                '*' => Element::Star,
                '?' => Element::Any,
                '\\' => Element::Literal(rest.next().ok_or_else(malformed)?),
                '[' => read_class(&mut rest, double_stars).ok_or_else(malformed)?,
                literal => Element::Literal(literal),
            });
        }
        let literal = |element: &Element| match element {
            Element::Literal(character) => Some(*character),
            _ => None,
        };
        Ok(Self {
            literal: elements.iter().map(literal).collect(),
            elements,
        })
    }

    /// Whether the whole of `name` matches.
    pub fn matches(&self, name: &str) -> bool {
        if let Some(literal) = &self.literal {
            return literal == name;
        }
        let name: Vec<char> = name.chars().collect();
        // The places of `name` that the elements so far can have reached.
        let mut reached = vec![false; name.len() + 1];
        let mut next = reached.clone();
        reached[0] = true;
        for element in &self.elements {
            if !element.advance(&name, &reached, &mut next) {
                return false;
            }
            std::mem::swap(&mut reached, &mut next);
        }
        reached[name.len()]
    }
}

impl Element {
    /// Marks in `next` the places that can be reached over this element from those marked in `reached`; false when none is.
    fn advance(&self, name: &[char], reached: &[bool], next: &mut [bool]) -> bool {
        let (mut open, mut any) = (false, false);
        for at in 0..reached.len() {
            let before = at.checked_sub(1).map(|before| name[before]);
            next[at] = match self {
                Self::Star => {
                    open = reached[at] || (open && before != Some('/'));
                    open
                }
                Self::Anything => {
                    open |= reached[at];
                    open
                }
                Self::Directories => {
                    let after_directory = open && before == Some('/');
                    open |= reached[at];
                    reached[at] || after_directory
                }
                single => {
                    before.is_some_and(|character| reached[at - 1] && single.takes(character))
                }
            };
            any |= next[at];
        }
        any
    }

    fn takes(&self, character: char) -> bool {
        match self {
            Self::Literal(literal) => *literal == character,
            Self::Any => character != '/',
            Self::Class {
                negated,
                slash,
                ranges,
            } => {
                (*slash || character != '/')
                    && ranges
                        .iter()
                        .any(|(low, high)| (*low..=*high).contains(&character))
                        != *negated
            }
            Self::Star | Self::Directories | Self::Anything => false,
        }
    }
}

/// Reads what follows `[`.
fn read_class(rest: &mut std::iter::Peekable<std::str::Chars<'_>>, slash: bool) -> Option<Element> {
    fn one(rest: &mut std::iter::Peekable<std::str::Chars<'_>>) -> Option<char> {
        match rest.next()? {
            '-' | ']' => None,
            '\\' => rest.next(),
            character => Some(character),
        }
    }
    let negated = rest.next_if_eq(&'^').is_some();
    let mut ranges = Vec::new();
    loop {
        if !ranges.is_empty() && rest.next_if_eq(&']').is_some() {
            return Some(Element::Class {
                negated,
                slash,
                ranges,
            });
        }
        let low = one(rest)?;
        let high = if rest.next_if_eq(&'-').is_some() {
            one(rest)?
        } else {
            low
        };
        ranges.push((low, high));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The table of Go's own tests (`path/filepath/match_test.go`), and some rows of ours. `None` is `ErrBadPattern`.
    #[test]
    fn go_filepath_match() {
        let rows: &[(&str, &str, Option<bool>)] = &[
            ("abc", "abc", Some(true)),
            ("*", "abc", Some(true)),
            ("*c", "abc", Some(true)),
            ("a*", "a", Some(true)),
            ("a*", "abc", Some(true)),
            ("a*", "ab/c", Some(false)),
            ("a*/b", "abc/b", Some(true)),
            ("a*/b", "a/c/b", Some(false)),
            ("a*b*c*d*e*/f", "axbxcxdxe/f", Some(true)),
            ("a*b*c*d*e*/f", "axbxcxdxexxx/f", Some(true)),
            ("a*b*c*d*e*/f", "axbxcxdxe/xxx/f", Some(false)),
            ("a*b*c*d*e*/f", "axbxcxdxexxx/fff", Some(false)),
            ("a*b?c*x", "abxbbxdbxebxczzx", Some(true)),
            ("a*b?c*x", "abxbbxdbxebxczzy", Some(false)),
            ("ab[c]", "abc", Some(true)),
            ("ab[b-d]", "abc", Some(true)),
            ("ab[e-g]", "abc", Some(false)),
            ("ab[^c]", "abc", Some(false)),
            ("ab[^b-d]", "abc", Some(false)),
            ("ab[^e-g]", "abc", Some(true)),
            ("a\\*b", "a*b", Some(true)),
            ("a\\*b", "ab", Some(false)),
            ("a?b", "a☺b", Some(true)),
            ("a[^a]b", "a☺b", Some(true)),
            ("a???b", "a☺b", Some(false)),
            ("a[^a][^a][^a]b", "a☺b", Some(false)),
            ("[a-ζ]*", "α", Some(true)),
            ("*[a-ζ]", "A", Some(false)),
            ("a?b", "a/b", Some(false)),
            ("a*b", "a/b", Some(false)),
            ("[\\]a]", "]", Some(true)),
            ("[\\-]", "-", Some(true)),
            ("[x\\-]", "x", Some(true)),
            ("[x\\-]", "-", Some(true)),
            ("[x\\-]", "z", Some(false)),
            ("[\\-x]", "x", Some(true)),
            ("[\\-x]", "-", Some(true)),
            ("[\\-x]", "a", Some(false)),
            ("[]a]", "]", None),
            ("[-]", "-", None),
            ("[x-]", "x", None),
            ("[x-]", "-", None),
            ("[x-]", "z", None),
            ("[-x]", "x", None),
            ("[-x]", "-", None),
            ("[-x]", "a", None),
            ("\\", "a", None),
            ("[a-b-c]", "a", None),
            ("[", "a", None),
            ("[^", "a", None),
            ("[^bc", "a", None),
            ("a[", "a", None),
            ("a[", "ab", None),
            ("a[", "x", None),
            ("a/b[", "x", None),
            ("*x", "xxx", Some(true)),
            ("", "", Some(true)),
            ("", "a", Some(false)),
            ("*", "", Some(true)),
            ("*", "/", Some(false)),
            ("**", "a/b", Some(false)),
            ("**", "ab", Some(true)),
            ("a/*/c", "a/b/c", Some(true)),
            ("a/*/c", "a//c", Some(true)),
            ("*.tar.?z", "x.tar.gz", Some(true)),
            ("[^a]", "/", Some(false)),
            ("[.-0]", "/", Some(false)),
            ("[b-a]", "a", Some(false)),
            ("a\\", "a", None),
            ("a\\/b", "a/b", Some(true)),
        ];
        for (pattern, name, expected) in rows {
            assert_eq!(
                match_path(pattern, name).ok(),
                *expected,
                "{pattern:?} {name:?}"
            );
        }
    }

    #[test]
    fn many_stars_do_not_take_forever() {
        let pattern = "a*".repeat(50) + "b";
        assert_eq!(match_path(&pattern, &"a".repeat(2000)), Ok(false));
    }

    #[test]
    fn a_literal_has_no_wildcard() {
        let rows = [
            ("a/b", Some("a/b")),
            ("a\\*", Some("a*")),
            ("a*", None),
            ("[a]", None),
            ("?", None),
            ("", Some("")),
        ];
        for (pattern, expected) in rows {
            assert_eq!(
                Pattern::parse(pattern).map(|parsed| parsed.literal),
                Ok(expected.map(str::to_owned)),
                "{pattern}"
            );
        }
    }
}
