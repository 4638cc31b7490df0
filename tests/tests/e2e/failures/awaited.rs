//! Failures that a build waits out: what people must make, allow or make room for. Each is told from when it was asked for.

use std::collections::BTreeMap;

use anyhow::Context as _;
use k8s_openapi::api::core::v1::{ConfigMap, Namespace, ResourceQuota};
use kube::api::{Api, Patch, PatchParams};
use serde_json::json;
use tests::kstatus::{Kstatus, kstatus};

use super::{Case, LIMIT, inline};
use crate::main_job::registry;
use crate::on_stage;

#[test]
fn what_is_missing_is_named_and_awaited() {
    on_stage(|stage| async move {
        let namespace = stage.namespace("missing", "baseline").await?;
        let without_registry = Case::new(&namespace, "no-registry").await?;
        let asked = without_registry.apply(inline(stage, "RUN true")).await?;
        let no_registry = without_registry
            .told_promptly("RegistryNotFound", &["main"], asked)
            .await?;
        registry(&namespace).await?;

        let without_config_map = Case::new(&namespace, "no-config-map").await?;
        let source = json!({"source": {"configMap": {"name": "absent"}}});
        let asked = without_config_map.apply(source).await?;
        let no_config_map = without_config_map
            .told_promptly("ConfigMapNotFound", &["absent"], asked)
            .await?;

        let without_secret = Case::new(&namespace, "no-secret").await?;
        let mut spec = inline(stage, "RUN true");
        spec["imagePullSecrets"] = json!([{"name": "nowhere"}]);
        let asked = without_secret.apply(spec).await?;
        let no_secret = without_secret
            .told_promptly("SecretNotFound", &["nowhere"], asked)
            .await?;
        for case in [&without_config_map, &without_secret] {
            anyhow::ensure!(case.pods().await?.is_empty(), "nothing is started yet");
        }

        namespace
            .apply_json::<ConfigMap>(json!({
                "apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "absent"},
                "data": {"Dockerfile": format!("FROM {}\n", stage.busybox())},
            }))
            .await?;
        namespace
            .docker_secret("nowhere", r#"{"auths": {}}"#)
            .await?;
        without_registry.recovers(&no_registry).await?;
        without_config_map.recovers(&no_config_map).await?;
        without_secret.recovers(&no_secret).await
    });
}

#[test]
fn a_missing_revision_is_named_and_awaited() {
    on_stage(|stage| async move {
        let namespace = stage.namespace("revision", "baseline").await?;
        registry(&namespace).await?;
        let dockerfile = format!("FROM {}\n", stage.busybox()).into_bytes();
        let files = BTreeMap::from([("Dockerfile", dockerfile)]);
        let commit = stage.git.commit("revision", "main", &files).await?;
        let git = json!({"url": stage.git.url("revision"), "ref": {"tag": "v9"}, "interval": "5s"});
        let case = Case::new(&namespace, "revision").await?;
        let asked = case.apply(json!({"source": {"git": git}})).await?;
        let failed = case
            .told_promptly("RevisionNotFound", &["v9"], asked)
            .await?;
        stage.git.tag("revision", "v9", &commit).await?;
        case.recovers(&failed).await
    });
}

#[test]
fn a_pod_that_fits_nowhere_says_why() {
    on_stage(|stage| async move {
        let namespace = stage.namespace("unschedulable", "baseline").await?;
        registry(&namespace).await?;
        let case = Case::new(&namespace, "unschedulable").await?;
        let mut spec = inline(stage, "RUN true");
        spec["pod"] = json!({"nodeSelector": {"example.com/none": "here"}});
        // The cause is as old as the pod: the scheduler is asked as soon as it is there.
        let asked = case.apply(spec).await?;
        let failed = case
            .told_promptly("Unschedulable", &["node"], asked)
            .await?;
        anyhow::ensure!(kstatus(&failed) == Kstatus::InProgress, "a node may come");
        case.apply(inline(stage, "RUN true")).await?;
        case.recovers(&failed).await
    });
}

#[test]
fn a_quota_without_room_is_named_and_awaited() {
    on_stage(|stage| async move {
        let namespace = stage.namespace("quota", "baseline").await?;
        registry(&namespace).await?;
        let quota = |pods: &str| json!({"apiVersion": "v1", "kind": "ResourceQuota", "metadata": {"name": "pods"}, "spec": {"hard": {"pods": pods}}});
        namespace.apply_json::<ResourceQuota>(quota("1")).await?;
        let used = |q: &ResourceQuota| {
            let used = q.status.as_ref().and_then(|s| s.used.as_ref());
            used.is_some_and(|u| u["pods"].0 == "1")
        };
        namespace
            .until("pods", "the quota to count the registry's pod", LIMIT, used)
            .await?;
        let case = Case::new(&namespace, "quota").await?;
        let asked = case.apply(inline(stage, "RUN true")).await?;
        let failed = case
            .told_promptly("QuotaExceeded", &["pods"], asked)
            .await?;
        namespace.apply_json::<ResourceQuota>(quota("5")).await?;
        case.recovers(&failed).await
    });
}

#[test]
fn a_namespace_that_refuses_the_pod_is_told_so() {
    on_stage(|stage| async move {
        let namespace = stage.namespace("forbidden", "restricted").await?;
        registry(&namespace).await?;
        let case = Case::new(&namespace, "forbidden").await?;
        let mut spec = inline(stage, "RUN true");
        spec["isolation"] = json!("UserNamespace");
        let asked = case.apply(spec).await?;
        let failed = case
            .told_promptly("PodSecurityForbidden", &["restricted"], asked)
            .await
            .context("the level restricted")?;
        let namespaces: Api<Namespace> = Api::all(stage.client.clone());
        let baseline =
            json!({"metadata": {"labels": {"pod-security.kubernetes.io/enforce": "baseline"}}});
        let parameters = PatchParams::default();
        namespaces
            .patch(&namespace.name, &parameters, &Patch::Merge(baseline))
            .await?;
        case.recovers(&failed).await
    });
}
