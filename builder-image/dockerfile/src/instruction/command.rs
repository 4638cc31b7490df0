//! Commands in shell form and in exec form.

use std::ops::Range;

use crate::diagnostic::Diagnostic;
use crate::instruction::Verb;
use crate::line::Line;
use crate::span::Span;
use crate::word::{JsonForm, json_form};

/// A command as RUN, CMD, ENTRYPOINT and HEALTHCHECK take it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum CommandForm {
    /// A line for the shell that SHELL names.
    Shell(String),
    /// Program and arguments, from a JSON array. May be empty in CMD and ENTRYPOINT, where that means none.
    Exec(Vec<String>),
}

impl CommandForm {
    /// The arguments that the command is executed with, `shell` being the one in effect (`["/bin/sh", "-c"]`).
    pub fn to_args(&self, shell: &[String]) -> Vec<String> {
        match self {
            Self::Exec(args) => args.clone(),
            Self::Shell(line) => shell.iter().chain([line]).cloned().collect(),
        }
    }
}

/// Reads a command. `None`, with a diagnostic, if it is a JSON array of something else than strings.
pub(super) fn read(
    verb: Verb,
    line: &Line,
    range: Range<usize>,
    diagnostics: &mut Vec<Diagnostic>,
) -> Option<CommandForm> {
    let text = line.text[range.clone()].trim();
    match json_form(&line.text, range.clone()) {
        JsonForm::Strings(strings) => {
            let strings = strings.into_iter().map(|(string, _)| string).collect();
            Some(CommandForm::Exec(strings))
        }
        JsonForm::NotStrings(place) => {
            diagnostics.push(not_strings(verb, line.span(place)));
            None
        }
        JsonForm::No => {
            if let Some(hint) = almost_json(text) {
                diagnostics.push(
                    Diagnostic::warning(
                        "invalid-json-command",
                        line.span(trimmed(&line.text, range)),
                        format!(
                            "{} is not a valid JSON array and so is run by the shell",
                            verb.name()
                        ),
                    )
                    .help(hint),
                );
            }
            Some(CommandForm::Shell(text.to_owned()))
        }
    }
}

/// The error for an array of something else than strings.
pub(super) fn not_strings(verb: Verb, span: Span) -> Diagnostic {
    Diagnostic::error(
        "json-not-strings",
        span,
        format!("the JSON array of {} must hold strings only", verb.name()),
    )
    .help("put double quotes around the element")
}

/// A range without the white space at its ends.
pub(super) fn trimmed(text: &str, range: Range<usize>) -> Range<usize> {
    let body = &text[range.clone()];
    let start = range.start + body.len() - body.trim_start().len();
    start..start + body.trim().len()
}

/// A remedy for a text that was surely meant to be JSON: brackets around quoted strings with at most commas between
/// them. `[ "$a" = "b" ]` is a command of the shell.
fn almost_json(text: &str) -> Option<&'static str> {
    let inner = text.strip_prefix('[')?.strip_suffix(']')?.trim();
    let quote = inner.chars().next().filter(|c| matches!(c, '"' | '\''))?;
    let mut between = inner.split(quote).step_by(2);
    if !between.all(|text| text.chars().all(|c| c == ',' || c.is_whitespace())) {
        return None;
    }
    Some(if quote == '\'' {
        "JSON strings stand in double quotes"
    } else if inner.ends_with(',') {
        "remove the comma behind the last element"
    } else {
        "separate the elements by commas, and write a backslash as `\\\\`"
    })
}
