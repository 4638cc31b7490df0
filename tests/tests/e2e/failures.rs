//! Failure is clear: every way a build can fail has its reason and a message that helps, within ten seconds of its cause;
//! fixing the cause recovers without deleting the resource, and no child is left over.

use std::collections::BTreeMap;
use std::time::Duration;

use anyhow::Context as _;
use crds::{ImageBuild, condition};
use k8s_openapi::api::core::v1::{ConfigMap, Pod, ResourceQuota};
use kube::api::{Api, ListParams, Patch, PatchParams};
use serde_json::{Value, json};
use tests::kstatus::{Conditioned as _, Kstatus, is_current, kstatus, message, reason};
use tests::stage::{Stage, TestNamespace};

use super::main_job::{built, image_build, registry};
use super::on_stage;

/// A pod must come and go before a failed build is told.
const LIMIT: Duration = Duration::from_secs(90);
/// How soon a cause shows in the condition.
const PROMPT: i64 = 10;

/// Waits until `Ready` has `wanted` as its reason.
async fn failed(namespace: &TestNamespace, name: &str, wanted: &str) -> anyhow::Result<ImageBuild> {
    namespace
        .until::<ImageBuild>(name, &format!("{name} to say {wanted}"), LIMIT, |b| {
            reason(b) == wanted
        })
        .await
}

/// The builder pods of an ImageBuild.
async fn pods(namespace: &TestNamespace, name: &str) -> anyhow::Result<Vec<Pod>> {
    let selector = ListParams::default().labels(&format!(
        "coopery.dev/name={name},coopery.dev/kind=ImageBuild"
    ));
    Ok(namespace.api::<Pod>().list(&selector).await?.items)
}

/// Fails unless the condition came within [`PROMPT`] seconds of the end of the newest pod's container.
async fn assert_prompt(namespace: &TestNamespace, build: &ImageBuild) -> anyhow::Result<()> {
    let name = build.metadata.name.as_deref().context("name")?;
    let ready = condition::find(build.conditions(), "Ready").context("the condition Ready")?;
    let ended = pods(namespace, name)
        .await?
        .iter()
        .filter_map(|p| {
            p.status
                .as_ref()?
                .container_statuses
                .as_ref()?
                .first()?
                .state
                .as_ref()?
                .terminated
                .as_ref()?
                .finished_at
                .clone()
        })
        .max()
        .context("a builder pod that ended")?;
    let late = ready
        .last_transition_time
        .0
        .duration_since(ended.0)
        .as_secs();
    anyhow::ensure!(
        late <= PROMPT,
        "the condition came {late} s after the pod ended"
    );
    Ok(())
}

fn inline(stage: &Stage, steps: &str) -> Value {
    json!({"dockerfile": {"inline": format!("FROM {}\n{steps}\n", stage.busybox())}})
}

/// Applies `spec` and waits for `wanted`, then applies the cured build and waits until it is Ready.
async fn fails_then_recovers(
    stage: &Stage,
    name: &str,
    spec: Value,
    wanted: &str,
    words: &[&str],
) -> anyhow::Result<()> {
    let namespace = stage.namespace(name, "baseline").await?;
    registry(&namespace).await?;
    namespace
        .apply_json::<ImageBuild>(image_build(name, spec))
        .await?;
    let build = failed(&namespace, name, wanted).await?;
    assert_eq!(kstatus(&build), Kstatus::Failed, "{build:#?}");
    assert_prompt(&namespace, &build).await?;
    for word in words {
        assert!(
            message(&build).contains(word),
            "no `{word}` in: {}",
            message(&build)
        );
    }
    built(&namespace, image_build(name, inline(stage, "RUN true"))).await?;
    Ok(())
}

