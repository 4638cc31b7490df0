//! Waiting for a condition, with a bound and an error that says what was waited for.

use std::fmt::Debug;
use std::future::Future;
use std::time::{Duration, Instant};

/// Time between two looks. Looks are cheap: they go to servers on this machine.
const PAUSE: Duration = Duration::from_millis(100);

/// Looks until `look` gives a value; that value.
///
/// # Errors
/// `look` failed, or gave nothing for `limit`.
pub async fn until<T, F>(
    what: &str,
    limit: Duration,
    mut look: impl FnMut() -> F,
) -> anyhow::Result<T>
where
    F: Future<Output = anyhow::Result<Option<T>>>,
{
    let begin = Instant::now();
    loop {
        if let Some(value) = look().await? {
            return Ok(value);
        }
        anyhow::ensure!(begin.elapsed() < limit, "waited {limit:?} for {what}");
        tokio::time::sleep(PAUSE).await;
    }
}

/// As [`until`], and says at the end what was seen last.
///
/// # Errors
/// `look` failed, or was not content with anything for `limit`.
pub async fn until_seen<T: Debug, F>(
    what: &str,
    limit: Duration,
    mut look: impl FnMut() -> F,
    content: impl Fn(&T) -> bool,
) -> anyhow::Result<T>
where
    F: Future<Output = anyhow::Result<T>>,
{
    let begin = Instant::now();
    loop {
        let seen = look().await?;
        if content(&seen) {
            return Ok(seen);
        }
        anyhow::ensure!(
            begin.elapsed() < limit,
            "waited {limit:?} for {what}; last seen: {seen:#?}"
        );
        tokio::time::sleep(PAUSE).await;
    }
}
