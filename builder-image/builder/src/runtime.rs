//! The asynchronous runtime of one command: started late, because the process must have one thread before, and stopped in
//! order, so that nothing is left running. SIGTERM and SIGINT ask for the stop.

use std::time::Duration;

use tokio::signal::unix::{SignalKind, signal};
use tokio_util::sync::CancellationToken;

use crate::error::Error;

/// How long threads may go on after the end before they are left behind.
const GRACE: Duration = Duration::from_secs(10);

/// How a command is asked to stop.
#[derive(Clone, Debug, Default)]
pub struct Stop {
    /// Cancelled when it shall stop.
    pub token: CancellationToken,
}

/// Runs `work` to its end. When it ends, well or not, everything that still works for it is told to stop and waited for.
///
/// # Errors
/// Those of `work`; [`Error::Io`] when the runtime cannot be started.
pub fn run_async<T>(work: impl AsyncFnOnce(Stop) -> Result<T, Error>) -> Result<T, Error> {
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .build()
        .map_err(Error::io("starting the asynchronous runtime"))?;
    let stop = Stop::default();
    let result = runtime.block_on(async {
        let token = stop.token.clone();
        let mut terminate =
            signal(SignalKind::terminate()).map_err(Error::io("listening to SIGTERM"))?;
        let mut interrupt =
            signal(SignalKind::interrupt()).map_err(Error::io("listening to SIGINT"))?;
        tokio::spawn(async move {
            tokio::select! {
                _ = terminate.recv() => {}
                _ = interrupt.recv() => {}
            }
            token.cancel();
        });
        work(stop.clone()).await
    });
    stop.token.cancel();
    runtime.shutdown_timeout(GRACE);
    result
}
