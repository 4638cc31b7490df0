//! Checks that need the values of arguments, base images or the environment that a stage inherits. What the text alone
//! tells is found in the crate `dockerfile`; what is made of the findings is decided by the caller of [`super::build`].

use dockerfile::{
    CommandForm, Diagnostic, Expansion, Instruction, InstructionKind, Rule, Scope as _, Stage,
    Verb, Word,
};
use oci::ImageConfig;

use super::environment::Variables;
use super::reach::default_globals;
use super::stage::Builder;
use super::{BaseConfigs, Plan, StageBase};

/// What is to be said of FROM, in all stages.
pub(super) fn froms(plan: &Plan<'_>, bases: &BaseConfigs) -> Vec<Diagnostic> {
    let defaults = default_globals(plan);
    let mut found = Vec::new();
    for stage in &plan.dockerfile.stages {
        let from = &stage.from;
        for word in [Some(&from.image), from.platform.as_ref()]
            .into_iter()
            .flatten()
        {
            found.extend(undeclared(plan, word));
        }
        found.extend(from.platform.as_ref().and_then(|platform| {
            let used = expansion(plan, platform, &plan.globals)?;
            constant_platform(stage, platform, &used)
        }));
        found.extend(
            defaults
                .as_ref()
                .and_then(|defaults| invalid_default(plan, stage, defaults)),
        );
        found.extend(other_platform(plan, stage, bases));
    }
    found
}

fn expansion(plan: &Plan<'_>, word: &Word, scope: &Variables) -> Option<Expansion> {
    dockerfile::expand_traced(&word.value, plan.dockerfile.escape, scope).ok()
}

/// Whether the word says what to do where `name` is not set.
fn has_alternative(word: &Word, name: &str) -> bool {
    ["-", ":-", "+", ":+", "?", ":?"]
        .iter()
        .any(|modifier| word.value.contains(&format!("${{{name}{modifier}")))
}

fn undeclared(plan: &Plan<'_>, word: &Word) -> Vec<Diagnostic> {
    let Some(used) = expansion(plan, word, &plan.globals) else {
        return Vec::new();
    };
    let unset = used.unset.iter();
    unset
        // A name that is declared without a value is declared.
        .filter(|name| !has_alternative(word, name) && !is_declared(plan, name))
        .map(|name| {
            let finding = Rule::UndefinedArgInFrom
                .at(word.span, format!("FROM argument '{name}' is not declared"));
            match dockerfile::nearest(name, plan.globals.names()) {
                Some(near) => finding.help(format!("did you mean `{near}`?")),
                None => finding.help(format!("write `ARG {name}` above the first FROM")),
            }
        })
        .collect()
}

fn is_declared(plan: &Plan<'_>, name: &str) -> bool {
    plan.dockerfile
        .global_args
        .iter()
        .any(|instruction| match &instruction.kind {
            InstructionKind::Arg(declarations) => {
                declarations.iter().any(|arg| arg.name.value == name)
            }
            _ => false,
        })
}

fn constant_platform(stage: &Stage, word: &Word, used: &Expansion) -> Option<Diagnostic> {
    if !used.used.is_empty() || !used.unset.is_empty() {
        return None;
    }
    let (os, architecture) = used
        .text
        .split_once('/')
        .unwrap_or(("linux", used.text.as_str()));
    let architecture = architecture.split('/').next().unwrap_or_default();
    let name = stage.name.as_deref().unwrap_or_default();
    // Such a name says that the stage is meant for that platform alone.
    let is_meant = name.contains(os) || name.contains(architecture);
    (!is_meant && !used.text.is_empty()).then(|| {
        Rule::FromPlatformFlagConstDisallowed
            .at(
                word.span,
                format!(
                    "FROM --platform flag should not use constant value \"{}\"",
                    used.text
                ),
            )
            .help("use $BUILDPLATFORM or $TARGETPLATFORM, or remove the flag")
    })
}

fn invalid_default(plan: &Plan<'_>, stage: &Stage, defaults: &Variables) -> Option<Diagnostic> {
    let word = &stage.from.image;
    let used = expansion(plan, word, defaults)?;
    let name = used
        .used
        .iter()
        .chain(&used.unset)
        .find(|name| is_declared(plan, name))?;
    let is_valid = used.text == "scratch" || used.text.parse::<oci::Reference>().is_ok();
    (!is_valid).then(|| {
        Rule::InvalidDefaultArgInFrom
            .at(
                word.span,
                format!(
                    "default value for ARG {} results in empty or invalid base image name",
                    word.value
                ),
            )
            .help(format!(
                "give `ARG {name}` a default with which this names an image"
            ))
    })
}

