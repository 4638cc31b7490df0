//! Rules about FROM and the names of stages.

use super::rule::Rule;
use crate::diagnostic::Diagnostic;
use crate::span::Word;
use crate::stage::{Dockerfile, Stage};

/// Names that mean something else.
const RESERVED: [&str; 2] = ["context", "scratch"];

pub(super) fn check(dockerfile: &Dockerfile, found: &mut Vec<Diagnostic>) {
    for stage in &dockerfile.stages {
        names(dockerfile, stage, found);
        if let Some(as_keyword) = &stage.from.as_keyword {
            let from = &stage.from.keyword.text;
            if is_lower(from) != is_lower(&as_keyword.value) {
                let right = if is_lower(from) { "as" } else { "AS" };
                found.push(
                    Rule::FromAsCasing
                        .at(
                            as_keyword.span,
                            format!(
                                "'{}' and '{from}' keywords' casing do not match",
                                as_keyword.value
                            ),
                        )
                        .help(format!("write `{right}`")),
                );
            }
        }
        if let Some(platform) = &stage.from.platform {
            found.extend(redundant(platform));
        }
    }
}

fn names(dockerfile: &Dockerfile, stage: &Stage, found: &mut Vec<Diagnostic>) {
    let (Some(name), Some(written)) = (&stage.name, &stage.from.name) else {
        return;
    };
    if *name != written.value {
        found.push(
            Rule::StageNameCasing
                .at(
                    written.span,
                    format!("stage name '{}' should be lowercase", written.value),
                )
                .help(format!("write `{name}`")),
        );
    }
    if RESERVED.contains(&name.as_str()) {
        found.push(
            Rule::ReservedStageName
                .at(
                    written.span,
                    format!("stage name should not use the same name as reserved stage \"{name}\""),
                )
                .help("give the stage another name"),
        );
    }
    let earlier = dockerfile.stages[..stage.index]
        .iter()
        .find(|earlier| earlier.name.as_ref() == Some(name))
        .and_then(|earlier| earlier.from.name.as_ref());
    if let Some(earlier) = earlier {
        found.push(
            Rule::DuplicateStageName
                .at(
                    written.span,
                    format!("duplicate stage name \"{name}\", stage names should be unique"),
                )
                .also(earlier.span, "the first one is here")
                .help("give one of the two another name"),
        );
    }
}

fn redundant(platform: &Word) -> Option<Diagnostic> {
    let written = platform.value.trim_matches('"');
    ["$TARGETPLATFORM", "${TARGETPLATFORM}"].contains(&written).then(|| {
        Rule::RedundantTargetPlatform
            .at(
                platform.span,
                format!("setting platform to predefined {written} in FROM is redundant as this is the default behavior"),
            )
            .help("remove the flag")
    })
}

pub(super) fn is_lower(word: &str) -> bool {
    word == word.to_lowercase()
}
