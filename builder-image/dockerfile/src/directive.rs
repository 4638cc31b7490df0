//! Parser directives: the comments `# syntax=`, `# escape=` and `# check=` at the very top of a file.
//!
//! A directive line begins with `#` in its first column. The first line that is not a known directive ends the block,
//! be it blank, a comment or an instruction. A byte order mark and a `#!` line before the block are skipped. A `syntax`
//! directive is also found as `// syntax=…` and as the member `syntax` of a JSON object, because a file in another
//! language must name its frontend somehow. Nothing is fetched or executed here.

use std::str::FromStr;
use std::sync::LazyLock;

use regex::Regex;

use crate::diagnostic::Diagnostic;
use crate::line::{Lines, Physical};
use crate::span::{Span, Spanned, Word};
use crate::suggest::nearest;

/// The escape character of a file that names none.
const DEFAULT_ESCAPE: char = '\\';

const NAMES: [&str; 3] = ["syntax", "escape", "check"];

/// The directives of a file.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Directives {
    /// The frontend image that the file asks for; only the reference, without options behind a blank.
    pub syntax: Option<Word>,
    /// The escape character, if one is named.
    pub escape: Option<Spanned<char>>,
    /// Which checks to run.
    pub check: Option<Spanned<Check>>,
}

/// The value of a `check` directive: `skip=A,B;error=true`.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Check {
    /// `skip=all`.
    pub skip_all: bool,
    /// Names of checks that are left out.
    pub skip: Vec<String>,
    /// `experimental=all`.
    pub experimental_all: bool,
    /// Names of experimental checks that are run.
    pub experimental: Vec<String>,
    /// Findings fail the build.
    pub error: bool,
}

impl Directives {
    /// The character that escapes others and continues lines.
    pub fn escape_char(&self) -> char {
        self.escape
            .as_ref()
            .map_or(DEFAULT_ESCAPE, |escape| escape.value)
    }
}

/// Reads the directives of a text. The second value is the offset behind a byte order mark.
pub(crate) fn read(text: &str, diagnostics: &mut Vec<Diagnostic>) -> (Directives, usize) {
    let start = if text.starts_with('\u{feff}') {
        '\u{feff}'.len_utf8()
    } else {
        0
    };
    let mut directives = Directives::default();
    read_block(text, start, "#", &mut directives, diagnostics);
    if directives.syntax.is_none() {
        // Only `syntax` may stand in another language's comment, and mistakes there are not ours to judge.
        let mut foreign = Directives::default();
        read_block(text, start, "//", &mut foreign, &mut Vec::new());
        directives.syntax = foreign.syntax.or_else(|| json_syntax(text, start));
    }
    (directives, start)
}

