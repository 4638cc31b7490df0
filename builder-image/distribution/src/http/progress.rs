//! Whether an exchange gets on: bytes that are sent, bytes that come, and how long one waits for them. Only waiting for the
//! other side counts; that our own source or reader takes its time is its own matter.

use std::{
    sync::{
        Mutex, PoisonError,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    time::Duration,
};

use bytes::Bytes;
use futures::{Stream, StreamExt, stream::BoxStream};

use crate::{Error, Outage, Result};

/// The bytes that must move within the idle timeout; fewer are as none.
const LEAST: u64 = 16 * 1024;
/// How many idle timeouts a bounded answer may take in all, and the answer to a large body (registries hash and move
/// what they were sent).
const MOST_TIMEOUTS: u32 = 5;
/// From here on a body is large.
const LARGE: u64 = 64 * 1024 * 1024;

/// How far a streamed request body is, and what its source failed with.
#[derive(Default)]
pub(super) struct Progress {
    sent: AtomicU64,
    /// Whether the body has nothing to send at the moment.
    is_starving: AtomicBool,
    is_finished: AtomicBool,
    failure: Mutex<Option<Error>>,
}

impl Progress {
    pub(super) fn take_failure(&self) -> Option<Error> {
        self.failure().take()
    }

    fn failure(&self) -> std::sync::MutexGuard<'_, Option<Error>> {
        self.failure.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Waits for `answer` as long as bytes are taken from us; `None` when nothing moved for the idle timeout.
    pub(super) async fn unless_stalled<T>(
        &self,
        answer: impl Future<Output = T>,
        idle_timeout: Duration,
    ) -> Option<T> {
        let mut answer = std::pin::pin!(answer);
        let (mut seen, mut was_finished, mut silent) = (0, false, 0);
        loop {
            if let Ok(answer) = tokio::time::timeout(idle_timeout, answer.as_mut()).await {
                return Some(answer);
            }
            let sent = self.sent.load(Ordering::Relaxed);
            let is_finished = self.is_finished.load(Ordering::Relaxed);
            let moved = sent - seen >= LEAST || (is_finished && !was_finished);
            if moved || self.is_starving.load(Ordering::Relaxed) {
                silent = 0;
            } else {
                silent += 1;
                let allowed = if is_finished && sent >= LARGE {
                    MOST_TIMEOUTS
                } else {
                    1
                };
                if silent >= allowed {
                    return None;
                }
            }
            (seen, was_finished) = (sent, is_finished);
        }
    }
}

/// `stream` as the HTTP library takes it, with `progress` told of it.
pub(super) fn watched(
    mut stream: BoxStream<'static, Result<Bytes>>,
    progress: std::sync::Arc<Progress>,
) -> impl Stream<Item = std::io::Result<Bytes>> + Send + 'static {
    futures::stream::poll_fn(move |context| {
        let next = stream.poll_next_unpin(context);
        progress
            .is_starving
            .store(next.is_pending(), Ordering::Relaxed);
        next.map(|item| match item {
            Some(Ok(bytes)) => {
                let sent = bytes.len() as u64;
                progress.sent.fetch_add(sent, Ordering::Relaxed);
                Some(Ok(bytes))
            }
            Some(Err(error)) => {
                *progress.failure() = Some(error);
                Some(Err(std::io::Error::other("the source of the body failed")))
            }
            None => {
                progress.is_finished.store(true, Ordering::Relaxed);
                None
            }
        })
    })
}

/// The time that one waits for the bytes of an answer.
#[derive(Debug)]
pub(super) struct Clock {
    idle_timeout: Duration,
    /// Waited since enough bytes came.
    waited: Duration,
    /// The bytes since then.
    bytes: u64,
    total: Duration,
}

impl Clock {
    pub(super) const fn new(idle_timeout: Duration) -> Self {
        Self {
            idle_timeout,
            waited: Duration::ZERO,
            bytes: 0,
            total: Duration::ZERO,
        }
    }

    /// How long the next bytes may take.
    pub(super) const fn left(&self) -> Duration {
        self.idle_timeout.saturating_sub(self.waited)
    }

    /// So many bytes came after so long.
    pub(super) fn note(&mut self, waited: Duration, bytes: usize) {
        self.total += waited;
        self.waited += waited;
        self.bytes += bytes as u64;
        if self.bytes >= LEAST {
            (self.waited, self.bytes) = (Duration::ZERO, 0);
        }
    }

    /// Whether an answer that has an end should have reached it.
    pub(super) fn is_overdue(&self) -> bool {
        self.total > self.idle_timeout * MOST_TIMEOUTS
    }

    /// What it is called that no time is left.
    pub(super) const fn verdict(&self) -> Outage {
        if self.bytes == 0 {
            Outage::Timeout
        } else {
            Outage::Slow
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;

    const IDLE: Duration = Duration::from_secs(60);

    #[test]
    fn drops_of_bytes_do_not_stop_the_clock() {
        let mut clock = Clock::new(IDLE);
        for _ in 0..59 {
            clock.note(Duration::from_secs(1), 10);
        }
        assert_eq!(clock.left(), Duration::from_secs(1));
        assert_eq!(clock.verdict(), Outage::Slow);
        assert!(!clock.is_overdue());
        clock.note(Duration::ZERO, 16 * 1024);
        assert_eq!((clock.left(), clock.verdict()), (IDLE, Outage::Timeout));
        for _ in 0..5 {
            clock.note(Duration::from_secs(50), 16 * 1024);
        }
        assert!(clock.is_overdue());
    }

    #[tokio::test(start_paused = true)]
    async fn a_source_that_takes_its_time_is_no_stall() {
        let progress = Arc::new(Progress::default());
        let slow = futures::stream::once(async {
            tokio::time::sleep(IDLE * 10).await;
            Ok(Bytes::from_static(b"x"))
        });
        let sent = watched(slow.boxed(), progress.clone()).count();
        assert_eq!(progress.unless_stalled(sent, IDLE).await, Some(1));
        let begun = tokio::time::Instant::now();
        let never = std::future::pending::<()>();
        assert_eq!(progress.unless_stalled(never, IDLE).await, None);
        // Once for the end of the body, once for the silence after it.
        assert_eq!(begun.elapsed(), IDLE * 2);
    }
}
