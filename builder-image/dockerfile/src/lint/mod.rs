//! Checks of style and of likely mistakes, with the names that the reference frontend gives them.
//!
//! [`lint`] finds what the text alone tells, in all stages. What needs base images, values of arguments or the context is
//! found by the engine, which makes its findings with [`Rule::at`] as well. Nothing is left out here; [`Check::reports`]
//! tells what the file's `# check=` wants to hear.

mod comment;
mod instruction;
mod rule;
mod stage;
#[cfg(test)]
mod tests;

pub use rule::{About, Rule};

use crate::diagnostic::Diagnostic;
use crate::directive::Check;
use crate::span::Spanned;
use crate::stage::Dockerfile;

/// Everything that the text alone tells, in no particular order. `text` is what the file was parsed from. Findings that
/// parsing makes ([`Rule::NoEmptyContinuation`]) are not repeated.
pub fn lint(dockerfile: &Dockerfile, text: &str) -> Vec<Diagnostic> {
    let mut found = Vec::new();
    stage::check(dockerfile, &mut found);
    instruction::check(dockerfile, &mut found);
    comment::check(dockerfile, text, &mut found);
    found.extend(
        dockerfile
            .directives
            .check
            .as_ref()
            .into_iter()
            .flat_map(unknown_rules),
    );
    found
}

/// Names in `# check=` that are no rules.
fn unknown_rules(check: &Spanned<Check>) -> Vec<Diagnostic> {
    let named = check.value.skip.iter().chain(&check.value.experimental);
    named
        .filter(|name| Rule::named(name).is_none())
        .map(|name| {
            Diagnostic::warning(
                "unknown-rule",
                check.span,
                format!("there is no rule `{name}`"),
            )
            .maybe_help(Rule::similar(name).map(|rule| format!("did you mean `{rule}`?")))
        })
        .collect()
}

impl Check {
    /// Whether a finding is to be told. `id` is that of the diagnostic; those that are no rules of this module are told
    /// unless everything is left out.
    pub fn reports(&self, id: &str) -> bool {
        if self.skip_all || self.skip.iter().any(|name| name == id) {
            return false;
        }
        let asked = self.experimental_all || self.experimental.iter().any(|name| name == id);
        asked || !Rule::named(id).is_some_and(Rule::is_experimental)
    }
}
