//! From a line to an instruction: which keyword it begins with, and what its arguments say.

use std::ops::Range;

use crate::diagnostic::Diagnostic;
use crate::flag::{self, Flags};
use crate::heredoc::Heredoc;
use crate::instruction::{
    Instruction, InstructionKind, Keyword, Onbuild, Verb, command, copy, healthcheck, pair, run,
};
use crate::line::Line;
use crate::port;
use crate::signal;
use crate::span::{LineIndex, Span, Spanned, Word};
use crate::suggest::nearest;
use crate::word::{JsonForm, json_form, split_blanks};

/// A line cut into keyword, flags and arguments, with the heredocs that belong to it.
pub(crate) struct Statement<'a> {
    pub(crate) line: &'a Line,
    pub(crate) verb: Verb,
    pub(crate) keyword: Range<usize>,
    pub(crate) flags: Flags,
    /// Without white space at the ends.
    pub(crate) arguments: Range<usize>,
    pub(crate) heredocs: &'a [Heredoc],
    pub(crate) escape: char,
}

/// A line that begins with no instruction.
pub(crate) struct UnknownInstruction {
    name: String,
    span: Span,
}

impl UnknownInstruction {
    /// Whether there is no word at all, only a continuation at the end of the text.
    pub(crate) fn is_blank(&self) -> bool {
        self.name.is_empty()
    }

    /// The instruction that was probably meant.
    pub(crate) fn meant(&self) -> Option<Verb> {
        nearest(&self.name, Verb::ALL.map(Verb::name)).and_then(Verb::parse)
    }

    pub(crate) fn diagnostic(&self) -> Diagnostic {
        let message = if self.is_blank() {
            "a continuation that continues nothing".to_owned()
        } else {
            format!("unknown instruction `{}`", self.name)
        };
        let help = self
            .meant()
            .map(|verb| format!("did you mean `{}`?", verb.name()));
        Diagnostic::error("unknown-instruction", self.span, message).maybe_help(help)
    }
}

impl<'a> Statement<'a> {
    /// Cuts the part of a line that begins at `start`. Fails if its keyword is no instruction.
    pub(crate) fn cut(
        line: &'a Line,
        start: usize,
        escape: char,
        diagnostics: &mut Vec<Diagnostic>,
    ) -> Result<Self, UnknownInstruction> {
        let text = line.text.as_str();
        let whole = command::trimmed(text, start..text.len());
        let length = text[whole.clone()]
            .find(char::is_whitespace)
            .unwrap_or(whole.len());
        let keyword = whole.start..whole.start + length;
        let name = &text[keyword.clone()];
        let verb = Verb::parse(name).ok_or_else(|| UnknownInstruction {
            name: name.to_owned(),
            span: line.span(keyword.clone()),
        })?;
        let (flags, arguments) = flag::read(verb, line, keyword.end..whole.end, diagnostics);
        Ok(Self {
            line,
            verb,
            keyword,
            flags,
            arguments: arguments..whole.end,
            heredocs: &[],
            escape,
        })
    }

    /// The span of keyword, flags and arguments.
    pub(crate) fn span(&self) -> Span {
        self.line.span(self.keyword.start..self.arguments.end)
    }

    /// Whether the arguments may open heredocs: the instruction takes them and is not in JSON form.
    pub(crate) fn may_open_heredocs(&self) -> bool {
        if self.verb == Verb::Onbuild {
            let mut unheard = Vec::new();
            return Statement::cut(self.line, self.arguments.start, self.escape, &mut unheard)
                .is_ok_and(|inner| inner.verb != Verb::Onbuild && inner.may_open_heredocs());
        }
        self.verb.takes_heredocs()
            && !matches!(
                json_form(&self.line.text, self.arguments.clone()),
                JsonForm::Strings(_)
            )
    }

    fn word(&self, range: Range<usize>) -> Word {
        let text = self.line.text[range.clone()].to_owned();
        Spanned::new(text, self.line.span(range))
    }

    /// All arguments as one word.
    fn rest(&self) -> Word {
        self.word(self.arguments.clone())
    }

    /// The arguments between blanks.
    pub(crate) fn words(&self) -> Vec<Word> {
        split_blanks(&self.line.text, self.arguments.clone())
            .into_iter()
            .map(|range| self.word(range))
            .collect()
    }

    pub(crate) fn keyword(&self) -> Keyword {
        Keyword {
            verb: self.verb,
            text: self.line.text[self.keyword.clone()].to_owned(),
            span: self.line.span(self.keyword.clone()),
        }
    }

