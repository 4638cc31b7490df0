//! What builds start from besides their source, and what starts them: arguments and labels, named contexts, images of other
//! builds, base images that move, the time.

use std::time::Duration;

use anyhow::Context as _;
use crds::ImageBuild;
use crds::image_build::ImageBuildStatus;
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
fn target_arguments_labels_and_no_cache_are_honoured() {
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
                    "labels": {"com.example.team": "blue"}, "noCache": true},
                "destinations": [{"name": "main", "image": format!("{}/options/app", stage.public.host()), "tags": ["1"]}],
            }),
        );
        let status = status(built(&namespace, build).await?)?;
        assert_eq!(status.builds[0].cached_steps, Some(0));
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
        let patch =
            json!({"metadata": {"annotations": {"reconcile.coopery.dev/requestedAt": "now"}}});
        namespace
            .api::<ImageBuild>()
            .patch("app", &PatchParams::default(), &Patch::Merge(patch))
            .await?;
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
        Ok(())
    });
}

#[test]
fn two_platforms_make_an_index_in_one_pod() {
    on_stage(|stage| async move {
        let namespace = stage.namespace("platforms", "baseline").await?;
        registry(&namespace).await?;
        let inline = format!(
            "FROM --platform=$BUILDPLATFORM {} AS build\nARG TARGETARCH\nRUN echo $TARGETARCH > /arch\n\
             FROM scratch\nCOPY --from=build /arch /arch\n",
            stage.busybox()
        );
        let platforms = json!(["linux/amd64", "linux/arm64"]);
        let build = image_build(
            "app",
            json!({"dockerfile": {"inline": inline, "platforms": platforms}}),
        );
        let status = status(built(&namespace, build).await?)?;
        let made: Vec<&str> = status.platforms.iter().map(|p| &*p.platform).collect();
        assert_eq!(made, ["linux/amd64", "linux/arm64"]);
        assert_ne!(status.platforms[0].digest, status.platforms[1].digest);
        assert_eq!(status.destinations[0].verified, "True");
        let inline = "FROM scratch\nCOPY <<text /a\na\ntext\nRUN [\"/a\"]\n";
        let foreign = image_build(
            "foreign",
            json!({"dockerfile": {"inline": inline, "platforms": ["linux/s390x"]}}),
        );
        namespace.apply_json::<ImageBuild>(foreign).await?;
        namespace
            .until::<ImageBuild>("foreign", "a node of that architecture", LIMIT, |b| {
                reason(b) == "Unschedulable"
                    && tests::kstatus::message(b).contains("kubernetes.io/arch=s390x")
            })
            .await?;
        Ok(())
    });
}

#[test]
fn a_run_for_each_platform_has_a_pod_for_each() {
    on_stage(|stage| async move {
        let namespace = stage.namespace("parts", "baseline").await?;
        registry(&namespace).await?;
        let inline = format!(
            "FROM --platform=linux/amd64 {} AS files\nFROM scratch\nCOPY --from=files / /\nRUN echo made > /made\n",
            stage.busybox()
        );
        let platforms = json!(["linux/amd64", "linux/arm64"]);
        let build = image_build(
            "app",
            json!({"dockerfile": {"inline": inline, "platforms": platforms}}),
        );
        namespace.apply_json::<ImageBuild>(build).await?;
        let is_made = |build: &ImageBuild| {
            let attempt = build.status.as_ref().and_then(|s| s.attempt.as_ref());
            let mut parts = attempt.into_iter().flat_map(|attempt| &attempt.parts);
            parts.any(|part| {
                part.name == "linux/amd64" && part.result.as_deref() == Some("Succeeded")
            })
        };
        let build = namespace
            .until::<ImageBuild>("app", "amd64 to be made and arm64 to wait", LIMIT, |b| {
                is_made(b) && reason(b) == "Unschedulable"
            })
            .await?;
        let message = tests::kstatus::message(&build);
        assert!(message.contains("kubernetes.io/arch=arm64"), "{message}");
        Ok(())
    });
}
