//! `coopery pod`: one task of the operator, from the request's file to the outcome's. Credentials are read once and stay
//! in memory; nothing of them reaches a step, a log or the outcome.

use std::collections::BTreeMap;
use std::panic::AssertUnwindSafe;
use std::path::Path;
use std::process::ExitCode;
use std::sync::Arc;

use distribution::{Client, DockerConfig, Guard, Proxies};
use oci::{Platform, Reference, Repository};
use protocol::{
    BuildRequest, Failure, FailureKind, Isolation, JoinRequest, MirrorRequest, Outcome, Report,
    Request, Resolved, Source, Task,
};

use crate::base::{Bases, Mirrored, Mirrors};
use crate::build::{Built, Job, build};
use crate::cache::Cache;
use crate::context::{BuildContext, Fetcher, GitDir, fetch, git_dir};
use crate::disk::Reserve;
use crate::error::{Error, SourceFile, chain};
use crate::exec::{Entered, Runtime, enter_user_namespace};
use crate::export::{Destination, Export};
use crate::graph::{ContextKind, Options, Surroundings};
use crate::join::join;
use crate::layer::{Owners, PackOptions};
use crate::named_context::{NamedContext, NamedFiles};
use crate::outcome;
use crate::pod::kept::Kept;
use crate::progress::{Progress, Style};
use crate::runtime::{Stop, run_async};
use crate::secret::{Secret, Secrets};
use crate::solve::{Engine, Shares, Sources};

mod kept;
mod mirror;
mod trust;

/// Where everything is that a pod has; `protocol::paths` in a pod.
#[derive(Clone, Debug)]
pub struct Paths {
    /// The request.
    pub request: String,
    /// The Secret of the source.
    pub source_credentials: String,
    /// The ConfigMap of the source.
    pub source: String,
    /// The engine's directory.
    pub workspace: String,
    /// The claim that keeps the cache.
    pub cache: String,
    /// The outcome.
    pub outcome: String,
}

/// Reads the request, does what it asks for, writes the outcome. The exit code is 0, 1 for what people can mend in their
/// input, and 2 for the rest.
pub fn run(paths: &Paths, style: Style) -> ExitCode {
    let reserve = Reserve::take(Path::new(&paths.workspace));
    let work = || match read_request(&paths.request) {
        Err(failure) => Outcome::new(Report::Failed(*failure)),
        Ok(request) => match &request.task {
            Task::Build(task) => build_task(paths, &request, task, style),
            Task::Mirror(task) => mirror_task(&request, task),
            Task::Join(task) => join_task(&request, task, style),
        },
    };
    // Also a bug shall be told; its details are in the log.
    let outcome = std::panic::catch_unwind(AssertUnwindSafe(work))
        .unwrap_or_else(|_| outcome::failed(&Error::Panicked, Resolved::default()));
    drop(reserve);
    let json = outcome.to_json();
    // The termination message is one file that is there already: it cannot be replaced by renaming.
    if let Err(error) = fs_err::write(&paths.outcome, &json) {
        tracing::error!(%error, "the outcome cannot be written");
        return ExitCode::from(2);
    }
    exit_code(&outcome)
}

fn exit_code(outcome: &Outcome) -> ExitCode {
    match &outcome.report {
        Report::Built(_) => ExitCode::SUCCESS,
        Report::Mirrored(mirrored) if mirrored.failed == 0 => ExitCode::SUCCESS,
        Report::Mirrored(_) => ExitCode::from(2),
        Report::Failed(failure) => {
            let users = matches!(
                failure.kind,
                FailureKind::Dockerfile
                    | FailureKind::ContextFile
                    | FailureKind::StepFailed
                    | FailureKind::InvalidRequest
            );
            ExitCode::from(if users { 1 } else { 2 })
        }
    }
}

fn read_request(path: &str) -> Result<Request, Box<Failure>> {
    let invalid = |message: String| Box::new(Failure::new(FailureKind::InvalidRequest, message));
    let json = fs_err::read(path).map_err(|error| invalid(error.to_string()))?;
    Request::parse(&json).map_err(|error| invalid(chain(&error)))
}

/// A client that reaches the network as the request says, with its credentials.
fn client(request: &Request) -> Result<Client, Error> {
    let network = &request.network;
    let mut keychain = Vec::new();
    for path in &request.credentials {
        let text =
            fs_err::read(path).map_err(Error::io("reading the credentials for registries"))?;
        keychain.push(DockerConfig::parse(&text).map_err(|error| {
            Error::Request(format!("the credentials in {path} cannot be read: {error}"))
        })?);
    }
    let guard = Guard::closed(&network.allow_cidrs)
        .map_err(|error| Error::Request(format!("the allowed networks: {error}")))?;
    let mut builder = Client::builder()
        .keychain(keychain)
        .guard(guard)
        .plain_http(request.plain_http.iter().cloned())
        .proxies(Proxies {
            http: network.http_proxy.clone(),
            https: network.https_proxy.clone(),
            no_proxy: network.no_proxy.clone(),
        });
    if let Some(pem) = &network.ca_certificates {
        builder = builder.ca_pem(pem.as_bytes());
    }
    builder
        .build()
        .map_err(Error::export("making the client of registries"))
}

