//! `coopery build`: an image from a Dockerfile and a directory, with the flags of `docker buildx build`. What is not
//! supported yet is refused by name.

mod spec;

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use clap::{Args, ValueEnum};
use oci::{Platform, Reference};

use self::spec::{Exports, KeyValue, NamedContextArg, OutputArg};
use super::network::NetworkArgs;
use super::output;
use crate::base::{Bases, NamedContext};
use crate::build::{Built, Job, build, needs_run};
use crate::cache::Cache;
use crate::context::BuildContext;
use crate::error::{Error, SourceFile};
use crate::exec::{Entered, Runtime, enter_user_namespace};
use crate::graph::Options;
use crate::layer::{Owners, PackOptions};
use crate::progress::{Progress, Style};
use crate::runtime::{Stop, run_async};
use crate::solve::Engine;

/// How RUN is isolated.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum)]
enum Isolation {
    /// In a user namespace where there is a RUN
    #[default]
    Auto,
    /// Always in a user namespace
    UserNamespace,
    /// Not at all: RUN is refused
    NoRun,
}

#[derive(Args)]
pub(super) struct BuildArgs {
    /// Path of the Dockerfile (default: CONTEXT/Dockerfile)
    #[arg(short, long, value_name = "FILE")]
    file: Option<PathBuf>,
    /// Name of the image, with an optional tag
    #[arg(short, long, value_name = "NAME")]
    tag: Vec<Reference>,
    /// Set a build argument; without a value, that of the environment
    #[arg(long, value_name = "NAME[=VALUE]")]
    build_arg: Vec<KeyValue>,
    /// Use an image in place of a name: NAME=oci-layout://DIR[:TAG] or NAME=docker-image://IMAGE
    #[arg(long, value_name = "NAME=SOURCE")]
    build_context: Vec<NamedContextArg>,
    /// Stage to build (default: the last one)
    #[arg(long, value_name = "STAGE")]
    target: Option<String>,
    /// Label of the image
    #[arg(long, value_name = "NAME=VALUE")]
    label: Vec<KeyValue>,
    /// Execute every step
    #[arg(long)]
    no_cache: bool,
    /// Platform of the image
    #[arg(long, value_name = "OS/ARCH")]
    platform: Option<Platform>,
    /// Where the image goes: type=oci|docker,dest=FILE[,tar=false] or type=push
    #[arg(short, long, value_name = "TYPE=…")]
    output: Vec<OutputArg>,
    /// Push the image to its names
    #[arg(long)]
    push: bool,
    /// Write the digest of the image to a file
    #[arg(long, value_name = "FILE")]
    iidfile: Option<PathBuf>,
    /// Write what was built to a file, as JSON
    #[arg(long, value_name = "FILE")]
    metadata_file: Option<PathBuf>,
    /// How to show progress
    #[arg(long, value_enum, default_value_t = Style::Plain)]
    progress: Style,
    /// Print nothing but the digest
    #[arg(short, long)]
    quiet: bool,
    /// Directory of cache and layers (default: $XDG_DATA_HOME/coopery)
    #[arg(long, value_name = "DIR")]
    root: Option<PathBuf>,
    /// How RUN is isolated
    #[arg(long, value_enum, default_value_t)]
    isolation: Isolation,
    #[command(flatten)]
    network: NetworkArgs,
    /// Directory of the build context
    context: PathBuf,
}

/// What was found out of the arguments before anything had an effect.
struct Prepared {
    file: Arc<SourceFile>,
    context: BuildContext,
    options: Options,
    contexts: BTreeMap<String, NamedContext>,
    exports: Exports,
    root: PathBuf,
}

pub(super) fn run(args: &BuildArgs) -> Result<(), Error> {
    let prepared = args.prepare()?;
    let isolated = match args.isolation {
        Isolation::Auto => needs_run(&prepared.file, &prepared.options)?,
        Isolation::UserNamespace => true,
        Isolation::NoRun => false,
    };
    // Must come before any thread exists: the process starts itself again in its namespaces.
    let entered = isolated
        .then(|| enter_user_namespace(&prepared.root))
        .transpose()?;
    let to_stdout = prepared.exports.to_stdout();
    let named = prepared.exports.names();
    let built = run_async(async |stop| args.build(prepared, entered, &stop).await)?;
    args.report(&built, &named, to_stdout)
}

