//! One build from text to image: parse, plan, resolve bases, expand, solve, assemble, export. It only puts these in order;
//! pushing begins with the first layer that is packed.

use std::sync::Arc;

use futures::future::{try_join, try_join_all};

use crate::base::{Base, Bases};
use crate::context::BuildContext;
use crate::error::{BaseError, Error, Place, SourceFile};
use crate::export::{Destination, Form, Output, Pusher, Source, write_archive, write_layout};
use crate::graph::{self, Options, Plan};
use crate::image::{Image, assemble};
use crate::lint;
use crate::progress::Progress;
use crate::solve::{Counts, Engine, Miss, Solve};

/// What to build, and where it goes.
pub struct Job {
    /// The Dockerfile.
    pub file: Arc<SourceFile>,
    /// The files that it may copy.
    pub context: Arc<BuildContext>,
    /// Target, arguments, platform.
    pub options: Options,
    /// Repositories to push to.
    pub destinations: Vec<Destination>,
    /// Files to write.
    pub outputs: Vec<Output>,
}

/// A finished build.
#[derive(Debug)]
pub struct Built {
    /// The image.
    pub image: Image,
    /// The base images, as named and as resolved.
    pub bases: Vec<(String, oci::Digest)>,
    /// What the cache spared.
    pub counts: Counts,
    /// The steps that it did not answer, with the reason.
    pub misses: Vec<Miss>,
}

/// Whether a build of this file executes anything. Reads nothing but the text.
///
/// # Errors
/// When the file, or what is asked of it, is wrong.
pub fn needs_run(file: &Arc<SourceFile>, options: &Options) -> Result<bool, Error> {
    let (dockerfile, _) = parse(file)?;
    let plan = graph::plan(&dockerfile, options).map_err(|error| Error::graph(error, file))?;
    Ok(plan.first_run().is_some())
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
    let built = tokio::select! {
        biased;
        () = cancel.cancelled() => Err(Error::Cancelled),
        built = run(engine, job) => built,
    };
    progress.tell_warnings();
    built
}

async fn run(engine: Arc<Engine>, job: Job) -> Result<Built, Error> {
    let file = &job.file;
    let loading = engine.progress.start(format!(
        "[internal] load build definition from {}",
        file.name
    ));
    let (dockerfile, warnings) =
        parse(file).inspect_err(|error| loading.failed(&error.to_string()))?;
    let plan = graph::plan(&dockerfile, &job.options)
        .map_err(|error| Error::graph(error, file))
        .inspect_err(|error| loading.failed(&error.to_string()))?;
    loading.done();
    check_run(&engine, &job, &plan)?;

    let bases: Vec<_> = resolve_with(&engine.bases, &engine.progress, &plan, file)
        .await?
        .into_iter()
        .map(Arc::new)
        .collect();
    let configs: Vec<_> = bases.iter().map(|base| base.config.clone()).collect();
    let graph = graph::build(&plan, &configs).map_err(|error| Error::graph(error, file))?;
    let found = lint::findings(
        file,
        &job.options,
        &dockerfile,
        warnings,
        &graph,
        &job.context,
    )?;
    engine.progress.warn(found.to_warnings());
    found.into_result()?;
    let labels = plan.bases.iter().map(|base| base.label.clone()).collect();
    let context = job.context.clone();
    let solve = Solve::new(
        engine.clone(),
        graph,
        bases.clone(),
        labels,
        context,
        file.clone(),
    );

    let pusher = Pusher::new(
        engine.client.clone(),
        engine.cache.clone(),
        job.destinations,
    );
    let (image, ()) = try_join(
        async {
            let steps = solve.target_layers().await?;
            let base = solve
                .target_base()
                .map(|base| base.layers.as_slice())
                .unwrap_or_default();
            let epoch = solve.graph().source_date_epoch;
            Ok::<_, Error>(assemble(&solve.graph().target, base, &steps, epoch))
        },
        push_layers(&solve, &pusher),
    )
    .await?;
    solve.tell_spared();
    let exporting = engine.progress.start("exporting to image");
    let exported = export(&engine, &solve, &pusher, &image, job.outputs, &exporting).await;
    exported.inspect_err(|error| exporting.failed(&error.to_string()))?;
    exporting.done();
    Ok(Built {
        image,
        bases: bases
            .iter()
            .map(|base| (base.name.clone(), base.digest.clone()))
            .collect(),
        counts: solve.counts(),
        misses: solve.misses(),
    })
}

