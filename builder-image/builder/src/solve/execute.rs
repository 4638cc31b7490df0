//! Executing one step: its inputs made ready, its work done on a thread, its layer put in place. Its record is written while
//! others go on.

use std::path::Path;
use std::sync::Arc;

use dockerfile::{Mode, SourceLocation};
use jiff::Timestamp as Clock;
use oci::Digest;

use super::contexts::Contexts;
use super::mounts::ContextCopies;
use super::sources::Repository;
use super::{Keyed, Need, Shared, Solve, blocking};
use crate::cache::{Cache, Record};
use crate::cause::FileMarks;
use crate::disk;
use crate::error::{Error, StepFailure};
use crate::exec::MAX_PROCESSES;
use crate::graph::{Action, CopyAction, Filesystem, Input, RunAction, Step, StepId, Surroundings};
use crate::layer::{LayerDir, LentLayer};
use crate::progress::Vertex;
use crate::snapshot::Snapshot;
use crate::solve::step_layer::{Lent, StepLayer};
use crate::step::copy::{CopySource, CopySpec, Onto, Unpack, copy, lend};
use crate::step::missing::hint;
use crate::step::run::{RunSpec, run};
use crate::step::workdir::workdir;
use crate::step::{LackingFiles, StepError, digest_inputs, lacked};
use crate::tree::{SharedTree, Timestamp};

/// What a COPY or ADD needs, found out for its key and used again when it is executed.
#[derive(Default)]
pub(super) struct Inputs {
    spec: Option<CopySpec>,
    digest: Option<(Digest, FileMarks)>,
    /// What is copied from.
    from: Option<SharedTree>,
    /// What is fetched before the step is executed.
    repositories: Vec<Repository>,
}

impl Inputs {
    /// The digest of everything that is copied, and what that is.
    pub(super) fn digest(&self) -> &(Digest, FileMarks) {
        self.digest
            .as_ref()
            .expect("inputs of a copy have a digest")
    }
}

impl Solve {
    /// Makes ready what a `COPY --from` copies, and digests it.
    pub(super) async fn inputs_from(
        &self,
        step: &Step,
        action: &CopyAction,
        from: Filesystem,
    ) -> Shared<Inputs> {
        let paths = action.sources.iter().cloned().map(CopySource::Path);
        let spec = copy_spec(action, paths.collect());
        // What of images nobody has unpacked is taken out of their layers, file by file.
        if let Some(files) = self.picked(from, spec).await? {
            let files = Arc::new(files);
            let inputs = self.inputs(step, action, files.clone()).await;
            if !files.lacked_content() {
                return inputs;
            }
        }
        let snapshot = self.snapshot(from, Need::Contents).await?;
        self.inputs(step, action, Arc::new(snapshot)).await
    }

    /// Makes ready what a COPY or ADD copies, and digests it.
    pub(super) async fn inputs(
        &self,
        step: &Step,
        action: &CopyAction,
        from: SharedTree,
    ) -> Shared<Inputs> {
        let fail = |source| self.step_error(step, source, String::new());
        let mut repositories = Vec::new();
        let mut sources = Vec::new();
        for text in &action.sources {
            sources.push(match SourceLocation::of(text) {
                SourceLocation::Http if action.add => self
                    .find_download(text, action.checksum.as_deref())
                    .await
                    .map_err(fail)?,
                SourceLocation::Git if action.add => {
                    let found = self.find_repository(action, text).await;
                    let (source, repository) = found.map_err(fail)?;
                    repositories.push(repository);
                    source
                }
                _ => CopySource::Path(text.clone()),
            });
        }
        let documents = action.documents.iter().cloned();
        sources.extend(documents.map(|(name, content)| CopySource::Inline {
            name,
            content: content.into_bytes(),
        }));
        let spec = copy_spec(action, sources);
        let (tree, wanted) = (from.clone(), spec.clone());
        let digest = blocking(move || digest_inputs(&wanted, tree.as_ref()));
        let digest = digest.await?.map_err(|error| fail(error.into()))?;
        Ok(Inputs {
            spec: Some(spec),
            digest: Some(digest),
            from: Some(from),
            repositories,
        })
    }

