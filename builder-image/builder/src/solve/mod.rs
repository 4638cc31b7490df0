//! Solving a graph: for every step that the image needs, its key, then the cache's answer or its execution.
//!
//! Everything is demanded from the top: the layers of the target are asked for all at once, each asks for what it needs,
//! and whoever asks second waits for the first. So independent steps run at the same time, what a hit makes superfluous
//! is never asked for, and packing goes on while later steps run. Work on files and processes is done on threads that
//! may block; this module only waits.

mod contexts;
mod execute;
mod files;
mod mounts;
mod picks;
mod shares;
mod solved;
mod sources;
mod squashed;
mod step_layer;

use std::collections::HashSet;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use futures::FutureExt;
use futures::future::BoxFuture;
use tokio::sync::OnceCell;
use tokio_util::sync::CancellationToken;

use crate::base::{Base, Bases};
use crate::cache::{Cache, Record};
use crate::cache_key::CacheKey;
use crate::cause::{Cause, Names, Trail};
use crate::error::{Error, Place, SourceFile};
use crate::exec::Runtime;
use crate::graph::{Action, BaseId, CopyAction, Filesystem, Graph, Input, Step, StepId};
use crate::image::Layer;
use crate::layer::{Owners, PackOptions, Recipe};
use crate::named_context::NamedFiles;
use crate::progress::Progress;
use crate::secret::Secrets;
use crate::shared_cache::Imports;
use crate::snapshot::Snapshot;
use crate::wanted::Guess;

pub use self::contexts::Contexts;
pub use self::shares::Shares;
pub use self::solved::Solved;
pub use self::sources::Sources;

use self::execute::Inputs;
use self::files::{BaseFiles, Need, below_run, copied_for_image, guesses, runs_on};
use self::mounts::{ContextCopies, Shown};
use self::step_layer::StepLayer;

/// What a solve works with.
pub struct Engine {
    /// Records, blobs and layers.
    pub cache: Cache,
    /// Finds and fetches base images.
    pub bases: Bases,
    /// Reaches registries and the servers of ADD.
    pub client: distribution::Client,
    /// Tells people.
    pub progress: Progress,
    /// What RUN is executed with; nothing is executed where absent.
    pub runtime: Option<Runtime>,
    /// How layers keep owners on disk.
    pub owners: Owners,
    /// Execute every step, whatever the cache has.
    pub no_cache: bool,
    /// Names of stages, in lower case, whose steps are executed in any case.
    pub no_cache_stages: Vec<String>,
    /// How layers are packed, unless an export says otherwise.
    pub pack: PackOptions,
    /// What RUN may mount besides files, and servers of sources are shown.
    pub secrets: Secrets,
    /// Caches that are read besides the engine's own.
    pub imports: Imports,
    /// How servers of sources are reached.
    pub sources: Sources,
    /// Files that have names.
    pub named: NamedFiles,
    /// What the platforms of the build have in common.
    pub shares: Shares,
    /// Says when to stop.
    pub cancel: CancellationToken,
}

/// A failure that several may wait for.
pub type Shared<T> = Result<T, Arc<Error>>;

/// One build on its way.
pub struct Solve {
    engine: Arc<Engine>,
    graph: Graph,
    bases: Vec<Arc<Base>>,
    labels: Vec<String>,
    contexts: Contexts,
    file: Arc<SourceFile>,
    nodes: Vec<Node>,
    base_files: Vec<Arc<BaseFiles>>,
    /// For each step whether a RUN stands on top of it.
    below_run: Vec<bool>,
    /// For each step whether its files are packed from where they are.
    lent: Vec<bool>,
    /// For each base the RUNs that tell whether its files will be needed.
    runs_on: Vec<Vec<StepId>>,
    /// For each base what may be copied from it.
    guesses: Vec<Arc<[Guess]>>,
    context_copies: Arc<ContextCopies>,
}

/// What is known of one step.
#[derive(Default)]
struct Node {
    keyed: OnceCell<Shared<Arc<Keyed>>>,
    layer: OnceCell<Shared<Arc<StepLayer>>>,
    /// The files up to this step, unpacked.
    contents: OnceCell<Shared<Snapshot>>,
    /// Whether this node executed the step, not an equal one.
    executed: AtomicBool,
}

impl Node {
    /// The key, once it is known.
    fn key(&self) -> Option<&CacheKey> {
        let keyed = self.keyed.get()?.as_ref().ok()?;
        Some(&keyed.key)
    }
}

