//! HEALTHCHECK.

use std::time::Duration;

use crate::diagnostic::Diagnostic;
use crate::duration;
use crate::instruction::{CommandForm, Statement, Verb, command};
use crate::suggest::did_you_mean;

/// Values below this one are refused, as the container runtimes refuse them.
const MINIMUM: Duration = Duration::from_millis(1);

/// How to tell whether a container is well.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Healthcheck {
    /// `HEALTHCHECK NONE`: the check of the base image is switched off.
    None,
    /// `HEALTHCHECK [flags] CMD command`
    Probe(Probe),
}

/// A check and its timing. Zero, as in the image configuration, means inherited or the runtime's default.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Probe {
    /// What is executed in the container.
    pub command: CommandForm,
    /// `--interval`
    pub interval: Duration,
    /// `--timeout`
    pub timeout: Duration,
    /// `--start-period`
    pub start_period: Duration,
    /// `--start-interval`
    pub start_interval: Duration,
    /// `--retries`
    pub retries: u32,
}

impl Healthcheck {
    /// The member `Test` of the image configuration.
    pub fn test(&self) -> Vec<String> {
        match self {
            Self::None => vec!["NONE".to_owned()],
            Self::Probe(probe) => match &probe.command {
                CommandForm::Shell(line) => vec!["CMD-SHELL".to_owned(), line.clone()],
                CommandForm::Exec(args) => {
                    let mut test = vec!["CMD".to_owned()];
                    test.extend(args.iter().cloned());
                    test
                }
            },
        }
    }
}

pub(super) fn read(
    statement: &Statement<'_>,
    diagnostics: &mut Vec<Diagnostic>,
) -> Option<Healthcheck> {
    let line = statement.line;
    let range = statement.arguments.clone();
    let text = &line.text[range.clone()];
    let length = text.find(char::is_whitespace).unwrap_or(text.len());
    let kind = &text[..length];
    let kind_span = line.span(range.start..range.start + length);
    let rest = range.start + length..range.end;
    let body = command::trimmed(&line.text, rest);

    if kind.eq_ignore_ascii_case("NONE") {
        if !body.is_empty() {
            diagnostics.push(Diagnostic::error(
                "unexpected-argument",
                line.span(body),
                "HEALTHCHECK NONE takes no arguments",
            ));
            return None;
        }
        if let Some(flag) = statement.flags.first() {
            diagnostics.push(
                Diagnostic::warning(
                    "useless-flag",
                    flag.span,
                    format!("flag `--{}` has no effect on HEALTHCHECK NONE", flag.name),
                )
                .help("remove it"),
            );
        }
        return Some(Healthcheck::None);
    }
    if !kind.eq_ignore_ascii_case("CMD") {
        diagnostics.push(
            Diagnostic::error(
                "invalid-healthcheck",
                kind_span,
                format!("HEALTHCHECK does not know `{kind}`"),
            )
            .maybe_help(did_you_mean(kind, ["CMD", "NONE"]))
            .note("it is either `HEALTHCHECK [flags] CMD command` or `HEALTHCHECK NONE`"),
        );
        return None;
    }
    let command = if body.is_empty() {
        None
    } else {
        Some(command::read(Verb::Healthcheck, line, body, diagnostics)?)
    };
    let Some(command) = command.filter(|command| *command != CommandForm::Exec(Vec::new())) else {
        diagnostics.push(
            Diagnostic::error(
                "missing-argument",
                kind_span,
                "HEALTHCHECK CMD needs a command to execute",
            )
            .help("write it behind CMD, or HEALTHCHECK NONE to switch off the check of the base image"),
        );
        return None;
    };
    Some(Healthcheck::Probe(Probe {
        command,
        interval: interval(statement, "interval", diagnostics),
        timeout: interval(statement, "timeout", diagnostics),
        start_period: interval(statement, "start-period", diagnostics),
        start_interval: interval(statement, "start-interval", diagnostics),
        retries: retries(statement, diagnostics),
    }))
}

fn interval(statement: &Statement<'_>, flag: &str, diagnostics: &mut Vec<Diagnostic>) -> Duration {
    let Some(value) = statement.flags.value(flag) else {
        return Duration::ZERO;
    };
    let (message, help) = match duration::parse(&value.value) {
        Ok(parsed) if parsed.is_zero() || parsed >= MINIMUM => return parsed,
        Ok(_) | Err(duration::DurationError::Negative) => (
            format!("`--{flag}` can not be less than 1ms"),
            "0 means the default",
        ),
        Err(error) => (
            format!("`--{flag}` is not a duration: {error}"),
            "a duration is a number with a unit, such as `30s`, `1m30s` or `500ms`",
        ),
    };
    diagnostics.push(Diagnostic::error("invalid-duration", value.span, message).help(help));
    Duration::ZERO
}

fn retries(statement: &Statement<'_>, diagnostics: &mut Vec<Diagnostic>) -> u32 {
    let Some(value) = statement.flags.value("retries") else {
        return 0;
    };
    match value.value.parse::<i32>().map(u32::try_from) {
        Ok(Ok(retries)) => retries,
        Ok(Err(_)) => {
            diagnostics.push(Diagnostic::error(
                "invalid-flag",
                value.span,
                format!("`--retries` can not be negative ({})", value.value),
            ));
            0
        }
        Err(_) => {
            diagnostics.push(
                Diagnostic::error(
                    "invalid-flag",
                    value.span,
                    format!("`--retries` is not a number: `{}`", value.value),
                )
                .help("write a whole number, such as `3`"),
            );
            0
        }
    }
}