#[test]
fn a_typo_in_the_dockerfile_names_file_and_line() {
    on_stage(|stage| async move {
        let words = ["Dockerfile:3", "RUNN", "RUN"];
        fails_then_recovers(
            stage,
            "typo",
            inline(stage, "ENV A=1\nRUNN make"),
            "InvalidDockerfile",
            &words,
        )
        .await
    });
}

#[test]
fn a_failing_step_tells_its_exit_code_and_last_lines() {
    on_stage(|stage| async move {
        let words = ["Dockerfile:2", "exit code 3", "the last line"];
        fails_then_recovers(
            stage,
            "exit3",
            inline(stage, "RUN echo first; echo the last line; exit 3"),
            "BuildFailed",
            &words,
        )
        .await
    });
}

#[test]
fn an_absent_base_is_named() {
    on_stage(|stage| async move {
        let base = format!("{}/no/such:1", stage.public.host());
        let spec = json!({"dockerfile": {"inline": format!("FROM {base}\nRUN true\n")}});
        fails_then_recovers(stage, "nobase", spec, "BaseImageNotFound", &[&base]).await
    });
}

#[test]
fn memory_that_runs_out_is_told_as_such() {
    on_stage(|stage| async move {
        let mut spec = inline(stage, "RUN dd if=/dev/zero of=/dev/null bs=400M count=1");
        spec["pod"] = json!({"resources": {"limits": {"memory": "128Mi"}}});
        fails_then_recovers(stage, "oom", spec, "OOMKilled", &["memory"]).await
    });
}

#[test]
fn a_full_workspace_is_told_as_such() {
    on_stage(|stage| async move {
        let namespace = stage.namespace("full", "baseline").await?;
        registry(&namespace).await?;
        let mut spec = inline(
            stage,
            "RUN dd if=/dev/zero of=/big bs=1M count=400; sleep 60",
        );
        spec["pod"] = json!({"workspace": {"sizeLimit": "64Mi"}});
        spec["retry"] = json!({"limit": 0});
        namespace
            .apply_json::<ImageBuild>(image_build("full", spec))
            .await?;
        // The kubelet evicts a pod whose volume outgrew its limit; without it the step itself fails for want of space.
        let build = namespace
            .until::<ImageBuild>("full", "the full workspace to be told", LIMIT, |b| {
                ["Evicted", "OutOfDisk"].contains(&reason(b))
            })
            .await?;
        assert!(
            message(&build).contains("sizeLimit") || message(&build).contains("limit"),
            "{}",
            message(&build)
        );
        built(&namespace, image_build("full", inline(stage, "RUN true"))).await?;
        Ok(())
    });
}

#[test]
fn a_build_that_takes_too_long_times_out() {
    on_stage(|stage| async move {
        let mut spec = inline(stage, "RUN sleep 600");
        spec["timeout"] = json!("5s");
        fails_then_recovers(stage, "timeout", spec, "Timeout", &["5s"]).await
    });
}

#[test]
fn refused_credentials_are_told_before_and_cured_by_the_secret() {
    on_stage(|stage| async move {
        let namespace = stage.namespace("credentials", "baseline").await?;
        let wrong = tests::upstream::docker_config(&stage.private.host(), ("puller", "xyzzy-4711"));
        namespace.docker_secret("push", &wrong).await?;
        let mut spec = inline(stage, "RUN true");
        spec["imagePullSecrets"] = json!([]);
        spec["destinations"] = json!([{
            "name": "main", "image": format!("{}/pushed/app", stage.private.host()), "secretRef": {"name": "push"}, "tags": ["1"],
        }]);
        namespace
            .apply_json::<ImageBuild>(image_build("app", spec))
            .await?;
        let build = failed(&namespace, "app", "RegistryUnauthorized").await?;
        assert!(
            message(&build).contains(&stage.private.host()),
            "{}",
            message(&build)
        );
        assert!(
            !message(&build).contains("xyzzy-4711"),
            "{}",
            message(&build)
        );
        namespace
            .docker_secret("push", &stage.private.docker_config())
            .await?;
        namespace
            .until::<ImageBuild>("app", "the corrected Secret to be used", LIMIT, is_current)
            .await?;
        assert_eq!(
            stage.digest(&stage.private, "pushed/app:1").await?,
            digest(&namespace, "app").await?
        );
        Ok(())
    });
}

