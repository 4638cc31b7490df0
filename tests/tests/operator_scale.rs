//! What many mirrors cost: one operator with 1,000 ImageMirrors of which nothing changed looks at all of them within a minute
//! and 100 MiB, asks each side once for each, and writes nothing. A real API server, and two registries in this process that
//! know only how to answer HEAD. A tenth of the mirrors; all of them with `COOPERY_SOAK`.
//!
//! Needs root and what `make build` builds. `COOPERY_OPERATOR` names another program than the release binary.
#![expect(clippy::print_stdout, reason = "the figures are the product")]

use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, Ipv4Addr};
use std::path::Path;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use axum::Router;
use axum::extract::Request;
use axum::response::IntoResponse;
use crds::{ImageMirror, condition};
use futures::{StreamExt, TryStreamExt};
use kube::ResourceExt;
use kube::api::{Api, ListParams, PostParams};
use oci::Digest;
use serde_json::json;
use tests::certificate::Authority;
use tests::cluster::{Cluster, Options, left_out};
use tests::operator_process::{OperatorOptions, OperatorProcess};
use tests::stage::{release_binary, repository};
use tests::tls;
use tests::wait::until;

/// What the operator may take to look at all mirrors.
const TIME: Duration = Duration::from_secs(60);
/// What it may have in memory at its peak, in bytes.
const MEMORY: u64 = 100 << 20;
/// How long the first look may take, in which each status is written.
const FIRST: Duration = Duration::from_secs(300);
const NAMESPACE: &str = "default";

/// A registry that has every tag. It is asked nothing else.
struct Registry {
    server: tls::Server,
    asked: Arc<Mutex<BTreeMap<String, usize>>>,
}

impl Registry {
    async fn start(authority: &Authority) -> anyhow::Result<Self> {
        let asked: Arc<Mutex<BTreeMap<String, usize>>> = Arc::default();
        let log = asked.clone();
        let answer = move |request: Request| {
            let question = format!("{} {}", request.method(), request.uri().path());
            let mut log = log.lock().unwrap_or_else(PoisonError::into_inner);
            *log.entry(question).or_default() += 1;
            // The digest of an image follows from its name, so both sides have the same.
            let digest = Digest::of(request.uri().path().as_bytes()).to_string();
            let kind = "application/vnd.oci.image.index.v1+json".to_owned();
            let headers = [
                ("content-type", kind),
                ("docker-content-digest", digest),
                ("content-length", "2".to_owned()),
            ];
            std::future::ready((headers, ()).into_response())
        };
        let loopback = IpAddr::V4(Ipv4Addr::LOCALHOST);
        let identity = authority.server("registry.host.test", loopback)?;
        let router = Router::new().fallback(answer);
        Ok(Self {
            server: tls::serve(loopback, &identity, router).await?,
            asked,
        })
    }

    fn host(&self) -> String {
        self.server.address.to_string()
    }

    /// What was asked since the last call of this, and how often.
    fn take(&self) -> BTreeMap<String, usize> {
        std::mem::take(&mut *self.asked.lock().unwrap_or_else(PoisonError::into_inner))
    }

    fn tags_asked(&self) -> usize {
        let asked = self.asked.lock().unwrap_or_else(PoisonError::into_inner);
        asked
            .keys()
            .filter(|line| line.starts_with("HEAD "))
            .count()
    }
}

