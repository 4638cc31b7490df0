//! One run of the main job by an operator behind a fault proxy, in a namespace of its own: Registry, ImageMirror and ImageBuild
//! applied at once, until everything is Current and nothing more is written.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, Instant};

use crds::{ImageBuild, ImageMirror, Registry};
use k8s_openapi::api::core::v1::Namespace;
use kube::api::{Api, DeleteParams};
use serde_json::{Value, json};
use tests::fault_proxy::{Fault, FaultProxy, Point, Written};
use tests::kstatus::is_current;
use tests::operator_process::{OperatorOptions, OperatorProcess};
use tests::stage::{Stage, TestNamespace, release_binary};

/// How often the operator looks at every object again.
const RESYNC: &str = "2s";
/// How long a run may take until nothing more is written.
const LIMIT: Duration = Duration::from_secs(120);
/// So many looks at each kind without a write mean that nothing more will be written.
const QUIET_LOOKS: u64 = 3;

/// One operator behind its proxy.
pub(crate) struct Operator {
    pub(crate) proxy: FaultProxy,
    pub(crate) process: Arc<OperatorProcess>,
}

impl Operator {
    /// An operator of `namespace` that does not run yet.
    pub(crate) async fn new(
        stage: &Stage,
        namespace: &str,
        name: &str,
        target: Option<(Point, Fault)>,
        more: &[&str],
    ) -> anyhow::Result<Self> {
        let directory = stage.files().join(format!("{namespace}-{name}"));
        fs_err::create_dir_all(&directory)?;
        let kubeconfig = stage.cluster.kubeconfig();
        let proxy = FaultProxy::start(&kubeconfig, &directory, target).await?;
        let mut arguments: Vec<String> = [
            // The name that `make image` gives it.
            concat!(
                "--builder-image=ghcr.io/coopery/builder:",
                env!("CARGO_PKG_VERSION")
            ),
            "--registry-image=docker.io/library/registry:3",
            "--reconcile-timeout=10s",
            "--log-format=text",
        ]
        .map(str::to_owned)
        .into();
        arguments.push(format!("--resync={RESYNC}"));
        arguments.push(format!(
            "--builder-ca-file={}",
            stage.authority_file().display()
        ));
        arguments.extend(more.iter().map(|&argument| argument.to_owned()));
        let process = Arc::new(OperatorProcess::new(OperatorOptions {
            program: program()?,
            kubeconfig: proxy.kubeconfig().to_owned(),
            name_server: stage.cluster.addresses().node().into(),
            namespace: namespace.to_owned(),
            arguments,
            directory,
        })?);
        proxy.set_operator(&process);
        Ok(Self { proxy, process })
    }

    /// Fails when the operator ended by itself, or the harm could not be done.
    pub(crate) async fn check(&self) -> anyhow::Result<()> {
        self.proxy.check()?;
        self.process.check().await
    }

