//! The graph of a build: which steps the target needs, in what order, and what image comes out. Pure: no files, no
//! network, no clock.
//!
//! It is made in two passes, because what a base image says (environment, working directory, user) decides how the
//! instructions on top of it are expanded:
//! 1. [`plan`]: which stages the target reaches, and which images have to be resolved for them.
//! 2. [`build`]: with the configurations of those images, instructions become [`Step`]s and one [`Target`].
//!
//! Images may bring instructions of their own (ONBUILD), which may need further stages and images: then the file is
//! planned again [`with_triggers`], until there are no more.
//!
//! Scopes, expansion and texts follow the reference frontend (`docs/dockerfile.md`).

mod copy;
mod environment;
mod epoch;
mod instruction;
mod lint;
mod onbuild;
mod reach;
mod run;
mod stage;
#[cfg(test)]
mod tests;
mod text;

use std::collections::{BTreeMap, BTreeSet};

use dockerfile::{Diagnostic, Span};
use oci::{ContainerConfig, History, ImageConfig, Platform, Reference};

pub use crate::context::GitDir;
pub use epoch::{EpochSource, epoch_source};
pub use onbuild::{Triggers, with_triggers};
pub use reach::{plan, plan_all};
pub use run::{
    CacheMount, FileOwner, RunAction, RunMount, RunMountKind, SecretMount, Selected, SshMount,
    Surroundings,
};
pub use stage::build;

/// What a build was asked for, besides the Dockerfile.
#[derive(Clone, Debug)]
pub struct Options {
    /// The stage to build; the last one where absent.
    pub target: Option<String>,
    /// `--build-arg`.
    pub build_args: BTreeMap<String, String>,
    /// `--label`: labels of the resulting image, over those of the Dockerfile.
    pub labels: BTreeMap<String, String>,
    /// The platform of the image.
    pub platform: Platform,
    /// The platform that the build runs on.
    pub build_platform: Platform,
    /// What stands in for names of images and stages (`--build-context`): by name, or by `name::platform`.
    pub contexts: BTreeMap<String, ContextKind>,
    /// What RUN steps have around them. Without a host name, they have the usual one.
    pub surroundings: Surroundings,
}

/// What a context is that was given a name.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ContextKind {
    /// An image.
    Image,
    /// Files: a directory, a git repository or what is behind a URL.
    Files,
    /// A stage of the Dockerfile, or another context.
    Stage(String),
}

impl Options {
    /// The context that stands in for `name` on `platform`, by the name that it was given.
    pub(crate) fn context(&self, name: &str, platform: &Platform) -> Option<(&str, &ContextKind)> {
        let of_platform = self
            .contexts
            .get_key_value(&format!("{name}::{platform}"))
            .or_else(|| self.contexts.get_key_value(name))?;
        Some((of_platform.0, of_platform.1))
    }
}

/// Position of an image in [`Plan::bases`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct BaseId(pub usize);

/// Position of a step in [`Graph::steps`]. A step depends on earlier steps only.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct StepId(pub usize);

/// The files that a step starts from, or copies from.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Filesystem {
    /// Nothing at all.
    Scratch,
    /// An image.
    Base(BaseId),
    /// What a step left.
    Step(StepId),
}

/// Files that somebody offers to the build.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum ContextId {
    /// The build context.
    Build,
    /// A named one, by its position in [`Graph::contexts`].
    Named(usize),
}

/// Where COPY and mounts find files.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Input {
    /// A context.
    Context(ContextId),
    /// A stage or an image.
    Files(Filesystem),
}

impl Input {
    /// The stage or image.
    pub fn files(self) -> Option<Filesystem> {
        match self {
            Self::Context(_) => None,
            Self::Files(filesystem) => Some(filesystem),
        }
    }
}

/// What stands for an image in a FROM or a `COPY --from`.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum BaseName {
    /// An image in a registry.
    Image(Reference),
    /// A context that was named on the command line.
    Context(String),
}

impl std::fmt::Display for BaseName {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Image(reference) => reference.fmt(f),
            Self::Context(name) => name.fmt(f),
        }
    }
}

