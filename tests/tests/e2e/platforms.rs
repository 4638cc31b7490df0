//! Images of several platforms: made in one pod where nothing foreign is executed, else in a pod for each on nodes of its
//! architecture, and one that joins them.

use std::time::Duration;

use anyhow::Context as _;
use crds::ImageBuild;
use crds::image_build::AttemptPart;
use serde_json::{Value, json};
use tests::cluster::FOREIGN_ARCHITECTURE;
use tests::kstatus::{is_current, message, reason};
use tests::stage::{Stage, TestNamespace};

use super::inputs::status;
use super::main_job::{built, image_build, registry};
use super::on_stage;

const LIMIT: Duration = Duration::from_secs(120);

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
                reason(b) == "Unschedulable" && message(b).contains("kubernetes.io/arch=s390x")
            })
            .await?;
        Ok(())
    });
}

/// What has become of the part `name` of the present attempt.
fn part<'a>(build: &'a ImageBuild, name: &str) -> Option<&'a AttemptPart> {
    let attempt = build.status.as_ref()?.attempt.as_ref()?;
    attempt.parts.iter().find(|part| part.name == name)
}

fn is_made(build: &ImageBuild, name: &str) -> bool {
    part(build, name).is_some_and(|part| part.result.as_deref() == Some("Succeeded"))
}

/// Waits until amd64 is made and the other platform is told to want a node.
async fn waits_for_a_node(namespace: &TestNamespace, foreign: &str) -> anyhow::Result<()> {
    let what = "amd64 to be made and the other platform to wait";
    let build = namespace
        .until::<ImageBuild>("app", what, LIMIT, |b| {
            is_made(b, "linux/amd64") && reason(b) == "Unschedulable"
        })
        .await?;
    let told = message(&build);
    let label = format!("kubernetes.io/arch={FOREIGN_ARCHITECTURE}");
    anyhow::ensure!(told.contains(foreign) && told.contains(&label), "{told}");
    Ok(())
}

/// Fails unless `index` names for each platform the image that is at `repository` under the platform's tag, and is for it.
async fn is_joined(
    stage: &Stage,
    repository: &str,
    index: &Value,
    platforms: &[(&str, &str)],
) -> anyhow::Result<()> {
    let entries = index["manifests"].as_array().context("an index")?;
    anyhow::ensure!(entries.len() == platforms.len(), "{index}");
    for ((platform, digest), entry) in platforms.iter().zip(entries) {
        let architecture = platform.rsplit('/').next().context("a platform")?;
        assert_eq!(entry["platform"]["architecture"], architecture);
        assert_eq!(entry["digest"], *digest);
        let tagged = format!("{repository}:latest-linux-{architecture}");
        assert_eq!(stage.digest(&stage.public, &tagged).await?, *digest);
        let config = stage.config(&stage.public, &tagged).await?;
        assert_eq!(config["architecture"], architecture);
        let history = config["history"].to_string();
        assert!(history.contains("RUN"), "{history}");
    }
    Ok(())
}

#[test]
fn a_run_for_each_platform_has_a_pod_for_each_and_one_joins_them() {
    on_stage(|stage| async move {
        let namespace = stage.namespace("parts", "baseline").await?;
        let foreign = format!("linux/{FOREIGN_ARCHITECTURE}");
        // The shell is of this machine for both.
        let inline = format!(
            "FROM --platform=linux/amd64 {} AS files\nFROM scratch\nCOPY --from=files / /\nARG TARGETARCH\n\
             RUN echo $TARGETARCH > /made\n",
            stage.busybox()
        );
        let image = format!("{}/parts/app", stage.public.host());
        let build = image_build(
            "app",
            json!({
                "imagePullSecrets": [],
                "dockerfile": {"inline": inline, "platforms": ["linux/amd64", foreign]},
                "destinations": [{"name": "main", "image": image, "tags": ["latest"]}],
            }),
        );
        namespace.apply_json::<ImageBuild>(build).await?;
        waits_for_a_node(&namespace, &foreign).await?;
        {
            let _node = stage.cluster.foreign_node().await?;
            namespace
                .until::<ImageBuild>("app", "the other platform to be made", LIMIT, |b| {
                    is_made(b, &foreign)
                })
                .await?;
        }
        let build = namespace
            .until::<ImageBuild>("app", "the index", LIMIT, is_current)
            .await?;
        let join = part(&build, "join").context("a part that joins")?.clone();
        assert!(join.pod.is_some() && is_made(&build, "join"), "{join:?}");
        let status = status(build)?;
        let platforms: Vec<(&str, &str)> = status
            .platforms
            .iter()
            .map(|made| (&*made.platform, &*made.digest))
            .collect();
        let names: Vec<&str> = platforms.iter().map(|(name, _)| *name).collect();
        assert_eq!(names, ["linux/amd64", &*foreign]);
        assert_ne!(platforms[0].1, platforms[1].1);
        assert_eq!(status.destinations[0].verified, "True");
        assert_eq!(status.builds.len(), 1, "one build, however many pods");
        let digest = stage.digest(&stage.public, "parts/app:latest").await?;
        assert_eq!(status.digest.as_ref(), Some(&digest));
        assert_eq!(status.image, Some(format!("{image}@{digest}")));
        let index = stage.manifest(&stage.public, "parts/app:latest").await?;
        is_joined(stage, "parts/app", &index, &platforms).await
    });
}
