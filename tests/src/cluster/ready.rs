//! Waiting until a starting cluster is of use, and the few objects that every cluster has.

use std::time::{Duration, Instant};

use k8s_openapi::api::core::v1::{Node as NodeObject, ServiceAccount};
use k8s_openapi::api::rbac::v1::{ClusterRole, ClusterRoleBinding};
use k8s_openapi::api::storage::v1::StorageClass;
use kube::api::{Api, PostParams};
use serde::de::DeserializeOwned;
use serde_json::{Value, json};

use super::components::Components;
use super::error::{Error, Result};
use super::network::Addresses;
use super::options::{Layout, NODE_NAME};

/// How often a condition is looked at.
const INTERVAL: Duration = Duration::from_millis(50);

/// A start in progress: what is looked at while a condition is awaited.
pub(crate) struct Watch<'a> {
    pub(crate) layout: &'a Layout,
    pub(crate) components: &'a mut Components,
    pub(crate) begin: Instant,
    pub(crate) timeout: Duration,
}

impl Watch<'_> {
    /// Waits until `probe` succeeds; fails when a component dies or the time is over.
    pub(crate) async fn until<T, F>(
        &mut self,
        condition: &'static str,
        mut probe: impl FnMut() -> F,
    ) -> Result<T>
    where
        F: Future<Output = Result<T, String>>,
    {
        loop {
            let last = match tokio::time::timeout(Duration::from_secs(5), probe()).await {
                Ok(Ok(value)) => return Ok(value),
                Ok(Err(reason)) => reason,
                Err(_) => "no answer within 5 s".to_owned(),
            };
            self.components.check(self.layout)?;
            if self.begin.elapsed() > self.timeout {
                let tails = self.components.tails(self.layout);
                return Err(Error::Timeout {
                    condition,
                    seconds: self.timeout.as_secs(),
                    last,
                    tails,
                });
            }
            tokio::time::sleep(INTERVAL).await;
        }
    }
}

/// Asks a URL of the cluster whether it is well.
pub(crate) async fn healthy(http: &reqwest::Client, url: &str) -> Result<(), String> {
    let answer = http
        .get(url)
        .send()
        .await
        .map_err(|error| format!("{error:?}"))?;
    if answer.status().is_success() {
        return Ok(());
    }
    let status = answer.status();
    Err(format!(
        "{status}: {}",
        answer.text().await.unwrap_or_default()
    ))
}

/// URLs that answer when the components of the second group work.
pub(crate) fn health_urls(addresses: Addresses) -> [(&'static str, String); 2] {
    let node = addresses.node();
    [
        ("CoreDNS to be ready", format!("http://{node}:8181/ready")),
        (
            "kube-proxy to be healthy",
            format!("http://{node}:10256/healthz"),
        ),
    ]
}

/// Whether the API server says that it is ready.
pub(crate) async fn api_ready(client: &kube::Client) -> Result<(), String> {
    let request = http::Request::get("/readyz")
        .body(Vec::new())
        .map_err(|error| error.to_string())?;
    client
        .request_text(request)
        .await
        .map(drop)
        .map_err(|error| format!("{error:?}"))
}

/// Whether the node is Ready.
pub(crate) async fn node_ready(client: &kube::Client) -> Result<(), String> {
    let node = Api::<NodeObject>::all(client.clone())
        .get(NODE_NAME)
        .await
        .map_err(|error| error.to_string())?;
    let conditions = node
        .status
        .and_then(|status| status.conditions)
        .unwrap_or_default();
    match conditions
        .iter()
        .find(|condition| condition.type_ == "Ready")
    {
        Some(ready) if ready.status == "True" => Ok(()),
        Some(ready) => Err(format!(
            "Ready is {}: {}",
            ready.status,
            ready.message.as_deref().unwrap_or_default()
        )),
        None => Err("the node has no condition Ready".to_owned()),
    }
}

/// Whether pods can be made in namespace `default`.
pub(crate) async fn accounts_ready(client: &kube::Client) -> Result<(), String> {
    let accounts = Api::<ServiceAccount>::namespaced(client.clone(), "default");
    accounts
        .get("default")
        .await
        .map(drop)
        .map_err(|error| error.to_string())
}

/// Makes what the components themselves do not: CoreDNS's rights, the default storage class.
pub(crate) async fn create_objects(client: &kube::Client) -> Result<()> {
    let role = json!({
        "metadata": {"name": "system:coredns"},
        "rules": [
            {"apiGroups": [""], "resources": ["services", "pods", "namespaces"], "verbs": ["list", "watch"]},
            {"apiGroups": ["discovery.k8s.io"], "resources": ["endpointslices"], "verbs": ["list", "watch"]},
        ],
    });
    let binding = json!({
        "metadata": {"name": "system:coredns"},
        "roleRef": {"apiGroup": "rbac.authorization.k8s.io", "kind": "ClusterRole", "name": "system:coredns"},
        "subjects": [{"apiGroup": "rbac.authorization.k8s.io", "kind": "User", "name": "system:coredns"}],
    });
    let class = json!({
        "metadata": {"name": "standard", "annotations": {"storageclass.kubernetes.io/is-default-class": "true"}},
        "provisioner": "kubernetes.io/host-path",
        "reclaimPolicy": "Delete",
        "volumeBindingMode": "WaitForFirstConsumer",
    });
    create::<ClusterRole>(client, role).await?;
    create::<ClusterRoleBinding>(client, binding).await?;
    create::<StorageClass>(client, class).await
}

async fn create<K>(client: &kube::Client, object: Value) -> Result<()>
where
    K: kube::Resource<DynamicType = (), Scope = k8s_openapi::ClusterResourceScope>
        + Clone
        + DeserializeOwned
        + serde::Serialize
        + std::fmt::Debug,
{
    Api::<K>::all(client.clone())
        .create(&PostParams::default(), &serde_json::from_value(object)?)
        .await?;
    Ok(())
}
