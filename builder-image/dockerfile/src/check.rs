//! Checks the syntax of substitutions before anything is executed, so that `${a^}` in the last line is told before the
//! first line runs. Values are not known here: `${a:?}` is never a mistake.

use crate::diagnostic::Diagnostic;
use crate::expand::{self, ExpandError};
use crate::instruction::{Instruction, InstructionKind};
use crate::span::{Span, Word};
use crate::stage::Dockerfile;

/// Reports malformed substitutions and quotes in the stages that `reachable` names (by index) and in the global ARGs.
/// Stages that are not built may hold any, as in the reference frontend.
pub fn check_expansions(
    dockerfile: &Dockerfile,
    reachable: impl Fn(usize) -> bool,
) -> Vec<Diagnostic> {
    let escape = dockerfile.escape;
    let mut diagnostics = Vec::new();
    for instruction in &dockerfile.global_args {
        check_instruction(instruction, escape, &mut diagnostics);
    }
    for stage in &dockerfile.stages {
        // Every FROM is expanded, because that tells which stages there are.
        check_word(&stage.from.image, escape, &mut diagnostics);
        if !reachable(stage.index) {
            continue;
        }
        if let Some(platform) = &stage.from.platform {
            check_word(platform, escape, &mut diagnostics);
        }
        for instruction in &stage.instructions {
            check_instruction(instruction, escape, &mut diagnostics);
        }
    }
    diagnostics
}

fn check_instruction(instruction: &Instruction, escape: char, diagnostics: &mut Vec<Diagnostic>) {
    // A mount is cut into its fields before they are expanded.
    if !matches!(instruction.kind, InstructionKind::Run(_)) {
        for word in instruction.kind.expanded_words() {
            check_word(word, escape, diagnostics);
        }
    }
}

fn check_word(word: &Word, escape: char, diagnostics: &mut Vec<Diagnostic>) {
    if let Err(error) = expand::check(&word.value, escape) {
        diagnostics.push(Diagnostic::expansion(word, &error));
    }
}

impl Diagnostic {
    /// Tells that a word could not be expanded, and where in it the reason stands.
    pub fn expansion(word: &Word, error: &ExpandError) -> Self {
        // Offsets into a word are offsets into the source only where no line break or JSON escape is in between.
        let verbatim = word.span.len() == word.value.len();
        let span = if verbatim && word.value.is_char_boundary(error.offset) {
            let start = word.span.start + error.offset;
            Span::new(start.min(word.span.end), word.span.end)
        } else {
            word.span
        };
        Self::error("invalid-expansion", span, error.to_string()).maybe_help(error.help())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn malformed_substitutions_are_found_where_they_matter() {
        let text =
            "ARG a=${}\nFROM x AS one\nENV b=${c^}\nFROM y\nCOPY \\\n a ${d /\nENV e=${f:?g} h='\n";
        let parsed = crate::parse("f", text);
        assert_eq!(parsed.diagnostics, []);
        let dockerfile = parsed.dockerfile.expect("two stages");
        let found: Vec<_> = check_expansions(&dockerfile, |stage| stage == 1)
            .iter()
            .map(|diagnostic| {
                let Span { start, end } = diagnostic.primary;
                (diagnostic.one_line("f", text), &text[start..end])
            })
            .collect();
        let expected = [
            (
                "f:1: bad substitution: `${` must be followed by a name",
                "${}",
            ),
            ("f:6: unsupported modifier ` ` in substitution", "${d"),
            (
                "f:7: unexpected end of the word: no closing single quote",
                "'",
            ),
        ];
        assert_eq!(found[0], (expected[0].0.to_owned(), expected[0].1));
        assert_eq!(found[1].1, expected[1].1);
        assert_eq!(found[2], (expected[2].0.to_owned(), expected[2].1));
        assert_eq!(found.len(), 3);
    }
}