    pub(crate) fn source(&self) -> String {
        self.line.text[self.keyword.start..self.arguments.end].to_owned()
    }
}

/// Reads an instruction other than FROM. `None`, with a diagnostic, if its arguments make no sense.
pub(crate) fn read(
    statement: &Statement<'_>,
    index: &LineIndex,
    diagnostics: &mut Vec<Diagnostic>,
) -> Option<Instruction> {
    if statement.arguments.is_empty() {
        diagnostics.push(missing_arguments(statement));
        return None;
    }
    let kind = read_kind(statement, index, diagnostics)?;
    let span = statement.span();
    Some(Instruction {
        span,
        keyword: statement.keyword(),
        kind,
        source: statement.source(),
        line: index.line(span.start),
    })
}

fn read_kind(
    statement: &Statement<'_>,
    index: &LineIndex,
    diagnostics: &mut Vec<Diagnostic>,
) -> Option<InstructionKind> {
    let Statement {
        line, verb, escape, ..
    } = *statement;
    let range = statement.arguments.clone();
    Some(match verb {
        Verb::Add => InstructionKind::Add(copy::read_add(statement, diagnostics)?),
        Verb::Arg => InstructionKind::Arg(pair::read_args(line, range, escape, diagnostics)?),
        Verb::Cmd => InstructionKind::Cmd(command::read(verb, line, range, diagnostics)?),
        Verb::Copy => InstructionKind::Copy(copy::read_copy(statement, diagnostics)?),
        Verb::Entrypoint => {
            InstructionKind::Entrypoint(command::read(verb, line, range, diagnostics)?)
        }
        Verb::Env => {
            InstructionKind::Env(pair::read_pairs(verb, line, range, escape, diagnostics)?)
        }
        Verb::Expose => InstructionKind::Expose(read_ports(statement, diagnostics)),
        // The caller keeps FROM for itself; only ONBUILD can bring it here.
        Verb::From => return None,
        Verb::Healthcheck => {
            InstructionKind::Healthcheck(healthcheck::read(statement, diagnostics)?)
        }
        Verb::Label => {
            InstructionKind::Label(pair::read_pairs(verb, line, range, escape, diagnostics)?)
        }
        Verb::Maintainer => InstructionKind::Maintainer(statement.rest()),
        Verb::Onbuild => InstructionKind::Onbuild(read_onbuild(statement, index, diagnostics)?),
        Verb::Run => InstructionKind::Run(run::read(statement, diagnostics)?),
        Verb::Shell => InstructionKind::Shell(read_shell(statement, diagnostics)?),
        Verb::Stopsignal => {
            let signal = statement.rest();
            if !signal.value.contains(['$', '"', '\'', escape])
                && let Err(error) = signal::parse(&signal.value)
            {
                diagnostics.push(
                    Diagnostic::error("invalid-signal", signal.span, error.to_string())
                        .maybe_help(error.help()),
                );
            }
            InstructionKind::Stopsignal(signal)
        }
        Verb::User => InstructionKind::User(statement.rest()),
        Verb::Volume => InstructionKind::Volume(read_volumes(statement, diagnostics)?),
        Verb::Workdir => InstructionKind::Workdir(statement.rest()),
    })
}

/// The ports of EXPOSE. Those without variables are checked now.
fn read_ports(statement: &Statement<'_>, diagnostics: &mut Vec<Diagnostic>) -> Vec<Word> {
    let words = statement.words();
    for word in &words {
        if !word.value.contains(['$', '"', '\'', statement.escape])
            && let Err(error) = port::parse(&word.value)
        {
            diagnostics.push(
                Diagnostic::error("invalid-port", word.span, error.to_string()).help(port::SYNTAX),
            );
        }
    }
    words
}

fn read_shell(statement: &Statement<'_>, diagnostics: &mut Vec<Diagnostic>) -> Option<Vec<String>> {
    let (span, message) = match json_form(&statement.line.text, statement.arguments.clone()) {
        JsonForm::Strings(strings) if strings.is_empty() => {
            (statement.span(), "SHELL needs at least one element")
        }
        JsonForm::Strings(strings) => {
            return Some(strings.into_iter().map(|(string, _)| string).collect());
        }
        JsonForm::NotStrings(place) => {
            let span = statement.line.span(place);
            diagnostics.push(command::not_strings(statement.verb, span));
            return None;
        }
        JsonForm::No => (
            statement.line.span(statement.arguments.clone()),
            "SHELL needs its arguments as a JSON array",
        ),
    };
    diagnostics.push(
        Diagnostic::error("invalid-shell", span, message).help("write SHELL [\"/bin/sh\", \"-c\"]"),
    );
    None
}