fn read_block(
    text: &str,
    start: usize,
    comment: &str,
    directives: &mut Directives,
    diagnostics: &mut Vec<Diagnostic>,
) {
    static DIRECTIVE: LazyLock<Regex> = LazyLock::new(|| {
        Regex::new(r"^\s*([a-zA-Z][a-zA-Z0-9]*)\s*=\s*(.+?)\s*$").expect("the expression is valid")
    });
    // The caller reads these lines again, as comments; what is wrong with their length is said there.
    let mut unheard = Vec::new();
    let mut lines = Lines::new(text, start, DEFAULT_ESCAPE);
    let mut seen: Vec<(&'static str, Span)> = Vec::new();
    let mut first = true;
    let mut below_shebang = false;
    while let Some(line) = lines.next_physical(&mut unheard) {
        if std::mem::take(&mut first) && line.text.starts_with("#!") {
            below_shebang = true;
            continue;
        }
        let Some((name, value)) = line.text.strip_prefix(comment).and_then(|body| {
            let found = DIRECTIVE.captures(body)?;
            Some((found.get(1)?, found.get(2)?))
        }) else {
            hint_at_misspelling(&line, comment, diagnostics);
            return;
        };
        let offset = line.start + comment.len();
        let place =
            |found: &regex::Match<'_>| Span::new(offset + found.start(), offset + found.end());
        let Some(known) = NAMES
            .into_iter()
            .find(|known| known.eq_ignore_ascii_case(name.as_str()))
        else {
            hint_at_misspelling(&line, comment, diagnostics);
            return;
        };
        if let Some((_, earlier)) = seen.iter().find(|(name, _)| *name == known) {
            diagnostics.push(
                Diagnostic::error(
                    "duplicate-directive",
                    place(&name),
                    format!("only one `{known}` directive can be used"),
                )
                .also(*earlier, "the first one is here")
                .help("remove one of the two"),
            );
            continue;
        }
        seen.push((known, place(&name)));
        let value = Spanned::new(value.as_str(), place(&value));
        match known {
            "syntax" => directives.syntax = Some(first_word(&value)),
            // The reference looks for this one with its other reader, which ends at the first line that is no directive.
            "escape" if below_shebang => diagnostics.push(
                Diagnostic::warning(
                    "useless-directive",
                    place(&name),
                    "`escape` has no effect below a `#!` line",
                )
                .help("remove one of the two lines"),
            ),
            "escape" => directives.escape = read_escape(&value, diagnostics),
            _ => directives.check = read_check(&value, diagnostics),
        }
    }
}

/// A comment such as `# excape=` right where directives stand is worth a word; any other comment is not.
fn hint_at_misspelling(line: &Physical<'_>, comment: &str, diagnostics: &mut Vec<Diagnostic>) {
    let Some((name, _)) = line
        .text
        .strip_prefix(comment)
        .and_then(|body| body.split_once('='))
    else {
        return;
    };
    let name = name.trim();
    let Some(meant) = nearest(name, NAMES) else {
        return;
    };
    let (problem, help) = if meant.eq_ignore_ascii_case(name) {
        ("has no value", format!("write `{comment} {meant}=VALUE`"))
    } else {
        ("is no parser directive", format!("did you mean `{meant}`?"))
    };
    diagnostics.push(
        Diagnostic::warning(
            "unknown-directive",
            line.span(),
            format!("`{name}` {problem}, so this line is a comment"),
        )
        .help(help),
    );
}

fn first_word(value: &Spanned<&str>) -> Word {
    let word = value.value.split(' ').next().unwrap_or_default();
    let span = Span::new(value.span.start, value.span.start + word.len());
    Spanned::new(word.to_owned(), span)
}

fn read_escape(value: &Spanned<&str>, diagnostics: &mut Vec<Diagnostic>) -> Option<Spanned<char>> {
    match value.value {
        "\\" => Some(Spanned::new('\\', value.span)),
        "`" => Some(Spanned::new('`', value.span)),
        other => {
            diagnostics.push(
                Diagnostic::error(
                    "invalid-escape-directive",
                    value.span,
                    format!("invalid escape character `{other}`"),
                )
                .help("the escape character is either `\\` or a backtick"),
            );
            None
        }
    }
}

fn read_check(value: &Spanned<&str>, diagnostics: &mut Vec<Diagnostic>) -> Option<Spanned<Check>> {
    match value.value.parse() {
        Ok(check) => Some(Spanned::new(check, value.span)),
        Err(InvalidCheck(option)) => {
            diagnostics.push(
                Diagnostic::error(
                    "invalid-check-directive",
                    value.span,
                    format!("invalid check option `{option}`"),
                )
                .help(CHECK_SYNTAX),
            );
            None
        }
    }
}

/// How to write checks, for help lines.
const CHECK_SYNTAX: &str =
    "write `check=skip=RuleA,RuleB;error=true`; `skip=all` leaves out every rule";

/// An option of a check that is not known.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("invalid check option `{0}`: {CHECK_SYNTAX}")]
pub struct InvalidCheck(String);

impl FromStr for Check {
    type Err = InvalidCheck;

    /// Reads the value of the directive, which is also that of the build argument `BUILDKIT_DOCKERFILE_CHECK`.
    fn from_str(text: &str) -> Result<Self, InvalidCheck> {
        let mut check = Self::default();
        let names = |list: &str| -> Vec<String> {
            list.split(',').map(|name| name.trim().to_owned()).collect()
        };
        for option in text.split(';').filter(|option| !option.trim().is_empty()) {
            let (key, argument) = option.split_once('=').unwrap_or((option, ""));
            let argument = argument.trim();
            match (key.trim(), argument, parse_bool(argument)) {
                ("skip", "all", _) => check.skip_all = true,
                ("skip", list, _) if !list.is_empty() => check.skip = names(list),
                ("experimental", "all", _) => check.experimental_all = true,
                ("experimental", list, _) if !list.is_empty() => check.experimental = names(list),
                ("error", _, Some(error)) => check.error = error,
                _ => return Err(InvalidCheck(option.trim().to_owned())),
            }
        }
        Ok(check)
    }
}

/// The spellings of a boolean that the reference frontend accepts in directives and mounts.
pub(crate) fn parse_bool(text: &str) -> Option<bool> {
    match text {
        "1" | "t" | "T" | "true" | "TRUE" | "True" => Some(true),
        "0" | "f" | "F" | "false" | "FALSE" | "False" => Some(false),
        _ => None,
    }
}

/// `{"syntax": "…"}` as the whole text.
fn json_syntax(text: &str, start: usize) -> Option<Word> {
    let body = &text[start..];
    if !body.trim_start().starts_with('{') {
        return None;
    }
    let object: serde_json::Map<String, serde_json::Value> = serde_json::from_str(body).ok()?;
    let syntax = object.get("syntax")?.as_str()?;
    let at = start + body.find('{').unwrap_or_default();
    Some(Spanned::new(syntax.to_owned(), Span::new(at, at + 1)))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(text: &str) -> (Directives, Vec<String>) {
        let mut diagnostics = Vec::new();
        let (directives, _) = read(text, &mut diagnostics);
        (
            directives,
            diagnostics.iter().map(|d| d.one_line("f", text)).collect(),
        )
    }

    #[test]
    fn the_block_ends_at_the_first_other_line() {
        for (text, syntax, escape) in [
            ("# syntax=a/b:1\n# escape=`\nFROM x", Some("a/b:1"), '`'),
            ("#syntax=a\n#escape=`", Some("a"), '`'),
            ("#  SYNTAX = a  \r\n# Escape\t=\t`\r\n", Some("a"), '`'),
            ("\u{feff}# escape=`\n", None, '`'),
            (
                "#!/usr/bin/env -S docker build -f\n# syntax=a\n",
                Some("a"),
                '\\',
            ),
            ("\n# escape=`\n", None, '\\'),
            ("# a comment\n# escape=`\n", None, '\\'),
            ("# unknown=1\n# escape=`\n", None, '\\'),
            ("FROM x\n# escape=`\n", None, '\\'),
            (" # escape=`\n", None, '\\'),
            ("# escape=\\\n", None, '\\'),
            ("// syntax=a/b:1 --option\nimport x", Some("a/b:1"), '\\'),
            ("// escape=`\n", None, '\\'),
            ("{\"syntax\": \"a/b\", \"x\": [1]}", Some("a/b"), '\\'),
            ("{\"syntax\": 1}", None, '\\'),
        ] {
            let (directives, problems) = parse(text);
            assert_eq!(
                directives.syntax.as_ref().map(Spanned::as_str),
                syntax,
                "{text:?}"
            );
            assert_eq!(directives.escape_char(), escape, "{text:?}");
            assert_eq!(problems, [""; 0], "{text:?}");
        }
    }

    #[test]
    fn values_keep_their_place() {
        let text = "# escape=`\n#  syntax = a/b  c\n";
        let (directives, _) = parse(text);
        let span = directives.syntax.map(|syntax| syntax.span);
        assert_eq!(span.map(|span| &text[span.start..span.end]), Some("a/b"));
    }

    #[test]
    fn check_options() {
        let check = |text: &str| parse(text).0.check.map(|check| check.value);
        assert_eq!(
            check("# check=skip=A, B;error=true"),
            Some(Check {
                skip: vec!["A".to_owned(), "B".to_owned()],
                error: true,
                ..Check::default()
            })
        );
        assert_eq!(
            check("# check=skip=all"),
            Some(Check {
                skip_all: true,
                ..Check::default()
            })
        );
        assert_eq!(check("# check=error=perhaps"), None);
        assert_eq!(check("# check=scip=A"), None);
    }

    #[test]
    fn mistakes_are_told() {
        for (text, problem) in [
            (
                "# escape=`\n# escape=\\\n",
                "f:2: only one `escape` directive can be used",
            ),
            (
                "# syntax=a\n# SYNTAX=a\n",
                "f:2: only one `syntax` directive can be used",
            ),
            ("# escape=/\n", "f:1: invalid escape character `/`"),
            ("# escape=\\\\\n", "f:1: invalid escape character `\\\\`"),
            (
                "# excape=`\n",
                "f:1: `excape` is no parser directive, so this line is a comment",
            ),
            (
                "#!x\n# escape=`\n",
                "f:2: `escape` has no effect below a `#!` line",
            ),
            ("# check=x=1\n", "f:1: invalid check option `x=1`"),
            (
                "# escape=\n",
                "f:1: `escape` has no value, so this line is a comment",
            ),
        ] {
            assert_eq!(parse(text).1, [problem], "{text:?}");
        }
    }
}
