//! Flags of instructions: `--name=value` between the keyword and the arguments.
//!
//! Quotes go away and `\` escapes (whatever the `escape` directive says), so `--chown="a b"` is one flag. The first word
//! that does not begin with `--` ends the flags, and so does `--` alone. Values are not expanded here.

use std::ops::Range;

use crate::diagnostic::Diagnostic;
use crate::instruction::Verb;
use crate::line::Line;
use crate::span::{Span, Spanned, Word};
use crate::suggest::did_you_mean;

/// What a flag takes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Kind {
    /// Nothing, `true` or `false`.
    Switch,
    /// One value; the flag may stand once.
    Value,
    /// One value; the flag may stand several times.
    Values,
}

/// The flags of an instruction.
fn known(verb: Verb) -> &'static [(&'static str, Kind)] {
    use Kind::{Switch, Value, Values};
    match verb {
        Verb::From => &[("platform", Value)],
        Verb::Run => &[
            ("mount", Values),
            ("network", Value),
            ("security", Value),
            ("device", Values),
        ],
        Verb::Copy => &[
            ("from", Value),
            ("chown", Value),
            ("chmod", Value),
            ("link", Switch),
            ("parents", Switch),
            ("exclude", Values),
        ],
        Verb::Add => &[
            ("chown", Value),
            ("chmod", Value),
            ("link", Switch),
            ("keep-git-dir", Switch),
            ("checksum", Value),
            ("unpack", Switch),
            ("exclude", Values),
        ],
        Verb::Healthcheck => &[
            ("interval", Value),
            ("timeout", Value),
            ("start-period", Value),
            ("start-interval", Value),
            ("retries", Value),
        ],
        _ => &[],
    }
}

/// A flag as it is written.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Flag {
    pub(crate) name: &'static str,
    /// The value without quotes; `None` for a switch without one.
    pub(crate) value: Option<Word>,
    pub(crate) span: Span,
}

/// The flags of one instruction, all of them known and well formed.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub(crate) struct Flags(Vec<Flag>);

impl Flags {
    /// The value of a flag; one that is empty counts as absent.
    pub(crate) fn value(&self, name: &str) -> Option<Word> {
        self.values(name)
            .into_iter()
            .find(|value| !value.value.is_empty())
    }

    /// All values of a flag that may stand several times.
    pub(crate) fn values(&self, name: &str) -> Vec<Word> {
        self.0
            .iter()
            .filter(|flag| flag.name == name)
            .filter_map(|flag| flag.value.clone())
            .collect()
    }

    /// A switch, if it is written.
    pub(crate) fn switch(&self, name: &str) -> Option<Spanned<bool>> {
        let flag = self.find(name)?;
        let off = flag
            .value
            .as_ref()
            .is_some_and(|value| value.value.eq_ignore_ascii_case("false"));
        Some(Spanned::new(!off, flag.span))
    }

    /// A flag as it is written.
    pub(crate) fn find(&self, name: &str) -> Option<&Flag> {
        self.0.iter().find(|flag| flag.name == name)
    }

    /// The first flag.
    pub(crate) fn first(&self) -> Option<&Flag> {
        self.0.first()
    }
}

/// A word among the flags: its text without quotes, and where it stands.
struct Raw {
    text: String,
    range: Range<usize>,
}

/// Cuts flags off the front of `range`; the second value is where the arguments begin.
fn cut(text: &str, range: Range<usize>) -> (Vec<Raw>, usize) {
    let mut flags = Vec::new();
    let mut at = range.start;
    loop {
        let rest = &text[at..range.end];
        let trimmed = rest.trim_start();
        let start = range.end - trimmed.len();
        if !trimmed.starts_with("--") {
            return (flags, start);
        }
        let mut word = String::new();
        let mut quote = None;
        let mut end = range.end;
        let mut chars = trimmed.char_indices();
        while let Some((offset, c)) = chars.next() {
            match quote {
                None if c.is_whitespace() => {
                    end = start + offset;
                    break;
                }
                None if c == '\'' || c == '"' => quote = Some(c),
                Some(open) if c == open => quote = None,
                _ if c == '\\' => word.extend(chars.next().map(|(_, escaped)| escaped)),
                _ => word.push(c),
            }
        }
        at = end;
        if word == "--" {
            let rest = &text[at..range.end];
            return (flags, range.end - rest.trim_start().len());
        }
        flags.push(Raw {
            text: word,
            range: start..end,
        });
    }
}

