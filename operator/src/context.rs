//! What every reconcile is given: the client, the settings, the metrics, the clock. It holds no state of objects.

use std::sync::Arc;

use jiff::Timestamp;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use kube::{Api, Client, Resource};
use serde::de::DeserializeOwned;

use crate::budget::Budget;
use crate::error::{Error, Result};
use crate::git::GitError;
use crate::image_build::observed::{BaseLook, BaseNow, SourceFailure};
use crate::image_mirror::look::Remembered;
use crate::lookups::Lookups;
use crate::metrics::Metrics;
use crate::network::{Network, NoNetwork};
use crate::settings::Settings;
use crate::tenure::Tenure;

/// What every reconcile is given.
#[derive(Clone)]
pub struct Context {
    /// Client of the API server, without retries of its own: the per-object backoff is the retry.
    pub client: Client,
    /// The command line.
    pub settings: Arc<Settings>,
    /// Counters of the process.
    pub metrics: Arc<Metrics>,
    /// Name of this process in events and the lease.
    pub identity: String,
    /// Servers outside of the cluster's API.
    pub network: Arc<dyn Network>,
    /// What git servers answered.
    pub lookups: Arc<Lookups<Result<String, GitError>>>,
    /// What registries answered about the tags of mirrors.
    pub tag_lookups: Arc<Lookups<Arc<Remembered>>>,
    /// What registries answered about base images that builds miss.
    pub base_lookups: Arc<Lookups<BaseLook>>,
    /// What registries answered about base images that images were built from.
    pub moved_bases: Arc<Lookups<Vec<BaseNow>>>,
    /// What registries answered about the sources of builds.
    pub oci_sources: Arc<Lookups<Result<String, SourceFailure>>>,
    /// How often registries are asked about base images and sources.
    pub budget: Arc<Budget>,
    /// Whether this process may write.
    pub tenure: Tenure,
    clock: fn() -> Timestamp,
}

impl Context {
    /// A context with the clock of the machine.
    pub fn new(client: Client, settings: Arc<Settings>, metrics: Arc<Metrics>) -> Self {
        Self {
            client,
            identity: settings.identity(),
            settings,
            metrics,
            network: Arc::new(NoNetwork),
            lookups: Arc::default(),
            tag_lookups: Arc::default(),
            base_lookups: Arc::default(),
            moved_bases: Arc::default(),
            oci_sources: Arc::default(),
            budget: Arc::default(),
            tenure: Tenure::unlimited(),
            clock: Timestamp::now,
        }
    }

    /// The same with a network; without one, nobody outside of the cluster's API answers.
    #[must_use]
    pub fn with_network(mut self, network: Arc<dyn Network>) -> Self {
        self.network = network;
        self
    }

    /// The same, writing only as long as `tenure` lets it.
    #[must_use]
    pub fn with_tenure(mut self, tenure: Tenure) -> Self {
        self.tenure = tenure;
        self
    }

    /// The same with another clock, for tests.
    #[must_use]
    pub fn with_clock(mut self, clock: fn() -> Timestamp) -> Self {
        self.clock = clock;
        self
    }

    /// The present time.
    pub fn now(&self) -> Timestamp {
        (self.clock)()
    }

    /// The present time in whole seconds, as Kubernetes writes it into objects.
    pub fn time(&self) -> Time {
        let now = self.now();
        Time(Timestamp::from_second(now.as_second()).unwrap_or(now))
    }

    /// The object `name` of `namespace`, or `None` when there is none. It is read from the API server, not from a cache.
    pub async fn get<K>(&self, namespace: &str, name: &str) -> Result<Option<K>>
    where
        K: Resource<DynamicType = (), Scope = kube::core::NamespaceResourceScope>
            + Clone
            + DeserializeOwned
            + std::fmt::Debug,
    {
        let api: Api<K> = Api::namespaced(self.client.clone(), namespace);
        api.get_opt(name)
            .await
            .map_err(Error::kube(format!("get {} {name}", K::kind(&()))))
    }

    /// The objects of `namespace` with the labels of `selector`. Read from the API server, not from a cache.
    pub async fn list<K>(&self, namespace: &str, selector: &str) -> Result<Vec<K>>
    where
        K: Resource<DynamicType = (), Scope = kube::core::NamespaceResourceScope>
            + Clone
            + DeserializeOwned
            + std::fmt::Debug,
    {
        let api: Api<K> = Api::namespaced(self.client.clone(), namespace);
        let params = kube::api::ListParams::default().labels(selector);
        let list = api
            .list(&params)
            .await
            .map_err(Error::kube(format!("list {}", K::plural(&()))))?;
        Ok(list.items)
    }

    /// The Api of kind `K` for what this operator watches: one namespace or all.
    pub fn watched<K>(&self) -> Api<K>
    where
        K: Resource<DynamicType = (), Scope = kube::core::NamespaceResourceScope>,
    {
        match &self.settings.namespace {
            Some(namespace) => Api::namespaced(self.client.clone(), namespace),
            None => Api::all(self.client.clone()),
        }
    }
}