/// An image that the build needs.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Base {
    /// Which one.
    pub name: BaseName,
    /// For which platform.
    pub platform: Platform,
    /// Where it is named first.
    pub span: Span,
    /// A stage whose name looks like this image's: what was probably meant if the image does not exist.
    pub similar_stage: Option<String>,
    /// How progress names it: `[build 1/3] FROM docker.io/library/alpine:3`.
    pub label: String,
}

/// The stages that the target needs.
#[derive(Clone, Debug)]
pub struct Plan<'d> {
    /// The file.
    dockerfile: &'d dockerfile::Dockerfile,
    /// What was asked for.
    options: &'d Options,
    /// Global arguments with their values.
    globals: environment::Variables,
    /// By position in the file: what a stage starts from; `None` where the target does not need the stage.
    stages: Vec<Option<PlannedStage>>,
    /// Positions of the stages, each behind those that it needs.
    order: Vec<usize>,
    /// Position of the target.
    target: usize,
    /// Images to be resolved before [`build`].
    pub bases: Vec<Base>,
    /// Named contexts whose files are needed.
    contexts: Vec<String>,
}

/// A stage that the target needs.
#[derive(Clone, Debug)]
struct PlannedStage {
    from: StageBase,
    platform: Platform,
    /// How progress names the stage; empty where it is the only one.
    name: String,
    /// By position of the instruction, and of the mount in a RUN: where a COPY copies from, or a mount shows files of.
    sources: BTreeMap<(usize, usize), StageBase>,
}

/// What a stage starts from, or what `--from` names.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum StageBase {
    Scratch,
    Image(BaseId),
    Stage(usize),
    /// The files of a named context.
    Context(usize),
}

/// All steps of a build, and its result.
#[derive(Clone, Debug)]
pub struct Graph {
    /// The steps, each behind those that it depends on.
    pub steps: Vec<Step>,
    /// What comes out.
    pub target: Target,
    /// Variables for proxies, which every RUN gets and nothing records.
    pub proxies: Vec<(String, String)>,
    /// SOURCE_DATE_EPOCH, where the build or the Dockerfile sets it.
    pub source_date_epoch: Option<i64>,
    /// What RUN steps have around them.
    pub surroundings: Surroundings,
    /// The named contexts whose files are read.
    pub contexts: Vec<String>,
    /// Names that ARG declares, in any stage.
    pub arguments: BTreeSet<String>,
    /// What is doubtful about the stages, by rules of [`dockerfile::Rule`], each said once.
    pub warnings: Vec<dockerfile::Diagnostic>,
}

impl Graph {
    /// The image at the bottom of `filesystem`, where there is one, and the steps on top of it, the lowest first.
    pub fn line(&self, filesystem: Filesystem) -> (Option<BaseId>, Vec<StepId>) {
        let mut steps = Vec::new();
        let mut below = filesystem;
        while let Filesystem::Step(id) = below {
            steps.push(id);
            below = self.steps[id.0].below;
        }
        steps.reverse();
        let base = match below {
            Filesystem::Base(id) => Some(id),
            Filesystem::Scratch | Filesystem::Step(_) => None,
        };
        (base, steps)
    }
}

/// One instruction that makes a layer.
#[derive(Clone, Debug)]
pub struct Step {
    /// What it starts from.
    pub below: Filesystem,
    /// What it does.
    pub action: Action,
    /// How progress names it: `[build 2/5] RUN make`.
    pub label: String,
    /// The instruction as written, in one line: `RUN make`.
    pub instruction: String,
    /// Where it stands.
    pub span: Span,
    /// Its line in the Dockerfile, from 1.
    pub line: usize,
    /// The platform of its stage, which a RUN is executed for.
    pub platform: Platform,
    /// Name of its stage, in lower case; empty where it has none.
    pub stage: String,
}

impl Step {
    /// The other file systems that the step reads.
    pub fn inputs(&self) -> Vec<Filesystem> {
        match &self.action {
            Action::Copy(copy) => copy.from.files().into_iter().collect(),
            Action::Run(run) => run.inputs(),
            Action::Workdir(_) => Vec::new(),
        }
    }
}

