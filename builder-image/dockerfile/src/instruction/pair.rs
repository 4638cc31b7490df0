//! ARG, ENV and LABEL: names with values.

use std::ops::Range;

use crate::diagnostic::Diagnostic;
use crate::instruction::Verb;
use crate::line::Line;
use crate::span::{Spanned, Word};
use crate::word::{is_blank, split_quoted};

/// One argument of ARG.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ArgDecl {
    /// The name; it is expanded as well.
    pub name: Word,
    /// The default. `None` if there is no `=`, which in a stage means the value of the global ARG of that name.
    pub default: Option<Word>,
}

/// How a key is separated from its value.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Separator {
    /// `key=value`
    Equals,
    /// `key value`, the legacy form: one pair, and the value is the rest of the line.
    Blank,
}

/// One pair of ENV or LABEL.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct KeyValue {
    /// The key, never empty as written.
    pub key: Word,
    /// The value.
    pub value: Word,
    /// What stands between them.
    pub separator: Separator,
}

pub(super) fn read_args(
    line: &Line,
    range: Range<usize>,
    escape: char,
    diagnostics: &mut Vec<Diagnostic>,
) -> Option<Vec<ArgDecl>> {
    let mut declarations = Vec::new();
    for range in split_quoted(&line.text, range, escape) {
        let declaration = match cut_at_equals(line, &range) {
            Some((name, default)) => ArgDecl {
                name,
                default: Some(default),
            },
            None => ArgDecl {
                name: word(line, range),
                default: None,
            },
        };
        if declaration.name.value.is_empty() {
            diagnostics.push(blank_name(Verb::Arg, line, declaration.default.as_ref()));
            return None;
        }
        declarations.push(declaration);
    }
    Some(declarations)
}

pub(super) fn read_pairs(
    verb: Verb,
    line: &Line,
    range: Range<usize>,
    escape: char,
    diagnostics: &mut Vec<Diagnostic>,
) -> Option<Vec<KeyValue>> {
    let words = split_quoted(&line.text, range.clone(), escape);
    let first = words.first()?;
    if !line.text[first.clone()].contains('=') {
        return read_legacy(verb, line, range, diagnostics).map(|pair| vec![pair]);
    }
    let mut pairs = Vec::with_capacity(words.len());
    for range in words {
        let Some((key, value)) = cut_at_equals(line, &range) else {
            let written = &line.text[range.clone()];
            diagnostics.push(
                Diagnostic::error(
                    "missing-equals",
                    line.span(range.clone()),
                    format!("no `=` in `{written}`: {} takes name=value", verb.name()),
                )
                .help(if written.starts_with('#') {
                    "a comment stands on a line of its own"
                } else {
                    "if the value has blanks, put it in double quotes"
                }),
            );
            return None;
        };
        if key.value.is_empty() {
            diagnostics.push(blank_name(verb, line, Some(&value)));
            return None;
        }
        pairs.push(KeyValue {
            key,
            value,
            separator: Separator::Equals,
        });
    }
    Some(pairs)
}

/// `ENV key the rest of the line`
fn read_legacy(
    verb: Verb,
    line: &Line,
    range: Range<usize>,
    diagnostics: &mut Vec<Diagnostic>,
) -> Option<KeyValue> {
    let text = &line.text[range.clone()];
    let Some(length) = text.find(is_blank) else {
        let written = text.trim();
        diagnostics.push(
            Diagnostic::error(
                "missing-value",
                line.span(range),
                format!("{} needs a name and a value", verb.name()),
            )
            .help(format!("write {} {written}=VALUE", verb.name())),
        );
        return None;
    };
    let value = text[length..].trim_start_matches(is_blank);
    Some(KeyValue {
        key: word(line, range.start..range.start + length),
        value: word(line, range.end - value.len()..range.end),
        separator: Separator::Blank,
    })
}

fn cut_at_equals(line: &Line, range: &Range<usize>) -> Option<(Word, Word)> {
    let equals = range.start + line.text[range.clone()].find('=')?;
    Some((
        word(line, range.start..equals),
        word(line, equals + 1..range.end),
    ))
}

fn word(line: &Line, range: Range<usize>) -> Word {
    Spanned::new(line.text[range.clone()].to_owned(), line.span(range))
}

fn blank_name(verb: Verb, line: &Line, value: Option<&Word>) -> Diagnostic {
    let span = value.map_or_else(
        || line.span(0..0),
        |value| crate::span::Span::new(value.span.start - 1, value.span.end),
    );
    Diagnostic::error(
        "blank-name",
        span,
        format!("{} names can not be blank", verb.name()),
    )
    .help("write name=value without blanks around the `=`")
}
