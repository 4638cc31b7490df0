//! Heredocs: finding `<<EOF` in a line, and reading the bodies behind it.
//!
//! Whether an instruction may have heredocs at all is decided by the caller. The words of a line are cut as the
//! reference frontend cuts them: quotes, escapes and `${…}` hold a word together, blanks between `<<` and the delimiter
//! belong to it, and a line whose quotes or substitutions do not close has no heredocs. A word is a heredoc if it is,
//! as a whole, an optional file descriptor, `<<`, an optional `-`, and the delimiter: `<<EOF>file` has the delimiter
//! `EOF>file`, and `<<<text` is none.

use std::ops::Range;

use crate::diagnostic::Diagnostic;
use crate::expand::{Expander, Options};
use crate::line::{Line, Lines};
use crate::span::Span;

/// A document inside the Dockerfile.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Heredoc {
    /// The delimiter without its quotes; as a source of COPY it is also the name of the file.
    pub name: String,
    /// The file descriptor before `<<`, if one is written.
    pub descriptor: Option<u32>,
    /// `<<-`: leading tabs go away.
    pub strip_tabs: bool,
    /// Whether variables in the body are expanded: no part of the delimiter is quoted.
    pub expand: bool,
    /// The body as it stands, with its line endings. See [`Heredoc::text`].
    pub content: String,
    /// The word on the instruction's line.
    pub span: Span,
    /// The body, without the line of the delimiter.
    pub body: Span,
}

impl Heredoc {
    /// The body, without leading tabs if the heredoc asks for that. Variables are not expanded.
    pub fn text(&self) -> String {
        if !self.strip_tabs {
            return self.content.clone();
        }
        self.content
            .split_inclusive('\n')
            .map(|line| line.trim_start_matches('\t'))
            .collect()
    }
}

/// The beginning of a heredoc on an instruction's line.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Opening {
    pub(crate) range: Range<usize>,
    name: String,
    descriptor: Option<u32>,
    strip_tabs: bool,
    expand: bool,
}

/// Finds the heredocs of a line from `start` on, in order.
pub(crate) fn openings(text: &str, start: usize) -> Vec<Opening> {
    if !text[start..].contains("<<") {
        return Vec::new();
    }
    let words = Scanner { text, at: start }.words().unwrap_or_default();
    words
        .into_iter()
        .filter_map(|range| opening(text, range))
        .collect()
}

/// Whether a whole text is one heredoc word and nothing else.
pub(crate) fn is_only(text: &str) -> bool {
    opening(text, 0..text.len()).is_some()
}

fn opening(text: &str, range: Range<usize>) -> Option<Opening> {
    let word = &text[range.clone()];
    let digits = word.len() - word.trim_start_matches(|c: char| c.is_ascii_digit()).len();
    let rest = word[digits..].strip_prefix("<<")?;
    let (strip_tabs, rest) = match rest.strip_prefix('-') {
        Some(rest) => (true, rest),
        None => (false, rest),
    };
    let delimiter = rest.trim_start();
    if delimiter.is_empty() || delimiter.contains('<') {
        return None;
    }
    let lex = |keep_quotes| {
        let options = Options {
            keep_quotes,
            keep_unset: true,
            ..Options::default()
        };
        Expander::new(delimiter, '\\', &(), options).run().ok()
    };
    let mut words = lex(false)?.words;
    let name = words.pop()?;
    if !words.is_empty() {
        return None;
    }
    // Quotes that are still there when quotes are removed were escaped; any others make the delimiter a quoted one.
    let quotes = |text: &str| text.matches(['\'', '"']).count();
    let expand = quotes(&lex(true)?.text) == quotes(&name);
    Some(Opening {
        descriptor: word[..digits].parse().ok(),
        range,
        name,
        strip_tabs,
        expand,
    })
}