fn build_task(paths: &Paths, request: &Request, task: &BuildRequest, style: Style) -> Outcome {
    let mut source = resolved(&task.source);
    // Must come before any thread exists: the process starts itself again in its namespaces.
    let entered = match task.isolation {
        Isolation::NoRun => None,
        Isolation::UserNamespace => match enter_user_namespace(Path::new(&paths.workspace)) {
            Ok(entered) => Some(entered),
            Err(error) => return outcome::failed(&error.into(), source),
        },
    };
    let result = run_async(async |stop| {
        let work = build_and_push(paths, request, task, entered, style, &stop);
        work.await
    });
    match result {
        Ok((built, destinations)) => outcome::built(&built, &destinations, source, task.isolation),
        Err(error) => {
            let progress = Progress::stderr(style);
            progress.text(&error.render(false));
            source.checksum = source
                .checksum
                .filter(|_| !matches!(error, Error::Context(_)));
            outcome::failed(&error, source)
        }
    }
}

/// What is known of the source: the request has it fixed already.
fn resolved(source: &Source) -> Resolved {
    match source {
        Source::Git { revision, .. } => Resolved {
            commit: Some(revision.commit.clone()),
            checksum: None,
        },
        Source::Http { checksum, .. } => Resolved {
            commit: None,
            checksum: checksum.clone(),
        },
        Source::Oci { image } => Resolved {
            commit: None,
            checksum: image.split_once('@').map(|(_, digest)| digest.to_owned()),
        },
        Source::Empty | Source::ConfigMap { .. } | Source::Volume => Resolved::default(),
    }
}

type Pushed = (Built, Vec<(String, Repository)>);

async fn build_and_push(
    paths: &Paths,
    request: &Request,
    task: &BuildRequest,
    entered: Option<Entered>,
    style: Style,
    stop: &Stop,
) -> Result<Pushed, Error> {
    let client = client(request)?;
    let destinations = destinations(&task.destinations)?;
    let progress = Progress::stderr(style);
    let cache = Cache::open(&paths.workspace).map_err(Error::io("opening the workspace"))?;
    let secrets = secrets(task)?;
    let fetching = progress.start("[internal] load build context");
    let scratch = cache
        .scratch("context-")
        .map_err(Error::io("making a directory for the context"))?;
    let owners = if entered.is_some() {
        Owners::OnDisk
    } else {
        Owners::Recorded
    };
    let bases = Bases::new(client.clone(), cache.clone(), owners, contexts(task)?)
        .with_mirrors(mirrors(task)?);
    let fetcher = Fetcher {
        http: client.http(),
        network: &request.network,
        mounted: paths.source.clone().into(),
        credentials: paths.source_credentials.clone().into(),
        bases: Some(&bases),
        plain_http: false,
        secrets: &secrets,
        git_dir: git_dir(&task.dockerfile.build_args),
    };
    let into = scratch.path().join("source");
    let fetched = tokio::select! {
        biased;
        () = stop.token.cancelled() => return Err(Error::Cancelled),
        fetched = fetch(&task.source, &task.subdirectory, &fetcher, &into) => fetched,
    };
    let fetched = fetched.inspect_err(|error| fetching.failed(&chain(error)))?;
    let (file, context) = read_definition(task, &fetched.directory)?;
    fetching.done();

    let kept = Kept::open(task, Path::new(&paths.cache))?;
    let engine = Engine {
        bases,
        runtime: entered.map(|entered| Runtime::new(&entered, cache.tmp())),
        client,
        progress,
        owners,
        no_cache: task.dockerfile.no_cache,
        no_cache_stages: Vec::new(),
        pack: PackOptions::default(),
        imports: kept.imports(),
        shares: Shares::default(),
        cancel: stop.token.clone(),
        sources: Sources {
            network: request.network.clone(),
            loopback: false,
            git_dir: GitDir::Removed,
        },
        named: NamedFiles::default(),
        secrets,
        cache,
    };
    let names = destinations
        .iter()
        .map(|d| (d.name.clone(), d.repository.clone()))
        .collect();
    let job = Job {
        file: Arc::new(file),
        context: Arc::new(context),
        context_time: fetched.time,
        options: options(request, task),
        platforms: platforms(task)?,
        exports: vec![Export {
            destinations,
            ..Export::default()
        }],
        caches: kept.targets(),
    };
    let built = build(Arc::new(engine), job).await?;
    kept.keep_to_quota().await;
    Ok((built, names))
}

/// The secrets of the build, from the files that the request names.
fn secrets(task: &BuildRequest) -> Result<Secrets, Error> {
    let mut secrets = Secrets::default();
    for secret in &task.dockerfile.secrets {
        let value = Secret::read(Path::new(&secret.path)).map_err(|error| {
            Error::Request(format!(
                "the secret `{}` cannot be read: {error}",
                secret.id
            ))
        })?;
        secrets.values.insert(secret.id.clone(), value);
    }
    Ok(secrets)
}

