//! ONBUILD: triggers of a base become the first instructions of the stages that start from it. From then on they are
//! instructions like any other, but that messages about them point to the FROM: their text is in another file.

use std::collections::BTreeMap;

use dockerfile::{Diagnostic, Dockerfile, Instruction, InstructionKind, Stage};

use super::environment::expand_word;
use super::reach::global_scope;
use super::stage::is_replaced;
use super::{BaseConfigs, GraphError, Options, Plan, StageBase};

/// The triggers that images bring, by the position of the stage that starts from one.
pub type Triggers = BTreeMap<usize, Vec<String>>;

impl Plan<'_> {
    /// The triggers of the images that planned stages start from. Where they make the plan reach further stages, those
    /// may bring more.
    pub fn triggers(&self, bases: &BaseConfigs) -> Triggers {
        let mut triggers = Triggers::new();
        for (index, planned) in self.stages.iter().enumerate() {
            let stage = &self.dockerfile.stages[index];
            if let Some(planned) = planned
                && let StageBase::Image(id) = planned.from
                && let Some(image) = bases.get(id.0)
                && !image.config.on_build.is_empty()
                && !is_replaced(self.options, stage, &planned.platform)
            {
                triggers.insert(index, image.config.on_build.clone());
            }
        }
        triggers
    }
}

/// The file with the triggers of stages, and those of `images`, in front of the instructions of the stages that start
/// from them.
///
/// # Errors
/// When a trigger cannot be read, or is not supported.
pub fn with_triggers(
    dockerfile: &Dockerfile,
    options: &Options,
    images: &Triggers,
) -> Result<Dockerfile, GraphError> {
    let mut triggered = dockerfile.clone();
    let has_own = |stage: &Stage| stage.instructions.iter().any(is_onbuild);
    if images.is_empty() && !dockerfile.stages.iter().any(has_own) {
        return Ok(triggered);
    }
    let globals = global_scope(dockerfile, options)?;
    let mut errors = Vec::new();
    for stage in &mut triggered.stages {
        // What cannot be expanded is told when the stage is planned.
        let base = expand_word(&stage.from.image, dockerfile.escape, &globals).ok();
        let base = base.and_then(|image| dockerfile.base_stage(stage.index, &image));
        let texts = match base {
            _ if is_replaced(options, stage, &options.platform) => Vec::new(),
            Some(base) => own_triggers(&dockerfile.stages[base]),
            None => images.get(&stage.index).cloned().unwrap_or_default(),
        };
        let mut instructions = Vec::new();
        for text in &texts {
            match dockerfile::parse_trigger(text) {
                Ok(instruction) => instructions.push(placed(instruction, stage)),
                Err(problems) => errors.push(unreadable(stage, text, &problems)),
            }
        }
        stage.triggers = instructions.len();
        instructions.append(&mut stage.instructions);
        stage.instructions = instructions;
    }
    if errors.is_empty() {
        Ok(triggered)
    } else {
        Err(GraphError::Dockerfile(errors))
    }
}

fn is_onbuild(instruction: &Instruction) -> bool {
    matches!(instruction.kind, InstructionKind::Onbuild(_))
}

/// The triggers that the instructions of a stage set.
fn own_triggers(stage: &Stage) -> Vec<String> {
    let instructions = stage.instructions.iter();
    instructions
        .filter_map(|instruction| match &instruction.kind {
            InstructionKind::Onbuild(onbuild) => Some(onbuild.expression.clone()),
            _ => None,
        })
        .collect()
}

/// The instruction of a trigger as one of `stage`.
fn placed(instruction: Instruction, stage: &Stage) -> Instruction {
    Instruction {
        span: stage.from.span,
        line: stage.from.line,
        source: format!("ONBUILD {}", instruction.source),
        ..instruction
    }
}

fn unreadable(stage: &Stage, text: &str, problems: &[Diagnostic]) -> Diagnostic {
    let first = text.lines().next().unwrap_or_default();
    let problem = problems.first().map_or("", |problem| &problem.message);
    let diagnostic = Diagnostic::error(
        "invalid-onbuild",
        stage.from.image.span,
        format!(
            "the base `{}` has an ONBUILD instruction that cannot be executed: {problem}",
            stage.from.image.value
        ),
    );
    diagnostic
        .note(format!("ONBUILD {first}"))
        .help("use another base, or build this one anew without the instruction")
}

/// `diagnostic`, about the trigger `instruction`, for those who see the file of `stage` only.
pub(super) fn in_trigger(
    diagnostic: &Diagnostic,
    stage: &Stage,
    instruction: &Instruction,
) -> Box<Diagnostic> {
    let moved = Diagnostic::error(
        diagnostic.id,
        stage.from.image.span,
        diagnostic.message.clone(),
    );
    Box::new(moved.note(format!("in the base's trigger `{}`", instruction.source)))
}
