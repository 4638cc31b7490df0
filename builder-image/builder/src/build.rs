//! One build from text to image: parse, plan, resolve bases, expand, solve, and [`crate::export`]. It only puts these in
//! order. Several platforms are solved at the same time, each with its own graph, on one engine.

use std::sync::Arc;

use futures::future::try_join_all;
use oci::Platform;

use crate::base::{Base, Origin};
use crate::cache::Cache;
use crate::context::BuildContext;
use crate::epoch;
use crate::error::{Error, Place, SourceFile, chain};
use crate::exec::can_execute;
use crate::export::{Destination, Export, Form, Layers, export};
use crate::graph::{self, Graph, Options, Plan, Triggers};
use crate::image::{Image, Product, distinct};
use crate::lint;
use crate::resolve::{Images, resolve};
use crate::shared_cache::{CacheTarget, export_caches};
use crate::solve::{Contexts, Counts, Engine, Miss, Solve};

/// The build argument that asks for an index also of one platform.
const MULTI_PLATFORM: &str = "BUILDKIT_MULTI_PLATFORM";

/// What to build, and where it goes.
pub struct Job {
    /// The Dockerfile.
    pub file: Arc<SourceFile>,
    /// The files that it may copy.
    pub context: Arc<BuildContext>,
    /// The moment that these are of, in seconds since 1970, where their source has one.
    pub context_time: Option<i64>,
    /// Target, arguments, platform.
    pub options: Options,
    /// The platforms to build for; that of `options` where there is none. Several make an index.
    pub platforms: Vec<Platform>,
    /// The forms of the image and where they go. Without any, the image stays in the cache.
    pub exports: Vec<Export>,
    /// The caches that are written afterwards.
    pub caches: Vec<CacheTarget>,
}

/// A base image that a build was made from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FoundBase {
    /// The name as the Dockerfile has it, in full.
    pub name: String,
    /// The digest that the name stood for.
    pub digest: oci::Digest,
    /// The mirror that it was taken from.
    pub mirror: Option<oci::Repository>,
}

/// A finished build.
#[derive(Debug)]
pub struct Built {
    /// What was made, in the form of the first export.
    pub product: Product,
    /// The base images, as named and as resolved.
    pub bases: Vec<FoundBase>,
    /// What the cache spared.
    pub counts: Counts,
    /// The steps that it did not answer, with the reason.
    pub misses: Vec<Miss>,
}

impl Built {
    /// The image; of several platforms, that of the first.
    pub fn image(&self) -> &Image {
        &self.product.images[0]
    }
}

/// Whether the image has an index: that of several platforms has, that of one where a build argument asks for it, or an
/// annotation belongs there.
fn is_indexed(job: &Job) -> bool {
    let asked = job.options.build_args.get(MULTI_PLATFORM);
    let mut annotations =
        (job.exports.iter()).flat_map(|export| &export.settings.documents.annotations.0);
    distinct(&job.platforms).len() > 1
        || asked.is_some_and(|value| matches!(value.as_str(), "1" | "true"))
        || annotations.any(|annotation| annotation.level.is_of_index())
}

/// Whether a build of this file executes anything. Reads nothing but the text.
///
/// # Errors
/// When the file, or what is asked of it, is wrong.
pub fn needs_run(
    file: &Arc<SourceFile>,
    options: &Options,
    platforms: &[Platform],
) -> Result<bool, Error> {
    let (dockerfile, _) = parse(file)?;
    let fail = |error| Error::graph(error, file);
    let options = epoch::unresolved(&dockerfile, options).map_err(fail)?;
    for options in of_platforms(&options, platforms) {
        let triggered =
            graph::with_triggers(&dockerfile, &options, &Triggers::new()).map_err(fail)?;
        let plan = graph::plan(&triggered, &options).map_err(fail)?;
        if plan.first_run().is_some() {
            return Ok(true);
        }
    }
    Ok(false)
}

/// What is asked for of each platform.
fn of_platforms(options: &Options, platforms: &[Platform]) -> Vec<Options> {
    let mut platforms = distinct(platforms);
    if platforms.is_empty() {
        platforms.push(options.platform.clone());
    }
    let each = platforms.into_iter().map(|platform| Options {
        platform,
        ..options.clone()
    });
    each.collect()
}

/// The file and what is doubtful about it as far as parsing tells.
pub(crate) fn parse(
    file: &Arc<SourceFile>,
) -> Result<(dockerfile::Dockerfile, Vec<dockerfile::Diagnostic>), Error> {
    let parsed = dockerfile::parse(&file.name, &file.text).into_result();
    parsed.map_err(|diagnostics| Error::Dockerfile {
        file: file.clone(),
        diagnostics,
    })
}

