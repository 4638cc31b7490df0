//! The life of a release on a cluster of its own: installed, upgraded, uninstalled, installed again over what was kept, and
//! removed with everything.
//!
//! Needs root and what `make image` makes; without root it says so and checks nothing.

use std::collections::BTreeSet;
use std::time::Duration;

use anyhow::{Context as _, ensure};
use crds::{Registry, condition};
use k8s_openapi::api::apps::v1::Deployment;
use k8s_openapi::api::core::v1::Pod;
use k8s_openapi::apiextensions_apiserver::pkg::apis::apiextensions::v1::CustomResourceDefinition;
use kube::Api;
use kube::api::{ListParams, Patch, PatchParams};
use serde_json::json;
use tests::cluster::{Cluster, Options, left_out};
use tests::kstatus::is_current;
use tests::stage::{OPERATOR_NAMESPACE, RELEASE, Stage, TestNamespace};

const LIMIT: Duration = Duration::from_secs(120);
/// An operator stops well before its grace period of 30 s is over.
const GONE: Duration = Duration::from_secs(20);

#[tokio::test(flavor = "multi_thread")]
async fn a_release_is_installed_upgraded_and_removed() -> anyhow::Result<()> {
    if left_out("a_release_is_installed_upgraded_and_removed") {
        return Ok(());
    }
    let stage = Stage::on(Cluster::start(Options::new("chart-lifecycle")).await?).await?;
    let namespace = stage.namespace("life", "baseline").await?;

    stage.install_chart(&[]).await.context("install")?;
    let registry = ready_registry(&namespace).await?;
    let installed = pods(&stage).await?;
    ensure!(installed.len() == 1, "one operator: {installed:?}");

    upgrade(&stage).await.context("upgrade")?;
    tests::wait::until_seen(
        "two operators, each a new pod",
        GONE,
        || pods(&stage),
        |upgraded| upgraded.len() == 2 && upgraded.is_disjoint(&installed),
    )
    .await?;

    uninstall(&stage).await.context("uninstall")?;
    ensure!(
        definitions(&stage).await?.len() == 3,
        "the definitions are kept"
    );
    let kept = namespace.api::<Registry>().get("main").await?;
    ensure!(
        kept.metadata.uid == registry.metadata.uid,
        "the Registry is kept"
    );
    // The upgrade gave the registry's pods another pull secret: their rollout goes on without an operator.
    tests::wait::until_seen(
        "the registry to serve without an operator",
        LIMIT,
        || ready_replicas(&namespace),
        |ready| *ready == Some(1),
    )
    .await?;

    let refused = foreign_install(&stage).await;
    ensure!(
        refused.contains("imagebuilds.coopery.dev") && refused.contains("--take-ownership")
            || refused.contains("invalid ownership metadata"),
        "a release of another name does not take the definitions: {refused}"
    );

    stage.install_chart(&[]).await.context("install again")?;
    looked_at(&namespace, "again").await?;
    let adopted = namespace.api::<Registry>().get("main").await?;
    ensure!(
        adopted.metadata.uid == registry.metadata.uid && is_current(&adopted),
        "{adopted:#?}"
    );

    // As the chart's README says: the resources first, while their kinds are known to the garbage collector.
    namespace.delete::<Registry>("main").await?;
    namespace_is_empty(&namespace).await?;
    stage.install_chart(&["--set", "crds.keep=false"]).await?;
    uninstall(&stage)
        .await
        .context("uninstall with the definitions")?;
    tests::wait::until_seen(
        "the definitions to be gone",
        LIMIT,
        || definitions(&stage),
        Vec::is_empty,
    )
    .await?;
    stage.cluster.stop().await?;
    Ok(())
}

/// Waits until nothing is left of the Registry.
async fn namespace_is_empty(namespace: &TestNamespace) -> anyhow::Result<()> {
    let deployments = namespace.api::<Deployment>();
    let left = || async {
        let list = deployments.list_metadata(&ListParams::default()).await?;
        Ok(list.items.len())
    };
    tests::wait::until_seen("the registry to go with its resource", LIMIT, left, |n| {
        *n == 0
    })
    .await?;
    Ok(())
}

/// A Registry that is Ready.
async fn ready_registry(namespace: &TestNamespace) -> anyhow::Result<Registry> {
    namespace
        .apply_json::<Registry>(json!({
            "apiVersion": "coopery.dev/v1alpha1", "kind": "Registry", "metadata": {"name": "main"},
            "spec": {"managed": {"storage": {"emptyDir": {}}}},
        }))
        .await?;
    namespace
        .until("main", "the Registry to be Ready", LIMIT, is_current)
        .await
}