fn read_volumes(statement: &Statement<'_>, diagnostics: &mut Vec<Diagnostic>) -> Option<Vec<Word>> {
    let line = statement.line;
    let volumes = match json_form(&line.text, statement.arguments.clone()) {
        JsonForm::No => statement.words(),
        JsonForm::Strings(strings) => strings
            .into_iter()
            .map(|(string, place)| Spanned::new(string.trim().to_owned(), line.span(place)))
            .collect(),
        JsonForm::NotStrings(place) => {
            diagnostics.push(command::not_strings(statement.verb, line.span(place)));
            return None;
        }
    };
    if volumes.is_empty() {
        diagnostics.push(missing_arguments(statement));
        return None;
    }
    if let Some(empty) = volumes.iter().find(|volume| volume.value.is_empty()) {
        diagnostics.push(
            Diagnostic::error(
                "empty-volume",
                empty.span,
                "a volume can not be an empty string",
            )
            .help("write the path of a directory"),
        );
        return None;
    }
    Some(volumes)
}

fn read_onbuild(
    statement: &Statement<'_>,
    index: &LineIndex,
    diagnostics: &mut Vec<Diagnostic>,
) -> Option<Onbuild> {
    let inner = Statement::cut(
        statement.line,
        statement.arguments.start,
        statement.escape,
        diagnostics,
    )
    .map_err(|unknown| diagnostics.push(unknown.diagnostic()))
    .ok()?;
    let refused = match inner.verb {
        Verb::Onbuild => Some("ONBUILD ONBUILD is not allowed".to_owned()),
        Verb::From | Verb::Maintainer => Some(format!(
            "{} is not allowed as an ONBUILD trigger",
            inner.verb.name()
        )),
        _ => None,
    };
    if let Some(message) = refused {
        let span = statement.line.span(inner.keyword.clone());
        diagnostics.push(Diagnostic::error("invalid-onbuild", span, message));
        return None;
    }
    let inner = Statement {
        heredocs: statement.heredocs,
        ..inner
    };
    // Blanks at the end of the line are kept: the text becomes part of the image's configuration, byte for byte.
    let mut expression = statement.line.text[statement.arguments.start..].to_owned();
    for heredoc in statement.heredocs {
        expression.push('\n');
        expression.push_str(&heredoc.content);
        expression.push_str(&heredoc.name);
    }
    Some(Onbuild {
        trigger: Box::new(read(&inner, index, diagnostics)?),
        expression,
    })
}

/// How the arguments of each instruction look, for help lines.
fn usage(verb: Verb) -> &'static str {
    match verb {
        Verb::Add => "ADD SOURCE… DESTINATION",
        Verb::Arg => "ARG NAME or ARG NAME=DEFAULT",
        Verb::Cmd => "CMD [\"PROGRAM\", \"ARGUMENT\"]; CMD [] for no command",
        Verb::Copy => "COPY SOURCE… DESTINATION",
        Verb::Entrypoint => "ENTRYPOINT [\"PROGRAM\", \"ARGUMENT\"]; ENTRYPOINT [] for no program",
        Verb::Env => "ENV NAME=VALUE",
        Verb::Expose => "EXPOSE PORT or EXPOSE PORT/PROTOCOL",
        Verb::From => "FROM IMAGE or FROM IMAGE AS NAME",
        Verb::Healthcheck => "HEALTHCHECK CMD COMMAND or HEALTHCHECK NONE",
        Verb::Label => "LABEL NAME=VALUE",
        Verb::Maintainer => "LABEL org.opencontainers.image.authors=NAME instead of MAINTAINER",
        Verb::Onbuild => "ONBUILD INSTRUCTION",
        Verb::Run => "RUN COMMAND",
        Verb::Shell => "SHELL [\"/bin/sh\", \"-c\"]",
        Verb::Stopsignal => "STOPSIGNAL SIGTERM",
        Verb::User => "USER NAME or USER UID:GID",
        Verb::Volume => "VOLUME PATH",
        Verb::Workdir => "WORKDIR PATH",
    }
}

pub(crate) fn missing_arguments(statement: &Statement<'_>) -> Diagnostic {
    let amount = match statement.verb {
        Verb::Add | Verb::Copy => "a source and a destination",
        Verb::Maintainer | Verb::Stopsignal | Verb::User | Verb::Workdir => "exactly one argument",
        _ => "at least one argument",
    };
    Diagnostic::error(
        "missing-argument",
        statement.line.span(statement.keyword.clone()),
        format!("{} needs {amount}", statement.verb.name()),
    )
    .help(format!("write {}", usage(statement.verb)))
}
