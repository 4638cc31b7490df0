//! Stages: what stands between one FROM and the next, and how stages are named and found.

use std::sync::LazyLock;

use regex::Regex;

use crate::diagnostic::Diagnostic;
use crate::directive::Directives;
use crate::instruction::{
    Copy, Instruction, InstructionKind, Keyword, Statement, missing_arguments,
};
use crate::span::{LineIndex, Span, Word};
use crate::suggest::{did_you_mean, nearest};

/// A file that was read.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Dockerfile {
    /// The directives at the top.
    pub directives: Directives,
    /// The ARG instructions before the first FROM. Only FROM sees them.
    pub global_args: Vec<Instruction>,
    /// The stages in order.
    pub stages: Vec<Stage>,
    /// The escape character, from the directive or `\`.
    pub escape: char,
}

/// FROM and the instructions behind it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Stage {
    /// Position in the file, from 0.
    pub index: usize,
    /// The name in lower case; names are compared without letter case.
    pub name: Option<String>,
    /// The FROM.
    pub from: From,
    /// How many of the instructions were put in front by ONBUILD of the base; none after parsing.
    pub triggers: usize,
    /// What follows it.
    pub instructions: Vec<Instruction>,
    /// From the FROM to the end of the last instruction.
    pub span: Span,
}

/// `FROM [--platform=…] image [AS name]`
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct From {
    /// Image, earlier stage or `scratch`; expanded with the global ARGs.
    pub image: Word,
    /// `--platform`, expanded with the global ARGs.
    pub platform: Option<Word>,
    /// The name as written.
    pub name: Option<Word>,
    /// `FROM` as written.
    pub keyword: Keyword,
    /// `AS` as written.
    pub as_keyword: Option<Word>,
    /// The whole instruction.
    pub span: Span,
    /// The text with continuations joined.
    pub source: String,
    /// 1-based line.
    pub line: usize,
}

/// A stage that was asked for and does not exist.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("target stage `{name}` does not exist{}", hint(suggestion.as_deref(), known))]
pub struct UnknownStage {
    /// What was asked for.
    pub name: String,
    /// What was probably meant.
    pub suggestion: Option<String>,
    /// The names that exist.
    pub known: Vec<String>,
}

fn hint(suggestion: Option<&str>, known: &[String]) -> String {
    match suggestion {
        Some(name) => format!(", did you mean `{name}`?"),
        None if known.is_empty() => ", no stage of this file has a name".to_owned(),
        None => format!(", the stages are {}", known.join(", ")),
    }
}

impl Dockerfile {
    /// The stage to build: the one of that name, or the last one.
    pub fn target(&self, name: Option<&str>) -> Result<usize, UnknownStage> {
        let Some(name) = name.filter(|name| !name.is_empty()) else {
            return Ok(self.stages.len().saturating_sub(1));
        };
        self.stage_named(name).ok_or_else(|| UnknownStage {
            name: name.to_owned(),
            suggestion: self.similar_stage(name).map(str::to_owned),
            known: self.names().map(str::to_owned).collect(),
        })
    }

    /// The stage of that name, in any letter case; the last one if several have it. For `COPY --from`, `--mount` and
    /// `--target`.
    pub fn stage_named(&self, name: &str) -> Option<usize> {
        self.last_named(name, self.stages.len())
    }

    /// The stage that an expanded FROM of stage `index` names: only stages above it count, and an index is no name.
    pub fn base_stage(&self, index: usize, image: &str) -> Option<usize> {
        self.last_named(image, index)
    }

    /// The stage that `COPY --from` names: an index, or a name. `None` means that it names something else, such as an
    /// image.
    pub fn copy_stage(&self, from: &str) -> Option<usize> {
        match from.parse::<usize>() {
            Ok(index) if index < self.stages.len() => Some(index),
            Ok(_) => None,
            Err(_) => self.stage_named(from),
        }
    }

    /// The name of a stage that `name` is probably a misspelling of. To be told when an image of that name does not
    /// exist.
    pub fn similar_stage(&self, name: &str) -> Option<&str> {
        nearest(name, self.names())
    }

    fn names(&self) -> impl Iterator<Item = &str> {
        self.stages.iter().filter_map(|stage| stage.name.as_deref())
    }

    fn last_named(&self, name: &str, before: usize) -> Option<usize> {
        let name = name.to_lowercase();
        self.stages
            .iter()
            .take(before)
            .rposition(|stage| stage.name.as_ref() == Some(&name))
    }
}

/// Reads a FROM. `None`, with a diagnostic, if it makes no sense.
pub(crate) fn read_from(
    statement: &Statement<'_>,
    index: &LineIndex,
    diagnostics: &mut Vec<Diagnostic>,
) -> Option<From> {
    let words = statement.words();
    let (image, as_keyword, name) = match words.as_slice() {
        [] => {
            diagnostics.push(missing_arguments(statement));
            return None;
        }
        [image] => (image, None, None),
        [image, keyword, name] if keyword.value.eq_ignore_ascii_case("as") => {
            check_name(name, diagnostics)?;
            (image, Some(keyword.clone()), Some(name.clone()))
        }
        [_, rest @ ..] => {
            diagnostics.push(wrong_words(rest));
            return None;
        }
    };
    let platform = statement.flags.value("platform");
    if platform.is_none()
        && let Some(flag) = statement.flags.find("platform")
    {
        diagnostics.push(
            Diagnostic::error(
                "invalid-flag",
                flag.span,
                "flag `--platform` of FROM is empty",
            )
            .help("write `--platform=linux/amd64`, or leave the flag out"),
        );
    }
    Some(From {
        image: image.clone(),
        platform,
        name,
        keyword: statement.keyword(),
        as_keyword,
        span: statement.span(),
        source: statement.source(),
        line: index.line(statement.span().start),
    })
}

