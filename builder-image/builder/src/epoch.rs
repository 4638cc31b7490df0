//! SOURCE_DATE_EPOCH that names a source instead of a number: the moment of that source takes its place before anything
//! is planned, so that ARG, history and layers all see a number. Which source is meant is decided in [`crate::graph`].

use crate::context::remote::{RemoteContext, check_out, find_commit, http_credentials};
use crate::context::{ContextError, check_http_url, git_reference::GitReference, http};
use crate::error::{Error, SourceFile};
use crate::graph::{self, EpochSource, Options};
use crate::solve::Engine;

/// The argument.
const EPOCH: &str = "SOURCE_DATE_EPOCH";

/// `options` with the number that SOURCE_DATE_EPOCH stands for. `context` is the moment of the build context. A source
/// without one leaves the argument empty, which is none.
///
/// # Errors
/// When what it names cannot have a moment, or cannot be had.
pub(crate) async fn resolve(
    engine: &Engine,
    file: &std::sync::Arc<SourceFile>,
    dockerfile: &dockerfile::Dockerfile,
    options: &Options,
    context: Option<i64>,
) -> Result<Options, Error> {
    let source = graph::epoch_source(dockerfile, options);
    let Some(source) = source.map_err(|error| Error::graph(error, file))? else {
        return Ok(options.clone());
    };
    let time = match source {
        EpochSource::Context => context,
        EpochSource::Named(name) => {
            let fetcher = engine.fetcher_of(&name);
            let files = engine
                .named
                .get(&name, &fetcher, &engine.cache, &engine.progress);
            files.await?.time
        }
        EpochSource::Remote(text) => Some(of_remote(engine, &text).await?),
    };
    Ok(with(options, time))
}

/// `options` for a plan that nothing is built of: a source counts as one without a moment.
pub(crate) fn unresolved(
    dockerfile: &dockerfile::Dockerfile,
    options: &Options,
) -> Result<Options, graph::GraphError> {
    Ok(match graph::epoch_source(dockerfile, options)? {
        Some(_) => with(options, None),
        None => options.clone(),
    })
}

fn with(options: &Options, time: Option<i64>) -> Options {
    let mut options = options.clone();
    let text = time.map(|time| time.to_string()).unwrap_or_default();
    options.build_args.insert(EPOCH.to_owned(), text);
    options
}

/// The moment of what an ADD names: of the commit, or what the server says of the file.
async fn of_remote(engine: &Engine, text: &str) -> Result<i64, ContextError> {
    let fetcher = engine.fetcher(text);
    if let Some(RemoteContext::Git(_)) = RemoteContext::of(text) {
        let into = (engine.cache.scratch("git-"))
            .map_err(|error| ContextError::io("making a directory", error))?;
        let wanted = GitReference::parse(text)?;
        let revision = find_commit(&wanted, &fetcher).await?;
        let fetched = check_out(&wanted, &revision, &fetcher, into.path()).await?;
        return Ok(fetched.time.unwrap_or_default());
    }
    let url = check_http_url(text)?;
    let credentials = http_credentials(&url, &fetcher)?;
    http::last_modified(&url, credentials, &fetcher).await
}