    /// Waits until `current` holds and then every one of `kinds` was looked at some times without a write.
    pub(crate) async fn settle<F>(
        &self,
        kinds: &[&str],
        mut current: impl FnMut() -> F,
    ) -> anyhow::Result<()>
    where
        F: Future<Output = anyhow::Result<bool>>,
    {
        let begin = Instant::now();
        let mut seen = (0, 0);
        let mut baseline = None;
        loop {
            self.check().await?;
            let now = (self.acts().len(), self.process.starts());
            let looks = self.process.reconciles().await;
            if now != seen || !current().await? {
                (seen, baseline) = (now, None);
            } else if let Some(looks) = looks {
                let baseline = baseline.get_or_insert_with(|| looks.clone());
                let quiet = |kind: &&str| {
                    let then = baseline.get(*kind).copied().unwrap_or(0);
                    looks
                        .get(*kind)
                        .is_some_and(|now| *now >= then + QUIET_LOOKS)
                };
                if kinds.iter().all(quiet) {
                    return Ok(());
                }
            }
            anyhow::ensure!(begin.elapsed() < LIMIT, "not settled within {LIMIT:?}");
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
    }

    /// The writes but for those of leases, which come all the time.
    pub(crate) fn acts(&self) -> Vec<Written> {
        let mut writes = self.proxy.writes();
        writes.retain(|written| !written.point.write.contains(" leases "));
        writes
    }

    /// The error with what the operator did.
    pub(crate) fn explain(&self, error: &anyhow::Error) -> anyhow::Error {
        anyhow::anyhow!("{error:#}\n{}", self.story())
    }

    /// What to look at when something went wrong: the writes and the end of the log.
    pub(crate) fn story(&self) -> String {
        let writes = self.proxy.writes();
        let lines: Vec<String> = writes
            .iter()
            .map(|w| format!("  {} #{}: {}", w.point.write, w.point.occurrence, w.outcome))
            .collect();
        let lines = lines[lines.len().saturating_sub(80)..].join("\n");
        format!("writes:\n{lines}\nlog:\n{}", self.process.log_tail())
    }
}

/// The operator to test.
fn program() -> anyhow::Result<PathBuf> {
    match std::env::var_os("COOPERY_OPERATOR") {
        Some(program) => Ok(program.into()),
        None => release_binary("coopery-operator"),
    }
}

/// The three objects of the main job.
pub(crate) fn job(stage: &Stage) -> [Value; 3] {
    let registry = json!({
        "apiVersion": "coopery.dev/v1alpha1", "kind": "Registry", "metadata": {"name": "main"},
        "spec": {"managed": {"storage": {"emptyDir": {}}}},
    });
    let mirror = json!({
        "apiVersion": "coopery.dev/v1alpha1", "kind": "ImageMirror", "metadata": {"name": "bases"},
        "spec": {
            "interval": "1h", "source": {"host": stage.public.host()},
            "destination": {"registry": {"name": "main"}, "prefix": "mirror"},
            "images": [{"name": "busybox", "repository": "base/busybox", "tags": {"names": ["1"]}}],
        },
    });
    [registry, mirror, build(stage, "app")]
}

/// An ImageBuild that runs a step and pushes to the Registry `main`.
pub(crate) fn build(stage: &Stage, name: &str) -> Value {
    // Every run is to make the same bytes: the one file that a step makes has a fixed time.
    let inline = format!(
        "FROM {}\nRUN echo {name} > /name && touch -d @0 /name\n",
        stage.busybox()
    );
    json!({
        "apiVersion": "coopery.dev/v1alpha1", "kind": "ImageBuild", "metadata": {"name": name},
        "spec": {
            "dockerfile": {"inline": inline, "buildArgs": {"SOURCE_DATE_EPOCH": "0"}},
            "imagePullSecrets": [{"name": "main-credentials"}],
            "destinations": [{"name": "main", "registry": {"name": "main"}, "repository": name, "tags": ["latest"]}],
        },
    })
}

/// Applies objects of the three kinds, in their order.
pub(crate) async fn apply(namespace: &TestNamespace, objects: &[Value]) -> anyhow::Result<()> {
    for object in objects {
        match object["kind"].as_str().unwrap_or_default() {
            "Registry" => drop(namespace.apply_json::<Registry>(object.clone()).await?),
            "ImageMirror" => drop(namespace.apply_json::<ImageMirror>(object.clone()).await?),
            "ImageBuild" => drop(namespace.apply_json::<ImageBuild>(object.clone()).await?),
            kind => anyhow::bail!("no object of kind {kind} is applied here"),
        }
    }
    Ok(())
}

/// Whether the three objects of the main job are Current.
pub(crate) async fn job_is_current(namespace: &TestNamespace) -> anyhow::Result<bool> {
    Ok(is_current(&namespace.api::<Registry>().get("main").await?)
        && is_current(&namespace.api::<ImageMirror>().get("bases").await?)
        && is_current(&namespace.api::<ImageBuild>().get("app").await?))
}

/// Lets the namespace of a run that went well go, without waiting for it.
pub(crate) async fn forget(stage: &Stage, namespace: &TestNamespace) -> anyhow::Result<()> {
    let namespaces: Api<Namespace> = Api::all(stage.client.clone());
    namespaces
        .delete(&namespace.name, &DeleteParams::background())
        .await?;
    Ok(())
}