/// 1,000, or a tenth of it.
fn mirrors() -> usize {
    if std::env::var_os("COOPERY_SOAK").is_some() {
        1000
    } else {
        100
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn many_unchanged_mirrors_cost_little() -> anyhow::Result<()> {
    if left_out("many_unchanged_mirrors_cost_little") {
        let on_ci = std::env::var_os("CI").is_some();
        anyhow::ensure!(!on_ci, "CI leaves nothing out: run as root");
        return Ok(());
    }
    let files = tempfile::tempdir_in("/var/tmp")?;
    let authority = Authority::new("scale")?;
    let ca = files.path().join("authority.pem");
    fs_err::write(&ca, &authority.certificate)?;
    let source = Registry::start(&authority).await?;
    let destination = Registry::start(&authority).await?;
    let cluster = Cluster::start(Options::new("operator-scale")).await?;
    define(&cluster).await?;
    let client = cluster.client().await?;
    let api: Api<ImageMirror> = Api::namespaced(client, NAMESPACE);
    make(&api, &source.host(), &destination.host()).await?;
    let operator = operator(&cluster, files.path(), &ca)?;

    let begin = Instant::now();
    operator.start().await?;
    until("every mirror to be Ready", FIRST, || async {
        operator.check().await?;
        if destination.tags_asked() < mirrors() {
            return Ok(None);
        }
        Ok((ready(&api).await? == mirrors()).then_some(()))
    })
    .await?;
    let first = (begin.elapsed(), operator.memory_peak().await?);
    println!("{} mirrors, first look: {}", mirrors(), told(first));

    // Unchanged, by an operator that remembers nothing.
    let before = versions(&api).await?;
    operator.crash().await?;
    for registry in [&source, &destination] {
        registry.take();
    }
    let begin = Instant::now();
    operator.start().await?;
    until("every mirror to be looked at", FIRST, || async {
        operator.check().await?;
        let asked = source.tags_asked().min(destination.tags_asked());
        let looked = operator.reconciles().await.unwrap_or_default();
        let looked = looked.get("ImageMirror").copied().unwrap_or(0);
        let all = asked == mirrors() && usize::try_from(looked)? >= mirrors();
        Ok(all.then_some(()))
    })
    .await?;
    let again = (begin.elapsed(), operator.memory_peak().await?);
    println!("{} mirrors, unchanged: {}", mirrors(), told(again));
    anyhow::ensure!(versions(&api).await? == before, "something was written");
    for (name, registry) in [("source", &source), ("destination", &destination)] {
        let asked = registry.take();
        let more = asked.iter().find(|(line, times)| {
            **times != 1 || !line.starts_with("HEAD ") && line.as_str() != "GET /v2/"
        });
        anyhow::ensure!(more.is_none(), "the {name} was asked too much: {more:?}");
    }
    anyhow::ensure!(again.0 <= TIME, "{:?} of {TIME:?}", again.0);
    anyhow::ensure!(
        first.1.max(again.1) <= MEMORY,
        "more than {} MiB",
        MEMORY >> 20
    );
    cluster.stop().await?;
    Ok(())
}

fn told((time, memory): (Duration, u64)) -> String {
    let memory = memory >> 20;
    format!("{:.1} s, {memory} MiB at the peak", time.as_secs_f64())
}

async fn define(cluster: &Cluster) -> anyhow::Result<()> {
    for (file, definition) in crds::definition::definitions() {
        let path = repository().join("crds").join(file);
        let path = path.to_string_lossy();
        cluster
            .kubectl(&["apply", "--server-side", "-f", &path])
            .await?;
        let name = definition.metadata.name.unwrap_or_default();
        let established = ["wait", "--for=condition=Established", "crd", &name];
        cluster.kubectl(&established).await?;
    }
    Ok(())
}

async fn make(api: &Api<ImageMirror>, source: &str, destination: &str) -> anyhow::Result<()> {
    let objects = (0..mirrors()).map(|number| {
        json!({
            "apiVersion": "coopery.dev/v1alpha1", "kind": "ImageMirror", "metadata": {"name": format!("mirror-{number}")},
            "spec": {
                "interval": "1h", "source": {"host": source}, "destination": {"host": destination},
                "images": [{"name": "app", "repository": format!("team/app-{number}"), "tags": {"names": ["1"]}}],
            },
        })
    });
    let objects: Vec<ImageMirror> = objects
        .map(serde_json::from_value)
        .collect::<Result<_, _>>()?;
    futures::stream::iter(objects)
        .map(|object| async move { api.create(&PostParams::default(), &object).await })
        .buffer_unordered(16)
        .try_for_each(|_| std::future::ready(Ok(())))
        .await?;
    Ok(())
}

fn operator(cluster: &Cluster, files: &Path, ca: &Path) -> anyhow::Result<OperatorProcess> {
    let program = match std::env::var_os("COOPERY_OPERATOR") {
        Some(program) => program.into(),
        None => release_binary("coopery-operator")?,
    };
    let arguments = [
        "--builder-image=builder.example/coopery:1".to_owned(),
        "--allow-cidr=127.0.0.0/8".to_owned(),
        // A lease of one that was killed would have to expire first.
        "--leader-election=false".to_owned(),
        format!("--builder-ca-file={}", ca.display()),
    ];
    OperatorProcess::new(OperatorOptions {
        program,
        kubeconfig: cluster.kubeconfig(),
        name_server: cluster.addresses().node().into(),
        namespace: NAMESPACE.to_owned(),
        arguments: arguments.into(),
        directory: files.join("operator"),
    })
}

async fn ready(api: &Api<ImageMirror>) -> anyhow::Result<usize> {
    let all = api.list(&ListParams::default()).await?.items;
    let is_ready = |mirror: &&ImageMirror| {
        let status = mirror.status.as_ref();
        status.is_some_and(|s| condition::is_true(&s.conditions, condition::READY))
    };
    Ok(all.iter().filter(is_ready).count())
}

async fn versions(api: &Api<ImageMirror>) -> anyhow::Result<BTreeSet<(String, Option<String>)>> {
    let all = api.list(&ListParams::default()).await?.items;
    let version = |mirror: ImageMirror| (mirror.name_any(), mirror.resource_version());
    Ok(all.into_iter().map(version).collect())
}
