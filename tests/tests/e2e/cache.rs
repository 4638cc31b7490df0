//! What builds keep for later ones: in a registry, where a fresh pod finds every step, and on a claim, which serves one pod
//! after the other; and what status says of steps that were executed all the same.

use std::time::Duration;

use anyhow::Context as _;
use crds::ImageBuild;
use crds::image_build::{Build, ImageBuildStatus};
use k8s_openapi::api::core::v1::PersistentVolumeClaim;
use kube::api::{Patch, PatchParams};
use serde_json::{Value, json};
use tests::kstatus::{is_current, message, reason};
use tests::stage::{Stage, TestNamespace};

use super::main_job::{built, image_build, registry};
use super::on_stage;

const LIMIT: Duration = Duration::from_secs(120);

/// A Dockerfile whose first step depends on an argument, and its second on the first; a stage beside depends on neither.
fn dockerfile(stage: &Stage) -> String {
    let base = stage.busybox();
    format!(
        "FROM {base} AS beside\nRUN echo beside > /beside\nFROM {base}\nARG WHO\nRUN echo $WHO > /who\nRUN cat /who > /copy\n\
         COPY --from=beside /beside /beside\n"
    )
}

fn cached_build(stage: &Stage, name: &str, who: &str, cache: &Value) -> Value {
    let dockerfile = json!({"inline": dockerfile(stage), "buildArgs": {"WHO": who}});
    image_build(name, json!({"dockerfile": dockerfile, "cache": cache}))
}

fn newest(build: &ImageBuild) -> anyhow::Result<Build> {
    let status: Option<&ImageBuildStatus> = build.status.as_ref();
    let newest = status.and_then(|status| status.builds.first());
    newest.cloned().context("a build is recorded")
}

pub(crate) async fn claim(namespace: &TestNamespace, name: &str) -> anyhow::Result<()> {
    namespace
        .apply_json::<PersistentVolumeClaim>(json!({
            "apiVersion": "v1", "kind": "PersistentVolumeClaim", "metadata": {"name": name},
            "spec": {"accessModes": ["ReadWriteOnce"], "resources": {"requests": {"storage": "1Gi"}}},
        }))
        .await?;
    Ok(())
}

#[test]
fn a_fresh_pod_finds_every_step_in_the_registry() {
    on_stage(|stage| async move {
        let namespace = stage.namespace("registry-cache", "baseline").await?;
        registry(&namespace).await?;
        let cache = json!({"registry": {"registry": {"name": "main"}, "repository": "cache"}});
        let first = built(&namespace, cached_build(stage, "app", "one", &cache)).await?;
        let record = newest(&first)?;
        assert_eq!((record.steps, record.cached_steps), (Some(4), Some(0)));
        let patch =
            json!({"metadata": {"annotations": {"reconcile.coopery.dev/forceAt": "again"}}});
        namespace
            .api::<ImageBuild>()
            .patch("app", &PatchParams::default(), &Patch::Merge(patch))
            .await?;
        let again = namespace
            .until::<ImageBuild>("app", "the build that was asked for", LIMIT, |b| {
                is_current(b) && newest(b).is_ok_and(|newest| newest.reason == "Forced")
            })
            .await?;
        let record = newest(&again)?;
        assert_eq!((record.steps, record.cached_steps), (Some(4), Some(4)));
        assert!(record.cache_misses.is_empty(), "{record:?}");
        assert_eq!(record.digest, newest(&first)?.digest);
        // One input changed: what depends on it is executed, and status says why.
        namespace
            .apply_json::<ImageBuild>(cached_build(stage, "app", "two", &cache))
            .await?;
        let changed = namespace
            .until::<ImageBuild>("app", "the build of the other argument", LIMIT, |b| {
                is_current(b) && newest(b).is_ok_and(|newest| newest.reason == "Spec")
            })
            .await?;
        let record = newest(&changed)?;
        let misses = record.cache_misses.iter();
        let misses: Vec<_> = misses
            .map(|m| (m.step.as_str(), m.reason.as_str()))
            .collect();
        assert_eq!(
            misses[0],
            ("Dockerfile:5: RUN echo $WHO > /who", "argument WHO changed")
        );
        assert!(record.cached_steps >= Some(1), "{record:?}");
        // The cache has every step of it now, and is not to be asked.
        let mut anew = cached_build(stage, "app", "two", &cache);
        anew["spec"]["dockerfile"]["noCache"] = json!(true);
        let anew = newest(&built(&namespace, anew).await?)?;
        assert_eq!((anew.steps, anew.cached_steps), (Some(4), Some(0)));
        assert_ne!(anew.name, record.name);
        Ok(())
    });
}

#[test]
fn two_builds_share_a_claim_one_after_the_other() {
    on_stage(|stage| async move {
        let namespace = stage.namespace("volume-cache", "baseline").await?;
        registry(&namespace).await?;
        claim(&namespace, "cache").await?;
        let cache =
            json!({"volume": {"persistentVolumeClaim": {"name": "cache"}, "quota": "512Mi"}});
        // The first holds the claim until the second was seen to wait for it.
        let inline = dockerfile(stage) + "RUN sleep 20\n";
        let slow = json!({"inline": inline, "buildArgs": {"WHO": "one"}});
        let slow = image_build("first", json!({"dockerfile": slow, "cache": cache}));
        namespace.apply_json::<ImageBuild>(slow).await?;
        let first = namespace
            .until::<ImageBuild>("first", "its pod", LIMIT, |b| {
                let attempt = b.status.as_ref().and_then(|s| s.attempt.as_ref());
                attempt.is_some_and(|attempt| attempt.pod_uid.is_some())
            })
            .await?;
        let attempt = first.status.and_then(|s| s.attempt);
        let pod = attempt.and_then(|a| a.pod).context("a pod")?;
        let second = cached_build(stage, "second", "one", &cache);
        namespace.apply_json::<ImageBuild>(second).await?;
        namespace
            .until::<ImageBuild>("second", "it to wait for the claim", LIMIT, |b| {
                reason(b) == "WaitingForCacheVolume" && message(b).contains(&pod)
            })
            .await?;
        let second = namespace
            .until::<ImageBuild>("second", "it to be built", LIMIT, is_current)
            .await?;
        let record = newest(&second)?;
        assert_eq!((record.steps, record.cached_steps), (Some(4), Some(4)));
        Ok(())
    });
}
