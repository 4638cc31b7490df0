//! The API server of an embedded cluster with the three definitions: the tests' way to ask whether it takes an object.

use std::future::Future;
use std::sync::LazyLock;

use http::{Method, Request};
use kube::Client;
use kube::core::Status;
use serde_json::{Value, json};
use tests::cluster::{Cluster, Options, left_out};
use tests::stage::repository;
use tokio::runtime::Runtime;
use tokio::sync::OnceCell;

static RUNTIME: LazyLock<Runtime> = LazyLock::new(|| Runtime::new().unwrap());
static SERVER: OnceCell<Server> = OnceCell::const_new();

/// The cluster and a client of its administrator.
pub(crate) struct Server {
    /// The cluster.
    pub(crate) cluster: Cluster,
    client: Client,
}

/// What is asked of the API server.
pub(crate) enum Ask<'a> {
    /// To make this object, without keeping it.
    Create(&'a Value),
    /// To make this object and to keep it.
    Keep(&'a Value),
    /// To merge this into the object of that name, without keeping it.
    Change(&'a Value),
}

/// Runs `test` on the shared server; as an ordinary user it says that it is left out.
pub(crate) fn on_server<F>(name: &str, test: impl FnOnce(&'static Server) -> F)
where
    F: Future<Output = ()>,
{
    if left_out(name) {
        return;
    }
    RUNTIME.block_on(async {
        test(SERVER.get_or_init(Server::start).await).await;
    });
}

impl Server {
    async fn start() -> Self {
        let cluster = Cluster::start(Options::new("crd-validation"))
            .await
            .unwrap();
        let client = cluster.client().await.unwrap();
        let folder = repository().join("crds");
        for (file, definition) in crds::definition::definitions() {
            let path = folder.join(file);
            let name = definition.metadata.name.unwrap();
            for arguments in [
                vec!["apply", "-f", path.to_str().unwrap()],
                vec!["wait", "--for=condition=Established", "crd", &name],
            ] {
                cluster.kubectl(&arguments).await.unwrap();
            }
        }
        Self { cluster, client }
    }

    /// Runs kubectl; what it printed.
    pub(crate) async fn kubectl(&self, arguments: &[&str]) -> String {
        let output = self.cluster.kubectl(arguments).await;
        output.unwrap_or_else(|error| panic!("kubectl {arguments:?}: {error}"))
    }

    /// Asks about an object of `kind` with strict validation; the answer of a refusal.
    pub(crate) async fn ask(
        &self,
        kind: &str,
        name: &str,
        ask: Ask<'_>,
    ) -> Result<(), Box<Status>> {
        let plural = match kind {
            "Registry" => "registries".to_owned(),
            kind => format!("{}s", kind.to_lowercase()),
        };
        let all = format!("/apis/coopery.dev/v1alpha1/namespaces/default/{plural}");
        let (method, path, query, content, body) = match ask {
            Ask::Create(spec) => (
                Method::POST,
                all,
                "&dryRun=All",
                "json",
                object(kind, name, spec),
            ),
            Ask::Keep(spec) => (Method::POST, all, "", "json", object(kind, name, spec)),
            Ask::Change(spec) => (
                Method::PATCH,
                format!("{all}/{name}"),
                "&dryRun=All",
                "merge-patch+json",
                json!({"spec": spec}),
            ),
        };
        let request = Request::builder()
            .method(method)
            .uri(format!("{path}?fieldValidation=Strict{query}"))
            .header("content-type", format!("application/{content}"))
            .body(body.to_string().into_bytes())
            .unwrap();
        match self.client.request::<Value>(request).await {
            Ok(_) => Ok(()),
            Err(kube::Error::Api(status)) => Err(status),
            Err(error) => panic!("{kind} {name}: {error}"),
        }
    }
}

fn object(kind: &str, name: &str, spec: &Value) -> Value {
    json!({
        "apiVersion": "coopery.dev/v1alpha1", "kind": kind,
        "metadata": {"name": name, "namespace": "default"}, "spec": spec,
    })
}