fn other_platform(plan: &Plan<'_>, stage: &Stage, bases: &BaseConfigs) -> Option<Diagnostic> {
    let planned = plan.stages[stage.index].as_ref()?;
    let StageBase::Image(id) = planned.from else {
        return None;
    };
    let ImageConfig { platform: has, .. } = bases.get(id.0)?;
    let wanted = &planned.platform;
    (has.os != wanted.os || has.architecture != wanted.architecture).then(|| {
        Rule::InvalidBaseImagePlatform
            .at(
                stage.from.image.span,
                format!(
                    "base image {} was pulled with platform \"{}/{}\", expected \"{}/{}\" for current build",
                    plan.bases[id.0].name, has.os, has.architecture, wanted.os, wanted.architecture
                ),
            )
            .help("use an image that has the platform, or build for the one that it has")
    })
}

impl Builder<'_> {
    /// What is to be said of an instruction; the stage is as it was before it.
    pub(super) fn lint(&mut self, instruction: &Instruction) {
        let mut found = self.undefined(instruction);
        match &instruction.kind {
            InstructionKind::Cmd(CommandForm::Shell(_))
            | InstructionKind::Entrypoint(CommandForm::Shell(_))
                if self.state.config.shell.is_empty() =>
            {
                found.push(json_recommended(instruction));
            }
            InstructionKind::Workdir(word) if !self.state.workdir_set => {
                found.extend(self.relative_workdir(word));
            }
            InstructionKind::Expose(words) => {
                for word in words {
                    found.extend(self.exposed(word));
                }
            }
            _ => {}
        }
        self.state.workdir_set |= instruction.keyword.verb == Verb::Workdir;
        self.warnings.extend(found);
    }

    fn undefined(&self, instruction: &Instruction) -> Vec<Diagnostic> {
        // A mount is cut into its fields before they are expanded.
        if instruction.keyword.verb == Verb::Run {
            return Vec::new();
        }
        let mut found = Vec::new();
        for word in instruction.kind.expanded_words() {
            let Some(used) = expansion(self.plan, word, &self.state.variables) else {
                continue;
            };
            for name in used
                .unset
                .iter()
                .filter(|name| !has_alternative(word, name))
            {
                let finding = Rule::UndefinedVar
                    .at(word.span, format!("usage of undefined variable '${name}'"));
                let variables = &self.state.variables;
                found.push(match dockerfile::nearest(name, variables.names()) {
                    Some(near) => finding.help(format!("did you mean `${near}`?")),
                    None if self.plan.globals.get(name).is_some() => {
                        finding.help(format!("write `ARG {name}` in this stage, above this line"))
                    }
                    None => finding.help(format!(
                        "declare it above: `ARG {name}` or `ENV {name}=VALUE`"
                    )),
                });
            }
        }
        found
    }

    fn relative_workdir(&self, word: &Word) -> Option<Diagnostic> {
        let path = expansion(self.plan, word, &self.state.variables)?.text;
        (!path.starts_with('/')).then(|| {
            Rule::WorkdirRelativePath
                .at(
                    word.span,
                    format!(
                        "relative workdir \"{path}\" can have unexpected results if the base image changes"
                    ),
                )
                .help(format!("write `WORKDIR /{path}`"))
        })
    }

    fn exposed(&self, word: &Word) -> Vec<Diagnostic> {
        let escape = self.plan.dockerfile.escape;
        let ports = dockerfile::expand_words(&word.value, escape, &self.state.variables);
        let mut found = Vec::new();
        for port in ports.unwrap_or_default() {
            let (number, protocol) = port.split_once('/').unwrap_or((&port, ""));
            let lower = protocol.to_lowercase();
            if protocol != lower {
                found.push(
                    Rule::ExposeProtoCasing
                        .at(
                            word.span,
                            format!("defined protocol '{port}' in EXPOSE instruction should be lowercase"),
                        )
                        .help(format!("write `{number}/{lower}`")),
                );
            }
            if let Some((_, container)) = number.rsplit_once(':') {
                found.push(
                    Rule::ExposeInvalidFormat
                        .at(
                            word.span,
                            format!(
                                "EXPOSE instruction should not define an IP address or host-port mapping, found '{port}'"
                            ),
                        )
                        .help(format!("write the port of the container alone: `{container}`")),
                );
            }
        }
        found
    }
}

fn json_recommended(instruction: &Instruction) -> Diagnostic {
    let name = instruction.keyword.verb.name();
    Rule::JSONArgsRecommended
        .at(
            instruction.span,
            format!("JSON arguments recommended for {name} to prevent unintended behavior related to OS signals"),
        )
        .help(format!("write `{name} [\"program\", \"argument\"]`"))
}