    /// Executes a step that the cache does not know.
    pub(super) async fn execute(&self, id: StepId, keyed: &Arc<Keyed>) -> Shared<StepLayer> {
        let step = self.step(id);
        let need = match step.action {
            Action::Run(_) => Need::Contents,
            _ if self.below_run[id.0] => Need::Contents,
            Action::Copy(_) | Action::Workdir(_) => Need::Listing,
        };
        let below = if step.action.is_linked() {
            Snapshot::empty()
        } else {
            self.snapshot(step.below, need).await?
        };
        self.fetch_repositories(step, &keyed.inputs.repositories)
            .await?;
        let vertex = Arc::new(self.engine.progress.start(&step.label));
        if let Some(cause) = &keyed.cause {
            vertex.missed(&cause.to_string());
        }
        if self.lent[id.0] {
            let work = self.work(step, keyed, below.clone(), &vertex);
            let task = work.task.clone();
            if let Some((record, keys, layer)) = blocking(move || work.lend()).await? {
                vertex.done();
                let place = self.place(step);
                let recipe = self.engine.pack.recipe();
                let lent = Lent::new(layer, task, place);
                return Ok(StepLayer::lent(record, keys, lent, recipe));
            }
        }
        let mut made = self.make(step, keyed, below.clone(), &vertex).await?;
        if let Ok(Made::Lacking(files)) = made {
            let picked = self.pick(step.below, below, files).await?;
            let below = match picked {
                Some(picked) => picked,
                None => self.snapshot(step.below, Need::Contents).await?,
            };
            made = self.make(step, keyed, below, &vertex).await?;
        }
        if let Ok(Made::Lacking(_)) = made {
            let below = self.snapshot(step.below, Need::Contents).await?;
            made = self.make(step, keyed, below, &vertex).await?;
        }
        let made = made.and_then(|made| match made {
            Made::Layer(done) => Ok(*done),
            Made::Lacking(_) => Err(StepFailure::Io {
                doing: "reading the layers below the step",
                source: std::io::ErrorKind::NotFound.into(),
            }),
        });
        match made {
            Ok((record, keys, layer)) => {
                vertex.done();
                // Flushing a record takes longer than many a step: the steps on top need not wait for it.
                let recorded = self.engine.begin_record(keys.clone(), record.clone());
                let recipe = self.engine.pack.recipe();
                let layer = Arc::new(layer);
                Ok(StepLayer::fresh(record, keys, layer, recipe, recorded))
            }
            Err(source) => {
                let error = self.step_error(step, source, vertex.tail());
                let message = match error.as_ref() {
                    Error::Step { source, .. } => crate::error::chain(source.as_ref()),
                    other => other.to_string(),
                };
                vertex.failed(&message);
                Err(error)
            }
        }
    }

    /// Does the work of a step on what is below it.
    async fn make(
        &self,
        step: &Step,
        keyed: &Arc<Keyed>,
        below: Snapshot,
        vertex: &Arc<Vertex>,
    ) -> Shared<Result<Made, StepFailure>> {
        let work = self.work(step, keyed, below, vertex);
        blocking(move || work.layer()).await
    }

    fn work(&self, step: &Step, keyed: &Arc<Keyed>, below: Snapshot, vertex: &Arc<Vertex>) -> Work {
        let proxies = self.graph.proxies.iter();
        let task = Task {
            contexts: self.contexts.clone(),
            context_copies: self.context_copies.clone(),
            action: step.action.clone(),
            keyed: keyed.clone(),
            below,
            vertex: vertex.clone(),
            epoch: self.graph.source_date_epoch,
            around: self.graph.surroundings.clone(),
            proxies: proxies
                .map(|(name, value)| format!("{name}={value}"))
                .collect(),
            instruction: step.instruction.clone(),
        };
        Work {
            engine: self.engine.clone(),
            task: Arc::new(task),
        }
    }

    /// What to do about a source that is not in the context, or about too many processes.
    fn help(&self, step: &Step, failure: &StepFailure, output: &str) -> Option<String> {
        match (failure, &step.action) {
            (StepFailure::Exit { .. }, _) => too_many_processes(output),
            (StepFailure::Files(StepError::SourceNotFound(source)), Action::Copy(copy))
                if let Input::Context(id) = copy.from =>
            {
                hint(self.contexts.get(id), source)
            }
            _ => None,
        }
    }

    pub(super) fn step_error(
        &self,
        step: &Step,
        source: StepFailure,
        output: String,
    ) -> Arc<Error> {
        Arc::new(Error::Step {
            place: self.place(step),
            help: self.help(step, &source, &output),
            source: Box::new(source),
            output,
        })
    }
}

/// What a COPY or ADD of these sources is asked for.
fn copy_spec(action: &CopyAction, sources: Vec<CopySource>) -> CopySpec {
    CopySpec {
        chown: action.chown.clone(),
        chmod: action
            .chmod
            .as_deref()
            .and_then(|mode| Mode::parse(mode).ok()),
        link: action.link,
        parents: action.parents,
        exclude: action.exclude.clone(),
        unpack: match action.unpack {
            Some(true) => Unpack::All,
            None if action.add => Unpack::Local,
            _ => Unpack::Never,
        },
        ..CopySpec::new(sources, &action.destination)
    }
}

/// One step with all that it needs, to be done on a thread.
#[derive(Clone)]
pub(super) struct Work {
    pub(super) engine: Arc<super::Engine>,
    pub(super) task: Arc<Task>,
}

/// One step with all that it needs but the engine, which keeps steps itself.
pub(super) struct Task {
    pub(super) contexts: Contexts,
    pub(super) context_copies: Arc<ContextCopies>,
    action: Action,
    pub(super) keyed: Arc<Keyed>,
    below: Snapshot,
    vertex: Arc<Vertex>,
    pub(super) epoch: Option<i64>,
    around: Surroundings,
    proxies: Vec<String>,
    instruction: String,
}

/// A record, the keys under which it is kept, and the layer.
type Done<L = LayerDir> = (Record, Vec<crate::cache_key::CacheKey>, L);

