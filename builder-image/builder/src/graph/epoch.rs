//! What SOURCE_DATE_EPOCH names where it is no number: the build context, a named one, or a stage that is one remote ADD.

use dockerfile::{Diagnostic, Dockerfile, InstructionKind, Scope as _, Source, SourceLocation};

use super::environment::{Variables, expand_word};
use super::reach::global_scope;
use super::{ContextKind, GraphError, Options};

/// Where the epoch is taken from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum EpochSource {
    /// The build context.
    Context,
    /// The named context of this name.
    Named(String),
    /// The one file or repository that a stage adds, as its ADD names it.
    Remote(String),
}

/// The source that SOURCE_DATE_EPOCH names; none where it is a number, empty, or names nothing that is there.
///
/// # Errors
/// When it names a context or stage that has no moment.
pub fn epoch_source(
    dockerfile: &Dockerfile,
    options: &Options,
) -> Result<Option<EpochSource>, GraphError> {
    let globals = global_scope(dockerfile, options)?;
    let given = options.build_args.get("SOURCE_DATE_EPOCH");
    let Some(name) = given
        .map(String::as_str)
        .or_else(|| globals.get("SOURCE_DATE_EPOCH"))
    else {
        return Ok(None);
    };
    if name.is_empty() || name.parse::<i64>().is_ok() {
        return Ok(None);
    }
    if name == "context" {
        return Ok(Some(EpochSource::Context));
    }
    let refuse = |span, problem: &str| {
        Err(GraphError::Dockerfile(vec![
            Diagnostic::error(
                "invalid-epoch",
                span,
                format!("SOURCE_DATE_EPOCH is `{name}`, {problem}"),
            )
            .help("name a git or http context, or a stage that is `FROM scratch` and one ADD of a URL or repository"),
        ]))
    };
    let first = dockerfile.stages[0].from.span;
    let name = match options.context(name, &options.platform) {
        Some((key, ContextKind::Files)) => return Ok(Some(EpochSource::Named(key.to_owned()))),
        Some((_, ContextKind::Image)) => return refuse(first, "which is an image"),
        Some((_, ContextKind::Stage(stage))) => stage,
        None => name,
    };
    let Some(index) = dockerfile.copy_stage(name) else {
        return Ok(None);
    };
    let stage = &dockerfile.stages[index];
    let span = stage.from.span;
    let base = expand_word(&stage.from.image, dockerfile.escape, &globals)
        .map_err(|error| GraphError::Dockerfile(vec![*error]))?;
    let fail = |error: Box<Diagnostic>| GraphError::Dockerfile(vec![*error]);
    let mut arguments = Variables::default();
    let mut adds = Vec::new();
    for instruction in &stage.instructions {
        let InstructionKind::Arg(declarations) = &instruction.kind else {
            adds.push(instruction);
            continue;
        };
        for declaration in declarations {
            let expand = |word| expand_word(word, dockerfile.escape, &arguments);
            let name = expand(&declaration.name).map_err(fail)?;
            let value = match (options.build_args.get(&name), &declaration.default) {
                (Some(value), _) => Some(value.clone()),
                (None, Some(default)) => Some(expand(default).map_err(fail)?),
                (None, None) => globals.get(&name).map(str::to_owned),
            };
            if let Some(value) = value {
                arguments.set(&name, value);
            }
        }
    }
    let [instruction] = adds.as_slice() else {
        return refuse(span, "a stage of other than one instruction");
    };
    match &instruction.kind {
        InstructionKind::Add(add) if base == "scratch" => match add.sources.as_slice() {
            [Source::Path(word)] => {
                let path = expand_word(word, dockerfile.escape, &arguments).map_err(fail)?;
                match SourceLocation::of(&path) {
                    SourceLocation::Local => refuse(span, "a stage that adds what is not remote"),
                    _ => Ok(Some(EpochSource::Remote(path))),
                }
            }
            _ => refuse(span, "a stage that adds more than one source"),
        },
        _ => refuse(span, "a stage that is not `FROM scratch` and one ADD"),
    }
}