impl BuildArgs {
    fn prepare(&self) -> Result<Prepared, Error> {
        if self
            .context
            .to_str()
            .is_some_and(|text| text == "-" || text.contains("://"))
        {
            return Err(Error::Request(
                "the build context must be a directory; archives and URLs are not supported yet"
                    .into(),
            ));
        }
        let context = BuildContext::open(&self.context)?;
        let (file, ignore_for) = self.read_dockerfile(&context)?;
        let context = context.with_dockerignore(ignore_for.as_deref())?;
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
            platform: self.platform.clone().unwrap_or_else(Platform::host),
            build_platform: Platform::host(),
            contexts: contexts.keys().cloned().collect(),
        };
        Ok(Prepared {
            file: Arc::new(file),
            context,
            options,
            contexts,
            exports: Exports::new(&self.output, self.push, &self.tag)?,
            root: self.root()?,
        })
    }

    /// The Dockerfile, and its path in the context where it is in it.
    fn read_dockerfile(
        &self,
        context: &BuildContext,
    ) -> Result<(SourceFile, Option<String>), Error> {
        let Some(path) = &self.file else {
            let (name, text) = context.read_dockerfile("")?;
            return Ok((
                SourceFile {
                    name: name.clone(),
                    text,
                },
                Some(name),
            ));
        };
        if path.as_os_str() == "-" {
            return Err(Error::Request(
                "a Dockerfile from standard input is not supported yet".into(),
            ));
        }
        let text =
            fs_err::read_to_string(path).map_err(|error| Error::Request(error.to_string()))?;
        let inside = inside(&self.context, path);
        let name = inside.clone().unwrap_or_else(|| path.display().to_string());
        Ok((SourceFile { name, text }, inside))
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

    fn root(&self) -> Result<PathBuf, Error> {
        if let Some(root) = &self.root {
            return Ok(root.clone());
        }
        let data = match std::env::var_os("XDG_DATA_HOME") {
            Some(data) if !data.is_empty() => PathBuf::from(data),
            _ => match std::env::var_os("HOME") {
                Some(home) if !home.is_empty() => PathBuf::from(home).join(".local/share"),
                _ => {
                    return Err(Error::Request(
                        "name a directory with --root: HOME is not set".into(),
                    ));
                }
            },
        };
        Ok(data.join("coopery"))
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
        let style = if self.quiet {
            Style::Quiet
        } else {
            self.progress
        };
        let progress = Progress::stderr(style);
        if prepared.exports.is_empty() && style != Style::Quiet {
            tracing::warn!(
                "no output was asked for with --push or -o: the image stays in the cache"
            );
        }
        let engine = Engine {
            bases: Bases::new(client.clone(), cache.clone(), owners, prepared.contexts),
            runtime: entered.map(|entered| Runtime::new(&entered, cache.tmp())),
            client,
            progress,
            owners,
            no_cache: self.no_cache,
            pack: PackOptions::default(),
            cancel: stop.token.clone(),
            cache,
        };
        let job = Job {
            file: prepared.file,
            context: Arc::new(prepared.context),
            options: prepared.options,
            destinations: prepared.exports.destinations,
            outputs: prepared.exports.outputs,
        };
        build(Arc::new(engine), job).await
    }

    fn report(&self, built: &Built, names: &[Reference], to_stdout: bool) -> Result<(), Error> {
        let image = &built.image;
        let digest = image.descriptor.digest.as_str();
        let write = |path: &Path, text: &str| {
            fs_err::write(path, text).map_err(Error::io("writing what was built"))
        };
        if let Some(path) = &self.iidfile {
            write(path, digest)?;
        }
        if let Some(path) = &self.metadata_file {
            let names: Vec<_> = names.iter().map(ToString::to_string).collect();
            let metadata = serde_json::json!({
                "containerimage.digest": digest,
                "containerimage.config.digest": image.config_descriptor.digest,
                "containerimage.descriptor": image.descriptor,
                "image.name": names.join(","),
            });
            write(path, &format!("{metadata:#}\n"))?;
        }
        if to_stdout {
            Ok(())
        } else {
            output::line(digest)
        }
    }
}

/// The path of `file` inside the directory `context`, where it is in it.
fn inside(context: &Path, file: &Path) -> Option<String> {
    let context = fs_err::canonicalize(context).ok()?;
    // A link counts by where it is, not by what it points to.
    let directory = fs_err::canonicalize(
        file.parent()
            .filter(|p| !p.as_os_str().is_empty())
            .unwrap_or(Path::new(".")),
    )
    .ok()?;
    let path = directory.join(file.file_name()?);
    path.strip_prefix(context).ok()?.to_str().map(str::to_owned)
}
