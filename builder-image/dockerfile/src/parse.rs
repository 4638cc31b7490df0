//! The parser's loop: directives, then one instruction after the other, put into stages.
//!
//! A mistake never stops it. What could not be read is left out and reported, and consequences of a mistake that is
//! already reported are not reported again.

use crate::diagnostic::Diagnostic;
use crate::directive;
use crate::heredoc::{self, Heredoc};
use crate::instruction::{self, Instruction, Statement, UnknownInstruction, Verb};
use crate::line::Lines;
use crate::span::{LineIndex, Span};
use crate::stage::{self, Dockerfile, Stage};
use crate::supported::unsupported;

/// What came of a text.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Parsed {
    /// The name that was given to the text, for messages.
    pub name: String,
    /// What could be read. `None` if not even one stage could; incomplete if there are errors.
    pub dockerfile: Option<Dockerfile>,
    /// What is wrong, in the order of the text.
    pub diagnostics: Vec<Diagnostic>,
}

impl Parsed {
    /// Whether something prevents the build.
    pub fn has_errors(&self) -> bool {
        self.diagnostics.iter().any(Diagnostic::is_error)
    }

    /// The first thing that prevents the build.
    pub fn first_error(&self) -> Option<&Diagnostic> {
        self.diagnostics
            .iter()
            .find(|diagnostic| diagnostic.is_error())
    }

    /// The file and the warnings about it if it can be built, else all diagnostics.
    pub fn into_result(self) -> Result<(Dockerfile, Vec<Diagnostic>), Vec<Diagnostic>> {
        match self.dockerfile {
            Some(dockerfile) if !self.diagnostics.iter().any(Diagnostic::is_error) => {
                Ok((dockerfile, self.diagnostics))
            }
            _ => Err(self.diagnostics),
        }
    }
}

/// Reads a Dockerfile. `name` is only kept for messages; `text` may begin with a byte order mark and may have Windows
/// line endings. Never panics, whatever the text.
pub fn parse(name: &str, text: &str) -> Parsed {
    let mut parser = Parser::new(text);
    while parser.step() {}
    parser.finish(name, text)
}

/// Reads the text of an ONBUILD trigger, as the configuration of an image holds it: one instruction with its heredocs,
/// which may stand in a stage, and which is supported.
///
/// # Errors
/// What is wrong, with places in a text that begins one line before `text`.
pub fn parse_trigger(text: &str) -> Result<Instruction, Vec<Diagnostic>> {
    let text = format!("FROM scratch\n{text}\n");
    let mut parser = Parser::new(&text);
    while parser.step() {}
    let mut errors = parser.diagnostics;
    errors.retain(Diagnostic::is_error);
    errors.extend(unsupported(&parser.dockerfile, None, |_| true));
    let one = match parser.dockerfile.stages.as_mut_slice() {
        [stage] if stage.instructions.len() == 1 => stage.instructions.pop(),
        _ => None,
    };
    let refused = [Verb::Onbuild, Verb::Maintainer];
    match one.filter(|instruction| !refused.contains(&instruction.keyword.verb)) {
        Some(instruction) if errors.is_empty() => Ok(instruction),
        _ => {
            let problem = "a trigger is one instruction other than FROM, MAINTAINER and ONBUILD";
            let whole = Span::new(0, text.len());
            errors.push(Diagnostic::error("invalid-onbuild", whole, problem));
            Err(errors)
        }
    }
}

/// Where the next instruction belongs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Current {
    /// There was no FROM yet.
    BeforeFrom,
    /// To the last stage.
    Stage,
    /// To a stage whose FROM could not be read: it is checked and dropped.
    Unreadable,
}

struct Parser<'t> {
    lines: Lines<'t>,
    index: LineIndex,
    diagnostics: Vec<Diagnostic>,
    dockerfile: Dockerfile,
    current: Current,
    saw_instruction: bool,
    /// The instruction above.
    previous: Option<Span>,
}

impl<'t> Parser<'t> {
    fn new(text: &'t str) -> Self {
        let mut diagnostics = Vec::new();
        let (directives, start) = directive::read(text, &mut diagnostics);
        let escape = directives.escape_char();
        Self {
            lines: Lines::new(text, start, escape),
            index: LineIndex::new(text),
            diagnostics,
            dockerfile: Dockerfile {
                directives,
                global_args: Vec::new(),
                stages: Vec::new(),
                escape,
            },
            current: Current::BeforeFrom,
            saw_instruction: false,
            previous: None,
        }
    }

