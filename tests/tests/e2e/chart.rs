//! The chart as it is installed for the other tests, and a second release beside it that has one namespace to look at.

use std::time::{Duration, Instant};

use anyhow::{Context as _, ensure};
use crds::Registry;
use k8s_openapi::api::apps::v1::Deployment;
use k8s_openapi::api::coordination::v1::Lease;
use kube::Api;
use serde_json::json;
use tests::kstatus::is_current;
use tests::stage::{OPERATOR_NAMESPACE, RELEASE, Stage};

use super::on_stage;
use super::rights::{self, Place};

const LIMIT: Duration = Duration::from_secs(60);

#[test]
fn the_operator_has_the_rights_of_the_table() {
    on_stage(|stage| async move {
        let account = format!("{OPERATOR_NAMESPACE}:{RELEASE}");
        for (namespace, place) in [
            (OPERATOR_NAMESPACE, Place::Own),
            ("default", Place::Watched),
        ] {
            rights::check(&stage.cluster, &account, RELEASE, namespace, place).await?;
        }
        Ok(())
    });
}

/// Values of a second release that looks at `watched` only and leaves the definitions alone.
fn second_values(stage: &Stage, watched: &str) -> anyhow::Result<String> {
    let path = stage.files().join(format!("{watched}-values.json"));
    let values = json!({
        "watchNamespace": watched,
        "crds": {"enabled": false},
        "rbac": {"aggregate": false},
        "builder": {"caCertificates": stage.authority.certificate},
    });
    fs_err::write(&path, values.to_string())?;
    Ok(path.to_string_lossy().into_owned())
}

#[test]
fn a_second_release_looks_at_one_namespace() {
    on_stage(|stage| async move {
        let second = stage.namespace("second", "restricted").await?;
        let own = second.name.clone();
        let watched = stage.namespace("watched", "baseline").await?;
        let values = second_values(stage, &watched.name)?;
        let helm = async |verb: &[&str], more: &[&str]| {
            let common = ["--namespace", &own, "--wait", "--timeout", "90s"];
            stage.cluster.helm(&[verb, &common, more].concat()).await
        };
        let chart = Stage::chart();
        let install = ["install", "second", &chart, "--values", &values];
        helm(&install, &[]).await?;

        let account = format!("{own}:second-coopery");
        for (namespace, place) in [
            (own.as_str(), Place::OwnOnly),
            (&watched.name, Place::Watched),
            (OPERATOR_NAMESPACE, Place::Elsewhere),
        ] {
            rights::check(&stage.cluster, &account, "second-coopery", namespace, place).await?;
        }
        let leases: Api<Lease> = Api::namespaced(stage.client.clone(), &own);
        let lease = leases.get("second-coopery").await?;
        let holder = lease.spec.and_then(|spec| spec.holder_identity);
        ensure!(
            holder.is_some_and(|holder| holder.starts_with("second-coopery-")),
            "the second operator leads by a lease of its own"
        );
        // Both operators look at this namespace: they agree.
        watched
            .apply_json::<Registry>(json!({
                "apiVersion": "coopery.dev/v1alpha1", "kind": "Registry", "metadata": {"name": "main"},
                "spec": {"managed": {"storage": {"emptyDir": {}}}},
            }))
            .await?;
        watched
            .until::<Registry>("main", "the Registry to be Ready", LIMIT, is_current)
            .await?;

        let deployments: Api<Deployment> = Api::namespaced(stage.client.clone(), &own);
        let before = deployments.get("second-coopery").await?;
        let upgrade = ["upgrade", "second", &chart, "--values", &values];
        helm(&upgrade, &["--set", "log.level=debug"]).await?;
        let after = deployments.get("second-coopery").await?;
        ensure!(
            after.metadata.generation > before.metadata.generation,
            "a changed value changes the Deployment"
        );
        let begin = Instant::now();
        helm(&["uninstall", "second"], &[]).await?;
        ensure!(
            begin.elapsed() < LIMIT,
            "uninstalling took {:?}",
            begin.elapsed()
        );
        ensure!(
            deployments.get_opt("second-coopery").await?.is_none(),
            "nothing of the second release is left"
        );
        let left = stage
            .cluster
            .kubectl(&["get", "clusterroles", "-o", "name"])
            .await?;
        ensure!(!left.contains("second-coopery"), "{left}");

        // The definitions, the resources and the first operator are as they were.
        let main = watched.api::<Registry>().get("main").await?;
        ensure!(is_current(&main), "{main:#?}");
        let deployments: Api<Deployment> =
            Api::namespaced(stage.client.clone(), OPERATOR_NAMESPACE);
        let first = deployments.get(RELEASE).await?;
        let ready = first.status.and_then(|status| status.ready_replicas);
        ready
            .filter(|ready| *ready > 0)
            .context("the first operator still runs")?;
        watched.delete::<Registry>("main").await
    });
}