/// Reads the flags of an instruction that stand at the front of `range`. Returns them and the offset of the arguments;
/// flags that are wrong are reported and left out.
pub(crate) fn read(
    verb: Verb,
    line: &Line,
    range: Range<usize>,
    diagnostics: &mut Vec<Diagnostic>,
) -> (Flags, usize) {
    let (raw, arguments) = cut(&line.text, range);
    let mut flags: Vec<Flag> = Vec::new();
    for raw in raw {
        match read_one(verb, line, &raw, &flags) {
            Ok(flag) => flags.push(flag),
            Err(diagnostic) => diagnostics.push(*diagnostic),
        }
    }
    (Flags(flags), arguments)
}

fn read_one(verb: Verb, line: &Line, raw: &Raw, earlier: &[Flag]) -> Result<Flag, Box<Diagnostic>> {
    let keyword = verb.name();
    let span = line.span(raw.range.clone());
    let body = &raw.text[2..];
    let (written, value) = match body.split_once('=') {
        Some((name, value)) => (name, Some(value)),
        None => (body, None),
    };
    let written_end = line.text[raw.range.clone()]
        .find('=')
        .map_or(raw.range.end, |equals| raw.range.start + equals);
    let name_span = line.span(raw.range.start..written_end);
    let Some((name, kind)) = known(verb)
        .iter()
        .copied()
        .find(|(name, _)| *name == written)
    else {
        return Err(Box::new(unknown(verb, written, name_span)));
    };
    let failure = |id, message: String| Box::new(Diagnostic::error(id, span, message));
    if let Some(first) = earlier.iter().find(|flag| flag.name == name)
        && kind != Kind::Values
    {
        return Err(Box::new(
            failure("duplicate-flag", format!("flag `--{name}` stands twice"))
                .also(first.span, "the first one is here"),
        ));
    }
    let value = match (kind, value) {
        (Kind::Switch, None) => None,
        (Kind::Switch, Some(value))
            if value.eq_ignore_ascii_case("true") || value.eq_ignore_ascii_case("false") =>
        {
            Some(value)
        }
        (Kind::Switch, Some(value)) => {
            return Err(Box::new(
                failure(
                    "invalid-flag",
                    format!("flag `--{name}` is either true or false, not `{value}`"),
                )
                .help(format!("write `--{name}` or leave it out")),
            ));
        }
        (_, None) => {
            return Err(Box::new(
                failure(
                    "invalid-flag",
                    format!("flag `--{name}` of {keyword} needs a value"),
                )
                .help(format!("write `--{name}=VALUE`, without a blank")),
            ));
        }
        (_, Some(value)) => Some(value),
    };
    let value_start = (written_end + 1).min(raw.range.end);
    Ok(Flag {
        name,
        value: value
            .map(|value| Spanned::new(value.to_owned(), line.span(value_start..raw.range.end))),
        span,
    })
}

fn unknown(verb: Verb, written: &str, span: Span) -> Diagnostic {
    let keyword = verb.name();
    let diagnostic = Diagnostic::error(
        "unknown-flag",
        span,
        format!("unknown flag `--{written}` of {keyword}"),
    );
    let own = known(verb);
    if let Some(help) = did_you_mean(written, own.iter().map(|(name, _)| *name)) {
        return diagnostic.help(help.replace("did you mean `", "did you mean `--"));
    }
    let owners: Vec<_> = Verb::ALL
        .into_iter()
        .filter(|other| known(*other).iter().any(|(name, _)| *name == written))
        .map(Verb::name)
        .collect();
    if !owners.is_empty() {
        return diagnostic.help(format!(
            "`--{written}` is a flag of {}",
            owners.join(" and ")
        ));
    }
    if own.is_empty() {
        return diagnostic.help(format!("{keyword} has no flags"));
    }
    let list: Vec<_> = own.iter().map(|(name, _)| format!("`--{name}`")).collect();
    diagnostic.help(format!("the flags of {keyword} are {}", list.join(", ")))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn flags_are_cut_off_the_front() {
        for (text, flags, rest) in [
            ("a b", &[][..], "a b"),
            ("--a=1 --b c --d", &["--a=1", "--b"], "c --d"),
            ("  --a=\"1 2\"  c", &["--a=1 2"], "c"),
            ("--a='1 \\' 2' c", &["--a=1 ' 2"], "c"),
            ("--a=1\\ 2 c", &["--a=1 2"], "c"),
            ("--a=1 -- --c", &["--a=1"], "--c"),
            ("--", &[], ""),
            ("-a b", &[], "-a b"),
            ("--a", &["--a"], ""),
            ("--a=ä b", &["--a=ä"], "b"),
            ("--a=\\", &["--a="], ""),
            ("", &[], ""),
        ] {
            let (raw, arguments) = cut(text, 0..text.len());
            let raw: Vec<_> = raw.into_iter().map(|raw| raw.text).collect();
            assert_eq!(raw, flags, "{text}");
            assert_eq!(&text[arguments..], rest, "{text}");
        }
    }
}
