//! Stages become steps: each stage starts from its base's state and hands its own to the stages on top of it.

use dockerfile::{Diagnostic, Scope as _, Stage};
use oci::{ContainerConfig, History, ImageConfig, Platform};

use super::environment::{PROXIES, Variables};
use super::onbuild::in_trigger;
use super::reach::layer_count;
use super::{
    Action, BaseConfigs, BaseId, ContextId, CopyAction, Entry, Filesystem, GitDir, Graph,
    GraphError, Input, Options, Plan, PlannedStage, StageBase, Step, StepId, Surroundings, Target,
};

/// The search path of images that set none.
const DEFAULT_PATH: &str = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";

/// The host name of RUN, which the reference frontend also uses.
const DEFAULT_HOSTNAME: &str = "buildkitsandbox";

/// What a stage has come to at some instruction.
#[derive(Clone, Debug)]
pub(super) struct State {
    pub(super) filesystem: Filesystem,
    pub(super) platform: Platform,
    pub(super) author: Option<String>,
    pub(super) config: ContainerConfig,
    /// What words are expanded with and RUN gets: ENV and ARG, whichever was set last.
    pub(super) variables: Variables,
    /// Declared arguments, as history lists them.
    pub(super) build_args: Vec<(String, Option<String>)>,
    pub(super) base: Option<BaseId>,
    pub(super) base_history: Vec<History>,
    pub(super) entries: Vec<Entry>,
    /// Whether a WORKDIR of this file is in effect.
    pub(super) workdir_set: bool,
}

impl State {
    fn of_scratch(platform: &Platform) -> Self {
        Self::of_config(
            ImageConfig {
                platform: platform.clone(),
                config: ContainerConfig {
                    working_dir: "/".into(),
                    ..ContainerConfig::default()
                },
                ..ImageConfig::default()
            },
            Filesystem::Scratch,
            None,
        )
    }

    fn of_config(image: ImageConfig, filesystem: Filesystem, base: Option<BaseId>) -> Self {
        let mut config = ContainerConfig {
            // Members that belong to one container, or that nobody knows, are not inherited.
            other: serde_json::Map::new(),
            ..image.config
        };
        if !config.env.iter().any(|env| env.starts_with("PATH=")) && image.platform.os != "windows"
        {
            config.env.push(format!("PATH={DEFAULT_PATH}"));
        }
        let mut variables = Variables::default();
        for env in &config.env {
            let (name, value) = env.split_once('=').unwrap_or((env, ""));
            variables.set(name, value);
        }
        Self {
            filesystem,
            platform: image.platform,
            author: image.author,
            config,
            variables,
            build_args: Vec::new(),
            base,
            base_history: image.history,
            entries: Vec::new(),
            workdir_set: false,
        }
    }
}

/// One stage on its way through its instructions.
pub(super) struct Builder<'p> {
    pub(super) plan: &'p Plan<'p>,
    pub(super) planned: &'p PlannedStage,
    /// Name of the stage, or nothing.
    pub(super) stage: &'p str,
    pub(super) state: State,
    /// What the stages before have come to.
    pub(super) finished: &'p [Option<State>],
    /// Steps of all stages.
    pub(super) steps: &'p mut Vec<Step>,
    /// Whether this stage, not a base, set CMD.
    pub(super) cmd_set: bool,
    /// Position of the next layer, and how many there are.
    pub(super) position: usize,
    pub(super) total: usize,
    /// What is doubtful about the stages so far.
    pub(super) warnings: &'p mut Vec<Diagnostic>,
}