/// A step with its key.
struct Keyed {
    /// The key by content; that of the layer alone where it depends on nothing below.
    key: CacheKey,
    /// The key by where it copies from, which spares looking next time.
    source_key: Option<CacheKey>,
    /// What the cache has.
    record: Option<Record>,
    /// What the key is made of.
    trail: Trail,
    /// Why the cache has nothing, where it was asked.
    cause: Option<Cause>,
    /// What was made ready to find the key out.
    inputs: Inputs,
    /// What the mounts of a RUN show, in their order.
    shown: Vec<Shown>,
}

impl Keyed {
    /// A step of which no more is known than its key.
    fn of(key: CacheKey) -> Self {
        Self {
            key,
            source_key: None,
            record: None,
            trail: Trail::default(),
            cause: None,
            inputs: Inputs::default(),
            shown: Vec::new(),
        }
    }
}

/// A step that was executed because the cache, which was asked, had no answer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Miss {
    /// The instruction with its place: `Dockerfile:7: COPY . /src`.
    pub step: String,
    /// Which input differs from the last time.
    pub cause: Cause,
}

/// How many steps there were.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counts {
    /// Steps of the graph.
    pub steps: usize,
    /// Those that the cache answered, or made superfluous.
    pub cached: usize,
}

impl Solve {
    /// A build of `graph` on `bases` (in the order of the plan, with their labels) and `contexts`.
    pub fn new(
        engine: Arc<Engine>,
        graph: Graph,
        bases: Vec<Arc<Base>>,
        labels: Vec<String>,
        contexts: Contexts,
        file: Arc<SourceFile>,
    ) -> Self {
        let shares = &engine.shares;
        let base_files = bases.iter().map(|base| shares.base(base.chains.last()));
        Self {
            nodes: graph.steps.iter().map(|_| Node::default()).collect(),
            below_run: below_run(&graph),
            lent: vec![false; graph.steps.len()],
            runs_on: runs_on(&graph, bases.len()),
            guesses: guesses(&graph, bases.len()),
            base_files: base_files.collect(),
            engine,
            graph,
            bases,
            labels,
            contexts,
            file,
            context_copies: Arc::default(),
        }
    }

    /// Nobody will ask for the files of the target, only for its layers by the engine's recipe: so what is copied last need
    /// not be copied on the disk.
    #[must_use]
    pub fn for_image_only(mut self) -> Self {
        self.lent = copied_for_image(&self.graph);
        self
    }

    /// The graph that is solved.
    pub fn graph(&self) -> &Graph {
        &self.graph
    }

    /// All images that the graph names.
    pub fn bases(&self) -> impl Iterator<Item = &Base> {
        self.bases.iter().map(|base| &**base)
    }

    /// The image at the bottom of the target.
    pub fn target_base(&self) -> Option<&Arc<Base>> {
        self.graph.target.base.map(|id| &self.bases[id.0])
    }

    /// The steps that make the layers of the target, bottom first.
    pub fn target_steps(&self) -> Vec<StepId> {
        self.graph.line(self.graph.target.filesystem).1
    }