/// Changes every value that becomes an argument of the operator, so that one that it does not know would fail here.
async fn upgrade(stage: &Stage) -> anyhow::Result<()> {
    let file = stage.files().join("upgrade.json");
    let values = json!({
        "replicas": 2,
        "concurrency": 4,
        "resync": "5m",
        "log": {"format": "text", "level": "debug,hyper=info"},
        "network": {"allowCIDRs": ["169.254.1.0/24", "fd00::/8"]},
        "builder": {
            "image": {"pullPolicy": "Never"},
            "imagePullSecrets": [{"name": "hub"}],
            "proxy": {
                "http": "http://proxy.host.test:3128", "https": "http://proxy.host.test:3128", "noProxy": ".svc,.host.test,10.0.0.0/8",
            },
        },
        "registry": {"imagePullSecrets": [{"name": "mirror"}]},
        "commonLabels": {"team": "images"},
        "podAnnotations": {"example.com/note": "yes: #1"},
        "podDisruptionBudget": {"enabled": true, "minAvailable": "50%"},
    });
    fs_err::write(&file, values.to_string())?;
    stage
        .install_chart(&["--values", &file.to_string_lossy()])
        .await?;
    let deployments: Api<Deployment> = Api::namespaced(stage.client.clone(), OPERATOR_NAMESPACE);
    let deployment = deployments.get(RELEASE).await?;
    let spec = deployment.spec.and_then(|spec| spec.template.spec);
    let arguments = spec
        .and_then(|spec| spec.containers.into_iter().next()?.args)
        .context("the operator has arguments")?;
    for expected in [
        "--concurrency=4",
        "--resync=5m",
        "--log-level=debug,hyper=info",
        "--allow-cidr=fd00::/8",
        "--builder-image-pull-policy=Never",
        "--builder-image-pull-secret=hub",
        "--registry-image-pull-policy=IfNotPresent",
        "--registry-image-pull-secret=mirror",
        "--builder-no-proxy=.svc,.host.test,10.0.0.0/8",
    ] {
        ensure!(
            arguments.iter().any(|argument| argument == expected),
            "{arguments:?}"
        );
    }
    Ok(())
}

/// How many of the registry's pods are Ready, once the Deployment's status speaks of its present spec.
async fn ready_replicas(namespace: &TestNamespace) -> anyhow::Result<Option<i32>> {
    let deployment = namespace.api::<Deployment>().get("main").await?;
    let status = deployment.status.unwrap_or_default();
    let current = status.observed_generation == deployment.metadata.generation
        && status.updated_replicas == status.replicas;
    Ok(status.ready_replicas.filter(|_| current))
}

/// Uninstalls the release, and waits until nothing of it is left but what is kept.
async fn uninstall(stage: &Stage) -> anyhow::Result<()> {
    let arguments = [
        "uninstall",
        RELEASE,
        "--namespace",
        OPERATOR_NAMESPACE,
        "--wait",
        "--timeout",
        "120s",
    ];
    stage.cluster.helm(&arguments).await?;
    let (instance, own) = (
        format!("app.kubernetes.io/instance={RELEASE}"),
        OPERATOR_NAMESPACE,
    );
    for kinds in [
        "clusterroles,clusterrolebindings,roles,rolebindings,serviceaccounts",
        "deployments,replicasets,services,configmaps,poddisruptionbudgets",
        // Pods go by garbage collection, after the Deployment.
        "pods",
    ] {
        let arguments = ["get", kinds, "-o", "name", "-n", own, "-l", &instance];
        tests::wait::until_seen(
            "the release to be gone",
            GONE,
            || async { Ok(stage.cluster.kubectl(&arguments).await?) },
            |left| left.trim().is_empty(),
        )
        .await?;
    }
    Ok(())
}

/// What Helm says when a release of another name asks for the definitions, too.
async fn foreign_install(stage: &Stage) -> String {
    let chart = Stage::chart();
    let arguments = ["install", "other", &chart, "--namespace", "default"];
    match stage.cluster.helm(&arguments).await {
        Ok(_) => "it was installed".to_owned(),
        Err(error) => error.to_string(),
    }
}

/// Waits until an operator has looked at the Registry since now.
async fn looked_at(namespace: &TestNamespace, value: &str) -> anyhow::Result<()> {
    let patch = json!({"metadata": {"annotations": {crds::REQUESTED_AT_ANNOTATION: value}}});
    let registries = namespace.api::<Registry>();
    registries
        .patch("main", &PatchParams::default(), &Patch::Merge(patch))
        .await?;
    let seen = |registry: &Registry| {
        registry.status.as_ref().is_some_and(|status| {
            status.last_handled_requested_at.as_deref() == Some(value)
                && condition::is_true(&status.conditions, condition::READY)
        })
    };
    namespace
        .until("main", "the operator to look again", LIMIT, seen)
        .await?;
    Ok(())
}

/// Names of the definitions of this project.
async fn definitions(stage: &Stage) -> anyhow::Result<Vec<String>> {
    let all: Api<CustomResourceDefinition> = Api::all(stage.client.clone());
    let list = all.list_metadata(&ListParams::default()).await?;
    let names = list.items.into_iter().filter_map(|item| item.metadata.name);
    Ok(names
        .filter(|name| name.ends_with(".coopery.dev"))
        .collect())
}

/// Unique ids of the operator's pods that are not ending.
async fn pods(stage: &Stage) -> anyhow::Result<BTreeSet<String>> {
    let pods: Api<Pod> = Api::namespaced(stage.client.clone(), OPERATOR_NAMESPACE);
    let list = pods.list(&ListParams::default()).await?;
    Ok(list
        .items
        .into_iter()
        .filter(|pod| pod.metadata.deletion_timestamp.is_none())
        .filter_map(|pod| pod.metadata.uid)
        .collect())
}