/// Carries a job out.
///
/// When it fails or is dropped, the caller cancels the engine's token and waits for the threads that still work.
///
/// # Errors
/// The first failure; the destinations' tags and the output files are then as they were.
pub async fn build(engine: Arc<Engine>, job: Job) -> Result<Built, Error> {
    let cancel = engine.cancel.clone();
    let progress = engine.progress.clone();
    let (cache, context) = (engine.cache.clone(), job.context.clone());
    let built = tokio::select! {
        biased;
        () = cancel.cancelled() => Err(Error::Cancelled),
        built = run_with_imports(&engine, &job) => built,
    };
    // Also where a step failed: it is what people build again at once.
    let kept = tokio::task::spawn_blocking(move || context.keep_digests(&cache));
    kept.await.map_err(|_| Error::Panicked)?;
    progress.tell_warnings();
    built
}

/// Builds, and where a cache that was read turns out to be damaged, once more without it: what was made is not lost.
async fn run_with_imports(engine: &Arc<Engine>, job: &Job) -> Result<Built, Error> {
    if !engine.no_cache {
        engine.imports.read(&engine.client, &engine.progress).await;
    }
    loop {
        // What it awaits is deep, and the compiler's patience with that is not.
        match Box::pin(run(engine, job)).await {
            Err(error) if engine.imports.drop_broken() => {
                tracing::warn!(error = chain(&error), "building without the damaged cache");
                engine.shares.clear();
            }
            result => return result,
        }
    }
}

async fn run(engine: &Arc<Engine>, job: &Job) -> Result<Built, Error> {
    let file = &job.file;
    let loading = engine.progress.start(format!(
        "[internal] load build definition from {}",
        file.name
    ));
    let (dockerfile, warnings) =
        parse(file).inspect_err(|error| loading.failed(&error.to_string()))?;
    let time = job.context_time;
    let options = epoch::resolve(engine, file, &dockerfile, &job.options, time)
        .await
        .inspect_err(|error| loading.failed(&error.to_string()))?;
    let options = of_platforms(&options, &job.platforms);
    check_annotations(&job.exports, &options)?;
    let several = options.len() > 1;
    loading.done();

    // What is to be said of the file is said once, of the first platform's graph.
    let mut warnings = Some(warnings);
    let prepared: Vec<_> = options
        .iter()
        .map(|options| prepare(engine, job, &dockerfile, options, several, warnings.take()))
        .collect();
    let solves = try_join_all(prepared).await?;
    let indexed = is_indexed(job);
    tell_useless_rewrites(&solves, &job.exports);
    let (product, counts) = export(engine, &solves, &job.exports, indexed).await?;
    let destinations = job.exports.iter().flat_map(|export| &export.destinations);
    let pushed: Vec<_> = destinations.map(|to| to.repository.clone()).collect();
    export_caches(engine, &solves, &job.caches, &pushed).await?;
    for solve in &solves {
        solve.recorded().await?;
    }
    let mut bases = Vec::new();
    for base in solves.iter().flat_map(Solve::bases) {
        let base = FoundBase {
            name: base.name.clone(),
            digest: base.digest.clone(),
            mirror: base.mirror.clone(),
        };
        if !bases.contains(&base) {
            bases.push(base);
        }
    }
    Ok(Built {
        product,
        bases,
        counts,
        misses: Solve::misses(&solves),
    })
}

/// Refuses an annotation for a platform that is not built: its image could not have it.
fn check_annotations(exports: &[Export], options: &[Options]) -> Result<(), Error> {
    let platforms: Vec<_> = options.iter().map(|o| o.platform.clone()).collect();
    for export in exports {
        let annotations = &export.settings.documents.annotations;
        if let Some(annotation) = annotations.of_absent_platform(&platforms)
            && let Some(platform) = &annotation.platform
        {
            return Err(Error::Request(format!(
                "the annotation `{}` is for {platform}, which is not built: add it to --platform",
                annotation.key
            )));
        }
    }
    Ok(())
}

/// Says so where times are to be cut off at an epoch that nobody gave.
fn tell_useless_rewrites(solves: &[Solve], exports: &[Export]) {
    let has_epoch = |solve: &Solve| solve.graph().source_date_epoch.is_some();
    let useless = |export: &Export| {
        export.settings.rewrite_timestamp
            && export.settings.epoch.is_none()
            && !solves.iter().all(has_epoch)
    };
    if exports.iter().any(useless) {
        tracing::warn!(
            "rewrite-timestamp changes nothing without an epoch: set SOURCE_DATE_EPOCH, or source-date-epoch of the output"
        );
    }
}