    /// The packed layer of a step. Executes it, and what it needs, where the cache has no answer.
    pub fn packed(&self, id: StepId) -> BoxFuture<'_, Shared<Layer>> {
        self.packed_by(id, self.engine.pack.recipe())
    }

    /// The layer of a step, packed by `recipe`.
    pub fn packed_by(&self, id: StepId, recipe: Recipe) -> BoxFuture<'_, Shared<Layer>> {
        async move {
            let layer = self.layer(id).await?;
            let below = self.snapshot(self.step(id).below, Need::Contents);
            let packed = layer.packed_by(&self.engine, recipe, below).await?;
            Ok(Layer {
                diff_id: packed.diff_id,
                descriptor: packed.descriptor,
                created: Some(layer.created().to_owned()),
            })
        }
        .boxed()
    }

    /// The steps that the cache did not answer, in the order of the graphs, equal ones once. To be asked when the build is
    /// done.
    pub fn misses(solves: &[Self]) -> Vec<Miss> {
        let mut misses: Vec<Miss> = Vec::new();
        for solve in solves {
            for (node, step) in solve.nodes.iter().zip(&solve.graph.steps) {
                let executed = node.executed.load(Ordering::Relaxed);
                let keyed = node.keyed.get().filter(|_| executed);
                let Some(cause) = keyed.and_then(|keyed| keyed.as_ref().ok()?.cause.clone()) else {
                    continue;
                };
                let name = &solve.file.name;
                misses.push(Miss {
                    step: format!("{name}:{}: {}", step.line, step.instruction),
                    cause,
                });
            }
        }
        misses
    }

    /// Waits until everything that was executed is recorded on the disk.
    ///
    /// # Errors
    /// When a record cannot be written.
    pub async fn recorded(&self) -> Shared<()> {
        for node in &self.nodes {
            if let Some(Ok(layer)) = node.layer.get() {
                layer.recorded().await?;
            }
        }
        Ok(())
    }

    /// What the cache spared, in all graphs of a build that is done. Tells people of the steps that were never needed
    /// because of a hit further up.
    pub fn tell_spared(solves: &[Self]) -> Counts {
        let nodes = || solves.iter().flat_map(|solve| solve.nodes.iter());
        let mut known: HashSet<_> = nodes()
            .filter(|node| node.layer.get().is_some())
            .filter_map(Node::key)
            .collect();
        let executed = nodes().filter(|node| node.executed.load(Ordering::Relaxed));
        let executed = executed.count();
        let unknown = nodes().filter(|node| node.key().is_none()).count();
        for solve in solves {
            for (node, step) in solve.nodes.iter().zip(&solve.graph.steps) {
                if node.layer.get().is_none() && node.key().is_none_or(|key| known.insert(key)) {
                    solve.engine.progress.start(&step.label).cached();
                }
            }
        }
        Counts {
            steps: known.len() + unknown,
            cached: known.len() + unknown - executed,
        }
    }

    fn step(&self, id: StepId) -> &Step {
        &self.graph.steps[id.0]
    }

    fn place(&self, step: &Step) -> Place {
        Place {
            file: self.file.clone(),
            span: step.span,
            instruction: step.instruction.clone(),
        }
    }

    /// The key of some files.
    fn key_of(&self, filesystem: Filesystem) -> BoxFuture<'_, Shared<CacheKey>> {
        async move {
            Ok(match filesystem {
                Filesystem::Scratch => CacheKey::scratch(),
                Filesystem::Base(id) => CacheKey::base(self.bases[id.0].chains.last()),
                Filesystem::Step(id) => {
                    let (keyed, step) = (self.keyed(id).await?, self.step(id));
                    if step.action.is_linked() {
                        CacheKey::stacked(&self.key_of(step.below).await?, &keyed.key)
                    } else {
                        keyed.key.clone()
                    }
                }
            })
        }
        .boxed()
    }

    fn keyed(&self, id: StepId) -> BoxFuture<'_, Shared<Arc<Keyed>>> {
        let keyed = self.nodes[id.0]
            .keyed
            .get_or_init(move || async move { self.find_key(id).await.map(Arc::new) });
        async move { keyed.await.clone() }.boxed()
    }

    async fn find_key(&self, id: StepId) -> Shared<Keyed> {
        let step = self.step(id);
        let below = if step.action.is_linked() {
            CacheKey::scratch()
        } else {
            self.key_of(step.below).await?
        };
        let epoch = self.graph.source_date_epoch;
        let plain = |(key, trail): (CacheKey, Trail)| {
            let record = self.lookup(step, &key);
            Keyed {
                cause: self.cause(step, record.as_ref(), &trail),
                record,
                key,
                source_key: None,
                trail,
                inputs: Inputs::default(),
                shown: Vec::new(),
            }
        };
        match &step.action {
            Action::Run(run) => self.key_of_run(step, run, &below).await,
            Action::Workdir(workdir) => Ok(plain(CacheKey::workdir(&below, workdir, epoch))),
            Action::Copy(copy) => {
                let context = match copy.from {
                    Input::Files(from) => {
                        return self.key_of_copy_from(step, copy, from, &below).await;
                    }
                    Input::Context(id) => self.contexts.get(id).clone(),
                };
                let inputs = self.inputs(step, copy, context).await?;
                let key = copy_key(&below, copy, &inputs, epoch);
                Ok(Keyed {
                    inputs,
                    ..plain(key)
                })
            }
        }
    }

    /// `COPY --from`: first by where it copies from, and only where that is new, by what is there.
    async fn key_of_copy_from(
        &self,
        step: &Step,
        copy: &CopyAction,
        from: Filesystem,
        below: &CacheKey,
    ) -> Shared<Keyed> {
        let epoch = self.graph.source_date_epoch;
        let source = self.key_of(from).await?;
        let source_key = CacheKey::copy_from(below, copy, &source, epoch);
        // Of files that are made anew it is not yet known whether they are the same.
        let known = if self.is_forced(from) {
            None
        } else {
            self.lookup(step, &source_key)
        };
        if let Some(record) = known {
            return Ok(Keyed {
                source_key: Some(source_key),
                record: Some(record.clone()),
                ..Keyed::of(record.key)
            });
        }
        let inputs = self.inputs_from(step, copy, from).await?;
        let (key, trail) = copy_key(below, copy, &inputs, epoch);
        let record = self.lookup(step, &key);
        self.record_as(&source_key, record.as_ref())?;
        Ok(Keyed {
            cause: self.cause(step, record.as_ref(), &trail),
            key,
            source_key: Some(source_key),
            record,
            trail,
            inputs,
            shown: Vec::new(),
        })
    }

    /// Why the cache has no record of a step; none where it has one, or was not asked.
    fn cause(&self, step: &Step, record: Option<&Record>, trail: &Trail) -> Option<Cause> {
        if record.is_some() || self.is_forced_step(step) {
            return None;
        }
        let names = Names {
            below_line: match step.below {
                Filesystem::Step(id) => Some(self.step(id).line),
                Filesystem::Base(_) | Filesystem::Scratch => None,
            },
            arguments: &self.graph.arguments,
        };
        let mut earlier = self.engine.cache.trails(&step.instruction);
        earlier.extend(self.engine.imports.trails(&step.instruction));
        Some(trail.cause(&earlier, &names))
    }

    /// Whether some files are made anew, whatever the cache has.
    fn is_forced(&self, filesystem: Filesystem) -> bool {
        match filesystem {
            Filesystem::Scratch | Filesystem::Base(_) => false,
            Filesystem::Step(id) => self.is_forced_step(self.step(id)),
        }
    }

    /// Whether a step is executed in any case: it is asked for, or what is below it is made anew.
    fn is_forced_step(&self, step: &Step) -> bool {
        let engine = &self.engine;
        engine.no_cache
            || engine.no_cache_stages.contains(&step.stage)
            || (!step.action.is_linked() && self.is_forced(step.below))
    }

    fn lookup(&self, step: &Step, key: &CacheKey) -> Option<Record> {
        if self.is_forced_step(step) {
            return None;
        }
        let own = self.engine.cache.lookup(key, self.engine.owners);
        own.or_else(|| self.engine.imports.lookup(key))
    }

    /// Lets a step of the engine's own cache be found by where its inputs come from, too.
    fn record_as(&self, source_key: &CacheKey, record: Option<&Record>) -> Shared<()> {
        let cache = &self.engine.cache;
        let is_own = |record: &&Record| {
            let packed = record.packed.as_ref();
            packed.is_none_or(|packed| cache.has_blob(&packed.descriptor))
        };
        if let Some(record) = record.filter(is_own) {
            let recorded = cache.record(&[source_key], record);
            recorded.map_err(Error::io("writing a cache record"))?;
        }
        Ok(())
    }

    fn layer(&self, id: StepId) -> BoxFuture<'_, Shared<Arc<StepLayer>>> {
        let layer = self.nodes[id.0].layer.get_or_init(move || async move {
            let keyed = self.keyed(id).await?;
            let step = self.step(id);
            if let Some(record) = &keyed.record {
                self.engine.progress.start(&step.label).cached();
                return Ok(Arc::new(StepLayer::cached(record.clone(), &self.engine)));
            }
            // An equal step, of this graph or of another platform's, is executed once.
            let shared = self.engine.shares.step(&keyed.key);
            let execute = || async {
                self.nodes[id.0].executed.store(true, Ordering::Relaxed);
                self.execute(id, &keyed).await.map(Arc::new)
            };
            shared.get_or_init(execute).await.clone()
        });
        async move { layer.await.clone() }.boxed()
    }

    fn base_error(&self, id: BaseId, source: crate::error::BaseError) -> Error {
        let name = self.bases[id.0].name.clone();
        let first = self.graph.steps.iter().find(|step| {
            step.below == Filesystem::Base(id) || step.inputs().contains(&Filesystem::Base(id))
        });
        match first {
            Some(step) => Error::Base {
                place: self.place(step),
                name,
                source: Box::new(source),
                help: None,
            },
            None => Error::Request(format!("base image `{name}`: {source}")),
        }
    }

    /// The files of the target.
    ///
    /// # Errors
    /// The first failure of any step, or of fetching the base.
    pub async fn target_snapshot(&self) -> Shared<Snapshot> {
        self.snapshot(self.graph.target.filesystem, Need::Contents)
            .await
    }
}

/// The key of a copy of these inputs, and what it is made of.
fn copy_key(
    below: &CacheKey,
    copy: &CopyAction,
    inputs: &Inputs,
    epoch: Option<i64>,
) -> (CacheKey, Trail) {
    let (digest, files) = inputs.digest();
    let (key, mut trail) = CacheKey::copy(below, copy, digest, epoch);
    trail.note_files(files.clone());
    (key, trail)
}

/// Runs work that blocks on a thread for such work.
async fn blocking<T: Send + 'static>(work: impl FnOnce() -> T + Send + 'static) -> Shared<T> {
    tokio::task::spawn_blocking(work)
        .await
        .map_err(|_| Arc::new(Error::Panicked))
}