async fn digest(namespace: &TestNamespace, name: &str) -> anyhow::Result<String> {
    namespace
        .api::<ImageBuild>()
        .get(name)
        .await?
        .status
        .and_then(|s| s.digest)
        .context("a built image has a digest")
}

#[test]
fn what_is_missing_is_named_and_awaited() {
    on_stage(|stage| async move {
        let namespace = stage.namespace("missing", "baseline").await?;
        let source = json!({"source": {"configMap": {"name": "absent"}}});
        namespace
            .apply_json::<ImageBuild>(image_build("app", source))
            .await?;
        let build = failed(&namespace, "app", "RegistryNotFound").await?;
        assert!(message(&build).contains("main"), "{}", message(&build));
        registry(&namespace).await?;
        let build = failed(&namespace, "app", "ConfigMapNotFound").await?;
        assert!(message(&build).contains("absent"), "{}", message(&build));
        assert_eq!(pods(&namespace, "app").await?.len(), 0);
        namespace
            .apply_json::<ConfigMap>(json!({
                "apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "absent"},
                "data": {"Dockerfile": format!("FROM {}\n", stage.busybox())},
            }))
            .await?;
        namespace
            .until::<ImageBuild>("app", "the ConfigMap to be noticed", LIMIT, is_current)
            .await?;

        let mut secret = inline(stage, "RUN true");
        secret["imagePullSecrets"] = json!([{"name": "nowhere"}]);
        namespace
            .apply_json::<ImageBuild>(image_build("secret", secret))
            .await?;
        let build = failed(&namespace, "secret", "SecretNotFound").await?;
        assert!(message(&build).contains("nowhere"), "{}", message(&build));
        namespace
            .docker_secret("nowhere", r#"{"auths": {}}"#)
            .await?;
        namespace
            .until::<ImageBuild>("secret", "the Secret to be noticed", LIMIT, is_current)
            .await?;
        Ok(())
    });
}

#[test]
fn a_missing_revision_is_named_and_awaited() {
    on_stage(|stage| async move {
        let namespace = stage.namespace("revision", "baseline").await?;
        registry(&namespace).await?;
        let files = BTreeMap::from([(
            "Dockerfile",
            format!("FROM {}\n", stage.busybox()).into_bytes(),
        )]);
        let commit = stage.git.commit("revision", "main", &files).await?;
        let git = json!({"url": stage.git.url("revision"), "ref": {"tag": "v9"}, "interval": "5s"});
        namespace
            .apply_json::<ImageBuild>(image_build("app", json!({"source": {"git": git}})))
            .await?;
        let build = failed(&namespace, "app", "RevisionNotFound").await?;
        assert!(message(&build).contains("v9"), "{}", message(&build));
        stage.git.tag("revision", "v9", &commit).await?;
        namespace
            .until::<ImageBuild>("app", "the tag to be noticed", LIMIT, is_current)
            .await?;
        Ok(())
    });
}

#[test]
fn a_pod_that_fits_nowhere_says_why() {
    on_stage(|stage| async move {
        let namespace = stage.namespace("unschedulable", "baseline").await?;
        registry(&namespace).await?;
        let mut spec = inline(stage, "RUN true");
        spec["pod"] = json!({"nodeSelector": {"example.com/none": "here"}});
        namespace
            .apply_json::<ImageBuild>(image_build("app", spec))
            .await?;
        let build = failed(&namespace, "app", "Unschedulable").await?;
        assert_eq!(kstatus(&build), Kstatus::InProgress, "a node may come");
        assert!(message(&build).contains("node"), "{}", message(&build));
        built(&namespace, image_build("app", inline(stage, "RUN true"))).await?;
        Ok(())
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
            q.status
                .as_ref()
                .and_then(|s| s.used.as_ref())
                .is_some_and(|u| u["pods"].0 == "1")
        };
        namespace
            .until::<ResourceQuota>("pods", "the quota to count the registry's pod", LIMIT, used)
            .await?;
        namespace
            .apply_json::<ImageBuild>(image_build("app", inline(stage, "RUN true")))
            .await?;
        let build = failed(&namespace, "app", "QuotaExceeded").await?;
        assert!(message(&build).contains("pods"), "{}", message(&build));
        namespace.apply_json::<ResourceQuota>(quota("5")).await?;
        namespace
            .until::<ImageBuild>("app", "the raised quota to be noticed", LIMIT, is_current)
            .await?;
        Ok(())
    });
}

