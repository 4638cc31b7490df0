//! `coopery build`: an image from a Dockerfile and a directory, with the flags of `docker buildx build`. What is not
//! supported yet is refused by name.

mod annotation;
mod cache_arg;
mod check;
mod compat;
mod csv;
mod exports;
mod fetched;
mod input;
mod output_arg;
mod run_args;
mod spec;

use std::collections::BTreeMap;
use std::os::unix::process::CommandExt as _;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use clap::{Args, ValueEnum};
use oci::{Platform, Reference};

use self::cache_arg::CacheArgs;
use self::check::{Call, CallArgs};
use self::compat::CompatArgs;
use self::exports::{About, ExportArgs, Exports};
use self::fetched::Fetched;
use self::input::{check_contexts, check_file, check_outputs, read_definition};
use self::run_args::RunArgs;
use self::spec::{KeyValue, NamedContextArg, image_name};
use super::network::NetworkArgs;
use super::{output, root, size};
use crate::base::{Bases, LocalImages};
use crate::build::{Built, Job, build, keep_to_quota, needs_run};
use crate::cache::Cache;
use crate::context::{BuildContext, git_dir};
use crate::error::{Error, SourceFile};
use crate::exec::{Entered, Runtime, enter_user_namespace};
use crate::graph::Options;
use crate::image::Documents;
use crate::layer::{Owners, PackOptions};
use crate::named_context::{NamedContext, NamedFiles};
use crate::progress::{Progress, Style};
use crate::runtime::{Stop, run_async};
use crate::solve::{Engine, Shares, Sources};

/// How RUN is isolated.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum)]
enum Isolation {
    /// In a user namespace where there is a RUN
    #[default]
    #[value(alias = "default")]
    Auto,
    /// Always in a user namespace
    UserNamespace,
    /// Not at all: RUN is refused
    NoRun,
}

/// Tells the process that there is a RUN, whatever the Dockerfile looks like.
const ISOLATED: &str = "COOPERY_ISOLATED";

const EXAMPLES: &str = "\
Examples:
  coopery build -t app:1 -o type=docker,dest=app.tar .        then: docker load -i app.tar
  coopery build -t registry.example.com/team/app:1 --push .
  coopery build https://git.example.com/team/app.git#main:service
  coopery build --build-context base=oci-layout://base -f build/Dockerfile .

Exit codes:
  0  the image was built; its digest is on standard output
  1  a mistake in the arguments, the Dockerfile or the context, or a step failed
  2  anything else, such as a registry that cannot be reached";

#[derive(Args)]
#[command(after_help = EXAMPLES)]
pub(super) struct BuildArgs {
    /// Path of the Dockerfile, from the working directory, or inside a context that is fetched; - for standard input
    /// (default: CONTEXT/Dockerfile)
    #[arg(short, long, value_name = "FILE")]
    file: Option<PathBuf>,
    /// Name of the image, with an optional tag; may be given several times
    #[arg(short, long, value_name = "NAME", value_parser = image_name)]
    tag: Vec<Reference>,
    /// Set a build argument; without a value, that of the environment
    #[arg(long, value_name = "NAME[=VALUE]")]
    build_arg: Vec<KeyValue>,
    /// Use something else in place of a name, or of NAME::PLATFORM: NAME=DIRECTORY, a git or http URL,
    /// docker-image://IMAGE, oci-layout://DIR[:TAG] or target:STAGE
    #[arg(long, value_name = "NAME=SOURCE")]
    build_context: Vec<NamedContextArg>,
    /// Stage to build (default: the last one)
    #[arg(long, value_name = "STAGE")]
    target: Option<String>,
    /// Add a label to the image
    #[arg(long, value_name = "NAME=VALUE")]
    label: Vec<KeyValue>,
    /// Execute every step, whatever the cache has
    #[arg(long)]
    no_cache: bool,
    /// Execute every step of a stage, whatever the cache has; several separated by commas
    #[arg(long, value_name = "STAGE", value_delimiter = ',')]
    no_cache_filter: Vec<String>,
    /// Take base images from their registries, not from the images of this machine
    #[arg(long)]
    pull: bool,
    /// Platform of the image, several separated by commas (default: that of this machine)
    #[arg(long, value_name = "OS/ARCH[/VARIANT]", value_delimiter = ',')]
    platform: Vec<Platform>,
    #[command(flatten, next_help_heading = "Output")]
    export: ExportArgs,
    /// Write the digest of the image to a file
    #[arg(long, value_name = "FILE")]
    iidfile: Option<PathBuf>,
    /// Write what was built to a file, as JSON
    #[arg(long, value_name = "FILE")]
    metadata_file: Option<PathBuf>,
    /// How to show progress (default: $COOPERY_PROGRESS or $BUILDKIT_PROGRESS, else auto)
    #[arg(long, value_enum, help_heading = "Progress")]
    progress: Option<Style>,
    /// Print nothing but the digest
    #[arg(short, long, help_heading = "Progress")]
    quiet: bool,
    /// Directory of cache and layers (default: $XDG_DATA_HOME/coopery)
    #[arg(long, value_name = "DIR", help_heading = "Cache")]
    root: Option<PathBuf>,
    /// How much the cache may have after the build (default: a fifth of its disk)
    #[arg(
        long,
        value_name = "SIZE",
        env = "COOPERY_CACHE_QUOTA",
        help_heading = "Cache",
        value_parser = size::parse
    )]
    cache_quota: Option<u64>,
    #[command(flatten, next_help_heading = "Cache")]
    cache: CacheArgs,
    /// How RUN is isolated
    #[arg(long, value_enum, default_value_t, help_heading = "RUN")]
    isolation: Isolation,
    #[command(flatten, next_help_heading = "Check")]
    call: CallArgs,
    #[command(flatten, next_help_heading = "RUN")]
    run: RunArgs,
    #[command(flatten, next_help_heading = "Registries")]
    network: NetworkArgs,
    #[command(
        flatten,
        next_help_heading = "Flags of docker that change nothing here"
    )]
    compat: CompatArgs,
    /// The build context: a directory, `-` (an archive or a Dockerfile on standard input), a git repository
    /// (https://HOST/NAME.git#REF:DIR), or the URL of an archive or a Dockerfile
    #[arg(help_heading = "Arguments")]
    context: PathBuf,
}