/// Expands the instructions of all stages that are needed.
///
/// # Errors
/// When something cannot be expanded, is invalid once it is, or a base asks for what is not supported.
///
/// # Panics
/// When `bases` has not one configuration for each image of the plan.
pub fn build(plan: &Plan<'_>, bases: &BaseConfigs) -> Result<Graph, GraphError> {
    let mut errors = Vec::new();
    let mut steps = Vec::new();
    let mut warnings = super::lint::froms(plan, bases);
    let mut finished: Vec<Option<State>> = vec![None; plan.stages.len()];
    for &index in &plan.order {
        let planned = plan.stages[index]
            .as_ref()
            .expect("the order names planned stages only");
        let stage = &plan.dockerfile.stages[index];
        let mut state = initial(planned, bases, &finished);
        if let StageBase::Context(id) = planned.from {
            load_context(plan, id, stage, &mut state, &mut steps);
        }
        let from_image = usize::from(matches!(planned.from, StageBase::Image(_)));
        let mut builder = Builder {
            plan,
            planned,
            stage: stage.name.as_deref().unwrap_or_default(),
            state,
            finished: &finished,
            steps: &mut steps,
            cmd_set: false,
            position: from_image + 1,
            total: from_image + layer_count(stage),
            warnings: &mut warnings,
        };
        let replaced = is_replaced(plan.options, stage, &planned.platform);
        for (position, instruction) in stage.instructions.iter().enumerate() {
            if replaced {
                break;
            }
            // What is doubtful in a trigger is for those who wrote it.
            if position >= stage.triggers {
                builder.lint(instruction);
            }
            if let Err(error) = builder.instruction(position, instruction) {
                errors.push(if position < stage.triggers {
                    *in_trigger(&error, stage, instruction)
                } else {
                    *error
                });
            }
        }
        let state = builder.state;
        finished[index] = Some(state);
        if !errors.is_empty() {
            // What is on top of a wrong stage would only repeat its errors.
            return Err(GraphError::Dockerfile(errors));
        }
    }
    let declared = finished.iter().flatten();
    let declared = declared.flat_map(|state| &state.build_args);
    let arguments = declared.map(|(name, _)| name.clone()).collect();
    let state = finished[plan.target]
        .take()
        .expect("the target is in the order");
    let mut target = Target {
        filesystem: state.filesystem,
        platform: state.platform,
        author: state.author,
        config: state.config,
        base: state.base,
        base_history: state.base_history,
        entries: state.entries,
    };
    let labels = plan.options.labels.iter();
    target
        .config
        .labels
        .extend(labels.map(|(name, value)| (name.clone(), value.clone())));
    Ok(Graph {
        source_date_epoch: source_date_epoch(plan)?,
        surroundings: Surroundings {
            hostname: argument(plan, "BUILDKIT_SANDBOX_HOSTNAME")
                .unwrap_or(DEFAULT_HOSTNAME)
                .into(),
            ..plan.options.surroundings.clone()
        },
        proxies: plan
            .options
            .build_args
            .iter()
            .filter(|(name, _)| PROXIES.contains(&name.as_str()))
            .map(|(name, value)| (name.clone(), value.clone()))
            .collect(),
        steps,
        target,
        contexts: plan.contexts.clone(),
        arguments,
        warnings,
    })
}

/// Whether a context of the stage's name stands in for the whole stage.
pub(super) fn is_replaced(options: &Options, stage: &Stage, platform: &Platform) -> bool {
    let name = stage.name.as_ref();
    name.is_some_and(|name| options.context(name, platform).is_some())
}

/// A stage from the files of a context begins with all of them.
fn load_context(
    plan: &Plan<'_>,
    id: usize,
    stage: &Stage,
    state: &mut State,
    steps: &mut Vec<Step>,
) {
    let name = &plan.contexts[id];
    let text = format!("[context {name}] load from client");
    let step = StepId(steps.len());
    steps.push(Step {
        below: Filesystem::Scratch,
        action: Action::Copy(CopyAction {
            add: false,
            from: Input::Context(ContextId::Named(id)),
            sources: vec!["/".into()],
            documents: Vec::new(),
            destination: "/".into(),
            chown: None,
            chmod: None,
            checksum: None,
            git_dir: GitDir::Removed,
            link: false,
            parents: false,
            exclude: Vec::new(),
            unpack: None,
        }),
        label: text.clone(),
        instruction: stage.from.source.clone(),
        span: stage.from.span,
        line: stage.from.line,
        platform: state.platform.clone(),
        stage: stage.name.clone().unwrap_or_default(),
    });
    state.filesystem = Filesystem::Step(step);
    state.entries.push(Entry {
        created_by: text,
        step: Some(step),
    });
}

fn initial(planned: &PlannedStage, bases: &BaseConfigs, finished: &[Option<State>]) -> State {
    match planned.from {
        StageBase::Scratch | StageBase::Context(_) => State::of_scratch(&planned.platform),
        StageBase::Stage(index) => {
            let mut state = finished[index]
                .clone()
                .expect("a stage comes behind what it starts from");
            state.config.on_build.clear();
            state
        }
        StageBase::Image(id) => {
            let mut image = bases
                .get(id.0)
                .cloned()
                .expect("every base of the plan has a configuration");
            // Its triggers are among the instructions of the stage.
            image.config.on_build.clear();
            State::of_config(image, Filesystem::Base(id), Some(id))
        }
    }
}

/// A special argument: set by the build, or declared before the first FROM.
pub(super) fn argument<'p>(plan: &'p Plan<'_>, name: &str) -> Option<&'p str> {
    let set = plan.options.build_args.get(name).map(String::as_str);
    set.or_else(|| plan.globals.get(name))
        .filter(|value| !value.is_empty())
}

fn source_date_epoch(plan: &Plan<'_>) -> Result<Option<i64>, GraphError> {
    let Some(text) = argument(plan, "SOURCE_DATE_EPOCH") else {
        return Ok(None);
    };
    text.parse().map(Some).map_err(|_| {
        let span = plan.dockerfile.stages[plan.target].from.span;
        GraphError::Dockerfile(vec![
            Diagnostic::error(
                "invalid-epoch",
                span,
                format!("SOURCE_DATE_EPOCH is `{text}`, not a number of seconds"),
            )
            .help("set it to whole seconds since 1970, to `context`, or to the name of a context or stage"),
        ])
    })
}
