//! The life of resources over time: new commits, annotations, cancel, suspend, history, retry; and that nothing is written
//! once all is well.

use std::collections::BTreeMap;
use std::time::Duration;

use anyhow::Context as _;
use crds::{ImageBuild, ImageMirror, Registry, condition};
use k8s_openapi::api::core::v1::{ContainerState, Pod};
use kube::api::{DeleteParams, ListParams, Patch, PatchParams};
use serde_json::{Value, json};
use tests::kstatus::{Conditioned as _, is_current, reason};
use tests::stage::{Stage, TestNamespace};

use super::main_job::{built, image_build, registry};
use super::on_stage;

const LIMIT: Duration = Duration::from_secs(90);

fn inline(stage: &Stage, steps: &str) -> Value {
    json!({"dockerfile": {"inline": format!("FROM {}\n{steps}\n", stage.busybox())}})
}

async fn annotate(
    namespace: &TestNamespace,
    name: &str,
    key: &str,
    value: &str,
) -> anyhow::Result<()> {
    let patch =
        json!({"metadata": {"annotations": {format!("reconcile.coopery.dev/{key}"): value}}});
    namespace
        .api::<ImageBuild>()
        .patch(name, &PatchParams::default(), &Patch::Merge(patch))
        .await?;
    Ok(())
}

fn builds(build: &ImageBuild) -> Vec<(String, String)> {
    let of =
        |b: &crds::image_build::Build| (b.reason.clone(), b.result.clone().unwrap_or_default());
    build
        .status
        .iter()
        .flat_map(|s| s.builds.iter().map(of))
        .collect()
}

async fn pods(namespace: &TestNamespace, name: &str) -> anyhow::Result<Vec<Pod>> {
    let selector = ListParams::default().labels(&format!(
        "coopery.dev/name={name},coopery.dev/kind=ImageBuild"
    ));
    Ok(namespace.api::<Pod>().list(&selector).await?.items)
}

#[test]
fn a_new_commit_is_noticed_and_built() {
    on_stage(|stage| async move {
        let namespace = stage.namespace("commit", "baseline").await?;
        registry(&namespace).await?;
        let files = |text: &str| {
            BTreeMap::from([
                (
                    "Dockerfile",
                    format!("FROM {}\nCOPY file /\n", stage.busybox()).into_bytes(),
                ),
                ("file", text.as_bytes().to_vec()),
            ])
        };
        stage.git.commit("commit", "main", &files("one")).await?;
        let git =
            json!({"url": stage.git.url("commit"), "ref": {"branch": "main"}, "interval": "5s"});
        built(
            &namespace,
            image_build("app", json!({"source": {"git": git}})),
        )
        .await?;
        let two = stage.git.commit("commit", "main", &files("two")).await?;
        let build = namespace
            .until::<ImageBuild>("app", "the new commit to be built", LIMIT, |b| {
                is_current(b)
                    && b.status
                        .as_ref()
                        .and_then(|s| s.source.as_ref())
                        .and_then(|s| s.commit.as_deref())
                        == Some(&two)
            })
            .await?;
        assert_eq!(
            builds(&build)[0],
            ("Source".to_owned(), "Succeeded".to_owned())
        );
        Ok(())
    });
}

#[test]
fn annotations_force_and_request_and_are_echoed() {
    on_stage(|stage| async move {
        let namespace = stage.namespace("annotations", "baseline").await?;
        registry(&namespace).await?;
        built(&namespace, image_build("app", inline(stage, "RUN true"))).await?;
        annotate(&namespace, "app", "requestedAt", "now").await?;
        let handled = |b: &ImageBuild| {
            b.status
                .as_ref()
                .and_then(|s| s.last_handled_requested_at.as_deref())
                == Some("now")
        };
        let build = namespace
            .until::<ImageBuild>("app", "requestedAt to be echoed", LIMIT, handled)
            .await?;
        assert_eq!(
            builds(&build).len(),
            1,
            "nothing changed, so nothing is built"
        );
        annotate(&namespace, "app", "forceAt", "again").await?;
        let build = namespace
            .until::<ImageBuild>("app", "the forced build", LIMIT, |b| {
                is_current(b)
                    && b.status
                        .as_ref()
                        .and_then(|s| s.last_handled_force_at.as_deref())
                        == Some("again")
                    && builds(b)
                        .first()
                        .is_some_and(|(why, result)| why == "Forced" && result == "Succeeded")
            })
            .await?;
        assert_eq!(builds(&build).len(), 2);
        Ok(())
    });
}