/// What was found out of the arguments before anything had an effect.
struct Prepared {
    file: Arc<SourceFile>,
    context: BuildContext,
    /// Whether the context is a directory that people work in.
    lasting: bool,
    options: Options,
    contexts: BTreeMap<String, NamedContext>,
    context_time: Option<i64>,
    exports: Exports,
    root: PathBuf,
}

pub(in crate::cli) use self::fetched::build_fetched;

pub(super) fn run(args: &BuildArgs) -> Result<(), Error> {
    let prepared = args.prepare()?;
    if let Call::Check { json } = args.call.call() {
        return check::run(args, prepared, json);
    }
    let isolated = match args.isolation {
        Isolation::Auto if std::env::var_os(ISOLATED).is_some() => true,
        Isolation::Auto => needs_run(&prepared.file, &prepared.options, &args.platform)?,
        Isolation::UserNamespace => true,
        Isolation::NoRun => false,
    };
    // Must come before any thread exists: the process starts itself again in its namespaces.
    let entered = isolated
        .then(|| enter_user_namespace(&prepared.root))
        .transpose()?;
    let to_stdout = prepared.exports.to_stdout();
    let named = prepared.exports.names();
    match run_async(async |stop| args.build(prepared, entered, &stop).await) {
        Err(Error::NoRun(_)) if args.isolation == Isolation::Auto => Err(build_isolated()),
        built => args.report(&built?, &named, to_stdout),
    }
}

/// Replaces this process by the same build in a user namespace: a RUN has come to light that is not in the Dockerfile, but
/// in the triggers of a base. Returns only when that fails.
fn build_isolated() -> Error {
    let error = std::process::Command::new("/proc/self/exe")
        .args(std::env::args_os().skip(1))
        .env(ISOLATED, "1")
        .exec();
    Error::io("starting the build in a user namespace")(error)
}

impl BuildArgs {
    fn prepare(&self) -> Result<Prepared, Error> {
        self.compat.check()?;
        let fetched = Fetched::find();
        let context_time = fetched.as_ref().and_then(|fetched| fetched.time);
        let lasting = fetched.is_none();
        let (file, context) = read_definition(&self.context, self.file.as_deref(), fetched)?;
        let contexts: BTreeMap<_, _> = self
            .build_context
            .iter()
            .map(|context| (context.name.clone(), context.source.clone()))
            .collect();
        let options = Options {
            target: self.target.clone(),
            build_args: self.build_args(),
            labels: self
                .label
                .iter()
                .map(|label| (label.key.clone(), label.value_or_empty()))
                .collect(),
            platform: Platform::host(),
            build_platform: Platform::host(),
            contexts: (contexts.iter())
                .map(|(name, context)| (name.clone(), context.kind()))
                .collect(),
            surroundings: self.run.surroundings()?,
        };
        self.run.check()?;
        check_contexts(&contexts)?;
        let root = root::directory(self.root.as_deref())?;
        let about = About {
            tags: &self.tag,
            store: &root.join("images"),
        };
        let mut exports = Exports::new(&self.export, &about)?;
        self.cache.put_into(&mut exports.all)?;
        check_outputs(exports.outputs())?;
        check_file("--iidfile", self.iidfile.as_deref())?;
        check_file("--metadata-file", self.metadata_file.as_deref())?;
        Ok(Prepared {
            file: Arc::new(file),
            context,
            lasting,
            options,
            contexts,
            context_time,
            exports,
            root,
        })
    }

