//! A witness of one object: a watch that notes when each of its states was seen, for tests of how soon something is told.

use std::fmt::Debug;
use std::pin::pin;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use anyhow::Context as _;
use futures::StreamExt as _;
use jiff::Timestamp;
use kube::runtime::watcher::{self, Event};
use kube::{Api, Resource};
use serde::de::DeserializeOwned;
use tokio::sync::oneshot;
use tokio::task::JoinHandle;

use crate::wait::until;

/// One state of an object.
#[derive(Clone, Debug)]
pub struct Seen<K> {
    /// When the watch told of it.
    pub at: Timestamp,
    /// The object.
    pub object: K,
}

/// Watches one object from its making to the witness' end.
#[derive(Debug)]
pub struct Witness<K> {
    name: String,
    seen: Arc<Mutex<Vec<Seen<K>>>>,
    task: JoinHandle<()>,
}

impl<K> Witness<K>
where
    K: Resource<DynamicType = ()> + DeserializeOwned + Clone + Debug + Send + 'static,
{
    /// Watches `name`, which need not be there yet; returns when no state of it can be missed any more.
    ///
    /// # Errors
    /// The API server does not let it be watched.
    pub async fn start(api: Api<K>, name: &str) -> anyhow::Result<Self> {
        let seen = Arc::new(Mutex::new(Vec::new()));
        let (ready, started) = oneshot::channel();
        let config = watcher::Config::default().fields(&format!("metadata.name={name}"));
        let task = tokio::spawn({
            let seen = seen.clone();
            async move {
                let mut ready = Some(ready);
                let mut states = pin!(kube::runtime::watcher(api, config));
                while let Some(event) = states.next().await {
                    match event {
                        Ok(Event::Apply(object) | Event::InitApply(object)) => {
                            let at = Timestamp::now();
                            let mut seen = seen.lock().unwrap_or_else(PoisonError::into_inner);
                            seen.push(Seen { at, object });
                        }
                        Ok(Event::InitDone) => {
                            // Nobody waits for the end of a later list.
                            ready.take().map(|ready| ready.send(()));
                        }
                        Ok(Event::Init | Event::Delete(_)) => {}
                        // The watcher starts again by itself.
                        Err(error) => tracing::warn!(%error, "the watch of a witness broke"),
                    }
                }
            }
        });
        let witness = Self {
            name: name.to_owned(),
            seen,
            task,
        };
        tokio::time::timeout(Duration::from_secs(30), started)
            .await
            .with_context(|| format!("the watch of {name} did not start"))??;
        Ok(witness)
    }

    /// The first state that `content` wants; waits for it where there was none yet.
    ///
    /// # Errors
    /// There was none for `limit`; the error shows the last state.
    pub async fn first(
        &self,
        what: &str,
        limit: Duration,
        content: impl Fn(&K) -> bool,
    ) -> anyhow::Result<Seen<K>> {
        let look = || {
            let seen = self.seen.lock().unwrap_or_else(PoisonError::into_inner);
            let found = seen.iter().find(|seen| content(&seen.object)).cloned();
            std::future::ready(Ok(found))
        };
        until(what, limit, look).await.with_context(|| {
            let seen = self.seen.lock().unwrap_or_else(PoisonError::into_inner);
            format!("{} was last seen as {:#?}", self.name, seen.last())
        })
    }
}

impl<K> Drop for Witness<K> {
    fn drop(&mut self) {
        self.task.abort();
    }
}