/// What a step does, with everything expanded.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Action {
    /// Executes a command.
    Run(RunAction),
    /// COPY and ADD.
    Copy(CopyAction),
    /// Makes a directory.
    Workdir(WorkdirAction),
}

impl Action {
    /// Whether the layer depends on nothing below it (`--link`).
    pub fn is_linked(&self) -> bool {
        matches!(self, Self::Copy(copy) if copy.link)
    }
}

/// A COPY or an ADD.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CopyAction {
    /// Whether it is an ADD, which unpacks archives and fetches URLs.
    pub add: bool,
    /// Where files come from.
    pub from: Input,
    /// Paths, patterns and, in ADD, URLs.
    pub sources: Vec<String>,
    /// Documents of the Dockerfile: name and content.
    pub documents: Vec<(String, String)>,
    /// Absolute path; ends with `/` where it is surely a directory.
    pub destination: String,
    /// `user[:group]`
    pub chown: Option<String>,
    /// Octal or symbolic mode.
    pub chmod: Option<String>,
    /// Digest that the one URL must have, or the beginning of the one repository's commit.
    pub checksum: Option<String>,
    /// `--keep-git-dir`: whether a repository is copied with its `.git`.
    pub git_dir: GitDir,
    /// `--link`: the layer depends on nothing below it, and follows no link there.
    pub link: bool,
    /// `--parents`: directories of the sources are kept.
    pub parents: bool,
    /// `--exclude`: patterns of what is left out.
    pub exclude: Vec<String>,
    /// `--unpack`, where it is given; else ADD unpacks the archives of the context alone.
    pub unpack: Option<bool>,
}

/// A WORKDIR other than `/`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct WorkdirAction {
    /// The directory, absolute.
    pub path: String,
    /// The user in effect, who owns what is made; empty for root.
    pub user: String,
}

/// The image that comes out of a build, but for its layers.
#[derive(Clone, Debug)]
pub struct Target {
    /// What its files are.
    pub filesystem: Filesystem,
    /// The platform.
    pub platform: Platform,
    /// The author, from MAINTAINER or the base.
    pub author: Option<String>,
    /// How to run it.
    pub config: ContainerConfig,
    /// The image at its bottom.
    pub base: Option<BaseId>,
    /// History of that image.
    pub base_history: Vec<History>,
    /// History of the stages on top.
    pub entries: Vec<Entry>,
}

impl Target {
    /// The same image with the layers of its steps as one, which has a line of history of its own; the lines of the steps
    /// stay, without layers.
    #[must_use]
    pub fn squashed(&self) -> Self {
        let mut steps = self.entries.iter().filter_map(|entry| entry.step);
        let (count, last) = (steps.clone().count(), steps.next_back());
        let mut target = self.clone();
        for entry in &mut target.entries {
            entry.step = None;
        }
        target.entries.push(Entry {
            created_by: format!("squash of {count} layers # coopery build --squash"),
            step: last,
        });
        target
    }
}

/// One line of history.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Entry {
    /// The instruction, as `docker history` shows it.
    pub created_by: String,
    /// The step that made its layer; metadata has none.
    pub step: Option<StepId>,
}

/// Configurations of the images of a plan, in the order of [`Plan::bases`].
pub type BaseConfigs = [ImageConfig];

/// Why a file cannot be built as it was asked for.
#[derive(Debug, thiserror::Error)]
pub enum GraphError {
    /// The file is wrong in these places; never empty.
    #[error("{}", .0.first().map_or("the Dockerfile is wrong", |first| &first.message))]
    Dockerfile(Vec<Diagnostic>),
    /// The platform to build for is a misspelling.
    #[error("unknown platform `{wanted}`, did you mean `{meant}`?")]
    Platform {
        /// What was asked for.
        wanted: String,
        /// What was probably meant.
        meant: String,
    },
    /// The stage to build does not exist.
    #[error(transparent)]
    Target(#[from] dockerfile::UnknownStage),
}
