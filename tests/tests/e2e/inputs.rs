//! What builds start from besides their source, and what starts them: arguments and labels, named contexts, images of other
//! builds, base images that move, the time; and what an image that stays says of itself.

use std::time::Duration;

use anyhow::Context as _;
use crds::image_build::ImageBuildStatus;
use crds::{ImageBuild, condition};
use k8s_openapi::api::core::v1::ConfigMap;
use kube::api::{Patch, PatchParams};
use serde_json::json;
use tests::kstatus::{is_current, reason};
use tests::stage::{Stage, TestNamespace};

use super::main_job::{built, image_build, registry};
use super::on_stage;

const LIMIT: Duration = Duration::from_secs(120);

/// Why the newest build of a resource was started.
fn why(build: &ImageBuild) -> &str {
    let status = build.status.as_ref();
    let newest = status.and_then(|status| status.builds.first());
    newest.map_or("", |newest| &newest.reason)
}

pub(crate) fn status(build: ImageBuild) -> anyhow::Result<ImageBuildStatus> {
    build.status.context("the build has a status")
}

/// Status and reason of the condition `UpToDate`.
fn up_to_date(status: &ImageBuildStatus) -> (&str, &str) {
    let told = condition::find(&status.conditions, condition::UP_TO_DATE);
    told.map_or(("", ""), |told| (&*told.status, &*told.reason))
}

/// Annotates the resource `app`.
async fn annotate(namespace: &TestNamespace, key: &str, value: &str) -> anyhow::Result<()> {
    let key = format!("reconcile.coopery.dev/{key}");
    let patch = json!({"metadata": {"annotations": {key: value}}});
    namespace
        .api::<ImageBuild>()
        .patch("app", &PatchParams::default(), &Patch::Merge(patch))
        .await?;
    Ok(())
}

/// Waits for the end of a build that was started for this reason.
async fn rebuilt(
    namespace: &TestNamespace,
    name: &str,
    cause: &str,
) -> anyhow::Result<ImageBuildStatus> {
    let build = namespace
        .until::<ImageBuild>(name, &format!("a build for {cause}"), LIMIT, |b| {
            is_current(b) && why(b) == cause
        })
        .await?;
    status(build)
}

#[test]
fn target_arguments_and_labels_are_honoured() {
    on_stage(|stage| async move {
        let namespace = stage.namespace("options", "baseline").await?;
        let dockerfile = format!(
            "FROM {} AS wanted\nARG WHO=nobody\nENV WHO=$WHO\nRUN echo one\nRUN echo two\n\
             FROM wanted\nRUN false\n",
            stage.busybox()
        );
        let build = image_build(
            "app",
            json!({
                "imagePullSecrets": [],
                "dockerfile": {"inline": dockerfile, "target": "wanted", "buildArgs": {"WHO": "world"},
                    "labels": {"com.example.team": "blue"}},
                "destinations": [{"name": "main", "image": format!("{}/options/app", stage.public.host()), "tags": ["1"]}],
            }),
        );
        built(&namespace, build).await?;
        let config = stage.config(&stage.public, "options/app:1").await?;
        assert_eq!(config["config"]["Labels"]["com.example.team"], "blue");
        let environment = config["config"]["Env"].to_string();
        assert!(environment.contains("WHO=world"), "{environment}");
        Ok(())
    });
}

#[test]
fn a_context_stands_in_for_a_name_of_the_dockerfile() {
    on_stage(|stage| async move {
        let namespace = stage.namespace("contexts", "baseline").await?;
        registry(&namespace).await?;
        let dockerfile =
            "FROM docker.io/library/never:1\nCOPY --from=tools /bin/busybox /tool\nRUN true\n";
        let contexts = json!([
            {"name": "docker.io/library/never:1", "image": stage.busybox()},
            {"name": "tools", "image": stage.busybox()},
        ]);
        let build = image_build(
            "app",
            json!({"dockerfile": {"inline": dockerfile, "contexts": contexts}}),
        );
        let status = status(built(&namespace, build).await?)?;
        assert_eq!(status.base_images[0].reference, stage.busybox());
        Ok(())
    });
}

#[test]
fn a_build_waits_for_its_input_and_follows_it() {
    on_stage(|stage| async move {
        let namespace = stage.namespace("inputs", "baseline").await?;
        registry(&namespace).await?;
        let service = image_build(
            "service",
            json!({
                "dockerfile": {"inline": "ARG BASE\nFROM ${BASE}\nRUN cat /version > /copy\n"},
                "inputs": [{"name": "BASE", "imageBuild": {"name": "base"}}],
            }),
        );
        namespace.apply_json::<ImageBuild>(service).await?;
        namespace
            .until::<ImageBuild>("service", "it to wait for its input", LIMIT, |b| {
                reason(b) == "InputNotFound"
            })
            .await?;
        let base = |version: &str| {
            let inline = format!("FROM {}\nRUN echo {version} > /version\n", stage.busybox());
            image_build("base", json!({"dockerfile": {"inline": inline}}))
        };
        let first = status(built(&namespace, base("one")).await?)?;
        let service = namespace
            .until::<ImageBuild>("service", "it to be built", LIMIT, is_current)
            .await?;
        assert_eq!(
            Some(&status(service)?.base_images[0].digest),
            first.digest.as_ref()
        );
        let second = status(built(&namespace, base("two")).await?)?;
        assert_ne!(first.digest, second.digest);
        let service = rebuilt(&namespace, "service", "Inputs").await?;
        assert_eq!(Some(&service.base_images[0].digest), second.digest.as_ref());
        Ok(())
    });
}