/// Resolves the bases for one platform and makes the graph ready to be solved; checks the file where that is asked for.
async fn prepare(
    engine: &Arc<Engine>,
    job: &Job,
    dockerfile: &dockerfile::Dockerfile,
    options: &Options,
    several: bool,
    warnings: Option<Vec<dockerfile::Diagnostic>>,
) -> Result<Solve, Error> {
    let file = &job.file;
    let check = |plan: &Plan<'_>| check_run(engine, file, options, plan);
    let images = Images {
        bases: &engine.bases,
        progress: &engine.progress,
        file,
    };
    let resolved = resolve(&images, dockerfile, options, graph::plan, &check).await?;
    let mut bases = resolved.bases;
    for base in &mut bases {
        let needed = needs_blobs(base, &job.exports);
        Arc::make_mut(base).keeps_blobs = needed;
    }
    let planned = graph::plan(&resolved.dockerfile, options);
    let plan = planned.map_err(|error| Error::graph(error, file))?;
    let configs: Vec<_> = bases.iter().map(|base| base.config.clone()).collect();
    let mut graph = graph::build(&plan, &configs).map_err(|error| Error::graph(error, file))?;
    if let Some(warnings) = warnings {
        let found = lint::findings(
            file,
            &job.options,
            dockerfile,
            warnings,
            &graph,
            &job.context,
        )?;
        engine.progress.warn(found.to_warnings());
        found.into_result()?;
    }
    let labels = plan.bases.iter().map(|base| {
        if several {
            with_platform(&base.label, &base.platform)
        } else {
            base.label.clone()
        }
    });
    let labels = labels.collect();
    if several {
        tell_platforms(&mut graph);
    }
    let named = graph.contexts.iter().map(|name| async move {
        let fetcher = engine.fetcher_of(name);
        let files = engine
            .named
            .get(name, &fetcher, &engine.cache, &engine.progress);
        files.await
    });
    let contexts = Contexts {
        build: job.context.clone(),
        named: try_join_all(named).await?.into(),
    };
    let epoch = graph.source_date_epoch;
    let image_only = takes_layers_only(engine, &job.exports, epoch);
    let solve = Solve::new(engine.clone(), graph, bases, labels, contexts, file.clone());
    Ok(if image_only {
        solve.for_image_only()
    } else {
        solve
    })
}

/// Whether all that is made of the build are images of its layers as the engine packs them; `epoch` is that of the build.
fn takes_layers_only(engine: &Engine, exports: &[Export], epoch: Option<i64>) -> bool {
    let of_layers = |export: &Export| {
        export.settings.layers == Layers::OfSteps
            && export.settings.recipe(epoch) == engine.pack.recipe()
            && !(export.outputs.iter()).any(|to| matches!(to.form, Form::Files | Form::RootTar))
    };
    !exports.is_empty() && exports.iter().all(of_layers)
}

/// Whether an export reads the blobs of the base. Where all of them go to the registry that the base is from, they are
/// mounted there, and a copy on the disk would only be written.
fn needs_blobs(base: &Base, exports: &[Export]) -> bool {
    let Origin::Registry(from) = &base.origin else {
        return true;
    };
    exports.iter().any(|export| {
        let elsewhere = |to: &Destination| to.repository.host() != from.host();
        !export.outputs.is_empty()
            || export.settings.force_compression
            || export.destinations.iter().any(elsewhere)
    })
}

/// Lets progress tell the steps of several platforms apart: `[linux/arm64 build 2/5] RUN make`.
fn tell_platforms(graph: &mut Graph) {
    for step in &mut graph.steps {
        step.label = with_platform(&step.label, &step.platform);
    }
}

fn with_platform(label: &str, platform: &Platform) -> String {
    match label.strip_prefix('[') {
        Some(rest) => format!("[{platform} {rest}"),
        None => format!("[{platform}] {label}"),
    }
}

/// Removes from the cache what is over the quota, after a build that added to it. A failure is told and is no failure of
/// the build.
pub async fn keep_to_quota(cache: Cache, quota: Option<u64>) {
    if !cache.has_grown() {
        return;
    }
    let removed = tokio::task::spawn_blocking(move || cache.keep_to(quota)).await;
    match removed {
        Ok(Ok(removed)) if removed.bytes > 0 => tracing::info!(
            bytes = removed.bytes,
            objects = removed.objects.len(),
            "removed from the cache what was not used for longest"
        ),
        Ok(Ok(_)) => {}
        Ok(Err(error)) => tracing::warn!(%error, "the cache cannot be kept to its quota"),
        Err(error) => tracing::warn!(%error, "the cache cannot be kept to its quota"),
    }
}

/// Refuses a RUN that could not be executed, before anything is fetched for it.
fn check_run(
    engine: &Engine,
    file: &Arc<SourceFile>,
    options: &Options,
    plan: &Plan<'_>,
) -> Result<(), Error> {
    let place = |run: &dockerfile::Instruction| Place {
        file: file.clone(),
        span: run.span,
        instruction: run.source.clone(),
    };
    let mut executable: Vec<&Platform> = Vec::new();
    for (run, platform) in plan.runs() {
        if engine.runtime.is_none() {
            return Err(Error::NoRun(place(run)));
        }
        // A program is started to find it out: once for each platform, not for each RUN.
        if executable.contains(&platform) {
            continue;
        }
        if !can_execute(platform, &options.build_platform, &engine.cache.tmp()) {
            return Err(Error::ForeignRun {
                place: place(run),
                platform: platform.to_string(),
            });
        }
        executable.push(platform);
    }
    Ok(())
}