/// The Dockerfile, from the request or the context, and what the context offers.
fn read_definition(
    task: &BuildRequest,
    directory: &Path,
) -> Result<(SourceFile, BuildContext), Error> {
    let context = BuildContext::open(directory)?;
    let (name, text) = if let Some(text) = &task.dockerfile.inline {
        (None, text.clone())
    } else {
        let (name, text) = context.read_dockerfile(&task.dockerfile.path)?;
        (Some(name), text)
    };
    let context = context.with_dockerignore(name.as_deref())?;
    let name = name.unwrap_or_else(|| "Dockerfile".into());
    Ok((SourceFile { name, text }, context))
}

fn options(request: &Request, task: &BuildRequest) -> Options {
    let mut build_args = task.dockerfile.build_args.clone();
    // Every RUN reaches the network as the engine does, unless the build says otherwise.
    let network = &request.network;
    for (name, value) in [
        ("HTTP_PROXY", &network.http_proxy),
        ("HTTPS_PROXY", &network.https_proxy),
        ("NO_PROXY", &network.no_proxy),
    ] {
        for name in [name.to_owned(), name.to_ascii_lowercase()] {
            if let Some(value) = value {
                build_args.entry(name).or_insert_with(|| value.clone());
            }
        }
    }
    if let Some(epoch) = task.source_date_epoch {
        build_args
            .entry("SOURCE_DATE_EPOCH".into())
            .or_insert_with(|| epoch.to_string());
    }
    Options {
        target: task.dockerfile.target.clone(),
        build_args,
        labels: task.dockerfile.labels.clone(),
        platform: Platform::host(),
        build_platform: Platform::host(),
        contexts: task
            .dockerfile
            .contexts
            .iter()
            .map(|context| (context.name.clone(), ContextKind::Image))
            .collect(),
        surroundings: Surroundings::default(),
    }
}

/// The images that stand for names of the Dockerfile.
fn contexts(task: &BuildRequest) -> Result<BTreeMap<String, NamedContext>, Error> {
    let contexts = task.dockerfile.contexts.iter().map(|context| {
        let image: Reference = context
            .image
            .parse()
            .map_err(|error| Error::Request(format!("the context `{}`: {error}", context.name)))?;
        Ok((context.name.clone(), NamedContext::Image(image)))
    });
    contexts.collect()
}

fn mirrors(task: &BuildRequest) -> Result<Mirrors, Error> {
    let read = |name: &str| -> Result<Repository, Error> {
        let parsed = name.parse();
        parsed.map_err(|error| Error::Request(format!("the mirrored repository `{name}`: {error}")))
    };
    let mirrors = task.dockerfile.mirrors.iter().map(|mirrored| {
        Ok(Mirrored {
            source: read(&mirrored.source)?,
            mirror: read(&mirrored.mirror)?,
            tags: (mirrored.tags.as_ref()).map(|tags| tags.iter().cloned().collect()),
        })
    });
    Ok(Mirrors::new(mirrors.collect::<Result<_, Error>>()?))
}

fn platforms(task: &BuildRequest) -> Result<Vec<Platform>, Error> {
    let platforms = task.dockerfile.platforms.iter().map(|text| text.parse());
    let parsed = platforms.collect::<Result<_, oci::PlatformError>>();
    parsed.map_err(|error| Error::Request(error.to_string()))
}

fn destinations(wanted: &[protocol::Destination]) -> Result<Vec<Destination>, Error> {
    let wrong = |name: &str, error: oci::ReferenceError| {
        Error::Request(format!("destination `{name}`: {error}"))
    };
    wanted
        .iter()
        .map(|destination| {
            let tags = destination.tags.iter().map(|tag| tag.parse());
            Ok(Destination {
                name: destination.name.clone(),
                repository: destination
                    .repository
                    .parse()
                    .map_err(|e| wrong(&destination.name, e))?,
                tags: tags
                    .collect::<Result<_, _>>()
                    .map_err(|e| wrong(&destination.name, e))?,
            })
        })
        .collect()
}

fn join_task(request: &Request, task: &JoinRequest, style: Style) -> Outcome {
    let progress = Progress::stderr(style);
    let result = run_async(async |stop| {
        let client = client(request)?;
        let destinations = destinations(&task.destinations)?;
        let step = progress.start("[internal] join the images of all platforms");
        let joined = tokio::select! {
            biased;
            () = stop.token.cancelled() => Err(Error::Cancelled),
            joined = join(&client, &task.images, &destinations) => joined,
        };
        let joined = joined.inspect_err(|error| step.failed(&chain(error)))?;
        step.done();
        Ok(joined)
    });
    match result {
        Ok(joined) => Outcome::new(Report::Built(joined)),
        Err(error) => outcome::failed(&error, Resolved::default()),
    }
}

fn mirror_task(request: &Request, task: &MirrorRequest) -> Outcome {
    let result = run_async(async |stop| {
        let client = client(request)?;
        Ok(mirror::mirror(&client, task, &stop.token).await)
    });
    match result {
        Ok(Ok(outcome)) => Outcome::new(Report::Mirrored(outcome)),
        Ok(Err(failure)) => Outcome::new(Report::Failed(*failure)),
        Err(error) => outcome::failed(&error, Resolved::default()),
    }
}