/// Reads the bodies of `openings`, in their order, from the lines that follow the instruction.
pub(crate) fn read_bodies(
    openings: Vec<Opening>,
    line: &Line,
    lines: &mut Lines<'_>,
    diagnostics: &mut Vec<Diagnostic>,
) -> Vec<Heredoc> {
    let mut heredocs = Vec::with_capacity(openings.len());
    for opening in openings {
        let span = line.span(opening.range.clone());
        let mut heredoc = Heredoc {
            name: opening.name,
            descriptor: opening.descriptor,
            strip_tabs: opening.strip_tabs,
            expand: opening.expand,
            content: String::new(),
            span,
            body: Span::new(lines.offset(), lines.offset()),
        };
        let mut closed = false;
        while let Some(next) = lines.next_physical(diagnostics) {
            let candidate = if heredoc.strip_tabs {
                next.text.trim_start_matches('\t')
            } else {
                next.text
            };
            if candidate == heredoc.name {
                closed = true;
                break;
            }
            heredoc.content.push_str(next.full);
            heredoc.body.end = next.start + next.full.len();
        }
        if !closed {
            diagnostics.push(unterminated(&heredoc));
        }
        heredocs.push(heredoc);
    }
    heredocs
}

fn unterminated(heredoc: &Heredoc) -> Diagnostic {
    let Heredoc { name, content, .. } = heredoc;
    let diagnostic = Diagnostic::error(
        "unterminated-heredoc",
        heredoc.span,
        format!("heredoc `{name}` is not terminated"),
    )
    .label("begins here");
    let indented = content.lines().any(|line| line.trim() == name);
    // `<<EOF>file` and `$((1 << 2))` are read as delimiters to their ends.
    let plain: String = name
        .chars()
        .take_while(|c| c.is_alphanumeric() || *c == '_')
        .collect();
    if indented {
        let remedy = if heredoc.strip_tabs {
            "only tabs may stand before the delimiter, and nothing behind it"
        } else {
            "the delimiter must stand alone on its line, without blanks; `<<-` allows leading tabs"
        };
        diagnostic.help(remedy)
    } else if plain.len() < name.len() {
        diagnostic
            .note(format!(
                "everything up to the next blank is the delimiter, here `{name}`"
            ))
            .help("put a blank behind the delimiter; if no heredoc is meant, quote the `<<`")
    } else {
        diagnostic.help(format!("add a line that holds only `{name}`"))
    }
}

/// Cuts a line into words without changing them.
struct Scanner<'a> {
    text: &'a str,
    at: usize,
}

/// The line has a quote or a substitution that does not close.
struct Unclosed;