/// Pushes a base image with this content under a tag that moves.
async fn push_moving(stage: &Stage, content: &str) -> anyhow::Result<String> {
    let context = stage.files().join("moving");
    fs_err::create_dir_all(&context)?;
    fs_err::write(
        context.join("Dockerfile"),
        format!("FROM scratch\nCOPY <<text /content\n{content}\ntext\n"),
    )?;
    stage.push(&stage.public, "base/moving:1", &context).await
}

#[test]
fn a_base_image_that_moves_is_built_from() {
    on_stage(|stage| async move {
        let namespace = stage.namespace("moving", "baseline").await?;
        registry(&namespace).await?;
        let one = push_moving(stage, "one").await?;
        let inline = format!("FROM {}/base/moving:1\nENV A=1\n", stage.public.host());
        let build = image_build(
            "app",
            json!({"dockerfile": {"inline": inline}, "rebuild": {"triggers": ["BaseImage"]}}),
        );
        let first = status(built(&namespace, build).await?)?;
        assert_eq!(first.base_images[0].digest, one);
        let two = push_moving(stage, "two").await?;
        // Who does not want to wait five minutes asks.
        annotate(&namespace, "requestedAt", "now").await?;
        let second = rebuilt(&namespace, "app", "BaseImage").await?;
        assert_eq!(second.base_images[0].digest, two);
        assert_eq!(second.builds.len(), 2);
        Ok(())
    });
}

#[test]
fn a_schedule_builds_though_nothing_changed() {
    on_stage(|stage| async move {
        let namespace = stage.namespace("schedule", "baseline").await?;
        registry(&namespace).await?;
        let inline = format!("FROM {}\nENV A=1\n", stage.busybox());
        let build = image_build(
            "app",
            json!({"dockerfile": {"inline": inline}, "rebuild": {"schedule": "* * * * *"}}),
        );
        let first = status(built(&namespace, build).await?)?;
        let second = rebuilt(&namespace, "app", "Schedule").await?;
        assert_eq!(first.digest, second.digest);
        assert_eq!(up_to_date(&second), ("True", "Succeeded"));
        Ok(())
    });
}

#[test]
fn an_image_that_stays_says_whether_it_is_up_to_date() {
    on_stage(|stage| async move {
        let namespace = stage.namespace("up-to-date", "baseline").await?;
        registry(&namespace).await?;
        let files = |text: &str| {
            let dockerfile = format!("FROM {}\nCOPY message /message\n", stage.busybox());
            namespace.apply_json::<ConfigMap>(json!({
                "apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "files"},
                "data": {"Dockerfile": dockerfile, "message": text},
            }))
        };
        let until = |what: &'static str, told: (&'static str, &'static str)| {
            let content = move |b: &ImageBuild| {
                is_current(b) && b.status.as_ref().map(up_to_date) == Some(told)
            };
            namespace.until::<ImageBuild>("app", what, LIMIT, content)
        };
        files("one").await?;
        let source = json!({"configMap": {"name": "files"}});
        let spec = json!({"source": source, "rebuild": {"triggers": []}});
        let first = status(built(&namespace, image_build("app", spec)).await?)?;
        assert_eq!(up_to_date(&first), ("True", "Succeeded"));
        // Nothing changed, so nothing is built, though somebody asks.
        annotate(&namespace, "requestedAt", "1").await?;
        let asked = namespace
            .until::<ImageBuild>("app", "the answer to who asked", LIMIT, |b| {
                let handled = b
                    .status
                    .as_ref()
                    .and_then(|s| s.last_handled_requested_at.as_deref());
                is_current(b) && handled == Some("1")
            })
            .await?;
        let asked = status(asked)?;
        assert_eq!(up_to_date(&asked), ("True", "Succeeded"));
        assert_eq!(asked.builds.len(), 1);
        // The source is another one and back, without a build.
        files("two").await?;
        let outdated = status(until("the change to be told", ("False", "SourceChanged")).await?)?;
        assert_eq!(outdated.digest, first.digest);
        files("one").await?;
        let back = status(until("the image to be right again", ("True", "Succeeded")).await?)?;
        assert_eq!((back.builds.len(), back.digest), (1, first.digest.clone()));
        // What is built for another cause is built of all that is there.
        files("two").await?;
        until("the other change to be told", ("False", "SourceChanged")).await?;
        annotate(&namespace, "forceAt", "1").await?;
        let forced = status(until("the forced build", ("True", "Succeeded")).await?)?;
        assert_eq!(forced.builds[0].reason, "Forced");
        assert_ne!(forced.digest, first.digest);
        Ok(())
    });
}