    /// Reads one instruction; `false` at the end of the text.
    fn step(&mut self) -> bool {
        let Some(line) = self.lines.next_logical(&mut self.diagnostics) else {
            return false;
        };
        self.saw_instruction = true;
        let escape = self.lines.escape;
        let statement = match Statement::cut(&line, 0, escape, &mut self.diagnostics) {
            Ok(statement) => statement,
            Err(unknown) => {
                self.report_unknown(&unknown);
                return true;
            }
        };
        let heredocs = self.heredocs(&statement);
        let statement = Statement {
            heredocs: &heredocs,
            ..statement
        };
        self.previous = Some(statement.span());
        if statement.verb == Verb::From {
            self.begin_stage(&statement);
            return true;
        }
        if self.current == Current::BeforeFrom && statement.verb != Verb::Arg {
            self.diagnostics.push(before_from(&statement));
            self.current = Current::Unreadable;
        }
        if let Some(instruction) = instruction::read(&statement, &self.index, &mut self.diagnostics)
        {
            self.append(instruction);
        }
        true
    }

    fn heredocs(&mut self, statement: &Statement<'_>) -> Vec<Heredoc> {
        if !statement.line.text.contains("<<") || !statement.may_open_heredocs() {
            return Vec::new();
        }
        let openings = heredoc::openings(&statement.line.text, statement.keyword.end);
        heredoc::read_bodies(
            openings,
            statement.line,
            &mut self.lines,
            &mut self.diagnostics,
        )
    }

    fn begin_stage(&mut self, statement: &Statement<'_>) {
        let Some(from) = stage::read_from(statement, &self.index, &mut self.diagnostics) else {
            self.current = Current::Unreadable;
            return;
        };
        self.current = Current::Stage;
        self.dockerfile.stages.push(Stage {
            index: self.dockerfile.stages.len(),
            name: from.name.as_ref().map(|name| name.value.to_lowercase()),
            span: from.span,
            from,
            triggers: 0,
            instructions: Vec::new(),
        });
    }

    fn append(&mut self, instruction: Instruction) {
        match (self.current, self.dockerfile.stages.last_mut()) {
            (Current::Stage, Some(stage)) => {
                stage.span = stage.span.to(instruction.span);
                for heredoc in instruction.kind.heredocs() {
                    stage.span = stage.span.to(heredoc.body);
                }
                stage.instructions.push(instruction);
            }
            (Current::BeforeFrom, _) => self.dockerfile.global_args.push(instruction),
            _ => {}
        }
    }

    fn report_unknown(&mut self, unknown: &UnknownInstruction) {
        let meant = unknown.meant();
        let mut diagnostic = unknown.diagnostic();
        if let (None, Some(previous)) = (meant, self.previous)
            && !unknown.is_blank()
        {
            let end = Span::new(previous.end, previous.end);
            diagnostic = diagnostic
                .also(end, "the instruction above ends here")
                .help(format!(
                    "if this line continues it, end that one with `{}`",
                    self.lines.escape
                ));
        }
        self.diagnostics.push(diagnostic);
        // A misspelled FROM begins a stage all the same, so what follows must not go to the stage above.
        if meant == Some(Verb::From) || self.current == Current::BeforeFrom && meant.is_none() {
            self.current = Current::Unreadable;
        }
    }

    fn finish(mut self, name: &str, text: &str) -> Parsed {
        if !self.saw_instruction {
            let end = Span::new(text.len(), text.len());
            self.diagnostics.push(
                Diagnostic::error("no-instructions", end, "the file has no instructions")
                    .help("begin with FROM IMAGE"),
            );
        } else if self.dockerfile.stages.is_empty() && self.current == Current::BeforeFrom {
            let last = self.dockerfile.global_args.last().map(|arg| arg.span);
            self.diagnostics.push(
                Diagnostic::error(
                    "no-stages",
                    last.unwrap_or_default(),
                    "the file has no FROM, so there is nothing to build",
                )
                .help("write FROM IMAGE below the ARG instructions"),
            );
        }
        stage::check_references(&self.dockerfile, &mut self.diagnostics);
        self.diagnostics
            .sort_by_key(|diagnostic| diagnostic.primary.start);
        Parsed {
            name: name.to_owned(),
            dockerfile: Some(self.dockerfile).filter(|file| !file.stages.is_empty()),
            diagnostics: self.diagnostics,
        }
    }
}

fn before_from(statement: &Statement<'_>) -> Diagnostic {
    Diagnostic::error(
        "before-from",
        statement.line.span(statement.keyword.clone()),
        format!("{} stands before the first FROM", statement.verb.name()),
    )
    .help("begin with FROM IMAGE; only ARG may stand before it")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn triggers_are_one_instruction() {
        for (text, good) in [
            ("RUN make", true),
            ("COPY --from=0 a b", true),
            ("COPY --from=later a b", true),
            ("COPY <<EOF /x\nbody\nEOF", true),
            ("RUN a \\\n b", true),
            ("", false),
            ("# RUN a", false),
            ("FROM b", false),
            ("ONBUILD RUN a", false),
            ("MAINTAINER a", false),
            ("RUNN a", false),
            ("RUN a\nRUN b", false),
            ("RUN a\nFROM b", false),
            ("COPY a", false),
            ("COPY <<EOF /x\nbody", false),
            ("RUN --device=x a", false),
        ] {
            assert_eq!(parse_trigger(text).is_ok(), good, "{text}");
        }
    }
}
