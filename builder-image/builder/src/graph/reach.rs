//! Which stages the target reaches, and which images they need.

use std::collections::BTreeMap;

use dockerfile::{
    Diagnostic, Dockerfile, Instruction, InstructionKind, Scope as _, Stage, Verb, Word,
};
use oci::Platform;

use super::environment::{Variables, expand_word, platform_args};
use super::stage::is_replaced;
use super::{
    Base, BaseId, BaseName, ContextKind, GraphError, Options, Plan, PlannedStage, StageBase,
};

/// How many contexts may stand for one another, as in the reference.
const MAX_CONTEXT_DEPTH: usize = 10;

/// Finds the stages and images that the target needs.
///
/// # Errors
/// When the target does not exist, a base has no name, stages need each other in a circle, or a stage that is needed
/// holds what is not supported.
pub fn plan<'d>(dockerfile: &'d Dockerfile, options: &'d Options) -> Result<Plan<'d>, GraphError> {
    plan_stages(dockerfile, options, false)
}

/// As [`plan`], with all stages where no target is named: for checking a file as a whole.
///
/// # Errors
/// As [`plan`].
pub fn plan_all<'d>(
    dockerfile: &'d Dockerfile,
    options: &'d Options,
) -> Result<Plan<'d>, GraphError> {
    plan_stages(dockerfile, options, options.target.is_none())
}

fn plan_stages<'d>(
    dockerfile: &'d Dockerfile,
    options: &'d Options,
    all: bool,
) -> Result<Plan<'d>, GraphError> {
    let target = dockerfile.target(options.target.as_deref())?;
    if let Some(meant) = similar_platform(&options.platform) {
        return Err(GraphError::Platform {
            wanted: options.platform.to_string(),
            meant: meant.to_string(),
        });
    }
    let globals = global_scope(dockerfile, options)?;
    let mut walk = Walk {
        plan: Plan {
            dockerfile,
            options,
            globals,
            stages: vec![None; dockerfile.stages.len()],
            order: Vec::new(),
            target,
            bases: Vec::new(),
            contexts: Vec::new(),
        },
        open: Vec::new(),
        names: BTreeMap::new(),
    };
    let first = if all { 0 } else { target };
    for index in (first..=target).rev() {
        walk.stage(index).map_err(|error| one(*error))?;
    }
    let plan = walk.plan;
    let reached = |index: usize| plan.stages.get(index).is_some_and(Option::is_some);
    let frontend = options.build_args.get("BUILDKIT_SYNTAX");
    let frontend = frontend.map(String::as_str).filter(|name| !name.is_empty());
    let mut refused = dockerfile::unsupported(dockerfile, frontend, reached);
    refused.extend(dockerfile::check_expansions(dockerfile, reached));
    refused.sort_by_key(|diagnostic| diagnostic.primary.start);
    if refused.is_empty() {
        Ok(plan)
    } else {
        Err(GraphError::Dockerfile(refused))
    }
}

/// The platform that is probably meant by one that is made up. Names that resemble no known one may well exist.
fn similar_platform(platform: &Platform) -> Option<Platform> {
    let known = |name: &str, names: &[&'static str]| match names.iter().find(|n| **n == name) {
        Some(_) => None,
        None => dockerfile::nearest(name, names.iter().copied()),
    };
    let os = known(
        &platform.os,
        &["linux", "windows", "darwin", "freebsd", "wasip1"],
    );
    let architecture = known(
        &platform.architecture,
        &[
            "amd64", "arm64", "arm", "386", "ppc64le", "s390x", "riscv64", "mips64le", "mips64",
            "mipsle", "mips", "loong64", "ppc64", "wasm",
        ],
    );
    (os.is_some() || architecture.is_some()).then(|| Platform {
        os: os.map_or_else(|| platform.os.clone(), str::to_owned),
        architecture: architecture.map_or_else(|| platform.architecture.clone(), str::to_owned),
        ..platform.clone()
    })
}

impl<'d> Plan<'d> {
    /// The first RUN that the target needs.
    pub fn first_run(&self) -> Option<&'d Instruction> {
        self.runs().next().map(|(instruction, _)| instruction)
    }

    /// Every RUN that the target needs, with the platform that it is executed for.
    pub fn runs(&self) -> impl Iterator<Item = (&'d Instruction, &Platform)> {
        let needed = move |stage: &&'d Stage| {
            let planned = self.stages[stage.index].as_ref();
            planned.is_some_and(|planned| !is_replaced(self.options, stage, &planned.platform))
        };
        self.dockerfile
            .stages
            .iter()
            .filter(needed)
            .flat_map(|stage| {
                let planned = self.stages[stage.index].as_ref();
                let platform = planned.map_or(&self.options.platform, |planned| &planned.platform);
                stage.instructions.iter().map(move |i| (i, platform))
            })
            .filter(|(instruction, _)| instruction.keyword.verb == Verb::Run)
    }
}

