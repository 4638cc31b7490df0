//! The asynchronous runtime of one command: started late, because the process must have one thread before, and stopped in
//! order, so that nothing is left running. SIGTERM and SIGINT ask for the stop.
//!
//! What runs on threads (packing, unpacking, copying) cannot be dropped as a future is. It asks [`go_on`] at every piece of
//! data, and what it has begun is removed by its own clean-up.

use std::io;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use tokio::signal::unix::{SignalKind, signal};
use tokio_util::sync::CancellationToken;

use crate::error::Error;

/// How long threads may go on after the end before they are left behind.
const GRACE: Duration = Duration::from_secs(10);

/// Whether the command of this process is over, and what still works for it is to break off. A process is one command, so
/// this is not handed to everything that reads or writes a piece of data.
static OVER: AtomicBool = AtomicBool::new(false);

/// Fails where the command of this process is over: to be asked by whatever goes on for long on a thread.
///
/// # Errors
/// An error that nobody will see.
pub fn go_on() -> io::Result<()> {
    if OVER.load(Ordering::Relaxed) {
        Err(io::Error::other("the command is over"))
    } else {
        Ok(())
    }
}

/// Writes as long as the command goes on.
#[derive(Debug)]
pub struct UntilOver<W>(pub W);

impl<W: io::Write> io::Write for UntilOver<W> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        go_on()?;
        self.0.write(bytes)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.0.flush()
    }
}

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
    OVER.store(true, Ordering::Relaxed);
    runtime.shutdown_timeout(GRACE);
    OVER.store(false, Ordering::Relaxed);
    result
}