#[test]
fn a_running_build_is_cancelled_by_name() {
    on_stage(|stage| async move {
        let namespace = stage.namespace("cancel", "baseline").await?;
        registry(&namespace).await?;
        namespace
            .apply_json::<ImageBuild>(image_build("app", inline(stage, "RUN sleep 600")))
            .await?;
        let build = namespace
            .until::<ImageBuild>("app", "the build to run", LIMIT, |b| {
                builds(b)
                    .first()
                    .is_some_and(|(_, result)| result == "Running")
            })
            .await?;
        let name = build.status.context("status")?.builds[0].name.clone();
        annotate(&namespace, "app", "cancel", &name).await?;
        let build = namespace
            .until::<ImageBuild>("app", "the build to be cancelled", LIMIT, |b| {
                reason(b) == "Cancelled"
            })
            .await?;
        assert_eq!(builds(&build)[0].1, "Cancelled");
        tests::wait::until("the pod to be gone or ended", LIMIT, || async {
            let phase = |p: &Pod| {
                p.status
                    .as_ref()
                    .and_then(|s| s.phase.clone())
                    .unwrap_or_default()
            };
            Ok(pods(&namespace, "app")
                .await?
                .iter()
                .all(|p| phase(p) != "Running")
                .then_some(()))
        })
        .await?;
        annotate(&namespace, "app", "forceAt", "after").await?;
        namespace
            .until::<ImageBuild>("app", "a new build to run", LIMIT, |b| {
                builds(b)
                    .first()
                    .is_some_and(|(_, result)| result == "Running")
            })
            .await?;
        Ok(())
    });
}

#[test]
fn a_suspended_resource_starts_nothing() {
    on_stage(|stage| async move {
        let namespace = stage.namespace("suspend", "baseline").await?;
        registry(&namespace).await?;
        let mut spec = inline(stage, "RUN true");
        spec["suspend"] = json!(true);
        namespace
            .apply_json::<ImageBuild>(image_build("app", spec))
            .await?;
        namespace
            .until::<ImageBuild>("app", "it to say Suspended", LIMIT, |b| {
                reason(b) == "Suspended"
            })
            .await?;
        assert!(pods(&namespace, "app").await?.is_empty());
        built(&namespace, image_build("app", inline(stage, "RUN true"))).await?;
        Ok(())
    });
}

#[test]
fn a_lost_pod_is_retried_and_old_pods_go() {
    on_stage(|stage| async move {
        let namespace = stage.namespace("retry", "baseline").await?;
        registry(&namespace).await?;
        let mut spec = inline(stage, "RUN sleep 5");
        spec["history"] = json!({"succeeded": 1, "failed": 0});
        namespace
            .apply_json::<ImageBuild>(image_build("app", spec))
            .await?;
        let first = tests::wait::until("a builder pod", LIMIT, || async {
            Ok(pods(&namespace, "app")
                .await?
                .into_iter()
                .find_map(|p| p.metadata.name))
        })
        .await?;
        namespace
            .api::<Pod>()
            .delete(&first, &DeleteParams::default().grace_period(0))
            .await?;
        let build = namespace
            .until::<ImageBuild>("app", "the lost pod to be retried", LIMIT, is_current)
            .await?;
        assert!(
            builds(&build)
                .iter()
                .any(|(_, result)| result == "Succeeded"),
            "{:?}",
            builds(&build)
        );
        for force in ["1", "2"] {
            annotate(&namespace, "app", "forceAt", force).await?;
            namespace
                .until::<ImageBuild>("app", "the forced build", LIMIT, |b| {
                    is_current(b)
                        && b.status
                            .as_ref()
                            .and_then(|s| s.last_handled_force_at.as_deref())
                            == Some(force)
                })
                .await?;
        }
        tests::wait::until("old pods to be gone", LIMIT, || async {
            Ok((pods(&namespace, "app").await?.len() <= 1).then_some(()))
        })
        .await
    });
}

