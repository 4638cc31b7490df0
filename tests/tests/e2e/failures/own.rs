//! Failures of the build itself: what its Dockerfile, its images, its memory and its time lead to.

use serde_json::{Value, json};
use tests::kstatus::message;
use tests::stage::Stage;

use super::{Case, inline, prompt};
use crate::main_job::registry;
use crate::on_stage;

/// Applies `spec`, expects `wanted`, then applies a good build.
async fn fails_then_recovers(
    stage: &Stage,
    name: &str,
    spec: Value,
    wanted: &str,
    words: &[&str],
) -> anyhow::Result<()> {
    let namespace = stage.namespace(name, "baseline").await?;
    registry(&namespace).await?;
    let case = Case::new(&namespace, name).await?;
    case.apply(spec).await?;
    let failed = case.fails(wanted, words).await?;
    case.apply(inline(stage, "RUN true")).await?;
    case.recovers(&failed).await
}

#[test]
fn a_typo_in_the_dockerfile_names_file_and_line() {
    on_stage(|stage| async move {
        let spec = inline(stage, "ENV A=1\nRUNN make");
        let words = ["Dockerfile:3", "RUNN", "RUN"];
        fails_then_recovers(stage, "typo", spec, "InvalidDockerfile", &words).await
    });
}

#[test]
fn a_failing_step_tells_its_exit_code_and_last_lines() {
    on_stage(|stage| async move {
        let spec = inline(stage, "RUN echo first; echo the last line; exit 3");
        let words = ["Dockerfile:2", "exit code 3", "the last line"];
        fails_then_recovers(stage, "exit3", spec, "BuildFailed", &words).await
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
fn a_build_that_takes_too_long_times_out() {
    on_stage(|stage| async move {
        let namespace = stage.namespace("timeout", "baseline").await?;
        registry(&namespace).await?;
        let case = Case::new(&namespace, "timeout").await?;
        let mut spec = inline(stage, "RUN sleep 600");
        spec["timeout"] = json!("5s");
        case.apply(spec).await?;
        let failed = case.fails("Timeout", &["5s"]).await?;
        // Kubernetes, too, must have been prompt: the pod's time was over five seconds after its start.
        let pod = case.pod("the pod that took too long", |_| true).await?;
        let started = pod.status.and_then(|s| s.start_time).expect("it ran").0;
        let over = started + jiff::SignedDuration::from_secs(5);
        prompt(
            "timeout: the deadline",
            over,
            case.told("Timeout").await?.at,
        )?;
        case.apply(inline(stage, "RUN true")).await?;
        case.recovers(&failed).await
    });
}

#[test]
fn refused_credentials_are_told_before_and_cured_by_the_secret() {
    on_stage(|stage| async move {
        let namespace = stage.namespace("credentials", "baseline").await?;
        let host = stage.private.host();
        let wrong = tests::upstream::docker_config(&host, ("puller", "xyzzy-4711"));
        namespace.docker_secret("push", &wrong).await?;
        let mut spec = inline(stage, "RUN true");
        spec["imagePullSecrets"] = json!([]);
        spec["destinations"] = json!([{
            "name": "main", "image": format!("{host}/pushed/app"), "secretRef": {"name": "push"}, "tags": ["1"],
        }]);
        let case = Case::new(&namespace, "credentials").await?;
        case.apply(spec).await?;
        let failed = case.fails("RegistryUnauthorized", &[&host]).await?;
        anyhow::ensure!(
            !message(&failed).contains("xyzzy-4711"),
            "{}",
            message(&failed)
        );
        let right = stage.private.docker_config();
        namespace.docker_secret("push", &right).await?;
        case.recovers(&failed).await?;
        let digest = stage.digest(&stage.private, "pushed/app:1").await?;
        anyhow::ensure!(digest.starts_with("sha256:"), "{digest}");
        Ok(())
    });
}
