//! Contexts and Dockerfiles that have to be fetched before anything is known of the build: from standard input, git and
//! http. This process fetches, and starts itself again on what came of it: a process that is to enter a user namespace
//! must have read its arguments before, and reads them again behind it.

use std::os::unix::process::ExitStatusExt as _;
use std::path::{Path, PathBuf};

use rustix::process::{Pid, Signal, kill_process};

use super::BuildArgs;
use crate::cache::Cache;
use crate::cli::root;
use crate::context::remote::{RemoteContext, fetch_remote, is_loopback};
use crate::context::{ContextError, Fetcher, git_dir};
use crate::error::Error;
use crate::progress::Progress;
use crate::runtime::{Stop, run_async};

/// Tells the second process where the first has put what it fetched.
const VARIABLE: &str = "COOPERY_FETCHED";

/// The file with the moment that the context is of.
const TIME: &str = "time";

/// The largest Dockerfile that is read from standard input, in bytes.
const MAX_DOCKERFILE: u64 = 4 << 20;

/// What the first process has fetched.
pub(super) struct Fetched {
    /// The context, where it is none of the arguments.
    pub(super) context: Option<PathBuf>,
    /// The Dockerfile, where it is in no context.
    pub(super) dockerfile: Option<PathBuf>,
    /// The moment that the context is of, in seconds since 1970.
    pub(super) time: Option<i64>,
}

impl Fetched {
    /// What there is; nothing in the first process.
    pub(super) fn find() -> Option<Self> {
        let directory = PathBuf::from(std::env::var_os(VARIABLE)?);
        let there = |name: &str| Some(directory.join(name)).filter(|path| path.exists());
        Some(Self {
            context: there("context"),
            dockerfile: there("Dockerfile"),
            time: fs_err::read_to_string(directory.join(TIME))
                .ok()
                .and_then(|text| text.parse().ok()),
        })
    }
}

/// What has to be fetched before the build.
struct Wanted {
    context: Option<RemoteContext>,
    dockerfile: bool,
}

/// Where something has to be fetched: does so, builds in another process, and returns the code that it ended with.
///
/// # Errors
/// When it cannot be fetched, or the process not be started.
pub(in crate::cli) fn build_fetched(args: &BuildArgs) -> Result<Option<u8>, Error> {
    let wanted = Wanted {
        context: args.context.to_str().and_then(RemoteContext::of),
        dockerfile: args.file.as_deref() == Some(Path::new("-")),
    };
    if std::env::var_os(VARIABLE).is_some() || (wanted.context.is_none() && !wanted.dockerfile) {
        return Ok(None);
    }
    if wanted.dockerfile && wanted.context == Some(RemoteContext::Stdin) {
        return Err(Error::Request(
            "standard input cannot be both the Dockerfile and the build context: name a file with --file".into(),
        ));
    }
    run_async(async |stop| {
        let cache = Cache::open(&root::directory(args.root.as_deref())?)
            .map_err(Error::io("opening the engine's directory"))?;
        let directory = cache
            .scratch("context-")
            .map_err(Error::io("making a directory for the context"))?;
        tokio::select! {
            biased;
            () = stop.token.cancelled() => return Err(Error::Cancelled),
            fetched = fetch(args, &wanted, directory.path()) => fetched?,
        }
        build_again(directory.path(), &stop).await.map(Some)
    })
}

async fn fetch(args: &BuildArgs, wanted: &Wanted, into: &Path) -> Result<(), Error> {
    if wanted.dockerfile {
        use std::io::Read as _;
        let mut text = String::new();
        std::io::stdin()
            .lock()
            .take(MAX_DOCKERFILE)
            .read_to_string(&mut text)
            .and_then(|_| fs_err::write(into.join("Dockerfile"), text))
            .map_err(Error::io("reading the Dockerfile from standard input"))?;
    }
    let Some(source) = &wanted.context else {
        return Ok(());
    };
    let vertex = Progress::stderr(args.style()?).start("[internal] load build context");
    let client = args.network.client()?;
    let secrets = args.run.secrets()?;
    let fetcher = Fetcher {
        http: client.http(),
        network: &args.network.for_git()?,
        mounted: PathBuf::new(),
        credentials: PathBuf::new(),
        bases: None,
        // Whoever builds on an own machine may have a server there.
        plain_http: matches!(source, RemoteContext::Git(url) | RemoteContext::Http(url) if is_loopback(url)),
        secrets: &secrets,
        git_dir: git_dir(&args.build_args()),
    };
    let fetched = fetch_remote(source, &fetcher, into).await;
    let fetched = fetched.inspect_err(|error: &ContextError| vertex.failed(&error.to_string()))?;
    if let Some(time) = fetched.time {
        fs_err::write(into.join(TIME), time.to_string())
            .map_err(Error::io("writing what is known of the context"))?;
    }
    vertex.done();
    Ok(())
}

/// Starts this program with the same arguments, hands signals on to it, and returns its exit code.
async fn build_again(directory: &Path, stop: &Stop) -> Result<u8, Error> {
    let mut child = tokio::process::Command::new("/proc/self/exe")
        .args(std::env::args_os().skip(1))
        .env(VARIABLE, directory)
        .stdin(std::process::Stdio::null())
        .spawn()
        .map_err(Error::io("starting the build"))?;
    let id = child.id().and_then(|id| Pid::from_raw(id.cast_signed()));
    let status = tokio::select! {
        status = child.wait() => status,
        () = stop.token.cancelled() => {
            if let Some(id) = id {
                // It may have ended at this moment.
                let _ = kill_process(id, Signal::TERM);
            }
            child.wait().await
        }
    };
    let status = status.map_err(Error::io("waiting for the build"))?;
    let code = status.code().or(status.signal().map(|signal| 128 + signal));
    Ok(code.and_then(|code| u8::try_from(code).ok()).unwrap_or(2))
}