#[test]
fn nothing_is_written_once_all_is_ready() {
    on_stage(|stage| async move {
        let namespace = stage.namespace("quiet", "baseline").await?;
        registry(&namespace).await?;
        built(&namespace, image_build("app", inline(stage, "RUN true"))).await?;
        namespace
            .apply_json::<ImageMirror>(json!({
                "apiVersion": "coopery.dev/v1alpha1", "kind": "ImageMirror", "metadata": {"name": "bases"},
                "spec": {
                    "interval": "5s", "source": {"host": stage.public.host()}, "destination": {"registry": {"name": "main"}},
                    "images": [{"name": "busybox", "repository": "base/busybox", "tags": {"names": ["1"]}}],
                },
            }))
            .await?;
        namespace
            .until::<ImageMirror>("bases", "the mirror to be Ready", LIMIT, is_current)
            .await?;
        let versions = || async {
            let (reg, build, mirror) = (
                namespace.api::<Registry>().get("main").await?,
                namespace.api::<ImageBuild>().get("app").await?,
                namespace.api::<ImageMirror>().get("bases").await?,
            );
            let children = namespace.api::<Pod>().list(&ListParams::default()).await?;
            let mut all = vec![
                reg.metadata.resource_version,
                build.metadata.resource_version,
                mirror.metadata.resource_version,
            ];
            all.extend(children.items.into_iter().map(unchanging));
            anyhow::Ok(all)
        };
        let before = versions().await?;
        let writes = stage.operator_writes(&namespace.name)?;
        let rounds = super::count(10) + 1;
        // A resync is a span of time, so there is nothing else to await.
        tokio::time::sleep(tests::stage::RESYNC * rounds).await;
        assert_eq!(
            versions().await?,
            before,
            "something was written over {rounds} resyncs"
        );
        let after = stage.operator_writes(&namespace.name)?;
        assert_eq!(after, writes, "the operator wrote");
        Ok(())
    });
}

/// What must not change of a pod: all of it while it runs; one whose containers have ended is the kubelet's to clean up and
/// to write of.
fn unchanging(pod: Pod) -> Option<String> {
    let containers = pod.status.and_then(|s| s.container_statuses);
    let ended = containers.is_some_and(|all| {
        let terminated = |state: &ContainerState| state.terminated.is_some();
        all.iter().all(|c| c.state.as_ref().is_some_and(terminated))
    });
    if ended {
        pod.metadata.uid
    } else {
        pod.metadata.resource_version
    }
}

#[test]
fn a_second_field_manager_sees_no_drift() {
    on_stage(|stage| async move {
        let namespace = stage.namespace("drift", "baseline").await?;
        registry(&namespace).await?;
        let object = image_build("app", inline(stage, "RUN true"));
        built(&namespace, object.clone()).await?;
        let path = stage.files().join(format!("{}.json", namespace.name));
        let mut manifest = object;
        manifest["metadata"]["namespace"] = json!(namespace.name);
        fs_err::write(&path, manifest.to_string())?;
        let file = path.to_string_lossy();
        stage
            .cluster
            .kubectl(&[
                "apply",
                "--server-side",
                "--force-conflicts",
                "--field-manager=gitops",
                "-f",
                &file,
            ])
            .await?;
        let difference = stage
            .cluster
            .kubectl(&[
                "diff",
                "--server-side",
                "--field-manager=gitops",
                "--force-conflicts",
                "-f",
                &file,
            ])
            .await?;
        assert_eq!(difference, "");
        let build = namespace.api::<ImageBuild>().get("app").await?;
        assert!(condition::is_true(build.conditions(), "Ready"));
        Ok(())
    });
}