#[test]
fn a_namespace_that_refuses_the_pod_is_told_so() {
    on_stage(|stage| async move {
        let namespace = stage.namespace("forbidden", "restricted").await?;
        registry(&namespace).await?;
        let mut spec = inline(stage, "RUN true");
        spec["isolation"] = json!("UserNamespace");
        namespace
            .apply_json::<ImageBuild>(image_build("app", spec))
            .await?;
        let build = failed(&namespace, "app", "PodSecurityForbidden").await?;
        assert!(
            message(&build).contains("restricted"),
            "{}",
            message(&build)
        );
        let namespaces: Api<k8s_openapi::api::core::v1::Namespace> = Api::all(stage.client.clone());
        let label =
            json!({"metadata": {"labels": {"pod-security.kubernetes.io/enforce": "baseline"}}});
        namespaces
            .patch(
                &namespace.name,
                &PatchParams::default(),
                &Patch::Merge(label),
            )
            .await?;
        namespace
            .until::<ImageBuild>("app", "the relaxed level to be noticed", LIMIT, is_current)
            .await?;
        Ok(())
    });
}

#[test]
fn a_changed_spec_replaces_the_running_build() {
    on_stage(|stage| async move {
        let namespace = stage.namespace("changed", "baseline").await?;
        registry(&namespace).await?;
        namespace
            .apply_json::<ImageBuild>(image_build("app", inline(stage, "RUN sleep 600")))
            .await?;
        let running =
            |p: &Pod| p.status.as_ref().and_then(|s| s.phase.as_deref()) == Some("Running");
        let pod = running_pod(&namespace, "app").await?;
        namespace
            .until::<Pod>(&pod, "the builder to run", LIMIT, running)
            .await?;
        built(&namespace, image_build("app", inline(stage, "RUN true"))).await?;
        let left: Vec<_> = pods(&namespace, "app")
            .await?
            .into_iter()
            .filter(running)
            .collect();
        assert!(left.is_empty(), "{left:#?}");
        Ok(())
    });
}

/// Name of the first builder pod that appears.
async fn running_pod(namespace: &TestNamespace, name: &str) -> anyhow::Result<String> {
    tests::wait::until("a builder pod", LIMIT, || async {
        Ok(pods(namespace, name)
            .await?
            .into_iter()
            .find_map(|p| p.metadata.name))
    })
    .await
}

#[test]
fn a_deleted_resource_takes_its_running_build_along() {
    on_stage(|stage| async move {
        let namespace = stage.namespace("deleted", "baseline").await?;
        registry(&namespace).await?;
        namespace
            .apply_json::<ImageBuild>(image_build("app", inline(stage, "RUN sleep 600")))
            .await?;
        running_pod(&namespace, "app").await?;
        namespace.delete::<ImageBuild>("app").await?;
        tests::wait::until(
            "the builder pod to be gone",
            Duration::from_secs(60),
            || async { Ok(pods(&namespace, "app").await?.is_empty().then_some(())) },
        )
        .await
    });
}