impl Scanner<'_> {
    fn peek(&self) -> Option<char> {
        self.text[self.at..].chars().next()
    }

    fn next(&mut self) -> Option<char> {
        let c = self.peek()?;
        self.at += c.len_utf8();
        Some(c)
    }

    fn words(mut self) -> Result<Vec<Range<usize>>, Unclosed> {
        let mut words = Vec::new();
        let mut start = None;
        while let Some(c) = self.peek() {
            if c.is_whitespace() {
                words.extend(start.take().map(|start| start..self.at));
                self.next();
                continue;
            }
            start.get_or_insert(self.at);
            self.unit(0)?;
        }
        words.extend(start.map(|start| start..self.at));
        Ok(words)
    }

    /// Passes one character, or what belongs together with it.
    fn unit(&mut self, depth: usize) -> Result<(), Unclosed> {
        match self.next() {
            Some('\\') => {
                self.next();
            }
            Some('\'') => while self.next().ok_or(Unclosed)? != '\'' {},
            Some('"') => loop {
                match self.peek().ok_or(Unclosed)? {
                    '"' => {
                        self.next();
                        break;
                    }
                    '$' => {
                        self.next();
                        self.dollar(depth)?;
                    }
                    '\\' => {
                        self.next();
                        if matches!(self.peek(), Some('"' | '$' | '\\')) {
                            self.next();
                        }
                    }
                    _ => {
                        self.next();
                    }
                }
            },
            Some('$') => self.dollar(depth)?,
            Some('<') if self.peek() == Some('<') => {
                self.next();
                while self.peek().is_some_and(char::is_whitespace) {
                    self.next();
                }
            }
            _ => {}
        }
        Ok(())
    }

    /// Passes what follows a dollar. Blanks inside `${…}` do not separate words here.
    fn dollar(&mut self, depth: usize) -> Result<(), Unclosed> {
        const MAX_DEPTH: usize = 100;
        if self.peek() != Some('{') {
            return Ok(());
        }
        self.next();
        if depth > MAX_DEPTH || matches!(self.peek(), None | Some('{' | '}' | ':')) {
            return Err(Unclosed);
        }
        let rest = &self.text[self.at..];
        let name = rest
            .find(|c: char| !c.is_alphanumeric() && c != '_')
            .unwrap_or(rest.len());
        self.at += name;
        if name == 0 && matches!(self.peek(), Some('@' | '*' | '#' | '?' | '-' | '$' | '!')) {
            self.next();
        }
        match self.next().ok_or(Unclosed)? {
            '}' => Ok(()),
            ':' => {
                self.next();
                self.until('}', depth)
            }
            '+' | '-' | '?' | '#' | '%' => self.until('}', depth),
            '/' => {
                if self.peek() == Some('/') {
                    self.next();
                }
                self.until('/', depth)?;
                self.until('}', depth)
            }
            _ => Err(Unclosed),
        }
    }

    fn until(&mut self, stop: char, depth: usize) -> Result<(), Unclosed> {
        while self.peek().ok_or(Unclosed)? != stop {
            self.unit(depth + 1)?;
        }
        self.next();
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn openings_of_a_line() {
        for (text, expected) in [
            ("RUN <<EOF", &[("EOF", true)][..]),
            ("RUN <<-EOF", &[("EOF", true)]),
            ("RUN << EOF", &[("EOF", true)]),
            ("RUN <<- EOF", &[]),
            ("RUN 3<<EOF cat /dev/fd/3", &[("EOF", true)]),
            ("RUN cat <<A <<B", &[("A", true), ("B", true)]),
            (
                "RUN cat <<A > /x && cat <<'B'",
                &[("A", true), ("B", false)],
            ),
            ("RUN <<'EOF'", &[("EOF", false)]),
            ("RUN <<\"EOF\"", &[("EOF", false)]),
            ("RUN <<E\"O\"F", &[("EOF", false)]),
            ("RUN <<\\EOF", &[("EOF", true)]),
            ("RUN <<eo\\'f", &[("eo'f", true)]),
            ("RUN <<'e'o\\'f", &[("eo'f", false)]),
            ("RUN <<'one two'", &[("one two", false)]),
            ("RUN <<$EOF", &[("$EOF", true)]),
            ("RUN <<${EOF}", &[("${EOF}", true)]),
            ("RUN <<EOF>file", &[("EOF>file", true)]),
            ("RUN (cat <<EOF)", &[("EOF)", true)]),
            ("RUN a<<EOF", &[]),
            ("RUN <<<EOF", &[]),
            ("RUN cat <<", &[]),
            ("RUN echo \"<<EOF\"", &[]),
            ("RUN echo '<<EOF'", &[]),
            ("RUN echo \\<<EOF", &[]),
            ("RUN echo it's <<EOF", &[]),
            ("RUN echo \"${a:-\" <<EOF", &[]),
            ("RUN echo ${#a} <<EOF", &[]),
            ("RUN echo ${a^^} <<EOF", &[]),
            ("RUN echo ${a:-b c} <<EOF", &[("EOF", true)]),
            ("RUN echo ${a/x/y} ${a//x/} ${a#*/} <<EOF", &[("EOF", true)]),
            ("RUN echo \"it's $x\" <<EOF", &[("EOF", true)]),
        ] {
            let found: Vec<_> = openings(text, 4)
                .into_iter()
                .map(|opening| (opening.name, opening.expand))
                .collect();
            let expected: Vec<_> = expected
                .iter()
                .map(|(name, expand)| ((*name).to_owned(), *expand))
                .collect();
            assert_eq!(found, expected, "{text}");
        }
    }

    #[test]
    fn tabs_are_stripped_from_every_line() {
        let mut heredoc = Heredoc {
            name: "E".to_owned(),
            descriptor: None,
            strip_tabs: true,
            expand: true,
            content: "\t\ta\tb\n \tc\r\n\n\t".to_owned(),
            span: Span::default(),
            body: Span::default(),
        };
        assert_eq!(heredoc.text(), "a\tb\n \tc\r\n\n");
        heredoc.strip_tabs = false;
        assert_eq!(heredoc.text(), heredoc.content);
    }

    #[test]
    fn a_whole_command_may_be_a_heredoc() {
        assert!(is_only("<<EOF"));
        assert!(is_only("3<<-'EOF'"));
        assert!(!is_only("cat <<EOF"));
        assert!(!is_only("<<EOF cat"));
    }
}
