//! A small world for scenarios of builds and mirrors: the API server in memory, a kubelet's hand, servers outside.

#![allow(
    dead_code,
    unreachable_pub,
    clippy::unwrap_used,
    reason = "each scenario uses its part of the world"
)]

pub mod builds;

use std::cell::Cell;
use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};

use distribution::{Error, Outage, RawManifest};
use futures::FutureExt;
use futures::future::BoxFuture;
use jiff::Timestamp;
use oci::{Descriptor, Digest, MediaType, Reference, Repository, Tag};
use operator::context::Context;
use operator::git::GitError;
use operator::network::{GitQuestion, Network, RegistryAccess};
use serde_json::{Value, json};

use crate::support::FakeApi;

pub const NAMESPACE: &str = "team";

thread_local! {
    static SECOND: Cell<i64> = const { Cell::new(1_800_000_000) };
}

/// The time of this test.
pub fn now() -> Timestamp {
    Timestamp::from_second(SECOND.get()).unwrap()
}

/// Lets time pass.
pub fn pass(seconds: i64) {
    SECOND.set(SECOND.get() + seconds);
}

/// Path of an object of the core group.
pub fn core(plural: &str, name: &str) -> String {
    format!("/api/v1/namespaces/{NAMESPACE}/{plural}/{name}")
}

/// Path of one of our kinds.
pub fn ours(plural: &str, name: &str) -> String {
    format!("/apis/coopery.dev/v1alpha1/namespaces/{NAMESPACE}/{plural}/{name}")
}

/// Servers outside, as the test sets them.
#[derive(Default)]
pub struct FakeNetwork {
    pub commit: Mutex<Option<Result<String, GitError>>>,
    pub lookups: Mutex<u32>,
    /// What references of registries stand for.
    pub manifests: Mutex<BTreeMap<String, Digest>>,
    /// What repositories list.
    pub lists: Mutex<BTreeMap<String, Vec<Tag>>>,
    /// Manifests that can be read.
    pub documents: Mutex<BTreeMap<String, RawManifest>>,
    /// Whether registries answer.
    pub unreachable: Mutex<bool>,
    /// Questions to registries: whether plain HTTP was used and how many credentials there were.
    pub asked: Mutex<Vec<(String, bool, usize)>>,
}

impl Network for FakeNetwork {
    fn commit<'a>(&'a self, _: &'a GitQuestion) -> BoxFuture<'a, Result<String, GitError>> {
        *self.lookups.lock().unwrap() += 1;
        let answer = self.commit.lock().unwrap().clone();
        std::future::ready(answer.expect("the scenario has no git server")).boxed()
    }

    fn manifest<'a>(
        &'a self,
        reference: &'a Reference,
        access: &'a RegistryAccess,
    ) -> BoxFuture<'a, Result<Option<Descriptor>, Error>> {
        let name = reference.to_string();
        let answer = self.ask(name.clone(), access).map(|()| {
            let manifests = self.manifests.lock().unwrap();
            manifests
                .get(&name)
                .map(|digest| Descriptor::new(MediaType::MANIFESTS[0].clone(), digest.clone(), 2))
        });
        std::future::ready(answer).boxed()
    }

    fn document<'a>(
        &'a self,
        reference: &'a Reference,
        access: &'a RegistryAccess,
    ) -> BoxFuture<'a, Result<Option<RawManifest>, Error>> {
        let name = reference.to_string();
        let answer = self.ask(format!("GET {name}"), access);
        let answer = answer.map(|()| self.documents.lock().unwrap().get(&name).cloned());
        std::future::ready(answer).boxed()
    }

    fn tags<'a>(
        &'a self,
        repository: &'a Repository,
        access: &'a RegistryAccess,
    ) -> BoxFuture<'a, Result<Vec<Tag>, Error>> {
        let name = repository.to_string();
        let answer = self.ask(format!("LIST {name}"), access).and_then(|()| {
            let lists = self.lists.lock().unwrap();
            lists.get(&name).cloned().ok_or(Error::NotFound {
                action: format!("list tags of {name}"),
                code: None,
            })
        });
        std::future::ready(answer).boxed()
    }
}

impl FakeNetwork {
    fn ask(&self, name: String, access: &RegistryAccess) -> Result<(), Error> {
        let action = format!("ask for {name}");
        let asked = (name, access.plain_http, access.credentials.len());
        self.asked.lock().unwrap().push(asked);
        if *self.unreachable.lock().unwrap() {
            return Err(Error::Unavailable {
                action,
                outage: Outage::Timeout,
                retry_after: None,
            });
        }
        Ok(())
    }

    /// Lets a repository list these tags.
    pub fn list(&self, repository: &str, tags: &[&str]) {
        let tags = tags.iter().map(|tag| tag.parse().unwrap()).collect();
        self.lists
            .lock()
            .unwrap()
            .insert(repository.to_owned(), tags);
    }

