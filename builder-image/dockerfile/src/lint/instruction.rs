//! Rules about single instructions, and about how often and in which letter case they stand.

use std::sync::LazyLock;

use regex::Regex;

use super::rule::Rule;
use crate::diagnostic::Diagnostic;
use crate::instruction::{Instruction, InstructionKind, KeyValue, Keyword, Separator, Verb};
use crate::span::Word;
use crate::stage::{Dockerfile, Stage};

pub(super) fn check(dockerfile: &Dockerfile, found: &mut Vec<Diagnostic>) {
    casing(dockerfile, found);
    for stage in &dockerfile.stages {
        once(stage, found);
        for instruction in &stage.instructions {
            one(instruction, found);
        }
    }
}

fn casing(dockerfile: &Dockerfile, found: &mut Vec<Diagnostic>) {
    let global = dockerfile.global_args.iter().map(|arg| &arg.keyword);
    let staged = dockerfile.stages.iter().flat_map(|stage| {
        let own = stage.instructions.iter().map(|i| &i.keyword);
        std::iter::once(&stage.from.keyword).chain(own)
    });
    let keywords: Vec<&Keyword> = global.chain(staged).collect();
    let count = |same: fn(&str) -> String| {
        let matching = keywords.iter().filter(|word| same(&word.text) == word.text);
        matching.count()
    };
    let lower = count(str::to_lowercase) > count(str::to_uppercase);
    for keyword in keywords {
        let (right, name) = if lower {
            (keyword.text.to_lowercase(), "lowercase")
        } else {
            (keyword.text.to_uppercase(), "uppercase")
        };
        if right != keyword.text {
            found.push(
                Rule::ConsistentInstructionCasing
                    .at(
                        keyword.span,
                        format!(
                            "command '{}' should match the case of the command majority ({name})",
                            keyword.text
                        ),
                    )
                    .help(format!("write `{right}`")),
            );
        }
    }
}

fn once(stage: &Stage, found: &mut Vec<Diagnostic>) {
    for verb in [Verb::Cmd, Verb::Entrypoint, Verb::Healthcheck] {
        let all: Vec<_> = stage
            .instructions
            .iter()
            .filter(|instruction| instruction.keyword.verb == verb)
            .collect();
        let Some((last, others)) = all.split_last() else {
            continue;
        };
        for other in others {
            found.push(
                Rule::MultipleInstructionsDisallowed
                    .at(
                        other.span,
                        format!(
                            "multiple {} instructions should not be used in the same stage because only the last one will be used",
                            verb.name()
                        ),
                    )
                    .also(last.span, "this one is used")
                    .help("remove it"),
            );
        }
    }
}

fn one(instruction: &Instruction, found: &mut Vec<Diagnostic>) {
    match &instruction.kind {
        InstructionKind::Maintainer(name) => found.push(
            Rule::MaintainerDeprecated
                .at(
                    instruction.span,
                    "maintainer instruction is deprecated in favor of using label",
                )
                .help(format!(
                    "write `LABEL org.opencontainers.image.authors=\"{}\"`",
                    name.value.trim_matches('"')
                )),
        ),
        InstructionKind::Env(pairs) => {
            legacy(instruction, pairs, found);
            for pair in pairs {
                secret(instruction, &pair.key, found);
            }
        }
        InstructionKind::Label(pairs) => legacy(instruction, pairs, found),
        InstructionKind::Arg(declarations) => {
            for declaration in declarations {
                secret(instruction, &declaration.name, found);
            }
        }
        InstructionKind::Onbuild(onbuild) => one(&onbuild.trigger, found),
        _ => {}
    }
}

fn legacy(instruction: &Instruction, pairs: &[KeyValue], found: &mut Vec<Diagnostic>) {
    let Some(pair) = pairs.iter().find(|pair| pair.separator == Separator::Blank) else {
        return;
    };
    let name = instruction.keyword.verb.name();
    let value = &pair.value.value;
    let quoted = if value.contains(char::is_whitespace) && !value.starts_with(['"', '\'']) {
        format!("\"{value}\"")
    } else {
        value.clone()
    };
    found.push(
        Rule::LegacyKeyValueFormat
            .at(
                instruction.span,
                format!("\"{name} key=value\" should be used instead of legacy \"{name} key value\" format"),
            )
            .help(format!("write `{name} {}={quoted}`", pair.key.value)),
    );
}

/// A name that has a word for a secret among its parts, and is not of a public key.
fn secret(instruction: &Instruction, key: &Word, found: &mut Vec<Diagnostic>) {
    static SECRET: LazyLock<Regex> = LazyLock::new(|| {
        Regex::new(
            "(?i)(?:_|^)(?:apikey|auth|credentials?|key|passw(?:or)?d|pword|secret|token)(?:_|$)",
        )
        .expect("the expression is valid")
    });
    static PUBLIC: LazyLock<Regex> =
        LazyLock::new(|| Regex::new("(?i)(?:_|^)public(?:_|$)").expect("the expression is valid"));
    if SECRET.is_match(&key.value) && !PUBLIC.is_match(&key.value) {
        found.push(
            Rule::SecretsUsedInArgOrEnv
                .at(
                    key.span,
                    format!(
                        "do not use ARG or ENV instructions for sensitive data ({} \"{}\")",
                        instruction.keyword.verb.name(),
                        key.value
                    ),
                )
                .help("give it to the one RUN that needs it: `RUN --mount=type=secret,id=NAME`"),
        );
    }
}
