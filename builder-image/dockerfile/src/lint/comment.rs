//! The rule about comments right above stages and arguments.

use super::rule::Rule;
use crate::diagnostic::Diagnostic;
use crate::instruction::{Instruction, InstructionKind};
use crate::span::{LineIndex, Span};
use crate::stage::Dockerfile;

pub(super) fn check(dockerfile: &Dockerfile, text: &str, found: &mut Vec<Diagnostic>) {
    let index = LineIndex::new(text);
    let lines: Vec<&str> = text.lines().collect();
    let mut describe = |span: Span, what: &str, names: &[&str]| {
        let line = index.line(span.start);
        // Directives are at the top of a file, and are no descriptions.
        let above = line
            .checked_sub(2)
            .and_then(|above| lines.get(above))
            .and_then(|above| above.trim_start().strip_prefix('#'))
            .filter(|_| line - 1 > directive_lines(dockerfile, &index));
        let Some(comment) = above.map(str::trim) else {
            return;
        };
        let first = comment.split_whitespace().next().unwrap_or_default();
        if names.is_empty() || names.contains(&first) {
            return;
        }
        let example = match names {
            [name] => name,
            _ => "<arg_key>",
        };
        found.push(
            Rule::InvalidDefinitionDescription
                .at(
                    span,
                    format!(
                        "comment for {what} should follow the format: `# {example} <description>`"
                    ),
                )
                .help("leave a blank line between the comment and the instruction if it is no description"),
        );
    };
    for stage in &dockerfile.stages {
        if let Some(name) = &stage.from.name {
            describe(stage.from.span, "build stage", &[name.as_str()]);
        }
    }
    let global = dockerfile.global_args.iter();
    let staged = dockerfile
        .stages
        .iter()
        .flat_map(|stage| &stage.instructions);
    for instruction in global.chain(staged) {
        describe(instruction.span, "arg", &arguments(instruction));
    }
}

fn arguments(instruction: &Instruction) -> Vec<&str> {
    match &instruction.kind {
        InstructionKind::Arg(declarations) => declarations
            .iter()
            .map(|declaration| declaration.name.as_str())
            .collect(),
        _ => Vec::new(),
    }
}

/// The line of the last directive; 0 where there is none.
fn directive_lines(dockerfile: &Dockerfile, index: &LineIndex) -> usize {
    let directives = &dockerfile.directives;
    let places = [
        directives.syntax.as_ref().map(|syntax| syntax.span),
        directives.escape.as_ref().map(|escape| escape.span),
        directives.check.as_ref().map(|check| check.span),
    ];
    let lines = places
        .into_iter()
        .flatten()
        .map(|span| index.line(span.start));
    lines.max().unwrap_or_default()
}
