//! What is doubtful about a Dockerfile, from all who notice something: the parser, the rules about the text, the graph,
//! and the context. What a finding means for the build is said by `# check=` or the build argument that replaces it.

use std::sync::Arc;

use dockerfile::{Check, Diagnostic, Dockerfile, Rule, Severity, Source, SourceLocation, Word};

use crate::context::BuildContext;
use crate::error::{Error, SourceFile};
use crate::graph::{Action, ContextId, Graph, Input, Options, Step};
use crate::progress::Warning;

/// The build argument that replaces `# check=`.
const ARGUMENT: &str = "BUILDKIT_DOCKERFILE_CHECK";

/// What was found, in the order of the file.
#[derive(Clone, Debug)]
pub struct Findings {
    file: Arc<SourceFile>,
    /// The findings that are to be told.
    pub warnings: Vec<Diagnostic>,
    /// Whether they fail the build.
    pub are_errors: bool,
}

/// Everything that is to be told about a file. `parsed` is what the parser remarked.
///
/// # Errors
/// When the build argument that says what to check is wrong.
pub fn findings(
    file: &Arc<SourceFile>,
    options: &Options,
    dockerfile: &Dockerfile,
    parsed: Vec<Diagnostic>,
    graph: &Graph,
    context: &BuildContext,
) -> Result<Findings, Error> {
    let check = policy(options, dockerfile)?;
    let mut warnings = parsed;
    warnings.extend(dockerfile::lint(dockerfile, &file.text));
    warnings.extend(graph.warnings.iter().cloned());
    warnings.extend(ignored(dockerfile, graph, context));
    Ok(Findings::new(file, &check, warnings))
}

/// What a file says of itself that cannot be built far enough to look at its graph.
///
/// # Errors
/// When the build argument that says what to check is wrong.
pub fn findings_of_text(
    file: &Arc<SourceFile>,
    options: &Options,
    dockerfile: &Dockerfile,
    parsed: Vec<Diagnostic>,
) -> Result<Findings, Error> {
    let check = policy(options, dockerfile)?;
    let mut warnings = parsed;
    warnings.extend(dockerfile::lint(dockerfile, &file.text));
    Ok(Findings::new(file, &check, warnings))
}

fn policy(options: &Options, dockerfile: &Dockerfile) -> Result<Check, Error> {
    if let Some(text) = options.build_args.get(ARGUMENT) {
        return text.parse().map_err(|error: dockerfile::InvalidCheck| {
            Error::Request(format!("build argument {ARGUMENT}: {error}"))
        });
    }
    let directive = dockerfile.directives.check.as_ref();
    Ok(directive.map_or_else(Check::default, |check| check.value.clone()))
}

impl Findings {
    fn new(file: &Arc<SourceFile>, check: &Check, mut warnings: Vec<Diagnostic>) -> Self {
        warnings.retain(|warning| !warning.is_error() && check.reports(warning.id));
        warnings.sort_by_key(|warning| (warning.primary.start, warning.id));
        // A stage that several others start from is looked at once, but its words may be asked for twice.
        warnings.dedup();
        Self {
            file: file.clone(),
            warnings,
            are_errors: check.error,
        }
    }

    /// The findings as progress tells them.
    pub fn to_warnings(&self) -> Vec<Warning> {
        let SourceFile { name, text } = self.file.as_ref();
        let warnings = self.warnings.iter().map(|warning| Warning {
            rule: warning.id,
            message: warning.message.clone(),
            file: name.clone(),
            line: warning.line(text),
        });
        warnings.collect()
    }

    /// Fails where findings are errors.
    ///
    /// # Errors
    /// The findings, if there are any and `check=error=true` is asked for.
    pub fn into_result(self) -> Result<(), Error> {
        if !self.are_errors || self.warnings.is_empty() {
            return Ok(());
        }
        let to_error = |warning: Diagnostic| Diagnostic {
            severity: Severity::Error,
            notes: vec!["`check=error=true` makes every finding an error".into()],
            ..warning
        };
        Err(Error::Dockerfile {
            file: self.file,
            diagnostics: self.warnings.into_iter().map(to_error).collect(),
        })
    }
}

/// Files that COPY and ADD name and the context does not offer.
fn ignored(dockerfile: &Dockerfile, graph: &Graph, context: &BuildContext) -> Vec<Diagnostic> {
    let mut found = Vec::new();
    for step in &graph.steps {
        let Action::Copy(copy) = &step.action else {
            continue;
        };
        if copy.from != Input::Context(ContextId::Build) {
            continue;
        }
        let verb = if copy.add { "ADD" } else { "COPY" };
        let words = source_words(dockerfile, step);
        for (position, source) in copy.sources.iter().enumerate() {
            let is_path = SourceLocation::of(source) == SourceLocation::Local
                && !source.contains(['*', '?', '[']);
            if is_path && context.ignores(source) {
                let span = words.get(position).map_or(step.span, |word| word.span);
                found.push(
                    Rule::CopyIgnoredFile
                        .at(
                            span,
                            format!("attempting to {verb} file \"{source}\" that is excluded by .dockerignore"),
                        )
                        .help("take it out of .dockerignore, or write a line `!PATH` below the one that names it"),
                );
            }
        }
    }
    found
}

/// The sources of a step as written.
fn source_words<'d>(dockerfile: &'d Dockerfile, step: &Step) -> Vec<&'d Word> {
    use dockerfile::InstructionKind::{Add, Copy};
    let mut instructions = dockerfile
        .stages
        .iter()
        .flat_map(|stage| &stage.instructions);
    let sources = match instructions
        .find(|instruction| instruction.span == step.span)
        .map(|instruction| &instruction.kind)
    {
        Some(Copy(copy)) => copy.sources.as_slice(),
        Some(Add(add)) => add.sources.as_slice(),
        _ => &[],
    };
    let word = |source: &'d Source| match source {
        Source::Path(word) => Some(word),
        Source::Heredoc(_) => None,
    };
    sources.iter().filter_map(word).collect()
}

#[cfg(test)]
mod tests;