fn check_name(name: &Word, diagnostics: &mut Vec<Diagnostic>) -> Option<()> {
    static NAME: LazyLock<Regex> =
        LazyLock::new(|| Regex::new("^[a-z][a-z0-9-_.]*$").expect("the expression is valid"));
    if NAME.is_match(&name.value.to_lowercase()) {
        return Some(());
    }
    diagnostics.push(
        Diagnostic::error(
            "invalid-stage-name",
            name.span,
            format!("invalid name for a stage: `{}`", name.value),
        )
        .help("a name begins with a letter and holds only letters, digits, `-`, `_` and `.`"),
    );
    None
}

/// `rest` is what follows the image.
fn wrong_words(rest: &[Word]) -> Diagnostic {
    let span = rest
        .iter()
        .map(|word| word.span)
        .reduce(Span::to)
        .unwrap_or_default();
    let diagnostic = Diagnostic::error(
        "invalid-from",
        span,
        "FROM needs either one argument, or three: image AS name",
    );
    match rest {
        [word, ..] if word.value.starts_with('#') => {
            diagnostic.help("a comment stands on a line of its own")
        }
        [word, ..] if word.value.starts_with("--") => {
            diagnostic.help("flags stand before the image")
        }
        [word] if word.value.eq_ignore_ascii_case("as") => {
            diagnostic.help("write the name of the stage behind AS")
        }
        [name] => diagnostic.help(format!("to name the stage, write AS {}", name.value)),
        [word, name] => diagnostic.maybe_help(
            did_you_mean(&word.value, ["AS"])
                .or_else(|| Some(format!("to name the stage, write AS {}", name.value))),
        ),
        _ => diagnostic,
    }
}

/// Checks what can only be told once all stages are known.
pub(crate) fn check_references(dockerfile: &Dockerfile, diagnostics: &mut Vec<Diagnostic>) {
    for stage in &dockerfile.stages {
        for instruction in &stage.instructions {
            if let InstructionKind::Copy(Copy {
                from: Some(from), ..
            }) = &instruction.kind
            {
                check_from(dockerfile, stage, from, diagnostics);
            }
        }
    }
}

/// `COPY --from` must name another stage; what is neither index nor name of a stage may still be an image.
fn check_from(
    dockerfile: &Dockerfile,
    stage: &Stage,
    from: &Word,
    diagnostics: &mut Vec<Diagnostic>,
) {
    let count = dockerfile.stages.len();
    let plural = if count == 1 { "stage" } else { "stages" };
    match dockerfile.copy_stage(&from.value) {
        Some(index) if index == stage.index => diagnostics.push(
            Diagnostic::error(
                "circular-stage",
                from.span,
                "a stage can not copy from itself",
            )
            .also(stage.from.span, format!("this is stage {index}")),
        ),
        Some(index) if index > stage.index => diagnostics.push(
            Diagnostic::error(
                "stage-order",
                from.span,
                format!("stage `{}` comes after this one", from.value),
            )
            .also(dockerfile.stages[index].from.span, "it is here")
            .help("move that stage up: a stage copies from those before it"),
        ),
        None if from.value.bytes().all(|b| b.is_ascii_digit()) => diagnostics.push(
            Diagnostic::error(
                "unknown-stage",
                from.span,
                format!("there is no stage {}", from.value),
            )
            .note(format!("the file has {count} {plural}, counted from 0")),
        ),
        _ => {}
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn file() -> Dockerfile {
        let text = "FROM a AS One\nFROM one AS two\nFROM two AS one\nFROM one\n";
        crate::parse("f", text).dockerfile.expect("four stages")
    }

    #[test]
    fn stages_are_found_by_name_and_index() {
        let file = file();
        // FROM looks upwards, everything else sees the last stage of a name; an index is a name only for COPY.
        for (index, image, expected) in [
            (0, "one", None),
            (1, "one", Some(0)),
            (2, "TWO", Some(1)),
            (2, "one", Some(0)),
            (3, "one", Some(2)),
            (3, "0", None),
        ] {
            assert_eq!(file.base_stage(index, image), expected, "{index} {image}");
        }
        for (from, expected) in [
            ("One", Some(2)),
            ("two", Some(1)),
            ("0", Some(0)),
            ("3", Some(3)),
            ("4", None),
            ("alpine", None),
        ] {
            assert_eq!(file.copy_stage(from), expected, "{from}");
        }
    }

    #[test]
    fn targets() {
        let file = file();
        assert_eq!(file.target(None), Ok(3));
        assert_eq!(file.target(Some("")), Ok(3));
        assert_eq!(file.target(Some("TWO")), Ok(1));
        let message = |name| file.target(Some(name)).map_err(|error| error.to_string());
        assert_eq!(
            message("tow"),
            Err("target stage `tow` does not exist, did you mean `two`?".to_owned())
        );
        assert_eq!(
            message("0"),
            Err("target stage `0` does not exist, the stages are one, two, one".to_owned())
        );
    }
}