fn one(diagnostic: Diagnostic) -> GraphError {
    GraphError::Dockerfile(vec![diagnostic])
}

/// The variables that FROM sees.
///
/// # Errors
/// When the target does not exist, or an argument cannot be expanded.
pub(super) fn global_scope(
    dockerfile: &Dockerfile,
    options: &Options,
) -> Result<Variables, GraphError> {
    let target = dockerfile.target(options.target.as_deref())?;
    let named = || dockerfile.stages.get(target)?.name.clone();
    let name = options.target.clone().or_else(named).unwrap_or_default();
    global_args(dockerfile, options, &name).map_err(|error| one(*error))
}

fn global_args(
    dockerfile: &Dockerfile,
    options: &Options,
    target: &str,
) -> Result<Variables, Box<Diagnostic>> {
    let mut globals = platform_args(&options.build_platform, &options.platform, target);
    for (name, value) in &options.build_args {
        if globals.get(name).is_some() {
            globals.set(name, value);
        }
    }
    for instruction in &dockerfile.global_args {
        let InstructionKind::Arg(declarations) = &instruction.kind else {
            continue;
        };
        for declaration in declarations {
            let name = expand_word(&declaration.name, dockerfile.escape, &globals)?;
            let value = match (options.build_args.get(&name), &declaration.default) {
                (Some(value), _) => value.clone(),
                (None, Some(default)) => expand_word(default, dockerfile.escape, &globals)?,
                (None, None) => continue,
            };
            globals.set(&name, value);
        }
    }
    Ok(globals)
}

/// The variables that FROM sees where no build argument is given.
pub(super) fn default_globals(plan: &Plan<'_>) -> Option<Variables> {
    let options = Options {
        build_args: BTreeMap::new(),
        ..plan.options.clone()
    };
    let stage = plan.globals.get("TARGETSTAGE").unwrap_or_default();
    global_args(plan.dockerfile, &options, stage).ok()
}

struct Walk<'d> {
    plan: Plan<'d>,
    /// Stages whose needs are being looked for, outermost first.
    open: Vec<usize>,
    names: BTreeMap<(BaseName, Platform), BaseId>,
}