    /// Puts an image under a reference without digest, and under its digest.
    pub fn push(&self, reference: &str, digest: &Digest) {
        let reference: Reference = reference.parse().unwrap();
        let by_digest = reference.repository().at(digest.clone());
        let mut manifests = self.manifests.lock().unwrap();
        manifests.insert(reference.to_string(), digest.clone());
        manifests.insert(by_digest.to_string(), digest.clone());
    }
}

/// The API server, the servers outside and the context of the operator.
pub struct World {
    pub api: FakeApi,
    pub network: Arc<FakeNetwork>,
    pub context: Context,
}

impl World {
    /// A namespace with a Registry `main` that serves.
    pub fn new() -> Self {
        let api = FakeApi::new();
        api.stamp_creation(now);
        let network = Arc::new(FakeNetwork::default());
        let context = api.context().with_clock(now).with_network(network.clone());
        let world = Self {
            api,
            network,
            context,
        };
        world.serve_registry(true);
        world.secret("main-credentials");
        world
    }

    /// Makes the Registry `main` ready or not.
    pub fn serve_registry(&self, ready: bool) {
        let status = if ready { "True" } else { "False" };
        self.api.put(
            &ours("registries", "main"),
            json!({
                "apiVersion": "coopery.dev/v1alpha1", "kind": "Registry", "metadata": {},
                "spec": {"managed": {"storage": {"emptyDir": {}}}},
                "status": {"host": "main.team.svc:5000", "conditions": [{"type": "Ready", "status": status,
                    "reason": "Deploying", "message": "m", "lastTransitionTime": "2026-01-01T00:00:00Z"}]},
            }),
        );
    }

    /// Makes a dockerconfigjson Secret.
    pub fn secret(&self, name: &str) {
        use base64::Engine;
        let config = json!({"auths": {"main.team.svc:5000": {"username": "u", "password": "p"}}});
        let config = base64::prelude::BASE64_STANDARD.encode(config.to_string());
        self.api.put(
            &core("secrets", name),
            json!({"apiVersion": "v1", "kind": "Secret", "metadata": {}, "data": {".dockerconfigjson": config}}),
        );
    }

    /// Names of all pods, sorted.
    pub fn pods(&self) -> Vec<String> {
        let prefix = core("pods", "");
        let mut names: Vec<String> = self
            .api
            .paths()
            .iter()
            .filter_map(|path| path.strip_prefix(&prefix))
            .map(str::to_owned)
            .collect();
        names.sort();
        names
    }

    /// The only pod.
    pub fn pod(&self) -> String {
        let pods = self.pods();
        assert_eq!(pods.len(), 1, "{pods:?}");
        pods[0].clone()
    }

    /// Writes a pod's status as the kubelet does.
    pub fn kubelet(&self, pod: &str, status: Value) {
        self.api.change(&core("pods", pod), |pod| {
            pod["status"] = status;
        });
    }

    /// The pod runs.
    pub fn run(&self, pod: &str) {
        self.kubelet(
            pod,
            json!({"phase": "Running", "startTime": now().to_string()}),
        );
    }

    /// The pod ends with this report.
    pub fn end(&self, pod: &str, report: &Value) {
        let partly = report["mirrored"]["failed"].as_u64().unwrap_or(0) > 0;
        let failed = partly || !report["failed"].is_null();
        let message = json!({"version": 1, "report": report}).to_string();
        self.kubelet(
            pod,
            json!({
                "phase": if failed { "Failed" } else { "Succeeded" },
                "startTime": now().to_string(),
                "containerStatuses": [{"name": "builder", "image": "", "imageID": "", "ready": false, "restartCount": 0,
                    "state": {"terminated": {"exitCode": i32::from(failed), "reason": "Completed", "message": message,
                        "finishedAt": now().to_string()}}}],
            }),
        );
    }

    /// The pod fails with this kind.
    pub fn fail(&self, pod: &str, kind: &str, message: &str) {
        self.end(pod, &json!({"failed": {"kind": kind, "message": message}}));
    }

    /// Reasons of all events, each once.
    pub fn events(&self) -> Vec<String> {
        let mut reasons: Vec<String> = self
            .api
            .paths()
            .iter()
            .filter(|path| path.contains("/events/"))
            .map(|path| {
                self.api.get(path).unwrap()["reason"]
                    .as_str()
                    .unwrap()
                    .to_owned()
            })
            .collect();
        reasons.sort();
        reasons.dedup();
        reasons
    }
}

/// The conditions of an object as `Type=Status Reason`.
pub fn conditions(object: &Value) -> Vec<String> {
    let mut list: Vec<String> = object["status"]["conditions"]
        .as_array()
        .unwrap()
        .iter()
        .map(|c| {
            let text = |key: &str| c[key].as_str().unwrap().to_owned();
            format!("{}={} {}", text("type"), text("status"), text("reason"))
        })
        .collect();
    list.sort();
    list
}

/// The message of the condition Ready.
pub fn message(object: &Value) -> String {
    object["status"]["conditions"]
        .as_array()
        .unwrap()
        .iter()
        .find(|c| c["type"] == "Ready")
        .unwrap()["message"]
        .as_str()
        .unwrap()
        .to_owned()
}