/// What came of a step.
pub(super) enum Made {
    /// Its layer.
    Layer(Box<Done>),
    /// Nothing yet: contents of files are needed that are only listed.
    Lacking(LackingFiles),
}

impl Work {
    /// Makes the layer, puts it where layers are, and says what is to be recorded of it.
    pub(super) fn layer(&self) -> Result<Made, StepFailure> {
        let io = |doing| move |source| StepFailure::Io { doing, source };
        let cache = &self.engine.cache;
        let scratch = cache
            .scratch("step-")
            .map_err(io("making a directory for a step"))?;
        let into = scratch.path().join("layer");
        let made = match &self.task.action {
            Action::Run(action) => self.run(action, &into),
            Action::Copy(_) => self.copy(&into),
            Action::Workdir(action) => {
                workdir(&action.path, &action.user, &self.onto(), &into).map_err(StepFailure::from)
            }
        };
        if self.task.below.lacked_content() {
            let lacking = lacked(&self.task.below).map_err(crate::step::StepError::from)?;
            return Ok(Made::Lacking(lacking));
        }
        let layer = made?;
        let nonce = scratch
            .path()
            .file_name()
            .unwrap_or_default()
            .to_string_lossy()
            .into_owned();
        let stem = format!("{}-{nonce}", &self.task.keyed.key.hex()[..16]);
        let name = Cache::layer_name(&stem, self.engine.owners);
        let layer = cache
            .place_layer(layer, &name)
            .map_err(crate::step::StepError::from)?;
        let (mut record, keys) = self.record();
        record.layer = Some(name);
        Ok(Made::Layer(Box::new((record, keys, layer))))
    }

    /// Makes the layer of a COPY without copying its files. None where that cannot be done: the usual way then says why.
    fn lend(&self) -> Option<Done<LentLayer>> {
        let (spec, from) = self.copied();
        let layer = lend(spec, from, &self.onto()).ok()?;
        if self.task.below.lacked_content() {
            return None;
        }
        let (record, keys) = self.record();
        Some((record, keys, layer))
    }

    /// What is recorded of the step, but for its layer, and under which keys.
    fn record(&self) -> (Record, Vec<crate::cache_key::CacheKey>) {
        let (cache, keyed) = (&self.engine.cache, &self.task.keyed);
        let created = Clock::now().to_string();
        cache.keep_trail(&self.task.instruction, &keyed.trail);
        let record = Record::new(keyed.key.clone(), created, self.task.instruction.clone());
        let keys = std::iter::once(&keyed.key).chain(&keyed.source_key);
        (record, keys.cloned().collect())
    }

    fn onto(&self) -> Onto<'_> {
        let now = || Clock::now().as_second();
        Onto {
            base: &self.task.below,
            created: Timestamp::from_seconds(self.task.epoch.unwrap_or_else(now)),
            owners: self.engine.owners,
        }
    }

    /// What a COPY or ADD copies, and from where.
    fn copied(&self) -> (&CopySpec, &SharedTree) {
        let inputs = &self.task.keyed.inputs;
        let copied = inputs.spec.as_ref().zip(inputs.from.as_ref());
        copied.expect("a copy that is executed has its inputs")
    }

    fn copy(&self, into: &Path) -> Result<LayerDir, StepFailure> {
        let (spec, from) = self.copied();
        Ok(copy(spec, from.as_ref(), &self.onto(), into)?)
    }

    fn run(&self, action: &RunAction, into: &Path) -> Result<LayerDir, StepFailure> {
        let runtime = self
            .engine
            .runtime
            .as_ref()
            .expect("a build with RUN has a runtime");
        let cancelled = || self.engine.cancel.is_cancelled();
        let (mounts, _leases) = self.mounts(action, &cancelled)?;
        let spec = RunSpec {
            args: action.args.clone(),
            env: action
                .env
                .iter()
                .chain(&self.task.proxies)
                .cloned()
                .collect(),
            cwd: action.cwd.clone(),
            user: action.user.clone(),
            script: action.script.clone(),
            network: action.network,
            around: self.task.around.clone(),
            mounts,
        };
        let redactor = spec.redactor();
        let mut output = |_, line: &[u8]| match redactor.redact(line) {
            Some(redacted) => self.task.vertex.output(&redacted),
            None => self.task.vertex.output(line),
        };
        let (layer, status) = run(
            &spec,
            &self.task.below,
            into,
            runtime,
            &cancelled,
            &mut output,
        )?;
        if status.success() {
            return Ok(layer);
        }
        let (command, code) = (action.args.join(" "), status.code);
        Err(if disk::is_full(into, &self.task.vertex.tail()) {
            StepFailure::DiskFull { command, code }
        } else {
            StepFailure::Exit { command, code }
        })
    }
}

/// What to do where a program was refused another process, which is what the C library, and with it most programs, say then.
fn too_many_processes(output: &str) -> Option<String> {
    output.contains("Resource temporarily unavailable").then(|| {
        format!(
            "a step may have {MAX_PROCESSES} processes and threads at a time: let it start fewer, or raise the limit with `--ulimit nproc=NUMBER`"
        )
    })
}