    fn build_args(&self) -> BTreeMap<String, String> {
        let environment = |name: &str| std::env::var(name).ok();
        let mut args = BTreeMap::new();
        if let Some(epoch) = environment("SOURCE_DATE_EPOCH").filter(|epoch| !epoch.is_empty()) {
            args.insert("SOURCE_DATE_EPOCH".to_owned(), epoch);
        }
        for arg in &self.build_arg {
            // A name alone takes its value from the environment, and is left out where there is none.
            if let Some(value) = arg.value.clone().or_else(|| environment(&arg.key)) {
                args.insert(arg.key.clone(), value);
            }
        }
        args
    }

    fn style(&self) -> Result<Style, Error> {
        if self.quiet {
            return Ok(Style::Quiet);
        }
        let environment = |name: &str| std::env::var(name).ok();
        Style::wanted(self.progress, environment).map_err(Error::Request)
    }

    async fn build(
        &self,
        prepared: Prepared,
        entered: Option<Entered>,
        stop: &Stop,
    ) -> Result<Built, Error> {
        let client = self.network.client()?;
        let cache =
            Cache::open(&prepared.root).map_err(Error::io("opening the engine's directory"))?;
        let owners = if entered.is_some() {
            Owners::OnDisk
        } else {
            Owners::Recorded
        };
        let style = self.style()?;
        if prepared.exports.all.is_empty() && style != Style::Quiet {
            tracing::warn!(
                "no name or output was given with -t, --load, --push or -o: the image stays in the cache"
            );
        }
        // Not earlier: the process may start itself again.
        for note in self.compat.check()? {
            tracing::warn!("{note}");
        }
        let progress = Progress::stderr(style);
        let local = if self.pull {
            None
        } else {
            LocalImages::open(&prepared.root.join("images"))?
        };
        let engine = Engine {
            named: NamedFiles::new(prepared.contexts.clone()),
            bases: Bases::new(client.clone(), cache.clone(), owners, prepared.contexts)
                .with_local(local),
            sources: Sources {
                network: self.network.for_git()?,
                loopback: true,
                git_dir: git_dir(&prepared.options.build_args),
            },
            runtime: entered.map(|entered| Runtime::new(&entered, cache.tmp())),
            client,
            progress,
            owners,
            no_cache: self.no_cache,
            no_cache_stages: lower_case(&self.no_cache_filter),
            pack: PackOptions::default(),
            imports: self.cache.imports(),
            shares: Shares::default(),
            cancel: stop.token.clone(),
            secrets: self.run.secrets()?,
            cache,
        };
        let context = if prepared.lasting {
            prepared.context.remembering(&engine.cache)
        } else {
            prepared.context
        };
        let job = Job {
            file: prepared.file,
            context: Arc::new(context),
            context_time: prepared.context_time,
            options: prepared.options,
            platforms: self.platform.clone(),
            exports: prepared.exports.all,
            caches: self.cache.targets(),
        };
        let cache = engine.cache.clone();
        let built = build(Arc::new(engine), job).await?;
        keep_to_quota(cache, self.cache_quota).await;
        Ok(built)
    }

    fn report(&self, built: &Built, names: &[Reference], to_stdout: bool) -> Result<(), Error> {
        let digest = built.product.descriptor().digest.as_str();
        let write = |path: &Path, text: &str| {
            fs_err::write(path, text).map_err(Error::io("writing what was built"))
        };
        if let Some(path) = &self.iidfile {
            write(path, digest)?;
        }
        if let Some(path) = &self.metadata_file {
            let names: Vec<_> = names.iter().map(ToString::to_string).collect();
            let metadata = metadata(built, &names);
            write(path, &format!("{metadata:#}\n"))?;
        }
        if to_stdout {
            Ok(())
        } else {
            output::line(digest)
        }
    }
}

/// Names of stages as they are compared.
fn lower_case(names: &[String]) -> Vec<String> {
    let names = names.iter().map(|name| name.to_lowercase());
    names.filter(|name| !name.is_empty()).collect()
}

/// What docker buildx writes of a build, under the names that it uses. Of several platforms there is no one configuration.
fn metadata(built: &Built, names: &[String]) -> serde_json::Value {
    let product = &built.product;
    let digest = &product.descriptor().digest;
    let mut metadata = serde_json::json!({
        "buildx.build.ref": format!("coopery/coopery/{}", &digest.hex()[..25]),
        "containerimage.descriptor": product.entry(&Documents::default()),
        "containerimage.digest": digest,
    });
    if !names.is_empty() {
        metadata["image.name"] = names.join(",").into();
    }
    if product.index.is_none() {
        metadata["containerimage.config.digest"] =
            serde_json::json!(built.image().config_descriptor.digest);
    }
    metadata
}