/// Refuses a RUN that could not be executed, before anything is fetched for it.
fn check_run(engine: &Engine, job: &Job, plan: &Plan<'_>) -> Result<(), Error> {
    let Some(run) = plan.first_run() else {
        return Ok(());
    };
    let place = Place {
        file: job.file.clone(),
        span: run.span,
        instruction: run.source.clone(),
    };
    let options = &job.options;
    if engine.runtime.is_none() {
        Err(Error::NoRun(place))
    } else if options.platform.architecture != options.build_platform.architecture {
        Err(Error::ForeignRun {
            place,
            platform: options.platform.to_string(),
        })
    } else {
        Ok(())
    }
}

/// Finds all images of the plan at the same time.
pub(crate) async fn resolve_with(
    bases: &Bases,
    progress: &Progress,
    plan: &Plan<'_>,
    file: &Arc<SourceFile>,
) -> Result<Vec<Base>, Error> {
    let all = plan.bases.iter().map(|wanted| async move {
        let vertex = progress.start(format!("[internal] load metadata for {}", wanted.name));
        match bases.resolve(&wanted.name, &wanted.platform).await {
            Ok(base) => {
                vertex.output(base.digest.as_str().as_bytes());
                vertex.done();
                Ok(base)
            }
            Err(source) => {
                vertex.failed(&source.to_string());
                Err(Error::Base {
                    place: Place {
                        file: file.clone(),
                        span: wanted.span,
                        instruction: wanted.label.clone(),
                    },
                    name: wanted.name.to_string(),
                    help: base_help(&source, wanted),
                    source: Box::new(source),
                })
            }
        }
    });
    try_join_all(all).await
}

/// What was probably meant, where the image cannot be had at all.
fn base_help(error: &BaseError, wanted: &graph::Base) -> Option<String> {
    let stage = wanted.similar_stage.as_ref()?;
    matches!(error, BaseError::NotFound | BaseError::Registry(_))
        .then(|| format!("did you mean the stage `{stage}`?"))
}

/// Sends each layer of the target as soon as it is there.
async fn push_layers(solve: &Solve, pusher: &Pusher) -> Result<(), Error> {
    if pusher.is_idle() {
        return Ok(());
    }
    let base = async {
        let Some(base) = solve.target_base() else {
            return Ok(());
        };
        let source = Source::Base(base.clone());
        try_join_all(
            base.layers
                .iter()
                .map(|layer| pusher.layer(&layer.descriptor, &source)),
        )
        .await
        .map(drop)
    };
    let steps = try_join_all(solve.target_steps().into_iter().map(|id| async move {
        let layer = solve.packed(id).await?;
        pusher.layer(&layer.descriptor, &Source::Cache).await
    }));
    try_join(base, steps).await.map(drop)
}

async fn export(
    engine: &Arc<Engine>,
    solve: &Solve,
    pusher: &Pusher,
    image: &Image,
    outputs: Vec<Output>,
    vertex: &crate::progress::Vertex,
) -> Result<(), Error> {
    vertex.output(format!("manifest {}", image.descriptor.digest).as_bytes());
    vertex.output(format!("config {}", image.config_descriptor.digest).as_bytes());
    if !outputs.is_empty()
        && let Some(base) = solve.target_base()
    {
        let blobs = base
            .layers
            .iter()
            .map(|layer| engine.bases.blob(base, &layer.descriptor));
        try_join_all(blobs)
            .await
            .map_err(|error| Error::Cache(base.name.clone(), Box::new(error)))?;
    }
    for output in outputs {
        let shown = output
            .path
            .as_ref()
            .map_or("-".into(), |path| path.display().to_string());
        vertex.output(format!("writing {shown}").as_bytes());
        let (engine, image) = (engine.clone(), image.clone());
        let base = solve.target_base().cloned();
        tokio::task::spawn_blocking(move || {
            let blob = |layer: &oci::Descriptor| match &base {
                Some(base) => engine.bases.blob_path(base, layer),
                None => engine.cache.blob(&layer.digest),
            };
            match (output.form, &output.path) {
                (Form::OciDirectory, Some(path)) => {
                    write_layout(&image, &output.names, path, &blob)
                }
                _ => write_archive(&image, &output, &blob),
            }
        })
        .await
        .map_err(|_| Error::Panicked)??;
    }
    for name in pusher.names() {
        vertex.output(format!("pushing {name}").as_bytes());
    }
    pusher.finish(image).await
}
