//! How fast the blobs of a run may flow: one bucket for all of them, which fills at the rate that is allowed.

use std::{
    num::NonZeroU64,
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use futures::StreamExt;
use tokio::time::Instant;

use crate::upload::Content;

/// How much the bucket holds, as time: what was not used is made up for no longer than this.
const BURST: Duration = Duration::from_millis(250);

/// The rate of a run.
#[derive(Debug)]
pub(super) struct Pace {
    per_second: NonZeroU64,
    /// When all that was let through so far has had its time.
    until: Mutex<Instant>,
}

impl Pace {
    pub(super) fn new(per_second: NonZeroU64) -> Self {
        Self {
            per_second,
            until: Mutex::new(Instant::now()),
        }
    }

    /// Waits until `bytes` more may flow. Whoever asks first goes first.
    async fn take(&self, bytes: usize) {
        let bytes = u64::try_from(bytes).unwrap_or(u64::MAX);
        let nanos = u128::from(bytes) * 1_000_000_000 / u128::from(self.per_second.get());
        let time = Duration::from_nanos(u64::try_from(nanos).unwrap_or(u64::MAX));
        let until = {
            let mut until = self.until.lock().unwrap_or_else(PoisonError::into_inner);
            let rested = Instant::now().checked_sub(BURST).unwrap_or(*until);
            *until = (*until).max(rested) + time;
            *until
        };
        tokio::time::sleep_until(until).await;
    }

    /// `content`, no faster than that.
    pub(super) fn limit(self: &Arc<Self>, content: Content) -> Content {
        let pace = self.clone();
        content
            .then(move |chunk| {
                let pace = pace.clone();
                async move {
                    if let Ok(bytes) = &chunk {
                        pace.take(bytes.len()).await;
                    }
                    chunk
                }
            })
            .boxed()
    }
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;

    use super::*;

    fn content(chunks: usize) -> Content {
        let chunk = || Ok(Bytes::from_static(&[0; 1000]));
        futures::stream::iter((0..chunks).map(move |_| chunk())).boxed()
    }

    #[tokio::test(start_paused = true)]
    async fn all_streams_together_keep_to_the_rate() {
        let pace = Arc::new(Pace::new(NonZeroU64::new(10_000).unwrap()));
        let begun = Instant::now();
        let mut streams: Vec<_> = (0..4).map(|_| pace.limit(content(25))).collect();
        let drained = streams.iter_mut().map(StreamExt::count);
        assert_eq!(futures::future::join_all(drained).await, [25; 4]);
        assert_eq!(begun.elapsed(), Duration::from_secs(10));
        // A rest saves up a little, not all of itself.
        tokio::time::advance(Duration::from_secs(60)).await;
        let begun = Instant::now();
        pace.limit(content(10)).count().await;
        assert_eq!(
            begun.elapsed(),
            Duration::from_secs(1).saturating_sub(BURST)
        );
    }
}