impl Walk<'_> {
    fn stage(&mut self, index: usize) -> Result<(), Box<Diagnostic>> {
        if self.plan.stages[index].is_some() {
            return Ok(());
        }
        let dockerfile = self.plan.dockerfile;
        let stage = &dockerfile.stages[index];
        self.open.push(index);
        let platform = self.platform(stage)?;
        let name = self.display_name(stage);
        let from = self.stage_base(stage, &platform, &name)?;
        let mut sources = BTreeMap::new();
        for (position, instruction) in stage.instructions.iter().enumerate() {
            // The words of a trigger stand in another file.
            let shown = |word: &Word| {
                if position < stage.triggers {
                    Word::new(word.value.clone(), stage.from.image.span)
                } else {
                    word.clone()
                }
            };
            match &instruction.kind {
                InstructionKind::Copy(copy) => {
                    if let Some(source) = &copy.from {
                        let source = self.copy_base(&shown(source), &platform)?;
                        sources.insert((position, 0), source);
                    }
                }
                InstructionKind::Run(run) => {
                    for (mount, spec) in run.mounts.iter().enumerate() {
                        if let Some(word) = spec.source() {
                            let source = self.mount_base(&shown(&word), &platform)?;
                            sources.insert((position, mount), source);
                        }
                    }
                }
                _ => {}
            }
        }
        self.open.pop();
        self.plan.stages[index] = Some(PlannedStage {
            from,
            platform,
            name,
            sources,
        });
        self.plan.order.push(index);
        Ok(())
    }

    /// Descends into another stage, unless that stage is the cause of looking here.
    fn descend(&mut self, index: usize, word: &Word) -> Result<StageBase, Box<Diagnostic>> {
        if self.open.contains(&index) {
            let to = &self.plan.dockerfile.stages[index];
            return Err(Box::new(
                Diagnostic::error(
                    "circular-stage",
                    word.span,
                    format!("stages need each other in a circle: `{}`", word.value),
                )
                .also(to.from.span, "this stage is needed for itself"),
            ));
        }
        self.stage(index)?;
        Ok(StageBase::Stage(index))
    }

    /// What a FROM names.
    fn stage_base(
        &mut self,
        stage: &Stage,
        platform: &Platform,
        display_name: &str,
    ) -> Result<StageBase, Box<Diagnostic>> {
        let word = &stage.from.image;
        // A context that has the name of the stage replaces the whole stage.
        if let Some(name) = &stage.name
            && let Some(found) = self.context(name, platform, word)?
        {
            return Ok(found);
        }
        let image = self.expand_global(word)?;
        if image.is_empty() {
            return Err(Box::new(self.blank(word, "the name of the base image")));
        }
        if image == "scratch" {
            return Ok(StageBase::Scratch);
        }
        if let Some(earlier) = self.plan.dockerfile.base_stage(stage.index, &image) {
            return self.descend(earlier, word);
        }
        let total = layer_count(stage) + 1;
        self.base(&image, platform, word, &|name| {
            label(display_name, 1, total, &format!("FROM {name}"))
        })
    }

    /// What `COPY --from` names.
    fn copy_base(
        &mut self,
        word: &Word,
        platform: &Platform,
    ) -> Result<StageBase, Box<Diagnostic>> {
        if let Some(found) = self.context(&word.value, platform, word)? {
            return Ok(found);
        }
        if let Some(index) = self.plan.dockerfile.copy_stage(&word.value) {
            return self.descend(index, word);
        }
        if word.value.eq_ignore_ascii_case("scratch") {
            return Ok(StageBase::Scratch);
        }
        self.base(&word.value, platform, word, &|name| format!("FROM {name}"))
    }

    /// What stands in for `name`, where a context was given that name.
    fn context(
        &mut self,
        name: &str,
        platform: &Platform,
        word: &Word,
    ) -> Result<Option<StageBase>, Box<Diagnostic>> {
        let options = self.plan.options;
        let mut wanted = name;
        // Contexts may stand for each other.
        for _ in 0..=MAX_CONTEXT_DEPTH {
            match options.context(wanted, platform) {
                None if wanted == name => return Ok(None),
                None => {
                    let Some(index) = self.plan.dockerfile.copy_stage(wanted) else {
                        let message = format!(
                            "the context `{name}` is to be the stage `{wanted}`, which does not exist"
                        );
                        return Err(Box::new(Diagnostic::error(
                            "named-context",
                            word.span,
                            message,
                        )));
                    };
                    return self.descend(index, word).map(Some);
                }
                Some((_, ContextKind::Stage(stage))) => wanted = stage,
                Some((key, ContextKind::Image)) => {
                    let label = format!("FROM {name}");
                    let base = BaseName::Context(key.to_owned());
                    return Ok(Some(self.image(base, platform, word, label)));
                }
                Some((key, ContextKind::Files)) => {
                    let known = self.plan.contexts.iter().position(|known| known == key);
                    let id = known.unwrap_or_else(|| {
                        self.plan.contexts.push(key.to_owned());
                        self.plan.contexts.len() - 1
                    });
                    return Ok(Some(StageBase::Context(id)));
                }
            }
        }
        let message = format!("the context `{name}` stands for another one, and so on in a circle");
        Err(Box::new(
            Diagnostic::error("named-context", word.span, message)
                .help("let the last `target:` name a stage that no context replaces"),
        ))
    }

    /// What `from` names in a mount: as in COPY, but stages have names only.
    fn mount_base(
        &mut self,
        word: &Word,
        platform: &Platform,
    ) -> Result<StageBase, Box<Diagnostic>> {
        let stages = &self.plan.dockerfile.stages;
        if word
            .value
            .parse::<usize>()
            .is_ok_and(|index| index < stages.len())
            && self.plan.options.context(&word.value, platform).is_none()
        {
            let diagnostic = Diagnostic::error(
                "invalid-mount",
                word.span,
                format!("a mount takes no number of a stage: `from={}`", word.value),
            );
            return Err(Box::new(diagnostic.help(
                "give the stage a name, `FROM … AS name`, and mount from that",
            )));
        }
        self.copy_base(word, platform)
    }

    /// The image that `text` names, or the context that stands in for it.
    fn base(
        &mut self,
        text: &str,
        platform: &Platform,
        word: &Word,
        label: &dyn Fn(&BaseName) -> String,
    ) -> Result<StageBase, Box<Diagnostic>> {
        if let Some(found) = self.context(text, platform, word)? {
            return Ok(found);
        }
        let reference: oci::Reference = text.parse().map_err(|error: oci::ReferenceError| {
            let diagnostic = Diagnostic::error("invalid-image", word.span, error.to_string());
            Box::new(match self.plan.dockerfile.similar_stage(text) {
                Some(stage) => diagnostic.help(format!("did you mean the stage `{stage}`?")),
                None => diagnostic,
            })
        })?;
        let reference = reference.or_latest();
        // A context may also be named as people write the image: `alpine` for `docker.io/library/alpine:latest`.
        let familiar = reference.familiar();
        let short = familiar.trim_end_matches(":latest");
        for name in [short, &familiar, &reference.to_string()] {
            if let Some(found) = self.context(name, platform, word)? {
                return Ok(found);
            }
        }
        let name = BaseName::Image(reference);
        let label = label(&name);
        Ok(self.image(name, platform, word, label))
    }

    fn image(
        &mut self,
        name: BaseName,
        platform: &Platform,
        word: &Word,
        label: String,
    ) -> StageBase {
        let bases = &mut self.plan.bases;
        let id = *self
            .names
            .entry((name.clone(), platform.clone()))
            .or_insert_with(|| {
                bases.push(Base {
                    name,
                    platform: platform.clone(),
                    span: word.span,
                    similar_stage: self
                        .plan
                        .dockerfile
                        .similar_stage(&word.value)
                        .map(str::to_owned),
                    label,
                });
                BaseId(bases.len() - 1)
            });
        StageBase::Image(id)
    }

    fn platform(&self, stage: &Stage) -> Result<Platform, Box<Diagnostic>> {
        let Some(word) = &stage.from.platform else {
            return Ok(self.plan.options.platform.clone());
        };
        let text = self.expand_global(word)?;
        if text.is_empty() {
            return Err(Box::new(self.blank(word, "the platform")));
        }
        // A bare architecture means that of the default operating system.
        let full = if text.contains('/') {
            text
        } else {
            format!("linux/{text}")
        };
        let platform: Platform = full.parse().map_err(|error: oci::PlatformError| {
            Box::new(Diagnostic::error(
                "invalid-platform",
                word.span,
                error.to_string(),
            ))
        })?;
        match similar_platform(&platform) {
            None => Ok(platform),
            Some(meant) => Err(Box::new(
                Diagnostic::error(
                    "invalid-platform",
                    word.span,
                    format!("unknown platform `{platform}`"),
                )
                .help(format!("did you mean `{meant}`?")),
            )),
        }
    }

    fn expand_global(&self, word: &Word) -> Result<String, Box<Diagnostic>> {
        expand_word(word, self.plan.dockerfile.escape, &self.plan.globals)
    }

    /// The error for a word of FROM that is nothing once its variables are replaced.
    fn blank(&self, word: &Word, what: &str) -> Diagnostic {
        let diagnostic = Diagnostic::error(
            "blank-base",
            word.span,
            format!("{what} is empty: `{}` has no value", word.value),
        );
        let unset =
            dockerfile::expand_traced(&word.value, self.plan.dockerfile.escape, &self.plan.globals)
                .map(|expansion| expansion.unset)
                .unwrap_or_default();
        let Some(name) = unset.into_iter().next() else {
            return diagnostic.help("set it by a build argument, or give its ARG a default");
        };
        match dockerfile::nearest(&name, self.plan.globals.names()) {
            Some(near) => diagnostic.help(format!("did you mean `{near}`?")),
            None => diagnostic.help(format!(
                "declare it before the first FROM, `ARG {name}=VALUE`, or set it by a build argument"
            )),
        }
    }

    /// How progress names the stage: its name, its position, or nothing if it is the only one.
    fn display_name(&self, stage: &Stage) -> String {
        let file = self.plan.dockerfile;
        let copies_images = file
            .stages
            .iter()
            .flat_map(|stage| &stage.instructions)
            .any(|i| match &i.kind {
                InstructionKind::Copy(copy) => copy.from.is_some(),
                InstructionKind::Run(run) => run.mounts.iter().any(|m| m.source().is_some()),
                _ => false,
            });
        match &stage.name {
            _ if file.stages.len() == 1 && !copies_images => String::new(),
            Some(name) => name.clone(),
            None => format!("stage-{}", stage.index),
        }
    }
}

/// How many instructions of a stage make a layer, so far as that can be told without expanding.
pub(super) fn layer_count(stage: &Stage) -> usize {
    stage.instructions.iter().filter(|i| makes_layer(i)).count()
}

pub(super) fn makes_layer(instruction: &Instruction) -> bool {
    matches!(
        instruction.keyword.verb,
        Verb::Add | Verb::Copy | Verb::Run | Verb::Workdir
    )
}

/// `[build 2/5] RUN make`, the position padded to the width of the total.
pub(super) fn label(stage: &str, position: usize, total: usize, text: &str) -> String {
    let width = total.to_string().len();
    let blank = if stage.is_empty() { "" } else { " " };
    format!("[{stage}{blank}{position:>width$}/{total}] {text}")
}
